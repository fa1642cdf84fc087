"""Native histograms in unit tests of rules: carried from the input to a bare selector, and nowhere else."""

import subprocess

import newer_prometheus
import pytest
import yaml

from sidecar.rules.native_histogram import combined, parse_histogram
from sidecar.rules.series_notation import parse_values
from sidecar.rules.testing import run
from sidecar.rules.testreport import details
from sidecar.store import Store

SERIES = {  # as a TSDB sees them: what goes on, what was reset, what is another layout
    "falls": "{{count:4 sum:1 buckets:[4]}} {{count:7 buckets:[7]}} {{count:2 buckets:[2]}} {{count:3 buckets:[3]}}",
    "told": "{{count:4 buckets:[4]}} {{count:7 buckets:[7] counter_reset_hint:reset}} "
            "{{count:8 buckets:[8] counter_reset_hint:not_reset}}",
    "gauge": "{{count:4 counter_reset_hint:gauge}} {{count:2 counter_reset_hint:gauge}} {{count:3 buckets:[3]}}",
    "gaps": "{{count:4}} _ {{count:5}} stale {{count:6}} 3 {{count:7}} {{count:7}}",
    "bucket": "{{count:4 buckets:[1 2 1]}} {{count:9 buckets:[3 2 1 0 3]}} {{count:9 buckets:[3 2 1 0 2]}} "
              "{{count:9 buckets:[3 2 0 1]}} {{count:19 buckets:[0 0 3 2 0 1 0 0] offset:-2}}",
    "layout": "{{schema:1 count:4 buckets:[4]}} {{count:5 buckets:[5]}} "
              "{{count:6 buckets:[6] z_bucket:1 z_bucket_w:0.1}} "
              "{{count:6 buckets:[6] z_bucket:0.5 z_bucket_w:0.1}} {{}}",
    "custom": "{{schema:-53 custom_values:[1 2.5] count:4 sum:1e9 buckets:[4 1 1]}} "
              "{{schema:-53 custom_values:[1 3] count:5 buckets:[5 1]}}+"
              "{{schema:-53 custom_values:[1 3] buckets:[5]}}x2",
    "minus": "{{count:10 sum:9.5 buckets:[5 15] n_buckets:[6 6] n_offset:1 z_bucket:8}}-"
             "{{schema:2 count:1 sum:0.5 buckets:[0 1 0 1 1] n_buckets:[0 1] z_bucket:2}}x3",
    "wider": "{{count:10 sum:9.5 buckets:[5 5] offset:-3 z_bucket:8 z_bucket_w:0.01}}+"
             "{{count:1 sum:0.5 buckets:[1 1 1 1] offset:-4 z_bucket:1 z_bucket_w:0.2}}x2",
    "narrower": "{{count:10 buckets:[5 5] offset:-3 z_bucket:8 z_bucket_w:0.2}}+"
                "{{count:1 buckets:[1 1 1 1] offset:-4 z_bucket:1 z_bucket_w:0.001}}x2",
    "odd": "{{sum:NaN count:1e7 buckets:[0 0 123456789 0.00001 0]}} {{sum:-Inf }} {{SUM:16}}x2",
}
RULES = [{"record": "renamed", "expr": "falls"}, {"record": "late", "expr": "(falls offset 1m)"},
         {"alert": "Seen", "expr": "falls", "annotations": {"summary": "{{ $labels.job }}"}}]


def write(folder, checks, rules=(), series=None):
    """A test file: what `checks` expect of series without or with rules."""
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": list(rules)}]}))
    given = [{"series": name, "values": values} for name, values in (series or SERIES).items()]
    (folder / "test.yml").write_text(yaml.safe_dump({
        "rule_files": ["rules.yml"], "tests": [{"input_series": given, **checks}]}))
    return folder / "test.yml"


def query(expr, minutes=0, **labels_and_values):
    """A check of an expression: its elements by their labels."""
    return {"expr": expr, "eval_time": f"{minutes}m", "exp_samples": [
        {"labels": labels, "histogram" if isinstance(value, str) else "value": value}
        for labels, value in labels_and_values.items()]}


def failures(path):
    """What did not hold, as text."""
    return "\n".join(details(run(path, Store)))


def test_a_histogram_comes_through_a_bare_selector(tmp_path):
    """Brackets, offset, @, a rule that renames and an alert carry it on; the hint is the one a TSDB reads."""
    seen = {"eval_time": "1m", "alertname": "Seen", "exp_alerts": [{"exp_annotations": {"summary": ""}}]}
    check = {"alert_rule_test": [seen], "promql_expr_test": [
        query("falls", 1, falls="{{count:7 buckets:[7] counter_reset_hint:not_reset}}"),
        query("(falls)", 2, falls="{{count:2 buckets:[2]}}"),
        query("falls offset 2m", 5, falls="{{count:3 buckets:[3] counter_reset_hint:not_reset}}"),
        query("falls @ 0", 5, falls="{{buckets:[4] sum:1 count:4}}"),
        query("renamed", 3, renamed="{{count:3 buckets:[3] counter_reset_hint:not_reset}}"),
        query("late", 3, late="{{count:2 buckets:[2]}}"),
        query("gaps", 5, gaps=3.0),
        query("count(renamed) or vector(1)", 99, **{"{}": 1.0}),
        query("gauge", 1, gauge="{{count:2 counter_reset_hint:gauge}}"),
    ]}

    assert failures(write(tmp_path, check, RULES)) == ""


