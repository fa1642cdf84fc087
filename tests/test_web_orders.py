"""What is ordered over TCP and over the control socket: who may, what is taken, and what is answered."""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from asking import Answer
from multidict import CIMultiDict
from ordering import NOW, ROW, TOKEN, US, Desk

from sidecar.web.bearer import Bearer
from sidecar.web.control import build_control, listening
from sidecar.web.guesses import FAILURES, MOST_ADDRESSES
from sidecar.web.hands import Asked
from sidecar.web.refusal import Refusal
from sidecar.web.server import build, serving
from sidecar.web.view import View
from sidecar.web.webhook import TTL_SECONDS, read

KNOWN = {"Authorization": f"Bearer {TOKEN}"}

Ask = Callable[..., Coroutine[Any, Any, Answer]]


def serve(steps: Callable[[Ask], Coroutine[Any, Any, None]], desk: Desk | None, token: str = TOKEN,
          clock: Callable[[], float] = lambda: 0.0) -> None:
    """Run `steps` with `await ask(path, body, **headers)`: a POST to a real server, with the token if none is given."""

    async def run() -> None:
        app = build(View(hands=desk.hands() if desk else None), token=token, clock=clock)
        async with serving(app, ["127.0.0.1:0"]) as (url,), aiohttp.ClientSession() as session:

            async def ask(path: str, body: Any = None, **headers: str) -> Answer:
                named = {**KNOWN, "Content-Type": "application/json",
                         **{name.replace("_", "-"): value for name, value in headers.items()}}
                data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
                sent = {name: value for name, value in named.items() if value}
                async with session.post(url + path, data=data, headers=sent) as answer:
                    return Answer(answer.status, dict(answer.headers), await answer.text())

            await steps(ask)

    asyncio.run(run())


def alert(**changes: Any) -> dict[str, Any]:
    """An alert as Alertmanager posts it; `labels` are added to those of a wish."""
    labels = {"alertname": "QueueLong", "target": "rag", "cleanup": "light", **changes.pop("labels", {})}
    return {"status": "firing", "labels": labels, "annotations": {}, "startsAt": "2026-11-20T09:11:39.730Z",
            "endsAt": "0001-01-01T00:00:00Z", "generatorURL": "http://prometheus:9090/graph?g0.expr=a",
            "fingerprint": "0123456789abcdef", **changes}


def message(*alerts: Any, **changes: Any) -> dict[str, Any]:
    """A message of the webhook."""
    return {"version": "4", "groupKey": "{}:{}", "truncatedAlerts": 0, "status": "firing", "receiver": "rag-sidecar",
            "alerts": list(alerts), **changes}


PATHS = ["/api/v1/cleanup", "/api/v1/pause", "/api/v1/resume", "/api/v1/unpark", "/alertmanager"]


@pytest.mark.parametrize("path", PATHS)
def test_without_a_configured_token_nothing_is_changed(path: str) -> None:
    """A sidecar without a token refuses every order over TCP, whatever is sent, and says how to set one."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        for given in (f"Bearer {TOKEN}", "Bearer ", ""):
            status, kind, error = (await ask(path, {}, Authorization=given)).error
            assert (status, kind) == (403, "forbidden")
            assert "web.token_file" in error

    serve(steps, desk, token="")
    assert not desk.said + desk.orders + desk.wishes


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", TOKEN,
                                   f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN} {TOKEN}"])
def test_wrong_tokens_are_refused(path: str, given: str, caplog: pytest.LogCaptureFixture) -> None:
    """Without the right token nothing happens: 401 with a challenge; what was sent is neither shown nor logged."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        answer = await ask(path, {}, Authorization=given)
        assert answer.error[:2] == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
        assert "horse" not in answer.text

    with caplog.at_level(logging.DEBUG):
        serve(steps, desk)
    assert "horse" not in caplog.text
    assert not desk.said + desk.orders + desk.wishes


def test_guessing_comes_to_an_end_and_the_lock_opens_again(caplog: pytest.LogCaptureFixture) -> None:
    """After ten wrong tokens even the right one waits, for as long as Retry-After says; then it is taken."""
    clock = [0.0]

    async def steps(ask: Ask) -> None:
        for _ in range(FAILURES):
            assert "too many" not in caplog.text
            assert (await ask("/api/v1/pause", Authorization="Bearer wrong")).status == 401
        assert "too many wrong tokens" in caplog.text
        refused = await ask("/api/v1/pause")
        assert refused.error[:2] == (429, "too_many_failures")
        clock[0] += float(refused.headers["Retry-After"])
        assert (await ask("/api/v1/pause")).status == 200
        assert (await ask("/api/v1/pause", Authorization="Bearer wrong")).status == 401
        assert (await ask("/api/v1/pause", Authorization="Bearer wrong")).status == 429
        assert [(await ask("/api/v1/pause", Authorization="")).status for _ in range(3)] == [429] * 3

    serve(steps, Desk(), clock=lambda: clock[0])


