"""What a Prometheus would scrape here: /sd, /metrics/target/NAME, /api/v1/targets, metadata.

A page of the sidecar has everything under names of its own, `rag_…`; each target has a page of its own in addition,
with the standard names `process_…` and `python_…`, for dashboards and rules that know only these.
"""

import json
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from typing import Any, Literal, NamedTuple

from aiohttp import web

from sidecar.model import METRIC_NAME, Labels, Metric, Sample
from sidecar.notify.payload import rfc3339
from sidecar.promql.regex import predicate
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps
from sidecar.promql.values import Matcher
from sidecar.web.api import JSON, ApiError, Response, success
from sidecar.web.breath import breath_of, through
from sidecar.web.metrics import Exposition
from sidecar.web.parameters import Parameters, parameters
from sidecar.web.query import Queries, sources_of
from sidecar.web.series import selectors
from sidecar.web.status import about_of
from sidecar.web.view import About, Family, Snapshot, sorted_out

PAGE, OF_TARGET = "/metrics", "/metrics/target/"
UNREADABLE = "the target's process is not there, or cannot be read"

_GC = "python_gc_objects_collected_total", "python_gc_objects_uncollectable_total", "python_gc_collections_total"
STANDARD = {f"rag_{name}": name for name in (
    "process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_virtual_memory_bytes",
    "process_resident_memory_bytes", "process_start_time_seconds", "process_threads", *_GC, "python_info")}
"""Our name → that of Prometheus's client libraries."""


class Scraped(NamedTuple):
    """One page that is there to be scraped. `target` is "" for the sidecar's own."""

    target: str
    path: str
    up: bool


def scraped(snapshot: Snapshot) -> list[Scraped]:
    """The sidecar's own page, and one of each target."""
    return [Scraped("", PAGE, True),
            *(Scraped(target.name, OF_TARGET + target.name, target.up) for target in snapshot.targets)]


async def discovery(request: web.Request, queries: Queries) -> Response:
    """GET /sd: every page to scrape, for a Prometheus's http_sd_configs, at the address that was asked."""
    rows = [{"targets": [request.host], "labels": {
        "__metrics_path__": page.path, "__meta_rag_role": "target" if page.target else "sidecar",
        **({"target": page.target, "__meta_rag_up": str(page.up).lower()} if page.target else {})}}
        for page in scraped(queries.view.snapshot)]
    return web.Response(text=json.dumps(rows), content_type=JSON)


async def of_target(request: web.Request, queries: Queries) -> Response:
    """GET /metrics/target/NAME: this target under standard names; 503 while it cannot be read, so that `up` says so."""
    name, snapshot = request.match_info["name"], queries.view.snapshot
    up = next((target.up for target in snapshot.targets if target.name == name), None)
    if up is None:
        raise web.HTTPNotFound
    if not up:
        return web.Response(status=503, text=f"{UNREADABLE}.\n")
    exposition = Exposition(of_itself=False)
    found = await through(by_target(snapshot), breath_of(queries.view))
    exposition.publish([standard(family) for family in found.get(name, ())], snapshot.tick)
    return await exposition.handle(request, breath_of(queries.view))


def by_target(snapshot: Snapshot) -> Steps[Mapping[str, Sequence[Family]]]:
    """What there is of each target that has a standard name, still under ours. Sorted once for each snapshot."""
    if not snapshot.by_target:
        found: defaultdict[str, dict[Metric, list[Sample]]] = defaultdict(dict)
        for metric, samples in (yield from sorted_out(snapshot.families)):
            if metric.name not in STANDARD:
                continue
            for number, sample in enumerate(samples, 1):
                found[sample.labels.get("target", "")].setdefault(metric, []).append(sample)
                if number % ELEMENTS_A_PIECE == 0:
                    yield
        snapshot.by_target.update((target, tuple(starmap(Family, of.items()))) for target, of in found.items())
    return snapshot.by_target


def standard(family: Family) -> Family:
    """A family of a target under its standard name. The main process goes without the label `process`."""
    metric = _standard(family.metric)
    found: defaultdict[Labels, float] = defaultdict(float)
    for labels, value, _ in family.samples:
        found[_plain(labels, metric.name)] += value
    return Family(metric, [Sample(labels, value, 0.0) for labels, value in found.items()])


def _standard(metric: Metric) -> Metric:
    return Metric(STANDARD[metric.name], metric.type, metric.help)


def _plain(labels: Labels, name: str) -> Labels:
    """The labels less what the standard does not have: `mode` of CPU time, which is added up, and what names us."""
    found = {METRIC_NAME: name, "target": ""}
    if labels.get("process") == "main":
        found["process"] = ""
    if name == "process_cpu_seconds_total":
        found["mode"] = ""
    if name == "python_info":
        major, minor, patch, *_ = *labels.get("version", "").split("."), "", "", ""
        found |= {"collector": "", "major": major, "minor": minor, "patchlevel": patch}
        if labels.get("implementation") == sys.implementation.name:
            found["implementation"] = platform.python_implementation()
    return labels.merged(found)


