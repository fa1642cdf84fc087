"""What is done and why, in virtual time: every reason with the facts that lead to it, and what holds whatever comes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.actions.attempt import Attempt, Outcome
from sidecar.actions.incident import Incident
from sidecar.actions.incidents import Incidents
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import STRENGTH, Options
from sidecar.actions.options import Policy as Cap
from sidecar.actions.policy import Armed, Decision, Gate, Policy, Reason, Subject
from sidecar.actions.verify import Verdict
from sidecar.guard.wire import Channel, Event, Order
from sidecar.model import Cleanup
from sidecar.procfs import Identity

NOW = 1_000_000.0
MIB = 1 << 20
USR1, USR2, POST = Channel("signal", signal=10), Channel("signal", signal=12), Channel("http", url="http://x/cleanup")
EVERY: Mapping[Cleanup, tuple[Channel, ...]] = {"light": (USR1,), "standard": (USR1,), "aggressive": (USR1,)}
CLEANUPS: tuple[Cleanup, ...] = get_args(Cleanup)
RAG = Subject("rag", up=True, fresh=True, armed=True, age_seconds=3600.0, mode="enforce", channels=EVERY)
LIFE = Identity("boot", 42, 1000, (1, 2))
NEVER_DELIVERED = ("undelivered", "refused", "skipped")


def gate(level: str = "main", target: str = "rag", **changes: Any) -> Gate:
    """An open gate of a level as the shipped rules have it: critical stands as an order at the guard."""
    wanted, line = {"preventive": ("light", 800.0), "main": ("standard", 1000.0), "critical": ("aggressive", 1200.0)}[
        level]
    made = Gate(target, level, wanted, {"alertname": level}, open=True, ripe=True, standing=level == "critical",
                line_bytes=line * MIB, inclusive=False)
    return made._replace(**changes)


class Past:
    """A ledger and the incidents, and a guard that tells them what has happened."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.incidents = Incidents()
        self._numbers = count(1)

    def tell(self, kind: str, order: str, at: float, target: str = "rag", **detail: Any) -> Attempt | None:
        """One event of the guard."""
        return self.ledger.take_in(Event(next(self._numbers), at, kind, target, order, detail), lambda *_: 0.0)

    def begin(self, order: str, at: float, cleanup: str, target: str = "rag") -> None:
        """A line is crossed and an attempt begun."""
        self.tell("crossed", order, at, target, cleanup=cleanup, labels={}, used_bytes=2000.0 * MIB, line_bytes=None)

    def attempt(self, outcome: str, ago: float, cleanup: str = "standard", target: str = "rag", took: float = 0.5,
                channel: str = "signal", rebounded: bool | None = None) -> None:
        """An attempt that was begun `ago` seconds before NOW; `running` and `answered` ones have no outcome yet."""
        order, at = f"o{next(self._numbers)}", NOW - ago
        self.begin(order, at, cleanup, target)
        if outcome == "refused":
            self.tell("refused", order, at, target, channel=channel, reason="signal_default")
            self.tell("spent", order, at, target)
        elif outcome == "undelivered":
            self.tell("failed", order, at, target, channel=channel, reason="http_503")
            self.tell("spent", order, at, target)
        else:
            self.tell("delivered", order, at, target, channel=channel, delivery_seconds=0.001)
            if outcome != "running":
                self.tell("answered", order, at + took, target, channel=channel, duration_seconds=took)
            if outcome not in ("running", "answered"):
                verdict = Verdict(outcome, 0.0, 0.0)
                self.ledger.close(order, outcome, at + took + 3.0, verdict=verdict)
        if rebounded is not None:
            self.ledger.note_rebound(order, rebounded)


def decide(gates: Iterable[Gate], subject: Subject = RAG, past: Past | None = None, *, options: Options | None = None,
           kill_switch: bool = False, now: float = NOW) -> Decision:
    """The decision about one target."""
    options, known, opened = options or Options(), past or Past(), list(gates)
    known.incidents.update(subject, [each for each in opened if each.target == subject.name], options, now)
    return decide_all([subject], opened, known, Policy(options, kill_switch), now)[0]


