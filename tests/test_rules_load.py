"""Rule files: what is read from them, and every mistake with its place."""

import contextlib
import logging
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import promtool

from sidecar.errors import RuleError
from sidecar.rules.durations import parse_duration
from sidecar.rules.load import load, shipped
from sidecar.rules.spec import AlertingSpec, RecordingSpec

TESTS = Path(__file__).parent
RULEFMT = TESTS.parent.parent / "shared" / "data" / "rulefmt"
REASONS = {
    "bad_field.bad.yaml": "field annotation not found",
    "duplicate_grp.bad.yaml": 'groupname: "yolo" is repeated in the same file',
    "invalid_label_name.bad.yaml": "invalid label name",
    "noexpr.bad.yaml": "field 'expr' must be set in rule",
    "record_and_alert.bad.yaml": "only one of 'record' and 'alert' must be set",
}


def problems(path, text=None):
    """What is wrong with a rule file, without its name: `line:column: where: what`."""
    if text is not None:
        path.write_text(text)
    with pytest.raises(RuleError) as caught:
        load([path])
    return [str(problem).removeprefix(f"{path}:") for problem in caught.value.problems]


def rule_file(path, *rules, **group):
    """A file with one group of these rules."""
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", **group, "rules": list(rules)}]}))
    return path


def test_a_file_becomes_groups_of_rules(tmp_path):
    """Names, durations, labels and expressions arrive as they are meant, the group's labels under the rule's."""
    path = rule_file(
        tmp_path / "r.yml",
        {"alert": "A", "expr": "up==0", "for": "1m30s", "keep_firing_for": "1h", "annotations": {"summary": "x"},
         "labels": {"severity": "page", "team": "mine"}},
        {"record": "a:b", "expr": 1, "labels": {"x": "y"}},
        interval="15s", limit=7, query_offset="1m", labels={"team": "all", "site": "s"})

    (group,) = load([path])

    assert (group.name, group.file, group.interval_seconds, group.limit, group.query_offset_seconds) == \
        ("g", str(path), 15.0, 7, 60.0)
    alert, record = group.rules
    assert isinstance(alert, AlertingSpec)
    assert isinstance(record, RecordingSpec)
    assert (str(alert.expr), alert.for_seconds, alert.keep_firing_for_seconds) == ("up == 0", 90.0, 3600.0)
    assert alert.labels == {"team": "mine", "site": "s", "severity": "page"}
    assert alert.annotations == {"summary": "x"}
    assert (record.name, str(record.expr), record.labels) == ("a:b", "1", {"team": "all", "site": "s", "x": "y"})


def test_every_mistake_is_told_at_once_with_its_place(monkeypatch):
    """All problems of a file come in its own order with line, column, group and rule; inside block texts too."""
    monkeypatch.chdir(TESTS / "rules")

    found = problems(Path("mistakes.bad.yml"))

    wanted = Path("mistakes.bad.txt").read_text().splitlines()
    assert len(found) == len(wanted)
    for one, line in zip(found, wanted, strict=True):
        start = line.removeprefix("mistakes.bad.yml:").removesuffix("…")
        assert one == start or (line.endswith("…") and one.startswith(start))


def test_nothing_is_loaded_when_one_file_is_bad(tmp_path):
    """One bad file keeps the good ones from being used, and every bad file is named."""
    good = rule_file(tmp_path / "good.yml", {"record": "a", "expr": "b"})
    (tmp_path / "bad.yml").write_text("groups: [{}]")

    with pytest.raises(RuleError) as caught:
        load([good, tmp_path / "bad.yml", tmp_path / "absent.yml"])

    assert [Path(problem.file).name for problem in caught.value.problems] == ["bad.yml", "absent.yml"]
    assert caught.value.help


@pytest.mark.parametrize("text", ["", "\n", "groups:", "groups: []", "groups: [{name: g}]", "{}"])
def test_an_empty_file_is_fine(tmp_path, text):
    """A file without rules is no mistake."""
    (tmp_path / "r.yml").write_text(text)

    assert [rule for group in load([tmp_path / "r.yml"]) for rule in group.rules] == []


