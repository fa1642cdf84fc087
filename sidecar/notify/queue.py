"""What one Alertmanager still has to be told, and when: pure, in virtual time, no I/O.

When an alert is due follows Prometheus (rules/alerting.go, needsSending): at once when it fires and when it resolves,
then each time strictly more than `resend_delay_seconds` have passed. What follows is ours: Prometheus forgets a batch
that could not be posted, this queue keeps the latest state of every alert until it is accepted or no longer valid.
"""

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sidecar.model import Alert, Labels

BATCH = 256
CAPACITY = 10_000
FOLLOWED = 4 * CAPACITY
"""How many alerts are remembered at a time, queued or not: beyond it, new ones are dropped and counted."""
TIDIED = 500
"""So many alerts are looked at between two pauses."""
RETENTION_SECONDS = 900.0
"""How long Prometheus keeps a resolved alert in its rule and resends it (rules/alerting.go, resolvedRetention)."""
FOLLOWS_SECONDS = 1.0
"""An Alertmanager that hears of an end before it has passed the firing on tells people of neither."""
BACKOFF_SECONDS = 0.5
BACKOFF_CAP_SECONDS = 4.0

NOTHING, FIRING, END, SPARED = range(4)
"""What an Alertmanager has acknowledged of an alert; SPARED: the alert had ended before the Alertmanager was there."""
Heard = Mapping[str, int]
"""That of each Alertmanager, by the URL as it may be shown."""

Random = Callable[[float, float], float]
"""`random.uniform` or its like: a number between two others."""


class Message(NamedTuple):
    """One alert as it is to be posted. `ends_at` is Unix time."""

    alert: Alert
    ends_at: float


Batch = tuple[Message, ...]


@dataclass(slots=True)
class Counts:
    """Alerts by what became of posting them; they only grow."""

    sent: int = 0
    failed: int = 0
    refused: int = 0
    overflowed: int = 0
    expired: int = 0


@dataclass(slots=True)
class _Told:
    """What was last queued of one alert. `queued_at` counts from queueing, not from acceptance (as in Prometheus)."""

    state: tuple[float | None, float | None]
    queued_at: float
    offered_at: float
    heard: int = NOTHING
    suspect: bool = False


def _state(alert: Alert) -> tuple[float | None, float | None]:
    """What makes an alert news: a new firing or its end."""
    return alert.fired_at, alert.resolved_at


def _moment(alert: Alert, now: float) -> float:
    """When what an alert says was found out: a firing that was not judged again since (its rule fails) is no news."""
    return alert.last_evaluation if alert.resolved_at is None else now


def _tellable(alert: Alert) -> bool:
    """Firing, or resolved after it had fired. Never pending."""
    ended = alert.state == "inactive" and alert.resolved_at is not None
    return alert.fired_at is not None and (alert.state == "firing" or ended)


def _begun(ended: Alert, waiting: Sequence[Alert]) -> Alert:
    """An alert that has ended, as it was before: as it waits, if it does."""
    if waiting and waiting[0].fired_at == ended.fired_at and waiting[0].resolved_at is None:
        return waiting[0]
    return replace(ended, state="firing", condition=True, resolved_at=None)


def _discard(queue: dict[Labels, list[Alert]], alert: Alert) -> None:
    """Take out what says the same of the alert; what says something else waits on."""
    waiting = [other for other in queue.get(alert.labels, ()) if _state(other) != _state(alert)]
    if waiting:
        queue[alert.labels] = waiting
    else:
        queue.pop(alert.labels, None)


