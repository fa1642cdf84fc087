"""Floating-point arithmetic as Prometheus and Go do it: nothing raises, NaN and infinities flow through.

Sums compensate lost digits (Neumaier's variant of Kahan summation, Prometheus's util/kahansum); means, variances,
quantiles and regressions follow promql/functions.go and promql/quantile.go.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from operator import mul


def divide(left: float, right: float) -> float:
    """IEEE division: by zero gives an infinity or NaN."""
    if right:
        return left / right
    if left == 0 or math.isnan(left) or math.isnan(right):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1.0, right)


def modulo(left: float, right: float) -> float:
    """The remainder with the sign of `left` (C's fmod)."""
    return math.nan if right == 0 or math.isinf(left) else math.fmod(left, right)


def power(left: float, right: float) -> float:
    """C's pow: infinities instead of overflow, NaN instead of a complex number."""
    try:
        return math.pow(left, right)
    except OverflowError:
        return -math.inf if left < 0 and right % 2 == 1 else math.inf
    except ValueError:
        if left != 0:
            return math.nan
        odd = right % 2 == 1
        return math.copysign(math.inf, left) if odd else math.inf


def total(fn: Callable[[float], float], value: float) -> float:
    """`fn(value)`; NaN outside its domain, infinity where it overflows."""
    try:
        return fn(value)
    except ValueError:
        return math.nan
    except OverflowError:
        return math.inf


def greater(left: float, right: float) -> float:
    """The larger of two (Go's math.Max): infinity if either is, else NaN if either is; zero is more than minus zero."""
    if math.inf in (left, right) or left == right == 0:
        return math.inf if left or right else math.copysign(0.0, max(math.copysign(1, left), math.copysign(1, right)))
    return math.nan if left != left or right != right else max(left, right)


def smaller(left: float, right: float) -> float:
    """The smaller of two (Go's math.Min), as `greater`."""
    return -greater(-left, -right)


def add(increment: float, total_so_far: float, compensation: float) -> tuple[float, float]:
    """One step of a compensated sum: the new sum and its compensation."""
    result = total_so_far + increment
    if math.isinf(result):
        return result, 0.0
    if abs(total_so_far) >= abs(increment):
        return result, compensation + ((total_so_far - result) + increment)
    return result, compensation + ((increment - result) + total_so_far)


def _finite_sum(values: Sequence[float]) -> tuple[float, float]:
    """All the steps of `add` in one loop, three times as fast. Right if the sum is finite; otherwise start again."""
    result = lost = 0.0
    for value in values:
        grown = result + value
        if abs(result) >= abs(value):
            lost += (result - grown) + value
        else:
            lost += (value - grown) + result
        result = grown
    return result, lost


def compensated_sum(values: Sequence[float]) -> float:
    """The sum of `values` with the digits that plain addition would lose."""
    try:
        result = math.fsum(values)
    except (OverflowError, ValueError):  # too large on the way, or both infinities: the steps below know what comes
        result = math.nan
    if math.isfinite(result):
        return result
    result = compensation = 0.0
    for value in values:
        result, compensation = add(value, result, compensation)
    return result + compensation


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value: of the sum as long as that does not overflow, incrementally from there on."""
    result, compensation = _finite_sum(values)
    if math.isfinite(result):
        return result / len(values) + compensation / len(values)
    result, compensation, count = values[0], 0.0, 1
    incremental = False
    for value in values[1:]:
        count += 1
        if not incremental:
            grown, grown_compensation = add(value, result, compensation)
            if not math.isinf(grown):
                result, compensation = grown, grown_compensation
                continue
            incremental = True
            result /= count - 1
            compensation /= count - 1
        kept = (count - 1) / count
        result, compensation = add(value / count, kept * result, kept * compensation)
    return result + compensation if incremental else result / count + compensation / count


def variance(values: Iterable[float]) -> float:
    """The population variance of at least one value (Welford), compensated: that of samples over time."""
    count = 0
    centre = centre_lost = squares = squares_lost = 0.0
    for value in values:
        count += 1
        delta = value - (centre + centre_lost)
        centre, centre_lost = add(delta / count, centre, centre_lost)
        squares, squares_lost = add(delta * (value - (centre + centre_lost)), squares, squares_lost)
    return (squares + squares_lost) / count


def plain_variance(values: Sequence[float]) -> float:
    """The population variance of at least one value (Welford): that of the elements of a vector."""
    if not math.isfinite(values[0]):
        return math.nan
    centre, squares, count = values[0], 0.0, 1
    for value in values[1:]:
        count += 1
        delta = value - centre
        centre += delta / count
        squares += delta * (value - centre)
    return squares / count


def quantile(share: float, values: Iterable[float]) -> float:
    """The `share` quantile, linear between ranks; NaN counts as the smallest value."""
    ordered = sorted(values, key=lambda value: (value == value, value))
    if not ordered or share != share:
        return math.nan
    if share < 0:
        return -math.inf
    if share > 1:
        return math.inf
    rank = share * (len(ordered) - 1)
    lower = math.floor(rank)
    upper = min(len(ordered) - 1, lower + 1)
    weight = rank - lower
    return ordered[lower] * (1 - weight) + ordered[upper] * weight


def regression(times: Sequence[float], values: Sequence[float], origin: float) -> tuple[float, float]:
    """Slope per second and value at `origin` of the least-squares line through at least two samples."""
    first = values[0]
    if first == first and values.count(first) == len(values):
        return (math.nan, math.nan) if math.isinf(first) else (0.0, first)
    xs, x_sum, x_variance = _abscissas(tuple(times), origin)
    count, y_sum = float(len(values)), compensated_sum(values)
    covariance = compensated_sum(list(map(mul, xs, values))) - x_sum * y_sum / count
    slope = divide(covariance, x_variance)
    return slope, y_sum / count - slope * x_sum / count


@lru_cache(maxsize=4)
def _abscissas(times: tuple[float, ...], origin: float) -> tuple[list[float], float, float]:
    """Seconds since `origin`, their sum, and the sum of their squared distances from their mean.

    Remembered for the next series, which was in most cases read at the same moments.
    """
    xs = [round((time - origin) * 1000) / 1000 for time in times]
    x_sum = compensated_sum(xs)
    return xs, x_sum, compensated_sum([x * x for x in xs]) - x_sum * x_sum / len(xs)
