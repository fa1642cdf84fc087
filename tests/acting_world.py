"""A world in virtual time for tests of acting: programs that live, a guard, and desks that come and go.

The desk is the real one (its pipeline, rules, policy and ledger); what is played is what it looks at and the guard's
hands. Everything that happens is deterministic.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from sidecar.actions.acting import Acting
from sidecar.actions.attempt import Attempt
from sidecar.actions.incident import Incident
from sidecar.actions.options import Options, Verification
from sidecar.actions.options import Policy as Caps
from sidecar.actions.policy import Policy
from sidecar.guard.wire import Channel, Event
from sidecar.journal.record import Record
from sidecar.model import Cleanup
from sidecar.pipeline import Plan
from sidecar.pipeline_journal import records_of, restore_actions
from sidecar.procfs import Identity
from sidecar.promql.parse import parse
from sidecar.replay.deliveries import Asked
from sidecar.replay.desk import Desk, Scene, started
from sidecar.replay.guard import VirtualGuard
from sidecar.replay.program import Response
from sidecar.rules.spec import AlertingSpec, GroupSpec
from sidecar.thresholds import Size, Wanted

MIB = 1 << 20
START = 1_700_000_000.0
BOOTED = START - 1e7
GRID_SECONDS = 0.25
LEAST, MOST = 50.0 * MIB, 4000.0 * MIB
LINES = {"preventive": 640.0 * MIB, "main": 800.0 * MIB, "critical": 960.0 * MIB}
STRENGTH = {"light": 0, "standard": 1, "aggressive": 2}
CLEANUPS = tuple(STRENGTH)

SIGNAL, POST = Channel("signal", signal=10), Channel("http", url="http://rag.invalid/cleanup")
CHANNELS: dict[Any, tuple[Channel, ...]] = {"light": (POST,), "standard": (POST,), "aggressive": (POST, SIGNAL)}

QUICK = Options(
    mode="enforce", min_interval_seconds=2.0, warmup_seconds=5.0,
    cooldown_seconds={"light": 6.0, "standard": 10.0, "aggressive": 15.0},
    verification=Verification(settle_seconds=1.0, window_seconds=5.0, rebound_seconds=10.0),
    budget_per_hour={"light": 4, "standard": 3, "aggressive": 2}, max_per_hour=12, exit_for_seconds=10.0,
    skip_seconds=60.0, skip_max_seconds=240.0)
"""Options under which an hour's worth of decisions is made in minutes."""

CLIMBING = {"preventive": Caps("light", "light"), "main": Caps("standard", "aggressive"),
            "critical": Caps("aggressive", "aggressive")}
"""Policies under which main may go one level higher."""


def rules(preventive: float = 6.0, main: float = 3.0) -> list[GroupSpec]:
    """The three alerts on memory with the holds that are given, and without texts."""
    found = []
    for level, cleanup, hold in (("preventive", "light", preventive), ("main", "standard", main),
                                 ("critical", "aggressive", 0.0)):
        expr = parse(f'rag_memory_used_bytes > ignoring(level) rag_memory_threshold_bytes{{level="{level}"}}')
        found.append(AlertingSpec(f"Memory{level}", expr, hold, 0.0, {"level": level, "cleanup": cleanup}, {}))
    return [GroupSpec("memory", "memory.yml", tuple(found))]


@dataclass
class Living:
    """A program that grows, is cleaned up, starts anew and becomes another one, as a test says.

    `falls` is (Unix time, bytes) of each time that used bytes became less, whatever for.
    """

    identity: Identity | None
    used: float = 400.0 * MIB
    growth: float = 0.0
    hidden: bool = False
    shares: dict[str, float] = field(default_factory=lambda: {"light": 0.1, "standard": 0.3, "aggressive": 0.6})
    responses: dict[str, Response] = field(default_factory=dict)
    limit_bytes: int | None = None
    now: float = START
    lives: int = 1
    falls: list[tuple[float, float]] = field(default_factory=list)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "used" and value < getattr(self, "used", value):
            self.falls.append((self.now, self.used - value))
        super().__setattr__(name, value)

    @property
    def used_bytes(self) -> float | None:
        """Used bytes, as far as they can be read."""
        return None if self.hidden else self.used

    def go_on(self, now: float) -> None:
        """Grow from step to step."""
        steps = int(now / GRID_SECONDS) - int(self.now / GRID_SECONDS)
        self.now = now
        if steps and self.identity:
            self.used = min(MOST, max(LEAST, self.used + steps * GRID_SECONDS * self.growth))

    def next_change(self) -> float:
        """The next step."""
        return (int(self.now / GRID_SECONDS) + 1) * GRID_SECONDS if self.growth else inf

    def ask(self, channel: Channel, cleanup: str) -> Response:
        """As the test has said for this kind of channel."""
        return self.responses.get(channel.kind, Response())

    def free(self, cleanup: str) -> None:
        """Give back what a cleanup of this level finds."""
        self.used = max(LEAST, self.used * (1 - self.shares[cleanup]))

    def start_anew(self) -> None:
        """Another process takes its place."""
        self.lives += 1
        self.used, self.growth = 400.0 * MIB, 0.0
        self.identity = started(self.now, 100 + self.lives, BOOTED)

    def become_another(self) -> None:
        """The same process runs another program."""
        assert self.identity
        self.lives += 1
        device, inode = self.identity.exe or (0, 0)
        self.identity = self.identity._replace(exe=(device, inode + 1))


