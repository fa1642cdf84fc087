"""Orders, answers and files of people who mean harm: each costs its sender something, and nobody else anything."""

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from conftest import Target, wait_until
from guarding import Hands, running_courier
from hypothesis import given, settings
from hypothesis import strategies as st
from ordering import NOW, TOKEN, Desk
from servers import free_port
from sidecars import MIB, config, running_sidecar
from test_actions_incident import RAG, World

from sidecar.actions.flight import NAME, open_record
from sidecar.guard.courier import LONGEST_RETRY_SECONDS, retry_after_seconds
from sidecar.guard.ring import RING_BYTES
from sidecar.guard.wire import Channel
from sidecar.journal.entry import Page
from sidecar.journal.scribe import Scribe
from sidecar.web import body, parameters
from sidecar.web.admission import REQUESTS
from sidecar.web.server import build, serving
from sidecar.web.view import View

PATHS = ["/api/v1/cleanup", "/api/v1/pause", "/api/v1/resume", "/api/v1/unpark", "/alertmanager"]
KNOWN = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
FORM = "application/x-www-form-urlencoded"
VICTIM = b"of somebody else\n" * 1000


def answers(bodies: list[bytes], desk: Desk) -> list[int]:
    """The status of every body, posted to every path with the token."""
    found = []

    async def run() -> None:
        app = build(View(hands=desk.hands()), token=TOKEN)
        async with serving(app, ["127.0.0.1:0"]) as (url,), aiohttp.ClientSession(headers=KNOWN) as session:
            for path in PATHS:
                for body in bodies:
                    async with session.post(url + path, data=body) as answer:
                        await answer.read()
                        found.append(answer.status)

    asyncio.run(run())
    return found


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(
        ["rag", "rag\0", "\ud800", "light", "1e999", "-1s", "5m", "9" * 5000, "0001-01-01T00:00:00Z", "firing", "4"]))
NAMES = st.one_of(st.text(max_size=5), st.sampled_from(
    ["target", "level", "ttl", "for", "dry_run", "version", "alerts", "labels", "status", "endsAt", "generatorURL"]))
BODIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
                      max_leaves=12)


@settings(max_examples=20, deadline=None)
@given(st.lists(BODIES, min_size=5, max_size=20))
def test_every_body_is_answered(bodies: list[Any]) -> None:
    """Whatever JSON somebody with the token sends, it is taken or refused with a reason; no request ends in an error.

    NaN and infinities are written as Python writes them, lone surrogates as escapes.
    """
    found = answers([json.dumps(body).encode() for body in bodies], Desk())

    assert set(found) <= {200, 202, 400, 404, 409}


def test_lists_within_lists_are_refused_at_any_depth() -> None:
    """Deep enough or one less: there is no depth that can be read and not be answered."""
    deep = [b"[" * depth + b"]" * depth for depth in (*range(960, 1010, 2), 30_000)]
    bodies = [each for nest in deep for each in (
        nest, b'{"target": %s}' % nest, b'{"level": %s}' % nest, b'{"version": "4", "alerts": %s}' % nest,
        b'{"version": "4", "alerts": [{"labels": {}, "generatorURL": %s}]}' % nest)]
    desk = Desk()

    assert set(answers(bodies, desk)) <= {200, 400, 404}
    assert not desk.orders + desk.wishes


@contextmanager
def dawdling(port: int, many: int, head: str) -> Iterator[None]:
    """Clients that announce a body and send two bytes of it."""
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(many)]
    try:
        for client in clients:
            client.sendall(f"{head}\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nqu".encode())
        yield
    finally:
        for client in clients:
            client.close()


