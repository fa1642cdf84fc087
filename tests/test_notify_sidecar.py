"""A whole sidecar and real Alertmanagers that are away, broken or started anew: every firing and every end arrives."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Target
from servers import AlertRecorder, RunningAlertmanager, free_port, running_alertmanager, wait_until
from sidecars import MIB, Sidecar, config, running_sidecar

LINE_BYTES = 120 * MIB
FIRES = {"alert": "Fires", "expr": f"rag_memory_used_bytes > {LINE_BYTES}"}
ELSE = {"alert": "Else", "expr": "rag_memory_used_bytes > 0", "labels": {"severity": "info"}}


def settings(tmp_path: Path, port: int, pid: int, urls: list[str], *rules: dict[str, Any]) -> str:
    """A sidecar.yml with one target and these rules."""
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules or [FIRES]}]}))
    return config(port, tmp_path / "state", [{"name": "t", "match": {"pid": pid}}], alertmanagers=urls,
                  rules=[str(tmp_path / "rules.yml")])


def told(receiver: AlertRecorder, name: str = "Fires") -> list[str]:
    """What people were told of an alert, in order."""
    return [each["status"] for each in receiver.alerts() if each["labels"]["alertname"] == name]


def posted(sidecar: Sidecar, url: str, outcome: str = "sent") -> float:
    """How many alerts an Alertmanager got."""
    return sidecar.value("rag_sidecar_notifications_total", f'alertmanager="{url}"', f'outcome="{outcome}"') or 0.0


@contextmanager
def heard(tmp_path: Path, port: int = 0) -> Iterator[tuple[RunningAlertmanager, AlertRecorder]]:
    """An Alertmanager, which listens at `port` too, and the receiver that it tells of everything."""
    flags = [f"--web.listen-address=127.0.0.1:{port}"] if port else []
    with AlertRecorder() as receiver, running_alertmanager(tmp_path, f"{receiver.url}/hook", flags=flags) as server:
        yield server, receiver


def test_every_alertmanager_hears_of_every_firing_and_every_end(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Two that are well, one that is dead and one that answers 500: each hears of it as soon as it can."""
    leaky, port, late = spawn("leaky"), free_port(), free_port()
    with heard(tmp_path) as (one, first), heard(tmp_path) as (two, second), AlertRecorder(status=500) as broken:
        urls = [one.url, two.url, f"http://127.0.0.1:{late}", broken.url]
        with running_sidecar(tmp_path, file=settings(tmp_path, port, leaky.pid, urls), port=port) as sidecar:
            leaky.tell("grow 150")
            for receiver in (first, second):
                wait_until(lambda receiver=receiver: told(receiver) == ["firing"], 20, "the firing")
            wait_until(lambda: all(posted(sidecar, url, "failed") >= 2 for url in urls[2:]), 20, "attempts in vain")
            with heard(tmp_path, late) as (_, third):
                wait_until(lambda: told(third) == ["firing"], 20, "the firing, where nobody was before")
                leaky.tell("drop")
                for receiver in (first, second, third):
                    wait_until(lambda receiver=receiver: told(receiver) == ["firing", "resolved"], 20, "the end")
            broken.posts.clear()
            broken.status = 200
            wait_until(lambda: len(broken.posts) >= 2, 20, "both, where nothing was accepted before")
            assert not any(sidecar.series("rag_sidecar_notifications_dropped_total").values())
        starts, ends = (each["endsAt"] for each in broken.alerts()[:2])
        assert starts > ends


