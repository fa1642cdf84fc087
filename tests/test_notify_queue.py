"""When one Alertmanager is told of what: the outbox in virtual time."""

import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.model import Alert, Labels
from sidecar.notify import queue
from sidecar.notify.queue import END, FIRING, FOLLOWS_SECONDS, NOTHING, SPARED, Batch, Outbox
from sidecar.promql.steps import finish

T = 1_000_000.0


def outbox(resend_delay_seconds: float = 60.0) -> Outbox:
    """An outbox whose retries wait as long as they may."""
    return Outbox(resend_delay_seconds=resend_delay_seconds, uniform=lambda low, high: high)


def alert(name: str = "MemoryCritical", at: float = T, **changes: object) -> Alert:
    """An alert that fired at `at` and was evaluated then, with `changes`."""
    fired = Alert(
        labels=Labels({"alertname": name}), annotations={}, state="firing", condition=True, value=1.0, active_at=at,
        fired_at=at, resolved_at=None, keep_firing_since=None, last_evaluation=at, interval_seconds=1.0, expr="a > 1",
    )  # fmt: skip
    return replace(fired, **changes)  # type: ignore[arg-type]


def resolved(of: Alert, at: float) -> Alert:
    """The same alert, ended at `at`."""
    return replace(of, state="inactive", condition=False, resolved_at=at, last_evaluation=at)


def told(batch: Batch) -> list[tuple[str, str]]:
    """What a batch says: (alert, firing or resolved)."""
    return [(m.alert.name, "resolved" if m.alert.resolved_at is not None else "firing") for m in batch]


def deliver(box: Outbox, now: float) -> list[tuple[str, str]]:
    """Everything that can be taken at `now`, and a moment later where an end follows; accepted batch by batch."""
    said = []
    while batch := box.take(now) or box.take(now + FOLLOWS_SECONDS):
        box.acknowledge(batch, now)
        said += told(batch)
    return said


def test_pending_alerts_are_never_told() -> None:
    """A pending alert and one that ended while pending stay inside."""
    box = outbox()
    pending = alert(state="pending", fired_at=None)
    box.offer([pending, replace(pending, state="inactive", resolved_at=T)], T)
    assert (box.take(T), len(box), box.wait_seconds(T)) == ((), 0, None)


def test_firing_and_resolve_are_told_at_once() -> None:
    """An alert is due in the very evaluation in which it fires, and again in the one in which it ends."""
    box = outbox()
    box.offer([alert()], T)
    assert deliver(box, T) == [("MemoryCritical", "firing")]
    box.offer([resolved(alert(), T + 1)], T + 1)
    assert deliver(box, T + 1) == [("MemoryCritical", "resolved")]


@pytest.mark.parametrize(("interval", "expected"), [(15.0, [0.0, 75.0, 150.0]), (60.0, [0.0, 120.0])])
def test_resend_is_strictly_later_than_the_delay(interval: float, expected: list[float]) -> None:
    """Resends come at the first evaluation strictly after the delay: every 75 s at 15 s, every 120 s at 1 m."""
    box, seen, now = outbox(), [], T
    while now <= T + 150:
        box.offer([alert(last_evaluation=now, interval_seconds=interval)], now)
        seen += [now - T] * len(deliver(box, now))
        now += interval
    assert seen == expected


def test_alert_whose_rule_fails_is_not_repeated() -> None:
    """While nobody has judged it again nothing new can be said of it: it is neither resent nor counted as expired."""
    box = outbox()
    for second in range(1000):
        box.offer([alert()], T + second)
        assert deliver(box, T + second) == ([("MemoryCritical", "firing")] if second == 0 else [])
    assert box.counts.expired == 0
    box.offer([alert(last_evaluation=T + 1000)], T + 1000)
    assert deliver(box, T + 1000) == [("MemoryCritical", "firing")]


