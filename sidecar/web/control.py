"""The control socket: what a person of this machine may have done, over HTTP on a unix socket in the storage folder.

The kernel says who asks (SO_PEERCRED, unix(7)): the user that the sidecar runs as, and root. So no token is needed, and
nothing that changes anything is served over TCP. What can be read there can be read here, too.
"""

import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.actions.options import STRENGTH
from sidecar.actions.policy import Decision, Reason
from sidecar.errors import SidecarError
from sidecar.model import Cleanup
from sidecar.web.api import JSON
from sidecar.web.server import IDLE_SECONDS, SHUTDOWN_SECONDS, build
from sidecar.web.view import View

FILE = "control.sock"
LINES = "application/jsonl"
LOOK_SECONDS = 0.1
BEGIN_SECONDS = 15.0
"""Within this the guard says what it does with an order; a desk that hangs may take so long to hear it."""
END_SECONDS = 180.0
"""An attempt that nobody answers is closed after 90 s, one that is judged 20 s after its answer."""
BACKLOG = 16

_CREDENTIALS = struct.Struct("3i")

WHY: Mapping[Reason, str] = {
    Reason.DOWN: "its process is not there, or its memory cannot be read",
    Reason.STALE: "its memory cannot be read now, so nobody could say what a cleanup did",
    Reason.KILL_SWITCH: "the kill-switch is thrown: its file exists",
    Reason.NO_CHANNEL: "there is no way to ask it: no cleanup is configured for it, and no agent is in its processes",
    Reason.IN_FLIGHT: "a cleanup of it is under way; ask again when that has ended",
    Reason.SETTLING: "a cleanup of it is just being judged; ask again in 20 s",
}


@dataclass(frozen=True, slots=True)
class Hands:
    """What the socket may have done. `order` gives None where the target is not known (yet).

    `attempt` tells what has come of an order, as a row of `GET /api/v1/actions`. `sleep` is asyncio.sleep.
    """

    targets: Sequence[str]
    order: Callable[[str, Cleanup, bool], Decision | None]
    attempt: Callable[[str], Mapping[str, Any] | None]
    sleep: Callable[[float], Awaitable[None]]


class Wish(NamedTuple):
    """A cleanup that is asked for."""

    target: str
    cleanup: Cleanup
    dry_run: bool


class Refusal(Exception):
    """Why nothing is begun: an HTTP status, one word, one sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def build_control(view: View, hands: Hands) -> web.Application:
    """The application behind the socket: every page of `view`, and `POST /api/v1/cleanup`."""

    async def cleanup(request: web.Request) -> web.StreamResponse:
        try:
            wish = _wish(await request.read(), hands.targets)
            decision = hands.order(*wish)
            if decision is None:
                raise Refusal(503, "not_ready", "the sidecar has only just started; ask again in a second")
            if decision.order is None:
                why = WHY[decision.reason]
                raise Refusal(409, decision.reason.value, f"target {wish.target} is not cleaned: {why}")
        except Refusal as refusal:
            body = {"status": "error", "errorType": refusal.reason, "error": str(refusal)}
            return web.Response(status=refusal.status, text=json.dumps(body), content_type=JSON)
        return await _follow(request, decision.order.id, hands)

    app = build(view)
    app.middlewares.insert(0, _known_peer)
    app.add_routes([web.post("/api/v1/cleanup", cleanup)])
    return app


@web.middleware
async def _known_peer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Only the user that we run as, and root; the mode of the socket says so, too, and could be changed."""
    line = request.transport.get_extra_info("socket") if request.transport else None
    peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size) if line else b""
    if not peer or _CREDENTIALS.unpack(peer)[1] not in (0, os.geteuid()):
        raise web.HTTPForbidden(text="This socket serves the user that the sidecar runs as, and root.\n")
    return await handler(request)


