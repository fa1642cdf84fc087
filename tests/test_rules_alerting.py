"""Alerting and recording rules in virtual time: states, holds, identities, the samples they write."""

import json
import math
from datetime import datetime
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from sidecar.model import STALE, Labels, Sample, is_stale
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.rules.group import Group
from sidecar.rules.load import load
from sidecar.rules.spec import AlertingSpec, GroupSpec, RecordingSpec
from sidecar.store import Store

CAPTURED = Path(__file__).parent.parent.parent / "shared" / "evidence" / "prom242_api_v1_rules.jsonl"


class Bench:
    """A store and one group of rules, evaluated whenever a test says so."""

    def __init__(self, *rules, store=None, **group):
        self.store = store or Store()
        self.query = partial(self._instant)
        self.group = make(*rules, **group)

    def _instant(self, expr, at):
        return instant(expr, self.store.select, at)

    def at(self, at, *values, query=None):
        """Append samples `(name, value, labels)` at `at`, evaluate, return the alerts."""
        for name, value, labels in values:
            self.store.append([Sample(Labels({"__name__": name, **labels}), value, at)])
        self.group.evaluate(at, query or self.query, self.store.append)
        return self.group.alerts()

    def series(self, expr, at):
        """What an expression gives at `at`, as {labels without the name: value}."""
        return {point.labels.without("__name__"): point.value for point in self.query(parse(expr), at)}


def make(*rules, interval=1.0, **group):
    """A group of these rule specifications."""
    return Group(GroupSpec("g", "r.yml", tuple(rules), **group), default_interval_seconds=interval,
                 external_labels={"site": "here"}, external_url="http://sidecar:1")


def alert(expr="x > 0", name="A", hold=0.0, keep=0.0, **more):
    """An alerting rule."""
    return AlertingSpec(name, parse(expr), hold, keep, **more)


X = partial(lambda value, **labels: ("x", value, labels))


def states(alerts):
    """The states of alerts, in the order given."""
    return [alert.state for alert in alerts]


def test_without_a_for_an_alert_fires_at_once():
    """The first evaluation that gives an element fires the alert, with its labels, value and times."""
    bench = Bench(alert(labels={"severity": "page", "target": "{{ $labels.t }}!"}, annotations={"s": "{{ $value }}"}))

    (found,) = bench.at(10.0, X(5.0, t="rag"))

    assert found.labels == Labels({"alertname": "A", "severity": "page", "t": "rag", "target": "rag!"})
    assert (found.state, found.condition, found.value, found.annotations) == ("firing", True, 5.0, {"s": "5"})
    assert (found.active_at, found.fired_at, found.resolved_at, found.expr) == (10.0, 10.0, None, "x > 0")


def test_for_holds_an_alert_back():
    """It is pending until the expression has been true for the whole time, counted from the first evaluation."""
    bench = Bench(alert(hold=10.0))

    assert states(bench.at(100.1, X(1.0))) == ["pending"]
    assert states(bench.at(105.1, X(1.0))) == ["pending"]
    (found,) = bench.at(110.1, X(2.0))

    assert (found.state, found.active_at, found.fired_at, found.value) == ("firing", 100.1, 110.1, 2.0)


def test_a_for_shorter_than_the_interval_fires_at_the_second_evaluation():
    """`for` needs a later evaluation to pass, however short it is."""
    bench = Bench(alert(hold=1.0))

    assert states(bench.at(0.0, X(1.0))) == ["pending"]
    assert states(bench.at(60.0, X(1.0))) == ["firing"]


def test_a_pending_alert_that_ends_is_forgotten():
    """Nobody hears of it, and its next time starts anew."""
    bench = Bench(alert(hold=10.0))
    bench.at(0.0, X(1.0))

    assert bench.at(5.0, X(0.0)) == []
    (again,) = bench.at(12.0, X(1.0))

    assert (again.state, again.active_at) == ("pending", 12.0)


