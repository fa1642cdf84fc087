"""From gates to orders, and from answers to verdicts: the part of a tick that acts."""

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sidecar.actions import incidents as incidents_of
from sidecar.actions.attempt import Trigger
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.facts import SENTENCES, Decision, Gate, Reason, Subject, life_of
from sidecar.actions.incident import Incident
from sidecar.actions.incidents import Incidents
from sidecar.actions.ladder import cap
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import STRENGTH, Options
from sidecar.actions.pauses import Note, Pauses
from sidecar.actions.policy import Policy, usable
from sidecar.actions.sent import Sent
from sidecar.actions.standing import Standing
from sidecar.actions.verdicts import Look, Used, Verdicts, seen_nothing
from sidecar.guard.wire import Event
from sidecar.model import Cleanup, Labels, Metric, Sample, Target, series
from sidecar.promql.steps import Steps

log = logging.getLogger("sidecar.actions")

PARKING = (Reason.BASELINE, Reason.LEARNED, Reason.BUDGET)
"""Nothing is left to try: whenever this is so the incident is parked."""

HELD = Metric("rag_action_held", "gauge", "1 for the reason why nothing is done about an open gate now.")
OPEN, PARKED = incidents_of.METRICS
METRICS = (HELD, OPEN, PARKED)


class Acting:
    """Carries the policy out and judges what came of it. Written by the tick only; lives as long as the desk.

    `paused` are the targets that people have paused, with the Unix time until which or None.
    """

    def __init__(self, ledger: Ledger, dispatch: Dispatch, used: Used, look: Look = seen_nothing) -> None:
        self.decisions: list[Decision] = []
        self.incidents = Incidents()
        self._pauses = Pauses()
        self.paused = self._pauses.until
        self._ledger = ledger
        self._dispatch = dispatch
        self._verdicts = Verdicts(ledger, self.incidents, used, look)
        self._said: dict[str, tuple[Reason, str]] = {}
        self._sent = Sent(dispatch)
        self._standing = Standing(ledger, self.incidents)
        self._gates: Mapping[str, Sequence[Gate]] = {}
        self._names: Sequence[str] = ()
        self._heard = 0

    def take_in(self, event: Event, policy: Policy) -> None:
        """Write down what the guard tells of an order."""
        self._heard = max(self._heard, event.number)
        news, order = self._ledger.is_news(event), self._sent.not_begun(event)
        if order:
            self._verdicts.skipped(order, event, policy.options)
        if news and event.kind in ("gone", "changed"):
            self._verdicts.end_life(event.target, event.at, f"target_{event.kind}", policy.options)
        attempt = self._ledger.take_in(event, self._verdicts.growth)
        if attempt and event.kind in ("refused", "failed"):
            log.warning(f"channel {event.kind}", extra={
                "target": attempt.target, "cleanup": attempt.cleanup, "channel": attempt.channel,
                "reason": str(event.detail.get("reason", "")), "said": str(event.detail.get("message", "")).strip(),
                "id": attempt.id})
        if attempt and event.kind == "crossed":
            self._ledger.kept.note(attempt.id, "", event.at, incident=self.incidents.begun(attempt))
        elif attempt and attempt.outcome:
            self._verdicts.ended(attempt, policy.options, event.at)
        elif attempt and event.kind == "delivered":
            log.info("cleanup delivered", extra={
                "target": attempt.target, "cleanup": attempt.cleanup, "channel": attempt.channel,
                "used_bytes": int(attempt.before_bytes),
                "delivery_ms": round((attempt.delivery_seconds or 0.0) * 1000, 3)})

    def recover(self, events: Iterable[Event], policy: Policy, now: float) -> None:
        """Take in what a guard that was killed had left to tell. What it had under way is not answered any more."""
        left = list(events)
        for event in left:
            self.take_in(event, policy)
        if left:
            self._ledger.another_guard(now)

    def done(self) -> int:
        """The number of the last event up to which all is known that the next desk would need: no attempt is open."""
        return max(0, min((attempt.number for attempt in self._ledger.open()), default=self._heard + 1) - 1)

    def judge(self, policy: Policy, now: float, targets: Iterable[Target] = ()) -> None:
        """Give the verdicts that can be given now, look for memory that came back, end the pauses that are over.

        `targets` are those of this moment: what was asked of another process is not judged by the bytes of this one.
        """
        for each in targets:
            if each.identity:
                self._verdicts.meet(each.name, life_of(each.identity), policy.options, now)
        self._verdicts.judge(policy.options, now, self._dispatch.untold)
        for target in self._pauses.over(now):
            log.info("resumed", extra={"target": target, "reason": "its pause is over"})

    def steps(self, policy: Policy, subjects: Sequence[Subject], gates: Sequence[Gate], now: float) -> Steps[None]:
        """Decide about every target, have the guard act, and keep its standing orders what they should be.

        Pauses between two targets, of which people may pause the next one meanwhile: each of `subjects` is looked at
        when its turn comes.
        """
        of_target: defaultdict[str, list[Gate]] = defaultdict(list)
        for gate in gates:
            of_target[gate.target].append(gate)
        self._gates, self._names = of_target, [subject.name for subject in subjects]
        names = frozenset(self._names)
        if len(self._said) > len(subjects):
            self._said = {name: said for name, said in self._said.items() if name in names}
        self._verdicts.ages = {subject.name: subject.age_seconds for subject in subjects}
        for target in {attempt.target for attempt in self._ledger.open()}.difference(names):
            self._verdicts.end_life(target, now, "target_unknown", policy.options)  # it is configured no more
        self.incidents.keep(names, now)
        self._standing.begin(policy, names, now)
        decisions, running = [], self._ledger.kept.unanswered()
        for place, name in enumerate(self._names):
            subject, own = subjects[place], of_target.get(name, [])
            _follow(self.incidents, self._ledger, subject, own, policy.options, now)
            decision = policy.decide_one(subject, own, self._ledger, self.incidents, now, running)
            running += decision.reason is Reason.ACT
            decisions.append(decision := self._sent.unless_waiting(decision, now))
            if decision.order:
                self._sent.deliver(decision.order, now)
            if self.incidents.current(name):
                ripe = [gate for gate in own if gate.open and gate.ripe]
                _park(self.incidents, self._ledger, subject, decision, cap(ripe, policy.options))
            _say(decision, self._said)
            self._dispatch.stand(name, self._sent.sparing(name, self._standing.of(subject, own)), now)
            yield
        self.decisions = decisions

    def by_hand(self, policy: Policy, subject: Subject, cleanup: Cleanup, now: float, *, dry_run: bool) -> Decision:
        """Have the guard act because a person asks for it. What the decision says has been done by then."""
        decision = policy.by_hand(subject, cleanup, self._ledger, now, dry_run=dry_run)
        return self._sent.ordered(decision, now, "cleanup by hand", dry_run=dry_run)

    def asked(self, policy: Policy, subject: Subject, cleanup: Cleanup, now: float, trigger: Trigger,
              labels: Mapping[str, str]) -> Decision:
        """Have the guard act because another program asks for it (`webhook`, `api`), if the policy allows it now."""
        decision = policy.asked(subject, self._gates.get(subject.name, ()), self._ledger, self.incidents, now,
                                (cleanup, trigger, labels))
        return self._sent.ordered(decision, now, "cleanup asked for", trigger=trigger) if decision.order else decision

    def pause(self, target: str | None, until: float | None, now: float) -> None:
        """Do nothing unasked to a target, or (None) to all, until this Unix time or until further notice.

        The guard is told at once; what is under way goes on.
        """
        for name in _named(target, self._names):
            self._pauses.begin(name, until, now)
            self._dispatch.stand(name, [], now)
            log.info("paused", extra={"target": name, "until": "further notice" if until is None else
                                      datetime.fromtimestamp(until, UTC).isoformat(timespec="seconds")})

    def resume(self, target: str | None, now: float) -> None:
        """Act on a target again, or (None) on all."""
        for name in _named(target, self._names):
            if self._pauses.end(name, now):
                log.info("resumed", extra={"target": name, "reason": "by hand"})

    def unpark(self, target: str | None) -> list[str]:
        """Try again what did not help a target, or (None) any, and what could not be used; those that were parked."""
        for name in _named(target, self._names):
            self._ledger.rearm(name)
        return [name for name in _named(target, self._names) if self.incidents.unpark(name, forgive=True)]

    def drain_notes(self) -> list[Note]:
        """What has changed since the last call of pauses, and of what is known of each process."""
        return [*self._pauses.drain(), *self.incidents.lives.drain()]

    def restore_notes(self, rows: Sequence[Note]) -> None:
        """Go on with the notes of an earlier desk, oldest first."""
        self._pauses.restore(rows)
        self.incidents.lives.restore(rows)

    def samples(self, subjects: Sequence[Subject], bases: Mapping[str, Labels], at: float,
                spared: Collection[str] = ()) -> list[Sample]:
        """Why nothing is done now, and which targets have an incident or are parked; for `spared` see `Said`."""
        held = [Sample(series(bases[decision.target], HELD.name, "reason", decision.reason.value), 1.0, at)
                for decision in self.decisions if decision.target in bases  # else it is configured no more
                and decision.reason not in (Reason.BELOW, Reason.ACT, Reason.DOWN)]
        return held + self.incidents.samples({subject.name: bases[subject.name] for subject in subjects}, at, spared)

    def explain(self) -> dict[str, list[dict[str, Any]]]:
        """The decisions of the last tick and the incidents, as plain JSON, each with a sentence for people."""
        decisions = [{"target": target, "reason": reason.value, "cleanup": cleanup,
                      "message": _sentence(reason, self.incidents.current(target)), "until": until,
                      "paused_until": self.paused.get(target)}
                     for target, reason, cleanup, _, until in self.decisions]
        return {"decisions": decisions, "incidents": self.incidents.kept.as_json()}