def test_firing_holds_for_four_resends_after_its_evaluation() -> None:
    """endsAt is the evaluation's time plus four times the longer of interval and resend delay."""
    box = outbox()
    slow = alert("Slow", last_evaluation=T + 7, interval_seconds=100.0)
    box.offer([alert(last_evaluation=T + 5), slow], T + 7)
    assert [message.ends_at for message in box.take(T + 7)] == [T + 5 + 240, T + 7 + 400]


def test_resolved_is_resent_while_the_rule_keeps_it() -> None:
    """A resolved alert is repeated on the cadence with the same end, and no longer once the rule has let it go."""
    box = outbox()
    box.offer([alert()], T)
    deliver(box, T)
    ended = resolved(alert(), T + 10)
    ends = []
    for second in range(10, 911):
        box.offer([ended], T + second)
        while batch := box.take(T + second):
            ends += [(second, message.ends_at) for message in batch]
            box.acknowledge(batch, T + second)
    assert ends == [(second, T + 10) for second in range(10, 911, 61)]
    assert deliver(box, T + 1000) == []


def test_unaccepted_firing_is_told_before_its_resolve() -> None:
    """An alert that ended while Alertmanager was away is told as firing, then as resolved, in two posts."""
    box = outbox()
    box.offer([alert()], T)
    box.fail(box.take(T), T)
    box.offer([resolved(alert(), T + 2)], T + 2)
    assert len(box) == 2
    first = box.take(T + 2)
    box.acknowledge(first, T + 2)
    assert (box.take(T + 2), box.wait_seconds(T + 2)) == ((), FOLLOWS_SECONDS)  # what follows too soon hides it
    second = box.take(T + 3)
    assert (told(first), told(second)) == ([("MemoryCritical", "firing")], [("MemoryCritical", "resolved")])


def test_resolve_arriving_during_a_post_follows_it() -> None:
    """A resolve that comes while its firing is under way is posted after it, not lost with the answer to it."""
    box = outbox()
    box.offer([alert()], T)
    under_way = box.take(T)
    box.offer([resolved(alert(), T + 1)], T + 1)
    box.acknowledge(under_way, T + 2)
    assert deliver(box, T + 2) == [("MemoryCritical", "resolved")]


def test_resolve_of_an_accepted_firing_replaces_its_resend() -> None:
    """Once a firing was accepted, a waiting resend of it gives way to the resolve: the latest state wins."""
    box = outbox()
    box.offer([alert()], T)
    deliver(box, T)
    box.offer([alert(last_evaluation=T + 61)], T + 61)
    box.offer([resolved(alert(), T + 62)], T + 62)
    assert deliver(box, T + 62) == [("MemoryCritical", "resolved")]


def test_alert_firing_again_replaces_its_resolve() -> None:
    """A resolve that still waits when the alert fires anew is dropped: Alertmanager is told what is true now."""
    box = outbox()
    box.offer([alert()], T)
    deliver(box, T)
    box.offer([resolved(alert(), T + 1)], T + 1)
    box.offer([alert(at=T + 2)], T + 2)
    assert deliver(box, T + 2) == [("MemoryCritical", "firing")]


def test_waiting_alert_is_posted_as_it_is_now() -> None:
    """What waits is brought up to date at each offer, so that a late post carries the latest value and end."""
    box = outbox()
    box.offer([alert()], T)
    box.fail(box.take(T), T)
    box.offer([alert(value=7.0, last_evaluation=T + 30)], T + 30)
    (message,) = box.take(T + 30)
    assert (message.alert.value, message.ends_at) == (7.0, T + 30 + 240)


