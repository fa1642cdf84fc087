"""What guard and desk say to each other: JSON messages over a SOCK_SEQPACKET pair, never waited for.

`_socket` is what is below `socket`, which would take a sixteenth of the guard's memory budget for its enumerations.

The desk says hello (once, when its configuration is good; with it comes the file for the flight record), beat, watch,
told, unwatch, link (with it comes a socket to an agent), orders and deliver. The guard says, in answer to hello, held
(what it watches, in parts) and welcome; then applied (all orders up to a serial number are in force), unlinked (a
socket is of no more use) and event. The guard tells of a message that it cannot read and goes on; one that the desk
cannot read ends the desk, because both come from one package.
"""

from __future__ import annotations

import _socket
import errno
import json
import sys

from sidecar.procfs import Identity
from sidecar.tuples import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any, Literal

VERSION = 1
MAX_MESSAGE_BYTES = 65536
LINE_BYTES = 1 << 20
"""What may be on its way in one direction; the kernel gives as much as it allows (wmem_max, usually a fifth)."""
LONGEST_INTEGER = 40
MOST_SIGNALS = 64
INT_BYTES = 4
LONGEST_TIMEOUT_SECONDS = 600.0
MOST_ARGUMENTS = 64
MOST_ARGUMENTS_CHARACTERS = 8192
MOST_TARGETS = 1024
MOST_PIDS = 1 << 22
"""The kernel's PID_MAX_LIMIT."""


class Basis(NamedTuple):
    """How used bytes are read: `anon`, `rss` and `pss` of a process, with `tree` those of its descendants too.

    Or `cgroup`: usage less file pages, from two files. Or `told`: only the desk knows them.
    """

    kind: Literal["anon", "rss", "pss", "cgroup", "told"]
    usage: str = ""
    stat: str = ""
    tree: bool = False


class Channel(NamedTuple):
    """One way to ask for a cleanup: a signal, an URL for a POST, the agents in the target's processes, a program.

    `argv` is the program's absolute path and its arguments; no shell reads them.
    """

    kind: Literal["signal", "http", "agent", "exec"]
    signal: int = 0
    url: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    timeout_seconds: float = 10.0
    argv: tuple[str, ...] = ()


class Order(NamedTuple):
    """Ask `target` for a cleanup if its used bytes are over `line_bytes`; `labels` name the alert it comes from.

    A standing order waits for the crossing; it is carried out at most `times` times, not before
    `not_before_seconds` from now, each time `again_after_seconds` after the last, and ends after `valid_seconds`.
    Without a line it is carried out as it is. `dry_run` walks through every check and stops before delivery. A POST
    carries `instance_id`, so that a program that has been replaced since can decline.
    """

    id: str
    target: str
    cleanup: str
    channels: tuple[Channel, ...]
    labels: dict[str, str]
    line_bytes: float | None
    inclusive: bool = False
    times: int = 1
    not_before_seconds: float = 0.0
    again_after_seconds: float = 300.0
    valid_seconds: float = 600.0
    dry_run: bool = False
    instance_id: str = ""

    def crossed(self, used_bytes: float) -> bool:
        """Whether the rule's own comparison holds."""
        if self.line_bytes is None:
            return True
        return used_bytes >= self.line_bytes if self.inclusive else used_bytes > self.line_bytes


class Event(NamedTuple):
    """What the guard saw or did. `number` grows by one; `at` is Unix time; `detail` holds plain JSON values.

    Kinds: crossed, delivered, answered, refused, failed (`retry_after_seconds`: asked to wait so long), spent (no
    channel is left), recovered (below the line again when about to act), busy (something is in flight, or rests),
    foreign (another sidecar acts on the target), owned (not any more), gone (the process ended), changed (it is
    another program now), unreadable.
    """

    number: int
    at: float
    kind: str
    target: str
    order: str
    detail: dict[str, Any]


def encode(kind: str, most_bytes: int = MAX_MESSAGE_BYTES, **body: Any) -> bytes:
    """A message as bytes. Raises ValueError if it is larger than it may be."""
    data = json.dumps({"v": VERSION, "type": kind, **body}, separators=(",", ":"), allow_nan=False).encode()
    if len(data) > most_bytes:
        raise ValueError(f"a {kind} message of {len(data)} bytes is more than {most_bytes}")
    return data


def decode(data: bytes) -> tuple[str, dict[str, Any]]:
    """The kind and the body of a message. Raises ValueError if it is none, or of another version."""
    body = loads(data)
    if not isinstance(body, dict) or body.pop("v", None) != VERSION:
        raise ValueError("not a message of this version")
    return str(body.pop("type", "")), body


