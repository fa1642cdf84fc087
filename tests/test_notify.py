"""The notifier against a real Alertmanager, and against servers that misbehave."""

import asyncio
import json
import logging
import re
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from servers import AlertRecorder, free_port, running_alertmanager, running_prometheus, wait_until

from sidecar.errors import SidecarError
from sidecar.model import Alert, Labels, Sample
from sidecar.notify.alertmanager import METRICS, PIECE, Notifier
from sidecar.notify.options import Alertmanager, without_credentials
from sidecar.notify.payload import annotations, generator_url, payload, rfc3339
from sidecar.notify.queue import Message
from sidecar.web.server import serving

EXTERNAL = "http://vm:11611"
FIRED = 1795165899.730
PROMETHEUS = json.loads(  # what Prometheus 2.42 posted for this alert
    '{"annotations":{"h":"95B","summary":"a at 95"},"endsAt":"2026-11-20T09:12:03.730Z",'
    '"startsAt":"2026-11-20T09:11:39.730Z","generatorURL":"http://vm:19090/graph?g0.expr=rag_mem+%3E+90\\u0026g0.tab=1",'
    '"labels":{"alertname":"MemHigh","cluster":"x\\u003cy\\u0026z","instance":"127.0.0.1:19093","job":"j",'
    '"severity":"critical","svc":"a"}}'
)


def alert(name: str = "MemoryCritical", *, now: float | None = None, **changes: Any) -> Alert:
    """An alert that fires now, by the real clock, with `changes`."""
    at = time.time() if now is None else now
    fired = Alert(
        labels=Labels({"alertname": name, "target": "rag"}), annotations={"summary": "too much"}, state="firing",
        condition=True, value=1.0, active_at=at, fired_at=at, resolved_at=None, keep_firing_since=None,
        last_evaluation=at, interval_seconds=1.0, expr="rag_memory_used_bytes > 1",
    )  # fmt: skip
    return replace(fired, **changes)


def resolved(of: Alert) -> Alert:
    """The same alert, ended now."""
    at = time.time()
    return replace(of, state="inactive", condition=False, resolved_at=at, last_evaluation=at)


def count(samples: list[Sample], metric: str, **labels: str) -> float:
    """The sum of the series of `metric` that have `labels`."""
    return sum(
        sample.value for sample in samples
        if sample.labels.metric == metric and labels.items() <= dict(sample.labels).items()
    )  # fmt: skip