def test_requests_without_a_token_lock_nobody_out() -> None:
    """Who sends no token at all is refused as often as they like, and the right token is taken meanwhile."""

    async def steps(ask: Ask) -> None:
        for _ in range(3 * FAILURES):
            assert (await ask("/api/v1/resume", Authorization="")).status == 401
        assert (await ask("/api/v1/resume")).status == 200

    serve(steps, Desk())


@pytest.mark.parametrize(("headers", "status"), [
    ({"Sec_Fetch_Site": "cross-site"}, 403), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
    ({"Host": "evil.example"}, 403), ({"Content_Type": "text/plain"}, 415),
    ({"Content_Type": "application/x-www-form-urlencoded"}, 415), ({"Sec_Fetch_Site": "same-origin"}, 200)])
def test_browsers_of_other_sites_order_nothing(headers: dict[str, str], status: int) -> None:
    """Also with the token: a cross-site post, a foreign host, or a body that is no JSON is refused."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        assert (await ask("/api/v1/resume", **headers)).status == status

    serve(steps, desk)
    assert len(desk.said) == (status == 200)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("body", [
    b"[1]", b"{", b"[" * 60_000, b'{"target": []}', b'{"target": {}}', b'{"target": "x"}', b'{"what": 1}', b"\xff",
    b'{"target": 1}', b'{"alerts": {}}', b'{"version": "3", "alerts": []}'])
def test_bodies_without_sense_are_refused(path: str, body: bytes) -> None:
    """Whatever the body is, it is answered with a reason, and nothing is done."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        assert (await ask(path, body)).error[0] in (400, 404)

    serve(steps, desk)
    assert not desk.said + desk.orders + desk.wishes


@pytest.mark.parametrize("path", PATHS)
def test_big_bodies_are_refused(path: str) -> None:
    """More than 64 KiB is refused, with and without the token."""

    async def steps(ask: Ask) -> None:
        for given in (KNOWN["Authorization"], ""):
            assert (await ask(path, b" " * 65_537, Authorization=given)).status == 413

    serve(steps, Desk())


def test_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who announces a body and does not send it is answered with 408, and holds no place any longer."""
    monkeypatch.setattr("sidecar.web.body.BODY_SECONDS", 0.05)

    async def run() -> None:
        async with serving(build(View(hands=Desk().hands()), token=TOKEN), ["127.0.0.1:0"]) as (url,):
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            writer.write(b"POST /api/v1/pause HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         + f"Authorization: Bearer {TOKEN}\r\nContent-Length: 10\r\n\r\n{{}}".encode())
            assert b" 408 " in await reader.readline()
            writer.close()
            await writer.wait_closed()

    asyncio.run(run())


def test_before_the_start_is_over_nothing_is_taken() -> None:
    """While there is nobody to carry an order out the answer is 503: Alertmanager tries again."""

    async def steps(ask: Ask) -> None:
        for path in PATHS:
            answer = await ask(path)
            assert answer.error[:2] == (503, "not_ready")
            assert answer.headers["Retry-After"] == "1"

    serve(steps, None)


def test_cleanup_over_tcp_is_a_wish_that_waits() -> None:
    """A cleanup is accepted as soon as the policy allows it within its time; its id is in /api/v1/actions."""
    desk = Desk(granted_at=NOW + 20)

    async def steps(ask: Ask) -> None:
        answer = await ask("/api/v1/cleanup", {"level": "aggressive"})
        assert answer.status == 202
        assert answer.json == {"status": "success", "data": {"id": "api:1", "target": "rag", "cleanup": "aggressive"}}

    serve(steps, desk)
    assert NOW + 20 <= desk.now < NOW + 21
    assert [wish.asked for wish in desk.wishes] == [Asked("rag", "aggressive", "api", 30.0, {})]
    assert desk.orders == []  # that is a person's way


@pytest.mark.parametrize(("body", "seconds"), [({}, 30), ({"ttl": "2m"}, 120), ({"ttl": 5}, 5), ({"ttl": "0"}, 0)])
def test_cleanup_that_is_not_allowed_in_time_is_refused(body: dict[str, Any], seconds: float) -> None:
    """When its time is over: 409, with what held it back."""
    desk = Desk(granted_at=NOW + 1e9)

    async def steps(ask: Ask) -> None:
        status, kind, error = (await ask("/api/v1/cleanup", body)).error
        assert (status, kind) == (409, "below_threshold")
        assert "no alert asks" in error

    serve(steps, desk)
    assert desk.now == pytest.approx(NOW + seconds, abs=0.2)


@pytest.mark.parametrize("ttl", ["6m", 301, -1, "x", True, [], float("nan"), "1e3"])
def test_time_to_live_is_bounded(ttl: Any) -> None:
    """A wish is good for five minutes at most."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        assert (await ask("/api/v1/cleanup", {"ttl": ttl})).error[:2] == (400, "bad_data")

    serve(steps, desk)
    assert desk.wishes == []


