"""One cleanup that was asked for, from the crossing of a line to its verdict; and as the journal keeps it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from sys import intern
from typing import Any, Literal, get_args

from sidecar.guard.wire import Event

Outcome = Literal["effective", "partial", "ineffective", "unknown", "undelivered", "interrupted", "refused", "skipped",
                  "dry_run"]
Trigger = Literal["rule", "manual", "periodic", "webhook", "api"]

BY_RULE, BY_HAND = "rule", "manual:"
"""The id of an order begins with its trigger and a colon, for all but rules: the guard's record brings it back to a
desk that knows nothing of it."""

LONGEST_RETRY_SECONDS = 3600.0
HEARD = ("delivered", "answered", "refused", "failed", "spent")
"""Kinds of events that tell how an attempt goes on."""
COURIER_LOST = "no_courier"
"""The courier was killed with it: nobody knows whether it had been delivered."""
BEGUN = ("timeout", "closed", "protocol", "late", COURIER_LOST, "RemoteDisconnected", "ConnectionResetError",
         "IncompleteRead")
"""Reasons of a failure after which, if it had been delivered, the cleanup may be done nevertheless."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the agents say of a cleanup: figures of all processes together, by step, and how it ended in each process.

    `figures` are freed_bytes, predicted_bytes, objects_collected, pause_seconds and duration_seconds, where known.
    """

    figures: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[Mapping[str, Any]] = ()
    processes: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Attempt:
    """One cleanup that was asked for. Times are Unix seconds; `outcome` is empty until the end is known.

    `growth` is the growth of used bytes before it, in bytes per second. `refusals` are (channel, reason) of what
    could not be used; `reason` is why the last channel that was used failed, at the end that of the outcome. `number`
    is that of the event that began it, `told` what the agents say. `incident` is the id of the one it is part of,
    `kind` what its memory turned out to be, `faults` how many page faults the target had because of it, `retry_at`
    before when the target does not want to be asked again.
    """

    id: str
    target: str
    cleanup: str
    labels: Mapping[str, str]
    line_bytes: float | None
    before_bytes: float
    growth: float
    started_at: float
    trigger: str = BY_RULE
    dry_run: bool = False
    channel: str = ""
    refusals: tuple[tuple[str, str], ...] = ()
    delivered_at: float | None = None
    delivery_seconds: float | None = None
    answered_at: float | None = None
    duration_seconds: float | None = None
    outcome: Outcome | Literal[""] = ""
    reason: str = ""
    ended_at: float | None = None
    after_bytes: float | None = None
    freed_bytes: float | None = None
    rebounded: bool | None = None
    number: int = 0
    told: Told = field(default_factory=Told)
    incident: str = ""
    kind: str = ""
    faults: float | None = None
    retry_at: float | None = None

    @property
    def mode(self) -> str:
        """Whether it was meant: `enforce` or `dry_run`."""
        return "dry_run" if self.dry_run else "enforce"

    def as_json(self) -> dict[str, Any]:
        """The row of `GET /api/v1/actions`."""
        return {
            "id": self.id, "target": self.target, "incident": self.incident, "cleanup": self.cleanup,
            "channel": self.channel, "trigger": self.trigger, "mode": self.mode, "outcome": self.outcome or "running",
            "reason": self.reason, "kind": self.kind, "alert": dict(self.labels), "line_bytes": self.line_bytes,
            "before_bytes": self.before_bytes, "after_bytes": self.after_bytes, "freed_bytes": self.freed_bytes,
            "faults": self.faults, "started_at": self.started_at, "delivered_at": self.delivered_at,
            "delivery_seconds": self.delivery_seconds, "duration_seconds": self.duration_seconds,
            "ended_at": self.ended_at, "rebounded": self.rebounded,
            "refusals": [{"channel": channel, "reason": reason} for channel, reason in self.refusals],
            "told": dict(self.told.figures), "steps": list(self.told.steps), "processes": list(self.told.processes),
        }

    def as_record(self) -> dict[str, Any]:
        """All of it as plain JSON; `number` is the guard's own and means nothing to another one."""
        made = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in ("told", "number")}
        told = {"figures": dict(self.told.figures), "steps": list(self.told.steps),
                "processes": list(self.told.processes)}
        return {**made, "labels": dict(self.labels), "refusals": [list(each) for each in self.refusals], "told": told}


