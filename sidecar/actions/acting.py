"""From gates to orders, and from answers to verdicts: the part of a tick that acts."""

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

from sidecar.actions.dispatch import Dispatch
from sidecar.actions.ledger import Attempt, Ledger
from sidecar.actions.policy import Decision, Gate, Policy, Reason, Subject, usable
from sidecar.actions.verify import Judged, Reading, growth, judge, rebounded
from sidecar.guard.wire import Event, Order
from sidecar.model import Cleanup, Labels, Metric, Sample, series

log = logging.getLogger("sidecar.actions")

HELD = Metric("rag_action_held", "gauge", "1 for the reason why nothing is done about an open gate now.")
PARKED = Metric("rag_actions_parked", "gauge",
                "1 while a gate is open and no channel is left to try until the incident ends.")
METRICS = (HELD, PARKED)

GROWTH_WINDOW_SECONDS = 60.0
UNANSWERED_SECONDS = 90.0
LATE_SECONDS = 5.0

Used = Callable[[str, float, float], list[Reading]]
"""`used(target, start, end)`: readings of used bytes in (start, end], in ascending time."""


class Acting:
    """Carries the policy out and judges what came of it. Written by the tick only; lives as long as the desk."""

    def __init__(self, ledger: Ledger, dispatch: Dispatch, used: Used) -> None:
        self.decisions: list[Decision] = []
        self._ledger = ledger
        self._dispatch = dispatch
        self._used = used
        self._said: dict[str, tuple[Reason, str]] = {}
        self._sent: dict[str, tuple[Order, float]] = {}
        self._heard = 0

    def take_in(self, event: Event) -> None:
        """Write down what the guard tells of an order."""
        self._heard = max(self._heard, event.number)
        sent, _ = self._sent.get(event.target, (None, 0.0))
        if sent and (event.order.startswith(sent.id) or event.kind in ("gone", "changed")):
            del self._sent[event.target]
            if event.order == sent.id:  # nothing was begun: an attempt would have an id of its own
                self._skipped(sent, event)
        attempt = self._ledger.take_in(event, self._growth)
        if attempt and attempt.outcome:
            _tell(attempt)
        elif attempt and event.kind == "delivered":
            log.info("cleanup delivered", extra={
                "target": attempt.target, "cleanup": attempt.cleanup, "channel": attempt.channel,
                "used_bytes": int(attempt.before_bytes), "delivery_ms": (attempt.delivery_seconds or 0.0) * 1000})

    def done(self) -> int:
        """The number of the last event up to which all is known that the next desk would need: no attempt is open."""
        return min((attempt.number for attempt in self._ledger.open()), default=self._heard + 1) - 1

    def _skipped(self, order: Order, event: Event) -> None:
        """Memory had fallen by itself, or the guard was acting already, or it does not hold the process."""
        used = event.detail.get("used_bytes")
        if used is None:
            used = max(self._used(order.target, event.at - LATE_SECONDS, event.at), default=(0.0, 0.0))[1]
        reason = str(event.detail.get("reason", event.kind))
        _tell(self._ledger.skip(order, float(used), event.at, reason))

    def _growth(self, target: str, at: float) -> float:
        return growth(self._used(target, at - GROWTH_WINDOW_SECONDS, at))

    def judge(self, policy: Policy, now: float) -> None:
        """Give the verdicts that can be given now, and look for memory that came back."""
        rules = policy.options.verification
        for attempt in self._ledger.open():
            if attempt.answered_at is None:
                if now > attempt.started_at + UNANSWERED_SECONDS:
                    delivered: Literal["unknown", "undelivered"] = "unknown" if attempt.delivered_at else "undelivered"
                    _tell(self._ledger.close(attempt.id, delivered, now, reason="no_answer"))
                continue
            known = _judged(attempt)
            verdict = judge(known, self._used(attempt.target, known.answered_at, now), now, rules)
            if verdict:
                reason = "no_readings" if verdict.outcome == "unknown" else ""
                _tell(self._ledger.close(attempt.id, verdict.outcome, now, reason=reason, verdict=verdict))
        for attempt in self._ledger.attempts():
            due = attempt.ended_at is not None and now >= attempt.ended_at + rules.rebound_seconds
            if due and attempt.rebounded is None and attempt.outcome in ("effective", "partial"):
                self._look_for_rebound(attempt, now)

    def _look_for_rebound(self, attempt: Attempt, now: float) -> None:
        assert attempt.ended_at is not None
        assert attempt.after_bytes is not None
        assert attempt.freed_bytes is not None
        readings = self._used(attempt.target, now - LATE_SECONDS, now)
        back = bool(readings) and rebounded(
            _judged(attempt), attempt.ended_at, attempt.after_bytes, attempt.freed_bytes, readings[-1])
        self._ledger.note_rebound(attempt.id, back)
        if back:
            log.warning("freed memory came back", extra={"target": attempt.target, "cleanup": attempt.cleanup,
                                                         "id": attempt.id, "used_bytes": int(readings[-1][1])})

    def act(self, policy: Policy, subjects: Sequence[Subject], gates: Sequence[Gate], now: float) -> None:
        """Decide about every target, have the guard act, and keep its standing orders what they should be."""
        of_target: defaultdict[str, list[Gate]] = defaultdict(list)
        for gate in gates:
            of_target[gate.target].append(gate)
        for subject in subjects:
            if not any(gate.open for gate in of_target[subject.name]):
                self._ledger.rearm(subject.name)
        waiting = {name for name, (_, at) in self._sent.items() if now < at + LATE_SECONDS}
        self.decisions = [
            decision._replace(reason=Reason.IN_FLIGHT, order=None)
            if decision.order and decision.target in waiting else decision
            for decision in policy.decide(subjects, gates, self._ledger, now)]
        for decision in self.decisions:
            if decision.order and self._dispatch.deliver(decision.order):
                self._sent[decision.target] = decision.order, now
            self._say(decision)
        for subject in subjects:
            armed = policy.stand(subject, of_target[subject.name], self._ledger, now)
            self._dispatch.stand(subject.name, armed, now)

    def by_hand(self, policy: Policy, subject: Subject, cleanup: Cleanup, now: float, *, dry_run: bool) -> Decision:
        """Have the guard act because a person asks for it. What the decision says has been done by then."""
        decision = policy.by_hand(subject, cleanup, self._ledger, now, dry_run=dry_run)
        _, sent_at = self._sent.get(subject.name, (None, -LATE_SECONDS))
        if decision.order and (now < sent_at + LATE_SECONDS or not self._dispatch.deliver(decision.order)):
            return decision._replace(reason=Reason.IN_FLIGHT, order=None)
        if decision.order:
            self._sent[subject.name] = decision.order, now
        log.info("cleanup by hand", extra={"target": subject.name, "cleanup": cleanup, "dry_run": dry_run,
                                           "reason": decision.reason.value})
        return decision

    def _say(self, decision: Decision) -> None:
        """One line when the reason changes, none while it stays."""
        said = (decision.reason, decision.cleanup)
        if self._said.get(decision.target, (Reason.BELOW, "")) != said:
            self._said[decision.target] = said
            log.info("decision", extra={"target": decision.target, "reason": decision.reason.value,
                                        "cleanup": decision.cleanup})

    def samples(self, subjects: Sequence[Subject], bases: dict[str, Labels], at: float) -> list[Sample]:
        """Why nothing is done now, and which targets have no way left."""
        found = []
        kinds = {subject.name: subject for subject in subjects}
        for decision in self.decisions:
            base, subject = bases[decision.target], kinds[decision.target]
            held = decision.reason not in (Reason.BELOW, Reason.ACT, Reason.DOWN)
            if held:
                found.append(Sample(series(base, HELD.name, "reason", decision.reason.value), 1.0, at))
            parked = decision.reason is Reason.NO_CHANNEL and any(
                channels and not usable(subject, cleanup, self._ledger)
                for cleanup, channels in subject.channels.items())
            found.append(Sample(series(base, PARKED.name), float(parked), at))
        return found


def _judged(attempt: Attempt) -> Judged:
    return Judged(attempt.before_bytes, attempt.growth, attempt.line_bytes, attempt.started_at,
                  attempt.answered_at or attempt.started_at)


def _tell(attempt: Attempt) -> None:
    """The canonical line of a cleanup: everything that is known of it, once, at its end."""
    level = logging.INFO if attempt.outcome in ("effective", "dry_run", "skipped") else logging.WARNING
    log.log(level, "cleanup ended", extra={
        "target": attempt.target, "cleanup": attempt.cleanup, "channel": attempt.channel, "outcome": attempt.outcome,
        "reason": attempt.reason, "alert": attempt.labels.get("alertname", ""),
        "before_bytes": int(attempt.before_bytes), "after_bytes": _whole(attempt.after_bytes),
        "freed_bytes": _whole(attempt.freed_bytes), "id": attempt.id})


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
