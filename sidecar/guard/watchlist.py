"""Every target under watch: the orders in force, and the looks that carry them out."""

from __future__ import annotations

import select
from collections.abc import Callable

from sidecar.clock import monotonic
from sidecar.guard import wire
from sidecar.guard.deliver import Deliveries
from sidecar.guard.process import NotTheSame, Process
from sidecar.guard.watch import LONGEST_SECONDS, Standing, Watch
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

KILL_SWITCH_SECONDS = 10.0


class Watchlist:
    """The targets of the guard. Lives as long as the guard; a desk that is gone leaves its orders in force here."""

    def __init__(self, tell: Callable[..., int], deliveries: Deliveries, epoll: select.epoll) -> None:
        self._tell = tell
        self._deliveries = deliveries
        self._epoll = epoll
        self._watches: dict[str, Watch] = {}

    def identities(self) -> list[list[Any]]:
        """[target, identity] of everything under watch, for a desk that starts anew."""
        return [[name, list(watch.process.identity)] for name, watch in self._watches.items()]

    def watch(self, target: str, identity: list[Any], basis: list[Any]) -> None:
        """Hold this life of this process; the same identity on the same basis is kept as it is."""
        wanted, on = wire.identity(identity), wire.Basis(*basis)
        known = self._watches.get(target)
        if known and known.process.identity == wanted and known.basis == on:
            return
        standing = known.standing if known and known.process.identity == wanted else []
        self.unwatch(target)
        try:
            process = Process(wanted)
        except NotTheSame as error:
            self._tell("gone" if str(error) == "gone" else "changed", target, reason=str(error))
            return
        try:
            watch = Watch(target, process, on)
        except OSError as error:
            process.close()
            self._tell("unreadable", target, reason=f"{error.filename}: {error.strerror}")
            return
        watch.standing = standing
        self._watches[target] = watch
        self._epoll.register(process.pidfd, select.EPOLLIN)

    def unwatch(self, target: str) -> None:
        """Let go of a target; unknown ones are no matter."""
        watch = self._watches.pop(target, None)
        if watch:
            self._epoll.unregister(watch.process.pidfd)
            self._deliveries.forget(target)
            watch.close()

    def stand(self, target: str, orders: list[list[Any]], seen: int) -> None:
        """Put these standing orders in the place of the target's old ones.

        Orders given before the desk knew of the last delivery (its event is later than `seen`) are passed over: they
        would lift the pause that follows a delivery. The desk sends them again when it has taken that event in.
        """
        made, now = [wire.order(raw) for raw in orders], monotonic()
        watch = self._watches.get(target)
        if watch and not (made and self._outdated(target, seen)):
            watch.standing = [Standing(order, now) for order in made]
            watch.next_look = 0.0

    def _outdated(self, target: str, seen: int) -> bool:
        return self._deliveries.last_begun.get(target, 0) > seen

    def deliver(self, order: list[Any], seen: int) -> None:
        """Carry an order out now, if its line is still crossed and nothing was begun that the desk has not seen."""
        made = wire.order(order)
        watch = self._watches.get(made.target)
        if watch is None:
            self._tell("refused", made.target, made.id, reason="gone", channel="", message="not under watch")
            self._tell("spent", made.target, made.id)
            return
        try:
            crossed = made.crossed(watch.read_used())
        except (OSError, ValueError, KeyError) as error:
            self._unreadable(watch, error)
            return
        if not crossed:
            self._tell("recovered", made.target, made.id, used_bytes=watch.used_bytes, line_bytes=made.line_bytes)
        elif self._outdated(made.target, seen) or not self._deliveries.begin(made, watch, monotonic()):
            self._tell("busy", made.target, made.id)

    def withdraw(self) -> None:
        """No order stands any more; what is in flight is still awaited."""
        for watch in self._watches.values():
            watch.standing = []

    def look(self, now: float) -> None:
        """Look at every target that is due and carry out what its orders say."""
        for watch in list(self._watches.values()):
            if now < watch.next_look:
                continue
            try:
                standing = watch.look(now)
            except (OSError, ValueError, KeyError) as error:
                self._unreadable(watch, error)
                continue
            if standing and not self._deliveries.in_flight(watch.target):
                crossed_at = monotonic()
                if self._deliveries.begin(standing.order, watch, crossed_at):
                    standing.note_delivery(crossed_at)
                else:
                    standing.not_before = crossed_at + KILL_SWITCH_SECONDS

    def wait_seconds(self, now: float) -> float:
        """How long until the next look is due."""
        return max(0.0, min((watch.next_look - now for watch in self._watches.values()), default=LONGEST_SECONDS))

    def ended(self, pidfd: int) -> None:
        """A held process has ended."""
        for watch in [w for w in self._watches.values() if w.process.pidfd == pidfd]:
            self.unwatch(watch.target)
            self._tell("gone", watch.target)

    def _unreadable(self, watch: Watch, error: Exception) -> None:
        if watch.process.ended():
            self.ended(watch.process.pidfd)
            return
        watch.next_look = monotonic() + LONGEST_SECONDS
        self._tell("unreadable", watch.target, reason=str(error))
