"""Nothing is forgotten: a real sidecar that is killed over and over, held against what the target itself wrote down.

`AUDIT_KILLS=1000` kills more often than usual, each time at other moments.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import CHECKOUT, free_port
from sidecars import Sidecar, config, running_sidecar

from sidecar.actions.attempts import IN_VAIN
from sidecar.actions.ladder import NEVER_DELIVERED
from sidecar.cli_line import Way
from sidecar.clock import wall
from sidecar.journal.record import Record
from sidecar.journal.scribe import Scribe

Spawn = Callable[..., Target]
MORE = int(os.environ.get("AUDIT_KILLS") or 0)
KILLS = MORE or 50
PLENTY, BUDGET = 1000, 6
COOLDOWN_SECONDS = 1.0
CLOCKS_SECONDS = 0.01
"""The guard rests by the monotonic clock and tells of it by the wall clock."""


@dataclass(frozen=True)
class Patient:
    """A target that writes down each cleanup that it carries out, and where its sidecar keeps its state.

    `budget` of its cleanups may be in vain within an hour. `within` is the command that runs its sidecar.
    """

    target: Target
    folder: Path
    port: int
    budget: int = PLENTY
    within: tuple[str, ...] = ()

    @property
    def written(self) -> Path:
        """Where the target writes them down."""
        return self.folder / "requests"

    def carried_out(self) -> list[str]:
        """The ids of all cleanups, as the target has them."""
        lines = self.written.read_text().splitlines() if self.written.exists() else []
        return [str(json.loads(json.loads(line)["body"])["id"]) for line in lines]

    def sidecar(self, *, ready: bool = True, **more: Any) -> AbstractContextManager[Sidecar]:
        """A sidecar that may act every second; `more` is laid over its configuration."""
        target = {"name": "rag", "match": {"pid": self.target.pid}, "cleanup": [
            {"http": {"url": f"{self.target.url}/cleanup", "timeout": "2s"}}],
            "memory": {"basis": "anon", "preventive": "40MiB", "main": "50MiB", "critical": "60MiB"}}
        level = {"cooldown": f"{COOLDOWN_SECONDS:g}s", "budget": f"{self.budget}/h"}
        actions = {"global": {"warmup": "0s", "max_per_hour": PLENTY, "min_interval": "1s"},
                   "levels": {"aggressive": level, "light": level}, "verify": {"settle": "1s", "window": "2s"},
                   "learning": {"strikes": 100}}
        file = config(self.port, self.folder / "state", [target], actions=actions, **more)
        return running_sidecar(self.folder, file=file, port=self.port, ready=ready, within=self.within)

    def order(self) -> Way:
        """Where a person tells its sidecar what to do."""
        return Way(self.folder / "state" / "control.sock")


@pytest.fixture
def admit(spawn: Spawn, tmp_path: Path) -> Callable[..., Patient]:
    """Start a patient: `admit("ok", budget=6)`. It answers as tests/targets/leaky.py can, and never holds much."""

    def admitted(answer: str = "ok", budget: int = PLENTY) -> Patient:
        folder = tmp_path / f"patient-{time.monotonic_ns()}"
        folder.mkdir()
        target = spawn("leaky", "--http", "0", "--answer", answer, "--requests", str(folder / "requests"),
                       "--limit", "200")
        return Patient(target, folder, free_port(), budget)

    return admitted


def journal(patient: Patient) -> list[dict[str, Any]]:
    """Every record that is journalled, as a user gets them."""
    command = [*patient.within, sys.executable, "-P", "-m", "sidecar", "export", "journal", "--storage.path"]
    done = subprocess.run([*command, str(patient.folder / "state")], capture_output=True, text=True, timeout=60,
                          check=True)
    return [line["record"] for line in map(json.loads, done.stdout.splitlines()) if "record" in line]


def up(sidecar: Sidecar) -> bool:
    """Whether it is at work, or has ended."""
    try:
        return sidecar.process.poll() is not None or "is ready" in sidecar.get("/-/ready")
    except OSError:
        return False


def some_moment(chance: random.Random, patient: Patient, sidecar: Sidecar) -> None:
    """Wait, mostly until it is at work: for any time, or for the next cleanup, of which little may be known yet."""
    if chance.random() < 0.75:
        wait_until(lambda: up(sidecar), 40, "a sidecar at work")
    known = len(patient.carried_out()) if chance.random() < 0.5 else PLENTY
    until = time.monotonic() + (1.5 if known < PLENTY else chance.uniform(0.0, 1.0))
    wait_until(lambda: len(patient.carried_out()) > known or time.monotonic() > until, 20, "a moment to be over")


def ended(pid: int) -> bool:
    """Whether nothing of a process runs any more; somebody may still have to reap it."""
    try:
        return not Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


def kill_guard(sidecar: Sidecar, *, all_at_once: bool = True) -> None:
    """SIGKILL; what it has started ends with it, by itself or killed at the same moment."""
    guard = sidecar.process.pid
    sidecar.process.send_signal(signal.SIGSTOP)  # it starts nobody else from now on
    children = [int(pid) for pid in Path(f"/proc/{guard}/task/{guard}/children").read_text().split()]
    sidecar.process.kill()
    sidecar.process.wait(10)
    for pid in children if all_at_once else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in children:
        wait_until(lambda pid=pid: ended(pid), 20, f"the end of {pid}")


def kill_desk(sidecar: Sidecar) -> None:
    """SIGKILL, and wait for the next one."""
    desk = sidecar.child("desk")
    os.kill(desk, signal.SIGKILL)
    wait_until(lambda: sidecar.child("desk") not in (0, desk), 20, "the next desk")
    wait_until(sidecar.ready, 20, "it to be ready")


def known(sidecar: Sidecar) -> bool:
    """Whether the target has been read, and the journal written."""
    return bool(sidecar.value("rag_memory_used_bytes") and sidecar.value("rag_sidecar_journal_up"))


def kill(sidecar: Sidecar, what: str) -> int:
    """SIGKILL the desk or the courier. With a first desk that could not begin the guard ends: then there is none."""
    pid = wait_until(lambda: sidecar.process.poll() is not None or sidecar.child(what), 20, f"a {what}")
    if sidecar.process.poll() is not None:
        return 0
    os.kill(pid, signal.SIGKILL)
    return 1


def torment(patient: Patient, kills: int, chance: random.Random) -> Counter[str]:
    """Kill guards and desks, so many in all, and couriers; how many of each.

    The target leaks meanwhile, and is well at the end.
    """
    done = Counter[str]()
    with patient.sidecar() as sidecar:
        wait_until(lambda: known(sidecar), 20, "the target to be known while it is well")
        patient.target.tell("rate 60")
        wait_until(patient.carried_out, 20, "the first cleanup")
    while (left := kills - done["guard"] - done["desk"]) > 0:
        with patient.sidecar(ready=False) as sidecar:
            for _ in range(min(chance.randrange(3), left - 1)):  # after a third desk it would look on
                some_moment(chance, patient, sidecar)
                done["desk"] += kill(sidecar, "desk")
                if chance.random() < 0.25:
                    some_moment(chance, patient, sidecar)
                    done["courier"] += kill(sidecar, "courier")
            some_moment(chance, patient, sidecar)
            if sidecar.process.poll() is None:
                kill_guard(sidecar, all_at_once=chance.random() < 0.5)
                done["guard"] += 1
    patient.target.tell("rate 0")
    patient.target.tell("drop")
    finish(patient)
    return done


def finish(patient: Patient) -> None:
    """A last sidecar, until nothing is open any more."""
    with patient.sidecar() as sidecar:
        wait_until(lambda: all(row["outcome"] != "running" for row in sidecar.actions()), 60, "the end of all attempts")
        assert sidecar.stop() == 0


def audited(patient: Patient) -> list[dict[str, Any]]:
    """What is journalled of each attempt at its end, in the order in which they began, found to be without a gap."""
    records, carried_out = journal(patient), Counter(patient.carried_out())
    planned, final = ([each for each in records if (each["kind"], each["stage"]) == ("attempt", stage)]
                      for stage in ("planned", "final"))
    outcomes = {each["key"]: each["body"]["outcome"] for each in final}

    assert set(carried_out.values()) == {1}
    assert Counter(each["key"] for each in planned) == Counter(each["key"] for each in final) == Counter(list(outcomes))
    assert carried_out.keys() <= outcomes.keys()
    assert "" not in outcomes.values()
    assert not {key: outcomes[key] for key in carried_out if outcomes[key] in NEVER_DELIVERED}
    return sorted((each["body"] for each in final), key=lambda body: float(body["started_at"]))


def test_every_cleanup_that_a_target_carried_out_is_on_record(admit: Callable[..., Patient]) -> None:
    """However often guard and desk are killed: each cleanup has one beginning and one end, and all limits hold."""
    patients = [admit("ok"), admit("ok"), admit("ok"), admit("html", budget=BUDGET)]
    chances = [random.Random(number if not MORE else None) for number in range(len(patients))]
    shares = [(KILLS + number) // len(patients) for number in range(len(patients))]
    with ThreadPoolExecutor(len(patients)) as pool:
        kills = sum(pool.map(torment, patients, shares, chances), Counter[str]())
    assert kills["guard"] + kills["desk"] == KILLS
    assert min(kills["guard"], kills["desk"]) > KILLS // 4
    assert kills["courier"]

    for patient in patients:
        rows = audited(patient)
        assert len(rows) > 1
        assert {row["trigger"] for row in rows} == {"rule"}
        assert sum(row["outcome"] in IN_VAIN for row in rows) <= patient.budget
        pauses = [later["started_at"] - earlier["started_at"] for earlier, later in pairwise(rows)]
        assert min(pauses) > COOLDOWN_SECONDS - CLOCKS_SECONDS
        (incident,) = [each["body"] for each in journal(patient) if each["kind"] == "incident"]
        assert {row["incident"] for row in rows} == {incident["id"]}
        assert incident["attempts"] == sum(row["outcome"] not in NEVER_DELIVERED for row in rows)
    assert len(patients[-1].carried_out()) <= BUDGET


@pytest.mark.parametrize("kill", [kill_guard, kill_desk])
def test_cleanup_by_hand_is_on_record_whatever_is_killed_then(
    admit: Callable[..., Patient], kill: Callable[[Sidecar], None]
) -> None:
    """Guard or desk are killed when an order has been taken, or has begun: what is done of it is known."""
    patient, begun = admit(), set()
    for stage in ("asked", "begun"):
        with patient.sidecar() as sidecar:
            wait_until(lambda on=sidecar: known(on), 20, "the target to be known")
            with patient.order().posted("/api/v1/cleanup?wait=1", {"level": "light"}) as answer:
                while (told := json.loads(answer.readline()))["stage"] == "asked" != stage:
                    pass  # it may have been delivered by the time that it is told to have begun
                kill(sidecar)
            begun |= {told["action"]["id"]} if stage == "begun" else set()
        finish(patient)
    rows = audited(patient)

    assert begun <= {row["id"] for row in rows}
    assert {row["trigger"] for row in rows} == {"manual"}


@pytest.mark.parametrize("kill", [kill_guard, kill_desk])
def test_pause_holds_even_if_all_is_killed_right_after_it(
    admit: Callable[..., Patient], kill: Callable[[Sidecar], None]
) -> None:
    """Once `pause` has been answered nothing is done, whoever is killed then; once `resume` has been, it is."""
    patient = admit()
    with patient.sidecar() as sidecar:
        wait_until(lambda: known(sidecar), 20, "the target to be known")
        with patient.order().posted("/api/v1/pause", {}) as answer:
            answer.read()
        kill(sidecar)
    patient.target.tell("grow 100")
    with patient.sidecar() as sidecar:
        wait_until(lambda: sidecar.value("rag_action_held", 'reason="paused"'), 20, "the pause to hold")
        assert patient.carried_out() == []
        with patient.order().posted("/api/v1/resume", {}) as answer:
            answer.read()
        kill(sidecar)
    with patient.sidecar() as sidecar:
        wait_until(patient.carried_out, 20, "a cleanup")


@contextmanager
def small_disk(folder: Path) -> Iterator[tuple[str, ...]]:
    """A disk of 2 MiB at `folder`, for those alone whom the command that is given runs."""
    folder.mkdir()
    own = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=2m none {folder} && echo ready && exec cat"
    holder = subprocess.Popen([*own, "sh", "-c", mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout
        if holder.stdout.readline() != b"ready\n":
            pytest.skip("takes a user namespace in which to mount")
        yield ("nsenter", f"--target={holder.pid}", "--user", "--mount", "--preserve-credentials")
    finally:
        holder.communicate(timeout=20)


def test_what_is_done_while_the_disk_is_full_is_on_record_later(admit: Callable[..., Patient]) -> None:
    """It goes on acting, says so in log, metric and alert, and writes everything down when there is room again."""
    patient = admit()
    filler, rules = patient.folder / "state" / "filler", patient.folder / "fleet.yml"
    rules.write_text((CHECKOUT / "rules" / "fleet.yml").read_text().replace("interval: 30s", "interval: 1s"))
    with small_disk(patient.folder / "state") as within:
        patient = replace(patient, within=within)
        with patient.sidecar(rules=[str(CHECKOUT / "rules" / "memory.yml"), str(rules)]) as sidecar:
            wait_until(lambda: known(sidecar), 20, "the target to be known")
            fill = f"head -c 3000000 /dev/zero >> {filler} 2> /dev/null || true"

            def down() -> bool:  # whenever the journal lets go of its log, there is some room again
                subprocess.run([*within, "sh", "-c", fill], check=True)
                return ("RagSidecarJournalDown", "pending") in sidecar.alerts()

            patient.target.tell("grow 100")
            wait_until(down, 60, "the alert")
            patient.target.tell("grow 100")
            sidecar.outcome(count=2)
            assert sidecar.value("rag_sidecar_journal_failures_total", 'reason="full"')
            assert sidecar.value("rag_sidecar_journal_up") == 0
            subprocess.run([*within, "rm", str(filler)], check=True)
            wait_until(lambda: known(sidecar), 70, "the journal to be written")
            kill_guard(sidecar)
            told = sidecar.log.read_text()
            assert told.count("are in memory only") == told.count("the journal is written again") > 0
        finish(patient)
        assert len(audited(patient)) > 1


def test_journal_that_is_damaged_while_it_is_used_is_begun_anew(admit: Callable[..., Patient]) -> None:
    """It goes on acting and says what has become of the file; what is done from then on is on record again."""
    patient = admit()
    past = Scribe(patient.folder / "state" / "journal.db")
    past.open(wall())
    past.waiting.put([Record("note", str(number), "state", wall(), {"x": "x" * 1000}) for number in range(300)], 1)
    past.take()
    past.close(wall())
    with patient.sidecar() as sidecar:
        wait_until(lambda: known(sidecar), 20, "the target to be known")
        patient.target.tell("grow 70")
        sidecar.outcome()
        for path in (patient.folder / "state").glob("journal.db*"):
            with path.open("r+b") as file:
                file.write(random.Random(5).randbytes(path.stat().st_size))
        with pytest.raises(subprocess.CalledProcessError):
            journal(patient)
        wait_until(lambda: "the journal is written again" in sidecar.log.read_text(), 20, "a new journal")
        assert sidecar.value("rag_sidecar_journal_failures_total", 'reason="broken"')
        assert "is begun anew" in sidecar.log.read_text()
        lost = set(patient.carried_out())
        patient.target.tell("grow 70")
        wait_until(lambda: set(patient.carried_out()) - lost, 20, "another cleanup")
        kill_guard(sidecar)
    finish(patient)
    assert set(patient.carried_out()) - lost <= {each["key"] for each in journal(patient) if each["stage"] == "final"}
    assert len(list((patient.folder / "state").glob("journal.db.broken-*"))) == 1
