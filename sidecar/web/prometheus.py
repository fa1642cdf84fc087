"""The rest of Prometheus's API: what Grafana, promtool, amtool and a Prometheus ask for now and then.

What answers is imported when it is first asked: most sidecars never are, and have no memory to spare.
"""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from aiohttp import web

from sidecar.web.api import Response, answering
from sidecar.web.query import Queries

Endpoint = Callable[[web.Request, Queries], Awaitable[Response]]


def _series() -> Mapping[str, Endpoint]:
    from sidecar.web import series

    return {"/api/v1/series": series.series, "/api/v1/labels": series.labels,
            "/api/v1/label/{name}/values": series.values, "/api/v1/status/tsdb": series.tsdb}


def _status() -> Mapping[str, Endpoint]:
    from sidecar.web import status

    return {"/api/v1/status/buildinfo": status.buildinfo, "/api/v1/status/config": status.config,
            "/api/v1/status/runtimeinfo": status.runtimeinfo, "/api/v1/alertmanagers": status.alertmanagers,
            "/api/v1/capabilities": status.capabilities}


def _scrape() -> Mapping[str, Endpoint]:
    from sidecar.web import scrape

    return {"/sd": scrape.discovery, "/metrics/target/{name}": scrape.of_target, "/api/v1/targets": scrape.targets,
            "/api/v1/metadata": scrape.metadata, "/api/v1/targets/metadata": scrape.of_targets,
            "/api/v1/scrape_pools": scrape.pools}


def _syntax() -> Mapping[str, Endpoint]:
    from sidecar.web import syntax

    return {"/api/v1/format_query": syntax.format_query, "/api/v1/parse_query": syntax.parse_query,
            "/api/v1/query_exemplars": syntax.query_exemplars}


def _alertmanager() -> Mapping[str, Endpoint]:
    from sidecar.web import alertmanager

    return {"/api/v2/status": alertmanager.status, "/api/v2/alerts": alertmanager.alerts}


LOADED_BY: Mapping[str, Callable[[], Mapping[str, Endpoint]]] = {
    "/api/v1/series": _series, "/api/v1/labels": _series, "/api/v1/label/{name}/values": _series,
    "/api/v1/status/tsdb": _series,
    "/api/v1/status/buildinfo": _status, "/api/v1/status/config": _status, "/api/v1/status/runtimeinfo": _status,
    "/api/v1/alertmanagers": _status, "/api/v1/capabilities": _status,
    "/sd": _scrape, "/metrics/target/{name}": _scrape, "/api/v1/targets": _scrape, "/api/v1/metadata": _scrape,
    "/api/v1/targets/metadata": _scrape, "/api/v1/scrape_pools": _scrape,
    "/api/v1/format_query": _syntax, "/api/v1/parse_query": _syntax, "/api/v1/query_exemplars": _syntax,
    "/api/v2/status": _alertmanager, "/api/v2/alerts": _alertmanager,
}
FORMS = ("/api/v1/series", "/api/v1/labels", "/api/v1/format_query", "/api/v1/parse_query", "/api/v1/query_exemplars")
"""Those that may be posted: a form instead of a long URL. They change nothing either."""


def routes(queries: Queries) -> list[web.RouteDef]:
    """What `queries.view` can be asked besides queries, rules and alerts."""
    found = []
    for path, load in LOADED_BY.items():
        handler = answering(partial(_answer, load, path, queries))
        found += [web.get(path, handler), *([web.post(path, handler)] if path in FORMS else [])]
    return found


async def _answer(load: Callable[[], Mapping[str, Endpoint]], path: str, queries: Queries,
                  request: web.Request) -> Response:
    return await load()[path](request, queries)
