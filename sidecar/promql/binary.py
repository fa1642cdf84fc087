"""Operators between two operands. Semantics: promql/engine.go of Prometheus 3 (VectorBinop and its kin)."""

import math
import operator
from collections.abc import Callable
from typing import NamedTuple, NoReturn

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Labels
from sidecar.promql import arithmetic
from sidecar.promql.context import METADATA, Evaluation, project
from sidecar.promql.notation import format_labels
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps, piecewise
from sidecar.promql.tree import Binary, Matching
from sidecar.promql.values import Point, Vector

_ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": arithmetic.divide, "%": arithmetic.modulo,
    "^": arithmetic.power, "atan2": math.atan2,
}
_COMPARISON: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le,
}
_NAME = (METRIC_NAME,)

Pair = tuple[int, int, Labels]
"""The place of an element on the side of many, that of its partner, and the labels of what they give."""

FEW_ELEMENTS, MOST_ELEMENTS = 32, 100_000
"""Of fewer elements it is not worth while to remember which belong together; of more, in all joins, it is forgotten."""


class _Pairing(NamedTuple):
    """A join: its two sides, and which of their elements belong together."""

    expr: Binary
    many: list[Labels]
    one: list[Labels]
    pairs: list[Pair]


class _Pairings:
    """Which elements belong together, of the joins that were evaluated last. Lives as long as the process.

    A rule joins the same series at every tick, a range at every step: only the values are others.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Pairing] = {}
        self._held = 0

    def known(self, expr: Binary, many: Vector, one: Vector) -> list[Pair] | None:
        """The pairs of just these elements in just this order, if they are remembered."""
        found = self._known.get(id(expr))
        if found is None or found.expr is not expr:
            return None
        alike = found.many == [point.labels for point in many] and found.one == [point.labels for point in one]
        return found.pairs if alike else None

    def remember(self, expr: Binary, many: Vector, one: Vector, pairs: list[Pair]) -> None:
        """Instead of what was known of this join; the oldest gives way."""
        self._forget(id(expr))
        if FEW_ELEMENTS <= len(many) + len(one) <= MOST_ELEMENTS:
            made = _Pairing(expr, [point.labels for point in many], [point.labels for point in one], pairs)
            self._known[id(expr)] = made
            self._held += len(made.many) + len(made.one)
        while self._held > MOST_ELEMENTS:
            self._forget(next(iter(self._known)))

    def _forget(self, key: int) -> None:
        gone = self._known.pop(key, None)
        self._held -= len(gone.many) + len(gone.one) if gone else 0


PAIRINGS = _Pairings()


def scalars(op: str, left: float, right: float) -> float:
    """Two numbers joined by an operator; comparisons give 0 or 1."""
    return _ARITHMETIC[op](left, right) if op in _ARITHMETIC else float(_COMPARISON[op](left, right))


def vector_with_scalar(ev: Evaluation, expr: Binary, vector: Vector, scalar: float, *, swapped: bool) -> Steps[Vector]:
    """Each element joined with a number, in pieces; `swapped` when the number stands on the left.

    A comparison filters.
    """
    compare = _COMPARISON.get(expr.op)
    if compare is not None and not expr.returns_bool:
        if swapped:
            return [point for point in vector if compare(scalar, point.value)]
        return [point for point in vector if compare(point.value, scalar)]
    fn = _ARITHMETIC.get(expr.op) or _COMPARISON[expr.op]
    return ev.unique((yield from piecewise(
        lambda piece: [Point(ev.nameless(labels), float(fn(scalar, value) if swapped else fn(value, scalar)))
                       for labels, value in piece], vector)))


def vectors(ev: Evaluation, expr: Binary, left: Vector, right: Vector) -> Steps[Vector]:
    """Two vectors joined by an operator, in pieces. QueryError where the matching is not unique as it has to be."""
    if expr.op not in ("and", "or", "unless"):
        return (yield from _joined(ev, expr, left, right)) if left and right else []
    on, names = _signed_by(expr.matching)
    present = frozenset((yield from piecewise(
        lambda piece: [project(point.labels, on, names) for point in piece], left if expr.op == "or" else right)))
    yield
    wanted = expr.op == "and"
    chosen = yield from piecewise(
        lambda piece: [point for point in piece if (project(point.labels, on, names) in present) is wanted],
        right if expr.op == "or" else left)
    return left + chosen if expr.op == "or" else chosen


def signature(matching: Matching, labels: Labels) -> Labels:
    """The labels by which an element finds its partner."""
    return project(labels, *_signed_by(matching))


def _signed_by(matching: Matching) -> tuple[bool, tuple[str, ...]]:
    """Which labels these are, as `project` is told."""
    return matching.on, matching.labels if matching.on else matching.labels + _NAME


def _joined(ev: Evaluation, expr: Binary, left: Vector, right: Vector) -> Steps[Vector]:
    swapped = expr.matching.cardinality == "one-to-many"
    many, one = (right, left) if swapped else (left, right)
    told_apart = ev.options.delayed_name_removal  # labels that are equal are not always the same then: see `Fading`
    pairs = None if told_apart else PAIRINGS.known(expr, many, one)
    if pairs is None:
        pairs = yield from _paired(ev, expr, many, one)
        if not told_apart:
            PAIRINGS.remember(expr, many, one, pairs)
    compare = _COMPARISON.get(expr.op)
    compute = _ARITHMETIC.get(expr.op)
    found: Vector = []
    for count, (place, other, result) in enumerate(pairs, 1):
        if not count % ELEMENTS_A_PIECE:
            ev.charge(0)
            yield
        value, partner = many[place].value, one[other].value
        low, high = (partner, value) if swapped else (value, partner)
        if compute is not None:
            found.append(Point(result, compute(low, high)))
            continue
        holds = compare is not None and compare(low, high)
        if expr.returns_bool:
            found.append(Point(ev.nameless(result), float(holds)))
        elif holds:
            found.append(Point(result, low))
    return found


def _paired(ev: Evaluation, expr: Binary, many: Vector, one: Vector) -> Steps[list[Pair]]:
    """Which elements belong together. Those that a comparison filters away, too: whether a rule is right must not
    depend on the values.
    """
    single = expr.matching.cardinality == "one-to-one"
    partners = _partners(expr, one)
    yield
    taken: set[object] = set()
    found: list[Pair] = []
    on, names = _signed_by(expr.matching)
    for place, (labels, _) in enumerate(many):
        if place % ELEMENTS_A_PIECE == ELEMENTS_A_PIECE - 1:
            ev.charge(0)
            yield
        key = project(labels, on, names)
        other = partners.get(key)
        if other is None:
            continue
        result = _result_labels(expr, labels, one[other].labels)
        _claim(taken, key if single else (key, result), single)
        found.append((place, other, result))
    return found


def _partners(expr: Binary, one: Vector) -> dict[Labels, int]:
    partners: dict[Labels, int] = {}
    on, names = _signed_by(expr.matching)
    for place, point in enumerate(one):
        key = project(point.labels, on, names)
        if partners.setdefault(key, place) != place:
            _refuse_duplicates(expr, key, point, one[partners[key]])
    return partners


def _refuse_duplicates(expr: Binary, key: Labels, first: Point, second: Point) -> NoReturn:
    side = "left" if expr.matching.cardinality == "one-to-many" else "right"
    shown = ", ".join(sorted((format_labels(first.labels), format_labels(second.labels))))
    raise QueryError(
        f"found duplicate series for the match group {format_labels(key)} on the {side} hand-side of the operation: "
        f"[{shown}];many-to-many matching not allowed: matching labels must be unique on one side",
        position=expr.position, help="match on more labels, or aggregate one side first",
    )


def _claim(taken: set[object], key: object, single: bool) -> None:
    """`key` may be there only once: where the match is `single` it is that itself, else it with the result."""
    before = len(taken)
    taken.add(key)
    if len(taken) == before:
        raise QueryError(
            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
            if single else "multiple matches for labels: grouping labels must ensure unique matches")


def _result_labels(expr: Binary, many: Labels, one: Labels) -> Labels:
    matching = expr.matching
    drops_name = expr.op in _ARITHMETIC
    if matching.cardinality == "one-to-one":
        if matching.on:
            kept = tuple(name for name in matching.labels if name not in METADATA) if drops_name else matching.labels
            return project(many, True, kept)
        return project(many, False, matching.labels + METADATA if drops_name else matching.labels)
    result = project(many, False, METADATA) if drops_name else many
    return result.merged({name: one.get(name, "") for name in matching.include}) if matching.include else result
