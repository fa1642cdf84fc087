"""Targets and a desk in virtual time: the real pipeline, journal on disk included, over programs that are made up."""

import asyncio
import gc
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from math import inf
from pathlib import Path

from aiohttp.test_utils import make_mocked_request
from fleet import Fleet

from sidecar.actions.options import Options
from sidecar.app_parts import needs
from sidecar.guard.wire import Channel
from sidecar.journal.journal import Journal
from sidecar.model import Cleanup, Labels, Sample
from sidecar.pipeline import Plan
from sidecar.pipeline_collector import LongPasses
from sidecar.probes.sampler import INFO, UP
from sidecar.procfs import Identity
from sidecar.replay.desk import Desk, Scene, started
from sidecar.replay.guard import VirtualGuard
from sidecar.replay.play import OURS
from sidecar.replay.program import Response
from sidecar.rules.load import load, shipped
from sidecar.rules.spec import AlertingSpec, GroupSpec, RuleSpec
from sidecar.store import Store, budget_bytes
from sidecar.thresholds import Size, Wanted
from sidecar.web.metrics import Exposition

MIB = 1 << 20
BEGAN = 1.8e9
BOOTED = BEGAN - 1e6
LINES = Wanted(main=Size(800 * MIB, "file"), critical=Size(1000 * MIB, "file"), basis="endpoint")
CLEANUPS: tuple[Cleanup, ...] = ("light", "standard", "aggressive")
CHANNEL = Channel("http", url="http://invented.invalid/")


@dataclass(frozen=True, slots=True)
class Habit:
    """What a program does: grow from `base_mib`, be killed at `most_mib`, end by itself after `life_seconds`.

    Of what it has above `base_mib` a cleanup returns `frees`; some refuse it, some never answer.
    """

    name: str
    mib_per_second: float = 0.0
    base_mib: float = 300.0
    most_mib: float = 1200.0
    life_seconds: float = inf
    frees: float = 0.0
    refuses: bool = False
    silent: bool = False


HABITS = (
    Habit("still"),
    Habit("caches", mib_per_second=8.0, frees=0.9),
    Habit("leaks", mib_per_second=0.7),
    Habit("refuses", mib_per_second=0.6, refuses=True),
    Habit("answers never", mib_per_second=0.4, silent=True),
    Habit("helps a little", mib_per_second=1.1, frees=0.2),
    Habit("begins anew each minute", mib_per_second=0.2, life_seconds=60.0),
    Habit("jumps over both lines", mib_per_second=40.0, frees=1.0, most_mib=1100.0, life_seconds=240.0),
)


class Invented:
    """A program with a habit; another process follows each that has ended. Lives as long as a measurement."""

    limit_bytes: int | None = 1200 * MIB

    def __init__(self, habit: Habit, pids: Iterator[int]) -> None:
        self._habit = habit
        self._pids = pids
        self.identity: Identity | None = None
        self.used_bytes: float | None = None
        self._mib = habit.base_mib
        self._born = self._last = -inf

    def go_on(self, now: float) -> None:
        """Grow, end, begin anew."""
        habit = self._habit
        if self.identity:
            self._mib += habit.mib_per_second * (now - self._last)
        if not self.identity or self._mib > habit.most_mib or now >= self._born + habit.life_seconds:
            self.identity, self._mib, self._born = started(now, next(self._pids), BOOTED), habit.base_mib, now
        self._last = now
        self.used_bytes = self._mib * MIB

    def next_change(self) -> float:
        """The next whole second."""
        return float(int(self._last) + 1)

    def ask(self, channel: Channel, cleanup: str) -> Response:
        """By its habit, whatever is asked for."""
        if self._habit.refuses:
            return Response(refused="invented")
        return Response(ends_after=inf, works_after=None) if self._habit.silent else Response()

    def free(self, cleanup: str) -> None:
        """Give back what it gives back."""
        above = self._mib - self._habit.base_mib
        self._mib -= above * self._habit.frees
        self.used_bytes = self._mib * MIB