def test_a_resolved_alert_is_kept_for_fifteen_minutes():
    """So that its end can be told again; then it is gone."""
    bench = Bench(alert())
    bench.at(0.0, X(1.0))

    (ended,) = bench.at(10.0, X(0.0))
    assert (ended.state, ended.condition, ended.resolved_at, ended.fired_at) == ("inactive", False, 10.0, 0.0)
    assert bench.at(910.0, X(0.0)) == [ended]
    assert bench.at(910.5, X(0.0)) == []


def test_a_resolved_alert_that_comes_back_starts_anew():
    """Its new life has new times and hides the old one."""
    bench = Bench(alert())
    bench.at(0.0, X(1.0))
    bench.at(10.0, X(0.0))

    (again,) = bench.at(20.0, X(3.0))

    assert (again.state, again.active_at, again.fired_at, again.resolved_at) == ("firing", 20.0, 20.0, None)


def test_keep_firing_for_steadies_what_people_see():
    """The alert stays with its last value, but says that the condition is gone; then it ends."""
    bench = Bench(alert(keep=6.0, annotations={"v": "{{ $value }}"}))
    bench.at(0.0, X(5.0))

    (kept,) = bench.at(2.0, X(-1.0))
    assert (kept.state, kept.condition, kept.keep_firing_since, kept.value, kept.annotations) == \
        ("firing", False, 2.0, 5.0, {"v": "5"})
    assert states(bench.at(7.9, X(-1.0))) == ["firing"]
    (ended,) = bench.at(8.0, X(-1.0))
    assert (ended.state, ended.resolved_at) == ("inactive", 8.0)


def test_a_condition_that_returns_in_time_goes_on_as_before():
    """During keep_firing_for no new `for` has to pass, and the wait begins again at the next end."""
    bench = Bench(alert(hold=5.0, keep=6.0))
    bench.at(0.0, X(1.0))
    bench.at(5.0, X(1.0))
    bench.at(7.0, X(0.0))

    (back,) = bench.at(9.0, X(1.0))
    assert (back.state, back.condition, back.keep_firing_since, back.fired_at) == ("firing", True, None, 5.0)
    assert [one.keep_firing_since for one in bench.at(12.0, X(0.0))] == [12.0]


def test_elements_with_the_same_final_labels_are_an_error():
    """Nothing changes then: the alerts stay, the rule tells why, the counters count."""
    bench = Bench(alert(labels={"i": ""}))
    before = bench.at(0.0, X(1.0, i="a"))

    after = bench.at(1.0, X(1.0, i="a"), X(1.0, i="b"))

    (rule,) = bench.group.rules
    assert after == before
    assert (rule.health, bench.group.evaluations, bench.group.failures) == ("err", 2, 1)
    assert rule.last_error == "vector contains metrics with the same labelset after applying alert labels"


def test_a_query_that_fails_freezes_the_rule_and_spares_the_others():
    """Its alerts and series stay as they are; the rules behind it are evaluated."""
    bench = Bench(alert(), alert("y > on() x", name="Bad"), RecordingSpec("r", parse("x + 1")))
    bench.at(0.0, X(1.0), ("y", 5.0, {}))

    bench.at(1.0, X(1.0), ("y", 5.0, {"i": "2"}), ("y", 5.0, {"i": "3"}), X(1.0, j="z"))

    assert [rule.health for rule in bench.group.rules] == ["ok", "err", "ok"]
    assert [found.last_evaluation for found in bench.group.alerts() if found.name == "Bad"] == [0.0]
    assert len(bench.series("r", 1.0)) == 2
    assert len(bench.series('ALERTS{alertname="Bad"}', 1.0)) == 1


def test_more_alerts_than_the_limit_drop_them_all():
    """A flood tells nobody anything: the rule has an error and no alerts."""
    bench = Bench(alert(), limit=2)
    assert len(bench.at(0.0, X(1.0, i="a"), X(1.0, i="b"))) == 2

    assert bench.at(1.0, X(1.0, i="a"), X(1.0, i="b"), X(1.0, i="c")) == []
    assert bench.group.rules[0].last_error == "exceeded limit of 2 with 3 alerts"


