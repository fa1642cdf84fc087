"""Which target is to be looked at next: a heap, so that a thousand that are not due cost a look at one nothing."""

from __future__ import annotations

from _heapq import heapify, heappop, heappush

from sidecar.clock import monotonic
from sidecar.guard.watch import FEW, FOREVER, Watch
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.guard.odometer import Odometer

MANY = FEW + 1
"""From so many targets on one reading speaks for all that are far from their lines: it takes as long as three looks."""
MOST_LOOKS_A_TURN = 32
"""Of those that are due; a line that is near waits no longer for the others."""
MOST_OUTDATED = 64
"""So many entries more than twice the targets, put off or called earlier since, are kept."""


class Agenda:
    """When each target is due. Lives as long as the guard; `at` holds what counts, and the heap may lag behind it."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}
        self.odometer: Odometer | None = None
        self._heap: list[tuple[float, str]] = []

    def put(self, target: str, at: float = 0.0) -> None:
        """Due then, without a time at the next turn, and not when it was before."""
        new, self.at[target] = target not in self.at, at
        heappush(self._heap, (at, target))
        if len(self._heap) > 2 * len(self.at) + MOST_OUTDATED:
            self._heap = [(at, target) for target, at in self.at.items()]
            heapify(self._heap)
        if new and len(self.at) == MANY and self.odometer is None:
            from sidecar.guard.odometer import Odometer

            try:
                self.odometer = Odometer(monotonic())
            except (OSError, ValueError):
                return  # this kernel does not tell

    def looked_at(self, watch: Watch) -> None:
        """Due again when the target says, or later, if something else speaks for it."""
        vouched = self.odometer and self.odometer.vouch(watch)
        self.put(watch.target, watch.look_by if vouched else watch.next_look)

    def drop(self, target: str) -> None:
        """Never due any more."""
        self.at.pop(target, None)
        if self.odometer:
            self.odometer.drop(target)

    def _first(self) -> float:
        heap, at = self._heap, self.at
        while heap and at.get(heap[0][1]) != heap[0][0]:
            heappop(heap)
        return heap[0][0] if heap else FOREVER

    def first(self) -> float:
        """When there is something to do next; `FOREVER` if there is nothing."""
        return min(self._first(), self.odometer.next_read if self.odometer else FOREVER)

    def due(self, now: float) -> Iterator[str]:
        """Those that are due, the longest due first, as many as there is time for. Each is put anew, or dropped."""
        if self.odometer and now >= self.odometer.next_read:
            for target, at in self.odometer.read(now):
                self.put(target, at)
        for _ in range(MOST_LOOKS_A_TURN):
            if self._first() > now:
                return
            yield heappop(self._heap)[1]
