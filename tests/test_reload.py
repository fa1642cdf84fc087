"""Another configuration while the sidecar runs: taken as a whole or not at all, and nothing that is known is lost."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import Target
from servers import AlertRecorder, free_port, running_alertmanager, wait_until
from sidecars import MIB, Sidecar, config, running_sidecar

from sidecar.config_watch import Files

Spawn = Callable[..., Target]
LIFECYCLE = "--web.enable-lifecycle"
ALERT = {"alert": "Growing", "expr": "rag_memory_used_bytes > 100 * 1024 * 1024", "labels": {"severity": "warning"}}


def target(name: str, pid: int, **more: Any) -> dict[str, Any]:
    """A target with lines that nothing reaches by itself."""
    return {"name": name, "match": {"pid": pid}, "memory": {"main": "150MiB", "critical": "400MiB", "basis": "anon"},
            **more}


class Settings:
    """A sidecar.yml, and a rule file beside it, that are written anew. Lives as long as its test."""

    def __init__(self, folder: Path, targets: list[dict[str, Any]]) -> None:
        self.port = free_port()
        self.file = folder / "sidecar.yml"
        self.rules = folder / "own.rules.yml"
        self._folder = folder
        self._said: dict[str, Any] = {"targets": targets, "rules": ["*.rules.yml"]}
        self.say_rules(ALERT)

    def text(self) -> str:
        """The file as it is to be now."""
        said = {key: value for key, value in self._said.items() if value is not None}
        return config(self.port, self._folder / "state", **json.loads(json.dumps(said)))

    def say(self, **changes: Any) -> None:
        """Write the file with these changes."""
        self._said |= changes
        self.file.write_text(self.text())

    def say_rules(self, *rules: dict[str, Any]) -> None:
        """Write the rule file."""
        self.rules.write_text(json.dumps({"groups": [{"name": "own", "rules": rules}]}, indent=1))


def reload(sidecar: Sidecar, method: str = "POST", headers: Iterable[tuple[str, str]] = ()) -> tuple[int, str]:
    """Ask for a reload over TCP: (status, what is answered)."""
    request = urllib.request.Request(f"{sidecar.url}/-/reload", method=method, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def command(*flags: str, name: str = "reload") -> subprocess.CompletedProcess[str]:
    """`rag-sidecar reload`, or another one, as a user types it."""
    return subprocess.run([sys.executable, "-P", "-m", "sidecar", name, *flags],
                          capture_output=True, text=True, timeout=60, check=False)


def in_force(sidecar: Sidecar, line: str) -> float | None:
    """Bytes of a line of the only target."""
    return sidecar.value("rag_memory_threshold_bytes", f'level="{line}"')


def active_at(sidecar: Sidecar) -> dict[tuple[str, str], str]:
    """(name, state) of each alert → since when."""
    found = json.loads(sidecar.get("/api/v1/alerts"))["data"]["alerts"]
    return {(alert["labels"]["alertname"], alert["state"]): alert["activeAt"] for alert in found}


def test_alerts_go_on_over_a_reload(spawn: Spawn, tmp_path: Path) -> None:
    """What fires fires on and what is held is held on, since when it did; Alertmanager hears of no end."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    settings.say_rules(ALERT, {**ALERT, "alert": "Held", "for": "1h"})
    with AlertRecorder() as recorder:
        settings.say(alertmanagers=[recorder.url])
        with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
            program.tell("grow 120")
            wait_until(lambda: ("Growing", "firing") in sidecar.alerts(), 20, "the alert")
            recorder.wait_for(lambda: bool(recorder.alerts()), 20, "the alert to be posted")
            before, samples = active_at(sidecar), sidecar.value("rag_sidecar_ticks_total")
            settings.say_rules(ALERT, {**ALERT, "alert": "Held", "for": "1h"}, {**ALERT, "alert": "New", "expr": "1"})
            settings.say(external_labels={"site": "north"})
            assert reload(sidecar) == (200, "The configuration is in force.\n")
            wait_until(lambda: ("New", "firing") in sidecar.alerts(), 20, "the new rule")
            after = active_at(sidecar)
            recorder.wait_for(lambda: any(each["labels"]["alertname"] == "New" for each in recorder.alerts()), 20, "it")
            ended = [each for each in recorder.alerts() if each["labels"]["alertname"] == "Growing"
                     and each["endsAt"] < now_text()]
            looked = json.loads(sidecar.get("/api/v1/query?query=count_over_time(rag_memory_used_bytes[1h])"))

    assert {key: since for key, since in after.items() if key in before} == before
    assert ended == []
    assert samples is not None
    assert float(looked["data"]["result"][0]["value"][1]) > samples, "what was seen before the reload is still there"
    new = next(each for each in recorder.alerts() if each["labels"]["alertname"] == "New")
    assert new["labels"]["site"] == "north"


