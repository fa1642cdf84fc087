"""The desk's end of the line: which orders hold, who acts on a target, and what a guard that was killed has left."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from guarding import Hands
from servers import free_port
from sidecars import config, running_sidecar

from sidecar.actions.dispatch import Dispatch
from sidecar.actions.flight import NAME, open_record
from sidecar.guard import wire
from sidecar.guard.process import Remote
from sidecar.guard.record import FlightRecord, recover
from sidecar.guard.wire import Basis, Event
from sidecar.procfs import Identity

IDENTITY = Identity("boot", 7, 1, None)


class Line:
    """A dispatch, and the guard's end of its line played by the test."""

    def __init__(self) -> None:
        self.guard, theirs = wire.pair()
        self.dispatch = Dispatch(theirs)
        self.number = 0

    def say(self, kind: str, **body: Any) -> None:
        """A message of the guard; what follows from it is taken in."""
        assert wire.send(self.guard, wire.encode(kind, **body))
        self.dispatch.events()

    def event(self, kind: str, target: str = "t") -> None:
        """An event of the guard."""
        self.number += 1
        self.say("event", event=Event(self.number, 5.0, kind, target, "", {}), lost=0)

    def hello(self, record: int = -1, **welcome: Any) -> None:
        """The greeting; the guard's answer waits already."""
        assert wire.send(self.guard, wire.encode("welcome", program_pid=0, watched=[], **welcome))
        self.dispatch.hello("", courier=False, record=record)

    def close(self) -> None:
        """Hang up on both sides."""
        self.guard.close()
        self.dispatch.sock.close()


@pytest.fixture
def line() -> Iterator[Line]:
    """A line to a guard that the test plays."""
    made = Line()
    yield made
    made.close()


def serials(line: Line) -> list[int]:
    """The serial numbers of the orders that have been sent since the last call."""
    found = []
    while data := wire.receive(line.guard):
        kind, body = wire.decode(data)
        if kind == "orders":
            found.append(int(body["serial"]))
    return found


def test_orders_are_in_force_when_the_guard_has_said_so(line: Line) -> None:
    """Nothing holds for certain before: those of an earlier desk may still be there, or the new ones on their way."""
    dispatch = line.dispatch
    line.hello()
    assert dispatch.in_force("t")  # nobody watches it, nothing can be done
    dispatch.watch("t", IDENTITY, Basis("anon"))
    assert not dispatch.in_force("t")
    dispatch.stand("t", [], 5.0)
    assert not dispatch.in_force("t")
    [first] = serials(line)
    line.say("applied", serial=first)
    assert dispatch.in_force("t")
    dispatch.stand("t", [], 6.0)  # as before: nothing is sent
    assert dispatch.in_force("t")
    line.event("crossed")
    dispatch.stand("t", [], 7.0)
    assert not dispatch.in_force("t")
    line.say("applied", serial=first)
    assert not dispatch.in_force("t")
    line.say("applied", serial=serials(line)[-1])

    assert dispatch.in_force("t")


def test_orders_that_the_guard_has_no_room_for_are_not_in_force(line: Line) -> None:
    """Whatever it acknowledges of others: a withdrawal that was never sent does not hold."""
    line.hello()
    line.dispatch.watch("t", IDENTITY, Basis("anon"))
    line.dispatch.stand("t", [], 5.0)
    line.say("applied", serial=serials(line)[-1])
    line.event("crossed")
    line.dispatch.sock.setblocking(False)
    while wire.send(line.dispatch.sock, b"x" * 60_000):
        continue
    line.dispatch.stand("t", [], 6.0)
    line.dispatch.receive()
    line.guard.send(wire.encode("applied", serial=10**9))
    line.dispatch.receive()

    assert not line.dispatch.in_force("t")


