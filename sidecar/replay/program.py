"""A target in virtual time: used bytes as they were recorded, less what cleanups are assumed to have freed since."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple, Protocol

from sidecar.guard.wire import Channel
from sidecar.procfs import Identity

ANSWER_SECONDS = 0.2
"""How long a cleanup takes unless something else is assumed: what those of the demo's program take."""


class Response(NamedTuple):
    """What comes of asking for a cleanup on one channel. Times are seconds from then on.

    `refused`: the channel cannot be used at all, for this reason. `delivered_after` None: nobody ever takes the order.
    `failed`: why it ends badly. `works_after`: when what it frees is free, also after a failure; None: never.
    """

    refused: str = ""
    failed: str = ""
    delivered_after: float | None = 0.0
    ends_after: float = ANSWER_SECONDS
    works_after: float | None = ANSWER_SECONDS
    detail: Mapping[str, Any] = {}


class Program(Protocol):
    """A target as the virtual guard and the virtual sampler see it. Lives as long as a replay.

    `identity` is None while there is no process, `used_bytes` None while they cannot be read, `limit_bytes` None where
    there is no limit.
    """

    identity: Identity | None
    used_bytes: float | None
    limit_bytes: int | None

    def go_on(self, now: float) -> None:
        """It is `now` (Unix time), which is never earlier than the time before."""

    def next_change(self) -> float:
        """When `identity` or `used_bytes` change next by themselves, in Unix time; infinity for never."""

    def ask(self, channel: Channel, cleanup: str) -> Response:
        """What comes of asking for a cleanup now."""

    def free(self, cleanup: str) -> None:
        """A cleanup that was asked for has done its work, now."""


@dataclass(frozen=True, slots=True)
class Assumption:
    """What a cleanup of one level is assumed to do: return `share` of used bytes and `size_bytes` more.

    Or not even that: `refused` by every channel, or never answered (`silent`).
    """

    share: float = 0.0
    size_bytes: int = 0
    refused: bool = False
    silent: bool = False

    def frees(self, used_bytes: float) -> float:
        """How many of so many used bytes."""
        return min(used_bytes, self.share * used_bytes + self.size_bytes)


INEFFECTIVE = Assumption()
EFFECTIVE = Assumption(share=0.3)


@dataclass(slots=True)
class Recorded:
    """A program from its recording. `points` are (Unix time, used bytes or None) and hold until the next one.

    `lives` are (Unix time, identity or None). Memory that the recorded program gave back itself cannot be freed twice:
    where the recording falls, what was taken off for cleanups shrinks by as much. A new life starts without.
    """

    points: Sequence[tuple[float, float | None]]
    lives: Sequence[tuple[float, Identity | None]]
    assumed: Mapping[str, Assumption]
    limits: Sequence[tuple[float, int]] = ()
    identity: Identity | None = None
    used_bytes: float | None = None
    limit_bytes: int | None = None
    _at: list[int] = field(default_factory=lambda: [0, 0, 0])
    _recorded: float | None = None
    _freed: float = 0.0

    def go_on(self, now: float) -> None:
        """Take in everything that was recorded up to `now`."""
        while self._at[0] < len(self.lives) and self.lives[self._at[0]][0] <= now:
            self.identity, self._freed = self.lives[self._at[0]][1], 0.0
            self._at[0] += 1
        while self._at[1] < len(self.points) and self.points[self._at[1]][0] <= now:
            read = self.points[self._at[1]][1]
            if read is not None and self._recorded is not None:
                self._freed = max(0.0, self._freed - max(0.0, self._recorded - read))
            self._recorded = self._recorded if read is None else read
            self.used_bytes = None if read is None else max(0.0, read - self._freed)
            self._at[1] += 1
        while self._at[2] < len(self.limits) and self.limits[self._at[2]][0] <= now:
            self.limit_bytes = self.limits[self._at[2]][1]
            self._at[2] += 1

    def next_change(self) -> float:
        """When the next point or life was recorded."""
        return min(rows[at][0] if at < len(rows) else inf
                   for rows, at in ((self.lives, self._at[0]), (self.points, self._at[1])))

    def ask(self, channel: Channel, cleanup: str) -> Response:
        """As assumed for this cleanup, whatever the channel."""
        assumed = self.assumed.get(cleanup, INEFFECTIVE)
        if assumed.refused:
            return Response(refused="assumed")
        if assumed.silent:
            return Response(ends_after=inf, works_after=None)
        return Response()

    def free(self, cleanup: str) -> None:
        """Take off what is assumed."""
        if self.used_bytes is not None:
            freed = self.assumed.get(cleanup, INEFFECTIVE).frees(self.used_bytes)
            self._freed += freed
            self.used_bytes -= freed
