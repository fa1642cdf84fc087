"""The journal's file: SQLite, one writer, written only where something has changed.

WAL with `synchronous=NORMAL`: what was committed survives the end of this process, however it comes, and no commit
waits for the disk; when the whole machine dies, the last moments may be lost, never the file (sqlite.org/wal.html).
`locking_mode=EXCLUSIVE`: who opens the file first owns it until its process ends, and no shared memory is needed.
"""

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from sidecar.errors import SidecarError
from sidecar.journal.entry import COLUMNS, Entry, Page, RuleKey, entry_of, key_of, row_of
from sidecar.model import Labels

STAMP_SECONDS = 5.0
REFRESH_SECONDS = 60.0
"""How old what is written of a value and annotations may be."""
TOLERANCE_SECONDS = 3600.0
"""How long alerts are kept whose rule is not loaded any more."""
MOST_REFRESHED = 100
"""Of these in one page, so that a thousand alerts do not keep the interpreter busy at the same moment each minute."""
MOST_ALERTS = 10_000
MOST_BYTES = 64 * 1024 * 1024
LONGEST_FIELD_BYTES = 1 << 20
PAGE_BYTES = 1024
"""Small: SQLite touches memory for twenty pages at once, and a stamp changes one."""
PATIENCE_SECONDS = 1.0
"""How long to wait for one who is about to let go of the file."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE alert (
             rule TEXT NOT NULL, labels TEXT NOT NULL, state TEXT NOT NULL, condition INTEGER NOT NULL,
             active_at REAL NOT NULL, fired_at REAL, resolved_at REAL, keep_firing_since REAL,
             last_evaluation REAL NOT NULL, interval_seconds REAL NOT NULL, expr TEXT NOT NULL,
             value REAL, annotations TEXT NOT NULL, life TEXT NOT NULL, left_at REAL,
             PRIMARY KEY (rule, labels)) WITHOUT ROWID""",
        "CREATE TABLE alive (one INTEGER PRIMARY KEY CHECK (one = 1), at REAL NOT NULL)",
    ),
)
"""What makes version n + 1 of the file out of version n. Steps are only ever added."""

SETTINGS = ("synchronous = NORMAL", "cache_size = -64", "mmap_size = 0", "wal_autocheckpoint = 1000",
            f"journal_size_limit = {1 << 20}", f"max_page_count = {MOST_BYTES // PAGE_BYTES}")

SELECT = f"SELECT {', '.join(COLUMNS)} FROM alert LIMIT ?"  # noqa: S608 - our own constants
INSERT = f"INSERT OR REPLACE INTO alert ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608

REASONS = {
    sqlite3.SQLITE_FULL: "full", sqlite3.SQLITE_BUSY: "locked", sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "denied", sqlite3.SQLITE_CANTOPEN: "cannot_open", sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_CORRUPT: "broken", sqlite3.SQLITE_NOTADB: "broken",
}  # fmt: skip
HELP = {
    "locked": "another sidecar uses this storage path: give each its own with --storage.path",
    "newer": "a newer version has written it: start that one, or move the file away",
    "full": "make room on the disk",
}
ERRNOS = {errno.EROFS: "read_only", errno.ENOSPC: "full", errno.EDQUOT: "full", errno.EACCES: "denied",
          errno.EPERM: "denied"}  # fmt: skip
OTHER_HELP = "see that the directory exists and can be written, or name another one with --storage.path"


