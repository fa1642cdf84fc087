"""What the desk does about Python's garbage collector."""

import gc
from collections.abc import Iterator
from itertools import count

import pytest

from sidecar.pipeline_collector import MOST_FREEZES, SELDOM, LongPasses


@pytest.fixture
def passes() -> Iterator[LongPasses]:
    """Every full pass takes a second of its clock; afterwards the collector is as it was."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    made = LongPasses(count(0.0).__next__)
    gc.callbacks.append(made)
    yield made
    gc.callbacks.remove(made)
    gc.set_threshold(*before)
    gc.unfreeze()


def test_long_passes_leave_out_what_stays_and_come_ever_more_seldom(passes: LongPasses) -> None:
    """At a thousand targets the desk is held by a full pass once in minutes, and not every three seconds."""
    if gc.get_threshold()[2] != 10:
        pytest.skip("this Python's collector goes in steps")
    kept = [[] for _ in range(1000)]  # type: list[list[int]]
    frozen, seldom = [gc.get_freeze_count()], []
    for _ in range(MOST_FREEZES + 1):
        gc.collect()
        frozen.append(gc.get_freeze_count())
        seldom.append(gc.get_threshold()[2])

    assert frozen[1] - frozen[0] > len(kept)
    assert seldom[:3] == [20, 40, 80]
    assert seldom[-1] == SELDOM == max(seldom)


def test_postponed_passes_stay_postponed(passes: LongPasses) -> None:
    """While an answer is being made there is no full pass, whatever an earlier one took."""
    gc.set_threshold(700, 10, 1 << 30)
    if gc.get_threshold()[2] != 1 << 30:
        pytest.skip("this Python's collector goes in steps")
    gc.collect()
    assert gc.get_threshold()[2] == 1 << 30
