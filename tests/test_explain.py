"""Why an alert fires, waits or does not: from what an API says, without a server; then a sidecar, then a Prometheus."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asking import NOW, Bench
from conftest import Target, wait_until
from servers import CHECKOUT, free_port, running_prometheus
from sidecars import MIB, config, running_sidecar

from sidecar.errors import QueryError, SidecarError
from sidecar.explain import seen
from sidecar.explain.explanation import Explanation, explain
from sidecar.explain.record import as_record
from sidecar.explain.seen import SeenAlert, SeenRule
from sidecar.explain.text import Screen, as_text
from sidecar.explain.tree import Answer, Node
from sidecar.explain.units import readable, unit_of
from sidecar.model import Labels
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.promql.values import Point

USED, LINE = "rag_memory_used_bytes", "rag_memory_threshold_bytes"
MAIN = f'{USED} > ignoring (level) {LINE}{{level="main"}}'
BASE = {"job": "rag-sidecar", "instance": "h"}


@pytest.fixture
def bench() -> Bench:
    """rag uses 812 of 1000 MiB, other 1100 of 1000 MiB."""
    bench = Bench()
    for target, used in (("rag", 812), ("other", 1100)):
        bench.add("rag_target_up", 1.0, **BASE, target=target)
        bench.add(USED, used * MIB, **BASE, target=target)
        for level, line in (("main", 1000), ("critical", 1200)):
            bench.add(LINE, line * MIB, **BASE, target=target, level=level)
    return bench


def asking(bench: Bench) -> Callable[[str, float], Answer]:
    """Answers as they come from the API."""
    def ask(text: str, at: float) -> Answer:
        try:
            value = instant(parse(text), bench.store.select, at)
        except QueryError as error:
            return error
        if isinstance(value, float):
            return seen.result({"resultType": "scalar", "result": [at, str(value)]})
        points = [point for point in value if isinstance(point, Point)]
        return seen.result({"resultType": "vector", "result": [
            {"metric": dict(labels), "value": [at, str(value)]} for labels, value in points]})

    return ask


def rule(query: str = MAIN, **more: Any) -> SeenRule:
    """An alerting rule, evaluated at NOW."""
    given: dict[str, Any] = {
        "name": "A", "group": "g", "file": "r.yml", "interval_seconds": 1.0, "state": "inactive", "query": query,
        "for_seconds": 0.0, "keep_seconds": 0.0, "labels": {}, "alerts": (), "health": "ok", "error": "",
        "evaluated_at": NOW}
    return SeenRule(**{**given, **more})


def alert(state: str, active_at: float, target: str = "rag", keep_since: float | None = None) -> SeenAlert:
    """One alert of a target."""
    return SeenAlert(Labels({"alertname": "A", "target": target}), state, active_at, keep_since, 1.0)


def sentences(explained: Explanation) -> list[str]:
    """The closing sentences."""
    return [verdict.sentence for verdict in explained.verdicts]


def said(bench: Bench, query: str, target: str | None = "rag", **more: Any) -> str:
    """The one closing sentence about a target."""
    (sentence,) = sentences(explain(rule(query, **more), asking(bench), NOW, target))
    return sentence


def test_quiet_alert_says_how_far_away_it_is(bench: Bench) -> None:
    """An alert that does not fire tells both sides of its comparison and what is left to the line."""
    assert said(bench, MAIN) == ("A does not fire for target rag: used 812 MiB is not above the main line 1000 MiB, "
                                 "188 MiB to go.")


def test_pending_alert_says_when_it_fires(bench: Bench) -> None:
    """A pending alert tells since when, how much of `for` has passed, and the moment at which it would fire."""
    waiting = rule(for_seconds=30.0, interval_seconds=4.0, state="pending",
                   alerts=(alert("pending", NOW - 12, "other"),))
    (verdict,) = explain(waiting, asking(bench), NOW, "other").verdicts

    assert verdict.sentence == ("A is pending for target other since 09:11:28 UTC: used 1.074 GiB is above the main "
                                "line 1000 MiB, by 100 MiB.")
    assert verdict.timer == "pending 12 s of 30s; fires at 09:12:00 UTC if it stays"  # the 8th evaluation


def test_firing_alert_says_since_when_and_until_when(bench: Bench) -> None:
    """A firing alert tells since when; one that is only kept tells that, and when it would resolve."""
    firing = rule(for_seconds=10.0, keep_seconds=60.0, state="firing", alerts=(alert("firing", NOW - 70, "other"),))
    (verdict,) = explain(firing, asking(bench), NOW, "other").verdicts
    assert verdict.sentence.startswith("A fires for target other since 09:10:40 UTC: used 1.074 GiB is above")
    assert verdict.timer == "resolves 1m after that is over"

    kept = replace(firing, alerts=(alert("firing", NOW - 70, keep_since=NOW - 20),))
    (verdict,) = explain(kept, asking(bench), NOW, "rag").verdicts
    assert verdict.sentence == ("A still fires for target rag, but only because it is kept: since 09:11:20 UTC used "
                                "812 MiB is not above the main line 1000 MiB, 188 MiB to go.")
    assert verdict.timer == "kept firing 20 s of 1m; resolves at 09:12:20 UTC if it stays so"


def test_rule_that_was_not_or_could_not_be_evaluated(bench: Bench) -> None:
    """A rule before its first evaluation is shown as things are now; one that fails is shown with its error."""
    assert said(bench, MAIN, evaluated_at=None, state="unknown", health="unknown").startswith(
        "A has not been evaluated yet; now used 812 MiB")
    assert said(bench, MAIN, health="err", error="too many samples") == (
        "A could not be evaluated, so its alerts stay as they were: too many samples.")
    assert said(bench, f"{USED} > 1") .startswith("A does not fire for target rag, although its expression gives")


def test_unknown_target_is_told(bench: Bench) -> None:
    """A target that nobody knows is an error that names those there are; one that is down is known."""
    with pytest.raises(SidecarError, match="there is no target nobody") as caught:
        said(bench, MAIN, "nobody")
    assert caught.value.help == "targets there: other, rag"

    bench.add("rag_target_up", 0.0, **BASE, target="gone")
    assert said(bench, MAIN, "gone").startswith(f"A does not fire for target gone: there is no series {USED}")


TRAPS = [
    (f'{USED} > {LINE}{{level="main"}}', 'the sides of > find no partners: level="main" is only there'),
    (f'{USED} > on (instance, target) label_replace({LINE}{{level="main"}}, "instance", "i", "", "")',
     'the sides of > find no partners: instance is "h" here and "i" there'),
    (f'{USED} / {LINE}{{level="main"}} > 1', 'the sides of / find no partners: level="main" is only there'),
    (f"{USED} and {LINE}", 'the sides of and find no partners: level="main" is only there'),
    (f"{USED} > 1e12 and on () nothing", "used 812 MiB is not above 931.3 GiB, 930.5 GiB to go"),
    (f"{USED} > 1 and on () nothing", "there is no series nothing"),
    (f"{USED} > 1 unless {USED}", "what rag_memory_used_bytes > 1 gives is taken away by unless used"),
    ("nothing > 1 or rate(nowhere[5m]) > 1",
     "there is no series nothing, and there are no samples of nowhere in the 5m it looks at"),
    (f"deriv({USED}[10m]) > 0", f"deriv({USED}[10m]) needs two samples, and there is 1 in the time it looks at"),
    (f"{USED} offset 30m > 1", f"there is no series {USED} offset 30m"),
    ("max_over_time((nothing > 0)[5m:1m]) > 0", "nothing > 0 gave nothing in the 5m it looks at"),
    (f"{USED} + on () group_left () {USED} > 0", None),
    (f"{USED} == bool 5", None), ("absent(up) == 2", "absent(up) 1 is not equal to 2"),
    (f"1000 < {USED} < 900", "1000 < rag_memory_used_bytes 812 MiB is not below 900 B, 812 MiB to go"),
]


@pytest.mark.parametrize(("query", "reason"), TRAPS)
def test_first_thing_that_is_missing_is_named(bench: Bench, query: str, reason: str | None) -> None:
    """An expression without result is followed down to the series, the samples or the labels that are missing."""
    sentence = said(bench, query)

    if reason is not None:
        assert sentence == f"A does not fire for target rag: {reason}."
    if "group_left" in query:
        assert "cannot be evaluated: found duplicate series" in sentence


def test_all_targets_get_a_verdict_and_many_are_counted() -> None:
    """Without --target each target is spoken of, the loudest first; of many the rest is counted."""
    bench = Bench()
    for index in range(20):
        bench.add(USED, 2.0 * MIB if index == 15 else 1.0, **BASE, target=f"t{index:02}")
    query = f"{USED} > {MIB}"
    loud = rule(query, state="firing", alerts=(alert("firing", NOW, "t15"),))
    explained = explain(loud, asking(bench), NOW)
    text = as_text(explained, Screen())

    assert sentences(explained)[0].startswith("A fires for target t15 since 09:11:40 UTC: used 2 MiB is above 1 MiB")
    assert len(explained.verdicts) == 20
    assert "… and 12 inactive; --target NAME shows one." in text
    assert text.count("… and 15 more") == 2
    assert 'target="t07"' in as_text(explain(loud, asking(bench), NOW, "t07"), Screen())
    assert 'target="t07"' not in text.split("A fires")[0]


def test_explanation_of_one_target_is_about_it_alone(bench: Bench) -> None:
    """With --target the head line, the values, the lines and what is held back are those of this target."""
    bench.add("rag_action_held", 1.0, **BASE, target="other", reason="settling")
    bench.add("rag_actions_parked", 1.0, **BASE, target="other")
    loud = rule(state="firing", labels={"cleanup": "standard"}, alerts=(alert("firing", NOW, "other"),))

    def shown(target: str | None) -> tuple[str, dict[str, Any]]:
        explained = explain(loud, asking(bench), NOW, target, acts=True, parked={"other": "settling"})
        return as_text(explained, Screen()), as_record(explained)

    everything, (text, record), (loud_text, _) = shown(None)[0], shown("rag"), shown("other")
    assert "held back other: settling" in everything
    assert text.startswith("A  inactive\n")
    assert "line      rag: 1000 MiB" in text
    assert "other" not in text + json.dumps(record)
    assert record["state"] == "inactive"
    assert loud_text.startswith("A  firing\n")
    assert "held back other: settling" in loud_text
    assert "rag:" not in loud_text


def test_cleanup_says_who_acts_and_at_which_line(bench: Bench) -> None:
    """A rule with `cleanup` tells whether the guard holds its lines, why not, and why nothing is done now."""
    bench.add("rag_action_held", 1, **BASE, target="other", reason="cooldown")
    bench.add("rag_action_held", 1, **BASE, target="other", reason="of_a_newer_version")
    bench.add("rag_actions_parked", 1, **BASE, target="other")
    labels = {"cleanup": "aggressive", "level": "main"}

    def shown(query: str = MAIN, *, acts: bool = True, **more: Any) -> str:
        explained = explain(rule(query, **{"labels": labels, **more}), asking(bench), NOW, acts=acts,
                            parked={"other": "never_helps", "rag": "budget_spent"},
                            rests={"other": 1795165884.0, "rag": 1795165885.0})
        return " ".join(as_text(explained, Screen(200)).split())

    at_once = shown()
    assert "so it is decided in advance: the guard acts at the crossing" in at_once
    assert "line other: 1000 MiB, rag: 1000 MiB" in at_once
    assert "held back other: cooldown: the last cleanup was too short a time ago." in at_once
    assert "ago. of_a_newer_version. never_helps: the cleanups that are allowed did not help" in at_once
    assert "in a row. parked: nothing more is tried until" in at_once
    assert "The rest lasts until 09:11:24 UTC." in at_once
    assert "09:11:25" not in at_once
    assert "budget_spent" not in at_once
    assert "not in advance: it has a for, so a crossing alone does not decide it" in shown(for_seconds=10.0)
    once = shown(f"{USED} > 1 and {USED} > 2")
    assert "once each time the alert fires, while its condition is true: its expression is no single comparison" in once
    assert "never comes: its labels depend on the value" in shown(labels={**labels, "n": "{{ $value }}"})
    by_precedence = shown(f"{USED} > ignoring (level) {LINE}{{level='main'}} - {LINE}{{level='main'}} / 2")
    assert "line other: 500 MiB, rag: 500 MiB" in by_precedence
    prometheus = shown(acts=False)
    assert "A Prometheus was asked, which only tells" in prometheus
    assert "held back" not in prometheus


def nodes(node: Node) -> list[Node]:
    """A tree as a list."""
    return [node, *(inner for part in node.parts for inner in nodes(part))]


def test_every_part_has_its_value(bench: Bench) -> None:
    """Each sub-expression is shown with what it gave at that moment; ranges with how many samples they hold."""
    bench.add("x", 1, 2, 3, **BASE, target="rag")
    query = f"sum by (target) (rate(x[10s])) * 2 > 0 and max_over_time({USED}[5m:1s]) > scalar(sum(up))"
    explained = explain(rule(query), asking(bench), NOW)
    assert explained.tree
    found = {node.text: [point.value for point in node.points] for node in nodes(explained.tree)}

    assert found["x[10s]"] == [3.0]
    assert found["rate(x[10s])"] == pytest.approx([0.25])
    assert found["sum by (target) (rate(x[10s])) * 2"] == pytest.approx([0.5])
    assert found[f"{USED}[5m:1s]"] == [1, 1]
    assert found["up"] == []
    assert "2" not in found


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
@pytest.mark.parametrize("query", [MAIN, f'{USED} > {LINE}', *(trap[0] for trap in TRAPS)])
def test_screens_fit(bench: Bench, width: int, query: str) -> None:
    """No line is wider than the terminal, whatever the expression; a plain terminal gets plain characters."""
    explained = explain(rule(query, labels={"cleanup": "light"}), asking(bench), NOW)

    assert max(map(len, as_text(explained, Screen(width)).split("\n"))) <= max(width, 40)
    assert as_text(explained, Screen(width, plain=True)).isascii()
    assert "\x1b" not in as_text(explained, Screen(width))


def test_record_is_whole_and_json(bench: Bench) -> None:
    """-o json holds the tree, the pairs, what stayed alone, the verdicts; numbers that JSON does not know are text."""
    bench.add(USED, float("inf"), **BASE, target="endless")
    record = json.loads(json.dumps(as_record(explain(rule(f"{USED} > {LINE}"), asking(bench), NOW)), allow_nan=False))

    assert record["alert"] == "A"
    assert {one["why"] for one in record["expression"]["without_partner"] if one["side"] == "left"} == {
        'level="main" is only there', 'level="main" is only there, target is "endless" here and "rag" there'}
    assert {element["value"] for element in record["expression"]["parts"][0]["elements"]} == {
        812.0 * MIB, 1100.0 * MIB, "+Inf"}
    assert [verdict["target"] for verdict in record["verdicts"]] == ["endless", "other", "rag"]


def test_expression_beyond_us_is_no_obstacle(bench: Bench) -> None:
    """A rule whose expression cannot be read here is shown with its state and the reason."""
    explained = explain(rule("info(up)", state="firing", alerts=(alert("firing", NOW),)), asking(bench), NOW)
    text = as_text(explained, Screen())

    assert "It cannot be read here" in text
    assert text.endswith("A is firing.")
    assert as_record(explained)["expression"] is None


def test_terminals_get_no_commands_from_outside(bench: Bench) -> None:
    """Escape sequences in names, labels and errors of a rule are shown, never obeyed."""
    evil = "\x1b[2J\u202e"
    bench.add(USED, 1, **BASE, target=f"t{evil}")
    data = {"groups": [{"name": evil, "file": evil, "interval": 1, "rules": [{
        "type": "alerting", "name": f"A{evil}", "query": f"{USED} < 5", "duration": 0, "labels": {"a": evil},
        "alerts": [], "health": "err", "lastError": evil, "state": "inactive",
        "lastEvaluation": "2026-11-20T09:11:40Z"}]}]}
    (found,) = seen.rules(data)

    for shown in (found, replace(found, health="ok")):
        text = as_text(explain(shown, asking(bench), NOW), Screen())
        assert "[2J" in text
        assert "\x1b" not in text
        assert "\u202e" not in text


@pytest.mark.parametrize("data", [None, {}, {"groups": 1}, {"groups": [{"rules": [{"type": "alerting"}]}]}, []])
def test_odd_answers_are_told(data: Any) -> None:
    """What is no answer of such an API ends in an error that says so."""
    with pytest.raises(SidecarError, match="not what Prometheus's API answers"):
        seen.rules(data)
    with pytest.raises(SidecarError, match="not what Prometheus's API answers"):
        seen.result(data)


@pytest.mark.parametrize(("text", "value", "shown"), [
    (USED, 812 * MIB, "812 MiB"), (f"sum(rate({USED}[5m]))", 1.5 * MIB, "1.5 MiB/s"),
    (f"{USED} / {USED}", 0.951, "95.1 %"), (f"{USED} * 2", 2048, "2 KiB"), ("rag:memory_used_bytes:floor5m", 1, "1 B"),
    ("time()", NOW, "2026-11-20 09:11:40 UTC"),
    ("time() - rag_process_start_time_seconds", 3700, "1h1m40s"), ("up", 1e20, "1e+20"), ("up", 12345.678, "12345.678"),
    (USED, float("nan"), "NaN"), (f"count({USED})", 3, "3"), (f"{USED} > bool 5", 1, "1"),
    ("rate(rag_process_cpu_seconds_total[1m])", 0.5, "50 %"),
])
def test_numbers_have_the_units_of_their_metrics(text: str, value: float, shown: str) -> None:
    """Bytes, times and ratios read as such where the names of the metrics tell."""
    assert readable(value, unit_of(parse(text))) == shown


def run(*arguments: str) -> tuple[int, str, str]:
    """`rag-sidecar ARGUMENTS`: exit code, output, errors."""
    done = subprocess.run([sys.executable, "-P", "-m", "sidecar", *arguments], capture_output=True, text=True,
                          timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_running_sidecar_explains_itself(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Quiet, pending and firing alerts of a real process are told, with the very values that the rule saw."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port = free_port()
    target = {"name": "t", "match": {"pid": leaky.pid}, "memory": {"main": "200MiB", "critical": "900MiB"}}
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        def explained() -> str:
            code, out, errors = run("explain", "RagMemoryMain", "--url", sidecar.url)
            assert (code, errors) == (0, "")
            return " ".join(out.split())

        wait_until(lambda: "unknown" not in explained(), 20, "a first evaluation")
        assert "RagMemoryMain does not fire for target t: used " in explained()
        leaky.tell("grow 300")
        text = wait_until(lambda: text if "is pending for target t" in (text := explained()) else "", 20, "pending")
        assert "is above the main line 200 MiB, by" in text
        assert "s of 10s; fires at" in text
        assert "line t: 200 MiB" in text
        text = wait_until(lambda: text if "RagMemoryMain fires for target t" in (text := explained()) else "", 30,
                          "firing")
        wait_until(lambda: "held back t: mode_observe" in explained(), 10, "the reason why nothing is done")
        code, out, _ = run("explain", "RagMemoryMain", "--url", sidecar.url, "-o", "json")
        (record,) = json.loads(out)
        (pair,) = record["expression"]["pairs"]
        assert (code, pair["holds"], pair["right"]) == (0, True, 200 * MIB)
        code, out, errors = run("explain", "RagMemoryMian", "--url", sidecar.url)
        assert (code, out) == (1, "")
        assert "did you mean RagMemoryMain?" in errors
        assert "RagMemoryCritical" in errors
        code, out, errors = run("explain", "RagMemoryMain", "--url", sidecar.url, "--target", "nope")
        assert (code, out) == (1, "")
        assert "there is no target nope" in errors
        assert "targets there: t\n" in errors


def test_prometheus_with_the_same_rules_explains_too(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Any Prometheus that scrapes a sidecar and has its rules can be asked the same."""
    leaky = spawn("leaky")
    with running_sidecar(tmp_path, "--pid", str(leaky.pid), "--memory.main", "200MiB") as sidecar:
        scrape = {"job_name": "rag-sidecar", "static_configs": [{"targets": [sidecar.url.removeprefix("http://")]}]}
        file = ("global: {scrape_interval: 500ms, evaluation_interval: 500ms}\n"
                f"scrape_configs: {json.dumps([scrape])}\n")
        leaky.tell("grow 220")
        with running_prometheus(file, tmp_path, rule_files=[CHECKOUT / "rules" / "memory.yml"]) as prometheus:
            def explained() -> str:
                code, out, errors = run("explain", "RagMemoryMain", "--url", prometheus.url, "--target", "rag")
                assert (code, errors) == (0, "")
                return " ".join(out.split())

            wait_until(lambda: prometheus.get("/api/v1/rules")["data"]["groups"], 20, "the rules")
            wait_until(lambda: prometheus.get("/api/v1/query", query="rag_target_up")["data"]["result"], 20, "a scrape")
            text = wait_until(lambda: text if "is pending for target rag" in (text := explained()) else "", 30,
                              "the alert to be pending")
            assert "is above the main line 200 MiB, by" in text
            assert "A Prometheus was asked, which only tells" in text
