"""What holds a real sidecar back, and what makes it act besides a line: budgets, pauses, a second one; and modes."""

import json
import os
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import pytest
from conftest import wait_until
from hurried import HURRY, Spawn, is_parked, over, settings, ticks, tried
from servers import free_port
from sidecars import MIB, Sidecar, running_sidecar, told

V1_MEMORY = Path("/sys/fs/cgroup/memory")


def held(sidecar: Sidecar, reason: str) -> None:
    """Wait until this is why nothing is done."""
    wait_until(lambda: sidecar.value("rag_action_held", f'reason="{reason}"', 'target="rag"') == 1, 60, reason)


def test_alert_that_compares_no_line_acts_once_each_time_it_fires(spawn: Spawn, tmp_path: Path) -> None:
    """However long it fires: it is evaluated as a whole, so nobody could say how much would be enough."""
    stubborn, port = spawn("stubborn"), free_port()
    rule = {"alert": "Crowded", "expr": f"rag_memory_used_bytes + 0 > {150 * MIB}", "labels": {"cleanup": "standard"}}
    with running_sidecar(tmp_path, file=settings(tmp_path, port, stubborn.pid, [rule]), port=port) as sidecar:
        ticks(sidecar)
        for number in (1, 2):
            stubborn.tell("grow 200")
            sidecar.outcome(count=number)
            held(sidecar, "acted_for_this_alert")
            ticks(sidecar)
            assert tried(sidecar) == [("standard", "ineffective")] * number
            stubborn.tell("drop")
            wait_until(lambda: ("Crowded", "firing") not in sidecar.alerts(), 20, "the alert to end")

        assert {action["alert"]["alertname"] for action in sidecar.actions()} == {"Crowded"}


def test_pause_ends_by_itself_and_what_is_due_is_done_then(spawn: Spawn, tmp_path: Path) -> None:
    """While it lasts neither desk nor guard acts on a line that is crossed."""
    handled = tmp_path / "handled"
    leaky, port = spawn("leaky", "--handle", "SIGUSR2", "--handled", str(handled)), free_port()
    file = settings(tmp_path, port, leaky.pid, [over("critical", "aggressive", "0s")])
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        paused = told(tmp_path, "pause", "--for", "6s")
        assert paused.returncode == 0, paused.stderr
        leaky.tell("grow 300")
        held(sidecar, "paused")
        assert not handled.exists()
        assert sidecar.actions() == []

        assert sidecar.outcome()["outcome"] == "effective"
        assert [line["reason"] for line in sidecar.said("resumed")] == ["its pause is over"]


def test_kill_switch_holds_the_guard_back_from_the_moment_it_is_thrown(spawn: Spawn, tmp_path: Path) -> None:
    """The file is there before the line is crossed, though the guard has its order: nothing is sent until it goes."""
    handled, switch = tmp_path / "handled", tmp_path / "stop"
    leaky, port = spawn("leaky", "--handle", "SIGUSR2", "--handled", str(handled)), free_port()
    file = settings(tmp_path, port, leaky.pid, [over("critical", "aggressive", "0s")],
                    actions={"kill_switch": str(switch)})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        switch.touch()
        leaky.tell("grow 300")
        held(sidecar, "kill_switch")
        ticks(sidecar)
        assert not handled.exists()
        switch.unlink()
        wait_until(handled.exists, 30, "the cleanup")
        wait_until(lambda: ("aggressive", "effective") in tried(sidecar), 30, "its verdict")


def test_cleanups_by_the_clock(spawn: Spawn, tmp_path: Path) -> None:
    """GC_INTERVAL_SECONDS=10 asks for a light cleanup again and again, without any alert and without an incident."""
    graded, port = spawn("graded", "--frees", "SIGUSR1=50"), free_port()
    graded.tell("grow 100")
    file = settings(tmp_path, port, graded.pid, [over("main", "standard")], channel={"signal": {"light": "SIGUSR1"}})
    with running_sidecar(tmp_path, file=file, port=port, env={"GC_INTERVAL_SECONDS": "10"}) as sidecar:
        sidecar.outcome(60, count=2)
        actions = sidecar.actions()

        assert {(action["trigger"], action["cleanup"]) for action in actions} == {("periodic", "light")}
        assert all(action["id"].startswith("periodic:rag.light.") for action in actions)
        assert sidecar.value("rag_cleanups_total", 'trigger="periodic"', 'outcome="effective"') == 1
        assert sidecar.incidents() == []
        assert graded.tell("grow 0") < 100 * MIB


def test_budget_that_is_spent_parks_the_target(spawn: Spawn, tmp_path: Path) -> None:
    """Two cleanups an hour may be of no use, then no more is tried, and the reason is told."""
    stubborn, port = spawn("stubborn"), free_port()
    file = settings(tmp_path, port, stubborn.pid, [over("main", "standard")], actions={
        "levels": {"standard": {"cooldown": "1s", "budget": "2/h"}}, "learning": {"strikes": 100}})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        stubborn.tell("grow 200")
        wait_until(lambda: is_parked(sidecar), 60, "it to be parked")
        ticks(sidecar)

        assert is_parked(sidecar) == "budget_spent"
        assert tried(sidecar) == [("standard", "ineffective")] * 2
        assert "budgets" in sidecar.incidents()[0]["message"]


