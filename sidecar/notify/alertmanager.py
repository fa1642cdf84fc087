"""Posts alerts to every Alertmanager, each from its own loop: a dead one delays nobody else."""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from sidecar import __version__, clock
from sidecar.errors import SidecarError
from sidecar.model import METRIC_NAME, Alert, Labels, Metric, Sample
from sidecar.notify.payload import payload
from sidecar.notify.queue import Batch, Outbox

log = logging.getLogger(__name__)

PATH = "/api/v2/alerts"
JSON = {"Content-Type": "application/json"}
TIMEOUT_SECONDS = 10.0
ANSWER_BYTES = 2048
"""How much of an error's body is read, for the log; the rest is thrown away with the connection."""
AT_FAULT = frozenset({400, 413, 422})
"""Something in the batch is wrong (or it is too big for a proxy): less of it may be accepted."""
MISCONFIGURED = frozenset({401, 403, 404, 405, 415})

METRICS = (
    Metric("rag_sidecar_notifications_total", "counter",
           "Alerts posted to an Alertmanager, by outcome: sent; failed (tried again); refused (found fault with)."),
    Metric("rag_sidecar_notifications_dropped_total", "counter",
           "Alerts that were given up, by reason: overflow of the queue; expired before they were accepted."),
    Metric("rag_sidecar_notifications_queue_length", "gauge", "Alerts that wait to be posted to an Alertmanager."),
    Metric("rag_sidecar_notifications_last_success_timestamp_seconds", "gauge",
           "When an Alertmanager last accepted alerts, as Unix time; absent before the first time."),
)  # fmt: skip


class Answer(NamedTuple):
    """What came of one POST. `why` is fit for a log line."""

    verdict: Literal["accepted", "refused", "failed"]
    why: str = ""
    misconfigured: bool = False


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # nothing that is read is worth unpacking, and a small answer can unpack into gigabytes
        headers={"User-Agent": f"rag-sidecar/{__version__}"},
    )


class Notifier:
    """Tells every Alertmanager of every alert. Lives from `async with` to its end; `offer` may be called before.

    `urls` are the roots of Alertmanagers (`http://host:9093`, also with a path prefix or credentials); `external_url`
    is where people reach the sidecar. Raises SidecarError on a URL that cannot be used. Leaving the context drops
    what still waits: call `drain` before.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        external_url: str,
        external_labels: Mapping[str, str] | None = None,
        resend_delay_seconds: float = 60.0,
        session: Callable[[], aiohttp.ClientSession] = _session,
        clock: Callable[[], float] = clock.wall,
    ) -> None:
        _check_url(external_url, "external URL")
        self._new_session = session
        self._clock = clock
        outboxes = {
            url: Outbox(resend_delay_seconds=resend_delay_seconds, uniform=random.uniform) for url in map(_root, urls)
        }
        self._deliveries = [
            _Delivery(url, outbox, lambda batch: _body(batch, external_labels or {}, external_url), clock)
            for url, outbox in outboxes.items()
        ]
        self._tasks = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Notifier":
        self._session = self._new_session()
        await self._tasks.__aenter__()
        self._running = [self._tasks.create_task(delivery.run(self._session)) for delivery in self._deliveries]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._running:
            task.cancel()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            await self._session.close()

    def offer(self, alerts: Iterable[Alert], now: float) -> None:
        """Take note of the rules' alerts as they are after an evaluation at Unix time `now`; never waits.

        Alerts that nobody is to be told of are for the caller to leave out.
        """
        noted = list(alerts)
        for delivery in self._deliveries:
            delivery.offer(noted, now)

    async def drain(self, deadline: float) -> int:
        """Wait until everything is accepted, at most until Unix time `deadline`. Returns how many alerts still wait."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                for delivery in self._deliveries:
                    await delivery.emptied.wait()
        except TimeoutError:
            pass
        return sum(len(delivery.outbox) for delivery in self._deliveries)

    def samples(self, now: float) -> list[Sample]:
        """The series of METRICS as they are now."""
        return [sample for delivery in self._deliveries for sample in delivery.samples(now)]


