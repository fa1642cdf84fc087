"""The web server over real sockets: what it shows, and what it refuses."""

import asyncio
import gzip
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from asking import Answer
from hypothesis import given
from hypothesis import strategies as st

from sidecar import __version__
from sidecar.errors import SidecarError
from sidecar.model import Alert, Labels
from sidecar.web import server
from sidecar.web.admission import REQUESTS, admission, host_allowed
from sidecar.web.api import exponent_form
from sidecar.web.server import build, parse_listen, serving
from sidecar.web.view import ModeStatus, Snapshot, TargetStatus, View

FIRED = 1795165899.730


Ask = Callable[..., Awaitable[Answer]]


def serve(steps: Callable[[Ask], Awaitable[None]], view: View | None = None, hosts: Sequence[str] = ()) -> None:
    """Run `steps` with a function that asks a real server: `await ask(path, method, Header="…", data=…)`."""

    async def run() -> None:
        app = build(view or View(), hosts=hosts)
        async with serving(app, ["127.0.0.1:0"]) as (url,), aiohttp.ClientSession() as session:

            async def ask(path: str, method: str = "GET", data: Any = None, **headers: str) -> Answer:
                named = {name.replace("_", "-"): value for name, value in headers.items()}
                async with session.request(method, url + path, data=data, headers=named) as answer:
                    return Answer(answer.status, dict(answer.headers), await answer.text())

            await steps(ask)

    asyncio.run(run())


