"""The desk's end of the line to the guard: what it has to tell, and what it is to do."""

import errno
import itertools
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Literal

from sidecar.actions.policy import Armed
from sidecar.errors import SidecarError
from sidecar.guard import wire
from sidecar.guard.wire import Basis, Event, Order
from sidecar.procfs import Identity

log = logging.getLogger("sidecar.actions")

HELLO_SECONDS = 5.0
MOST_UNLINKED = 4096
NO_WELCOME = wire.encode("welcome", program_pid=0)
MOST_ORDER_BYTES = wire.MAX_MESSAGE_BYTES // 2
"""The guard tells of an order with its labels: that has to fit into a message, too."""


class Dispatch:
    """Sends orders and takes in events; never waits after `hello`. Lives as long as the desk.

    `ended` is True once the guard has hung up: then the desk ends, too. `unlinked` names the processes, as (target,
    pid), to whose agents the guard has no socket any more. What the guard has no room for is not remembered as sent, so
    the next tick sends it again. `foreign` are the targets on which another sidecar acts: here the guard refuses to.
    `left` is what a guard that was killed has left in its flight record, events with lower numbers than all others;
    it is over for good once `beat` has said so. `on_reload` is called when the guard was asked (SIGHUP) for a reload.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.ended = False
        self.lost_events = 0
        self.events_seen = 0
        self.on_reload: Callable[[], object] = lambda: None
        self.sock = sock
        self.unlinked: deque[tuple[str, int]] = deque(maxlen=MOST_UNLINKED)
        self.foreign: set[str] = set()
        self.left: list[Event] = []
        self._watched: dict[str, tuple[Identity | None, Basis | None]] = {}
        self._told: dict[str, tuple[Sequence[Sequence[int]], int]] = {}
        self._standing: dict[str, tuple[list[Armed], float]] = {}
        self._serial = itertools.count(1)
        self._serials: dict[str, int] = {}
        self._applied = 0
        self._waiting: list[Event] = []

    def hello(self, kill_switch: str, courier: bool, agent: bool = False,
              record: int = -1) -> tuple[int, dict[str, Identity]]:
        """Report for work. The pid of the user's program (0: there is none) and what the guard already watches.

        `agent`: the program is started with one inside. `record`: a descriptor of the file that the flight record is
        to be kept in; `left`, set before to all that is in it, is cut to what an earlier guard has written. Raises
        SidecarError if the guard does not answer. One that is ending already has hung up: see `ended`.
        """
        self.sock.settimeout(HELLO_SECONDS)
        try:
            hello = wire.encode("hello", kill_switch=kill_switch, courier=courier, agent=agent)
            if not wire.send(self.sock, hello, record):
                raise BrokenPipeError(errno.EPIPE, "it has hung up")
            kind, body, self.ended = _hear_welcome(self.sock)
        except (OSError, ValueError) as error:
            raise SidecarError(f"the guard did not answer: {error}", help="start with `rag-sidecar run`") from error
        self.sock.setblocking(False)
        if kind != "welcome":
            raise SidecarError(f"the guard said {kind!r} instead of welcome")
        known = {str(name): wire.identity(raw) for name, raw in body["watched"]}
        self._watched = {name: (found, None) for name, found in known.items()}
        self.foreign = {str(name) for name in body["foreign"]}
        first = int(body.get("first", 0))
        if record >= 0 and not first and not self.ended:
            log.warning("the guard keeps its flight record in memory only", extra={
                "help": "another sidecar uses this storage path: give each its own with --storage.path"})
        self.left = [event for event in self.left if event.number < first]
        return int(body["program_pid"]), known

    def change(self, kill_switch: str, courier: bool) -> bool:
        """Have the guard know what a reload has changed of what `hello` said. False if it has no room for it now."""
        return self._send("hello", kill_switch=kill_switch, courier=courier)

    def receive(self) -> list[Event]:
        """Take what has come, to be called whenever the socket is readable; new events, which `events` gives, too."""
        new: list[Event] = []
        while not self.ended:
            data = wire.receive(self.sock)
            if data is None:
                break
            if not data:
                self.ended = True
                break
            kind, body = wire.decode(data)
            if kind == "unlinked":
                self.unlinked.append((str(body["target"]), int(body["pid"])))
            elif kind == "reload":
                self.on_reload()
            elif kind == "applied":
                self._applied = max(self._applied, int(body["serial"]))
            elif kind == "event":
                self.lost_events = int(body["lost"])
                new.append(wire.event(body["event"]))
        self._waiting += new
        return new

    def events(self) -> list[Event]:
        """What the guard told since the last call, in order."""
        self.receive()
        events, self._waiting = self._waiting, []
        if events:
            self.events_seen = events[-1].number
        for event in events:
            if event.kind == "foreign":
                self.foreign.add(event.target)
            elif event.kind in ("owned", "gone", "changed"):
                self.foreign.discard(event.target)
            if event.kind in ("gone", "changed", "unreadable"):
                self._watched.pop(event.target, None)  # it may not be held any more: say it anew
            if event.kind in ("gone", "changed", "crossed"):
                self._standing.pop(event.target, None)  # the guard has changed what it holds: say it anew
        return events

    def untold(self, target: str) -> bool:
        """Whether the guard may have told something of a target that `events` has not given yet."""
        if any(event.target == target for event in self._waiting):
            return True
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:  # nothing, or it has hung up
            return False

    def watch(self, target: str, identity: Identity | None, basis: Basis | None) -> None:
        """Have the guard hold this process, or none. A target without an identity has the basis `told`."""
        wanted = (identity, basis) if basis else None
        if self._watched.get(target) == wanted:
            return
        self._standing.pop(target, None)
        self._told.pop(target, None)
        if wanted is None:
            if self._send("unwatch", target=target):
                self._watched.pop(target, None)
                self.foreign.discard(target)
        elif self._send("watch", target=target, identity=wanted[0], basis=wanted[1]):
            if self._watched.get(target, (None, None))[0] != wanted[0]:
                self.foreign.discard(target)
            self._watched[target] = wanted

    def brake(self, kind: Literal["keep", "brake"], **body: Any) -> bool:
        """Have the guard `keep` what a file says is held, or `brake` a target: see `Grip`. False if it has no room."""
        return self._send(kind, **body)

    def link(self, target: str, process: str, pid: int, start_time_ticks: int, fd: int) -> bool:
        """Give the guard a socket that is connected to the agent in this process. False if it has no room for it."""
        return target in self._watched and self._send(
            "link", fd, target=target, process=process, pid=pid, start_time_ticks=start_time_ticks)

    def tell(self, target: str, used_bytes: float | None, shares: Sequence[Sequence[int]] = (),
             error_bytes: int = 0) -> None:
        """What the guard cannot see: used bytes, at every tick; what processes share, when it was measured anew."""
        known = shares, error_bytes
        if target not in self._watched or (used_bytes is None and self._told.get(target, ((), 0)) == known):
            return
        if self._send("told", target=target, used_bytes=used_bytes, shares=shares, error_bytes=error_bytes):
            self._told[target] = known

    def stand(self, target: str, armed: Sequence[Armed], now: float) -> None:
        """Put these standing orders in force, and no others; sent when they changed, renewed before they run out.

        No orders are sent, too: those of a desk that came before may still be in force.
        """
        if target not in self._watched:
            return
        known, at = self._standing.get(target, (None, now))
        age = now - at  # negative where the clock was set back
        if list(armed) == known and all(0.0 <= age <= each.order.valid_seconds / 2 for each in armed):
            return
        orders = [each.order._replace(not_before_seconds=max(0.0, each.not_before - now)) for each in armed]
        serial = next(self._serial)
        self._serials.pop(target, None)
        if self._send("orders", target=target, orders=orders, seen=self.events_seen, serial=serial):
            self._standing[target] = (list(armed), now)
            self._serials[target] = serial

    def in_force(self, target: str) -> bool:
        """Whether the guard has acknowledged the last standing orders for this target: only they hold then.

        False before it was given any, when those of an earlier desk may hold. A target that is not watched has none.
        """
        serial = self._serials.get(target, 0)
        return target not in self._watched or 0 < serial <= self._applied

    def deliver(self, order: Order) -> bool:
        """Have an order carried out now. False if the guard has no room: then nothing was begun."""
        return self._send("deliver", order=order, seen=self.events_seen)

    def beat(self, done: int) -> None:
        """Say that the desk is alive, and has done with all events up to the number `done`.

        Those after it the guard keeps, and tells them to the next desk should this one not live to finish.
        """
        self._send("beat", number=done)

    def _send(self, kind: str, fd: int = -1, **body: Any) -> bool:
        try:
            data = wire.encode(kind, MOST_ORDER_BYTES, **body)
        except ValueError as error:  # labels without measure, in a rule file: the tick must go on
            log.error("order not sent", extra={"kind": kind, "target": body.get("target", ""), "error": str(error)})
            return False
        return not self.ended and wire.send(self.sock, data, fd)


def _hear_welcome(sock: socket.socket) -> tuple[str, dict[str, Any], bool]:
    """The guard's answer, with all that it has told before of what it holds, and whether it has hung up.

    Raises OSError or ValueError.
    """
    held: dict[str, list[Any]] = {"watched": [], "foreign": []}
    while True:
        data = sock.recv(wire.MAX_MESSAGE_BYTES)
        kind, body = wire.decode(data or NO_WELCOME)
        for what, known in held.items():
            known += body.get(what, ())
        if kind != "held":
            return kind, body | held, not data
