"""Debug endpoints that targets have already: asked in the background, each at its own pace, and read from memory."""

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from math import inf
from types import TracebackType
from typing import NamedTuple

import aiohttp

from sidecar import __version__
from sidecar.clock import monotonic
from sidecar.errors import ProbeFailed
from sidecar.model import Metric, Sample
from sidecar.probes import endpoint_json, endpoint_page
from sidecar.probes.endpoint_figures import OTHER, Endpoint, Figures
from sidecar.probes.series import SeriesOf
from sidecar.trust import context_for

log = logging.getLogger(__name__)

VALUE = Metric("rag_endpoint_value", "gauge",
               "Numbers that the target's debug endpoint tells, by their path in its JSON.")
SAMPLE = Metric("rag_endpoint_sample", "gauge",
                "Samples of the page in Prometheus's format that the target's debug endpoint is, by their name.")
STATUS = Metric("rag_endpoint_status", "gauge", "1 for the status that the target's debug endpoint tells, else 0.")
DROPPED = Metric("rag_endpoint_dropped_values_total", "counter",
                 "Figures of the target's debug endpoint that were left out, by reason.")
UP = Metric("rag_debug_endpoint_up", "gauge", "1 if the target's debug endpoint told its figures when last asked.")
SECONDS = Metric("rag_debug_endpoint_request_seconds", "gauge",
                 "How long it took to ask the target's debug endpoint the last time.")
ERRORS = Metric("rag_debug_endpoint_errors_total", "counter",
                "Times the target's debug endpoint did not tell its figures, by reason.")
METRICS = (VALUE, SAMPLE, STATUS, DROPPED, UP, SECONDS, ERRORS)

MOST_BODY_BYTES = 1 << 20
LONG_BODY_BYTES = 32 << 10
"""What is longer is read in a thread: it would hold the tick up."""
MOST_SERIES = {VALUE.name: 200, SAMPLE.name: 500}
"""The first series of an endpoint that are kept, for good: names that change from answer to answer make no others."""
OLD = "what it told last is too old, or was told by a process before this one"
HEADERS = {
    "User-Agent": f"rag-sidecar/{__version__}",
    "Accept": "application/json, text/plain;version=0.0.4;q=0.9, */*;q=0.1",
    "Accept-Encoding": "identity",
}


class EndpointReading(NamedTuple):
    """What an endpoint told. `used_bytes` is None where it is unknown.

    `instance_id` names the start of the program that told it, "" where it is unknown: another one is another life.
    `missing` says why it tells nothing, or not what is wanted of it.
    """

    samples: list[Sample]
    used_bytes: float | None
    up: bool
    instance_id: str = ""
    missing: str = ""


