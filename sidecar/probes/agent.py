"""The agents in the processes of all targets: found, asked in the background, and connected for the guard."""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from math import inf
from types import TracebackType
from typing import NamedTuple

from sidecar.clock import monotonic
from sidecar.errors import ProbeFailed, told
from sidecar.model import Cleanup, Metric, Sample
from sidecar.probes import agent_figures
from sidecar.probes.agent_figures import PROTOCOL, Hello
from sidecar.probes.agent_socket import dial
from sidecar.probes.agent_talk import Talk
from sidecar.probes.series import SeriesOf
from sidecar.probes.tree import MAIN, Slot

log = logging.getLogger(__name__)

UP = Metric("rag_agent_up", "gauge", "1 while the agent in the process answers, 0 when it has answered before.")
INFO = Metric("rag_agent_info", "info", "The agent in the process: its version, its protocol, and the allocator.")
ERRORS = Metric("rag_agent_errors_total", "counter", "Times an agent could not be reached or understood, by reason.")
METRICS = (UP, INFO, ERRORS, *agent_figures.METRICS)

SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 30.0
"""Between two looks for an agent that is not there."""
LOOKING_SECONDS = 0.002
"""How much of a tick may go into looking, however many processes are new."""
STALE_SECONDS = 15.0
HAND_OVER_SECONDS = 30.0
"""How often the guard gets a new socket: an agent closes one that is idle for 60 s."""
MOST_SAID = 100


class Reach(NamedTuple):
    """How the agents of a target are reached: in a directory besides the usual places, asked every so many seconds."""

    directory: str = ""
    every_seconds: float = 5.0


class Agent(NamedTuple):
    """What is known of the agent in one process: which slot it is in, and the signals that it has handlers for."""

    process: str
    signals: Mapping[Cleanup, int]


class Handover(NamedTuple):
    """A connected socket for the guard, to be closed by whoever takes it, and the process that it leads to."""

    process: str
    pid: int
    start_time_ticks: int
    connected: socket.socket


class _Seat:
    """The agent of the process in a slot, or the pause before the next look for one. Lives as long as that program."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.program = slot.stack
        self.talk: Talk | None = None
        self.task: asyncio.Task[None] | None = None
        self.reason = "absent"
        self.why = "not looked for yet"
        self.met = self.ever = False
        self.errors: Counter[str] = Counter()
        self.handed_at = -inf
        self.next_at = -inf
        self._pause_seconds = SHORTEST_SECONDS
        self._threads = slot.process.threads

    def due(self, now: float) -> bool:
        """Whether to look now: it is time to, or the process has a new thread, which an agent's may be."""
        if self.slot.process.threads > self._threads:
            self._pause_seconds = SHORTEST_SECONDS
            self.next_at = min(self.next_at, now)
        self._threads = self.slot.process.threads
        return now >= self.next_at

    def rests(self, now: float) -> bool:
        """Whether there is nothing to do and nothing to tell: most processes have no agent."""
        return (now < self.next_at and self.talk is None and self.slot.process.threads == self._threads
                and not self.ever and not self.errors)

    def rest(self, now: float) -> None:
        """The next look comes later each time."""
        self.next_at = now + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, LONGEST_SECONDS)

    def settle(self) -> None:
        """It has answered: when it is gone it is looked for at once."""
        self._pause_seconds = SHORTEST_SECONDS
        self.reason, self.met, self.ever = "", True, True

    def greeted(self) -> Hello | None:
        """How it introduced itself, None where there is none now."""
        return self.talk.greeted() if self.talk else None

    def end(self) -> None:
        """Let go of it."""
        if self.task:
            self.task.cancel()


