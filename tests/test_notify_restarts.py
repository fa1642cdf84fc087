"""What each Alertmanager has accepted outlives the sidecar: it is told of what it has missed, and of nothing else."""

import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import Target
from servers import AlertRecorder, free_port, running_alertmanager, wait_until
from sidecars import MIB, Sidecar, config, running_sidecar

from sidecar.journal.entry import Entry, Page
from sidecar.journal.scribe import Scribe
from sidecar.model import Alert, Labels

RULES = [{"alert": "Fires", "expr": f"rag_memory_used_bytes > {120 * MIB}"},
         {"alert": "Always", "expr": "rag_memory_used_bytes > 0"}]


def settings(tmp_path: Path, port: int, pid: int, ports: list[int]) -> str:
    """A sidecar.yml with Alertmanagers at these ports, an alert that comes and goes, and one that stays."""
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": RULES}]}))
    return config(port, tmp_path / "state", [{"name": "t", "match": {"pid": pid}}],
                  alertmanagers=[f"http://127.0.0.1:{at}" for at in ports], rules=[str(tmp_path / "rules.yml")])


def told(receiver: AlertRecorder, name: str = "Fires") -> list[str]:
    """What people were told of an alert, in order."""
    return [each["status"] for each in receiver.alerts() if each["labels"]["alertname"] == name]


@contextmanager
def heard(tmp_path: Path, port: int) -> Iterator[AlertRecorder]:
    """What people are told by a real Alertmanager that listens at `port` for as long as this lasts."""
    flags = [f"--web.listen-address=127.0.0.1:{port}"]
    with AlertRecorder() as receiver, running_alertmanager(tmp_path, f"{receiver.url}/hook", flags=flags):
        yield receiver


def written(sidecar: Sidecar) -> None:
    """Until the journal holds what was known a moment ago: two more pages."""
    def writes() -> float:
        return sidecar.value("rag_sidecar_ticks_total") or 0.0

    before = writes()
    wait_until(lambda: writes() >= before + 2, 20, "two ticks")


def end(sidecar: Sidecar, how: str) -> None:
    """End the desk or everything, in order or not; a desk comes back by itself."""
    if how == "orderly":
        assert sidecar.stop() == 0
        return
    desk = sidecar.child("desk")
    if how == "everything killed":
        os.kill(sidecar.process.pid, signal.SIGKILL)
        sidecar.process.wait(10)
    os.kill(desk, signal.SIGKILL)
    if how == "desk killed":
        wait_until(lambda: sidecar.child("desk") not in (0, desk), 20, "another desk")
        wait_until(sidecar.ready, 30, "that it is ready")


@pytest.mark.parametrize("how", ["orderly", "desk killed", "everything killed"])
def test_what_began_and_ended_before_a_restart_is_told_to_whom_it_is_news(
    spawn: Callable[..., Target], tmp_path: Path, how: str
) -> None:
    """One hears all at once, one was away until after the restart and hears firing and end, a new one what is now."""
    leaky, port, ports = spawn("leaky"), free_port(), [free_port() for _ in range(3)]
    known = ports[:2] if how != "desk killed" else ports
    with heard(tmp_path, ports[0]) as first, ExitStack() as stack:
        file = settings(tmp_path, port, leaky.pid, known)
        sidecar = stack.enter_context(running_sidecar(tmp_path, file=file, port=port))
        leaky.tell("grow 150")
        wait_until(lambda: told(first) == ["firing"], 20, "the firing")
        leaky.tell("drop")
        wait_until(lambda: told(first) == ["firing", "resolved"], 20, "the end")
        written(sidecar)
        end(sidecar, how)
        if how != "desk killed":
            file = settings(tmp_path, port, leaky.pid, ports)
            stack.enter_context(running_sidecar(tmp_path, file=file, port=port))
        second, third = (stack.enter_context(heard(tmp_path, at)) for at in ports[1:])
        for receiver in (second, third):
            wait_until(lambda receiver=receiver: told(receiver, "Always") == ["firing"], 30, "what fires")
        wait_until(lambda: told(second) == ["firing", "resolved"], 30, "what it has missed")
        if how == "desk killed":
            wait_until(lambda: told(third) == ["firing", "resolved"], 30, "what it has missed")
        else:
            assert told(third) == []
        assert (told(first), told(first, "Always")) == (["firing", "resolved"], ["firing"])


def test_what_ends_while_nobody_looks_is_told_as_both_to_whom_it_is_news(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Fires while one of two is away, and ends while the sidecar is killed: that one hears both, the other the end."""
    leaky, port, ports = spawn("leaky"), free_port(), [free_port(), free_port()]
    file = settings(tmp_path, port, leaky.pid, ports)
    with heard(tmp_path, ports[0]) as first:
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            leaky.tell("grow 150")
            wait_until(lambda: told(first) == ["firing"], 20, "the firing")
            written(sidecar)
            end(sidecar, "everything killed")
        leaky.tell("drop")
        with running_sidecar(tmp_path, file=file, port=port), heard(tmp_path, ports[1]) as second:
            for receiver in (first, second):
                wait_until(lambda receiver=receiver: told(receiver) == ["firing", "resolved"], 60, "both")


ALERT = Alert(labels=Labels({"alertname": "A"}), annotations={}, state="firing", condition=True, value=1.0,
              active_at=1.0, fired_at=1.0, resolved_at=None, keep_firing_since=None, last_evaluation=1.0,
              interval_seconds=1.0, expr="x > 0")
TOLD = {"http://a:9093": 1, "http://b:9093": 0}


@pytest.mark.parametrize(("damage", "found"), [
    ((), {"A": TOLD, "B": TOLD}), ((None,), {"A": None, "B": TOLD}), (('{"http://a:9093": 7}',), {"B": TOLD}),
    (('{"http://a:9093": true}',), {"B": TOLD}), (("[1]",), {"B": TOLD}), (("{",), {"B": TOLD}), ((17,), {"B": TOLD})])
def test_what_was_accepted_is_kept_with_the_alert(
    tmp_path: Path, damage: tuple[object, ...], found: dict[str, dict[str, int] | None]
) -> None:
    """It comes back as it was; an older version's row says that nobody knows, and a damaged one costs itself."""
    path, rule = tmp_path / "journal.db", ("r.yml", "g", "A#1")
    scribe = Scribe(path)
    scribe.open(0.0)
    alerts = [replace(ALERT, labels=Labels({"alertname": name})) for name in "AB"]
    scribe.take(Page(5.0, frozenset([rule]), [Entry(rule, each, None, 5.0, TOLD) for each in alerts]))
    scribe.close(None)
    if damage:
        db = sqlite3.connect(path)
        db.execute("UPDATE alert SET told = ? WHERE labels LIKE '%\"A\"%'", damage)
        db.commit()
        db.close()
    scribe = Scribe(path)
    entries = scribe.open(6.0)
    scribe.close(None)
    assert {entry.alert.name: entry.told for entry in entries} == found