def decide_all(subjects: list[Subject], gates: list[Gate], past: Past, policy: Policy, now: float) -> list[Decision]:
    """A decision about each target, with what is known of them."""
    of_target = {name: [gate for gate in gates if gate.target == name] for name in ("rag", "other")}
    return policy.decide(subjects, of_target, past.ledger, past.incidents, now)


def stand(policy: Policy, subject: Subject, gates: list[Gate], past: Past | None = None,
          now: float = NOW) -> list[Armed]:
    """The standing orders for one target."""
    known = past or Past()
    return policy.stand(subject, gates, known.ledger, known.incidents, now)


def past(*attempts: tuple[Any, ...], **more: Any) -> Past:
    """A past of attempts, oldest first."""
    made = Past()
    for each in attempts:
        made.attempt(*each, **more)
    return made


def struck(*cleanups: str) -> Past:
    """A past in which these cleanups have not helped this process three times in a row."""
    made = Past()
    made.incidents.lives.resume({"rag": LIFE}, NOW - 3600)
    for cleanup in cleanups:
        for _ in range(3):
            made.incidents.lives.learn("rag", cleanup, Options(), NOW - 60, dry=False, helped=False)
    return made


def in_incident(**changes: Any) -> Past:
    """A past with an open incident that has come so far."""
    made = Past()
    made.incidents.restore([("i", "state", NOW, Incident("i", "rag", NOW - 60, **changes).as_record())], NOW)
    return made


def parked(reason: Reason, strength: int) -> Past:
    """A past with a parked incident, when nothing stronger was allowed."""
    made = in_incident()
    made.incidents.park("rag", reason, strength)
    return made


