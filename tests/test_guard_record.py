"""The flight record's file: what a guard that was killed has left there for the next one to read."""

import os
import random
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.guard.record import KEPT_EVENTS, FlightRecord, recover
from sidecar.guard.ring import RING_BYTES, STEP_BYTES, Ring, frames
from sidecar.guard.wire import decode, encode, event, pair


def opened(path: Path) -> int:
    """The record's file, as the desk opens it."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No write counts as slow, however busy the machine is that runs the tests."""
    monkeypatch.setattr("sidecar.guard.record.SLOW_SECONDS", 1e9)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the record is kept."""
    return tmp_path / "flight.record"


@pytest.fixture
def record(path: Path) -> Iterator[FlightRecord]:
    """A record that is kept in the file, until its guard dies at the end of the test."""
    made = FlightRecord()
    fd = opened(path)
    assert made.keep_in(fd)
    yield made
    os.close(fd)


def numbers(path: Path) -> list[int]:
    """The numbers of the events that can be read."""
    return [told.number for told in recover(path)]


def test_event_is_read_as_it_was_told(record: FlightRecord, path: Path) -> None:
    """Kind, target, order, time and detail: nothing is lost on the way through the file."""
    record.tell("crossed", "rag", "o.1", labels={"alertname": "Ü\n\x8eRSF"}, used_bytes=7.5)
    ours, theirs = pair()
    record.flush(ours)

    assert recover(path) == [event(decode(theirs.recv(65536))[1]["event"])]
    ours.close()
    theirs.close()


def test_what_the_desk_has_done_with_is_not_read_again(record: FlightRecord, path: Path) -> None:
    """Acknowledged events are over; the others are kept for the next guard."""
    for _ in range(5):
        record.tell("crossed", "rag")
    record.done(3)
    assert numbers(path) == [4, 5]
    record.done(10**400)

    assert numbers(path) == []


def child_that_tells(path: Path, said: int) -> int:
    """A guard in a process of its own that tells event after event, and says the number of each when it is told."""
    pid = os.fork()
    if pid:
        return pid
    try:
        record, dice = FlightRecord(), random.Random(os.getpid())
        if record.keep_in(opened(path)):
            while True:
                number = record.tell("crossed", "rag", labels={"x": "y" * dice.randrange(20_000)})
                os.write(said, number.to_bytes(8, "little"))
                if dice.random() < 0.05:
                    record.done(number - 20)
    finally:
        os._exit(1)


def test_guard_killed_at_any_moment_leaves_what_it_had_told(path: Path) -> None:
    """A hundred guards in a row, each killed in the midst of writing: no event that was told and not done is missing.

    Each goes on with the numbers of the one before; an event that was being written is there as a whole, or not.
    """
    dice, last = random.Random(5), 0
    for _ in range(100):
        hears, says = os.pipe()
        pid = child_that_tells(path, says)
        os.close(says)
        with open(hears, "rb", buffering=0) as heard:
            told = [int.from_bytes(heard.read(8), "little") for _ in range(dice.randrange(1, 60))]
            os.kill(pid, signal.SIGKILL)
            while more := heard.read(8):
                told.append(int.from_bytes(more, "little"))
        os.waitpid(pid, 0)
        left = numbers(path)

        assert told == list(range(told[0], told[-1] + 1))
        assert told[0] > last
        assert left == list(range(left[0], left[-1] + 1))
        assert set(told[-20:]) <= set(left)
        assert left[-1] <= told[-1] + 1
        last = told[-1]


def test_old_events_at_the_end_of_the_file_are_not_mistaken_for_news(record: FlightRecord, path: Path) -> None:
    """Where a large event begins at the front again, small ones of the lap before stay at the end: they are over."""
    for _ in range(RING_BYTES // 256):
        record.tell("crossed", "rag", labels={"x": "y" * 200})
    for _ in range(2 * RING_BYTES // 50_000):
        last = record.tell("crossed", "rag", labels={"x": "y" * 50_000})
    left = numbers(path)

    assert left == list(range(left[0], last + 1))


def test_next_guard_goes_on_and_what_was_left_stays_until_it_is_done(path: Path) -> None:
    """Two generations in one file: numbers go on, and the desk acknowledges both with one number."""
    first, second = FlightRecord(), FlightRecord()
    fd = opened(path)
    assert first.keep_in(fd)
    for _ in range(3):
        first.tell("crossed", "rag", "before")
    os.close(fd)  # it dies
    assert second.keep_in(opened(path))
    assert second.first == 4
    assert second.tell("crossed", "rag", "after") == 4
    assert [told.order for told in recover(path)] == ["before"] * 3 + ["after"]
    second.done(3)

    assert [told.order for told in recover(path)] == ["after"]


def test_file_that_another_guard_writes_is_left_to_it(record: FlightRecord, path: Path) -> None:
    """Two sidecars with one storage path: the second goes on in memory, and spoils nothing."""
    second = FlightRecord()
    record.tell("crossed", "rag", "first")
    assert not second.keep_in(opened(path))
    assert second.first == 0
    second.tell("crossed", "rag", "second")

    assert [told.order for told in recover(path)] == ["first"]


def test_same_file_handed_over_again_changes_nothing(record: FlightRecord, path: Path) -> None:
    """Every desk that starts hands the file over; what this guard has told is not taken for another's."""
    record.tell("crossed", "rag")
    before = len(os.listdir("/proc/self/fd"))
    assert record.keep_in(opened(path))

    assert len(os.listdir("/proc/self/fd")) == before
    assert (record.first, record.tell("crossed", "rag"), numbers(path)) == (1, 2, [1, 2])


