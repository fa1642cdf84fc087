"""The journal's file: SQLite, one writer, opened so that it is whole, ours and of our version.

WAL with `synchronous=NORMAL`: what was committed survives the end of this process, however it comes, and no commit
waits for the disk; when the whole machine dies, the last moments may be lost, never the file (sqlite.org/wal.html).
`locking_mode=EXCLUSIVE`: who opens the file first owns it until its process ends, and no shared memory is needed.
"""

import errno
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidecar.errors import SidecarError

MOST_BYTES = 64 * 1024 * 1024
ROOM_BYTES = 40 * 1024 * 1024
"""What may be in use before history and old attempts make room; the rest is for alerts."""
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
    (
        """CREATE TABLE record (
             id INTEGER PRIMARY KEY, kind TEXT NOT NULL, key TEXT NOT NULL, stage TEXT NOT NULL, at REAL NOT NULL,
             ended_at REAL, body TEXT NOT NULL, UNIQUE (kind, key, stage))""",
        """CREATE TABLE series (
             id INTEGER PRIMARY KEY, target TEXT NOT NULL, metric TEXT NOT NULL, UNIQUE (target, metric))""",
        *(f"""CREATE TABLE {span} (
                at INTEGER NOT NULL, series INTEGER NOT NULL, low REAL NOT NULL, high REAL NOT NULL,
                last REAL NOT NULL, PRIMARY KEY (at, series)) WITHOUT ROWID""" for span in ("minute", "hour")),
    ),
    ("ALTER TABLE alert ADD COLUMN told TEXT",),
)
"""What makes version n + 1 of the file out of version n. Steps are only ever added."""

SETTINGS = ("synchronous = NORMAL", "cache_size = -64", "mmap_size = 0", "wal_autocheckpoint = 1000",
            f"journal_size_limit = {1 << 20}", f"max_page_count = {MOST_BYTES // PAGE_BYTES}")

REASONS = {
    sqlite3.SQLITE_FULL: "full", sqlite3.SQLITE_BUSY: "locked", sqlite3.SQLITE_READONLY: "read_only",
    sqlite3.SQLITE_PERM: "denied", sqlite3.SQLITE_CANTOPEN: "cannot_open", sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_CORRUPT: "broken", sqlite3.SQLITE_NOTADB: "broken",
    sqlite3.SQLITE_ERROR: "broken", sqlite3.SQLITE_TOOBIG: "broken",  # tables that are not ours, texts without end
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


class File:
    """The open file, which is ours. Lives until `close` or its first error; only one thread uses it.

    Raises Unusable here, and in everything that is done inside `told`; afterwards it must be closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self.told():
            self._inode = _made_safe(path)
            self.db = sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None, cached_statements=24)
        try:
            with self.told():
                self._begin()
        except Unusable:
            self.close()
            raise

    def _begin(self) -> None:
        """Take the file, see that it is whole and not from the future, and bring it up to date."""
        db = self.db
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_FIELD_BYTES)
        db.text_factory = lambda text: text.decode(errors="replace")
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # of a file that is still empty
        db.execute("PRAGMA locking_mode = EXCLUSIVE")
        db.execute("BEGIN EXCLUSIVE").execute("COMMIT")
        version = self._figure("user_version")
        if version > len(MIGRATIONS):
            raise Unusable("newer", f"{self.path} has version {version}, newer than {len(MIGRATIONS)}, which we know")
        if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise Unusable("broken", f"{self.path} is damaged: {found}")
        db.execute("PRAGMA journal_mode = WAL")
        for setting in SETTINGS:
            db.execute(f"PRAGMA {setting}")
        if version < len(MIGRATIONS):
            with self.transaction():
                for step in MIGRATIONS[version:]:
                    for statement in step:
                        db.execute(statement)
                db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")

    @contextmanager
    def told(self) -> Iterator[None]:
        """Whatever goes wrong becomes Unusable, with the reason in one word."""
        try:
            yield
        except OSError as error:
            raise Unusable(ERRNOS.get(error.errno or 0, "cannot_open"), f"{self.path}: {error.strerror}") from error
        except sqlite3.Error as error:
            reason = REASONS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "other")
            raise Unusable(reason, f"{self.path}: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. After an error the file must be closed, which takes back what was begun."""
        self.db.execute("BEGIN IMMEDIATE")
        yield
        self.db.execute("COMMIT")

    def used_bytes(self) -> int:
        """How much of the file is in use, the room left by what was deleted not counted."""
        return PAGE_BYTES * (self._figure("page_count") - self._figure("freelist_count"))

    def _figure(self, name: str) -> int:
        return int(self.db.execute(f"PRAGMA {name}").fetchone()[0])

    def check_place(self) -> None:
        """Raise Unusable if the path leads to another file by now, or to none: what is written here would be lost."""
        with self.told():
            try:
                found = self.path.stat()
            except FileNotFoundError:
                raise Unusable("removed", f"{self.path} was removed") from None
            if (found.st_dev, found.st_ino) != self._inode:
                raise Unusable("removed", f"{self.path} was replaced")

    def copy(self) -> None:
        """A file of the same content where this one was removed. Raises Unusable, also where there is one again."""
        with self.told():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            self.path.with_name(f"{self.path.name}-wal").unlink(missing_ok=True)
            made = sqlite3.connect(self.path, timeout=0.0)
            try:
                made.execute(f"PRAGMA page_size = {PAGE_BYTES}")
                self.db.backup(made)
            finally:
                made.close()

    def close(self) -> None:
        """Merge the log into the file and let go of it; harmless when called twice."""
        self.db.close()


def _check_ours(path: Path, found: os.stat_result) -> None:
    """Raise Unusable for what is no file, is one under another name, too, or belongs to one who may not change ours."""
    if not stat.S_ISREG(found.st_mode):
        raise Unusable("cannot_open", f"{path} is no file")
    if found.st_nlink > 1:
        raise Unusable("cannot_open", f"{path} is a file that has another name, too")
    if found.st_uid not in (0, os.geteuid(), path.parent.stat().st_uid):
        raise Unusable("denied", f"{path} belongs to another user, with the number {found.st_uid}")


def _made_safe(path: Path) -> tuple[int, int]:
    """Make directory and file where they are missing, for us alone; (device, inode). Raises OSError, Unusable."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(fd)
        _check_ours(path, found)
        for end in ("-wal", "-journal"):  # SQLite would wait for a pipe, and write to a file of another name
            with suppress(FileNotFoundError):
                _check_ours(beside := path.with_name(path.name + end), beside.lstat())
        if found.st_mode & 0o077:
            os.fchmod(fd, 0o600)
        if found.st_size > MOST_BYTES:
            raise Unusable("broken", f"{path} is larger than any journal")
        if not found.st_size:  # a log beside it belongs to a file that is gone: applied to this one it would be rubbish
            path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
        return found.st_dev, found.st_ino
    finally:
        os.close(fd)