def test_forms_that_come_slowly_keep_nobody_from_pages_and_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends forms byte by byte keeps other forms out for ten seconds; pages and orders are served meanwhile."""
    monkeypatch.setattr(parameters, "FORM_SECONDS", 0.5)
    head = f"POST /api/v1/query HTTP/1.1\r\nContent-Type: {FORM}"

    async def run() -> None:
        app = build(View(hands=Desk().hands()), token=TOKEN)
        async with serving(app, ["127.0.0.1:0"]) as (url,), aiohttp.ClientSession() as session:

            async def asked(method: str, path: str, **more: Any) -> tuple[int, str]:
                async with session.request(method, url + path, **more) as answer:
                    return answer.status, await answer.text()

            async def until(crowded: bool) -> None:
                async with asyncio.timeout(20):
                    while ("Too many" in (await asked("POST", "/api/v1/query", data={"query": "1"}))[1]) != crowded:
                        pass

            with dawdling(int(url.rpartition(":")[2]), REQUESTS + 10, head):
                await until(crowded=True)
                assert (await asked("GET", "/api/v1/alerts"))[0] == 200
                assert (await asked("POST", "/api/v1/unpark", data=b"{}", headers=KNOWN))[0] == 200
                await until(crowded=False)

    asyncio.run(run())


def test_orders_that_come_slowly_without_a_token_hold_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no token is turned away before anything of the body is waited for."""
    monkeypatch.setattr(body, "BODY_SECONDS", 3600.0)

    async def run() -> None:
        app = build(View(hands=Desk().hands()), token=TOKEN)
        async with serving(app, ["127.0.0.1:0"]) as (url,), aiohttp.ClientSession(headers=KNOWN) as session:
            port = int(url.rpartition(":")[2])
            with dawdling(port, REQUESTS + 10, "POST /api/v1/pause HTTP/1.1\r\nContent-Type: application/json"):
                for _ in range(20):
                    async with session.post(f"{url}/api/v1/unpark", data=b"{}") as answer:
                        assert answer.status == 200

    asyncio.run(run())


def test_flood_of_alerts_makes_one_wish_and_no_log_without_end(tmp_path: Path, spawn: Callable[..., Target]) -> None:
    """Ten thousand alerts with odd labels and long ones: the sidecar stays small, and goes on working."""
    token, target, port = tmp_path / "token", spawn("leaky", "--handle", "SIGUSR1"), free_port()
    token.touch(0o600)
    token.write_text(TOKEN)
    watched = {"name": "rag", "match": {"pid": target.pid}, "cleanup": [{"signal": "SIGUSR1"}],
               "memory": {"main": "150MiB", "critical": "400MiB", "basis": "anon"}}
    file = config(port, tmp_path / "state", [watched], web={"listen": f"127.0.0.1:{port}", "token_file": str(token)})
    text, long = json.dumps("\0\ud800\r\n\u202e" * 7), "x" * 10_000
    alerts = ",".join(f'{{"status": "firing", "fingerprint": {text}, "labels": {{"alertname": {text}, "target": "rag", '
                      f'"cleanup": "aggressive", "job": "{"" if number else long}"}}}}' for number in range(100))
    body = f'{{"version": "4", "alerts": [{alerts}]}}'.encode()
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 20, "the target to be read")
        for _ in range(100):
            request = urllib.request.Request(f"{sidecar.url}/alertmanager", body, KNOWN)
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert len(json.loads(answer.read())["data"]["taken"]) == 100
        target.tell("grow 500")
        attempt = sidecar.outcome()
        kib = next(line for line in Path(f"/proc/{sidecar.child('desk')}/status").read_text().splitlines()
                   if line.startswith("RssAnon"))
        told = sidecar.log.read_text()

        assert attempt["outcome"] == "effective"
        assert len(sidecar.actions()) <= 2, "that of the critical line, and the one that was wished for"
        assert int(kib.split()[1]) / 1024 < 60
        assert sidecar.get("/")
        assert "Traceback" not in told
        assert len(told) < 200_000


# Files


def planted(path: Path, how: str) -> None:
    """Put something there that is no file of ours; `victim` beside the folder must not be touched."""
    victim = path.parent.parent / "victim"
    victim.write_bytes(VICTIM)
    victim.chmod(0o644)
    made: dict[str, Callable[[], object]] = {
        "link": lambda: path.symlink_to(victim), "second name": lambda: path.hardlink_to(victim),
        "pipe": lambda: os.mkfifo(path), "directory": path.mkdir, "other user": lambda: (path.touch(), _give(path))}
    made[how]()


def _give(path: Path) -> None:
    try:
        os.chown(path, 65534, 65534)
    except PermissionError:
        pytest.skip("only root can give files away")


def untouched(folder: Path) -> bool:
    """Whether the victim is as it was."""
    victim = folder / "victim"
    return victim.read_bytes() == VICTIM and victim.stat().st_mode & 0o777 == 0o644


