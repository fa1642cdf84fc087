"""The guard without its desk, looked after by hand: what tests of it share."""

import json
import resource
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from conftest import Target, wait_until

from sidecar.guard.agents import Agents
from sidecar.guard.children import program
from sidecar.guard.deliver import Deliveries
from sidecar.guard.record import FlightRecord
from sidecar.guard.watchlist import Watchlist
from sidecar.guard.wire import Channel, Event, Order, decode, encode, event, pair
from sidecar.procfs import Identity, identify

MIB = 1 << 20
USR1 = Channel("signal", signal=int(signal.SIGUSR1))
ANON = ["anon", "", "", True]


class Hands:
    """The guard without its desk: its watchlist and its deliveries, looked after by hand."""

    def __init__(self) -> None:
        self.record = FlightRecord()
        self.epoll = select.epoll()
        self.lost: list[tuple[str, int]] = []
        self.agents = Agents(self.epoll, lambda target, pid: self.lost.append((target, pid)))
        self.deliveries = Deliveries(self.record.tell, self.agents)
        self.watchlist = Watchlist(self.record.tell, self.deliveries, self.epoll)
        self._ours, self._theirs = pair()
        self.events: list[Event] = []

    def close(self) -> None:
        """Let go of everything."""
        self.watchlist.unwatch("t")
        self.epoll.close()
        self._ours.close()
        self._theirs.close()

    def turn(self) -> None:
        """One turn of the guard's loop, as guard.py has it."""
        now = time.monotonic()
        wait = min(0.05, self.watchlist.wait_seconds(now), self.deliveries.poll(now))
        for fd, _ in self.epoll.poll(wait):
            if not self.agents.attend(fd):
                self.watchlist.ended(fd)
        if self.deliveries.courier and not self.deliveries.take_answers():
            self.deliveries.courier_gone()
        now = time.monotonic()
        self.watchlist.look(now)
        self.deliveries.poll(now)
        self.record.flush(self._ours)
        while select.select([self._theirs], [], [], 0)[0]:
            self.events.append(event(decode(self._theirs.recv(65536))[1]["event"]))

    def until(self, kind: str, seconds: float = 10.0) -> Event:
        """Turn until an event of this kind has been told; that event."""
        def told() -> Event | None:
            self.turn()
            return next((each for each in self.events if each.kind == kind), None)

        return wait_until(told, seconds, f"the event {kind!r}")

    def kinds(self) -> list[str]:
        """The kinds of all events so far."""
        return [each.kind for each in self.events]

    def watch(self, target: Target, identity: Identity | None = None) -> None:
        """Put a program under watch by its anonymous memory."""
        self.watchlist.watch("t", list(identity or identify(target.pid)), ANON)

    def stand(self, **changes: Any) -> None:
        """A standing order, as it comes over the wire."""
        sent = json.loads(encode("orders", orders=[order(**changes)]))
        self.watchlist.stand("t", sent["orders"], seen=10**6)

    def deliver(self, **changes: Any) -> None:
        """An order for now, as it comes over the wire."""
        self.watchlist.deliver(json.loads(encode("deliver", order=order(**changes)))["order"], seen=10**6)


def order(**changes: Any) -> Order:
    """An aggressive cleanup by SIGUSR1 above 60 MiB."""
    usual = Order("o", "t", "aggressive", (USR1,), {"alertname": "RagMemoryCritical"}, 60.0 * MIB)
    return usual._replace(**changes)


@contextmanager
def running_courier(hands: Hands) -> Iterator["subprocess.Popen[bytes]"]:
    """A real courier process, connected."""
    ours, theirs = pair()
    command = [*program("sidecar.guard.courier"), str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    hands.deliveries.courier = ours
    try:
        yield process
    finally:
        ours.close()
        process.kill()
        process.wait()


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open nothing meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
