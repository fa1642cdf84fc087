"""The shipped rule files: their unit tests hold here and in the real promtool."""

import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
from servers import promtool

from sidecar.model import Labels, Sample
from sidecar.promql.evaluate import instant
from sidecar.rules.group import Group
from sidecar.rules.load import load, shipped
from sidecar.rules.spec import AlertingSpec
from sidecar.rules.standing import Standing, standing
from sidecar.rules.testing import run
from sidecar.rules.testreport import details
from sidecar.store import Store

RULES = Path(__file__).parent.parent / "rules"
UNIT_TESTS = sorted((Path(__file__).parent / "rules").glob("*_test.yml"))


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.name)
def test_unit_tests_hold_here(path):
    """On the evaluator of the daemon."""
    report = run(path, Store)

    assert report.passed, list(details(report))
    assert report.outcomes


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.name)
def test_unit_tests_hold_in_promtool(path):
    """In the real promtool, of a version with other range borders than ours."""
    done = subprocess.run([promtool(), "test", "rules", path.name], cwd=path.parent, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_every_shipped_alert_is_tested():
    """No alert is shipped without a unit test that names it."""
    named = set(re.findall(r"Rag\w+", "\n".join(path.read_text() for path in UNIT_TESTS)))
    alerts = {rule.name for group in load(sorted(RULES.glob("*.yml"))) for rule in group.rules
              if isinstance(rule, AlertingSpec)}

    assert alerts - named == set()


def test_every_shipped_alert_tells_what_people_need():
    """Severity, four annotations; a cleanup exactly where there is a level."""
    for group in load(sorted(RULES.glob("*.yml"))):
        for rule in group.rules:
            if isinstance(rule, AlertingSpec):
                assert rule.labels["severity"] in ("info", "warning", "critical")
                assert set(rule.annotations) == {"summary", "description", "runbook_url", "dashboard_url"}
                assert ("cleanup" in rule.labels) == ("level" in rule.labels)


@pytest.mark.parametrize(("known", "level", "word", "reached"), [
    ("rag_memory_limit_bytes", {}, "memory limit", "limit"),
    ("rag_memory_threshold_bytes", {"level": "critical"}, "critical line", "critical line"),
])
def test_the_time_to_the_limit_is_told_in_words(known, level, word, reached):
    """Steady growth of 20 MiB a minute: the text says how much will be needed, and when limit or line is reached."""
    store = Store()
    groups = [Group(spec, default_interval_seconds=30.0, external_labels={}, external_url="http://sidecar:11611")
              for spec in load(shipped())]
    query = partial(lambda expr, at: instant(expr, store.select, at))
    own = {"job": "rag-sidecar", "instance": "h", "target": "rag"}
    for tick in range(240):
        at, mebibyte = tick * 30.0, 1024.0 * 1024.0
        store.append(Sample(Labels({"__name__": name, **own}), value, at) for name, value in (
            ("rag_memory_used_bytes", (1024 + 10 * tick) * mebibyte), ("rag_process_start_time_seconds", 0.0)))
        store.append([Sample(Labels({"__name__": known, **level, **own}), 4096 * mebibyte, at)])
        for group in groups:
            group.evaluate(at, query, store.append)

    (alert,) = [alert for group in groups for alert in group.alerts()]

    assert (alert.name, alert.labels["target"]) == ("RagMemoryTimeToLimit", "rag")
    assert alert.annotations["summary"] == f"rag is growing into its {word}"
    assert alert.annotations["description"] == (
        "If the last half hour goes on, rag on h needs 4.418GiB in an hour and reaches its "
        f"{reached} in 38m 36s.")


def test_the_example_of_the_documentation_is_true(checkout, tmp_path):
    """The rule in docs/rules.md passes the unit test beside it, here and in promtool, and is a standing order."""
    _, rules, tests = re.findall(r"```yaml\n(.*?)```", (checkout / "docs" / "rules.md").read_text(), re.DOTALL)
    (tmp_path / "my-rules.yml").write_text(rules)
    (tmp_path / "test.yml").write_text(tests)

    report = run(tmp_path / "test.yml", Store)
    done = subprocess.run([promtool(), "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True)
    (spec,) = load([tmp_path / "my-rules.yml"])
    (rule,) = Group(spec, default_interval_seconds=1.0, external_labels={}, external_url="").alerting_rules

    assert report.passed, list(details(report))
    assert done.returncode == 0, done.stdout + done.stderr
    assert isinstance(standing(rule), Standing)
