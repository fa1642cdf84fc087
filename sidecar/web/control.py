"""The control socket: what a person of this machine may have done, over HTTP on a unix socket in the storage folder.

The kernel says who asks (SO_PEERCRED, unix(7)): the user that the sidecar runs as, and root. So no token is needed.
What can be read over TCP can be read here, too.
"""

import os
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler

from sidecar.errors import SidecarError
from sidecar.web.connection import IDLE_SECONDS
from sidecar.web.orders import Orders
from sidecar.web.server import SHUTDOWN_SECONDS, pages
from sidecar.web.view import View

FILE = "control.sock"
BACKLOG = 16

_CREDENTIALS = struct.Struct("3i")


def build_control(view: View) -> web.Application:
    """The application behind the socket: every page of `view`, and what its hands do for people."""
    app = pages(view)
    app.middlewares.insert(0, _known_peer)
    app.add_routes(Orders(view, None).routes())
    return app


@web.middleware
async def _known_peer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Only the user that we run as, and root; the mode of the socket says so, too, and could be changed."""
    line = request.transport.get_extra_info("socket") if request.transport else None
    peer = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size) if line else b""
    if not peer or _CREDENTIALS.unpack(peer)[1] not in (0, os.geteuid()):
        raise web.HTTPForbidden(text="This socket serves the user that the sidecar runs as, and root.\n")
    return await handler(request)


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
