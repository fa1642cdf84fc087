"""TLS on the way in: what the section `tls_server_config` means to OpenSSL, and handshakes that nobody can hoard."""

import asyncio
import logging
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from sidecar.web.terms import CIPHERS, TlsSection

log = logging.getLogger("sidecar.web")

HANDSHAKES = 64
"""How many may be under way; of more, the oldest of the address that has most is broken off: honest ones are short."""
HANDSHAKE_SECONDS = 10.0
MOST_PEM_BYTES = 1 << 20

VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
CURVES = {"CurveP256": "prime256v1", "CurveP384": "secp384r1", "CurveP521": "secp521r1", "X25519": "X25519"}
PLAIN = b"This port speaks TLS: write https instead of http.\n"
PLAIN_ANSWER = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n" \
               b"Content-Length: %d\r\n\r\n%s" % (len(PLAIN), PLAIN)

Note = Callable[[str, str], None]
"""`note(key, what)` takes down a mistake."""


class ServerContext(ssl.SSLContext):
    """A context whose handshakes end with a word to the other side, and that knows whom to let in.

    `allowed_sans`: a client certificate must have one of these names, where any are given.
    """

    allowed_sans: frozenset[str] = frozenset()

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *positional: Any, **named: Any) -> Any:
        """As in SSLContext."""
        made = super().wrap_bio(incoming, outgoing, *positional, **named)
        if isinstance(made, _Handshake):
            made.outgoing = outgoing
        return made


class _Handshake(ssl.SSLObject):
    """One connection. asyncio drops what OpenSSL would still have sent when a handshake fails: its alert."""

    outgoing: ssl.MemoryBIO
    failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """As in SSLObject; what fails is told to the other side first, and raised when that has been sent."""
        if self.failure:
            raise self.failure
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                self.outgoing.read()
                self.outgoing.write(PLAIN_ANSWER)
            if not self.outgoing.pending:
                raise
            self.failure = error
            raise ssl.SSLWantReadError from None
        context = self.context
        if isinstance(context, ServerContext) and context.allowed_sans:
            found = alternative_names(self.getpeercert() or {})
            if not found & context.allowed_sans:
                raise ssl.SSLError(f"a client certificate for {', '.join(sorted(found)) or 'no name'} is not allowed")


ServerContext.sslobject_class = _Handshake


def alternative_names(certificate: Any) -> frozenset[str]:
    """The DNS names, addresses, mail addresses and URIs that a certificate (of `getpeercert`) is for."""
    return frozenset(str(ip_address(value.strip())) if kind == "IP Address" else value
                     for kind, value in certificate.get("subjectAltName", ())
                     if kind in ("DNS", "IP Address", "email", "URI"))


