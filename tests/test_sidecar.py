"""The whole sidecar on real processes: guard and desk, started as a user starts them."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import AlertRecorder, free_port, promtool
from sidecars import MIB, Sidecar, config, refused, running_sidecar

LINES = {"main": "200MiB", "critical": "260MiB"}
BY_SIGNAL = [{"signal": "SIGUSR1"}]
V1_MEMORY = Path("/sys/fs/cgroup/memory")


def target(pid: int, cleanup: list[dict[str, Any]] | None = None, **more: Any) -> dict[str, Any]:
    """One target of a sidecar.yml."""
    return {"name": "t", "match": {"pid": pid}, "memory": LINES, "cleanup": cleanup or [], **more}


def settled(sidecar: Sidecar, ticks: int = 3) -> None:
    """Wait for some ticks."""
    begun = sidecar.value("rag_sidecar_ticks_total") or 0
    wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) >= begun + ticks, 20, f"{ticks} ticks")


def test_any_process_is_watched_and_judged_by_its_pid_alone(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """`run --pid N` shows memory, limit lines and alerts, and does nothing."""
    leaky = spawn("leaky")
    held = leaky.tell("grow 100")
    with running_sidecar(tmp_path, "--pid", str(leaky.pid)) as sidecar:
        settled(sidecar)

        assert sidecar.value("rag_target_up", 'target="rag"') == 1
        used = sidecar.value("rag_memory_used_bytes")
        assert used is not None
        assert held <= used < held + 60 * MIB
        assert sidecar.value("rag_memory_threshold_bytes", 'level="main"') == 1000 * MIB
        assert sidecar.actions() == []
        assert sidecar.stop() == 0
    assert leaky.process.poll() is None


def test_metrics_are_clean_for_promtool(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """`promtool check metrics` finds nothing to complain of, after a cleanup as well."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target(leaky.pid, BY_SIGNAL)]), port=port) as sidecar:
        settled(sidecar)
        leaky.tell("grow 300")
        sidecar.outcome()
        settled(sidecar)
        checked = subprocess.run([promtool(), "check", "metrics"], input=sidecar.get("/metrics"), text=True,
                                 capture_output=True, check=False)

    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_critical_line_is_acted_on_by_the_guard(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The signal comes within moments of the crossing, the freed bytes are measured, the alert is told."""
    handled = tmp_path / "handled"
    leaky = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(handled))
    port = free_port()
    with AlertRecorder() as recorder:
        file = config(port, tmp_path, [target(leaky.pid, BY_SIGNAL)], alertmanagers=[recorder.url])
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            settled(sidecar)
            leaky.tell("grow 300")
            attempt = sidecar.outcome()

            assert attempt["outcome"] == "effective"
            assert attempt["cleanup"] == "aggressive"
            assert attempt["channel"] == "signal"
            assert attempt["before_bytes"] > 260 * MIB
            assert attempt["after_bytes"] <= 0.9 * 260 * MIB  # seen while it falls, or with the rest taken after it
            assert attempt["freed_bytes"] > 20 * MIB
            assert attempt["alert"]["alertname"] == "RagMemoryCritical"
            assert len(handled.read_text().splitlines()) == 1
            assert sidecar.value("rag_cleanups_total", 'outcome="effective"', 'cleanup="aggressive"') == 1
            assert sidecar.value("rag_cleanup_delivery_seconds_count") == 1
            recorder.wait_for(lambda: any(
                alert["labels"]["alertname"] == "RagMemoryCritical" for alert in recorder.alerts()),
                10, "the critical alert, although memory has fallen again")


def test_main_line_is_acted_on_after_its_hold_by_post(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Main waits 10 s, then the standard cleanup is asked for over HTTP, and the alert resolves."""
    requests = tmp_path / "requests"
    leaky = spawn("leaky", "--http", "0", "--requests", str(requests))
    port = free_port()
    by_post = [{"http": {"url": f"{leaky.url}/cleanup"}}]
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target(leaky.pid, by_post)]), port=port) as sidecar:
        settled(sidecar)
        leaky.tell("grow 210")
        wait_until(lambda: ("RagMemoryMain", "pending") in sidecar.alerts(), 10, "main to be pending")
        attempt = sidecar.outcome()
        settled(sidecar)

        assert (attempt["cleanup"], attempt["channel"], attempt["outcome"]) == ("standard", "http", "effective")
        assert json.loads(json.loads(requests.read_text())["body"]) == {"level": "standard", "id": attempt["id"]}
        assert ("RagMemoryMain", "firing") not in sidecar.alerts()


