"""The way to the agent in a process: its socket is looked for below the process's own root, and checked at every step.

A target is a stranger. What it has put there may be a link to somewhere else, a pipe, or another program's socket. So
every component is opened by itself and no link is followed; directory and socket must be the process's own and closed
to others; and whoever listens must be that very process, as the kernel tells it (SO_PEERCRED, unix(7)). The socket is
connected through the descriptor that was checked. Nothing here waits.
"""

import errno
import os
import select
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sidecar.errors import ProbeFailed, printable
from sidecar.procfs import KeptFile, status_field

PLACES = ("run/rag-sidecar", "tmp", "dev/shm", "var/tmp")
"""Where agents make their directory, in this order."""

WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
SO_PEERPIDFD = 77
"""Since Linux 6.5; asm-generic/socket.h."""
_CREDENTIALS = struct.Struct("3i")
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Owner(NamedTuple):
    """Whose process it is: `uid` as we see it, `names` of its user as it may see itself, `pid` as it sees itself."""

    uid: int
    names: tuple[int, ...]
    pid: int


def dial(pid: int, check: Callable[[], None], directory: str = "", proc: str = "/proc") -> socket.socket:
    """A connected socket to the agent in this process. `check` raises OSError once the process has ended.

    `directory` is one more place, looked at first. Raises ProbeFailed with the reason `absent` where there is no
    agent; with another one where there is something that is not used: `link`, `kind`, `owner`, `mode`, `peer`, `busy`.
    Raises OSError as the kernel does (EACCES, EPERM: another user's process; ENOENT, ESRCH: it has ended).
    """
    root = os.open(f"{proc}/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        owner = _owner(f"{proc}/{pid}")
        check()  # all this was read of one and the same process
        trouble: ProbeFailed | None = None
        for path in _paths(owner, directory):
            try:
                found = _connected(root, path, owner.uid)
            except FileNotFoundError:
                continue
            except ProbeFailed as error:
                trouble = error if trouble is None or trouble.reason == "absent" else trouble
                continue
            try:
                _check_peer(found, pid, owner.uid)
                check()
            except (OSError, ProbeFailed):
                found.close()
                raise
            return found
        raise trouble or ProbeFailed("absent", _nowhere(owner, directory))
    finally:
        os.close(root)


def _owner(folder: str) -> Owner:
    """Raises OSError."""
    status = KeptFile(f"{folder}/status").read()
    uid = int(status.partition(b"\nUid:")[2].split(None, 2)[1])
    try:
        ranges = [[int(word) for word in line.split()] for line in KeptFile(f"{folder}/uid_map").read().splitlines()]
    except OSError:  # a kernel without user namespaces
        ranges = []
    inside = [first + uid - outer for first, outer, count in ranges if outer <= uid < outer + count]
    numbers = status.partition(b"\nNSpid:")[2].partition(b"\n")[0].split()
    inner = int(numbers[-1]) if numbers else status_field(status, b"Pid")
    return Owner(uid, tuple(dict.fromkeys((*inside, uid))), inner)


def _paths(owner: Owner, directory: str) -> Iterator[tuple[str, ...]]:
    """Every path at which its agent may listen, as components below its root."""
    for place in (directory, *PLACES):
        for name in owner.names if place else ():
            yield (*place.strip("/").split("/"), f"rag-sidecar-{name}", f"{owner.pid}.sock")


def _nowhere(owner: Owner, directory: str) -> str:
    """What was looked for, and where."""
    names = " or ".join(f"rag-sidecar-{name}/{owner.pid}.sock" for name in owner.names)
    places = ", ".join(f"/{place.strip('/')}" for place in (directory, *PLACES) if place)
    return f"no socket {printable(names)} below {printable(places)}"


def _connected(root: int, path: tuple[str, ...], uid: int) -> socket.socket:
    """Connect to the socket at this path below the root, if it and its directory are the user's.

    Raises ProbeFailed, or FileNotFoundError where there is nothing.
    """
    shown = "/" + "/".join(path)
    *folders, name = path
    opened = [root]
    try:
        for folder in folders:
            opened.append(os.open(folder, _STEP | os.O_DIRECTORY, dir_fd=opened[-1]))
        _check_owner(os.fstat(opened[-1]), uid, shown.rpartition("/")[0])
        opened.append(os.open(name, _STEP, dir_fd=opened[-1]))
        found = os.fstat(opened[-1])
        if not stat.S_ISSOCK(found.st_mode):
            raise ProbeFailed("link" if stat.S_ISLNK(found.st_mode) else "kind", f"{shown} is no socket")
        _check_owner(found, uid, shown)
        return _connect(opened[-1], shown)
    except FileNotFoundError:
        raise
    except NotADirectoryError:
        raise ProbeFailed("link", f"on the way to {shown} there is a link, or what is no directory") from None
    except PermissionError:
        raise ProbeFailed("permission", f"{shown} may not be opened") from None
    except OSError as error:
        raise ProbeFailed("error", f"{shown}: {error.strerror}") from None
    finally:
        for fd in opened[1:]:
            os.close(fd)


def _check_owner(found: os.stat_result, uid: int, shown: str) -> None:
    if found.st_uid != uid:
        raise ProbeFailed("owner", f"{shown} belongs to user {found.st_uid}, the process to user {uid}")
    if found.st_mode & WRITABLE_BY_OTHERS:
        raise ProbeFailed("mode", f"{shown} may be written to by others than its owner")


def _connect(fd: int, shown: str) -> socket.socket:
    """Connect to the socket that the descriptor stands for: whatever is at its path by now does not matter."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.connect(f"/proc/self/fd/{fd}")
    except OSError as error:
        made.close()
        if isinstance(error, ConnectionRefusedError):  # left behind by a process that was killed
            raise ProbeFailed("absent", f"nobody listens at {shown}") from None
        if isinstance(error, BlockingIOError):
            raise ProbeFailed("busy", f"too many others wait to be let in at {shown}") from None
        if isinstance(error, PermissionError):
            raise
        raise ProbeFailed("kind", f"{shown}: {error.strerror}") from None
    return made


def _check_peer(made: socket.socket, pid: int, uid: int) -> None:
    """Raise ProbeFailed unless the other end is in this process: it listened there itself, and lives."""
    peer = made.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    peer_pid, peer_uid, _ = _CREDENTIALS.unpack(peer)
    if (peer_pid, peer_uid) != (pid, uid):
        raise ProbeFailed("peer", f"process {peer_pid} of user {peer_uid} listens there, not process {pid}")
    if _has_ended(made):
        raise ProbeFailed("peer", f"who listened there has ended: {pid} is the number of another process by now")


def _has_ended(made: socket.socket) -> bool:
    """Whether the process at the other end has ended, where the kernel gives it to us instead of its number."""
    try:
        pidfd = made.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError as error:
        return error.errno != errno.ENOPROTOOPT
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(0))
    finally:
        os.close(pidfd)
