"""The brake: real processes in real cgroups that reach their limit, a real sidecar beside them, and what is left."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import read_line, wait_until
from rooms import USABLE, WHY_NOT, Room, tell
from servers import end, free_port
from sidecars import MIB, Sidecar, config, running_sidecar, told

LIMIT = 512 * MIB
LOAN = 160 * MIB

pytestmark = pytest.mark.skipif(not USABLE, reason=WHY_NOT)


@pytest.fixture
def room(request: pytest.FixtureRequest) -> Iterator[Room]:
    """A cgroup with a limit of 512 MiB."""
    made = Room("brake", LIMIT)
    yield made
    made.close()


def written(tmp_path: Path, port: int, process: "subprocess.Popen[bytes]", **more: Any) -> str:
    """A sidecar.yml with a critical line at 400 MiB, a signal and, unless told otherwise, a brake."""
    target = {"name": "rag", "match": {"pid": process.pid}, "cleanup": [{"signal": "SIGUSR1"}],
              "memory": {"basis": "cgroup", "main": "380MiB", "critical": "400MiB"},
              "brake": {"loan": "160MiB", "hold": "2s"}, **more}
    return config(port, tmp_path / "state", [{key: value for key, value in target.items() if value is not None}])


@contextmanager
def beside(tmp_path: Path, process: "subprocess.Popen[bytes]", *, engaged: bool = True,
           **more: Any) -> Iterator[Sidecar]:
    """A sidecar beside the program, whose brake is on."""
    port = free_port()
    with running_sidecar(tmp_path, file=written(tmp_path, port, process, **more), port=port) as sidecar:
        if engaged:
            wait_until(lambda: sidecar.value("rag_brake_engaged") == 1, 20, "the brake")
        yield sidecar


@pytest.mark.parametrize("burst", ["call 300", "huge 300"])
def test_burst_beyond_the_limit_survives_with_the_brake(tmp_path: Path, room: Room, burst: str) -> None:
    """A program that takes more than its limit at once is lent some memory until its handler has freed its caches."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process, brake={"loan": "160MiB", "hold": "30s"}) as sidecar:
        tell(process, burst)
        assert read_line(process, "the end of the burst") == "done"
        wait_until(lambda: room.read("memory.limit_in_bytes") == LIMIT, 40, "the limit as it was")
        wait_until(lambda: sidecar.value("rag_brake_holds_total", "returned") == 1, 10, "the count")

        assert process.poll() is None
        assert room.control("oom_kill") == 0
        assert LIMIT < room.read("memory.max_usage_in_bytes") <= LIMIT + LOAN
        assert sidecar.outcome()["outcome"] == "effective"
        assert {line["outcome"] for line in sidecar.said("brake released")} == {"returned"}
    assert room.control("oom_kill_disable") == 0
    assert not (tmp_path / "state" / "brake.held").exists()


def test_burst_in_small_steps_survives(tmp_path: Path, room: Room) -> None:
    """What grows fast but step by step is seen in time, and where it is not, held: either way it lives."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process):
        tell(process, "steps 300")
        assert read_line(process, "the end of the burst") == "done"
        assert room.control("oom_kill") == 0
    assert room.as_before()


def test_burst_beyond_the_limit_is_killed_without_the_brake(tmp_path: Path, room: Room) -> None:
    """Without a brake nobody can help in time: the limit is never changed."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process, engaged=False, brake=None) as sidecar:
        wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 20, "a reading")
        tell(process, "call 300")
        assert process.wait(20) == -signal.SIGKILL
        assert sidecar.value("rag_brake_engaged") is None
    assert room.as_before()


def test_program_that_frees_nothing_is_killed_as_without_us(tmp_path: Path, room: Room) -> None:
    """What goes beyond limit and loan is killed by the kernel; it does not hang, and the limit is what it was."""
    process = room.start("bursting", "300", "--keep")
    with beside(tmp_path, process) as sidecar:
        tell(process, "call 500")
        assert process.wait(20) == -signal.SIGKILL
        assert room.read("memory.max_usage_in_bytes") <= LIMIT + LOAN
        wait_until(room.as_before, 10, "the limit as it was")
        wait_until(lambda: sidecar.value("rag_brake_holds_total", "killed") == 1, 10, "the count")


