"""`rag-sidecar export journal`: what a sidecar remembers, of a running one or of one that has ended."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import free_port
from sidecars import config, running_sidecar
from test_journal import alert
from test_journal import page as page_of
from test_journal_records import attempt, page

from sidecar.clock import wall
from sidecar.journal.file import MIGRATIONS
from sidecar.journal.journal import Journal
from sidecar.journal.scribe import Scribe
from sidecar.replay.data import read


def export(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user types it."""
    command = [sys.executable, "-P", "-m", "sidecar", "export", "journal", "--storage.path", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def objects(text: str) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, list[tuple[float, float]]]]:
    """The header, the records, and (time, value) of every series by name."""
    head, *rest = map(json.loads, text.splitlines())
    series: dict[str, list[tuple[float, float]]] = {}
    for each in rest:
        if "labels" in each:
            assert each["labels"]["target"] == "rag"
            series.setdefault(each["labels"]["__name__"], []).append((each["at"], each["value"]))
    return head["header"], [each["record"] for each in rest if "record" in each], series


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a sidecar that has ended kept its state: ten attempts and half an hour of used bytes, until now."""
    begin = wall() - 1800
    made = Scribe(tmp_path / "state" / "journal.db")
    made.open(begin)
    for minute in range(30):
        for half in range(2):
            made.take(page(begin + 60 * minute + 30 * half, rag=100.0 + minute + half))
    made.waiting.put([attempt(f"a{n}", "final", begin + 180 * n, outcome="effective") for n in range(10)], 1)
    made.take(page_of(begin + 1800, alert()))
    made.close(begin + 1800)
    return tmp_path / "state"


def test_what_an_ended_sidecar_remembers_is_written_as_json_lines(folder: Path) -> None:
    """Header, attempts, and used bytes by the minute, oldest first; the file is as it was."""
    content = (folder / "journal.db").read_bytes()
    done = export(folder)
    head, records, series = objects(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert (head["format"], head["version"], head["since"]) == ("rag-sidecar journal", 1, 0.0)
    assert [each["key"] for each in records] == [f"a{n}" for n in range(10)]
    assert records[0]["body"] == {"outcome": "effective"}
    assert set(series) == {f"rag_memory_used_bytes{suffix}" for suffix in ("", ":min", ":max")}
    assert series["rag_memory_used_bytes"] == sorted(series["rag_memory_used_bytes"])
    assert 30 <= len(series["rag_memory_used_bytes"]) <= 31
    assert sorted(path.name for path in folder.iterdir()) == ["journal.db"]
    assert (folder / "journal.db").read_bytes() == content


def test_only_the_latest_is_written_where_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    """`--since`, into a file that only its owner may read; replay takes it."""
    made = tmp_path / "journal.jsonl"
    done = export(folder, "--since", "10m", "-o", str(made))
    _, records, series = objects(made.read_text())

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [each["key"] for each in records] == ["a7", "a8", "a9"]
    assert 9 <= len(series["rag_memory_used_bytes"]) <= 11
    assert made.stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.jsonl", "state"]
    assert len(read(made).named("rag_memory_used_bytes", "rag")) == len(series["rag_memory_used_bytes"])


def test_a_killed_sidecar_is_exported_with_what_its_log_holds(tmp_path: Path) -> None:
    """A kill leaves a log beside the file: its last records are in it."""
    code = ("import os, signal, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
            "import test_journal_records as t\nmade, _ = t.opened(Path(sys.argv[1]) / 'journal.db')\n"
            "made.waiting.put([t.attempt('a')], 1)\nmade.take(t.page(6.0))\nos.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([sys.executable, "-c", code, str(tmp_path), str(Path(__file__).parent)], timeout=60, check=False)
    assert (tmp_path / "journal.db-wal").stat().st_size
    _, records, _ = objects(export(tmp_path).stdout)

    assert [each["key"] for each in records] == ["a"]
    assert (tmp_path / "journal.db-wal").stat().st_size


@pytest.mark.parametrize(("arguments", "said"), [
    ((), "there is no journal at"), (("--since", "soon"), "--since: not a valid duration")])
def test_where_there_is_nothing_the_command_says_what_to_do(
    tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    """No journal, or a duration that is none."""
    done = export(tmp_path, *arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_a_file_of_a_newer_version_is_refused_in_words(folder: Path) -> None:
    """Which version it has, and what to do."""
    import sqlite3

    db = sqlite3.connect(folder / "journal.db")
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    done = export(folder)

    assert (done.returncode, done.stdout) == (1, "")
    assert "newer than" in done.stderr
    assert "start that one" in done.stderr


def test_a_journal_in_use_by_what_does_not_answer_is_not_read(tmp_path: Path) -> None:
    """Its file is locked, and nobody listens at the control socket: that is said."""
    made = Journal(tmp_path)
    made.open(0.0)
    done = export(tmp_path)
    made.close()

    assert (done.returncode, done.stdout) == (1, "")
    assert "no sidecar listens" in done.stderr


def test_a_running_sidecar_tells_what_it_remembers(
    spawn: Callable[..., Target], folder: Path, tmp_path: Path
) -> None:
    """The half hour before it started, over its control socket, as often as one asks; and it goes on."""
    leaky, port = spawn("leaky"), free_port()
    file = config(port, folder, [{"name": "rag", "match": {"pid": leaky.pid}}])
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_sidecar_journal_up") == 1.0, 20, "the journal")
        found = [objects(done.stdout) for done in (export(folder), export(folder, "--since", "10m"))]
        writes = sidecar.value("rag_sidecar_journal_writes_total") or 0.0
        wait_until(lambda: (sidecar.value("rag_sidecar_journal_writes_total") or 0.0) > writes, 20, "the next write")

    (head, records, series), (_, latest, _) = found
    assert head["version"] == 1
    assert [each["key"] for each in records][:10] == [f"a{n}" for n in range(10)]
    assert [each["key"] for each in latest][:2] == ["a7", "a8"]
    assert len(series["rag_memory_used_bytes"]) >= 30


def test_the_control_socket_says_what_is_wrong(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A time that is none is refused, and a journal that cannot be read is said to be so; over TCP there is none."""
    from http.client import HTTPConnection

    from sidecar.cli_line import Line

    state, leaky, port = tmp_path / "state", spawn("leaky"), free_port()
    (state / "journal.db").mkdir(parents=True)
    file = config(port, state, [{"name": "rag", "match": {"pid": leaky.pid}}])
    with running_sidecar(tmp_path, file=file, port=port):
        said = []
        for line, path in ((Line(state / "control.sock"), "/api/v1/journal?since=soon"),
                           (Line(state / "control.sock"), "/api/v1/journal"),
                           (HTTPConnection("127.0.0.1", port), "/api/v1/journal")):
            line.request("GET", path)
            answer = line.getresponse()
            said.append((answer.status, b"cannot be read now" in answer.read()))
            line.close()

    assert said == [(400, False), (503, True), (404, False)]
