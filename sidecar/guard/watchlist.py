"""Every target under watch: the orders in force, and the looks that carry them out."""

from __future__ import annotations

import os
import select
from collections.abc import Callable

from sidecar.clock import monotonic
from sidecar.guard import wire
from sidecar.guard.agenda import Agenda
from sidecar.guard.claim import CLAIM_SECONDS, Claims
from sidecar.guard.deliver import Deliveries
from sidecar.guard.process import NotTheSame, Process, Remote
from sidecar.guard.tree import Census
from sidecar.guard.watch import LONGEST_SECONDS, Watch
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

KILL_SWITCH_SECONDS = 10.0
TROUBLE_SECONDS = 0.05
DOUBT_SECONDS = 1.0
"""Until used bytes that were read exactly, and found below the line, are looked at again."""
CENSUS_SECONDS = 0.0005
"""How long one turn may look who is there: a line that is near waits no longer for that."""
NAMED_AT_ONCE = 150
"""So many targets have room in one message to the desk, each with a name of 100 letters."""


class Watchlist:
    """The targets of the guard. Lives as long as the guard; a desk that is gone leaves its orders in force here."""

    def __init__(self, tell: Callable[..., int], deliveries: Deliveries, epoll: select.epoll) -> None:
        self._tell = tell
        self._deliveries = deliveries
        self._epoll = epoll
        self._census = Census()
        self.claims = Claims(tell)
        self.watches: dict[str, Watch] = {}
        self.agenda = Agenda()
        self._rests: dict[str, tuple[int, float]] = {}

    def held(self) -> Iterator[dict[str, Any]]:
        """[target, identity] of everything under watch, in parts, and on what of it another sidecar acts."""
        held = [(name, watch.process.identity) for name, watch in self.watches.items() if watch.process.identity]
        for start in range(0, len(held), NAMED_AT_ONCE):
            part = held[start:start + NAMED_AT_ONCE]
            yield {"watched": part, "foreign": [name for name, _ in part if self.claims.foreign(name)]}

    def watch(self, target: str, identity: list[Any] | None, basis: list[Any]) -> None:
        """Hold this life of this process; the same identity on the same basis is kept as it is.

        Without an identity the target has no process. Raises ValueError or TypeError for what cannot be meant.
        """
        wanted, on = wire.identity(identity) if identity is not None else None, wire.basis(basis)
        known = self.watches.get(target)
        if wanted and wanted.pid == os.getpid():
            raise ValueError(f"target {target} is the guard itself")
        if known is None and len(self.watches) == wire.MOST_TARGETS:
            raise ValueError(f"target {target} is one more than {wire.MOST_TARGETS}")
        try:
            if known is None or known.process.identity != wanted:
                self.unwatch(target)
                process = Process(wanted) if wanted else Remote()
                self.watches[target] = Watch(target, process, on, self._census)
                if process.pidfd >= 0:
                    self._epoll.register(process.pidfd, select.EPOLLIN)
            elif known.basis != on:
                known.rest_on(on)
            else:
                return
            self.agenda.put(target)
        except NotTheSame as error:
            self._tell(str(error), target, reason=str(error))
        except OSError as error:
            self.unwatch(target)
            self._tell("unreadable", target, reason=str(error))

    def told(self, target: str, used_bytes: float | None, shares: list[list[Any]], error_bytes: int) -> None:
        """What the desk has read that the guard cannot: used bytes, or what processes share. ValueError, TypeError."""
        watch = self.watches.get(target)
        if watch:
            read = None if used_bytes is None else float(used_bytes)
            watch.tell(read, [[int(number) for number in each] for each in shares], int(error_bytes), monotonic())
            self.agenda.put(target)

    def link(self, passed: list[int], target: str, process: str, pid: int, start_time_ticks: int) -> None:
        """Keep the socket that was passed on: it leads to the agent in this process. ValueError if it does not."""
        if target in self.watches and len(passed) == 1:
            self._deliveries.agents.hold(str(target), str(process), int(pid), int(start_time_ticks), passed.pop())

    def unwatch(self, target: str) -> None:
        """Let go of a target; unknown ones are no matter. An end that nobody has seen yet is told."""
        watch = self.watches.pop(target, None)
        self.agenda.drop(target)
        self.claims.release(target)
        if watch:
            if watch.process.pidfd >= 0:
                self._epoll.unregister(watch.process.pidfd)
            self._deliveries.forget(target)
            if watch.process.ended():
                self._tell("gone", target)
            watch.close()

    def stand(self, target: str, orders: list[list[Any]], seen: int) -> None:
        """Put these standing orders in the place of the target's old ones.

        Orders given before the desk knew of the last delivery (its event is later than `seen`) are passed over while
        that rests. The desk sends them again when it has taken that event in.
        """
        made, now = [wire.order(raw) for raw in orders], monotonic()
        watch = self.watches.get(target)
        if watch and not (made and self._rests_for(target, seen)):
            if any(not order.dry_run for order in made):
                self.claims.ours(target, watch.process, now)
            watch.stand(made, now)
            self.agenda.put(target)

    def _rests_for(self, target: str, seen: int) -> bool:
        """Whether the pause after the last delivery holds against a desk that has seen the events up to `seen`.

        One that has seen this delivery may shorten the pause, because it has judged it. One that has started since
        has not, and waits for as long as the order said.
        """
        number, until = self._rests.get(target, (0, 0.0))
        return number > seen and monotonic() < until

    def _begin(self, order: wire.Order, watch: Watch) -> bool:
        """Carry an order out. False if nothing was started."""
        crossed_at = monotonic()
        number = self._deliveries.begin(order, watch, crossed_at)
        if number:
            self._rests[watch.target] = number, crossed_at + order.again_after_seconds
            if order.cleanup == "aggressive" and not order.dry_run:
                watch.delivered_at = crossed_at
        return number > 0

    def deliver(self, order: list[Any], seen: int) -> None:
        """Carry an order out now, if its line is still crossed and nothing was begun that the desk has not seen."""
        made = wire.order(order)
        watch = self.watches.get(made.target)
        if watch is None:
            self._tell("refused", made.target, made.id, reason="gone", channel="", message="not under watch")
            self._tell("spent", made.target, made.id)
            return
        try:
            crossed = made.crossed(watch.read_used()) and watch.certain(made)
        except (OSError, ValueError, KeyError) as error:
            self._unreadable(watch, error)
            return
        if not crossed:
            self._tell("recovered", made.target, made.id, used_bytes=watch.used_bytes, line_bytes=made.line_bytes)
        elif self._rests_for(made.target, seen):
            self._tell("busy", made.target, made.id, reason="resting")
        elif not made.dry_run and not self.claims.ours(made.target, watch.process, None):
            self._tell("refused", made.target, made.id, reason="another_sidecar", channel="",
                       message="another sidecar acts on this process")
            self._tell("spent", made.target, made.id)
        elif not self._begin(made, watch):
            self._tell("busy", made.target, made.id)

    def withdraw(self) -> None:
        """No order stands any more; what is in flight is still awaited."""
        for watch in self.watches.values():
            watch.standing = []

    def look(self, now: float) -> None:
        """Look at the targets that are due, as many as there is time for, and carry out what their orders say."""
        for target in self.agenda.due(now):
            watch = self.watches[target]
            try:
                standing = watch.look(now, len(self.watches))
            except (OSError, ValueError, KeyError) as error:
                self._unreadable(watch, error)
                continue
            self.agenda.looked_at(watch)
            watch.trouble = watch.trouble_told = ""
            ours = not self.claims.foreign(watch.target) or self.claims.ours(watch.target, watch.process, now)
            if standing and not self._deliveries.in_flight(watch.target):
                if not ours and not standing.order.dry_run:
                    standing.not_before = now + CLAIM_SECONDS
                elif not watch.certain(standing.order):
                    standing.not_before = now + DOUBT_SECONDS
                elif self._begin(standing.order, watch):
                    standing.note_delivery(monotonic())
                else:
                    standing.not_before = now + KILL_SWITCH_SECONDS
        if self._census.under_way:
            self._census.update(now, CENSUS_SECONDS)

    def wait_seconds(self, now: float) -> float:
        """How long until the next look is due."""
        if self._census.under_way:
            return 0.0
        return min(LONGEST_SECONDS, max(0.0, self.agenda.first() - now))

    def ended(self, pidfd: int) -> None:
        """A held process has ended; unless the number was another's a moment ago, whom the news was about."""
        for watch in [w for w in self.watches.values() if w.process.pidfd == pidfd and w.process.ended()]:
            self.unwatch(watch.target)

    def _unreadable(self, watch: Watch, error: Exception) -> None:
        """Told once, not at every look: it would push everything else out of the record while no desk is there."""
        if watch.process.ended():
            self.unwatch(watch.target)
            return
        again = LONGEST_SECONDS
        if watch.trouble != str(error):  # it may be about to end: told if it is still so at the next look
            watch.trouble, watch.trouble_told = str(error), ""
            again = TROUBLE_SECONDS
        elif watch.trouble_told != watch.trouble:
            watch.trouble_told = watch.trouble
            self._tell("unreadable", watch.target, reason=watch.trouble)
        self.agenda.put(watch.target, monotonic() + again)
