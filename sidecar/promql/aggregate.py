"""Aggregations: many elements into one for each group. Semantics: promql/engine.go of Prometheus 3."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Labels
from sidecar.promql import arithmetic
from sidecar.promql.context import MAX_LABEL_LENGTH, Evaluation, Fading, project
from sidecar.promql.functions import by_value
from sidecar.promql.notation import format_float, quote
from sidecar.promql.remarks import remark_ratio, remark_share
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps, piecewise
from sidecar.promql.tree import Aggregate
from sidecar.promql.values import Point, Vector
from sidecar.promql.xxhash64 import labels_hash

_LARGEST = 2**63
_LARGEST_HASH = float(2**64 - 1)
_EVERYTHING = Labels()

_REDUCERS: dict[str, Callable[[list[float]], float]] = {
    "sum": arithmetic.compensated_sum,
    "avg": arithmetic.mean,
    "min": lambda values: min((value for value in values if value == value), default=math.nan),
    "max": lambda values: max((value for value in values if value == value), default=math.nan),
    "count": lambda values: float(len(values)),
    "group": lambda values: 1.0,
    "stdvar": arithmetic.plain_variance,
    "stddev": lambda values: arithmetic.total(math.sqrt, arithmetic.plain_variance(values)),
}

AGGREGATIONS = frozenset((*_REDUCERS, "quantile", "topk", "bottomk", "count_values", "limitk", "limit_ratio"))


def aggregate(ev: Evaluation, expr: Aggregate, vector: Vector, parameter: float | str | None) -> Steps[Vector]:
    """The vector that `expr` makes of `vector`, in pieces; `parameter` is evaluated already."""
    if expr.op == "limit_ratio":
        return (yield from piecewise(_sampled(ev, expr, float(parameter or 0.0)), vector))
    if expr.op == "count_values":
        return (yield from _count_values(expr, vector, str(parameter)))
    groups = yield from _grouped(ev, expr, vector)
    if expr.op in ("topk", "bottomk"):
        return _outermost(expr, groups, _count(parameter))
    if expr.op == "limitk":
        return _first(groups, _count(parameter))
    if expr.op == "quantile":
        share = float(parameter or 0.0)
        remark_share(ev, share, expr.parameter.position if expr.parameter else None)
        return (yield from _reduced(groups, lambda values: arithmetic.quantile(share, values)))
    return (yield from _reduced(groups, _REDUCERS[expr.op]))


def group_key(expr: Aggregate, labels: Labels) -> Labels:
    """The labels that the result of an element's group has."""
    if expr.without:
        return project(labels, False, (*expr.grouping, METRIC_NAME))
    return project(labels, True, expr.grouping) if expr.grouping else _EVERYTHING


Groups = dict[Labels, list[Point]]


def _grouped(ev: Evaluation, expr: Aggregate, vector: Vector) -> Steps[Groups]:
    groups: Groups = {}
    for count, point in enumerate(vector, 1):
        if not count % ELEMENTS_A_PIECE:
            ev.charge(0)
            yield
        groups.setdefault(group_key(expr, point.labels), []).append(point)
    return groups


def _reduced(groups: Groups, reduce: Callable[[list[float]], float]) -> Steps[Vector]:
    return piecewise(lambda piece: [Point(_faded(labels, points), reduce([point.value for point in points]))
                                    for labels, points in piece], groups.items())


def _faded(labels: Labels, points: list[Point]) -> Labels:
    """Where a group kept a name (`by (__name__)`) that one of its elements was about to lose, the group loses it."""
    if METRIC_NAME in labels and any(type(point.labels) is Fading for point in points):
        return Fading(labels)
    return labels


def _count(parameter: float | str | None) -> int:
    wanted = float(parameter or 0.0)
    if wanted != wanted:
        raise QueryError("Parameter value is NaN")
    if not -_LARGEST <= wanted < _LARGEST:
        raise QueryError(f"Scalar value {format_float(wanted)} overflows int64")
    return int(wanted)


def _outermost(expr: Aggregate, groups: Groups, count: int) -> Vector:
    if count < 1:
        return []
    return [
        point
        for points in groups.values()
        for point in by_value(points, descending=expr.op == "topk")[:count]
    ]


def _first(groups: Groups, count: int) -> Vector:
    """The first elements of each group, as they come: any will do."""
    return [point for points in groups.values() for point in points[:max(0, count)]]


def _sampled(ev: Evaluation, expr: Aggregate, ratio: float) -> Callable[[Vector], Vector]:
    """The elements whose hash lies in the lowest `ratio` of all hashes; below zero, those that `1 + ratio` leaves."""
    if ratio != ratio:
        raise QueryError("Ratio value is NaN", position=expr.position)
    remark_ratio(ev, ratio, expr.parameter.position if expr.parameter else None)
    capped = max(-1.0, min(1.0, ratio))
    if capped < 0:
        return lambda vector: [point for point in vector if _hashed(point.labels) >= 1 + capped]
    return lambda vector: [point for point in vector if capped and _hashed(point.labels) < capped]


@lru_cache(maxsize=1024)
def _hashed(labels: Labels) -> float:
    """Where a label set stands among all, from 0 to 1."""
    return labels_hash(labels) / _LARGEST_HASH


def _count_values(expr: Aggregate, vector: Vector, label: str) -> Steps[Vector]:
    if not label or len(label) > MAX_LABEL_LENGTH or any(0x7F <= ord(char) < 0x100 for char in label):
        raise QueryError(f"invalid label name {quote(label)}", position=expr.position)
    if not expr.without:
        expr = replace(expr, grouping=(*expr.grouping, label))
    counts: dict[Labels, int] = {}
    for number, (labels, value) in enumerate(vector, 1):
        if number % ELEMENTS_A_PIECE == 0:
            yield
        # The label's own old value takes no part: the new one overwrites it before elements are grouped.
        key = group_key(expr, labels.merged({label: format_float(value)}))
        counts[key] = counts.get(key, 0) + 1
    return [Point(labels, float(count)) for labels, count in counts.items()]
