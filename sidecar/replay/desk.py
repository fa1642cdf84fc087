"""The desk in virtual time: the real pipeline on stages that read a replay instead of processes, disks and networks."""

import re
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.actions.dispatch import Dispatch
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Options
from sidecar.discovery.roster import Roster
from sidecar.journal.entry import Page
from sidecar.journal.journal import Journal
from sidecar.journal.record import Record
from sidecar.model import Labels, Sample, Target, series
from sidecar.notify.alertmanager import Notifier
from sidecar.pipeline import Pipeline, Plan, Stages
from sidecar.pipeline_families import USED
from sidecar.probes.sampler import UP, Readings, Sampler
from sidecar.procfs import CLOCK_TICKS, Identity
from sidecar.promql import context
from sidecar.promql.steps import Steps
from sidecar.promql.tree import metric_names
from sidecar.replay.guard import VirtualGuard
from sidecar.replay.program import Program
from sidecar.rules.group import Group
from sidecar.rules.source import Bounded
from sidecar.rules.spec import AlertingSpec, GroupSpec
from sidecar.store import Store
from sidecar.web.view import View

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
URL = "http://127.0.0.1:11611"
MOST_RECORDS = 10_000

Extra = Callable[[float], list[Sample]]
"""`extra(now)`: further samples of this moment, as probes would have read them."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What is around the programs: when the machine was booted (Unix time), how often the desk looks, other series.

    `store` and `journal` replace those of a replay: what rules look at, and nothing on disk.
    """

    booted: float
    interval_seconds: float = 1.0
    extra: Extra = lambda _: []
    store: Store | None = None
    journal: Journal | None = None


class _Cast(Roster):
    """The programs, as if they had been found. Lives as long as the desk."""

    def __init__(self, programs: Mapping[str, Program], bases: Mapping[str, Labels]) -> None:
        super().__init__((), ())
        self._programs = programs
        self._bases = bases

    def steps(self, now: float = 0.0) -> Steps[list[Target]]:
        """Who is there."""
        yield from ()
        return [Target(name, self._bases[name], program.identity) for name, program in self._programs.items()]


class _Script(Sampler):
    """What the programs use, as if it had been read. Lives as long as the desk."""

    def __init__(self, programs: Mapping[str, Program], extra: Extra) -> None:
        super().__init__(Labels(), lambda: 0.0)
        self._programs = programs
        self._extra = extra

    def steps(self, targets: Sequence[Target], at: float, near: Collection[str],
              bases: Mapping[str, str]) -> Steps[Readings]:
        """One round: used bytes are on the basis that is told, whatever they were measured on when recorded."""
        found = Readings(self._extra(at))
        for target in targets:
            program = self._programs[target.name]
            up = target.identity is not None and program.used_bytes is not None
            if up and program.used_bytes is not None:
                found.used[target.name] = {"endpoint": program.used_bytes}
                found.limits[target.name] = program.limit_bytes
            found.samples.append(Sample(series(target.base, UP.name), float(up), at))
        yield from ()
        return found


class _Shelf(Store):
    """A store of what rules look at and nothing else: the rest changes no result. Lives as long as the desk."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = names

    def append(self, samples: Iterable[Sample]) -> None:
        """Keep those that a rule, or the judgement of a cleanup, may ask for."""
        super().append([sample for sample in samples if sample.labels.metric in self._names])


class Memory(Journal):
    """A journal without a file: what it was given last, all of it as if on disk. Lives as long as the desk."""

    def __init__(self) -> None:
        super().__init__(Path("/"))
        self.taken: deque[Record] = deque(maxlen=MOST_RECORDS)
        self._mark = 0

    def note(self, page: Page) -> None:
        """Alerts are not gone on with."""

    def record(self, records: Sequence[Record], mark: int) -> None:
        """Remember these."""
        self.taken += records
        self._mark = mark

    @property
    def marked(self) -> int:
        """Everything is."""
        return self._mark


class Desk:
    """One life of the desk: its pipeline and its stages. Ends with `close`; the guard goes on."""

    def __init__(self, programs: Mapping[str, Program], plans: Mapping[str, Plan], specs: Sequence[GroupSpec],
                 options: Options, guard: VirtualGuard, scene: Scene) -> None:
        base = Labels({"job": "rag-sidecar", "instance": "replay"})
        self._booted, self._now = scene.booted, guard.now
        self.guard = guard
        self.view = View()
        self.store = scene.store or _Shelf(read_by(specs))
        terms: dict[str, Any] = {"external_labels": {}, "external_url": URL}
        self.groups = [Group(spec, default_interval_seconds=scene.interval_seconds, **terms) for spec in specs]
        self.ledger, self.journal = Ledger(), Memory()
        self.dispatch = Dispatch(guard.connect())
        self.dispatch.hello(options.kill_switch, courier=False)
        query = Bounded(self.store.select, self.store.newest, context.Options())
        stages = Stages(
            _Cast(programs, {name: base.merged({"target": name}) for name in programs}), _Script(programs, scene.extra),
            self.store, self.groups, query, self.ledger, self.dispatch, Notifier((), external_url=URL),
            scene.journal or self.journal, self.view, _at_once, self._since_boot)
        self.pipeline = Pipeline(stages, plans, options, base, 1)
        guard.hear()

    def _since_boot(self) -> float:
        return self._now - self._booted

    def tick(self, now: float) -> None:
        """What the guard does up to `now`, then one tick, then what the guard is told."""
        self.guard.advance(now)
        self._now = now
        _finish(self.pipeline.tick(now, 0.0))
        self.guard.hear()

    def close(self) -> None:
        """It is killed: nothing more is said."""
        self.guard.hang_up()
        self.dispatch.sock.close()


def read_by(specs: Sequence[GroupSpec]) -> frozenset[str]:
    """The metrics that rules may look at: those in their expressions and those named in their texts."""
    rules = [rule for spec in specs for rule in spec.rules]
    texts = [text for rule in rules if isinstance(rule, AlertingSpec)
             for text in (*rule.labels.values(), *rule.annotations.values()) if "{{" in text]
    return frozenset({USED.name, *(name for rule in rules for name in metric_names(rule.expr)),
                      *(name for text in texts for name in NAME.findall(text))})


def started(now: float, pid: int, booted: float) -> Identity:
    """The identity of a process that started at Unix time `now`, of a machine that was booted at `booted`."""
    return Identity("replay", pid, round((now - booted) * CLOCK_TICKS), (1, 1))


async def _nothing() -> None:
    """Others have nothing to do."""


def _at_once() -> Awaitable[None]:
    return _nothing()


def _finish(tick: Coroutine[Any, Any, None]) -> None:
    """Drive a tick to its end; it has nobody to wait for."""
    try:
        tick.send(None)
    except StopIteration:
        return
    raise RuntimeError("a tick in virtual time waited for something")
