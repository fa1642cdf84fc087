"""Unit tests of rules, run here as promtool runs them."""

import math
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from servers import promtool

from sidecar.model import is_stale
from sidecar.rules.series_notation import parse_series, parse_values
from sidecar.rules.testing import run
from sidecar.store import Store

PROMTOOL = Path(__file__).parent.parent.parent / "shared" / "data" / "promtool"


def outcomes(path):
    """How the tests of one file went: {name: passed}."""
    (report,) = run([path], Store).files
    assert report.problems == ()
    return {outcome.name: not outcome.failures for outcome in report.outcomes}


def files(folder, tests, rules=(), **more):
    """A test file beside a rule file in `folder`."""
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": list(rules)}]}))
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests, **more}))
    return folder / "test.yml"


UP_DOWN = {"alert": "Down", "expr": "up == 0", "for": "2m", "annotations": {"summary": "{{ $labels.i }} is down"}}


@pytest.mark.parametrize(("alerts", "passes"), [
    ([{"exp_labels": {"i": "a"}, "exp_annotations": {"summary": "a is down"}}], True),
    ([{"exp_labels": {"i": "a"}}], False),
    ([{"exp_labels": {"i": "b"}, "exp_annotations": {"summary": "a is down"}}], False),
    ([], False),
    ([{"exp_labels": {"i": "a"}, "exp_annotations": {"summary": "a is down"}}] * 2, False),
])
def test_alerts_must_be_exactly_those_expected(tmp_path, alerts, passes):
    """Labels and annotations count, missing and surplus alerts too; the real promtool agrees."""
    path = files(tmp_path, [{
        "interval": "1m", "input_series": [{"series": 'up{i="a"}', "values": "1 0x9"}],
        "alert_rule_test": [{"eval_time": "2m", "alertname": "Down", "exp_alerts": []},
                            {"eval_time": "3m30s", "alertname": "Down", "exp_alerts": alerts}]}], [UP_DOWN])

    done = subprocess.run([promtool(), "test", "rules", path], capture_output=True)

    assert run([path], Store).passed is passes
    assert (done.returncode == 0) is passes


def test_a_difference_is_shown_readably(tmp_path):
    """The report names file, test, expression and time, and lists what was expected and what came."""
    check = {"expr": "x * 2", "eval_time": "2m", "exp_samples": [{"labels": '{i="a"}', "value": 7}]}
    path = files(tmp_path, [{"name": "sums", "input_series": [{"series": 'x{i="a"}', "values": "1+1x5"}],
                             "promql_expr_test": [check]}])

    report = run([path], Store)

    assert not report.passed
    assert str(report) == f"""{path}
  FAILED:
    sums:
      expr: "x * 2", time: 2m,
        exp: [
          {{i="a"}} 7
        ]
        got: [
          {{i="a"}} 6
        ]"""


def test_a_rule_that_fails_fails_the_test(tmp_path):
    """As in promtool, an error while evaluating rules ends the test group, whatever it expects."""
    series = [{"series": f'x{{i="{number}"}}', "values": "1"} for number in (1, 2)]
    check = {"expr": "1", "eval_time": "0", "exp_samples": [{"value": 1}]}
    path = files(tmp_path, [{"input_series": series, "promql_expr_test": [check]}],
                 [{"alert": "A", "expr": "x", "labels": {"i": ""}}])

    (report,) = run([path], Store).files

    assert "rule: A, time: 0s, err: vector contains metrics" in report.outcomes[0].failures[0]


def test_rules_run_in_the_order_wished_for(tmp_path):
    """group_eval_order puts groups before others; results of the first are seen by the next at once."""
    groups = [{"name": "second", "rules": [{"record": "b", "expr": "a + 1"}]},
              {"name": "first", "rules": [{"record": "a", "expr": "1"}]}]
    test = [{"promql_expr_test": [{"expr": "b", "eval_time": "0", "exp_samples": [{"labels": "b", "value": 2}]}]}]
    path = files(tmp_path, test, group_eval_order=["first", "second"])
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))

    assert run([path], Store).passed
    assert not run([files(tmp_path, test)], Store).passed


@pytest.mark.parametrize(("text", "reason"), [
    ("tests: [{alert_rule_test: [{eval_time: 1m}]}]", "misses required attribute alertname"),
    ("tests: [{input_serie: []}]", "field input_serie not found; did you mean input_series?"),
    ("tests: [{input_series: [{series: 'a{', values: '1'}]}]", "not a series: 'a{'"),
    ("tests: [{input_series: [{series: a, values: '1 two'}]}]", "not a value: 'two'"),
    ("tests: [{interval: soon}]", "not a valid duration string"),
    ("tests: [{start_timestamp: yesterday}]", "start_timestamp"),
    ("rule_files: [bad.yml]", "one of 'record' or 'alert' must be set"),
    ("tests: 5", "expected a list"),
])
def test_a_file_with_mistakes_is_not_run(tmp_path, text, reason):
    """Mistakes in the test file or its rules are told with their place."""
    (tmp_path / "bad.yml").write_text("groups: [{name: g, rules: [{expr: up}]}]")
    (tmp_path / "test.yml").write_text(text)

    (report,) = run([tmp_path / "test.yml"], Store).files

    assert not report.passed
    assert any(reason in problem for problem in report.problems)
    assert report.outcomes == ()


