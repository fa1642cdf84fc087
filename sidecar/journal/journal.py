"""The journal at work: a thread of its own writes what each tick hands over, and no tick ever waits for a disk."""

import logging
import math
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from sidecar.journal.book import Place
from sidecar.journal.entry import Entry, Page
from sidecar.journal.file import Unusable
from sidecar.journal.history import Point
from sidecar.journal.record import Record
from sidecar.journal.scribe import Scribe
from sidecar.model import Labels, Metric, Sample, series

log = logging.getLogger(__name__)

FILE = "journal.db"
OPENING_SECONDS = 3.0
ENDING_SECONDS = 2.0
SILENCE_SECONDS = 15.0
"""A writer from which nothing has come for so long hangs: the disk does not answer."""
MOST_READINGS = 4

UP = Metric("rag_sidecar_journal_up", "gauge",
            "1 while alert states and actions are written to disk, 0 while they are in memory only.")
WRITES = Metric("rag_sidecar_journal_writes_total", "counter", "Transactions written to the journal.")
FAILURES = Metric("rag_sidecar_journal_failures_total", "counter", "Times the journal could not be written, by reason.")
LOST = Metric("rag_sidecar_journal_lost_total", "counter",
              "Rows of the journal that were given up, by reason: overflow of what waits; broken, of no sense.")
METRICS = (UP, WRITES, FAILURES, LOST)


class Piece(NamedTuple):
    """Some of what the journal keeps; `place` is where the next piece begins, None behind the last."""

    records: Sequence[Record]
    points: Sequence[Point]
    place: Place | None


class _Reading(NamedTuple):
    since: float
    place: Place
    answer: "Future[Piece]"


class Journal:
    """A scribe in a thread, the desk's only one. Lives as long as the desk; only `open` and `close` ever wait.

    Of pages only the latest waits: a page says everything, so none before it is needed any more. Records wait until
    they are written, see `Waiting`.
    """

    def __init__(self, folder: Path) -> None:
        self._scribe = Scribe(folder / FILE)
        self._latest: deque[Page] = deque(maxlen=1)
        self._readings: deque[_Reading] = deque()
        self._entries: list[Entry] = []
        self._records: Sequence[Record] = ()
        self._given = 0
        self._given_up = 0
        self._noted_at = self._unheard_since = -math.inf
        self._opened = threading.Event()
        self._wake = threading.Event()
        self._ending = False
        self._thread: threading.Thread | None = None

    def open(self, now: float) -> list[Entry]:
        """Begin; the alerts that were journalled before. A disk that does not answer in time is not waited for."""
        self._thread = threading.Thread(target=self._work, args=(now,), name="journal", daemon=True)
        self._thread.start()
        if not self._opened.wait(OPENING_SECONDS):
            log.warning("the journal does not open; nothing is restored", extra={"seconds": OPENING_SECONDS})
            return []
        entries, self._entries = self._entries, []
        return entries

    @property
    def records(self) -> Sequence[Record]:
        """What was done before, oldest first, once `open` has returned. Handed out once: the journal keeps no copy."""
        if not self._opened.is_set():
            return ()
        records, self._records = self._records, ()
        return records

    def record(self, records: Sequence[Record], mark: int) -> None:
        """Have these written, all before `marked` reaches `mark`. Of a key, planned and final count once: the first."""
        if records or mark > self._given or self._latest:  # an idle thread is not woken for nothing
            self._given = max(self._given, mark)
            self._scribe.waiting.put(records, mark)
            self._wake.set()

    @property
    def marked(self) -> int:
        """The largest mark all of whose records are on disk, or were given up because the file cannot be written."""
        return max(self._scribe.marked, self._given_up)

    @property
    def settled(self) -> bool:
        """Whether no record waits, other than for a file that cannot be written now."""
        return self._scribe.good_at is None or not self._scribe.waiting.look()[0]

    def note(self, page: Page) -> None:
        """Have this page written. Of a disk that does not answer nothing more is expected: marks are given up."""
        self._latest.append(page)
        if self._scribe.heard_at >= self._noted_at:
            self._unheard_since = page.at
        elif page.at - self._unheard_since > SILENCE_SECONDS:
            self._given_up = self._given
        self._noted_at = page.at

    def read(self, since: float, place: Place | None = None) -> "Future[Piece]":
        """What is kept of `since` or later, a piece at a time, beginning at `place`: the thread reads between writes.

        The answer, or this call, raises Unusable where the file cannot be read, or too many are reading.
        """
        if len(self._readings) >= MOST_READINGS or self._ending:
            raise Unusable("busy", "the journal is being read by others; ask again")
        reading = _Reading(since, place or Place(), Future())
        self._readings.append(reading)
        self._wake.set()
        return reading.answer

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
                  for reason, count in list(self._scribe.failures.items())),
                *(Sample(series(base, LOST.name, "reason", reason), count, at)
                  for reason, count in list(self._scribe.waiting.lost.items()))]

    def _work(self, now: float) -> None:
        self._entries = self._scribe.open(now)
        self._records = self._scribe.records()
        self._opened.set()
        at, over = None, False
        while not over:
            self._wake.wait()
            self._wake.clear()
            over = self._ending  # asked first: what was noted before the end is written
            page = self._latest.popleft() if self._latest else None
            at = page.at if page else at
            self._scribe.take(page)
            while self._readings:
                self._answer(self._readings.popleft())
        self._scribe.close(at)
        while self._readings:
            self._answer(self._readings.popleft())

    def _answer(self, reading: _Reading) -> None:
        if not reading.answer.set_running_or_notify_cancel():
            return
        try:
            reading.answer.set_result(Piece(*self._scribe.piece(reading.since, reading.place)))
        except Unusable as error:
            reading.answer.set_exception(error)
