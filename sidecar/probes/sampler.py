"""Runs every probe on every target: timed, and a failure of one is counted and hurts no other.

Up to `WHOLE_A_TICK` targets are read whole at every tick. Where there are more they take turns, of at most `MOST_TURNS`
ticks: of the others only used bytes are read, which rules compare with lines. What else was read of them stays as it is
until their next turn.
"""

import errno
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from sidecar.errors import told
from sidecar.guard.tree import Census
from sidecar.model import Labels, Metric, Sample, Sight, Target, series
from sidecar.probes import agent, cgroup, endpoint, gc_remote, process, tree
from sidecar.probes.agent import Agents
from sidecar.probes.cgroup import CgroupProbe
from sidecar.probes.endpoint import EndpointReading
from sidecar.probes.host import HostProbe
from sidecar.probes.interpreters import Interpreters
from sidecar.probes.series import SeriesOf
from sidecar.probes.tree import TreeProbe
from sidecar.procfs import OUT_OF_SIGHT
from sidecar.promql.steps import Steps, finish

UP = Metric("rag_target_up", "gauge", "1 while the target's process is there and can be read, else 0.")
INFO = Metric("rag_target_info", "info", "The process behind a target: the only series with its pid.")
DURATION = Metric("rag_sidecar_collector_duration_seconds", "gauge", "How long a collector took at the last tick.")
ERRORS = Metric("rag_sidecar_collector_errors_total", "counter", "Readings that failed, by reason.")
CAPABILITY = Metric("rag_sidecar_attach_capability", "gauge", "1 where this can be read of the target, 0 where not.")
METRICS = (UP, INFO, DURATION, ERRORS, CAPABILITY, *tree.METRICS, *process.METRICS, *gc_remote.METRICS,
           *agent.METRICS, *cgroup.METRICS, *endpoint.METRICS)

WHOLE_A_TICK, MOST_TURNS = 10, 10
LOOKING_SECONDS = 0.002
"""So long it is looked who is whose child between two pauses."""
AGAIN_SECONDS = 30.0
"""How often a cgroup that could not be found is looked for again."""

CAPABILITIES = ("anon", "fd", "io", "pss", "tree", "gc", "cgroup", "agent")
SOUGHT = ("process", *CAPABILITIES, "limit")
"""What of a process is looked for."""
UNLIMITED = "no memory limit is set on its cgroup, nor on one above as far as can be seen"


@dataclass(slots=True)
class Attached:
    """The probes of one target's process. Lives as long as that identity; `failed` says what cannot be read, and why.

    `missing` is that of all probes together, and `told` what they said, at the last whole reading. `shown` are the
    facts that followed from the `missing` beside them. `gone`: what could not be read last never can be again.
    A cgroup that was found once is kept when it cannot be found again: what limits the target is not forgotten
    because it cannot be seen for a while.
    """

    target: Target
    tree: TreeProbe
    interpreters: Interpreters
    series: SeriesOf
    at: float
    cgroup: CgroupProbe | None = None
    looked_for_cgroup_at: float = -inf
    pause_seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    told: list[Sample] = field(default_factory=list)
    shown: tuple[Mapping[str, str] | None, Sequence[tuple[Labels, float]]] = None, ()
    gone: bool = False

    def look(self, no_agent: str) -> None:
        """Gather why what is not seen is not seen; `no_agent` is the agents' own reason."""
        found = self.failed | self.tree.missing
        if self.interpreters.missing:
            found["gc"] = self.interpreters.missing
        if no_agent:
            found["agent"] = no_agent
        if "cgroup" in found or self.cgroup is None or self.cgroup.limit_bytes is None:
            found["limit"] = found.get("cgroup", UNLIMITED)
        if found != self.missing:  # else the one there is already: what is shown holds on to it
            self.missing = found

    def facts(self, at: float) -> list[Sample]:
        """Which process it is, and what of it could be seen at the last look."""
        if self.shown[0] is not self.missing:
            assert self.target.identity
            base = self.target.base
            self.shown = self.missing, [
                (series(base, INFO.name, "pid", str(self.target.identity.pid)), 1.0),
                *((series(base, CAPABILITY.name, "capability", what), float(what not in self.missing))
                  for what in CAPABILITIES)]
        return [Sample(labels, value, at) for labels, value in self.shown[1]]

    def close(self) -> None:
        """Let go of the process; its cgroup may still have something to say."""
        self.tree.close()
        self.interpreters.close()


