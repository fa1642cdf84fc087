"""The journal's file on a real disk, in virtual time: what is kept, what is written when, what a bad day does to it."""

import json
import math
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.journal import journal as at_work
from sidecar.journal.entry import Entry, Life, Page, RuleKey
from sidecar.journal.file import MIGRATIONS, MOST_BYTES
from sidecar.journal.journal import Journal
from sidecar.journal.scribe import Scribe
from sidecar.model import Alert, Labels

RULE = ("r.yml", "g", "A#1")
OTHER = ("r.yml", "g", "B#1")


def alert(state: str = "firing", at: float = 10.0, **more: object) -> Alert:
    """An alert that became active at `at`."""
    return replace(Alert(
        labels=Labels({"alertname": "A", "target": "t"}), annotations={"s": "text"}, state=state, condition=True,
        value=1.0, active_at=at, fired_at=None if state == "pending" else at, resolved_at=None, keep_firing_since=None,
        last_evaluation=at, interval_seconds=1.0, expr="x > 0"), **more)  # type: ignore[arg-type]


def page(at: float, *alerts: Alert, rule: RuleKey = RULE, rules: tuple[RuleKey, ...] = (RULE,)) -> Page:
    """What a tick at `at` hands over."""
    return Page(at, frozenset(rules), [Entry(rule, each, None, at) for each in alerts])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal lies."""
    return tmp_path / "state" / "journal.db"


def again(scribe: Scribe, path: Path, now: float, at: float | None = None) -> tuple[Scribe, list[Entry]]:
    """End, and begin at `now`: the next scribe and what it finds."""
    scribe.close(at)
    following = Scribe(path)
    return following, following.open(now)


TEXTS = st.text(st.characters(codec=None), max_size=20)
MOMENTS = st.floats(0, 1e11, allow_subnormal=False)
LABELS = st.dictionaries(TEXTS, TEXTS, max_size=4).map(lambda found: Labels({**found, "alertname": "A"}))
VALUES = st.floats()


@st.composite
def alerts(draw: Callable[..., object]) -> Alert:
    """Any alert that a rule can make."""
    state = draw(st.sampled_from(["pending", "firing", "inactive"]))
    return Alert(
        labels=draw(LABELS), annotations=draw(st.dictionaries(TEXTS, TEXTS, max_size=4)), state=state,
        condition=draw(st.booleans()), value=draw(VALUES), active_at=draw(MOMENTS),
        fired_at=None if state == "pending" else draw(MOMENTS),
        resolved_at=draw(MOMENTS) if state == "inactive" else None, keep_firing_since=draw(st.none() | MOMENTS),
        last_evaluation=draw(MOMENTS), interval_seconds=draw(MOMENTS), expr=draw(TEXTS))  # type: ignore[arg-type]


LIVES = st.none() | st.tuples(TEXTS, st.integers(0, 1 << 22), st.integers(0, 1 << 62))


@given(found=alerts(), rule=st.tuples(TEXTS, TEXTS, TEXTS), life=LIVES)
@settings(max_examples=60, deadline=None)
def test_every_alert_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, found: Alert, rule: RuleKey, life: Life | None
) -> None:
    """Whatever text is in it, whatever its value: not-a-number, infinity, half of a surrogate pair, a zero byte."""
    path = tmp_path_factory.mktemp("any") / "journal.db"
    scribe = Scribe(path)
    scribe.open(0.0)
    scribe.take(Page(5.0, frozenset([rule]), [Entry(rule, found, life, 5.0)]))
    scribe, (entry,) = again(scribe, path, 6.0)
    scribe.close(None)

    value = entry.alert.value
    assert value == found.value or (math.isnan(value) and math.isnan(found.value))
    assert (entry.rule, entry.life, entry.seen_at) == (rule, life, 5.0)
    assert replace(entry.alert, value=0.0) == replace(found, value=0.0)


def test_what_changes_is_written_at_once_and_nothing_else(path: Path) -> None:
    """A new state is; a new value and new texts wait for a minute; a stamp comes every five seconds."""
    scribe = Scribe(path)
    scribe.open(0.0)
    writes = {}
    for second in range(130):
        found = alert(value=float(second), annotations={"s": f"{second}"}, last_evaluation=float(second))
        if second >= 100:
            found = replace(found, condition=False, keep_firing_since=100.0)
        before = scribe.writes
        scribe.take(page(float(second), found))
        writes[second] = scribe.writes - before
    scribe, (entry,) = again(scribe, path, 131.0)
    scribe.close(None)

    assert [second for second, count in writes.items() if count] == [*range(0, 130, 5)]
    assert (entry.alert.keep_firing_since, entry.alert.value, entry.alert.annotations) == (100.0, 100.0, {"s": "100"})
    assert entry.seen_at == 125.0


def test_new_values_of_many_alerts_are_written_a_few_at_a_time(path: Path) -> None:
    """A thousand alerts whose values change all the time keep nobody busy at once, and all get their turn."""
    scribe = Scribe(path)
    scribe.open(0.0)
    names = [Labels({"alertname": "A", "n": str(number)}) for number in range(250)]
    scribe.take(page(0.0, *(alert(labels=labels, value=1.0) for labels in names)))
    fresh = []
    for second in (61.0, 62.0, 63.0):
        scribe.take(page(second, *(alert(labels=labels, value=2.0) for labels in names)))
        copy = path.with_name(f"copy-{second}")
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{copy}{end}")
        looking = Scribe(copy)
        fresh.append(sum(entry.alert.value == 2.0 for entry in looking.open(second)))
        looking.close(None)
    scribe.close(None)

    assert fresh == [100, 200, 250]


def test_a_quiet_desk_touches_the_disk_only_to_say_that_it_is_there(path: Path) -> None:
    """Between two stamps not a byte of the file changes."""
    scribe = Scribe(path)
    scribe.open(0.0)
    scribe.take(page(0.0, alert()))
    log = path.with_name("journal.db-wal")
    before = path.read_bytes(), log.read_bytes()
    for tenth in range(1, 50):
        scribe.take(page(tenth / 10, alert()))

    assert (path.read_bytes(), log.read_bytes()) == before
    scribe.close(None)


def test_while_an_alert_is_pending_every_page_says_that_somebody_looked(path: Path) -> None:
    """So that a kill costs its `for` no more than one tick."""
    scribe = Scribe(path)
    scribe.open(0.0)
    for second in range(4):
        scribe.take(page(float(second), alert("pending")))
    scribe, (entry,) = again(scribe, path, 60.0)
    scribe.close(None)

    assert entry.seen_at == 3.0


def test_alerts_that_are_gone_leave_no_row(path: Path) -> None:
    """The file does not grow with every alert there ever was."""
    scribe = Scribe(path)
    scribe.open(0.0)
    for second in range(200):
        scribe.take(page(float(second), alert(labels=Labels({"alertname": "A", "n": str(second)}))))
    scribe, entries = again(scribe, path, 201.0)
    scribe.take(page(202.0))
    scribe, none = again(scribe, path, 203.0)
    scribe.close(None)

    assert [entry.alert.labels["n"] for entry in entries] == ["199"]
    assert none == []
    assert path.stat().st_size < 100_000


def test_alerts_of_rules_that_are_not_loaded_wait_for_an_hour(path: Path) -> None:
    """A rule file that is missing for a moment costs nothing; the time away counts from when it was last there."""
    scribe = Scribe(path)
    scribe.open(0.0)
    scribe.take(page(10.0, alert(), rule=OTHER, rules=(RULE, OTHER)))
    scribe, _ = again(scribe, path, 20.0, at=12.0)
    for second in range(20, 3000, 20):
        scribe.take(page(float(second)))
    scribe, (entry,) = again(scribe, path, 3000.0)
    assert (entry.rule, entry.seen_at) == (OTHER, 12.0)

    scribe.take(page(3613.0))
    scribe, entries = again(scribe, path, 3614.0)
    scribe.close(None)
    assert entries == []


def test_a_rule_that_comes_back_has_its_alerts_taken_over(path: Path) -> None:
    """What waited for its rule belongs to it again, and its row says so."""
    scribe = Scribe(path)
    scribe.open(0.0)
    scribe.take(page(10.0, alert(), rule=OTHER, rules=(OTHER,)))
    scribe, _ = again(scribe, path, 20.0)
    scribe.take(page(20.0))
    scribe, (entry,) = again(scribe, path, 30.0)
    scribe.take(Page(31.0, frozenset([RULE, OTHER]), [entry]))
    scribe, (entry,) = again(scribe, path, 40.0)
    scribe.close(None)

    assert entry.seen_at == 31.0


def test_nobody_else_may_read_it(path: Path) -> None:
    """Alerts tell of processes and paths: directory, file and log are the sidecar's own, also where they were not."""
    scribe = Scribe(path)
    scribe.open(0.0)
    scribe.take(page(0.0, alert()))
    files = [path.parent, path, path.with_name("journal.db-wal")]

    assert sorted(path.parent.iterdir()) == files[1:]
    assert [file.stat().st_mode & 0o077 for file in files] == [0, 0, 0]
    scribe.close(None)
    path.chmod(0o644)
    scribe = Scribe(path)
    scribe.open(1.0)
    assert path.stat().st_mode & 0o077 == 0
    scribe.close(None)


