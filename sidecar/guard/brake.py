"""The guard's hand on the brake: when a target may be held at its limit, and what is done when it is.

Which cgroups those are the desk says; the keeper, a child of the guard, does it. This module is loaded only where a
brake is configured. The reasons stand in docs/brake.md.
"""

from __future__ import annotations

import _socket
import os
import select
from collections.abc import Callable, Mapping

from sidecar.clock import monotonic
from sidecar.guard import children
from sidecar.guard.claim import Claims
from sidecar.guard.deliver import Deliveries
from sidecar.guard.voice import say
from sidecar.guard.watch import Watch
from sidecar.guard.wire import decode, encode, receive, send
from sidecar.tuples import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Any

AGAIN_SECONDS = 1.0
"""Until it is tried again what could not be done; and how long a look at the kill-switch holds."""
END_SECONDS = 1.0
LONGEST_HOLD_SECONDS = 60.0
MOST_LOAN_BYTES = 1 << 40


class Wish(NamedTuple):
    """The cgroup of a target, how much it may be lent beyond its limit, and for how long."""

    folder: str
    loan_bytes: int
    hold_seconds: float


class Brake:
    """Lives as long as the guard, from when one is configured on. `tell` writes into the flight record."""

    def __init__(self, file: str, epoll: select.epoll, tell: Callable[..., int]) -> None:
        self.file = file
        self._epoll = epoll
        self._tell = tell
        self._line: _socket.socket | None = None
        self._start_at = 0.0
        self._kept = True
        self._wishes: dict[str, Wish] = {}
        self._states: dict[str, str] = {}
        self._asked: dict[str, str] = {}
        self._again: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self._switch = 0.0, False

    def wish(self, target: str, folder: str, loan_bytes: int, hold_seconds: float) -> None:
        """Hold this target when it may be held; with no folder, not any more. Raises ValueError for what cannot be."""
        if not folder:
            self._wishes.pop(target, None)
            return
        wish = Wish(str(folder), int(loan_bytes), float(hold_seconds))
        if not wish.folder.startswith("/") or os.path.realpath(wish.folder) != wish.folder:
            raise ValueError("a folder that is none")
        if not (0 < wish.loan_bytes <= MOST_LOAN_BYTES and 0 < wish.hold_seconds <= LONGEST_HOLD_SECONDS):
            raise ValueError("a loan that is none")
        if self._wishes.get(target, wish) != wish:
            self._release(target)
        self._wishes[target] = wish

    @property
    def releasing(self) -> bool:
        """Whether something is held still that must not be any more, or was by a keeper that has died."""
        return not self._kept or "release" in self._asked.values()

    def turn(self, now: float, watches: Mapping[str, Watch], deliveries: Deliveries, claims: Claims) -> None:
        """Have those targets held that may be, and no others; to be called whenever something may have changed."""
        if self._line is None and now >= self._start_at:
            self._start(now)
        for target in self._wishes.keys() | self._states.keys():
            wish, watch = self._wishes.get(target), watches.get(target)
            may = bool(wish and watch and self._may(watch, wish, now, claims)) and not self._off(now, deliveries)
            if not may:
                self._release(target)
            elif wish and watch and watch.process.identity and target not in self._states \
                    and target not in self._asked and now >= self._again.get(target, 0.0):
                self._ask("engage", target, folder=wish.folder, pid=watch.process.identity.pid,
                          loan_bytes=wish.loan_bytes, hold_seconds=wish.hold_seconds)

    def _may(self, watch: Watch, wish: Wish, now: float, claims: Claims) -> bool:
        """Whether an aggressive cleanup may be asked for now, or was a moment ago: without one it would be in vain."""
        stands = [each for each in watch.standing if each.order.cleanup == "aggressive" and not each.order.dry_run
                  and now < each.until]
        return bool(stands) and not claims.foreign(watch.target) and (
            now < watch.delivered_at + wish.hold_seconds or any(each.ready(now) for each in stands))

    def _off(self, now: float, deliveries: Deliveries) -> bool:
        """Whether the kill-switch is thrown."""
        looked_at, off = self._switch
        if now > looked_at + AGAIN_SECONDS:
            off = bool(deliveries.kill_switch) and os.path.exists(deliveries.kill_switch)
            self._switch = now, off
        return off

    def _release(self, target: str) -> None:
        asked, state = self._asked.get(target), self._states.get(target, "off")
        if asked == "engage" or (asked != "release" and state in ("engaged", "held")):  # a loan ends by itself
            self._ask("release", target)

    def _ask(self, kind: str, target: str, **body: Any) -> None:
        if self._line and self._kept and send(self._line, encode(kind, target=target, **body)):
            self._asked[target] = kind

    def _start(self, now: float) -> None:
        self._start_at = now + AGAIN_SECONDS
        try:
            _, self._line = children.spawn(children.program("sidecar.guard.keeper"))
        except OSError as error:
            say(f"the keeper of the brake cannot be started: {error.strerror}")
            return
        self._kept = False
        self._epoll.register(self._line.fileno(), select.EPOLLIN)
        send(self._line, encode("keep", file=self.file))

    def attend(self, fd: int) -> list[str] | None:
        """The targets that have just been held and wait for `answer`; None where the descriptor is not the keeper's."""
        if self._line is None or fd != self._line.fileno():
            return None
        held: list[str] = []
        while (data := receive(self._line)) is not None:
            if not data:
                self._lost()
                break
            kind, body = decode(data)
            if kind == "kept":
                self._kept = True
            elif self._hear(kind, **body):
                held.append(str(body["target"]))
        return held

    def _hear(self, kind: str, target: str, **news: Any) -> bool:
        """Take in what the keeper says of a target. Whether it is held and waits."""
        if kind == "returned":
            self._tell("brake", target, state="returned", reason="", **news)
            return False
        state, reason = str(news["state"]), str(news["reason"])
        if self._asked.get(target) != "release" or state in ("off", "lent"):
            self._asked.pop(target, None)
        if state == "off":
            self._states.pop(target, None)
            self._again[target] = monotonic() + AGAIN_SECONDS
        else:
            self._states[target] = state
        if self._said.get(target) != state + reason and not target.startswith("\0"):
            self._said[target] = state + reason
            self._tell("brake", target, state=state, reason=reason)
        return state == "held"

    def answer(self, target: str, watch: Watch | None) -> None:
        """A held target may go on: by a loan where a cleanup is on its way, or else as the kernel decides."""
        wish = self._wishes.get(target)
        helped = watch and wish and monotonic() < watch.delivered_at + wish.hold_seconds
        self._ask("lend" if helped else "release", target)

    def _lost(self) -> None:
        """The keeper has died: the next one, started at once unless this one was too, puts back what it has left."""
        assert self._line
        self._epoll.unregister(self._line.fileno())
        self._line.close()
        self._line, self._kept = None, False
        self._states.clear()
        self._asked.clear()

    def end(self) -> None:
        """The guard ends: wait for a moment until everything has been put back."""
        if self._line is None:
            return
        self._line.shutdown(_socket.SHUT_WR)
        self._line.settimeout(END_SECONDS)
        try:
            while self._line.recv(4096):
                continue
        except OSError:
            return
