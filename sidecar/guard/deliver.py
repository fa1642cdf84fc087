"""Delivery: the only place that has a target asked for anything, and never two orders at a time to one target."""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable

from sidecar.clock import monotonic
from sidecar.guard.agents import Agents
from sidecar.guard.process import NotTheSame
from sidecar.guard.watch import Watch
from sidecar.guard.ways import ByAgents, ByPost, ByProgram, BySignal, Carried, Flight, Refused
from sidecar.guard.wire import Channel, Order, decode, receive
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from sidecar.guard.ways import News

MOST_ANSWERS_A_TURN = 64

Tell = Callable[..., int]


class Deliveries:
    """Every delivery in flight, at most one for each target. Lives as long as the guard."""

    def __init__(self, tell: Tell, agents: Agents) -> None:
        self.agents = agents
        self.kill_switch = ""
        self.courier: _socket.socket | None = None
        self._tell = tell
        self._flights: dict[str, Flight] = {}
        self._count = 0
        self._life = os.urandom(5).hex()  # ids that come again would be answered as repetitions by the agents

    def begin(self, order: Order, watch: Watch, crossed_at: float) -> int:
        """Carry an order out. The number of the event that tells of it, or 0 if nothing was started.

        Nothing is started while one is in flight, or the kill-switch is thrown.
        """
        if watch.target in self._flights:
            return 0
        self._count += 1
        attempt = f"{order.id}.{self._life}-{self._count}"
        number = self._tell(
            "crossed", watch.target, attempt, cleanup=order.cleanup, labels=order.labels,
            used_bytes=watch.used_bytes, line_bytes=order.line_bytes, dry_run=order.dry_run)
        if self.kill_switch and os.path.exists(self.kill_switch):
            self._tell("refused", watch.target, attempt, reason="kill_switch", channel="", message=self.kill_switch)
            self._tell("spent", watch.target, attempt)
            return 0
        flight = self._flights[watch.target] = Flight(attempt, order, watch, crossed_at)
        self._next_channel(flight)
        return number

    def in_flight(self, target: str) -> bool:
        """Whether an order to this target has been delivered and not yet answered."""
        return target in self._flights

    def forget(self, target: str) -> None:
        """The target is gone: there is nothing to wait for any more."""
        self._flights.pop(target, None)
        self.agents.drop(target)

    def _next_channel(self, flight: Flight) -> None:
        """Try channel after channel until one takes the order."""
        while flight.left:
            flight.channel = channel = flight.left.pop(0)
            try:
                flight.watch.process.check()
                flight.way = self._take(flight, channel)
            except NotTheSame as error:
                self._end(flight, "refused", {"reason": str(error), "message": ""})
                return
            except Refused as error:
                self._tell_of(flight, "refused", {"reason": error.reason, "message": error.message})
                continue
            except OSError as error:  # who it is cannot be seen now
                self._tell_of(flight, "refused", {"reason": "unreadable", "message": str(error)})
                continue
            rehearsed = [flight.delivered(), ("answered", {"duration_seconds": 0.0, "dry_run": True})]
            self._follow(flight, rehearsed if flight.order.dry_run else flight.way.news(monotonic()))
            return
        self._end(flight, "spent", {})

    def _take(self, flight: Flight, channel: Channel) -> BySignal | Carried | ByAgents:
        """Set out on the way that this channel is. Raises Refused."""
        if channel.kind == "agent":
            return ByAgents(flight, channel, self.agents)
        if channel.kind == "signal":
            return BySignal(flight, channel)
        return (ByPost if channel.kind == "http" else ByProgram)(flight, channel, self.courier)

    def _follow(self, flight: Flight, news: list[News]) -> None:
        """Tell what has come of a delivery, and do what follows from it."""
        for kind, detail in news:
            if kind == "answered":
                self._end(flight, kind, detail)
            else:
                self._tell_of(flight, "refused" if kind == "declined" else kind, detail)
            if kind in ("failed", "declined"):
                if not self._still_wanted(flight):
                    flight.left.clear()
                self._next_channel(flight)

    def _still_wanted(self, flight: Flight) -> bool:
        """Whether a further channel is to be tried: meanwhile memory may have fallen, or the switch been thrown."""
        if self.kill_switch and os.path.exists(self.kill_switch):
            return False
        try:
            flight.watch.process.check()
            return flight.order.crossed(flight.watch.read_used())
        except NotTheSame:
            return True  # what another program uses says nothing; the next channel is refused because of it
        except (OSError, ValueError, KeyError):
            return False

    def take_answers(self) -> bool:
        """Read what the courier has to say, as much as there is time for. False when it has gone."""
        for _ in range(MOST_ANSWERS_A_TURN):
            data = receive(self.courier) if self.courier else None
            if data is None:
                return True
            if not data:
                return False
            try:
                self._answer(decode(data)[1])
            except (ValueError, TypeError, KeyError) as error:
                self._tell("misunderstood", "", reason=f"courier: {type(error).__name__}: {error}")
        return True

    def _answer(self, answer: dict[str, Any]) -> None:
        for flight in list(self._flights.values()):  # of none if it comes too late: its deadline has passed
            if isinstance(flight.way, Carried) and flight.way.errand == answer["id"]:
                flight.way.hear(answer)
                self._follow(flight, flight.way.news(monotonic()))

    def courier_gone(self) -> None:
        """The courier has died: what it carried is undelivered."""
        if self.courier:
            self.courier.close()
        self.courier = None
        for flight in list(self._flights.values()):
            if isinstance(flight.way, Carried):
                flight.way.fail("no_courier", "the courier process ended")
                self._follow(flight, flight.way.news(monotonic()))

    def poll(self, now: float) -> float:
        """See what has come of every delivery, and which deadlines have passed; seconds until that is due again."""
        wait = 1.0
        for flight in list(self._flights.values()):
            if flight.way:
                self._follow(flight, flight.way.news(now))
            if flight.way and self._flights.get(flight.watch.target) is flight:
                wait = min(wait, flight.way.wait_seconds(now))
        return wait

    def _tell_of(self, flight: Flight, kind: str, detail: dict[str, Any]) -> None:
        channel = flight.channel.kind if flight.channel else ""
        self._tell(kind, flight.watch.target, flight.attempt, **{"channel": channel, **detail})

    def _end(self, flight: Flight, kind: str, detail: dict[str, Any]) -> None:
        self._flights.pop(flight.watch.target, None)
        self._tell_of(flight, kind, detail)
        if kind == "refused":
            self._tell_of(flight, "spent", {})