@dataclass(frozen=True, slots=True)
class Readings:
    """What one round has brought: samples, and of each target that could be read its used bytes by basis.

    `limits` are those of the cgroups: None where there is none, or none can be seen. `spent` are seconds by collector.
    `instances` are the names that programs have given to this start of theirs, of those targets that tell one.
    `sights` say of each target what could be seen, and why not. Samples of an earlier time are those of the targets in
    `glanced`, of which nothing but used bytes was read.
    """

    samples: list[Sample] = field(default_factory=list)
    used: dict[str, dict[str, float]] = field(default_factory=dict)
    limits: dict[str, int | None] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    instances: dict[str, str] = field(default_factory=dict)
    sights: dict[str, Sight] = field(default_factory=dict)
    glanced: set[str] = field(default_factory=set)


class Scope(NamedTuple):
    """What of a target is there to see: its process, with or without descendants, or nothing but an endpoint."""

    process: bool = True
    children: bool = True


class _Errors(Counter[tuple[str, str]]):
    """Readings that failed, by collector and reason. Lives as long as the sampler."""

    def note(self, collector: str, error: Exception) -> None:
        """One more."""
        reason = errno.errorcode.get(error.errno or 0, "error") if isinstance(error, OSError) else "parse"
        self[collector, reason.lower()] += 1


def _heard(agents: Agents | None, attached: Attached, at: float, known: Sequence[Sample]) -> list[Sample]:
    """What the agents of a target tell, less what is `known` from outside: the figures of the collector."""
    heard = agents.read(attached.target.name, attached.tree.slots, at) if agents else []
    seen = {sample.labels for sample in known} if heard else ()
    return [sample for sample in heard if sample.labels not in seen]


def _unseen(why: str) -> Sight:
    """Of a target whose process is not there, or hidden. One that is known by a URL alone lacks none."""
    return Sight(("process",), {"process": why}) if why else Sight((), {})


def _look_around(census: Census, at: float) -> Steps[None]:
    """See who is whose child, for all targets: with thousands of processes that takes a while."""
    census.update(at, LOOKING_SECONDS)
    while census.under_way:
        yield
        census.update(at, LOOKING_SECONDS)


NO_BASES: Mapping[str, str] = {}

Ask = Callable[[str, SeriesOf, float, float], EndpointReading | None]
"""`ask(target, series, at, since)` gives what the target's debug endpoint told last, if not before `since`.

None for a target that has none.
"""


