"""What a cleanup cost the target: the pages that it had to fetch again. Pure.

Memory that is given back and needed again comes back page by page: minor faults, each a microsecond or so of the
kernel. Pages of files that were dropped come back from the disk: major faults, each of which may take milliseconds.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from sidecar.actions.verify import Reading

WINDOW_SECONDS = 60.0
LATE_SECONDS = 5.0
"""So much of the window may be missing at its end: readings are a second apart, or five."""
SHORTEST_SECONDS = 10.0
"""Of so much time before the cleanup at least the usual rate must be known."""

Counters = Sequence[Sequence[Reading]]
"""The readings of a counter, (Unix time, count), of each process of the target in ascending time."""


def extra(counters: Counters, started_at: float) -> float | None:
    """How much more was counted in the window from `started_at` than before it in as much time, never negative.

    `counters` are `rag_process_page_faults_total` of one type, of the minute before and the one after; to be asked once
    WINDOW_SECONDS have passed. None where the readings do not reach far enough. A count that falls is that of another
    process, from zero.
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