def test_loan_is_called_in_when_its_time_is_over(tmp_path: Path, room: Room) -> None:
    """Who keeps what was lent keeps it, but gets no more: the limit follows usage down to what it was."""
    process = room.start("bursting", "300", "--keep")
    with beside(tmp_path, process) as sidecar:
        tell(process, "call 300")
        assert read_line(process, "the end of the burst") == "done"
        wait_until(lambda: room.read("memory.limit_in_bytes") < room.read("memory.usage_in_bytes") + 12 * MIB, 10,
                   "the limit right above usage")
        assert room.read("memory.limit_in_bytes") > LIMIT
        tell(process, "drop")
        wait_until(lambda: room.read("memory.limit_in_bytes") == LIMIT, 10, "the limit as it was")
        wait_until(lambda: sidecar.value("rag_brake_holds_total", "called_in") == 1, 10, "the count")


def held(room: Room, process: "subprocess.Popen[bytes]", sidecar: Sidecar) -> None:
    """Have the program reach its limit while the guard is stopped, so that it waits there."""
    os.kill(sidecar.process.pid, signal.SIGSTOP)
    tell(process, "call 300")
    wait_until(lambda: room.control("under_oom"), 10, "the hold")


def test_guard_that_does_not_answer_holds_nobody(tmp_path: Path, room: Room) -> None:
    """A stopped guard, a machine that is overrun: within a second the kernel decides, as without us."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process) as sidecar:
        held(room, process, sidecar)
        assert process.wait(10) == -signal.SIGKILL
        assert room.as_before()
        os.kill(sidecar.process.pid, signal.SIGCONT)
        wait_until(lambda: sidecar.value("rag_brake_holds_total", "unanswered") == 1, 10, "the count")


def test_guard_that_is_killed_leaves_the_cgroup_as_it_was(tmp_path: Path, room: Room) -> None:
    """The keeper outlives the guard by as long as it takes to put everything back; who is held does not hang."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process) as sidecar:
        held(room, process, sidecar)
        os.kill(sidecar.process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
        wait_until(room.as_before, 10, "the cgroup as it was")
    wait_until(lambda: not (tmp_path / "state" / "brake.held").exists(), 10, "nothing left to put back")


def test_guard_that_is_killed_during_a_loan_leaves_the_limit_as_it_was(tmp_path: Path, room: Room) -> None:
    """What has been lent is called in, and the limit is back as soon as usage allows it."""
    process = room.start("bursting", "300", "--keep")
    with beside(tmp_path, process) as sidecar:
        tell(process, "call 300")
        assert read_line(process, "the end of the burst") == "done"
        os.kill(sidecar.process.pid, signal.SIGKILL)
        tell(process, "drop")
        wait_until(room.as_before, 10, "the cgroup as it was")
        assert process.poll() is None


def test_everything_killed_at_once_is_put_back_by_the_next_start(tmp_path: Path, room: Room) -> None:
    """A file says what is held, so a new sidecar puts it back, also one that is not to brake any more."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process) as sidecar:
        pids = [sidecar.child("keeper"), sidecar.child("desk"), sidecar.process.pid]
        os.kill(sidecar.process.pid, signal.SIGSTOP)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        tell(process, "call 300")
        wait_until(lambda: room.control("under_oom"), 10, "the hold")
        assert (tmp_path / "state" / "brake.held").exists()
    with beside(tmp_path, process, engaged=False, brake=None):
        assert process.wait(20) == -signal.SIGKILL
        wait_until(room.as_before, 10, "the cgroup as it was")
        wait_until(lambda: not (tmp_path / "state" / "brake.held").exists(), 10, "nothing left to put back")


def test_keeper_that_is_killed_is_replaced(tmp_path: Path, room: Room) -> None:
    """The next keeper puts back what the one before held, and holds it anew; the target notices nothing."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process) as sidecar:
        first = sidecar.child("keeper")
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: sidecar.child("keeper") not in (0, first), 10, "another keeper")
        wait_until(lambda: room.control("oom_kill_disable"), 10, "the brake")
        tell(process, "call 300")
        assert read_line(process, "the end of the burst") == "done"


