"""The pause between two ticks: its end, what ends it early, and the signs of life in a long one."""

import asyncio
from collections.abc import Callable

from sidecar.clock import monotonic

BEAT_SECONDS = 3.0
"""So long, at most, nothing is said to the guard, which takes ten seconds of silence for death."""


class Pause:
    """Lives as long as the desk. All times are those of the monotonic clock; `beat` is a sign of life."""

    def __init__(self, beat: Callable[[], object]) -> None:
        self._beat = beat
        self._ended = asyncio.Event()
        self._stirred = asyncio.Event()

    def begin(self) -> None:
        """A tick begins: from now on what happens counts for the pause after it."""
        self._ended.clear()
        self._stirred.clear()

    def end(self) -> None:
        """Have the next tick at once."""
        self._stirred.set()
        self._ended.set()

    def stir(self) -> None:
        """Something has happened: the next tick comes as soon as it does when all is not calm."""
        self._stirred.set()

    async def over(self, due: float, calm_until: float) -> float:
        """Wait until `due`, and where that is later until `calm_until`, unless something stirs; when a tick was due."""
        until = max(due, calm_until)
        if not await self._waited(until, self._stirred):
            return until
        stirred_at = monotonic()
        await self._waited(due, self._ended)
        return max(due, stirred_at)

    async def _waited(self, until: float, event: asyncio.Event) -> bool:
        """Whether the event came before the end of the time."""
        while (left := until - monotonic()) > 0.0:
            try:
                async with asyncio.timeout(min(left, BEAT_SECONDS)):
                    await event.wait()
                return True
            except TimeoutError:
                if left > BEAT_SECONDS:
                    self._beat()
        return event.is_set()
