"""Who keeps the journal's file: opens it, writes to it, and after an error tries again, later each time."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sidecar.journal.book import Book, Place
from sidecar.journal.entry import Entry, Page
from sidecar.journal.file import MOST_BYTES, Unusable
from sidecar.journal.history import Minutes, Point
from sidecar.journal.record import Record, Waiting
from sidecar.journal.shelf import salvaged

log = logging.getLogger(__name__)

USED, RSS = "rag_memory_used_bytes", "rag_memory_rss_bytes"
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


class Scribe:
    """Keeps the file. Lives as long as the desk; used by one thread, while others may look at its figures.

    Works in virtual time: whatever it waits for it waits for in the times of the pages. `waiting` holds the records
    that are not on disk; `marked` is the largest mark whose records are, or cannot be now; `good_at` is when the file
    was last known to be sound, None while it is not, and `heard_at` the page it has last come to an end with.
    """

    def __init__(self, path: Path) -> None:
        self.waiting = Waiting()
        self.marked = 0
        self.writes = 0
        self.failures: Counter[str] = Counter()
        self.good_at: float | None = None
        self.heard_at = -math.inf
        self._minutes = Minutes()
        self._path = path
        self._book: Book | None = None
        self._at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._retry_at = 0.0
        self._said = ""

    def open(self, now: float) -> list[Entry]:
        """Open the file at Unix time `now`; the alerts it holds, which are none where it cannot be opened."""
        self._at = now
        try:
            self._book = self._opened(now)
        except Unusable as error:
            self._fail(error, now)
            return []
        self.good_at = now
        entries, self._book.entries = self._book.entries, []
        return entries

    def records(self) -> Sequence[Record]:
        """The records that the file held when it was opened, oldest first; none where it could not be opened."""
        if self._book is None:
            return ()
        records, self._book.records = self._book.records, ()
        return records

    def take(self, page: Page | None = None) -> None:
        """Have the file say what the page says, and keep all records that wait, if it can be written now."""
        if page:
            self._at = page.at
            self._minutes.add(USED, page.used, page.at)
            self._minutes.add(RSS, page.rss, page.at)
            self._minutes.end(page.at)
        mark = self.waiting.look()[1]
        if self._book is None and self._retry_at - LONGEST_PAUSE_SECONDS <= self._at < self._retry_at:
            self._come_to(mark)
            return
        try:
            if self._book is None:
                self._book = self._opened(self._at)
                self._book.entries, self._book.records = [], ()
            rows, mark = self.waiting.look()  # not before, because opening may bring some of a damaged file
            points = self._minutes.closed()
            if self._book.write(page, rows, points, self._at):
                self.writes += 1
                self.waiting.done(rows)
                self._minutes.written(len(points))
        except Unusable as error:
            self._fail(error, self._at)
            self._come_to(mark)
            return
        self._come_to(mark)
        self.good_at = self._at
        self._pause = FIRST_PAUSE_SECONDS
        if self._said:
            log.info("the journal is written again", extra={"path": str(self._path)})
            self._said = ""

    def _come_to(self, mark: int) -> None:
        self.marked = max(self.marked, mark)
        self.heard_at = self._at

    def piece(self, since: float, place: Place) -> tuple[list[Record], list[Point], Place | None]:
        """Some of what is kept, see `Book.piece`. Raises Unusable where there is no file now."""
        if self._book is None:
            raise Unusable(self._said or "other", f"{self._path} cannot be read now")
        try:
            return self._book.piece(since, place)
        except Unusable as error:
            self._fail(error, self._at)
            raise

    def close(self, at: float | None) -> None:
        """Let go of the file; until `at` somebody looked."""
        if self._book is None:
            return
        try:
            if at is not None:
                self._minutes.end(math.inf)
                self._book.end(at, self._minutes.closed())
        except Unusable as error:
            self._fail(error, at or 0.0)
        else:
            self._book.close()
            self._book = None

    def _opened(self, now: float) -> Book:
        """The file, and where it cannot be made sense of, a fresh one in its place."""
        try:
            book = Book(self._path, now)
        except Unusable as error:
            if error.reason != "broken":
                raise
            self.failures["broken"] += 1
            moved = _move_aside(self._path, now)
            saved = salvaged(moved) if moved.stat().st_size <= MOST_BYTES else []
            self.waiting.put_first(saved)
            log.error("the journal cannot be read and is begun anew",
                      extra={"reason": str(error), "moved_to": moved.name, "records_saved": len(saved)})
            book = Book(self._path, now)
            book.records = saved
            return book
        if book.broken:
            log.warning("the journal holds rows that no sidecar has written; they are left out",
                        extra={"rows": book.broken})
            self.waiting.lost["broken"] += book.broken
        return book

    def _fail(self, error: Unusable, now: float) -> None:
        if self._book is not None:
            if error.reason == "removed":
                self._save(self._book)
            self._book.close()
            self._book = None
        self.good_at = None
        self.failures[error.reason] += 1
        self._retry_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if error.reason != self._said:
            log.warning("alert states and actions are in memory only, a restart would lose them; tried again",
                        extra={"reason": error.reason, "error": str(error), "help": error.help})
            self._said = error.reason

    def _save(self, book: Book) -> None:
        """The file was removed while it was open: what it holds goes into a new one in its place."""
        try:
            book.move_in()
        except Unusable as error:
            log.warning("what the removed journal held is lost", extra={"error": str(error)})


def _move_aside(path: Path, now: float) -> Path:
    """Give a broken file, and the log beside it, another name, in place of the one before it. Raises Unusable."""
    moved = path.with_name(f"{path.name}.broken-{now:.0f}")
    try:
        for old in path.parent.glob(f"{path.name}.broken-*"):
            old.unlink()
        for end in ("", "-wal"):
            if (source := path.with_name(path.name + end)).exists():
                source.rename(moved.with_name(moved.name + end))
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)
    except OSError as error:
        raise Unusable("broken", f"{path} is damaged and cannot be moved aside: {error.strerror}") from error
    return moved
