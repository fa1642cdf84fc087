"""`rag-sidecar replay`: the command as a user runs it, over recordings and invented series."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import main

DOCS = Path(__file__).parent.parent / "docs" / "replay.md"
MIB = 1 << 20
START = 1_700_000_000
RULES = Path(__file__).parent.parent / "rules" / "memory.yml"

Replay = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Replay:
    """Replays objects with some flags; the JSON lines of the timeline, the summary last."""

    def run(objects: list[Any], *flags: str) -> list[dict[str, Any]]:
        file = tmp_path / "data.jsonl"
        file.write_text("".join(f"{json.dumps(one)}\n" for one in objects))
        assert main(["replay", "--data", str(file), "--rules", str(RULES), "-o", "json", *flags]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


def used(values: str, target: str = "rag", **more: Any) -> dict[str, Any]:
    """A series of used bytes in the short notation, in MiB."""
    scaled = re.sub(r"(?<![x\w])[0-9.]+", lambda number: str(float(number[0]) * MIB), values)
    labels = {"__name__": "rag_memory_used_bytes", "target": target}
    return {"at": START, "labels": labels, "values": scaled, **more}


def asked(lines: list[dict[str, Any]]) -> list[tuple[float, str, str]]:
    """(seconds since the beginning, cleanup, alert) of everything that was asked for, in order."""
    return [(line["offset"], line["action"]["cleanup"], line["action"]["alert"].get("alertname", ""))
            for line in lines if line.get("kind") == "cleanup" and "asked for" in line["what"]]


def ended_by_outcome(lines: list[dict[str, Any]]) -> dict[tuple[str, str], int]:
    """(cleanup, outcome) → how often, as the summary says it."""
    return {(one["cleanup"], one["outcome"]): one["count"] for one in lines[-1]["summary"]["rag"]["cleanups"]}


def test_example_of_the_documentation_gives_what_it_shows(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A newcomer who copies the example sees the lines that stand below it."""
    example, shown = re.findall(r"^```\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)[:2]
    (tmp_path / "leak.jsonl").write_text(re.search(r"<<'END'\n(.*?)END\n", example, re.DOTALL)[1])
    monkeypatch.chdir(tmp_path)

    assert main(example.splitlines()[-1].split()[1:]) == 0

    assert capsys.readouterr().out.startswith(shown)


def test_main_line_is_acted_on_after_its_hold(replay: Replay) -> None:
    """Ten seconds over the main line a standard cleanup is asked for, and its effect is that of the assumption."""
    lines = replay([used("500x60 900x120")], "--memory.main", "800MiB", "--assume", "frees=200MiB",
                   "--assume", "light:refused")

    assert asked(lines)[0] == (72.0, "standard", "RagMemoryMain")
    final = next(line["action"] for line in lines if line.get("action", {}).get("outcome") == "effective")
    assert (final["before_bytes"], final["after_bytes"]) == (900 * MIB, 700 * MIB)
    assert lines[-1]["summary"]["rag"]["freed_bytes"] == 200 * MIB
    assert lines[-1]["summary"]["rag"]["peak_bytes"] == 900 * MIB


def test_critical_line_is_acted_on_at_the_crossing_itself(replay: Replay) -> None:
    """The guard acts between two looks of the desk, at the very sample that crosses the line."""
    crossing = [used("500x60"), used("1000x4", at=START + 61.25, step=0.25), used("1000x20", at=START + 63)]

    lines = replay(crossing, "--memory.main", "800MiB", "--assume", "aggressive:frees=80%")

    assert asked(lines)[0] == (61.25, "aggressive", "RagMemoryCritical")
    assert ended_by_outcome(lines)["aggressive", "effective"] == 1


def test_what_a_real_cleanup_freed_is_not_freed_twice(replay: Replay) -> None:
    """Where the recording falls by itself, what was taken off for assumed cleanups is given back."""
    lines = replay([used("500x60 900x60 600x60 850x60")], "--memory.main", "800MiB", "--assume", "frees=200MiB",
                   "--assume", "light:ineffective")

    shown = [line["what"] for line in lines if line.get("kind") == "alert" and "Main" in line["what"]]
    assert shown == [f"RagMemoryMain {state}" for state in 2 * ("pending", "firing", "resolved")]


@pytest.mark.parametrize(("effect", "outcome"), [
    ("ineffective", "ineffective"), ("effective", "effective"), ("refused", "refused"), ("unanswered", "ineffective"),
    ("frees=20MiB", "partial"), ("frees=50%", "effective")])
def test_every_effect_that_can_be_assumed(replay: Replay, effect: str, outcome: str) -> None:
    """What is assumed of a cleanup is how it ends; without an answer bytes are all that tells."""
    lines = replay([used("500x60 900x180")], "--memory.main", "800MiB", "--assume", f"standard:{effect}")

    assert {ended for cleanup, ended in ended_by_outcome(lines) if cleanup == "standard"} == {outcome}


def test_dry_run_asks_for_nothing_and_shows_what_it_would(replay: Replay) -> None:
    """In dry_run memory stays what it was."""
    lines = replay([used("500x60 900x60")], "--memory.main", "800MiB", "--mode", "dry_run")

    assert ended_by_outcome(lines)["standard", "dry_run"] == 1
    assert lines[-1]["summary"]["rag"]["freed_bytes"] == 0


def test_answer_of_a_prometheus_may_be_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `query_range` answers is replayed as it is, however many lines it has."""
    rows = [[START + 5 * index, str((500 + index) * MIB)] for index in range(100)]
    one = {"metric": {"__name__": "rag_memory_used_bytes", "target": "a", "job": "x"}, "values": rows}
    answer = {"status": "success", "data": {"resultType": "matrix", "result": [one]}}
    for name, text in (("whole.json", json.dumps(answer, indent=2)), ("line.json", json.dumps(answer["data"]))):
        (tmp_path / name).write_text(text)

        assert main(["replay", "--data", str(tmp_path / name), "--memory.main", "700MiB"]) == 0

        assert "over main 0 s, over critical 0 s" in capsys.readouterr().out


def test_lines_of_the_recording_hold_where_no_others_are_given(replay: Replay) -> None:
    """The thresholds that were in force when it was recorded are those of the replay."""
    line = {"__name__": "rag_memory_threshold_bytes", "target": "rag"}
    lines = replay([used("500x60 900x60"), *({"at": START, "labels": {**line, "level": level}, "value": size * MIB}
                                             for level, size in (("main", 700), ("critical", 850)))])

    assert asked(lines)[0] == (61.0, "aggressive", "RagMemoryCritical")


def test_gap_in_the_recording_is_a_target_that_cannot_be_read(replay: Replay) -> None:
    """A value does not hold for ever: after a while without another one the target is down."""
    lines = replay([used("500x60 _x120 500x60")], "--memory.main", "700MiB")

    down = [(line["offset"], line["what"]) for line in lines if "TargetDown" in line.get("what", "")]
    assert down == [(71.0, "RagTargetDown pending"), (101.0, "RagTargetDown firing"), (182.0, "RagTargetDown resolved")]


def test_restart_in_the_recording_is_another_process(replay: Replay) -> None:
    """A new process has its own warm-up: nothing but the critical line is acted on before that is over."""
    labels = {"__name__": "rag_target_restarts_total", "target": "rag"}
    restarts = {"at": START, "labels": labels, "values": "0x60 1x200"}
    lines = replay([used("500x60 900x200"), restarts], "--memory.main", "800MiB", "--assume", "light:refused")

    assert asked(lines)[0][0] == 61.0 + 60.0


def test_configuration_says_what_is_done(tmp_path: Path, replay: Replay) -> None:
    """Lines, mode and policies of a sidecar.yml are those of the replay."""
    file = tmp_path / "sidecar.yml"
    file.write_text("targets:\n  - {name: rag, match: {pid: 1}, memory: {main: 800MiB, critical: 2GiB}}\n"
                    "actions:\n  policies: {main: {entry: aggressive, max: aggressive}}\n"
                    f"storage: {{path: {tmp_path}}}\n")

    lines = replay([used("500x60 900x60"), used("900x60", "other")], "--config.file", str(file))

    assert ("aggressive", "RagMemoryMain") in [one[1:] for one in asked(lines)]
    assert list(lines[-1]["summary"]) == ["rag"]


def test_two_replays_of_one_recording_are_the_same(replay: Replay) -> None:
    """Nothing of a replay depends on the moment at which it is run."""
    data = [used("500+3x200 900x60 100+7x100")]

    assert replay(data, "--memory.main", "700MiB") == replay(data, "--memory.main", "700MiB")


def test_interval_is_how_often_the_desk_looks(replay: Replay) -> None:
    """With a longer interval everything but the guard's own doing happens on its grid."""
    lines = replay([used("500x63 900x60")], "--memory.main", "800MiB", "--interval", "10s", "--assume", "light:refused")

    assert {line["offset"] % 10 for line in lines if line.get("kind") == "alert"} == {0.0}
    assert ended_by_outcome(lines)["standard", "effective"] >= 1


@pytest.mark.parametrize("interval", ["5", "0s", "2h", "soon"])
def test_interval_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], interval: str) -> None:
    """A mistyped interval is named."""
    (tmp_path / "x.jsonl").write_text(json.dumps(used("1x5")))

    assert main(["replay", "--data", str(tmp_path / "x.jsonl"), "--interval", interval]) == 1

    assert "--interval" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [
    ("", "holds no series"),
    ("[1]\n", "not a JSON object"),
    ("{}\n", "holds no series"),
    ("{\n", "neither JSON lines nor one JSON object"),
    ('{}\n{"labels"\n', ":2: no JSON object"),
    ('{"labels": {"target": "a"}, "value": 1}\n', "__name__ is missing"),
    ('{"labels": {"__name__": "up"}, "at": 1, "value": 1}\n', "no series rag_memory_used_bytes with a label target"),
    ('{"labels": {"__name__": "up", "a": 1}, "at": 1, "value": 1}\n', "no object of texts"),
    ('{"labels": {"__name__": "up"}, "at": NaN, "value": 1}\n', "no time in seconds"),
    ('{"labels": {"__name__": "up"}, "at": 1, "value": "x"}\n', "value is no number"),
    ('{"labels": {"__name__": "up"}, "at": 1, "value": ' + "9" * 400 + "}\n", "value is no number"),
    ('{"labels": {"__name__": "up"}, "values": "1x"}\n', "1x"),
    ('{"labels": {"__name__": "up"}, "values": "1x5", "step": 0}\n', "not more than 0 seconds"),
    ('{"labels": {"__name__": "up"}, "values": "1x9000000"}\n', "more than 1000000 values"),
    ('{"resultType": "matrix", "result": [{"metric": {"__name__": "up"}, "values": [[1]]}]}\n', "no pairs"),
    ("[" * 100_000 + "\n", "lists within lists"),
])
def test_file_that_cannot_be_replayed_is_refused_with_its_place(
        tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    """Whatever a file holds, the answer is one line that says what is wrong, where, and what to read."""
    (tmp_path / "x.jsonl").write_text(text)

    assert main(["replay", "--data", str(tmp_path / "x.jsonl")]) == 1

    error = capsys.readouterr().err
    assert error.startswith("rag-sidecar: ")
    assert said in error


@pytest.mark.parametrize("effect", ["nothing", "frees=", "frees=0%", "frees=200", "heavy:effective", "frees=x%"])
def test_effect_that_says_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], effect: str) -> None:
    """A mistyped assumption is named."""
    (tmp_path / "x.jsonl").write_text(json.dumps(used("1x5")))

    assert main(["replay", "--data", str(tmp_path / "x.jsonl"), "--assume", effect]) == 1

    assert f"--assume {effect}: " in capsys.readouterr().err
