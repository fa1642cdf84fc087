"""What was done, in the journal: attempts, incidents, notes and the past of used bytes, whatever the disk does."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import test_journal as alerts
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.actions import ledger as actions
from sidecar.guard.wire import Event
from sidecar.journal import file, history, journal, record, scribe, shelf
from sidecar.journal.book import Book, Place
from sidecar.journal.entry import Page
from sidecar.journal.file import MIGRATIONS
from sidecar.journal.journal import Journal
from sidecar.journal.record import LONGEST_BODY, Record, Waiting
from sidecar.journal.scribe import Scribe
from sidecar.model import Labels
from sidecar.pipeline_journal import records_of, restore_actions

DAY = 86400.0


def page(at: float, **used: float) -> Page:
    """What a tick without alerts hands over."""
    return Page(at, frozenset(), [], used)


def attempt(key: str, stage: Any = "planned", at: float = 0.0, **body: Any) -> Record:
    """A stage of an attempt."""
    return Record("attempt", key, stage, at, body)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal lies."""
    return tmp_path / "state" / "journal.db"


def opened(path: Path, now: float = 0.0) -> tuple[Scribe, list[Record]]:
    """A scribe, and the records that it found."""
    made = Scribe(path)
    made.open(now)
    return made, list(made.records())


def kept(path: Path, now: float = 0.0) -> list[Record]:
    """The records of a file that nobody has open."""
    made, found = opened(path, now)
    made.close(None)
    return found


def write(path: Path, *given: Sequence[Record], now: float = 0.0) -> None:
    """Have one scribe write these, one list after the other."""
    made, _ = opened(path, now)
    for mark, records in enumerate(given, 1):
        made.waiting.put(records, mark)
        made.take(page(now + mark))
        assert made.marked == mark
    made.close(None)


VALUES = (st.none() | st.booleans() | st.integers(-2**60, 2**60) | st.floats(allow_nan=False, allow_infinity=False)
          | st.text(max_size=9) | st.lists(st.text(max_size=3), max_size=2))
BODIES = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)
RECORDS = st.builds(
    lambda kind, key, at, body: Record(kind[0], key, kind[1], at, body),
    st.sampled_from([("attempt", "planned"), ("attempt", "final"), ("attempt", "rebound"), ("incident", "state"),
                     ("note", "state")]),
    st.sampled_from(["a", "b", "ü/\ud800", "nul\0"]), st.floats(0, 1000.0), BODIES)


@given(batches=st.lists(st.lists(RECORDS, max_size=6), max_size=6))
@settings(max_examples=80, deadline=None)
def test_of_each_attempt_the_first_word_counts_and_of_all_else_the_last(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Record]]
) -> None:
    """In whatever order and however often things are told: one planned, one final, and all of it as it was said."""
    path = tmp_path_factory.mktemp("any") / "journal.db"
    write(path, *batches)
    expected: dict[tuple[str, str, str], Record] = {}
    for each in (each for batch in batches for each in batch):
        key = each.kind, each.key.encode(errors="backslashreplace").decode(), each.stage
        if key not in expected or each.stage not in ("planned", "final"):
            expected[key] = each
    found = {(each.kind, each.key, each.stage): (each.at, each.body) for each in kept(path)}

    assert found == {key: (each.at, each.body) for key, each in expected.items()}

def test_what_is_restored_is_bounded_and_in_order(path: Path) -> None:
    """The newest 500 attempts with all stages, incidents that are open or ended within a day, all of 1,000 notes."""
    now = 40 * DAY
    attempts = [attempt(f"a{n}", stage, now - 10_000 + n) for n in range(600) for stage in ("planned", "final")]
    old = [attempt("old", at=now - 31 * DAY), attempt("older", "final", at=now - 32 * DAY)]
    incidents = [Record("incident", f"i{n}", "state", now - 10 * DAY, {"ended_at": ended})
                 for n, ended in enumerate([None, now - 2 * DAY, now - 3600.0])]
    notes = [Record("note", f"n{n}", "state", now, {}) for n in range(1100)]
    for batch in (old, attempts[:600], attempts[600:], incidents, notes[:600], notes[600:]):
        write(path, batch, now=now)
    found = kept(path, now)
    keys = {kind: [each.key for each in found if each.kind == kind] for kind in ("attempt", "incident", "note")}

    assert keys["attempt"] == [f"a{n}" for n in range(100, 600) for _ in range(2)]
    assert keys["incident"] == ["i0", "i2"]
    assert keys["note"] == [f"n{n}" for n in range(100, 1100)]
    assert rows(path, "record") <= 1000 + 2 + 1000 + 2 * shelf.PRUNE_ROWS


