"""The current targets: which process is behind each, found again when it has ended and a new one has come."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sidecar.discovery.local import by_cmdline, pid_in
from sidecar.discovery.match import AsChild, ByCmdline, ByPid, ByPidfile, Match
from sidecar.model import Labels, Metric, Sample, Target, series
from sidecar.procfs import Identity, KeptFile, exe_of, identify, start_time_ticks

RESTARTS = Metric("rag_target_restarts_total", "counter", "Times the target's process was replaced by another one.")
METRICS = (RESTARTS,)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A configured target: its name, the labels of its series, and how its process is found."""

    name: str
    base: Labels
    match: Match


class Roster:
    """Which process is behind each target now. Written by the tick only; lives as long as the desk.

    A process given by its pid is one life of one process: when it ends, another one with that number is not taken.
    `known` are the identities that the guard has held for a desk that came before.
    """

    def __init__(self, wanted: Sequence[Wanted], not_these: Collection[int], proc: str = "/proc") -> None:
        self.child_pid = 0
        self._wanted = tuple(wanted)
        self._not_these = not_these
        self._proc = proc
        self._held: dict[str, tuple[Identity, KeptFile]] = {}
        self._last: dict[str, Identity] = {}
        self._restarts: Counter[str] = Counter()

    def resume(self, known: dict[str, Identity]) -> None:
        """Take over what an earlier desk had attached."""
        self._last |= known

    def update(self) -> list[Target]:
        """One round of discovery: every configured target, in the order of the configuration."""
        return [Target(each.name, each.base, self._identity(each)) for each in self._wanted]

    def _identity(self, wanted: Wanted) -> Identity | None:
        held = self._held.get(wanted.name)
        if held and self._same(*held):
            return held[0]
        if held:
            held[1].close()
            del self._held[wanted.name]
        pid = self._find(wanted.match)
        if not pid:
            return None
        try:
            found = identify(pid, self._proc)
            kept = KeptFile(f"{self._proc}/{pid}/stat", size=1024)
        except (OSError, ValueError, IndexError):
            return None  # it has ended while we looked
        if not self._same(found, kept) or not self._may_be(wanted, found):
            return None
        self._restarts[wanted.name] += self._last.get(wanted.name, found) != found
        self._held[wanted.name] = (found, kept)
        self._last[wanted.name] = found
        return found

    def _may_be(self, wanted: Wanted, found: Identity) -> bool:
        """Whether this process may stand for the target: one given by its number must be the first that had it."""
        last = self._last.get(wanted.name, found)
        named = isinstance(wanted.match, ByPid | AsChild)
        return not named or found._replace(exe=None) == last._replace(exe=None)

    def _same(self, identity: Identity, stat: KeptFile) -> bool:
        """Whether the process runs, and still the same program: a zombie has ended, an exec makes it another one."""
        try:
            fields = stat.read()
            if start_time_ticks(fields) != identity.start_time_ticks or fields[fields.rindex(b")") + 2] in b"ZX":
                return False
            exe = exe_of(f"{self._proc}/{identity.pid}")
        except (OSError, ValueError, IndexError):
            return False
        return exe is None or identity.exe is None or exe == identity.exe

    def _find(self, match: Match) -> int | None:
        if isinstance(match, ByPid):
            return match.pid
        if isinstance(match, ByPidfile):
            return pid_in(match.path)
        if isinstance(match, ByCmdline):
            return by_cmdline(match.pattern, self._not_these)
        return self.child_pid or None

    def samples(self, at: float) -> list[Sample]:
        """`rag_target_restarts_total` of every target."""
        return [Sample(series(each.base, RESTARTS.name), self._restarts[each.name], at)
                for each in self._wanted]

