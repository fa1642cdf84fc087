"""The current targets: which process is behind each, found again when it has ended and a new one has come."""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import TYPE_CHECKING

from sidecar.discovery import container
from sidecar.discovery.listening import by_port
from sidecar.discovery.local import Noted, Running, by_cmdline, pid_in, running
from sidecar.discovery.match import AsChild, ByCmdline, ByDocker, ByPid, ByPidfile, ByPort, ByUrl, Match
from sidecar.errors import told
from sidecar.model import Labels, Metric, Sample, Target, series
from sidecar.procfs import CLOCK_TICKS, OUT_OF_SIGHT, Identity, KeptFile, boot_time, exe_of, identify, start_time_ticks
from sidecar.promql.steps import Steps, finish
from sidecar.said import Said

if TYPE_CHECKING:  # loaded only where a target is found through Docker
    from sidecar.discovery.engine import Engine

log = logging.getLogger(__name__)

RESTARTS = Metric("rag_target_restarts_total", "counter", "Times the target's process was replaced by another one.")
METRICS = (RESTARTS, *container.METRICS)

LOOKS_A_ROUND = 100
"""So many of the processes that are known are looked at in each round; of more, each in its turn, or when doubted."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 5.0
"""Between two searches through all processes for one target: doubled each time that it is not found."""
SLACK_SECONDS = 10.0
"""How much later than its pidfile a process may seem to have started: the clock may have been set meanwhile."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A configured target: its name, the labels of its series, and how its process is found."""

    name: str
    base: Labels
    match: Match


