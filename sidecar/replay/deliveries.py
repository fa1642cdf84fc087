"""What the virtual guard has on its way: one order a target, channel after channel, as guard/deliver.py does it."""

import heapq
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, NamedTuple

from sidecar.guard.wire import Channel, Order
from sidecar.procfs import Identity
from sidecar.replay.program import Program, Response

Tell = Callable[..., int]
"""`tell(kind, target, order, **detail)` gives the number of the event that it has written down."""


class Asked(NamedTuple):
    """One thing that a program was really asked for."""

    at: float
    target: str
    identity: Identity | None
    cleanup: str
    channel: str
    attempt: str
    used_bytes: float | None


@dataclass(slots=True)
class _Flight:
    """One order on its way. Lives until a channel has answered, or none is left."""

    attempt: str
    order: Order
    held: Identity | None
    left: list[Channel]
    channel: str = ""
    turn: int = 0


class Deliveries:
    """Every delivery in flight. Lives as long as the virtual guard; `name` makes its attempts' ids its own."""

    def __init__(self, programs: Mapping[str, Program], tell: Tell, name: str) -> None:
        self.asked: list[Asked] = []
        self.kill_switch = ""
        self._programs = programs
        self._tell = tell
        self._name = name
        self._now = 0.0
        self._flights: dict[str, _Flight] = {}
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._serial, self._attempts = itertools.count(1), itertools.count(1)

    def next_due(self) -> float:
        """When something of what is on its way happens next, in Unix time."""
        return self._due[0][0] if self._due else inf

    def go_on(self, now: float) -> None:
        """Have everything happen that is due by now."""
        self._now = now
        while self._due and self._due[0][0] <= now:
            heapq.heappop(self._due)[2]()

    def in_flight(self, target: str) -> bool:
        """Whether an order to this target is on its way."""
        return target in self._flights

    def forget(self, target: str) -> None:
        """The process is gone: there is nothing to wait for any more."""
        self._flights.pop(target, None)

    def begin(self, order: Order, held: Identity | None) -> int:
        """Carry an order out on the process that is `held`. The number of the event that tells of it, 0 if none."""
        if order.target in self._flights:
            return 0
        attempt = f"{order.id}.{self._name}{next(self._attempts)}"
        number = self._tell("crossed", order.target, attempt, cleanup=order.cleanup, labels=order.labels,
                            used_bytes=self._programs[order.target].used_bytes, line_bytes=order.line_bytes,
                            dry_run=order.dry_run)
        if self.kill_switch and os.path.exists(self.kill_switch):
            self._tell("refused", order.target, attempt, reason="kill_switch", channel="", message=self.kill_switch)
            self._tell("spent", order.target, attempt)
            return 0
        flight = self._flights[order.target] = _Flight(attempt, order, held, list(order.channels))
        self._next_channel(flight)
        return number

    def _next_channel(self, flight: _Flight) -> None:
        """Try channel after channel until one takes the order."""
        program = self._programs[flight.order.target]
        while flight.left:
            channel = flight.left.pop(0)
            flight.channel, flight.turn = channel.kind, flight.turn + 1
            if program.identity != flight.held:
                self._end(flight, "refused", reason="changed", message="")
                self._say(flight, "spent")
                return
            response = program.ask(channel, flight.order.cleanup)
            if not response.refused:
                self._set_out(flight, channel, response)
                return
            self._say(flight, "refused", reason=response.refused, message="")
        self._end(flight, "spent")

    def _set_out(self, flight: _Flight, channel: Channel, response: Response) -> None:
        """What will come of it is settled now, and happens in its time."""
        order, program = flight.order, self._programs[flight.order.target]
        if order.dry_run:
            self._delivered(flight)
            self._end(flight, "answered", duration_seconds=0.0, dry_run=True)
            return
        self.asked.append(Asked(self._now, order.target, program.identity, order.cleanup, channel.kind, flight.attempt,
                                program.used_bytes))
        if response.delivered_after is not None and response.delivered_after <= channel.timeout_seconds:
            self._expect(flight, response.delivered_after, self._delivered)
        if response.works_after is not None:
            self._at(response.works_after, partial(_work, program, life(program.identity), order.cleanup))
        seconds, failed = response.ends_after, response.failed
        if seconds > channel.timeout_seconds:
            seconds, failed = channel.timeout_seconds, "timeout"
        self._expect(flight, seconds, partial(self._over, failed=failed, seconds=seconds, detail=response.detail))

    def _over(self, flight: _Flight, *, failed: str, seconds: float, detail: Mapping[str, Any]) -> None:
        if failed:
            self._say(flight, "failed", reason=failed, message="", **detail)
            used = self._programs[flight.order.target].used_bytes
            thrown = self.kill_switch and os.path.exists(self.kill_switch)
            if used is None or thrown or not flight.order.crossed(used):
                flight.left.clear()
            self._next_channel(flight)
        else:
            self._end(flight, "answered", duration_seconds=seconds, **detail)

    def _delivered(self, flight: _Flight) -> None:
        self._say(flight, "delivered", delivery_seconds=0.0, dry_run=flight.order.dry_run)

    def _say(self, flight: _Flight, kind: str, **detail: Any) -> None:
        self._tell(kind, flight.order.target, flight.attempt, channel=flight.channel, **detail)

    def _end(self, flight: _Flight, kind: str, **detail: Any) -> None:
        self._flights.pop(flight.order.target, None)
        self._say(flight, kind, **detail)

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        if seconds < inf:
            heapq.heappush(self._due, (self._now + seconds, next(self._serial), act))

    def _expect(self, flight: _Flight, seconds: float, act: Callable[[_Flight], None]) -> None:
        """Do this later, if the order is then still on its way by the channel that it is on now."""
        self._at(seconds, partial(self._if_still, flight, flight.turn, act))

    def _if_still(self, flight: _Flight, turn: int, act: Callable[[_Flight], None]) -> None:
        if self._flights.get(flight.order.target) is flight and flight.turn == turn:
            act(flight)


def life(identity: Identity | None) -> tuple[Any, ...] | None:
    """What an exec does not change."""
    return identity[:3] if identity else None


def _work(program: Program, asked: tuple[Any, ...] | None, cleanup: str) -> None:
    """The cleanup is done, unless the process that was asked has ended."""
    if life(program.identity) == asked:
        program.free(cleanup)
