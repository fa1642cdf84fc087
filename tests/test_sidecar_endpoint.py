"""The whole sidecar on targets that it knows by what they tell of themselves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Target as Program
from conftest import wait_until
from servers import free_port
from sidecars import MIB, Sidecar, config, refused, running_sidecar

LINES = {"main": "100MiB", "critical": "150MiB"}


def used_mib(sidecar: Sidecar) -> float:
    return (sidecar.value("rag_memory_used_bytes") or 0) / MIB


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """Where the program notes what it was asked."""
    return tmp_path / "requests"


@pytest.mark.parametrize("match", ["url", "pid"])
def test_number_of_an_endpoint_is_watched_judged_and_cleaned_up(
    spawn: Callable[..., Program], tmp_path: Path, requests: Path, match: str
) -> None:
    """Known by its URL alone or by its pid too: what it tells crosses the line, and it is asked to clean up."""
    program = spawn("leaky", "--http", "0", "--requests", str(requests))
    told = {"url": f"{program.url}/memory", "used": "memory_bytes", "every": "1s"}
    target = {"name": "rag", "match": {"url": told["url"]} if match == "url" else {"pid": program.pid},
              "endpoint": told, "memory": {"basis": "endpoint", **LINES},
              "cleanup": [{"http": {"url": f"{program.url}/cleanup"}}]}
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_target_up") == 1, 20, "the target to be up")
        program.tell("grow 50")
        wait_until(lambda: used_mib(sidecar) == 50, 10, "50 MiB to be told")
        program.tell("grow 120")
        action = sidecar.outcome()
        page = sidecar.get("/metrics")

    posts = [json.loads(line) for line in requests.read_text().splitlines()]
    assert (action["outcome"], action["channel"], action["cleanup"]) == ("effective", "http", "aggressive")
    assert action["before_bytes"] == 170 * MIB
    assert [post["path"] for post in posts] == ["/cleanup"]
    assert ("rag_process_threads{" in page) == (match == "pid")


def test_signal_to_a_target_without_a_process_is_refused(spawn: Callable[..., Program], tmp_path: Path) -> None:
    """There is nobody to signal: that is said before anything starts, or at the latest when it would be done."""
    program = spawn("leaky", "--http", "0")
    target = {"name": "rag", "match": {"url": f"{program.url}/memory"}, "endpoint": {"used": "memory_bytes"},
              "memory": LINES, "cleanup": [{"signal": "SIGUSR1"}]}
    code, said = refused(tmp_path, file=config(free_port(), tmp_path, [target]))

    assert code == 1
    assert "signal needs a process, and the target is known by its URL alone" in said


def test_target_whose_endpoint_falls_silent_is_down_and_nothing_is_done(
    spawn: Callable[..., Program], tmp_path: Path, requests: Path
) -> None:
    """What was told last is no reading of now: used bytes end, and with them every action."""
    program = spawn("leaky", "--http", "0", "--requests", str(requests))
    target = {"name": "rag", "match": {"url": f"{program.url}/memory"},
              "endpoint": {"used": "memory_bytes", "every": "1s"}, "memory": LINES,
              "cleanup": [{"http": {"url": f"{program.url}/cleanup"}}]}
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_target_up") == 1, 20, "the target to be up")
        program.process.kill()
        wait_until(lambda: sidecar.value("rag_target_up") == 0, 20, "the target to be down")
        wait_until(lambda: not sidecar.series("rag_memory_used_bytes"), 20, "used bytes to end")

        assert sidecar.actions() == []