class Endpoints:
    """The debug endpoints of all targets that have one, by the target's name. Lives from `async with` to its end.

    `sleep` is asyncio.sleep or its like, `timer` a clock that never jumps.
    """

    def __init__(self, asked: Mapping[str, Endpoint], sleep: Callable[[float], Awaitable[None]],
                 timer: Callable[[], float] = monotonic) -> None:
        self._pollers = {name: _Poller(name, endpoint, timer) for name, endpoint in asked.items()}
        self._sleep = sleep
        self._timer = timer
        self._tasks = asyncio.TaskGroup()
        self._running: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> "Endpoints":
        self._session = aiohttp.ClientSession(
            # Each connection is for one question: one kept open would occupy a server that has a single thread.
            connector=aiohttp.TCPConnector(force_close=True, limit=0), cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False, headers=HEADERS)
        await self._tasks.__aenter__()
        for name in self._pollers:
            self._start(name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running.values():
            task.cancel()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            await self._session.close()

    def change(self, asked: Mapping[str, Endpoint]) -> None:
        """Ask these from now on. Those that were asked already, and in the same way, go on."""
        for name in [name for name, poller in self._pollers.items() if asked.get(name) != poller.endpoint]:
            del self._pollers[name]
            self._running.pop(name).cancel()
        for name in asked.keys() - self._pollers.keys():
            self._pollers[name] = _Poller(name, asked[name], self._timer)
            self._start(name)

    def _start(self, name: str) -> None:
        self._running[name] = self._tasks.create_task(self._pollers[name].run(self._session, self._sleep))

    def read(self, target: str, series: SeriesOf, at: float, since: float = -inf) -> EndpointReading | None:
        """What the target's endpoint told last, as samples at Unix time `at`; None for a target without one.

        What it told before Unix time `since`, when the target's process was attached, was told by another process.
        """
        poller = self._pollers.get(target)
        return poller.reading(series, at, since) if poller else None


class _Poller:
    """Asks one endpoint again and again, and keeps its last figures until they are too old."""

    def __init__(self, target: str, endpoint: Endpoint, timer: Callable[[], float]) -> None:
        self._target = target
        self.endpoint = endpoint
        self._timer = timer
        self._stale_seconds = max(3 * endpoint.every_seconds, endpoint.timeout_seconds + endpoint.every_seconds)
        self._figures: Figures | None = None
        self._told_at = 0.0
        self._known: dict[str, set[tuple[str, ...]]] = {name: set() for name in MOST_SERIES}
        self._dropped: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._seconds: float | None = None
        self._up = False
        self._trouble, self._missing = "", "not asked yet"

    async def run(self, session: aiohttp.ClientSession, sleep: Callable[[float], Awaitable[None]]) -> None:
        while True:
            begun = self._timer()
            trouble = await self._poll(session)
            self._seconds = self._timer() - begun
            self._tell(*trouble)
            await sleep(max(0.0, self.endpoint.every_seconds - self._seconds))

    async def _poll(self, session: aiohttp.ClientSession) -> tuple[str, str]:
        """Ask once. Returns (reason, what happened) of what went wrong, or empty texts."""
        begun = self._timer()
        try:
            async with asyncio.timeout(self.endpoint.timeout_seconds):
                figures = await _ask(session, self.endpoint)
        except TimeoutError:
            reason, what = "timeout", f"no whole answer within {self.endpoint.timeout_seconds:g} s"
        except ProbeFailed as error:
            reason, what = error.reason, str(error)
        except OSError as error:
            reason, what = "connection", error.strerror or type(error).__name__
        except aiohttp.ClientConnectionError as error:
            # its text may hold the URL, and that a secret
            reason, what = "connection", f"the connection ended too early ({type(error).__name__})"
        except (aiohttp.ClientError, UnicodeError) as error:  # UnicodeError: a host name that cannot be encoded
            reason, what = "protocol", f"what came was no answer in HTTP ({type(error).__name__})"
        else:
            self._figures, self._told_at, self._up = self._bounded(figures), begun, True
            missing = self.endpoint.used and figures.used_bytes is None
            return ("used", f"no single usable number at {self.endpoint.used!r}") if missing else ("", "")
        self._up = False
        self._errors[reason] += 1
        return reason, what

    def _bounded(self, figures: Figures) -> Figures:
        """The figures whose series are among the first that were seen."""
        known, most, values = self._known[figures.metric], MOST_SERIES[figures.metric], {}
        for labels, value in figures.values.items():
            if labels in known or len(known) < most:
                known.add(labels)
                values[labels] = value
        self._dropped += figures.dropped
        self._dropped["too_many"] += len(figures.values) - len(values)
        return figures._replace(values=values)

    def _tell(self, reason: str, what: str) -> None:
        """Log what has changed, not every failure."""
        if reason and reason != self._trouble:
            log.warning("debug endpoint", extra={"target": self._target, "reason": reason, "what": what})
        elif self._trouble and not reason:
            log.info("debug endpoint tells its figures again", extra={"target": self._target})
        self._trouble, self._missing = reason, what

    def reading(self, series: SeriesOf, at: float, since: float) -> EndpointReading:
        make = series.sample
        samples = [make(metric.name, count, at, "reason", reason)
                   for metric, counts in ((DROPPED, self._dropped), (ERRORS, self._errors))
                   for reason, count in counts.items() if count]
        if self._seconds is None:
            return EndpointReading(samples, None, False, missing=self._missing)
        samples += [make(UP.name, float(self._up), at), make(SECONDS.name, self._seconds, at)]
        figures, age = self._figures, self._timer() - self._told_at
        if figures is None or age > self._stale_seconds or at - age < since:
            return EndpointReading(samples, None, self._up, missing=self._missing or OLD)
        samples += [make(figures.metric, value, at, *labels) for labels, value in figures.values.items()]
        if figures.state is not None:
            samples += [make(STATUS.name, float(figures.state == state), at, "status", state)
                        for state in (*self.endpoint.states, OTHER)]
        return EndpointReading(samples, figures.used_bytes, self._up, figures.instance_id, self._missing)


async def _ask(session: aiohttp.ClientSession, endpoint: Endpoint) -> Figures:
    """One question and its answer. Raises ProbeFailed, and OSError and aiohttp.ClientError as they come."""
    async with session.get(endpoint.url, headers=dict(endpoint.headers), allow_redirects=False,
                           ssl=context_for(endpoint.url)) as response:
        if response.status != 200:
            reason = "redirect" if 300 <= response.status < 400 else "status"
            raise ProbeFailed(reason, f"answered {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise ProbeFailed("encoding", "the answer is packed, which nobody asked for: it is not unpacked")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > MOST_BODY_BYTES:
                raise ProbeFailed("too_large", f"more than {MOST_BODY_BYTES >> 20} MiB")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if len(body) > LONG_BODY_BYTES:
        return await asyncio.to_thread(_figures, bytes(body), kind, endpoint)
    return _figures(bytes(body), kind, endpoint)


def _figures(body: bytes, kind: str, endpoint: Endpoint) -> Figures:
    """A page of samples where the answer says so and does not look like JSON; everything else must be JSON."""
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ProbeFailed("parse", "not UTF-8 text") from None
    if kind in ("text/plain", endpoint_page.OPENMETRICS) and not text.lstrip().startswith(("{", "[")):
        return endpoint_page.figures(text, kind, endpoint, SAMPLE.name)
    return endpoint_json.figures(text, endpoint, VALUE.name)