def test_events_from_before_the_file_are_in_it_too(path: Path) -> None:
    """The descriptor comes with the desk; what happened until then is not left out."""
    record = FlightRecord()
    record.tell("desk_silent", "")
    assert record.keep_in(opened(path))

    assert [told.kind for told in recover(path)] == ["desk_silent"]


def test_ring_is_bounded_and_holds_all_that_memory_holds(path: Path) -> None:
    """Whatever is written, the file does not grow; the newest events are there, the oldest are given up and counted."""
    for size in (10, 3000, 60_000):
        record = FlightRecord()
        fd = opened(path)
        assert record.keep_in(fd)
        for _ in range(2000):
            last = record.tell("crossed", "rag", labels={"x": "y" * size})
        record.done(last - 5)
        for _ in range(3):
            last = record.tell("crossed", "rag")
        left = numbers(path)

        assert left == list(range(last - 7, last + 1))[-len(left):]
        assert len(left) >= 4
        assert record.lost > 0
        assert path.stat().st_size <= RING_BYTES
        os.close(fd)


def test_record_that_nobody_hears_keeps_the_newest(record: FlightRecord, path: Path) -> None:
    """Without any desk: as many events as memory holds, in order."""
    for _ in range(KEPT_EVENTS + 100):
        record.tell("crossed", "rag")

    assert numbers(path) == list(range(101, KEPT_EVENTS + 101))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")
def test_disk_that_is_full_costs_the_file_and_nothing_else() -> None:
    """The record goes on in memory."""
    record = FlightRecord()
    ours, theirs = pair()
    record.keep_in(os.open("/dev/full", os.O_RDWR))
    for _ in range(3):
        record.tell("crossed", "rag")
    record.flush(ours)

    assert [event(decode(theirs.recv(65536))[1]["event"]).number for _ in range(3)] == [1, 2, 3]
    ours.close()
    theirs.close()


def test_what_did_not_fit_is_written_when_there_is_room(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that was full for a while: afterwards the file is as if it never had been."""
    now = [100.0]
    monkeypatch.setattr("sidecar.guard.record.monotonic", lambda: now[0])
    record, full = FlightRecord(), True
    fd = opened(path)
    assert record.keep_in(fd)
    write = os.pwrite
    monkeypatch.setattr("sidecar.guard.ring.os.pwrite",
                        lambda fd, data, at: write(fd, data[:40], at) if full else write(fd, data, at))
    for _ in range(3):
        record.tell("crossed", "rag")
    assert numbers(path) == []
    full = False
    record.tell("crossed", "rag")
    assert numbers(path) == []
    now[0] += 20.0
    record.save()

    assert numbers(path) == [1, 2, 3, 4]
    os.close(fd)


def test_disk_that_is_slow_is_written_to_after_what_is_urgent(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event is written before the next step, unless that has taken long: then at the end of the guard's turn."""
    monkeypatch.setattr("sidecar.guard.record.SLOW_SECONDS", 0.01)
    times = iter(range(1000))
    monkeypatch.setattr("sidecar.guard.record.monotonic", lambda: next(times) * slowness)
    record, slowness = FlightRecord(), 1.0
    fd = opened(path)
    assert record.keep_in(fd)
    record.tell("crossed", "rag")
    record.tell("delivered", "rag")
    assert numbers(path) == [1]
    slowness = 0.0
    record.save()
    assert numbers(path) == [1, 2]
    record.tell("answered", "rag")

    assert numbers(path) == [1, 2, 3]
    os.close(fd)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=80)), max_size=20), st.integers(0, 4000))
