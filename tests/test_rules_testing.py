"""Unit tests of rules, run here as promtool runs them."""

import json
import math
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import newer_prometheus
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from servers import promtool

from sidecar.cli import main
from sidecar.errors import QueryError
from sidecar.model import is_stale
from sidecar.promql.features import Features
from sidecar.rules.series_notation import parse_series, parse_values
from sidecar.rules.testing import RunOptions, run
from sidecar.rules.testreport import as_json, as_junit, details, verdict
from sidecar.store import Store

PROMTOOL = Path(__file__).parent.parent.parent / "shared" / "data" / "promtool"


def outcomes(path):
    """How the tests of one file went: {name: passed}."""
    report = run(path, Store)
    assert report.problems == ()
    return {outcome.name: not outcome.failures for outcome in report.outcomes}


def files(folder, tests, rules=(), **more):
    """A test file beside a rule file in `folder`."""
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": list(rules)}]}))
    (folder / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests, **more}))
    return folder / "test.yml"


def promtool_3():
    """A promtool of version 3, which reads ranges as we do."""
    return newer_prometheus.needed("promtool")


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

    assert run(path, Store).passed is passes
    assert (done.returncode == 0) is passes


GROWING = {"name": "sums", "input_series": [{"series": 'x{i="a"}', "values": "1+1x5"},
                                            {"series": 'x{i="b"}', "values": "1x5"}]}


def test_a_difference_is_shown_readably(tmp_path):
    """The report names test, expression and time, and what was expected beside what came; what is right is counted."""
    check = {"expr": "x * 2", "eval_time": "2m", "exp_samples": [
        {"labels": '{i="a"}', "value": 7}, {"labels": '{i="b"}', "value": 2}, {"labels": "y", "value": 1}]}
    path = files(tmp_path, [{**GROWING, "promql_expr_test": [check]}])

    report = run(path, Store)

    assert verdict(report) == "FAILED: 1 of 1 tests"
    assert "\n".join(details(report)) == """\
sums:
  expr: "x * 2", time: 2m:
    missing: y 1
    exp: {i="a"} 7
    got: {i="a"} 6
    differs in: value
    as expected: 1 more"""


def test_differences_can_be_shown_line_by_line(tmp_path):
    """`--diff` shows every label, annotation and value of every element, and marks those of one side."""
    alert = {"exp_labels": {"i": "b"}, "exp_annotations": {"summary": "a is down"}}
    path = files(tmp_path, [{
        "name": "one", "input_series": [{"series": 'up{i="a",j="c"}', "values": "0x9"}],
        "alert_rule_test": [{"eval_time": "3m", "alertname": "Down", "exp_alerts": [alert]}]}], [UP_DOWN])

    report = run(path, Store)

    assert "\n".join(details(report, whole=True)) == """\
one:
  alertname: Down, time: 3m: (- expected, + got)
      Down
    -   i="b"
    +   i="a"
    +   j="c"
        summary: "a is down\""""
    assert [line for line in details(report, whole=True, coloured=True) if "\x1b[31m" in line] == [
        '    \x1b[31m-   i="b"\x1b[0m']


def test_a_rule_that_fails_fails_the_test(tmp_path):
    """As in promtool, an error while evaluating rules ends the test group, whatever it expects."""
    series = [{"series": f'x{{i="{number}"}}', "values": "1"} for number in (1, 2)]
    check = {"expr": "1", "eval_time": "0", "exp_samples": [{"value": 1}]}
    path = files(tmp_path, [{"input_series": series, "promql_expr_test": [check]}],
                 [{"alert": "A", "expr": "x", "labels": {"i": ""}}])

    (failure,) = run(path, Store).outcomes[0].failures

    assert failure.what == "rule: A, time: 0s"
    assert failure.error.startswith("vector contains metrics")


def test_rules_run_in_the_order_wished_for(tmp_path):
    """group_eval_order puts groups before others; results of the first are seen by the next at once."""
    groups = [{"name": "second", "rules": [{"record": "b", "expr": "a + 1"}]},
              {"name": "first", "rules": [{"record": "a", "expr": "1"}]}]
    test = [{"promql_expr_test": [{"expr": "b", "eval_time": "0", "exp_samples": [{"labels": "b", "value": 2}]}]}]
    path = files(tmp_path, test, group_eval_order=["first", "second"])
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))

    assert run(path, Store).passed
    assert not run(files(tmp_path, test), Store).passed


