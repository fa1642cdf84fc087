"""Cleanups by the agents in the target's processes, from the configuration to the verdict. Whole sidecars."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import CHECKOUT, free_port
from sidecars import Sidecar, config, running_sidecar

from sidecar.actions.channels import AGENT, mode, offered
from sidecar.guard.wire import Channel

MIB = 1 << 20
USR1, USR2 = Channel("signal", signal=10), Channel("signal", signal=12)
HTTP = Channel("http", url="http://127.0.0.1:1/")
SIGNALS = {"standard": 10, "aggressive": 12}


def settings(port: int, tmp_path: Path, pid: int, **more: Any) -> str:
    """A target whose lines are 160, 200 and 260 MiB."""
    target = {"name": "t", "match": {"pid": pid}, "memory": {"main": "200MiB", "critical": "260MiB"},
              "agent": {"directory": str(tmp_path), "every": "1s"}, **more.pop("target", {})}
    return config(port, tmp_path / "state", [target], **more)


def linked(sidecar: Sidecar, count: int = 1) -> bool:
    """Whether so many agents answer."""
    return sum(sidecar.series("rag_agent_up").values()) == count


def found(sidecar: Sidecar, count: int = 1) -> None:
    """Wait until so many agents answer, and the policy has seen it."""
    wait_until(lambda: linked(sidecar, count), 20, f"{count} agents; log:\n{sidecar.log.read_text()[-3000:]}")
    ticks = sidecar.value("rag_sidecar_ticks_total") or 0
    wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) > ticks + 1, 10, "another tick")


def test_agent_that_announces_itself_is_a_channel(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Nothing is configured: the agent is found, asked over the line, and what it freed is measured from outside."""
    target, port = spawn("cared_for", "--place", str(tmp_path)), free_port()
    with running_sidecar(tmp_path, file=settings(port, tmp_path, target.pid), port=port) as sidecar:
        found(sidecar)
        target.tell("grow 300")
        attempt = sidecar.outcome()

        assert (attempt["channel"], attempt["outcome"], attempt["cleanup"]) == ("agent", "effective", "aggressive")
        assert attempt["freed_bytes"] > 150 * MIB
        assert attempt["told"]["freed_bytes"] > 150 * MIB
        assert [row["process"] for row in attempt["processes"]] == ["main"]
        assert "cleaner:blocks" in {step["step"] for step in attempt["steps"]}
        assert target.tell("grow 0") < 100 * MIB
        assert sidecar.value("rag_cleanup_pause_seconds") == attempt["told"]["pause_seconds"]
        assert sidecar.value("rag_sidecar_attach_capability", 'capability="agent"') == 1
        print(f"from the crossing to the acceptance: {1000 * attempt['delivery_seconds']:.2f} ms")


@pytest.mark.parametrize(("more", "reason"), [
    ({"actions": {"mode": "observe"}}, "mode_observe"), ({"actions": {"mode": "dry_run"}}, "")])
def test_configured_mode_is_stronger_than_an_agent(
    spawn: Callable[..., Target], tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    """Who says observe or dry_run gets that: the agent is watched and hears of nothing."""
    target, port = spawn("cared_for", "--place", str(tmp_path)), free_port()
    with running_sidecar(tmp_path, file=settings(port, tmp_path, target.pid, **more), port=port) as sidecar:
        found(sidecar)
        held = target.tell("grow 300")
        if reason:
            wait_until(lambda: sidecar.value("rag_action_held", f'reason="{reason}"'), 20, "the reason")
        else:
            assert sidecar.outcome()["outcome"] == "dry_run"

        assert target.tell("grow 0") == held


def test_order_for_the_longest_name_is_taken(spawn: Callable[..., Target], tmp_path: Path, checkout: Path) -> None:
    """A target may have any name that the configuration allows: the agent takes a person's order for it."""
    target, port, name = spawn("cared_for", "--place", str(tmp_path)), free_port(), "Long_name.-" * 9 + "n"
    target.tell("grow 100")
    file = settings(port, tmp_path, target.pid, target={"name": name})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        found(sidecar)
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "cleanup", "--target", name, "--level",
                               "aggressive", "--storage.path", str(tmp_path / "state"), "-o", "json"], cwd=checkout,
                              capture_output=True, text=True, timeout=60, check=False)
        row = json.loads(done.stdout)

        assert len(name) == 100
        assert (row["channel"], row["outcome"], row["target"]) == ("agent", "effective", name)
        assert [each["outcome"] for each in row["processes"]] == ["done"]
        assert len(row["id"]) > 128


