"""Incidents of real processes beside a real sidecar: what is tried, what is learnt from it, and when it ends.

Times are those of a sidecar.yml that is in a hurry; nothing is asserted about them.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml
from conftest import Target, wait_until
from hurried import CLIMBING, HURRY, Spawn, is_parked, over, settings, ticks, tried
from servers import AlertRecorder, free_port, running_alertmanager
from sidecars import MIB, Sidecar, running_sidecar, told


def begin(target: Target, command: str) -> None:
    """Have a command begun by a program that may not come to answer it."""
    assert target.process.stdin
    target.process.stdin.write(f"{command}\n".encode())
    target.process.stdin.flush()


def at_rest(sidecar: Sidecar) -> None:
    """Wait until an incident has been, and has ended."""
    wait_until(lambda: sidecar.incidents() and sidecar.incidents()[0]["ended_at"], 60, "the incident to end")
    wait_until(lambda: sidecar.value("rag_incident_open") == 0, 10, "its series to say so")


def all_agree(sidecar: Sidecar) -> Counter[tuple[str, str]]:
    """How often each (cleanup, outcome) came, of which the page of actions, the metrics and the log say the same."""
    of_page = Counter(tried(sidecar))
    of_metrics = {key: int(count) for key in of_page if (count := sidecar.value(
        "rag_cleanups_total", f'cleanup="{key[0]}"', f'outcome="{key[1]}"'))}
    of_log = Counter((line["cleanup"], line["outcome"]) for line in sidecar.said("cleanup ended"))
    assert of_page == of_metrics == of_log
    assert sum(sidecar.series("rag_cleanups_total").values()) == of_page.total()
    return of_page


def test_it_climbs_to_what_helps_and_learns_to_begin_there(spawn: Spawn, tmp_path: Path) -> None:
    """A weak cleanup that frees nothing is followed by the stronger one; after two times it is not tried any more."""
    handled, port = tmp_path / "handled", free_port()
    graded = spawn("graded", "--frees", "SIGUSR1=0", "--frees", "SIGUSR2=80", "--handled", str(handled))
    file = settings(tmp_path, port, graded.pid, [over("main", "standard")],
                    actions={"policies": CLIMBING, "learning": {"strikes": 2}})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        for number in (1, 2, 3):
            graded.tell("grow 200")
            wait_until(lambda number=number: len(sidecar.incidents()) == number, 30, f"incident {number}")
            at_rest(sidecar)
            graded.tell("drop")

        assert tried(sidecar) == [
            ("standard", "ineffective"), ("aggressive", "effective"),
            ("standard", "ineffective"), ("aggressive", "effective"),
            ("aggressive", "effective"),
        ]
        assert [incident["why"] for incident in sidecar.incidents()] == ["well"] * 3
        assert all_agree(sidecar) == {("standard", "ineffective"): 2, ("aggressive", "effective"): 3}
    assert [json.loads(line)["signal"] for line in handled.read_text().splitlines()] == [
        "SIGUSR1", "SIGUSR2", "SIGUSR1", "SIGUSR2", "SIGUSR2"]


def test_bytes_are_those_of_the_cleanup_that_freed_them(spawn: Spawn, tmp_path: Path) -> None:
    """One that frees nothing is no success where the guard had a stronger one free it all; no byte is counted twice."""
    graded, port = spawn("graded", "--frees", "SIGUSR1=0", "--frees", "SIGUSR2=100"), free_port()
    file = settings(tmp_path, port, graded.pid, [over("main", "standard"), over("critical", "aggressive", "0s")],
                    actions={"verify": {**HURRY["verify"], "window": "20s"}})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        graded.tell("grow 160")
        wait_until(lambda: tried(sidecar) == [("standard", "running")], 30, "a standard cleanup under way")
        ticks(sidecar, 4)
        graded.tell("grow 120")
        wait_until(lambda: [outcome for _, outcome in tried(sidecar)] == ["ineffective", "effective"], 30,
                   f"two verdicts; log:\n{sidecar.log.read_text()[-3000:]}")

        aggressive, standard = sidecar.actions()
        assert (standard["reason"], standard["ended_at"]) == ("overtaken", aggressive["started_at"])
        assert max(0.0, standard["freed_bytes"]) < 1 * MIB
        ticks(sidecar, 2)
        assert sidecar.value("rag_cleanup_freed_bytes_total") == aggressive["freed_bytes"] <= 290 * MIB


def parked_alert(checkout: Path) -> dict[str, Any]:
    """The shipped RagActionsParked, in a hurry."""
    groups = yaml.safe_load((checkout / "rules" / "fleet.yml").read_text())["groups"]
    found: dict[str, Any] = next(rule for group in groups for rule in group["rules"]
                                 if rule.get("alert") == "RagActionsParked")
    return {**found, "for": "1s"}


def test_target_that_nothing_helps_is_parked_and_one_person_is_told_once(
    spawn: Spawn, tmp_path: Path, checkout: Path
) -> None:
    """Each cleanup gets its two tries, then there is silence and one notification, until a person says `unpark`."""
    stubborn, port = spawn("stubborn"), free_port()
    with AlertRecorder() as people, running_alertmanager(tmp_path, f"{people.url}/hook") as alertmanager:
        file = settings(tmp_path, port, stubborn.pid, [over("main", "standard"), parked_alert(checkout)],
                        actions={"policies": CLIMBING, "learning": {"strikes": 2}}, alertmanagers=[alertmanager.url])
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            ticks(sidecar)
            stubborn.tell("grow 200")
            wait_until(lambda: is_parked(sidecar), 60, "it to be parked")
            done = tried(sidecar)

            def notified() -> list[str]:
                return [alert["status"] for post in people.posts for alert in post.json["alerts"]
                        if alert["labels"]["alertname"] == "RagActionsParked"]

            people.wait_for(lambda: bool(notified()), 30, "the notification")
            ticks(sidecar, 12)
            [incident] = sidecar.incidents()
            assert Counter(done) == {("standard", "ineffective"): 2, ("aggressive", "ineffective"): 2}
            assert tried(sidecar) == done
            assert notified() == ["firing"]
            assert (incident["parked"], incident["attempts"]) == ("never_helps", 4)
            assert incident["strikes"] == {"standard": 2, "aggressive": 2}
            assert "did not help this process several times" in incident["message"]
            assert sidecar.value("rag_actions_parked") == 1
            assert sidecar.value("rag_action_held", 'reason="parked"') == 1

            unparked = told(tmp_path, "unpark")

            assert (unparked.returncode, unparked.stdout) == (0, "rag: tried again\n"), unparked.stderr
            wait_until(lambda: len(tried(sidecar)) > 4, 30, "another attempt")
            assert len(sidecar.incidents()) == 1


def test_program_that_begins_over_its_critical_line_gets_one_cleanup(spawn: Spawn, tmp_path: Path) -> None:
    """It is no use to try again and again what the program is by nature; a restart of the sidecar does not forget."""
    stubborn, port = spawn("stubborn"), free_port()
    stubborn.tell("grow 300")
    file = settings(tmp_path, port, stubborn.pid, [over("critical", "aggressive", "0s")])
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: is_parked(sidecar), 60, "it to be parked")
        ticks(sidecar)
        assert tried(sidecar) == [("aggressive", "ineffective")]
        assert is_parked(sidecar) == "baseline_above_threshold"
        assert sidecar.stop() == 0
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar, 12)

        assert tried(sidecar) == [("aggressive", "ineffective")]
        assert is_parked(sidecar) == "baseline_above_threshold"
        assert sidecar.value("rag_actions_parked") == 1


def test_memory_that_comes_back_is_no_success(spawn: Spawn, tmp_path: Path) -> None:
    """What was freed is in use again soon after: that is counted, said, and a strike against the cleanup."""
    graded, port = spawn("graded", "--frees", "SIGUSR1=80", "--returns", "1.5"), free_port()
    file = settings(tmp_path, port, graded.pid, [over("main", "standard", "5s")], actions={
        "learning": {"strikes": 1}, "verify": {**HURRY["verify"], "rebound": "3s"}, "exit_for": "30s"})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        graded.tell("grow 200")
        assert sidecar.outcome()["outcome"] == "effective"
        wait_until(lambda: is_parked(sidecar), 60, "what has come back to be no reason for the same again")
        [action], [incident] = sidecar.actions(), sidecar.incidents()

        assert action["rebounded"] is True
        assert (incident["parked"], incident["strikes"]) == ("never_helps", {"standard": 1})
        assert sidecar.value("rag_cleanup_rebounds_total") == 1
        assert [line["id"] for line in sidecar.said("freed memory came back")] == [action["id"]]


def test_each_life_of_a_program_has_incidents_of_its_own(spawn: Spawn, tmp_path: Path) -> None:
    """A program that dies of its cleanup ends the incident, with an unknown outcome; the next one has another."""
    mark, port = str(tmp_path / "mark"), free_port()
    file = settings(tmp_path, port, 0, [over("critical", "aggressive", "0s")],
                    match={"cmdline": f"graded.py .*{mark}"})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        for number in (1, 2):
            graded = spawn("graded", "--ends", "SIGUSR2", "--handled", mark)
            wait_until(lambda: sidecar.value("rag_target_up") == 1, 30, "the program to be found")
            ticks(sidecar)
            begin(graded, "grow 300")
            graded.process.wait(30)
            action = sidecar.outcome(count=number)
            assert (action["outcome"], action["reason"]) == ("unknown", "target_gone")
            wait_until(lambda: sidecar.value("rag_target_up") == 0, 30, "its end to be seen")

        second, first = sidecar.incidents()
        assert first["why"] == second["why"] == "target_gone"
        assert [action["incident"] for action in sidecar.actions()] == [second["id"], first["id"]]
        assert first["id"] != second["id"]


def test_another_program_under_the_same_pid_is_another_life(spawn: Spawn, tmp_path: Path) -> None:
    """A process that executes another program when it is asked for a cleanup ends its incident and is asked no more."""
    graded, port = spawn("graded", "--becomes", "SIGUSR2"), free_port()
    file = settings(tmp_path, port, graded.pid, [over("critical", "aggressive", "0s")])
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        begin(graded, "grow 300")
        action = sidecar.outcome()
        ticks(sidecar)

        assert (action["outcome"], action["reason"]) == ("unknown", "target_changed")
        assert [incident["why"] for incident in sidecar.incidents()] == ["target_changed"]
        assert len(sidecar.actions()) == 1
    assert graded.process.poll() is None
    assert Path(f"/proc/{graded.pid}/comm").read_text() == "cat\n"


def test_value_that_flaps_at_its_line_is_one_incident(spawn: Spawn, tmp_path: Path) -> None:
    """Over the line and just under it again and again: cleanups help each time, and people see one incident."""
    graded, port = spawn("graded", "--frees", "SIGUSR1=6"), free_port()
    file = settings(tmp_path, port, graded.pid, [over("main", "standard", "0s")], actions={
        "verify": {**HURRY["verify"], "min_bytes": "4MiB", "min_ratio": "0.01"}, "learning": {"strikes": 100},
        "levels": {"standard": {"cooldown": "1s", "budget": "100/h"}}})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        ticks(sidecar)
        graded.tell("grow 138")
        for number in range(1, 6):
            while (sidecar.value("rag_memory_used_bytes") or 0.0) <= 150 * MIB and len(sidecar.actions()) < number:
                graded.tell("grow 1")
            sidecar.outcome(count=number)

        assert len(sidecar.incidents()) == 1
        assert sidecar.incidents()[0]["ended_at"] is None


def test_cleanups_that_help_are_not_rationed(spawn: Spawn, tmp_path: Path) -> None:
    """Ten in a row beside a fast leak all happen, whatever the budget: that one is for those that do not help."""
    leaky, port = spawn("leaky", "--handle", "SIGUSR2", "--rate", "60"), free_port()
    file = settings(tmp_path, port, leaky.pid, [over("main", "aggressive", "0s")], actions={
        "policies": {"main": {"entry": "aggressive", "max": "aggressive"}},
        "levels": {"aggressive": {"cooldown": "10m", "budget": "3/h"}}})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: (sidecar.value("rag_cleanups_total", 'outcome="effective"') or 0) >= 10, 120, "ten cleanups")

        assert {outcome for _, outcome in tried(sidecar)} <= {"effective", "running"}
        assert not is_parked(sidecar)
