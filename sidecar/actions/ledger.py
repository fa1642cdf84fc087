"""The record of what was tried and what came of it: bounded, and counted for /metrics."""

from bisect import bisect_left
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any, Literal

from sidecar.actions.verify import Verdict
from sidecar.guard.wire import Event, Order
from sidecar.model import Labels, Metric, Sample, series

Outcome = Literal["effective", "partial", "ineffective", "unknown", "undelivered", "refused", "skipped", "dry_run"]

CLEANUPS = Metric("rag_cleanups_total", "counter", "Cleanups asked for, by how they ended.")
REFUSED = Metric("rag_cleanup_refused_total", "counter", "Times a channel could not be used, by reason.")
REBOUNDS = Metric("rag_cleanup_rebounds_total", "counter",
                  "Cleanups whose freed memory came back within the rebound time, beyond the growth seen before.")
FREED = Metric("rag_cleanup_freed_bytes_total", "counter", "Bytes that cleanups freed, measured from outside.")
LAST_FREED = Metric("rag_cleanup_last_freed_bytes", "gauge", "Bytes the last judged cleanup freed; may be negative.")
DURATION = Metric("rag_cleanup_duration_seconds", "gauge", "How long the last cleanup took until the target answered.")
PREDICTED = Metric("rag_cleanup_predicted_bytes", "gauge", "Bytes the agent expected the last cleanup to free.")
PAUSE = Metric("rag_cleanup_pause_seconds", "gauge",
               "How long the last cleanup kept a process from doing anything else, as its agent tells.")
LAST_TIME = Metric("rag_cleanup_last_timestamp_seconds", "gauge", "When the last cleanup was delivered, in Unix time.")
DELIVERY = Metric("rag_cleanup_delivery_seconds", "histogram", "From the crossing of the line to the delivery.")
METRICS = (CLEANUPS, REFUSED, REBOUNDS, FREED, LAST_FREED, DURATION, PREDICTED, PAUSE, LAST_TIME, DELIVERY)

DELIVERY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
DELIVERY_BOUNDS = (*map(str, DELIVERY_BUCKETS), "+Inf")
KEPT_ATTEMPTS = 500
NEVER_REFUSED_FOR_GOOD = ("gone", "changed", "no_courier", "no_agent")
"""Reasons of a refusal that say nothing about the channel: the next attempt may well use it."""

BY_HAND = "manual:"
"""Begins the id of what a person asked for: the guard's record brings it back to a desk that knows nothing of it."""

BEGUN = ("timeout", "closed", "protocol", "late")
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
    is that of the event that began it, `told` what the agents say.
    """

    id: str
    target: str
    cleanup: str
    labels: Mapping[str, str]
    line_bytes: float | None
    before_bytes: float
    growth: float
    started_at: float
    trigger: str = "rule"
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

    def as_json(self) -> dict[str, Any]:
        """The row of `GET /api/v1/actions`."""
        return {
            "id": self.id, "target": self.target, "cleanup": self.cleanup, "channel": self.channel,
            "trigger": self.trigger, "outcome": self.outcome or "running", "reason": self.reason,
            "alert": dict(self.labels), "line_bytes": self.line_bytes, "before_bytes": self.before_bytes,
            "after_bytes": self.after_bytes, "freed_bytes": self.freed_bytes, "started_at": self.started_at,
            "delivered_at": self.delivered_at, "delivery_seconds": self.delivery_seconds,
            "duration_seconds": self.duration_seconds, "ended_at": self.ended_at, "rebounded": self.rebounded,
            "refusals": [{"channel": channel, "reason": reason} for channel, reason in self.refusals],
            "told": dict(self.told.figures), "steps": list(self.told.steps), "processes": list(self.told.processes),
        }


@dataclass(slots=True)
class Tally:
    """What is counted for one target. Lives as long as the target is configured."""

    outcomes: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rebounds: int = 0
    freed_bytes: float = 0.0
    last_freed_bytes: float | None = None
    last_duration_seconds: float | None = None
    last_told: Mapping[str, float] = field(default_factory=dict)
    last_delivered_at: float | None = None
    delivery_counts: list[int] = field(default_factory=lambda: [0] * (len(DELIVERY_BUCKETS) + 1))
    delivery_sum: float = 0.0

    def samples(self, base: Labels, at: float) -> Iterator[Sample]:
        """Everything counted, as samples with the target's labels; what never happened is a zero or is left out."""

        def make(name: str, value: float, *labels: str) -> Sample:
            return Sample(series(base, name, *labels), value, at)

        for (cleanup, channel, trigger, outcome), count in self.outcomes.items():
            yield make(CLEANUPS.name, count, "cleanup", cleanup, "channel", channel, "trigger", trigger,
                       "outcome", outcome)
        for (cleanup, channel, reason), count in self.refused.items():
            yield make(REFUSED.name, count, "cleanup", cleanup, "channel", channel, "reason", reason)
        yield make(REBOUNDS.name, self.rebounds)
        yield make(FREED.name, self.freed_bytes)
        for metric, last in ((LAST_FREED, self.last_freed_bytes), (DURATION, self.last_duration_seconds),
                             (PREDICTED, self.last_told.get("predicted_bytes")),
                             (PAUSE, self.last_told.get("pause_seconds")), (LAST_TIME, self.last_delivered_at)):
            if last is not None:
                yield make(metric.name, last)
        for bound, count in zip(DELIVERY_BOUNDS, accumulate(self.delivery_counts), strict=True):
            yield make(f"{DELIVERY.name}_bucket", count, "le", bound)
        yield make(f"{DELIVERY.name}_sum", self.delivery_sum)
        yield make(f"{DELIVERY.name}_count", sum(self.delivery_counts))