def test_cleanup_over_tcp_is_followed() -> None:
    """With ?wait=1 the answer is a line of JSON for every stage, as over the control socket."""

    async def steps(ask: Ask) -> None:
        answer = await ask("/api/v1/cleanup?wait=1")
        assert answer.status == 200
        assert [json.loads(line) for line in answer.text.splitlines()] == [{"stage": "ended", "action": ROW}]

    serve(steps, Desk())


def test_patience_is_bounded() -> None:
    """However many wait for their orders, others are told to come back instead of waiting, too."""
    desk, gate = Desk(granted_at=math.inf), asyncio.Event()

    async def sleep(seconds: float) -> None:
        await gate.wait()
        desk.now += 1e9
        for wish in desk.wishes:
            desk.work(wish)

    desk.sleep = sleep  # type: ignore[method-assign]

    async def steps(ask: Ask) -> None:
        asked = [asyncio.create_task(ask("/api/v1/cleanup")) for _ in range(20)]
        done, waiting = set[asyncio.Task[Answer]](), set(asked)
        while len(waiting) > 16:
            new, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done |= new
        assert [task.result().status for task in done] == [503] * 4
        assert (await ask("/api/v1/pause")).status == 200
        gate.set()
        assert {(await task).status for task in waiting} == {409}

    serve(steps, desk)


def test_too_many_wishes_are_told() -> None:
    """A desk that can keep no more wishes refuses cleanups for now, and drops those of alerts."""

    async def steps(ask: Ask) -> None:
        assert (await ask("/api/v1/cleanup")).error[:2] == (503, "unavailable")
        assert (await ask("/alertmanager", message(alert()))).data["dropped"][0]["reason"] == "too_many_wait"

    serve(steps, Desk(room=False))


def test_pause_and_resume() -> None:
    """A pause is for one target or all, for a time or until further notice; the answer says what holds now."""
    desk = Desk(targets=("rag", "web"))

    async def steps(ask: Ask) -> None:
        for_a_while = await ask("/api/v1/pause", {"target": "web", "for": "30m"})
        assert for_a_while.data == {"targets": [{"target": "web", "paused": True, "until": NOW + 1800}]}
        assert [row["paused"] for row in (await ask("/api/v1/pause")).data["targets"]] == [True, True]
        one = await ask("/api/v1/resume", {"target": "rag"})
        assert one.data == {"targets": [{"target": "rag", "paused": False, "until": None}]}
        unparked = await ask("/api/v1/unpark")
        assert unparked.data == {"targets": [{"target": "rag", "was_parked": True},
                                             {"target": "web", "was_parked": False}]}
        assert (await ask("/api/v1/pause", {"for": "0s"})).error[:2] == (400, "bad_data")
        assert (await ask("/api/v1/pause", {"for": "9y"})).error[:2] == (400, "bad_data")

    serve(steps, desk)
    assert desk.said == [("pause", "web", 1800.0), ("pause", None, None), ("resume", "rag"), ("unpark", None)]


def test_pause_waits_for_the_guard() -> None:
    """The answer comes when the guard has acknowledged that it does nothing by itself any more, and not before."""
    desk = Desk(acknowledged_at=NOW + 3)

    async def steps(ask: Ask) -> None:
        assert (await ask("/api/v1/pause")).status == 200
        assert desk.now >= NOW + 3

    serve(steps, desk)


def test_guard_that_does_not_acknowledge_is_told() -> None:
    """A guard that says nothing for 5 s: the answer is no success, and names what holds it back at once."""
    desk = Desk(acknowledged_at=NOW + 1e9)

    async def steps(ask: Ask) -> None:
        status, kind, error = (await ask("/api/v1/pause")).error
        assert (status, kind) == (504, "unacknowledged")
        assert "kill-switch" in error

    serve(steps, desk)
    assert desk.paused == {"rag": None}
    assert desk.now == pytest.approx(NOW + 5, abs=0.3)


def test_people_at_the_socket_need_neither_token_nor_alert(tmp_path: Path) -> None:
    """The control socket carries a cleanup out at once, and takes pause, resume and unpark without a token."""
    desk = Desk(granted_at=NOW + 1e9)

    async def run() -> None:
        control = build_control(View(hands=desk.hands()))
        async with (listening(control, tmp_path) as path,
                    aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session):
            for order in ("pause", "resume", "unpark", "cleanup"):
                async with session.post(f"http://localhost/api/v1/{order}") as answer:
                    assert answer.status == 200, await answer.text()
            async with session.post("http://localhost/alertmanager", json=message()) as answer:
                assert answer.status == 404

    asyncio.run(run())
    assert desk.said == [("pause", None, None), ("resume", None), ("unpark", None)]
    assert desk.orders == [("rag", "standard", False)]
    assert desk.wishes == []


