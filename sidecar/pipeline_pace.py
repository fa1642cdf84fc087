"""How a tick shares the event loop: whatever takes long is driven in pieces, and others run in between."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from sidecar.promql.steps import Steps

HELD_SECONDS = 0.003
"""After how long a tick lets others run; what cannot be interrupted takes a few milliseconds more."""
SILENT_SECONDS = 1.0
"""How long a tick may go on without a sign of life to the guard, which takes silence for death."""

Result = TypeVar("Result")


class Pace:
    """Lives as long as the desk. `breathe` lets others run, `beat` is a sign of life, `clock` never goes back."""

    def __init__(self, breathe: Callable[[], Awaitable[None]], beat: Callable[[], object],
                 clock: Callable[[], float]) -> None:
        self._breathe = breathe
        self._beat = beat
        self._clock = clock
        self._held_since = self._beaten_at = clock()

    def begin(self) -> None:
        """A tick begins: from now on the loop is held."""
        self._held_since = self._beaten_at = self._clock()

    async def through(self, steps: Steps[Result]) -> Result:
        """The result of something long, while others run and the guard hears of us."""
        try:
            while True:
                next(steps)
                if self._clock() - self._held_since > HELD_SECONDS:
                    await self.rest()
        except StopIteration as ended:
            result: Result = ended.value
            return result

    async def rest(self) -> None:
        """Let others run if the loop has been held for long enough."""
        now = self._clock()
        if now - self._held_since > HELD_SECONDS:
            if now - self._beaten_at > SILENT_SECONDS:
                self._beat()
                self._beaten_at = now
            await self._breathe()
            self._held_since = self._clock()
