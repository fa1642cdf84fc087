"""The watch on used bytes: how they are read, and how long one may look away."""

from __future__ import annotations

import errno
import os

from sidecar.clock import busy, monotonic
from sidecar.guard.process import Process, Remote
from sidecar.guard.tree import Census, Tree
from sidecar.guard.wire import Basis, Order
from sidecar.procfs import KeptFile, unreclaimable_bytes
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

SHORTEST_SECONDS = 0.001
MOST_SHARE_OF_TIME = 0.1
"""How much of the time may go into looking at one target, however near a line it is: a tree takes many readings."""
LONGEST_SECONDS = 1.0
BURST_BYTES_PER_SECOND = 3 << 30
"""What a process may do next whatever it did lately: one core touches fresh pages at 1 to 3 GB/s."""
FEW = 7
"""Of more targets one reading speaks for all that are far from their lines (`Agenda`); these are glanced at."""
CROWD = 50
"""So many targets are looked at as if each could burst next; of more, each is looked at less often, down to a third."""


def away_seconds(used_bytes: float, line_bytes: float, growth_bytes_per_second: float, crowd: int = 1) -> float:
    """How long until the next look: the distance to the line at twice the growth seen lately, or at a burst's.

    `crowd` is how many targets are looked at: a share of all of the guard's time is theirs together.
    """
    burst = BURST_BYTES_PER_SECOND / min(3.0, max(1.0, crowd / CROWD))
    pace = max(2 * growth_bytes_per_second, burst)
    return min(LONGEST_SECONDS, max(SHORTEST_SECONDS, (line_bytes - used_bytes) / pace))


FOREVER = float("inf")
GLANCED_BYTES = 32 << 20
"""Who is nearer to a line than that is looked at exactly."""
GLANCED_RATIO = 0.8
"""Glances are worth it where they see so much of the distance to the line."""
DOUBT_RATIO = 0.05
"""From this share of a line on, the error of the kernel's counters matters."""
TOLD_SECONDS = 10.0
"""What the desk has told holds for so long."""


def swaps(proc: str = "/proc") -> bool:
    """Whether this machine can swap: then what is resident does not tell what is used."""
    try:
        return KeptFile(f"{proc}/swaps", size=256).read().count(b"\n") != 1
    except OSError:
        return True


class OfTree:
    """Used bytes of a process, or of it and its descendants. Raises OSError or ValueError if it is gone."""

    LEAST_SECONDS = 0.0

    def __init__(self, process: Process, basis: Basis, census: Census) -> None:
        self.error_bytes = 0
        identity, self._kind = process.identity, basis.kind
        if basis.tree and not census.children:
            census.update(monotonic())
        self.tree = Tree(identity.pid, (basis.kind,), census if basis.tree else None, (os.getpid(),))
        if self.tree.members[identity.pid].start_time_ticks != identity.start_time_ticks:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")

    def read(self, now: float) -> float:
        """Used bytes now. Raises OSError (ESRCH when the process has ended), ValueError or KeyError."""
        self.tree.update(now, 0.0)  # the watchlist looks who is there when it has time
        return self.tree.used_bytes(self._kind)

    def most(self) -> float:
        """No less than `read` gives, and quicker to read; `FOREVER` where that cannot be said."""
        if self._kind != "anon":
            return FOREVER
        try:
            return self.tree.most_bytes(self._kind)
        except (OSError, ValueError, KeyError):  # `read` will tell
            return FOREVER

    def doubtful(self, used_bytes: float, line_bytes: float) -> bool:
        """Whether the kernel's counters can be so far off that the line may not be crossed."""
        return self.error_bytes > DOUBT_RATIO * line_bytes and used_bytes - line_bytes < self.error_bytes

    def exact(self) -> float:
        """Used bytes page by page. Raises OSError, ValueError or KeyError."""
        return self.tree.exact_bytes(self._kind)

    def close(self) -> None:
        """Its files are closed with it."""


class OfCgroup:
    """Used bytes of a cgroup: usage less the file pages. Raises OSError if its files cannot be opened."""

    LEAST_SECONDS = 0.0

    def __init__(self, basis: Basis) -> None:
        self._usage, self._stat = KeptFile(basis.usage, size=64), KeptFile(basis.stat)

    def read(self, _: float) -> float:
        """Used bytes now. Raises OSError or ValueError."""
        return unreclaimable_bytes(self._usage.read(), self._stat.read())

    def close(self) -> None:
        """Give the descriptors back."""
        self._usage.close()
        self._stat.close()


class Told:
    """Used bytes that the guard cannot see: the desk has them from an endpoint, and tells them at every tick."""

    LEAST_SECONDS = LONGEST_SECONDS

    def __init__(self, now: float) -> None:
        self._used, self._until = 0.0, now + TOLD_SECONDS

    def tell(self, used_bytes: float, now: float) -> None:
        """This many, now."""
        self._used, self._until = used_bytes, now + TOLD_SECONDS

    def read(self, now: float) -> float:
        """Used bytes as last told. Raises ValueError if that was too long ago."""
        if now >= self._until:
            raise ValueError("nobody has told used bytes lately")
        return self._used

    def close(self) -> None:
        """There is nothing to give back."""


