"""What the dashboards ask, asked of a real Prometheus that scraped a sidecar, and of that sidecar: the same answers."""

import json
import math
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import newer_prometheus
import pytest
import rooms
from conftest import Target, read_line, wait_until
from dashboard_rules import Asked, expanded, family, queries
from probing import TOLD
from servers import CHECKOUT, AlertRecorder, RunningPrometheus, end, free_port, running_prometheus
from sidecars import MIB, Sidecar, config, running_sidecar
from test_dashboards import NAMES, read

from sidecar.promql.tree import VectorSelector, walk

PAGE = b"# TYPE app_held_bytes gauge\napp_held_bytes 50000000\n"

NEVER_HERE = {  # metric -> why it has no series in this run
    "rag_brake_engaged": "no brake is configured",
    "rag_brake_holds_total": "no brake is configured",
    "rag_brake_held_seconds_total": "no brake is configured",
    "rag_agent_errors_total": "nothing has gone wrong",
    "rag_debug_endpoint_errors_total": "nothing has gone wrong",
    "rag_endpoint_dropped_values_total": "nothing has gone wrong",
    "rag_sidecar_collector_errors_total": "nothing has gone wrong",
    "rag_sidecar_journal_failures_total": "nothing has gone wrong",
    "rag_sidecar_journal_lost_total": "nothing has gone wrong",
    "rag_memory_shared_bytes": "the target has no workers",
}
PERHAPS = re.compile(r"rag_(cgroup_|container_|sidecar_docker_|host_|memory_limit_bytes|process_oom_score"
                     r"|python_gc_tracked_objects)")
"""What depends on the kernel, on its cgroups, on containers, on what may be read, and on a full collection."""
SCRAPED_ALONE = re.compile(r"process_\w+|rag_sidecar_(guard_protection|rule_group_(?!iterations_missed)\w+)")
"""What stands on /metrics and is not kept by a sidecar: a Prometheus alone has it, as docs/dashboards.md says."""

RECORDED = re.compile(r"rag:\w+:floor5m")
"""What rules record, each server at its own moments, 30 s apart: neither need have it yet."""

LATELY_STEPS = 21
"""So many moments of the last 5 s are looked at."""

Answer = dict[tuple[tuple[str, str], ...], list[float]]


class Said(NamedTuple):
    """A query as it is sent, and the answers: of Prometheus at one moment, of the sidecar over the last seconds."""

    place: str
    asked: Asked
    expr: str
    prometheus: Answer
    sidecar: Answer

    @property
    def metrics(self) -> set[str]:
        """The metrics that it reads."""
        return {node.name for node in walk(self.asked.expr) if isinstance(node, VectorSelector)}

    @property
    def looks_back(self) -> bool:
        """Whether it looks at more than one sample of a series."""
        return "[" in self.expr


def answer(url: str, path: str, **given: str | float) -> Answer:
    """Labels → values, of an instant query or of a range."""
    with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(given)}", timeout=30) as got:
        result = json.load(got)["data"]["result"]
    return {tuple(sorted(one["metric"].items())):
            [float(value) for _, value in one.get("values") or [one["value"]]] for one in result}