def test_damage_costs_the_events_that_it_hit(damage: list[tuple[int, bytes]], length: int) -> None:
    """Bytes changed at random, a file cut short: what is read are events that were told, whole and in order."""
    path = Path(tempfile.gettempdir()) / f"flight.record-{os.getpid()}"
    record, fd = FlightRecord(), opened(path)
    try:
        assert record.keep_in(fd)
        for number in range(12):
            record.tell("crossed", "rag", f"o{number}", used_bytes=number)
        told = recover(path)
        content = bytearray(path.read_bytes())
        for at, junk in damage:
            content[at:at + len(junk)] = junk
        path.write_bytes(content[:length] if length % 2 else content)

        found = recover(path)

        assert all(each in told for each in found)
        assert found == sorted(found, key=lambda each: each.number)
        ring = Ring(os.dup(fd))
        assert ring.last <= 12
        ring.close()
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def frame(serial: int, number: int, data: bytes, path: Path) -> bytes:
    """A frame with a good checksum around whatever a stranger has put into it."""
    path.unlink(missing_ok=True)
    ring = Ring(opened(path))
    ring._serial = serial
    ring.write(number, data)
    ring.close()
    found = path.read_bytes()
    return found + bytes(-len(found) % STEP_BYTES)


@pytest.mark.parametrize("data", [
    b"{", b"[]", b"\xff", b'{"v":1,"type":"event"}', b'{"v":1,"type":"event","event":7}', b"[" * 60_000,
    b'{"v":1,"type":"event","event":[9,0,"k","t","o",{}]}', b'{"v":1,"type":"event","event":["x",0,"k","t","o",{}]}',
    b'{"v":1,"type":"event","event":[1,0,"k","t","o",7]}', b'{"v":1,"type":"beat","event":[1,0,"k","t","o",{}]}',
    b'{"v":1,"type":"event","event":[1,1e999,"k","t","o",{}]}'])
def test_whole_frame_of_a_stranger_does_no_harm(data: bytes, path: Path) -> None:
    """Frames that are whole and hold what no guard writes are passed over."""
    path.write_bytes(frame(1, 1, data, path) + frame(2, 2, encode("event", event=[2, 0.0, "k", "t", "o", {}]), path))

    assert numbers(path) == [2]


def test_numbers_beyond_all_measure_do_not_end_the_record(path: Path) -> None:
    """A stranger's frame cannot push the numbers to where nobody can read them."""
    path.write_bytes(frame(2**52 + 1, 2**52 + 1, b"", path))
    record = FlightRecord()
    assert record.keep_in(opened(path))
    record.tell("crossed", "rag")

    assert numbers(path) == [1]


def test_file_full_of_marks_is_read_in_bounded_time(path: Path) -> None:
    """A megabyte of beginnings of frames holds none."""
    path.write_bytes(b"\x8eRSF" * (RING_BYTES // 4))

    with path.open("rb") as file:
        assert list(frames(file.fileno())) == []
    assert recover(path) == []


@pytest.mark.parametrize("kind", ["absent", "directory", "pipe", "link", "socket", "empty", "zero"])
def test_what_is_no_record_is_an_empty_one(kind: str, path: Path) -> None:
    """Nothing there, or something else: no events, no error, and nobody waits."""
    made: dict[str, Any] = {
        "absent": lambda: None, "directory": path.mkdir, "pipe": lambda: os.mkfifo(path), "empty": path.touch,
        "link": lambda: path.symlink_to("/etc/passwd"), "zero": lambda: path.write_bytes(bytes(100_000)),
        "socket": lambda: bound.bind(os.path.relpath(path))}
    with socket.socket(socket.AF_UNIX) as bound:
        made[kind]()

        assert recover(path) == []