async def targets(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/targets: every page to scrape, as a Prometheus that scrapes them at each tick. Raises ApiError."""
    given, about = await parameters(request), about_of(queries.view)
    state, pool = given.first("state").lower(), given.first("scrapePool")
    last = _last_tick(await through(sorted_out(queries.view.snapshot.families), breath_of(queries.view)))
    found = [_target(page, about, queries, last) for page in scraped(queries.view.snapshot)
             if state in ("", "any", "active") and pool in ("", about.labels.get("job", ""))]
    return success({"activeTargets": found, "droppedTargets": [], "droppedTargetCounts": {}})


def _target(page: Scraped, about: About, queries: Queries, last: tuple[float, float]) -> dict[str, Any]:
    address = about.url.partition("://")[2].partition("/")[0]
    job, url = about.labels.get("job", ""), f"{about.url.rstrip('/')}{page.path}"
    (tick, seconds), interval = last, f"{about.interval_seconds:g}s"
    return {
        "discoveredLabels": {"__address__": address, "__metrics_path__": page.path, "__scheme__": "http", "job": job,
                             "__scrape_interval__": interval, "__scrape_timeout__": interval},
        "labels": {**_labels(page, about)}, "scrapePool": job, "scrapeUrl": url, "globalUrl": url,
        "lastError": "" if page.up else UNREADABLE, "lastScrape": rfc3339(tick or sources_of(queries.view).now()),
        "lastScrapeDuration": seconds, "health": "up" if page.up else "down",
        "scrapeInterval": interval, "scrapeTimeout": interval}


def _labels(page: Scraped, about: About) -> Labels:
    return Labels({**about.labels, "target": page.target})


def _last_tick(families: Iterable[Family]) -> tuple[float, float]:
    """When the last tick was (0 before the first), and how long it took in seconds."""
    for metric, samples in families:
        if metric.name == "rag_sidecar_tick_duration_seconds" and samples:
            return samples[0].at, samples[0].value
    return 0.0, 0.0


async def pools(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/scrape_pools. Raises ApiError."""
    return success({"scrapePools": [about_of(queries.view).labels.get("job", "")]})


async def metadata(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/metadata: type and help of every metric of the sidecar's page. Raises ApiError."""
    given = await parameters(request)
    most, each = _count(given, "limit"), _count(given, "limit_per_metric")
    known = told(await through(sorted_out(queries.view.snapshot.families), breath_of(queries.view)))
    if wanted := given.first("metric"):
        known = {wanted: known[wanted]} if wanted in known else {}
    names = list(known)[:most]
    return success({name: [known[name]][:each or None] for name in names})


async def of_targets(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/targets/metadata: the same, page by page. Raises ApiError."""
    given, about = await parameters(request), about_of(queries.view)
    most, metric = _count(given, "limit"), given.first("metric")
    matchers = [matcher for selector in selectors(given, "match_target") for matcher in selector]
    snapshot = queries.view.snapshot
    found = await through(by_target(snapshot), breath_of(queries.view))
    families = await through(sorted_out(snapshot.families), breath_of(queries.view))
    rows = [row for page in scraped(snapshot)
            if _match(matchers, labels := _labels(page, about))
            for row in _rows(labels, [Family(_standard(each), samples) for each, samples in found.get(page.target, ())]
                             if page.target else families)
            if metric in ("", row["metric"])]
    if metric:
        rows = [{name: text for name, text in row.items() if name != "metric"} for row in rows]
    return success(rows[:most])


def _rows(labels: Labels, families: Iterable[Family]) -> Iterator[dict[str, Any]]:
    for name, said in told(families).items():
        yield {"target": dict(labels), "metric": name, **said}


def told(families: Iterable[Family]) -> dict[str, dict[str, str]]:
    """What the page says of each metric that has samples, by its name in the text format. Infos are gauges there."""
    kinds: Mapping[str, Literal["gauge", "unknown"]] = {"info": "gauge"}
    return {metric.name: {"type": kinds.get(metric.type, metric.type), "help": metric.help, "unit": ""}
            for metric, samples in families if samples}


def _match(matchers: list[Matcher], labels: Labels) -> bool:
    return all(predicate(matcher)(labels.get(matcher.name, "")) for matcher in matchers)


def _count(given: Parameters, name: str) -> int | None:
    """How many are wanted; None is all. Raises ApiError."""
    text = given.first(name)
    if not text:
        return None
    if not (text.isascii() and text.lstrip("+-").isdigit() and len(text) < 10 and "-" not in text[1:]):
        raise ApiError("bad_data", f"{name} must be a number")
    return None if int(text) < 0 else int(text)