def test_one_order_reaches_the_agents_of_all_workers(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A prefork server: each process has its agent, and one cleanup asks them all at once."""
    target, port = spawn("cared_for", "--place", str(tmp_path), "--workers", "3"), free_port()
    file = settings(port, tmp_path, target.pid, target={"cleanup": [{"agent": {}}]})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        found(sidecar, 4)
        target.tell("grow 55")  # 220 together: above main
        attempt = sidecar.outcome()

        assert (attempt["channel"], attempt["outcome"], attempt["cleanup"]) == ("agent", "effective", "standard")
        assert {row["process"]: row["outcome"] for row in attempt["processes"]} == dict.fromkeys(
            ("main", "worker-0", "worker-1", "worker-2"), "done")
        assert attempt["told"]["freed_bytes"] > 200 * MIB
        assert target.tell("grow 0") == 0


@pytest.fixture
def gunicorn(tmp_path: Path) -> Iterator[Callable[..., tuple[int, str]]]:
    """Start gunicorn with two workers that have agents; the pid of its master, and its URL."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*more: str) -> tuple[int, str]:
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", *more]
        with (tmp_path / "gunicorn.log").open("wb") as log:
            started.append(subprocess.Popen([*command, "cared_for:app"], cwd=CHECKOUT / "tests" / "apps", stdout=log,
                                            stderr=log, env={**os.environ, "PLACE": str(tmp_path)}))
        return started[0].pid, f"http://127.0.0.1:{port}"

    yield start
    for process in started:
        process.terminate()
        process.wait(20)


def held_by(url: str, path: str = "") -> dict[int, int]:
    """Which of two workers holds how much, asked until both have answered; those that answer are told the path once."""
    found: dict[int, int] = {}

    def both() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/", timeout=10) as answer:
            told = json.load(answer)
            if told["pid"] not in found and path:
                with urllib.request.urlopen(f"{url}{path}", timeout=10) as grown:
                    told = json.load(grown)
            found[told["pid"]] = told["held_bytes"]
        return len(found) == 2

    wait_until(both, 30, "both workers")
    return found


@pytest.mark.parametrize(("more", "agents"), [((), 2), (("--preload",), 3)], ids=["gunicorn", "with preload"])
def test_workers_of_a_real_server_are_asked_all_at_once(
    gunicorn: Callable[..., tuple[int, str]], tmp_path: Path, more: tuple[str, ...], agents: int
) -> None:
    """gunicorn: where a POST would reach one worker, one order reaches all, and the master if it has loaded the app."""
    (pid, url), port = gunicorn(*more), free_port()
    held_by(url)
    with running_sidecar(tmp_path, file=settings(port, tmp_path, pid), port=port) as sidecar:
        found(sidecar, agents)
        held_by(url, "/grow/92")
        attempt = sidecar.outcome()

        assert (attempt["channel"], attempt["outcome"]) == ("agent", "effective")
        assert len(attempt["processes"]) == agents
        assert all(row["outcome"] == "done" for row in attempt["processes"])
        assert sum(held_by(url).values()) < 100 * MIB


def test_agent_that_is_deaf_gets_the_signal_that_it_announced(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """In an emergency nobody waits for an agent: its own signal is sent, though no configuration names one."""
    target = spawn("odd_agent", "--place", str(tmp_path), "--cleanup", "nothing", "--handle", "SIGUSR2")
    port = free_port()
    with running_sidecar(tmp_path, file=settings(port, tmp_path, target.pid), port=port) as sidecar:
        found(sidecar)
        target.tell("grow 300")
        attempt = sidecar.outcome()

        assert (attempt["channel"], attempt["outcome"]) == ("signal", "effective")
        assert target.tell("grow 0") < 100 * MIB


def test_new_desk_finds_the_agents_anew(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A desk that is killed loses no agent: its successor dials, the guard gets new sockets, and they are used."""
    target, port = spawn("cared_for", "--place", str(tmp_path)), free_port()
    with running_sidecar(tmp_path, file=settings(port, tmp_path, target.pid), port=port) as sidecar:
        found(sidecar)
        desk = sidecar.child("desk")
        os.kill(desk, signal.SIGKILL)
        wait_until(lambda: sidecar.child("desk") not in (0, desk) and sidecar.ready(), 20, "the next desk")
        found(sidecar)
        target.tell("grow 300")
        attempt = sidecar.outcome()

        assert (attempt["channel"], attempt["outcome"]) == ("agent", "effective")
        assert len(attempt["processes"]) == 1


def test_agents_orders_stand_while_no_desk_is_there(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Between two desks the guard asks the agents by itself, over the sockets that it has."""
    target, port = spawn("cared_for", "--place", str(tmp_path)), free_port()
    with running_sidecar(tmp_path, file=settings(port, tmp_path, target.pid), port=port) as sidecar:
        found(sidecar)
        wait_until(lambda: sidecar.value("rag_sidecar_ticks_total") or 0 > 4, 20, "standing orders")
        os.kill(sidecar.child("desk"), signal.SIGSTOP)
        target.tell("grow 300")
        wait_until(lambda: target.tell("grow 0") < 100 * MIB, 5, "the guard to act")
        os.kill(sidecar.child("desk"), signal.SIGKILL)
        wait_until(lambda: sidecar.child("desk") and sidecar.ready(), 20, "the next desk")

        assert sidecar.outcome()["channel"] == "agent"


def test_agent_that_stops_is_no_channel_any_more(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Its series end, `rag_agent_up` says so, and where nothing else is configured the target is observed again."""
    target = spawn("odd_agent", "--place", str(tmp_path), "--memory", '{"requests_total": 3}', "--stoppable")
    port = free_port()
    with running_sidecar(tmp_path, file=settings(port, tmp_path, target.pid), port=port) as sidecar:
        found(sidecar)
        wait_until(lambda: sidecar.value("rag_requests_total") == 3, 10, "its figures")
        os.kill(target.pid, signal.SIGUSR2)
        wait_until(lambda: sidecar.value("rag_agent_up") == 0, 20, "the end of the agent")
        assert sidecar.value("rag_requests_total") is None
        held = target.tell("grow 300")
        wait_until(lambda: sidecar.value("rag_action_held", 'reason="mode_observe"'), 20, "the reason")

        assert target.tell("grow 0") == held


@pytest.mark.parametrize(("configured", "agents", "signals", "expected"), [
    ({}, 0, {}, {}),
    ({}, 1, {}, {"light": (AGENT,), "standard": (AGENT,), "aggressive": (AGENT,)}),
    ({}, 2, SIGNALS, {"light": (AGENT,), "standard": (AGENT, USR1), "aggressive": (AGENT, USR2)}),
    ({"standard": (USR1,)}, 1, SIGNALS, {"standard": (USR1,)}),
    ({"standard": (AGENT,)}, 0, {}, {}),
    ({"standard": (AGENT, HTTP), "aggressive": (AGENT,)}, 1, SIGNALS,
     {"standard": (AGENT, USR1, HTTP), "aggressive": (AGENT, USR2)}),
    ({"standard": (AGENT, HTTP, USR2)}, 1, SIGNALS, {"standard": (AGENT, HTTP, USR2)}),
    ({"standard": (AGENT, USR2)}, 0, {}, {"standard": (USR2,)}),
])
def test_channels_are_those_that_are_there(configured: Any, agents: int, signals: Any, expected: Any) -> None:
    """Agents count while there are some; their signals come after them; a configured signal is the only one."""
    assert {cleanup: ways for cleanup, ways in offered(configured, agents, signals).items() if ways} == expected


@pytest.mark.parametrize(("configured", "asks", "agents", "expected"), [
    ("observe", True, 1, "enforce"), ("observe", True, 0, "observe"), ("observe", False, 1, "observe"),
    ("dry_run", False, 1, "dry_run"), ("enforce", False, 0, "enforce")])
def test_agent_is_consent_where_nothing_is_said(configured: Any, asks: bool, agents: int, expected: str) -> None:
    """A mode or a channel in the configuration decides; without both, an agent that is there does."""
    assert mode(configured, asks, agents) == expected
