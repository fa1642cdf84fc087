"""The gates of one moment: each alert that asks for a cleanup, its own expression read anew."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from sidecar.actions.facts import Gate
from sidecar.model import STALE, Labels, Sample
from sidecar.pipeline_gates import Gates
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.promql.steps import finish
from sidecar.rules.group import Group
from sidecar.rules.source import Plain
from sidecar.rules.spec import AlertingSpec, GroupSpec
from sidecar.store import Store

USED, FREE = "rag_memory_used_bytes", "rag_allocator_free_bytes"
BASE = {"job": "rag-sidecar", "instance": "a", "target": "rag"}


class Bench:
    """One rule over a store. Lives as long as a test."""

    def __init__(self, expr: str, hold: float = 0.0, labels: Mapping[str, str] | None = None) -> None:
        spec = AlertingSpec("A", parse(expr), hold, labels={"cleanup": "light"} if labels is None else labels)
        self.store = Store()
        self.group = Group(GroupSpec("g", "f", (spec,)), default_interval_seconds=1.0, external_labels={},
                           external_url="")
        self.gates = Gates([self.group], {"rag", "web"})

    def set(self, at: float, metric: str, value: float, **labels: str) -> None:
        """One sample."""
        self.store.append([Sample(Labels({**BASE, **labels, "__name__": metric}), value, at)])

    def evaluate(self, at: float) -> None:
        """The rule's own evaluation."""
        finish(self.group.alerting_rules[0].run(at, Plain(self.ask)))

    def ask(self, expr: Any, at: float) -> Any:
        """What an expression gives."""
        return instant(expr, self.store.select, at)

    def at(self, now: float) -> list[Gate]:
        """The gates at this moment."""
        return finish(self.gates.steps(self.ask, self.store, self.group.alerts(), now))


def test_alert_without_a_line_has_its_expression_for_a_gate() -> None:
    """It is ripe once the alert fires, and shut as soon as its expression gives nothing, evaluated or not."""
    bench = Bench(f"{FREE} > 100", hold=10.0)
    bench.set(10.0, FREE, 500.0)
    assert bench.at(10.0) == []
    bench.evaluate(10.0)
    [pending] = bench.at(10.0)
    assert (pending.open, pending.ripe, pending.line_bytes, pending.standing) == (True, False, None, False)
    bench.evaluate(20.0)
    [firing] = bench.at(21.0)
    assert (firing.ripe, firing.fired_at, firing.wanted, firing.target) == (True, 20.0, "light", "rag")
    bench.set(22.0, FREE, 50.0)

    assert bench.at(22.0) == []


def test_alert_of_another_target_is_no_gate() -> None:
    """Only what is configured here is acted on, and only where the alert says which target it means."""
    bench = Bench(f"{FREE} > 100")
    bench.set(10.0, FREE, 500.0, target="other")
    bench.set(10.0, FREE, 500.0, target="")
    bench.evaluate(10.0)

    assert bench.at(10.0) == []


def test_line_is_drawn_while_nothing_has_crossed_it() -> None:
    """A comparison of used bytes is known before it is true: the guard holds it."""
    bench = Bench(f"{USED} > 100", labels={"cleanup": "aggressive", "level": "critical"})
    bench.set(10.0, USED, 50.0)
    [below] = bench.at(10.0)
    bench.set(11.0, USED, 150.0)
    [over] = bench.at(11.0)

    assert (below.open, below.standing, below.line_bytes, below.level) == (False, True, 100.0, "critical")
    assert over.open
    assert over.ripe


def test_rule_that_cannot_be_read_anew_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """Its labels depend on the value, so nobody could tell its alerts apart between two evaluations."""
    caplog.set_level(logging.WARNING, "sidecar")
    bench = Bench(f"{FREE} > 100", labels={"cleanup": "light", "n": "{{ $value }}"})
    bench.set(10.0, FREE, 500.0)
    bench.evaluate(10.0)

    assert bench.at(10.0) == []
    assert [(record.message, vars(record)["alert"]) for record in caplog.records] == [
        ("rule asks for a cleanup that never comes", "A")]


def test_gate_that_cannot_be_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Two series on the side of one: no gate, one line in the log, and the other rules go on."""
    caplog.set_level(logging.WARNING, "sidecar")
    bench = Bench(f"{FREE} > on (target) rag_x")
    bench.set(10.0, FREE, 500.0)
    bench.set(10.0, "rag_x", 1.0)
    bench.evaluate(10.0)
    bench.set(11.0, "rag_x", 1.0, instance="b")
    bench.set(11.0, "rag_x", 1.0, instance="c")

    assert bench.at(11.0) == bench.at(12.0) == []
    assert [record.message for record in caplog.records] == ["gate"]


EVENTS = st.tuples(
    st.sampled_from(["rag", "web", "gone"]),
    st.sampled_from([(USED, ""), ("rag_memory_limit_bytes", ""), ("rag_line", "main"), ("rag_line", "critical")]),
    st.sampled_from([0.0, 80.0, 100.0, 120.0, math.nan, math.inf, STALE]), st.sampled_from([1.0, 1.0, 30.0, 400.0]))


COMPARISONS = [
    f"{USED} > rag_memory_limit_bytes * 0.8", f'{USED} >= ignoring(level) rag_line{{level="main"}}',
    f"{USED} > on (target) (sum by (target) (rag_line))", f"{USED} > time()",
    f"{USED} > rag_memory_limit_bytes offset 5s", f"{USED} > on (target) max_over_time(rag_line[9s])"]


@given(st.sampled_from(COMPARISONS),
       st.sampled_from([0.0, 10.0]), st.lists(EVENTS, max_size=12))
@examples(60)
def test_gates_do_not_depend_on_those_before(
        expr: str, hold: float, events: list[tuple[str, tuple[str, str], float, float]]) -> None:
    """Whatever came and went, moved or ended: the gates are those that a desk sees which has just started."""
    bench = Bench(expr, hold=hold, labels={"cleanup": "light", "level": "main"})
    now = 1000.0
    for target, (metric, level), value, seconds in events:
        now += seconds
        bench.set(now, metric, value, target=target, level=level)
        bench.evaluate(now)
        anew = finish(Gates([bench.group], {"rag", "web"}).steps(bench.ask, bench.store, bench.group.alerts(), now))
        assert bench.at(now) == anew
