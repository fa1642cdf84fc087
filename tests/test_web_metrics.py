"""/metrics as Prometheus, promtool and a person with curl see it."""

import asyncio
import gc
import gzip
import math
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from servers import promtool, running_prometheus, wait_until

from sidecar.model import METRIC_NAME, STALE, Labels, Metric, Sample
from sidecar.notify.alertmanager import METRICS, Notifier
from sidecar.notify.options import Alertmanager
from sidecar.web.metrics import VARIANTS
from sidecar.web.server import build, serving
from sidecar.web.view import Family, Snapshot, View

Fetch = Callable[..., Awaitable[tuple[int, Mapping[str, str], str]]]
OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
HOSTILE = 'C:\\new\n"quoted"} 1\nrag_injected{x="y'


def sample(name: str, value: float = 1.0, **labels: str) -> Sample:
    """One sample of `name`."""
    return Sample(Labels({METRIC_NAME: name, **labels}), value, 0.0)


def family(name: str, kind: Any, *samples: Sample) -> Family:
    """A metric with its samples."""
    return Family(Metric(name, kind, f"Help of {name}."), samples)


def histogram(name: str, **labels: str) -> Family:
    """A histogram of three observations whose buckets come in no good order."""
    buckets = [sample(f"{name}_bucket", count, le=bound, **labels)
               for bound, count in (("+Inf", 3.0), ("10.0", 2.0), ("0.5", 1.0))]  # fmt: skip
    totals = sample(f"{name}_sum", 30.5, **labels), sample(f"{name}_count", 3.0, **labels)
    return family(name, "histogram", *buckets, *totals)


EVERY_KIND = [
    family("rag_memory_used_bytes", "gauge", sample("rag_memory_used_bytes", 2.0**30, target="rag")),
    family("rag_cleanups_total", "counter", sample("rag_cleanups_total", 2.0, target="rag", cleanup="light")),
    family("rag_target_info", "info", sample("rag_target_info", 1.0, target="rag", pid="42")),
    histogram("rag_cleanup_delivery_seconds", target="rag"),
]


def serve(view: View, ask: Callable[[str, Fetch], Awaitable[None]]) -> None:
    """Run `ask` with the URL of a real server that shows `view`, and a function that fetches a path of it."""

    async def run() -> None:
        session = aiohttp.ClientSession(auto_decompress=False)
        async with session, serving(build(view), ["127.0.0.1:0"]) as (url,):

            async def fetch(path: str = "/metrics", **headers: str) -> tuple[int, Mapping[str, str], str]:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                async with session.get(url + path, headers={"Accept-Encoding": "identity", **named}) as answer:
                    body = await answer.read()
                    if answer.headers.get("Content-Encoding") == "gzip":
                        body = gzip.decompress(body)
                    return answer.status, answer.headers, body.decode()

            await ask(url, fetch)

    asyncio.run(run())


def exposed(families: Sequence[Family], **headers: str) -> str:
    """What /metrics answers when `families` are published."""
    bodies: list[str] = []

    async def ask(url: str, fetch: Fetch) -> None:
        bodies.append((await fetch(**headers))[2])

    serve(View(Snapshot(tick=1, families=families)), ask)
    return bodies[0]


def ours(text: str) -> list[str]:
    """The lines about rag_*."""
    return [line for line in text.splitlines() if "rag_" in line]


def test_every_kind_of_metric_is_exposed() -> None:
    """Gauges, counters, info and histograms appear in text format as Prometheus expects them."""
    assert ours(exposed(EVERY_KIND)) == [
        "# HELP rag_memory_used_bytes Help of rag_memory_used_bytes.",
        "# TYPE rag_memory_used_bytes gauge",
        'rag_memory_used_bytes{target="rag"} 1.073741824e+09',
        "# HELP rag_cleanups_total Help of rag_cleanups_total.",
        "# TYPE rag_cleanups_total counter",
        'rag_cleanups_total{cleanup="light",target="rag"} 2.0',
        "# HELP rag_target_info Help of rag_target_info.",
        "# TYPE rag_target_info gauge",
        'rag_target_info{pid="42",target="rag"} 1.0',
        "# HELP rag_cleanup_delivery_seconds Help of rag_cleanup_delivery_seconds.",
        "# TYPE rag_cleanup_delivery_seconds histogram",
        'rag_cleanup_delivery_seconds_bucket{le="0.5",target="rag"} 1.0',
        'rag_cleanup_delivery_seconds_bucket{le="10.0",target="rag"} 2.0',
        'rag_cleanup_delivery_seconds_bucket{le="+Inf",target="rag"} 3.0',
        'rag_cleanup_delivery_seconds_count{target="rag"} 3.0',
        'rag_cleanup_delivery_seconds_sum{target="rag"} 30.5',
    ]


