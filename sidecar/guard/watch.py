"""The watch on used bytes: how they are read, and how long one may look away."""

from collections.abc import Callable

from sidecar.guard.process import Process
from sidecar.guard.wire import Basis, Order
from sidecar.procfs import KeptFile, anon_bytes, resident_bytes, unreclaimable_bytes

SHORTEST_SECONDS = 0.001
LONGEST_SECONDS = 1.0
BURST_BYTES_PER_SECOND = 1 << 30
"""What a process may do next whatever it did lately: one core touches fresh pages at 1 to 3 GB/s."""


def away_seconds(used_bytes: float, line_bytes: float, growth_bytes_per_second: float) -> float:
    """How long until the next look: the distance to the line at twice the growth seen lately, or at a burst's."""
    pace = max(2 * growth_bytes_per_second, BURST_BYTES_PER_SECOND)
    return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, (line_bytes - used_bytes) / pace))


def reader(process: Process, basis: Basis) -> tuple[Callable[[], float], list[KeptFile]]:
    """A function that reads used bytes, and the files it keeps. Raises OSError or ValueError if they cannot be opened.

    The function raises OSError (ESRCH when the process has ended), ValueError or KeyError for what it cannot read.
    """
    if basis.kind == "cgroup":
        usage, stat = KeptFile(basis.usage, size=64), KeptFile(basis.stat)
        return lambda: unreclaimable_bytes(usage.read(), stat.read()), [usage, stat]
    if basis.kind == "rss":
        statm = KeptFile("statm", dir_fd=process.dir_fd, size=128)
        return lambda: resident_bytes(statm.read()), [statm]
    return lambda: anon_bytes(process.status.read()), []


class Standing:
    """A standing order in force. Lives until it is replaced, spent or out of date. Times are monotonic."""

    __slots__ = ("not_before", "order", "times", "until")

    def __init__(self, order: Order, now: float) -> None:
        self.order = order
        self.times = order.times
        self.not_before = now + order.not_before_seconds
        self.until = now + order.valid_seconds

    def ready(self, now: float) -> bool:
        """Whether it may be carried out now."""
        return self.times > 0 and self.not_before <= now < self.until

    def note_delivery(self, now: float) -> None:
        """One time less; and not at once again unless the desk, which sees what it did, says so."""
        self.times -= 1
        self.not_before = now + self.order.again_after_seconds


class Watch:
    """One target under watch. Lives from watch to unwatch, or until its process has ended.

    Takes the process over, and lets go of it where used bytes cannot be read on this basis: OSError or ValueError.
    """

    def __init__(self, target: str, process: Process, basis: Basis) -> None:
        self.target = target
        self.process = process
        self.basis = basis
        self.standing: list[Standing] = []
        self.next_look = 0.0
        self.used_bytes = 0.0
        self.trouble = ""
        self._growth = 0.0
        self._looked_at = 0.0
        try:
            self._read, self._files = reader(process, basis)
        except (OSError, ValueError):
            process.close()
            raise

    def rest_on(self, basis: Basis) -> None:
        """Read used bytes another way from now on. The lines of the orders so far are not meant for it: they go.

        Raises OSError or ValueError if its files cannot be opened; then everything stays as it was.
        """
        before = self._files
        self._read, self._files = reader(self.process, basis)
        self.basis, self.standing = basis, []
        self.next_look = self._looked_at = self._growth = 0.0
        for kept in before:
            kept.close()

    def look(self, now: float) -> Standing | None:
        """Read used bytes, settle when to look next; the standing order whose line is crossed, if one may act.

        Raises OSError, ValueError or KeyError if used bytes cannot be read.
        """
        used = self._read()
        if self._looked_at and now > self._looked_at:
            pace = (used - self.used_bytes) / (now - self._looked_at)
            self._growth = max(pace, 0.8 * self._growth, 0.0)
        self.used_bytes, self._looked_at = used, now
        live = [s for s in self.standing if s.times > 0 and now < s.until]
        self.next_look = now + min((self._away(s, now) for s in live), default=LONGEST_SECONDS)
        return next((s for s in live if s.ready(now) and s.order.crossed(used)), None)

    def _away(self, standing: Standing, now: float) -> float:
        wait = min(LONGEST_SECONDS, standing.not_before - now)
        if wait > 0:
            return wait
        line = standing.order.line_bytes
        return LONGEST_SECONDS if line is None else away_seconds(self.used_bytes, line, self._growth)

    def read_used(self) -> float:
        """Used bytes now, for the check right before delivery. Raises like `look`."""
        self.used_bytes = self._read()
        return self.used_bytes

    def close(self) -> None:
        """Let go of the target."""
        for kept in self._files:
            kept.close()
        self.process.close()
