"""`check rules`: what loads and is yet unlikely to be meant, each with its place and what to do."""

import json

import pytest
import yaml

from sidecar.cli import main

ACT = {"alert": "MyLine", "expr": "rag_memory_used_bytes > 3 * 1024 ^ 3",
       "labels": {"severity": "warning", "level": "main", "cleanup": "standard"}, "annotations": {"summary": "x"}}
TELL = {**ACT, "labels": {"severity": "warning"}}
PAGE = {"alert": "Page", "expr": "up == 0", "labels": {"severity": "page"}}
RECORD = {"record": "rag:a", "expr": "max_over_time(rag_memory_used_bytes[1h])"}
GATE = "write labels that stay the same while the alert fires, or drop the label cleanup"
PLAIN = "use letters, digits and _ alone, and no digit first"
FEATURE = "--enable-feature=promql-experimental-functions"


def write(path, *rules, **group):
    """A file with one group of these rules."""
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", **group, "rules": list(rules)}]}, sort_keys=False))
    return str(path)


def check(capsys, *arguments):
    """The exit code of `check rules`, and what it found: [(name, what, do)]."""
    code = main(["check", "rules", "-o", "json", *arguments])
    files = json.loads(capsys.readouterr().out)["files"]
    return code, [(one["name"], one["what"], one["do"]) for file in files for one in file["lint"]]


def labelled(**more):
    """The alert that acts, with other labels."""
    return {**ACT, "labels": {**ACT["labels"], **more}}


@pytest.mark.parametrize("rules", [
    [ACT], [TELL], [PAGE], [RECORD, {**TELL, "expr": "rag:a > 1"}],
    [labelled(severity="{{ $externalLabels.severity }}")],
    [{**ACT, "for": "10s"}, {**ACT, "alert": "Other"}],
    [{**TELL, "expr": "rate(rag_cleanup_delivery_seconds_bucket[5m]) and {__name__=~'rag_.*'} and rate(x[5m])"}],
])
def test_rules_as_they_should_be_are_clean(tmp_path, capsys, rules):
    """Nothing is found in rules that are meant; alerts about other things may use words of their own."""
    assert check(capsys, write(tmp_path / "r.yml", *rules)) == (0, [])


def test_the_shipped_rules_are_clean(checkout, capsys):
    """What comes with the package has no lint, nor has the file for a central Prometheus."""
    assert check(capsys) == (0, [])
    assert check(capsys, str(checkout / "rules" / "fleet.yml")) == (0, [])


@pytest.mark.parametrize(("rule", "name", "what", "do"), [
    ({**TELL, "expr": "rag_memory_usd_bytes > 1"}, "unknown-metric",
     "there is no metric rag_memory_usd_bytes, so nothing is selected", "did you mean rag_memory_used_bytes?"),
    ({**TELL, "expr": "rag:memory_used_bytes:floor5m > 1"}, "unknown-metric",
     "there is no metric rag:memory_used_bytes:floor5m, so nothing is selected",
     "the shipped memory.yml records it: check and load both files"),
    ({**TELL, "expr": "sum(rag_zzz) > 1"}, "unknown-metric",
     "there is no metric rag_zzz, so nothing is selected", "docs/metrics.md names all that there are"),
    ({**TELL, "expr": "rate(rag_memory_used_bytes[5m]) > 1"}, "wrong-function",
     "rate() on the gauge rag_memory_used_bytes: every fall counts as a reset", "deriv() and delta() are for gauges"),
    ({**TELL, "expr": "increase((rag_memory_used_bytes)[5m:1m]) > 1"}, "wrong-function",
     "increase() on the gauge rag_memory_used_bytes: every fall counts as a reset",
     "deriv() and delta() are for gauges"),
    ({**TELL, "expr": "deriv(rag_cgroup_refaults_total[5m]) > 1"}, "wrong-function",
     "deriv() on the counter rag_cgroup_refaults_total: a restart looks like a fall",
     "rate() and increase() are for counters"),
    ({**TELL, "expr": "max_over_time(rag_memory_used_bytes[3d]) > 1"}, "look-back",
     "looks back 3d at rag_memory_used_bytes: of a hundred such series the store keeps 14h33m, "
     "and none through a restart",
     "record a coarser series in a group with a longer interval and look back at that one"),
    (labelled(cleanup="agressive"), "labels",
     "cleanup: agressive is not known: nothing is cleaned up", "did you mean aggressive?"),
    (labelled(level="crit"), "labels", "level: crit is not known", "did you mean critical?"),
    (labelled(severity="page"), "labels", "severity: page is not known", "write info, warning or critical"),
    ({**ACT, "labels": {"cleanup": "light", "severity": "info"}}, "labels",
     "asks for a cleanup and has no label level", "add level: preventive, main or critical"),
    ({**ACT, "labels": {"level": "main"}}, "labels",
     "has no label severity, how loud it is", "add severity: info, warning or critical"),
    ({**ACT, "annotations": {}}, "summary",
     "has no annotation summary", "say in one line what happened to which target"),
    (labelled(severity="critical"), "runbook",
     "is critical and has no annotation runbook_url", "say where stands what to do about it"),
    (labelled(n="{{ $value }}"), "gate",
     "the cleanup never comes: its labels depend on the value, the metric's name or a query", GATE),
    (labelled(alertname="x"), "alertmanager", "label alertname: the alert's own name replaces it", "drop it"),
    (labelled(**{"a.b": "x"}), "alertmanager", "label a.b: an Alertmanager before 0.27 refuses the alert", PLAIN),
    ({**ACT, "annotations": {"summary": "x", "a-b": "x"}}, "alertmanager",
     "annotation a-b: an Alertmanager before 0.27 refuses the alert", PLAIN),
])
def test_what_is_unlikely_to_be_meant_is_found(tmp_path, capsys, rule, name, what, do):
    """Such a rule has this lint and no other, with what to do; lint alone is exit code 3."""
    assert check(capsys, write(tmp_path / "r.yml", rule)) == (3, [(name, what, do)])


