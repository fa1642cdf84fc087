"""What to do, and why. Pure: the same facts at one time give the same decisions. Doing nothing has a reason too."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import takewhile
from typing import NamedTuple, cast

from sidecar.actions.ledger import BY_HAND, Ledger
from sidecar.actions.options import STRENGTH, Mode, Options
from sidecar.guard.wire import Channel, Order
from sidecar.model import Cleanup

MOST_TIMES = 3
"""How often the guard may carry out a standing order by itself while no desk judges what the last one did."""

BACKOFF_SECONDS = (2.0, 4.0, 8.0, 16.0, 30.0)
SHORTEST_PAUSE_SECONDS = 1.0
PAUSE_PER_DURATION = 10.0
NEVER_DELIVERED = ("undelivered", "refused", "skipped")


class Reason(StrEnum):
    """Why a decision is what it is."""

    ACT = "act"
    STANDING = "standing_order"  # the guard acts by itself when the line is crossed
    BELOW = "below_threshold"
    PENDING = "alert_pending"  # over the line, and the alert's `for` has not passed
    OBSERVE = "mode_observe"
    UNARMED = "no_threshold_of_its_own"
    KILL_SWITCH = "kill_switch"
    DOWN = "target_down"
    STALE = "stale_data"
    NO_CHANNEL = "no_usable_channel"
    WARMUP = "warming_up"
    IN_FLIGHT = "in_flight"
    SETTLING = "settling"
    COOLDOWN = "cooldown"
    BACKOFF = "undelivered_backoff"
    MIN_INTERVAL = "min_interval"
    MAX_CONCURRENT = "max_concurrent"


@dataclass(frozen=True, slots=True)
class Subject:
    """One target as the policy sees it. `fresh` is whether its used bytes have been read just now.

    `channels` are those that serve each cleanup, in the order in which they are tried. `armed` is False where
    nobody chose the thresholds.
    """

    name: str
    up: bool
    fresh: bool
    armed: bool
    age_seconds: float
    mode: Mode
    channels: Mapping[Cleanup, tuple[Channel, ...]]


class Gate(NamedTuple):
    """An alert that asks for a cleanup: is its own comparison true now, and may it act (its `for` has passed)?

    `standing` gates are the guard's: their line stands there as an order.
    """

    target: str
    level: str
    wanted: Cleanup
    labels: Mapping[str, str]
    open: bool
    ripe: bool
    standing: bool
    line_bytes: float | None
    inclusive: bool


class Decision(NamedTuple):
    """What to do about one target now, and why. `order` only where `reason` is ACT."""

    target: str
    reason: Reason
    cleanup: str = ""
    order: Order | None = None


class Armed(NamedTuple):
    """A standing order and the moment (Unix seconds) before which it may not be carried out."""

    order: Order
    not_before: float


@dataclass(frozen=True, slots=True)
class Policy:
    """The options, with the state of the kill-switch at this tick."""

    options: Options
    kill_switch: bool

    def decide(self, subjects: Sequence[Subject], gates: Sequence[Gate], ledger: Ledger, now: float) -> list[Decision]:
        """One decision for each target; at most one of them acts when only one action at a time is allowed."""
        decisions: list[Decision] = []
        of_target: defaultdict[str, list[Gate]] = defaultdict(list)
        for gate in gates:
            if gate.open:
                of_target[gate.target].append(gate)
        running = sum(attempt.answered_at is None for attempt in ledger.open())
        for subject in subjects:
            decision = self._decide(subject, of_target[subject.name], ledger, now, running)
            running += decision.reason is Reason.ACT
            decisions.append(decision)
        return decisions

    def _decide(self, subject: Subject, gates: Sequence[Gate], ledger: Ledger, now: float, running: int) -> Decision:
        ripe = [gate for gate in gates if gate.ripe]
        if not ripe:
            below = Reason.PENDING if gates else Reason.BELOW
            return Decision(subject.name, below if subject.up else Reason.DOWN)
        strongest = sorted(ripe, key=lambda gate: STRENGTH[self._capped(gate, ripe)], reverse=True)
        served = (gate for gate in strongest if usable(subject, self._capped(gate, ripe), ledger))
        gate = next(served, strongest[0])  # what has no channel must not keep back a weaker one that has
        cleanup = self._capped(gate, ripe)
        channels = usable(subject, cleanup, ledger)
        reason = self._hold(subject, gate, channels) or (
            self._held_back(subject, cleanup, ledger, now, running) if not gate.standing else Reason.STANDING)
        if reason:
            return Decision(subject.name, reason, cleanup)
        order = Order(f"{subject.name}.{cleanup}.{now:.3f}", subject.name, cleanup, channels, dict(gate.labels),
                      gate.line_bytes, gate.inclusive, dry_run=subject.mode == "dry_run")
        return Decision(subject.name, Reason.ACT, cleanup, order)

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
            (Reason.NO_CHANNEL, not channels),
            (Reason.IN_FLIGHT, any(attempt.answered_at is None for attempt in unjudged)),
            (Reason.SETTLING, bool(unjudged)),
        )
        reason = next((reason for reason, holds in checks if holds), Reason.ACT)
        order = Order(f"{BY_HAND}{subject.name}.{cleanup}.{now:.3f}", subject.name, cleanup, channels, {}, None,
                      dry_run=dry_run)
        return Decision(subject.name, reason, cleanup, order if reason is Reason.ACT else None)

    def stand(self, subject: Subject, gates: Sequence[Gate], ledger: Ledger, now: float) -> list[Armed]:
        """The standing orders for a target: what the guard is to do by itself, and from when on."""
        found = []
        for gate in gates:
            cleanup = self._capped(gate, [gate])
            channels = usable(subject, cleanup, ledger)
            if not gate.standing or gate.line_bytes is None or self._hold(subject, gate, channels):
                continue
            order = Order(f"{subject.name}.{cleanup}", subject.name, cleanup, channels, dict(gate.labels),
                          gate.line_bytes, gate.inclusive, times=MOST_TIMES,
                          again_after_seconds=self.options.cooldown_seconds[cleanup],
                          dry_run=subject.mode == "dry_run")
            found.append(Armed(order, self._free_from(subject.name, cleanup, ledger)[0]))
        return found

    def _entry(self, gate: Gate) -> Cleanup:
        policy = self.options.policies.get(gate.level)
        return policy.entry if policy else gate.wanted

    def _capped(self, gate: Gate, ripe: Sequence[Gate]) -> Cleanup:
        """Never stronger than the strongest policy among the gates that are open now allows."""
        caps = [policy.max if (policy := self.options.policies.get(each.level)) else each.wanted for each in ripe]
        return min(self._entry(gate), max(caps, key=STRENGTH.__getitem__), key=STRENGTH.__getitem__)

    def _hold(self, subject: Subject, gate: Gate, channels: Sequence[Channel]) -> Reason | None:
        """The interlocks: they hold for every level."""
        checks = (
            (Reason.DOWN, not subject.up),
            (Reason.STALE, not subject.fresh),
            (Reason.OBSERVE, subject.mode == "observe"),
            (Reason.UNARMED, not subject.armed),
            (Reason.KILL_SWITCH, self.kill_switch),
            (Reason.NO_CHANNEL, not channels),
        )
        return next((reason for reason, holds in checks if holds), None)

    def _held_back(self, subject: Subject, cleanup: Cleanup, ledger: Ledger, now: float, running: int) -> Reason | None:
        """What holds an action back for a while; critical ones, which stand as orders at the guard, are exempt."""
        options, unjudged = self.options, ledger.open(subject.name)
        free_from, resting = self._free_from(subject.name, cleanup, ledger)
        latest = next((attempt for attempt in ledger.attempts() if attempt.outcome not in NEVER_DELIVERED), None)
        checks = (
            (Reason.WARMUP, subject.age_seconds < options.warmup_seconds),
            (Reason.IN_FLIGHT, any(attempt.answered_at is None for attempt in unjudged)),
            (Reason.SETTLING, bool(unjudged)),
            (Reason.MAX_CONCURRENT, running >= options.max_concurrent),
            (resting, now < free_from),
            (Reason.MIN_INTERVAL, latest is not None and latest.outcome != "effective"
             and now < latest.started_at + options.min_interval_seconds),
        )
        return next((reason for reason, holds in checks if holds), None)

    def _free_from(self, target: str, cleanup: Cleanup, ledger: Ledger) -> tuple[float, Reason]:
        """When this cleanup may be tried again, in Unix seconds, and what it waits for until then.

        What helped only rests for ten times its own duration. What did not, or is not judged yet, cools down from
        its answer on. What was never delivered costs no cooldown: it is tried again soon, later each time.
        """
        past = [attempt for attempt in ledger.attempts(target) if attempt.cleanup == cleanup]
        in_vain = list(takewhile(lambda attempt: attempt.outcome in NEVER_DELIVERED, past))
        waits = [(0.0, Reason.COOLDOWN)]
        if in_vain:
            pause = BACKOFF_SECONDS[min(len(in_vain), len(BACKOFF_SECONDS)) - 1]
            waits.append(((in_vain[0].ended_at or 0.0) + pause, Reason.BACKOFF))
        if len(past) > len(in_vain):
            latest = past[len(in_vain)]
            rest = self.options.cooldown_seconds[cleanup]
            if latest.outcome == "effective":
                rest = max(SHORTEST_PAUSE_SECONDS, PAUSE_PER_DURATION * (latest.duration_seconds or 0.0))
            waits.append(((latest.answered_at or latest.delivered_at or latest.started_at) + rest, Reason.COOLDOWN))
        return max(waits)


def usable(subject: Subject, cleanup: Cleanup, ledger: Ledger) -> tuple[Channel, ...]:
    """The channels for this cleanup that have not been found unusable in this incident, for it or for another one."""
    refused = {channel for level, kind in ledger.disarmed.get(subject.name, ())
               for channel in subject.channels.get(cast(Cleanup, level), ()) if channel.kind == kind}
    return tuple(channel for channel in subject.channels.get(cleanup, ()) if channel not in refused)
