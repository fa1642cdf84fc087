"""The control socket and the command `cleanup`: what a person has done, whom it serves, and what it says."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import free_port
from sidecars import MIB, Sidecar, config, running_sidecar

from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Options
from sidecar.actions.policy import Policy, Subject
from sidecar.guard.wire import Channel

Spawn = Callable[..., Target]


def settings(tmp_path: Path, port: int, *pids: int, **more: Any) -> str:
    """Targets t0, t1 … that can be asked by SIGUSR1, without a line that anything would cross."""
    targets = [{"name": f"t{number}", "match": {"pid": pid}, "cleanup": [{"signal": "SIGUSR1"}],
                "agent": {"directory": str(tmp_path)}, **more.pop("target", {})} for number, pid in enumerate(pids)]
    return config(port, tmp_path / "state", targets, **more)


def cleanup(tmp_path: Path, *arguments: str, **popen: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user types it."""
    command = [sys.executable, "-P", "-m", "sidecar", "cleanup", "--storage.path", str(tmp_path / "state"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **popen)


@pytest.mark.parametrize(("changes", "thrown", "reason"), [
    ({"mode": "observe", "armed": False, "age_seconds": 0.0}, False, "act"), ({"mode": "dry_run"}, False, "act"),
    ({"up": False}, False, "target_down"), ({"fresh": False}, False, "stale_data"), ({}, True, "kill_switch"),
    ({"channels": {}}, False, "no_usable_channel")])
def test_what_holds_a_person_back(changes: dict[str, Any], thrown: bool, reason: str) -> None:
    """Neither mode nor warm-up nor a missing threshold does; want of data, of a channel, or the kill-switch does."""
    rag = Subject("rag", up=True, fresh=True, armed=True, age_seconds=3600.0, mode="enforce",
                  channels={"standard": (Channel("signal", signal=10),)})
    decision = Policy(Options(), thrown).by_hand(replace(rag, **changes), "standard", Ledger(), 1e6, dry_run=False)

    assert decision.reason == reason
    assert bool(decision.order) == (reason == "act")


@pytest.fixture
def leaky(spawn: Spawn, tmp_path: Path) -> Iterator[tuple[Target, Sidecar]]:
    """A program that holds 200 MiB and drops them on SIGUSR1, and a sidecar that watches it."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    target.tell("grow 200")
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid), port=port) as sidecar:
        yield target, sidecar


def test_person_has_a_target_cleaned_and_sees_what_it_freed(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """Without any alert: the target is asked, its memory is measured, and the exit code says that it helped."""
    target, sidecar = leaky
    done = cleanup(tmp_path)

    assert done.returncode == 0, done.stderr + done.stdout
    assert "asked" in done.stdout
    assert "answered by signal" in done.stdout
    assert "effective: memory has fallen" in done.stdout
    assert target.tell("grow 0") < 50 * MIB
    (row,) = sidecar.actions()
    assert (row["trigger"], row["channel"], row["cleanup"], row["outcome"]) == (
        "manual", "signal", "standard", "effective")
    assert row["freed_bytes"] > 150 * MIB
    assert sidecar.value("rag_cleanups_total", 'trigger="manual"', 'outcome="effective"') == 1


def test_dry_run_asks_nothing_of_the_target(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """A dry run says which way would be taken, and the target keeps what it has."""
    target, sidecar = leaky
    done = cleanup(tmp_path, "--dry-run", "--level", "aggressive")

    assert (done.returncode, done.stderr) == (0, "")
    assert "would be asked for aggressive by signal" in done.stdout
    assert target.tell("grow 0") >= 200 * MIB
    assert sidecar.actions()[0]["outcome"] == "dry_run"


def test_answer_for_programs_is_the_attempt(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """`-o json` prints the row of /api/v1/actions and nothing else."""
    done = cleanup(tmp_path, "--dry-run", "-o", "json")

    assert json.loads(done.stdout) == leaky[1].actions()[0]


def test_kill_switch_holds_for_people_too(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """While the kill-switch is thrown nothing is asked of anybody, and the exit code is 4."""
    (tmp_path / "state" / "kill-switch").touch()
    done = cleanup(tmp_path)

    assert done.returncode == 4
    assert "kill-switch is thrown" in done.stderr
    assert leaky[1].actions() == []


def test_one_order_at_a_time(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """A second order while the first one is under way is refused with the reason; the first one is judged alone."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(tmp_path / "state" / "control.sock"))
        line.sendall(b"POST /api/v1/cleanup HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
        with line.makefile("rb") as answer:
            assert any(b'"stage"' in told for told in answer)
        done = cleanup(tmp_path)

    assert done.returncode == 4
    assert "under way" in done.stderr or "being judged" in done.stderr
    assert leaky[1].outcome()["outcome"] == "effective"  # although nobody listens for it any more
    assert len(leaky[1].actions()) == 1


def test_agent_is_asked_whatever_the_mode_is(spawn: Spawn, tmp_path: Path) -> None:
    """`mode: observe` says what is done unasked: a person who asks gets a cleanup, with what the agent did."""
    target, port = spawn("cared_for", "--place", str(tmp_path)), free_port()
    target.tell("grow 200")
    file = settings(tmp_path, port, target.pid, target={"cleanup": [{"agent": {}}]}, actions={"mode": "observe"})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_agent_up") == 1, 20, "the agent to be found")
        done = cleanup(tmp_path, "--level", "light")

    assert done.returncode == 0, done.stderr + done.stdout
    assert "answered by the agent" in done.stdout
    assert "cleaner:blocks" in done.stdout
    assert "paused" in done.stdout


def test_what_did_not_help_is_said_and_the_exit_code_tells(spawn: Spawn, tmp_path: Path) -> None:
    """A target that drops nothing: ineffective, exit code 3."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    file = settings(tmp_path, port, target.pid, actions={"verify": {"settle": "1s", "window": "2s"}})
    with running_sidecar(tmp_path, file=file, port=port):
        done = cleanup(tmp_path)

    assert done.returncode == 3, done.stderr + done.stdout
    assert "ineffective: memory has not fallen" in done.stdout


def test_target_that_nobody_can_ask_is_refused(spawn: Spawn, tmp_path: Path) -> None:
    """No agent, no channel: nothing is done, exit code 4, and the way out is named."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid, target={"cleanup": []}), port=port):
        done = cleanup(tmp_path)

    assert done.returncode == 4
    assert "no way to ask it" in done.stderr
    assert "docs/agent.md" in done.stderr


def test_handler_that_is_missing_is_refused(spawn: Spawn, tmp_path: Path) -> None:
    """A signal that would kill is never sent, by hand neither: exit code 4."""
    target, port = spawn("no_handler"), free_port()
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid), port=port):
        done = cleanup(tmp_path)

    assert done.returncode == 4, done.stderr + done.stdout
    assert "signal could not be used: signal_default" in done.stdout
    assert target.process.poll() is None


