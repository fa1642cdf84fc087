"""Delivery: the only place that signals a process or has a POST sent, and never two at a time to one target."""

from __future__ import annotations

import _socket
import os
from collections.abc import Callable

from sidecar.clock import monotonic
from sidecar.guard.process import NotTheSame, Remote
from sidecar.guard.watch import Watch
from sidecar.guard.wire import Channel, Order, decode, encode, receive, send
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

PENDING_SECONDS = 30.0
GRACE_SECONDS = 1.0
MOST_ANSWERS_A_TURN = 64

Tell = Callable[..., int]


class Flight:
    """One order on its way. Lives until a channel has answered, or none is left. Times are monotonic."""

    def __init__(self, attempt: str, order: Order, watch: Watch, crossed_at: float) -> None:
        self.attempt = attempt
        self.order = order
        self.watch = watch
        self.crossed_at = crossed_at
        self.left = list(order.channels)
        self.channel: Channel | None = None
        self.asked_at = crossed_at
        self.deadline = crossed_at
        self.errand = ""


class Deliveries:
    """Every delivery in flight, at most one for each target. Lives as long as the guard."""

    def __init__(self, tell: Tell) -> None:
        self.kill_switch = ""
        self.courier: _socket.socket | None = None
        self._tell = tell
        self._flights: dict[str, Flight] = {}
        self._count = 0

    def begin(self, order: Order, watch: Watch, crossed_at: float) -> int:
        """Carry an order out. The number of the event that tells of it, or 0 if nothing was started.

        Nothing is started while one is in flight, or the kill-switch is thrown.
        """
        if watch.target in self._flights:
            return 0
        self._count += 1
        attempt = f"{order.id}.{self._count}"
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

    def _next_channel(self, flight: Flight) -> None:
        """Try channel after channel until one takes the order."""
        while flight.left:
            flight.channel = channel = flight.left.pop(0)
            try:
                flight.watch.process.check()
            except NotTheSame as error:
                self._end(flight, "refused", channel=channel.kind, reason=str(error), message="")
                return
            refusal = self._ask_by_signal(flight, channel) if channel.kind == "signal" else self._post(flight, channel)
            if not refusal:
                return
            self._tell_of(flight, "refused", reason=refusal[0], message=refusal[1])
        self._end(flight, "spent")

    def _ask_by_signal(self, flight: Flight, channel: Channel) -> tuple[str, str] | None:
        """Send the signal if the target catches it. A refusal is its reason, one word and one sentence."""
        process = flight.watch.process
        if isinstance(process, Remote):
            return "no_process", "the target is known by its URL alone"
        try:
            disposition = process.disposition(channel.signal)
            if disposition != "caught":
                return f"signal_{disposition}", "no handler is installed" + (
                    ": the signal would kill the process" if disposition == "default" else ", it would be ignored")
            if not flight.order.dry_run:
                process.signal(channel.signal)
        except PermissionError:
            return "permission", "the process belongs to another user"
        except (OSError, KeyError, ValueError) as error:
            return "gone", str(error)
        self._delivered(flight, PENDING_SECONDS)
        return None

    def _post(self, flight: Flight, channel: Channel) -> tuple[str, str] | None:
        """Hand the POST to the courier. A refusal is its reason, one word and one sentence."""
        if flight.order.dry_run:
            self._delivered(flight, channel.timeout_seconds)
            return None
        flight.errand = f"{flight.attempt}/{len(flight.left)}"
        flight.asked_at = monotonic()
        flight.deadline = flight.asked_at + channel.timeout_seconds + GRACE_SECONDS
        try:
            errand = encode("errand", id=flight.errand, url=channel.url, headers=channel.headers,
                            timeout_seconds=channel.timeout_seconds,
                            body={"level": flight.order.cleanup, "id": flight.attempt})
        except ValueError as error:
            return "too_large", str(error)
        if self.courier is None or not send(self.courier, errand):
            return "no_courier", "the courier process is not there; it is being restarted"
        return None

    def _delivered(self, flight: Flight, wait_seconds: float) -> None:
        flight.asked_at = monotonic()
        flight.deadline = flight.asked_at + wait_seconds
        self._tell_of(flight, "delivered", delivery_seconds=flight.asked_at - flight.crossed_at,
                      dry_run=flight.order.dry_run)
        if flight.order.dry_run:
            self._end(flight, "answered", duration_seconds=0.0, dry_run=True)

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
        flight = next((f for f in self._flights.values() if f.errand == answer["id"]), None)
        if flight is None or flight.channel is None:
            return  # too late: its deadline has passed
        if answer.get("sent"):
            self._tell_of(flight, "delivered", delivery_seconds=monotonic() - flight.crossed_at, dry_run=False)
            return
        seconds, status = monotonic() - flight.asked_at, int(answer.get("status", 0))
        if 200 <= status < 300:
            self._end(flight, "answered", duration_seconds=seconds, status=status, body=answer.get("body", ""))
            return
        reason = f"http_{status}" if status else str(answer.get("error", "error"))
        self._failed(flight, reason, str(answer.get("message") or answer.get("body", ""))[:200])

    def courier_gone(self) -> None:
        """The courier has died: what it carried is undelivered."""
        if self.courier:
            self.courier.close()
        self.courier = None
        for flight in [f for f in self._flights.values() if f.channel and f.channel.kind == "http"]:
            self._failed(flight, "no_courier", "the courier process ended")

    def _failed(self, flight: Flight, reason: str, message: str) -> None:
        flight.errand = ""
        self._tell_of(flight, "failed", reason=reason, message=message)
        self._next_channel(flight)

    def poll(self, now: float) -> float:
        """See which signals have been taken and which deadlines have passed; seconds until that is to be done again."""
        wait = 1.0
        for flight in list(self._flights.values()):
            by_signal = flight.channel is not None and flight.channel.kind == "signal"
            if by_signal and not _still_pending(flight):
                self._end(flight, "answered", duration_seconds=monotonic() - flight.asked_at)
            elif now >= flight.deadline:
                self._failed(flight, "timeout", "the signal is still pending" if by_signal else "no answer")
            elif not by_signal:
                wait = min(wait, flight.deadline - now)
            else:
                wait = min(wait, 0.002 if now - flight.asked_at < 0.1 else 0.02)
        return wait

    def _tell_of(self, flight: Flight, kind: str, **detail: Any) -> None:
        channel = flight.channel.kind if flight.channel else ""
        self._tell(kind, flight.watch.target, flight.attempt, **{"channel": channel, **detail})

    def _end(self, flight: Flight, kind: str, **detail: Any) -> None:
        self._flights.pop(flight.watch.target, None)
        self._tell_of(flight, kind, **detail)
        if kind == "refused":
            self._tell_of(flight, "spent")


def _still_pending(flight: Flight) -> bool:
    assert flight.channel
    assert not isinstance(flight.watch.process, Remote)
    try:
        return flight.watch.process.pending(flight.channel.signal)
    except (OSError, KeyError, ValueError):
        return False
