"""The ways on which an order reaches a target: a signal, a POST or a program by the courier, agents in its processes.

A way is taken by making it, which raises Refused where that cannot be, and sends nothing in a dry run. Afterwards its
`news` tell what has come of it, as (kind, detail) of events: at most one `delivered`, at last `answered`, `failed` or
`declined`, which is told as `refused`: the target, or what leads to it, does not take such orders.
Times are monotonic.
"""

from __future__ import annotations

import _socket
import json

from sidecar.clock import monotonic
from sidecar.guard.agents import Agents
from sidecar.guard.fanout import figures
from sidecar.guard.process import Process, Remote
from sidecar.guard.reply import question
from sidecar.guard.watch import Watch
from sidecar.guard.wire import Channel, Order, encode, send
from sidecar.procfs import ENDED
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    News = tuple[str, dict[str, Any]]

PENDING_SECONDS = 30.0
GRACE_SECONDS = 1.0
BUSY_SECONDS = 5.0
"""When to ask again who is busy and does not say until when."""
MOST_CHARACTERS = 300
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
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
        self.way: BySignal | Carried | ByAgents | None = None

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
        except (*ENDED, KeyError, ValueError) as error:
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
        except (*ENDED, KeyError, ValueError):
            return False
        except OSError:
            return True  # that cannot be seen now

    def wait_seconds(self, now: float) -> float:
        """How long until there may be news."""
        return 0.002 if now - self._asked_at < 0.1 else 0.02


class Carried:
    """An errand of the courier; `line` leads to it, None while it is not there."""

    def __init__(self, flight: Flight, channel: Channel, line: _socket.socket | None) -> None:
        self.errand = f"{flight.attempt}/{len(flight.left)}"
        self._flight = flight
        self._news: list[News] = []
        self._asked_at = monotonic()
        self._deadline = self._asked_at + channel.timeout_seconds + GRACE_SECONDS
        if flight.order.dry_run:
            return
        try:
            errand = self._packed(channel)
        except ValueError as error:
            raise Refused("too_large", str(error)) from None
        if line is None or not send(line, errand):
            raise Refused("no_courier", "the courier process is not there; it is being restarted")

    def _packed(self, channel: Channel) -> bytes:
        raise NotImplementedError

    def hear(self, answer: dict[str, Any]) -> None:
        """What the courier reports. Raises ValueError or TypeError if that makes no sense."""
        message = str(answer.get("message") or answer.get("body") or "")[:MOST_CHARACTERS]
        if answer.get("sent"):
            self._news.append(self._flight.delivered())
        elif "refused" in answer:
            self._decline(str(answer["refused"]), message)
        elif "error" in answer:
            self.fail(str(answer["error"]), message, BUSY_SECONDS if answer["error"] == "busy" else None)
        else:
            self._judge(answer, message)

    def _judge(self, answer: dict[str, Any], message: str) -> None:
        raise NotImplementedError

    def _accept(self, **detail: Any) -> None:
        self._news.append(("answered", {"duration_seconds": monotonic() - self._asked_at, **detail}))

    def _decline(self, reason: str, message: str) -> None:
        self._news.append(("declined", {"reason": reason, "message": message}))

    def fail(self, reason: str, message: str, retry_after_seconds: float | None = None) -> None:
        """Nothing will come of it any more; it may be asked for again after so long."""
        again = {} if retry_after_seconds is None else {"retry_after_seconds": retry_after_seconds}
        self._news.append(("failed", {"reason": reason, "message": message, **again}))

    def news(self, now: float) -> list[News]:
        """What has come of it since the last time."""
        if not self._news and now >= self._deadline:
            self.fail("timeout", "no answer")
        news, self._news = self._news, []
        return news

    def wait_seconds(self, now: float) -> float:
        """How long until there may be news that do not come over the line."""
        return max(0.0, self._deadline - now)


class ByPost(Carried):
    """A POST. 2xx is yes; 401, 403 and 412 are a no for this channel; 409 is a target that is busy."""

    def _packed(self, channel: Channel) -> bytes:
        order = self._flight.order
        instance = {"instance_id": order.instance_id} if order.instance_id else {}
        return encode("post", id=self.errand, url=channel.url, headers=channel.headers,
                      timeout_seconds=channel.timeout_seconds,
                      body={"level": order.cleanup, "id": self._flight.attempt, **instance})

    def _judge(self, answer: dict[str, Any], message: str) -> None:
        status, again = int(answer["status"]), answer.get("retry_after_seconds")
        if 200 <= status < 300:
            self._accept(status=status, body=str(answer.get("body", "")), told=figures(answer.get("told")))
        elif status in (401, 403):
            self._decline(f"http_{status}", message)
        elif status == 412:
            self._decline("instance_changed", message)
        elif status == 409:
            self.fail("busy", message, BUSY_SECONDS if again is None else float(again))
        else:
            self.fail(f"http_{status}", message, float(again) if again is not None and status in (429, 503) else None)


class ByProgram(Carried):
    """A program that is started. Exit code 0 is yes, any other a no; one that cannot be started is refused."""

    def _packed(self, channel: Channel) -> bytes:
        order, identity = self._flight.order, self._flight.watch.process.identity
        environment = {
            "PATH": PATH, "LANG": "C.UTF-8", "RAG_SIDECAR_TARGET": order.target,
            "RAG_SIDECAR_LEVEL": order.cleanup, "RAG_SIDECAR_ID": self._flight.attempt,
            "RAG_SIDECAR_PID": str(identity.pid) if identity else ""}
        return encode("program", id=self.errand, argv=channel.argv, timeout_seconds=channel.timeout_seconds,
                      environment=environment)

    def _judge(self, answer: dict[str, Any], message: str) -> None:
        code = int(answer["exit_code"])
        if code:
            self.fail(f"exit_{code}", message)
        else:
            self._accept(exit_code=0, output=message)


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
            alert = order.labels.get("alertname", "")
            text = json.dumps({"level": order.cleanup, "id": flight.attempt, "reason": alert})
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
            busy = {"retry_after_seconds": BUSY_SECONDS} if fanout.reason() == "busy" else {}
            news.append(("failed", {"reason": fanout.reason(), "message": "no agent has carried it out", **busy}))
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
