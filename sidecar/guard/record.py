"""The flight record: what the guard saw and did, kept until the desk has acknowledged it."""

from __future__ import annotations

import socket
from collections import deque

from sidecar.clock import wall
from sidecar.guard.wire import Event, encode, send
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

KEPT_EVENTS = 256


class FlightRecord:
    """A bounded record of events that outlives the desk. Lives as long as the guard.

    Nothing here waits: what a full socket or a dead desk does not take is sent later, to it or to its successor.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._events: deque[tuple[int, bytes]] = deque()
        self._last = 0
        self._sent = 0

    def tell(self, kind: str, target: str, order: str = "", **detail: Any) -> int:
        """Write an event down and give its number. When the record is full the oldest is given up and counted."""
        self._last += 1
        if len(self._events) == KEPT_EVENTS:
            self._events.popleft()
            self.lost += 1
        try:
            data = encode("event", event=Event(self._last, wall(), kind, target, order, detail), lost=self.lost)
        except ValueError as error:  # what cannot be told must not end the guard
            told = Event(self._last, wall(), "misunderstood", target, "", {"reason": f"{kind}: {error}"})
            data = encode("event", event=told, lost=self.lost)
        self._events.append((self._last, data))
        return self._last

    def flush(self, sock: socket.socket) -> bool:
        """Send what has not been sent. False if some is left because the other side has no room."""
        if self._sent == self._last:
            return True
        for number, data in self._events:
            if number > self._sent:
                if not send(sock, data):
                    return False
                self._sent = number
        return True

    def acknowledged(self, number: int) -> None:
        """The desk has taken in every event up to `number`."""
        while self._events and self._events[0][0] <= number:
            self._events.popleft()

    def start_over(self) -> None:
        """A new desk: everything not acknowledged is to be sent again."""
        self._sent = self._events[0][0] - 1 if self._events else self._last