def start(stack: ExitStack, program: str, *arguments: str, room: rooms.Room | None = None) -> Target:
    """A program of tests/targets, in a cgroup with a limit where one can be had."""
    inside = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(room.path / "cgroup.procs")] if room else []
    command = [*inside, sys.executable, str(rooms.TARGETS / f"{program}.py"), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stack.callback(end, process)
    word, *said = read_line(process, "ready").split()
    assert word == "ready"
    return Target(process, dict(pair.split("=", 1) for pair in said))


def settings(port: int, tmp_path: Path, target: Target, json_app: Target, page_app: Target, told: str) -> str:
    """Two targets: one with everything, and one that is known by its page alone."""
    rag = {"name": "rag", "match": {"pid": target.pid}, "memory": {"main": "200MiB", "critical": "260MiB"},
           "agent": {"directory": str(tmp_path), "every": "1s"},
           "endpoint": {"url": f"{json_app.url}/memory", "status": "status", "every": "1s"},
           "cleanup": [{"http": {"url": f"http://127.0.0.1:{free_port()}/nobody"}}, {"agent": {}}]}
    page = {"name": "page", "match": {"url": f"{page_app.url}/memory"}, "memory": {"main": "1GiB", "critical": "2GiB"},
            "endpoint": {"used": "app_held_bytes", "every": "1s"}}
    return config(port, tmp_path / "state", [rag, page], alertmanagers=[told], rules=["memory.yml"],
                  instance=f"127.0.0.1:{port}")


def rules(path: Path, hold: str) -> Path:
    """The shipped rules with another hold of main; what is pending at the lower line stays so."""
    text = (CHECKOUT / "rules" / "memory.yml").read_text()
    path.write_text(text.replace("for: 10s", f"for: {hold}").replace("for: 30s", "for: 5m"))
    return path


def live(target: Target, sidecar: Sidecar, prometheus: RunningPrometheus) -> None:
    """A leak, the cleanup that helps, and a leak again: over the first line, with nothing to be done yet."""
    wait_until(lambda: sidecar.value("rag_agent_up"), 30, "the agent")
    wait_until(lambda: prometheus.query("rag_agent_up")["result"], 30, "a scrape with the agent")
    target.tell("grow 220")
    wait_until(lambda: prometheus.query('ALERTS{alertname="RagMemoryMain",alertstate="firing"}')["result"], 30,
               "the alert to fire")
    assert sidecar.outcome()["outcome"] == "effective"
    target.tell(f"grow {180 - target.tell('grow 0') // MIB}")
    wait_until(lambda: ("RagMemoryPreventive", "pending") in sidecar.alerts(), 30, "the alert to be pending here")
    wait_until(lambda: prometheus.query('ALERTS{alertname="RagMemoryPreventive"}')["result"], 30, "and in Prometheus")
    wait_until(lambda: sidecar.value("rag_sidecar_notifications_total", 'outcome="sent"'), 30, "people to be told")
    ticks = sidecar.value("rag_sidecar_ticks_total") or 0.0
    wait_until(lambda: any(float(one["value"][1]) > ticks + 3
                           for one in prometheus.query("rag_sidecar_ticks_total")["result"]), 30, "quiet seconds")


def moment(prometheus: RunningPrometheus) -> float:
    """When Prometheus last saw used memory."""
    (found,) = prometheus.query('timestamp(rag_memory_used_bytes{target="rag"})')["result"]
    return float(found["value"][1])


def listen(sidecar: Sidecar, prometheus: RunningPrometheus, at: float) -> Iterator[Said]:
    """The answers to all that the dashboards ask, at one moment."""
    for name in NAMES:
        for asked in queries(read(name)):
            expr = expanded(asked.target["expr"], rate="30s")
            yield Said(f"{name}: {asked.place}", asked, expr,
                       answer(prometheus.url, "/api/v1/query", query=expr, time=at),
                       answer(sidecar.url, "/api/v1/query_range", query=expr, start=at - 5, end=at,
                              step=5 / (LATELY_STEPS - 1)))


def of_the_same_samples(said: list[Said], sidecar: Sidecar, tmp_path: Path, at: float) -> dict[str, list[Answer]]:
    """Expression that looks back → what the sidecar answers, and a Prometheus 3 that was given the sidecar's samples.

    Prometheus 2 extrapolates a little differently where a counter began lately.
    """
    asked = [one for one in said if one.looks_back and not any(map(SCRAPED_ALONE.fullmatch, one.metrics))]
    lines = []
    for name in sorted(set().union(*(one.metrics for one in asked))):
        for series in json.loads(sidecar.get("/api/v1/query?" + urllib.parse.urlencode(
                {"query": f"{name}[5m]", "time": at})))["data"]["result"]:
            pairs = [pair for pair in series["metric"].items() if pair[0] != "__name__"]
            labels = ",".join(f"{key}={json.dumps(text)}" for key, text in pairs)
            lines += [f"{name}{{{labels}}} {value} {when}" for when, value in series["values"]]
    (tmp_path / "page.txt").write_text("\n".join([*lines, "# EOF\n"]))
    making = [newer_prometheus.needed("promtool"), "tsdb", "create-blocks-from", "openmetrics", tmp_path / "page.txt",
              tmp_path / "blocks"]
    subprocess.run(making, check=True, capture_output=True, timeout=60)
    with running_prometheus("", tmp_path, program=newer_prometheus.needed(), storage=tmp_path / "blocks") as prometheus:
        return {one.expr: [answer(url, "/api/v1/query", query=one.expr, time=at)
                           for url in (sidecar.url, prometheus.url)] for one in asked}


def opened(name: str, sidecar: Sidecar, at: float) -> list[int]:
    """The status of each answer when a dashboard is opened: everything that is not folded is asked at the same time."""
    board = read(name)
    targets = [target for panel in board["panels"] if panel["type"] != "row" for target in panel["targets"]]
    exprs = [target["expr"] for target in [*targets, *(mark["target"] for mark in board["annotations"]["list"])]]

    def status(expr: str) -> int:
        given = {"query": expanded(expr, rate="1m"), "start": at - 3600, "end": at, "step": 15}
        try:
            with urllib.request.urlopen(f"{sidecar.url}/api/v1/query_range?{urllib.parse.urlencode(given)}",
                                        timeout=30) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            return error.code

    with ThreadPoolExecutor(len(exprs)) as browser:
        return list(browser.map(status, exprs))


class Scene(NamedTuple):
    """What was said, what variables offer, and which metrics there were."""

    said: list[Said]
    opened: dict[str, list[int]]
    same_samples: dict[str, list[Answer]]
    variables: dict[str, tuple[Any, Any]]
    marks: dict[str, list[Answer]]
    present: set[str]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A whole run with a leak and a cleanup, looked at by everything that the dashboards ask."""
    tmp_path = tmp_path_factory.mktemp("dashboards")
    with ExitStack() as stack:
        room = rooms.Room("dashboards", 512 * MIB) if rooms.USABLE else None
        if room:
            stack.callback(room.close)
        target = start(stack, "odd_agent", "--place", str(tmp_path), "--memory", json.dumps(TOLD), room=room)
        json_app, page_app = start(stack, "endpoint"), start(stack, "endpoint")
        urllib.request.urlopen(urllib.request.Request(f"{page_app.url}/memory", PAGE, {"Content-Type": "text/plain"}),
                               timeout=10).close()
        people, port = stack.enter_context(AlertRecorder()), free_port()
        file = settings(port, tmp_path, target, json_app, page_app, people.url)
        scrape = ("global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs:\n"
                  f"- {{job_name: rag-sidecar, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}")
        rules(tmp_path / "memory.yml", "4s")  # so long that a scrape sees it, before the cleanup ends it
        prometheus = stack.enter_context(running_prometheus(scrape, tmp_path, [rules(tmp_path / "scraped.yml", "0s")]))
        sidecar = stack.enter_context(running_sidecar(tmp_path, file=file, port=port))
        live(target, sidecar, prometheus)
        at = moment(prometheus)
        said = list(listen(sidecar, prometheus, at))
        statuses = {name: opened(name, sidecar, at) for name in NAMES}
        yield Scene(said, statuses, of_the_same_samples(said, sidecar, tmp_path, at), offered(sidecar, prometheus),
                    marked(sidecar, prometheus, at),
                    {line.split("{")[0].split(" ")[0] for line in sidecar.get("/metrics").splitlines()})


def offered(sidecar: Sidecar, prometheus: RunningPrometheus) -> dict[str, tuple[Any, Any]]:
    """Variable → what both servers offer to choose from."""
    found = {}
    for variable in read("overview")["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            path = f"/api/v1/label/{label}/values?" + urllib.parse.urlencode({"match[]": expanded(selector)})
            found[variable["name"]] = json.loads(sidecar.get(path))["data"], prometheus.get(
                f"/api/v1/label/{label}/values", **{"match[]": expanded(selector)})["data"]
    return found


def marked(sidecar: Sidecar, prometheus: RunningPrometheus, at: float) -> dict[str, list[Answer]]:
    """Annotation → what both servers know of."""
    return {one["name"]: [answer(url, "/api/v1/query_range", query=expanded(one["target"]["expr"]), start=at - 120,
                                      end=at, step=0.5) for url in (sidecar.url, prometheus.url)]
            for one in read("overview")["annotations"]["list"]}


def test_every_panel_shows_something(scene: Scene) -> None:
    """Beside a program that leaks and is cleaned up no panel is empty, but for what cannot be there."""
    for said in scene.said:
        read_here = said.metrics
        may_be_empty = any(family(name) in NEVER_HERE or PERHAPS.match(name) or RECORDED.match(name)
                           for name in read_here)
        assert said.prometheus or may_be_empty, said.place
        assert said.sidecar or may_be_empty or all(map(SCRAPED_ALONE.fullmatch, read_here)), said.place
    assert scene.present & NEVER_HERE.keys() == set()


def test_legends_name_what_they_show(scene: Scene) -> None:
    """A label that a legend names is there to be shown, on each series, and tells the series of a query apart."""
    for said in scene.said:
        legend = said.asked.target["legendFormat"]
        named = re.findall(r"{{(\w+)}}", legend)
        shown = [tuple(dict(labels).get(name) for name in named) for labels in said.prometheus]
        assert all(None not in texts for texts in shown), (said.place, legend, list(said.prometheus))
        if said.asked.target["format"] == "time_series":
            assert len(set(shown)) == len(shown), (said.place, legend, list(said.prometheus))


def test_sidecar_and_prometheus_say_the_same(scene: Scene) -> None:
    """One sidecar as the source shows what a Prometheus shows: the same series, and values that it had lately.

    A scrape shows what the last tick has left: each value of Prometheus is one of the sidecar's of 5 s.
    """
    for said in scene.said:
        if any(SCRAPED_ALONE.fullmatch(name) or RECORDED.fullmatch(name) for name in said.metrics):
            continue
        steady = {labels for labels, values in said.sidecar.items() if len(values) == LATELY_STEPS}
        assert steady <= said.prometheus.keys() <= said.sidecar.keys(), said.place
        for labels, (value,) in said.prometheus.items():
            ours = said.sidecar[labels]
            known = [each for each in ours if not math.isnan(each)] or [0.0]
            slack = max(map(abs, known)) * 1e-9
            fits = len(known) < len(ours) if math.isnan(value) else min(known) - slack <= value <= max(known) + slack
            assert fits or said.looks_back, (said.place, dict(labels), value, ours)


def test_what_looks_back_is_the_same_of_the_same_samples(scene: Scene) -> None:
    """Rates and slopes depend on which samples lie in their window: given the same ones, both answer the same."""
    assert len(scene.same_samples) > 40
    for expr, (ours, theirs) in scene.same_samples.items():
        assert ours.keys() == theirs.keys(), expr
        for labels, (value,) in ours.items():
            (other,) = theirs[labels]
            assert math.isclose(value, other, rel_tol=1e-9) or (math.isnan(value) and math.isnan(other)), (expr, labels)


@pytest.mark.parametrize("name", NAMES)
def test_a_sidecar_answers_a_whole_dashboard_at_once(scene: Scene, name: str) -> None:
    """Opened over an hour, with a sidecar as the source, a dashboard gets all its answers: no query is turned away."""
    assert scene.opened[name]
    assert set(scene.opened[name]) == {200}


def test_variables_offer_the_same(scene: Scene) -> None:
    """Jobs, instances and targets are found, with either source."""
    assert {name: len(ours) for name, (ours, _) in scene.variables.items()} == {"job": 1, "instance": 1, "target": 2}
    assert all(ours == theirs for ours, theirs in scene.variables.values())
    assert scene.variables["target"][0] == ["page", "rag"]


def test_alerts_cleanups_and_starts_are_marked(scene: Scene) -> None:
    """What happened is marked with either source, cleanups and starts at their own time in milliseconds."""
    assert len(scene.marks) >= 3
    for name, (ours, theirs) in scene.marks.items():
        assert ours.keys() == theirs.keys(), name
        assert any(dict(labels).get("target") == "rag" for labels in ours), name
        if name != "Alerts":
            assert {labels: set(values) for labels, values in ours.items()} == {
                labels: set(values) for labels, values in theirs.items()}
            assert all(1e12 < value < 1e13 for values in ours.values() for value in values)