def test_openmetrics_is_valid_and_says_the_same() -> None:
    """OpenMetrics passes a strict parser and holds the same samples as the text format, `# EOF` at its end."""
    text, openmetrics = exposed(EVERY_KIND), exposed(EVERY_KIND, **OPENMETRICS)
    assert openmetrics.endswith("# EOF\n")
    of = {
        parse: {(each.name, *sorted(each.labels.items()), each.value)
                for parsed in parse(body) for each in parsed.samples if each.name.startswith("rag_")}
        for parse, body in ((parse_text, text), (parse_openmetrics, openmetrics))
    }  # fmt: skip
    assert of[parse_text] == of[parse_openmetrics]
    assert len(of[parse_text]) == 8


def test_promtool_finds_nothing_to_say() -> None:
    """promtool accepts the exposition without a remark, the notifier's and the process's own metrics included."""

    async def notifications() -> list[Sample]:
        async with Notifier([Alertmanager("http://127.0.0.1:9093")], external_url="http://h") as notifier:
            return notifier.samples(0.0)

    samples = asyncio.run(notifications())
    told = [Family(metric, [each for each in samples if each.labels.metric == metric.name]) for metric in METRICS]
    text = exposed([*EVERY_KIND, *told])
    assert 'rag_sidecar_notifications_queue_length{alertmanager="http://127.0.0.1:9093"} 0.0' in text
    assert "process_resident_memory_bytes " in text
    assert "python_gc_collections_total{" in text
    check = subprocess.run([promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (check.returncode, check.stdout, check.stderr) == (0, "", "")


def test_prometheus_stores_what_was_published(tmp_path: Path) -> None:
    """A real Prometheus scrapes it: hostile label values arrive as they are, and none of them makes a series."""
    odd = {"path": HOSTILE, "nul": "a\x00b\x1b[2J", "bytes": "caf\udce9"}
    families = [*EVERY_KIND, family("rag_hostile", "gauge", sample("rag_hostile", 7.0, **odd))]

    async def ask(url: str, fetch: Fetch) -> None:
        config = f"""
            global: {{scrape_interval: 200ms}}
            scrape_configs: [{{job_name: sidecar, static_configs: [{{targets: ["{url.removeprefix('http://')}"]}}]}}]"""
        await asyncio.to_thread(scrape, config)

    def scrape(config: str) -> None:
        with running_prometheus(config, tmp_path) as prometheus:
            wait_until(lambda: prometheus.query("rag_hostile")["result"], 20, "the first scrape")
            (hostile,) = prometheus.query("rag_hostile")["result"]
            assert hostile["value"][1] == "7"
            metric = hostile["metric"]
            assert (metric["path"], metric["nul"]) == (HOSTILE, "a\\x00b\\x1b[2J")
            assert metric["bytes"] == "caf\\udce9"
            assert prometheus.query("rag_injected")["result"] == []
            assert prometheus.query("up")["result"][0]["value"][1] == "1"
            (median,) = prometheus.query("histogram_quantile(0.5, rag_cleanup_delivery_seconds_bucket)")["result"]
            assert 0.5 < float(median["value"][1]) <= 10

    serve(View(Snapshot(tick=1, families=families)), ask)


def test_labels_cannot_inject_lines() -> None:
    """A label value or a help text with quotes, newlines and braces stays one value."""
    help_text = "first\nrag_injected 1\r\n"
    hostile = Family(Metric("rag_hostile", "gauge", help_text), [sample("rag_hostile", path=HOSTILE)])
    for parse, headers in ((parse_text, {}), (parse_openmetrics, OPENMETRICS)):
        parsed = {each.name: each for each in parse(exposed([hostile], **headers))}
        assert "rag_injected" not in parsed
        assert [line.labels for line in parsed["rag_hostile"].samples] == [{"path": HOSTILE}]


def test_scrape_labels_are_left_to_the_scrape() -> None:
    """`job` and `instance` are not exposed; series that differ in nothing else become one, the later one."""
    series = [sample("rag_up", 0.0, job="a", instance="x"), sample("rag_up", 1.0, job="b", instance="y")]
    assert ours(exposed([family("rag_up", "gauge", *series)]))[2:] == ["rag_up 1.0"]


def test_series_that_ended_are_not_exposed() -> None:
    """A stale marker ends a series; an honest NaN is a value like another."""
    gone = family("rag_gone", "gauge", sample("rag_gone", STALE))
    odd = family("rag_odd", "gauge", sample("rag_odd", math.nan), sample("rag_odd", STALE, a="b"))
    assert ours(exposed([gone, odd])) == ["# HELP rag_odd Help of rag_odd.", "# TYPE rag_odd gauge", "rag_odd NaN"]


def test_family_published_in_parts_is_one() -> None:
    """Samples of one metric from two sources stand under one HELP and TYPE."""
    parts = [family("rag_up", "gauge", sample("rag_up", target=name)) for name in "ab"]
    assert ours(exposed(parts))[1:] == ["# TYPE rag_up gauge", 'rag_up{target="a"} 1.0', 'rag_up{target="b"} 1.0']


def test_what_the_format_cannot_carry_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Invalid names, names of our own process and strays cost their series, not the scrape; the log names them once."""
    bad = [
        family("rag memory", "gauge", sample("rag memory")),
        family("process_cpu_seconds_total", "counter", sample("process_cpu_seconds_total", -1.0)),
        family("rag_stray", "gauge", sample("rag_other")),
        family("rag_label", "gauge", sample("rag_label", **{"bad-name": "x"}), sample("rag_label", __meta="x")),
        family("rag_plain", "counter", sample("rag_plain", 3.0)),
    ]

    async def ask(url: str, fetch: Fetch) -> None:
        for tick in (1, 2):
            view.snapshot = Snapshot(tick=tick, families=bad)
            text = (await fetch())[2]
            assert ours(text)[1:] == ["# TYPE rag_plain untyped", "rag_plain 3.0"]
            assert text.count("# TYPE process_cpu_seconds_total") == 1
            assert "process_cpu_seconds_total -1.0" not in text

    view = View()
    serve(view, ask)
    assert [record.__dict__["metric"] for record in caplog.records] == [each.metric.name for each in bad[:4]]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text; version=0.0.1, */*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=x.y", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain; version=zz;;=,;", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_format_follows_accept(accept: str, content_type: str) -> None:
    """OpenMetrics is given to who asks for a version that exists, text to everybody else, an error to nobody."""

    async def ask(url: str, fetch: Fetch) -> None:
        status, headers, _ = await fetch(Accept=accept)
        assert (status, headers["Content-Type"].replace("; escaping=underscores", "")) == (200, content_type)

    serve(View(), ask)


def test_one_rendering_serves_a_whole_tick() -> None:
    """Within a tick every scrape gets the same bytes, compressed or not; the next tick brings new ones."""

    async def ask(url: str, fetch: Fetch) -> None:
        view.snapshot = Snapshot(tick=1, families=EVERY_KIND)
        bodies = set()
        for number in range(20):
            gc.collect()  # would show in python_gc_collections_total
            _, headers, body = await fetch(Accept_Encoding="gzip" if number % 2 else "identity")
            assert headers.get("Content-Encoding") == ("gzip" if number % 2 else None)
            assert headers["Vary"] == "Accept, Accept-Encoding"
            bodies.add(body)
        assert len(bodies) == 1
        view.snapshot = Snapshot(tick=2, families=EVERY_KIND)
        assert (await fetch())[2] not in bodies

    view = View()
    serve(view, ask)


def test_selected_names_are_all_that_is_exposed() -> None:
    """`name[]` selects samples by name, ours and the process's."""

    async def ask(url: str, fetch: Fetch) -> None:
        query = "?name[]=rag_memory_used_bytes&name[]=process_open_fds"
        lines = [line for line in (await fetch("/metrics" + query))[2].splitlines() if not line.startswith("#")]
        assert sorted(line.partition("{")[0].partition(" ")[0] for line in lines) == [
            "process_open_fds", "rag_memory_used_bytes",
        ]  # fmt: skip

    serve(View(Snapshot(tick=1, families=EVERY_KIND)), ask)


def test_endless_selections_are_not_rendered() -> None:
    """A client that asks for ever new selections is told to wait for the next tick; what is known is still served."""

    async def ask(url: str, fetch: Fetch) -> None:
        assert (await fetch())[0] == 200
        answers = [(await fetch(f"/metrics?name[]=x{number}"))[:2] for number in range(VARIANTS)]
        assert [status for status, _ in answers] == [200] * (VARIANTS - 1) + [503]
        assert answers[-1][1]["Retry-After"] == "1"
        assert (await fetch())[0] == 200
        view.snapshot = Snapshot(tick=time.time_ns())
        assert (await fetch("/metrics?name[]=another"))[0] == 200

    view = View()
    serve(view, ask)
