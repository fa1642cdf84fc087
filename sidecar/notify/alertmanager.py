"""Posts alerts to every Alertmanager, each from its own loop: a dead one delays nobody else."""

import asyncio
import json
import logging
import random
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple
from functools import lru_cache
from ipaddress import ip_address
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sidecar import clock
from sidecar.errors import SidecarError
from sidecar.model import Alert, Labels, Metric, Sample, series
from sidecar.notify.options import Alertmanager, without_credentials
from sidecar.notify.payload import payload
from sidecar.notify.posting import PATH, Answer, Post, Session, new_session
from sidecar.notify.queue import FIRING, Batch, Heard, Outbox

if TYPE_CHECKING:
    from sidecar.notify.access import Access

log = logging.getLogger(__name__)

RESOLVE_SECONDS = 30.0
"""How often a host name is looked up; as Prometheus does for names that it discovers (dns_sd_config)."""
MOST_ADDRESSES = 32
LEAVING_SECONDS = 5.0
"""For how long one that is not configured any more is still told what it was to be told."""
NO_LABELS = Labels()
PIECE = 100
"""So many alerts are offered between two pauses."""

Known = Sequence[tuple[Alert, Heard | None]]
"""Alerts from before a restart, with what was acknowledged of them; None: nobody knows."""

METRICS = (
    Metric("rag_sidecar_notifications_total", "counter",
           "Alerts posted to an Alertmanager, by outcome: sent; failed (tried again); refused (found fault with)."),
    Metric("rag_sidecar_notifications_dropped_total", "counter",
           "Alerts that were given up, by reason: overflow of the queue; expired before they were accepted."),
    Metric("rag_sidecar_notifications_queue_length", "gauge", "Alerts that wait to be posted to an Alertmanager."),
    Metric("rag_sidecar_notifications_last_success_timestamp_seconds", "gauge",
           "When an Alertmanager last accepted alerts, as Unix time; absent before the first time."),
)  # fmt: skip