def sent(samples: list[Sample], outcome: str) -> float:
    """Alerts posted with `outcome`."""
    return count(samples, "rag_sidecar_notifications_total", outcome=outcome)


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait without holding up the event loop."""
    await asyncio.to_thread(wait_until, condition, 20.0, what)


def notify(
    told: Sequence[str | Alertmanager], steps: Callable[[Notifier], Awaitable[None]], **options: Any
) -> list[Sample]:
    """Run `steps` with a notifier. Returns its series afterwards."""
    alertmanagers = [Alertmanager(each) if isinstance(each, str) else each for each in told]

    async def run() -> list[Sample]:
        async with Notifier(alertmanagers, external_url=EXTERNAL, **options) as notifier:
            await steps(notifier)
            return notifier.samples(time.time())

    return asyncio.run(run())


def test_payload_is_that_of_prometheus() -> None:
    """The same alert becomes the very object that Prometheus posted."""
    labels = {"alertname": "MemHigh", "instance": "127.0.0.1:19093", "job": "j", "severity": "critical", "svc": "a"}
    same = alert(now=FIRED, labels=Labels(labels), annotations={"h": "95B", "summary": "a at 95"}, expr="rag_mem > 90")
    assert payload(Message(same, FIRED + 24), {"cluster": "x<y&z"}, "http://vm:19090/") == PROMETHEUS


def test_external_labels_never_replace_a_label() -> None:
    """An external label is added only where the alert has none of that name."""
    labels = payload(Message(alert(), FIRED), {"target": "other", "site": "x"}, EXTERNAL)["labels"]
    assert labels == {"alertname": "MemoryCritical", "target": "rag", "site": "x"}


def test_starts_when_it_fired_and_never_ends_before() -> None:
    """startsAt is the moment of firing; an end before it, from a clock that was set back, is moved up to it."""
    posted = payload(Message(alert(now=FIRED, active_at=FIRED - 30), FIRED - 3600), {}, EXTERNAL)
    assert posted["startsAt"] == posted["endsAt"] == "2026-11-20T09:11:39.730Z"


@pytest.mark.parametrize(
    ("given", "accepted"),
    [
        ({"run-book": "x"}, {"run_book": "x"}),
        ({"a_b": "kept", "a-b": "lost"}, {"a_b": "kept"}),
        ({"1st": "x", "": "y", "é": 3}, {"_1st": "x", "_": "3"}),
    ],
)
def test_annotation_names_are_made_acceptable(given: dict[str, Any], accepted: dict[str, str]) -> None:
    """Annotation names become letters, digits and underscores, values become strings."""
    assert annotations(given) == accepted


def test_expression_is_escaped_as_go_does() -> None:
    """The link to the expression survives quotes, operators, percent signs and non-ASCII letters."""
    assert generator_url(EXTERNAL, 'a{b="ü~%"} / 2') == (
        "http://vm:11611/graph?g0.expr=a%7Bb%3D%22%C3%BC~%25%22%7D+%2F+2&g0.tab=1"
    )


@pytest.mark.parametrize(("at", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1.9996, "1970-01-01T00:00:02.000Z")])
def test_times_are_rounded_to_milliseconds(at: float, text: str) -> None:
    """Times carry milliseconds, carried over into the seconds where they round up."""
    assert rfc3339(at) == text


def test_alert_appears_in_alertmanager_and_resolves(tmp_path: Path) -> None:
    """A firing alert appears in a real Alertmanager, whose receiver hears of it and of its end."""
    with AlertRecorder() as receiver, running_alertmanager(tmp_path, webhook_url=receiver.url) as server:

        async def steps(notifier: Notifier) -> None:
            firing = alert(annotations={"run-book": "x"})
            notifier.offer([firing], time.time())
            await until(server.alerts, "the alert in Alertmanager")
            (seen,) = server.alerts()
            assert seen["labels"] == {"alertname": "MemoryCritical", "target": "rag", "site": "x"}
            assert (seen["startsAt"], seen["annotations"]) == (rfc3339(firing.fired_at or 0), {"run_book": "x"})
            await until(lambda: [a["status"] for a in receiver.alerts()] == ["firing"], "the receiver to hear of it")
            notifier.offer([resolved(firing)], time.time())
            await until(lambda: "resolved" in {a["status"] for a in receiver.alerts()}, "the receiver to hear the end")
            assert server.alerts() == []

        assert sent(notify([server.url], steps, external_labels={"site": "x"}), "sent") == 2


def test_alertmanager_that_forgot_everything_is_told_again(tmp_path: Path) -> None:
    """One that is started anew in the middle of an alert, knowing nothing, hears of it with the resend, and its end."""
    port, firing = free_port(), alert()
    flags = [f"--web.listen-address=127.0.0.1:{port}"]

    async def evaluate(notifier: Notifier) -> None:
        while True:
            notifier.offer([replace(firing, last_evaluation=time.time())], time.time())
            await asyncio.sleep(0.1)

    async def steps(notifier: Notifier) -> None:
        rules = asyncio.create_task(evaluate(notifier))
        for _ in range(2):
            with AlertRecorder() as receiver, running_alertmanager(tmp_path, receiver.url, flags=flags) as server:
                await until(receiver.alerts, "the receiver to hear of it")
        with AlertRecorder() as receiver, running_alertmanager(tmp_path, receiver.url, flags=flags) as server:
            await until(receiver.alerts, "the receiver to hear of it")
            rules.cancel()
            notifier.offer([resolved(firing)], time.time())
            await until(lambda: "resolved" in {each["status"] for each in receiver.alerts()}, "the end")
            assert server.alerts() == []

    notify([f"http://127.0.0.1:{port}"], steps, resend_delay_seconds=1.0)


def test_alertmanager_refusing_one_alert_gets_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A label name that Alertmanager rejects costs only its own alert; the log names it."""
    with running_alertmanager(tmp_path) as server:

        async def steps(notifier: Notifier) -> None:
            alerts = [alert(f"A{number}") for number in range(9)]
            poison = alert("Poison", labels=Labels({"alertname": "Poison", "bad-name": "x"}))
            notifier.offer([*alerts, poison], time.time())
            assert await notifier.drain(time.time() + 20) == 0
            assert {each["labels"]["alertname"] for each in server.alerts()} == {each.name for each in alerts}

        samples = notify([server.url], steps)
    assert (sent(samples, "sent"), sent(samples, "refused"), sent(samples, "failed")) == (9, 1, 0)
    (refusal,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert refusal.__dict__["alert"] == "Poison"


def test_alert_is_delivered_once_alertmanager_recovers(caplog: pytest.LogCaptureFixture) -> None:
    """While Alertmanager answers 500 the alert is kept, firing and resolve arrive in order later, the log says both."""
    caplog.set_level(logging.INFO)
    with AlertRecorder(status=500) as recorder:

        async def steps(notifier: Notifier) -> None:
            firing = alert()
            notifier.offer([firing], time.time())
            await until(lambda: len(recorder.posts) >= 2, "a second attempt")
            notifier.offer([resolved(firing)], time.time())
            recorder.status = 200
            assert await notifier.drain(time.time() + 20) == 0

        samples = notify([recorder.url], steps)
        first, *_, fired, ended = recorder.alerts()
    assert first["startsAt"] == fired["startsAt"] == ended["startsAt"]
    assert ended["endsAt"] < first["endsAt"] < fired["endsAt"]  # a firing whose end follows holds until then
    assert (sent(samples, "sent"), sent(samples, "failed") >= 2) == (2, True)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "Alertmanager cannot be told; alerts are kept and tried again",
        "Alertmanager accepts alerts again",
    ]