def rows(path: Path, table: str) -> int:
    """How many rows a table has."""
    db = sqlite3.connect(path)
    (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - the test's own text
    db.close()
    return int(count)


@pytest.mark.parametrize("change", [
    "body = '[]'", f"body = '{'[' * 9999}'", "body = '{'", "kind = 'odd'", "stage = 'state'", "at = 'then'",
    "at = 9e999", "body = x'ff'", "key = x'00'", "body = CAST(x'ff' AS TEXT)", "at = x''",
])
def test_a_record_that_makes_no_sense_costs_only_itself(path: Path, change: str) -> None:
    """The others are restored, it is counted, and it is gone from the file with the next write."""
    write(path, [attempt("good"), attempt("bad")])
    db = sqlite3.connect(path)
    db.execute(f"UPDATE record SET {change} WHERE key = 'bad'")  # noqa: S608 - the test's own text
    db.commit()
    db.close()
    made, found = opened(path)
    lost = dict(made.waiting.lost)
    made.waiting.put([attempt("new")], 1)
    made.take(page(1.0))
    made.close(None)

    assert [each.key for each in found] == ["good"]
    assert lost == {"broken": 1}
    assert rows(path, "record") == 2


def test_what_is_no_record_is_counted_and_harms_nobody(path: Path) -> None:
    """A time that is none, a body that is no JSON, a stage of another kind: the rest is written."""
    loop: list[Any] = []
    loop.append(loop)
    write(path, [attempt("nan", at=math.nan), attempt("set", odd={1}), attempt("loop", odd=loop),
                 attempt("stage", "state"), attempt("good", value=math.nan)])

    assert [(each.key, each.body) for each in kept(path)] == [("good", {"value": None})]


def test_a_body_beyond_measure_loses_its_largest_parts(path: Path) -> None:
    """And says which: the outcome of an attempt is kept, however much an agent has told about it."""
    write(path, [attempt("a", "final", outcome="partial", steps=["x" * 100] * 2000, more={"y" * 200_000: 1})])
    (found,) = kept(path)

    assert found.body == {"outcome": "partial", "cut": ["steps", "more"]}
    assert len(json.dumps(found.body)) < LONGEST_BODY


# the versions of the file


def test_a_file_of_the_first_version_is_brought_up_to_date(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its alerts stay, and records and history find their tables; an older program refuses it then, and says why."""
    alerts.written(path)
    db = sqlite3.connect(path)
    for table in ("record", "series", "minute", "hour"):
        db.execute(f"DROP TABLE {table}")
    db.execute("ALTER TABLE alert DROP COLUMN told")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()
    made = Scribe(path)
    (entry,) = made.open(1.0)
    made.waiting.put([attempt("a")], 1)
    made.take(alerts.page(1.0, entry.alert))
    made.close(None)

    assert [each.key for each in kept(path)] == ["a"]
    content = path.read_bytes()
    monkeypatch.setattr(file, "MIGRATIONS", MIGRATIONS[:1])
    with pytest.raises(file.Unusable, match="has version 3, newer than 1") as refused:
        Book(path, 0.0)
    assert (refused.value.reason, "start that one" in refused.value.help) == ("newer", True)
    assert path.read_bytes() == content


# the past


def points(path: Path, since: float = 0.0) -> dict[str, list[history.Point]]:
    """What a file that nobody has open holds of the past."""
    book, found, place = Book(path, 0.0), dict[str, list[history.Point]](hour=[], minute=[]), Place("hour")
    while place is not None:
        _, some, following = book.piece(since, place)
        found[place.table] += some
        place = following  # type: ignore[assignment]
    book.close()
    return found


def test_used_bytes_are_kept_per_minute(path: Path) -> None:
    """Lowest, highest and last; written with what is written anyway; a restart within a minute adds to it."""
    made, _ = opened(path)
    for second in range(150):
        made.take(page(float(second), rag=float(100 + second % 60), odd=math.nan))
    assert made.writes == 29  # one in five seconds, as without all this
    made.close(149.0)
    made, _ = opened(path)
    made.take(page(170.0, rag=50.0))
    made.close(170.0)

    assert points(path)["minute"] == [
        history.Point("rag", scribe.USED, 60, 100.0, 159.0, 159.0),
        history.Point("rag", scribe.USED, 120, 100.0, 159.0, 159.0),
        history.Point("rag", scribe.USED, 180, 50.0, 129.0, 50.0)]
    assert [point.at for point in points(path, 121.0)["minute"]] == [180]


def test_the_past_becomes_coarser_and_then_ends(path: Path) -> None:
    """Minutes for a week, hours for ninety days, nothing beyond; an hour is what its minutes were."""
    book = Book(path, 0.0)
    end = 100 * DAY
    for at in range(0, int(end), 600):
        made = [history.Point("rag", "m", at, at - 1.0, at + 1.0, float(at))]
        book.write(page(at), [], made, float(at))
    book.close()
    found = points(path)
    minutes, hours = found["minute"], found["hour"]

    assert minutes[-1].at == end - 600 + 60
    assert 7 * DAY - 3600 <= end - minutes[0].at <= 7 * DAY + 7200
    assert hours[-1].at <= minutes[0].at
    assert 90 * DAY - 3600 <= end - hours[0].at <= 90 * DAY + 7200
    assert all(point[3:] == (point.at - 3601.0, point.at - 599.0, point.at - 600.0) for point in hours)
    assert len(hours) == pytest.approx(83 * 24, abs=3)
    assert path.stat().st_size < 1 << 20


def test_a_file_that_is_full_gives_up_history_first_and_the_oldest_attempts_next(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alerts always find room, and what is newest is kept."""
    monkeypatch.setattr("sidecar.journal.book.ROOM_BYTES", 1 << 20)
    book = Book(path, 0.0)
    names = [f"t{n}" for n in range(100)]
    for minute in range(400):
        book.write(page(60.0 * minute), [], [history.Point(name, "m", 60 * minute, 1.5, 2.5, 2.5) for name in names],
                   60.0 * minute)
    book.close()
    found = points(path)["minute"]
    assert path.stat().st_size < 1.3 * (1 << 20)
    assert (found[-1].at, len(found) > 10_000) == (60 * 400, True)

    big = [attempt(f"a{n}", "final", text="x" * 10_000) for n in range(300)]
    for n in range(0, 300, 10):
        write(path, big[n:n + 10])
    assert points(path)["minute"] == []
    left = [each.key for each in kept(path)]
    assert left == [f"a{n}" for n in range(300 - len(left), 300)]
    assert 40 <= len(left) <= 110
    assert path.stat().st_size < 1.3 * (1 << 20)


def test_targets_without_end_have_no_past_without_end(path: Path) -> None:
    """Of more than 400 series the first ones are kept; when their past has ended others take their place."""
    book = Book(path, 0.0)
    book.write(page(10.0), [], [history.Point(f"t{n}", "m", 0, 1.0, 1.0, 1.0) for n in range(500)], 10.0)
    assert rows_of(book) == 400
    later = 98 * DAY
    for number in range(3):
        made = [history.Point("new", "m", int(later) + 60 * number, 1.0, 1.0, 1.0)]
        book.write(page(later + 60 * number), [], made, later + 60 * number)
    assert rows_of(book) == 2
    book.close()


def rows_of(book: Book) -> int:
    """How many points a piece of the past has."""
    return sum(len(book.piece(0.0, Place(table))[1]) for table in ("hour", "minute"))


# bad days


def test_what_waits_is_bounded(path: Path) -> None:
    """While no disk takes them, finals go before plans, the oldest first, and that is counted."""
    waiting = Waiting()
    for n in range(record.MOST_WAITING):
        waiting.put([attempt(f"a{n}", "final" if n % 2 else "planned")], n + 1)
    waiting.put([attempt("a0"), attempt("b"), attempt("c", "final"), attempt("c", "rebound")], 5000)
    found, mark = waiting.look()

    assert mark == 5000
    assert dict(waiting.lost) == {"overflow": 3}
    assert [row.key for row in found[:4]] == ["a0", "a2", "a4", "a6"]
    assert [row.key for row in found[-3:]] == ["b", "c", "c"]

    waiting.put([attempt(f"d{n}", "final", text="x" * 60_000) for n in range(40)], 5001)
    assert sum(len(row.body) for row in waiting.look()[0]) <= record.MOST_WAITING_BYTES


@pytest.mark.parametrize("trouble", ["removed", "replaced", "locked", "broken"])
def test_marks_go_on_and_nothing_that_was_acknowledged_is_lost(path: Path, trouble: str) -> None:
    """Whatever becomes of the file while it is in use: no mark waits for it, and all is on disk again afterwards."""
    made, _ = opened(path)
    made.waiting.put([attempt("before")], 1)
    made.take(page(0.0, rag=1.0))
    made.take(page(60.0, rag=1.0))
    made.take(page(66.0, rag=1.0))
    other = None
    if trouble == "removed":
        path.unlink()
        path.with_name("journal.db-wal").unlink()
    elif trouble == "replaced":
        path.rename(path.with_name("aside"))
        path.write_bytes(b"")
    elif trouble == "locked":
        made.close(66.0)
        other, _ = opened(path)
    else:
        made.close(66.0)
        damage(path, "minute")
    made.waiting.put([attempt("meanwhile")], 2)
    made.take(page(67.0, rag=1.0))
    assert made.marked == 2
    made.waiting.put([attempt("meanwhile", "final")], 3)
    made.take(page(67.5, rag=1.0))
    assert made.marked == 3
    if other:
        other.close(None)
    for second in range(68, 80):
        made.take(page(float(second), rag=1.0))
    made.close(80.0)

    found = [(each.key, each.stage) for each in kept(path)]
    assert found[-2:] == [("meanwhile", "planned"), ("meanwhile", "final")]
    assert ("before" in dict(found)) == (trouble != "replaced")
    assert dict(made.failures) == {{"replaced": "removed"}.get(trouble, trouble): 1}
    assert [point.at for point in points(path)["minute"]][-1] == 120
    if trouble == "removed":
        assert [point.at for point in points(path)["minute"]] == [60, 120]


def damage(path: Path, table: str) -> None:
    """Write rubbish over the first page of a table."""
    db = sqlite3.connect(path)
    (page_number,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    db.close()
    with path.open("r+b") as made:
        made.seek((page_number - 1) * file.PAGE_BYTES)
        made.write(b"\xff" * file.PAGE_BYTES)


def test_of_a_damaged_file_the_records_that_can_be_read_go_on(path: Path) -> None:
    """Its alerts are lost with it, and the attempts before the damage are not."""
    write(path, [attempt(f"a{n}", text="x" * 500) for n in range(200)])
    content = path.read_bytes()
    at = content.index(b'"xxx', len(content) // 2)
    path.write_bytes(content[:at - 700] + bytes(1400) + content[at + 700:])
    made, found = opened(path)
    made.take(page(0.0))
    made.close(None)

    assert dict(made.failures) == {"broken": 1}
    assert len(found) > 20
    assert kept(path) == found


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_journal_records as t
folder = Path(sys.argv[1])
made, found = t.opened(folder / "journal.db")
made.waiting.put([t.attempt("before")], 1)
made.take(t.page(0.0))
filler = folder / "filler"
with filler.open("wb", buffering=0) as file:
    try:
        while file.write(bytes(512)):
            pass
    except OSError as error:
        print(error.strerror)
for n in range(100):
    made.waiting.put([t.attempt(f"a{n}", at=float(n), text="x" * 1000)], n + 2)
    made.take(t.page(1.0 + n))
print(sorted(made.failures), made.marked, made.good_at, len(t.readable(folder)))
filler.unlink()
for second in range(101, 200):
    made.take(t.page(float(second)))
print(made.good_at, dict(made.waiting.lost))
made.close(None)
print([each.key for each in t.kept(folder / "journal.db")] == ["before", *(f"a{n}" for n in range(100))])
"""


def readable(folder: Path) -> list[Path]:
    """The files of a folder."""
    return sorted(folder.iterdir())


def test_records_outlast_a_full_disk(tmp_path: Path) -> None:
    """A file system without a free byte: marks go on, it is counted, and with room again all of it is written."""
    script = 'mount -t tmpfs -o size=256k none "$1" || exit 77; exec "${@:2}"'
    own = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script, "bash", str(tmp_path)]
    done = subprocess.run([*own, sys.executable, "-c", FULL, str(tmp_path), str(Path(__file__).parent)],
                          capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == 77:
        pytest.skip("takes a user namespace in which to mount")

    assert done.stdout.splitlines() == [
        "No space left on device", "['full'] 101 None 3", "199.0 {}", "True"], done.stdout + done.stderr


KILLED = """
import os, random, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_journal_records as t
chance, done, folder = random.Random(7), 0, Path(sys.argv[1])
for round in range(100):
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        t.work(folder, done, writing)
    os.close(writing)
    until = done + chance.randrange(1, 60)
    while done < until:
        done = max(done, int.from_bytes(os.read(reading, 8), "big"))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while said := os.read(reading, 8):
        done = max(done, int.from_bytes(said, "big"))
    os.close(reading)
    found = t.kept(folder / "journal.db")
    keys = {int(each.key) for each in found}
    missing = [n for n in range(max(0, done - 400), done) if n not in keys]
    assert not missing, (round, done, missing)
    assert len(found) == len({(each.key, each.stage) for each in found})
print(done)
"""


def work(folder: Path, begin: int, writing: int) -> None:
    """Record attempts and say, in eight bytes each, which mark is reached; until the end, which comes from outside."""
    at_work = Journal(folder)
    at_work.open(0.0)
    for number in range(begin, begin + 100_000):
        at_work.record([attempt(str(number)), attempt(str(number), "final")], number + 1)
        at_work.note(page(number / 10_000, rag=float(number)))
        while os.write(writing, at_work.marked.to_bytes(8, "big")) and at_work.marked < number - 20:
            pass
    os._exit(1)


def test_a_hundred_kills_lose_nothing_that_was_marked(tmp_path: Path) -> None:
    """SIGKILL of a writer at any moment: what it said was on disk is there, once, and the next one goes on."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(Path(__file__).parent)],
                          capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


# the thread


def test_what_was_recorded_is_there_after_a_restart(tmp_path: Path) -> None:
    """A journal that ends in order has written everything; the next one hands it out, once."""
    first = Journal(tmp_path)
    first.open(0.0)
    assert list(first.records) == []
    for number in range(50):
        first.record([attempt(f"a{number}", at=float(number), n=number)], number + 1)
    first.close()
    assert first.marked == 50
    second = Journal(tmp_path)
    second.open(60.0)
    found = list(second.records)
    again = list(second.records)
    second.close()

    assert [(each.key, each.body) for each in found] == [(f"a{n}", {"n": n}) for n in range(50)]
    assert again == []


def test_a_disk_that_hangs_holds_back_no_mark_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said to be on disk before it is; after a quarter of a minute without a sign it is given up."""
    answers, asked = threading.Event(), threading.Event()

    def hang(_: Book, *__: object) -> bool:
        asked.set()
        answers.wait()
        return True

    monkeypatch.setattr(Book, "write", hang)
    monkeypatch.setattr(journal, "ENDING_SECONDS", 0.1)
    made = Journal(tmp_path)
    made.open(0.0)
    marks = []
    for second in (1.0, 2.0, 3.0, 15.0, 19.0, 20.0):
        made.record([attempt(f"a{second}")], int(second))
        made.note(page(second))
        asked.wait(10)
        marks.append(made.marked)
    made.close()
    answers.set()

    assert marks == [0, 0, 0, 0, 19, 20]


def test_the_journal_is_read_in_pieces_while_it_is_written(tmp_path: Path) -> None:
    """All of it, in order, none twice; more readers than four at a time are sent away."""
    made = Journal(tmp_path)
    made.open(0.0)
    made.record([attempt(f"a{n}", at=float(n)) for n in range(100)], 1)
    place, found = Place(), []
    while place is not None:
        piece = made.read(50.0, place).result(10)
        made.record([attempt("a99", "rebound", 200.0)], 2)
        found += piece.records
        place = piece.place  # type: ignore[assignment]
    made.close()
    with pytest.raises(file.Unusable, match="others"):
        made.read(0.0)

    assert [each.key for each in found] == [*(f"a{n}" for n in range(50, 100)), "a99"]


def test_what_is_lost_is_a_series(tmp_path: Path) -> None:
    """Whoever watches the sidecar sees that rows were given up, and why."""
    made = Journal(tmp_path)
    made.record([attempt("a", at=math.inf)], 1)
    found = [sample for sample in made.samples(Labels(), 1.0) if sample.labels.metric == journal.LOST.name]

    assert [(sample.labels["reason"], sample.value) for sample in found] == [("broken", 1)]


# between the stages and the journal


class Ledger:
    """A ledger, or the incidents: gives its rows once, and takes them back."""

    def __init__(self, *given: tuple[str, str, float, dict[str, Any]]) -> None:
        self.given = list(given)
        self.taken: list[Any] = []

    def drain(self) -> list[tuple[str, str, float, dict[str, Any]]]:
        """Once."""
        given, self.given = self.given, []
        return given

    def restore(self, rows: Sequence[Any], now: float) -> None:
        """Remember."""
        self.taken = [*rows, now]


class Orders:
    """What people have ordered."""

    def __init__(self, *given: tuple[str, float, dict[str, Any]]) -> None:
        self.given = list(given)
        self.taken: list[Any] = []

    def drain_notes(self) -> list[tuple[str, float, dict[str, Any]]]:
        """Once."""
        given, self.given = self.given, []
        return given

    def restore_notes(self, rows: Sequence[Any]) -> None:
        """Remember."""
        self.taken = list(rows)


def test_ledger_incidents_and_orders_come_back_as_they_were(tmp_path: Path) -> None:
    """What they say at the end of a tick is what they are restored from after a restart."""
    attempts = [("a", "planned", 1.0, {"target": "rag"}), ("a", "final", 2.0, {"outcome": "effective"})]
    incidents = [("rag-1", "state", 1.0, {"ended_at": None})]
    notes = [("pause:rag", 3.0, {"until": None})]
    first, drained = Journal(tmp_path), (Ledger(*attempts), Ledger(*incidents), Orders(*notes))
    first.open(0.0)
    first.record(records_of(*drained), 1)
    assert records_of(*drained) == []
    first.close()
    second, fresh = Journal(tmp_path), (Ledger(), Ledger(), Orders())
    second.open(10.0)
    restore_actions(second.records, *fresh, 10.0)
    second.close()

    assert [each.taken for each in fresh] == [[*attempts, 10.0], [*incidents, 10.0], notes]


def test_what_the_ledger_knows_of_attempts_outlives_a_kill(tmp_path: Path) -> None:
    """One that has ended comes back with its outcome and is not told again; one that goes on is open."""
    def told(number: int, kind: str, order: str, **detail: Any) -> Event:
        return Event(number, 1000.0 + number, kind, "rag", order, detail)

    crossing = {"cleanup": "standard", "labels": {"alertname": "A"}, "line_bytes": 5.0, "used_bytes": 6.0}
    real, first, orders = actions.Ledger(), Journal(tmp_path), (Ledger(), Orders())
    first.open(1000.0)
    for event in (told(1, "crossed", "a", **crossing), told(2, "refused", "a", channel="signal", reason="no_handler"),
                  told(3, "spent", "a"), told(4, "crossed", "b", **crossing)):
        real.take_in(event, lambda _target, _at: 0.0)
        first.record(records_of(real, *orders), event.number)
    first.close()
    fresh, second = actions.Ledger(), Journal(tmp_path)
    second.open(1010.0)
    restore_actions(second.records, fresh, *orders, 1010.0)
    second.close()

    assert [(each.id, each.outcome, each.reason) for each in fresh.attempts()] == [
        ("b", "", ""), ("a", "refused", "no_handler")]
    assert [each.as_record() for each in fresh.attempts()] == [each.as_record() for each in real.attempts()]
    assert records_of(fresh, *orders) == []