def test_attempts_in_vain_on_all_targets_together_are_bounded(spawn: Spawn, tmp_path: Path) -> None:
    """max_per_hour is for the whole machine: what one target has used up the other one does not get."""
    one, other, port = spawn("stubborn"), spawn("stubborn"), free_port()
    made = json.loads(settings(tmp_path, port, one.pid, [over("main", "standard")], actions={
        "global": {**HURRY["global"], "max_per_hour": 3}, "learning": {"strikes": 100}}))
    made["targets"].append({**made["targets"][0], "name": "other", "match": {"pid": other.pid}})
    with running_sidecar(tmp_path, file=json.dumps(made), port=port) as sidecar:
        ticks(sidecar)
        for target in (one, other):
            target.tell("grow 200")
        for name in ("rag", "other"):
            wait_until(lambda name=name: sidecar.value(
                "rag_action_held", 'reason="machine_budget_spent"', f'target="{name}"'), 60, "it to be spent")
        ticks(sidecar)
        counts = Counter(action["target"] for action in sidecar.actions())

        assert counts.total() == 3
        assert set(counts) == {"rag", "other"}
        assert {outcome for _, outcome in tried(sidecar)} == {"ineffective"}


def test_second_sidecar_says_who_acts_and_takes_over_when_the_first_ends(spawn: Spawn, tmp_path: Path) -> None:
    """Started twice by mistake: each cleanup is asked for once, and nobody has to do anything about it."""
    handled = tmp_path / "handled"
    leaky = spawn("leaky", "--handle", "SIGUSR2", "--handled", str(handled))
    ports, folders = (free_port(), free_port()), (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
    files = [settings(folder, port, leaky.pid, [over("critical", "aggressive", "0s")])
             for folder, port in zip(folders, ports, strict=True)]
    with (running_sidecar(folders[0], file=files[0], port=ports[0]) as first,
          running_sidecar(folders[1], file=files[1], port=ports[1]) as second):
        ticks(second)
        leaky.tell("grow 300")
        assert first.outcome()["outcome"] == "effective"
        ticks(second)
        assert second.actions() == []
        assert [(line["kind"], line["reason"]) for line in second.said("guard")] == [("foreign", "another_sidecar")]
        assert first.stop() == 0
        leaky.tell("grow 300")
        assert second.outcome()["outcome"] == "effective"
        assert [line["kind"] for line in second.said("guard")] == ["foreign", "owned"]
    assert len(handled.read_text().splitlines()) == 2


def mode(sidecar: Sidecar) -> tuple[int, str]:
    """(status, mode) of GET /api/v1/mode/rag."""
    try:
        with urllib.request.urlopen(f"{sidecar.url}/api/v1/mode/rag", timeout=30) as answer:
            return answer.status, json.loads(answer.read())["data"]["mode"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())["data"]["mode"]


def test_mode_follows_memory_up_and_down(spawn: Spawn, tmp_path: Path) -> None:
    """Without a memory limit the lines main and critical decide; a load balancer sees 503 while it is degraded."""
    stubborn, port = spawn("stubborn"), free_port()
    file = settings(tmp_path, port, stubborn.pid, [over("main", "standard")], actions={"mode": "observe"})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        if sidecar.value("rag_memory_limit_bytes"):
            pytest.skip("this machine's cgroup has a memory limit, which decides")
        for command, status, expected in (("grow 50", 200, "normal"), ("grow 110", 200, "cautious"),
                                          ("grow 120", 503, "degraded"), ("drop", 200, "normal")):
            stubborn.tell(command)
            wait_until(lambda want=(status, expected): mode(sidecar) == want, 20, f"{expected} after {command}")
            wait_until(lambda name=expected: sidecar.value("rag_mode", f'mode="{name}"') == 1, 20, "the series")
            assert sum(sidecar.series("rag_mode").values()) == 1
        assert sidecar.actions() == []


@pytest.mark.skipif(not V1_MEMORY.is_dir() or os.geteuid() != 0, reason="needs root and cgroup v1 for a real cgroup")
def test_mode_follows_the_limit_of_a_real_cgroup(spawn: Spawn, tmp_path: Path) -> None:
    """With a limit of 300 MiB it is cautious from 234 MiB on and degraded from 264 MiB on, whatever the lines are."""
    group = V1_MEMORY / f"rag-sidecar-mode-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(300 * MIB))
        stubborn = spawn("stubborn", preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        port = free_port()
        file = settings(tmp_path, port, stubborn.pid, [over("main", "standard")], actions={"mode": "observe"})
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            wait_until(lambda: sidecar.value("rag_memory_limit_bytes") == 300 * MIB, 20, "the limit to be read")
            for command, wanted in (("grow 200", (200, "normal")), ("grow 40", (200, "cautious")),
                                    ("grow 30", (503, "degraded")), ("drop", (200, "normal"))):
                stubborn.tell(command)
                ticks(sidecar, 3)
                wait_until(lambda wanted=wanted: mode(sidecar) == wanted, 20, f"{wanted} after {command}")
        stubborn.process.kill()
        stubborn.process.wait()
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "the cgroup to be empty")
        group.rmdir()
