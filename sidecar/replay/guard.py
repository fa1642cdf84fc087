"""The guard in virtual time, at the other end of the desk's line: the same messages, the same rules, no processes.

It follows guard/watchlist.py: rests between deliveries, standing orders with their times and moments. It looks at a
target whenever its used bytes change, as the real one does to the millisecond.
"""

import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

from sidecar.guard import wire
from sidecar.guard.record import KEPT_EVENTS
from sidecar.guard.watchlist import KILL_SWITCH_SECONDS
from sidecar.guard.wire import Event, Order
from sidecar.procfs import Identity
from sidecar.replay.deliveries import Deliveries, life
from sidecar.replay.program import Program

LINE_BYTES = 1 << 20
"""Room on the line for what is said within one tick."""


@dataclass(slots=True)
class _Standing:
    """A standing order in force. Lives until it is replaced, spent or out of date."""

    order: Order
    not_before: float
    until: float
    times: int

    def ready(self, now: float, used_bytes: float) -> bool:
        return self.times > 0 and self.not_before <= now < self.until and self.order.crossed(used_bytes)


@dataclass(slots=True)
class _Watch:
    """One target under watch. Lives from watch to unwatch, or until its process has ended."""

    identity: Identity | None
    standing: list[_Standing] = field(default_factory=list)


class Record:
    """What desks have not done with yet, and the line to the desk. Lives as long as the virtual guard."""

    def __init__(self, first: int) -> None:
        self.now = 0.0
        self.line: socket.socket | None = None
        self.events: deque[Event] = deque(maxlen=KEPT_EVENTS)
        self.last = first - 1

    def tell(self, kind: str, target: str, order: str = "", **detail: Any) -> int:
        """Write an event down and send it; its number."""
        self.last += 1
        event = Event(self.last, self.now, kind, target, order, detail)
        self.events.append(event)
        self.say("event", event=event, lost=0)
        return event.number

    def say(self, kind: str, **body: Any) -> None:
        """A message to the desk, if there is one."""
        if self.line:
            self.line.send(wire.encode(kind, **body))

    def done(self, number: int) -> None:
        """Up to this number nothing need be told again."""
        while self.events and self.events[0].number <= number:
            self.events.popleft()