def test_a_number_becomes_one_alert_without_labels():
    """As in Prometheus `expr: 1` always fires; a string is an error."""
    bench = Bench(alert("1"), alert('"text"', name="B"))

    (found,) = bench.at(0.0)

    assert found.labels == Labels({"alertname": "A"})
    assert bench.group.rules[1].last_error == "rule result is not a vector or scalar"


def test_templates_see_the_original_labels_and_may_query():
    """The metric's name is there, labels that the rule adds are not; an empty label is removed."""
    bench = Bench(alert(labels={"name": "{{ $labels.__name__ }}", "i": "", "other": "{{ $labels.name }}"},
                        annotations={"n": '{{ query "count(x)" | first | value }}', "e": "{{ $externalLabels.site }}",
                                     "bad": "{{ .Nope }}"}))

    (found,) = bench.at(0.0, ("x", 1.0, {"i": "a"}))

    assert found.labels == Labels({"alertname": "A", "name": "x"})
    assert (found.annotations["n"], found.annotations["e"]) == ("1", "here")
    assert found.annotations["bad"].startswith("<error expanding template: ")


def test_alerts_are_series_too():
    """ALERTS says the state, ALERTS_FOR_STATE since which second; what ends or changes state is stale at once."""
    bench = Bench(alert(hold=2.0, labels={"alertstate": "mine"}))
    bench.at(10.9, X(1.0, i="a"))
    pending = Labels({"alertname": "A", "alertstate": "pending", "i": "a"})
    assert bench.series("ALERTS", 10.9) == {pending: 1.0}
    assert bench.series("ALERTS_FOR_STATE", 10.9) == {Labels({"alertname": "A", "alertstate": "mine", "i": "a"}): 10.0}

    bench.at(12.9, X(1.0, i="a"))
    assert bench.series("ALERTS", 12.9) == {pending.merged({"alertstate": "firing"}): 1.0}

    bench.at(14.9, X(0.0, i="a"))
    assert bench.series("{__name__=~'ALERTS.*'}", 14.9) == {}


def test_a_recorded_series_that_vanishes_is_stale_at_once():
    """A recording rule ends the series that its expression no longer gives, and no other."""
    bench = Bench(RecordingSpec("r", parse("x > 0"), {"added": "1", "gone": ""}))
    bench.at(0.0, X(1.0, i="a", gone="z"), X(2.0, i="b"))
    bench.at(1.0, X(1.0, i="a", gone="z"), X(0.0, i="b"))

    assert bench.series("r", 1.0) == {Labels({"i": "a", "added": "1"}): 1.0}


def test_a_recording_rule_tells_of_duplicates_and_of_too_many_series():
    """Elements that the rule's labels make alike, and more than the limit, are errors that write nothing."""
    twice = Bench(RecordingSpec("r", parse("x"), {"i": "same"}))
    many = Bench(RecordingSpec("r", parse("x")), limit=1)
    for bench in (twice, many):
        bench.at(0.0, X(1.0, i="a"), X(2.0, i="b"))
        assert bench.series("r", 0.0) == {}

    assert twice.group.rules[0].last_error.endswith("the same labelset after applying rule labels")
    assert many.group.rules[0].last_error == "exceeded limit of 1 with 2 series"


def test_a_rule_sees_what_the_rule_before_it_wrote():
    """Within one evaluation results flow from the first rule to the last."""
    bench = Bench(RecordingSpec("a", parse("x + 1")), RecordingSpec("b", parse("a + 1")), alert("b > 2"))

    (found,) = bench.at(7.0, X(1.0))

    assert (found.value, found.active_at) == (3.0, 7.0)


