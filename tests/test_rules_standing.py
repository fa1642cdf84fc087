"""Which alerts become standing orders, and the lines that are drawn for them."""

from functools import partial

import pytest

from sidecar.model import Labels, Sample
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.promql.steps import finish
from sidecar.rules.group import Group
from sidecar.rules.load import load, shipped
from sidecar.rules.source import Plain
from sidecar.rules.spec import AlertingSpec, GroupSpec
from sidecar.rules.standing import Line, standing
from sidecar.store import Store

USED, LINE = "rag_memory_used_bytes", "rag_memory_threshold_bytes"
ORDER = {"cleanup": "aggressive"}


def rule(expr, labels=None, hold=0.0, **group):
    """One alerting rule at work."""
    spec = AlertingSpec("A", parse(expr), hold, labels=ORDER if labels is None else labels)
    return Group(GroupSpec("g", "f", (spec,), **group), default_interval_seconds=1.0, external_labels={},
                 external_url="").alerting_rules[0]


@pytest.fixture
def query():
    """Two instances that share a target name: a uses 50 of 100 bytes, b 195 of 90."""
    store = Store()
    for instance, used, line in (("a", 50.0, 100.0), ("b", 195.0, 90.0)):
        own = {"job": "rag-sidecar", "instance": instance, "target": "rag"}
        store.append([Sample(Labels({**own, "__name__": USED}), used, 10.0),
                      Sample(Labels({**own, "__name__": LINE, "level": "critical"}), line, 10.0)])
    return partial(lambda expr, at: instant(expr, store.select, at))


FORMS = [
    (f'{USED} > ignoring(level) {LINE}{{level="critical"}}', ">", [100.0, 90.0]),
    (f'({USED} >= ignoring(level) ({LINE}{{level="critical"}}))', ">=", [100.0, 90.0]),
    (f'{LINE}{{level="critical"}} < ignoring(level) {USED}', ">", [100.0, 90.0]),
    (f'{LINE} <= ignoring(level) {USED}{{instance="b"}}', ">=", [90.0]),
    (f"{USED} > on(job, instance, target) group_left(level) 0.5 * {LINE}", ">", [50.0, 45.0]),
    (f"{USED} > 20", ">", [20.0, 20.0]),
    (f"{USED} > scalar(max({LINE}))", ">", [100.0, 100.0]),
    (f"{USED} > on(target) group_left max by (target) ({LINE})", ">", [100.0, 100.0]),
]


@pytest.mark.parametrize(("expr", "op", "lines"), FORMS)
def test_a_comparison_of_used_bytes_gives_its_lines(query, expr, op, lines):
    """Each series of used bytes gets the line that the expression compares it with."""
    found = standing(rule(expr)).lines(query, 10.0)

    assert [(line.op, line.line_bytes) for line in found] == [(op, value) for value in lines]


@pytest.mark.parametrize("expr", [expr for expr, _, _ in FORMS])
def test_a_line_has_the_labels_of_the_alert_that_would_come(query, expr):
    """Where a line is crossed already, the alert that the rule makes has exactly the line's labels."""
    judged = rule(expr, {**ORDER, "who": "{{ $labels.target }}@{{ $labels.instance }}"})
    lines = standing(judged).lines(query, 10.0)
    used = {"a": 50.0, "b": 195.0}

    finish(judged.run(10.0, Plain(query)))

    crossed = [line.labels for line in lines if "instance" in line.labels
               and used[line.labels["instance"]] > line.line_bytes]
    assert sorted(map(repr, crossed)) == sorted(repr(alert.labels) for alert in judged.alerts())
    assert crossed


def test_lines_without_a_target_or_a_number_are_left_out(query):
    """Nobody could be told to clean up, and nothing could be compared."""
    assert standing(rule(f"{USED} > on(instance) {LINE}")).lines(query, 10.0) == []
    assert standing(rule(f"{USED} > Inf")).lines(query, 10.0) == []
    assert standing(rule(f"{USED} > nothing")).lines(query, 10.0) == []


@pytest.mark.parametrize(("expr", "more", "reason"), [
    (f"{USED} > 1", {"labels": {"severity": "page"}}, "no label cleanup"),
    (f"{USED} > 1", {"hold": 10.0}, "has a for"),
    (f"{USED} > 1", {"query_offset_seconds": 5.0}, "query_offset"),
    (f"{USED} > 1", {"labels": {"cleanup": "{{ if gt $value 2.0 }}light{{ end }}"}}, "depend on the value"),
    (f"{USED} > bool 1", {}, "bool"),
    (f"{USED} < 1", {}, "larger side"),
    (f"{USED} == 1", {}, "no single comparison"),
    (f"{USED} > 1 and up", {}, "no single comparison"),
    (f"rate({USED}[1m]) > 1", {}, "larger side"),
    (f"{USED} offset 1m > 1", {}, "another time"),
    (f"{USED} > avg_over_time({USED}[5m])", {}, "depends on used bytes"),
    (f'{USED} > {{job="x"}}', {}, "depends on used bytes"),
])
def test_what_needs_more_than_used_bytes_is_not_decided_in_advance(expr, more, reason):
    """The reason is told in words."""
    assert reason in standing(rule(expr, **more))


def test_of_the_shipped_rules_exactly_critical_is_a_standing_order(query):
    """The rule that must act at once can be decided in advance; the other lines hold or only tell."""
    make = partial(Group, default_interval_seconds=1.0, external_labels={}, external_url="")
    found = {one.name: standing(one) for spec in load(shipped()) for one in make(spec).alerting_rules}

    assert [name for name, order in found.items() if not isinstance(order, str)] == ["RagMemoryCritical"]
    lines = found["RagMemoryCritical"].lines(query, 10.0)
    assert lines[0] == Line(Labels({
        "alertname": "RagMemoryCritical", "level": "critical", "severity": "critical", "cleanup": "aggressive",
        "job": "rag-sidecar", "instance": "a", "target": "rag"}), ">", 100.0)
