"""The journal as JSON lines: what `export journal` writes, and what `replay` and other programs read."""

import json
from collections.abc import Iterator, Sequence

from sidecar.journal.history import Point
from sidecar.journal.record import Record

FORMAT, VERSION = "rag-sidecar journal", 1


def header(at: float, since: float) -> str:
    """The first line: what this is, when it was written, and from when on things are in it (Unix seconds)."""
    return json.dumps({"header": {"format": FORMAT, "version": VERSION, "at": at, "since": since}})


def lines(records: Sequence[Record], points: Sequence[Point]) -> Iterator[str]:
    """`{"record": {"kind", "key", "stage", "at", "body"}}`, and samples, `{"at", "labels", "value"}`.

    The series of a metric is its last value in each minute or hour; beside it are NAME:min and NAME:max.
    """
    for record in records:
        yield json.dumps({"record": record._asdict()})
    for point in points:
        for suffix, value in (("", point.last), (":min", point.low), (":max", point.high)):
            labels = {"__name__": f"{point.metric}{suffix}", "target": point.target}
            yield json.dumps({"at": point.at, "labels": labels, "value": value})