@pytest.mark.parametrize(("text", "reason"), [
    ("tests: [{input_serie: []}]", "field input_serie not found; did you mean input_series?"),
    ("tests: [{interval: soon}]", "not a valid duration string"),
    ("tests: [{start_timestamp: yesterday}]", "start_timestamp"),
    ("tests: [{start_timestamp: '2024-02-31T00:00:00Z'}]", "start_timestamp"),
    ("rule_files: [bad.yml]\ntests: [{}]", "one of 'record' or 'alert' must be set"),
    ("tests: 5", "expected a list"),
    ("fuzzy_compare: maybe", "expected true or false"),
    ("group_eval_order: [a, b, a]", "group name repeated in evaluation order: a"),
])
def test_a_file_with_mistakes_is_not_run(tmp_path, text, reason):
    """Mistakes in the test file or its rules are told with their place."""
    (tmp_path / "bad.yml").write_text("groups: [{name: g, rules: [{expr: up}]}]")
    (tmp_path / "test.yml").write_text(text)

    report = run(tmp_path / "test.yml", Store)

    assert not report.passed
    assert any(reason in problem for problem in report.problems)
    assert report.outcomes == ()


@pytest.mark.parametrize(("test", "reason"), [
    ({"alert_rule_test": [{"eval_time": "1m"}]}, "misses required attribute alertname"),
    ({"input_series": [{"series": "a{", "values": "1"}]}, "not a series: 'a{'"),
    ({"input_series": [{"series": "a", "values": "1 two"}]}, "not a value: 'two'"),
    ({"input_series": [{"series": "a", "values": "{{sum:}}"}]}, "not a native histogram"),
    ({"promql_expr_test": [{"expr": "nofunction(up)", "eval_time": "0"}]}, "could not parse expression"),
    ({"promql_expr_test": [{"expr": "1", "eval_time": "0", "exp_samples": [{"labels": "a{", "value": 1}]}]},
     "exp_samples: not a series"),
    ({"promql_expr_test": [{"expr": "1", "eval_time": "0", "exp_samples": [{"labels": "a", "histogram": "1"}]}]},
     "expected one native histogram"),
    ({"promql_expr_test": [{"expr": "up", "eval_time": "100y"}]}, "lengthen evaluation_interval"),
])
def test_a_mistake_in_one_test_leaves_the_others(tmp_path, test, reason):
    """What cannot be run or compared fails in words, and the other tests of the file run; so it is in promtool."""
    good = {"name": "good", "promql_expr_test": [{"expr": "1", "eval_time": "0", "exp_samples": [{"value": 1}]}]}
    report = run(files(tmp_path, [test, good]), Store)

    assert {outcome.name: bool(outcome.failures) for outcome in report.outcomes} == {"test 1": True, "good": False}
    assert reason in "\n".join(details(report))


def test_only_chosen_tests_run(tmp_path):
    """`--run` takes patterns that are found anywhere in a test's name; what is not chosen may be wrong."""
    tests = [{"name": "over the line"}, {"name": "under", "input_series": [{"series": "{", "values": ""}]}, {}]
    path = files(tmp_path, tests)

    def chosen(*patterns):
        return [outcome.name for outcome in run(path, Store, RunOptions(patterns)).outcomes]

    assert chosen("the") == ["over the line"]
    assert chosen("^under$", "LINE|line") == ["over the line", "under"]
    assert chosen("^$") == ["test 3"]
    assert chosen() == ["over the line", "under", "test 3"]
    assert run(path, Store, RunOptions(("none",))).warnings == ("no test was run: none has a name that matches",)
    with pytest.raises(QueryError, match=r"invalid regular expression '\('"):
        chosen("(")