MAIN = [gate("main")]
OTHER = gate("main", standing=False, line_bytes=None, fired_at=NOW - 400, labels={})
TABLE: list[tuple[Reason, dict[str, Any]]] = [
    (Reason.ACT, {"gates": MAIN}),
    (Reason.ACT, {"gates": MAIN, "past": past(("effective", 2.0, "standard"), took=0.01)}),
    (Reason.ACT, {"gates": MAIN, "past": past(("ineffective", 181.0, "standard"))}),
    (Reason.ACT, {"gates": MAIN, "past": past(("ineffective", 11.0, "light"))}),
    (Reason.ACT, {"gates": MAIN, "past": past(("undelivered", 3.0, "standard"), channel="http")}),
    (Reason.ACT, {"gates": MAIN, "past": past(("ineffective", 11.0, "standard", "other"))}),
    (Reason.ACT, {"gates": MAIN, "subject": replace(RAG, mode="dry_run")}),
    (Reason.ACT, {"gates": [*MAIN, gate("critical")],
                  "subject": replace(RAG, channels={"standard": (POST,), "aggressive": ()})}),
    (Reason.STANDING, {"gates": [*MAIN, gate("critical")]}),
    (Reason.STANDING, {"gates": [gate("critical")], "subject": replace(RAG, age_seconds=1.0)}),
    (Reason.BELOW, {"gates": []}),
    (Reason.BELOW, {"gates": [gate("main", open=False, ripe=False)]}),
    (Reason.BELOW, {"gates": [gate("main", target="other")]}),
    (Reason.PENDING, {"gates": [gate("main", ripe=False)]}),
    (Reason.OBSERVE, {"gates": MAIN, "subject": replace(RAG, mode="observe")}),
    (Reason.OBSERVE, {"gates": [gate("critical")], "subject": replace(RAG, mode="observe")}),
    (Reason.UNARMED, {"gates": MAIN, "subject": replace(RAG, armed=False)}),
    (Reason.KILL_SWITCH, {"gates": MAIN, "kill_switch": True}),
    (Reason.KILL_SWITCH, {"gates": [gate("critical")], "kill_switch": True}),
    (Reason.DOWN, {"gates": [], "subject": replace(RAG, up=False)}),
    (Reason.DOWN, {"gates": MAIN, "subject": replace(RAG, up=False)}),
    (Reason.STALE, {"gates": MAIN, "subject": replace(RAG, fresh=False)}),
    (Reason.NO_CHANNEL, {"gates": MAIN, "subject": replace(RAG, channels={})}),
    (Reason.NO_CHANNEL, {"gates": MAIN, "past": past(("refused", 300.0, "standard"))}),
    (Reason.NO_CHANNEL, {"gates": MAIN, "past": past(("refused", 300.0, "light"))}),
    (Reason.WARMUP, {"gates": MAIN, "subject": replace(RAG, age_seconds=59.0)}),
    (Reason.IN_FLIGHT, {"gates": MAIN, "past": past(("running", 1.0))}),
    (Reason.SETTLING, {"gates": MAIN, "past": past(("answered", 5.0))}),
    (Reason.SETTLING, {"gates": MAIN, "past": past(("answered", 15.0, "light"))}),
    (Reason.COOLDOWN, {"gates": MAIN, "past": past(("ineffective", 179.0))}),
    (Reason.COOLDOWN, {"gates": MAIN, "past": past(("partial", 100.0))}),
    (Reason.COOLDOWN, {"gates": MAIN, "past": past(("unknown", 100.0))}),
    (Reason.COOLDOWN, {"gates": MAIN, "past": past(("effective", 15.0), took=2.0)}),
    (Reason.COOLDOWN, {"gates": MAIN, "past": past(("ineffective", 100.0), ("undelivered", 40.0), channel="http")}),
    (Reason.BACKOFF, {"gates": MAIN, "past": past(("undelivered", 1.0), channel="http")}),
    (Reason.BACKOFF, {"gates": MAIN, "past": past(*[("undelivered", ago) for ago in (50, 40, 20, 7)])}),
    (Reason.BACKOFF, {"gates": MAIN, "past": past(("ineffective", 400.0), ("undelivered", 1.0), channel="http")}),
    (Reason.MIN_INTERVAL, {"gates": MAIN, "past": past(("ineffective", 9.0, "light"))}),
    (Reason.MIN_INTERVAL, {"gates": MAIN, "past": past(("ineffective", 9.0, "light", "other"))}),
    (Reason.MAX_CONCURRENT, {"gates": MAIN, "past": past(("running", 20.0, "light", "other"))}),
    (Reason.CRASHES, {"gates": MAIN, "subject": replace(RAG, crashes=True)}),
    (Reason.PAUSED, {"gates": MAIN, "subject": replace(RAG, paused=True)}),
    (Reason.PAUSED, {"gates": [gate("critical")], "subject": replace(RAG, paused=True)}),
    (Reason.FOREIGN, {"gates": MAIN, "subject": replace(RAG, foreign=True)}),
    (Reason.HOURLY, {"gates": MAIN, "past": past(*[("unknown", 3500.0 - n, "light", "other") for n in range(30)])}),
    (Reason.ACT, {"gates": MAIN, "past": past(*[("unknown", 3500.0 - n, "light", "other") for n in range(29)])}),
    (Reason.ACT, {"gates": MAIN, "past": past(*[("effective", 3500.0 - n, "light", "other") for n in range(30)])}),
    (Reason.ACTED, {"gates": [OTHER], "past": past(("ineffective", 300.0))}),
    (Reason.ACT, {"gates": [OTHER], "past": past(("undelivered", 300.0))}),
    (Reason.ACT, {"gates": [OTHER], "past": past(("ineffective", 401.0))}),
    (Reason.ACT, {"gates": [OTHER, *MAIN], "past": past(("ineffective", 300.0))}),
    (Reason.BUDGET, {"gates": MAIN, "past": past(*[("ineffective", 3590.0 - n) for n in range(6)])}),
    (Reason.ACT, {"gates": MAIN, "past": past(*[("ineffective", 3596.0 + n) for n in reversed(range(6))])}),
    (Reason.ACT, {"gates": MAIN, "past": past(*[("effective", 3590.0 - n) for n in range(6)])}),
    (Reason.BUDGET, {"gates": MAIN, "past": past(*[("effective", 3590.0 - n, "standard", "rag", 0.5, "signal", True)
                                                   for n in range(6)])}),
    (Reason.LEARNED, {"gates": MAIN, "past": struck("standard")}),
    (Reason.ACT, {"gates": MAIN, "past": struck("light", "aggressive")}),
    (Reason.PARKED, {"gates": MAIN, "past": parked(Reason.LEARNED, 1)}),
    (Reason.STANDING, {"gates": [*MAIN, gate("critical")], "past": parked(Reason.LEARNED, 1)}),
    (Reason.PARKED, {"gates": [*MAIN, gate("critical")], "past": parked(Reason.BUDGET, 2)}),
    (Reason.ACT, {"gates": MAIN, "past": in_incident(baseline=True)}),
    (Reason.BASELINE, {"gates": MAIN, "past": in_incident(baseline=True, attempts=1)}),
    (Reason.BASELINE, {"gates": [gate("critical")], "past": in_incident(baseline=True, attempts=1)}),
]