def loads(data: bytes) -> Any:
    """JSON as a stranger has written it: numbers are finite and not too long. Raises ValueError for everything else."""
    try:
        return json.loads(data, parse_float=_finite, parse_constant=_finite, parse_int=_whole)
    except RecursionError:
        raise ValueError("lists within lists within lists") from None


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0.0:  # infinity and nan, from which no integer can be made
        raise ValueError("a number beyond all measure")
    return number


def _whole(text: str) -> int:
    if len(text) > LONGEST_INTEGER:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def identity(raw: list[Any]) -> Identity:
    """An identity as it came over the wire. Raises TypeError or ValueError if it is none."""
    boot, pid, start, exe = raw
    if not 0 < int(pid) <= MOST_PIDS:
        raise ValueError("a number that no process has")
    device, inode = exe or (0, 0)
    return Identity(str(boot), int(pid), int(start), (int(device), int(inode)) if exe else None)


def basis(raw: list[Any]) -> Basis:
    """A basis as it came over the wire. Raises TypeError or ValueError if it is none."""
    kind, usage, stat, tree = raw
    if kind not in ("anon", "rss", "pss", "cgroup", "told"):
        raise ValueError("a basis of an unknown kind")
    return Basis(kind, str(usage), str(stat), bool(tree))


def order(raw: list[Any]) -> Order:
    """An order as it came over the wire. Raises TypeError or ValueError if it is none."""
    order_id, target, cleanup, channels, labels, line, inclusive, *numbers, dry_run, instance_id = raw
    times, not_before, again_after, valid = numbers
    if min(int(times), float(not_before), float(again_after), float(valid)) < 0:
        raise ValueError("an order for a time before now, or for less than no times")
    return Order(
        str(order_id), str(target), str(cleanup), tuple(_channel(*each) for each in channels),
        {str(name): str(value) for name, value in dict(labels).items()}, None if line is None else float(line),
        bool(inclusive), int(times), float(not_before), float(again_after), float(valid), bool(dry_run),
        str(instance_id))


def _channel(kind: Any, number: Any, url: Any, headers: Any, timeout: Any, argv: Any) -> Channel:
    if kind not in ("signal", "http", "agent", "exec") or not 0 <= int(number) <= MOST_SIGNALS:
        raise ValueError("a channel of an unknown kind, or a signal that does not exist")
    if not 0 < float(timeout) <= LONGEST_TIMEOUT_SECONDS:
        raise ValueError("a timeout that is none")
    words = tuple(str(word) for word in argv)
    if len(words) > MOST_ARGUMENTS or sum(map(len, words)) > MOST_ARGUMENTS_CHARACTERS or any("\0" in w for w in words):
        raise ValueError("more arguments than a program gets, or one that it cannot get")
    if (kind == "exec") != bool(words) or (words and not words[0].startswith("/")):
        raise ValueError("a program without an absolute path")
    return Channel(kind, int(number), str(url), tuple((str(k), str(v)) for k, v in headers), float(timeout), words)


def event(raw: list[Any]) -> Event:
    """An event as it came over the wire. Raises TypeError or ValueError if it is none."""
    number, at, kind, target, order_id, detail = raw
    return Event(int(number), float(at), str(kind), str(target), str(order_id), dict(detail))


def pair() -> tuple[_socket.socket, _socket.socket]:
    """Two ends: the guard's, which never blocks, and the one to be inherited by a child."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    for end in (ours, theirs):
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, LINE_BYTES)
    return ours, theirs


def receive(sock: _socket.socket) -> bytes | None:
    """The next message, None if there is none now, b"" at the end."""
    try:
        return sock.recv(MAX_MESSAGE_BYTES)
    except BlockingIOError:
        return None
    except ConnectionError:
        return b""


def receive_passed(sock: _socket.socket) -> tuple[bytes | None, list[int]]:
    """The next message as `receive` gives it, and the descriptors that came with it: close what you do not keep."""
    try:
        data, passed, _, _ = sock.recvmsg(MAX_MESSAGE_BYTES, _socket.CMSG_SPACE(INT_BYTES), _socket.MSG_CMSG_CLOEXEC)
    except BlockingIOError:
        return None, []
    except ConnectionError:
        return b"", []
    fds = [int.from_bytes(raw[at:at + INT_BYTES], sys.byteorder) for _, kind, raw in passed
           if kind == _socket.SCM_RIGHTS for at in range(0, len(raw) - INT_BYTES + 1, INT_BYTES)]
    return data, fds


def send(sock: _socket.socket, data: bytes, fd: int = -1) -> bool:
    """Send without waiting, a descriptor with it. False if the other side has no room now or is gone."""
    passed = [] if fd < 0 else [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, fd.to_bytes(INT_BYTES, sys.byteorder))]
    try:
        sock.sendmsg([data], passed)
    except (BlockingIOError, ConnectionError):
        return False
    except OSError as error:
        if error.errno == errno.ETOOMANYREFS:  # so many descriptors are on their way that the kernel takes no more
            return False
        raise
    return True