def test_a_query_offset_looks_into_the_past():
    """Query and samples lie that far back; the alert's own times do not."""
    bench = Bench(alert(), query_offset_seconds=10.0)
    bench.store.append([Sample(Labels({"__name__": "x"}), value, at) for at, value in ((90.0, 1.0), (100.0, 0.0))])

    (found,) = bench.at(100.0)

    assert found.active_at == 100.0
    assert [series.times[-1] for series in bench.store.select(parse("ALERTS").matchers, -math.inf, math.inf)] == [90.0]


def test_one_rule_can_be_judged_between_slots():
    """An event has one rule evaluated at its own time, or just after its last evaluation; the others wait."""
    bench = Bench(alert(), alert(name="B"))
    bench.at(10.0, X(0.0))
    rule, other = bench.group.rules

    bench.store.append([Sample(Labels({"__name__": "x"}), 9.0, 10.4)])
    bench.group.evaluate_rule(rule, 10.4, bench.query, bench.store.append)
    assert [(found.name, found.fired_at) for found in bench.group.alerts()] == [("A", 10.4)]

    bench.group.evaluate_rule(rule, 10.2, bench.query, bench.store.append)
    assert (rule.last_evaluation, other.last_evaluation) == (10.401, 10.0)


def test_a_slot_never_takes_an_alert_back_in_time():
    """A slot that lies before the rule's last evaluation leaves that rule alone."""
    bench = Bench(alert())
    bench.store.append([Sample(Labels({"__name__": "x"}), 9.0, 10.4)])
    bench.group.evaluate_rule(bench.group.rules[0], 10.4, bench.query, bench.store.append)

    assert states(bench.at(10.1)) == ["firing"]
    assert states(bench.at(11.1, X(0.0))) == ["inactive"]


def test_a_reload_keeps_what_has_not_changed():
    """Rules are matched by name and labels: holds go on, a longer `for` takes a firing alert back to pending."""
    bench = Bench(alert(hold=5.0, keep=9.0), alert(name="B"), RecordingSpec("r", parse("x")))
    bench.at(0.0, X(1.0))
    bench.at(5.0, X(1.0))
    old, bench.group = bench.group, make(alert(hold=60.0), alert(name="C"))
    bench.group.copy_state(old)

    found = {one.name: one for one in bench.at(6.0, X(1.0))}

    assert (found["A"].state, found["A"].active_at, found["A"].fired_at) == ("pending", 0.0, None)
    assert found["C"].active_at == 6.0
    assert [dict(labels)["alertname"] for labels in bench.series("ALERTS", 6.0)] == ["A", "C"]
    assert bench.series("r", 6.0) == {}


def test_a_reload_does_not_end_what_another_rule_goes_on_with():
    """An alert of a rule that was written anew, but is the same alert, has its series without a gap."""
    bench = Bench(alert(labels={"severity": "page"}))
    bench.at(0.0, X(1.0))
    old, bench.group = bench.group, make(alert(labels={"severity": '{{ "page" }}'}))
    bench.group.copy_state(old)
    bench.at(1.0, X(1.0))

    assert bench.series("ALERTS", 1.0) == {
        Labels({"alertname": "A", "alertstate": "firing", "severity": "page"}): 1.0}


def test_a_group_that_is_dropped_ends_its_series():
    """What it wrote gets stale markers."""
    bench = Bench(alert(), RecordingSpec("r", parse("x")))
    bench.at(0.0, X(1.0))

    bench.store.append(bench.group.end(1.0))

    assert bench.series("{__name__=~'ALERTS.*|r'}", 1.0) == {}


def test_a_restart_loses_no_alert():
    """Journalled alerts go on, whatever their `for`: startsAt and holds survive; foreign ones are passed over."""
    before = Bench(alert(hold=5.0, labels={"severity": "page"}))
    before.at(0.0, X(1.0))
    before.at(5.0, X(1.0))
    after = Bench(alert(hold=5.0, labels={"severity": "page"}), alert("x > 100", labels={"severity": "info"}),
                  store=before.store)

    (key, _), = before.group.keyed
    after.group.restore([(key, one) for one in before.group.alerts()], 6.0, {})

    (found,) = after.at(8.0, X(1.0))
    assert (found.state, found.active_at, found.fired_at) == ("firing", 0.0, 5.0)