def test_what_cannot_be_checked_is_no_pass(tmp_path):
    """Native histograms, expressions that we do not have and tests that are too long fail in words."""
    path = files(tmp_path, [
        {"name": "histogram", "input_series": [{"series": "h", "values": "{{sum:1 count:2}}"}]},
        {"name": "unknown", "promql_expr_test": [{"expr": "nofunction(up)", "eval_time": "0"}]},
        {"name": "long", "promql_expr_test": [{"expr": "up", "eval_time": "100y"}]}])
    (report,) = run([path], Store).files

    assert [reason in outcome.failures[0] for reason, outcome in zip(
        ("native histograms are not supported", "could not parse expression", "lengthen evaluation_interval"),
        report.outcomes, strict=True)] == [True, True, True]


def test_a_store_that_is_too_small_is_told(tmp_path):
    """A result from thinned data is not given out as certain."""
    path = files(tmp_path, [{"interval": "1s", "input_series": [{"series": "x", "values": "1x5000"}],
                             "promql_expr_test": [{"expr": "x", "eval_time": "5000s",
                                                   "exp_samples": [{"labels": "x", "value": 1}]}]}])

    assert run([path], Store).passed
    assert not run([path], lambda: Store(budget_bytes=20_000)).passed


def test_a_rule_file_that_is_missing_is_a_warning(tmp_path):
    """As in promtool: a pattern without files is told, and the tests run."""
    (tmp_path / "test.yml").write_text("rule_files: ['none*.yml']\ntests: []")

    report = run([tmp_path / "test.yml"], Store)

    assert report.passed
    assert "no file matches none*.yml" in str(report)


@pytest.mark.parametrize(("text", "values"), [
    ("1 2.5 -3 1e3", [1.0, 2.5, -3.0, 1000.0]), ("0+10x3", [0.0, 10.0, 20.0, 30.0]), ("5-2x2", [5.0, 3.0, 1.0]),
    ("7x2", [7.0, 7.0, 7.0]), ("_ 1 _x2 2", [None, 1.0, None, None, 2.0]), ("Inf -Inf", [math.inf, -math.inf]),
    ("0x10", [0.0] * 11), ("", [])])
def test_values_are_written_in_short(text, values):
    """Sequences, repetitions and gaps."""
    assert parse_values(text) == values


def test_stale_ends_a_series():
    """`stale` is the stale marker, NaN only a number."""
    marker, nan = parse_values("stale NaN")

    assert (is_stale(marker), is_stale(nan), math.isnan(nan)) == (True, False, True)


@pytest.mark.parametrize("text", ["x", "1+x3", "1x", "1x9999999999", "0x999999 1x999999", "_y2", "1,2"])
def test_other_values_are_refused(text):
    """What is no value is an error, and a million values are enough."""
    with pytest.raises(ValueError, match="value"):
        parse_values(text)


@pytest.mark.parametrize(("text", "labels"), [
    ("up", {"__name__": "up"}), ("{}", {}), ("", {}),
    (' up { a = "b" , c=\'d\', } ', {"__name__": "up", "a": "b", "c": "d"}),
    (r'{a="\"\\}",b=`x`}', {"a": '"\\}', "b": "x"}), ('{"a"="b"}', {"a": "b"})])
def test_series_are_written_as_in_expressions(text, labels):
    """A name, labels, or both."""
    assert parse_series(text) == labels


@given(st.text(alphabet='up{}="a,\\\'` '))
def test_no_series_brings_the_runner_down(text):
    """What is no series is a ValueError."""
    try:
        assert isinstance(parse_series(text), dict)
    except ValueError as error:
        assert str(error)  # noqa: PT017


@pytest.mark.skipif(not PROMTOOL.is_dir(), reason="Prometheus's own test data is not beside this checkout")
@pytest.mark.parametrize(("name", "failing"), [
    ("long-period.yml", set()),
    ("start-time-test.yml", set()),
    ("failing.yml", {"Failing test", "Failing alert test"}),
    ("rules_run.yml", {"wrong test"}),
    ("rules_run_fuzzy.yml", {"wrong fuzzy match"}),
    ("rules_run_no_fuzzy.yml", {"correct fuzzy match"}),
])
def test_promtool_own_files_end_as_they_should(name, failing):
    """Prometheus's files: each group passes or fails as it does in promtool."""
    assert {group for group, passed in outcomes(PROMTOOL / name).items() if not passed} == failing


@pytest.mark.skipif(not PROMTOOL.is_dir(), reason="Prometheus's own test data is not beside this checkout")
def test_of_promtools_main_file_only_native_histograms_are_missing():
    """Everything in unittest.yml holds, but for the series and checks that need native histograms."""
    (report,) = run([PROMTOOL / "unittest.yml"], Store).files

    failures = [failure for outcome in report.outcomes for failure in outcome.failures]
    assert len(report.outcomes) == 5
    assert [failure for failure in failures if "native histograms are not supported" not in failure] == []
    assert {outcome.name for outcome in report.outcomes if outcome.failures} == {"test 1"}