class Ledger:
    """Every attempt of this run, the newest `KEPT_ATTEMPTS`. Written by the tick only; lives as long as the desk."""

    def __init__(self) -> None:
        self.disarmed: dict[str, set[tuple[str, str]]] = {}  # target -> (cleanup, kind of channel) that was refused
        self._heard = 0
        self._attempts: dict[str, Attempt] = {}
        self._order: deque[str] = deque()
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)

    def attempts(self, target: str | None = None) -> list[Attempt]:
        """Newest first; of one target or of all."""
        return [a for i in reversed(self._order) if (a := self._attempts[i]) and target in (None, a.target)]

    def open(self, target: str | None = None) -> list[Attempt]:
        """Those whose end is not known yet."""
        return [attempt for attempt in self.attempts(target) if not attempt.outcome]

    def take_in(self, event: Event, growth: Callable[[str, float], float]) -> Attempt | None:
        """Write down what the guard tells; the attempt as it is afterwards, None if the event is about none.

        An event that is told again, by a guard that did not hear our acknowledgement, changes nothing.
        """
        if event.number <= self._heard:
            return None
        self._heard = event.number
        if event.kind == "crossed":
            return self._put(_begun(event, growth(event.target, event.at)))
        if event.kind in ("gone", "changed"):
            self._end_of(event)
            return None
        known = self._attempts.get(event.order)
        if known is None or known.outcome:
            return None
        channel = str(event.detail.get("channel", ""))
        if event.kind == "delivered":
            return self._delivered(known, event, channel)
        if event.kind == "answered":
            return self._answered(known, event, channel)
        if event.kind in ("refused", "failed"):
            return self._not_taken(known, event, channel)
        return self._spent(known, event) if event.kind == "spent" else None

    def skip(self, order: Order, used_bytes: float, at: float, reason: str) -> Attempt:
        """Write down an order that the guard did not begin, because there was no need or no room for it any more."""
        self._put(Attempt(order.id, order.target, order.cleanup, order.labels, order.line_bytes, used_bytes, 0.0, at,
                          trigger=_trigger(order.id), dry_run=order.dry_run))
        return self.close(order.id, "skipped", at, reason=reason)

    def _end_of(self, event: Event) -> None:
        """The process has ended: no more will be known of what was asked of it, and its incident is over."""
        for attempt in self.open(event.target):
            self.close(attempt.id, "unknown", event.at, reason=f"target_{event.kind}")
        for attempt in self.attempts(event.target):
            if attempt.freed_bytes is not None and attempt.rebounded is None:
                self._put(replace(attempt, rebounded=False))
        self.rearm(event.target)

    def _put(self, attempt: Attempt) -> Attempt:
        if attempt.id not in self._attempts:
            self._order.append(attempt.id)
            if len(self._order) > KEPT_ATTEMPTS:
                del self._attempts[self._order.popleft()]
        self._attempts[attempt.id] = attempt
        return attempt

    def _delivered(self, known: Attempt, event: Event, channel: str) -> Attempt:
        tally, seconds = self._tallies[known.target], float(event.detail["delivery_seconds"])
        if not known.dry_run:
            tally.delivery_counts[bisect_left(DELIVERY_BUCKETS, seconds)] += 1
            tally.delivery_sum += seconds
            tally.last_delivered_at = event.at
        return self._put(replace(known, channel=channel, delivered_at=event.at, delivery_seconds=seconds))

    def _answered(self, known: Attempt, event: Event, channel: str) -> Attempt:
        seconds = float(event.detail["duration_seconds"])
        told = Told(*(event.detail.get(key, none) for key, none in (("told", {}), ("steps", ()), ("processes", ()))))
        made = self._put(replace(known, channel=channel, answered_at=event.at, duration_seconds=seconds, reason="",
                                 told=told))
        if made.dry_run:
            return self.close(made.id, "dry_run", event.at)
        self._tallies[made.target].last_duration_seconds = seconds
        self._tallies[made.target].last_told = told.figures
        return made

    def _not_taken(self, known: Attempt, event: Event, channel: str) -> Attempt:
        reason = str(event.detail.get("reason", ""))
        self._tallies[known.target].refused[known.cleanup, channel, reason] += 1
        if event.kind == "failed":
            return self._put(replace(known, channel=channel, reason=reason))
        if channel and reason not in NEVER_REFUSED_FOR_GOOD:
            self.disarmed.setdefault(known.target, set()).add((known.cleanup, channel))
        return self._put(replace(known, channel=channel, refusals=(*known.refusals, (channel, reason))))

    def _spent(self, known: Attempt, event: Event) -> Attempt:
        """No channel is left. What was delivered and never answered may still have worked: bytes will tell."""
        if known.delivered_at is not None and known.reason in BEGUN:
            duration = event.at - known.delivered_at
            return self._put(replace(known, answered_at=event.at, duration_seconds=duration))
        if known.reason or not known.refusals:
            return self.close(known.id, "undelivered", event.at, reason=known.reason)
        return self.close(known.id, "refused", event.at, reason=known.refusals[0][1])

    def close(self, attempt_id: str, outcome: Outcome, at: float, *, reason: str = "",
              verdict: Verdict | None = None) -> Attempt:
        """The end of an attempt: counted once, here."""
        known = self._attempts[attempt_id]
        made = self._put(replace(known, outcome=outcome, ended_at=at, reason=reason or known.reason,
                                 after_bytes=verdict.after_bytes if verdict else None,
                                 freed_bytes=verdict.freed_bytes if verdict else None))
        tally = self._tallies[made.target]
        tally.outcomes[made.cleanup, made.channel, made.trigger, outcome] += 1
        if made.freed_bytes is not None:
            tally.last_freed_bytes = made.freed_bytes
            tally.freed_bytes += max(0.0, made.freed_bytes)
        return made

    def note_rebound(self, attempt_id: str, rebounded: bool) -> Attempt:
        """What was freed did, or did not, come back."""
        made = self._put(replace(self._attempts[attempt_id], rebounded=rebounded))
        self._tallies[made.target].rebounds += rebounded
        return made

    def rearm(self, target: str) -> None:
        """No gate is open: the incident is over, and channels that were unusable may be tried again next time."""
        self.disarmed.pop(target, None)

    def samples(self, bases: Iterable[Labels], at: float) -> list[Sample]:
        """Every counter of the targets whose base labels are given."""
        return [sample for base in bases for sample in self._tallies[base["target"]].samples(base, at)]


def _begun(event: Event, growth: float) -> Attempt:
    """The attempt that a `crossed` event begins."""
    detail = event.detail
    line = detail.get("line_bytes")
    return Attempt(
        event.order, event.target, str(detail["cleanup"]), dict(detail["labels"]),
        None if line is None else float(line), float(detail["used_bytes"]), growth, event.at,
        trigger=_trigger(event.order), dry_run=bool(detail.get("dry_run")), number=event.number)


def _trigger(order_id: str) -> str:
    return "manual" if order_id.startswith(BY_HAND) else "rule"
