"""The rest of Prometheus's API over real sockets: beside a real Prometheus, and asked by its tools and by Grafana."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import newer_prometheus
import pytest
import servers
import yaml
from asking import NOW, Ask, Bench, serve
from hypothesis import strategies as st
from servers import CHECKOUT, RunningPrometheus, running_alertmanager, running_prometheus, wait_until
from sidecars import config, running_sidecar

from sidecar.model import STALE, Alert, Labels, Metric, Sample
from sidecar.web import prometheus as prometheus_routes
from sidecar.web import scrape
from sidecar.web.query import LONGEST_SECONDS
from sidecar.web.series import unescaped
from sidecar.web.status import as_yaml
from sidecar.web.view import About, Family, Snapshot, TargetStatus

SERIES, LABELS, VALUES = "/api/v1/series", "/api/v1/labels", "/api/v1/label/{}/values"
EXEMPLARS, FORMAT, PARSE = "/api/v1/query_exemplars", "/api/v1/format_query", "/api/v1/parse_query"
ME = {"job": "rag-sidecar", "instance": "web-1:11611"}
Question = tuple[str, list[tuple[str, str]]]

DATA: list[tuple[str, list[float], dict[str, str]]] = [
    ("used", [40, 45, 50], {"instance": "a", "target": "rag"}),
    ("used", [195], {"instance": "b"}),
    ("up", [1, 1], {"instance": "a", "job": "é \"quoted\" \\"}),
    ("old_total", [1, 2], {"only": "old"}),
]


def samples() -> Iterator[tuple[Labels, float, float]]:
    """Every sample of DATA; what is old lies ten minutes back."""
    for name, values, more in DATA:
        for back, value in enumerate(reversed(values)):
            yield Labels({"__name__": name, **more}), value, NOW - back - (600 if name == "old_total" else 0)


@pytest.fixture
def bench() -> Bench:
    """The samples of DATA, two targets of which one is gone, and a firing and a pending alert."""
    bench = Bench()
    bench.store.append(sorted((Sample(*one) for one in samples()), key=lambda sample: sample.at))
    bench.snapshot = Snapshot(
        7, "", [*families()], [TargetStatus("rag", True, 50.0), TargetStatus("gone", False)],
        [alert("Hot", "firing"), alert("Warm", "pending")])
    bench.about = About(NOW - 60, "http://127.0.0.1:11611", ME, {"cluster": "c1"}, 1.0,
                        lambda: [("targets[0].name", "rag"), ("web.listen", "127.0.0.1:11611")])
    return bench


def families() -> Iterator[Family]:
    """What a page shows of a target with a worker, and of the sidecar itself."""
    def family(name: str, kind: Any, *rows: tuple[float, dict[str, str]]) -> Family:
        return Family(Metric(name, kind, f"Help of {name}."),
                      [Sample(Labels({"__name__": name, **ME, **labels}), value, NOW) for value, labels in rows])

    main, worker = {"target": "rag", "process": "main"}, {"target": "rag", "process": "worker-1"}
    yield family("rag_sidecar_tick_duration_seconds", "gauge", (0.004, {}))
    yield family("rag_sidecar_notifications_queue_length", "gauge", (0, {"alertmanager": "http://am:9093/x/"}))
    yield family("rag_target_info", "info", (1, {"target": "rag", "pid": "7"}))
    yield family("rag_process_resident_memory_bytes", "gauge", (50, main), (20, worker))
    yield family("rag_process_cpu_seconds_total", "counter", (1, {**main, "mode": "user"}),
                 (2, {**main, "mode": "system"}), (5, {**worker, "mode": "user"}))
    yield family("rag_python_gc_collections_total", "counter", (9, {**main, "generation": "0"}))
    yield family("rag_python_info", "info",
                 (1, {**main, "implementation": "cpython", "version": "3.11.7", "collector": "generational"}))


def alert(name: str, state: Any) -> Alert:
    """One alert of a target."""
    labels = Labels({"alertname": name, "severity": "critical", "target": "rag", **ME})
    return Alert(labels, {"summary": f"{name} é"}, state, True, 50.0, NOW - 20, NOW - 10 if state == "firing" else None,
                 None, None, NOW, 1.0, "used > 1")


LONG = 'sum by (instance) (rate(a_metric_with_a_long_name_total{instance=~"a|b", target!=""}[5m]))'
EXPRESSIONS = [
    "sum by(a)(b)/1", "-a", f"({LONG}) / ({LONG}) > bool 0.5", f"-({LONG} + on (instance) group_left (x) {LONG})",
    f"topk without (instance) (3, {LONG} * 100)", f"label_replace({LONG}, 'a', '$1', 'b', '(.*)')",
    f"max_over_time(({LONG} or vector(1))[1h:5m] offset 10m)", f"{LONG} and ignoring (x, y) {LONG} unless vector(0)",
    f"count_values('x', {LONG} + 1)", "a[5m] @ 10 offset -1m", "a @ start()", "1e3 ^ 2", "'text'", "((((a))))",
    f"max_over_time(-{LONG}[1h:])", f"histogram_quantile(0.9, sum by (le) ({LONG}))[30m:] @ end()",
]
MORE = [
    "1", "1h", "-1", "Inf", "a[5m] @ 10.5", "a offset -5m", "time()", "day_of_month()", "round(a)", "clamp_max(a, 1)",
    "a > bool 1", "a and b", "a unless on() b", "a + on (x) group_left (y) b", "a / ignoring (z) group_right () b",
    "a atan2 b", "quantile(0.5, a)", "a[5m:1m] offset 1m", "label_join(a, 'b', ',', 'c')", '{"x.y", z!~"a.*"}', "2 * 3",
    "scalar(a) + b", "-(a)", "a @ end()", '{__name__="x"}', 'rate(a{b!=""}[1h30m])', "histogram_quantile(0.9, a)",
]

ALIKE: list[Question] = [
    (SERIES, []), (SERIES, [("match[]", "used")]), (SERIES, [("match[]", "used"), ("match[]", '{__name__=~"u.*"}')]),
    (SERIES, [("match[]", '{__name__!=""}')]), (SERIES, [("match[]", "{}")]), (SERIES, [("match[]", '{a=~".*"}')]),
    (SERIES, [("match[]", "{a=")]), (SERIES, [("match[]", "used[5m]")]), (SERIES, [("match[]", "used offset 5m")]),
    (SERIES, [("match[]", "sum(used)")]), (SERIES, [("match[]", "nothing")]), (SERIES, [("match[]", "")]),
    (SERIES, [("match[]", "used"), ("limit", "1")]), (SERIES, [("match[]", "used"), ("limit", "2")]),
    (SERIES, [("match[]", "used"), ("limit", "0")]), (SERIES, [("match[]", "used"), ("limit", "-1")]),
    (SERIES, [("match[]", "used"), ("start", "x")]), (SERIES, [("match[]", "used"), ("end", "x")]),
    (SERIES, [("match[]", "used"), ("start", str(NOW)), ("end", str(NOW - 9))]),
    (SERIES, [("match[]", "used"), ("start", "2026-11-20T00:00:00Z"), ("end", "2026-11-21T00:00:00.5+00:00")]),
    (SERIES, [("match[]", "used"), ("start", "0"), ("end", "10")]), (SERIES, [("match[]", 'used{instance!="a"}')]),
    (LABELS, []), (LABELS, [("match[]", "used")]), (LABELS, [("match[]", "used"), ("match[]", "up")]),
    (LABELS, [("match[]", "nothing")]), (LABELS, [("limit", "2")]), (LABELS, [("start", "9"), ("end", "8")]),
    (LABELS, [("start", "0"), ("end", "10")]), (LABELS, [("match[]", "a b")]),
    *((VALUES.format(name), []) for name in ("instance", "job", "__name__", "nope", "U__a_2e_b", "U__x_")),
    (VALUES.format("U__instance"), []), (VALUES.format("instance"), [("limit", "1")]),
    (VALUES.format("instance"), [("match[]", 'used{target="rag"}')]),
    (VALUES.format("instance"), [("match[]", "a b")]), (VALUES.format("U__"), []), (VALUES.format("in-stance"), []),
    (EXEMPLARS, []), (EXEMPLARS, [("query", "a b")]), (EXEMPLARS, [("query", "a"), ("start", "3"), ("end", "2")]),
    (EXEMPLARS, [("query", "test"), ("start", "1795165900000"), ("end", "1795165960000")]),
    (EXEMPLARS, [("query", "a"), ("start", "x")]),
    (FORMAT, []), (FORMAT, [("query", "a b")]), *((FORMAT, [("query", text)]) for text in EXPRESSIONS),
    (PARSE, []), (PARSE, [("query", "a b")]), *((PARSE, [("query", text)]) for text in EXPRESSIONS + MORE),
    ("/api/v1/metadata", [("limit", "x")]), ("/api/v1/metadata", [("limit_per_metric", "x")]),
    ("/api/v1/metadata", [("metric", "nothing")]), ("/api/v1/targets/metadata", [("limit", "x")]),
    ("/api/v1/targets/metadata", [("match_target", "{")]), ("/api/v1/status/tsdb", [("limit", "0")]),
]
NOT_IN_2 = {"limit", "limit_per_metric"}
"""Parameters that it does not know; nor does it know names of labels that are no words, and syntax trees."""


@pytest.fixture(params=["2", "3"])
def prometheus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, RunningPrometheus]]:
    """A Prometheus that holds the samples of DATA: Debian's, or that of its next release."""
    binary = newer_prometheus.needed() if request.param == "3" else servers.needed(servers.prometheus)
    page = tmp_path / "page.txt"
    lines = [f"{labels.metric}{{{','.join(f'{name}={json.dumps(text, ensure_ascii=False)}' for name, text in pairs)}}} "
             f"{value} {at}" for labels, value, at in samples()
             for pairs in [[pair for pair in labels.items() if pair[0] != "__name__"]]]
    page.write_text("\n".join([*lines, "# EOF\n"]))
    making = [servers.needed(servers.promtool), "tsdb", "create-blocks-from", "openmetrics", page, tmp_path / "blocks"]
    subprocess.run(making, check=True, capture_output=True, timeout=60)
    with running_prometheus("", tmp_path, flags=["--storage.tsdb.retention.time=100y"], program=binary,
                            storage=tmp_path / "blocks") as running:
        yield request.param, running


