"""The desk as the guard sees it: a child to start, to listen to, to miss when it falls silent, and to start again."""

from __future__ import annotations

import _socket
import os
from collections.abc import Sequence

from sidecar.guard.children import program, spawn
from sidecar.guard.lives import SETTLED_SECONDS, short_lives
from sidecar.guard.signals import signal
from sidecar.guard.voice import say
from sidecar.guard.wire import encode, send
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

SILENCE_SECONDS = 10.0
START_SECONDS = 30.0
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
AWAY_SECONDS = 2.0
"""The guard looks at least once a second: a longer gap means that it was stopped itself, or the whole machine was."""


class Desk:
    """The desk process, or the pause before its next start. Lives as long as the guard. Times are monotonic."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self.starts = 0
        self.short_lives = 0
        self.pid = 0
        self.sock: _socket.socket | None = None
        self.greeted = False
        self.ever_greeted = False
        self._arguments = list(arguments)
        self._started_at = 0.0
        self._heard_at = 0.0
        self._looked_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._next_start = 0.0

    def start_if_due(self, now: float) -> bool:
        """Start the desk when none runs and the pause is over. True if it was started."""
        if self.pid or now < self._next_start:
            return False
        command = [*program("sidecar"), "desk", "--starts", str(self.starts + 1), "--guard-fd"]
        try:
            self.pid, self.sock = spawn(
                command, ["--short-lives", str(self.short_lives), *self._arguments], thrifty=True)
        except OSError as error:  # that may pass
            self.rest(now, f"the desk cannot be started: {error.strerror}")
            return False
        self.starts += 1
        self.greeted = False
        self._started_at = self._heard_at = now
        return True

    def heard(self, now: float) -> None:
        """A message has come: the desk is alive."""
        self._heard_at = now

    def hello(self) -> None:
        """Its configuration is good and it is at work."""
        self.greeted = self.ever_greeted = True

    def tell(self, kind: str, **body: Any) -> bool:
        """Say something. False where the desk has no room for it, or is not at work: then it is lost."""
        return bool(self.sock and self.greeted and send(self.sock, encode(kind, **body)))

    def silent(self, now: float) -> bool:
        """Whether it has said nothing for so long that it must be taken for hung; to be asked at every turn.

        Where the guard could not listen, nobody was silent: after a pause of the whole container both go on.
        """
        if now - self._looked_at > AWAY_SECONDS:
            self._heard_at = max(self._heard_at, now)
        self._looked_at = now
        return bool(self.pid) and now - self._heard_at > self._patience()

    def _patience(self) -> float:
        return SILENCE_SECONDS if self.greeted else START_SECONDS

    def kill(self) -> None:
        """End it; its successor takes over when its death has been reaped."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)

    def ended(self, now: float) -> None:
        """Its end has been reaped."""
        if self.greeted:  # one that cannot start, for a file that is being edited, has done no harm
            self.short_lives = short_lives(self.short_lives, now - self._started_at)
        self.pid = 0
        self.hang_up()

    def rest(self, now: float, why: str) -> None:
        """Start the next one soon, later each time if they do not live long, and say so."""
        if now - self._started_at > SETTLED_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        say(f"{why}; tried again in {self._pause:g} s, and standing orders are carried out meanwhile")
        self._next_start = now + self._pause
        self._pause = min(LONGEST_PAUSE_SECONDS, 2 * self._pause)

    def hang_up(self) -> None:
        """Close our end; a desk that still runs sees that and ends itself."""
        if self.sock:
            self.sock.close()
            self.sock = None

    def next_wake(self, now: float) -> float:
        """Seconds until something is due here: the start, or the end of patience."""
        if not self.pid:
            return max(0.0, self._next_start - now)
        return max(0.0, self._heard_at + self._patience() - now) + 0.01
