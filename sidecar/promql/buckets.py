"""Quantiles of classic histograms: series that differ in `le`. Semantics: promql/quantile.go of Prometheus 3."""

import math
from collections.abc import Callable
from typing import NamedTuple

from sidecar.model import Labels
from sidecar.promql.context import project
from sidecar.promql.values import Point, Vector


class _Bucket(NamedTuple):
    upper: float
    observations: float


def bucket_quantiles(share: float, vector: Vector, nameless: Callable[[Labels], Labels]) -> Vector:
    """One element for each histogram in `vector`. Elements without a numeric `le` are ignored."""
    groups: dict[Labels, tuple[Labels, list[_Bucket]]] = {}
    for labels, count in vector:
        try:
            upper = float(labels.get("le", ""))
        except ValueError:
            continue
        key = project(labels, False, ("le",))
        groups.setdefault(key, (nameless(key), []))[1].append(_Bucket(upper, count))
    return [Point(labels, bucket_quantile(share, buckets)) for labels, buckets in groups.values()]


def bucket_quantile(share: float, found: list[_Bucket]) -> float:
    """The quantile by linear interpolation inside its bucket; NaN without a +Inf bucket or without observations."""
    if share != share:
        return math.nan
    if share < 0:
        return -math.inf
    if share > 1:
        return math.inf
    buckets = _monotonic(sorted(found))
    if len(buckets) < 2 or buckets[-1].upper != math.inf or not buckets[-1].observations > 0:
        return math.nan
    rank = share * buckets[-1].observations
    index = next((i for i, bucket in enumerate(buckets[:-1]) if bucket.observations >= rank), len(buckets) - 1)
    if index == len(buckets) - 1:
        return buckets[-2].upper
    upper, observations = buckets[index]
    if index == 0 and upper <= 0:
        return upper
    lower, below = buckets[index - 1] if index else (0.0, 0.0)
    return lower + (upper - lower) * ((rank - below) / (observations - below))


def _monotonic(buckets: list[_Bucket]) -> list[_Bucket]:
    """The buckets with equal bounds joined and counts that never fall: scraped counts are not atomic."""
    joined: dict[float, float] = {}
    for upper, count in buckets:
        joined[upper] = joined.get(upper, 0.0) + count
    result: list[_Bucket] = []
    highest = -math.inf
    for upper, count in joined.items():
        highest = max(highest, count)
        result.append(_Bucket(upper, highest))
    return result

