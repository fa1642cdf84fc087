"""What was done, as the journal keeps it: records of attempts, incidents and notes, and the queue they wait in."""

import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

Kind = Literal["attempt", "incident", "note"]
Stage = Literal["planned", "final", "rebound", "state"]
STAGES: Mapping[str, tuple[Stage, ...]] = {
    "attempt": ("planned", "final", "rebound"), "incident": ("state",), "note": ("state",)}
ONCE = ("planned", "final")
"""Stages that are written at most once for a key: the first wins."""

LONGEST_KEY = 512
LONGEST_BODY = 1 << 16
"""Of a record, as written; the largest members of a larger one are left out, and named in its member `cut`."""
MOST_WAITING = 1000
MOST_WAITING_BYTES = 1 << 20


class Record(NamedTuple):
    """What is to be remembered of `key`, the id of an attempt or an incident or the name of a note: plain JSON.

    `at` is Unix time in seconds. An attempt has up to three stages, the others have the one stage "state".
    """

    kind: Kind
    key: str
    stage: Stage
    at: float
    body: Mapping[str, Any]


class Row(NamedTuple):
    """A record as the columns of its table. `ended_at` is the body's, where that is a time."""

    kind: str
    key: str
    stage: str
    at: float
    ended_at: float | None
    body: str


def row_of(record: Record) -> Row:
    """The record as it is written. Raises ValueError for what is no record: no such stage, no time, no plain JSON."""
    if record.stage not in STAGES.get(record.kind, ()) or not math.isfinite(record.at):
        raise ValueError(f"{record.kind!r:.50} {record.stage!r:.50} at {record.at!r:.50} is no record")
    key = record.key[:LONGEST_KEY].encode(errors="backslashreplace").decode()  # a lone surrogate fits into no file
    ended_at = record.body.get("ended_at")
    try:
        text = _text_of(record.body)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{record.kind} {key}: {error}") from None
    return Row(record.kind, key, record.stage, record.at, _moment(ended_at), text)


def record_of(kind: object, key: object, stage: object, at: object, body: object) -> Record:
    """The record in a row. Raises ValueError or RecursionError for what no sidecar has written."""
    if not (isinstance(kind, str) and isinstance(key, str) and isinstance(stage, str) and isinstance(body, str)):
        raise ValueError("a record of odd types")
    found = json.loads(body, parse_constant=lambda _: None)
    time = _moment(at)
    if stage not in STAGES.get(kind, ()) or time is None or not isinstance(found, dict) or len(body) > LONGEST_BODY:
        raise ValueError(f"no record: {kind!r:.50} {stage!r:.50}")
    return Record(kind, key, stage, time, found)  # type: ignore[arg-type]  # STAGES has just said so


class Restored(Sequence[Record]):
    """Records that stay text until they are looked at, each time anew: bodies by the thousand would take megabytes."""

    def __init__(self, rows: Sequence[tuple[str, str, str, float, str]] = ()) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        return Restored(self._rows[index]) if isinstance(index, slice) else record_of(*self._rows[index])


def _text_of(body: Mapping[str, Any]) -> str:
    text = json.dumps(dict(body))
    if len(text) <= LONGEST_BODY:
        return text
    sizes = {name: len(json.dumps({name: value})) for name, value in body.items()}
    kept, room = {}, LONGEST_BODY // 2  # the rest is for the names of what does not fit
    for name in sorted(sizes, key=sizes.__getitem__):
        room -= sizes[name]
        if room < 0:
            break
        kept[name] = body[name]
    cut = [name[:100] for name in sizes if name not in kept][:100]
    return json.dumps({**kept, "cut": cut})


def _moment(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]  # `known` has just said so


class Waiting:
    """Records on their way to the file. Put in by one thread, taken by another; neither ever waits for a disk.

    Bounded: of one key and stage one record waits, and when they become too many or too large the oldest finals go
    first, because an attempt without a final is taken for one that did not help, which errs on the safe side.
    Lives as long as the journal; `lost` counts, by reason, what was given up.
    """

    def __init__(self) -> None:
        self.lost: Counter[str] = Counter()
        self._rows: dict[tuple[str, str, str], Row] = {}
        self._bytes = 0
        self._mark = 0
        self._lock = threading.Lock()

    def put(self, records: Sequence[Record], mark: int) -> None:
        """Have these written; with everything up to them on disk, `mark` is reached."""
        rows = []
        for record in records:
            try:
                rows.append(row_of(record))
            except ValueError:
                self.lost["broken"] += 1
        with self._lock:
            for row in rows:
                self._put(row)
            self._mark = max(self._mark, mark)

    def _put(self, row: Row) -> None:
        key = row.kind, row.key, row.stage
        if known := self._rows.get(key):
            if row.stage in ONCE:
                return
            self._bytes -= len(known.body)
        self._rows[key] = row
        self._bytes += len(row.body)
        while len(self._rows) > MOST_WAITING or self._bytes > MOST_WAITING_BYTES:
            oldest = next((each for each in self._rows if each[2] == "final"), next(iter(self._rows)))
            self._bytes -= len(self._rows.pop(oldest).body)
            self.lost["overflow"] += 1

    def put_first(self, records: Sequence[Record]) -> None:
        """Have these written before all that waits: they were said earlier."""
        with self._lock:
            later, self._rows, self._bytes = list(self._rows.values()), {}, 0
        self.put(records, 0)
        with self._lock:
            for row in later:
                self._put(row)

    def look(self) -> tuple[list[Row], int]:
        """All that waits, oldest first, and the mark that is reached when it is written."""
        with self._lock:
            return list(self._rows.values()), self._mark

    def done(self, rows: Iterable[Row]) -> None:
        """These are on disk; what has been said anew since they were looked at waits on."""
        with self._lock:
            for row in rows:
                key = row.kind, row.key, row.stage
                if self._rows.get(key) is row:
                    del self._rows[key]
                    self._bytes -= len(row.body)
