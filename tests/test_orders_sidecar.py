"""Orders to a whole sidecar: a pause that holds, and wishes of other programs, from the request to freed bytes."""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import free_port, running_alertmanager
from sidecars import MIB, Sidecar, config, running_sidecar

Spawn = Callable[..., Target]
TOKEN = "-".join(("correct", "horse", "battery", "staple"))


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with the token."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(TOKEN)
    return file


def settings(tmp_path: Path, port: int, pid: int, **more: Any) -> str:
    """A target that drops everything on SIGUSR1, and a sidecar with a token."""
    target = {"name": "rag", "match": {"pid": pid}, "memory": {"main": "150MiB", "critical": "400MiB", "basis": "anon"},
              "cleanup": [{"signal": more.pop("signal", "SIGUSR1")}]}
    return config(port, tmp_path / "state", [target],
                  web={"listen": f"127.0.0.1:{port}", "token_file": str(tmp_path / "token")}, **more)


LIGHT_ALONE = {"signal": {"aggressive": "SIGUSR1"},
               "actions": {"policies": {"main": {"entry": "light", "max": "light"}}}}
"""What the rules of the sidecar ask for has no channel here: only who asks for more gets something."""


@pytest.fixture
def watched(spawn: Spawn, tmp_path: Path, token_file: Path) -> Iterator[tuple[Target, Sidecar]]:
    """A program that holds 10 MiB, and a sidecar with a token that watches it."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid), port=port) as sidecar:
        yield target, sidecar


def command(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user types it."""
    words = [sys.executable, "-P", "-m", "sidecar", *arguments, "--storage.path", str(tmp_path / "state")]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def post(sidecar: Sidecar, path: str, body: Any) -> tuple[int, Any]:
    """(status, answer) of an order over TCP with the token."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    request = urllib.request.Request(sidecar.url + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_paused_sidecar_does_nothing_until_it_is_resumed(watched: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """After `pause` has returned, a crossing of the critical line is told but not acted on; after `resume` it is."""
    target, sidecar = watched
    wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 20, "the target to be read")
    paused = command(tmp_path, "pause")
    assert (paused.returncode, paused.stdout) == (0, "rag: paused until `rag-sidecar resume`\n"), paused.stderr

    target.tell("grow 500")
    wait_until(lambda: ("RagMemoryCritical", "firing") in sidecar.alerts(), 20, "the alert")
    wait_until(lambda: sidecar.value("rag_action_held", 'reason="paused"'), 20, "the pause to be shown")
    assert sidecar.actions() == []
    resumed = command(tmp_path, "resume", "--target", "rag")

    assert (resumed.returncode, resumed.stdout) == (0, "rag: acted on\n"), resumed.stderr
    assert sidecar.outcome()["outcome"] == "effective"
    assert target.tell("grow 0") < 50 * MIB


def test_person_may_clean_up_during_a_pause(watched: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """A pause is about what is done unasked: a person who asks gets a cleanup."""
    target, sidecar = watched
    assert command(tmp_path, "pause", "--for", "1h").returncode == 0
    target.tell("grow 100")
    done = command(tmp_path, "cleanup")

    assert done.returncode == 0, done.stderr + done.stdout
    assert sidecar.outcome()["trigger"] == "manual"


def test_wish_over_tcp_needs_an_alert_of_ours(spawn: Spawn, tmp_path: Path, token_file: Path) -> None:
    """While no alert asks for a cleanup a wish is refused with 409; once one does, a stronger one is carried out."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid, **LIGHT_ALONE), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 20, "the target to be read")
        refused = post(sidecar, "/api/v1/cleanup", {"ttl": "1s", "level": "aggressive"})
        target.tell("grow 200")
        wait_until(lambda: ("RagMemoryMain", "firing") in sidecar.alerts(), 40, "the alert")
        weaker = post(sidecar, "/api/v1/cleanup", {"ttl": "0s", "level": "light"})
        taken = post(sidecar, "/api/v1/cleanup", {"level": "aggressive"})

        assert (refused[0], refused[1]["errorType"]) == (409, "below_threshold")
        assert (weaker[0], weaker[1]["errorType"]) == (409, "no_usable_channel")
        assert taken[0] == 202, taken
        row = sidecar.outcome()
    assert (row["trigger"], row["cleanup"], row["outcome"]) == ("api", "aggressive", "effective")
    assert row["id"].startswith(taken[1]["data"]["id"])
    assert target.tell("grow 0") < 50 * MIB


def test_alertmanager_asks_for_a_cleanup(spawn: Spawn, tmp_path: Path, token_file: Path) -> None:
    """An alert of others, posted by a real Alertmanager, has the target cleaned; our own that come back do not."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    receiver = {"name": "rag-sidecar", "webhook_configs": [{
        "url": f"http://127.0.0.1:{port}/alertmanager", "send_resolved": False, "max_alerts": 20,
        "http_config": {"authorization": {"credentials_file": str(token_file)}}}]}
    route = {"receiver": "rag-sidecar", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    with running_alertmanager(tmp_path, config_yaml=json.dumps({"route": route, "receivers": [receiver]})) as manager:
        file = settings(tmp_path, port, target.pid, alertmanagers=[manager.url], **LIGHT_ALONE)
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            target.tell("grow 200")
            wait_until(lambda: ("RagMemoryMain", "firing") in sidecar.alerts(), 40, "the alert")
            wait_until(lambda: "our_own" in sidecar.log.read_text(), 30, "our own alert to come back")
            assert sidecar.actions() == []
            manager.send([{"labels": {"alertname": "QueueLong", "target": "rag", "level": "critical"},
                           "generatorURL": "http://prometheus:9090/graph?g0.expr=a"}])
            row = sidecar.outcome()
    assert (row["trigger"], row["cleanup"], row["outcome"]) == ("webhook", "aggressive", "effective")
    assert row["alert"]["alertname"] == "QueueLong"
    assert target.tell("grow 0") < 50 * MIB
