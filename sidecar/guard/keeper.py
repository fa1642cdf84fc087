"""The keeper of the brake: a child of the guard that changes limits of cgroups, and puts back what it has changed.

Started as `python -m sidecar.guard.keeper FD` only where a brake is configured. It outlives the guard for as long as
that takes: at EOF everything is let go. What it holds stands in a file before it is held, so that the next keeper puts
it back, should this one be killed, too.

The guard says keep (the file), engage, release, lend and end. The keeper says kept (what an earlier one had left is put
back), state (off, engaged, held, lent) and returned (a loan is over). Times are monotonic.
"""

from __future__ import annotations

import _socket
import os
import select
import signal
import sys
from collections.abc import Callable

from sidecar.clock import monotonic
from sidecar.guard.held import left, write_down
from sidecar.guard.limits import MIB, V1, V2, Refused, check, free_bytes, limit_of, strangers
from sidecar.guard.wire import decode, encode, receive, send
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

LOOK_SECONDS = 1.0
"""How often it is seen anew whether a cgroup may still be held."""
LOAN_LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 2.0
"""So long, at most, a target waits for the guard's answer; then the kernel decides, as without us."""
LEAST_LOAN_BYTES = MIB
LAST_SECONDS = 10.0
"""After the guard's end, for loans that are still out; the next keeper goes on with what is left."""


class Hold:
    """One cgroup that is held. `state` is engaged, held, lent or late (the loan is called in); times are since when."""

    def __init__(self, target: str, limit: V1 | V2, pid: int, loan_bytes: int, hold_seconds: float) -> None:
        self.target = target
        self.limit = limit
        self.pid = pid
        self.loan_bytes = loan_bytes
        self.hold_seconds = hold_seconds
        self.state = "engaged"
        self.since = self.held_at = self.next_look = 0.0
        self.kills = 0

    def row(self) -> dict[str, Any]:
        """What the next keeper needs to know."""
        return {"folder": self.limit.folder, "inode": self.limit.inode, "kept": self.limit.kept,
                "loan_bytes": self.loan_bytes}


