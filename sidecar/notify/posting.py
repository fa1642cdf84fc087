"""Alerts on their way to one Alertmanager over HTTP, and what its answers mean."""

from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

import aiohttp

from sidecar import __version__
from sidecar.notify.options import Alertmanager, without_credentials
from sidecar.trust import context_for

if TYPE_CHECKING:
    from sidecar.notify.access import Access

Session = aiohttp.ClientSession
PATH = "/api/v2/alerts"
ANSWER_BYTES = 2048
"""How much of an error's body is read, for the log; the rest is thrown away with the connection."""
AT_FAULT = frozenset({400, 413, 422})
"""Something in the batch is wrong (or it is too big for a proxy): less of it may be accepted."""
MISCONFIGURED = frozenset({401, 403, 404, 405, 415})


class Answer(NamedTuple):
    """What came of one POST. `why` is fit for a log line."""

    verdict: Literal["accepted", "refused", "failed"]
    why: str = ""
    misconfigured: bool = False


def new_session() -> Session:
    """The connections to all Alertmanagers; for the caller to close."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,  # nothing that is read is worth unpacking, and a small answer can unpack into gigabytes
        headers={"User-Agent": f"rag-sidecar/{__version__}"},
    )


class Post:
    """The way to one Alertmanager: the one at `address`, or where that is empty wherever its URL leads."""

    def __init__(self, alertmanager: Alertmanager, access: "Access | None", address: str = "") -> None:
        root = alertmanager.url.rstrip("/").removesuffix(PATH)
        self._access = access
        self._timeout = aiohttp.ClientTimeout(total=alertmanager.timeout_seconds)
        self._headers = {"Content-Type": "application/json"}
        self._server_name = access.server_name if access else None
        if address:
            from sidecar.notify.names import at_address  # names with several addresses are seldom

            parts = urlsplit(root)
            self._headers["Host"] = parts.netloc.rpartition("@")[2]
            self._server_name = self._server_name or parts.hostname
            root = at_address(root, address)
        self.name = without_credentials(root)
        self._url = root + PATH

    async def send(self, session: Session, body: bytes) -> Answer:
        """Post `body`; once more, if its answer is that nobody knows us and the secret is another one by now."""
        try:
            answer, status = await self._send(session, body)
            if status == 401 and self._access and self._access.renew():
                answer, _ = await self._send(session, body)
            return answer
        except ValueError as error:  # a file of ours
            return Answer("failed", str(error), True)

    async def _send(self, session: Session, body: bytes) -> tuple[Answer, int]:
        header = self._access.header() if self._access else None
        headers = {**self._headers, "Authorization": header} if header else self._headers
        context = (self._access.context() if self._access else None) or context_for(self._url)
        try:
            async with session.post(self._url, data=body, headers=headers, timeout=self._timeout, ssl=context,
                                    server_hostname=self._server_name, allow_redirects=False) as response:
                # What is not read here is not read at all: aiohttp closes a connection with unread bytes.
                said = "" if response.ok else repr((await response.content.read(ANSWER_BYTES)).decode(errors="replace"))
                return judged(response.status, response.content_type, said), response.status
        except TimeoutError:
            return Answer("failed", f"no answer within {self._timeout.total:g} s"), 0
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            if self._access:
                self._access.forget_certificates()
            return Answer("failed", _trouble(error), isinstance(error, aiohttp.ClientConnectorCertificateError)), 0


def _trouble(error: Exception) -> str:
    """Always in the same words: aiohttp's own name the object that holds the certificates, another one each time."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect: {error.os_error.strerror or error.os_error}"
    return str(error) or type(error).__name__


def judged(status: int, content_type: str, said: str) -> Answer:
    """What an answer means. Any 2xx is success, except a web page: that was a login page or another program."""
    if 200 <= status < 300 and content_type != "text/html":
        return Answer("accepted")
    if 200 <= status < 400:
        page = "a web page" if status < 300 else "a redirect, which is not followed"
        return Answer("failed", f"answered {status} with {page}: is this the URL of an Alertmanager?", True)
    if status in AT_FAULT:
        return Answer("refused", f"answered {status}: {said}")
    hint = ": check its URL and credentials" if status in MISCONFIGURED else ""
    return Answer("failed", f"answered {status} {said}{hint}", status in MISCONFIGURED)