def _wish(body: bytes, targets: Sequence[str]) -> Wish:
    """What the body asks for: `{"target", "level", "dry_run"}`, each of which may be left out. Raises Refusal."""
    try:
        asked = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise Refusal(400, "bad_data", "the body is no JSON") from None
    if not isinstance(asked, dict) or asked.keys() - {"target", "level", "dry_run"}:
        raise Refusal(400, "bad_data", "the body is to be an object of target, level and dry_run")
    target, level, dry_run = (asked.get(key, default) for key, default in
                              (("target", None), ("level", "standard"), ("dry_run", False)))
    if level not in STRENGTH or not isinstance(dry_run, bool):
        raise Refusal(400, "bad_data", f"level is one of {', '.join(STRENGTH)}, dry_run is true or false")
    if target is None and len(targets) > 1:
        raise Refusal(400, "bad_data", f"there are {len(targets)} targets, say which one: {', '.join(targets[:20])}")
    if target is not None and target not in targets:
        raise Refusal(404, "not_found", f"there is no such target; there is {', '.join(targets[:20])}")
    return Wish(target or targets[0], cast(Cleanup, level), dry_run)


async def _follow(request: web.Request, order_id: str, hands: Hands) -> web.StreamResponse:
    """Tell what becomes of an order: a line of JSON, `{"stage", "action"}`, for every stage that is reached."""
    response = web.StreamResponse(headers={"Content-Type": LINES})
    await response.prepare(request)
    said, row, waited = "", None, 0.0
    while said != "ended":
        row = hands.attempt(order_id) or row
        stage = _stage(row)
        if (row is None and waited > BEGIN_SECONDS) or waited > END_SECONDS:
            stage, row = "ended", {**(row or {"id": order_id}), "outcome": "unknown", "reason": "no_answer"}
        if stage != said:
            said = stage
            line = json.dumps({"stage": stage, "action": row or {"id": order_id}})
            await response.write(f"{line}\n".encode())
        elif said != "ended":
            await hands.sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
    await response.write_eof()
    return response


def _stage(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "asked"
    if row["outcome"] != "running":
        return "ended"
    if row["duration_seconds"] is not None:
        return "answered"
    return "begun" if row["delivered_at"] is None else "delivered"


@asynccontextmanager
async def listening(app: web.Application, folder: Path) -> AsyncIterator[Path]:
    """Serve `app` on `folder`/control.sock until the end; the path. What a killed sidecar has left there is replaced.

    Raises SidecarError where that cannot be: no right to write there, another sidecar, or a file that is no socket.
    """
    path = folder / FILE
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        holder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _unserved(path, error.strerror or "") from None
    try:
        made, inode = _bound(holder, path)
        runner = web.AppRunner(app, access_log=None, keepalive_timeout=IDLE_SECONDS, shutdown_timeout=SHUTDOWN_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, made, backlog=BACKLOG).start()
            yield path
        finally:
            await runner.cleanup()
            made.close()
            with suppress(OSError):
                if os.stat(FILE, dir_fd=holder, follow_symlinks=False).st_ino == inode:
                    os.unlink(FILE, dir_fd=holder)
    finally:
        os.close(holder)


def _bound(holder: int, path: Path) -> tuple[socket.socket, int]:
    """A listening socket in the folder, and its inode. It is there under its name at once, closed to others.

    By way of the folder's descriptor: a path may be longer than the 107 bytes that fit into an address.
    """
    passing = f".{FILE}.{os.getpid()}"
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _check_free(holder, path)
        os.fchmod(made.fileno(), stat.S_IRUSR | stat.S_IWUSR)  # what bind(2) gives the file
        with suppress(FileNotFoundError):
            os.unlink(passing, dir_fd=holder)
        made.bind(f"/proc/self/fd/{holder}/{passing}")
        made.listen(BACKLOG)
        os.rename(passing, FILE, src_dir_fd=holder, dst_dir_fd=holder)
        return made, os.stat(FILE, dir_fd=holder, follow_symlinks=False).st_ino
    except OSError as error:
        made.close()
        raise _unserved(path, error.strerror or str(error)) from None
    except SidecarError:
        made.close()
        raise


def _check_free(holder: int, path: Path) -> None:
    """Raise SidecarError if something is there that must not be replaced."""
    try:
        found = os.stat(FILE, dir_fd=holder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise _unserved(path, "there is a file of that name that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as other:
        try:
            other.connect(f"/proc/self/fd/{holder}/{FILE}")
        except ConnectionRefusedError:
            return  # nobody listens any more
        except BlockingIOError:
            pass
    raise _unserved(path, "another sidecar listens there")


def _unserved(path: Path, reason: str) -> SidecarError:
    return SidecarError(f"the control socket {path} cannot be served: {reason}",
                        help="give each sidecar a folder of its own that it may write to: --storage.path DIRECTORY")