class Sampler:
    """Holds the probes. Lives as long as the desk. The roots of /proc and /sys are parameters.

    `scopes` are by the target's name; `skip` are processes that are ours, whoever started us. `agents` look for those
    in the targets' processes; set before the first reading.
    """

    agents: Agents | None = None

    def __init__(self, self_base: Labels, timer: Callable[[], float], scopes: Mapping[str, Scope] | None = None,
                 ask: Ask = lambda *_: None, skip: Collection[int] = (),
                 proc: str = "/proc", sys: str = "/sys") -> None:
        self._own_series = SeriesOf(self_base)
        self._timer = timer
        self._scopes = scopes or {}
        self._ask = ask
        self._skip = skip
        self._census = Census(proc)
        self._proc = proc
        self._sys = sys
        self._attached: dict[str, Attached] = {}
        self._gone: dict[str, CgroupProbe] = {}
        self._host: HostProbe | None = None
        self._errors = _Errors()
        self._turn = 0

    def read(self, targets: Sequence[Target], at: float, near: Collection[str] = (),
             bases: Mapping[str, str] = NO_BASES) -> Readings:
        """`steps` without a pause."""
        return finish(self.steps(targets, at, near, bases))

    def steps(self, targets: Sequence[Target], at: float, near: Collection[str],
              bases: Mapping[str, str]) -> Steps[Readings]:
        """Read every target once. A target that is gone or hidden has `rag_target_up` 0 and no reading.

        Those that are `near` a line are read whole, but not in ways for which they would have to wait. `bases` say for
        all others, as far as that is known, on which used bytes matter. Pauses between two targets.
        """
        found = Readings()
        if any(self._scopes.get(target.name, Scope()).children for target in targets):
            yield from _look_around(self._census, at)
        found.samples.extend(self._read_host(at))
        turns = min(MOST_TURNS, -(-len(targets) // WHOLE_A_TICK))
        self._turn += 1
        for number, target in enumerate(targets, self._turn):
            attached = self._attach(target, found, at)
            basis = bases.get(target.name) if number % turns and target.name not in near else None
            up = attached is not None and (self._glance(attached, basis, found, at)
                                           or self._read(attached, found, at, calm=target.name not in near))
            if not up and attached and attached.gone:
                self._detach(target.name)
            up = self._hear(target, found, at, up)
            found.samples.extend(self._words_of(target.name, at))
            found.samples.append(Sample(series(target.base, UP.name), float(up), at))
            yield
        make = self._own_series.sample
        for collector, seconds in found.spent.items():
            found.samples.append(make(DURATION.name, seconds, at, "collector", collector))
        for (collector, reason), count in self._errors.items():
            found.samples.append(make(ERRORS.name, count, at, "collector", collector, "reason", reason))
        return found

    def change(self, scopes: Mapping[str, Scope]) -> None:
        """Read these targets from now on. Those that were read, and of which as much is seen, go on."""
        for name in [name for name, scope in self._scopes.items() if scopes.get(name) != scope]:
            self._detach(name)
            if gone := self._gone.pop(name, None):
                gone.close()
        self._scopes = scopes

    def note_end(self, name: str) -> None:
        """A target has just ended: take in what its cgroup counts, which a container's engine removes very soon."""
        attached = self._attached.get(name)
        if attached and attached.cgroup:
            attached.cgroup.last_words(0.0)

    def attached(self, name: str) -> Attached | None:
        """The probes of a target, None while it is not there."""
        return self._attached.get(name)

    def _detach(self, name: str) -> None:
        attached = self._attached.pop(name, None)
        if attached:
            attached.close()
            if self.agents:
                self.agents.forget(name)
            if attached.cgroup:
                self._gone[name] = attached.cgroup

    def _words_of(self, name: str, at: float) -> list[Sample]:
        """What the cgroup of a target that is gone has to say: that it was killed, perhaps."""
        gone = self._gone.get(name)
        if gone is None:
            return []
        if name in self._attached:
            self._gone.pop(name).close()
            return []
        return gone.last_words(at)

    def _read_host(self, at: float) -> list[Sample]:
        """The machine's figures."""
        try:
            self._host = self._host or HostProbe(self._own_series, self._proc)
            return self._host.read(at)
        except (OSError, ValueError) as error:
            self._errors.note("host", error)
            return []

    def _attach(self, target: Target, found: Readings, at: float) -> Attached | None:
        known = self._attached.get(target.name)
        if known and known.target.identity == target.identity:
            return known
        self._detach(target.name)
        if target.identity is None:
            found.sights[target.name] = _unseen(target.missing)
            return None
        census = self._census if self._scopes.get(target.name, Scope()).children else None
        try:
            made = TreeProbe(target, census, self._timer, self._proc, self._skip)
        except (OSError, ValueError, IndexError) as error:
            self._errors.note("process", error)
            found.sights[target.name] = _unseen(told(error))
            return None
        self._attached[target.name] = Attached(target, made, Interpreters(self._proc), SeriesOf(target.base), at)
        return self._attached[target.name]

    def _read(self, attached: Attached, found: Readings, at: float, calm: bool) -> bool:
        """Read the probes of one target; False if its process is gone."""
        tree, name, start = attached.tree, attached.target.name, len(found.samples)
        if not self._read_one(attached, "process", lambda: tree.read(at, calm), found):
            found.sights[name] = _unseen(attached.failed["process"])
            if not attached.gone:  # it goes on, and is not let go of because we cannot look at it
                found.used[name] = {}
                found.limits[name] = attached.cgroup.limit_bytes if attached.cgroup else None
            return False
        found.used[name] = dict(tree.used)
        seen = len(found.samples)
        self._read_one(attached, "gc", lambda: attached.interpreters.read(tree.slots, at, self._errors.note), found)
        self._read_one(attached, "agent", lambda: _heard(self.agents, attached, at, found.samples[seen:]), found)
        cgroup = self._cgroup_of(attached, at)
        if cgroup and self._read_one(attached, "cgroup", lambda: cgroup.read(at), found):
            found.used[name] |= cgroup.used
        found.limits[name] = cgroup.limit_bytes if cgroup else None
        attached.look(self.agents.missing(name) if self.agents else "not looked for")
        found.sights[name] = Sight(SOUGHT, attached.missing)
        found.samples.extend(attached.facts(at))
        if self._host:
            found.samples.extend(self._host.headroom(attached.series, at))
        attached.told = found.samples[start:]
        return True

    def _glance(self, attached: Attached, basis: str | None, found: Readings, at: float) -> bool:
        """Read no more of a target than used bytes on this basis; False where it has to be read whole."""
        tree, name = attached.tree, attached.target.name
        if basis is None or not attached.told:
            return False
        cgroup = self._cgroup_of(attached, at) if basis == "cgroup" else attached.cgroup
        if basis == "cgroup":
            read = cgroup is not None and self._read_one(attached, "cgroup", cgroup.glance, found)
        else:
            read = self._read_one(attached, "process", lambda: tree.glance(at, basis), found)
        if read:
            found.used[name] = dict(cgroup.used if cgroup and basis == "cgroup" else tree.used)
            found.limits[name] = cgroup.limit_bytes if cgroup else None
            found.sights[name] = Sight(SOUGHT, attached.missing)
            found.samples.extend(attached.told)
            found.glanced.add(name)
        return read

    def _hear(self, target: Target, found: Readings, at: float, up: bool) -> bool:
        """Add what the target's endpoint has told. Returns whether the target is up."""
        remote, attached = not self._scopes.get(target.name, Scope()).process, self._attached.get(target.name)
        since = -inf if remote else attached.at if attached else inf  # another life's figures are not this one's
        heard = self._ask(target.name, SeriesOf(target.base), at, since)
        if heard is None:
            return up
        found.samples.extend(heard.samples)
        sight = found.sights.get(target.name, Sight((), {}))
        more = {"endpoint": heard.missing} if heard.missing else {}
        found.sights[target.name] = Sight((*sight.sought, "endpoint"), {**sight.missing, **more})
        if remote and heard.up:
            found.used[target.name], found.limits[target.name], up = {}, None, True
        if up and heard.instance_id:
            found.instances[target.name] = heard.instance_id
        if up and heard.used_bytes is not None:
            found.used[target.name]["endpoint"] = heard.used_bytes
        return up

    def _read_one(self, attached: Attached, name: str, read: Callable[[], list[Sample]], found: Readings) -> bool:
        """Read one probe, timed; False if that failed, which is counted."""
        begun = self._timer()
        try:
            found.samples.extend(read())
        except (OSError, ValueError, KeyError, IndexError) as error:
            self._errors.note(name, error)
            attached.failed[name] = told(error)
            attached.gone = not isinstance(error, OSError) or isinstance(error, OUT_OF_SIGHT)
            return False
        attached.failed.pop(name, None)
        found.spent[name] = found.spent.get(name, 0.0) + self._timer() - begun
        return True

    def _cgroup_of(self, attached: Attached, at: float) -> CgroupProbe | None:
        """What binds the target now, looked for again when something has moved, or when it could not be found."""
        known = attached.cgroup
        if (known and not known.moved()) or 0 <= at - attached.looked_for_cgroup_at < attached.pause_seconds:
            return known
        attached.looked_for_cgroup_at = at
        try:
            attached.cgroup = CgroupProbe(attached.target, self._proc, self._sys)
        except OSError as error:
            attached.failed["cgroup"] = told(error)
            attached.pause_seconds = AGAIN_SECONDS
            self._errors.note("cgroup", error)
            return known
        attached.pause_seconds = 0.0
        if known:
            known.close()
        return attached.cgroup
