"""The record of what was tried and what came of it: bounded, counted for /metrics, and kept over restarts."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from sidecar.actions.attempt import HEARD, Attempt, Outcome, begun, heard_of, trigger_of
from sidecar.actions.attempts import Attempts
from sidecar.actions.lives import Row
from sidecar.actions.tally import Tally
from sidecar.actions.verify import Verdict
from sidecar.guard.wire import Event, Order
from sidecar.model import Labels, Sample
from sidecar.said import Said

NEVER_REFUSED_FOR_GOOD = ("gone", "changed", "unreadable", "no_courier", "no_agent", "another_sidecar",
                          "instance_changed")
"""Reasons of a refusal that say nothing about the channel: the next attempt may well use it."""


class Ledger:
    """What was tried. Written by the tick only; lives as long as the desk.

    `kept` are the attempts, `disarmed` the (cleanup, kind of channel) of each target that were refused,
    `disarmed_at` when the last of them was. `doubtful` are the attempts that an earlier desk began and nobody has told
    of yet, with the moment when they were taken over.
    """

    def __init__(self) -> None:
        self.kept = Attempts()
        self.disarmed: dict[str, set[tuple[str, str]]] = {}
        self.disarmed_at: dict[str, float] = {}
        self.doubtful: dict[str, float] = {}
        self._heard = 0
        self._tallies: defaultdict[str, Tally] = defaultdict(Tally)
        self._said = Said()

    def attempts(self, target: str | None = None) -> Sequence[Attempt]:
        """Newest first; of one target or of all."""
        return self.kept.newest_first("all", target)

    def open(self, target: str | None = None) -> Sequence[Attempt]:
        """Those whose end is not known yet."""
        return self.kept.newest_first("open", target)

    def is_news(self, event: Event) -> bool:
        """Whether an event has not been taken in yet; a crossing that began a known attempt is none."""
        return event.number > self._heard and not (event.kind == "crossed" and self.kept.get(event.order))

    def take_in(self, event: Event, growth: Callable[[str, float], float]) -> Attempt | None:
        """Write down what the guard tells; the attempt as it is afterwards, None if the event is about none.

        An event that is told again, by a guard that did not hear our acknowledgement, changes nothing.
        """
        if event.number <= self._heard:
            return None
        self._heard = event.number
        if event.kind in ("gone", "changed"):
            self.end_life(event.target, event.at, f"target_{event.kind}")
            return None
        known = self.kept.get(event.order)
        if event.kind == "crossed":
            if known is None:
                return self.kept.put(begun(event, growth(event.target, event.at)))
            if not known.outcome:  # begun before a restart: the guard goes on telling of it
                self.doubtful.pop(known.id, None)
                self.kept.put(replace(known, number=event.number))
            return None
        if known is None or known.outcome or event.kind not in HEARD:
            return None
        self.doubtful.pop(known.id, None)
        made, outcome, reason = heard_of(known, event)
        self._count(made, event)
        self.kept.put(made)
        return self.close(made.id, outcome, event.at, reason=reason) if outcome else made

    def another_guard(self, now: float) -> None:
        """From now on another guard tells, who knows of no attempt that is open."""
        for attempt in self.open():
            if attempt.answered_at is None:
                self.doubtful[attempt.id] = now

    def _count(self, made: Attempt, event: Event) -> None:
        tally = self._tallies[made.target]
        if event.kind == "delivered" and not made.dry_run:
            tally.note_delivery(event.at, made.delivery_seconds or 0.0)
        elif event.kind == "answered" and not made.dry_run:
            tally.last_duration_seconds, tally.last_told = made.duration_seconds, made.told.figures
        elif event.kind in ("refused", "failed"):
            reason = str(event.detail.get("reason", ""))
            tally.refused[made.cleanup, made.channel, reason] += 1
            if event.kind == "refused":
                _disarm(self.disarmed, made)
                self.disarmed_at[made.target] = event.at

    def skip(self, order: Order, used_bytes: float, at: float, reason: str) -> Attempt:
        """Write down an order that the guard did not begin, because there was no need or no room for it any more."""
        self.kept.put(Attempt(
            order.id, order.target, order.cleanup, order.labels, order.line_bytes, used_bytes, 0.0, at,
            trigger=trigger_of(order.id), dry_run=order.dry_run))
        return self.close(order.id, "skipped", at, reason=reason)

    def end_life(self, target: str, at: float, why: str) -> list[Attempt]:
        """The process has ended: no more will be known of what was asked of it; the attempts that end with it."""
        closed = []
        for attempt in self.attempts(target):
            if not attempt.outcome and attempt.started_at <= at:
                closed.append(self.close(attempt.id, "unknown", at, reason=why))
            elif attempt.freed_bytes is not None and attempt.rebounded is None:
                self.kept.note(attempt.id, "rebound", at, rebounded=False)
        self.rearm(target)
        return closed

    def close(self, attempt_id: str, outcome: Outcome, at: float, *, reason: str = "",
              verdict: Verdict | None = None, kind: str = "") -> Attempt:
        """The end of an attempt: counted once, here."""
        self.doubtful.pop(attempt_id, None)
        known = self.kept.get(attempt_id)
        made = self.kept.note(attempt_id, "final", at, outcome=outcome, ended_at=at, kind=kind,
                              reason=reason or (known.reason if known else ""),
                              after_bytes=verdict.after_bytes if verdict else None,
                              freed_bytes=verdict.freed_bytes if verdict else None)
        self._tallies[made.target].note_end(made)
        return made

    def note_rebound(self, attempt_id: str, rebounded: bool, at: float = 0.0, **changes: Any) -> Attempt:
        """What was freed did, or did not, come back."""
        made = self.kept.note(attempt_id, "rebound", at, rebounded=rebounded, **changes)
        self._tallies[made.target].rebounds += rebounded
        return made

    def rearm(self, target: str) -> None:
        """The incident is over or all has long been calm: what could not be used may be tried again next time."""
        self.disarmed.pop(target, None)
        self.disarmed_at.pop(target, None)

    def samples(self, bases: Iterable[Labels], at: float, spared: Collection[str] = ()) -> list[Sample]:
        """Every counter of the targets whose base labels are given; those of others are forgotten.

        Of those that are `spared` they are the samples that were given before.
        """
        of_target = {base["target"]: base for base in bases}
        for target in self._tallies.keys() - of_target.keys():
            del self._tallies[target]
            self.rearm(target)
        self._said.keep(of_target)
        return [sample for target, base in of_target.items() for sample in self._said.of(
            base, None, at, spared, partial(self._tallies[target].samples, base, at))]

    def drain(self) -> list[Row]:
        """What has changed since the last call: (attempt, stage, Unix seconds, plain JSON)."""
        return self.kept.drain()

    def restore(self, rows: Sequence[Row], now: float) -> None:
        """Go on with the attempts of an earlier desk, oldest first.

        Those without an end are open, and in doubt until the guard tells more of them. What was refused in the last
        incident of a target is not tried again before that is over.
        """
        self.kept.restore(rows)
        incidents: dict[str, str] = {}
        for attempt in self.attempts():
            if not attempt.outcome:
                self.doubtful[attempt.id] = now
            if attempt.incident and incidents.setdefault(attempt.target, attempt.incident) == attempt.incident:
                _disarm(self.disarmed, attempt)


def _disarm(disarmed: dict[str, set[tuple[str, str]]], attempt: Attempt) -> None:
    """Note the channels that were refused for good."""
    for channel, reason in attempt.refusals:
        if channel and reason not in NEVER_REFUSED_FOR_GOOD:
            disarmed.setdefault(attempt.target, set()).add((attempt.cleanup, channel))