def test_broken_configuration_changes_nothing(spawn: Spawn, tmp_path: Path) -> None:
    """Every mistake is answered and logged with its place, as `check config` has it; what was in force stays so."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
        wait_until(lambda: in_force(sidecar, "main") == 150 * MIB, 20, "the target")
        broken = target("rag", program.pid)
        broken["memory"]["main"] = "120 apples"
        settings.say(targets=[broken])
        settings.say_rules({**ALERT, "expr": "rag_memory_used_bytes >"})
        status, said = reload(sidecar)
        checked = subprocess.run([sys.executable, "-P", "-m", "sidecar", "check", "config", str(settings.file)],
                                 capture_output=True, text=True, timeout=60, check=False)
        mistake = next(line for line in said.splitlines() if "apples" in line)
        wait_until(lambda: sidecar.value("rag_sidecar_config_last_reload_successful") == 0, 20, "the metric")

        assert (status, mistake.startswith(f"{settings.file}:")) == (500, True)
        assert mistake in checked.stdout + checked.stderr
        assert [line["mistake"] for line in sidecar.said("configuration refused, the one before stays in force")] == [
            mistake]
        assert in_force(sidecar, "main") == 150 * MIB
        settings.say(targets=[target("rag", program.pid)])
        status, said = reload(sidecar)
        assert (status, "own.rules.yml:" in said, "could not parse expression" in said) == (500, True, True)
        assert '"reloadConfigSuccess": false' in sidecar.get("/api/v1/status/runtimeinfo")

        settings.say_rules(ALERT)
        assert reload(sidecar, "PUT")[0] == 200
        wait_until(lambda: sidecar.value("rag_sidecar_config_last_reload_successful") == 1, 20, "the metric")


def test_command_reloads_and_tells_every_mistake(spawn: Spawn, tmp_path: Path) -> None:
    """`rag-sidecar reload` asks at the control socket: 0 once it is in force, 1 with the mistakes and their places."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    with running_sidecar(tmp_path, file=settings.text(), port=settings.port) as sidecar:
        mine = "--storage.path", str(tmp_path / "state")
        settings.file.write_text(settings.text().replace("150MiB", "160MiB"))
        done = command(*mine)
        assert (done.returncode, done.stdout, done.stderr) == (0, "The configuration is in force.\n", "")
        wait_until(lambda: in_force(sidecar, "main") == 160 * MIB, 20, "the line")
        settings.file.write_text(settings.text().replace("150MiB", "150 apples"))
        done, told = command(*mine), command(*mine, "-o", "json")
        assert (done.returncode, told.returncode, done.stdout) == (1, 1, "")
        assert done.stderr.startswith(f"{settings.file}:")
        assert json.loads(told.stdout) == {"mistakes": done.stderr.splitlines()}
    gone = command(*mine)
    assert (gone.returncode, "no sidecar listens" in gone.stderr) == (1, True)


