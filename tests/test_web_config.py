"""The web config file: what is accepted, who is let in, over which TLS, and what a change of it does."""

import asyncio
import base64
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple

import bcrypt
import certificates
import newer_prometheus
import pytest
import servers
from servers import free_port, wait_until
from sidecars import config, refused, running_sidecar

from sidecar.config_web import protected_by, read
from sidecar.web import passwords, tls
from sidecar.web.server import build, serving
from sidecar.web.terms import WebConfigError
from sidecar.web.view import View

HASH = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
OTHER = bcrypt.hashpw(b"other", bcrypt.gensalt(4)).decode()
TOKEN = "t" * 32
CERTIFICATE = "cert_file: server.pem, key_file: server.key"
TLS = f"tls_server_config: {{{CERTIFICATE}}}\n"
CLIENTS = f"{CERTIFICATE}, client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem"
USERS = f"basic_auth_users: {{prom: {HASH}}}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of certificates, made once."""
    return certificates.make(tmp_path_factory.mktemp("certificates"), {
        "server": ("ca", "DNS:localhost,IP:127.0.0.1"), "second": ("ca", "DNS:localhost,IP:127.0.0.1"),
        "client": ("ca", "DNS:prometheus.internal,URI:spiffe://rag/prometheus,IP:::1"), "stranger": ("other", "DNS:x")})


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(made, tmp_path / "web")


class Answer(NamedTuple):
    """What came back, and the certificate of who said it."""

    status: int
    text: str
    headers: dict[str, str]
    certificate: bytes


class Served:
    """A web server with the web config file `folder`/web.yml, in a thread of its own. Lives until its context ends."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.scheme, _, address = url.partition("://")
        self.port = int(address.rpartition(":")[2])

    def ask(self, path: str = "/-/healthy", method: str = "GET", context: ssl.SSLContext | None = None,
            **headers: str) -> Answer:
        """Ask as a client that trusts ca.pem. Raises OSError where TLS fails."""
        if self.scheme == "http":
            line = HTTPConnection("127.0.0.1", self.port, timeout=30)
        else:
            line = HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context or self.client())
        try:
            line.request(method, path, headers=headers)
            theirs = line.sock.getpeercert(True) if isinstance(line.sock, ssl.SSLSocket) else b""
            answer = line.getresponse()
            return Answer(answer.status, answer.read().decode(), dict(answer.headers), theirs or b"")
        finally:
            line.close()

    def client(self, name: str = "") -> ssl.SSLContext:
        """What a client connects with, that has the certificate `name`."""
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if name:
            context.load_cert_chain(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        return context

    def write(self, text: str) -> None:
        """Replace the web config file."""
        (self.folder / "new").write_text(text)
        (self.folder / "new").rename(self.folder / "web.yml")


@contextmanager
def served(folder: Path, text: str, token: str = "") -> Iterator[Served]:
    """Serve with this web config file."""
    (folder / "web.yml").write_text(text)
    started: list[Any] = []
    ready = threading.Event()

    async def run() -> None:
        over = asyncio.Event()
        try:
            protection = protected_by(folder / "web.yml")
            app = build(View(), protection=protection, token=token, clock=lambda: 0.0)
            async with serving(app, ["127.0.0.1:0"], protection) as (url,):
                started.extend((asyncio.get_running_loop(), over, url))
                ready.set()
                await over.wait()
        finally:
            ready.set()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    ready.wait(30)
    try:
        yield Served(folder, started[2])
    finally:
        if started:
            started[0].call_soon_threadsafe(started[1].set)
        thread.join(30)


def basic(user: str, password: str) -> str:
    """The header of a user and a password."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def pem(folder: Path, name: str) -> bytes:
    """A certificate as the other side sees it."""
    return ssl.PEM_cert_to_DER_cert((folder / f"{name}.pem").read_text())


def inline(folder: Path) -> str:
    """A section with certificate and key inside."""
    return json.dumps({"tls_server_config": {
        "cert": (folder / "server.pem").read_text(), "key": (folder / "server.key").read_text()}})


