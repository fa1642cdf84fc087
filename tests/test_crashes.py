"""A sidecar that crashes again and again looks on: it is not known what it would do next."""

import logging
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import Target, wait_until
from hypothesis import given
from hypothesis import strategies as st
from servers import free_port
from sidecars import MIB, Sidecar, config, running_sidecar

from sidecar.guard.lives import short_lives
from sidecar.pipeline_crashes import Crashes


def after(*lived_seconds: float) -> bool:
    """Whether the desk after desks that lived so long begins by looking on."""
    count = 0
    for seconds in lived_seconds:
        count = short_lives(count, seconds)
    return Crashes(count, 1000.0).too_often(1000.0)


def test_three_short_lives_in_a_row_are_too_many() -> None:
    """Desks that ended within a minute each; one that lived longer begins a new count."""
    assert not after()
    assert not after(5, 59)
    assert after(5, 59, 0)
    assert not after(5, 59, 60, 5, 59)
    assert not after(5, 59, 3600, 0)


def test_only_a_long_life_is_trusted_again() -> None:
    """Once there were too many, a desk must have lived ten minutes; a few minutes are not enough."""
    assert after(1, 1, 1, 300)
    assert after(1, 1, 1, 300, 599)
    assert not after(1, 1, 1, 600)
    assert not after(1, 1, 1, 600, 1, 1)


@given(st.lists(st.floats(0, 2000), max_size=20))
def test_what_was_before_a_long_life_does_not_matter(lived: list[float]) -> None:
    """A desk after one that lived ten minutes may act."""
    assert not after(*lived, 600.0)


def test_looking_on_ends_after_ten_minutes_or_when_a_person_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """It is said at the start, with what to do about it."""
    with caplog.at_level(logging.ERROR):
        crashes = Crashes(3, 1000.0)
    assert "crashed too often" in caplog.text
    assert "rag-sidecar resume" in caplog.records[0].__dict__["help"]
    assert [crashes.too_often(at) for at in (1000.0, 1599.0, 1600.0)] == [True, True, False]
    crashes = Crashes(4, 1000.0)
    crashes.forgive()
    assert not crashes.too_often(1001.0)


def served_by(sidecar: Sidecar, start: int) -> bool:
    """Whether this desk is there by now and has had a tick."""
    try:
        return sidecar.value("rag_sidecar_desk_starts_total") == start
    except OSError:  # between two desks
        return False


def test_a_sidecar_that_crashes_three_times_only_looks_on(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Memory is shown and judged, but nobody is asked for a cleanup, although a channel is named."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port = free_port()
    target = {"name": "t", "match": {"pid": leaky.pid}, "memory": {"main": "200MiB", "critical": "260MiB"},
              "cleanup": [{"signal": "SIGUSR1"}]}
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        for start in (1, 2, 3):
            wait_until(partial(served_by, sidecar, start), 30, f"desk {start}")
            os.kill(sidecar.child("desk"), signal.SIGKILL)
        wait_until(partial(served_by, sidecar, 4), 30, "the desk after three crashes")
        leaky.tell("grow 300")
        wait_until(lambda: ("RagMemoryCritical", "firing") in sidecar.alerts(), 20, "the alert")
        begun = sidecar.value("rag_sidecar_ticks_total") or 0
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) >= begun + 3, 20, "some ticks")

        assert sidecar.value("rag_action_held", 'reason="crashed_too_often"') == 1
        assert sidecar.actions() == []
        assert (sidecar.value("rag_memory_used_bytes") or 0) > 300 * MIB
        assert sidecar.log.read_text().count("crashed too often") == 1