def written(path: Path) -> bytes:
    """A sound journal with one alert, as it lies there after its end."""
    scribe = Scribe(path)
    scribe.open(0.0)
    scribe.take(page(0.0, alert()))
    scribe.close(None)
    return path.read_bytes()


def scrambled(content: bytes, start: int) -> bytes:
    """The content with random bytes from `start` on."""
    return content[:start] + random.Random(1).randbytes(max(0, len(content) - start))


@pytest.mark.parametrize("broken", [
    lambda path: scrambled(written(path), 0), lambda path: scrambled(written(path), 1024),
    lambda path: written(path)[:1500], lambda path: written(path) and b"not a database" * 1000,
    lambda path: altered(path, "DROP TABLE alert"), lambda path: altered(path, "ALTER TABLE record DROP COLUMN body"),
], ids=["all", "pages", "cut", "text", "table", "column"])
def test_a_broken_file_is_moved_aside_and_a_fresh_one_begun(
    path: Path, broken: Callable[[Path], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """No alert is restored from it, it is kept for whoever wants to know, and from then on all is well."""
    content = broken(path)
    path.write_bytes(content)
    scribe = Scribe(path)

    assert scribe.open(1234.0) == []
    assert path.with_name("journal.db.broken-1234").read_bytes() == content
    assert "begun anew" in caplog.text
    scribe.take(page(1235.0, alert()))
    scribe, entries = again(scribe, path, 1236.0)
    scribe.close(None)
    assert len(entries) == 1


def altered(path: Path, statement: str) -> bytes:
    """A sound journal with one alert, after somebody has put his hand to it."""
    written(path)
    db = sqlite3.connect(path)
    db.execute(statement)
    db.commit()
    db.close()
    return path.read_bytes()


@pytest.mark.parametrize("change", [
    "labels = '[]'", f"annotations = '{'[' * 9999}'", "state = 'odd'", "life = '[1, 2, 3]'", "fired_at = NULL",
    "active_at = 'then'", "fired_at = 9e999", "rule = '{}'", "annotations = x'ff'", "expr = CAST(x'ff' AS TEXT)",
], ids=["labels", "deep", "state", "life", "unfired", "time", "never", "rule", "bytes", "text"])
def test_an_alert_that_makes_no_sense_costs_only_itself(
    path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are restored; it is counted and said, and it is gone from the file with the next write."""
    altered(path, f"UPDATE alert SET {change}")  # noqa: S608 - the test's own text
    db = sqlite3.connect(path)
    db.execute("CREATE TEMP TABLE copied AS SELECT * FROM alert")
    db.execute("UPDATE copied SET rule = 'x'")
    db.execute("INSERT INTO alert SELECT * FROM copied")
    db.commit()
    db.close()
    scribe = Scribe(path)

    assert scribe.open(1.0) == []
    assert dict(scribe.waiting.lost) == {"broken": 2}
    assert "no sidecar has written" in caplog.text
    scribe.take(page(1.0, alert()))
    scribe, entries = again(scribe, path, 2.0)
    scribe.close(None)
    assert (len(entries), dict(scribe.waiting.lost), dict(scribe.failures)) == (1, {}, {})


def test_of_broken_files_one_is_kept(path: Path) -> None:
    """A disk that breaks every file fills up with none."""
    path.parent.mkdir()
    for now in (1.0, 2.0, 3.0):
        path.write_bytes(b"rubbish" * 1000)
        scribe = Scribe(path)
        scribe.open(now)
        scribe.close(None)

    assert sorted(file.name for file in path.parent.iterdir()) == ["journal.db", "journal.db.broken-3"]


def test_a_file_beyond_measure_is_none_of_ours(path: Path) -> None:
    """It is not even read."""
    path.parent.mkdir()
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    scribe = Scribe(path)

    assert scribe.open(1.0) == []
    assert path.stat().st_size < 100_000
    scribe.close(None)


def test_a_file_of_a_newer_version_is_left_alone(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Not a byte of it changes; states stay in memory until it is out of the way."""
    written(path)
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    content = path.read_bytes()
    scribe = Scribe(path)

    assert scribe.open(0.0) == []
    for second in range(60):
        scribe.take(page(float(second), alert()))
    assert path.read_bytes() == content
    assert (scribe.writes, scribe.good_at) == (0, None)
    assert len(caplog.records) == 1
    assert "newer" in str(caplog.records[0].error)  # type: ignore[attr-defined]

    path.rename(path.with_name("old"))
    for second in range(60, 130):
        scribe.take(page(float(second), alert()))
    assert scribe.writes > 0
    scribe.close(None)


def test_who_comes_first_owns_the_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The second sidecar goes on in memory, says why, and takes the file over when the first has ended."""
    first, second = Scribe(path), Scribe(path)
    first.open(0.0)
    first.take(page(0.0, alert()))

    assert second.open(0.0) == []
    second.take(page(1.0, alert(at=20.0)))
    assert (second.writes, dict(second.failures)) == (0, {"locked": 2})
    (said,) = caplog.records
    assert "--storage.path" in said.help  # type: ignore[attr-defined]
    first.close(None)
    second.take(page(2.0, alert(at=20.0)))
    assert second.writes == 0  # it waits a little longer each time
    second.take(page(4.0, alert(at=20.0)))
    assert second.writes == 1
    second, (entry,) = again(second, path, 5.0)
    second.close(None)
    assert entry.alert.fired_at == 20.0


def test_a_file_that_is_removed_comes_back_with_everything(path: Path) -> None:
    """Somebody tidies up the state directory: a moment later all states are on disk again."""
    scribe = Scribe(path)
    scribe.open(0.0)
    scribe.take(page(0.0, alert()))
    path.unlink()
    path.with_name("journal.db-wal").unlink()
    for second in range(1, 10):
        scribe.take(page(float(second), alert()))
    assert dict(scribe.failures) == {"removed": 1}
    scribe, entries = again(scribe, path, 10.0)
    scribe.close(None)

    assert len(entries) == 1


@pytest.mark.parametrize("made", ["file", "directory", "pipe", "link"])
def test_where_no_file_can_be_states_stay_in_memory(path: Path, made: str) -> None:
    """A file for a directory, a directory, a pipe or a link for the file: no error reaches the desk, nothing hangs."""
    if made == "file":
        path.parent.write_text("in the way")
    else:
        path.parent.mkdir()
        make = {"directory": os.mkdir, "pipe": os.mkfifo, "link": lambda path: os.symlink("/etc/hostname", path)}
        make[made](path)
    scribe = Scribe(path)

    assert scribe.open(0.0) == []
    scribe.take(page(1.0, alert()))
    assert dict(scribe.failures) == {"cannot_open": 2}
    scribe.close(None)


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_journal as t
scribe = t.Scribe(Path(sys.argv[1]))
scribe.open(0.0)
scribe.take(t.page(0.0, t.alert()))
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
more = [t.alert(labels=t.Labels({"alertname": "A", "n": str(n)})) for n in range(500)]
for second in range(1, 100):
    scribe.take(t.page(float(second), t.alert(), *more))
print(sorted(scribe.failures), scribe.good_at)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for second in range(100, 200):
    scribe.take(t.page(float(second), t.alert(), *more))
print(scribe.good_at)
scribe, entries = t.again(scribe, Path(sys.argv[1]), 200.0)
print(len(entries))
"""


def test_a_file_that_may_not_grow_is_written_when_it_may_again(path: Path) -> None:
    """No room, for whatever reason: what was there stays, and with room everything is written that was missed."""
    done = subprocess.run([sys.executable, "-c", FULL, str(path), str(Path(__file__).parent)], capture_output=True,
                          text=True, timeout=60, check=False)

    assert done.stdout.splitlines()[1:] == ["199.0", "501"], done.stderr
    assert done.stdout.startswith(("['io']", "['full']", "['full', 'io']"))
    assert done.stdout.splitlines()[0].endswith(" None")


def test_labels_beyond_measure_cost_only_their_own_alert(path: Path) -> None:
    """Texts without end are left out; the other alerts are kept."""
    scribe = Scribe(path)
    scribe.open(0.0)
    huge = "x" * (1 << 20)
    scribe.take(page(0.0, alert(), alert(labels=Labels({"alertname": "A", "l": huge})),
                     alert(labels=Labels({"alertname": "A", "n": "2"}), annotations={"s": huge})))
    scribe, entries = again(scribe, path, 1.0)
    scribe.close(None)

    assert sorted(len(entry.alert.annotations) for entry in entries) == [0, 1]


def test_a_killed_writer_loses_nothing_that_was_committed(path: Path) -> None:
    """SIGKILL at any moment: what was written before is whole, and the log beside the file is used."""
    code = ("import os, signal, sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\n"
            "import test_journal as t\nscribe = t.Scribe(Path(sys.argv[1]))\nscribe.open(0.0)\n"
            "for n in range(300): scribe.take(t.page(float(n), t.alert(at=float(n)), t.alert('pending', at=9.0,"
            " labels=t.Labels({'alertname': 'A', 'n': 'p'}))))\nos.kill(os.getpid(), signal.SIGKILL)")
    subprocess.run([sys.executable, "-c", code, str(path), str(Path(__file__).parent)], timeout=60, check=False)
    scribe = Scribe(path)
    found = {entry.alert.state: entry for entry in scribe.open(301.0)}
    scribe.close(None)

    assert found["firing"].alert.fired_at == 299.0
    assert (found["pending"].alert.active_at, found["pending"].seen_at) == (9.0, 299.0)


# the thread


def test_the_last_page_is_written_at_the_end(tmp_path: Path) -> None:
    """What was handed over before the end is there after it, with the moment at which it was."""
    journal = Journal(tmp_path)
    assert journal.open(0.0) == []
    for second in range(50):
        journal.note(page(float(second), alert(at=float(second))))
    journal.close()
    following = Journal(tmp_path)
    (entry,) = following.open(60.0)
    following.close()

    assert (entry.alert.fired_at, entry.seen_at) == (49.0, 49.0)
    assert [file.name for file in tmp_path.iterdir()] == ["journal.db"]


def test_a_disk_that_does_not_answer_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pages are handed over all the same, one of them waits, the metric says it, and the end does not wait for ever."""
    answers, asked = threading.Event(), threading.Event()

    def hang(_: Scribe, __: Page) -> None:
        asked.set()
        answers.wait()

    monkeypatch.setattr(Scribe, "take", hang)
    monkeypatch.setattr(at_work, "ENDING_SECONDS", 0.1)
    journal = Journal(tmp_path)
    journal.open(0.0)
    for second in range(100):
        journal.note(page(float(second), alert()))
    asked.wait(10)
    up = [sample.value for at in (10.0, 16.0) for sample in journal.samples(Labels(), at)
          if sample.labels.metric == "rag_sidecar_journal_up"]
    journal.close()
    answers.set()

    assert up == [1.0, 0.0]
    assert len(journal._latest) <= 1
    assert "may not be written" in caplog.text


def test_rows_are_text_that_people_can_read(path: Path) -> None:
    """Whoever opens the file with sqlite3 sees what is kept: a table of alerts, and when somebody last looked."""
    written(path)
    db = sqlite3.connect(path)
    rows = db.execute("SELECT rule, labels, state, active_at FROM alert").fetchall()
    stamp = db.execute("SELECT at FROM alive").fetchone()
    db.close()

    assert [(json.loads(rule), json.loads(labels), state, at) for rule, labels, state, at in rows] == [
        (list(RULE), {"alertname": "A", "target": "t"}, "firing", 10.0)]
    assert stamp == (0.0,)