def test_retries_wait_longer_up_to_four_seconds() -> None:
    """After each failure the wait is drawn below 0.5, 1, 2, 4, 4 … seconds, and starts over after a success."""
    asked: list[tuple[float, float]] = []
    box = Outbox(resend_delay_seconds=60.0, uniform=lambda low, high: asked.append((low, high)) or high)
    now = T
    box.offer([alert()], now)
    for _ in range(5):
        box.fail(box.take(now), now)
        assert box.take(now) == ()
        wait = box.wait_seconds(now)
        assert wait == asked[-1][1]
        now += wait
    deliver(box, now)
    box.offer([alert("Another", at=now)], now)
    box.fail(box.take(now), now)
    assert asked == [(0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (0.0, 4.0), (0.0, 4.0), (0.0, 0.5)]


def test_firing_that_nobody_repeats_is_given_up_when_it_ends() -> None:
    """A firing is retried inside its validity only, and counted when it is given up."""
    box = outbox()
    box.offer([alert()], T)
    box.fail(box.take(T), T)
    assert told(box.take(T + 239)) == [("MemoryCritical", "firing")]
    assert box.take(T + 240) == ()
    assert (len(box), box.counts.expired) == (0, 1)


def test_resolve_is_retried_after_the_rule_has_let_it_go() -> None:
    """A resolve that nobody offers any more is still tried, for as long as Prometheus would keep it."""
    box = outbox()
    box.offer([alert()], T)
    deliver(box, T)
    box.offer([resolved(alert(), T)], T)
    box.fail(box.take(T), T)
    assert told(box.take(T + 899)) == [("MemoryCritical", "resolved")]
    assert box.take(T + 900) == ()


@pytest.mark.parametrize("step", [-7200.0, 7200.0])
def test_clock_steps_do_not_silence_it(step: float) -> None:
    """After a step of the clock, in either direction, a failed alert is retried and an accepted one repeated."""
    box = outbox()
    box.offer([alert("Accepted")], T)
    deliver(box, T)
    box.offer([alert("Failed")], T)
    box.fail(box.take(T), T)
    now = T + step
    box.offer([alert("Accepted", last_evaluation=now), alert("Failed", last_evaluation=now)], now)
    assert sorted(deliver(box, now)) == [("Accepted", "firing"), ("Failed", "firing")]


def test_batches_hold_at_most_256() -> None:
    """600 alerts go out as 256, 256 and 88, oldest first."""
    box = outbox()
    box.offer([alert(f"A{number}") for number in range(600)], T)
    sizes, names = [], []
    while batch := box.take(T):
        box.acknowledge(batch, T)
        sizes.append(len(batch))
        names += [message.alert.name for message in batch]
    assert (sizes, names) == ([256, 256, 88], [f"A{number}" for number in range(600)])


def test_queue_is_bounded_and_drops_the_oldest() -> None:
    """Of 10,300 alerts the 10,000 newest wait, the rest is counted, and what is under way is not dropped."""
    box = outbox()
    box.offer([alert("Under way")], T)
    under_way = box.take(T)
    box.offer([alert(f"A{number}") for number in range(10_299)], T)
    assert (len(box), box.counts.overflowed) == (10_000, 300)
    box.acknowledge(under_way, T)
    assert deliver(box, T)[0] == ("A300", "firing")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts beyond the number that is followed are dropped and counted until others have been let go."""
    monkeypatch.setattr(queue, "FOLLOWED", 3)
    box = outbox()
    box.offer([alert(f"A{number}") for number in range(5)], T)
    assert (len(deliver(box, T)), box.counts.overflowed) == (3, 2)
    finish(box.tidy(T + 901))
    box.offer([alert("Later", at=T + 902)], T + 902)
    assert deliver(box, T + 902) == [("Later", "firing")]


@pytest.mark.parametrize("size", [1, 2, 7, 256])
def test_only_the_alert_at_fault_is_held_back(size: int) -> None:
    """A refused batch is halved until the poison is alone; everything else arrives, and it is logged once."""
    box, arrived, found = outbox(), [], []
    alerts = [alert("Poison" if number == size // 2 else f"A{number}") for number in range(size)]
    posts = 0
    for now in (T, T + 61):
        box.offer([replace(each, last_evaluation=now) for each in alerts], now)
        while batch := box.take(now):
            posts += 1
            if ("Poison", "firing") in told(batch):
                found.append(box.refuse(batch, now))
            else:
                box.acknowledge(batch, now)
                arrived += [message.alert.name for message in batch]
    assert sorted(arrived) == sorted(2 * [each.name for each in alerts if each.name != "Poison"])
    assert [culprit.alert.name for culprit in found if culprit] == ["Poison"]
    assert (box.counts.refused, len(box)) == (2, 0)
    assert posts <= 2 * 8 + 1 + 2


def test_second_firing_is_told_before_its_resolve_too() -> None:
    """That an earlier firing was accepted says nothing about the next one of the same alert."""
    box = outbox()
    box.offer([alert()], T)
    deliver(box, T)
    box.offer([resolved(alert(), T + 1)], T + 1)
    deliver(box, T + 1)
    box.offer([alert(at=T + 2)], T + 2)
    box.offer([resolved(alert(at=T + 2), T + 3)], T + 3)
    assert deliver(box, T + 3) == [("MemoryCritical", "firing"), ("MemoryCritical", "resolved")]


def test_failure_while_searching_for_the_fault_is_waited_out() -> None:
    """An Alertmanager that goes away in the middle of a search is left alone like any other that fails."""
    box = outbox()
    box.offer([alert("A"), alert("B")], T)
    box.refuse(box.take(T), T)
    box.fail(box.take(T), T)
    assert (box.take(T), box.wait_seconds(T)) == ((), 0.5)
    assert len(box.take(T + 0.5)) == 2


def test_alert_no_longer_at_fault_rejoins_the_others() -> None:
    """An alert that was refused and is accepted later travels with the others again."""
    box = outbox()
    box.offer([alert("Poison")], T)
    box.refuse(box.take(T), T)
    box.offer([alert("Poison", last_evaluation=T + 61)], T + 61)
    deliver(box, T + 61)
    box.offer([alert("Poison", last_evaluation=T + 122), alert("Sound")], T + 122)
    assert len(box.take(T + 122)) == 2


@pytest.mark.parametrize("seconds", [2, 250, 890])
def test_firing_whose_end_follows_is_valid_as_long_as_the_end(seconds: int) -> None:
    """An Alertmanager that was away is told of what began and ended meanwhile: firing, with an end that lies ahead."""
    box = outbox()
    for second in range(seconds):
        box.offer([alert() if second == 0 else resolved(alert(), T + 1)], T + second)
        if batch := box.take(T + second):
            box.fail(batch, T + second)
    now = T + seconds + 4
    (began,) = box.take(now)
    assert (told((began,)), began.ends_at) == ([("MemoryCritical", "firing")], now + 240)
    box.acknowledge((began,), now)
    (ended,) = box.take(now + FOLLOWS_SECONDS)
    assert (told((ended,)), ended.ends_at) == ([("MemoryCritical", "resolved")], T + 1)
    assert box.counts.expired == 0


def test_what_began_and_ended_at_once_is_told_as_both() -> None:
    """An alert that is seen only when it has ended is told as firing first: an end alone would tell nobody."""
    box = outbox()
    box.offer([resolved(alert(), T + 1)], T + 1)
    assert deliver(box, T + 1) == [("MemoryCritical", "firing"), ("MemoryCritical", "resolved")]


def test_firing_that_was_given_up_is_told_with_its_end() -> None:
    """A rule that fails lets its firing expire while Alertmanager is away; when it has ended, both are told."""
    box = outbox()
    box.offer([alert()], T)
    box.fail(box.take(T), T)
    assert (box.take(T + 240), box.counts.expired) == ((), 1)
    box.offer([resolved(alert(), T + 300)], T + 300)
    assert deliver(box, T + 300) == [("MemoryCritical", "firing"), ("MemoryCritical", "resolved")]


ENDED = resolved(alert(at=T - 30), T - 10)


@pytest.mark.parametrize(("heard", "expected"), [
    (NOTHING, ["firing", "resolved"]), (FIRING, ["resolved"]), (END, []), (None, []), (SPARED, [])])
def test_end_before_a_restart_is_told_to_whom_it_is_news(heard: int | None, expected: list[str]) -> None:
    """Who had accepted nothing hears both, who the firing its end; who both, or was not there, nothing."""
    box = outbox()
    box.restore([(ENDED, heard)], T)
    box.offer([ENDED], T)
    assert [what for _, what in deliver(box, T)] == expected
    assert box.heard(ENDED) == (SPARED if heard in (None, SPARED) else END)


@pytest.mark.parametrize(("heard", "expected"), [(NOTHING, ["firing", "resolved"]), (FIRING, ["resolved"]),
                                                 (None, ["firing", "resolved"])])
def test_alert_that_ended_over_a_restart_is_told_to_everybody(heard: int | None, expected: list[str]) -> None:
    """It fired before; the first look after the restart finds it ended: who had not accepted the firing hears both."""
    box, fired = outbox(), alert(at=T - 30)
    box.restore([(fired, heard)], T)
    box.offer([resolved(fired, T + 1)], T + 1)
    assert [what for _, what in deliver(box, T + 1)] == expected


@pytest.mark.parametrize("heard", [NOTHING, FIRING, None])
def test_what_fires_is_told_once_more_after_a_restart(heard: int | None) -> None:
    """Nobody knows how long the last post holds; a newer firing of the same alert is told with its end like any."""
    box, fired = outbox(), alert(at=T - 30, last_evaluation=T)
    box.restore([(fired, heard)], T)
    box.offer([fired], T)
    assert deliver(box, T) == [("MemoryCritical", "firing")]
    box.offer([resolved(alert(at=T + 5), T + 9)], T + 9)
    assert [what for _, what in deliver(box, T + 9)] == ["firing", "resolved"]


def test_end_that_was_accepted_is_repeated_on_the_cadence_after_a_restart() -> None:
    """As without one: strictly more than 60 s later, because an Alertmanager may have forgotten; to new ones never."""
    box, new = outbox(), outbox()
    box.restore([(ENDED, END)], T)
    new.restore([(ENDED, None)], T)
    told_at = []
    for second in range(200):
        for each in (box, new):
            each.offer([ENDED], T + second)
        told_at += [second] * len(deliver(box, T + second))
        assert deliver(new, T + second) == []
    assert told_at == [61, 122, 183]


def test_one_that_is_dead_for_a_day_costs_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,500 alerts that begin and end while nobody answers, those of the last 15 minutes wait."""
    box, ended, most = outbox(), dict[int, Alert](), 0
    for minute in range(24 * 60):
        now = T + 60 * minute
        ended = {began: each for began, each in ended.items() if minute - began <= 15}
        ended[minute] = resolved(alert(f"A{minute}", at=now), now + 1)
        box.offer(ended.values(), now + 2)
        finish(box.tidy(now + 2))
        if batch := box.take(now + 2):
            box.fail(batch, now + 2)
        most = max(most, len(box))
    assert most <= 2 * 16
    assert len(box._told) <= 32
    assert box.counts.expired == 2 * (24 * 60 - 15)


class Telling(RuleBasedStateMachine):
    """Alerts fire, end and fire again while an Alertmanager accepts, fails, or refuses what is poisoned."""

    NAMES = ("A", "B", "C", "Poison")

    def __init__(self) -> None:
        super().__init__()
        self.now = T
        self.box = Outbox(resend_delay_seconds=60.0, uniform=random.Random(1).uniform)
        self.alerts: dict[str, Alert] = {}
        self.heard: dict[str, list[tuple[float | None, str]]] = defaultdict(list)
        self.page: dict[str, int] = {}
        self.repeated: set[str] = set()
        self.pending_again: set[str] = set()

    @rule(killed=st.booleans())
    def restarts(self, killed: bool) -> None:
        """What the last page of the journal says is known: after a kill that of the last evaluation."""
        # The end before is nobody's any more: where it was not accepted Alertmanager ends the alert by itself.
        self.pending_again |= {name for name, each in self.alerts.items() if each.state == "pending"}
        before, self.box = self.box, Outbox(resend_delay_seconds=60.0, uniform=random.Random(1).uniform)
        known = {name: before.heard(each) for name, each in self.alerts.items()}
        if killed:
            self.repeated |= {name for name in known if known[name] != self.page.get(name, known[name])}
            known |= {name: self.page[name] for name in known if name in self.page}
        self.box.restore([(each, known[name]) for name, each in self.alerts.items()], self.now)

    @rule(name=st.sampled_from(NAMES))
    def pending(self, name: str) -> None:
        if name not in self.alerts or self.alerts[name].state == "inactive":
            self.alerts[name] = alert(name, at=self.now, state="pending", fired_at=None)

    @rule(name=st.sampled_from(NAMES))
    def fires(self, name: str) -> None:
        if name not in self.alerts or self.alerts[name].state != "firing":
            self.alerts[name] = alert(name, at=self.now)

    @rule(name=st.sampled_from(NAMES))
    def ends(self, name: str) -> None:
        if name in self.alerts and self.alerts[name].state == "firing":
            self.alerts[name] = resolved(self.alerts[name], self.now)
        elif name in self.alerts and self.alerts[name].state == "pending":
            del self.alerts[name]
        self.evaluates(1.0)  # a rule offers the end of an alert before the alert can begin anew

    @rule(seconds=st.sampled_from([1.0, 5.0, 61.0]))
    def evaluates(self, seconds: float) -> None:
        self.now += seconds
        self.alerts = {
            name: each if each.state == "inactive" else replace(each, last_evaluation=self.now)
            for name, each in self.alerts.items()
            if each.resolved_at is None or self.now - each.resolved_at < 890
        }
        self.box.offer(self.alerts.values(), self.now)
        self.page = {name: self.box.heard(each) for name, each in self.alerts.items()}

    @rule(arrives=st.booleans())
    @precondition(lambda self: len(self.box))
    def posts(self, arrives: bool) -> None:
        batch = self.box.take(self.now)
        if batch:
            self.answer(batch, arrives)

    def answer(self, batch: Batch, arrives: bool) -> None:
        assert all(message.alert.fired_at is not None and message.alert.state != "pending" for message in batch)
        assert len({message.alert.labels for message in batch}) == len(batch)
        if not arrives:
            self.box.fail(batch, self.now)
        elif any(name == "Poison" for name, _ in told(batch)):
            self.box.refuse(batch, self.now)
        else:
            self.box.acknowledge(batch, self.now)
            for message, (name, what) in zip(batch, told(batch), strict=True):
                self.heard[name].append((message.alert.fired_at, what))

    @invariant()
    def at_most_two_messages_of_an_alert_wait(self) -> None:
        assert len(self.box) <= 2 * len(self.NAMES)

    def teardown(self) -> None:
        """Alertmanager comes back: afterwards it knows the latest state of everything that it should know."""
        self.evaluates(1.0)
        self.now += 4.0
        while batch := self.box.take(self.now) or self.box.take(self.now + FOLLOWS_SECONDS):
            self.answer(batch, arrives=True)
        for name, each in self.alerts.items():
            if name == "Poison":
                assert not self.heard[name]
            elif each.state == "firing":
                assert self.heard[name][-1] == (each.fired_at, "firing")
            elif each.state == "inactive":
                assert self.heard[name][-1] == (each.fired_at, "resolved")
            elif self.heard[name] and name not in self.pending_again:
                assert self.heard[name][-1][1] == "resolved" or self.box.counts.expired
        for name, heard in self.heard.items():
            told_firing = [fired_at for fired_at, what in heard if what == "firing"]
            assert told_firing == sorted(told_firing), f"{name}: an old firing was told after a newer one"
            for fired_at in {fired_at for fired_at, _ in heard} if name not in self.repeated else ():
                told_of = [what for at, what in heard if at == fired_at]
                assert told_of == sorted(told_of), f"{name}: fires again after its end"
                assert told_of[0] == "firing", f"{name}: an end alone"


Telling.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestTelling = Telling.TestCase
