"""How the notifier gets in: TLS, certificates, passwords, tokens, and names with several addresses."""

import asyncio
import json
import logging
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from certificates import make
from servers import AlertRecorder, alertmanager, end, free_port
from test_notify import EXTERNAL, alert, notify, sent, until

from sidecar.notify import alertmanager as stage
from sidecar.notify.alertmanager import Notifier
from sidecar.notify.names import at_address, of_one_family
from sidecar.notify.options import Alertmanager, Authorization, BasicAuth, Tls

NAME = "alerts.example"
HASHED = "$2b$04$abcdefghijklmnopqrstuuLZYjhNQAOdpbzt4WxWlUHjv1wsyH5DG"
"""What bcrypt makes of the password `s3cret`."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority (ca.pem) and what it has signed: server.pem for NAME, client.pem, each with a key."""
    return make(tmp_path_factory.mktemp("certificates"), {
        "server": ("ca", f"DNS:{NAME}"), "client": ("ca", "DNS:rag-sidecar")})


def secret(folder: Path, text: str) -> Path:
    """A file that only its owner can read."""
    file = folder / "secret"
    file.write_text(text + "\n")
    file.chmod(0o600)
    return file


@contextmanager
def locked_alertmanager(tmp_path: Path, certificates: Path, webhook_url: str) -> Iterator[str]:
    """An Alertmanager that speaks TLS alone, with those who have a certificate and know a password; its URL."""
    port, config, access = free_port(), tmp_path / "alertmanager.yml", tmp_path / "web.yml"
    config.write_text(json.dumps({
        "route": {"receiver": "test", "group_by": ["..."], "group_wait": "0s"},
        "receivers": [{"name": "test", "webhook_configs": [{"url": webhook_url}]}]}))
    access.write_text(json.dumps({
        "tls_server_config": {
            "cert_file": str(certificates / "server.pem"), "key_file": str(certificates / "server.key"),
            "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": str(certificates / "ca.pem")},
        "basic_auth_users": {"ann": HASHED}}))
    program = alertmanager()
    templates = program.parent.parent / "share" / "prometheus" / "alertmanager"  # as running_alertmanager has it
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), f"--config.file={config}", f"--storage.path={tmp_path / 'data'}",
             f"--web.config.file={access}", f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
             "--web.route-prefix=/prefix"], cwd=templates if templates.exists() else tmp_path,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield f"https://127.0.0.1:{port}/prefix/"
    finally:
        end(process)


