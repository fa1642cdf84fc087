"""What a cleanup cost the target: how long it stood still, and the pages that it had to fetch again. Pure.

Memory that is given back and needed again comes back page by page: minor faults, each a microsecond or so of the
kernel. Pages of files that were dropped come back from the disk: major faults, each of which may take milliseconds.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from sidecar.actions.verify import Reading

WINDOW_SECONDS = 60.0
LATE_SECONDS = 5.0
"""So much of the window may be missing at its end: readings are a second apart, or five."""
SHORTEST_SECONDS = 10.0
"""Of so much time before the cleanup at least the usual rate must be known."""

Counters = Sequence[Sequence[Reading]]
"""The readings of a counter, (Unix time, count), of each process of the target in ascending time."""


class Cost(NamedTuple):
    """`pause_seconds` as the agent tells it, faults beyond the usual rate of the target; None is not known."""

    pause_seconds: float | None
    major_faults: float | None
    minor_faults: float | None


def cost(pause_seconds: float | None, started_at: float, major: Counters, minor: Counters) -> Cost:
    """The cost of a cleanup that was asked for at `started_at`, once WINDOW_SECONDS have passed since.

    `major` and `minor` are `rag_process_page_faults_total` of that type, of the minute before and the one after.
    """
    return Cost(pause_seconds, extra(major, started_at), extra(minor, started_at))


def extra(counters: Counters, started_at: float) -> float | None:
    """How much more was counted in the window from `started_at` than before it in as much time, never negative.

    None where the readings do not reach far enough. A count that falls is that of another process, from zero.
    """
    times = [at for readings in counters for at, _ in readings]
    begun = max(min(times, default=started_at), started_at - WINDOW_SECONDS)
    ended = started_at + WINDOW_SECONDS
    if started_at - begun < SHORTEST_SECONDS or max(times) < ended - LATE_SECONDS:
        return None
    usual = _counted(counters, begun, started_at) / (started_at - begun)
    return max(0.0, _counted(counters, started_at, ended) - usual * WINDOW_SECONDS)


def _counted(counters: Counters, start: float, end: float) -> float:
    """The increase of all counters together in (start, end], from one reading to the next."""
    pairs: Iterable[tuple[Reading, Reading]] = (pair for readings in counters for pair in pairwise(readings))
    return sum(new - old if new >= old else new for (_, old), (at, new) in pairs if start < at <= end)