async def raw(url: str, request: bytes) -> bytes:
    """The answer to bytes that no client library would send."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request)
    try:
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


def alert(**changes: Any) -> Alert:
    """A firing alert with `changes`."""
    fields: dict[str, Any] = {
        "labels": Labels({"alertname": "MemoryCritical", "target": "rag"}), "annotations": {"summary": "too much"},
        "state": "firing", "condition": True, "value": 47153152.0, "active_at": FIRED, "fired_at": FIRED,
        "resolved_at": None, "keep_firing_since": None, "last_evaluation": FIRED, "interval_seconds": 1.0, "expr": "a",
    }  # fmt: skip
    return Alert(**{**fields, **changes})


def test_healthy_always_and_ready_only_when_ready() -> None:
    """/-/healthy is 200 from the start, /-/ready answers 503 with the reason until the first tick."""

    async def steps(ask: Ask) -> None:
        assert (await ask("/-/healthy")).status == 200
        before = await ask("/-/ready")
        assert (before.status, "the first tick has not ended" in before.text) == (503, True)
        view.snapshot = Snapshot(tick=1, unready="")
        assert [(await ask("/-/ready", method)).status for method in ("GET", "HEAD")] == [200, 200]
        assert (await ask("/-/healthy", "HEAD")).text == ""

    view = View()
    serve(steps, view)


def test_alerts_have_the_shape_of_prometheus() -> None:
    """Pending and firing alerts are listed as Prometheus lists them; resolved ones are not."""
    alerts = [
        alert(keep_firing_since=FIRED + 1),
        alert(state="pending", fired_at=None, value=float("inf")),
        alert(state="inactive", resolved_at=FIRED + 9),
    ]

    async def steps(ask: Ask) -> None:
        answer = await ask("/api/v1/alerts")
        labels = {"alertname": "MemoryCritical", "target": "rag"}
        assert answer.headers["Content-Type"].startswith("application/json")
        assert answer.json == {"status": "success", "data": {"alerts": [
            {"labels": labels, "annotations": {"summary": "too much"}, "state": "firing",
             "activeAt": "2026-11-20T09:11:39.730Z", "keepFiringSince": "2026-11-20T09:11:40.730Z",
             "value": "4.7153152e+07"},
            {"labels": labels, "annotations": {"summary": "too much"}, "state": "pending",
             "activeAt": "2026-11-20T09:11:39.730Z", "value": "+Inf"},
        ]}}  # fmt: skip

    serve(steps, View(Snapshot(alerts=alerts)))


def test_no_alerts_and_actions_are_empty_lists() -> None:
    """Nothing to show is [], never null."""

    async def steps(ask: Ask) -> None:
        assert (await ask("/api/v1/alerts")).json == {"status": "success", "data": {"alerts": []}}
        nothing = {"actions": [], "decisions": [], "incidents": []}
        assert (await ask("/api/v1/actions")).json == {"status": "success", "data": nothing}

    serve(steps)


def test_actions_come_newest_first() -> None:
    """Actions are listed newest first, with null for a number that is none."""
    older = {"id": "a", "target": "rag", "started_at": 1.0, "freed_bytes": 5}
    newer = {"id": "b", "target": "rag", "started_at": 2.0, "freed_bytes": float("nan")}

    async def steps(ask: Ask) -> None:
        actions = (await ask("/api/v1/actions")).json["data"]["actions"]
        assert actions == [{**newer, "freed_bytes": None}, older]

    serve(steps, View(Snapshot(actions=[older, newer])))


@pytest.mark.parametrize(("query", "actions", "decisions", "incidents"), [
    ("", "cba", "rw", "21"), ("target=rag", "ba", "r", "1"), ("outcome=effective", "ca", "rw", "21"),
    ("target=rag&outcome=effective", "a", "r", "1"), ("limit=1", "c", "r", "2"), ("limit=0", "cba", "rw", "21"),
    ("target=x", "", "", ""), ("outcome=x", "", "rw", "21")])
def test_actions_are_chosen(query: str, actions: str, decisions: str, incidents: str) -> None:
    """Attempts, present decisions and incidents, of one target, with one outcome, or so many of each."""
    snapshot = Snapshot(
        actions=[{"id": "a", "target": "rag", "started_at": 1.0, "outcome": "effective"},
                 {"id": "b", "target": "rag", "started_at": 2.0, "outcome": "partial"},
                 {"id": "c", "target": "web", "started_at": 3.0, "outcome": "effective", "told": {"x": float("inf")}}],
        decisions=[{"id": "r", "target": "rag"}, {"id": "w", "target": "web"}],
        incidents=[{"id": "1", "target": "rag", "opened_at": 1.0}, {"id": "2", "target": "web", "opened_at": 2.0}])

    async def steps(ask: Ask) -> None:
        data = (await ask(f"/api/v1/actions?{query}")).json["data"]
        assert {name: "".join(row["id"] for row in rows) for name, rows in data.items()} == {
            "actions": actions, "decisions": decisions, "incidents": incidents}
        assert (await ask("/api/v1/actions?limit=x")).status == 400

    serve(steps, View(snapshot))


def test_mode_is_told_for_load_balancers() -> None:
    """A degraded target is 503, a normal or cautious one 200, one that nobody knows 404; all together: the worst."""
    def snapshot(mode: str) -> Snapshot:
        targets = [TargetStatus(name, True) for name in ("rag", "web", "new")]
        return Snapshot(targets=targets, modes={"rag": ModeStatus(mode, 900.0, 1000.0), "web": ModeStatus("normal")})

    async def steps(ask: Ask) -> None:
        for mode, status in (("normal", 200), ("cautious", 200), ("degraded", 503)):
            view.snapshot = snapshot(mode)
            one, every, other = [await ask(f"/api/v1/mode{path}") for path in ("/rag", "", "/web")]
            shown = {"target": "rag", "mode": mode, "used_bytes": 900.0, "limit_bytes": 1000.0}
            assert (one.status, one.json) == (status, {"status": "success", "data": shown})
            assert (every.status, every.json["data"]["mode"]) == (status, mode)
            assert [row["target"] for row in every.json["data"]["targets"]] == ["new", "rag", "web"]
            assert other.status == 200
        unread = await ask("/api/v1/mode/new")
        assert (unread.status, unread.json["data"]["mode"]) == (200, "unknown")
        assert (await ask("/api/v1/mode/x")).status == 404
        assert (await ask("/api/v1/mode/rag", "HEAD")).status == 503

    view = View()
    serve(steps, view)


@pytest.mark.parametrize(
    ("value", "text"),
    [  # as Go's strconv.FormatFloat(value, 'e', -1, 64) writes them
        (95.0, "9.5e+01"), (0.0, "0e+00"), (-0.0, "-0e+00"), (0.1, "1e-01"), (1e100, "1e+100"),
        (123456789.0, "1.23456789e+08"), (5e-324, "5e-324"),
        (float("nan"), "NaN"), (float("inf"), "+Inf"), (float("-inf"), "-Inf"),
    ],
)  # fmt: skip
def test_values_are_written_as_go_writes_them(value: float, text: str) -> None:
    """An alert's value has Go's shortest exponent form."""
    assert exponent_form(value) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_written_values_read_back(value: float) -> None:
    """The exponent form of every number reads back as that very number."""
    assert float(exponent_form(value)) == value


def test_landing_page_shows_targets_and_alerts() -> None:
    """/ names the version and shows state, targets, alerts, cleanups; the generatorURL of an alert leads there too."""
    action = {"started_at": 1795165883.5, "target": "rag", "cleanup": "standard", "channel": "signal",
              "outcome": "effective", "freed_bytes": 300 * 2.0**20}
    snapshot = Snapshot(
        unready="", alerts=[alert()], actions=[action], modes={"rag": ModeStatus("cautious")},
        decisions=[{"target": "rag", "reason": "paused", "message": "A person has paused it.", "until": 1795165884.0},
                   {"target": "old", "reason": "below_threshold", "message": "No alert."}],
        targets=[TargetStatus("rag", True, 900 * 2.0**20, 1000 * 2.0**20, 1200 * 2.0**20), TargetStatus("old", False)],
    )  # fmt: skip

    async def steps(ask: Ask) -> None:
        answer = await ask("/")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        alerts = ("MemoryCritical", "firing", "too much")
        actions = ("rag: standard", "effective", "freed 300.0 MiB", "2026-11-20 09:11:23 UTC")
        targets = (">rag<", "900.0 MiB", "1,000.0 MiB", ">cautious<", "A person has paused it.", ">gone<",
                   "The rest lasts until", "2026-11-20 09:11:24 UTC")
        for shown in (__version__, ">ready<", *targets, *alerts, *actions):
            assert shown in answer.text
        assert "No alert." not in answer.text
        assert (await ask("/graph?g0.expr=a&g0.tab=1")).text == answer.text

    serve(steps, View(snapshot))


def test_landing_page_is_safe_with_hostile_names() -> None:
    """Markup in names and labels is text, bytes that are no UTF-8 break nothing, and no foreign script may run."""
    hostile = "<script>alert(1)</script>\udcff"
    snapshot = Snapshot(
        unready=hostile, targets=[TargetStatus(hostile, True)], actions=[{"started_at": 0, "target": hostile}],
        modes={hostile: ModeStatus(hostile)}, decisions=[{"target": hostile, "reason": hostile, "message": hostile}],
        alerts=[alert(labels=Labels({"alertname": hostile, "x": '"><img src=x>'}), annotations={"summary": hostile})],
    )  # fmt: skip

    async def steps(ask: Ask) -> None:
        answer = await ask("/")
        assert answer.status == 200
        assert "<script>" not in answer.text
        assert "<img src=x" not in answer.text
        assert answer.text.count("&lt;script&gt;") == 8
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (await ask("/api/v1/alerts")).status == 200

    serve(steps, View(snapshot))


@pytest.mark.parametrize("path", ["/", "/metrics", "/-/ready", "/api/v1/alerts", "/nothing"])
def test_every_answer_forbids_what_it_can(path: str) -> None:
    """Pages, data and errors alike come with headers that keep browsers from embedding, sniffing and leaking."""

    async def steps(ask: Ask) -> None:
        headers = (await ask(path)).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert (headers["Referrer-Policy"], headers["Server"]) == ("no-referrer", "rag-sidecar")
        assert "Access-Control-Allow-Origin" not in headers

    serve(steps)


@pytest.mark.parametrize(
    "path", [b"/nothing", b"/metrics/", b"/../etc/passwd", b"/metrics/../../etc/passwd", b"/%2e%2e/etc/passwd", b"//x"]
)
def test_unknown_paths_are_not_found(path: bytes) -> None:
    """Whatever is not served, also by a way around, is the plain text that Grafana looks for."""

    async def run() -> None:
        async with serving(build(View()), ["127.0.0.1:0"]) as (url,):
            head, _, body = (await raw(url, b"GET " + path + b" HTTP/1.0\r\n\r\n")).partition(b"\r\n\r\n")
            assert (head.split()[1], body) == (b"404", b"404 page not found\n")
            assert b"Content-Type: text/plain" in head

    asyncio.run(run())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(method: str) -> None:
    """Over TCP only GET and HEAD do anything."""

    async def steps(ask: Ask) -> None:
        answer = await ask("/metrics", method)
        assert (answer.status, answer.text) == (405, "Method Not Allowed\n")
        assert answer.headers["Allow"] == "GET,HEAD"

    serve(steps)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:11611", 200), ("10.1.2.3", 200), ("[::1]:11611", 200), ("localhost", 200), ("LOCALHOST:1", 200),
        ("rag.localhost:80", 200), ("sidecar:11611", 200), ("Sidecar.", 200),
        ("evil.example", 403), ("evil.example:11611", 403), ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403), ("notlocalhost", 403), ("2130706433", 403), ("", 403),
        ("[::1", 403), ("127.0.0.1@evil.example", 403), ("localhost:80@evil.example", 403), ("[::1]evil.example", 403),
        ("localhost:80:80", 403), ("evil.example/localhost", 403), ("127.1", 403), ("localhost..", 403),
    ],
)  # fmt: skip
def test_foreign_hosts_are_refused(host: str, status: int) -> None:
    """Addresses, localhost and the configured names are served; a name of somebody else's is not (DNS rebinding)."""

    async def steps(ask: Ask) -> None:
        assert (await ask("/metrics", Host=host)).status == status

    serve(steps, hosts=["sidecar"])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Host: localhost\r\nHost: evil.example\r\n", b"400"),
        (b"Host: evil.example\r\nHost: localhost\r\n", b"400"),
        (b"", b"200"),
    ],
)
def test_odd_numbers_of_hosts(headers: bytes, status: bytes) -> None:
    """Two Host headers are refused in either order; none at all (HTTP/1.0) comes from no browser and is served."""

    async def run() -> None:
        async with serving(build(View()), ["127.0.0.1:0"]) as (url,):
            answer = await raw(url, b"GET /-/healthy HTTP/1.0\r\n" + headers + b"\r\n")
            assert answer.split()[1] == status

    asyncio.run(run())


