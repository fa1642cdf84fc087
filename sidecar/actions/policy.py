"""What to do, and why. Pure: the same facts at one time give the same decisions. Doing nothing has a reason too."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sidecar.actions.attempt import BY_HAND, Trigger
from sidecar.actions.facts import Armed, Decision, Gate, Reason, Subject
from sidecar.actions.incidents import Incidents
from sidecar.actions.ladder import CLEANUPS, NEVER_DELIVERED, Choice, Ladder, cap, entry, is_recent, usable
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import STRENGTH, Options
from sidecar.guard.wire import Order
from sidecar.model import Cleanup

__all__ = ["Armed", "Decision", "Gate", "Policy", "Reason", "Subject", "usable"]

MOST_TIMES = 3
"""How often the guard may carry out a standing order by itself while no desk judges what the last one did."""
PERIODIC_SHARE = 0.5
"""How much of a budget periodic cleanups may use up: the rest is for when memory runs short."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The options, with the state of the kill-switch at this tick."""

    options: Options
    kill_switch: bool

    def decide(self, subjects: Sequence[Subject], gates: Mapping[str, Sequence[Gate]], ledger: Ledger,
               incidents: Incidents, now: float) -> list[Decision]:
        """One decision for each target; no more of them act at a time than is allowed. `gates` are by target."""
        decisions: list[Decision] = []
        running = ledger.kept.unanswered()
        for subject in subjects:
            decision = self.decide_one(subject, gates.get(subject.name, ()), ledger, incidents, now, running)
            running += decision.reason is Reason.ACT
            decisions.append(decision)
        return decisions

    def decide_one(self, subject: Subject, gates: Sequence[Gate], ledger: Ledger, incidents: Incidents, now: float,
                   running: int) -> Decision:
        """What to do about one target, while so many cleanups of all targets are `running`."""
        found = [gate for gate in gates if gate.open]
        if not found and not self.options.every_seconds:  # as it is nearly always
            return Decision(subject.name, Reason.BELOW if subject.up else Reason.DOWN)
        return _Case(self, subject, ledger, incidents, now).decide(found, running)

    def stand(self, subject: Subject, gates: Sequence[Gate], ledger: Ledger, incidents: Incidents,
              now: float) -> list[Armed]:
        """The standing orders for a target: what the guard is to do by itself, and from when on."""
        standing = [gate for gate in gates if gate.standing and gate.line_bytes is not None]
        return list(_Case(self, subject, ledger, incidents, now).stand(standing)) if standing else []

    def left(self, ledger: Ledger, now: float, *, dry: bool) -> int:
        """How many more attempts of all targets may turn out not to help within the hour; those under way may yet."""
        kept = ledger.kept
        used = sum(is_recent(attempt, now) for attempt in kept.newest_first("in_vain", None, dry))
        return self.options.max_per_hour - used - len(kept.newest_first("open", None, dry))

    def asked(self, subject: Subject, gates: Sequence[Gate], ledger: Ledger, incidents: Incidents, now: float,
              wish: tuple[Cleanup, Trigger, Mapping[str, str]]) -> Decision:
        """What another program asks for: (cleanup, its trigger, the alert's labels).

        It may only raise what the alerts of this sidecar ask for: one of them must be ripe, nothing weaker than they
        ask for is done, and all limits hold but the cap of their policies.
        """
        return _Case(self, subject, ledger, incidents, now).asked([gate for gate in gates if gate.open], wish)

    def by_hand(self, subject: Subject, cleanup: Cleanup, ledger: Ledger, now: float, *, dry_run: bool) -> Decision:
        """What a person asks for. It needs no gate, no threshold and no pause, only a channel: naming one is consent.

        The mode says what is done without being asked, so it does not hold here; the kill-switch does. While an
        attempt is judged there is no second one: their bytes could not be told apart.
        """
        channels, unjudged = subject.channels.get(cleanup, ()), ledger.open(subject.name)
        checks = (
            (Reason.DOWN, not subject.up),
            (Reason.STALE, not subject.fresh),
            (Reason.KILL_SWITCH, self.kill_switch),
            (Reason.FOREIGN, subject.foreign),
            (Reason.NO_CHANNEL, not channels),
            (Reason.IN_FLIGHT, any(attempt.answered_at is None for attempt in unjudged)),
            (Reason.SETTLING, bool(unjudged)),
        )
        reason = next((reason for reason, holds in checks if holds), Reason.ACT)
        order = Order(f"{BY_HAND}{subject.name}.{cleanup}.{now:.3f}", subject.name, cleanup, channels, {}, None,
                      dry_run=dry_run, instance_id=subject.instance_id)
        return Decision(subject.name, reason, cleanup, order if reason is Reason.ACT else None)


