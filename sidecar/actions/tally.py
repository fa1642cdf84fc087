"""What is counted of cleanups for /metrics."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from sidecar.actions.attempt import Attempt
from sidecar.model import Labels, Metric, Sample, series

CLEANUPS = Metric("rag_cleanups_total", "counter", "Cleanups asked for, by how they ended.")
REFUSED = Metric("rag_cleanup_refused_total", "counter", "Times a channel could not be used, by reason.")
REBOUNDS = Metric("rag_cleanup_rebounds_total", "counter",
                  "Cleanups whose freed memory came back within the rebound time, beyond the growth seen before.")
FREED = Metric("rag_cleanup_freed_bytes_total", "counter", "Bytes that cleanups freed, measured from outside.")
LAST_FREED = Metric("rag_cleanup_last_freed_bytes", "gauge", "Bytes the last judged cleanup freed; may be negative.")
DURATION = Metric("rag_cleanup_duration_seconds", "gauge", "How long the last cleanup took until the target answered.")
PREDICTED = Metric("rag_cleanup_predicted_bytes", "gauge", "Bytes the agent expected the last cleanup to free.")
PAUSE = Metric("rag_cleanup_pause_seconds", "gauge",
               "How long the last cleanup kept a process from doing anything else, as its agent tells.")
LAST_TIME = Metric("rag_cleanup_last_timestamp_seconds", "gauge", "When the last cleanup was delivered, in Unix time.")
DELIVERY = Metric("rag_cleanup_delivery_seconds", "histogram", "From the crossing of the line to the delivery.")
METRICS = (CLEANUPS, REFUSED, REBOUNDS, FREED, LAST_FREED, DURATION, PREDICTED, PAUSE, LAST_TIME, DELIVERY)

DELIVERY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
DELIVERY_BOUNDS = (*map(str, DELIVERY_BUCKETS), "+Inf")


@dataclass(slots=True)
class Tally:
    """What is counted for one target. Lives as long as the target is configured."""

    outcomes: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    refused: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rebounds: int = 0
    freed_bytes: float = 0.0
    last_freed_bytes: float | None = None
    last_duration_seconds: float | None = None
    last_told: Mapping[str, float] = field(default_factory=dict)
    last_delivered_at: float | None = None
    delivery_counts: list[int] = field(default_factory=lambda: [0] * (len(DELIVERY_BUCKETS) + 1))
    delivery_sum: float = 0.0

    def note_delivery(self, at: float, seconds: float) -> None:
        """A cleanup has been delivered, so long after the line was crossed."""
        self.delivery_counts[bisect_left(DELIVERY_BUCKETS, seconds)] += 1
        self.delivery_sum += seconds
        self.last_delivered_at = at

    def note_end(self, attempt: Attempt) -> None:
        """A cleanup has ended."""
        self.outcomes[attempt.cleanup, attempt.channel, attempt.trigger, attempt.outcome] += 1
        if attempt.freed_bytes is not None:
            self.last_freed_bytes = attempt.freed_bytes
            self.freed_bytes += max(0.0, attempt.freed_bytes)

    def samples(self, base: Labels, at: float) -> Iterator[Sample]:
        """Everything counted, as samples with the target's labels; what never happened is a zero or is left out."""

        def make(name: str, value: float, *labels: str) -> Sample:
            return Sample(series(base, name, *labels), value, at)

        for (cleanup, channel, trigger, outcome), count in self.outcomes.items():
            yield make(CLEANUPS.name, count, "cleanup", cleanup, "channel", channel, "trigger", trigger,
                       "outcome", outcome)
        for (cleanup, channel, reason), count in self.refused.items():
            yield make(REFUSED.name, count, "cleanup", cleanup, "channel", channel, "reason", reason)
        yield make(REBOUNDS.name, self.rebounds)
        yield make(FREED.name, self.freed_bytes)
        for metric, last in ((LAST_FREED, self.last_freed_bytes), (DURATION, self.last_duration_seconds),
                             (PREDICTED, self.last_told.get("predicted_bytes")),
                             (PAUSE, self.last_told.get("pause_seconds")), (LAST_TIME, self.last_delivered_at)):
            if last is not None:
                yield make(metric.name, last)
        for bound, count in zip(DELIVERY_BOUNDS, accumulate(self.delivery_counts), strict=True):
            yield make(f"{DELIVERY.name}_bucket", count, "le", bound)
        yield make(f"{DELIVERY.name}_sum", self.delivery_sum)
        yield make(f"{DELIVERY.name}_count", sum(self.delivery_counts))