def test_second_host_is_refused_whatever_the_parser_says() -> None:
    """That a request names one host too many does not depend on the HTTP parser noticing."""
    assert host_allowed(["localhost"], frozenset())
    assert not host_allowed(["localhost", "localhost"], frozenset())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 405),
        ({"Sec_Fetch_Site": "same-origin"}, 405),
        ({"Sec_Fetch_Site": "none"}, 405),
        ({"Origin": "http://localhost:11611", "Host": "localhost:11611"}, 405),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:8080", "Host": "localhost:11611"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_cross_site_posts_are_refused(headers: dict[str, str], status: int) -> None:
    """A POST that a browser sends for another origin, or another port of this host, is refused before all else."""

    async def steps(ask: Ask) -> None:
        assert (await ask("/metrics", "POST", data=b"x", **headers)).status == status
        assert (await ask("/metrics", **headers)).status == 200

    serve(steps)


def test_oversized_bodies_are_refused() -> None:
    """A body over 64 KiB is refused by its announced length, before any of it is read."""

    async def run() -> None:
        async with serving(build(View()), ["127.0.0.1:0"]) as (url,):
            head = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
            assert (await raw(url, head % 10**12)).split()[1] == b"413"
            assert (await raw(url, head % 65_537)).split()[1] == b"413"
            small = b"POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"
            assert (await raw(url, small)).split()[1] == b"405"

    asyncio.run(run())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused(request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Endless headers, endless paths, TLS on a plain port and nonsense end in 400, and the server goes on.

    Nothing of them is logged or sent back, and the answer has the headers of every other.
    """

    async def run() -> None:
        async with serving(build(View()), ["127.0.0.1:0"]) as (url,):
            head, _, body = (await raw(url, request_bytes)).partition(b"\r\n\r\n")
            assert (head.split()[1], body) == (b"400", b"This is no request that can be understood.\n")
            assert b"Server: rag-sidecar\r\n" in head
            assert b"X-Content-Type-Options: nosniff\r\n" in head
            assert (await raw(url, b"GET /-/healthy HTTP/1.0\r\n\r\n")).split()[1] == b"200"

    asyncio.run(run())
    assert not caplog.text


@pytest.mark.parametrize("packed", ["gzip", "deflate", "br", "GZIP", "identity, gzip"])
def test_packed_bodies_are_refused(packed: str) -> None:
    """Nothing is unpacked: a few kilobytes cannot become gigabytes."""

    async def steps(ask: Ask) -> None:
        answer = await ask("/api/v1/query", "POST", data=gzip.compress(b" " * 10_000_000), Content_Encoding=packed)
        assert (answer.status, answer.text) == (415, "A body is to come as it is, without Content-Encoding.\n")

    serve(steps)


def test_requests_at_once_are_bounded() -> None:
    """Beyond the limit a request is told to come back, except the one that says whether the server lives."""
    release = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await release.wait()
        return web.Response()

    async def healthy(request: web.Request) -> web.Response:
        return web.Response()

    async def run() -> None:
        app = web.Application(middlewares=[admission([])])
        app.add_routes([web.get("/slow", slow), web.get("/-/healthy", healthy)])
        async with serving(app, ["127.0.0.1:0"]) as (url,), aiohttp.ClientSession() as session:

            async def status(path: str) -> int:
                async with session.get(url + path) as answer:
                    return answer.status

            asked = [asyncio.create_task(status("/slow")) for _ in range(REQUESTS + 5)]
            refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            assert {task.result() for task in refused} == {503}
            assert await status("/-/healthy") == 200
            release.set()
            assert sorted(await asyncio.gather(*asked)) == [200] * REQUESTS + [503] * 5
            assert await status("/slow") == 200

    asyncio.run(run())


def test_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """When all are taken, the oldest of whoever has the most makes room: those of others stay, and all are served."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)

    async def run() -> None:
        async with serving(build(View()), ["127.0.0.1:0"]) as (url,):
            request = b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n"
            port = int(url.rpartition(":")[2])

            async def connected(own: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await asyncio.open_connection("127.0.0.1", port, local_addr=(own, 0))

            async def served(line: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bool:
                line[1].write(request)
                return b"200 OK" in await line[0].readuntil(b"healthy.\n")

            other, oldest, newer = [await connected(f"127.0.0.{own}") for own in (2, 1, 1)]
            assert [await served(line) for line in (other, oldest, newer)] == [True] * 3
            newest = await connected("127.0.0.3")
            assert [await served(line) for line in (other, newer, newest)] == [True] * 3
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await served(oldest)
            oldest[1].close()
            for _, writer in (other, newer, newest):
                writer.close()
                await writer.wait_closed()

    asyncio.run(run())


def test_silent_connections_make_room_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections say nothing, whoever asks on one of the same address is answered, and on a new one."""
    monkeypatch.setattr(server, "CONNECTIONS", 3)

    async def run() -> None:
        async with serving(build(View()), ["127.0.0.1:0"]) as (url,):
            port = int(url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)

            async def served() -> bool:
                writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return b"200 OK" in await reader.readuntil(b"healthy.\n")

            assert await served()
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(9)]
            assert await served()
            async with aiohttp.ClientSession() as session, session.get(url + "/-/healthy") as answer:
                assert answer.status == 200
            for each in (writer, *(other for _, other in silent)):
                each.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("address", "parsed"),
    [
        ("127.0.0.1:11611", ("127.0.0.1", 11611)), (":11611", (None, 11611)), ("[::1]:0", ("::1", 0)),
        ("localhost:80", ("localhost", 80)),
    ],
)  # fmt: skip
def test_listen_addresses(address: str, parsed: tuple[str | None, int]) -> None:
    """A listen address is HOST:PORT, :PORT or [IPV6]:PORT."""
    assert parse_listen(address) == parsed


@pytest.mark.parametrize("address", ["", "11611", "localhost", "::1:11611", "h:", "h:x", "h:65536", "h:" + "9" * 9999])
def test_unusable_listen_addresses(address: str) -> None:
    """An address without a port, or with one that is none, is an error that shows how to write it."""
    with pytest.raises(SidecarError, match="cannot listen") as caught:
        parse_listen(address)
    assert "127.0.0.1:11611" in caught.value.help


def test_ipv6_and_several_addresses_are_served() -> None:
    """The server listens on every address given, IPv6 among them."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")

    async def run() -> None:
        listen = ["[::1]:0", "127.0.0.1:0"]
        async with serving(build(View()), listen) as urls, aiohttp.ClientSession() as session:
            assert urls[0].startswith("http://[::1]:")
            for url in urls:
                async with session.get(f"{url}/-/healthy") as answer:
                    assert answer.status == 200

    asyncio.run(run())


def test_taken_port_is_a_clear_error() -> None:
    """A port that is taken is named, with what to do, and addresses opened before are closed again."""

    async def run() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(SidecarError) as caught:
                async with serving(build(View()), ["127.0.0.1:0", f"127.0.0.1:{port}"]):
                    pytest.fail("it listens on a port that is taken")
        assert str(caught.value) == f"cannot listen on 127.0.0.1:{port}: another program listens there"
        assert f"sport = :{port}" in caught.value.help

    asyncio.run(run())


@pytest.mark.parametrize(
    ("address", "reason"),
    [("203.0.113.1:0", "this machine does not have that address"), ("h" * 64 + ":0", "cannot be resolved")],
)
def test_foreign_addresses_are_a_clear_error(address: str, reason: str) -> None:
    """An address of another machine, or a name that means nothing, says so."""

    async def run() -> None:
        with pytest.raises(SidecarError, match=reason):
            async with serving(build(View()), [address]):
                pytest.fail("it listens on an address of another machine")

    asyncio.run(run())