def test_pause_lets_go_before_it_answers(tmp_path: Path, room: Room) -> None:
    """After `pause` nothing of the target's cgroup is ours to decide; `resume` brakes again."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process):
        assert room.control("oom_kill_disable")
        assert told(tmp_path, "pause").returncode == 0
        assert room.as_before()
        assert told(tmp_path, "resume").returncode == 0
        wait_until(lambda: room.control("oom_kill_disable"), 10, "the brake")


@pytest.mark.parametrize("brake", [{}, {"loan": "1MiB"}, {"loan": "128MiB", "hold": "2m"}])
def test_brake_that_makes_no_sense_is_a_mistake_in_the_file(tmp_path: Path, room: Room, brake: dict[str, str]) -> None:
    """A loan must be named, and both have bounds: the place is told, and nothing starts."""
    file = tmp_path / "sidecar.yml"
    file.write_text(written(tmp_path, 11611, room.start("bursting", "1"), brake=brake))
    words = [sys.executable, "-P", "-m", "sidecar", "check", "config", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)

    assert "targets[0].brake" in done.stderr + done.stdout
    assert done.returncode != 0


def test_kill_switch_lets_go(tmp_path: Path, room: Room) -> None:
    """While the kill-switch file exists no cgroup is held."""
    process = room.start("bursting", "300")
    with beside(tmp_path, process):
        (tmp_path / "state" / "kill-switch").touch()
        wait_until(room.as_before, 10, "the cgroup as it was")


def test_rehearsal_never_holds(tmp_path: Path, room: Room) -> None:
    """In dry_run and observe nothing is changed."""
    process, port = room.start("bursting", "300"), free_port()
    file = json.loads(written(tmp_path, port, process))
    file["actions"]["mode"] = "dry_run"
    with running_sidecar(tmp_path, file=json.dumps(file), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 20, "a reading")
        tell(process, "call 300")
        assert process.wait(20) == -signal.SIGKILL
        assert sidecar.value("rag_brake_engaged") == 0
        assert room.as_before()


def test_foreign_process_in_the_cgroup_is_never_held(tmp_path: Path, room: Room) -> None:
    """A cgroup with a process that is not the target's is left alone, and the reason is told."""
    process, other = room.start("bursting", "10"), room.start("bursting", "10")
    with beside(tmp_path, process, engaged=False) as sidecar:
        wait_until(lambda: sidecar.said("no brake"), 20, "the reason")
        assert str(other.pid) in sidecar.said("no brake")[0]["reason"]
        assert sidecar.value("rag_sidecar_attach_capability", "brake") == 0
        assert room.as_before()
        end(other)
        wait_until(lambda: room.control("oom_kill_disable"), 10, "the brake")
        room.start("bursting", "10")
        wait_until(room.as_before, 10, "the cgroup as it was")


def test_doctor_says_whether_a_target_could_be_held(room: Room) -> None:
    """Before anything is configured one sees whether a brake is possible, and why not; nothing is changed."""
    process = room.start("bursting", "10")

    def said() -> str:
        words = [sys.executable, "-P", "-m", "sidecar", "doctor", "-o", "json", "--pid", str(process.pid)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False).stdout

    assert "could be held at its limit" in said()
    other = room.start("bursting", "10")
    assert f"not the target's: {other.pid}" in said()
    assert room.as_before()


def test_kill_that_others_have_disabled_stays_so(tmp_path: Path, room: Room) -> None:
    """Where somebody else handles what is out of memory nothing is touched."""
    process = room.start("bursting", "10")
    room.write("memory.oom_control", 1)
    with beside(tmp_path, process, engaged=False) as sidecar:
        wait_until(lambda: sidecar.said("no brake"), 20, "the reason")
        assert "memory.oom_control" in sidecar.said("no brake")[0]["reason"]
    assert room.control("oom_kill_disable")


def test_end_of_the_sidecar_lets_go(tmp_path: Path, room: Room) -> None:
    """After SIGTERM the cgroup is as it was before."""
    process = room.start("bursting", "10")
    with beside(tmp_path, process) as sidecar:
        assert room.control("oom_kill_disable")
        assert sidecar.stop() == 0
        assert room.as_before()
    assert process.poll() is None