class Roster:
    """Which process is behind each target now. Written by the tick only; lives as long as the desk.

    A process given by its pid is one life of one process: when it ends, another one with that number is not taken.
    One that is known is taken for the same until its turn comes, or until somebody doubts it.
    """

    engine: "Engine | None" = None
    """Tells which containers there are, where a target is one."""

    def __init__(self, wanted: Sequence[Wanted], not_these: Collection[int], proc: str = "/proc") -> None:
        self.child_pid = 0
        self._wanted = tuple(wanted)
        self._not_these = not_these
        self._proc = proc
        self._held: dict[str, tuple[Target, Identity]] = {}
        self._doubted: set[str] = set()
        self._round = 0
        self._last: dict[str, Identity] = {}
        self._restarts: Counter[str] = Counter()
        self._pauses: dict[str, tuple[float, float]] = {}
        self._said: dict[str, str] = {}
        self._running: Sequence[Running] | None = None
        self._said_of = Said()

    def resume(self, known: dict[str, Identity]) -> None:
        """Take over what the guard has held for a desk that came before."""
        self._last |= known

    def change(self, wanted: Sequence[Wanted]) -> None:
        """Look for these targets from now on. Those that were there and are found in the same way go on."""
        before, self._wanted = self._wanted, tuple(wanted)
        for each in set(before) - set(wanted):
            for known in (self._last, self._pauses, self._said):
                known.pop(each.name, None)
            self._doubted.discard(each.name)
            self._held.pop(each.name, None)
        for name in {each.name for each in before} - {each.name for each in wanted}:
            del self._restarts[name]
        self._said_of.keep([each.name for each in wanted])

    def doubt(self, name: str) -> None:
        """The process of this target may have ended, or be another program now: the next round looks."""
        if name in self._held:
            self._doubted.add(name)

    def update(self, now: float = inf) -> list[Target]:
        """`steps` without a pause."""
        return finish(self.steps(now))

    def steps(self, now: float = inf) -> Steps[list[Target]]:
        """One round of discovery at Unix time `now`: every configured target, in the order of the configuration.

        While a target is not there, searches for it pause; without a time each round searches. Pauses between two.
        """
        turns = -(-len(self._wanted) // LOOKS_A_ROUND)
        self._round += 1
        targets = []
        for number, each in enumerate(self._wanted, self._round):
            held = self._held.get(each.name)
            if held is None or not number % turns or each.name in self._doubted:
                targets.append(self._target(each, now))
            else:
                targets.append(held[0])
            yield
        self._running = None
        return targets

    def _missing(self, wanted: Wanted) -> str:
        """Why there is no process, as far as that is known."""
        if isinstance(wanted.match, ByUrl):
            return ""
        return self._said.get(wanted.name) or f"no process is found now by {wanted.match}"

    def _target(self, wanted: Wanted, now: float) -> Target:
        """The target with the process that is behind it now."""
        self._doubted.discard(wanted.name)
        if held := self._held.get(wanted.name):
            if _same(held[1], self._proc):
                return held[0]
            del self._held[wanted.name]
        identity = self._identity(wanted, now)
        return Target(wanted.name, wanted.base, identity, "" if identity else self._missing(wanted))

    def _identity(self, wanted: Wanted, now: float) -> Identity | None:
        """A process that is found for it; None if there is none."""
        try:
            noted = self._find(wanted, now)
            found = identify(noted.pid, self._proc) if noted else None
            if not (noted and found and _same(found, self._proc)) or not self._may_be(wanted, found) \
                    or self._is_later(wanted, found, noted):
                return None
        except (*OUT_OF_SIGHT, ValueError, IndexError):
            return None  # it has ended while we looked
        except OSError as error:
            self._say(wanted, f"it cannot be looked for now: {told(error)}")
            return None
        self._say(wanted, "")
        self._pauses.pop(wanted.name, None)
        self._restarts[wanted.name] += self._last.get(wanted.name, found) != found
        self._held[wanted.name] = Target(wanted.name, wanted.base, found), found
        self._last[wanted.name] = found
        return found

    def _may_be(self, wanted: Wanted, found: Identity) -> bool:
        """Whether this process may stand for the target: one given by its number must be the first that had it."""
        last = self._last.get(wanted.name, found)
        named = isinstance(wanted.match, ByPid | AsChild)
        return not named or found._replace(exe=None) == last._replace(exe=None)

    def _is_later(self, wanted: Wanted, found: Identity, noted: Noted) -> bool:
        """Whether the process started after its number was written down: then the number was another one's."""
        if noted.written_at == inf:
            return False
        seconds = boot_time(self._proc) + found.start_time_ticks / CLOCK_TICKS - noted.written_at
        if seconds > SLACK_SECONDS:
            self._say(wanted, f"process {found.pid} started {seconds:.0f} s after {wanted.match} was written: its "
                              "number must have been another process's, so it is not taken")
        return seconds > SLACK_SECONDS

    def _find(self, wanted: Wanted, now: float) -> Noted | None:
        """The process that may be meant, with the time at which it must have been there; None if there is none."""
        match, pid = wanted.match, None
        if isinstance(match, ByPidfile):
            return pid_in(match.path)
        if isinstance(match, ByPid):
            pid = match.pid
        elif isinstance(match, AsChild):
            pid = self.child_pid
        elif isinstance(match, ByCmdline) and not self._pauses_at(wanted.name, now):
            if self._running is None:  # once a round, for all targets
                self._running = running(self._proc)
            pid = by_cmdline(match.pattern, self._not_these, self._running)
        elif isinstance(match, ByPort) and not self._pauses_at(wanted.name, now):
            pid, why = by_port(match.port, self._proc)
            self._say(wanted, why)
        elif isinstance(match, ByDocker) and self.engine:
            name = wanted.name  # what is missing is logged by the engine's side
            pid, self._said[name] = self.engine.process_of(name, lambda: not self._pauses_at(name, now), self._proc)
        return Noted(pid, inf) if pid else None

    def _pauses_at(self, name: str, now: float) -> bool:
        """Whether it is too early to search for this target again; if not, the next pause begins."""
        until, pause = self._pauses.get(name, (-inf, FIRST_PAUSE_SECONDS))
        if now < until <= now + LONGEST_PAUSE_SECONDS:  # further away only if the clock was set back
            return True
        self._pauses[name] = now + pause, min(2 * pause, LONGEST_PAUSE_SECONDS)
        return False

    def _say(self, wanted: Wanted, why: str) -> None:
        """Log why a target is not found, once for each reason."""
        if why and why != self._said.get(wanted.name):
            log.warning("target", extra={"target": wanted.name, "reason": why})
        self._said[wanted.name] = why

    def samples(self, at: float, spared: Collection[str] = ()) -> list[Sample]:
        """`rag_target_restarts_total` of every target, and what is known of containers; for `spared` see `Said`."""
        found = []
        for each in self._wanted:
            count = self._restarts[each.name]
            found += self._said_of.of(each.base, count, at, spared, partial(_told, each.base, count, at))
        if self.engine:
            found += self.engine.samples({each.name: each.base for each in self._wanted}, at)
        return found


def _told(base: Labels, restarts: int, at: float) -> list[Sample]:
    return [Sample(series(base, RESTARTS.name), restarts, at)]


def _same(identity: Identity, proc: str) -> bool:
    """Whether the process runs, and still the same program: a zombie has ended, an exec makes it another one.

    Where that cannot be read now it is taken for the same: only who is seen to have ended has ended.
    """
    try:
        fields = KeptFile(f"{proc}/{identity.pid}/stat", size=1024).read()
        if start_time_ticks(fields) != identity.start_time_ticks or fields[fields.rindex(b")") + 2] in b"ZX":
            return False
        exe = exe_of(f"{proc}/{identity.pid}")
    except (*OUT_OF_SIGHT, ValueError, IndexError):
        return False
    except OSError:
        return True
    return exe is None or identity.exe is None or exe == identity.exe