GOOD: dict[str, str | Callable[[Path], str]] = {
    "empty": "", "headings": "tls_server_config:\nbasic_auth_users:\n", "tls": TLS, "users": USERS, "both": TLS + USERS,
    "inline": inline,
    "clients": f"tls_server_config: {{{CLIENTS}}}",
    "clients, if given": f"tls_server_config: {{{CLIENTS.replace('RequireAnd', '').replace('Cert,', 'CertIfGiven,')}}}",
    "asked, not looked at": f"tls_server_config: {{{CERTIFICATE}, client_auth_type: RequestClientCert}}",
    "not asked": f"tls_server_config: {{{CERTIFICATE}, client_auth_type: NoClientCert}}",
    "authorities of the system": f"tls_server_config: {{{CERTIFICATE}, client_auth_type: RequireAndVerifyClientCert}}",
    "names": f"tls_server_config: {{{CLIENTS}, client_allowed_sans: [prometheus.internal]}}",
    "versions": f"tls_server_config: {{{CERTIFICATE}, min_version: TLS13, max_version: TLS13}}",
    "ciphers": f"tls_server_config: {{{CERTIFICATE}, prefer_server_cipher_suites: false, cipher_suites: "
               "[TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256, "
               "TLS_AES_128_GCM_SHA256]}",
    "one curve": f"tls_server_config: {{{CERTIFICATE}, curve_preferences: [CurveP384]}}",
    "all curves": f"tls_server_config: {{{CERTIFICATE}, curve_preferences: [CurveP256, CurveP384, CurveP521, X25519]}}",
    "http": "http_server_config: {http2: false, headers: {X-Frame-Options: deny, X-Content-Type-Options: nosniff, "
            "Strict-Transport-Security: max-age=1, X-XSS-Protection: '0', Content-Security-Policy: 'a'}}",
}
BAD: dict[str, str] = {
    "no mapping": "[]", "no YAML": "{", "unknown": "tls_config: {}", "unknown inside": TLS.replace("cert_file", "crt"),
    "no key": "tls_server_config: {cert_file: server.pem}",
    "no certificate": "tls_server_config: {key_file: server.key}",
    "no file": "tls_server_config: {cert_file: nowhere.pem, key_file: server.key}",
    "key of another": "tls_server_config: {cert_file: server.pem, key_file: second.key}",
    "no PEM": "tls_server_config: {cert_file: web.yml, key_file: server.key}",
    "key with a passphrase": "tls_server_config: {cert_file: server.pem, key_file: locked.key}",
    "version": f"tls_server_config: {{{CERTIFICATE}, min_version: TLS14}}",
    "cipher": f"tls_server_config: {{{CERTIFICATE}, cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]}}",
    "curve": f"tls_server_config: {{{CERTIFICATE}, curve_preferences: [CurveP224]}}",
    "way of asking": f"tls_server_config: {{{CERTIFICATE}, client_auth_type: Require}}",
    "CA without a way": f"tls_server_config: {{{CERTIFICATE}, client_ca_file: ca.pem}}",
    "no CA": f"tls_server_config: {{{CLIENTS.replace('ca.pem', 'nowhere.pem')}}}",
    "no number": f"tls_server_config: {{{CERTIFICATE}, prefer_server_cipher_suites: perhaps}}",
    "header": "http_server_config: {headers: {Server: me}}",
    "value of a header": "http_server_config: {headers: {X-Frame-Options: allow}}",
    "no hash": "basic_auth_users: {prom: s3cret}", "users as a list": f"basic_auth_users: [{HASH}]",
    "user twice": f"basic_auth_users:\n  prom: {HASH}\n  prom: {HASH}\n",
}
STRICTER: dict[str, str] = {  # what promtool takes and we do not, each told in docs/web-config.md
    "any certificate": f"tls_server_config: {{{CERTIFICATE}, client_auth_type: RequireAnyClientCert}}",
    "broken version": f"tls_server_config: {{{CERTIFICATE}, min_version: TLS10}}",
    "versions crossed": f"tls_server_config: {{{CERTIFICATE}, min_version: TLS13, max_version: TLS12}}",
    "no certificate in the CA": f"tls_server_config: {{{CLIENTS.replace('ca.pem', 'web.yml')}}}",
    "no TLS meant": "tls_server_config: {min_version: TLS13}",
    "cost": f"basic_auth_users: {{prom: {HASH.replace('$04$', '$17$')}}}",
}


def accepted(promtool: Path, file: Path) -> bool:
    """Whether promtool takes it."""
    done = subprocess.run([promtool, "check", "web-config", file], capture_output=True, timeout=60, check=False)
    return done.returncode == 0


