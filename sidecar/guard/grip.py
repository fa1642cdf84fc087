"""Where the guard's loop meets the brake, which is loaded only when the desk asks for one."""

from __future__ import annotations

import select
from collections.abc import Callable

from sidecar.clock import monotonic
from sidecar.guard.deliver import Deliveries
from sidecar.guard.watchlist import Watchlist
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.guard.brake import Brake


class Grip:
    """The brake, or none. Lives as long as the guard."""

    def __init__(self, watchlist: Watchlist, deliveries: Deliveries, epoll: select.epoll,
                 tell: Callable[..., int]) -> None:
        self._watchlist = watchlist
        self._deliveries = deliveries
        self._begin = epoll, tell
        self._brake: Brake | None = None

    def keep(self, file: str) -> None:
        """There is something to hold, or may be something left to put back: see `sidecar.guard.keeper`."""
        if self._brake is None:
            from sidecar.guard.brake import Brake

            self._brake = Brake(str(file), *self._begin)

    def wish(self, target: str, folder: str, loan_bytes: int, hold_seconds: float) -> None:
        """See `Brake.wish`."""
        if self._brake:
            self._brake.wish(target, folder, loan_bytes, hold_seconds)

    def turn(self, now: float) -> None:
        """What may be held is held, and nothing else."""
        if self._brake:
            self._brake.turn(now, self._watchlist.watches, self._deliveries, self._watchlist.claims)

    def attend(self, fd: int) -> bool:
        """Whether this descriptor is the keeper's; then what it has to say has been seen to.

        Who is held gets the cleanup first, as at any crossing, and the loan afterwards.
        """
        held = self._brake.attend(fd) if self._brake else None
        for target in held or ():
            watch = self._watchlist.watches.get(target)
            if watch:
                self._watchlist.agenda.put(target)
                self._watchlist.look(monotonic())
            if self._brake:
                self._brake.answer(target, watch)
        return held is not None

    @property
    def releasing(self) -> bool:
        """Whether something is held that must not be any more."""
        return bool(self._brake and self._brake.releasing)

    def end(self) -> None:
        """The guard ends."""
        if self._brake:
            self._brake.end()
