"""The dashboards: made by their builder, of the shape that Grafana takes, answered by a Prometheus and by a sidecar."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grafana_types
import pytest
import servers
import yaml
from dashboard_rules import FOLDER, RULES, Json, expanded, family, labels_of, panels, queries
from test_docs import ROOT

from sidecar.pipeline_families import METRICS
from sidecar.promql.parse import parse
from sidecar.promql.tree import VectorSelector, walk

NAMES = ("overview", "target", "actions", "sidecar")

def read(name: str) -> Any:
    """A dashboard as it is committed."""
    return json.loads((FOLDER / f"rag-memory-{name}.json").read_text())


def test_what_is_committed_is_what_the_builder_makes(tmp_path: Path) -> None:
    """Whoever changes the builder commits what it makes; whoever builds anew changes nothing."""
    subprocess.run([sys.executable, "-B", FOLDER / "build.py", "--output", tmp_path], check=True, timeout=60)

    made = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    assert set(made) == {f"rag-memory-{name}.json" for name in NAMES}


def test_the_place_of_the_documentation_can_be_chosen(tmp_path: Path) -> None:
    """`--docs.url` leads the links to wherever the pages of docs/ are, and changes nothing else."""
    given = ["--docs.url", "https://example.org/docs/", "--output", tmp_path]
    subprocess.run([sys.executable, "-B", FOLDER / "build.py", *given], check=True, timeout=60)

    for name in NAMES:
        made, committed = json.loads((tmp_path / f"rag-memory-{name}.json").read_text()), read(name)
        assert made["templating"]["list"].pop()["query"] == "https://example.org/docs"
        committed["templating"]["list"].pop()
        assert made == committed


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_dashboards_keep_the_rules(name: str, rule: Callable[[Json], Iterator[str]]) -> None:
    """A dashboard looks and behaves as people expect of one: see each rule."""
    assert list(rule(read(name))) == []


def _panel(board: Json, title: str) -> Json:
    return next(panel for panel in panels(board) if panel["title"] == title)


def _used(board: Json) -> Json:
    found: Json = _panel(board, "Used memory")
    return found


BREAKS: dict[str, Callable[[Json], Any]] = {  # rule -> what makes the overview break it
    "is_one_of_ours": lambda board: board.update(id=7),
    "has_the_variables": lambda board: board["templating"]["list"][1].update(allValue=".*"),
    "marks_what_happened": lambda board: board["annotations"]["list"][0]["target"].update(interval="1m"),
    "is_laid_out": lambda board: _used(board)["gridPos"].update(x=13),
    "says_what_it_shows": lambda board: _used(board)["targets"][0].update(legendFormat="__auto"),
    "has_units": lambda board: _used(board)["fieldConfig"]["defaults"].update(unit="short"),
    "asks_the_chosen_source": lambda board: _used(board)["targets"][0].update(datasource={"uid": "prometheus"}),
    "asks_for_the_chosen": lambda board: _used(board)["targets"][0].update(expr='rag_memory_used_bytes{job=~"$job"}'),
    "asks_for_what_there_is": lambda board: _used(board)["targets"][0].update(expr="rag_memory_resident_bytes"),
    "rates_follow_the_zoom": lambda board: _used(board)["targets"][0].update(expr="rate(rag_requests_total[5m])"),
    "counters_are_not_shown_bare": lambda board: _used(board)["targets"][0].update(expr="rag_requests_total"),
    "colours_mean_something": lambda board: _used(board)["fieldConfig"]["overrides"].pop(0),
    "draws_no_lines_of_its_own": lambda board: _used(board)["fieldConfig"]["defaults"]["thresholds"]["steps"].append(
        {"color": "red", "value": 1e9}),
    "asks_no_more_than_a_sidecar_takes": lambda board: _used(board)["targets"].append(_used(board)["targets"][0]),
    "leads_somewhere": lambda board: _panel(board, "Parked")["links"][0].update(url="${docs}/runbooks/fleet.md#none"),
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_bites(rule: Callable[[Json], Iterator[str]]) -> None:
    """A rule finds what breaks it, so its silence means something."""
    board = copy.deepcopy(read("overview"))
    BREAKS[rule.__name__](board)

    assert list(rule(board))


def test_every_metric_is_on_a_dashboard() -> None:
    """Whatever /metrics has can be looked at."""
    shown = {family(node.name) for name in NAMES for asked in queries(read(name)) for node in walk(asked.expr)
             if isinstance(node, VectorSelector)}

    assert set(METRICS) - shown == set()
    assert set(METRICS) <= set(labels_of())


def test_the_first_screen_answers_the_three_questions() -> None:
    """Whoever opens the overview sees without scrolling or unfolding: safe? what eats memory? did cleanups help?"""
    board = read("overview")
    rows = [panel for panel in board["panels"] if panel["type"] == "row"]

    assert [row["title"] for row in rows[:3]] == ["Am I safe?", "What is eating memory?", "Did the cleanups help?"]
    assert not any(row["collapsed"] for row in rows[:3])
    assert rows[3]["gridPos"]["y"] <= 26  # a screen of 1080 pixels, less what Grafana and the browser take
    first = board["panels"][: board["panels"].index(rows[3])]
    text = json.dumps([panel["targets"] for panel in first if panel["type"] != "row"])
    for metric in ("memory_used_bytes", "memory_threshold_bytes", "memory_limit_bytes", "process_memory_bytes",
                   "torch_reserved_bytes", "malloc_free_bytes", "cache_size_bytes", "cleanup_freed_bytes_total",
                   "cleanups_total", "cleanup_rebounds_total"):
        assert f"rag_{metric}{{" in text


def test_prometheus_takes_every_expression(tmp_path: Path) -> None:
    """Prometheus's own parser reads each expression as we do."""
    texts = [expanded(asked.target["expr"]) for name in NAMES for asked in queries(read(name))]
    texts += [expanded(one["target"]["expr"]) for one in read("overview")["annotations"]["list"]]
    rules = [{"record": f"expression:{number}", "expr": text} for number, text in enumerate(texts)]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboards", "rules": rules}]}))

    done = subprocess.run([servers.promtool(), "check", "rules", "--lint=none", tmp_path / "rules.yml"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(texts)} rules found" in done.stdout
    assert all(str(parse(text)) for text in texts)


def test_grafana_is_told_of_both_sources_and_of_the_folder() -> None:
    """The provisioning files name a Prometheus and the sidecar, with the intervals that rates need, and the folder."""
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/rag-sidecar.yml").read_text())
    found = {one["uid"]: one for one in sources["datasources"]}

    assert sources["apiVersion"] == 1
    assert {one["type"] for one in found.values()} == {"prometheus"}
    scraped = yaml.safe_load((ROOT / "compose" / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert found["prometheus"]["jsonData"]["timeInterval"] == scraped
    assert found["rag-sidecar"]["jsonData"]["timeInterval"] == "1s"
    assert [one["isDefault"] for one in found.values() if "isDefault" in one] == [True]
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/rag-sidecar.yml").read_text())["providers"]
    assert (provider["allowUiUpdates"], provider["disableDeletion"], provider["folder"]) == (False, True, "RAG memory")


MISSPELT: dict[str, Callable[[Json], Any]] = {  # what Grafana would silently leave out, or not draw
    "option": lambda board: _used(board)["options"]["legend"].update(showLegnd=True),
    "member": lambda board: _used(board)["fieldConfig"]["defaults"]["custom"].update(drawStyle="lines"),
    "field": lambda board: _used(board)["fieldConfig"]["defaults"].update(unti="bytes"),
    "query": lambda board: _used(board)["targets"][0].update(legendFmt="{{target}}"),
    "threshold": lambda board: _used(board)["fieldConfig"]["defaults"]["thresholds"]["steps"][0].pop("value"),
    "property": lambda board: _used(board)["fieldConfig"]["overrides"][0]["properties"].append({"id": "custom.dash"}),
    "panel": lambda board: _used(board).update(type="graph"),
    "variable": lambda board: board["templating"]["list"][1].update(refresh=7),
    "mark": lambda board: board["annotations"]["list"][0].update(expression="ALERTS"),
    "link": lambda board: board["links"][0].update(type="dashboard"),
}


def test_grafana_knows_every_key(tmp_path: Path) -> None:
    """By Grafana's own types a dashboard has what it must have, and no key or word that Grafana does not know."""
    boards = {name: read(name) for name in NAMES}
    for name, misspell in MISSPELT.items():
        boards[name] = copy.deepcopy(boards["overview"])
        misspell(boards[name])

    found = grafana_types.faults(boards, tmp_path)
    assert {name: found[name] for name in NAMES} == {name: [] for name in NAMES}
    assert [name for name in MISSPELT if not found[name]] == []
