"""The guard: one loop that waits for nothing but its own clock and the kernel."""

import _socket
import os
import select
from collections.abc import Sequence
from functools import partial

from sidecar.clock import monotonic
from sidecar.guard import children, endure, wire
from sidecar.guard.agents import Agents
from sidecar.guard.deliver import Deliveries
from sidecar.guard.desk import Desk
from sidecar.guard.grip import Grip
from sidecar.guard.record import FlightRecord
from sidecar.guard.signals import signal
from sidecar.guard.voice import keep_standard_files_open, say
from sidecar.guard.watchlist import Watchlist

END_SECONDS = 15.0
CANNOT_START = 126
"""As a shell says it of a command that is there and cannot be run."""
COURIER_PAUSE_SECONDS = 1.0
MOST_MESSAGES_A_TURN = 64
"""A desk that never stops talking must not keep the guard from looking."""


class Guard:
    """Holds the targets, carries out every delivery, keeps the desk alive. Lives as long as the command."""

    def __init__(self, arguments: Sequence[str], command: list[str]) -> None:
        self._command = command
        self._desk = Desk(arguments)
        self._record = FlightRecord()
        self._epoll = select.epoll()
        self._agents = Agents(self._epoll, partial(self._desk.tell, "unlinked"))
        self._deliveries = Deliveries(self._record.tell, self._agents)
        self._watchlist = Watchlist(self._record.tell, self._deliveries, self._epoll)
        self._grip = Grip(self._watchlist, self._deliveries, self._epoll, self._record.tell)
        self._program_pid = 0
        self._courier_pid = 0
        self._courier_wanted = False
        self._courier_start = 0.0
        self._applied: int | None = None  # what is still to be told of it
        self._reload = False  # whether it is still to be told to
        self._stuck = False  # whether the desk has no room for what is to be told
        self._terminal = False
        self._end_by = 0.0
        self._code = 0
        self._over = False
        self._wake, self._waker = _socket.socketpair()

    def run(self) -> int:
        """Guard until the end: of the user's program, by a signal, or of a desk that could never start."""
        self._listen_for_signals()
        garbage = endure.Garbage(monotonic())
        endure.stay_in_memory()
        while not self._over:
            now = monotonic()
            self._start_what_is_due(now)
            due = now + min(self._deliveries.poll(now), self._desk.next_wake(now))
            for fd, _ in _only_look(self._watchlist, self._grip, self._record, self._epoll, garbage, now, due):
                self._attend(fd)
            now = monotonic()
            self._watchlist.look(now)
            self._deliveries.poll(now)
            self._grip.turn(now)
            self._record.save()
            self._flush()
            self._supervise(now)
        self._grip.end()
        self._desk.kill()  # the courier ends at the end of its line, and ends the programs that it runs
        return self._code

    def _listen_for_signals(self) -> None:
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._terminal = signal.SIGHUP not in children.IGNORED_BEFORE and children.has_terminal()
        for number in (*children.ENDING, signal.SIGCHLD):
            if number == signal.SIGHUP or number not in children.IGNORED_BEFORE:  # nohup: no hangup ends us
                signal.signal(number, lambda *_: None)  # the wakeup descriptor says which one it was
        self._epoll.register(self._wake.fileno(), select.EPOLLIN)

    def _start_what_is_due(self, now: float) -> None:
        if not self._end_by and self._desk.start_if_due(now):
            assert self._desk.sock
            self._record.start_over()
            self._applied = None
            self._epoll.register(self._desk.sock.fileno(), select.EPOLLIN)
            self._stuck = False
        if self._courier_wanted and not self._courier_pid and now >= self._courier_start:
            self._courier_start = now + COURIER_PAUSE_SECONDS
            try:
                self._courier_pid, line = children.spawn(children.program("sidecar.guard.courier"))
            except OSError as error:
                say(f"the courier, for http and exec, cannot be started: {error.strerror}")
                return
            self._deliveries.courier = line
            self._epoll.register(line.fileno(), select.EPOLLIN)

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
        elif not self._agents.attend(fd) and not self._grip.attend(fd):
            self._watchlist.ended(fd)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            for pid, code in children.reap():
                self._reaped(pid, code)
        elif number == signal.SIGHUP and (not self._terminal or children.has_terminal()):
            self._reload = True
        elif number in children.ENDING and self._program_pid:
            try:
                os.kill(self._program_pid, number)  # its end is ours
            except PermissionError:  # sudo, or another program that is not ours any more
                say(f"{self._command[0]} runs as another user and cannot be sent {children.ENDING[number]}")
        elif number in children.ENDING:
            self._begin_end(0)

    def _reaped(self, pid: int, code: int) -> None:
        now = monotonic()
        if pid == self._desk.pid:
            self._desk_reaped(now, code)
        elif pid == self._courier_pid:
            self._courier_pid, self._courier_start = 0, now + COURIER_PAUSE_SECONDS
        elif pid == self._program_pid:
            self._program_pid = 0
            children.give_terminal_to(os.getpgrp())
            self._begin_end(code)

    def _desk_reaped(self, now: float, code: int) -> None:
        while self._desk.sock and self._hear_desk(self._desk.sock):
            continue  # what it said before it ended
        self._desk.ended(now)
        if self._end_by:
            self._over = True
        elif self._desk.ever_greeted:
            self._desk.rest(now, f"the desk {children.how_it_ended(code)}")
        else:  # it has said itself why it cannot start, if it could
            if code > 128:
                say(f"the desk {children.how_it_ended(code)} before it was ready")
            self._code, self._over = code, True

    def _begin_end(self, code: int) -> None:
        """Withdraw every order, let the desk say its last words, then end with the code of the first reason to end."""
        if self._end_by:
            return
        self._watchlist.withdraw()
        self._flush()
        self._code, self._end_by = code, monotonic() + END_SECONDS
        self._courier_wanted = False
        if self._desk.sock:
            self._desk.sock.shutdown(_socket.SHUT_WR)
        self._over = self._over or not self._desk.pid

    def _supervise(self, now: float) -> None:
        if self._end_by:
            self._over = self._over or now > self._end_by
        elif self._desk.silent(now):
            say("the desk has not been heard of for too long and is killed")
            self._record.tell("desk_silent", "")
            self._desk.kill()

    def _hear_desk(self, sock: _socket.socket) -> bool:
        """Take in what has come, as much as there is time for. False if that was all."""
        for _ in range(MOST_MESSAGES_A_TURN):
            data, passed = wire.receive_passed(sock)
            if data is None:
                return False
            if not data:  # it has ended or is about to; reaping it tells the rest
                self._epoll.unregister(sock.fileno())
                self._desk.hang_up()
                return False
            self._desk.heard(monotonic())
            try:
                self._obey(passed, *wire.decode(data))
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._record.tell("misunderstood", "", reason=f"{type(error).__name__}: {error}")
            for fd in passed:
                os.close(fd)
        return True

    def _obey(self, passed: list[int], kind: str, body: dict[str, object]) -> None:
        """One message of the desk, with the descriptors that it has passed on: who keeps one takes it off the list.

        Raises ValueError, TypeError or KeyError if it makes no sense, OSError where no descriptor is left for it.
        """
        hear = {"hello": partial(self._hello, passed), "beat": self._record.done, "orders": self._orders,
                "watch": self._watchlist.watch, "unwatch": self._watchlist.unwatch, "told": self._watchlist.told,
                "keep": self._grip.keep, "brake": self._grip.wish, "deliver": self._watchlist.deliver,
                "link": partial(self._watchlist.link, passed)}[kind]
        hear(**body)  # type: ignore[operator]

    def _hello(self, passed: list[int], kill_switch: str, courier: bool, agent: bool = False) -> None:
        """A desk is ready. What it has passed on is the file that the flight record is kept in."""
        if self._end_by:
            return  # it was starting when the end began
        kept = bool(passed) and self._record.keep_in(passed.pop())
        if self._command and not self._program_pid and not self._desk.ever_greeted:
            try:
                self._program_pid = children.spawn_user_program(self._command, bool(agent))
            except OSError as error:
                say(f"cannot start {self._command[0]}: {error.strerror}")
                self._begin_end(CANNOT_START)
                return
        self._deliveries.kill_switch = str(kill_switch)
        self._courier_wanted = bool(courier)
        self._desk.hello()
        for part in self._watchlist.held():
            self._desk.tell("held", **part)
        self._desk.tell("welcome", program_pid=self._program_pid, first=self._record.first if kept else 0)

    def _orders(self, target: str, orders: list[list[object]], seen: int, serial: int) -> None:
        self._watchlist.stand(target, orders, seen)
        self._grip.turn(monotonic())
        self._applied = int(serial)

    def _flush(self) -> None:
        sock = self._desk.sock
        if sock and self._desk.greeted and not self._end_by:
            if self._applied is not None and not self._grip.releasing \
                    and self._desk.tell("applied", serial=self._applied):
                self._applied = None
            if self._reload and self._desk.tell("reload"):
                self._reload = False
            if self._record.flush(sock) == self._stuck:
                self._stuck = not self._stuck
                self._epoll.modify(sock.fileno(), select.EPOLLIN | select.EPOLLOUT if self._stuck else select.EPOLLIN)


def _only_look(watchlist: Watchlist, grip: Grip, record: FlightRecord, epoll: select.epoll,
               garbage: endure.Garbage, now: float, due: float) -> list[tuple[int, int]]:
    """Look at targets, for there is nothing else to do until then; what is heard, which ends it as an event does.

    With targets that are far from their lines the guard spends nearly all of its time here.
    """
    told = record.last
    while True:
        wait = min(watchlist.wait_seconds(now), max(0.0, due - now))
        garbage.collect_if_idle(now, wait)
        heard = epoll.poll(wait)
        now = monotonic()
        if heard or now >= due:
            return heard
        watchlist.look(now)
        grip.turn(now)
        if record.last != told:
            return []


def main(arguments: list[str]) -> int:
    """`rag-sidecar run …`: what stands after `--` is the program to start and guard; the desk reads the rest."""
    keep_standard_files_open()
    children.allow_many_files()
    endure.prepare()
    command: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        command = arguments[at + 1:]
    return Guard(arguments, command).run()
