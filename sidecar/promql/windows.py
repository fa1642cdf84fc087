"""Functions over the samples of a range. Each takes a Window of at least one sample and gives a number, or None.

Semantics: promql/functions.go of Prometheus 3. Differences of times are taken in whole milliseconds, its resolution.
"""

import math
from itertools import pairwise

from sidecar.promql import arithmetic
from sidecar.promql.context import Window


def _seconds(later: float, earlier: float) -> float:
    return round((later - earlier) * 1000) / 1000


def _extrapolated(window: Window, *, counter: bool, rate: bool) -> float | None:
    """The change over the whole range, extended to its ends where samples come near enough to them."""
    times, values = window.times, window.values
    gaps = len(times) - 1
    if gaps < 1:
        return None
    change = values[-1] - values[0]
    if counter and not window.rising:
        change += sum((before for before, after in pairwise(values) if after < before), -0.0)
    to_start = _seconds(times[0], window.start)
    to_end = _seconds(window.end, times[-1])
    sampled = _seconds(times[-1], times[0])
    average_gap = sampled / gaps
    if to_start >= average_gap * 1.1:
        to_start = average_gap / 2
    if counter and change > 0 and values[0] >= 0:
        # A counter was not negative before its first sample.
        to_start = min(to_start, sampled * (values[0] / change))
    if to_end >= average_gap * 1.1:
        to_end = average_gap / 2
    factor = (sampled + to_start + to_end) / sampled
    if rate:
        factor /= _seconds(window.end, window.start)
    return change * factor


def rate(window: Window) -> float | None:
    """Increase of a counter per second, extended to the ends of the range."""
    return _extrapolated(window, counter=True, rate=True)


def increase(window: Window) -> float | None:
    """Increase of a counter, extended to the ends of the range."""
    return _extrapolated(window, counter=True, rate=False)


def delta(window: Window) -> float | None:
    """Change of a gauge, extended to the ends of the range."""
    return _extrapolated(window, counter=False, rate=False)


def irate(window: Window) -> float | None:
    """Increase of a counter per second between the last two samples."""
    if len(window.times) < 2:
        return None
    last, before = window.values[-1], window.values[-2]
    change = last if last < before else last - before
    return change / _seconds(window.times[-1], window.times[-2])


def idelta(window: Window) -> float | None:
    """Difference of the last two samples."""
    return window.values[-1] - window.values[-2] if len(window.times) > 1 else None


def deriv(window: Window) -> float | None:
    """Slope per second of the least-squares line."""
    if len(window.times) < 2:
        return None
    return arithmetic.regression(window.times, window.values, window.times[0])[0]


def predict_linear(window: Window, seconds: float) -> float | None:
    """Value of the least-squares line `seconds` after the moment of evaluation."""
    if len(window.times) < 2:
        return None
    slope, value = arithmetic.regression(window.times, window.values, window.at)
    return slope * seconds + value


def double_exponential_smoothing(window: Window, smoothing: float, trend_smoothing: float) -> float | None:
    """Holt's linear method. Factors outside (0, 1) are refused before this is called."""
    values = window.values
    if len(values) < 2:
        return None
    previous = level = values[0]
    trend = values[1] - values[0]
    for index, value in enumerate(values[1:]):
        if index:
            trend = trend_smoothing * (level - previous) + (1 - trend_smoothing) * trend
        previous = level
        level = smoothing * value + (1 - smoothing) * (level + trend)
    return level


def avg_over_time(window: Window) -> float:
    """Mean of all values."""
    return arithmetic.mean(window.values)


def sum_over_time(window: Window) -> float:
    """Sum of all values, with compensation for rounding."""
    return arithmetic.compensated_sum(window.values)


def count_over_time(window: Window) -> float:
    """Number of samples."""
    return float(len(window.values))


def max_over_time(window: Window) -> float:
    """Largest value; NaN only where there is nothing else."""
    if window.whole:
        return max(window.values)
    return max((value for value in window.values if value == value), default=math.nan)


def min_over_time(window: Window) -> float:
    """Smallest value; NaN only where there is nothing else."""
    if window.whole:
        return min(window.values)
    return min((value for value in window.values if value == value), default=math.nan)


def first_over_time(window: Window) -> float:
    """Oldest value."""
    return window.values[0]


def last_over_time(window: Window) -> float:
    """Newest value."""
    return window.values[-1]


def present_over_time(window: Window) -> float:
    """1: there is a sample."""
    return 1.0


def stdvar_over_time(window: Window) -> float:
    """Population variance."""
    return arithmetic.variance(window.values)


def stddev_over_time(window: Window) -> float:
    """Population standard deviation."""
    return arithmetic.total(math.sqrt, arithmetic.variance(window.values))


def quantile_over_time(window: Window, share: float) -> float:
    """Quantile, interpolated between neighbouring values."""
    return arithmetic.quantile(share, window.values)


def mad_over_time(window: Window) -> float:
    """The median of the distances from the median."""
    if any(value != value for value in window.values):
        return math.nan
    median = arithmetic.quantile(0.5, window.values)
    return arithmetic.quantile(0.5, (abs(value - median) for value in window.values))


def changes(window: Window) -> float:
    """How often the value differs from the one before; NaN does not differ from NaN."""
    return float(sum(
        after != before and not (after != after and before != before) for before, after in pairwise(window.values)
    ))


def resets(window: Window) -> float:
    """How often the value fell."""
    return float(sum(after < before for before, after in pairwise(window.values)))


def ts_of_first_over_time(window: Window) -> float:
    """Time of the oldest sample."""
    return window.times[0]


def ts_of_last_over_time(window: Window) -> float:
    """Time of the newest sample."""
    return window.times[-1]


def ts_of_max_over_time(window: Window) -> float:
    """Time of the last sample that has the largest value."""
    return _time_of(window, max_over_time(window))


def ts_of_min_over_time(window: Window) -> float:
    """Time of the last sample that has the smallest value."""
    return _time_of(window, min_over_time(window))


def _time_of(window: Window, wanted: float) -> float:
    """When the last sample with this value was taken; of NaN only, the last."""
    found = [time for time, value in zip(window.times, window.values, strict=True) if value == wanted]
    return found[-1] if found else window.times[-1]
