"""/api/v1/status/… and /api/v1/alertmanagers: what runs here, as Prometheus tells it.

/api/v1/status/flags is not served: Grafana takes a data source that has it and is no Prometheus for a Thanos.
"""

import asyncio
import json
import os
import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

from aiohttp import web

from sidecar import __version__
from sidecar.notify.payload import rfc3339
from sidecar.promql.notation import format_duration
from sidecar.store import KEEP_SECONDS
from sidecar.web.api import ApiError, Response, success
from sidecar.web.breath import breath_of, through
from sidecar.web.parameters import parameters
from sidecar.web.query import Queries, sources_of
from sidecar.web.view import About, View, sorted_out

SPOKEN = "2.55.0"
"""The version of Prometheus whose API this is: clients decide by it what they may ask."""
QUEUE, BY = "rag_sidecar_notifications_queue_length", "alertmanager"

Node = dict[str, "Node"] | list["Node"] | str


def about_of(view: View) -> About:
    """What the sidecar tells of itself. Raises ApiError while there is nothing yet."""
    if view.about is None:
        raise ApiError("unavailable", "the sidecar has not begun to watch yet: ask again in a moment")
    return view.about


async def buildinfo(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/status/buildinfo. Without `features`, which would say that rules can be written here."""
    return success({"version": version(), "revision": "", "branch": "", "buildUser": "", "buildDate": "",
                    "goVersion": ""})


def version() -> str:
    """What is spoken, and behind the `+` who speaks: a semantic version."""
    return f"{SPOKEN}+rag-sidecar.{re.sub('[^0-9A-Za-z.-]', '.', __version__)}"


async def config(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/status/config: every setting in force, as YAML for people. Raises ApiError."""
    return success({"yaml": as_yaml(about_of(queries.view).settings())})


async def runtimeinfo(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/status/runtimeinfo. What only Go has is empty; folders of this machine are not told."""
    about, now = about_of(queries.view), sources_of(queries.view).now()
    started = rfc3339(about.started_at)
    return success({
        "startTime": started, "CWD": "", "hostname": about.labels.get("instance", ""), "serverTime": rfc3339(now),
        "reloadConfigSuccess": about.reloaded,
        "lastConfigTime": rfc3339(about.configured_at or about.started_at), "corruptionCount": 0,
        "goroutineCount": len(asyncio.all_tasks()), "GOMAXPROCS": os.cpu_count() or 1, "GOMEMLIMIT": 0, "GOGC": "",
        "GODEBUG": "", "storageRetention": format_duration(KEEP_SECONDS)})


async def capabilities(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/capabilities: what can be seen of each target, and why the rest cannot; `target` chooses one."""
    wanted = (await parameters(request)).first("target")
    rows = [{"target": target, "capabilities": [
        {"capability": name, "seen": name not in sight.missing, "reason": sight.missing.get(name, "")}
        for name in sight.sought]}
        for target, sight in queries.view.snapshot.sights.items() if wanted in ("", target)]
    return success({"targets": rows})


async def alertmanagers(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/alertmanagers: those that are told, by the names under which they are counted: without secrets."""
    families = await through(sorted_out(queries.view.snapshot.families), breath_of(queries.view))
    found = {sample.labels[BY]: None for metric, samples in families if metric.name == QUEUE for sample in samples}
    return success({"activeAlertmanagers": [{"url": f"{url.rstrip('/')}/api/v2/alerts"} for url in found],
                    "droppedAlertmanagers": []})


def as_yaml(settings: Iterable[tuple[str, str]]) -> str:
    """Settings such as (`targets[0].name`, `rag`) as one YAML document; all values are texts."""
    root: dict[str, Node] = {}
    for key, text in settings:
        node: Node = root
        steps = re.findall(r"[^.\[\]]+", key)
        for step, following in pairwise(steps):
            node = _within(node, step, [] if following.isdigit() else {})
        _within(node, steps[-1], text)
    return "".join(f"{line}\n" for line in _lines(root))


def _within(node: Node, step: str, new: Node) -> Node:
    """What stands there under this name or number: what was there before, or else `new`."""
    if isinstance(node, dict):
        return node.setdefault(step, new)
    assert isinstance(node, list), step
    if int(step) == len(node):
        node.append(new)
    return node[int(step)]


def _lines(node: Node) -> Iterable[str]:
    items: Iterable[tuple[str, Any]] = (
        ((f"{name}:", value) for name, value in node.items()) if isinstance(node, dict) else
        (("-", value) for value in node))
    for mark, value in items:
        if isinstance(value, str):
            yield f"{mark} {json.dumps(value, ensure_ascii=False)}"
            continue
        inner = list(_lines(value))
        if mark == "-":
            yield f"- {inner[0]}"
            yield from (f"  {line}" for line in inner[1:])
        else:
            yield mark
            yield from (f"  {line}" for line in inner)