def test_what_is_read_is_what_promtool_reads(tmp_path):
    """Every histogram of every series at every minute has the notation and the hint that promtool 3 gives it."""
    promtool = newer_prometheus.needed("promtool")
    empty = {"promql_expr_test": [query('{__name__=~".+"}', minute) for minute in range(8)]}
    (outcome,) = run(write(tmp_path, empty, RULES[:2]), Store).outcomes
    full = {"promql_expr_test": [
        query('{__name__=~".+"}', minute, **{element.labels["__name__"]: element.value for element in failure.got})
        for minute, failure in enumerate(outcome.failures)]}

    path = write(tmp_path, full, RULES[:2])
    done = subprocess.run([promtool, "test", "rules", path], capture_output=True, text=True)

    assert failures(path) == ""
    assert sum(len(check["exp_samples"]) for check in full["promql_expr_test"]) > 60
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("expr", "said"), [
    ("rate(falls[5m])", "rate() on the native histogram falls"), ("sum(falls)", "sum() on the native histogram falls"),
    ("1 + falls", "+ on the native histogram falls"), ("-falls", "- on the native histogram falls"),
    ("max_over_time((falls)[5m:1m])", "max_over_time() on the native histogram falls"),
    ('timestamp({__name__="falls"})', "timestamp() on the native histogram falls"),
    ("histogram_count(falls)", "histogram_count() cannot be evaluated: it works on native histograms"),
])
def test_computing_with_one_is_refused_by_name(tmp_path, expr, said):
    """What would compute with a histogram fails, in a check as in a rule, and never gives a wrong number."""
    assert said in failures(write(tmp_path, {"promql_expr_test": [query(expr)]}))
    if not expr.startswith("histogram"):
        assert said in failures(write(tmp_path, {}, [{"record": "a", "expr": expr}]))


@pytest.mark.parametrize("text", ["{{ $value }}", '{{ with query "falls" }}{{ . | first | value }}{{ end }}'])
def test_a_template_cannot_print_one(tmp_path, text):
    """A template that would print NaN for a histogram fails, or says so in its text."""
    rules = [{"alert": "A", "expr": "falls", "annotations": {"summary": text}}]
    alert = {"exp_annotations": {"summary": "NaN"}}
    check = {"alert_rule_test": [{"eval_time": "0", "alertname": "A", "exp_alerts": [alert]}]}

    assert "the native histogram falls" in failures(write(tmp_path, check, rules))


def test_a_difference_between_histograms_is_shown(tmp_path):
    """Both appear in the canonical notation, by which they are compared."""
    check = query("falls", 0, falls="{{sum:1 count:5 buckets:[0 4] }}")

    told = failures(write(tmp_path, {"promql_expr_test": [check]}))

    assert "exp: falls {{count:5 sum:1 offset:1 buckets:[4]}}" in told
    assert "got: falls {{count:4 sum:1 buckets:[4]}}" in told


def test_histograms_repeat_and_grow_as_numbers_do():
    """`x` repeats, `+` and `-` add a histogram each time; numbers and gaps may stand between."""
    values = parse_values("{{sum:3 count:2 buckets:[2]}}x1 _ 5 {{sum:3}}+{{sum:1.5 count:1 buckets:[1]}}x2")

    assert [str(value) for value in values] == [
        "{{count:2 sum:3 buckets:[2]}}", "{{count:2 sum:3 buckets:[2]}}", "None", "5.0",
        "{{sum:3}}", "{{count:1 sum:4.5 buckets:[1]}}", "{{count:2 sum:6 buckets:[2]}}"]


@pytest.mark.parametrize(("text", "reason"), [
    ("{{sum}}", "not a native histogram"), ("{{sum:1 sum:2}}", "duplicate key"), ("{{a:1}}", "not a native histogram"),
    ("{{buckets:5}}", "buckets is a list"), ("{{buckets:[a]}}", "buckets is a number"), ("{{schema:1.5}}", "a whole"),
    ("{{schema:9}}", "schema 9 is none"), ("{{custom_values:[1]}}", "belong together"), ("{{schema:-53}}", "together"),
    ("{{schema:-53 custom_values:[1] z_bucket:1}}", "neither a zero bucket"), ("{{buckets:[-1]}}", "negative count"),
    ("{{buckets:[1] offset:99999999}}", "further than"), ("{{z_bucket_w:NaN}}", "is a width"),
    ("{{counter_reset_hint:maybe}}", "counter_reset_hint is one of"), ("{{sum:1}}+{{sum:1}}", "not a value"),
    ("{{sum:1}}*2", "not a value"), ("{{sum:1", "not a value"), ("{{}}+{{}}x99999", "more than 10000 histograms"),
    ("{{schema:1}}+{{schema:0}}x1", "cannot merge from schema 0 to 1"), ("{{count:1}}x9999999999", "more than"),
    ("{{schema:-53 custom_values:[1]}}+{{}}x1", "custom_values cannot be combined"),
    ("{{buckets:[1]}}-{{buckets:[1]}}x2", "negative count"),
])
def test_other_histograms_are_refused(text, reason):
    """What a TSDB would not take, or nobody means, is an error in words."""
    with pytest.raises(ValueError, match=reason):
        parse_values(text)


@pytest.mark.parametrize(("base", "step", "hint"), [
    ("gauge", "not_reset", "gauge"), ("reset", "gauge", "gauge"), ("reset", "not_reset", "unknown"),
    ("reset", "reset", "reset")])
def test_hints_of_a_sum(base, step, hint):
    """A gauge stays one; two counters that disagree are of unknown past."""
    one, other = (parse_histogram(f"counter_reset_hint:{name}") for name in (base, step))

    assert combined(one, other, 1).hint == hint