@pytest.mark.parametrize(("reason", "facts"), TABLE, ids=lambda value: value.value if isinstance(value, Reason) else "")
def test_decision_has_this_reason(reason: Reason, facts: dict[str, Any]) -> None:
    """These facts lead to this reason, and only `act` comes with an order."""
    decision = decide(**facts)

    assert decision.reason is reason
    assert (decision.order is not None) == (reason is Reason.ACT)


def test_table_has_every_reason() -> None:
    """A reason that no facts lead to would never be seen by anybody."""
    assert {reason for reason, _ in TABLE} == set(Reason)


def test_order_says_what_to_do_and_why() -> None:
    """It names the cleanup, the channels in their order, the alert and its line, and is carried out once."""
    subject = replace(RAG, channels={**EVERY, "standard": (POST, USR1)})
    order = decide(MAIN, subject).order

    assert order is not None
    assert (order.target, order.cleanup, order.channels, order.times) == ("rag", "standard", (POST, USR1), 1)
    assert (order.labels, order.line_bytes, order.inclusive) == ({"alertname": "main"}, 1000 * MIB, False)
    assert not order.dry_run


def test_strongest_open_gate_decides() -> None:
    """Preventive and main at once ask for what main asks for."""
    assert decide([gate("preventive"), gate("main")]).cleanup == "standard"
    assert decide([gate("preventive"), gate("main", ripe=False)]).cleanup == "light"


@pytest.mark.parametrize(("policies", "levels", "expected"), [
    ({"main": Cap("standard", "light")}, ["main"], "light"),
    ({"preventive": Cap("standard", "light")}, ["preventive"], "light"),
    ({"preventive": Cap("aggressive", "light"), "main": Cap("light", "standard")}, ["preventive", "main"], "standard"),
    ({}, ["preventive", "main"], "standard"),
])
def test_cleanup_is_never_stronger_than_the_strongest_open_gate_allows(
    policies: dict[str, Cap], levels: list[str], expected: str
) -> None:
    """`max` caps `entry`; a level without a policy asks for what its rule says."""
    assert decide(map(gate, levels), options=Options(policies=policies)).cleanup == expected


def test_standing_order_is_capped_too() -> None:
    """What the guard may do by itself obeys the same `max`."""
    policy = Policy(Options(policies={"critical": Cap("aggressive", "standard")}), kill_switch=False)

    [armed] = stand(policy, RAG, [gate("critical")])

    assert armed.order.cleanup == "standard"


def test_standing_order_waits_for_the_crossing_with_its_line_and_its_limits() -> None:
    """It stands before the line is crossed: who decides then is the guard."""
    [armed] = stand(Policy(Options(), False), RAG, [gate("critical", open=False, inclusive=True)])

    assert (armed.order.line_bytes, armed.order.inclusive, armed.order.cleanup) == (1200 * MIB, True, "aggressive")
    assert (armed.order.times, armed.order.again_after_seconds, armed.not_before) == (3, 300.0, 0.0)


@pytest.mark.parametrize("changes", [
    {"up": False}, {"fresh": False}, {"mode": "observe"}, {"armed": False}, {"channels": {}}], ids=str)