HOWS = ["link", "second name", "pipe", "directory", "other user"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("end", ["", "-wal", "-journal"])
def test_journal_is_not_written_to_what_is_not_ours(tmp_path: Path, how: str, end: str) -> None:
    """What was put in the place of the journal, or of what SQLite keeps beside it: nothing hangs, and it is said."""
    path = tmp_path / "state" / "journal.db"
    first = Scribe(path)
    first.open(NOW)
    first.take(Page(NOW, frozenset(), []))
    first.close(NOW)
    if not end:
        path.unlink()
    planted(path.with_name(f"journal.db{end}"), how)
    scribe = Scribe(path)

    assert scribe.open(NOW + 1) == []
    scribe.take(Page(NOW + 2, frozenset(), []))
    scribe.close(NOW + 3)

    assert scribe.good_at is None
    assert set(scribe.failures) <= {"cannot_open", "denied"}
    assert untouched(tmp_path)


@pytest.mark.parametrize("how", HOWS)
def test_flight_record_is_not_written_to_what_is_not_ours(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The guard then keeps its record in memory, which is said; a record of one's own is taken."""
    folder = tmp_path / "state"
    folder.mkdir(0o700)
    planted(folder / NAME, how)

    assert open_record(folder) == (-1, [])
    assert "--storage.path" in caplog.records[-1].help  # type: ignore[attr-defined]
    assert untouched(tmp_path)
    (tmp_path / "fine").mkdir()
    fd, left = open_record(tmp_path / "fine")
    assert (os.fstat(fd).st_size, left) == (RING_BYTES, [])
    os.close(fd)


# Targets


@pytest.mark.parametrize("every", [1, 7, 60])
def test_target_that_is_somebody_else_all_the_time_is_not_asked_more_often(
    every: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint that gives its program another name with every answer gets no more cleanups than one that does not.

    What did not help is counted for the target, whoever it says that it is.
    """
    caplog.set_level(logging.WARNING)
    world = World(subject=replace(RAG, life=None, instance_id="0"))
    for second in range(3 * 3600):
        world.subject = replace(world.subject, instance_id=str(second // every))
        world.tick(2000.0)
    hours = [second // 3600 for second, _ in
             ((at - world.guard.delivered[0][0], what) for at, what in world.guard.delivered)]

    assert set(world.cleanups()) == {"aggressive"}
    assert max(hours.count(hour) for hour in hours) <= world.options.budget_per_hour["aggressive"]
    assert len(world.acting.explain()["incidents"]) <= 101


# Answers


@given(st.one_of(st.text(), st.from_regex(r"[-+]?[0-9]*[.:eE]?[-+]?[0-9]*( GMT)?", fullmatch=True)))
def test_any_retry_after_is_an_hour_at_most(value: str) -> None:
    """It is read as a time within bounds, or not at all."""
    seconds = retry_after_seconds(value, NOW)

    assert seconds is None or 0.0 <= seconds <= LONGEST_RETRY_SECONDS


@pytest.mark.parametrize(("value", "seconds"), [
    ("1e99", None), ("-1", None), ("nan", None), ("inf", None), ("soon", None), ("\u0663", None), ("", None),
    ("0x10", None), ("9" * 5000, LONGEST_RETRY_SECONDS), ("0", 0.0),
    ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_RETRY_SECONDS)])
def test_retry_after_beyond_reason(value: str, seconds: float | None) -> None:
    """Garbage is no wish to be asked later; too much is an hour."""
    assert retry_after_seconds(value, NOW) == seconds


NASTY = """
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        with open(sys.argv[1], "a") as said:
            said.write(f"{os.getpid()} ")
        signal.signal(15, signal.SIG_IGN)
        while True: os.write(1, b"x" * 65536)
signal.signal(15, signal.SIG_IGN)
while True: os.write(2, b"y" * 65536)
"""


def test_program_that_multiplies_and_never_stops_talking(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """It is left at its deadline, the courier stays small, and the next program is run as ever."""
    path, target, hands = tmp_path / "program", spawn("leaky"), Hands()
    path.write_text(f"#!{sys.executable}\nimport os, signal, sys\n{NASTY}\n")
    path.chmod(0o755)
    hands.watch(target)
    target.tell("grow 100")
    try:
        with running_courier(hands) as courier:
            nasty = Channel("exec", timeout_seconds=1.0, argv=(str(path), str(tmp_path / "said")))
            hands.deliver(channels=(nasty, Channel("exec", argv=("/bin/true",))))
            failed, answered = hands.until("failed", 30.0), hands.until("answered", 30.0)
            highest = next(line for line in Path(f"/proc/{courier.pid}/status").read_text().splitlines()
                           if line.startswith("VmHWM"))

        assert failed.detail["reason"] == "timeout"
        assert answered.detail["exit_code"] == 0
        assert int(highest.split()[1]) * 1024 < 64 * MIB
    finally:
        for pid in (tmp_path / "said").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        hands.close()
