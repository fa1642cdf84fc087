"""Rules after a restart, in virtual time: what goes on, what starts anew, what waits until the store says something."""

from functools import partial

import pytest

from sidecar.model import Labels, Sample
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.rules.group import Group
from sidecar.rules.restart import continued, history, recorded_history
from sidecar.rules.spec import AlertingSpec, GroupSpec
from sidecar.store import Store


class Life:
    """A store and one group of rules, from a start to a kill."""

    def __init__(self, *rules, interval=1.0):
        self.store = Store()
        self.query = lambda expr, at: instant(expr, self.store.select, at)
        self.group = Group(GroupSpec("g", "r.yml", tuple(rules)), default_interval_seconds=interval,
                           external_labels={}, external_url="")
        self.rules, self.interval, self.seen_at = rules, interval, 0.0

    def at(self, at, *values):
        """Append samples `(name, value, labels)`, evaluate, return the alerts."""
        self.store.append([Sample(Labels({"__name__": name, **labels}), value, at) for name, value, labels in values])
        self.group.evaluate(at, self.query, self.store.append)
        self.seen_at = at
        return self.group.alerts()

    def killed(self, now, same_process=True, rules=None, recorded=None):
        """The next life, which begins at `now` with an empty store."""
        after = Life(*(rules or self.rules), interval=self.interval)
        kept = [(key, alert) for key, rule in self.group.keyed for one in rule.alerts()
                if (alert := continued(one, seen_at=self.seen_at, now=now, interval_seconds=self.interval,
                                       same_process=same_process)) is not None]
        after.group.restore(kept, now, recorded or {})
        return after


def alert(expr="x > 0", name="A", hold=0.0, keep=0.0, **labels):
    """An alerting rule."""
    return AlertingSpec(name, parse(expr), hold, keep, labels)


X = partial(lambda value, **labels: ("x", value, labels))


def states(alerts):
    """The states of alerts, in the order given."""
    return [alert.state for alert in alerts]


def test_a_firing_alert_goes_on_with_its_old_times():
    """Whatever its `for`: it fires since when it fired, without another wait."""
    life = Life(alert(hold=5.0))
    life.at(0.0, X(1.0))
    life.at(5.0, X(1.0))

    (found,) = life.killed(400.0).at(400.5, X(2.0))

    assert (found.state, found.active_at, found.fired_at, found.value) == ("firing", 0.0, 5.0, 2.0)


def test_the_time_in_which_nobody_looked_does_not_count_for_a_hold():
    """Pending for 20 s of 30 s, away for 100 s: it fires 10 s after the return, give or take an interval."""
    life = Life(alert(hold=30.0))
    for second in range(21):
        life.at(float(second), X(1.0))
    after = life.killed(120.0)

    found = {second: after.at(120.0 + second, X(1.0))[0].state for second in range(12)}

    assert (found[8], found[9]) == ("pending", "firing")


def test_a_short_absence_costs_a_hold_nothing():
    """Back within one interval, it fires when it would have fired anyway."""
    life = Life(alert(hold=30.0), interval=10.0)
    for second in (0.0, 10.0, 20.0):
        life.at(second, X(1.0))

    (found,) = life.killed(29.0).at(30.0, X(1.0))

    assert (found.state, found.fired_at) == ("firing", 30.0)


def test_another_process_behind_the_target_starts_a_hold_anew_and_keeps_what_fires():
    """Nobody knows how long the new one has been like that; what had fired goes on, or its end is told."""
    life = Life(alert(hold=5.0), alert(name="B"))
    life.at(0.0, X(1.0))

    found = {one.name: one for one in life.killed(3.0, same_process=False).at(3.0, X(1.0))}

    assert (found["A"].state, found["A"].active_at) == ("pending", 3.0)
    assert (found["B"].state, found["B"].fired_at) == ("firing", 0.0)


