"""The desk's end of the line to the guard: what it has to tell, and what it is to do."""

import itertools
import socket
from collections.abc import Sequence
from typing import Any

from sidecar.actions.policy import Armed
from sidecar.errors import SidecarError
from sidecar.guard import wire
from sidecar.guard.wire import Basis, Event, Order
from sidecar.procfs import Identity

HELLO_SECONDS = 5.0


class Dispatch:
    """Sends orders and takes in events; never waits after `hello`. Lives as long as the desk.

    `ended` is True once the guard has hung up: then the desk ends, too. What the guard has no room for is not
    remembered as sent, so the next tick sends it again.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.ended = False
        self.lost_events = 0
        self.events_seen = 0
        self.sock = sock
        self._watched: dict[str, tuple[Identity, Basis]] = {}
        self._standing: dict[str, tuple[list[Armed], float, int]] = {}
        self._serial = itertools.count(1)
        self._waiting: list[Event] = []

    def hello(self, kill_switch: str, courier: bool) -> tuple[int, dict[str, Identity]]:
        """Report for work. The pid of the user's program (0: there is none) and what the guard already watches.

        Raises SidecarError if the guard does not answer.
        """
        self.sock.settimeout(HELLO_SECONDS)
        try:
            self.sock.send(wire.encode("hello", kill_switch=kill_switch, courier=courier))
            kind, body = wire.decode(self.sock.recv(wire.MAX_MESSAGE_BYTES))
        except (OSError, ValueError) as error:
            raise SidecarError(f"the guard did not answer: {error}", help="start with `rag-sidecar run`") from error
        self.sock.setblocking(False)
        if kind != "welcome":
            raise SidecarError(f"the guard said {kind!r} instead of welcome")
        return int(body["program_pid"]), {str(name): wire.identity(raw) for name, raw in body["watched"]}

    def receive(self) -> None:
        """Take what has come; to be called whenever the socket is readable."""
        while not self.ended:
            data = wire.receive(self.sock)
            if data is None:
                return
            if not data:
                self.ended = True
                return
            kind, body = wire.decode(data)
            if kind == "event":
                self.lost_events = int(body["lost"])
                self._waiting.append(wire.event(body["event"]))

    def events(self) -> list[Event]:
        """What the guard told since the last call, in order; acknowledged hereby."""
        self.receive()
        events, self._waiting = self._waiting, []
        if events:
            self.events_seen = events[-1].number
            self._send("ack", number=self.events_seen)
        for event in events:
            if event.kind in ("gone", "changed"):
                self._watched.pop(event.target, None)
            if event.kind in ("gone", "changed", "crossed"):
                self._standing.pop(event.target, None)  # the guard has changed what it holds: say it anew
        return events

    def watch(self, target: str, identity: Identity | None, basis: Basis | None) -> None:
        """Have the guard hold this process, or none."""
        wanted = (identity, basis) if identity and basis else None
        if self._watched.get(target) == wanted:
            return
        self._standing.pop(target, None)
        if wanted is None:
            if self._send("unwatch", target=target):
                self._watched.pop(target, None)
        elif self._send("watch", target=target, identity=wanted[0], basis=wanted[1]):
            self._watched[target] = wanted

    def stand(self, target: str, armed: Sequence[Armed], now: float) -> None:
        """Put these standing orders in force; sent when they changed, and renewed long before they run out."""
        known, at, _ = self._standing.get(target, ([], float("-inf"), 0))
        renew = armed and now - at > armed[0].order.valid_seconds / 2
        if (list(armed) == known and not renew) or target not in self._watched:
            return
        orders = [each.order._replace(not_before_seconds=max(0.0, each.not_before - now)) for each in armed]
        serial = next(self._serial)
        if self._send("orders", target=target, orders=orders, seen=self.events_seen, serial=serial):
            self._standing[target] = (list(armed), now, serial)

    def deliver(self, order: Order) -> bool:
        """Have an order carried out now. False if the guard has no room: then nothing was begun."""
        return self._send("deliver", order=order, seen=self.events_seen)

    def beat(self) -> None:
        """Say that the desk is alive."""
        self._send("beat")

    def _send(self, kind: str, **body: Any) -> bool:
        return not self.ended and wire.send(self.sock, wire.encode(kind, **body))