class World:
    """Everything there is: one program, a guard, a desk.

    `rows` is what the journal holds: (kind, key, stage) → (Unix seconds, body), as a journal keeps it: of "planned" and
    "final" the first, else the newest. `again` are the stages that were told twice. `asked` is what the program was
    really asked for, by all guards; `seen_first` when a desk first looked at each life.
    """

    def __init__(self, folder: Path, options: Options = QUICK, *, channels: Mapping[Any, Any] = CHANNELS,
                 used: float = 400.0 * MIB, specs: list[GroupSpec] | None = None) -> None:
        self.switch = folder / "kill"
        self.switch.unlink(missing_ok=True)
        self.now = START
        self.program = Living(started(START - 3600, 100, BOOTED), used)
        self.options = replace(options, kill_switch=str(self.switch))
        self.rows: dict[tuple[str, str, str], tuple[float, Mapping[str, Any]]] = {}
        self.again: list[tuple[str, str, str]] = []
        self.asked: list[Asked] = []
        self.seen_first: dict[Identity, float] = {}
        self.guards = 1
        self._left: list[Event] = []
        self.guard = VirtualGuard({"rag": self.program}, self.now, "g1.")
        self._specs = specs or rules()
        self._plan = Plan(_wanted(), options.mode or "enforce", channels, children=False)
        self.desk = self._desk()

    def _desk(self) -> Desk:
        return Desk({"rag": self.program}, {"rag": self._plan}, self._specs, self.options, self.guard, Scene(BOOTED))

    def close(self) -> None:
        """End it."""
        self.desk.close()
        self.switch.unlink(missing_ok=True)

    @property
    def acting(self) -> Acting:
        """The part of the desk that acts."""
        return self.desk.pipeline.acting

    @property
    def incident(self) -> Incident | None:
        """The incident that the program has now."""
        return self.acting.incidents.current("rag")

    @property
    def reason(self) -> str:
        """Why the desk does what it does now."""
        return str(self.acting.decisions[0].reason)

    def attempts(self) -> list[Attempt]:
        """What the desk knows of, oldest first."""
        return self.desk.ledger.attempts()[::-1]

    def wait(self, seconds: float, step: float = 1.0, each: Callable[[], None] = lambda: None) -> None:
        """So many seconds go by, with a tick every `step` seconds and a look (`each`) after each."""
        until = self.now + seconds
        while self.now < until - 1e-6:
            self.tick(min(step, until - self.now))
            each()

    def tick(self, seconds: float = 1.0) -> None:
        """The next tick, so many seconds later."""
        self.now = round(self.now + seconds, 3)
        self.desk.tick(self.now)
        if self.program.identity:
            self.seen_first.setdefault(self.program.identity, self.now)
        self.asked += self.guard.deliveries.asked
        self.guard.deliveries.asked.clear()
        self._keep()
        self._left.clear()  # the desk has said that it has done with it

    def _keep(self) -> None:
        """The journal writes down what is new."""
        made = records_of(self.desk.ledger, self.acting.incidents, self.acting)
        for record in [*self.desk.journal.taken, *made]:
            key = record.kind, record.key, record.stage
            if record.stage in ("planned", "final") and key in self.rows:
                self.again.append(key)
            else:
                self.rows[key] = record.at, record.body
        self.desk.journal.taken.clear()

    def pause(self) -> None:
        """A person pauses the target."""
        self.acting.pause("rag", None, self.now)
        self.guard.hear()

    def resume(self) -> None:
        """A person ends that."""
        self.acting.resume("rag", self.now)

    def unpark(self) -> None:
        """A person wants everything to be tried again."""
        self.acting.unpark("rag")

    def by_hand(self, cleanup: Cleanup, *, dry_run: bool = False) -> None:
        """A person asks for a cleanup."""
        self.desk.pipeline.by_hand.order("rag", cleanup, self.now, dry_run=dry_run)
        self.guard.hear()

    def crash_desk(self, away_seconds: float = 0.0) -> None:
        """The desk is killed, and another one goes on from the journal some seconds later."""
        self.desk.close()
        self._away(away_seconds)
        self.desk = self._desk()
        self._restore()

    def crash_all(self, away_seconds: float = 0.0) -> None:
        """Guard and desk are killed; later others go on from the journal and from the guard's flight record."""
        self.desk.close()
        self._away(0.0)
        left, first = self.guard.left()
        self._left += left
        self.now = round(self.now + away_seconds, 3)
        self.guards += 1
        self.guard = VirtualGuard({"rag": self.program}, self.now, f"g{self.guards}.", first)
        self.desk = self._desk()
        self._restore()

    def _away(self, seconds: float) -> None:
        """Only the guard is there."""
        self.now = round(self.now + seconds, 3)
        self.guard.advance(self.now)
        self.asked += self.guard.deliveries.asked
        self.guard.deliveries.asked.clear()

    def _restore(self) -> None:
        records = [Record(*key, at, body) for key, (at, body) in self.rows.items()]  # type: ignore[arg-type]
        restore_actions(records, self.desk.ledger, self.acting.incidents, self.acting, self.now,
                        self.desk.pipeline.lines)
        self.acting.incidents.lives.resume(self.guard.held(), self.now)
        if self._left:
            self.acting.recover(self._left, Policy(self.options, self.switch.exists()), self.now)


def _wanted() -> Wanted:
    lines = {level: Size(int(size), "file") for level, size in LINES.items()}
    return Wanted(lines["preventive"], lines["main"], lines["critical"], basis="endpoint")