class _Validity(NamedTuple):
    """Until when what is said of an alert is true, and worth saying."""

    resend_delay_seconds: float

    def until(self, alert: Alert) -> float:
        """Until when the alert, as it is here, is to be told."""
        return self._held(alert, -math.inf) if alert.resolved_at is None else alert.resolved_at + RETENTION_SECONDS

    def message(self, waiting: Sequence[Alert], now: float) -> Message:
        """The first of what waits of an alert, with its end; one whose own end follows fires until then."""
        alert = waiting[0]
        if alert.resolved_at is not None:
            return Message(alert, alert.resolved_at)
        return Message(alert, self._held(alert, now if len(waiting) > 1 else -math.inf))

    def _held(self, alert: Alert, at_least_from: float) -> float:
        """Until when a firing holds without being repeated (rules/alerting.go)."""
        evaluated = max(alert.last_evaluation, at_least_from)
        return evaluated + 4 * max(alert.interval_seconds, self.resend_delay_seconds)


class Outbox:
    """The queue of one Alertmanager. Lives as long as its notifier; one batch is under way at a time.

    `take` hands out a batch; exactly one of `acknowledge`, `fail` and `refuse` answers it. Of each alert (by its
    labels) at most two messages wait: the latest state and, where that is a resolve, the firing before it while it
    has not been accepted, because a resolve alone would tell nobody that something had happened. Such a firing is as
    valid as the resolve that follows it.
    """

    def __init__(self, *, resend_delay_seconds: float, uniform: Random) -> None:
        self.counts = Counts()
        self._validity = _Validity(resend_delay_seconds)
        self._resend_delay_seconds = resend_delay_seconds
        self._uniform = uniform
        self._told: dict[Labels, _Told] = {}
        self._queue: dict[Labels, list[Alert]] = {}
        self._under_way: frozenset[Labels] = frozenset()
        self._halves: list[tuple[Labels, ...]] = []
        self._failures = 0
        self._retry_at = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._queue.values()))

    def restore(self, alerts: Iterable[tuple[Alert, int | None]], now: float) -> None:
        """Before they are offered: what was acknowledged of alerts that are known already; None: it was not there then.

        An Alertmanager that was not there is told of what fires, and of no end. An end that it has not accepted waits
        from now on, because the next evaluation may find that the alert begins anew.
        """
        for alert, heard in filter(lambda each: _tellable(each[0]), alerts):
            if alert.labels in self._told or len(self._told) >= FOLLOWED:
                continue
            ended = alert.resolved_at is not None
            heard = (SPARED if ended else NOTHING) if heard is None else heard
            told = ended and heard >= END
            self._told[alert.labels] = _Told(_state(alert) if told else (alert.fired_at, None),
                                             now if told else -math.inf, now, heard)
            if ended:
                self._consider(alert, now)

    def heard(self, alert: Alert) -> int:
        """What has been acknowledged of this firing of the alert, and of its end."""
        told = self._told.get(alert.labels)
        return NOTHING if told is None or told.state[0] != alert.fired_at else told.heard

    def offer(self, alerts: Iterable[Alert], now: float) -> None:
        """Take note of some alerts as they are now; queue those that are due. Pending ones are ignored."""
        for alert in filter(_tellable, alerts):
            self._consider(alert, now)

    def tidy(self, now: float) -> Generator[None, None, None]:
        """Give up what is no longer valid, and forget alerts that nobody has offered for 15 minutes; in pieces."""
        for number, key in enumerate([*self._told]):
            if key in self._queue:
                self._valid([key], now)
            elif self._told[key].offered_at + RETENTION_SECONDS < now and key not in self._under_way:
                del self._told[key]
            if number % TIDIED == TIDIED - 1:
                yield

    def wait_seconds(self, now: float) -> float | None:
        """How long until there is something to take: 0 at once, None as long as nothing new is offered."""
        if not self._queue:
            return None
        wait = self._retry_at - now
        # More than the cap means that the clock was set back: waiting for the old time could take hours.
        return 0.0 if self._halves or wait > BACKOFF_CAP_SECONDS else max(0.0, wait)

    def take(self, now: float) -> Batch:
        """The next batch, oldest first, at most 256; empty while there is nothing or a retry is being waited for."""
        if self.wait_seconds(now) != 0.0:
            return ()
        keys = self._choose(now)
        self._under_way = frozenset(keys)
        return tuple(self._validity.message(self._queue[key], now) for key in keys)

    def acknowledge(self, batch: Batch, now: float) -> None:
        """The Alertmanager accepted the batch. Where the end of a firing that was news waits, that waits a moment."""
        followed = False
        for message in batch:
            told = self._told[message.alert.labels]
            followed |= told.heard == NOTHING and len(self._queue.get(message.alert.labels, ())) > 1
            told.suspect = False
            if message.alert.fired_at == told.state[0]:
                told.heard = max(told.heard, FIRING if message.alert.resolved_at is None else END)
            _discard(self._queue, message.alert)
        self.counts.sent += len(batch)
        self._under_way = frozenset()
        self._failures, self._retry_at = 0, now + FOLLOWS_SECONDS * followed

    def fail(self, batch: Batch, now: float) -> None:
        """The batch did not arrive, or nobody knows: try again after a random wait (full jitter) of at most 4 s."""
        self._failures += 1
        ceiling = min(BACKOFF_CAP_SECONDS, BACKOFF_SECONDS * 2 ** min(self._failures - 1, 8))
        self._retry_at = now + self._uniform(0.0, ceiling)
        self.counts.failed += len(batch)
        self._under_way = frozenset()
        self._halves.clear()

    def refuse(self, batch: Batch, now: float) -> Message | None:
        """The Alertmanager finds fault with something in the batch: halve it, until only the alert at fault is left.

        Returns that alert's message when it is first found. Nothing else waits for it from then on: this message is
        given up, the alert comes again when its resend is due, and is posted in a batch of its own until accepted.
        """
        self._under_way = frozenset()
        self._failures, self._retry_at = 0, now
        if len(batch) > 1:
            keys = tuple(message.alert.labels for message in batch)
            middle = len(keys) // 2
            self._halves += [keys[middle:], keys[:middle]]
            return None
        (message,) = batch
        told = self._told[message.alert.labels]
        first_time, told.suspect = not told.suspect, True
        _discard(self._queue, message.alert)
        self.counts.refused += 1
        return message if first_time else None

    def _consider(self, alert: Alert, now: float) -> None:
        key, told = alert.labels, self._told.get(alert.labels)
        if told is None:
            if len(self._told) >= FOLLOWED:
                self.counts.overflowed += 1
                return
            self._told[key] = _Told(_state(alert), _moment(alert, now), now)
            self._enqueue(alert)
            return
        told.offered_at = now
        news = told.state != _state(alert)
        if told.state[0] != alert.fired_at:
            told.heard = NOTHING
        elif told.heard == SPARED:
            return
        moment = _moment(alert, now)
        # Before `queued_at` the clock was set back: then waiting for the old time would keep people in the dark.
        if news or not told.queued_at <= moment <= told.queued_at + self._resend_delay_seconds:
            told.state, told.queued_at = _state(alert), moment
            self._enqueue(alert)
        elif key in self._queue:
            self._queue[key][-1] = alert

    def _enqueue(self, alert: Alert) -> None:
        key = alert.labels
        untold = alert.resolved_at is not None and self._told[key].heard == NOTHING
        self._queue[key] = [_begun(alert, self._queue.get(key, ())), alert] if untold else [alert]
        if len(self._queue) > CAPACITY:
            oldest = next(other for other in self._queue if other not in self._under_way)
            self.counts.overflowed += len(self._queue.pop(oldest))

    def _choose(self, now: float) -> list[Labels]:
        while self._halves:
            if keys := self._valid(self._halves.pop(), now):
                return keys
        waiting = [*self._queue]
        return (self._valid((key for key in waiting if not self._told[key].suspect), now)
                or self._valid(waiting, now, most=1))

    def _valid(self, keys: Iterable[Labels], now: float, most: int = BATCH) -> list[Labels]:
        """The first of those that wait and can still be told; what cannot is given up."""
        found: list[Labels] = []
        for key in keys:
            if key in self._queue and self._validity.until(self._queue[key][-1]) > now:
                found.append(key)
                if len(found) == most:
                    break
            else:
                self.counts.expired += len(self._queue.pop(key, ()))
        return found