def test_duplicates_are_found_across_files(tmp_path, capsys):
    """The later of two rules of one name and the same labels is told, with the place of the first."""
    first = write(tmp_path / "a.yml", PAGE, {"record": "x", "expr": "1"})
    second = write(tmp_path / "b.yml", {**PAGE, "expr": "down"}, {"record": "x", "expr": "2", "labels": {"a": "b"}})

    assert check(capsys, first, second) == (3, [
        ("duplicate-rules", f"same name and labels as the rule at {first}:4:12",
         "drop one of the two, or tell them apart by a label")])
    assert check(capsys, "--lint", "duplicate-rules", first) == (0, [])


def test_what_is_recorded_slowly_may_be_looked_back_at_further(tmp_path, capsys):
    """The same look back is fine where a group with a long interval records what is read."""
    read = {"record": "far", "expr": "max_over_time(rag:a[3d])"}

    assert check(capsys, write(tmp_path / "slow.yml", RECORD, read, interval="5m")) == (0, [])
    assert [name for name, _, _ in check(capsys, write(tmp_path / "fast.yml", RECORD, read))[1]] == ["look-back"]


def test_experimental_functions_are_told_or_refused(tmp_path, capsys):
    """With the feature on they are lint; without it the file is not loaded at all."""
    path = write(tmp_path / "r.yml", {"record": "x", "expr": "1 +\n  sort_by_label(up, 'a')"})

    code, ((name, what, _),) = check(capsys, FEATURE, path)
    assert (code, name) == (3, "experimental")
    assert what.startswith("sort_by_label() is experimental in Prometheus")
    assert check(capsys, path) == (1, [])


def test_lint_can_be_chosen_and_need_not_be_fatal(tmp_path, capsys):
    """`--lint` names what to look for, `--no-lint-fatal` keeps the exit code 0; an unknown name is a warning."""
    path = write(tmp_path / "r.yml", {**ACT, "expr": "rag_x > 1", "annotations": {}})

    assert {name for name, _, _ in check(capsys, path)[1]} == {"unknown-metric", "summary"}
    assert [name for name, _, _ in check(capsys, "--lint", "summary,unknown-metric", path)[1]] == [
        "summary", "unknown-metric"]
    assert check(capsys, "--lint", "none", path) == (0, [])
    assert check(capsys, "--no-lint-fatal", "--lint=summary", path)[0] == 0
    assert check(capsys, "--lint-fatal", "--lint=summary", path)[0] == 3
    assert main(["check", "rules", "--lint", "sumary", path]) == 0
    assert "unknown lint option: 'sumary'; known are all, none, duplicate-rules" in capsys.readouterr().err


def test_people_read_places_and_sums(tmp_path, monkeypatch, capsys):
    """Each finding begins with file:line:column, also inside block texts; each file is summed up; mistakes go first."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lint.yml").write_text("""\
groups:
  - name: mine
    labels: {level: nowhere}
    rules:
      - alert: A
        expr: |
          up == 0
            and rag_zzz
        labels: {severity: critical}
        annotations: {summary: x, runbook_url: y}
  - name: empty
""")
    (tmp_path / "bad.yml").write_text("groups: [{name: g, rules: [{expr: up}]}]")
    (tmp_path / "fine.yml").write_text("groups:\n")

    code = main(["check", "rules", "lint.yml", "fine.yml", "bad.yml", "none.yml"])
    told = capsys.readouterr()

    assert code == 1
    assert told.out == """\
lint.yml: 2 groups, 1 rule, 2 lint
fine.yml: 0 groups, 0 rules, no problems found
bad.yml: 1 problem
none.yml: 1 problem
"""
    assert told.err == """\
lint.yml:5:16: group "mine", rule 1 ("A"): level: nowhere is not known (labels)
  write preventive, main or critical
lint.yml:8:17: group "mine", rule 1 ("A"): there is no metric rag_zzz, so nothing is selected (unknown-metric)
  docs/metrics.md names all that there are
bad.yml:1:28: group "g", rule 1: one of 'record' or 'alert' must be set
none.yml: cannot be read: No such file or directory
"""


def test_fields_that_prometheus_does_not_know_can_be_passed_over(tmp_path, capsys):
    """`--ignore-unknown-fields` is for rule files that carry more than Prometheus reads."""
    path = write(tmp_path / "r.yml", {"record": "x", "expr": "1", "owner": "me"}, team="mine")

    assert check(capsys, path) == (1, [])
    assert check(capsys, "--ignore-unknown-fields", path) == (0, [])


def test_names_of_prometheus_3_load(tmp_path, capsys):
    """Labels, annotations and recorded metrics may have any name in UTF-8; half a surrogate pair is none."""
    path = write(tmp_path / "r.yml", {"record": "my.metric", "expr": '{"other.metric"}', "labels": {"a-b": "c"}})
    (tmp_path / "half.yml").write_text('groups: [{name: "\\ud83d", rules: []}]')

    assert check(capsys, path) == (0, [])
    assert main(["check", "rules", str(tmp_path / "half.yml")]) == 1
    assert ":1:17: not YAML: half of a pair of UTF-16 surrogates is no character" in capsys.readouterr().err