def test_pause_and_moved_lines_hold_over_a_reload(spawn: Spawn, tmp_path: Path) -> None:
    """What people have ordered outlives another configuration: nothing is done until `resume`, lines stay moved."""
    program = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(tmp_path / "handled"))
    acted = target("rag", program.pid, cleanup=[{"signal": "SIGUSR1"}])
    settings = Settings(tmp_path, [acted])
    mine = "--storage.path", str(tmp_path / "state")
    with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
        wait_until(lambda: in_force(sidecar, "main") == 150 * MIB, 20, "the target")
        moved = "--main", "120MiB", "--critical", "200MiB", "--ttl", "1h"
        assert command(*moved, *mine, name="thresholds").returncode == 0
        assert command(*mine, name="pause").returncode == 0
        acted["memory"]["main"] = "180MiB"
        settings.say(targets=[acted], rules=None)
        assert reload(sidecar)[0] == 200
        ticks = sidecar.value("rag_sidecar_ticks_total") or 0
        program.tell("grow 250")
        wait_until(lambda: ("RagMemoryCritical", "firing") in sidecar.alerts(), 20, "the moved line to be crossed")
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) > ticks + 2, 20, "some ticks")
        assert (in_force(sidecar, "main"), in_force(sidecar, "critical")) == (120 * MIB, 200 * MIB)
        assert not (tmp_path / "handled").exists()
        assert command(*mine, name="resume").returncode == 0
        assert sidecar.outcome()["outcome"] == "effective"
        assert command("--withdraw", *mine, name="thresholds").returncode == 0
        wait_until(lambda: in_force(sidecar, "main") == 180 * MIB, 20, "the line of the new configuration")