def test_rule_files_are_found_as_promtool_finds_them(tmp_path):
    """Patterns are relative to the test file, a file named twice counts once, and nothing is read without a test."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.yml").write_text("groups: [{name: g, rules: [{record: one, expr: 1}]}]")
    (tmp_path / "a" / "bad.yaml").write_text("groups: 5")
    check = {"expr": "count_over_time(one[1m])", "eval_time": "0", "exp_samples": [{"value": 1}]}
    path = tmp_path / "a" / "test.yml"
    path.write_text(yaml.safe_dump({"rule_files": ["*.yml", "../a/one.yml"], "tests": [{"promql_expr_test": [check]}]}))
    (tmp_path / "a" / "test.yml").rename(tmp_path / "a" / "test.yaml")
    unread = tmp_path / "a" / "unread.yaml"
    unread.write_text("rule_files: [bad.yaml, 'none*.yml']\ntests: []")

    assert run(path.with_suffix(".yaml"), Store).passed
    assert run(unread, Store).warnings == ("no file matches none*.yml", "no test was run: there is none")
    assert run(unread, Store).passed


def test_fields_that_prometheus_does_not_know_can_be_passed_over(tmp_path):
    """`--ignore-unknown-fields` is for rule files that carry more; a misspelt field of a test stays an error."""
    path = files(tmp_path, [{}])
    (tmp_path / "rules.yml").write_text("groups: [{name: g, owner: me, rules: [{record: a, expr: 1, more: 1}]}]")

    assert not run(path, Store).passed
    assert run(path, Store, RunOptions(lenient=True)).passed
    (tmp_path / "test.yml").write_text("tests: [{exp_alert: []}]")
    assert not run(path, Store, RunOptions(lenient=True)).passed


RENAMED = "label_replace(rate(x[5m]) * 0, 'i', 'y', '__name__', 'x')"


@pytest.mark.parametrize(("options", "expr", "passes"), [
    (RunOptions(), "sort_by_label(x, 'i')", False),
    (RunOptions(features=Features(experimental_functions=True)), "sort_by_label(x, 'i')", True),
    (RunOptions(), RENAMED, False),
    (RunOptions(features=Features(delayed_name_removal=True)), RENAMED, True),
])
def test_features_of_prometheus_can_be_enabled(tmp_path, options, expr, passes):
    """Experimental functions and delayed name removal are off as in Prometheus, and on when asked for."""
    expected = {"labels": 'x{i="y"}', "value": 1} if "sort" in expr else {"labels": '{i="y"}', "value": 0}
    path = files(tmp_path, [{"input_series": [{"series": 'x{i="y"}' if "sort" in expr else "x", "values": "1x5"}],
                             "promql_expr_test": [{"expr": expr, "eval_time": "5m", "exp_samples": [expected]}]}])

    assert run(path, Store, options).passed is passes


def test_subqueries_step_by_the_evaluation_interval(tmp_path):
    """A subquery without a step takes the file's evaluation interval, as in promtool."""
    check = {"expr": "count_over_time(x[5m:])", "eval_time": "10m", "exp_samples": [{"value": 10}]}
    path = files(tmp_path, [{"interval": "1m", "input_series": [{"series": "x", "values": "1x20"}],
                             "promql_expr_test": [check]}], evaluation_interval="30s")

    done = subprocess.run([promtool_3(), "test", "rules", path], capture_output=True)

    assert run(path, Store).passed
    assert done.returncode == 0, done.stderr


def test_what_is_done_can_be_traced(tmp_path):
    """`--debug` tells every sample that a test put in or its rules wrote."""
    told = []
    path = files(tmp_path, [{**GROWING, "promql_expr_test": [{"expr": "y", "eval_time": "1m"}]}],
                 [{"record": "y", "expr": "x{i='a'} > 1"}])

    run(path, Store, RunOptions(trace=told.append))

    assert told == ["starting sums", '  x{i="a"}: 1 @0s, 2 @1m', '  x{i="b"}: 1 @0s, 1 @1m', '  y{i="a"}: 2 @1m',
                    "finished sums"]


