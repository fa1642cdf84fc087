"""The guard: one loop that waits for nothing but its own clock and the kernel."""

import os
import select
import signal
import socket
from collections.abc import Sequence

from sidecar.clock import monotonic
from sidecar.guard import children, wire
from sidecar.guard.deliver import Deliveries
from sidecar.guard.desk import Desk
from sidecar.guard.record import FlightRecord
from sidecar.guard.watchlist import Watchlist

END_SECONDS = 15.0
COURIER_PAUSE_SECONDS = 1.0
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Guard:
    """Holds the targets, carries out every delivery, keeps the desk alive. Lives as long as the command."""

    def __init__(self, arguments: Sequence[str], command: list[str]) -> None:
        self._command = command
        self._desk = Desk(arguments)
        self._record = FlightRecord()
        self._epoll = select.epoll()
        self._deliveries = Deliveries(self._record.tell)
        self._watchlist = Watchlist(self._record.tell, self._deliveries, self._epoll)
        self._program_pid = 0
        self._courier_pid = 0
        self._courier_wanted = False
        self._courier_start = 0.0
        self._end_by = 0.0
        self._code = 0
        self._over = False
        self._wake, self._waker = socket.socketpair()

    def run(self) -> int:
        """Guard until the end: of the user's program, by a signal, or of a desk that could never start."""
        self._listen_for_signals()
        while not self._over:
            now = monotonic()
            self._start_what_is_due(now)
            wait = min(self._watchlist.wait_seconds(now), self._deliveries.poll(now), self._desk.next_wake(now))
            for fd, _ in self._epoll.poll(wait):
                self._attend(fd)
            now = monotonic()
            self._watchlist.look(now)
            self._deliveries.poll(now)
            self._flush()
            self._supervise(now)
        self._desk.kill()
        if self._courier_pid:
            os.kill(self._courier_pid, signal.SIGKILL)
        return self._code

    def _listen_for_signals(self) -> None:
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in (*ENDING, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)  # the wakeup descriptor says which one it was
        self._epoll.register(self._wake.fileno(), select.EPOLLIN)

    def _start_what_is_due(self, now: float) -> None:
        if not self._end_by and self._desk.start_if_due(now):
            assert self._desk.sock
            self._record.start_over()
            self._epoll.register(self._desk.sock.fileno(), select.EPOLLIN)
        if self._courier_wanted and not self._courier_pid and now >= self._courier_start:
            ours, theirs = wire.pair()
            module = [*children.program("sidecar.guard.courier"), str(theirs.fileno())]
            self._courier_pid = children.spawn(module, theirs.fileno())
            theirs.close()
            self._deliveries.courier = ours
            self._epoll.register(ours.fileno(), select.EPOLLIN)

    def _attend(self, fd: int) -> None:
        """One descriptor has something to say."""
        if fd == self._wake.fileno():
            for number in self._wake.recv(256):
                self._signalled(number)
        elif self._desk.sock and fd == self._desk.sock.fileno():
            self._hear_desk(self._desk.sock)
        elif self._deliveries.courier and fd == self._deliveries.courier.fileno():
            if not self._deliveries.take_answers():
                self._epoll.unregister(fd)
                self._deliveries.courier_gone()
        else:
            self._watchlist.ended(fd)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            for pid, code in children.reap():
                self._reaped(pid, code)
        elif number in ENDING and self._program_pid:
            os.kill(self._program_pid, number)  # its end is ours
        elif number in ENDING:
            self._begin_end(0)

    def _reaped(self, pid: int, code: int) -> None:
        now = monotonic()
        if pid == self._desk.pid:
            if self._desk.sock:
                self._hear_desk(self._desk.sock)  # what it said before it ended
            self._desk.ended(now)
            if not self._desk.ever_greeted:  # it has said on the terminal why it cannot start
                self._code = code
                self._over = True
            self._over = self._over or bool(self._end_by)
        elif pid == self._courier_pid:
            self._courier_pid, self._courier_start = 0, now + COURIER_PAUSE_SECONDS
        elif pid == self._program_pid:
            self._program_pid = 0
            children.give_terminal_to(os.getpgrp())
            self._begin_end(code)

    def _begin_end(self, code: int) -> None:
        """Withdraw every order, let the desk say its last words, then end with this code."""
        self._code = code
        self._end_by = self._end_by or monotonic() + END_SECONDS
        self._courier_wanted = False
        self._watchlist.withdraw()
        self._flush()
        if self._desk.sock:
            self._desk.sock.shutdown(socket.SHUT_WR)
        self._over = not self._desk.pid

    def _supervise(self, now: float) -> None:
        if self._end_by:
            self._over = self._over or now > self._end_by
        elif self._desk.silent(now):
            self._record.tell("desk_silent", "")
            self._desk.kill()

    def _hear_desk(self, sock: socket.socket) -> None:
        """Take in every message that has come."""
        while True:
            data = wire.receive(sock)
            if data is None:
                return
            if not data:  # it has ended or is about to; reaping it tells the rest
                self._epoll.unregister(sock.fileno())
                self._desk.hang_up()
                return
            self._desk.heard(monotonic())
            try:
                self._obey(*wire.decode(data))
            except (ValueError, TypeError, KeyError) as error:
                self._record.tell("misunderstood", "", reason=f"{type(error).__name__}: {error}")

    def _obey(self, kind: str, body: dict[str, object]) -> None:
        """One message of the desk. Raises ValueError, TypeError or KeyError if it makes no sense."""
        hear = {"hello": self._hello, "beat": lambda: None, "ack": self._record.acknowledged,
                "watch": self._watchlist.watch, "unwatch": self._watchlist.unwatch,
                "orders": self._orders, "deliver": self._watchlist.deliver}[kind]
        hear(**body)  # type: ignore[operator]

    def _hello(self, kill_switch: str, courier: bool) -> None:
        if self._command and not self._program_pid and not self._desk.ever_greeted:
            self._program_pid = children.spawn_user_program(self._command)
        self._deliveries.kill_switch = kill_switch
        self._courier_wanted = courier and not self._end_by
        self._desk.hello()
        if self._desk.sock:
            wire.send(self._desk.sock, wire.encode(
                "welcome", program_pid=self._program_pid, watched=self._watchlist.identities()))

    def _orders(self, target: str, orders: list[list[object]], seen: int, serial: int) -> None:
        self._watchlist.stand(target, orders, seen)
        if self._desk.sock:
            wire.send(self._desk.sock, wire.encode("applied", serial=serial))

    def _flush(self) -> None:
        sock = self._desk.sock
        if sock and self._desk.greeted:
            done = self._record.flush(sock)
            self._epoll.modify(sock.fileno(), select.EPOLLIN if done else select.EPOLLIN | select.EPOLLOUT)


def main(arguments: list[str]) -> int:
    """`rag-sidecar run …`: what stands after `--` is the program to start and guard; the desk reads the rest."""
    command: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        command = arguments[at + 1:]
    return Guard(arguments, command).run()