@pytest.mark.parametrize(("text", "reason"), [
    ("groups: [", "not YAML"),
    ("groups: \x00", "not YAML"),
    ("[" * 5000, "nested too deep"),
    ("groups: 5", "expected a list, found a single value"),
    ("groups: &a [*a]", "this value contains itself"),
    ("? [a]\n: b\n", "a key must be a single word"),
    ("groups: [{name: [a], rules: []}]", "expected a single value, found a list"),
    ("groups: [{name: g, rules: [{<<: 5, alert: a, expr: b}]}]", "<< takes a mapping"),
])
def test_what_is_no_rule_file_is_refused_in_words(tmp_path, text, reason):
    """Broken YAML and wrong shapes end in a problem with a place, never in a traceback."""
    assert any(reason in problem for problem in problems(tmp_path / "r.yml", text))


def test_a_small_file_cannot_stand_for_a_huge_one(tmp_path):
    """Aliases that multiply a few rules into millions are refused."""
    rules = "[" + ",".join(["*r"] * 2000) + "]"
    text = (f"groups:\n- &g {{name: a, rules: [&r {{alert: a, expr: up}}, &s {{record: b, expr: up}}]}}\n"
            f"- &h {{name: b, rules: {rules}}}\n" + "- *h\n" * 2000)

    assert any("aliases make this file stand for too many values" in problem
               for problem in problems(tmp_path / "r.yml", text))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    """Bytes that are no UTF-8 are told with their line."""
    (tmp_path / "r.yml").write_bytes(b"groups:\n- name: \xff\n")

    assert problems(tmp_path / "r.yml") == ["2:1: not UTF-8 text"]


def test_only_the_first_document_counts(tmp_path, caplog):
    """As in Prometheus, what follows `---` is not read; a warning says so."""
    (tmp_path / "r.yml").write_text("groups: [{name: a}]\n---\ngroups: [{name: b}]\n")

    with caplog.at_level(logging.WARNING):
        assert [group.name for group in load([tmp_path / "r.yml"])] == ["a"]
    assert "first document" in caplog.text


@pytest.mark.parametrize(("text", "seconds"), [
    ("0", 0.0), ("5m", 300.0), ("1h30m", 5400.0), ("250ms", 0.25), ("1y2w3d", 33_004_800.0), ("1d", 86400.0)])
def test_durations_are_those_of_prometheus(text, seconds):
    """Units from years to milliseconds, largest first."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1.5h", "1m1h", "-5m", "5 m", "5min", "999999999y", "٥m"])
def test_other_durations_are_refused(text):
    """A number needs its unit, and nothing is guessed."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@settings(max_examples=200)
@given(st.text())
def test_no_text_brings_loading_down(tmp_path_factory, text):
    """Whatever a rule file holds, it loads or is refused with problems."""
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with contextlib.suppress(RuleError):
        load([path])


def test_the_shipped_rules_load():
    """What comes with the package loads here, without the file that is meant for a central Prometheus."""
    names = {path.name for path in shipped()}

    assert "memory.yml" in names
    assert "fleet.yml" not in names
    assert "RagMemoryCritical" in {rule.name for group in load(shipped()) for rule in group.rules}


def test_promtool_refuses_the_same_file(checkout):
    """The file of mistakes is no rule file for the real promtool either, and the shipped files are, lint included."""
    bad = subprocess.run([promtool(), "check", "rules", TESTS / "rules" / "mistakes.bad.yml"], capture_output=True)
    good = subprocess.run([promtool(), "check", "rules", "--lint=all", "--lint-fatal",
                           *(checkout / "rules").glob("*.yml")], capture_output=True, text=True)

    assert bad.returncode != 0
    assert good.returncode == 0, good.stdout + good.stderr


@pytest.mark.skipif(not RULEFMT.is_dir(), reason="Prometheus's own test data is not beside this checkout")
@pytest.mark.parametrize("path", sorted(RULEFMT.glob("*.yaml")), ids=lambda path: path.name)
def test_prometheus_own_files_load_or_are_refused(path):
    """Prometheus's rulefmt files: the bad ones are refused with place, group and reason, the others load."""
    if ".bad." not in path.name:
        assert load([path])
        return
    (problem,) = problems(path)
    assert REASONS[path.name] in problem
    assert 'group "yolo"' in problem
    assert not problem.startswith("0:")