def test_a_real_prometheus_answers_alike(bench: Bench, prometheus: tuple[str, RunningPrometheus]) -> None:
    """Asked about the same samples, both give the same status and JSON, by GET and by POST, but for words on syntax."""
    version, real = prometheus

    async def answer(session: aiohttp.ClientSession, method: str, question: Question) -> tuple[int, str]:
        given = {"data" if method == "POST" else "params": question[1]}
        async with session.request(method, real.url + question[0], **given) as said:
            return said.status, await said.text()

    async def steps(ask: Ask, url: str) -> None:
        async with aiohttp.ClientSession() as session:
            for question in ALIKE:
                path, given = question
                if version == "2" and (NOT_IN_2 & dict(given).keys() or "in-" in path or "U__" in path
                                       or path == PARSE):
                    continue
                for method in ("GET", "POST"):
                    ours = await (ask(path, parameters=given) if method == "GET" else ask(path, "POST", data=given))
                    status, text = await answer(session, method, question)
                    assert ours.status == status, (method, question, text, ours.text)
                    if status == 405:
                        assert ours.text == text
                    elif status == 200 or (version == "3" and "parse error: " not in text):
                        assert ours.json == json.loads(text), (method, question)
                    else:
                        assert ours.error[1] == json.loads(text)["errorType"]
                        assert ("parse error: " in ours.error[2]) == ("parse error: " in text), (question, text)

    serve(bench, steps)


