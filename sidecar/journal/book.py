"""What the journal's file holds, and when it is written: only where something has changed, all of it in one go."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sidecar.journal.entry import COLUMNS, Entry, Page, RuleKey, entry_of, key_of, row_of
from sidecar.journal.file import ROOM_BYTES, File, Unusable
from sidecar.journal.history import Annals, Point
from sidecar.journal.record import Record, Row
from sidecar.journal.shelf import Shelf
from sidecar.model import Labels

STAMP_SECONDS = 5.0
REFRESH_SECONDS = 60.0
"""How old what is written of a value and annotations may be."""
TOLERANCE_SECONDS = 3600.0
"""How long alerts are kept whose rule is not loaded any more."""
MOST_REFRESHED = 100
"""Of these in one page, so that a thousand alerts do not keep the interpreter busy at the same moment each minute."""
MOST_ALERTS = 10_000
MOST_RECORDS_READ, MOST_POINTS_READ = 20, 500
"""In one piece of a reading: what is read is in memory as a whole."""

SELECT = f"SELECT {', '.join(COLUMNS)} FROM alert LIMIT ?"  # noqa: S608 - our own constants
INSERT = f"INSERT OR REPLACE INTO alert ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
DELETE = "DELETE FROM alert WHERE rule = ? AND labels = ?"

_Key = tuple[RuleKey, Labels]


class _Written(NamedTuple):
    """A row: what it says, when it was written, and since when its rule has not been loaded, None while it is."""

    entry: Entry
    at: float
    left_at: float | None


class _Changes(NamedTuple):
    """What of the table of alerts is to change: rows that are new or other, that go, whose rule is not loaded."""

    news: Mapping[_Key, Entry]
    gone: Sequence[_Key]
    left: dict[_Key, _Written]


class Place(NamedTuple):
    """How far a reading has come: the table, and the two figures by which its rows are in order."""

    table: str = "record"
    first: int = 0
    second: int = 0


TABLES = ("record", "hour", "minute")


class Book:
    """The open file, which is ours. Lives until `close` or its first error; only one thread uses it.

    `entries` and `records` are what it held when it was opened at Unix time `now`. Raises Unusable, here and from
    `write`; afterwards it must be closed.
    """

    def __init__(self, path: Path, now: float) -> None:
        self.entries: list[Entry] = []
        self.records: Sequence[Record] = ()
        self._strange: list[tuple[object, object]] = []
        self._written: dict[_Key, _Written] = {}
        self._stamped_at = 0.0
        self._file = File(path)
        self._db = self._file.db
        try:
            with self._file.told():  # reading alone, because a full disk must not cost what is known
                self._shelf, self._annals = Shelf(self._db), Annals(self._db)
                self._read()
                self.records = self._shelf.records(now)
        except Unusable:
            self.close()
            raise

    def _read(self) -> None:
        stamp = self._db.execute("SELECT at FROM alive").fetchone()
        self._stamped_at = float(stamp[0]) if stamp and isinstance(stamp[0], float) else 0.0
        for row in self._db.execute(SELECT, (MOST_ALERTS,)):
            try:
                entry = entry_of(row, self._stamped_at)
            except (ValueError, TypeError, RecursionError):
                self._strange.append(row[:2])
                continue
            self.entries.append(entry)
            self._written[entry.rule, entry.alert.labels] = _Written(
                entry, self._stamped_at, None if row[-1] is None else entry.seen_at)

    @property
    def broken(self) -> int:
        """How many rows made no sense and were left out; the next write deletes them."""
        return len(self._strange) + len(self._shelf.strange)

    def write(self, page: Page | None, rows: Sequence[Row], points: Sequence[Point], now: float) -> bool:
        """Have the file say what the page says, and keep these records. False where there was nothing to write.

        What of the value and the annotations has changed is written with something else, or after a minute, and so is
        the past. That somebody is looking is noted every five seconds, and with every page while an alert is pending:
        from then on the time of its `for` does not run.
        """
        changes = self._changes(page) if page else None
        if not (changes or rows):
            return False
        self._file.check_place()
        with self._file.told(), self._file.transaction():
            self._make_room()
            self._shelf.put(rows, now)
            self._annals.put(points, now)
            self._db.executemany(DELETE, self._strange)
            if page and changes:
                self._put(changes)
                self._stamp(page.at)
        self._strange.clear()
        if page and changes:
            self._written |= changes.left | {key: _Written(entry, page.at, None) for key, entry in changes.news.items()}
            for key in changes.gone:
                del self._written[key]
        return True

    def _changes(self, page: Page) -> _Changes | None:
        """What the page says that the file does not; None where that is nothing, and no stamp is due either."""
        given = {(entry.rule, entry.alert.labels): entry for entry in page.entries[:MOST_ALERTS]}
        news = {key: entry for key, entry in given.items() if self._is_news(key, entry)}
        aged = (key for key, entry in given.items()
                if key not in news and _is_aged(self._written[key], entry, page.at))
        news |= {key: given[key] for key in islice(aged, MOST_REFRESHED)}
        missing = {key: known for key, known in self._written.items() if key not in given}
        gone = [key for key, known in missing.items() if _is_over(known, page)]
        left = {key: known._replace(left_at=self._stamped_at) for key, known in missing.items()
                if known.left_at is None and known.entry.rule not in page.rules}
        return _Changes(news, gone, left) if news or gone or left or self._stamp_due(page) else None

    def _make_room(self) -> None:
        """History goes first, the oldest attempts next: alerts are to find room always."""
        while self._file.used_bytes() > ROOM_BYTES and (self._annals.make_room() or self._shelf.make_room()):
            pass

    def _is_news(self, key: _Key, entry: Entry) -> bool:
        known = self._written.get(key)
        return known is None or known.left_at is not None or known.entry.fingerprint() != entry.fingerprint()

    def _stamp_due(self, page: Page) -> bool:
        return (not 0.0 <= page.at - self._stamped_at < STAMP_SECONDS
                or any(entry.alert.state == "pending" for entry in page.entries))

    def _put(self, changes: _Changes) -> None:
        rows = [row for entry in changes.news.values() if (row := row_of(entry)) is not None]
        self._db.executemany(INSERT, rows)
        self._db.executemany(DELETE, [key_of(*key) for key in changes.gone])
        self._db.executemany("UPDATE alert SET left_at = ? WHERE rule = ? AND labels = ?",
                             [(known.left_at, *key_of(*key)) for key, known in changes.left.items()])

    def _stamp(self, at: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO alive VALUES (1, ?)", (at,))
        self._stamped_at = at

    def piece(self, since: float, place: Place) -> tuple[list[Record], list[Point], Place | None]:
        """Some of what is kept of `since` or later, oldest first, from `place` on; the last of the three goes on.

        First all records, then the past, per hour and then per minute. Raises Unusable.
        """
        table, first, second = place
        records: list[Record] = []
        points: list[Point] = []
        with self._file.told():
            if table == "record":
                rows = self._shelf.piece(since, first, MOST_RECORDS_READ)
                records = [record for _, record in rows if record]
                ended, at = len(rows) < MOST_RECORDS_READ, (rows[-1][0], 0) if rows else (0, 0)
            else:
                found = self._annals.piece(table, since, (first, second), MOST_POINTS_READ)
                points = [point for _, point in found]
                ended, at = len(found) < MOST_POINTS_READ, found[-1][0] if found else (0, 0)
        if not ended:
            return records, points, Place(table, *at)
        following = TABLES.index(table) + 1
        return records, points, Place(TABLES[following]) if following < len(TABLES) else None

    def end(self, at: float, points: Sequence[Point] = ()) -> None:
        """The last word: until `at` somebody looked. Raises Unusable."""
        with self._file.told(), self._file.transaction():
            self._annals.put(points, at)
            self._stamp(at)

    def move_in(self) -> None:
        """Where the path leads nowhere any more, write a new file there with everything that this one holds.

        Raises Unusable, also where somebody has put another file there meanwhile.
        """
        self._file.copy()

    def close(self) -> None:
        """Merge the log into the file and let go of it; harmless when called twice."""
        self._file.close()


def _is_aged(known: _Written, entry: Entry, at: float) -> bool:
    """Whether value and annotations have changed, and what is written of them is too old by now."""
    return not 0.0 <= at - known.at < REFRESH_SECONDS and known.entry.details() != entry.details()


def _is_over(known: _Written, page: Page) -> bool:
    """Whether an alert that is not on the page can go: its rule has ended it, or has been away for too long itself."""
    left_for = 0.0 if known.left_at is None else page.at - known.left_at
    return known.entry.rule in page.rules or not 0.0 <= left_for <= TOLERANCE_SECONDS