def test_results_can_be_read_by_programs(tmp_path):
    """JSON and JUnit XML hold every test and every failure; characters that XML lacks do no harm."""
    checks = [{"expr": "x", "eval_time": "0", "exp_samples": [{"labels": 'x{i="\\x00"}', "value": 1}]}]
    bad = run(files(tmp_path, [{**GROWING, "promql_expr_test": checks}, {"name": "empty"}]), Store)
    (tmp_path / "test.yml").write_text("tests: 5")
    aborted = run(tmp_path / "test.yml", Store)

    data = json.loads(as_json([bad, aborted]))
    suites = list(ElementTree.fromstring(as_junit([bad, aborted], "2024-01-01T00:00:00")))  # noqa: S314 (our own)

    assert [data["passed"], *(file["passed"] for file in data["files"])] == [False, False, False]
    assert data["files"][0]["tests"][0]["failures"][0]["expected"] == [
        {"labels": {"__name__": "x", "i": "\x00"}, "value": "1"}]
    assert [(test["name"], test["passed"]) for test in data["files"][0]["tests"]] == [("sums", False), ("empty", True)]
    assert [(suite.get("tests"), suite.get("failures"), suite.get("errors")) for suite in suites] == [
        ("2", "1", "0"), ("1", "0", "1")]
    assert [[case.get("name") for case in suite] for suite in suites] == [["sums", "empty"], ["abort"]]
    assert [failure.text.split("\n")[0] for failure in suites[0][0]] == ['expr: "x", time: 0s:']


def test_a_store_that_is_too_small_is_told(tmp_path):
    """A result from thinned data is not given out as certain."""
    path = files(tmp_path, [{"interval": "1s", "input_series": [{"series": "x", "values": "1x5000"}],
                             "promql_expr_test": [{"expr": "x", "eval_time": "5000s",
                                                   "exp_samples": [{"labels": "x", "value": 1}]}]}])

    assert run(path, Store).passed
    assert not run(path, lambda: Store(budget_bytes=20_000)).passed


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
    ("unittest.yml", set()),
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


def test_the_command_prints_where_promtool_does(tmp_path, capsys):
    """What passed goes to standard output, what did not to standard error; exit code 1 as soon as one file fails."""
    (tmp_path / "b").mkdir()
    good = files(tmp_path, [{**GROWING}])
    bad = files(tmp_path / "b", [{"name": "never", "promql_expr_test": [
        {"expr": "1", "eval_time": "0", "exp_samples": [{"value": 2}]}]}])

    assert main(["test", "rules", str(good)]) == 0
    assert capsys.readouterr() == (f"Unit Testing: {good}\n  SUCCESS: 1 test\n\n", "")
    assert main(["test", "rules", str(bad), str(good)]) == 1
    told = capsys.readouterr()
    assert told.out == f"Unit Testing: {bad}\n\nUnit Testing: {good}\n  SUCCESS: 1 test\n\n"
    assert told.err.startswith("  FAILED: 1 of 1 tests\n    never:\n      expr: \"1\", time: 0s:\n        exp: {} 2\n")
    assert main(["test", "rules", "--run", "sums", str(bad), str(good)]) == 0


@pytest.mark.parametrize("before", [True, False])
def test_results_are_written_as_promtool_writes_them(tmp_path, capsys, before):
    """`--junit FILE` is taken before and after `rules`; `-o json` leaves nothing else on standard output."""
    path, junit = files(tmp_path, [GROWING]), tmp_path / "junit.xml"
    flag = ["--junit", str(junit)]

    code = main(["test", *(flag if before else []), "rules", *([] if before else flag), "-o", "json", str(path)])

    assert code == 0
    assert json.loads(capsys.readouterr().out)["passed"] is True
    assert ElementTree.parse(junit).getroot().tag == "testsuites"  # noqa: S314 (our own)


def test_what_cannot_be_done_is_said(tmp_path, capsys):
    """A feature that is not known is a warning, as in promtool; a result file that cannot be written is an error."""
    path = str(files(tmp_path, [GROWING]))

    assert main(["test", "rules", "--enable-feature=promql-duration-expr,", path]) == 0
    assert "WARNING: --enable-feature=promql-duration-expr has no effect here" in capsys.readouterr().err
    assert main(["test", "rules", "--junit", str(tmp_path / "no" / "x.xml"), path]) == 1
    assert "the results could not be written" in capsys.readouterr().err
    assert main(["test", "rules", str(tmp_path / "none.yml")]) == 1
    assert "cannot be read: No such file or directory" in capsys.readouterr().err
