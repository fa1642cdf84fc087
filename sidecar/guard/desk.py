"""The desk as the guard sees it: a child to start, to listen to, to miss when it falls silent, and to start again."""

import os
import signal
import socket
from collections.abc import Sequence

from sidecar.guard.children import program, spawn
from sidecar.guard.wire import pair

SILENCE_SECONDS = 10.0
START_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
SETTLED_SECONDS = 60.0


class Desk:
    """The desk process, or the pause before its next start. Lives as long as the guard. Times are monotonic."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.starts = 0
        self.pid = 0
        self.sock: socket.socket | None = None
        self.greeted = False
        self.ever_greeted = False
        self._arguments = list(arguments)
        self._started_at = 0.0
        self._heard_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._next_start = 0.0

    def start_if_due(self, now: float) -> bool:
        """Start the desk when none runs and the pause is over. True if it was started."""
        if self.pid or now < self._next_start:
            return False
        self.sock, theirs = pair()
        fd = theirs.fileno()
        self.starts += 1
        first = ["--guard-fd", str(fd), "--starts", str(self.starts)]
        self.pid = spawn([*program("sidecar"), "desk", *first, *self._arguments], fd)
        theirs.close()
        self.greeted = False
        self._started_at = self._heard_at = now
        return True

    def heard(self, now: float) -> None:
        """A message has come: the desk is alive."""
        self._heard_at = now

    def hello(self) -> None:
        """Its configuration is good and it is at work."""
        self.greeted = self.ever_greeted = True

    def silent(self, now: float) -> bool:
        """Whether it has said nothing for so long that it must be taken for hung."""
        return bool(self.pid) and now - self._heard_at > (SILENCE_SECONDS if self.greeted else START_SECONDS)

    def kill(self) -> None:
        """End it; its successor takes over when its death has been reaped."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, now: float) -> None:
        """Its end has been reaped: start the next one at once, later each time if they do not live long."""
        self.pid = 0
        self._pause = FIRST_PAUSE_SECONDS if now - self._started_at > SETTLED_SECONDS else self._pause
        self._next_start = now + self._pause
        self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)
        self.hang_up()

    def hang_up(self) -> None:
        """Close our end; a desk that still runs sees that and ends itself."""
        if self.sock:
            self.sock.close()
            self.sock = None

    def next_wake(self, now: float) -> float:
        """Seconds until something is due here: the start, or the end of patience."""
        if not self.pid:
            return max(0.0, self._next_start - now)
        return max(0.0, self._heard_at + (SILENCE_SECONDS if self.greeted else START_SECONDS) - now) + 0.01