class Series:
    """What probes would read besides used bytes. Lives as long as a measurement.

    The series of the fleet that the desk does not make itself, one that names the process, and `more` that no rule
    reads, for each target.
    """

    def __init__(self, programs: dict[str, Invented], more: int = 0) -> None:
        self._fleet = Fleet(len(programs), BEGAN - 3600, instance="replay", without=OURS | {UP.name})
        self._programs = programs
        self._made: list[Sample] = []
        terms = {"job": "rag-sidecar", "instance": "replay"}
        self._more = [Labels({"__name__": "rag_endpoint_value", **terms, "target": name, "path": str(number)})
                      for name in programs for number in range(more)]

    def __call__(self, now: float) -> list[Sample]:
        """Everything at this moment, made before, so that making it up is not part of a tick."""
        return self._made

    def make(self, now: float) -> None:
        """Make up everything at this moment."""
        found = self._fleet.samples(now)
        found += [Sample(Labels({"__name__": INFO.name, "job": "rag-sidecar", "instance": "replay", "target": name,
                                 "pid": str(program.identity.pid)}), 1.0, now)
                  for name, program in self._programs.items() if program.identity]
        self._made = found + [Sample(labels, now % 97, now) for labels in self._more]


class World:
    """So many programs and their desk, with the store of the real one and its journal in `folder`.

    `habits` in turn, `more_series` of each target that no rule reads. Lives until it is closed.
    """

    def __init__(self, targets: int, folder: Path, *, habits: Sequence[Habit] = HABITS[:1], more_series: int = 0,
                 specs: Sequence[GroupSpec] = ()) -> None:
        pids = count(1000)
        self.programs = {f"rag-{number:04}": Invented(habits[number % len(habits)], pids) for number in range(targets)}
        channels = dict.fromkeys(CLEANUPS, (CHANNEL,))
        plans = dict.fromkeys(self.programs, Plan(LINES, "enforce", channels, children=False))
        self.now = BEGAN
        self.guard = VirtualGuard(self.programs, self.now)
        specs, self.store, self.journal = specs or load(shipped()), Store(budget_bytes(targets)), Journal(folder)
        self.store.keep(needs(specs))
        self.journal.open(self.now)
        self._series = Series(self.programs, more_series)
        scene = Scene(BOOTED, 1.0, self._series, self.store, self.journal)
        self.desk = Desk(self.programs, plans, specs, Options(), self.guard, scene)
        self._exposition = Exposition()
        gc.collect()
        gc.freeze()  # as the desk does
        gc.callbacks.append(LongPasses(time.monotonic))

    def tick(self) -> float:
        """A second later. Seconds of processor time that the tick took."""
        self.now += 1.0
        self.guard.advance(self.now)
        self._series.make(self.now)
        begun = time.thread_time()
        self.desk.tick(self.now)
        return time.thread_time() - begun

    def scrape(self) -> tuple[float, int]:
        """The page of /metrics: seconds of processor time that it took to make, and its bytes."""
        self._exposition.publish(self.desk.view.snapshot.families, int(self.now))
        request = make_mocked_request("GET", "/metrics")
        begun = time.thread_time()
        answer = asyncio.run(self._exposition.handle(request, _go_on))
        assert isinstance(answer.body, bytes)
        return time.thread_time() - begun, len(answer.body)

    def close(self) -> None:
        """The end."""
        self.desk.close()
        self.journal.close()


async def _go_on() -> None:
    """Nobody else wants to run."""


def copies(specs: Sequence[GroupSpec], rules: int) -> list[GroupSpec]:
    """So many rules: those of `specs` again and again, under other names."""
    found: list[GroupSpec] = []
    for round_ in count():
        for spec in specs:
            if rules <= 0:
                return found
            chosen = tuple(_again(rule, round_) for rule in spec.rules[:rules])
            found.append(replace(spec, name=f"{spec.name} {round_}", rules=chosen))
            rules -= len(chosen)
    return found


def _again(rule: RuleSpec, round_: int) -> RuleSpec:
    """Under another name; and only the first one has anything cleaned up."""
    if not round_:
        return rule
    if isinstance(rule, AlertingSpec):
        labels = {name: text for name, text in rule.labels.items() if name != "cleanup"}
        return replace(rule, name=f"{rule.name}{round_}", labels=labels)
    return replace(rule, name=f"{rule.name}_{round_}")
