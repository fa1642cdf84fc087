"""The way to a running sidecar, for orders: its control socket, or its web server and the token."""

import argparse
import json
import os
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from sidecar.cli_http import NOBODY, Pass, add_flag, read_pass, untrusted
from sidecar.config import default_storage, environment
from sidecar.errors import SidecarError

FAILURE, REFUSED = 1, 4
FILE = "control.sock"
SECONDS = 30.0
"""Longest silence between two lines of an answer: what is waited for longest is the verdict, 20 s after the answer."""
MOST_LINE_BYTES = 1 << 20
START = f"`rag-sidecar run` starts one; it listens at {FILE} in the folder that its --storage.path names"
REFUSALS = frozenset({401, 403, 409, 429})

_CREDENTIALS = struct.Struct("3i")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that say which sidecar is meant."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--storage.path", dest="storage_path", metavar="DIRECTORY", type=Path,
                       help="where the sidecar keeps its state; default as for run")
    where.add_argument("--url", metavar="URL", help="unix:PATH, its control socket; or, with --token-file, where its "
                       "web server is")
    parser.add_argument("--token-file", metavar="FILE", type=Path, help="holds the token of its web.token_file")
    add_flag(parser)
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")


class Way(NamedTuple):
    """How a sidecar is asked: the path of its control socket, or the URL of its web server and what lets in there."""

    path: Path | None
    url: str = ""
    known: Pass = NOBODY

    @property
    def name(self) -> str:
        """What people call it."""
        return self.url or str(self.path)

    @classmethod
    def of(cls, arguments: argparse.Namespace, *, reads: bool = False) -> "Way":
        """What the flags say; who only `reads` needs no token. Raises SidecarError."""
        url, token_file = arguments.url, arguments.token_file
        if url is None or not url.startswith(("http://", "https://")):
            if token_file is not None:
                raise SidecarError("a token is for a sidecar's web server", help="say where it is: --url http://HOST:PORT")
            return cls(socket_path(url, arguments.storage_path))
        known = read_pass(arguments.http_config)
        if token_file is None:
            if reads or known.header.startswith("Bearer "):
                return cls(None, url.rstrip("/"), known)
            raise SidecarError(f"{url} changes nothing without a token",
                               help="--token-file FILE, or --url unix:PATH on the machine where the sidecar runs")
        from sidecar.config_secrets import read_token

        try:
            return cls(None, url.rstrip("/"), Pass(f"Bearer {read_token(token_file)}", known.context))
        except ValueError as error:
            raise SidecarError(f"--token-file: {error}") from None

    def posted(self, path: str, body: Mapping[str, Any]) -> AbstractContextManager[HTTPResponse]:
        """Post an order, see `asked`."""
        return self.asked("POST", path, body)

    @contextmanager
    def asked(self, method: str, path: str, body: Mapping[str, Any] | None = None, *,
              told: Container[int] = ()) -> Iterator[HTTPResponse]:
        """Send a request: the answer, of status 200 or one of `told`, to be read inside.

        Raises SidecarError, Refusal among them.
        """
        headers = {} if body is None else {"Content-Type": "application/json"}
        if self.path is not None:
            line: HTTPConnection = Line(self.path)
        else:
            headers |= {"Authorization": self.known.header} if self.known.header else {}
            line, path = self._over_tcp(path)
        try:
            line.request(method, path, None if body is None else json.dumps(body), headers)
            answer = line.getresponse()
            if answer.status != 200 and answer.status not in told:
                raise _refused(answer)
            yield answer
        except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
            raise self._trouble(error) from None
        finally:
            line.close()

    def _over_tcp(self, path: str) -> tuple[HTTPConnection, str]:
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise SidecarError(f"{self.url!r} is no address of a server: {error}") from None
        line = (HTTPSConnection(host, port, timeout=SECONDS, context=self.known.context) if parts.scheme == "https"
                else HTTPConnection(host, port, timeout=SECONDS))
        return line, parts.path + path

    def _trouble(self, error: Exception) -> SidecarError:
        """What is wrong where this came up while it was asked."""
        if isinstance(error, TimeoutError):
            return SidecarError(f"the sidecar at {self.name} has said nothing for {SECONDS:g} s",
                                help="is it stopped? `rag-sidecar doctor` looks at this machine")
        if isinstance(error, ssl.SSLError):
            return untrusted(self.name, error)
        if isinstance(error, ConnectionRefusedError | socket.gaierror):
            return SidecarError(f"cannot reach {self.name}: {error.strerror}", help="does a sidecar run there?")
        return SidecarError(f"what listens at {self.name} does not answer as a rag-sidecar does: {error!r}", help=START)


def socket_path(url: str | None, storage: Path | None) -> Path:
    """Where the control socket is. Raises SidecarError."""
    if url is not None:
        if not url.startswith("unix:") or url == "unix:":
            raise SidecarError(f"{url!r} is no address of a sidecar",
                               help="write it as unix:PATH, its control socket, or as http://HOST:PORT")
        return Path(url.removeprefix("unix:"))
    folder = storage or default_storage(environment())
    if folder is None:
        raise SidecarError("neither XDG_STATE_HOME nor HOME says where the sidecar keeps its state",
                           help="give --storage.path DIRECTORY")
    return folder / FILE


def _refused(answer: HTTPResponse) -> SidecarError:
    from sidecar.explain.seen import printable

    try:
        said = json.loads(answer.read(MOST_LINE_BYTES))
        return Refusal(printable(said["error"]), answer.status, str(said["errorType"]))
    except (ValueError, KeyError, TypeError):
        return SidecarError(f"the sidecar answered {answer.status}", help="is its version the same as this one's?")


class Refusal(SidecarError):
    """The sidecar does not do what it is asked for. `code` is the exit code."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        help = {
            "no_usable_channel": "start the program with `rag-sidecar run -- COMMAND`, or see docs/agent.md, or "
                                 "`cleanup:` in docs/configuration.md",
            "kill_switch": "remove the file that actions.kill_switch names",
            "paused": "`rag-sidecar resume` ends the pause",
            "target_down": "`rag-sidecar doctor` says what can be seen of it",
        }.get(reason, "")
        super().__init__(message, help=help)
        self.code = REFUSED if status in REFUSALS else FAILURE


class Line(HTTPConnection):
    """HTTP over the control socket. `connect` raises SidecarError where there is none that can be trusted."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """By way of the folder's descriptor: a path may be longer than an address."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            holder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.sock.connect(f"/proc/self/fd/{holder}/{self._path.name}")
            finally:
                os.close(holder)
        except PermissionError:
            raise SidecarError(f"cannot ask the sidecar at {self._path}: permission denied",
                               help="only the user that it runs as, and root, may ask it here: use sudo") from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise SidecarError(f"no sidecar listens at {self._path}", help=START) from None
        peer = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(peer)
        if uid not in (0, os.geteuid()) and os.geteuid() != 0:
            raise SidecarError(f"process {pid} of user {uid} listens at {self._path}: that is no sidecar of ours",
                               help="its folder should be writable for its owner alone")


def run(order: Callable[[], int]) -> int:
    """The exit code of an order; a refusal is told."""
    try:
        return order()
    except Refusal as refusal:
        print(f"rag-sidecar: {refusal}", *([f"  {refusal.help}"] if refusal.help else []), sep="\n", file=sys.stderr)
        return refusal.code
