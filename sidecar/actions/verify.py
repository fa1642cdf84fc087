"""Did it help? Judged in bytes, from outside, against what memory did before and does after. Pure.

Nobody sees what would have become of memory without the cleanup, so whatever can be explained without it is not
credited to it: growth that was over, growth that ended later, a fall of a size that memory has fallen by itself. What
remains is a lower bound. The rules are our own; docs/verdicts.md shows them in pictures.
"""

from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

from sidecar.actions.options import Verification

Reading = tuple[float, float]
"""(Unix time, used bytes)."""

NOISE_BYTES = 8 << 20
NOISE_RATIO = 0.005
"""Less than this is no cleanup's doing: RSS counters are inexact by a few MB, and processes breathe."""

REBOUND_RATIO = 0.5
MOST_POINTS = 60

SHORTEST_HISTORY_SECONDS = 10.0
"""The end of the history, which must confirm that growth still goes on; a shorter history confirms nothing."""
CONFIRMED = 0.8
"""A pace is confirmed by this part of it: in few seconds noise tells no better."""
KEPT = 0.5
"""Memory that goes on at this part of a pace or more after a cleanup has not been stopped by it."""


class Verdict(NamedTuple):
    """`freed_bytes` is measured against what used bytes would have become without the cleanup; None is not known.

    `fallen_bytes` is what anybody can see: used bytes before less used bytes after, negative if memory grew.
    """

    outcome: Literal["effective", "partial", "ineffective", "unknown"]
    after_bytes: float | None
    freed_bytes: float | None
    fallen_bytes: float | None = None


class Judged(NamedTuple):
    """What is known of an attempt when it is judged. Times are Unix seconds, growth is bytes per second."""

    before_bytes: float
    growth: float
    line_bytes: float | None
    started_at: float
    answered_at: float


class _Seen(NamedTuple):
    """A reading after the cleanup, and how much less it is than what was to be expected."""

    at: float
    used_bytes: float
    freed_bytes: float


def noise(before_bytes: float) -> float:
    """How many bytes a process of this size moves up and down without a reason."""
    return max(NOISE_BYTES, NOISE_RATIO * before_bytes)


def growth(readings: Sequence[Reading]) -> float:
    """How fast used bytes grow, in bytes per second: never negative, and 0 where it is not certain that they still do.

    Measured from floor to floor, so neither a cache that fills and empties is growth, nor a burst. The last seconds
    must confirm it: what has slowed down counts with the pace it has now.
    """
    points = readings[-MOST_POINTS:]
    if len(points) < 2 or points[-1][0] - points[0][0] < SHORTEST_HISTORY_SECONDS:
        return 0.0
    pace = _steady_pace(points)
    now = _slope([point for point in points if point[0] >= points[-1][0] - SHORTEST_HISTORY_SECONDS])
    return max(0.0, pace if now >= CONFIRMED * pace else now)


def kept_up(before: Sequence[Reading], after: Sequence[Reading]) -> float:
    """The pace at which memory grew right before a cleanup and has grown ever since it, in bytes per second.

    So a leak shows that had only just begun. What jumps up and stays there has none.
    """
    return max(0.0, min(_slope(before), _steady_pace(after)))


def _steady_pace(points: Sequence[Reading]) -> float:
    """From floor to floor: the lowest readings of the first, second and last third, of the two paces the lesser."""
    if len(points) < 2:
        return 0.0
    begun, ended = points[0][0], points[-1][0]
    floors: dict[int, Reading] = {}
    for point in points:
        third = min(2, int(3 * (point[0] - begun) / (ended - begun)))
        floors[third] = min(floors.get(third, point), point, key=lambda reading: reading[1])
    return min((b - a) / (t - s) for (s, a), (t, b) in pairwise(floors.values()))


def _slope(points: Sequence[Reading]) -> float:
    """The usual pace: the median slope between all pairs (Theil-Sen) of the newest readings, in bytes per second."""
    slopes = [(b - a) / (t - s) for (s, a), (t, b) in combinations(points[-MOST_POINTS:], 2) if t > s]
    return _median(slopes) if slopes else 0.0


def _median(values: Sequence[float]) -> float:
    """The one in the middle, or between the two there. (The module `statistics` would cost the desk 0.3 MiB.)"""
    ascending, half = sorted(values), len(values) // 2
    return (ascending[half] + ascending[-half - 1]) / 2


def _fallen_by_itself(attempt: Judged, readings: Sequence[Reading]) -> float:
    """The deepest fall in the history: temporary memory, a cache that empties itself. Noise is none."""
    highest = deepest = 0.0
    for at, used in readings:
        if at <= attempt.started_at:
            highest = max(highest, used)
            deepest = max(deepest, highest - used)
    return deepest if deepest > noise(attempt.before_bytes) else 0.0