class Agents:
    """The agents of all targets. Lives from `async with` to its end.

    `reaches` are by the target's name. `sleep` is asyncio.sleep or its like, `timer` a clock that never jumps, `proc`
    where processes are found.
    """

    def __init__(self, reaches: Mapping[str, Reach], sleep: Callable[[float], Awaitable[None]],
                 timer: Callable[[], float] = monotonic, proc: str = "/proc") -> None:
        self._reaches = reaches
        self._sleep = sleep
        self._timer = timer
        self._proc = proc
        self._tasks = asyncio.TaskGroup()
        self._seats: dict[str, dict[str, _Seat]] = {}
        self._modes: dict[str, str] = {}
        self._said: set[int] = set()
        self._looked_at = -inf
        self._spent = 0.0

    async def __aenter__(self) -> "Agents":
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for target in list(self._seats):
            self.forget(target)
        await self._tasks.__aexit__(kind, error, trace)

    def change(self, reaches: Mapping[str, Reach]) -> None:
        """Reach the agents of these targets, and as it says here; those that are reached in the same way go on."""
        for target in [target for target, reach in self._reaches.items() if reaches.get(target) != reach]:
            self.forget(target)
        self._reaches = reaches

    def forget(self, target: str) -> None:
        """The target's process has ended."""
        self._modes.pop(target, None)
        for seat in self._seats.pop(target, {}).values():
            seat.end()

    def read(self, target: str, slots: Mapping[str, Slot], at: float) -> list[Sample]:
        """What the agents of a target's processes told last, as samples at Unix time `at`; new ones are looked for."""
        seats = self._seats.setdefault(target, {})
        for label in seats.keys() - slots.keys():
            seats.pop(label).end()
        now, samples = self._timer(), []
        if at != self._looked_at:
            self._looked_at, self._spent = at, 0.0
        for label, slot in slots.items():
            seat = seats.get(label)
            if seat is None or seat.slot is not slot or seat.program != slot.stack:
                if seat:
                    seat.end()
                seat = seats[label] = _Seat(slot)
            if not seat.rests(now):
                self._tend(target, seat, now)
                samples += _samples(seat, now, at)
        return samples

    def _tend(self, target: str, seat: _Seat, now: float) -> None:
        """Take note of a conversation that has ended, or begin one."""
        if seat.talk and seat.talk.over:
            self._note_end(target, seat, seat.talk)
            seat.talk = seat.task = None
            seat.met = False
            seat.rest(now)
        elif not seat.met and (hello := seat.greeted()):
            self._greet(target, seat, hello)
        if seat.talk is None and seat.due(now) and self._spent < LOOKING_SECONDS:
            seat.rest(now)
            begun = self._timer()
            connected = self._dial(target, seat)
            self._spent += self._timer() - begun
            if connected:
                seat.talk = Talk(connected, self._reaches[target].every_seconds, self._timer,
                                 self._modes.get(target, ""))
                seat.task = self._tasks.create_task(seat.talk.run(self._sleep))

    def _dial(self, target: str, seat: _Seat) -> socket.socket | None:
        identity = seat.slot.target.identity
        assert identity
        try:
            return dial(identity.pid, seat.slot.process.check, self._reaches[target].directory, self._proc)
        except ProbeFailed as error:
            reason, why = error.reason, str(error)
        except OSError as error:
            reason, why = "permission" if isinstance(error, PermissionError) else "gone", told(error)
        if seat.reason == "closed" and reason != "gone":
            log.info("agent lost", extra={"target": target, "slot": seat.slot.label, "reason": "closed",
                                          "what": "it has hung up, and no other one is there"})
        if reason not in ("absent", "gone", "permission"):
            seat.errors[reason] += 1
            if seat.reason != reason:
                log.warning("agent not used", extra={"target": target, "slot": seat.slot.label, "reason": reason,
                                                     "what": why})
        seat.reason, seat.why = reason, why
        return None

    def _greet(self, target: str, seat: _Seat, hello: Hello) -> None:
        seat.settle()
        log.info("agent found", extra={"target": target, "slot": seat.slot.label, "version": hello.version})
        if hello.protocol > PROTOCOL and hello.protocol not in self._said and len(self._said) < MOST_SAID:
            self._said.add(hello.protocol)
            log.warning("an agent speaks a newer protocol: what is known of it is used", extra={
                "target": target, "protocol": hello.protocol, "known": PROTOCOL})

    def _note_end(self, target: str, seat: _Seat, talk: Talk) -> None:
        if talk.over != "closed":  # else the program may have started another one, which the next look finds
            seat.errors[talk.over] += 1
            if seat.reason != talk.over:
                log.warning("agent lost", extra={
                    "target": target, "slot": seat.slot.label, "reason": talk.over, "what": talk.why})
        seat.reason, seat.why = talk.over, f"an agent was there and is not used: {talk.why or talk.over}"

    def missing(self, target: str) -> str:
        """Why none of the target's processes has an agent that answers, in words; "" if one has."""
        seats = self._seats.get(target, {})
        if any(seat.greeted() for seat in seats.values()):
            return ""
        if MAIN not in seats:
            return "not looked for yet"
        return "it is connected to, and has not introduced itself" if seats[MAIN].talk else seats[MAIN].why

    def present(self, target: str) -> list[Agent]:
        """The agents of the target's processes that have introduced themselves and are still there."""
        return [Agent(label, hello.signals) for label, seat in self._seats.get(target, {}).items()
                if (hello := seat.greeted())]

    def push_mode(self, target: str, mode: str) -> None:
        """Have the agents of the target's processes know its mode (docs/modes.md), those that come later, too.

        Does not wait: each is told in the background, and again as long as it tells another mode itself.
        """
        self._modes[target] = mode
        for seat in self._seats.get(target, {}).values():
            if seat.talk:
                seat.talk.want(mode)

    def note_unlinked(self, target: str, pid: int) -> None:
        """The guard has no socket to the agent in this process any more."""
        for seat in self._seats.get(target, {}).values():
            if seat.slot.target.identity and seat.slot.target.identity.pid == pid:
                seat.handed_at = -inf

    def handovers(self, target: str) -> Iterator[Handover]:
        """New sockets for the guard, to agents that it has none to, or one that may soon be closed as idle."""
        now = self._timer()
        for label, seat in self._seats.get(target, {}).items():
            identity = seat.slot.target.identity
            due = seat.greeted() and now >= seat.handed_at + HAND_OVER_SECONDS
            connected = self._dial(target, seat) if due else None
            if identity and connected:
                seat.handed_at = now
                yield Handover(label, identity.pid, identity.start_time_ticks, connected)


def _samples(seat: _Seat, now: float, at: float) -> list[Sample]:
    """The series of one process."""
    make, talk = SeriesOf(seat.slot.target.base).sample, seat.talk
    samples = [make(ERRORS.name, count, at, "reason", reason) for reason, count in seat.errors.items()]
    hello = seat.greeted()
    fresh = bool(talk and hello and now - talk.told_at < max(STALE_SECONDS, 3 * talk.every_seconds))
    if seat.ever or hello:
        samples.append(make(UP.name, float(fresh), at))
    if talk and hello and fresh:
        samples.append(make(INFO.name, 1.0, at, "version", hello.version, "protocol", str(hello.protocol),
                            "allocator", hello.allocator))
        samples += [make(metric, value, at, *labels) for (metric, *labels), value in talk.rows.items()]
    return samples