def server_context(section: TlsSection, note: Note) -> ServerContext | None:
    """What to accept connections with; None where something cannot be used, which has been noted by its key."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.minimum_version, context.maximum_version = VERSIONS[section.min_version], VERSIONS[section.max_version]
    if not section.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    noted: list[str] = []

    def wrong(key: str, what: str) -> None:
        noted.append(key)
        note(key, what)

    _choose_ciphers(context, section, wrong)
    _choose_curves(context, section, wrong)
    _load_certificate(context, section, wrong)
    _ask_clients(context, section, wrong)
    return None if noted else context


def _choose_ciphers(context: ServerContext, section: TlsSection, wrong: Note) -> None:
    if not section.cipher_suites:
        return
    if names := [CIPHERS[name] for name in section.cipher_suites if CIPHERS[name]]:
        context.set_ciphers(":".join(names))
    elif section.max_version == "TLS13":
        context.minimum_version = ssl.TLSVersion.TLSv1_3  # none is left with which TLS 1.2 could be spoken
    else:
        wrong("cipher_suites", "none of these is for TLS 1.2, and max_version allows no more: nobody could connect")


def _choose_curves(context: ServerContext, section: TlsSection, wrong: Note) -> None:
    names = [CURVES[name] for name in section.curve_preferences]
    if len(names) == 1:
        context.set_ecdh_curve(names[0])
    elif names and hasattr(context, "set_groups"):  # from Python 3.15 on
        context.set_groups(":".join(names))
    elif 1 < len(set(names)) < len(CURVES):  # all of them are what is usual
        wrong("curve_preferences", "this Python can be told one curve alone (several from 3.15 on): give one, or leave "
              "the key out")


def _load_certificate(context: ServerContext, section: TlsSection, wrong: Note) -> None:
    cert_key, key_key = "cert_file" if section.cert_file else "cert", "key_file" if section.key_file else "key"
    cert = _pem(section.cert_file, section.cert, cert_key, wrong)
    key = _pem(section.key_file, section.key, key_key, wrong)
    if not cert or not key:
        return
    named, of_key = section.cert_file or "cert", section.key_file or "key"
    try:
        with _as_file(cert) as cert_path, _as_file(key) as key_path:
            context.load_cert_chain(cert_path, key_path, password=b"")  # else OpenSSL would ask for one at the terminal
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            wrong(key_key, f"{of_key} is not the key of the certificate in {named}")
        elif b"ENCRYPTED" in key:
            wrong(key_key, f"{of_key} has a passphrase: there is nobody to ask for it, `openssl pkey` takes it off")
        elif b"BEGIN CERTIFICATE" not in cert:
            wrong(cert_key, f"{named} holds no certificate in PEM")
        else:
            wrong(key_key, f"{named} and {of_key} do not hold a certificate and its key in PEM: {error.reason}")


def _ask_clients(context: ServerContext, section: TlsSection, wrong: Note) -> None:
    """As crypto/tls of Go does: whatever the CA file holds is trusted, be it only the certificate of one client."""
    if section.client_auth_type not in ("VerifyClientCertIfGiven", "RequireAndVerifyClientCert"):
        return
    required = section.client_auth_type == "RequireAndVerifyClientCert"
    context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.allowed_sans = frozenset(section.client_allowed_sans)
    if not section.client_ca_file and not section.client_ca:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    key = "client_ca_file" if section.client_ca_file else "client_ca"
    if pem := _pem(section.client_ca_file, section.client_ca, key, wrong):
        try:
            context.load_verify_locations(cadata=pem.decode("ascii"))
        except (ssl.SSLError, ValueError):
            wrong(key, f"{section.client_ca_file or key} holds no certificates in PEM")


def _pem(file: Path | None, inline: str, key: str, wrong: Note) -> bytes:
    """What stands in the file, else inline; b"" where that cannot be had, which has been noted."""
    if file is None:
        return inline.encode()
    try:
        with open(file, "rb") as opened:
            found = opened.read(MOST_PEM_BYTES)
    except OSError as error:
        wrong(key, f"{file} cannot be read: {error.strerror}")
        return b""
    if not found.strip():
        wrong(key, f"{file} is empty")
        return b""
    return found


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The path of a file that holds this, and that nobody else sees: OpenSSL takes keys from files alone."""
    holder = os.memfd_create("pem", os.MFD_CLOEXEC)
    with open(holder, "wb", buffering=0) as opened:
        opened.write(content)
        yield f"/proc/self/fd/{holder}"


class Handshakes:
    """Leads whoever connects through TLS to `factory`'s protocol. Lives as long as the server.

    Each handshake begins with what `context` says at that moment.
    """

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol],
                 context: Callable[[], ssl.SSLContext | None]) -> None:
        self._factory = factory
        self._context = context
        self._under_way: dict[asyncio.Task[None], str] = {}  # oldest first -> who is at the other end

    def accepted(self) -> asyncio.BaseProtocol:
        """What asyncio is to ask for at every connection."""
        return _Accepted(self.begin)

    def begin(self, line: socket.socket, address: str) -> None:
        """Begin the handshake on a connected socket, which is ours from now on; `address` is at its other end."""
        if len(self._under_way) >= HANDSHAKES:
            count = Counter(self._under_way.values())
            ending = max(self._under_way, key=lambda each: count[self._under_way[each]])  # of these the first
            del self._under_way[ending]
            ending.cancel()
        task = asyncio.create_task(self._lead(line))
        self._under_way[task] = address
        task.add_done_callback(partial(self._over, line))

    def close(self) -> None:
        """Break off all that are under way."""
        for task in self._under_way:
            task.cancel()

    def _over(self, line: socket.socket, task: "asyncio.Task[None]") -> None:
        self._under_way.pop(task, None)
        if task.cancelled():
            line.close()  # it may not even have begun

    async def _lead(self, line: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory, line, ssl=self._context(), ssl_handshake_timeout=HANDSHAKE_SECONDS)
        except OSError as error:  # TLS that failed, a time-out and whoever hung up among them
            log.debug("a TLS handshake failed", extra={"error": str(error)})


class _Accepted(asyncio.Protocol):
    """A connection that has just been accepted: its socket is handed on before anything is read from it."""

    def __init__(self, hand_on: Callable[[socket.socket, str], None]) -> None:
        self._hand_on = hand_on

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        line = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        name = transport.get_extra_info("peername")
        assert isinstance(transport, asyncio.Transport)
        transport.abort()  # closes its own descriptor; the connection lives on in ours
        self._hand_on(line, str(name[0]) if isinstance(name, tuple) else "")
