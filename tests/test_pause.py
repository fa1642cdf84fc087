"""How far ticks lie apart: a second, longer while all is calm, and as long as somebody wishes."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Target
from servers import free_port, wait_until
from sidecars import Sidecar, config, running_sidecar

from sidecar.actions.facts import Subject
from sidecar.app_pause import BEAT_SECONDS, Pause
from sidecar.clock import monotonic
from sidecar.guard.desk import SILENCE_SECONDS
from sidecar.model import Alert, AlertState, Labels
from sidecar.pipeline_calm import calm, may_rest
from sidecar.pipeline_thresholds import Known
from sidecar.rules.load import load, shipped
from sidecar.thresholds import MIB, Size, Wanted, resolve

LONG = 3600.0
QUIET = {"name": "rag", "memory": {"main": "200MiB", "critical": "240MiB", "basis": "anon"}}
FAR = Subject("rag", up=True, fresh=True, armed=True, age_seconds=1.0, mode="enforce", channels={},
              used_bytes=100.0 * MIB)
KNOWN = Known(None, None, resolve(None, Wanted(main=Size(200 * MIB, "here"), basis="anon")))


def alert(state: AlertState) -> Alert:
    """One in this state."""
    return Alert(Labels({"alertname": "A"}), {}, state, condition=True, value=1.0, active_at=1.0, fired_at=None,
                 resolved_at=None, keep_firing_since=None, last_evaluation=1.0, interval_seconds=1.0, expr="1")


def is_calm(subject: Subject = FAR, known: Known | None = KNOWN, alerts: Sequence[Alert] = ()) -> bool:
    """Whether all is calm with this target, and one beside it that is far from its lines."""
    return calm([FAR, replace(subject, name="other")], {"rag": KNOWN, **({"other": known} if known else {})}, alerts)


def test_all_is_calm_far_from_the_lines():
    """Up to three quarters of the preventive line, which is 160 MiB here; an alert that has ended changes nothing."""
    assert is_calm()
    assert is_calm(replace(FAR, used_bytes=120.0 * MIB))
    assert is_calm(alerts=[alert("inactive")])


@pytest.mark.parametrize("disturbed", [
    {"subject": replace(FAR, used_bytes=121.0 * MIB)}, {"subject": replace(FAR, up=False)},
    {"subject": replace(FAR, used_bytes=None)}, {"known": None}, {"alerts": [alert("pending")]},
    {"alerts": [alert("firing")]},
    {"known": KNOWN._replace(lines=resolve(None, Wanted(main=Size(200 * MIB, "here"), basis="endpoint")))},
], ids=["near", "down", "unread", "without lines", "pending", "firing", "told by an endpoint"])
def test_one_disturbance_ends_the_calm(disturbed: dict[str, Any]) -> None:
    """Of many targets one is enough."""
    assert not is_calm(**disturbed)


def rules(tmp_path: Path, expr: str, **group: str) -> Path:
    """A file of one rule."""
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "g", **group, "rules": [{"record": "r", "expr": expr}]}]}))
    return file


@pytest.mark.parametrize(("expr", "group", "may"), [
    ("rate(x[8s])", {}, True), ("rate(x[7s])", {}, False), ("max_over_time(sum(x)[6s:1s])", {}, False),
    ("x", {"interval": "2s"}, True), ("x", {"interval": "1s"}, False)])
def test_no_rule_is_starved_by_the_calm(tmp_path: Path, expr: str, group: dict[str, str], may: bool) -> None:
    """Ranges have four looks at least, and a group is evaluated as often as it says."""
    assert may_rest(load([rules(tmp_path, expr, **group)]), 2.0) is may


def test_the_shipped_rules_allow_the_calm():
    """Else nobody would have it."""
    assert may_rest(load(shipped()), 2.0)


def test_a_pause_that_nothing_disturbs_lasts_as_long_as_the_calm():
    """And the ticks go on from where it was to end."""
    async def waited() -> tuple[float, float]:
        due = monotonic() + 0.01
        return await Pause(lambda: None).over(due, due + 0.02), due + 0.02

    found, wanted = asyncio.run(waited())
    assert found == wanted


def test_what_stirs_ends_the_calm_but_no_pause_before_its_time():
    """So that a thousand events do not make a thousand ticks."""
    async def waited() -> tuple[float, float, float]:
        pause, due = Pause(lambda: None), monotonic() + 0.05
        pause.stir()
        at = await pause.over(due, due + LONG)
        return due, at, monotonic()

    due, at, now = asyncio.run(waited())
    assert due <= at <= now < due + LONG


def test_a_reload_ends_any_pause():
    """Its orders are to stand at once."""
    async def waited() -> float:
        pause, due = Pause(lambda: None), monotonic() + LONG
        asyncio.get_running_loop().call_soon(pause.end)
        return due - await pause.over(due, due)

    assert asyncio.run(waited()) == 0.0


def test_a_disturbance_during_the_tick_counts():
    """What came between `begin` and the pause has not been seen by that tick."""
    async def waited() -> bool:
        pause = Pause(lambda: None)
        pause.begin()
        pause.stir()
        now = monotonic()
        return await pause.over(now, now + LONG) < now + LONG

    assert asyncio.run(waited())


def spacing(sidecar: Sidecar, last: int) -> list[float]:
    """How far the last samples of used bytes lie apart, in whole seconds."""
    found = json.loads(sidecar.get("/api/v1/query?query=rag_memory_used_bytes[30s]"))["data"]["result"]
    times = [float(time) for time, _ in found[0]["values"]][-last - 1:] if found else []
    return [float(round(after - before)) for before, after in pairwise(times)]


@contextmanager
def watched(tmp_path: Path, spawn: Any, **more: Any) -> Iterator[tuple[Sidecar, Target]]:
    """A sidecar beside a program that is far from its lines."""
    target, port = spawn("leaky"), free_port()
    file = config(port, tmp_path / "state", [{**QUIET, "match": {"pid": target.pid}}], **more)
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        yield sidecar, target


def test_a_calm_target_is_looked_at_every_other_second_and_a_near_one_every_second(
        tmp_path: Path, spawn: Any) -> None:
    """And no evaluation is told as missed meanwhile."""
    with watched(tmp_path, spawn) as (sidecar, target):
        wait_until(lambda: spacing(sidecar, 3) == [2.0] * 3, 30, "samples two seconds apart")
        assert set(sidecar.series("rag_sidecar_rule_group_iterations_missed_total").values()) <= {0.0}
        target.tell("grow 140")
        wait_until(lambda: spacing(sidecar, 3) == [1.0] * 3, 30, "samples one second apart")


def test_who_sets_the_interval_gets_it(tmp_path: Path, spawn: Any) -> None:
    """Also where all is calm."""
    with watched(tmp_path, spawn, evaluation_interval="1s") as (sidecar, _):
        wait_until(lambda: spacing(sidecar, 5) == [1.0] * 5, 30, "samples one second apart")


def test_a_long_interval_is_no_silence(tmp_path: Path, spawn: Any) -> None:
    """The guard, which ends a desk that says nothing, hears of it in between."""
    with watched(tmp_path, spawn, evaluation_interval="30s") as (sidecar, _):
        desk = sidecar.child("desk")
        threading.Event().wait(SILENCE_SECONDS + BEAT_SECONDS)
        assert sidecar.child("desk") == desk
        assert "has not been heard of" not in sidecar.log.read_text()
