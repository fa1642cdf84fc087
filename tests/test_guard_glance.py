"""Far from its line a target is glanced at; who is there is looked at when somebody has begun: nothing is missed."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Target
from guarding import MIB, Hands
from test_guard_census import crowd

from sidecar.guard.tree import LONGEST_SECONDS, Census
from sidecar.guard.watch import FEW, swaps


class Counted:
    """A target under watch, with a count of how often it was read in full."""

    def __init__(self, hands: Hands, target: Target) -> None:
        hands.watch(target)
        self.watch = hands.watchlist.watches["t"]
        self.used_bytes = self.watch.read_used()
        self.reads = 0
        self._read, self.watch._reader.read = self.watch._reader.read, self.read  # type: ignore[method-assign]

    def read(self, now: float) -> float:
        """As the watch reads."""
        self.reads += 1
        return self._read(now)


def test_far_from_its_line_a_target_is_read_in_full_once_a_second(spawn: Callable[..., Target]) -> None:
    """In between the guard looks as often as ever at how much is resident, which says no less and costs less."""
    target, hands = spawn("leaky", "--handle", "SIGUSR1"), Hands()
    try:
        counted = Counted(hands, target)
        hands.stand(line_bytes=counted.used_bytes + 300 * MIB)
        begun = now = time.monotonic()
        looks = 0
        while now < begun + 2.5:
            assert counted.watch.look(now) is None
            assert counted.watch.next_look - now <= 0.1
            now, looks = counted.watch.next_look, looks + 1
    finally:
        hands.close()
    assert looks >= 25
    assert counted.reads == (looks if swaps() else 3)


@pytest.mark.parametrize("why", ["a crowd", "a near line", "swap", "a new order"])
def test_where_a_glance_would_not_do_each_look_is_in_full(
        spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Near a line, where memory may be swapped, and when something has been heard, used bytes are read as they are."""
    if why == "swap":
        monkeypatch.setattr("sidecar.guard.watch.swaps", lambda: True)
    target, hands = spawn("leaky", "--handle", "SIGUSR1"), Hands()
    try:
        counted = Counted(hands, target)
        room = 30 if why == "a near line" else 300
        hands.stand(line_bytes=counted.used_bytes + room * MIB)
        now = time.monotonic()
        for _ in range(5):
            counted.watch.look(now, FEW + 1 if why == "a crowd" else 1)
            now = counted.watch.next_look
            if why == "a new order":
                hands.stand(line_bytes=counted.used_bytes + room * MIB)
    finally:
        hands.close()
    assert counted.reads == 5


def test_a_leap_is_seen_by_a_glance(spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """A quiet target that leaps over its line between two full readings is asked to clean up all the same."""
    monkeypatch.setattr("sidecar.guard.watch.LONGEST_SECONDS", 1e6)  # no second full reading by time alone
    target, hands = spawn("leaky", "--handle", "SIGUSR1"), Hands()
    try:
        counted = Counted(hands, target)
        line = counted.used_bytes + 200 * MIB
        hands.stand(line_bytes=line)
        for _ in range(3):
            hands.turn()
        before = counted.reads
        target.tell("grow 250")
        crossed = hands.until("crossed")
    finally:
        hands.close()
    assert before == 1 or swaps()
    assert crossed.detail["used_bytes"] > line


@pytest.mark.parametrize(("text", "can"), [
    ("Filename\tType\tSize\tUsed\tPriority\n", False), ("Filename\tType\n/dev/zram0 partition 100 0 -2\n", True),
    ("", True), (None, True)])
def test_only_a_machine_that_says_so_has_no_swap(tmp_path: Path, text: str | None, can: bool) -> None:
    """Where it cannot be told whether memory may be swapped, the guard takes it that it may."""
    if text is not None:
        (tmp_path / "swaps").write_text(text)
    assert swaps(str(tmp_path)) == can


def begin(folder: Path, pid: int) -> None:
    """A process has begun, a child of the first."""
    (folder / str(pid)).mkdir()
    (folder / str(pid) / "stat").write_text(f"{pid} (python) S 10 " + "0 " * 20)


def test_who_is_there_is_looked_at_when_somebody_has_begun(tmp_path: Path) -> None:
    """While the kernel says that no process has begun the guard spares itself the look, but for every five seconds."""
    crowd(tmp_path)
    census, now, looks = Census(str(tmp_path)), 100.0, []
    for second in range(14):
        if second == 8:
            begin(tmp_path, 5000)
        (tmp_path / "loadavg").write_text(f"0.00 0.00 0.00 1/99 {5000 if second >= 8 else 200}\n")
        if census.update(now + second):
            looks.append(second)
        assert (5000 in census.children[10]) == (second >= 8)
    assert looks == [0, 1, 1 + LONGEST_SECONDS, 8, 9]  # once more after somebody new: it may be about to run a program


@pytest.mark.parametrize("text", ["", "0.00 0.00 0.00 0/0 0\n", "0.00 0.00\n"])
def test_a_kernel_that_does_not_say_who_was_last_is_not_believed(tmp_path: Path, text: str) -> None:
    """On gVisor, for one, who is there is looked at every second."""
    crowd(tmp_path)
    (tmp_path / "loadavg").write_text(text)
    census = Census(str(tmp_path))
    assert [census.update(100.0 + second) for second in range(4)] == [True] * 4