def of_version(version: int) -> Path:
    """promtool of Prometheus 2 or 3."""
    return newer_prometheus.needed("promtool") if version == 3 else servers.promtool()


@pytest.mark.parametrize("name", GOOD)
def test_what_promtool_takes_is_taken(name: str, folder: Path) -> None:
    """A web config file for Prometheus, in all its keys, is one for the sidecar."""
    text = GOOD[name]
    file = folder / "web.yml"
    file.write_text(text if isinstance(text, str) else text(folder))

    assert accepted(of_version(3), file)
    if name not in ("inline", "names"):  # which are younger than Prometheus 2.42
        assert accepted(of_version(2), file)
    read(file)


@pytest.mark.parametrize("name", BAD)
def test_what_promtool_refuses_is_refused(name: str, folder: Path) -> None:
    """What Prometheus would not start with the sidecar does not start with either, and says where the mistake is."""
    file = folder / "web.yml"
    file.write_text(BAD[name])

    assert not accepted(of_version(3), file)
    with pytest.raises(WebConfigError) as caught:
        read(file)
    assert all(problem.line and problem.file == str(file) for problem in caught.value.problems)


@pytest.mark.parametrize("name", STRICTER)
def test_what_is_refused_beyond_that(name: str, folder: Path) -> None:
    """Where less would be protected than was meant the sidecar is stricter than Prometheus."""
    file = folder / "web.yml"
    file.write_text(STRICTER[name])

    assert accepted(of_version(3), file)
    with pytest.raises(WebConfigError):
        read(file)


