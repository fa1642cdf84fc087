"""The records in the journal's file: each stage of an attempt once, incidents and notes as they were last."""

import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

from sidecar.journal.record import ONCE, Record, Restored, Row, record_of

MOST_ATTEMPTS = 500
MOST_OTHERS = 1000
"""Of incidents, and of notes."""
ATTEMPT_SECONDS = 30 * 86400.0
INCIDENT_SECONDS = 86400.0
"""How long an incident is kept after its end."""
PRUNE_ROWS = 100
"""After so many rows, and with the first ones, it is seen to that there are not too many."""
ROOM_ATTEMPTS = 50
"""So many of the oldest attempts go at a time where the file has no more room."""

_INSERT = "INSERT OR IGNORE INTO record (kind, key, stage, at, ended_at, body) VALUES (?, ?, ?, ?, ?, ?)"
_UPDATE = """INSERT INTO record (kind, key, stage, at, ended_at, body) VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT (kind, key, stage) DO UPDATE SET at = excluded.at, ended_at = excluded.ended_at, body = excluded.body"""
_ALL = """SELECT id, kind, key, stage, at, body FROM record
  WHERE kind <> 'incident' OR ended_at IS NULL OR ended_at >= ? ORDER BY id"""
_PRUNE = (
    "DELETE FROM record WHERE kind NOT IN ('attempt', 'incident', 'note')",
    "DELETE FROM record WHERE kind = 'attempt' AND at < :attempts_since",
    """DELETE FROM record WHERE kind = 'attempt' AND key NOT IN
         (SELECT key FROM record WHERE kind = 'attempt' GROUP BY key ORDER BY min(id) DESC LIMIT :attempts)""",
    "DELETE FROM record WHERE kind = 'incident' AND ended_at < :incidents_since",
    """DELETE FROM record WHERE kind = 'incident' AND id NOT IN
         (SELECT id FROM record WHERE kind = 'incident' ORDER BY ended_at IS NOT NULL, id DESC LIMIT :others)""",
    """DELETE FROM record WHERE kind = 'note' AND id NOT IN
         (SELECT id FROM record WHERE kind = 'note' ORDER BY id DESC LIMIT :others)""",
)  # newest by id, the order of writing: a clock that was wrong for a while decides nothing
_MAKE_ROOM = """DELETE FROM record WHERE kind = 'attempt' AND key IN
  (SELECT key FROM record WHERE kind = 'attempt' GROUP BY key ORDER BY min(id) LIMIT ?)"""
_PIECE = "SELECT id, kind, key, stage, at, body FROM record WHERE id > ? AND at >= ? ORDER BY id LIMIT ?"


def _bounds(now: float) -> dict[str, float]:
    return {"attempts": MOST_ATTEMPTS, "others": MOST_OTHERS, "attempts_since": now - ATTEMPT_SECONDS,
            "incidents_since": now - INCIDENT_SECONDS}


def salvaged(path: Path) -> list[Record]:
    """What can still be read of a damaged file, oldest first; a row behind the damage is lost."""
    found: list[Record] = []
    try:
        with closing(sqlite3.connect(path, timeout=0.0)) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA cell_size_check = ON")
            db.text_factory = lambda text: text.decode(errors="replace")
            for _, *row in db.execute(_PIECE, (-1, -math.inf, 3 * MOST_ATTEMPTS + 2 * MOST_OTHERS)):
                with suppress(ValueError, RecursionError):
                    found.append(record_of(*row))
    except sqlite3.Error:
        pass
    return found


class Shelf:
    """The table of records of an open file. Used inside its owner's transactions; lives as long as the file is open."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self.strange: list[tuple[int]] = []
        self._unpruned = PRUNE_ROWS

    def records(self, now: float) -> Restored:
        """What a restart goes on from, oldest first of a kind; rows without sense are left out and noted in `strange`.

        The newest 500 attempts with all their stages, incidents that are open or ended within a day, and all notes.
        """
        found: dict[str, list[tuple[str, str, str, float, str]]] = {"attempt": [], "incident": [], "note": []}
        for number, *row in self._db.execute(_ALL, (now - INCIDENT_SECONDS,)):  # of one kind few are too many
            try:
                record_of(*row)
            except (ValueError, RecursionError):
                self.strange.append((number,))
            else:
                found[row[0]].append((row[0], row[1], row[2], row[3], row[4]))
        newest = {kind: set([*dict.fromkeys(row[1] for row in rows)][-most:]) for (kind, rows), most
                  in zip(found.items(), (MOST_ATTEMPTS, MOST_OTHERS, MOST_OTHERS), strict=True)}
        return Restored([row for kind, rows in found.items() for row in rows if row[1] in newest[kind]])

    def put(self, rows: Sequence[Row], now: float) -> None:
        """Write these. A planned or final stage that is there already stays as it is."""
        for row in rows:
            self._db.execute(_INSERT if row.stage in ONCE else _UPDATE, row)
        self._unpruned += len(rows)
        if self._unpruned >= PRUNE_ROWS:
            self._prune(now)

    def _prune(self, now: float) -> None:
        """Delete what makes no sense, and what is too old or too much."""
        self._unpruned = 0
        self._db.executemany("DELETE FROM record WHERE id = ?", self.strange)
        self.strange.clear()
        for statement in _PRUNE:
            self._db.execute(statement, _bounds(now))

    def make_room(self) -> bool:
        """Delete some of the oldest attempts; False where there are none."""
        return self._db.execute(_MAKE_ROOM, (ROOM_ATTEMPTS,)).rowcount > 0

    def piece(self, since: float, after: int, most: int) -> list[tuple[int, Record | None]]:
        """(place, record) of up to `most` rows of `since` or later, those behind the place `after`; oldest first.

        None for a row that makes no sense.
        """
        found: list[tuple[int, Record | None]] = []
        for number, *row in self._db.execute(_PIECE, (after, since, most)):
            try:
                found.append((number, record_of(*row)))
            except (ValueError, RecursionError):
                found.append((number, None))  # told when the file is opened next
        return found