def test_one_of_several_targets_has_to_be_named(spawn: Spawn, tmp_path: Path) -> None:
    """With two targets the order says which one; those there are are named."""
    one, two, port = spawn("leaky", "--handle", "SIGUSR1"), spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with running_sidecar(tmp_path, file=settings(tmp_path, port, one.pid, two.pid), port=port) as sidecar:
        unsaid, unknown = cleanup(tmp_path), cleanup(tmp_path, "--target", "x")
        said = cleanup(tmp_path, "--target", "t1", "--dry-run")

        assert (unsaid.returncode, unknown.returncode, said.returncode) == (1, 1, 0)
        assert "t0, t1" in unsaid.stderr
        assert "t0, t1" in unknown.stderr
        assert [row["target"] for row in sidecar.actions()] == ["t1"]


def test_order_that_makes_no_sense_is_refused(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """Whatever the body is, it is answered with a reason, and nothing is done."""
    for body in (b"[1]", b"{", b'{"level": "all"}', b'{"dry_run": 1}', b'{"leve": "light"}', b"[" * 60000,
                 b'{"target": []}'):
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(tmp_path / "state" / "control.sock"))
            line.sendall(b"POST /api/v1/cleanup HTTP/1.1\r\nHost: localhost\r\n")
            line.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            answer = line.recv(65536)

        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404")), (body[:40], answer)
    assert leaky[1].actions() == []


def test_without_a_token_nothing_can_be_ordered_over_tcp(leaky: tuple[Target, Sidecar]) -> None:
    """A sidecar for which no token is configured refuses whatever would change anything over TCP."""
    request = urllib.request.Request(f"{leaky[1].url}/api/v1/cleanup", data=b"{}", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=5)

    with refused.value as answer:
        assert answer.code == 403
    assert leaky[1].actions() == []