def test_all_mistakes_are_told_at_once(folder: Path) -> None:
    """Each mistake has its line and column, what it is about, and no secret in it."""
    file = folder / "web.yml"
    file.write_text("tls_server_config:\n  cert_file: nowhere.pem\n  key_file: server.key\n  curve_preferences: [X]\n"
                    "http_server_config:\n  headers:\n    Server: me\nbasic_auth_users:\n  prom: s3cret\nrate: 1\n")
    done = subprocess.run([sys.executable, "-m", "sidecar", "check", "web-config", str(file)], capture_output=True,
                          text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert [line.split(": ")[0].removeprefix(str(file)) for line in done.stderr.splitlines()[:-1]] == [
        ":4:23", ":7:13", ":9:9", ":10:1"]
    assert "s3cret" not in done.stderr
    assert "docs/web-config.md" in done.stderr


@pytest.mark.parametrize(("section", "told"), [
    ("cert_file: nowhere.pem, key_file: server.key", "nowhere.pem cannot be read: No such file"),
    ("cert_file: server.pem, key_file: second.key", "is not the key of the certificate"),
    ("cert_file: server.pem, key_file: locked.key", "has a passphrase"),
    ("cert_file: web.yml, key_file: server.key", "holds no certificate in PEM"),
    (CLIENTS.replace("ca.pem", "server.key"), "holds no certificates in PEM")])
def test_what_is_wrong_with_a_file_is_said(section: str, told: str, folder: Path) -> None:
    """A certificate that cannot be used is told with the reason, not with what OpenSSL calls it."""
    (folder / "web.yml").write_text(f"tls_server_config: {{{section}}}")

    with pytest.raises(WebConfigError, match=told):
        read(folder / "web.yml")


def test_passwords_take_an_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bcrypt the message says what to install; a file without users does not need it."""
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    monkeypatch.delitem(sys.modules, "sidecar.web.passwords")
    monkeypatch.delattr("sidecar.web.passwords")
    (folder / "web.yml").write_text(USERS)

    with pytest.raises(WebConfigError, match=r"pip install 'rag-sidecar\[auth\]'"):
        read(folder / "web.yml")
    (folder / "web.yml").write_text(TLS)
    assert read(folder / "web.yml").context


def test_who_has_no_web_config_pays_nothing_for_it() -> None:
    """Neither bcrypt nor what reads the file is loaded where none is given."""
    found = subprocess.run([sys.executable, "-c", "import sidecar.app, sys; print(*sys.modules)"], capture_output=True,
                           text=True, timeout=60, check=True).stdout.split()

    assert not {"bcrypt", "sidecar.web.tls", "sidecar.web.terms", "sidecar.web.protection", "sidecar.config_web"} & {
        *found}


@pytest.mark.parametrize(("header", "status"), [
    (None, 401), (basic("prom", "s3cret"), 200), (basic("prom", "wrong"), 401), (basic("prom", ""), 401),
    (basic("nobody", "s3cret"), 401), (basic("PROM", "s3cret"), 401), (basic("", ""), 401), ("Basic", 401),
    ("Basic =", 401), ("Basic cHJvbQ==", 401), ("basic " + basic("prom", "s3cret").split()[1], 200),
    (f"Bearer {TOKEN}", 200), (f"Bearer {TOKEN}x", 401), ("Digest x", 401), (basic("prom", "s3cret" + "\0"), 401)])
@pytest.mark.parametrize("path", ["/-/healthy", "/-/ready", "/metrics", "/", "/nothing"])
def test_every_path_asks_who_is_there(path: str, header: str | None, status: int, folder: Path) -> None:
    """Whoever has neither a user's password nor the token gets no page, whatever the path."""
    with served(folder, USERS, TOKEN) as server:
        answer = server.ask(path, **({"Authorization": header} if header else {}))

    assert (answer.status == 401) == (status == 401)
    if status == 401:
        assert answer.headers["WWW-Authenticate"].partition(" ")[0] in ("Basic", "Bearer")
        assert answer.headers["X-Frame-Options"] == "DENY"


def test_a_password_orders_nothing(folder: Path) -> None:
    """Whoever may read may not have anything done: that takes the token, and the token is enough."""
    with served(folder, USERS, TOKEN) as server:
        asked = {"Content-Type": "application/json"}
        assert server.ask("/api/v1/cleanup", "POST", Authorization=basic("prom", "s3cret"), **asked).status == 401
        assert server.ask("/api/v1/cleanup", "POST", Authorization=f"Bearer {TOKEN}", **asked).status == 503  # no tick
    with served(folder, USERS) as server:
        assert server.ask("/api/v1/cleanup", "POST", Authorization=basic("prom", "s3cret"), **asked).status == 403
        assert server.ask(Authorization=f"Bearer {TOKEN}").status == 401


def test_who_guesses_is_locked_out_and_who_was_in_before_is_not(folder: Path) -> None:
    """Ten wrong passwords lock an address out, except for what was right from there before."""
    with served(folder, USERS) as server:
        assert server.ask(Authorization=basic("prom", "s3cret")).status == 200
        statuses = [server.ask(Authorization=basic(f"user{number}", "guess")).status for number in range(12)]
        assert statuses == [401] * 10 + [429] * 2
        assert server.ask(Authorization=basic("prom", "s3cret")).status == 200


def test_comparing_passwords_keeps_nobody_waiting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While bcrypt works, who is known is served, and a crowd of guesses is sent away instead of piling up."""
    go_on, working = threading.Event(), threading.Event()
    real = bcrypt.checkpw

    def slow(password: bytes, hashed: bytes) -> bool:
        if password != b"s3cret":
            working.set()
            go_on.wait(30)
        return real(password, hashed)

    monkeypatch.setattr(passwords.bcrypt, "checkpw", slow)
    found: list[int] = []
    with served(folder, USERS) as server:
        assert server.ask(Authorization=basic("prom", "s3cret")).status == 200
        guessing = [threading.Thread(target=lambda: found.append(server.ask(Authorization=basic("prom", "no")).status))
                    for _ in range(passwords.WAITING + 5)]
        for each in guessing:
            each.start()
        try:
            assert working.wait(30)
            wait_until(lambda: found.count(503) == 5, 30, "the crowd to be sent away")
            assert server.ask(Authorization=basic("prom", "s3cret")).status == 200
        finally:
            go_on.set()
            for each in guessing:
                each.join(30)
    assert set(found) <= {401, 429, 503}


def test_headers_are_laid_over_ours(folder: Path) -> None:
    """A header of the file replaces the sidecar's own, an empty one takes it away, and the others stay."""
    with served(folder, "http_server_config: {headers: {X-Frame-Options: sameorigin, Content-Security-Policy: '', "
                        "Strict-Transport-Security: max-age=9}}") as server:
        headers = server.ask("/").headers
    assert (headers["X-Frame-Options"], headers["Strict-Transport-Security"]) == ("sameorigin", "max-age=9")
    assert "Content-Security-Policy" not in headers
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_changed_password_holds_from_the_next_request(folder: Path) -> None:
    """Without a restart: the new password is right, the old one, which was remembered, is not."""
    with served(folder, TLS + USERS) as server:
        assert server.ask(Authorization=basic("prom", "s3cret")).status == 200
        server.write(TLS + USERS.replace(HASH, OTHER))
        assert server.ask(Authorization=basic("prom", "s3cret")).status == 401
        assert server.ask(Authorization=basic("prom", "other")).status == 200
        server.write(TLS)
        assert server.ask().status == 200


def test_a_changed_certificate_holds_from_the_next_connection(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Certificate and key may be replaced one after the other, without a restart and without a failed request."""
    caplog.set_level(logging.INFO)
    with served(folder, TLS) as server:
        assert server.ask().certificate == pem(folder, "server")
        before = pem(folder, "server")
        shutil.copy(folder / "second.pem", folder / "server.pem")
        assert server.ask().certificate == before
        assert server.ask().status == 200
        assert [record.levelname for record in caplog.records if "web config" in record.message] == ["ERROR"]
        shutil.copy(folder / "second.key", folder / "server.key")
        assert server.ask().certificate == pem(folder, "second")


def test_nothing_starts_with_a_broken_file(folder: Path, tmp_path: Path) -> None:
    """`run` and `check config` say what is wrong with the web config file, and exit with 1."""
    (folder / "web.yml").write_text("tls_server_config: {}\nusers: {}\n")
    settings = config(free_port(), tmp_path / "state", [{"name": "rag", "match": {"pid": 1}}],
                      web={"config_file": "web/web.yml"})
    (tmp_path / "sidecar.yml").write_text(settings)
    checked = subprocess.run([sys.executable, "-P", "-m", "sidecar", "check", "config", str(tmp_path / "sidecar.yml")],
                             capture_output=True, text=True, timeout=60, check=False)
    code, said = refused(tmp_path, "--pid", str(os.getpid()), "--web.config.file", str(folder / "web.yml"),
                         "--web.listen-address", f"127.0.0.1:{free_port()}")

    for found in ((checked.returncode, checked.stderr), (code, said)):
        assert (found[0], f"{folder / 'web.yml'}:2:1: unknown key 'users'" in found[1]) == (1, True), found


def test_a_broken_file_changes_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What was said before stays in force until the file can be used again; TLS cannot be taken away in between."""
    with served(folder, TLS + USERS) as server:
        for broken in ("basic_auth_users: [", USERS, TLS.replace("server.key", "later.key")):
            caplog.clear()
            server.write(broken)
            assert [server.ask().status for _ in range(3)] == [401] * 3
            assert server.ask(Authorization=basic("prom", "s3cret")).status == 200
            assert len([record for record in caplog.records if "stays in force" in record.message]) == 1
        shutil.copy(folder / "server.key", folder / "later.key")
        assert server.ask().status == 200
        (folder / "web.yml").unlink()
        assert server.ask().status == 200


def limited(server: Served, **changes: Any) -> ssl.SSLContext:
    """A client's context with changes."""
    context = server.client()
    for name, value in changes.items():
        setattr(context, name, value)
    return context


def test_old_tls_is_refused_with_an_alert(folder: Path) -> None:
    """TLS 1.2 and 1.3 are spoken; who can only speak TLS 1.1 is told so by TLS itself."""
    with served(folder, TLS) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert server.ask(context=limited(server, maximum_version=version)).status == 200
        done = subprocess.run(
            ["openssl", "s_client", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0", "-connect", f"127.0.0.1:{server.port}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
    assert "alert protocol version" in done.stderr
    with served(folder, f"tls_server_config: {{{CERTIFICATE}, min_version: TLS13}}") as server:
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            server.ask(context=limited(server, maximum_version=ssl.TLSVersion.TLSv1_2))
        assert server.ask().status == 200


def test_ciphers_and_curves_are_those_of_the_file(folder: Path) -> None:
    """With TLS 1.2 nothing but the listed suites is spoken; of the curves the one that is given."""
    suites = "cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384], curve_preferences: [CurveP384]"
    with served(folder, f"tls_server_config: {{{CERTIFICATE}, {suites}}}") as server:
        context = limited(server, maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            server.ask(context=context)
        context.set_ciphers("ECDHE-ECDSA-AES256-GCM-SHA384")
        assert server.ask(context=context).status == 200
        context = server.client()
        context.set_ecdh_curve("prime256v1")
        with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
            server.ask(context=context)
    with served(folder, f"tls_server_config: {{{CERTIFICATE}, cipher_suites: [TLS_AES_128_GCM_SHA256]}}") as server:
        assert server.ask().status == 200
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            server.ask(context=limited(server, maximum_version=ssl.TLSVersion.TLSv1_2))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("section", "client", "let_in"), [
    (CLIENTS, "client", True), (CLIENTS, "stranger", False), (CLIENTS, "", False),
    (CLIENTS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"), "", True),
    (CLIENTS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"), "stranger", False),
    (CLIENTS.replace("ca.pem", "client.pem"), "client", True),
    (CLIENTS + ", client_allowed_sans: [x, prometheus.internal]", "client", True),
    (CLIENTS + ", client_allowed_sans: ['spiffe://rag/prometheus']", "client", True),
    (CLIENTS + ", client_allowed_sans: ['::1']", "client", True),
    (CLIENTS + ", client_allowed_sans: [internal, client]", "client", False),
    (f"{CERTIFICATE}, client_auth_type: RequestClientCert", "stranger", True)])
def test_clients_show_their_certificates(section: str, client: str, let_in: bool, version: ssl.TLSVersion,
                                         folder: Path) -> None:
    """Who has no certificate of the authority, or one for another name, gets no page."""
    with served(folder, f"tls_server_config: {{{section}}}") as server:
        context = server.client(client)
        context.maximum_version = version
        if let_in:
            assert server.ask(context=context).status == 200
        else:
            with pytest.raises(OSError, match=r"alert|reset|EOF|closed"):
                server.ask(context=context)


def test_plain_http_is_told_that_this_is_tls(folder: Path) -> None:
    """Who forgets the s gets a sentence instead of bytes."""
    with served(folder, TLS) as server:
        plain = HTTPConnection("127.0.0.1", server.port, timeout=30)
        plain.request("GET", "/metrics")
        answer = plain.getresponse()
        assert (answer.status, answer.read()) == (400, tls.PLAIN)
        plain.close()
        assert server.ask().status == 200


def cut_off(line: socket.socket) -> bool:
    """Whether the other side ends the connection without a word."""
    try:
        return line.recv(1) == b""
    except ConnectionResetError:
        return True


def test_slow_handshakes_keep_nobody_out(folder: Path) -> None:
    """However many connect and say nothing, a handshake that goes on is served; the oldest silent ones are cut off."""
    with served(folder, TLS) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port), 30) for _ in range(tls.HANDSHAKES + 8)]
        try:
            assert server.ask().status == 200
            assert cut_off(silent[0])
            silent[-1].settimeout(0.05)
            with pytest.raises(TimeoutError):
                silent[-1].recv(1)
        finally:
            for each in silent:
                each.close()


def test_a_handshake_ends_in_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins a handshake and stops is cut off."""
    monkeypatch.setattr(tls, "HANDSHAKE_SECONDS", 0.1)
    with served(folder, TLS) as server, socket.create_connection(("127.0.0.1", server.port), 30) as line:
        line.sendall(b"\x16\x03\x01")
        assert cut_off(line)
        assert server.ask().status == 200


@contextmanager
def whole(folder: Path, tmp_path: Path) -> Iterator[str]:
    """A whole sidecar that asks for a client's certificate and a password, and has a token; its URL."""
    (folder / "web.yml").write_text(f"tls_server_config: {{{CLIENTS}}}\n" + USERS)
    for name, content in (("token", TOKEN), ("password", "s3cret")):
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    port = free_port()
    web = {"listen": f"127.0.0.1:{port}", "config_file": "web/web.yml", "token_file": "web/token"}
    settings = config(port, tmp_path / "state", [{"name": "rag", "match": {"pid": os.getpid()}}], web=web,
                      actions={"mode": "observe"})
    with running_sidecar(tmp_path, file=settings, port=port, ready=False) as sidecar:
        wait_until(lambda: sidecar.process.poll() is not None or sidecar.said("watching"), 30, "the sidecar to watch")
        assert sidecar.said("watching"), sidecar.log.read_text()
        yield str(sidecar.said("watching")[0]["url"])


@pytest.mark.parametrize("version", [2, 3])
def test_a_prometheus_scrapes_a_sidecar_behind_tls_and_a_password(version: int, folder: Path, tmp_path: Path) -> None:
    """Prometheus gets in with the certificate and the password of its scrape config."""
    program = newer_prometheus.needed() if version == 3 else servers.prometheus()
    files = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
    with whole(folder, tmp_path) as url:
        scheme, _, address = url.partition("://")
        scrape = {"job_name": "rag", "scrape_interval": "1s", "scheme": scheme,
                  "basic_auth": {"username": "prom", "password_file": str(folder / "password")},
                  "tls_config": {key: str(folder / file) for key, file in files.items()},
                  "static_configs": [{"targets": [address]}]}
        with servers.running_prometheus(json.dumps({"scrape_configs": [scrape]}), tmp_path, program=program) as other:
            wait_until(lambda: [row["value"][1] for row in other.query("rag_target_up")["result"]] == ["1"], 30,
                       "Prometheus to have scraped it")


@pytest.mark.parametrize(("who", "status"), [("", "401"), ("prom:wrong", "401"), ("prom:s3cret", "200")])
def test_curl_gets_in_with_a_password(who: str, status: str, folder: Path) -> None:
    """What curl says with no password, a wrong one and the right one."""
    if not shutil.which("curl"):
        pytest.skip("takes curl")
    with served(folder, TLS + USERS) as server:
        done = subprocess.run(["curl", "-s", "-o", folder / "page", "-w", "%{http_code}", "--cacert", folder / "ca.pem",
                               *(("-u", who) if who else ()), f"https://localhost:{server.port}/metrics"],
                              capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == status


def test_commands_get_in(folder: Path, tmp_path: Path) -> None:
    """The commands take the file that promtool takes, and say what is missing without it."""
    with whole(folder, tmp_path) as url:
        commands_over_tls(folder, url)


def test_commands_trust_who_the_environment_names(folder: Path) -> None:
    """Without a file of theirs the commands trust the authorities of SSL_CERT_FILE, as other programs do."""
    with served(folder, TLS) as server:
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "query", "--url",
                               f"https://localhost:{server.port}", "up"], capture_output=True, text=True, timeout=60,
                              env={**os.environ, "SSL_CERT_FILE": str(folder / "ca.pem")}, check=False)
    assert "unavailable" in done.stderr  # there is nothing to be asked for in this server; but it was reached


def commands_over_tls(folder: Path, url: str) -> None:
    """See test_commands_get_in."""
    (folder / "http.yml").write_text("tls_config: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key}\n"
                                     "basic_auth: {username: prom, password_file: password}\n")
    known = ("--http.config.file", str(folder / "http.yml"))

    def told(*words: str) -> tuple[int, str]:
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", *words, "--url", url], capture_output=True,
                              text=True, timeout=60, check=False)
        return done.returncode, done.stdout + done.stderr

    promtool = subprocess.run([newer_prometheus.needed("promtool"), "query", "instant", *known, url, "rag_target_up"],
                              capture_output=True, text=True, timeout=60, check=False)
    assert (promtool.returncode, "=> 1 @" in promtool.stdout) == (0, True)
    code, said = told("query", "rag_target_up", *known)
    assert (code, 'target="rag"' in said) == (0, True), said
    code, said = told("query", "rag_target_up")
    assert (code, "self-signed certificate" in said, "--http.config.file" in said) == (1, True, True), said
    (folder / "http.yml").write_text("tls_config: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key}\n")
    code, said = told("query", "rag_target_up", *known)
    assert (code, "unauthorized" in said, "--http.config.file" in said) == (1, True, True), said
    code, said = told("pause", *known)
    assert (code, "changes nothing without a token" in said) == (1, True), said
    (folder / "password").write_text(TOKEN)
    code, said = told("pause", *known, "--token-file", str(folder / "password"))
    assert (code, "paused" in said) == (0, True), said
    (folder / "http.yml").write_text("tls_config: {ca_file: ca.pem, cert_file: client.pem, key_file: client.key}\n"
                                     "authorization: {credentials_file: password}\n")
    assert told("resume", *known)[0] == 0
    (folder / "password").chmod(0o644)
    code, said = told("resume", *known)
    assert (code, "http.yml:2:35: authorization.credentials_file" in said, "chmod 600" in said) == (1, True, True), said
