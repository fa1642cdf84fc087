"""Used bytes of the past: per minute for a week, per hour for three months, in few and small rows."""

import math
import sqlite3
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

MINUTE, HOUR = 60, 3600
MINUTES_SECONDS = 7 * 86400.0
HOURS_SECONDS = 90 * 86400.0
MOST_SERIES = 400
MOST_WAITING = 10_000
ROOM_ROWS = 5000
"""So many of the oldest rows go at a time where the file has no more room."""


class Point(NamedTuple):
    """The lowest, highest and last value of a series in the minute (or hour) that begins at Unix time `at`."""

    target: str
    metric: str
    at: int
    low: float
    high: float
    last: float


class Minutes:
    """Gathers values into minutes, until somebody takes those that are over. Lives as long as its writer."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], Point] = {}
        self._closed: deque[Point] = deque(maxlen=MOST_WAITING)

    def add(self, metric: str, values: Mapping[str, float], at: float) -> None:
        """A value of each target at Unix time `at`. What is no number is left out."""
        minute = MINUTE * int(at // MINUTE)
        for target, value in values.items():
            if not math.isfinite(value):
                continue
            known = self._open.get((target, metric))
            if known and known.at == minute:
                value_now = Point(target, metric, minute, min(known.low, value), max(known.high, value), value)
            else:
                if known:
                    self._closed.append(known)
                value_now = Point(target, metric, minute, value, value, value)
            self._open[target, metric] = value_now

    def end(self, at: float) -> None:
        """The minutes before that of `at` are over, also of targets that are gone; `math.inf` ends them all."""
        for key in [key for key, point in self._open.items() if point.at + MINUTE <= at]:
            self._closed.append(self._open.pop(key))

    def closed(self) -> list[Point]:
        """The minutes that are over and not yet written."""
        return list(self._closed)

    def written(self, count: int) -> None:
        """The first `count` of `closed` are on disk."""
        for _ in range(min(count, len(self._closed))):
            self._closed.popleft()


_PUT = """INSERT INTO minute VALUES (?, ?, ?, ?, ?) ON CONFLICT (at, series) DO UPDATE SET
  low = min(low, excluded.low), high = max(high, excluded.high), last = excluded.last"""
_ROLL = """INSERT OR REPLACE INTO hour
  SELECT :hour, found.series, found.low, found.high, minute.last FROM
    (SELECT series, min(low) AS low, max(high) AS high, max(at) AS newest FROM minute WHERE at < :end GROUP BY series)
    AS found JOIN minute ON minute.at = found.newest AND minute.series = found.series"""
_PIECE = """SELECT target, metric, at, low, high, last, series FROM {span} JOIN series ON series.id = series
  WHERE (at, series) > (?, ?) ORDER BY at, series LIMIT ?"""


class Annals:
    """The tables of the past in an open file. Used inside its owner's transactions; lives as long as the file is open.

    Rows begin with their time, so that what is new is written side by side, and what is old goes from the front.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._series: dict[tuple[str, str], int] = {
            (target, metric): number
            for number, target, metric in db.execute("SELECT id, target, metric FROM series LIMIT ?", (MOST_SERIES,))}

    def put(self, points: Sequence[Point], now: float) -> None:
        """Write these minutes; an hour that is a week old is made of its minutes, and what is too old goes."""
        rows = [(point.at, number, point.low, point.high, point.last)
                for point in points if (number := self._number(point)) is not None]
        self._db.executemany(_PUT, rows)
        if points:
            self._roll(now)

    def _number(self, point: Point) -> int | None:
        key = point.target.encode(errors="backslashreplace").decode(), point.metric
        if key not in self._series:
            if len(self._series) >= MOST_SERIES:
                return None
            made = self._db.execute("INSERT INTO series (target, metric) VALUES (?, ?)", key)
            self._series[key] = int(made.lastrowid or 0)
        return self._series[key]

    def _forget(self) -> None:
        """Give up the names of series of which nothing is left."""
        gone = self._db.execute("DELETE FROM series WHERE id NOT IN (SELECT series FROM minute) "
                                "AND id NOT IN (SELECT series FROM hour) RETURNING target, metric").fetchall()
        for key in gone:
            self._series.pop(key, None)

    def _roll(self, now: float) -> None:
        """One hour at a time, so that a long absence is worked off without keeping anybody waiting."""
        oldest = self._db.execute("SELECT min(at) FROM minute").fetchone()[0]
        end = 0 if oldest is None else HOUR * (int(oldest) // HOUR + 1)
        if oldest is not None and end <= now - MINUTES_SECONDS:
            self._db.execute(_ROLL, {"hour": end - HOUR, "end": end})
            self._db.execute("DELETE FROM minute WHERE at < ?", (end,))
        ended = self._db.execute("DELETE FROM hour WHERE at < ?", (now - HOURS_SECONDS,)).rowcount
        if ended and len(self._series) >= MOST_SERIES:
            self._forget()

    def make_room(self) -> bool:
        """Delete some of the oldest rows; False where there are none."""
        return any(self._db.execute(
            f"DELETE FROM {span} WHERE (at, series) IN (SELECT at, series FROM {span} ORDER BY at, series LIMIT ?)",  # noqa: S608
            (ROOM_ROWS,)).rowcount > 0 for span in ("hour", "minute"))

    def piece(self, span: str, since: float, after: tuple[int, int], most: int) -> list[tuple[tuple[int, int], Point]]:
        """(place, point) of up to `most` rows of `span`, "hour" or "minute", of `since` or later; oldest first.

        `at` is where the span ends: by then its last value was the value.
        """
        seconds = HOUR if span == "hour" else MINUTE
        begin = max(after, (math.ceil(max(since, 0.0)) - seconds, 0))  # one that ends at `since` or later
        found = self._db.execute(_PIECE.format(span=span), (*begin, most))
        return [((at, number), Point(target, metric, at + seconds, low, high, last))
                for target, metric, at, low, high, last, number in found
                if all(isinstance(value, int | float) for value in (low, high, last))]