class _Case:
    """One target at one moment: what is known of it, and what follows. Lives as long as a decision takes."""

    def __init__(self, policy: Policy, subject: Subject, ledger: Ledger, incidents: Incidents, now: float) -> None:
        self._policy = policy
        self._options = policy.options
        self._subject = subject
        self._ledger = ledger
        self._now = now
        self._incident = incidents.current(subject.name)
        self._life = incidents.lives.get(subject.name)
        self._past = ledger.kept.newest_first("all", subject.name, subject.dry)
        self._ladder = Ladder(subject, self._options, ledger, self._past, self._life, now)

    def decide(self, gates: Sequence[Gate], running: int) -> Decision:
        """What to do about the open gates; with none, what is due periodically."""
        name, ripe = self._subject.name, [gate for gate in gates if gate.ripe]
        if not ripe:
            due = None if gates or self._incident else self._periodic(running)
            below = Reason.PENDING if gates else Reason.BELOW
            return due or Decision(name, below if self._subject.up else Reason.DOWN)
        new = [gate for gate in ripe if not self._acted_for(gate)]
        gate, choice = self._chosen(new or ripe)
        reason = self._interlock(armed=self._subject.armed) or (Reason.ACTED if not new else None)
        reason = reason or self._parked(cap(ripe, self._options)) or choice.obstacle
        if reason is None:
            reason = Reason.STANDING if gate.standing else self._held_back(choice.cleanup, running, self._floor(new))
        if reason:
            until = self._until(reason, choice.cleanup, self._floor(new or ripe))
            return Decision(name, reason, choice.cleanup, until=until)
        return self._act(f"{name}.{choice.cleanup}.{self._now:.3f}", choice, gate.labels, gate)

    def _chosen(self, ripe: Sequence[Gate]) -> tuple[Gate, Choice]:
        """The gate that decides, and its cleanup: the strongest; but what has no channel keeps no weaker one back."""
        strongest, step = cap(ripe, self._options), self._incident.step if self._incident else 0
        found = []
        for gate in sorted(ripe, key=lambda each: min(entry(each, self._options), strongest), reverse=True):
            choice = self._ladder.choose(min(entry(gate, self._options), strongest), strongest, step)
            found.append((gate, choice))
            if choice.obstacle is not Reason.NO_CHANNEL:
                return gate, choice
        return found[0]

    def _floor(self, ripe: Sequence[Gate]) -> int:
        return min(max(entry(gate, self._options) for gate in ripe), cap(ripe, self._options))

    def asked(self, gates: Sequence[Gate], wish: tuple[Cleanup, Trigger, Mapping[str, str]]) -> Decision:
        """What another program asks for, see `Policy.asked`."""
        cleanup, trigger, labels = wish
        name, ripe = self._subject.name, [gate for gate in gates if gate.ripe]
        if not ripe:
            return Decision(name, Reason.PENDING if gates else Reason.BELOW, cleanup)
        floor = max(STRENGTH[cleanup], self._floor(ripe))
        choice = self._ladder.choose(floor, floor, floor)
        running = self._ledger.kept.unanswered()
        reason = (self._interlock(armed=self._subject.armed) or self._parked(-1) or choice.obstacle
                  or self._held_back(choice.cleanup, running, floor))
        if reason:
            return Decision(name, reason, choice.cleanup, until=self._until(reason, choice.cleanup, floor))
        gate = next((gate for gate in ripe if gate.line_bytes is not None), ripe[0])
        return self._act(f"{trigger}:{name}.{choice.cleanup}.{self._now:.3f}", choice, labels, gate)

    def _act(self, order_id: str, choice: Choice, labels: Mapping[str, str], gate: Gate | None) -> Decision:
        order = Order(order_id, self._subject.name, choice.cleanup, choice.channels, dict(labels),
                      gate.line_bytes if gate else None, bool(gate and gate.inclusive), dry_run=self._subject.dry,
                      instance_id=self._subject.instance_id)
        return Decision(self._subject.name, Reason.ACT, choice.cleanup, order)

    def stand(self, gates: Sequence[Gate]) -> Iterator[Armed]:
        """The standing orders; see `Policy.stand`."""
        if self._interlock(armed=self._subject.armed):
            return
        incident, unjudged = self._incident, self._ledger.open(self._subject.name)
        for gate in gates:
            strongest = cap([gate], self._options)
            choice = self._ladder.choose(min(entry(gate, self._options), strongest), strongest,
                                         incident.step if incident else 0)
            if choice.obstacle or self._parked(strongest):
                continue
            open_now = sum(attempt.cleanup == choice.cleanup for attempt in unjudged)
            times = min(MOST_TIMES, self._ladder.budget(choice.cleanup) - open_now,
                        self._machine_budget() - len(unjudged))
            if incident and incident.baseline:
                times = min(times, 1 - incident.attempts - len(unjudged))
            if times > 0:
                order = Order(f"{self._subject.name}.{choice.cleanup}", self._subject.name, choice.cleanup,
                              choice.channels, dict(gate.labels), gate.line_bytes, gate.inclusive, times=times,
                              again_after_seconds=self._options.cooldown_seconds[choice.cleanup],
                              dry_run=self._subject.dry, instance_id=self._subject.instance_id)
                yield Armed(order, self._ladder.free_from(choice.cleanup)[0])

    def _periodic(self, running: int) -> Decision | None:
        """What is due because its time has come, the strongest; None if nothing is, or may be."""
        life, subject = self._life, self._subject
        if life is None:
            return None
        for cleanup in reversed(CLEANUPS):
            every = self._options.every_seconds.get(cleanup, 0.0)
            done = (each.started_at for each in self._past if STRENGTH[each.cleanup] >= STRENGTH[cleanup]
                    and each.outcome not in NEVER_DELIVERED and each.started_at >= life.since)
            if not every or self._now - max(done, default=life.since) < every:
                continue
            choice = Choice(cleanup, usable(subject, cleanup, self._ledger))
            reserve = self._options.budget_per_hour[cleanup] * PERIODIC_SHARE
            if choice.channels and self._ladder.budget(cleanup) > reserve and not (
                    self._interlock(armed=True) or self._held_back(cleanup, running, 0)):
                return self._act(f"periodic:{subject.name}.{cleanup}.{self._now:.3f}", choice, {}, None)
        return None

    def _interlock(self, *, armed: bool) -> Reason | None:
        """What holds for every level, whoever asks."""
        subject = self._subject
        checks = (
            (Reason.DOWN, not subject.up),
            (Reason.STALE, not subject.fresh),
            (Reason.CRASHES, subject.crashes),
            (Reason.OBSERVE, subject.mode == "observe"),
            (Reason.UNARMED, not armed),
            (Reason.KILL_SWITCH, self._policy.kill_switch),
            (Reason.PAUSED, subject.paused),
            (Reason.FOREIGN, subject.foreign),
        )
        reason = next((reason for reason, holds in checks if holds), None)
        return reason or (Reason.HOURLY if self._machine_budget() <= 0 else None)

    def _machine_budget(self) -> int:
        """How many more attempts may turn out not to help within the hour, where its own are not counted as such."""
        dry, kept = self._subject.dry, self._ledger.kept
        own = len(kept.newest_first("open", self._subject.name, dry))
        return self._policy.left(self._ledger, self._now, dry=dry) + own

    def _parked(self, strongest: int) -> Reason | None:
        """Whether its incident is parked, or has had the one attempt that it gets."""
        incident = self._incident
        if incident is None:
            return None
        if incident.holds(strongest):
            return Reason.PARKED
        return Reason.BASELINE if incident.baseline and incident.attempts else None

    def _acted_for(self, gate: Gate) -> bool:
        """Whether a gate without a line has had its attempt since its alert fires."""
        return gate.fired_at is not None and any(
            attempt.labels == gate.labels and attempt.started_at >= gate.fired_at
            and attempt.outcome not in NEVER_DELIVERED for attempt in self._past)

    def _held_back(self, cleanup: Cleanup, running: int, floor: int) -> Reason | None:
        """What holds an action back for a while; critical ones, which stand as orders at the guard, are exempt."""
        options, unjudged, now = self._options, self._ledger.open(self._subject.name), self._now
        free_from, resting = self._ladder.rest(cleanup, self._incident.id if self._incident else "", floor)
        checks = (
            (Reason.WARMUP, self._subject.age_seconds < options.warmup_seconds),
            (Reason.IN_FLIGHT, any(attempt.answered_at is None for attempt in unjudged)),
            (Reason.SETTLING, bool(unjudged)),
            (Reason.MAX_CONCURRENT, running >= options.max_concurrent),
            (resting, now < free_from),
            (Reason.MIN_INTERVAL, self._too_soon()),
        )
        return next((reason for reason, holds in checks if holds), None)

    def _until(self, reason: Reason, cleanup: Cleanup, floor: int) -> float | None:
        """Until when a rest lasts, where that is the reason: the guard's own, before it acts at the line, too."""
        if reason is Reason.STANDING:
            free_from = self._ladder.free_from(cleanup)[0]
        elif reason in (Reason.COOLDOWN, Reason.BACKOFF):
            free_from = self._ladder.rest(cleanup, self._incident.id if self._incident else "", floor)[0]
        else:
            return None
        return free_from if free_from > self._now else None

    def _too_soon(self) -> bool:
        """Whether some target was asked a moment ago, and it did not help."""
        latest = next((attempt for attempt in self._ledger.kept.newest_first("all", None, self._subject.dry)
                       if attempt.outcome not in NEVER_DELIVERED), None)
        return (latest is not None and latest.outcome != "effective"
                and self._now < latest.started_at + self._options.min_interval_seconds)
