"""A whole sidecar that is killed, starved of its disk or given a bad one: alerts go on as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import AlertRecorder, free_port, running_alertmanager
from sidecars import Sidecar, config, running_sidecar

RULES = {"groups": [{"name": "g", "rules": [
    {"alert": "Fires", "expr": "rag_memory_used_bytes > 0", "labels": {"severity": "info"}},
    {"alert": "Waits", "expr": "rag_memory_used_bytes > 0", "for": "30s"},
    {"alert": "Grew", "expr": "max_over_time(rag_memory_used_bytes[10m]) > 1024 * 1024 * 100"},
]}]}


def settings(tmp_path: Path, port: int, pid: int, **more: Any) -> str:
    """A sidecar.yml with three rules: one fires, one waits for half a minute, one looks back ten minutes."""
    (tmp_path / "rules.yml").write_text(json.dumps(RULES))
    return config(port, tmp_path / "state", [{"name": "t", "match": {"pid": pid}}],
                  rules=[str(tmp_path / "rules.yml")], **more)


def shown(sidecar: Sidecar) -> dict[str, tuple[str, str]]:
    """Name → (state, since when) of the alerts."""
    found = json.loads(sidecar.get("/api/v1/alerts"))["data"]["alerts"]
    return {alert["labels"]["alertname"]: (alert["state"], alert["activeAt"]) for alert in found}


def up(sidecar: Sidecar) -> bool:
    """Whether alert states are on disk."""
    return sidecar.value("rag_sidecar_journal_up") == 1.0


def kill_all(sidecar: Sidecar) -> None:
    """SIGKILL to guard and desk, as when the container is killed."""
    desk = sidecar.child("desk")
    sidecar.process.kill()
    sidecar.process.wait(10)
    if desk:
        with suppress(ProcessLookupError):  # it saw the guard's end and ended itself
            os.kill(desk, signal.SIGKILL)
        wait_until(lambda: has_ended(desk), 10, "the desk to be gone")


def has_ended(pid: int) -> bool:
    """Whether nothing of a process runs any more; somebody may still have to reap it."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def moment(text: str) -> float:
    """Unix time of an RFC 3339 time."""
    return datetime.fromisoformat(text[:19] + "+00:00").timestamp()


def test_ten_kills_change_nothing_for_alertmanager(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Whole sidecar or desk alone, at any moment: the same startsAt, no resolve in between, and a hold that goes on."""
    leaky, port, chance = spawn("leaky"), free_port(), random.Random(4)
    with AlertRecorder() as told, running_alertmanager(tmp_path, f"{told.url}/hook") as alertmanager:
        file = settings(tmp_path, port, leaky.pid, alertmanagers=[alertmanager.url])
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            wait_until(lambda: {"Fires", "Waits"} <= shown(sidecar).keys() and up(sidecar), 20, "both alerts")
            before = shown(sidecar)
            wait_until(alertmanager.alerts, 20, "Alertmanager to know")
            started = {alert["labels"]["alertname"]: alert["startsAt"] for alert in alertmanager.alerts()}
            desk = sidecar.child("desk")
            os.kill(desk, signal.SIGKILL)
            wait_until(lambda: sidecar.child("desk") not in (0, desk), 20, "the next desk")
            wait_until(sidecar.ready, 20, "it to be ready")
            assert shown(sidecar)["Fires"] == before["Fires"]
            kill_all(sidecar)
        for _ in range(9):
            with running_sidecar(tmp_path, file=file, port=port, ready=False) as sidecar:
                until = time.monotonic() + chance.uniform(0.0, 2.5)
                wait_until(lambda until=until: time.monotonic() > until, 5, "a moment to be over")
                kill_all(sidecar)
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            assert shown(sidecar)["Fires"] == before["Fires"]
            state, since = shown(sidecar)["Waits"]
            assert (state, moment(since) >= moment(before["Waits"][1])) == ("pending", True)
            wait_until(lambda: shown(sidecar)["Waits"][0] == "firing", 40, "the hold to be over")
            wait_until(lambda: len(alertmanager.alerts()) == 2, 20, "Alertmanager to know of the second alert")
            now = {alert["labels"]["alertname"]: alert["startsAt"] for alert in alertmanager.alerts()}

    assert now["Fires"] == started["Fires"]
    assert {alert["status"] for post in told.posts for alert in post.json["alerts"]} == {"firing"}


def test_an_alert_on_ten_minutes_survives_a_restart(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Memory has fallen by then, and the new sidecar has seen nothing of it: the alert fires on with its old times."""
    leaky, port = spawn("leaky"), free_port()
    leaky.tell("grow 110")
    file = settings(tmp_path, port, leaky.pid)
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: "Grew" in shown(sidecar) and up(sidecar), 20, "the alert")
        before = shown(sidecar)["Grew"]
        leaky.tell("drop")
        assert sidecar.stop() == 0
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["flight.record", "journal.db"]

    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        begun = sidecar.value("rag_sidecar_ticks_total") or 0
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) >= begun + 3, 20, "three ticks")
        assert shown(sidecar)["Grew"] == before
        assert (sidecar.value("rag_memory_used_bytes") or 0) < 100 << 20


