"""The exposition of /metrics: what the tick published, and the sidecar's own process. Rendered once per tick."""

import gzip
import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import prometheus_client as client
from aiohttp import hdrs, web
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.exposition import gzip_accepted
from prometheus_client.metrics_core import Metric as Exposed
from prometheus_client.samples import Sample as Line

from sidecar.model import METRIC_NAME, Labels, Metric, Sample, is_stale
from sidecar.web.view import Family

log = logging.getLogger(__name__)

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TEXT = "text/plain; version=0.0.4"
VARIANTS = 16
"""How many different pages (format and `name[]`) are rendered in one tick; a client that wants more has to wait."""
COMPLAINTS = 100

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
# A NUL ends Prometheus's lexer, other control characters a terminal's good manners. Newlines are escaped by the format.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}
_SUFFIXES = {"_bucket": 0, "_count": 1, "_sum": 2}


@dataclass(frozen=True)
class _Page:
    """One rendered page."""

    content_type: str
    body: bytes

    @cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.body, compresslevel=5)


class Exposition:
    """Serves /metrics. Lives as long as the server; holds the published families and this tick's pages.

    `of_itself`: the page has the sidecar's own process, too.
    """

    def __init__(self, *, of_itself: bool = True) -> None:
        client.disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = client.CollectorRegistry(support_collectors_without_names=True)
        for collector in (client.ProcessCollector, client.PlatformCollector, client.GCCollector) if of_itself else ():
            collector(registry=registry)
        self._own = frozenset(metric.name for metric in registry.collect())
        registry.register(self)
        self._render = make_aiohttp_handler(registry, disable_compression=True)
        self._families: Sequence[Family] = ()
        self._tick = -1
        self._pages: dict[tuple[str, frozenset[str]], _Page] = {}
        self._complained: set[str] = set()

    def publish(self, families: Sequence[Family], tick: int) -> None:
        """Show `families` from now on. Within one tick the first publication stands."""
        if tick != self._tick:
            self._families, self._tick = families, tick
            self._pages.clear()

    def collect(self) -> Iterator[Exposed]:
        """The published families as prometheus-client wants them; what the format cannot carry is left out."""
        samples: dict[str, tuple[Metric, list[Sample]]] = {}
        for metric, given in self._families:
            samples.setdefault(metric.name, (metric, []))[1].extend(given)
        for metric, given in samples.values():
            family = _family(metric)
            if family is None or family.name in self._own:
                self._complain(metric.name, "the name is not valid, or the sidecar's own process has it")
                continue
            family.samples = list(_samples(metric, given))
            if len(family.samples) < sum(not is_stale(sample.value) for sample in given):
                self._complain(metric.name, "a series has another metric's name or an invalid label, or is there twice")
            if family.samples:
                yield family

    async def handle(self, request: web.Request) -> web.Response:
        """GET /metrics: text 0.0.4 or OpenMetrics 1.0, optionally gzipped, optionally only `name[]`."""
        accepted = _format(request.headers.getall(hdrs.ACCEPT, []))
        variant = accepted, frozenset(request.query.getall("name[]", []))
        page = self._pages.get(variant)
        if page is None:
            if len(self._pages) >= VARIANTS:
                raise web.HTTPServiceUnavailable(
                    text=f"More than {VARIANTS} selections of name[] in one tick.\n", headers={hdrs.RETRY_AFTER: "1"}
                )
            # The format is decided above: prometheus-client's own reading of Accept fails on `version=x`.
            response = await self._render(request.clone(headers={hdrs.ACCEPT: accepted}))
            assert isinstance(response, web.Response)
            assert isinstance(response.body, bytes)
            page = self._pages[variant] = _Page(response.headers[hdrs.CONTENT_TYPE], response.body)
        headers = {hdrs.CONTENT_TYPE: page.content_type, hdrs.VARY: "Accept, Accept-Encoding"}
        if not gzip_accepted(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, []))):
            return web.Response(body=page.body, headers=headers)
        return web.Response(body=page.packed, headers={**headers, hdrs.CONTENT_ENCODING: "gzip"})

    def _complain(self, name: str, reason: str) -> None:
        if name not in self._complained and len(self._complained) < COMPLAINTS:
            self._complained.add(name)
            log.warning("Series are left out of /metrics", extra={"metric": name, "reason": reason})


def _family(metric: Metric) -> Exposed | None:
    """The empty family: its name less the suffix that the type implies, else a type that implies none."""
    name, kind = metric.name, str(metric.type)
    if not _METRIC.fullmatch(name):
        return None
    if kind == "counter":
        name, kind = (name.removesuffix("_total"), kind) if name.endswith("_total") else (name, "unknown")
    elif kind == "info":
        name, kind = (name.removesuffix("_info"), kind) if name.endswith("_info") else (name, "gauge")
    return Exposed(name, _readable(metric.help), kind) if name else None


def _samples(metric: Metric, given: Iterable[Sample]) -> list[Line]:
    """The samples that can be shown: `job` and `instance` are for the scrape to add; of doubles the last stands."""
    shown: dict[tuple[str, Labels], Line] = {}
    for labels, value, _ in given:
        rest = labels.without(METRIC_NAME, "job", "instance")
        suffix = labels.metric.removeprefix(metric.name)
        fits = suffix in _SUFFIXES if metric.type == "histogram" else labels.metric == metric.name
        if fits and not is_stale(value) and all(_LABEL.fullmatch(name) for name in rest):
            readable = {name: _readable(text) for name, text in rest.items()}
            shown[labels.metric, rest] = Line(labels.metric, readable, value)
    return sorted(shown.values(), key=_histogram_order) if metric.type == "histogram" else list(shown.values())


def _histogram_order(sample: Line) -> tuple[list[tuple[str, str]], int, float]:
    """OpenMetrics wants the buckets of one histogram together and ascending."""
    series = sorted((name, value) for name, value in sample.labels.items() if name != "le")
    suffix = next(rank for suffix, rank in _SUFFIXES.items() if sample.name.endswith(suffix))
    try:
        bound = float(sample.labels.get("le", "inf"))
    except ValueError:
        bound = math.inf
    return series, suffix, bound


def _readable(text: str) -> str:
    """The text as valid UTF-8: bytes that a file name or a command line brought along become visible escapes."""
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROL)


def _format(accept: Sequence[str]) -> str:
    """OpenMetrics where the client names its version 1.0.0 (or none) before plain text; else text, as ever."""
    for part in ",".join(accept).lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        versions = [value for value in parameters if value.startswith("version=")]
        if media == "application/openmetrics-text" and versions in ([], ["version=1.0.0"]):
            return OPENMETRICS
        if media == "text/plain":
            break
    return TEXT

