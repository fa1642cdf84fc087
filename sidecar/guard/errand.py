"""What the courier carries: an errand that is told of once, whatever becomes of it."""

import socket
import threading
from typing import Any

from sidecar.clock import monotonic
from sidecar.guard.wire import encode

MOST_AT_ONCE = 16


class Errand:
    """One errand, run in a thread of its own. Lives until its end has been reported.

    `deadline` is monotonic time; `lingers` says whether it has to be waited for when the courier ends.
    """

    lingers = False

    def __init__(self, message: dict[str, Any], out: socket.socket) -> None:
        self.id = str(message["id"])
        self.deadline = monotonic() + float(message["timeout_seconds"])
        self._out = out
        self._told = threading.Lock()

    def run(self) -> None:
        """Carry it out and report how it went."""
        raise NotImplementedError

    def expire(self) -> None:
        """Past its deadline: report that; its thread is to come free."""
        self.report(error="timeout", message="no answer within the total deadline")

    def turn_away(self) -> None:
        """Not begun: there are too many already."""
        self.report(error="busy", message=f"{MOST_AT_ONCE} others are on their way")

    def report(self, **body: Any) -> None:
        """How it ended. Only the first report counts."""
        if self._told.acquire(blocking=False):  # never released
            self.send(**body)

    def send(self, **body: Any) -> None:
        """Say something of it before its end."""
        try:
            self._out.send(encode("answer", id=self.id, **body))
        except OSError:
            return  # the guard is gone; so is the courier in a moment
