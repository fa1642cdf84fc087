"""The exposition of /metrics: what the tick published, and the sidecar's own process. Rendered once per tick."""

import asyncio
import logging
import re
import zlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import prometheus_client as client
from aiohttp import hdrs, web
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.metrics_core import Metric as Exposed

from sidecar.model import Metric, Sample
from sidecar.promql.steps import Steps
from sidecar.web.breath import Breathe, through
from sidecar.web.rendering import Lines, readable
from sidecar.web.view import Family, sorted_out

log = logging.getLogger(__name__)

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
TEXT = "text/plain; version=0.0.4"
VARIANTS = 16
"""How many different pages (format and `name[]`) are rendered in one tick; a client that wants more has to wait."""
COMPLAINTS = 100
PACKING, GZIP = 5, 31
"""How hard zlib tries, and its name for the format."""
PACKED_AT_ONCE = 64 * 1024

INTRODUCTIONS = 512
"""So many families are remembered with the lines that say what they are: all that there are, in both formats."""

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


class _Page:
    """One rendered page. Lives for a tick; `packed` is made when somebody wants it."""

    def __init__(self, content_type: str, body: bytes) -> None:
        self.content_type = content_type
        self.body = body
        self.packed = b""


class _Some(NamedTuple):
    """Families, as prometheus-client wants to be given them."""

    families: Sequence[Exposed] = ()

    def collect(self) -> Iterable[Exposed]:
        return self.families


class Exposition:
    """Serves /metrics. Lives as long as the server; holds the published families and this tick's pages.

    `of_itself`: the page has the sidecar's own process, too. Pages are made in pieces, one at a time: whoever asks for
    the one that is being made gets it, too.
    """

    def __init__(self, *, of_itself: bool = True) -> None:
        client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = client.CollectorRegistry(support_collectors_without_names=True)
        for collector in (client.ProcessCollector, client.PlatformCollector, client.GCCollector) if of_itself else ():
            collector(registry=self._registry)
        self._own = frozenset(metric.name for metric in self._registry.collect())
        self._families: Iterable[Family] = ()
        self._tick = -1
        self._pages: dict[tuple[str, frozenset[str]], _Page] = {}
        self._lines = Lines()
        self._complained: set[str] = set()
        self._turn = asyncio.Lock()

    def publish(self, families: Iterable[Family], tick: int) -> None:
        """Show `families` from now on. Within one tick the first publication stands."""
        if tick != self._tick:
            self._families, self._tick = families, tick
            self._pages.clear()

    async def handle(self, request: web.Request, breathe: Breathe) -> web.Response:
        """GET /metrics: text 0.0.4 or OpenMetrics 1.0, optionally gzipped, optionally only `name[]`.

        While it is made, `breathe` lets others run.
        """
        accepted = _format(request.headers.getall(hdrs.ACCEPT, []))
        packs = gzip_accepted(",".join(request.headers.getall(hdrs.ACCEPT_ENCODING, [])))
        async with self._turn:
            page = await self._page(accepted, frozenset(request.query.getall("name[]", [])), breathe)
            if packs and not page.packed:
                page.packed = await through(_packed(page.body), breathe)
        headers = {hdrs.CONTENT_TYPE: page.content_type, hdrs.VARY: "Accept, Accept-Encoding"}
        if not packs:
            return web.Response(body=page.body, headers=headers)
        return web.Response(body=page.packed, headers={**headers, hdrs.CONTENT_ENCODING: "gzip"})

    async def _page(self, accepted: str, names: frozenset[str], breathe: Breathe) -> _Page:
        variant = accepted, names
        if variant in self._pages:
            return self._pages[variant]
        if len(self._pages) >= VARIANTS:
            raise web.HTTPServiceUnavailable(
                text=f"More than {VARIANTS} selections of name[] in one tick.\n", headers={hdrs.RETRY_AFTER: "1"})
        # The format is decided above: prometheus-client's own reading of Accept fails on `version=x`.
        _, content_type = choose_encoder(accepted)
        tick = self._tick
        page = _Page(content_type, await through(self._rendered(accepted, names), breathe))
        if tick == self._tick:  # else it is that of a tick that is over
            self._pages[variant] = page
        return page

    def _rendered(self, accepted: str, names: frozenset[str]) -> Steps[bytes]:
        """The page: the sidecar's own process, then what is published, less what the format cannot carry."""
        encoder, _ = choose_encoder(accepted)
        end = encoder(_Some())
        own = list(self._registry.collect())
        for family in own if names else ():
            family.samples = [line for line in family.samples if line.name in names]
        found: list[bytes] = [encoder(_Some([family for family in own if family.samples])).removesuffix(end)]
        samples: dict[str, tuple[Metric, list[Sample]]] = {}
        for metric, given in (yield from sorted_out(self._families)):
            samples.setdefault(metric.name, (metric, []))[1].extend(given)
        for metric, given in samples.values():
            name, introduction = _introduced(metric, accepted)
            if not name or name in self._own:
                self._complain(metric.name, "the name is not valid, or the sidecar's own process has it")
                continue
            chosen = [sample for sample in given if sample.labels.metric in names] if names else given
            lines, left_out = yield from (Lines() if names else self._lines).of(metric, chosen)
            if left_out:
                self._complain(metric.name, "a series has another metric's name or an invalid label, or is there twice")
            found += (introduction, *lines) if lines else ()
        return b"".join((*found, end))

    def _complain(self, name: str, reason: str) -> None:
        if name not in self._complained and len(self._complained) < COMPLAINTS:
            self._complained.add(name)
            log.warning("Series are left out of /metrics", extra={"metric": name, "reason": reason})


@lru_cache(maxsize=INTRODUCTIONS)
def _introduced(metric: Metric, accepted: str) -> tuple[str, bytes]:
    """A family by its name in the format, with the lines that say what it is; nothing where its name is not valid."""
    family = _family(metric)
    if family is None:
        return "", b""
    encoder, _ = choose_encoder(accepted)
    return family.name, encoder(_Some((family,))).removesuffix(encoder(_Some()))


def _family(metric: Metric) -> Exposed | None:
    """The empty family: its name less the suffix that the type implies, else a type that implies none."""
    name, kind = metric.name, str(metric.type)
    if not _METRIC.fullmatch(name):
        return None
    if kind == "counter":
        name, kind = (name.removesuffix("_total"), kind) if name.endswith("_total") else (name, "unknown")
    elif kind == "info":
        name, kind = (name.removesuffix("_info"), kind) if name.endswith("_info") else (name, "gauge")
    return Exposed(name, readable(metric.help), kind) if name else None


def _packed(body: bytes) -> Steps[bytes]:
    """The page as gzip."""
    packer = zlib.compressobj(PACKING, wbits=GZIP)
    found: list[bytes] = []
    for start in range(0, len(body), PACKED_AT_ONCE):
        found.append(packer.compress(body[start:start + PACKED_AT_ONCE]))
        yield
    return b"".join((*found, packer.flush()))


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