def test_nothing_stands_where_an_interlock_holds(changes: dict[str, Any]) -> None:
    """The interlocks hold for the guard's own deliveries as they do for ours."""
    assert stand(Policy(Options(), False), replace(RAG, **changes), [gate("critical")]) == []
    assert stand(Policy(Options(), True), RAG, [gate("critical")]) == []


def test_only_critical_stands() -> None:
    """A gate with a `for` is never carried out at the crossing."""
    assert stand(Policy(Options(), False), RAG, [gate("preventive"), gate("main")]) == []


@pytest.mark.parametrize(("attempts", "seconds"), [
    ([], None),
    ([("ineffective", 1.0, "standard"), ("undelivered", 1.0, "light")], None),
    ([("running", 1.0, "standard")], None),
    ([("effective", 10.0, "aggressive")], -9.5 + 5.0),
    ([("ineffective", 10.0, "aggressive")], -9.5 + 300.0),
    ([("answered", 10.0, "aggressive")], -9.5 + 300.0),
    ([("undelivered", 1.0, "aggressive")], -1.0 + 2.0),
    ([("undelivered", 9.0, "aggressive"), ("undelivered", 1.0, "aggressive")], -1.0 + 4.0),
])
def test_critical_waits_only_for_its_own_attempts(attempts: list[tuple[Any, ...]], seconds: float | None) -> None:
    """Its own rest after what it did, and nothing of what the other levels did."""
    subject = replace(RAG, age_seconds=0.0)
    [armed] = stand(Policy(Options(), False), subject, [gate("critical")], past(*attempts, channel="http"))

    assert armed.not_before == (0.0 if seconds is None else pytest.approx(NOW + seconds))


def test_undelivered_attempts_back_off_from_2_to_30_seconds() -> None:
    """Each attempt in vain waits longer, at most half a minute; one that was delivered ends that."""
    made, waits = Past(), []
    for _ in range(7):
        made.attempt("undelivered", 0.0, channel="http")
        waits.append(next(s for s in count() if decide(MAIN, past=made, now=NOW + s).reason is Reason.ACT))
    made.attempt("effective", 0.0, took=0.0)
    made.attempt("undelivered", 0.0, channel="http")

    assert waits == [2, 4, 8, 16, 30, 30, 30]
    assert decide(MAIN, past=made, now=NOW + 2).reason is Reason.ACT


def test_attempts_in_vain_cost_no_interval() -> None:
    """What was never delivered keeps no other cleanup waiting."""
    made = past(("undelivered", 1.0, "light"), ("skipped", 1.0, "light"), channel="http")

    assert decide(MAIN, past=made).reason is Reason.ACT


def test_refused_signal_disarms_that_signal_and_no_other() -> None:
    """SIGUSR1 without a handler says nothing about SIGUSR2, and nothing about the endpoint."""
    made = past(("refused", 100.0, "light"))
    channels = {"light": (USR1,), "standard": (USR1, POST), "aggressive": (USR2,)}
    subject = replace(RAG, channels=channels)

    assert decide([gate("preventive")], subject, made).reason is Reason.NO_CHANNEL
    order = decide(MAIN, subject, made).order
    assert order is not None
    assert order.channels == (POST,)
    [armed] = stand(Policy(Options(), False), subject, [gate("critical")], made)
    assert armed.order.channels == (USR2,)


def test_one_target_at_a_time_on_one_machine() -> None:
    """Two targets over their lines: one acts, the other one waits; with room for two, both act."""
    both = [RAG, replace(RAG, name="other")]
    gates = [gate("main"), gate("main", target="other")]
    one, two = Policy(Options(), False), Policy(Options(max_concurrent=2), False)

    assert [d.reason for d in decide_all(both, gates, Past(), one, NOW)] == [Reason.ACT, Reason.MAX_CONCURRENT]
    assert [d.reason for d in decide_all(both, gates, Past(), two, NOW)] == [Reason.ACT, Reason.ACT]


# What holds whatever comes: a small model of a guard that answers, refuses or stays silent, and a policy beside it.

ANSWERS = ("effective", "ineffective", "refused", "undelivered", "skipped", "silent")
SETTLED_SECONDS, SILENT_SECONDS = 3.0, 90.0