class Notifier:
    """Tells every Alertmanager of every alert. Lives from `async with` to its end; `offer` may be called before.

    `external_url` is where people reach the sidecar. Raises SidecarError on a URL that cannot be used. Leaving the
    context drops what still waits: call `drain` before.
    """

    def __init__(
        self,
        alertmanagers: Sequence[Alertmanager],
        *,
        external_url: str,
        external_labels: Mapping[str, str] | None = None,
        resend_delay_seconds: float = 60.0,
        clock: Callable[[], float] = clock.wall,
    ) -> None:
        _check_url(external_url, "external URL")

        def deliver(post: Post) -> _Delivery:
            outbox = Outbox(resend_delay_seconds=resend_delay_seconds, uniform=random.uniform)
            return _Delivery(post, outbox, lambda batch: _body(batch, self._external_labels, external_url), clock)

        self._clock = clock
        self._noted: tuple[list[Alert], float] = [], 0.0
        self._deliver = deliver
        self._external_labels = external_labels or {}
        self._configured = self._made(alertmanagers, {})
        self._tasks = asyncio.TaskGroup()

    def _made(self, alertmanagers: Sequence[Alertmanager], known: dict[object, "_Configured"]) -> list["_Configured"]:
        """One for each; those that are `known`, by all that is configured of them, are taken from there."""
        for each in alertmanagers:
            _check_url(each.url, "Alertmanager URL")
        single = {each.url.rstrip("/").removesuffix(PATH): each for each in alertmanagers}.values()
        return [known.pop(key) if (key := astuple(each)) in known else _Configured(each, self._deliver)
                for each in single]

    async def __aenter__(self) -> "Notifier":
        self._session = new_session()
        await self._tasks.__aenter__()
        for each in self._configured:
            each.start(self._tasks, self._session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._configured:
            each.end()
        try:
            await self._tasks.__aexit__(kind, error, trace)
        finally:
            await self._session.close()

    def restore(self, known: Known, now: float) -> None:
        """Before the first offer after a restart: who had acknowledged what.

        An Alertmanager that was not there then is told of what fires, and of no end. Where nobody knows, what had ended
        is told as an end alone.
        """
        for each in self._configured:
            each.restore(known, now)

    def hearing(self) -> Callable[[Alert], Heard]:
        """What of an alert every Alertmanager has acknowledged up to now, as `restore` takes it."""
        deliveries = self._deliveries()
        names, outboxes = tuple(each.name for each in deliveries), [each.outbox for each in deliveries]
        return lambda alert: _shared(names, tuple([outbox.heard(alert) for outbox in outboxes]))

    def change(self, alertmanagers: Sequence[Alertmanager], external_labels: Mapping[str, str]) -> None:
        """Tell these from now on, with these labels: after a reload.

        One that is configured as before keeps what waits for it; one that is no more gets it within LEAVING_SECONDS or
        never. A new one is told with the next `offer`. Raises SidecarError; then nothing has changed.
        """
        heard, (alerts, now) = self.hearing(), self._noted
        left: dict[object, _Configured] = {each.key: each for each in self._configured}
        before, self._configured = self._configured, self._made(alertmanagers, left)
        self._external_labels = external_labels
        for each in self._configured:
            if each not in before:
                each.restore([(alert, heard(alert)) for alert in alerts], now)  # of one that is new, no ends
                each.start(self._tasks, self._session)
        for each in left.values():
            self._tasks.create_task(each.leave(LEAVING_SECONDS))

    def offer(self, alerts: Iterable[Alert], now: float) -> None:
        """Take note of the rules' alerts as they are after an evaluation at Unix time `now`; never waits.

        Alerts that nobody is to be told of are for the caller to leave out.
        """
        for _ in self.steps(alerts, now):
            pass

    def steps(self, alerts: Iterable[Alert], now: float) -> Generator[None, None, None]:
        """`offer` in pieces: others may run between two of them, and what was offered is on its way then."""
        left, noted = iter(alerts), list[Alert]()
        while piece := [*islice(left, PIECE)]:
            noted += piece
            for delivery in self._deliveries():
                delivery.offer(piece, now)
                yield
        self._noted = noted, now
        for each in self._configured:
            each.noted = self._noted
        for delivery in self._deliveries():
            yield from delivery.outbox.tidy(now)

    async def drain(self, deadline: float) -> int:
        """Wait until everything is accepted, at most until Unix time `deadline`. Returns how many alerts still wait."""
        try:
            async with asyncio.timeout(max(0.0, deadline - self._clock())):
                for delivery in self._deliveries():
                    await delivery.emptied.wait()
        except TimeoutError:
            pass
        return sum(len(delivery.outbox) for delivery in self._deliveries())

    def samples(self, now: float, base: Labels = NO_LABELS) -> list[Sample]:
        """The series of METRICS as they are now, with the labels of `base` beside their own."""
        return [sample for delivery in self._deliveries() for sample in delivery.samples(now, base)]

    def _deliveries(self) -> list["_Delivery"]:
        return [delivery for each in self._configured for delivery in each.deliveries.values()]


class _Configured:
    """One entry of the configuration: one delivery, or as many as its name has addresses. Lives as the notifier."""

    def __init__(self, alertmanager: Alertmanager, deliver: Callable[[Post], "_Delivery"]) -> None:
        access = _access(alertmanager)
        self.key: object = astuple(alertmanager)
        self._new: Callable[[str], _Delivery] = lambda address: deliver(Post(alertmanager, access, address))
        self._host = urlsplit(alertmanager.url).hostname or ""
        self.deliveries: dict[str, _Delivery] = {"": self._new("")}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.noted: tuple[list[Alert], float] = [], 0.0
        self._known: Known = ()
        self._ended = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None

    def start(self, tasks: asyncio.TaskGroup, session: Session) -> None:
        def run(delivery: _Delivery) -> asyncio.Task[None]:
            return tasks.create_task(delivery.run(session))

        self._running = {address: run(delivery) for address, delivery in self.deliveries.items()}
        if not _is_address(self._host):
            self._follower = tasks.create_task(self._follow(run))

    def end(self) -> None:
        self._ended.set()
        for task in (self._follower, *self._running.values()):
            if task:
                task.cancel()

    def restore(self, known: Known, now: float) -> None:
        if not _is_address(self._host):
            self._known = known  # its addresses are found out later
        for delivery in self.deliveries.values():
            delivery.restore(known, now)

    async def leave(self, seconds: float) -> None:
        """Deliver what waits, for so long at most, then end."""
        try:
            async with asyncio.timeout(seconds):
                for delivery in list(self.deliveries.values()):
                    await delivery.emptied.wait()
        except TimeoutError:
            log.warning("alerts given up: their Alertmanager is not configured any more", extra={
                "host": self._host, "alerts": sum(len(each.outbox) for each in self.deliveries.values())})
        self.end()

    async def _follow(self, run: Callable[["_Delivery"], asyncio.Task[None]]) -> None:
        from sidecar.notify.names import addresses  # most are given by their address

        while not self._ended.is_set():
            found = (await addresses(self._host))[:MOST_ADDRESSES]
            # A name with one address is left to the connection, which also tries the other family.
            if found and (len(found) > 1 or "" not in self.deliveries):
                self._change(found, run)
            try:
                async with asyncio.timeout(RESOLVE_SECONDS):
                    await self._ended.wait()
            except TimeoutError:
                continue

    def _change(self, found: Sequence[str], run: Callable[["_Delivery"], asyncio.Task[None]]) -> None:
        """Tell those at new addresses all that is known, and nothing more to those that are gone."""
        gone, new, (alerts, now) = self.deliveries.keys() - set(found), set(found) - self.deliveries.keys(), self.noted
        for address in sorted(gone):
            self._running.pop(address).cancel()
            self.deliveries.pop(address).emptied.set()
        for address in sorted(new):
            self.deliveries[address] = self._new(address)
            self.deliveries[address].restore([*self._known, *((alert, {}) for alert in alerts)], now)
            self.deliveries[address].offer(alerts, now)
            self._running[address] = run(self.deliveries[address])
        self._known = ()
        if gone or new:
            log.info("Alertmanagers", extra={"host": self._host, "addresses": ", ".join(found)})


class _Delivery:
    """The loop that empties the outbox of one Alertmanager. Lives as long as its address is known."""

    def __init__(self, post: Post, outbox: Outbox, body: Callable[[Batch], bytes], clock: Callable[[], float]) -> None:
        self.outbox = outbox
        self.name = post.name
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._post = post
        self._body = body
        self._clock = clock
        self._offered = asyncio.Event()
        self._trouble = ""
        self._accepted_at: float | None = None

    def restore(self, known: Known, now: float) -> None:
        self.outbox.restore(((alert, FIRING if heard is None else heard.get(self.name)) for alert, heard in known), now)
        self._look()

    def offer(self, alerts: Iterable[Alert], now: float) -> None:
        self.outbox.offer(alerts, now)
        self._look()

    def _look(self) -> None:
        if self.outbox.wait_seconds(self._clock()) is not None:
            self.emptied.clear()
            self._offered.set()

    async def run(self, session: Session) -> None:
        while True:
            if batch := self.outbox.take(self._clock()):
                self._settle(batch, await self._post.send(session, self._body(batch)))
                continue
            self._offered.clear()
            wait = self.outbox.wait_seconds(self._clock())
            if wait is None:
                self.emptied.set()
            try:
                async with asyncio.timeout(wait):
                    await self._offered.wait()
            except TimeoutError:
                pass

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

    def samples(self, now: float, base: Labels) -> list[Sample]:
        return [
            Sample(series(base, f"rag_sidecar_notifications_{name}", "alertmanager", self.name, *labels), value, now)
            for name, labels, value in self._rows()
        ]

    def _rows(self) -> Iterator[tuple[str, tuple[str, ...], float]]:
        counts = self.outbox.counts
        for outcome in ("sent", "failed", "refused"):
            yield "total", ("outcome", outcome), getattr(counts, outcome)
        yield "dropped_total", ("reason", "overflow"), counts.overflowed
        yield "dropped_total", ("reason", "expired"), counts.expired
        yield "queue_length", (), len(self.outbox)
        if self._accepted_at is not None:
            yield "last_success_timestamp_seconds", (), self._accepted_at


def _body(batch: Batch, external_labels: Mapping[str, str], external_url: str) -> bytes:
    return json.dumps([payload(message, external_labels, external_url) for message in batch]).encode()


@lru_cache(maxsize=256)
def _shared(names: tuple[str, ...], heard: tuple[int, ...]) -> Heard:
    """The same object for all alerts of which the same is known: there may be thousands."""
    return dict(zip(names, heard, strict=True))


def _access(alertmanager: Alertmanager) -> "Access | None":
    if not (alertmanager.tls or alertmanager.basic_auth or alertmanager.authorization):
        return None
    from sidecar.notify.access import Access  # where nothing has to be proved it would only take memory

    return Access(alertmanager)


def _is_address(host: str) -> bool:
    """Whether a host is an address, or this machine itself: then there is nothing to look up."""
    try:
        ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return True


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
