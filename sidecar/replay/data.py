"""What is replayed: recorded or invented series, read from a file whose every line is untrusted.

A line is one JSON object: a sample {"at", "labels", "value"}; a series in the short notation of promtool's unit tests
{"at", "labels", "values": "0+10x60", "step": 1}; a row of the journal {"record"}; or what a Prometheus answers to
`query_range`, which may also be the whole file, over many lines. Other objects are passed over.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from sidecar.errors import SidecarError
from sidecar.model import METRIC_NAME, Labels
from sidecar.rules.series_notation import parse_values

MOST_SAMPLES = 5_000_000
MOST_BYTES = 1 << 30
MOST_SERIES = 100_000
LONGEST_LABEL = 4096
LONGEST_GAP_STEPS = 2.5
"""A value holds until the next one, but not for longer than so many of its series' usual steps."""
SHORTEST_HOLD_SECONDS = 10.0
FORMAT = "docs/replay.md says what the file may hold"

Points = list[tuple[float, float]]
"""(Unix time, value), in ascending time."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a file holds: series, in ascending time, and the rows of a journal. `skipped` objects were passed over."""

    series: Mapping[Labels, Points]
    records: list[Mapping[str, Any]] = field(default_factory=list)
    skipped: int = 0

    def named(self, metric: str, target: str) -> Points:
        """The points of a metric of a target, all of its series together; of several at one time the greatest."""
        found: dict[float, float] = {}
        for labels, points in self.series.items():
            if labels.metric == metric and labels.get("target") == target:
                for at, value in points:
                    found[at] = max(value, found.get(at, value))
        return sorted(found.items())

    def targets(self, metric: str) -> list[str]:
        """The targets of which there is this metric, in order."""
        return sorted({labels["target"] for labels in self.series if labels.metric == metric and "target" in labels})


def hold_seconds(points: Points) -> float:
    """For how long a value holds where none follows."""
    steps = [after - before for (before, _), (after, _) in pairwise(points)]
    return max(SHORTEST_HOLD_SECONDS, LONGEST_GAP_STEPS * median(steps)) if steps else SHORTEST_HOLD_SECONDS


def with_gaps(points: Points) -> list[tuple[float, float | None]]:
    """The points, with None where a value has held for as long as it may and no other has come."""
    hold, found = hold_seconds(points), []
    for index, (at, value) in enumerate(points):
        found.append((at, value if math.isfinite(value) else None))
        if index + 1 == len(points) or points[index + 1][0] > at + hold:
            found.append((at + hold, None))
    return found


def read(path: Path) -> Recording:
    """Read a file. Raises SidecarError for one that cannot be read, holds no series, or holds too much."""
    reading = _Reading(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise SidecarError(f"{path}: more than {MOST_BYTES >> 20} MiB", help="replay a part of it")
        with path.open(encoding="utf-8") as lines:
            reading.take_all(lines)
    except OSError as error:
        raise SidecarError(f"{path} cannot be read: {error.strerror}", help=FORMAT) from error
    except UnicodeDecodeError as error:
        raise SidecarError(f"{path} holds no text in UTF-8", help=FORMAT) from error
    return reading.recording()


class _Reading:
    """One file on its way into memory. Lives as long as it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = str(path)
        self._series: dict[Labels, dict[float, float]] = {}
        self._records: list[Mapping[str, Any]] = []
        self._samples = self._skipped = 0

    def take_all(self, lines: Iterator[str]) -> None:
        """Every line; a first one that is no JSON by itself may begin a document that is the whole file."""
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            self._place = f"{self._path}:{number}"
            try:
                self._take(json.loads(line))
            except json.JSONDecodeError as error:
                if number > 1 or line.strip() not in ("{", "["):
                    raise self._wrong(f"no JSON object: {error.msg}") from None
                self._take_document(line + "".join(lines))
            except RecursionError:
                raise self._wrong("no JSON object: lists within lists within lists") from None

    def recording(self) -> Recording:
        """What has been read."""
        if not self._series:
            raise SidecarError(f"{self._path} holds no series", help=FORMAT)
        return Recording({labels: sorted(points.items()) for labels, points in self._series.items()}, self._records,
                         self._skipped)

    def _wrong(self, what: str) -> SidecarError:
        return SidecarError(f"{self._place}: {what}", help=FORMAT)

    def _take_document(self, text: str) -> None:
        try:
            self._take(json.loads(text))
        except (json.JSONDecodeError, RecursionError) as error:
            raise self._wrong(f"neither JSON lines nor one JSON object: {error}") from None

    def _take(self, said: Any) -> None:
        if not isinstance(said, dict):
            raise self._wrong("not a JSON object")
        data = said.get("data", said)
        if isinstance(data, dict) and data.get("resultType") == "matrix" and isinstance(data.get("result"), list):
            for one in data["result"]:
                self._take_matrix(one)
        elif isinstance(said.get("record"), dict):
            self._records.append(said["record"])
        elif "labels" in said and "values" in said:
            self._take_notation(said)
        elif "labels" in said and "value" in said:
            self._put(self._labels(said["labels"]), [(said.get("at"), said["value"])])
        else:
            self._skipped += 1

    def _take_matrix(self, one: Any) -> None:
        if not isinstance(one, dict) or not isinstance(one.get("values", []), list):
            raise self._wrong("not an answer to query_range")
        rows = one.get("values", [])
        if not all(isinstance(row, list) and len(row) == 2 for row in rows):
            raise self._wrong("not an answer to query_range: its values are no pairs")
        self._put(self._labels(one.get("metric")), [(at, value) for at, value in rows])

    def _take_notation(self, said: Mapping[str, Any]) -> None:
        at, step = self._number(said.get("at", 0), "at"), self._number(said.get("step", 1), "step")
        if step <= 0:
            raise self._wrong(f"step {step} is not more than 0 seconds")
        try:
            values = parse_values(str(said["values"]))
        except ValueError as error:
            raise self._wrong(str(error)) from None
        self._put(self._labels(said["labels"]), [(at + index * step, value) for index, value in enumerate(values)
                                                 if isinstance(value, float) and value == value])

    def _labels(self, said: Any) -> Labels:
        if not isinstance(said, dict) or not all(isinstance(text, str) and len(text) <= LONGEST_LABEL
                                                 for pair in said.items() for text in pair):
            raise self._wrong("labels are no object of texts")
        if not said.get(METRIC_NAME):
            raise self._wrong("a series without a name: the label __name__ is missing (a query whose result keeps it "
                              "asks for a metric, not for a calculation)")
        return Labels(said)

    def _number(self, said: Any, what: str) -> float:
        try:
            found = float(said)
        except (TypeError, ValueError, OverflowError):
            raise self._wrong(f"{what} is no number: {said!r:.50}") from None
        if what != "value" and not abs(found) < 1e12:
            raise self._wrong(f"{what} is no time in seconds: {said!r:.50}")
        return found

    def _put(self, labels: Labels, rows: list[tuple[Any, Any]]) -> None:
        points = self._series.setdefault(labels, {})
        for at, value in rows:
            points[self._number(at, "at")] = self._number(value, "value")
        self._samples += len(rows)
        if self._samples > MOST_SAMPLES or len(self._series) > MOST_SERIES:
            raise self._wrong(f"more than {MOST_SAMPLES} samples or {MOST_SERIES} series: replay a part of it")
