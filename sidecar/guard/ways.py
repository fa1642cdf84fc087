"""The ways on which an order reaches a target: a signal, a POST by the courier, the agents in its processes.

A way is taken by making it, which raises Refused where that cannot be, and sends nothing in a dry run. Afterwards its
`news` tell what has come of it, as (kind, detail) of events: at most one `delivered`, at last `answered` or `failed`.
Times are monotonic.
"""

from __future__ import annotations

import _socket
import json

from sidecar.clock import monotonic
from sidecar.guard.agents import Agents
from sidecar.guard.process import Process, Remote
from sidecar.guard.reply import question
from sidecar.guard.watch import Watch
from sidecar.guard.wire import Channel, Order, encode, send
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    News = tuple[str, dict[str, Any]]

PENDING_SECONDS = 30.0
GRACE_SECONDS = 1.0
ACCEPT_SECONDS = 5.0
"""An agent that has not accepted an order by then will not be waited for."""
URGENT_SECONDS = 0.05
"""An aggressive cleanup that no agent has accepted by then is asked for by signal, too."""


class Refused(Exception):
    """This way cannot be taken: one word and one sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Flight:
    """One order on its way. Lives until a channel has answered, or none is left."""

    def __init__(self, attempt: str, order: Order, watch: Watch, crossed_at: float) -> None:
        self.attempt = attempt
        self.order = order
        self.watch = watch
        self.crossed_at = crossed_at
        self.left = list(order.channels)
        self.channel: Channel | None = None
        self.way: BySignal | ByPost | ByAgents | None = None

    def delivered(self) -> News:
        """The news that it has been delivered, just now."""
        return "delivered", {"delivery_seconds": monotonic() - self.crossed_at, "dry_run": self.order.dry_run}


class BySignal:
    """A signal, sent only if the target catches it. It is answered when it is no longer pending."""

    def __init__(self, flight: Flight, channel: Channel) -> None:
        if isinstance(flight.watch.process, Remote):
            raise Refused("no_process", "the target is known by its URL alone")
        self._process: Process = flight.watch.process
        self._number = channel.signal
        try:
            disposition = self._process.disposition(self._number)
            if disposition != "caught":
                raise Refused(f"signal_{disposition}", "no handler is installed" + (
                    ": the signal would kill the process" if disposition == "default" else ", it would be ignored"))
            if not flight.order.dry_run:
                self._process.signal(self._number)
        except PermissionError:
            raise Refused("permission", "the process belongs to another user") from None
        except (OSError, KeyError, ValueError) as error:
            raise Refused("gone", str(error)) from None
        self._news = [flight.delivered()]
        self._asked_at = monotonic()

    def news(self, now: float) -> list[News]:
        """What has come of it since the last time."""
        news, self._news = self._news, []
        if not self._pending():
            news.append(("answered", {"duration_seconds": monotonic() - self._asked_at}))
        elif now >= self._asked_at + PENDING_SECONDS:
            news.append(("failed", {"reason": "timeout", "message": "the signal is still pending"}))
        return news

    def _pending(self) -> bool:
        try:
            return self._process.pending(self._number)
        except (OSError, KeyError, ValueError):
            return False

    def wait_seconds(self, now: float) -> float:
        """How long until there may be news."""
        return 0.002 if now - self._asked_at < 0.1 else 0.02


class ByPost:
    """A POST that the courier carries; `line` leads to it, None while it is not there."""

    def __init__(self, flight: Flight, channel: Channel, line: _socket.socket | None) -> None:
        self.errand = f"{flight.attempt}/{len(flight.left)}"
        self._flight = flight
        self._news: list[News] = []
        self._asked_at = monotonic()
        self._deadline = self._asked_at + channel.timeout_seconds + GRACE_SECONDS
        if flight.order.dry_run:
            return
        try:
            errand = encode("errand", id=self.errand, url=channel.url, headers=channel.headers,
                            timeout_seconds=channel.timeout_seconds,
                            body={"level": flight.order.cleanup, "id": flight.attempt})
        except ValueError as error:
            raise Refused("too_large", str(error)) from None
        if line is None or not send(line, errand):
            raise Refused("no_courier", "the courier process is not there; it is being restarted")

    def hear(self, answer: dict[str, Any]) -> None:
        """What the courier reports. Raises ValueError or TypeError if that makes no sense."""
        if answer.get("sent"):
            self._news.append(self._flight.delivered())
            return
        seconds, status, body = monotonic() - self._asked_at, int(answer.get("status", 0)), answer.get("body", "")
        if 200 <= status < 300:
            self._news.append(("answered", {"duration_seconds": seconds, "status": status, "body": body}))
        else:
            self.fail(f"http_{status}" if status else str(answer.get("error", "error")),
                      str(answer.get("message") or body)[:200])

    def fail(self, reason: str, message: str) -> None:
        """Nothing will come of it any more."""
        self._news.append(("failed", {"reason": reason, "message": message}))

    def news(self, now: float) -> list[News]:
        """What has come of it since the last time."""
        if not self._news and now >= self._deadline:
            self.fail("timeout", "no answer")
        news, self._news = self._news, []
        return news

    def wait_seconds(self, now: float) -> float:
        """How long until there may be news that do not come over the line."""
        return max(0.0, self._deadline - now)


class ByAgents:
    """The agents in all processes of the target, asked at once; one that accepts is enough.

    For an aggressive cleanup that none has accepted soon the signal that is among the channels is sent, too. Then what
    comes first counts: the agents' acceptance, or that the signal has been taken.
    """

    def __init__(self, flight: Flight, channel: Channel, agents: Agents) -> None:
        if not agents.count(flight.order.target):
            raise Refused("no_agent", "no agent has been found in the target's processes, or it has ended")
        self._flight = flight
        self._agents = agents
        self._asked_at = monotonic()
        self._deadline = self._asked_at + channel.timeout_seconds
        self._told = False
        self._signal: BySignal | None = None
        signals = (each for each in flight.left if each.kind == "signal")
        self._beside = next(signals, None) if flight.order.cleanup == "aggressive" else None
        order = flight.order
        if not order.dry_run:
            text = json.dumps({"level": order.cleanup, "id": flight.attempt, "reason": order.labels.get("alertname")})
            self._fanout = agents.ask(order.target, flight.attempt, question("POST", "/cleanup", text.encode()))

    def news(self, now: float) -> list[News]:
        """What has come of it since the last time."""
        fanout, news = self._fanout, []
        if now >= self._deadline:
            self._agents.give_up(fanout, "timeout")
        elif now >= self._asked_at + ACCEPT_SECONDS:
            self._agents.give_up(fanout, "timeout", but=fanout.accepted)
        if fanout.accepted and not self._told:
            news.append(self._flight.delivered())
        told = fanout.summary() if not fanout.waiting else None
        if told:
            news.append(("answered", {"duration_seconds": monotonic() - self._asked_at, **told}))
        elif fanout.waiting and (fanout.accepted or now < self._asked_at + URGENT_SECONDS):
            pass  # their answer is what counts
        elif self._signal or (self._beside and fanout.waiting):
            news += self._by_signal(now)
        elif not fanout.waiting:
            news.append(("failed", {"reason": fanout.reason(), "message": "no agent has carried it out"}))
        self._told = self._told or any(kind == "delivered" for kind, _ in news)
        return news

    def _by_signal(self, now: float) -> list[News]:
        """Send the signal, or see what has come of it."""
        news: list[News] = []
        if self._beside:
            channel, self._beside = self._beside, None
            self._flight.left.remove(channel)
            try:
                self._signal = BySignal(self._flight, channel)
            except Refused as error:
                news.append(("refused", {"reason": error.reason, "message": error.message}))
        if self._signal:
            news += self._signal.news(now)
        if any(kind in ("answered", "failed") for kind, _ in news):
            self._agents.give_up(self._fanout, "late")
        return [(kind, {"channel": "signal", **detail}) for kind, detail in news]

    def wait_seconds(self, now: float) -> float:
        """How long until there may be news that do not come from the agents."""
        marks = [self._deadline, self._asked_at + ACCEPT_SECONDS, self._asked_at + URGENT_SECONDS]
        wait = min((mark - now for mark in marks if mark > now), default=0.02)
        return min(wait, self._signal.wait_seconds(now)) if self._signal else wait