@asynccontextmanager
async def listening(
    hosts: list[str], answer: Callable[[web.Request], web.Response], tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A server for alerts at one port of every host; the port."""
    async def heard(request: web.Request) -> web.Response:
        await request.read()
        return answer(request)

    app = web.Application()
    app.add_routes([web.post("/api/v2/alerts", heard)])
    runner, port = web.AppRunner(app, shutdown_timeout=0.1), free_port()
    await runner.setup()
    try:
        for host in hosts:
            await web.TCPSite(runner, host, port, ssl_context=tls).start()
        yield port
    finally:
        await runner.cleanup()


def resolving(monkeypatch: pytest.MonkeyPatch, found: Callable[[], list[str]]) -> None:
    """Have NAME be at the addresses that `found` gives at that moment."""
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        if host != NAME:
            return real(host, port, *more, **named)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in found()]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


def test_alertmanager_behind_certificates_and_a_password(tmp_path: Path, certificates: Path) -> None:
    """A real Alertmanager that wants a client's certificate and a password, below a path prefix, gets the alert."""
    tls = Tls(certificates / "ca.pem", certificates / "client.pem", certificates / "client.key", NAME)
    auth = BasicAuth("ann", secret(tmp_path, "s3cret"))
    with AlertRecorder() as receiver, locked_alertmanager(tmp_path, certificates, receiver.url) as url:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(receiver.alerts, "the receiver to hear of it")

        samples = notify([Alertmanager(url, tls, auth)], steps)
        assert [each["labels"]["alertname"] for each in receiver.alerts()] == ["MemoryCritical"]
    assert sent(samples, "sent") == 1


def test_wrong_password_is_reported_and_not_shown(
    tmp_path: Path, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A password that is not right is an error in the log, without the password, and the alert is kept."""
    tls = Tls(certificates / "ca.pem", certificates / "client.pem", certificates / "client.key", NAME)
    with locked_alertmanager(tmp_path, certificates, "http://127.0.0.1:9") as url:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(lambda: any(each.levelno == logging.ERROR for each in caplog.records), "the error")
            assert await notifier.drain(time.time()) == 1

        notify([Alertmanager(url, tls, BasicAuth("ann", secret(tmp_path, "wr0ng")))], steps)
    said = "".join(str(record.__dict__) for record in caplog.records)
    assert ("answered 401" in said, "check its URL and credentials" in said, "wr0ng" in said) == (True, True, False)


def test_token_is_read_again_when_it_is_not_accepted_any_more(tmp_path: Path) -> None:
    """A token that is replaced on both sides costs no attempt: at a 401 its file is read anew and the post repeated."""
    valid = "first"

    def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if request.headers.get("Authorization") == f"Token {valid}" else 401)

    async def run() -> tuple[float, float]:
        nonlocal valid
        file = secret(tmp_path, valid)
        async with listening(["127.0.0.1"], answer) as port:
            told = Alertmanager(f"http://127.0.0.1:{port}", authorization=Authorization(file, "Token"))
            async with Notifier([told], external_url=EXTERNAL) as notifier:
                for valid in ("first", "second"):
                    secret(tmp_path, valid)
                    notifier.offer([alert(valid)], time.time())
                    assert await notifier.drain(time.time() + 20) == 0
                samples = notifier.samples(time.time())
        return sent(samples, "sent"), sent(samples, "failed")

    assert asyncio.run(run()) == (2, 0)


def test_secret_that_others_can_read_is_not_sent(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that was opened to others after the start is not used: the log says what to do."""
    file = secret(tmp_path, "s3cret")
    file.chmod(0o644)
    with AlertRecorder() as recorder:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            await until(lambda: caplog.records, "the error")

        notify([Alertmanager(recorder.url, authorization=Authorization(file))], steps)
        assert recorder.posts == []
    assert "chmod 600" in caplog.records[0].__dict__["reason"]


def test_replaced_authority_is_read_without_a_restart(
    tmp_path: Path, certificates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever answers with a certificate of another authority is told nothing, until the file says it is the one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    posts: list[str] = []

    def answer(request: web.Request) -> web.Response:
        posts.append(request.path)
        return web.Response()

    async def run() -> None:
        trusted = tmp_path / "ca.pem"
        shutil.copy(certificates / "other.pem", trusted)
        async with listening(["127.0.0.1"], answer, context) as port:
            told = Alertmanager(f"https://127.0.0.1:{port}", Tls(trusted, server_name=NAME))
            async with Notifier([told], external_url=EXTERNAL) as notifier:
                notifier.offer([alert()], time.time())
                await until(lambda: caplog.records, "the error")
                assert posts == []
                shutil.copy(certificates / "ca.pem", trusted)
                assert await notifier.drain(time.time() + 20) == 0

    asyncio.run(run())
    assert (posts, "CERTIFICATE_VERIFY_FAILED" in str(caplog.records[0].__dict__)) == (["/api/v2/alerts"], True)
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize(("tls", "arrives"), [
    (None, False), (Tls(), False), (Tls(server_name=NAME), False), (Tls(insecure_skip_verify=True), True)])
def test_unknown_certificate_is_accepted_only_where_that_is_said(
    certificates: Path, caplog: pytest.LogCaptureFixture, tls: Tls | None, arrives: bool
) -> None:
    """Without a ca_file the system's authorities count; insecure_skip_verify looks at nothing."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")

    async def run() -> int:
        async with listening(["127.0.0.1"], lambda _: web.Response(), context) as port:
            told = Alertmanager(f"https://127.0.0.1:{port}", tls)
            async with Notifier([told], external_url=EXTERNAL) as notifier:
                notifier.offer([alert()], time.time())
                await until(lambda: caplog.records or sent(notifier.samples(0.0), "sent"), "an answer")
                return int(sent(notifier.samples(0.0), "sent"))

    assert asyncio.run(run()) == arrives


@pytest.mark.parametrize("secure", [False, True])
def test_each_address_of_a_name_is_an_alertmanager_of_its_own(
    secure: bool, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them are told, by the name in Host and certificate; those who come later of what fires, those gone not."""
    monkeypatch.setattr(stage, "RESOLVE_SECONDS", 0.02)
    at = ["127.0.0.1", "127.0.0.2"]
    resolving(monkeypatch, lambda: at)
    heard: list[tuple[str, str]] = []
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")

    def answer(request: web.Request) -> web.Response:
        assert request.transport
        heard.append((request.transport.get_extra_info("sockname")[0], request.host.partition(":")[0]))
        return web.Response()

    async def run() -> None:
        hosts = [f"127.0.0.{last}" for last in (1, 2, 3)]
        async with listening(hosts, answer, context if secure else None) as port:
            url = f"{'https' if secure else 'http'}://{NAME}:{port}"
            told = Alertmanager(url, Tls(certificates / "ca.pem") if secure else None)
            async with Notifier([told], external_url=EXTERNAL) as notifier:
                def known() -> set[str]:
                    return {each.labels["alertmanager"].rpartition(":")[0].rpartition("/")[2]
                            for each in notifier.samples(0.0)}

                await until(lambda: known() == set(at), "both addresses")
                notifier.offer([alert()], time.time())
                assert await notifier.drain(time.time() + 20) == 0
                assert set(heard) == {(address, NAME) for address in at}
                at[:] = ["127.0.0.2", "127.0.0.3"]
                await until(lambda: ("127.0.0.3", NAME) in heard, "the new one to be told")
                assert known() == set(at)
                at.clear()
                await until(lambda: known() == {"127.0.0.2", "127.0.0.3"}, "nothing: the name cannot be resolved now")
                heard.clear()
                notifier.offer([alert("Another")], time.time())
                assert await notifier.drain(time.time() + 20) == 0
                assert {address for address, _ in heard} == {"127.0.0.2", "127.0.0.3"}

    asyncio.run(run())


def test_name_with_one_address_stays_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its series carry the name, whatever address it has."""
    asked: list[str] = []
    resolving(monkeypatch, lambda: asked.append(NAME) or ["127.0.0.1"])  # type: ignore[func-returns-value]
    with AlertRecorder() as recorder:

        async def steps(notifier: Notifier) -> None:
            notifier.offer([alert()], time.time())
            assert await notifier.drain(time.time() + 20) == 0

        samples = notify([f"http://{NAME}:{recorder.port}"], steps)
    assert {each.labels["alertmanager"] for each in samples} == {f"http://{NAME}:{recorder.port}"}
    assert (sent(samples, "sent"), len(asked) > 0) == (1, True)


def test_a_host_in_both_families_is_one() -> None:
    """Of IPv4 and IPv6 the family with more addresses counts, IPv4 where both have as many."""
    four, six = socket.AF_INET, socket.AF_INET6
    assert of_one_family([(six, "::1"), (four, "10.0.0.2"), (four, "10.0.0.2")]) == ("10.0.0.2",)
    assert of_one_family([(six, "fd00::2"), (six, "fd00::1"), (four, "10.0.0.1")]) == ("fd00::1", "fd00::2")
    assert of_one_family([]) == ()


def test_addresses_take_the_place_of_the_name() -> None:
    """Scheme, credentials, port and path prefix stay."""
    assert at_address("https://ann:x@h:1/p", "10.0.0.1") == "https://ann:x@10.0.0.1:1/p"
    assert at_address("http://h", "fd00::1") == "http://[fd00::1]"