@pytest.mark.parametrize("killed", [False, True])
def test_what_ended_while_nobody_was_there_is_resolved(
    spawn: Callable[..., Target], tmp_path: Path, killed: bool
) -> None:
    """Told as firing, then the sidecar ends, memory falls and one rule is taken away: both alerts are resolved."""
    leaky, port = spawn("leaky"), free_port()
    with heard(tmp_path) as (server, receiver):
        file = settings(tmp_path, port, leaky.pid, [server.url], FIRES, ELSE)
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            leaky.tell("grow 150")
            wait_until(lambda: told(receiver) == told(receiver, "Else") == ["firing"], 20, "the firings")
            wait_until(lambda: sidecar.value("rag_sidecar_journal_up") == 1.0, 20, "the journal")
            if killed:
                os.kill(sidecar.process.pid, signal.SIGKILL)
                sidecar.process.wait(10)
            else:
                assert sidecar.stop() == 0
        leaky.tell("drop")
        file = settings(tmp_path, port, leaky.pid, [server.url], FIRES)
        with running_sidecar(tmp_path, file=file, port=port):
            for name in ("Fires", "Else"):
                wait_until(lambda name=name: told(receiver, name) == ["firing", "resolved"], 60, f"the end of {name}")
        assert len({(each["labels"]["alertname"], each["startsAt"]) for each in receiver.alerts()}) == 2


def test_end_that_was_not_accepted_is_told_after_a_restart(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Alertmanager went away after the firing; the alert ended, then the sidecar was restarted: the end arrives."""
    leaky, port, at = spawn("leaky"), free_port(), free_port()
    file = settings(tmp_path, port, leaky.pid, [f"http://127.0.0.1:{at}"])
    with AlertRecorder(port=at) as before, running_sidecar(tmp_path, file=file, port=port) as sidecar:
        leaky.tell("grow 150")
        before.wait_for(lambda: len(before.posts) == 1, 20, "the firing")
        before.status = 503
        leaky.tell("drop")
        before.wait_for(lambda: len(before.posts) >= 2, 20, "the end, in vain")
        assert sidecar.stop() == 0
        begun = before.alerts()[0]["startsAt"]
    with AlertRecorder(port=at) as after, running_sidecar(tmp_path, file=file, port=port):
        after.wait_for(lambda: len(after.posts) >= 1, 20, "the end")
        (ended, *_) = after.alerts()
    assert (ended["startsAt"], ended["endsAt"]) == (begun, before.alerts()[-1]["endsAt"])


def test_end_of_an_alert_says_what_was_tried(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The guard asks for a cleanup, memory falls, and whoever reads the end of the alert reads what that freed."""
    leaky, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with AlertRecorder() as recorder:
        target = {"name": "t", "match": {"pid": leaky.pid}, "cleanup": [{"signal": "SIGUSR1"}],
                  "memory": {"basis": "anon", "preventive": "150MiB", "main": "200MiB", "critical": "260MiB"}}
        file = config(port, tmp_path / "state", [target], alertmanagers=[recorder.url])
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            leaky.tell("grow 300")
            assert sidecar.outcome()["outcome"] == "effective"
            recorder.wait_for(lambda: any(
                each["labels"]["alertname"] == "RagMemoryCritical" and each["annotations"].get("remediation")
                for each in recorder.alerts()), 90, "what was tried")
        said = {each["annotations"].get("remediation", "") for each in recorder.alerts()}
    assert any(text.startswith("aggressive: ") for text in said)


@pytest.mark.parametrize("recovers", [True, False])
def test_what_waits_is_tried_before_the_sidecar_ends(
    spawn: Callable[..., Target], tmp_path: Path, recovers: bool
) -> None:
    """SIGTERM while Alertmanager is not well: what waits arrives if it recovers soon, else the log counts it."""
    leaky, port = spawn("leaky"), free_port()
    with AlertRecorder(status=503) as recorder:
        file = settings(tmp_path, port, leaky.pid, [recorder.url], ELSE)
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            recorder.wait_for(lambda: len(recorder.posts) >= 2, 20, "attempts in vain")
            os.kill(sidecar.process.pid, signal.SIGTERM)
            recorder.posts.clear()
            recorder.status = 200 if recovers else 503
            assert sidecar.process.wait(20) == 0
        assert {each["labels"]["alertname"] for each in recorder.alerts()} == {"Else"}
        left = sidecar.said("alerts not delivered at the end")
    assert [each["count"] for each in left] == ([] if recovers else [1])
