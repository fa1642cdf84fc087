"""What a tick costs, in calls instead of seconds: it must not grow with what has been done."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from acting_world import START, World

from sidecar.actions.attempt import Attempt
from sidecar.actions.attempts import KEPT_ATTEMPTS
from sidecar.model import Labels, Sample
from sidecar.store import SLOT_SECONDS, Store

MORE = 100
"""So many calls more are no growth: a wider look at a list here and there."""


def calls(work: Callable[[], None]) -> int:
    """How many functions are called, of Python and of C, generators that go on included."""
    found = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal found
        found += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def past(number: int) -> tuple[str, str, float, dict[str, Any]]:
    """The journal's row of an attempt that helped, some time ago."""
    at = START - 7200.0 + number
    made = Attempt(f"rag.light.{number}", "rag", "light", {"alertname": "Memorypreventive"}, 6e8, 7e8, 0.0, at,
                   channel="http", delivered_at=at, answered_at=at, outcome="effective", ended_at=at, after_bytes=5e8,
                   freed_bytes=2e8, rebounded=False)
    return made.id, "final", at, made.as_record()


def test_tick_costs_no_more_after_many_cleanups(tmp_path: Path) -> None:
    """With five hundred cleanups behind it a sidecar needs no more for a tick than with none."""
    worlds = [World(tmp_path, used=850.0 * (1 << 20)), World(tmp_path, used=850.0 * (1 << 20))]
    worlds[1].desk.ledger.restore([past(number) for number in range(KEPT_ATTEMPTS)], START)
    found = []
    for world in worlds:
        world.wait(1.0)
        found.append([calls(world.tick) for _ in range(3)][-1])
        assert world.incident is None, "its alerts have not been firing for long enough"
        world.close()

    assert len(worlds[1].attempts()) == KEPT_ATTEMPTS
    assert found[1] <= found[0] + MORE


def test_most_ticks_leave_stored_series_alone() -> None:
    """However many series there are, what is due of them is done once in five seconds and costs other ticks nothing."""
    store = Store()
    store.append(Sample(Labels({"__name__": "rag_x", "target": str(number)}), 1.0, START) for number in range(900))
    store.truncate(START)
    assert calls(lambda: store.truncate(START + SLOT_SECONDS - 1)) < MORE
    assert calls(lambda: store.truncate(START + SLOT_SECONDS)) > 900
