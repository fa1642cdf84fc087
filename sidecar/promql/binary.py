"""Operators between two operands. Semantics: promql/engine.go of Prometheus 3 (VectorBinop and its kin)."""

import math
import operator
from collections.abc import Callable
from typing import NoReturn

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
    matching = expr.matching
    swapped = matching.cardinality == "one-to-many"
    single = matching.cardinality == "one-to-one"
    many, one = (right, left) if swapped else (left, right)
    partners = _partners(expr, one)
    yield
    compare = _COMPARISON.get(expr.op)
    compute = _ARITHMETIC.get(expr.op)
    taken: set[object] = set()
    found: Vector = []
    on, names = _signed_by(matching)
    for count, (labels, value) in enumerate(many, 1):
        if not count % ELEMENTS_A_PIECE:
            ev.charge(0)
            yield
        key = project(labels, on, names)
        partner = partners.get(key)
        if partner is None:
            continue
        result = None if single else _result_labels(expr, labels, partner.labels)
        _claim(taken, key if single else (key, result), single)
        low, high = (partner.value, value) if swapped else (value, partner.value)
        holds = compare is not None and compare(low, high)
        if compute is None and not holds and not expr.returns_bool:
            continue
        result = result if result is not None else _result_labels(expr, labels, partner.labels)
        if compute is not None:
            found.append(Point(result, compute(low, high)))
        elif expr.returns_bool:
            found.append(Point(ev.nameless(result), float(holds)))
        else:
            found.append(Point(result, low))
    return found


def _partners(expr: Binary, one: Vector) -> dict[Labels, Point]:
    partners: dict[Labels, Point] = {}
    on, names = _signed_by(expr.matching)
    for point in one:
        key = project(point.labels, on, names)
        if partners.setdefault(key, point) is not point:
            _refuse_duplicates(expr, key, point, partners[key])
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
    """Elements that a comparison filters away count too: whether a rule is right must not depend on the values.

    `key` is what may be there only once: where the match is `single` that itself, else it with the result.
    """
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