class _Delivery:
    """The loop that empties the outbox of one Alertmanager. Lives as long as its notifier."""

    def __init__(self, url: str, outbox: Outbox, body: Callable[[Batch], bytes], clock: Callable[[], float]) -> None:
        self.outbox = outbox
        self.name = without_credentials(url)
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._url = url + PATH
        self._body = body
        self._clock = clock
        self._offered = asyncio.Event()
        self._trouble = ""
        self._accepted_at: float | None = None

    def offer(self, alerts: Iterable[Alert], now: float) -> None:
        self.outbox.offer(alerts, now)
        if len(self.outbox):
            self.emptied.clear()
            self._offered.set()

    async def run(self, session: aiohttp.ClientSession) -> None:
        while True:
            if batch := self.outbox.take(self._clock()):
                self._settle(batch, await self._post(session, self._body(batch)))
                continue
            self._offered.clear()
            if not len(self.outbox):
                self.emptied.set()
            try:
                async with asyncio.timeout(self.outbox.wait_seconds(self._clock())):
                    await self._offered.wait()
            except TimeoutError:
                pass

    async def _post(self, session: aiohttp.ClientSession, body: bytes) -> Answer:
        try:
            async with session.post(self._url, data=body, headers=JSON, allow_redirects=False) as response:
                # What is not read here is not read at all: aiohttp closes a connection with unread bytes.
                said = "" if response.ok else repr((await response.content.read(ANSWER_BYTES)).decode(errors="replace"))
                return _judge(response.status, response.content_type, said)
        except TimeoutError:
            return Answer("failed", f"no answer within {TIMEOUT_SECONDS:g} s")
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            return Answer("failed", str(error) or type(error).__name__)

    def _settle(self, batch: Batch, answer: Answer) -> None:
        now = self._clock()
        if answer.verdict == "refused":
            if culprit := self.outbox.refuse(batch, now):
                log.error("Alertmanager refuses an alert; the others go on without it", extra={
                    "alertmanager": self.name, "alert": culprit.alert.name, "labels": dict(culprit.alert.labels),
                    "reason": answer.why})  # fmt: skip
        elif answer.verdict == "failed":
            self.outbox.fail(batch, now)
            if answer.why != self._trouble:
                level = logging.ERROR if answer.misconfigured else logging.WARNING
                log.log(level, "Alertmanager cannot be told; alerts are kept and tried again", extra={
                    "alertmanager": self.name, "alerts": len(batch), "reason": answer.why})  # fmt: skip
                self._trouble = answer.why
        else:
            self.outbox.acknowledge(batch, now)
            self._accepted_at = now
            if self._trouble:
                log.info("Alertmanager accepts alerts again", extra={"alertmanager": self.name, "alerts": len(batch)})
                self._trouble = ""

    def samples(self, now: float) -> list[Sample]:
        counts, notifications = self.outbox.counts, "rag_sidecar_notifications"
        rows: list[tuple[str, dict[str, str], float]] = [
            (f"{notifications}_total", {"outcome": "sent"}, counts.sent),
            (f"{notifications}_total", {"outcome": "failed"}, counts.failed),
            (f"{notifications}_total", {"outcome": "refused"}, counts.refused),
            (f"{notifications}_dropped_total", {"reason": "overflow"}, counts.overflowed),
            (f"{notifications}_dropped_total", {"reason": "expired"}, counts.expired),
            (f"{notifications}_queue_length", {}, len(self.outbox)),
        ]
        if self._accepted_at is not None:
            rows.append((f"{notifications}_last_success_timestamp_seconds", {}, self._accepted_at))
        return [
            Sample(Labels({METRIC_NAME: name, "alertmanager": self.name, **labels}), value, now)
            for name, labels, value in rows
        ]


def _body(batch: Batch, external_labels: Mapping[str, str], external_url: str) -> bytes:
    return json.dumps([payload(message, external_labels, external_url) for message in batch]).encode()


def _judge(status: int, content_type: str, said: str) -> Answer:
    """Any 2xx is success, except a web page: that was a login page or another program."""
    if 200 <= status < 300 and content_type != "text/html":
        return Answer("accepted")
    if 200 <= status < 400:
        page = "a web page" if status < 300 else "a redirect, which is not followed"
        return Answer("failed", f"answered {status} with {page}: is this the URL of an Alertmanager?", True)
    if status in AT_FAULT:
        return Answer("refused", f"answered {status}: {said}")
    hint = ": check its URL and credentials" if status in MISCONFIGURED else ""
    return Answer("failed", f"answered {status} {said}{hint}", status in MISCONFIGURED)


def _root(url: str) -> str:
    _check_url(url, "Alertmanager URL")
    return url.rstrip("/").removesuffix(PATH)


def _check_url(url: str, what: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        usable = False
    if not usable or any(c.isspace() or not c.isprintable() or c in "?#" for c in url):
        raise SidecarError(
            f"{what} {without_credentials(url)!r} cannot be used", help="Write it as http://host:port or https://host."
        )


def without_credentials(url: str) -> str:
    """The URL as it may be shown: less `user:password@`, query and fragment.

    Everything before the last `@` goes, also where a `/` inside a password makes the URL ambiguous.
    """
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}".partition("?")[0].partition("#")[0]