class Unusable(SidecarError):
    """The file cannot be used now. `reason` is a short constant word, fit for a label."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, help=HELP.get(reason, OTHER_HELP))
        self.reason = reason


_Key = tuple[RuleKey, Labels]


class _Written(NamedTuple):
    """A row: what it says, when it was written, and since when its rule has not been loaded, None while it is."""

    entry: Entry
    at: float
    left_at: float | None


class Book:
    """The open file, which is ours. Lives until `close` or its first error; only one thread uses it.

    `entries` are what it held when it was opened. Raises Unusable, here and from `write`; afterwards it must be closed.
    """

    def __init__(self, path: Path) -> None:
        self.entries: list[Entry] = []
        self._path = path
        self._written: dict[_Key, _Written] = {}
        self._stamped_at = 0.0
        with _told(path):
            self._file = _made_safe(path)
            self._db = sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None, cached_statements=16)
        try:
            with _told(path):
                self._begin()
        except Unusable:
            self.close()
            raise

    def _begin(self) -> None:
        """Take the file, see that it is whole and not from the future, bring it up to date and read it."""
        db = self._db
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_FIELD_BYTES)
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that is still empty
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE").execute("COMMIT")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(MIGRATIONS):
            raise Unusable("newer", f"{self._path} has version {version}, newer than {len(MIGRATIONS)}, which we know")
        if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise Unusable("broken", f"{self._path} is damaged: {found}")
        db.execute("PRAGMA journal_mode = WAL")
        for setting in SETTINGS:
            db.execute(f"PRAGMA {setting}")
        if version < len(MIGRATIONS):
            with _transaction(db):
                for step in MIGRATIONS[version:]:
                    for statement in step:
                        db.execute(statement)
                db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        self._read()

    def _read(self) -> None:
        stamp = self._db.execute("SELECT at FROM alive").fetchone()
        self._stamped_at = float(stamp[0]) if stamp else 0.0
        for row in self._db.execute(SELECT, (MOST_ALERTS,)):
            try:
                entry = entry_of(row, self._stamped_at)
            except (ValueError, TypeError, RecursionError) as error:
                raise Unusable("broken", f"{self._path} holds what no sidecar has written: {error}") from None
            self.entries.append(entry)
            self._written[entry.rule, entry.alert.labels] = _Written(
                entry, self._stamped_at, None if row[-1] is None else entry.seen_at)

    def write(self, page: Page) -> bool:
        """Have the file say what the page says. False where there was nothing to write.

        What of the value and the annotations has changed is written with something else, or after a minute. That
        somebody is looking is noted every five seconds, and with every page while an alert is pending: from then on
        the time of its `for` does not run.
        """
        given = {(entry.rule, entry.alert.labels): entry for entry in page.entries[:MOST_ALERTS]}
        news = {key: entry for key, entry in given.items() if self._is_news(key, entry)}
        aged = (key for key, entry in given.items()
                if key not in news and _is_aged(self._written[key], entry, page.at))
        news |= {key: given[key] for key in islice(aged, MOST_REFRESHED)}
        missing = {key: known for key, known in self._written.items() if key not in given}
        gone = [key for key, known in missing.items() if _is_over(known, page)]
        left = {key: known._replace(left_at=self._stamped_at) for key, known in missing.items()
                if known.left_at is None and known.entry.rule not in page.rules}
        if not (news or gone or left or self._stamp_due(page)):
            return False
        with _told(self._path):
            if self._replaced():
                raise Unusable("removed", f"{self._path} was removed or replaced")
            with _transaction(self._db):
                self._put(news, gone, left)
                self._stamp(page.at)
        self._written |= left | {key: _Written(entry, page.at, None) for key, entry in news.items()}
        for key in gone:
            del self._written[key]
        return True

    def _is_news(self, key: _Key, entry: Entry) -> bool:
        known = self._written.get(key)
        return known is None or known.left_at is not None or known.entry.fingerprint() != entry.fingerprint()

    def _stamp_due(self, page: Page) -> bool:
        return (not 0.0 <= page.at - self._stamped_at < STAMP_SECONDS
                or any(entry.alert.state == "pending" for entry in page.entries))

    def _put(self, news: Mapping[_Key, Entry], gone: Sequence[_Key], left: Mapping[_Key, _Written]) -> None:
        rows = [row for entry in news.values() if (row := row_of(entry)) is not None]
        self._db.executemany(INSERT, rows)
        self._db.executemany("DELETE FROM alert WHERE rule = ? AND labels = ?", [key_of(*key) for key in gone])
        self._db.executemany("UPDATE alert SET left_at = ? WHERE rule = ? AND labels = ?",
                             [(known.left_at, *key_of(*key)) for key, known in left.items()])

    def _stamp(self, at: float) -> None:
        self._db.execute("INSERT OR REPLACE INTO alive VALUES (1, ?)", (at,))
        self._stamped_at = at

    def _replaced(self) -> bool:
        """Whether the path leads to another file by now: what is written into this one would be lost."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != self._file

    def end(self, at: float) -> None:
        """The last word: until `at` somebody looked. Raises Unusable."""
        with _told(self._path), _transaction(self._db):
            self._stamp(at)

    def close(self) -> None:
        """Merge the log into the file and let go of it; harmless when called twice."""
        self._db.close()


def _is_aged(known: _Written, entry: Entry, at: float) -> bool:
    """Whether value and annotations have changed, and what is written of them is too old by now."""
    return not 0.0 <= at - known.at < REFRESH_SECONDS and known.entry.details() != entry.details()


def _is_over(known: _Written, page: Page) -> bool:
    """Whether an alert that is not on the page can go: its rule has ended it, or has been away for too long itself."""
    left_for = 0.0 if known.left_at is None else page.at - known.left_at
    return known.entry.rule in page.rules or not 0.0 <= left_for <= TOLERANCE_SECONDS


def _made_safe(path: Path) -> tuple[int, int]:
    """Make directory and file where they are missing, for us alone; (device, inode). Raises OSError, Unusable."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise Unusable("cannot_open", f"{path} is no file")
        if found.st_mode & 0o077:
            os.fchmod(fd, 0o600)
        if found.st_size > MOST_BYTES:
            raise Unusable("broken", f"{path} is larger than any journal")
        if not found.st_size:  # a log beside it belongs to a file that is gone: applied to this one it would be rubbish
            path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
        return found.st_dev, found.st_ino
    finally:
        os.close(fd)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever goes wrong becomes Unusable, with the reason in one word."""
    try:
        yield
    except OSError as error:
        raise Unusable(ERRNOS.get(error.errno or 0, "cannot_open"), f"{path}: {error.strerror}") from error
    except sqlite3.Error as error:
        reason = REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "other")
        raise Unusable(reason, f"{path}: {error}") from error


@contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing. After an error the caller closes the file, which takes back what was begun."""
    db.execute("BEGIN IMMEDIATE")
    yield
    db.execute("COMMIT")