@dataclass(frozen=True)
class Step:
    """What one tick brings."""

    seconds: float
    used: dict[str, float]
    ripe: bool
    changes: dict[str, Any]
    kill_switch: bool
    answer: str
    took: float


STEPS = st.builds(
    Step,
    seconds=st.sampled_from([1.0, 1.0, 1.0, 2.0, 11.0, 70.0, 310.0]),
    used=st.fixed_dictionaries({name: st.sampled_from([0.0, 900.0, 1100.0, 1300.0]) for name in ("rag", "other")}),
    ripe=st.booleans(),
    changes=st.one_of(st.just({}), st.just({}), st.sampled_from([
        {"up": False}, {"fresh": False}, {"armed": False}, {"mode": "observe"}, {"mode": "dry_run"}, {"channels": {}},
        {"age_seconds": 5.0}, {"channels": {"light": (POST,), "standard": (POST, USR1), "aggressive": (USR2,)}}])),
    kill_switch=st.sampled_from([False, False, False, True]),
    answer=st.sampled_from(ANSWERS),
    took=st.sampled_from([0.0, 0.01, 0.4, 5.0]),
)
CAPS = st.fixed_dictionaries({}, optional={level: st.builds(Cap, st.sampled_from(CLEANUPS), st.sampled_from(CLEANUPS))
                                           for level in ("preventive", "main", "critical")})


class Guard:
    """Begins what it is ordered to, one at a time for each target, and tells of it at the next tick."""

    def __init__(self) -> None:
        self.past = Past()
        self.in_flight: dict[str, tuple[str, Step, float]] = {}
        self.to_judge: dict[str, tuple[Outcome, float]] = {}
        self.began: list[tuple[float, Order]] = []

    def take(self, order: Order, step: Step, now: float) -> None:
        """Carry an order out, if nothing is in flight."""
        if step.answer == "skipped":
            self.past.ledger.skip(order, 0.0, now, "recovered")
        elif order.target not in self.in_flight:
            attempt = f"{order.id}.{len(self.began)}"
            self.began.append((now, order))
            self.in_flight[order.target] = attempt, step, now
            channel = order.channels[0].kind
            self.past.tell("crossed", attempt, now, order.target, cleanup=order.cleanup, labels=order.labels,
                           used_bytes=step.used[order.target] * MIB, line_bytes=order.line_bytes, dry_run=order.dry_run)
            if step.answer in ("refused", "undelivered"):
                kind = "refused" if step.answer == "refused" else "failed"
                self.past.tell(kind, attempt, now, order.target, channel=channel, reason="x")
                self.past.tell("spent", attempt, now, order.target)
                del self.in_flight[order.target]
            else:
                self.past.tell("delivered", attempt, now, order.target, channel=channel, delivery_seconds=0.0)

    def go_on(self, now: float) -> None:
        """Answer what has been carried out, and give the verdicts that are due."""
        for target, (attempt, step, began) in list(self.in_flight.items()):
            if step.answer != "silent" and now >= began + step.took:
                answered = self.past.tell("answered", attempt, began + step.took, target, channel="signal",
                                          duration_seconds=step.took)
                if answered and not answered.outcome:
                    self.to_judge[attempt] = step.answer, began + step.took + SETTLED_SECONDS
                del self.in_flight[target]
            elif now > began + SILENT_SECONDS:
                self.past.ledger.close(attempt, "unknown", now)
                del self.in_flight[target]
        for attempt, (outcome, due) in list(self.to_judge.items()):
            if now >= due:
                self.past.ledger.close(attempt, outcome, now, verdict=Verdict(outcome, 0.0, 0.0))
                del self.to_judge[attempt]