def test_pages_are_read_over_the_socket(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """What can be read over TCP can be read over the socket."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(tmp_path / "state" / "control.sock"))
        line.sendall(b"GET /api/v1/actions HTTP/1.1\r\nHost: localhost\r\n\r\n")

        assert b'{"actions": []' in line.recv(65536)


def test_socket_is_closed_to_others(leaky: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """Only the sidecar's user may connect, from the first moment on."""
    found = (tmp_path / "state" / "control.sock").stat()

    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
@pytest.mark.parametrize("opened", [False, True], ids=["as it is", "with its modes opened"])
def test_other_user_is_refused(leaky: tuple[Target, Sidecar], tmp_path: Path, opened: bool) -> None:
    """Another user gets nothing done: by the socket's mode, and if that is opened, by who asks."""
    path = tmp_path / "state" / "control.sock"
    asks = ("import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "line = socket.socket(socket.AF_UNIX); line.connect(sys.argv[1])\n"
            "line.sendall(b'POST /api/v1/cleanup HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 0\\r\\n\\r\\n')\n"
            "print(line.recv(4096).decode())")
    if opened:
        path.chmod(0o666)
        path.parent.chmod(0o755)
    command = [sys.executable, "-c", asks, path.name]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=30, check=False)

    assert ("403" in done.stdout) if opened else ("PermissionError" in done.stderr), done
    assert leaky[1].actions() == []


def test_nobody_there_is_said(tmp_path: Path) -> None:
    """Without a sidecar the command says where it looked and how to start one."""
    done = cleanup(tmp_path)

    assert done.returncode == 1
    assert f"no sidecar listens at {tmp_path}/state/control.sock" in done.stderr
    assert "rag-sidecar run" in done.stderr


def test_address_of_a_web_server_is_no_control_socket(tmp_path: Path) -> None:
    """Who gives the URL of the pages learns that they can only be read."""
    command = [sys.executable, "-P", "-m", "sidecar", "cleanup", "--url", "http://127.0.0.1:11611"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert done.returncode == 1
    assert "--url unix:PATH" in done.stderr


def test_socket_of_a_killed_sidecar_is_replaced(spawn: Spawn, tmp_path: Path) -> None:
    """After a SIGKILL the next sidecar listens in the same place; the desk after a dead desk does, too."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    file = settings(tmp_path, port, target.pid)
    with running_sidecar(tmp_path, file=file, port=port) as first:
        desk = first.child("desk")
        os.kill(desk, signal.SIGKILL)
        wait_until(lambda: first.child("desk") not in (0, desk), 20, "a new desk")
        wait_until(lambda: cleanup(tmp_path, "--dry-run").returncode == 0, 20, "the new desk to take orders")
        desk = first.child("desk")
        first.process.kill()
        first.process.wait(10)
        wait_until(lambda: not Path(f"/proc/{desk}").exists() or not Path(f"/proc/{desk}/cmdline").read_bytes(), 10,
                   "the desk to end")
    with running_sidecar(tmp_path, file=file, port=port) as second:
        assert cleanup(tmp_path, "--dry-run").returncode == 0
        assert second.stop() == 0
        assert not (tmp_path / "state" / "control.sock").exists()


def test_second_sidecar_leaves_the_first_ones_socket(spawn: Spawn, tmp_path: Path) -> None:
    """Two sidecars with one folder: the first one keeps the socket, the second one says so and watches on."""
    target, port, other = spawn("leaky", "--handle", "SIGUSR1"), free_port(), free_port()
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid), port=port) as first:
        with running_sidecar(tmp_path, file=settings(tmp_path, other, target.pid), port=other) as second:
            assert "another sidecar listens there" in second.log.read_text()
        assert cleanup(tmp_path, "--dry-run").returncode == 0
        assert len(first.actions()) == 1


def test_file_in_the_way_is_kept(spawn: Spawn, tmp_path: Path) -> None:
    """What is no socket is not replaced: the sidecar says that it takes no orders, and watches on."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "control.sock").write_text("mine")
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with running_sidecar(tmp_path, file=settings(tmp_path, port, target.pid), port=port) as sidecar:
        assert "no socket" in sidecar.log.read_text()
    assert (tmp_path / "state" / "control.sock").read_text() == "mine"


def test_long_path_is_no_obstacle(spawn: Spawn, tmp_path: Path) -> None:
    """A storage folder whose path is longer than the address of a socket may be."""
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    with running_sidecar(tmp_path, file=config(port, deep / "state", [{
            "name": "t", "match": {"pid": target.pid}, "cleanup": [{"signal": "SIGUSR1"}]}]), port=port):
        assert cleanup(deep, "--dry-run").returncode == 0