def kind(value: Any) -> Any:
    """The shape of JSON: names and types; of a list that of its first element."""
    if isinstance(value, dict):
        return {name: kind(each) for name, each in value.items()}
    return [kind(value[0])] if isinstance(value, list) and value else type(value)


def test_what_is_told_of_the_server_has_the_shapes_of_prometheus(
        bench: Bench, prometheus: tuple[str, RunningPrometheus]) -> None:
    """Status pages have the names and types that clients of Prometheus read."""
    version, real = prometheus

    async def steps(ask: Ask, url: str) -> None:
        for path in ("status/buildinfo", "status/config", "status/runtimeinfo", "alertmanagers", "targets"):
            theirs = kind(real.get(f"/api/v1/{path}")["data"])
            ours = kind((await ask(f"/api/v1/{path}")).data)
            if path in ("alertmanagers", "targets"):
                assert ours.keys() >= theirs.keys()
            elif version == "3":
                assert ours == theirs
            else:
                assert ours.items() >= theirs.items()
        tsdb = (await ask("/api/v1/status/tsdb", limit="1")).data
        assert kind(tsdb["headStats"]) == kind(real.get("/api/v1/status/tsdb")["data"]["headStats"])
        assert tsdb["headStats"]["numSeries"] == len(DATA)
        assert tsdb["headStats"]["maxTime"] - tsdb["headStats"]["minTime"] == 601_000
        assert tsdb["seriesCountByMetricName"] == [{"name": "used", "value": 2}]
        assert tsdb.keys() == real.get("/api/v1/status/tsdb")["data"].keys()

    serve(bench, steps)