def test_target_without_a_handler_survives_and_the_refusal_is_told(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """SIGUSR1 would kill it: it is not sent, counted once as refused, and not tried again and again."""
    victim = spawn("no_handler")
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target(victim.pid, BY_SIGNAL)]), port=port) as sidecar:
        settled(sidecar)
        victim.tell("grow 300")
        attempt = sidecar.outcome()
        settled(sidecar, 5)

        assert (attempt["outcome"], attempt["reason"]) == ("refused", "signal_default")
        assert len(sidecar.actions()) == 1
        assert sidecar.value("rag_cleanups_total", 'outcome="refused"') == 1
        assert sidecar.value("rag_cleanup_refused_total", 'reason="signal_default"', 'channel="signal"') == 1
        assert sidecar.value("rag_actions_parked", 'target="t"') == 1
    assert victim.process.poll() is None


@pytest.mark.parametrize(("mode", "outcomes"), [("observe", []), ("dry_run", ["dry_run"])])
def test_modes_that_deliver_nothing(
    spawn: Callable[..., Target], tmp_path: Path, mode: str, outcomes: list[str]
) -> None:
    """Observe does not even try; dry run walks through everything and stops before the signal."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port = free_port()
    file = config(port, tmp_path, [target(leaky.pid, BY_SIGNAL)], actions={"mode": mode})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        settled(sidecar)
        held = leaky.tell("grow 300")
        wait_until(lambda: ("RagMemoryCritical", "firing") in sidecar.alerts(), 10, "the critical alert")
        settled(sidecar)

        assert [attempt["outcome"] for attempt in sidecar.actions()] == outcomes
    assert leaky.tell("grow 0") == held


def test_kill_switch_stops_everything_at_once(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """While the file exists nothing is delivered; when it is gone, the open gate is acted on."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port, switch = free_port(), tmp_path / "stop"
    switch.touch()
    file = config(port, tmp_path, [target(leaky.pid, BY_SIGNAL)], actions={"kill_switch": str(switch)})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        settled(sidecar)
        held = leaky.tell("grow 300")
        wait_until(lambda: sidecar.value("rag_action_held", 'reason="kill_switch"') == 1, 10, "the reason to be told")
        assert leaky.tell("grow 0") == held

        switch.unlink()

        assert sidecar.outcome()["outcome"] == "effective"


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_guard_delivers_while_the_desk_is_dead_and_the_next_desk_tells_of_it(
    spawn: Callable[..., Target], tmp_path: Path, how: signal.Signals
) -> None:
    """A desk killed or stopped just before the crossing changes nothing for the target, and nothing is untold."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port = free_port()
    with AlertRecorder() as recorder:
        file = config(port, tmp_path, [target(leaky.pid, BY_SIGNAL)], alertmanagers=[recorder.url])
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            settled(sidecar)
            first = sidecar.child("desk")
            os.kill(first, how)
            leaky.tell("grow 300")
            wait_until(lambda: leaky.tell("grow 0") < 200 * MIB, 5, "the cleanup while no desk is at work")
            wait_until(lambda: sidecar.child("desk") not in (0, first), 20, "the next desk")
            wait_until(sidecar.ready, 20, "the next desk to be ready")
            attempt = sidecar.outcome()

            assert attempt["outcome"] == "effective"
            assert attempt["before_bytes"] > 260 * MIB
            assert sidecar.value("rag_sidecar_desk_starts_total") == 2
            recorder.wait_for(lambda: any(
                alert["labels"]["alertname"] == "RagMemoryCritical" for alert in recorder.alerts()),
                10, "the alert that only the guard has seen")


def test_target_that_restarts_is_found_again(checkout: Path, tmp_path: Path) -> None:
    """Not there yet: up 0. There: up 1. Gone: up 0. A new process: found within two ticks, of 1 s, and counted."""
    program = [sys.executable, str(checkout / "tests/targets/leaky.py"), "--handle", "SIGUSR1"]
    mark = f"limit=7{os.getpid()}"
    with running_sidecar(tmp_path, "--match", mark) as sidecar:
        assert sidecar.value("rag_target_up") == 0
        assert sidecar.series("rag_process_resident_memory_bytes") == {}
        for life in (1, 2):
            process = subprocess.Popen([*program, f"--{mark}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            try:
                begun = sidecar.value("rag_sidecar_ticks_total") or 0
                page = wait_until(lambda: sidecar.page_with('rag_target_up{target="rag"} 1.0'), 10, "it to be found")
                assert float(page.split("\nrag_sidecar_ticks_total ")[1].split()[0]) <= begun + 2
                assert sidecar.value("rag_target_restarts_total") == life - 1
            finally:
                process.kill()
                process.communicate()
            wait_until(lambda: sidecar.value("rag_target_up") == 0, 10, "its end to be seen")
            assert sidecar.series("rag_process_resident_memory_bytes") == {}


def test_command_is_started_watched_and_its_exit_code_passed_on(tmp_path: Path) -> None:
    """`run -- COMMAND` ends with the command, with its code, and has watched it."""
    script = "import sys, time; print('hello', flush=True); sys.stdin.readline(); sys.exit(7)"
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sidecar", "run", "--web.listen-address", f"127.0.0.1:{port}",
         "--storage.path", str(tmp_path), "--", sys.executable, "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"hello\n"
        sidecar = Sidecar(process, port, tmp_path / "none")
        wait_until(sidecar.ready, 20, "the sidecar")
        wait_until(lambda: sidecar.value("rag_target_up") == 1, 10, "the command to be watched")
        process.communicate(b"\n", timeout=20)
        assert process.returncode == 7
    finally:
        process.kill()
        process.communicate()


def test_sigterm_is_passed_on_to_the_command(tmp_path: Path) -> None:
    """The command may end in its own way, and its code is ours."""
    script = (  # short sleeps: a signal that comes just before a long one would not end it
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(3))\nprint('up', flush=True)\n"
        "while True: time.sleep(0.05)")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "sidecar", "run", "--web.listen-address", f"127.0.0.1:{free_port()}",
         "--storage.path", str(tmp_path), "--", sys.executable, "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 3
    finally:
        process.kill()
        process.communicate()


def test_command_that_cannot_be_started(tmp_path: Path) -> None:
    """As a shell has it: 127 and a word why. Nothing claims to be watched."""
    code, said = refused(tmp_path, "--web.listen-address", f"127.0.0.1:{free_port()}", "--", "no-such-program-here")

    assert code == 127
    assert "cannot start no-such-program-here: No such file or directory" in said
    assert "watching" not in said


def test_nothing_is_left_behind(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A guard that is killed takes desk and courier with it; the target goes on."""
    leaky = spawn("leaky", "--http", "0")
    port = free_port()
    by_post = [{"http": {"url": f"{leaky.url}/cleanup"}}]
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target(leaky.pid, by_post)]), port=port) as sidecar:
        desk, courier = sidecar.child("desk"), sidecar.child("courier")
        sidecar.process.kill()
        for pid in (desk, courier):
            wait_until(lambda pid=pid: not Path(f"/proc/{pid}").exists(), 20, f"the end of {pid}")
    assert leaky.process.poll() is None