def begun(event: Event, growth: float) -> Attempt:
    """The attempt that a `crossed` event begins."""
    detail = event.detail
    line = detail.get("line_bytes")
    return Attempt(
        event.order, event.target, str(detail["cleanup"]), dict(detail["labels"]),
        None if line is None else float(line), float(detail["used_bytes"]), growth, event.at,
        trigger=trigger_of(event.order), dry_run=bool(detail.get("dry_run")), number=event.number)


def heard_of(known: Attempt, event: Event) -> tuple[Attempt, Outcome | Literal[""], str]:
    """The attempt after an event of the guard; where that ended it, the outcome and its reason.

    What was delivered and never answered may still have worked: bytes will tell.
    """
    detail, channel = event.detail, str(event.detail.get("channel", ""))
    if event.kind == "delivered":
        seconds = float(detail["delivery_seconds"])
        return replace(known, channel=channel, delivered_at=event.at, delivery_seconds=seconds), "", ""
    if event.kind == "answered":
        told = Told(*(detail.get(key, none) for key, none in (("told", {}), ("steps", ()), ("processes", ()))))
        made = replace(known, channel=channel, answered_at=event.at, reason="", told=told,
                       duration_seconds=float(detail["duration_seconds"]))
        return made, "dry_run" if made.dry_run else "", ""
    if event.kind == "refused":
        refusals = (*known.refusals, (channel, str(detail.get("reason", ""))))
        return replace(known, channel=channel, refusals=refusals), "", ""
    if event.kind == "failed":
        reason = str(detail.get("reason", ""))
        return replace(known, channel=channel, reason=reason, retry_at=_retry(known, event)), "", ""
    if event.kind != "spent":
        return known, "", ""
    begun_at = known.started_at if known.reason == COURIER_LOST else known.delivered_at
    if begun_at is not None and known.reason in BEGUN:
        return replace(known, answered_at=event.at, duration_seconds=event.at - begun_at), "", ""
    if known.reason or not known.refusals:
        return known, "undelivered", known.reason
    return known, "refused", known.refusals[0][1]


def _retry(known: Attempt, event: Event) -> float | None:
    """Before when the target does not want to be asked again; an hour at most."""
    raw = event.detail.get("retry_after_seconds")
    if not isinstance(raw, int | float) or not isfinite(raw) or raw <= 0:
        return known.retry_at
    return event.at + min(float(raw), LONGEST_RETRY_SECONDS)


def trigger_of(order_id: str) -> str:
    """Why an order was given."""
    before, colon, _ = order_id.partition(":")
    return before if colon and before in get_args(Trigger) else BY_RULE


def of_record(body: Mapping[str, Any]) -> Attempt:
    """From plain JSON; what a writer has left out has its default.

    Raises KeyError, TypeError, ValueError or AttributeError for what is no attempt.
    """
    outcome = body["outcome"]
    if outcome and outcome not in get_args(Outcome):
        raise ValueError(f"an outcome {outcome!r:.50}")
    told = body.get("told") or {}
    times: dict[str, Any] = {name: _number(body.get(name)) for name in (
        "line_bytes", "delivered_at", "delivery_seconds", "answered_at", "duration_seconds", "ended_at", "after_bytes",
        "freed_bytes", "faults", "retry_at")}
    rebounded = body.get("rebounded")
    return Attempt(
        str(body["id"]), _word(body["target"]), _word(body["cleanup"]),
        labels={_word(name): _word(value) for name, value in dict(body.get("labels") or {}).items()},
        before_bytes=float(body["before_bytes"]), growth=float(body["growth"]), started_at=float(body["started_at"]),
        trigger=_word(body["trigger"]), dry_run=bool(body["dry_run"]), channel=_word(body["channel"]),
        refusals=tuple((_word(channel), _word(reason)) for channel, reason in body.get("refusals") or ()),
        outcome=outcome, reason=_word(body["reason"]), rebounded=None if rebounded is None else bool(rebounded),
        told=Told(dict(told.get("figures") or {}), list(told.get("steps") or ()), list(told.get("processes") or ())),
        incident=_word(body["incident"]), kind=_word(body["kind"]), **times)


def _word(raw: Any) -> str:
    """As text that is in memory once: hundreds of attempts say the same."""
    return intern(str(raw))


def _number(raw: Any) -> float | None:
    return None if raw is None else float(raw)