def test_alertmanager_that_hangs_is_tried_again() -> None:
    """No answer within the timeout counts as a failure, and the alert is posted again."""
    with AlertRecorder() as recorder:
        recorder.hang = True

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(lambda: len(recorder.posts) >= 2, "a second attempt")
            recorder.hang = False
            assert await notifier.drain(time.time() + 20) == 0

        samples = notify([Alertmanager(recorder.url, timeout_seconds=0.25)], steps)
    assert (sent(samples, "sent"), sent(samples, "failed") >= 1) == (1, True)


@pytest.mark.parametrize(
    ("status", "content_type", "reason"),
    [
        (200, "text/html; charset=utf-8", "is this the URL of an Alertmanager?"),
        (302, "text/plain", "a redirect, which is not followed"),
        (404, "text/plain", "check its URL and credentials"),
    ],
)
def test_server_that_is_no_alertmanager_is_reported(
    status: int, content_type: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A web page, a redirect or 404 is an error in the log, once, and the alert is kept."""
    with AlertRecorder(status=status, content_type=content_type, body=b"<html>log in</html>") as recorder:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(lambda: len(recorder.posts) >= 3, "more attempts")
            assert await notifier.drain(time.time()) == 1

        samples = notify([recorder.url], steps)
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert reason in error.__dict__["reason"]
    assert (sent(samples, "sent"), count(samples, "rag_sidecar_notifications_queue_length")) == (0, 1)


@pytest.mark.parametrize("status", [200, 500])
def test_huge_answer_is_not_read(status: int) -> None:
    """An answer of 100 MB costs neither its memory nor the alert."""
    with AlertRecorder(status=status, body=bytes(100_000_000)) as recorder:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(lambda: recorder.posts, "the post")
            recorder.status = 200
            assert await notifier.drain(time.time() + 20) == 0

        tracemalloc.start()
        try:
            notify([recorder.url], steps)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak_bytes < 20_000_000


def test_dead_alertmanager_delays_nobody_else() -> None:
    """Of two Alertmanagers, one dead, the other is told at once, and the series tell them apart."""
    dead = f"http://127.0.0.1:{free_port()}"
    with AlertRecorder() as recorder:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(lambda: recorder.posts, "the living one to be told")
            assert await notifier.drain(time.time()) >= 1

        samples = notify([dead, recorder.url], steps)
    queued = "rag_sidecar_notifications_queue_length"
    assert count(samples, queued, alertmanager=dead) == 1
    assert [post.path for post in recorder.posts] == ["/api/v2/alerts"]


def test_alertmanager_that_starts_late_is_told() -> None:
    """An alert that fired before Alertmanager was there arrives once it is."""
    port = free_port()

    async def steps(notifier: Notifier) -> None:
        notifier.offer([alert()], time.time())
        await until(lambda: sent(notifier.samples(time.time()), "failed"), "a failed attempt")
        with AlertRecorder(port=port) as recorder:
            assert await notifier.drain(time.time() + 20) == 0
            assert len(recorder.alerts()) == 1

    notify([f"http://127.0.0.1:{port}"], steps)


def test_credentials_reach_alertmanager_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    """User and password of the URL go into the Authorization header, never into series or log."""
    with AlertRecorder(status=500) as recorder:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(lambda: sent(notifier.samples(time.time()), "failed"), "a failed attempt")

        samples = notify([recorder.url.replace("//", "//ann:s3cret@") + "/prefix/"], steps)
        (post, *_) = recorder.posts
    assert (post.path, post.headers["Authorization"]) == ("/prefix/api/v2/alerts", "Basic YW5uOnMzY3JldA==")
    assert {sample.labels["alertmanager"] for sample in samples} == {f"{recorder.url}/prefix"}
    assert "s3cret" not in "".join(str(record.__dict__) for record in caplog.records)


def test_redirects_are_not_followed() -> None:
    """Alerts and credentials go to the Alertmanager that was configured, not to where it points."""
    with AlertRecorder() as elsewhere:

        async def point_away(request: web.Request) -> web.Response:
            asked.append(request.path)
            return web.Response(status=307, headers={"Location": f"{elsewhere.url}/api/v2/alerts"})

        async def run() -> None:
            app = web.Application()
            app.add_routes([web.post("/api/v2/alerts", point_away)])
            async with (
                serving(app, ["127.0.0.1:0"]) as (url,),
                Notifier([Alertmanager(url)], external_url=EXTERNAL) as notifier,
            ):
                notifier.offer([alert()], time.time())
                await until(lambda: asked, "the post")
                assert await notifier.drain(time.time() + 0.2) == 1

        asked: list[str] = []
        asyncio.run(run())
        assert elsewhere.posts == []


def test_documented_relabelling_keeps_prometheus_from_sending_the_same(checkout: Path, tmp_path: Path) -> None:
    """With the snippet of docs/alertmanager.md a real Prometheus sends its own alerts and none that carry `cleanup`."""
    page = (checkout / "docs" / "alertmanager.md").read_text()
    (snippet,) = re.findall(r"```yaml\n(alerting:.*?)```", page, re.DOTALL)
    rules = tmp_path / "rules.yml"
    rules.write_text("""
        groups:
          - name: g
            interval: 1s
            rules:
              - {alert: Ours, expr: vector(1), labels: {cleanup: light}}
              - {alert: Fleet, expr: vector(1)}""")
    with AlertRecorder() as recorder:
        config = snippet.replace("127.0.0.1:9093", recorder.url.removeprefix("http://"))
        # It forgets what fires before it has found its Alertmanagers, until the next resend: have that come soon.
        with running_prometheus(config, tmp_path, [rules], ["--rules.alert.resend-delay=1s"]) as prometheus:
            wait_until(lambda: len(prometheus.alerts()) == 2, 20, "both alerts to fire")
            recorder.wait_for(lambda: bool(recorder.posts), 60, "the first post")
        assert {each["labels"]["alertname"] for each in recorder.alerts()} == {"Fleet"}


def test_same_alertmanager_twice_is_one() -> None:
    """A URL that is given twice, also with a slash at its end, is told once."""
    with AlertRecorder() as recorder:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            assert await notifier.drain(time.time() + 20) == 0

        notify([recorder.url, f"{recorder.url}/"], steps)
    assert len(recorder.posts) == 1


@pytest.mark.parametrize(
    "url", ["alertmanager:9093", "ftp://host", "http://", "http://h:x", "http://[::1", "http://h/ a", "http://h?x=1"]
)
def test_unusable_urls_are_refused(url: str) -> None:
    """A URL that cannot work is an error at the start, which says how to write it."""
    with pytest.raises(SidecarError) as caught:
        Notifier([Alertmanager(url)], external_url=EXTERNAL)
    assert "http://host:port" in caught.value.help
    with pytest.raises(SidecarError):
        Notifier([], external_url=url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h:1/p", "http://h:1/p"),
        ("http://ann:pa/ss@h:1", "http://h:1"),
        ("http://ann:p@ss@h:1/p?token=x#y", "http://h:1/p"),
    ],
)
def test_shown_urls_hold_no_secrets(url: str, shown: str) -> None:
    """What is shown of a URL has neither credentials nor parameters, even when they are oddly written."""
    assert without_credentials(url) == shown


def test_flood_of_alerts_is_offered_in_pieces() -> None:
    """Ten thousand alerts for three Alertmanagers: after a hundred at most others run, and all wait in the end."""
    given: list[Alert] = []

    def flood() -> Iterator[Alert]:
        for number in range(10_000):
            given.append(alert(f"A{number}", now=FIRED))
            yield given[-1]

    notifier = Notifier([Alertmanager(f"http://127.0.0.1:{port}") for port in (1, 2, 3)], external_url=EXTERNAL)
    pieces, before = [], 0
    for _ in notifier.steps(flood(), FIRED):
        pieces.append(len(given) - before)
        before = len(given)
    assert (sum(pieces), max(pieces)) == (10_000, PIECE)
    assert count(notifier.samples(FIRED), "rag_sidecar_notifications_queue_length") == 30_000


def test_every_series_is_declared() -> None:
    """Each series of the notifier belongs to a declared metric, and counters exist before anything happens."""

    async def nothing(notifier: Notifier) -> None:
        assert await notifier.drain(time.time() + 1) == 0

    samples = notify(["http://127.0.0.1:9"], nothing)
    assert {sample.labels.metric for sample in samples} < {metric.name for metric in METRICS}
    assert sent(samples, "sent") == 0
    assert len(samples) == 6
