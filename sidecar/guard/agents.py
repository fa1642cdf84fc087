"""The sockets to the agents in the targets' processes: dialled and checked by the desk, kept and used by the guard."""

from __future__ import annotations

import _socket
import os
import select
import sys
from collections.abc import Callable, Collection

from sidecar.guard.fanout import Fanout
from sidecar.guard.reply import Reply
from sidecar.procfs import ENDED, KeptFile, parse_stat

MOST_OF_A_TARGET = 64
READ_BYTES = 65536

Lost = Callable[..., object]
"""`lost(target=…, pid=…)`: the socket to this process is of no more use."""


class Link:
    """A socket to the agent in one life of one process. Lives until it is dropped, or replaced by another one."""

    __slots__ = ("fanout", "pid", "process", "reply", "sock", "start_time_ticks", "target")

    def __init__(self, target: str, process: str, pid: int, start_time_ticks: int, sock: _socket.socket) -> None:
        self.target = target
        self.process = process
        self.pid = pid
        self.start_time_ticks = start_time_ticks
        self.sock = sock
        self.fanout: Fanout | None = None
        self.reply = Reply()

    def alive(self) -> bool:
        """Whether that life of the process goes on; its number may have been given to another one.

        So it does as far as is known while no descriptor is left to look: its end would have closed the socket.
        """
        try:
            fields = parse_stat(KeptFile(f"/proc/{self.pid}/stat", size=1024).read())
            return int(fields[19]) == self.start_time_ticks and fields[0] not in (b"Z", b"X")
        except (*ENDED, ValueError, IndexError):
            return False
        except OSError:
            return True


class Agents:
    """The agents of all targets, as far as the desk has handed them over. Lives as long as the guard."""

    def __init__(self, epoll: select.epoll, lost: Lost) -> None:
        self._epoll = epoll
        self._lost = lost
        self._links: dict[int, Link] = {}

    def hold(self, target: str, process: str, pid: int, start_time_ticks: int, fd: int) -> None:
        """Take over this descriptor of a connected socket, in the place of an older one to the same process.

        Raises ValueError if it is no such socket, or one too many; then it is closed. One that waits for an answer
        is kept instead.
        """
        try:
            sock = _socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            raise ValueError("what was handed over is no socket") from None
        link = Link(target, process, pid, start_time_ticks, sock)
        before = [known for known in self._of(target) if known.pid == pid or known.process == process]
        try:
            _check(link)
            if not before and self.count(target) >= MOST_OF_A_TARGET:
                raise ValueError(f"target {target} has more than {MOST_OF_A_TARGET} agents")
        except ValueError:
            sock.close()
            raise
        if any(known.fanout for known in before):
            sock.close()
            return
        for known in before:
            self._close(known)
        sock.setblocking(False)
        self._links[fd] = link
        self._epoll.register(fd, select.EPOLLIN)

    def _of(self, target: str) -> list[Link]:
        return [link for link in self._links.values() if link.target == target]

    def _close(self, link: Link) -> None:
        fd = link.sock.fileno()
        self._epoll.unregister(fd)
        del self._links[fd]
        link.sock.close()

    def drop(self, target: str) -> None:
        """Let go of a target's agents."""
        for link in self._of(target):
            self._close(link)

    def give_up(self, fanout: Fanout, reason: str, but: Collection[str] = ()) -> None:
        """Nobody waits for the answers to this order any more: the lines on which one may still come are closed.

        Those of the processes `but` are.
        """
        for link in [link for link in self._links.values() if link.fanout is fanout and link.process not in but]:
            self._fail(link, reason)

    def _fail(self, link: Link, reason: str) -> None:
        if link.fanout:
            link.fanout.fail(link.process, reason)
        self._close(link)
        self._lost(target=link.target, pid=link.pid)

    def count(self, target: str) -> int:
        """How many agents of the target are held."""
        return len(self._of(target))

    def ask(self, target: str, attempt: str, question: bytes) -> Fanout:
        """Write the question to every agent of the target, without waiting. Who cannot take it has failed."""
        fanout = Fanout(attempt)
        for link in self._of(target):
            link.fanout, link.reply = fanout, fanout.expect(link.process)
            if not link.alive():
                self._fail(link, "gone")
                continue
            try:
                sent = link.sock.send(question)
            except OSError:
                sent = 0
            if sent < len(question):
                self._fail(link, "closed")
        return fanout

    def attend(self, fd: int) -> bool:
        """Something has come, if this descriptor is an agent's: False if it is not."""
        link = self._links.get(fd)
        if link is None:
            return False
        try:
            data = link.sock.recv(READ_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        if not data or link.fanout is None:  # an end, or words that nobody has asked for
            self._fail(link, "closed")
            return True
        try:
            link.reply.feed(data)
            link.fanout.heard(link.process)
        except ValueError:
            self._fail(link, "protocol")
            return True
        if link.reply.whole:
            link.fanout = None
            if link.reply.closes:
                self._fail(link, "closed")
        return True


def _check(link: Link) -> None:
    """Raise ValueError unless the other end is in the process that was named."""
    if link.sock.family != _socket.AF_UNIX or link.sock.type != _socket.SOCK_STREAM:
        raise ValueError("what was handed over is no connection to an agent")
    try:
        peer = link.sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    except OSError as error:
        raise ValueError(f"what was handed over tells no peer: {error.strerror}") from None
    if int.from_bytes(peer[:4], sys.byteorder) != link.pid:
        raise ValueError("what was handed over leads to another process")
