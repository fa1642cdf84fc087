"""Who is there is looked at a piece at a time, however many there are: a line that is near does not wait for it."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from conftest import Target
from guarding import Hands

from sidecar.guard.tree import AT_A_TIME, Census

CROWD = 10 * AT_A_TIME


def crowd(folder: Path, count: int = CROWD) -> None:
    """So many processes, all children of the first."""
    for pid in range(10, 10 + count):
        (folder / str(pid)).mkdir(parents=True)
        (folder / str(pid) / "stat").write_text(f"{pid} (python) S {1 if pid == 10 else 10} " + "0 " * 20)


def test_a_look_is_complete_or_not_seen_at_all(tmp_path: Path) -> None:
    """Half a look makes nobody's workers vanish: what was known holds until all have been looked at."""
    crowd(tmp_path)
    census = Census(str(tmp_path))
    assert census.update(1.0)
    before = census.children
    assert len(before[10]) == CROWD - 1
    (tmp_path / "99999").mkdir()
    (tmp_path / "99999" / "stat").write_text("99999 (python) S 10 " + "0 " * 20)

    assert not census.update(100.0, 0.0)
    pieces = 0
    while not census.update(100.0, 1e-9):
        pieces += 1
        assert census.under_way
        assert census.children is before

    assert pieces >= 2 * CROWD // AT_A_TIME
    assert not census.under_way
    assert 99999 in census.children[10]


def test_the_guard_looks_at_its_target_between_the_pieces(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """While it looks through a crowd the guard neither rests nor keeps a target waiting until the end."""
    crowd(tmp_path)
    target, hands = spawn("leaky"), Hands()
    try:
        hands.watch(target)
        census = hands.watchlist._census
        census._proc, census._due = str(tmp_path), 0.0
        hands.watchlist.agenda.put("t")
        hands.watchlist.look(time.monotonic())
        turns = 0
        while census.under_way:
            assert hands.watchlist.wait_seconds(time.monotonic()) == 0.0
            hands.watchlist.agenda.put("t")
            hands.watchlist.look(time.monotonic())
            assert hands.watchlist.watches["t"].used_bytes > 0
            turns += 1
        assert len(census.children[10]) == CROWD - 1
        assert os.getpid() not in census.children
    finally:
        hands.close()
    assert turns >= 1


def test_a_look_that_had_to_wait_is_followed_by_another_at_once(spawn: Callable[..., Target]) -> None:
    """While others have the cores the guard looks away no longer than it would have: it has used no time itself."""
    target, hands = spawn("leaky", "--handle", "SIGUSR1"), Hands()
    try:
        target.tell("grow 30")
        hands.watch(target)
        watch = hands.watchlist.watches["t"]
        used = watch.read_used()
        hands.stand(line_bytes=used + (1 << 20))
        read = watch._reader.read

        def waited(now: float) -> float:
            threading.Event().wait(0.1)
            return read(now)

        watch._reader.read = waited  # type: ignore[method-assign]
        now = time.monotonic()
        assert watch.look(now) is None
        assert watch.next_look - now < 0.1
    finally:
        hands.close()
