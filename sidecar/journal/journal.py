"""The journal at work: a thread of its own writes what each tick hands over, and no tick ever waits for a disk."""

import logging
import threading
from collections import Counter, deque
from pathlib import Path

from sidecar.journal.book import Book, Unusable
from sidecar.journal.entry import Entry, Page
from sidecar.model import Labels, Metric, Sample, series

log = logging.getLogger(__name__)

FILE = "journal.db"
OPENING_SECONDS = 3.0
ENDING_SECONDS = 2.0
SILENCE_SECONDS = 15.0
"""A writer from which nothing has come for so long hangs: the disk does not answer."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0

UP = Metric("rag_sidecar_journal_up", "gauge",
            "1 while alert states are written to disk, 0 while they are in memory only.")
WRITES = Metric("rag_sidecar_journal_writes_total", "counter", "Transactions written to the journal.")
FAILURES = Metric("rag_sidecar_journal_failures_total", "counter", "Times the journal could not be written, by reason.")
METRICS = (UP, WRITES, FAILURES)


class Scribe:
    """Keeps the file: opens it, writes page after page, and after an error tries again, later each time.

    Works in virtual time: whatever it waits for it waits for in the times of the pages. Lives as long as the desk; used
    by one thread, while others may look at its figures.
    """

    def __init__(self, path: Path) -> None:
        self.writes = 0
        self.failures: Counter[str] = Counter()
        self.good_at: float | None = None
        self._path = path
        self._book: Book | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._retry_at = 0.0
        self._said = ""

    def open(self, now: float) -> list[Entry]:
        """Open the file at Unix time `now`; what it holds, which is nothing where it cannot be opened."""
        try:
            self._book = self._opened(now)
        except Unusable as error:
            self._fail(error, now)
            return []
        self.good_at = now
        entries, self._book.entries = self._book.entries, []
        return entries

    def take(self, page: Page) -> None:
        """Have the file say what the page says, if it can be written now."""
        if self._book is None and self._retry_at - LONGEST_PAUSE_SECONDS <= page.at < self._retry_at:
            return
        try:
            if self._book is None:
                self._book = self._opened(page.at)
            self.writes += self._book.write(page)
        except Unusable as error:
            self._fail(error, page.at)
            return
        self.good_at = page.at
        self._pause = FIRST_PAUSE_SECONDS
        if self._said:
            log.info("the journal is written again", extra={"path": str(self._path)})
            self._said = ""

    def close(self, at: float | None) -> None:
        """Let go of the file; until `at` somebody looked."""
        if self._book is None:
            return
        try:
            if at is not None:
                self._book.end(at)
        except Unusable as error:
            self._fail(error, at or 0.0)
        else:
            self._book.close()

    def _opened(self, now: float) -> Book:
        """The file, and where it cannot be made sense of, a fresh one in its place."""
        try:
            return Book(self._path)
        except Unusable as error:
            if error.reason != "broken":
                raise
            self.failures["broken"] += 1
            moved = _move_aside(self._path, now)
            log.error("the journal cannot be read and is begun anew",
                      extra={"reason": str(error), "moved_to": moved.name})
        return Book(self._path)

    def _fail(self, error: Unusable, now: float) -> None:
        if self._book is not None:
            self._book.close()
            self._book = None
        self.good_at = None
        self.failures[error.reason] += 1
        self._retry_at = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
        if error.reason != self._said:
            log.warning("alert states are in memory only, a restart would lose them; tried again",
                        extra={"reason": error.reason, "error": str(error), "help": error.help})
            self._said = error.reason


class Journal:
    """A scribe in a thread, the desk's only one. Lives as long as the desk; `note` and `samples` never wait.

    Of what is handed over only the latest waits: a page says everything, so none before it is needed any more.
    """

    def __init__(self, folder: Path) -> None:
        self._scribe = Scribe(folder / FILE)
        self._latest: deque[Page] = deque(maxlen=1)
        self._entries: list[Entry] = []
        self._opened = threading.Event()
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None

    def open(self, now: float) -> list[Entry]:
        """Begin; what was journalled before. A disk that does not answer in time is not waited for."""
        self._thread = threading.Thread(target=self._work, args=(now,), name="journal", daemon=True)
        self._thread.start()
        if not self._opened.wait(OPENING_SECONDS):
            log.warning("the journal does not open; nothing is restored", extra={"seconds": OPENING_SECONDS})
            return []
        entries, self._entries = self._entries, []
        return entries

    def note(self, page: Page) -> None:
        """Have this page written."""
        self._latest.append(page)
        self._wake.set()

    def close(self) -> None:
        """Write what was noted last and end; a disk that does not answer in time is not waited for."""
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(ENDING_SECONDS)
            if self._thread.is_alive():
                log.warning("the journal's last page may not be written", extra={"seconds": ENDING_SECONDS})

    def samples(self, base: Labels, at: float) -> list[Sample]:
        """The series of METRICS as they are now."""
        good_at = self._scribe.good_at
        up = good_at is not None and at - good_at <= SILENCE_SECONDS
        return [Sample(series(base, UP.name), float(up), at),
                Sample(series(base, WRITES.name), self._scribe.writes, at),
                *(Sample(series(base, FAILURES.name, "reason", reason), count, at)
                  for reason, count in list(self._scribe.failures.items()))]

    def _work(self, now: float) -> None:
        self._entries = self._scribe.open(now)
        self._opened.set()
        at, over = None, False
        while not over:
            self._wake.wait()
            self._wake.clear()
            over = self._ending  # asked first: what was noted before the end is written
            while self._latest:
                page = self._latest.popleft()
                at = page.at
                self._scribe.take(page)
        self._scribe.close(at)


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
