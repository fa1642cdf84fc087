"""Asking a rag-sidecar or a Prometheus over its HTTP API, with errors that say what to do."""

import json
import re
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException, HTTPResponse
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from sidecar.cli_http import KNOWN, NOBODY, Pass, untrusted
from sidecar.errors import SidecarError
from sidecar.explain.seen import printable

EXAMPLE_URL = "http://127.0.0.1:11611"
UNIX = "unix:"
MAX_BYTES = 256 * 1024 * 1024
MOST_PAGE_BYTES = 4096
SECONDS = 30.0

_PLACE = re.compile(r"(\d+):(\d+): parse error: (.*)", re.DOTALL)
_START = "rag-sidecar run --pid N (or --config.file FILE) starts one; --url says where another one is"


class Refused(SidecarError):
    """What the API itself answered with an error: `status`, `kind` (its errorType) and its words."""

    def __init__(self, message: str, status: int, kind: str, *, help: str = "") -> None:
        super().__init__(message, help=help)
        self.status = status
        self.kind = kind


class Said(NamedTuple):
    """The `data` of an answer, and what was remarked: warnings and infos."""

    data: Any
    remarks: tuple[str, ...]


class _OverSocket(urllib.request.HTTPHandler):
    """Every request goes over the unix socket at this path, whatever host its URL names."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        """Raises SidecarError where nobody listens who can be trusted, URLError as urllib does."""
        from sidecar.cli_line import Line

        return self.do_open(lambda _host, **_: Line(self._path), req)


class Api:
    """One server, at an http URL or (`unix:PATH`) behind a sidecar's control socket, where the same pages are served.

    `known` lets in. `is_sidecar` says whether the last answer came from a rag-sidecar.
    """

    def __init__(self, url: str, known: Pass = NOBODY) -> None:
        self.is_sidecar = False
        self._header = known.header
        if url.startswith(UNIX) and url != UNIX:
            self.url, self._base = url, "http://localhost"
            over = _OverSocket(Path(url.removeprefix(UNIX)))
            self._opener = urllib.request.build_opener(over, urllib.request.ProxyHandler({}))
            return
        try:
            parts = urllib.parse.urlsplit(url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = None
        if not sound:
            raise SidecarError(f"{url!r} is no address of a server",
                               help=f"write it like {EXAMPLE_URL}, or unix:PATH for a sidecar's control socket")
        self.url = self._base = url.rstrip("/")
        proxies = {} if _is_here(parts.hostname or "") else urllib.request.getproxies()
        tls = urllib.request.HTTPSHandler(context=known.context)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), tls)

    def get(self, path: str, **parameters: str) -> Said:
        """GET. Raises SidecarError where nobody answers as the API does, Refused where the answer is an error."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        return self._ask(urllib.request.Request(f"{self._base}{path}{query}"))

    def query(self, path: str, expr: str, **parameters: str) -> Said:
        """POST an expression, which may be long. An expression that does not parse is shown with the place."""
        form = urllib.parse.urlencode({"query": expr, **parameters}, errors="surrogateescape").encode()
        try:
            return self._ask(urllib.request.Request(f"{self._base}{path}", data=form))
        except Refused as error:
            raise _placed(error, expr) or error from None

    def page(self, path: str) -> tuple[int, str]:
        """GET of a page that is plain text: its status and what it says. Raises SidecarError where nobody answers."""
        status, body = self._sent(urllib.request.Request(f"{self._base}{path}"))
        return status, printable(body[:MOST_PAGE_BYTES].decode(errors="replace").strip())

    def _ask(self, request: urllib.request.Request) -> Said:
        return self._read(*self._sent(request))

    def _sent(self, request: urllib.request.Request) -> tuple[int, bytes]:
        if self._header:
            request.add_unredirected_header("Authorization", self._header)
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                self.is_sidecar = answer.headers.get("Server") == "rag-sidecar"
                status, body = answer.status, answer.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                status, body = error.code, error.read(MAX_BYTES)
        except urllib.error.URLError as error:
            raise self._silent(error.reason) from None
        except (OSError, HTTPException, ValueError) as error:
            raise self._silent(error) from None
        return status, body

    def _read(self, status: int, body: bytes) -> Said:
        if len(body) > MAX_BYTES:
            raise SidecarError(f"the answer of {self.url} is larger than {MAX_BYTES >> 20} MiB",
                               help="ask for less: narrow the matchers, or lengthen --step")
        try:
            answer = json.loads(body)
            if answer["status"] == "success":
                remarks = [*(answer.get("warnings") or ()), *(answer.get("infos") or ())]
                return Said(answer["data"], tuple(map(printable, remarks)))
            kind, error = printable(answer["errorType"]), printable(answer["error"])
        except (ValueError, KeyError, TypeError):
            shown = printable(body[:80].decode("utf-8", "replace").strip())
            raise SidecarError(f"{self.url} answers, but not as a rag-sidecar or a Prometheus does: {status} {shown!r}",
                               help=f"is it the right port? {_START}") from None
        help = {503: "ask again in a moment", 401: f"{KNOWN} holds a user and a password, or a token"}.get(status, "")
        raise Refused(f"{self.url} refused ({kind}): {error}", status, kind, help=help)

    def _silent(self, reason: object) -> SidecarError:
        if isinstance(reason, ssl.SSLError):
            return untrusted(self.url, reason)
        if isinstance(reason, ConnectionRefusedError):
            return SidecarError(f"cannot ask {self.url}: nothing listens there", help=_START)
        if isinstance(reason, TimeoutError):
            return SidecarError(f"cannot ask {self.url}: no answer within {SECONDS:.0f} s",
                                help="is it busy or stopped? `rag-sidecar doctor` looks at this machine")
        return SidecarError(f"cannot ask {self.url}: {printable(reason)}", help=_START)


def _is_here(host: str) -> bool:
    """Whether a host is this machine, which no proxy leads to."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _placed(error: Refused, expr: str) -> Refused | None:
    """A parse error with the line it is in and a caret below the place."""
    found = _PLACE.search(str(error))
    if error.kind != "bad_data" or not found:
        return None
    lines: Sequence[str] = expr.split("\n")
    line, column = int(found[1]), int(found[2])
    if not 1 <= line <= len(lines) or not 1 <= column <= len(lines[line - 1]) + 1:
        return None
    begun = lines[line - 1][:column - 1]
    shown = printable(lines[line - 1].replace("\t", " "))
    caret = " " * len(printable(begun.replace("\t", " "))) + "^"
    return Refused(f"the expression does not parse: {found[3]}\n\n    {shown}\n    {caret}", error.status, error.kind,
                   help="docs/rules.md says what is not supported; quote the expression for your shell")