def test_after_more_than_an_hour_everything_starts_anew():
    """What was true then says nothing about now."""
    life = Life(alert())
    life.at(0.0, X(1.0))

    assert life.killed(3601.0).group.alerts() == []
    assert len(life.killed(3599.0).group.alerts()) == 1


def test_what_the_alert_looks_at_as_it_is_now_ends_it_at_once():
    """Memory has fallen while nobody looked: the first evaluation tells the end."""
    life = Life(alert())
    life.at(0.0, X(1.0))

    (found,) = life.killed(60.0).at(61.0, X(0.0))

    assert (found.state, found.resolved_at, found.fired_at) == ("inactive", 61.0, 0.0)


@pytest.mark.parametrize(("values", "state"), [
    ([X(5.0, target="t")], "firing"), ([X(-1.0, target="t")], "inactive"), ([X(-1.0, target="u")], "firing")])
def test_an_alert_whose_series_has_not_come_yet_is_not_ended(values, state):
    """An endpoint answers some seconds after the start: until then, or for 30 s, nobody knows of this target."""
    life = Life(alert())
    life.at(0.0, X(5.0, target="t"))
    after = life.killed(10.0)

    assert states(after.at(11.0)) == ["firing"]
    assert states(after.at(14.0, *values)) == [state]
    assert states(after.at(39.9)) == [state]


def test_an_alert_whose_series_never_comes_ends():
    """Its target is gone for good: half a minute after the start the end is told."""
    life = Life(alert())
    life.at(0.0, X(5.0, target="t"))
    after = life.killed(10.0)

    assert states(after.at(39.9)) == ["firing"]
    assert states(after.at(40.1)) == ["inactive"]


def test_an_alert_on_a_range_stays_until_the_range_is_full():
    """A kill ten minutes back cannot be seen in an empty store: the alert stays as it was, then ends as usual."""
    life = Life(alert("increase(x[10m]) > 0"))
    life.at(0.0, X(1.0))
    (before,) = life.at(60.0, X(2.0))
    after = life.killed(100.0)

    for second in range(100, 701, 60):
        (found,) = after.at(float(second), X(2.0))
        assert (found.state, found.value, found.fired_at, found.condition) == ("firing", before.value, 60.0, True)
    (found,) = after.at(701.0, X(2.0))

    assert (found.state, found.resolved_at) == ("inactive", 701.0)


def test_an_alert_on_a_range_is_judged_as_usual_from_its_element_on():
    """Seen again, its absence means its end, however short the history still is."""
    life = Life(alert("deriv(x[10m]) > 0"))
    life.at(0.0, X(1.0))
    life.at(60.0, X(2.0))
    after = life.killed(100.0)
    assert states(after.at(101.0, X(2.0))) == ["firing"]

    (seen,) = after.at(110.0, X(3.0))
    assert (seen.state, seen.fired_at, seen.last_evaluation) == ("firing", 60.0, 110.0)
    assert states(after.at(120.0, X(0.0))) == ["inactive"]


def test_a_pending_alert_on_a_range_does_not_come_nearer_while_nothing_can_be_seen():
    """Pending for 10 s of 60 s, then five minutes without history: 50 s are left when it is seen again."""
    life = Life(alert("avg_over_time(x[5m]) > 10 and x offset 5m", hold=60.0))
    life.store.append([Sample(Labels({"__name__": "x"}), 20.0, float(second)) for second in range(-400, 0)])
    life.at(0.0, X(20.0))
    life.at(10.0, X(20.0))
    after = life.killed(11.0)
    states = {}
    for second in range(11, 400):
        found = after.at(float(second), X(20.0))
        states[second] = [(one.state, round(second - one.active_at)) for one in found]

    assert states[200] == [("pending", 11)]
    fired = min(second for second, found in states.items() if found[0][0] == "firing")
    assert 311 + 48 <= fired <= 311 + 51