def gates_at(step: Step) -> list[Gate]:
    """The gates of both targets for what they use now."""
    return [gate(level, target, open=used * MIB > line, ripe=level == "critical" or (step.ripe and used * MIB > line))
            for target, used in step.used.items()
            for level in ("preventive", "main", "critical") if (line := gate(level).line_bytes or 0.0)]


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=60), CAPS, st.sampled_from([1, 2]))
def test_what_holds_whatever_comes(steps: list[Step], caps: dict[str, Cap], at_once: int) -> None:
    """Through every trace of memory, data, interlocks and answers the promises of the policy are kept."""
    guard, now, options = Guard(), NOW, Options(policies=caps, max_concurrent=at_once)
    for step in steps:
        now += step.seconds
        guard.go_on(now)
        subjects, gates = [replace(RAG, **step.changes), replace(RAG, name="other")], gates_at(step)
        policy, ledger = Policy(options, step.kill_switch), guard.past.ledger
        for subject in subjects:
            own = [each for each in gates if each.target == subject.name]
            guard.past.incidents.update(subject, own, options, now)
            if guard.past.incidents.current(subject.name) is None:
                ledger.rearm(subject.name)
        decisions = decide_all(subjects, gates, guard.past, policy, now)
        acting = [decision.order for decision in decisions if decision.order]

        assert len(acting) <= max(0, at_once - sum(each.answered_at is None for each in ledger.open()))
        for subject, decision in zip(subjects, decisions, strict=True):
            own = [each for each in gates if each.target == subject.name and each.open]
            promise_of_an_order(decision, subject, own, step, policy, ledger, now)
            standing = stand(policy, subject, [each for each in gates if each.target == subject.name], guard.past, now)
            promise_of_standing_orders(subject, standing, step, ledger, now)
            assert all(STRENGTH[each.order.cleanup] <= STRENGTH[caps["critical"].max] for each in standing
                       if "critical" in caps)
            if step.used[subject.name] > 1200.0 and all(each.not_before <= now for each in standing):
                acting += [each.order for each in standing]
        for order in acting:
            guard.take(order, step, now)


def promise_of_an_order(decision: Decision, subject: Subject, own: list[Gate], step: Step, policy: Policy,
                        ledger: Ledger, now: float) -> None:
    """What an order may be, and when there must be one."""
    order, dry = decision.order, subject.mode == "dry_run"
    mine = [each for each in ledger.attempts(subject.name) if each.dry_run == dry]  # rehearsals count among themselves
    assert (order is not None) == (decision.reason is Reason.ACT)
    if order:
        assert not ledger.open(subject.name)
        assert subject.up
        assert subject.fresh
        assert subject.mode != "observe"
        assert not step.kill_switch
        assert order.channels
        assert set(order.channels) <= set(subject.channels[order.cleanup])
        assert order.dry_run == (subject.mode == "dry_run")
        allowed = [policy.options.policies[each.level].max if each.level in policy.options.policies else each.wanted
                   for each in own]
        assert STRENGTH[order.cleanup] <= max(map(STRENGTH.__getitem__, allowed))
        delivered = [each for each in mine if each.cleanup == order.cleanup and each.outcome not in NEVER_DELIVERED]
        if delivered and delivered[0].outcome != "effective":
            assert now >= delivered[0].started_at + policy.options.cooldown_seconds[order.cleanup]
    if decision.reason is Reason.COOLDOWN and mine[0].outcome == "effective" and mine[0].cleanup == decision.cleanup:
        assert mine[0].answered_at is not None
        assert now < mine[0].answered_at + max(1.0, 10 * (mine[0].duration_seconds or 0.0))
    if decision.reason is Reason.MIN_INTERVAL:
        newest = next(each for each in ledger.attempts() if each.outcome not in NEVER_DELIVERED and each.dry_run == dry)
        assert newest.outcome != "effective"


def promise_of_standing_orders(subject: Subject, standing: list[Any], step: Step, ledger: Ledger, now: float) -> None:
    """They stand whenever no interlock holds, and wait for nothing but their own attempts."""
    held = step.kill_switch or not (subject.up and subject.fresh and subject.armed) or subject.mode == "observe"
    assert not (held and standing)
    for armed in standing:
        assert armed.order.channels
        assert armed.order.dry_run == (subject.mode == "dry_run")
        own = [each for each in ledger.attempts(subject.name) if each.cleanup == armed.order.cleanup]
        latest = max([each.ended_at or each.answered_at or each.started_at for each in own], default=-300.0)
        assert armed.not_before <= latest + 300.0
        if not own:
            assert armed.not_before == 0.0