class VirtualGuard:
    """Watches programs, and carries out what the desk says. Lives as long as a replay, over the lives of desks.

    `name` makes the ids of its attempts, and `first` the numbers of its events, different from an earlier guard's.
    """

    def __init__(self, programs: Mapping[str, Program], now: float, name: str = "", first: int = 1) -> None:
        self.now = now
        self._first = first
        self._programs = programs
        self._watches: dict[str, _Watch] = {}
        self._rests: dict[str, tuple[int, float]] = {}
        self._record = Record(first)
        self.deliveries = Deliveries(programs, self._record.tell, name)
        for program in programs.values():
            program.go_on(now)

    def connect(self) -> socket.socket:
        """The desk's end of a new line, on which it is welcome; what no desk has done with is told again."""
        self.hang_up()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LINE_BYTES)
        ours.setblocking(False)
        self._record.line = ours
        held = [[name, list(identity)] for name, identity in self.held().items()]
        self._record.say("welcome", program_pid=0, watched=held, first=self._first)
        for event in self._record.events:
            self._record.say("event", event=event, lost=0)
        return theirs

    def hang_up(self) -> None:
        """The desk is gone; its orders stay in force."""
        if self._record.line:
            self._record.line.close()
        self._record.line = None

    def held(self) -> dict[str, Identity]:
        """The processes under watch, by target."""
        return {name: watch.identity for name, watch in self._watches.items() if watch.identity}

    def left(self) -> tuple[list[Event], int]:
        """What no desk has done with, as the flight record gives it after this guard's end; the next one's `first`."""
        return list(self._record.events), self._record.last + 1

    def advance(self, until: float) -> None:
        """See and do everything up to this moment (Unix time), each thing at its own."""
        while (moment := self._next_moment()) <= until:
            self._be_at(max(self.now, moment))
        self._be_at(until)

    def hear(self) -> None:
        """Take in what the desk has said. ValueError, TypeError or KeyError for what cannot be meant."""
        hear: dict[str, Callable[..., None]] = {
            "beat": self._record.done, "watch": self._watch, "unwatch": self._unwatch, "orders": self._orders,
            "deliver": self._deliver,
            "hello": lambda **said: setattr(self.deliveries, "kill_switch", str(said["kill_switch"]))}
        while self._record.line and (data := wire.receive(self._record.line)):
            kind, body = wire.decode(data)
            if kind in hear:  # the rest is about what is not there: sockets of agents, shares of a tree
                hear[kind](**body)

    def _next_moment(self) -> float:
        changes = min((program.next_change() for program in self._programs.values()), default=inf)
        waits = min((standing.not_before for watch in self._watches.values() for standing in watch.standing
                     if standing.times > 0 and standing.not_before > self.now), default=inf)
        return min(changes, waits, self.deliveries.next_due())

    def _be_at(self, now: float) -> None:
        self.now = self._record.now = now
        for name, program in self._programs.items():
            program.go_on(now)
            watch = self._watches.get(name)
            if watch and life(watch.identity) != life(program.identity):
                self._unwatch(name)
                self._record.tell("gone", name)
        self.deliveries.go_on(now)
        for name, watch in self._watches.items():
            used = self._programs[name].used_bytes
            standing = next((s for s in watch.standing if used is not None and s.ready(now, used)), None)
            if standing and not self.deliveries.in_flight(name):
                if self._begin(standing.order, watch):
                    standing.times -= 1
                    standing.not_before = now + standing.order.again_after_seconds
                else:
                    standing.not_before = now + KILL_SWITCH_SECONDS

    def _watch(self, target: str, identity: list[Any] | None, **_: Any) -> None:
        wanted = wire.identity(identity) if identity is not None else None
        known, there = self._watches.get(target), self._programs[target].identity
        if known and known.identity == wanted:
            return
        self._unwatch(target)
        if wanted == there:
            self._watches[target] = _Watch(wanted)
        else:
            self._record.tell("changed" if life(wanted) == life(there) else "gone", target)

    def _unwatch(self, target: str) -> None:
        self._watches.pop(target, None)
        self.deliveries.forget(target)

    def _orders(self, target: str, orders: list[list[Any]], seen: int, serial: int) -> None:
        made, watch = [wire.order(raw) for raw in orders], self._watches.get(target)
        if watch and not (made and self._rests_for(target, seen)):
            watch.standing = [_Standing(order, self.now + order.not_before_seconds, self.now + order.valid_seconds,
                                        order.times) for order in made]
        self._record.say("applied", serial=serial)

    def _rests_for(self, target: str, seen: int) -> bool:
        """Whether the pause after the last delivery holds against a desk that has seen the events up to `seen`."""
        number, until = self._rests.get(target, (0, 0.0))
        return number > seen and self.now < until

    def _deliver(self, order: list[Any], seen: int) -> None:
        made = wire.order(order)
        tell, watch, used = self._record.tell, self._watches.get(made.target), self._programs[made.target].used_bytes
        if watch is None:
            tell("refused", made.target, made.id, reason="gone", channel="", message="not under watch")
            tell("spent", made.target, made.id)
        elif used is None:
            tell("unreadable", made.target, reason="not recorded")
        elif not made.crossed(used):
            tell("recovered", made.target, made.id, used_bytes=used, line_bytes=made.line_bytes)
        elif self._rests_for(made.target, seen):
            tell("busy", made.target, made.id, reason="resting")
        elif not self._begin(made, watch):
            tell("busy", made.target, made.id)

    def _begin(self, order: Order, watch: _Watch) -> bool:
        """Carry an order out. False if nothing was started."""
        number = self.deliveries.begin(order, watch.identity)
        if number:
            self._rests[order.target] = number, self.now + order.again_after_seconds
        return number > 0