class Keeper:
    """Lives until the guard has hung up and nothing is held any more."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._holds: dict[str, Hold] = {}
        self._file = ""
        self._hung_up_at = 0.0

    def run(self) -> None:
        """Do as the guard says until it hangs up, then put everything back."""
        while not self._hung_up_at or (self._holds and monotonic() < self._hung_up_at + LAST_SECONDS):
            due = min((hold.next_look for hold in self._holds.values()), default=None)
            for fd, _ in self._epoll.poll(None if due is None else max(0.0, due - monotonic())):
                self._attend(fd)
            now = monotonic()
            for hold in list(self._holds.values()):
                try:
                    self._look(hold, now)
                except OSError as error:
                    self._give_up(hold, f"{error.strerror}: {hold.limit.folder}")

    def _attend(self, fd: int) -> None:
        if fd != self._sock.fileno():
            for hold in self._holds.values():
                if hold.limit.eventfd == fd:
                    hold.limit.hear()
                    hold.next_look = 0.0
            return
        data = receive(self._sock)
        if data:
            kind, body = decode(data)
            obey: dict[str, Callable[..., None]] = {
                "keep": self._keep, "engage": self._engage, "release": self._release, "lend": self._lend}
            obey[kind](**body)
        elif data is not None:  # the guard is gone: nobody waits for it any more
            self._epoll.unregister(self._sock.fileno())
            self._hung_up_at = monotonic()
            for target in list(self._holds):
                self._release(target)

    def _keep(self, file: str) -> None:
        """Put back what an earlier keeper has left in the file, and use it from now on."""
        self._file = file
        for number, row in enumerate(left(file)):
            try:
                limit = limit_of(str(row["folder"]), {str(k): int(v) for k, v in row["kept"].items()})
                loan = int(row["loan_bytes"])
                if limit.inode != int(row["inode"]) or limit.LIMIT not in limit.kept:
                    limit.close()
                    continue
                limit.let_go()
                if limit.limit_bytes < limit.bytes_of(limit.LIMIT) <= limit.limit_bytes + loan \
                        and not limit.call_in(now=True):
                    hold = self._holds[f"\0{number}"] = Hold(f"\0{number}", limit, 0, loan, 0.0)
                    hold.state = "late"
                else:
                    limit.close()
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                continue  # it is gone, or was not written by us
        self._written()
        self._tell("kept")

    def _written(self) -> bool:
        return write_down(self._file, [hold.row() for hold in self._holds.values()])

    def _tell(self, kind: str, **body: Any) -> None:
        send(self._sock, encode(kind, **body))

    def _engage(self, target: str, folder: str, pid: int, loan_bytes: int, hold_seconds: float) -> None:
        """Hold the cgroup's limit from now on, if it may be; else tell why not."""
        if target in self._holds:
            return
        try:
            limit = limit_of(folder)
        except (OSError, ValueError) as error:
            self._tell("state", target=target, state="off", reason=f"{error}")
            return
        hold = Hold(target, limit, pid, loan_bytes, hold_seconds)
        try:
            check(limit, pid, loan_bytes)
            self._holds[target] = hold
            if not self._written():
                raise Refused(f"what is held cannot be written to {self._file}")
            hold.kills = limit.kills()
            self._epoll.register(limit.engage(), limit.EVENTS)
        except (Refused, OSError, ValueError) as error:
            self._give_up(hold, str(error))
            return
        hold.next_look = 0.0
        self._tell("state", target=target, state="engaged", reason="")

    def _give_up(self, hold: Hold, why: str) -> None:
        """Let go of everything that can be let go of, and forget it."""
        for step in (hold.limit.let_go, lambda: hold.limit.call_in(now=True)):
            try:
                if hold.state != "engaged" or hold.limit.eventfd >= 0:
                    step()
            except (OSError, ValueError):
                continue
        self._forget(hold, why)

    def _forget(self, hold: Hold, why: str) -> None:
        self._holds.pop(hold.target, None)
        hold.limit.close()  # which takes its descriptor off the epoll, too
        self._written()
        self._tell("state", target=hold.target, state="off", reason=why)

    def _release(self, target: str) -> None:
        """The kernel decides again at once; a loan that is out is called in."""
        hold = self._holds.get(target)
        if hold is None:
            self._tell("state", target=target, state="off", reason="")
            return
        try:
            hold.limit.let_go()
        except OSError as error:
            self._give_up(hold, str(error))
            return
        if hold.state in ("engaged", "held"):
            if hold.state == "held":
                self._told(hold, "let_go", monotonic())
            self._forget(hold, "")
        else:
            self._change(hold, "late", monotonic())
            hold.next_look = 0.0

    def _lend(self, target: str) -> None:
        """The target may go beyond its limit: by the loan, less where the machine or a cgroup above has less."""
        hold, now = self._holds.get(target), monotonic()
        if hold is None or hold.state != "held":
            return
        try:
            limit = hold.limit
            loan = min(hold.loan_bytes, free_bytes(), limit.room_above_bytes())
            if loan < LEAST_LOAN_BYTES or strangers(limit, hold.pid):
                limit.let_go()
                self._told(hold, "refused", now)
                self._forget(hold, "nothing can be lent")
                return
            limit.lend(loan)
        except (OSError, KeyError, ValueError) as error:
            self._give_up(hold, str(error))
            return
        self._change(hold, "lent", now)

    def _change(self, hold: Hold, state: str, now: float) -> None:
        hold.state, hold.since, hold.next_look = state, now, now + LOAN_LOOK_SECONDS
        if state != "late":
            self._tell("state", target=hold.target, state=state, reason="")

    def _told(self, hold: Hold, outcome: str, now: float) -> None:
        """How a hold has ended: let_go, refused, unanswered, returned, called_in or killed."""
        self._tell("returned", target=hold.target, outcome=outcome, held_seconds=round(now - hold.held_at, 4))

    def _look(self, hold: Hold, now: float) -> None:
        """See what has become of it. Raises OSError, where the cgroup is gone for instance."""
        if now < hold.next_look:
            return
        limit = hold.limit
        if hold.state == "engaged":
            if limit.waiting():
                hold.held_at = now
                self._change(hold, "held", now)
                hold.next_look = now + PATIENCE_SECONDS
            elif (others := strangers(limit, hold.pid)) or not limit.engaged() or hold.pid not in limit.pids():
                limit.let_go()
                self._forget(hold, f"processes that are not the target's: {others[:5]}" if others else "it has changed")
            else:
                hold.next_look = now + LOOK_SECONDS
        elif hold.state == "held":
            limit.let_go()
            self._told(hold, "unanswered", now)
            self._forget(hold, "the guard has not answered")
        else:
            self._collect(hold, now)

    def _collect(self, hold: Hold, now: float) -> None:
        """Put the limit back if that goes; past its time as far as it goes, so that the target cannot grow again."""
        limit, late = hold.limit, hold.state == "late"
        if limit.call_in(now=late):
            killed = limit.kills() > hold.kills
            if hold.pid:
                self._told(hold, "killed" if killed else "called_in" if late else "returned", now)
            self._forget(hold, "")
        elif not late and now > hold.since + hold.hold_seconds:
            self._change(hold, "late", now)
        else:
            hold.next_look = now + (LOOK_SECONDS / 4 if late else LOAN_LOOK_SECONDS)


def main(fd: int) -> None:
    """Keep until the guard has hung up. Nothing that is meant for the guard's group or terminal ends this process."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.setsid()
    try:
        adjust = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(adjust, b"-999")
        finally:
            os.close(adjust)
    except OSError:
        pass  # without CAP_SYS_RESOURCE it is as likely to be killed as any other small process
    Keeper(_socket.socket(fileno=fd)).run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
