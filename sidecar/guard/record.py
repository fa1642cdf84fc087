"""The flight record: what the guard saw and did, kept until the desk has done with it.

In memory for the next desk of this guard; with a file also for the next guard, should this one be killed.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import stat
from collections import deque

from sidecar.clock import monotonic, wall
from sidecar.guard.ring import RING_BYTES, Ring, frames
from sidecar.guard.wire import Event, decode, encode, event, send
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

KEPT_EVENTS = 512
KEPT_BYTES = RING_BYTES // 2
"""Half of the ring, so that whatever is kept in memory still stands in the file, too."""
MOST_TELLINGS = 10
"""So many desks in a row may die of an event, if that is what they die of, before it is given up."""
MOST_REASON = 300
RETRY_SECONDS = 10.0
SLOW_SECONDS = 0.01
"""A disk that takes longer is written to after deliveries, not before them."""


class FlightRecord:
    """A bounded record of events that outlives the desk. Lives as long as the guard.

    Nothing here waits for the desk: what a full socket or a dead desk does not take is sent later, to it or to its
    successor. `first` is the number of the first event that is this guard's own in the file, 0 without a file; `last`
    that of the last event.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.first = self.last = 0
        self._events: deque[tuple[int, bytes]] = deque()
        self._bytes = 0
        self._sent = 0
        self._told_first = self._tellings = 0
        self._ring: Ring | None = None
        self._written = self._done = self._done_written = 0
        self._slow = False
        self._retry_at = 0.0

    def keep_in(self, fd: int) -> bool:
        """Keep the record in this file, too; events are numbered on from those that are in it.

        Takes the descriptor over. False where that cannot be: another guard has locked the file.
        """
        if self._ring and self._ring.same_as(fd):
            os.close(fd)
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ring = Ring(fd)
        except OSError:
            os.close(fd)
            return False
        if self._ring:
            self._ring.close()
        self._ring, self._written, self._retry_at = ring, 0, 0.0
        self.first = ring.last + 1
        self.last = max(self.last, ring.last)
        self.save()
        return True

    def tell(self, kind: str, target: str, order: str = "", **detail: Any) -> int:
        """Write an event down and give its number. A full record gives up its oldest; unsent ones are counted."""
        if kind == "misunderstood" and len(self._events) > KEPT_EVENTS // 2:  # the rest is for what was done
            self.lost += 1
            return self.last
        self.last += 1
        self._make_room(0)
        try:
            data = encode("event", event=Event(self.last, wall(), kind, target, order, detail), lost=self.lost)
        except ValueError as error:  # what cannot be told must not end the guard
            reason = {"reason": f"{kind} of {target}: {error}"[:MOST_REASON]}
            data = encode("event", event=Event(self.last, wall(), "misunderstood", "", "", reason), lost=self.lost)
        self._make_room(len(data))
        self._events.append((self.last, data))
        self._bytes += len(data)
        if not self._slow:
            self.save()
        return self.last

    def _make_room(self, size: int) -> None:
        while self._events and (len(self._events) >= KEPT_EVENTS or self._bytes + size > KEPT_BYTES):
            self.lost += self._forget() > self._sent

    def _forget(self) -> int:
        number, data = self._events.popleft()
        self._bytes -= len(data)
        return number

    def save(self) -> None:
        """Write to the file what is not there yet; where that fails, go on in memory and try again later."""
        begun, ring = monotonic(), self._ring
        if not ring or begun < self._retry_at or (self._written, self._done_written) == (self.last, self._done):
            return
        fresh: list[tuple[int, bytes]] = []
        for each in reversed(self._events):
            if each[0] <= self._written:
                break
            fresh.append(each)
        try:
            while fresh:
                ring.write(*fresh.pop())
            if self._done_written < self._done:
                ring.write(self._done)
        except OSError:
            self._retry_at = begun + RETRY_SECONDS
            return
        self._written, self._done_written = self.last, self._done
        self._slow = monotonic() - begun > SLOW_SECONDS

    def flush(self, sock: _socket.socket) -> bool:
        """Send what has not been sent. False if some is left because the other side has no room."""
        if not self._events or self._sent >= self._events[-1][0]:
            return True
        for number, data in self._events:
            if number > self._sent:
                if not send(sock, data):
                    return False
                self._sent = number
        return True

    def done(self, number: int) -> None:
        """Nothing up to this number need be told again to a desk that starts anew, or with the next guard."""
        until = min(int(number), self.last)  # from the wire, it may be anything
        while self._events and self._events[0][0] <= until:
            self._forget()
        if until > self._done:
            self._done = until
            self.save()

    def start_over(self) -> None:
        """A new desk: everything that the one before had not done with is to be sent again."""
        first = self._events[0][0] if self._events else 0
        self._told_first, self._tellings = first, self._tellings + 1 if first == self._told_first else 1
        if first and self._tellings > MOST_TELLINGS:
            self._forget()
            self.lost += 1
        self._sent = self._events[0][0] - 1 if self._events else self.last


def recover(path: str | os.PathLike[str]) -> list[Event]:
    """The events in a record's file that no desk has done with, in order: what a guard left that was killed.

    Never raises: what cannot be read, was torn, or was written by a stranger is left out.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return []
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        marks = sorted((frame.serial, 0 if frame.data else frame.number) for frame in frames(fd)) if regular else []
        since, done = _unbroken([serial for serial, _ in marks]), max((number for _, number in marks), default=0)
        left = [frame for frame in frames(fd) if frame.data and frame.serial >= since and frame.number > done] \
            if marks else []
    except OSError:
        return []
    finally:
        os.close(fd)
    events: dict[int, Event] = {}
    for frame in sorted(left, key=lambda frame: frame.serial)[-KEPT_EVENTS:]:
        try:
            kind, body = decode(frame.data)
            told = event(body["event"])
        except (ValueError, TypeError, KeyError):
            continue
        if kind == "event" and told.number == frame.number:
            events[told.number] = told
    return [events[number] for number in sorted(events)]


def _unbroken(serials: list[int]) -> int:
    """Where the last run without a gap begins: an old frame may survive at the file's end, where a new one had no room.

    A frame that was torn leaves no gap: the next guard gives its serial number again.
    """
    return next((after for before, after in zip(serials[-2::-1], serials[:0:-1], strict=True) if before + 1 != after),
                serials[0] if serials else 0)