def test_desk_that_starts_anew_learns_of_as_many_targets_as_there_may_be(
        line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all 1024, with names as long as they may be; one more is refused."""
    held = IDENTITY._replace(boot_id="b" * 36)
    monkeypatch.setattr(Remote, "identity", held)
    names = [f"{number:04}".ljust(100, "x") for number in range(wire.MOST_TARGETS)]
    hands = Hands()
    try:
        for name in names:
            hands.watchlist.watch(name, None, list(Basis("told")))
        with pytest.raises(ValueError, match="one more than 1024"):
            hands.watchlist.watch("another", None, list(Basis("told")))
        for part in hands.watchlist.held():
            assert wire.send(line.guard, wire.encode("held", **part)), "there is room for all parts at once"
    finally:
        hands.close()
    assert wire.send(line.guard, wire.encode("welcome", program_pid=7))

    assert line.dispatch.hello("", courier=False) == (7, dict.fromkeys(names, held))


def test_who_acts_on_a_target_is_known_also_to_a_desk_that_starts_anew(line: Line) -> None:
    """From the welcome, then from events; another process is a question of its own."""
    line.hello(foreign=["a"])
    assert line.dispatch.foreign == {"a"}
    for name in "bcd":
        line.dispatch.watch(name, IDENTITY, Basis("anon"))
        line.event("foreign", name)
    assert line.dispatch.foreign == {"a", "b", "c", "d"}
    line.event("owned", "a")
    line.event("gone", "b")
    line.dispatch.watch("c", IDENTITY, Basis("rss"))
    assert line.dispatch.foreign == {"c", "d"}
    line.dispatch.watch("c", IDENTITY._replace(pid=8), Basis("rss"))
    line.dispatch.watch("d", None, None)

    assert line.dispatch.foreign == set()


def test_only_what_an_earlier_guard_has_left_is_left(line: Line) -> None:
    """What the present guard has told comes over the line: it is not taken twice."""
    line.dispatch.left = [Event(number, 5.0, "crossed", "t", "", {}) for number in (3, 4, 5, 6)]
    line.hello(first=5)

    assert [event.number for event in line.dispatch.left] == [3, 4]


def test_record_of_another_sidecar_is_left_to_it(line: Line, tmp_path: Path) -> None:
    """A guard that may not have the file says so: then what is in it is not for us."""
    fd, line.dispatch.left = open_record(tmp_path)
    line.dispatch.left = [Event(3, 5.0, "crossed", "t", "", {})]
    line.hello(record=fd, first=0)
    os.close(fd)

    assert line.dispatch.left == []


def test_file_of_the_record_is_made_for_us_alone(tmp_path: Path) -> None:
    """Made with its folder where it is missing, not readable for others, and with room for all that will be in it."""
    fd, left = open_record(tmp_path / "a" / "b")
    path = tmp_path / "a" / "b" / NAME
    record = FlightRecord()
    assert record.keep_in(fd)
    record.tell("crossed", "t")
    path.chmod(0o644)
    again, left_now = open_record(tmp_path / "a" / "b")

    assert left == []
    assert [event.number for event in left_now] == [1]
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_blocks * 512 >= 1 << 20
    os.close(again)


@pytest.mark.parametrize("kind", ["link", "directory", "pipe", "no directory"])
def test_place_that_is_no_file_is_not_written_to(kind: str, tmp_path: Path) -> None:
    """Links are not followed: the record is kept in memory then, and the rest goes on."""
    place, other = tmp_path / NAME, tmp_path / "other"
    other.write_text("mine")
    {"link": lambda: place.symlink_to(other), "directory": place.mkdir, "pipe": lambda: os.mkfifo(place),
     "no directory": lambda: None}[kind]()

    assert open_record(other if kind == "no directory" else tmp_path) == (-1, [])
    assert other.read_text() == "mine"


def test_what_was_begun_when_everything_was_killed_is_known_afterwards(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Guard and desk end in the midst of a cleanup: the file tells that it was asked for, and of whom."""
    leaky = spawn("leaky", "--http", "0", "--answer", "hang")
    port = free_port()
    target = {"name": "rag", "match": {"pid": leaky.pid}, "memory": {"main": "140MiB", "critical": "150MiB"},
              "cleanup": [{"http": {"url": f"{leaky.url}/cleanup", "timeout": "60s"}}]}
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        leaky.tell("grow 200")
        wait_until(lambda: "delivered" in [event.kind for event in recover(tmp_path / NAME)], 30, "the delivery")
        for pid in (sidecar.process.pid, sidecar.child("desk")):
            os.kill(pid, signal.SIGKILL)
        sidecar.process.wait()
    left = recover(tmp_path / NAME)
    begun = [event for event in left if event.kind in ("crossed", "delivered")]

    assert [event.kind for event in begun] == ["crossed", "delivered"]
    assert {event.target for event in begun} == {"rag"}
    assert begun[0].order == begun[1].order
    fd, found = open_record(tmp_path)
    os.close(fd)
    assert found == left
