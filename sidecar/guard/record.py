"""The flight record: what the guard saw and did, kept until the desk has done with it."""

from __future__ import annotations

import _socket
from collections import deque

from sidecar.clock import wall
from sidecar.guard.wire import Event, encode, send
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

KEPT_EVENTS = 512
MOST_TELLINGS = 10
"""So many desks in a row may die of an event, if that is what they die of, before it is given up."""
MOST_REASON = 300


class FlightRecord:
    """A bounded record of events that outlives the desk. Lives as long as the guard.

    Nothing here waits: what a full socket or a dead desk does not take is sent later, to it or to its successor.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._events: deque[tuple[int, bytes]] = deque()
        self._last = 0
        self._sent = 0
        self._first = self._tellings = 0

    def tell(self, kind: str, target: str, order: str = "", **detail: Any) -> int:
        """Write an event down and give its number. A full record gives up its oldest; unsent ones are counted."""
        if kind == "misunderstood" and len(self._events) > KEPT_EVENTS // 2:  # the rest is for what was done
            self.lost += 1
            return self._last
        self._last += 1
        if len(self._events) == KEPT_EVENTS:
            number, _ = self._events.popleft()
            self.lost += number > self._sent
        try:
            data = encode("event", event=Event(self._last, wall(), kind, target, order, detail), lost=self.lost)
        except ValueError as error:  # what cannot be told must not end the guard
            reason = {"reason": f"{kind} of {target}: {error}"[:MOST_REASON]}
            data = encode("event", event=Event(self._last, wall(), "misunderstood", "", "", reason), lost=self.lost)
        self._events.append((self._last, data))
        return self._last

    def flush(self, sock: _socket.socket) -> bool:
        """Send what has not been sent. False if some is left because the other side has no room."""
        if self._sent == self._last:
            return True
        for number, data in self._events:
            if number > self._sent:
                if not send(sock, data):
                    return False
                self._sent = number
        return True

    def done(self, number: int) -> None:
        """Nothing up to this number need be told again to a desk that starts anew."""
        until = int(number)  # from the wire, it may be anything
        while self._events and self._events[0][0] <= until:
            self._events.popleft()

    def start_over(self) -> None:
        """A new desk: everything that the one before had not done with is to be sent again."""
        first = self._events[0][0] if self._events else 0
        self._first, self._tellings = first, self._tellings + 1 if first == self._first else 1
        if first and self._tellings > MOST_TELLINGS:
            self._events.popleft()
            self.lost += 1
        self._sent = self._events[0][0] - 1 if self._events else self._last