class _Course:
    """What was to be expected of used bytes after the answer: the growth from before, as far as it is confirmed.

    Where growth goes on after the cleanup, its pace then is the better measure if it is less. Growth is credited to
    the end of the window at most. `after` are the readings since the answer.
    """

    def __init__(self, attempt: Judged, after: Sequence[Reading], rules: Verification) -> None:
        self._attempt = attempt
        self._until = attempt.answered_at + rules.window_seconds
        now = _slope(after)
        self._pace = min(attempt.growth, now) if now >= KEPT * attempt.growth else attempt.growth

    def at(self, moment: float) -> float:
        """Bytes expected at that moment."""
        return self._attempt.before_bytes + self._pace * (min(moment, self._until) - self._attempt.started_at)

    def is_kept(self, reading: Reading) -> bool:
        """Whether memory is still on this course then: growth has not stopped at the answer."""
        at, used = reading
        return self.at(at) - used < KEPT * self._pace * (at - self._attempt.answered_at)


def _seen(attempt: Judged, readings: Sequence[Reading], rules: Verification) -> list[_Seen]:
    """The readings after the answer, each against its expectation.

    If memory is on its old course when it has settled, then the cleanup has not stopped it, and growth that ends later
    ended by itself: from then on no more is expected than what has been seen, and what was missing by then. What is
    read long after the window proves nothing: the machine may have slept.
    """
    settled_at = attempt.answered_at + rules.settle_seconds
    last_at = attempt.answered_at + 2 * rules.window_seconds
    after = [(at, used) for at, used in readings if attempt.answered_at < at <= last_at]
    course = _Course(attempt, after, rules)
    first = next((reading for reading in after if reading[0] >= settled_at), None)
    kept = first is not None and course.is_kept(first)
    missing = max(0.0, course.at(first[0]) - first[1]) if first else 0.0
    doubt = _fallen_by_itself(attempt, readings)
    highest, found = 0.0, []
    for at, used in after:
        expected = course.at(at)
        if kept and at >= settled_at:
            highest = max(highest, used)
            expected = min(expected, highest + missing)
        freed = expected - used
        found.append(_Seen(at, used, max(0.0, freed - doubt) if freed > 0 else freed))
    return found


def judge(attempt: Judged, readings: Sequence[Reading], now: float, rules: Verification, *,
          overtaken: bool = False) -> Verdict | None:
    """The verdict, or None while it is too early.

    `readings`, in ascending time, are those since the order, and of the minute before it those that no other cleanup
    has moved: what memory does by itself is learnt from them, and without them it is not doubted.

    Below the exit line it is effective at once. Otherwise, once settled, as soon as enough has been freed; and when
    the window ends, by the most that was freed. No settled reading by then is `unknown`. One that is `overtaken` by the
    next cleanup gets its verdict now; where less had settled than was seen before, that is `unknown`, too.
    """

    def verdict(outcome: Literal["effective", "partial", "ineffective"], seen: _Seen) -> Verdict:
        return Verdict(outcome, seen.used_bytes, seen.freed_bytes, attempt.before_bytes - seen.used_bytes)

    after = _seen(attempt, readings, rules)
    low = min(after, key=lambda seen: seen.used_bytes, default=None)
    if low and attempt.line_bytes is not None and low.used_bytes <= rules.exit_ratio * attempt.line_bytes:
        return verdict("effective", low)
    closing = overtaken or now >= attempt.answered_at + rules.window_seconds
    best = max((seen for seen in after if seen.at >= attempt.answered_at + rules.settle_seconds),
               key=lambda seen: (seen.freed_bytes, -seen.used_bytes), default=None)
    if best is None:
        return Verdict("unknown", None, None) if closing else None
    if best.freed_bytes >= max(rules.min_bytes, rules.min_ratio * attempt.before_bytes):
        return verdict("effective", best)
    if not closing:
        return None
    least = noise(attempt.before_bytes)
    if overtaken and best.freed_bytes <= least < max(seen.freed_bytes for seen in after):
        return Verdict("unknown", None, None)
    return verdict("partial" if best.freed_bytes > least else "ineffective", best)


def rebounded(attempt: Judged, freed_bytes: float, reading: Reading) -> bool:
    """Whether half of what was freed has come back, beyond the growth seen before: a leak at its old pace is none.

    What is no more than noise is none either.
    """
    at, used = reading
    stayed_away = attempt.before_bytes + attempt.growth * (at - attempt.started_at) - freed_bytes
    return used - stayed_away > max(REBOUND_RATIO * freed_bytes, noise(attempt.before_bytes))