def due_times(group, *moments):
    """What a group answers when it is asked at these moments."""
    return [group.due(now) for now in moments]


def test_slots_are_an_interval_apart_and_the_same_after_a_restart():
    """The first is the next one after the start; each is given once and is never later than the question."""
    moments = [1000.0 + index * 0.25 for index in range(200)]
    slots = [slot for slot in due_times(make(interval=5.0), *moments) if slot is not None]

    assert {round(b - a, 3) for a, b in pairwise(slots)} == {5.0}
    assert len(slots) in (9, 10)
    later = make(interval=5.0)
    assert {round((slot - slots[0]) % 5.0, 3) for slot in due_times(later, *moments[7:]) if slot} == {0.0}


def test_slots_that_went_by_are_counted_not_made_up_for():
    """After a pause the group goes on with the slot that is now."""
    group = make(interval=1.0)
    group.due(100.0)
    first = group.due(101.0)

    late = group.due(105.9)

    assert late is not None
    assert 104.9 < late <= 105.9
    assert group.missed == round(late - first) - 1
    assert group.due(105.9) is None


def test_a_clock_that_is_set_back_does_not_stop_the_rules():
    """The group goes on from the new time, without waiting for the old one to come again."""
    group = make(interval=1.0)
    due_times(group, 5000.0, 5001.0, 5002.0)

    assert group.due(1000.0) is None
    assert group.due(1001.0) is not None


@pytest.mark.skipif(not CAPTURED.is_file(), reason="the captured answers of Prometheus are not beside this checkout")
def test_states_equal_what_prometheus_showed(tmp_path):
    """A captured run, replayed: every state, time and value of two rules is the one that Prometheus had."""
    answers = [json.loads(line)["data"]["groups"][0] for line in CAPTURED.read_text().splitlines()]
    (tmp_path / "r.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "interval": "2s", "rules": [
        {"alert": "MemHigh", "expr": "rag_mem > 90", "for": "4s"},
        {"alert": "MemKeep", "expr": "rag_mem > 90", "keep_firing_for": "6s"}]}]}))
    bench = Bench()
    (spec,) = load([tmp_path / "r.yml"])
    bench.group = Group(spec, default_interval_seconds=60.0, external_labels={}, external_url="")
    for answer in answers:
        slot = moment(answer["lastEvaluation"][:21] + "30Z")
        high = {one["value"] for one in answer["rules"][0]["alerts"]}
        bench.at(slot, ("rag_mem", float(high.pop()) if high else 0.0, {}))
        for rule in answer["rules"]:
            shown = [one for one in bench.group.alerts() if one.name == rule["name"] and one.resolved_at is None]
            assert [(one.state, one.active_at, one.value, one.keep_firing_since) for one in shown] == [
                (one["state"], moment(one["activeAt"]), float(one["value"]),
                 moment(one["keepFiringSince"]) if "keepFiringSince" in one else None) for one in rule["alerts"]]


def moment(text):
    """Unix seconds to the millisecond of an RFC 3339 time."""
    return round(datetime.fromisoformat(text[:23].rstrip("Z") + "+00:00").timestamp(), 3)


def test_stale_markers_are_the_real_ones():
    """What a rule writes for a series that ended carries Prometheus's own bits."""
    bench = Bench(RecordingSpec("r", parse("x > 0")))
    bench.at(0.0, X(1.0))
    written = []
    bench.store.append([Sample(Labels({"__name__": "x"}), STALE, 1.0)])
    bench.group.evaluate(1.0, bench.query, written.extend)

    assert [is_stale(sample.value) for sample in written] == [True]