def reader(process: Process | Remote, basis: Basis, census: Census) -> OfTree | OfCgroup | Told:
    """How used bytes are read. Raises OSError or ValueError if that cannot be."""
    if basis.kind == "cgroup":
        return OfCgroup(basis)
    if basis.kind == "told" or isinstance(process, Remote):
        return Told(monotonic())
    return OfTree(process, basis, census)


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

    `next_look` is when it is to be looked at by what is known of it alone, `look_by` when at the latest, whatever else
    is known; `distance_bytes` is what the nearest line is away, `FOREVER` where none is in force.
    Takes the process over, and lets go of it where used bytes cannot be read on this basis: OSError or ValueError.
    """

    def __init__(self, target: str, process: Process | Remote, basis: Basis, census: Census) -> None:
        self.target = target
        self.process = process
        self.basis = basis
        self.standing: list[Standing] = []
        self.next_look = self.look_by = 0.0
        self.distance_bytes = FOREVER
        self.used_bytes = 0.0
        self.delivered_at = float("-inf")  # when an aggressive cleanup was last asked for
        self.trouble = self.trouble_told = ""
        self._census = census
        self._growth = 0.0
        self._looked_at = self._glances_until = 0.0
        self._glances, self._line = False, FOREVER
        try:
            self._reader = reader(process, basis, census)
        except (OSError, ValueError):
            process.close()
            raise

    def rest_on(self, basis: Basis) -> None:
        """Read used bytes another way from now on. The lines of the orders so far are not meant for it: they go.

        Raises OSError or ValueError if its files cannot be opened; then everything stays as it was.
        """
        before, self._reader = self._reader, reader(self.process, basis, self._census)
        self.basis, self.standing = basis, []
        self._looked_at = self._growth = self._glances_until = 0.0
        before.close()

    def tell(self, used_bytes: float | None, shares: list[list[int]], error_bytes: int, now: float) -> None:
        """What the desk has read: used bytes that it alone can see; what the processes share (`Tree.share`)."""
        self._glances_until = 0.0
        if isinstance(self._reader, OfTree):
            self._reader.error_bytes = error_bytes
            self._reader.tree.share(shares)
        elif isinstance(self._reader, Told) and used_bytes is not None:
            self._reader.tell(used_bytes, now)

    def stand(self, orders: Iterable[Order], now: float) -> None:
        """These are the orders from now on."""
        self.standing = [Standing(order, now) for order in orders]
        self._glances_until = 0.0

    def look(self, now: float, crowd: int = 1) -> Standing | None:
        """Read used bytes, settle when to look next; the standing order whose line is crossed, if one may act.

        `crowd` is how many targets are looked at. Raises OSError, ValueError or KeyError if used bytes cannot be read.
        """
        if self._glances and now < self._glances_until and self._far(now, crowd):
            return None
        begun = busy()  # who had to wait for a core has not used it, and must not look away for that
        used = self._reader.read(now)
        least = max((busy() - begun) / MOST_SHARE_OF_TIME, self._reader.LEAST_SECONDS)
        if self._looked_at and now > self._looked_at:
            pace = (used - self.used_bytes) / (now - self._looked_at)
            self._growth = max(pace, 0.8 * self._growth, 0.0)
        self.used_bytes, self._looked_at = used, now
        live = [s for s in self.standing if s.times > 0 and now < s.until]
        wait, line = LONGEST_SECONDS, FOREVER
        for standing in live:
            if standing.not_before > now:
                wait = min(wait, standing.not_before - now)
            elif standing.order.line_bytes is not None:
                line = min(line, standing.order.line_bytes)
        self.distance_bytes, self.look_by = line - used, now + wait
        self.next_look = now + max(least, min(wait, away_seconds(used, line, self._growth, crowd)))
        self._line = line
        if now >= self._glances_until and crowd <= FEW and self.distance_bytes > GLANCED_BYTES:
            self._glances_until, self._glances = self.look_by, self._glanceable()
        return next((s for s in live if s.ready(now) and s.order.crossed(used)), None)

    def _glanceable(self) -> bool:
        """Whether glances see most of the distance to the line."""
        return isinstance(self._reader, OfTree) and not swaps() and (
            self._line - self._reader.most() > GLANCED_RATIO * self.distance_bytes)

    def _far(self, now: float, crowd: int) -> bool:
        """Whether all that is resident, which is no less than what is used and quicker to read, is far from a line."""
        assert isinstance(self._reader, OfTree)
        most = self._reader.most()
        if self._line - most < GLANCED_BYTES:
            return False
        self.distance_bytes = self._line - most
        self.next_look = min(self.look_by, now + away_seconds(most, self._line, self._growth, crowd))
        return True

    @property
    def hasty(self) -> bool:
        """Whether it grows faster than anybody is taken to be able to."""
        return 2 * self._growth > BURST_BYTES_PER_SECOND

    def read_used(self) -> float:
        """Used bytes now, for the check right before delivery. Raises like `look`."""
        self.used_bytes = self._reader.read(monotonic())
        return self.used_bytes

    def certain(self, order: Order) -> bool:
        """Whether the line is crossed for certain. Where the counters leave a doubt it is read exactly.

        The process has to wait for that, so it is done only for what costs it more: an aggressive cleanup.
        """
        line, reads = order.line_bytes, self._reader
        if order.cleanup != "aggressive" or line is None or not isinstance(reads, OfTree):
            return True
        if not reads.doubtful(self.used_bytes, line):
            return True
        try:
            self.used_bytes = reads.exact()
        except (OSError, ValueError, KeyError):
            return True  # it cannot be told: better once too often than too late
        return order.crossed(self.used_bytes)

    def close(self) -> None:
        """Let go of the target."""
        self._reader.close()
        self.process.close()
