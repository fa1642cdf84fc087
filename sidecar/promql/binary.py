"""Operators between two operands. Semantics: promql/engine.go of Prometheus 3 (VectorBinop and its kin)."""

import math
import operator
from collections.abc import Callable
from typing import NoReturn

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Labels
from sidecar.promql import arithmetic
from sidecar.promql.context import Evaluation, project
from sidecar.promql.notation import format_labels
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


def vector_with_scalar(ev: Evaluation, expr: Binary, vector: Vector, scalar: float, *, swapped: bool) -> Vector:
    """Each element joined with a number; `swapped` when the number stands on the left. A comparison filters."""
    compare = _COMPARISON.get(expr.op)
    if compare is not None and not expr.returns_bool:
        if swapped:
            return [point for point in vector if compare(scalar, point.value)]
        return [point for point in vector if compare(point.value, scalar)]
    fn = _ARITHMETIC.get(expr.op) or _COMPARISON[expr.op]
    return ev.unique([
        Point(ev.nameless(labels), float(fn(scalar, value) if swapped else fn(value, scalar)))
        for labels, value in vector
    ])


def vectors(ev: Evaluation, expr: Binary, left: Vector, right: Vector) -> Vector:
    """Two vectors joined by an operator. QueryError where the matching is not unique as it has to be."""
    match expr.op:
        case "and":
            present = {signature(expr.matching, point.labels) for point in right} if left else set()
            return [point for point in left if signature(expr.matching, point.labels) in present]
        case "or":
            present = {signature(expr.matching, point.labels) for point in left}
            return left + [point for point in right if signature(expr.matching, point.labels) not in present]
        case "unless":
            present = {signature(expr.matching, point.labels) for point in right} if left else set()
            return [point for point in left if signature(expr.matching, point.labels) not in present]
    return _joined(ev, expr, left, right) if left and right else []


def signature(matching: Matching, labels: Labels) -> Labels:
    """The labels by which an element finds its partner."""
    return project(labels, True, matching.labels) if matching.on else project(labels, False, matching.labels + _NAME)


def _joined(ev: Evaluation, expr: Binary, left: Vector, right: Vector) -> Vector:
    matching = expr.matching
    swapped = matching.cardinality == "one-to-many"
    many, one = (right, left) if swapped else (left, right)
    partners = _partners(expr, one)
    compare = _COMPARISON.get(expr.op)
    compute = _ARITHMETIC.get(expr.op)
    taken: set[tuple[Labels, Labels | None]] = set()
    found: Vector = []
    for labels, value in many:
        key = signature(matching, labels)
        partner = partners.get(key)
        if partner is None:
            continue
        result = _result_labels(expr, labels, partner.labels)
        _claim(matching, taken, key, result)
        low, high = (partner.value, value) if swapped else (value, partner.value)
        if compute is not None:
            found.append(Point(result, compute(low, high)))
        elif compare is not None and expr.returns_bool:
            found.append(Point(ev.nameless(result), float(compare(low, high))))
        elif compare is not None and compare(low, high):
            found.append(Point(result, low))
    return found


def _partners(expr: Binary, one: Vector) -> dict[Labels, Point]:
    partners: dict[Labels, Point] = {}
    for point in one:
        key = signature(expr.matching, point.labels)
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


def _claim(matching: Matching, taken: set[tuple[Labels, Labels | None]], key: Labels, result: Labels) -> None:
    """Elements that a comparison filters away count too: whether a rule is right must not depend on the values."""
    single = matching.cardinality == "one-to-one"
    claim = (key, None if single else result)
    if claim in taken:
        raise QueryError(
            "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)" if single
            else "multiple matches for labels: grouping labels must ensure unique matches")
    taken.add(claim)


def _result_labels(expr: Binary, many: Labels, one: Labels) -> Labels:
    matching = expr.matching
    drops_name = expr.op in _ARITHMETIC
    if matching.cardinality == "one-to-one":
        if matching.on:
            kept = tuple(name for name in matching.labels if name != METRIC_NAME) if drops_name else matching.labels
            return project(many, True, kept)
        return project(many, False, matching.labels + _NAME if drops_name else matching.labels)
    result = project(many, False, _NAME) if drops_name else many
    return result.merged({name: one.get(name, "") for name in matching.include}) if matching.include else result
