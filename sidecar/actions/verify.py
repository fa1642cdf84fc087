"""Did it help? Judged in bytes, from outside, against the growth that was there before. Pure."""

from collections.abc import Sequence
from itertools import combinations
from statistics import median
from typing import Literal, NamedTuple

from sidecar.actions.options import Verification

Reading = tuple[float, float]
"""(Unix time, used bytes)."""

NOISE_BYTES = 8 << 20
NOISE_RATIO = 0.005
"""Less than this is no cleanup's doing: RSS counters are inexact by a few MB, and processes breathe."""

REBOUND_RATIO = 0.5
MOST_POINTS = 60


class Verdict(NamedTuple):
    """`freed_bytes` is measured against what used bytes would have become without the cleanup; None is not known."""

    outcome: Literal["effective", "partial", "ineffective", "unknown"]
    after_bytes: float | None
    freed_bytes: float | None


class Judged(NamedTuple):
    """What is known of an attempt when it is judged. Times are Unix seconds, growth is bytes per second."""

    before_bytes: float
    growth: float
    line_bytes: float | None
    started_at: float
    answered_at: float


def growth(readings: Sequence[Reading]) -> float:
    """How fast used bytes grew: the median slope between all pairs (Theil-Sen), never negative, in bytes per second."""
    points = readings[-MOST_POINTS:]
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in combinations(points, 2) if t > s]
    return max(0.0, median(slopes)) if slopes else 0.0


def judge(attempt: Judged, readings: Sequence[Reading], now: float, rules: Verification) -> Verdict | None:
    """The verdict, or None while it is too early. `readings` are those since the answer, in ascending time.

    Below the exit line it is effective at once. Otherwise, once settled, as soon as enough has been freed; and when
    the window ends, by the most that was freed. No settled reading by then is `unknown`.
    """
    until = attempt.answered_at + rules.window_seconds

    def freed_at(reading: Reading) -> float:
        """Expected without the cleanup, less what is there: credits one that only stopped the growth.

        Growth is credited to the end of the window, however late the reading is: the machine may have slept.
        """
        at, used = reading
        return attempt.before_bytes + attempt.growth * (min(at, until) - attempt.started_at) - used

    after = [reading for reading in readings if reading[0] > attempt.answered_at]
    low = min(after, key=lambda reading: reading[1], default=None)
    if low is not None and attempt.line_bytes is not None and low[1] <= rules.exit_ratio * attempt.line_bytes:
        return Verdict("effective", low[1], freed_at(low))
    closing = now >= until
    settled = [reading for reading in after if reading[0] >= attempt.answered_at + rules.settle_seconds]
    best = max(settled, key=freed_at, default=None)
    if best is None:
        return Verdict("unknown", None, None) if closing else None
    freed = freed_at(best)
    if freed >= max(rules.min_bytes, rules.min_ratio * attempt.before_bytes):
        return Verdict("effective", best[1], freed)
    if not closing:
        return None
    noise = max(NOISE_BYTES, NOISE_RATIO * attempt.before_bytes)
    return Verdict("partial" if freed > noise else "ineffective", best[1], freed)


def rebounded(attempt: Judged, verdict_at: float, after_bytes: float, freed_bytes: float, reading: Reading) -> bool:
    """Whether half of what was freed has come back, beyond the growth seen before: a leak at its old pace is none."""
    at, used = reading
    return used - after_bytes - attempt.growth * (at - verdict_at) > REBOUND_RATIO * freed_bytes