def test_what_needs_a_restart_is_refused_by_its_name(spawn: Spawn, tmp_path: Path) -> None:
    """Another address or folder is not taken, nor is anything else of that file."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
        settings.say(job="another", targets=[target("other", program.pid)])
        status, said = reload(sidecar)
        assert (status, "job cannot change while the sidecar runs" in said, "restart" in said) == (500, True, True)
        assert '\\"another\\"' not in sidecar.get("/api/v1/status/config")
        assert sidecar.series("rag_target_up") == {'{target="rag"}': 1.0}


def test_reload_over_tcp_is_closed_without_its_flag(spawn: Spawn, tmp_path: Path) -> None:
    """403 that names the flag; other websites and GET are refused even with it."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    with running_sidecar(tmp_path, file=settings.text(), port=settings.port) as sidecar:
        status, said = reload(sidecar)
        assert (status, LIFECYCLE in said) == (403, True)
        done = subprocess.run(["curl", "-s", "-X", "POST", "--unix-socket", str(tmp_path / "state" / "control.sock"),
                               "http://localhost/-/reload"], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout == "The configuration is in force.\n"
        closed = command("--url", sidecar.url)
        assert (closed.returncode, LIFECYCLE in closed.stderr) == (1, True)
    with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
        assert reload(sidecar, headers=[("Sec-Fetch-Site", "cross-site")])[0] == 403
        assert reload(sidecar, headers=[("Host", "evil.example")])[0] == 403
        assert reload(sidecar, "GET")[0] == 405


def test_targets_come_and_go(spawn: Spawn, tmp_path: Path) -> None:
    """A target that is removed ends, with its alerts; one that stays counts on; a new one is acted on."""
    first, second, third = spawn("leaky"), spawn("leaky"), spawn("leaky", "--handle", "SIGUSR1")
    settings = Settings(tmp_path, [target("stays", first.pid), target("goes", second.pid)])
    with running_alertmanager(tmp_path) as manager:
        settings.say(alertmanagers=[manager.url])
        with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
            second.tell("grow 120")
            wait_until(lambda: ("Growing", "firing") in sidecar.alerts(), 20, "the alert")
            wait_until(lambda: len(manager.alerts()) == 1, 20, "Alertmanager to know it")
            acted = target("comes", third.pid, cleanup=[{"signal": "SIGUSR1"}])
            settings.say(targets=[acted, target("stays", first.pid)], rules=None)
            assert reload(sidecar)[0] == 200

            wait_until(lambda: manager.alerts() == [], 20, "Alertmanager to be told of the end")
            wait_until(lambda: len(sidecar.series("rag_target_up")) == 2, 20, "the targets")
            assert set(sidecar.series("rag_target_up")) == {'{target="comes"}', '{target="stays"}'}
            assert set(sidecar.series("rag_target_restarts_total").values()) == {0.0}
            third.tell("grow 500")
            assert (sidecar.outcome()["target"], sidecar.outcome()["outcome"]) == ("comes", "effective")


def test_rule_that_is_gone_is_resolved(spawn: Spawn, tmp_path: Path) -> None:
    """An alert whose rule is removed ends at once in Alertmanager; the same rule in a renamed file is no news."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    settings.say_rules(ALERT, {**ALERT, "alert": "Removed"})
    with AlertRecorder() as recorder:
        settings.say(alertmanagers=[recorder.url])
        with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
            program.tell("grow 120")
            recorder.wait_for(lambda: len(recorder.alerts()) >= 2, 30, "both alerts")
            settings.say_rules(ALERT)
            settings.rules.rename(tmp_path / "renamed.rules.yml")
            assert reload(sidecar)[0] == 200
            recorder.wait_for(lambda: len(recorder.alerts()) >= 3, 20, "the end")
            assert sidecar.alerts() == {("Growing", "firing")}
    told = [each["labels"]["alertname"] for each in recorder.alerts() if each["endsAt"] < now_text()]
    assert told == ["Removed"]


def now_text() -> str:
    """This moment as alerts have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.999Z", time.gmtime())


def test_observe_means_no_order_stands(spawn: Spawn, tmp_path: Path) -> None:
    """Once a reload to `observe` is answered a crossing is watched and not acted on, not even by the guard."""
    program = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(tmp_path / "handled"))
    settings = Settings(tmp_path, [target("rag", program.pid, cleanup=[{"signal": "SIGUSR1"}])])
    settings.say(rules=None)
    with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
        wait_until(lambda: in_force(sidecar, "main"), 20, "the target")
        settings.say(actions={"mode": "observe"})
        assert reload(sidecar)[0] == 200
        program.tell("grow 500")
        wait_until(lambda: ("RagMemoryCritical", "firing") in sidecar.alerts(), 20, "the alert")
        assert sidecar.actions() == []
        assert not (tmp_path / "handled").exists()
        settings.say(actions={"mode": "enforce"})
        assert reload(sidecar)[0] == 200
        assert sidecar.outcome()["outcome"] == "effective"


def test_changed_file_is_taken_without_being_asked(spawn: Spawn, tmp_path: Path) -> None:
    """Also where a whole folder is exchanged by its link, as Kubernetes does it, and a mistake is mended later."""
    program = spawn("leaky")
    old, new, link = tmp_path / "old", tmp_path / "new", tmp_path / "config"
    old.mkdir()
    new.mkdir()
    settings = Settings(tmp_path, [target("rag", program.pid)])
    settings.say(rules=None)
    (old / "sidecar.yml").write_text(settings.text())
    link.symlink_to(old)
    with running_sidecar(tmp_path, "--config.file", str(link / "sidecar.yml"), port=settings.port) as sidecar:
        (new / "sidecar.yml").write_text(settings.text().replace("150MiB", "160 apples"))
        (tmp_path / "next").symlink_to(new)
        (tmp_path / "next").rename(link)
        wait_until(lambda: sidecar.value("rag_sidecar_config_last_reload_successful") == 0, 30, "it to be refused")
        (new / "sidecar.yml").write_text(settings.text().replace("150MiB", "160MiB"))
        wait_until(lambda: in_force(sidecar, "main") == 160 * MIB, 30, "it to be in force")