def test_a_real_prometheus_finds_and_scrapes_every_page(bench: Bench, tmp_path: Path) -> None:
    """http_sd_configs with /sd is enough: the sidecar and each target are scraped, metadata and labels agree."""
    binary = newer_prometheus.needed()

    async def steps(ask: Ask, url: str) -> None:
        job = {"job_name": "rag", "scrape_interval": "200ms", "scrape_timeout": "200ms",
               "scrape_protocols": ["PrometheusText0.0.4"],
               "http_sd_configs": [{"url": f"{url}/sd", "refresh_interval": "1s"}]}
        await asyncio.to_thread(look, json.dumps({"scrape_configs": [job]}), (await ask("/api/v1/metadata")).data,
                                (await ask("/api/v1/targets")).data["activeTargets"])

    def look(configuration: str, metadata: dict[str, Any], targets: list[dict[str, Any]]) -> None:
        with running_prometheus(configuration, tmp_path, program=binary) as real:
            def scraped() -> list[dict[str, Any]]:
                found = real.get("/api/v1/targets")["data"]["activeTargets"]
                return found if len(found) == 3 and all(one["health"] != "unknown" for one in found) else []

            found = wait_until(scraped, 20, "three pages to be scraped")
            health = {one["labels"].get("target", ""): one["health"] for one in found}
            assert health == {"": "up", "rag": "up", "gone": "down"}
            assert {one["labels"].get("target", ""): one["health"] for one in targets} == health
            assert targets[0].keys() == found[0].keys()
            theirs = real.get("/api/v1/metadata")["data"]
            assert {name: theirs[name] for name in metadata} == metadata
            assert {one["metric"]["target"]: one["value"][1] for one in
                    real.query('process_resident_memory_bytes{target!="", process=""}')["result"]} == {"rag": "50"}

    serve(bench, steps)