def test_another_process_behind_the_target_starts_a_hold_anew(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """What had waited in the old process waits again; what had fired fires on, since when it fired."""
    pidfile, port = tmp_path / "pid", free_port()
    first = spawn("leaky")
    pidfile.write_text(str(first.pid))
    file = settings(tmp_path, port, 0).replace('"pid": 0', f'"pidfile": "{pidfile}"')
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: {"Fires", "Waits"} <= shown(sidecar).keys() and up(sidecar), 20, "both alerts")
        before = shown(sidecar)
        kill_all(sidecar)
    first.process.kill()
    pidfile.write_text(str(spawn("leaky").pid))
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: "Waits" in shown(sidecar), 20, "the hold")
        after = shown(sidecar)

    assert after["Fires"] == before["Fires"]
    assert after["Waits"] > before["Waits"]


@pytest.mark.parametrize(("option", "trouble", "remedy"), [
    ("size=64k", "full", "rm {state}/filler"), ("ro", "read_only", "mount -o remount,rw {state}")])
def test_a_disk_that_cannot_be_written_stops_nothing(
    spawn: Callable[..., Target], tmp_path: Path, option: str, trouble: str, remedy: str
) -> None:
    """Full or read-only: alerts are watched all the same, that is said and counted, and it heals with the disk."""
    state, leaky, port = tmp_path / "state", spawn("leaky"), free_port()
    state.mkdir()
    file = tmp_path / "sidecar.yml"
    file.write_text(settings(tmp_path, port, leaky.pid))
    filled = f"head -c 100000 /dev/zero > {state}/filler 2> /dev/null;" if trouble == "full" else ""
    script = f'mount -t tmpfs -o {option} none {state} || exit 77; {filled} exec "$@"'
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    if subprocess.run([*own, "sh", "-c", f"mount -t tmpfs -o {option} none {state}"], check=False,
                      capture_output=True).returncode:
        pytest.skip("takes a user namespace in which to mount")
    command = [*own, "sh", "-c", script, "sh", *command_of(file)]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    sidecar = Sidecar(process, port, log)
    try:
        wait_until(sidecar.ready, 20, "the sidecar")
        wait_until(lambda: "Fires" in shown(sidecar), 20, "the alert")
        wait_until(lambda: sidecar.value("rag_sidecar_journal_failures_total", trouble), 20, "the trouble")
        assert not up(sidecar)
        subprocess.run(["nsenter", f"--target={process.pid}", "--user", "--mount", "--preserve-credentials", "sh", "-c",
                        remedy.format(state=state)], check=True)
        wait_until(lambda: up(sidecar), 40, "the journal to be written")
    finally:
        sidecar.stop()

    said = [json.loads(line)["msg"] for line in log.read_text().splitlines() if "journal" in line]
    assert said == ["alert states and actions are in memory only, a restart would lose them; tried again",
                    "the journal is written again"]


def command_of(file: Path) -> list[str]:
    """How a sidecar is started."""
    return [sys.executable, "-P", "-m", "sidecar", "run", "--config.file", str(file)]


def test_two_sidecars_on_one_storage_path(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The first keeps the journal; the second watches without, says why, and takes it over when the first ends."""
    leaky, (one, two) = spawn("leaky"), (free_port(), free_port())
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    files = [settings(folder, port, leaky.pid).replace(str(folder / "state"), str(tmp_path / "state"))
             for folder, port in zip(folders, (one, two), strict=True)]
    with running_sidecar(folders[0], file=files[0], port=one) as first:
        wait_until(lambda: up(first), 20, "the journal")
        with running_sidecar(folders[1], file=files[1], port=two) as second:
            wait_until(lambda: "Fires" in shown(second), 20, "the second to watch")
            assert second.value("rag_sidecar_journal_up") == 0.0
            assert (second.value("rag_sidecar_journal_failures_total", 'reason="locked"') or 0) >= 1
            assert "--storage.path" in second.log.read_text()
            assert up(first)
            first.stop()
            wait_until(lambda: up(second), 60, "the second to take the journal over")


def test_a_damaged_journal_costs_its_content_and_nothing_else(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Random bytes for a file: it lies aside, a new one is begun, the sidecar works."""
    leaky, port = spawn("leaky"), free_port()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal.db").write_bytes(random.Random(2).randbytes(50_000))
    with running_sidecar(tmp_path, file=settings(tmp_path, port, leaky.pid), port=port) as sidecar:
        wait_until(lambda: "Fires" in shown(sidecar) and up(sidecar), 20, "the alert, journalled")
        assert "begun anew" in sidecar.log.read_text()
        assert sidecar.value("rag_sidecar_journal_failures_total", 'reason="broken"') == 1
        assert len(list((tmp_path / "state").glob("journal.db.broken-*"))) == 1