def test_what_is_held_still_is_held_in_the_next_life():
    """Killed twice within the range: the second restart waits for the whole range, too."""
    life = Life(alert("increase(x[10m]) > 0"))
    life.at(0.0, X(1.0))
    life.at(60.0, X(2.0))
    second = life.killed(100.0)
    second.at(101.0, X(2.0))
    third = second.killed(500.0)

    assert [one.state for one in third.at(1090.0, X(2.0))] == ["firing"]
    assert [one.state for one in third.at(1102.0, X(2.0))] == ["inactive"]


def test_a_hold_of_keep_firing_for_goes_on():
    """Its condition had ended before the kill: it ends when it would have ended, range or not."""
    life = Life(alert("sum_over_time(x[10m]) > 0", keep=60.0))
    life.at(0.0, X(1.0))
    (kept,) = life.at(700.0, X(0.0))
    assert (kept.keep_firing_since, kept.condition) == (700.0, False)
    after = life.killed(710.0)

    assert [one.state for one in after.at(759.0, X(0.0))] == ["firing"]
    assert [(one.state, one.resolved_at) for one in after.at(760.0, X(0.0))] == [("inactive", 760.0)]


def test_a_resolved_alert_stays_resolved_for_its_quarter_of_an_hour():
    """So that its end can still be told to whoever missed it."""
    life = Life(alert())
    life.at(0.0, X(1.0))
    life.at(10.0, X(0.0))

    after = life.killed(500.0)
    assert [(one.state, one.resolved_at) for one in after.at(501.0, X(0.0))] == [("inactive", 10.0)]
    assert after.at(911.0, X(0.0)) == []
    assert life.killed(950.0).group.alerts() == []


def test_rules_are_matched_as_at_a_reload():
    """By name and labels, in order: twins stay apart, another name or label starts anew, a longer `for` holds back."""
    life = Life(alert("x > 100"), alert(), alert(severity="page"), alert(name="B"), alert(name="C"))
    life.at(0.0, X(1.0))
    life.at(5.0, X(1.0))

    after = life.killed(10.0, rules=(alert("x > 100"), alert(), alert(severity="info"), alert(name="D"),
                                     alert(name="C", hold=60.0)))

    assert [len(rule.alerts()) for rule in after.group.alerting_rules] == [0, 1, 0, 0, 1]
    found = after.at(10.0, X(1.0))
    assert [(one.name, one.state, one.active_at) for one in found] == [
        ("A", "firing", 0.0), ("A", "firing", 10.0), ("D", "firing", 10.0), ("C", "pending", 0.0)]


def test_a_clock_that_was_set_back_takes_the_times_along():
    """How long an alert fires and how much of a hold has passed stays true; nothing lies in the future."""
    life = Life(alert(hold=30.0), alert(name="B"))
    for second in range(5000, 5011):
        life.at(float(second), X(1.0))

    found = {one.name: one for one in life.killed(1410.0).group.alerts()}

    assert (found["A"].state, found["A"].active_at) == ("pending", 1400.0)
    assert (found["B"].state, found["B"].fired_at) == ("firing", 1400.0)


@pytest.mark.parametrize(("expr", "seconds"), [
    ("x > 0", 0.0), ("deriv(x[10m]) > 0", 600.0), ("x offset 30m", 1800.0), ("x[5m:1m] offset 5m", 600.0),
    ("max_over_time(rate(x[5m])[30m:1m])", 2100.0), ("x > 0 and y offset 1m", 60.0), ("x offset -5m", 0.0),
    ("x @ 100", 0.0), ("time() - x", 0.0), ("floor > 0", 330.0), ("deriv(floor[10m])", 930.0), ("growth", 1260.0),
    ("loop", 10.0),
])
def test_history_is_what_an_expression_looks_back_at(expr, seconds):
    """Ranges, subqueries and offsets count, also those of recorded series that it reads, with their intervals."""
    recorded = recorded_history([("floor", parse("min_over_time(x[5m])"), 30.0),
                                 ("growth", parse("deriv(floor[15m])"), 30.0), ("loop", parse("loop + x"), 10.0)])

    assert history(parse(expr), recorded) == seconds
