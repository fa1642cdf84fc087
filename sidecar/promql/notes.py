"""Remarks on queries that ran, as they travel to the asker."""

from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from sidecar.promql.notation import format_general

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Fix(NamedTuple):
    """Which buckets of `histograms` classic histograms had to be mended, by how much at most, and when (Unix time)."""

    low: float
    high: float
    difference: float
    since: float
    until: float
    histograms: int = 1

    def joined(self, other: "Fix") -> "Fix":
        """What is to be said of both together."""
        return Fix(min(self.low, other.low), max(self.high, other.high), max(self.difference, other.difference),
                   min(self.since, other.since), max(self.until, other.until), self.histograms + other.histograms)

    def __str__(self) -> str:
        since, until = (f"{_EPOCH + timedelta(seconds=int(at)):%Y-%m-%dT%H:%M:%SZ}" for at in (self.since, self.until))
        return (f", from buckets {format_general(self.low)} to {format_general(self.high)}, with a max diff of "
                f"{self.difference:.2g}, over {self.histograms} samples from {since} to {until}")


class Note(NamedTuple):
    """A remark on a query that ran. `position` is the offset of the node it is about, where that is known."""

    severity: Literal["warning", "info"]
    message: str
    position: int | None
    fix: Fix | None = None

    def render(self, text: str) -> str:
        """The remark as Prometheus words it, with line and column in `text`, the query."""
        shown = f"PromQL {self.severity}: {self.message}{self.fix or ''}"
        if self.position is None:
            return shown
        before = text[:self.position]
        return f"{shown} ({before.count(chr(10)) + 1}:{self.position - before.rfind(chr(10))})"