def test_many_signals_cost_nothing_that_stays(spawn: Spawn, tmp_path: Path) -> None:
    """SIGHUP, once or in a storm, also while the desk starts: no descriptor is lost, and memory stays as it is."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
        assert reload(sidecar)[0] == 200
        desk = Path(f"/proc/{sidecar.child('desk')}")
        before, bytes_before = len(list((desk / "fd").iterdir())), anonymous(desk)
        for _ in range(20):
            assert reload(sidecar)[0] == 200
            sidecar.process.send_signal(signal.SIGHUP)
            sidecar.process.send_signal(signal.SIGHUP)
        wait_until(lambda: abs(len(list((desk / "fd").iterdir())) - before) < 3, 20, "all to be closed again")
        assert sidecar.value("rag_sidecar_desk_starts_total") == 1
        assert anonymous(desk) < bytes_before + 2 * MIB

        os.kill(sidecar.child("desk"), signal.SIGKILL)
        wait_until(lambda: sidecar.child("desk") not in (0, int(desk.name)), 20, "the next desk")
        told = len(sidecar.said("configuration reloaded"))
        sidecar.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(sidecar.said("configuration reloaded")) > told, 30, "the reload by the next desk")
        assert sidecar.ready()


def test_desk_that_meets_a_broken_file_is_back_when_it_is_mended(spawn: Spawn, tmp_path: Path) -> None:
    """The guard says what is wrong and tries on; that is no crash, for which the sidecar would only observe later."""
    program = spawn("leaky")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    with running_sidecar(tmp_path, file=settings.text(), port=settings.port) as sidecar:
        settings.file.write_text(settings.text().replace("150MiB", "150 apples"))
        os.kill(sidecar.child("desk"), signal.SIGKILL)
        wait_until(lambda: sidecar.log.read_text().count("apples") >= 3, 30, "it to be tried again")
        settings.file.write_text(settings.text().replace("150MiB", "160MiB"))
        wait_until(sidecar.ready, 30, "the desk")
        assert in_force(sidecar, "main") == 160 * MIB
        assert sidecar.said("nothing is done unasked: the sidecar has crashed too often") == []


def anonymous(process: Path) -> int:
    """Bytes that a process has for itself."""
    rows = (process / "smaps_rollup").read_text().splitlines()
    return 1024 * int(next(row.split()[1] for row in rows if row.startswith("Anonymous:")))


def test_terminal_that_closes_ends_what_was_started_in_it(tmp_path: Path) -> None:
    """SIGHUP of a terminal that is gone is the end, as ever; as long as it is there SIGHUP is a reload."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONUNBUFFERED"] = "1"
        os.execv(sys.executable, [  # noqa: S606
            sys.executable, "-P", "-m", "sidecar", "run", "--match", "nothing is called so", "--web.listen-address",
            f"127.0.0.1:{free_port()}", "--storage.path", str(tmp_path / "state")])
    said = b""
    try:
        while b"watching" not in said:
            said += os.read(terminal, 4096)
        os.kill(pid, signal.SIGHUP)
        while b"configuration reloaded" not in said:
            said += os.read(terminal, 4096)
    finally:
        os.close(terminal)
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], 30, "it to end")


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Path, Files]:
    """A file, and the eye on it."""
    file = tmp_path / "a.yml"
    file.write_text("one")
    return file, Files([str(tmp_path / "*.yml")])


def test_what_is_being_written_is_left_alone(watched: tuple[Path, Files]) -> None:
    """A file counts as changed when it has looked the same twice, once for each content."""
    file, files = watched
    looks = [files.changed()]
    for text in ("t", "tw"):
        file.write_text(text)
        looks.append(files.changed())
    assert looks == [False, False, False]
    assert (files.changed(), files.changed()) == (True, False)


def test_same_content_is_no_change(watched: tuple[Path, Files]) -> None:
    """A file that is written anew as it was changes nothing; one that comes or goes does."""
    file, files = watched
    other = file.with_name("new")
    other.write_text("one")
    other.rename(file)
    assert [files.changed() for _ in range(3)] == [False, False, False]
    file.with_name("b.yml").write_text("two")
    assert [files.changed() for _ in range(3)] == [False, True, False]