@pytest.mark.parametrize(("text", "said"), [
    ("targets: [{name: t, match: {pid: 1}, colour: red}]", "colour"),
    ("targets: [{name: t, match: {pid: 1}, memory: {main: 200}}]", "unit"),
    ("targets: [{name: t, match: {pid: 4194304}}]", "no process with pid 4194304"),
    ("targets: [{name: t, match: {pid: 1}}]\nrules: [bad_rule.yml]", "bad_rule.yml:4:"),
    ("targets: [", "bad.yml:1:"),
])
def test_what_cannot_work_is_refused_at_the_start(tmp_path: Path, text: str, said: str) -> None:
    """A clear error that names the place, exit code 1, nothing is started."""
    (tmp_path / "bad_rule.yml").write_text("groups:\n- name: g\n  rules:\n  - {alert: A, expr: 'rate(x'}\n")
    code, error = refused(tmp_path, file=text)

    assert code == 1
    assert said in error
    assert "Traceback" not in error


def test_port_that_is_taken_is_said(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Another program on the port: what to do about it, and exit code 1."""
    leaky = spawn("leaky", "--http", "0")
    code, error = refused(tmp_path, "--pid", str(leaky.pid), "--web.listen-address", leaky.url.removeprefix("http://"))

    assert code == 1
    assert "another program listens there" in error


def test_endpoint_with_a_bad_day_is_counted_and_the_loop_goes_on(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Whatever the endpoint answers, the attempt gets an outcome, the signal follows, and ticks go on."""
    days = {answer: spawn("leaky", "--handle", "SIGUSR1", "--http", "0", "--answer", answer)
            for answer in ("error", "html", "huge", "nothing")}
    port = free_port()
    targets = [target(leaky.pid, [{"http": {"url": f"{leaky.url}/cleanup", "timeout": "2s"}}, *BY_SIGNAL], name=answer)
               for answer, leaky in days.items()]
    file = config(port, tmp_path, targets, actions={"verify": {"settle": "1s", "window": "4s"}})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        settled(sidecar, 8)  # so that a growth that ends by itself is seen to be no trend, and its end no success
        for leaky in days.values():
            leaky.tell("grow 300")

        def first() -> dict[str, dict[str, Any]]:
            found = {attempt["target"]: attempt for attempt in sidecar.actions()}  # newest first: the oldest stays
            return found if sum(attempt["outcome"] != "running" for attempt in found.values()) == len(days) else {}

        attempts = wait_until(first, 60, f"a judged cleanup of each; log:\n{sidecar.log.read_text()[-3000:]}")
        settled(sidecar)

        for answer in ("error", "nothing"):
            assert (attempts[answer]["channel"], attempts[answer]["outcome"]) == ("signal", "effective")
            assert sum(value for labels, value in sidecar.series("rag_cleanup_refused_total").items()
                       if f'target="{answer}"' in labels) == 1
        for answer in ("html", "huge"):  # accepted with status 200, but nothing was freed: bytes decide
            assert (attempts[answer]["channel"], attempts[answer]["outcome"]) == ("http", "ineffective")


def test_unreachable_alertmanager_is_counted_and_the_loop_goes_on(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Nobody listens where alerts should go: failures are counted, everything else works."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port, nobody = free_port(), free_port()
    file = config(port, tmp_path, [target(leaky.pid, BY_SIGNAL)], alertmanagers=[f"http://127.0.0.1:{nobody}"])
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        settled(sidecar)
        leaky.tell("grow 300")

        assert sidecar.outcome()["outcome"] == "effective"
        wait_until(lambda: (sidecar.value("rag_sidecar_notifications_total", 'outcome="failed"') or 0) >= 1, 10,
                   "a failed notification to be counted")
        settled(sidecar)
        with AlertRecorder(port=nobody) as recorder:
            recorder.wait_for(lambda: any(
                alert["labels"]["alertname"] == "RagMemoryCritical" for alert in recorder.alerts()),
                15, "the alert, when the Alertmanager has come back")


def test_thresholds_of_the_environment_are_compared_with_rss(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """MEMORY_THRESHOLD_MB and its sister work as in the programs they come from."""
    leaky = spawn("leaky")
    env = {"MEMORY_THRESHOLD_MB": "150", "MEMORY_CRITICAL_THRESHOLD_MB": "180"}
    with running_sidecar(tmp_path, "--pid", str(leaky.pid), env=env) as sidecar:
        settled(sidecar)

        assert sidecar.value("rag_memory_threshold_bytes", 'level="main"') == 150 * MIB
        assert sidecar.value("rag_memory_threshold_bytes", 'level="preventive"') == 120 * MIB
        assert sidecar.value("rag_memory_used_bytes") == sidecar.value("rag_process_resident_memory_bytes")


def test_ctrl_c_reaches_the_command_once_and_only_it(tmp_path: Path) -> None:
    """In a terminal the command is in the foreground, as under a shell: one Ctrl-C is one SIGINT, and its code ours."""
    script = (
        "import signal, sys, time\nseen = []\nsignal.signal(2, lambda *_: seen.append(1))\n"
        "print('LISTENS', flush=True)\n"
        "while not seen: time.sleep(0.05)\ntime.sleep(1)\nsys.exit(40 + len(seen))")
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [  # noqa: S606
            sys.executable, "-P", "-m", "sidecar", "run", "--web.listen-address", f"127.0.0.1:{free_port()}",
            "--storage.path", str(tmp_path), "--", sys.executable, "-c", script])
    said = b""
    while b"LISTENS" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    code = wait_until(lambda: (done := os.waitpid(pid, os.WNOHANG))[0] and done, 20, "the end")[1]
    os.close(terminal)

    assert os.waitstatus_to_exitcode(code) == 41


def test_orphans_are_reaped_when_the_guard_is_pid_1(tmp_path: Path) -> None:
    """In a container the guard is init: what the command leaves behind does not stay a zombie."""
    script = (
        "import os, subprocess, sys, time\n"
        "subprocess.run(['sh', '-c', '(sleep 0.1 &)'])\n"
        "time.sleep(2)\n"
        "stats = [open(f'/proc/{p}/stat').read() for p in os.listdir('/proc') if p.isdigit()]\n"
        "sys.exit(10 + sum(stat.rsplit(')', 1)[1].split()[0] == 'Z' for stat in stats))")
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc",
               sys.executable, "-P", "-m", "sidecar", "run", "--web.listen-address", f"127.0.0.1:{free_port()}",
               "--storage.path", str(tmp_path), "--", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, timeout=40, check=False)

    assert done.returncode == 10, done.stderr.decode()


@pytest.mark.skipif(not V1_MEMORY.is_dir() or os.geteuid() != 0, reason="needs root and cgroup v1 for a real cgroup")
def test_limit_of_the_cgroup_sets_the_lines_and_the_kernel_never_has_to_kill(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Nobody set a threshold: 80 and 90 % of the cgroup's limit, compared with what the kernel cannot take back."""
    group = V1_MEMORY / f"rag-sidecar-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(300 * MIB))
        leaky = spawn("leaky", "--handle", "SIGUSR1",
                      preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())))
        port = free_port()
        watched = {"name": "t", "match": {"pid": leaky.pid}, "cleanup": BY_SIGNAL}
        with running_sidecar(tmp_path, file=config(port, tmp_path, [watched]), port=port) as sidecar:
            settled(sidecar)
            assert sidecar.value("rag_memory_limit_bytes") == 300 * MIB
            assert sidecar.value("rag_memory_threshold_bytes", 'level="critical"') == 270 * MIB
            leaky.tell("rate 100")
            attempt = sidecar.outcome()

            assert (attempt["cleanup"], attempt["outcome"]) == ("aggressive", "effective")
            assert 270 * MIB < attempt["before_bytes"] < 300 * MIB
            assert sidecar.value("rag_cgroup_memory_events_total", 'event="oom_kill"') == 0
        assert leaky.process.poll() is None
        leaky.process.kill()
        leaky.process.wait()
    finally:
        wait_until(lambda: not (group / "cgroup.procs").read_text(), 10, "the cgroup to be empty")
        group.rmdir()


def test_rule_that_cannot_act_is_named_at_the_start(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """An alert whose labels depend on its value cannot be read anew, so its cleanup would never come: that is said."""
    leaky = spawn("leaky")
    (tmp_path / "odd.yml").write_text(
        "groups: [{name: g, rules: [{alert: Odd, expr: rag_target_up == 0, "
        "labels: {cleanup: light, n: '{{ $value }}'}}]}]")
    port = free_port()
    file = config(port, tmp_path, [target(leaky.pid)], rules=["odd.yml"])
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        assert '"alert": "Odd"' in sidecar.log.read_text()