def test_pages_of_targets_have_standard_names(bench: Bench) -> None:
    """/metrics/target/NAME is what the target would say by a client library; workers carry the label `process`."""

    async def steps(ask: Ask, url: str) -> None:
        page = (await ask("/metrics/target/rag")).text
        assert [line for line in page.splitlines() if not line.startswith("#")] == [
            "process_resident_memory_bytes 50.0", 'process_resident_memory_bytes{process="worker-1"} 20.0',
            "process_cpu_seconds_total 3.0", 'process_cpu_seconds_total{process="worker-1"} 5.0',
            'python_gc_collections_total{generation="0"} 9.0',
            'python_info{implementation="CPython",major="3",minor="11",patchlevel="7",version="3.11.7"} 1.0']
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert (await ask("/metrics/target/rag", headers=accept)).text.endswith("# EOF\n")
        gone = await ask("/metrics/target/gone")
        assert (gone.status, gone.text) == (503, f"{scrape.UNREADABLE}.\n")
        assert ((await ask("/metrics/target/nobody")).status, (await ask("/metrics/target/")).status) == (404, 404)
        checked = await asyncio.to_thread(
            subprocess.run, [servers.needed(servers.promtool), "check", "metrics"], input=page, text=True,
            capture_output=True, timeout=30, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")

    serve(bench, steps)


def test_service_discovery_names_the_address_that_was_asked(bench: Bench) -> None:
    """Whatever name a Prometheus reaches the sidecar by, it scrapes by the same."""

    async def steps(ask: Ask, url: str) -> None:
        rows = (await ask("/sd", headers={"Host": "sidecar.localhost:80"})).json
        assert [(row["targets"], row["labels"]["__metrics_path__"], row["labels"].get("target")) for row in rows] == [
            (["sidecar.localhost:80"], "/metrics", None), (["sidecar.localhost:80"], "/metrics/target/rag", "rag"),
            (["sidecar.localhost:80"], "/metrics/target/gone", "gone")]
        assert (await ask("/sd", headers={"Host": "evil.example"})).status == 403

    serve(bench, steps)


def test_metadata_can_be_chosen(bench: Bench) -> None:
    """By metric, by number, and of targets by their labels."""

    async def steps(ask: Ask, url: str) -> None:
        assert (await ask("/api/v1/metadata", metric="rag_target_info")).data == {
            "rag_target_info": [{"type": "gauge", "help": "Help of rag_target_info.", "unit": ""}]}
        assert len((await ask("/api/v1/metadata", limit="2")).data) == 2
        rows = (await ask("/api/v1/targets/metadata", match_target='{target="rag"}',
                          metric="process_cpu_seconds_total")).data
        assert rows == [{"target": {**ME, "target": "rag"}, "type": "counter",
                         "help": "Help of rag_process_cpu_seconds_total.", "unit": ""}]
        assert len((await ask("/api/v1/targets/metadata", limit="3")).data) == 3
        assert (await ask("/api/v1/targets", state="dropped")).data["activeTargets"] == []
        assert (await ask("/api/v1/scrape_pools")).data == {"scrapePools": ["rag-sidecar"]}
        assert (await ask("/api/v1/alertmanagers")).data["activeAlertmanagers"] == [
            {"url": "http://am:9093/x/api/v2/alerts"}]

    serve(bench, steps)


GRAFANA: list[tuple[str, str, dict[str, str]]] = [  # in its order: save and test, the first dashboard, a panel
    ("POST", "/api/v1/query", {"query": "1+1", "time": "4"}),
    ("GET", "/api/v1/status/buildinfo", {}),
    ("GET", "/api/v1/rules", {}),
    ("GET", EXEMPLARS, {"query": "test", "start": f"{NOW - 3600:.0f}000", "end": f"{NOW:.0f}000"}),
    ("GET", VALUES.format("__name__"), {"start": str(NOW - 3600), "end": str(NOW), "limit": "40000"}),
    ("GET", "/api/v1/metadata", {"limit": "40000"}),
    ("POST", LABELS, {"start": str(NOW - 3600), "end": str(NOW)}),
    ("GET", SERIES, {"match[]": '{__name__!=""}', "start": str(NOW - 3600), "end": str(NOW), "limit": "40000"}),
    ("GET", VALUES.format("instance"), {"match[]": "used", "start": str(NOW - 3600), "end": str(NOW)}),
    ("POST", "/api/v1/query_range", {"query": "max_over_time(used[1m0s])", "start": str(NOW - 86400), "end": str(NOW),
                                     "step": "60"}),
    ("POST", "/api/v1/query", {"query": "used", "time": str(NOW)}),
]


def test_grafana_finds_what_it_asks_for(bench: Bench) -> None:
    """Its calls succeed in its order; it takes us neither for a Mimir nor for a Thanos; empty lists are lists."""

    async def steps(ask: Ask, url: str) -> None:
        found = {}
        for method, path, given in GRAFANA:
            posted = method == "POST"
            answer = await (ask(path, method, data=given) if posted else ask(path, parameters=given.items()))
            found[path] = answer.data
            if posted:  # after a refusal it tries again by GET, and must get the same
                assert (await ask(path, parameters=given.items())).data == answer.data
        assert found[EXEMPLARS] == []
        assert found[VALUES.format("instance")] == ["a", "b"]
        assert found[LABELS] == ["__name__", "instance", "job", "only", "target"]
        assert [one["metric"]["instance"] for one in found["/api/v1/query"]["result"]] == ["a", "b"]
        version, _, ours = found["/api/v1/status/buildinfo"]["version"].partition("+")
        assert tuple(map(int, version.split("."))) >= (2, 24)
        assert ours.startswith("rag-sidecar.")
        assert "features" not in found["/api/v1/status/buildinfo"]
        for path in ("/api/v1/status/flags", "/api/v1/nothing"):
            assert ((await ask(path)).status, (await ask(path)).text) == (404, "404 page not found\n")
        assert ((await ask(VALUES.format("job"), "POST")).status, (await ask("/-/ready", "HEAD")).status) == (405, 200)

    serve(bench, steps)


def test_an_alertmanager_lists_the_same_alerts(bench: Bench, tmp_path: Path) -> None:
    """What /api/v2/alerts says of an alert, fingerprint included, is what an Alertmanager says that was told of it."""

    async def steps(ask: Ask, url: str) -> None:
        (ours,) = (await ask("/api/v2/alerts")).json
        with running_alertmanager(tmp_path) as real:
            sent = {name: ours[name] for name in ("labels", "annotations", "startsAt", "generatorURL")}
            await asyncio.to_thread(real.send, [sent])
            (theirs,) = await asyncio.to_thread(real.alerts)
            assert {name: theirs[name] for name in (*sent, "fingerprint", "status")} == {
                name: ours[name] for name in (*sent, "fingerprint", "status")}
            assert ours.keys() == theirs.keys()
            assert kind((await ask("/api/v2/status")).json) == kind(await asyncio.to_thread(real.get, "/api/v2/status"))
            for text, count in (("alertname=Hot", 1), ('severity=~"crit.*"', 1), ('severity!="critical"', 0),
                                ("target!~r.g", 0), ('alertname="H\\"t"', 0)):
                assert len((await ask("/api/v2/alerts", filter=text)).json) == count
                found = await asyncio.to_thread(real.get, "/api/v2/alerts", filter=text)
                assert len(found) == count, text
        bad = await ask("/api/v2/alerts", filter="severity")
        assert (bad.status, bad.json) == (400, "bad matcher format: severity")
        assert ((await ask("/api/v2/alerts", receiver="(")).status, (await ask("/api/v2/alerts", "POST")).status) == (
            400, 405)
        assert (await ask("/api/v2/alerts", active="false")).json == []

    serve(bench, steps)


def tool(program: Path, *arguments: str) -> str:
    """What a tool prints; it must succeed."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_tools_of_prometheus_understand_a_sidecar(bench: Bench) -> None:
    """promtool 2 and 3 query and check it, amtool lists its alerts."""
    old, new = servers.needed(servers.promtool), newer_prometheus.needed("promtool")
    amtool = servers.needed(servers.amtool)

    def ask_all(url: str) -> None:
        span = [f"--start={NOW - 60:.0f}", f"--end={NOW:.0f}"]
        for promtool in (old, new):
            assert 'used{instance="a", target="rag"} => 50 @' in tool(
                promtool, "query", "instant", f"--time={NOW:.0f}", url, "used")
            assert "50 @[1795165900]" in tool(promtool, "query", "range", *span, "--step=10s", url, "used")
            assert tool(promtool, "query", "series", "--match=used", *span, url).splitlines() == [
                '{__name__="used", instance="a", target="rag"}', '{__name__="used", instance="b"}']
            assert tool(promtool, "query", "labels", *span, url, "instance").split() == ["a", "b"]
        tool(new, "check", "healthy", f"--url={url}")
        tool(new, "check", "ready", f"--url={url}")
        assert "Hot" in tool(amtool, f"--alertmanager.url={url}", "alert", "query", "alertname=Hot")
        assert "Warm" not in tool(amtool, f"--alertmanager.url={url}", "alert", "query")

    async def steps(ask: Ask, url: str) -> None:
        await asyncio.to_thread(ask_all, url)

    serve(bench, steps)


def test_series_count_from_their_first_sample_to_their_end(bench: Bench) -> None:
    """Both ends of the time belong to it, to the millisecond; the marker of an end is the last that is seen."""
    bench.add("ended", 1, STALE, end=NOW + 0.5)

    async def steps(ask: Ask, url: str) -> None:
        for start, end, count in ((NOW - 0.5, NOW - 0.5, 1), (NOW - 9, NOW - 0.501, 0), (NOW - 0.499, NOW, 0),
                                  (NOW + 0.5, NOW + 9, 1), (NOW + 0.501, NOW + 9, 0)):
            found = (await ask(SERIES, parameters=[("match[]", "ended"), ("start", f"{start:.3f}"),
                                                   ("end", f"{end:.3f}")])).data
            assert len(found) == count, (start, end)

    serve(bench, steps)


def test_many_series_are_looked_through_in_pieces(bench: Bench) -> None:
    """The tick runs on while a list is made; one that takes too long is a 503 that says so."""
    for index in range(3000):
        bench.add("many", 1.0, index=str(index))
    ticks = iter(range(10**9))
    seconds = [0.001]
    bench.more = {"elapsed": lambda: next(ticks) * seconds[0]}

    async def steps(ask: Ask, url: str) -> None:
        assert len((await ask(VALUES.format("index"))).data) == 3000
        assert bench.clock.pauses > 300
        answer = await ask(SERIES, parameters=[("match[]", "many"), ("limit", "2")])
        assert (len(answer.data), answer.json["warnings"]) == (2, ["results truncated due to limit"])
        seconds[0] = LONGEST_SECONDS / 1000
        assert (await ask(SERIES, parameters=[("match[]", "many")])).error[:2] == (503, "timeout")
        assert (await ask(LABELS)).error[:2] == (503, "timeout")

    serve(bench, steps)


def test_nothing_to_tell_yet() -> None:
    """Before the first look every page answers: with what is empty, or 503 unavailable."""

    async def steps(ask: Ask, url: str) -> None:
        for path in (SERIES + "?match[]=a", LABELS, VALUES.format("a"), "/api/v1/status/config", "/api/v1/targets",
                     "/api/v1/status/tsdb", "/api/v1/status/runtimeinfo", FORMAT + "?query=1"):
            assert (await ask(path)).error[:2] == (503, "unavailable"), path
        assert (await ask("/api/v1/metadata")).data == {}
        assert [row["labels"]["__metrics_path__"] for row in (await ask("/sd")).json] == ["/metrics"]
        assert ((await ask("/-/healthy")).status, (await ask("/-/ready")).status) == (200, 503)

    serve(None, steps)


WORDS = ["used", "{}", "a b", "", "0", "-1", "1e400", "9" * 30, "nan", "5m", "any", "U__", "²", "\x00", "\ud800é", "(",
         "{a=~'('}", "((((((((", "label_join(a, 'b')", "rate(used[5m]) / ignoring (x) group_left () vector(1)",
         "severity=x"]
NAMES = ["match[]", "match_target", "start", "end", "limit", "limit_per_metric", "metric", "query", "state", "filter",
         "receiver", "active", "scrapePool"]
PATHS = [path.replace("{name}", name) for path in prometheus_routes.LOADED_BY for name in ("rag", "U__x_", "%C3%A9")]


@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(st.lists(st.tuples(st.sampled_from(PATHS), st.dictionaries(
    st.sampled_from(NAMES), st.one_of(st.sampled_from(WORDS), st.text(max_size=20)), max_size=4)), min_size=60,
    max_size=60))
def test_no_request_is_too_odd(requests: list[tuple[str, dict[str, str]]]) -> None:
    """Whatever is asked, there is an answer, and where that is no success, it says why."""
    bench = Bench(snapshot=Snapshot(1, "", [*families()], [TargetStatus("rag", True)], [alert("Hot", "firing")]),
                  about=About(NOW, "http://h:1", ME, {}, 1.0, list))
    bench.add("used", 1, 2, 3)

    async def steps(ask: Ask, url: str) -> None:
        for path, given_ in requests:
            pairs = {name: text.encode(errors="replace").decode() for name, text in given_.items()}
            answer = await ask(path, parameters=pairs.items())
            assert answer.status in (200, 400) or (answer.status == 404 and "/target/" in path), (path, pairs)
            if answer.status == 400:
                assert answer.json if path.startswith("/api/v2") else answer.error[1] == "bad_data"

    serve(bench, steps)


@pytest.mark.parametrize(("name", "label"), [
    ("U__a__b", "a_b"), ("U__in_2d_stance", "in-stance"), ("U__x_1F600_", "x😀"), ("U__x_", "U__x_"),
    ("plain", "plain"), ("U__x_FFFFFF_", "U__x_FFFFFF_"), ("U__", ""),
])
def test_labels_with_odd_names_can_be_asked_for(name: str, label: str) -> None:
    """A name that no path can hold is written with escapes, as Prometheus 3 does."""
    assert unescaped(name) == label


def test_settings_are_told_as_yaml() -> None:
    """Lists, sections and texts of any kind come back from a YAML parser as they went in."""
    pairs = [("targets[0].name", 'a "b": # \n é'), ("targets[0].memory.main", "1"), ("targets[1].name", "- x"),
             ("job", "")]
    assert yaml.safe_load(as_yaml(pairs)) == {
        "targets": [{"name": 'a "b": # \n é', "memory": {"main": "1"}}, {"name": "- x"}], "job": ""}
    assert as_yaml([]) == ""


def test_what_is_seldom_asked_is_loaded_when_it_is(tmp_path: Path) -> None:
    """A sidecar that nobody asks carries no code for these pages."""
    script = "import sidecar.web.server, sys; print([name for name in sys.modules if name.startswith('sidecar.web.')])"
    done = subprocess.run([sys.executable, "-c", script], cwd=CHECKOUT, capture_output=True, text=True, timeout=60,
                          check=True)
    assert "sidecar.web.prometheus" in done.stdout
    for name in ("series", "scrape", "status", "syntax", "alertmanager"):
        assert f"'sidecar.web.{name}'" not in done.stdout


def test_a_whole_sidecar_tells_no_secret(tmp_path: Path) -> None:
    """`up`, job and instance are there as after a scrape; nothing that is configured as a secret is told anywhere."""
    port = servers.free_port()
    (tmp_path / "token").write_text("s3cret-token-of-the-web")
    (tmp_path / "token").chmod(0o600)
    target = {"name": "rag", "match": {"cmdline": "no such program runs here"},
              "endpoint": {"url": "http://127.0.0.1:1/memory?key=s3cret", "headers": {"X-Key": "s3cret"}},
              "cleanup": [{"http": {"url": "http://127.0.0.1:1/cleanup", "headers": {"X-Key": "s3cret"}}}]}
    file = config(port, tmp_path / "state", [target], alertmanagers=["http://me:s3cret@127.0.0.1:1"], instance="i:1",
                  web={"listen": f"127.0.0.1:{port}", "token_file": str(tmp_path / "token")})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: json.loads(sidecar.get("/api/v1/query?query=up"))["data"]["result"], 20, "up")
        (up,) = json.loads(sidecar.get("/api/v1/query?query=up"))["data"]["result"]
        assert (up["metric"], up["value"][1]) == ({"__name__": "up", "job": "rag-sidecar", "instance": "i:1"}, "1")
        assert "up 1" not in sidecar.get("/metrics").splitlines()  # that one is for the scraper to write
        told = {path: sidecar.get(path) for path in (
            "/api/v1/status/config", "/api/v2/status", "/api/v1/alertmanagers", "/api/v1/targets", "/sd",
            "/api/v1/status/runtimeinfo", "/api/v1/metadata", "/api/v1/labels")}
        assert not [path for path, text in told.items() if "s3cret" in text]
        settings = yaml.safe_load(json.loads(told["/api/v1/status/config"])["data"]["yaml"])
        assert (settings["targets"][0]["name"], settings["instance"]) == ("rag", "i:1")
        assert json.loads(told["/api/v1/targets"])["data"]["activeTargets"][1]["health"] == "down"
