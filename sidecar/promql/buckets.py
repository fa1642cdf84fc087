"""Arithmetic on the buckets of one classic histogram. Semantics: promql/quantile.go of Prometheus 3."""

import math
from bisect import bisect_left
from typing import NamedTuple

from sidecar.promql import arithmetic

_TINY = 2.0**-1022
_SMALL_DELTA = 1e-12


class Bucket(NamedTuple):
    """How many observations were at most `upper`."""

    upper: float
    observations: float


class Mended(NamedTuple):
    """The bounds of the lowest and the highest bucket whose count had fallen, and the largest fall."""

    low: float
    high: float
    difference: float


def quantile(share: float, found: list[Bucket]) -> tuple[float, Mended | None]:
    """The quantile by linear interpolation inside its bucket, and what of the counts had to be mended for it.

    NaN without a +Inf bucket or without observations; an infinity for a share that is not between 0 and 1.
    """
    if not 0 <= share <= 1:
        return share if share != share else math.copysign(math.inf, share), None
    buckets = _joined(found)
    if buckets[-1].upper != math.inf:
        return math.nan, None
    buckets, mended = _monotonic(buckets)
    if len(buckets) < 2 or buckets[-1].observations == 0:
        return math.nan, None
    return _interpolated(share * buckets[-1].observations, buckets), mended


def _interpolated(rank: float, buckets: list[Bucket]) -> float:
    index = bisect_left(range(len(buckets) - 1), True, key=lambda i: buckets[i].observations >= rank)
    if index == len(buckets) - 1:
        return buckets[-2].upper
    upper, observations = buckets[index]
    if index == 0 and upper <= 0:
        return upper
    lower, below = buckets[index - 1] if index else (0.0, 0.0)
    return lower + (upper - lower) * arithmetic.divide(rank - below, observations - below)


def fraction(low: float, high: float, found: list[Bucket]) -> float:
    """The share of the observations between `low` and `high`; NaN without a +Inf bucket or without observations."""
    buckets = _joined(found)
    count = buckets[-1].observations
    if buckets[-1].upper != math.inf or count == 0 or low != low or high != high:
        return math.nan
    if low >= high:
        return 0.0
    return (_rank(high, buckets) - _rank(low, buckets)) / count


def _rank(value: float, buckets: list[Bucket]) -> float:
    """How many observations lie below `value`, as far as the buckets tell."""
    lower, below = -math.inf, 0.0
    for upper, observations in buckets:
        if lower >= value:
            break
        if upper > value:
            below += (observations - below) * (value - lower) / (upper - lower)
            break
        lower, below = upper, observations
    count = buckets[-1].observations
    return count if below > count else below


def _joined(found: list[Bucket]) -> list[Bucket]:
    """The buckets in order, those with equal bounds added up."""
    joined: dict[float, float] = {}
    for upper, count in sorted(found):
        joined[upper] = joined.get(upper, 0.0) + count
    return [Bucket(*pair) for pair in joined.items()]


def _monotonic(buckets: list[Bucket]) -> tuple[list[Bucket], Mended | None]:
    """The buckets with counts that never fall: scraped counts are not atomic, computed ones not exact."""
    result = [buckets[0]]
    mended: Mended | None = None
    for upper, count in buckets[1:]:
        highest = result[-1].observations
        if _almost(highest, count):
            count = highest
        elif count < highest:
            known = mended or Mended(upper, upper, 0.0)
            mended = Mended(known.low, upper, max(known.difference, highest - count))
            count = highest
        result.append(Bucket(upper, count))
    return result, mended


def _almost(left: float, right: float) -> bool:
    """Whether two counts differ by no more than rounding does (util/almost)."""
    if left == right:
        return True
    together = abs(left) + abs(right)
    if left == 0 or right == 0 or together < _TINY:
        return abs(left - right) < _SMALL_DELTA * _TINY
    return abs(left - right) / min(together, math.nextafter(math.inf, 0)) < _SMALL_DELTA