def test_alerts_that_ask_become_wishes() -> None:
    """A firing alert with `target` and `cleanup`, or with a `level` that has a policy, is a wish for a minute."""
    desk = Desk()

    async def steps(ask: Ask) -> None:
        by_level = alert(labels={"cleanup": "", "level": "critical", "private": "x"}, fingerprint="b")
        answer = await ask("/alertmanager", message(alert(), by_level))
        assert answer.data == {"dropped": [], "taken": [
            {"fingerprint": "0123456789abcdef", "target": "rag", "cleanup": "light", "ttl_seconds": 60.0},
            {"fingerprint": "b", "target": "rag", "cleanup": "aggressive", "ttl_seconds": 60.0}]}

    serve(steps, desk)
    assert [(wish.asked.cleanup, wish.asked.trigger) for wish in desk.wishes] == [
        ("light", "webhook"), ("aggressive", "webhook")]
    assert desk.wishes[1].asked.labels == {
        "alertname": "QueueLong", "level": "critical", "cleanup": "", "target": "rag"}


@pytest.mark.parametrize(("changes", "reason"), [
    ({"generatorURL": f"{US}/graph?g0.expr=a&g0.tab=1"}, "our_own"), ({"status": "resolved"}, "not_firing"),
    ({"labels": {"target": "web"}}, "unknown_target"), ({"labels": {"cleanup": "all"}}, "unknown_cleanup"),
    ({"labels": {"cleanup": ""}}, "no_cleanup"), ({"labels": {"cleanup": "", "level": "x"}}, "no_cleanup"),
    ({"endsAt": "2020-01-01T00:00:00Z"}, "not_now"), ({"startsAt": "2100-01-01T00:00:00Z"}, "not_now"),
    ({"labels": {"severity": 1}}, "malformed"), ({"status": None}, "not_firing")])
def test_alerts_that_do_not_ask_are_dropped_with_a_reason(changes: dict[str, Any], reason: str) -> None:
    """Our own alerts coming back, resolved ones and those of other targets do nothing; the answer says why."""
    wishes, dropped = read(message(alert(**changes)), Desk().hands())

    assert (wishes, [row["reason"] for row in dropped]) == ([], [reason])


@pytest.mark.parametrize("odd", [None, 1, "x", [], {}, {"labels": None}, {"labels": []}])
def test_odd_alerts_cost_the_others_nothing(odd: Any) -> None:
    """Among alerts that make no sense the others are taken."""
    wishes, dropped = read(message(odd, alert()), Desk().hands())

    assert [asked.cleanup for _, asked in wishes] == ["light"]
    assert [row["reason"] for row in dropped] == ["malformed"]


def test_alerts_of_a_message_are_bounded() -> None:
    """A hundred alerts of a message are looked at; of the others it is said that they were too many."""
    wishes, dropped = read(message(*[alert()] * 150), Desk().hands())

    assert len(wishes) == 100
    assert [row["reason"] for row in dropped] == ["too_many"] * 50


@pytest.mark.parametrize(("ends", "seconds"), [
    ("0001-01-01T00:00:00Z", TTL_SECONDS), ("2026-11-20T09:12:00Z", 20.0), ("2026-11-20T10:12:00.5+01:00", 20.0),
    ("2030-01-01T00:00:00Z", 300.0), (None, TTL_SECONDS), ("soon", TTL_SECONDS), ("9999-99-99T00:00:00Z", TTL_SECONDS)])
def test_wish_of_an_alert_ends_with_it(ends: Any, seconds: float) -> None:
    """A wish is good until the alert's end, at most five minutes; a minute where the end is not known."""
    ((_, asked),), dropped = read(message(alert(endsAt=ends)), Desk().hands())

    assert dropped == []
    assert asked.ttl_seconds == seconds


def test_addresses_that_guess_are_forgotten_in_the_end() -> None:
    """However many addresses guess, what is remembered of them is bounded."""
    bearer = Bearer(TOKEN, lambda: 0.0)
    for number in range(2 * MOST_ADDRESSES):
        guess: Any = SimpleNamespace(remote=f"10.0.{number // 256}.{number % 256}",
                                     headers=CIMultiDict({"Authorization": "Bearer x"}))
        with pytest.raises(Refusal):
            bearer.check(guess)

    assert len(bearer._guesses._full_at) == MOST_ADDRESSES
