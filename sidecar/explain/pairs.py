"""How the two sides of an operator met: which elements found each other, and what kept the others apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sidecar.model import Labels
from sidecar.promql.binary import scalars, signature
from sidecar.promql.tree import Binary, Matching
from sidecar.promql.values import Point

COMPARISONS = frozenset((">", "<", ">=", "<=", "==", "!="))
SETS = frozenset(("and", "or", "unless"))
MOST = 1000
"""So many elements of each side are looked at when a partner is sought in vain."""

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two elements that an operator joined. `holds` is whether a comparison is true, for others always True."""

    labels: Labels
    left: float
    right: float
    holds: bool

    @property
    def gap(self) -> float:
        """How far the two are apart."""
        return abs(self.left - self.right)


@dataclass(frozen=True, slots=True)
class Alone:
    """An element without a partner, and why: a clause such as `level="main" is only there`."""

    labels: Labels
    value: float
    side: Side
    why: str


def meet(expr: Binary, left: Sequence[Point] | float, right: Sequence[Point] | float) -> \
        tuple[tuple[Pair, ...], tuple[Alone, ...]]:
    """The pairs and the lonely of an operator, from the values of its sides; a number meets every element."""
    if isinstance(left, float):
        others = [Point(Labels(), right)] if isinstance(right, float) else right
        return tuple(_pair(expr, labels, left, value) for labels, value in others), ()
    if isinstance(right, float):
        return tuple(_pair(expr, labels, value, right) for labels, value in left), ()
    if expr.op == "or":
        return (), ()
    swapped = expr.matching.cardinality == "one-to-many"
    many, one = (right, left) if swapped else (left, right)
    partners = {signature(expr.matching, point.labels): point for point in reversed(one)}
    pairs, alone, met = [], [], set()
    for labels, value in many:
        key = signature(expr.matching, labels)
        if key in partners:
            met.add(key)
            other = partners[key].value
            pairs.append(_pair(expr, labels, *((other, value) if swapped else (value, other))))
        elif expr.op != "unless":
            side: Side = "right" if swapped else "left"
            alone.append(Alone(labels, value, side, apart(labels, one, expr.matching)))
    if expr.op not in SETS:
        side = "left" if swapped else "right"
        alone += [Alone(point.labels, point.value, side, apart(point.labels, many, expr.matching))
                  for key, point in partners.items() if key not in met]
    return tuple(pairs), tuple(alone)


def _pair(expr: Binary, labels: Labels, left: float, right: float) -> Pair:
    holds = bool(scalars(expr.op, left, right)) if expr.op in COMPARISONS else expr.op != "unless"
    return Pair(labels, left, right, holds)


def apart(labels: Labels, others: Sequence[Point], matching: Matching) -> str:
    """What keeps an element from the one on the other side that is most like it."""
    if not others:
        return "there is nothing on the other side"
    own = signature(matching, labels)
    keys = [signature(matching, point.labels) for point in others[:MOST]]
    nearest = min(keys, key=lambda key: len(_differing(own, key)))
    said = []
    for name in _differing(own, nearest):
        here, there = own.get(name), nearest.get(name)
        if here is None:
            said.append(f'{name}="{there}" is only there')
        elif there is None:
            said.append(f'{name}="{here}" is only here')
        else:
            said.append(f'{name} is "{here}" here and "{there}" there')
    return ", ".join(said)


def _differing(one: Labels, other: Labels) -> list[str]:
    return [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]