def _sentence(reason: Reason, incident: Incident | None) -> str:
    """A reason for people; of what is parked also why it is."""
    parked = incident.parked if incident and reason is Reason.PARKED else ""
    return f"{SENTENCES[Reason(parked)]} {SENTENCES[reason]}" if parked else SENTENCES[reason]


def _named(target: str | None, names: Sequence[str]) -> Sequence[str]:
    return names if target is None else [target]


def _follow(incidents: Incidents, ledger: Ledger, subject: Subject, gates: Sequence[Gate], options: Options,
            now: float) -> None:
    """Have the incident of a target go on, and its channels tried again once it is over or all has long been calm."""
    incidents.update(subject, gates, options, now)
    calm_for = now - ledger.disarmed_at.get(subject.name, now) if not any(gate.open for gate in gates) else -1.0
    if incidents.current(subject.name) is None or calm_for >= options.exit_for_seconds:
        ledger.rearm(subject.name)


def _park(incidents: Incidents, ledger: Ledger, subject: Subject, decision: Decision, strongest: int) -> None:
    """Stick to a decision that nothing is left to try. A channel that comes back is used."""
    incident = incidents.current(subject.name)
    if decision.reason is Reason.BASELINE:
        incidents.park(subject.name, decision.reason, max(STRENGTH.values()))
    elif decision.reason in (Reason.LEARNED, Reason.BUDGET):
        incidents.park(subject.name, decision.reason, strongest)
    elif decision.reason is Reason.NO_CHANNEL:
        if any(ways and not usable(subject, cleanup, ledger) for cleanup, ways in subject.channels.items()):
            incidents.park(subject.name, decision.reason, -1)
    elif incident and incident.parked == Reason.NO_CHANNEL and decision.reason is not Reason.BELOW:
        incidents.unpark(subject.name)


def _say(decision: Decision, said: dict[str, tuple[Reason, str]]) -> None:
    """One line when the reason changes, none while it stays, nor where the line `parked` has told it."""
    saying, before = (decision.reason, decision.cleanup), said.get(decision.target)
    if (before or (Reason.BELOW, "")) == saying:
        return
    said[decision.target] = saying
    told = before is not None and before[0] in (*PARKING, Reason.PARKED)
    if decision.reason not in PARKING and not (decision.reason is Reason.PARKED and told):
        log.info("decision", extra={"target": decision.target, "reason": decision.reason.value,
                                    "cleanup": decision.cleanup})
