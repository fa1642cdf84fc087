"""What a Prometheus stored and posted, read back, and the same samples judged again by our own groups.

Only the exact moments at which Prometheus evaluated and what it could see then are taken from it: each group of the
rule files begins and ends with the rule `lab:seen`, which records the time of the newest scrape of every job.
"""

import copyreg
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from servers import RunningPrometheus

from sidecar.model import STALE, Labels, Sample, is_stale
from sidecar.notify.payload import payload
from sidecar.notify.queue import Outbox
from sidecar.promql.context import Options
from sidecar.promql.evaluate import over_range
from sidecar.promql.parse import parse
from sidecar.promql.values import Matcher
from sidecar.rules.group import Group
from sidecar.rules.source import Bounded
from sidecar.rules.spec import GroupSpec
from sidecar.store import Store

Rows = dict[Labels, list[tuple[float, float]]]
"""Series as lists of (time, value)."""

copyreg.pickle(Labels, lambda labels: (Labels, (dict(labels),)))  # they refuse to be filled in piece by piece

SEEN = "lab:seen"
WRITTEN = ("lab:", "ALERTS")


def rows(result: Iterable[Mapping[str, Any]]) -> Rows:
    """The matrix of an answer of Prometheus's API."""
    return {Labels(one["metric"]): [(round(at, 3), float(value)) for at, value in one["values"]] for one in result}


def written(found: Rows) -> Rows:
    """What rules wrote."""
    return {labels: points for labels, points in found.items() if labels.metric.startswith(WRITTEN)}


def scrapes(found: Rows) -> dict[str, list[tuple[float, list[Sample]]]]:
    """By job, the scrapes in order, each with its samples and the stale markers that Prometheus set.

    Its API does not show markers; a series that a scrape brought and the next one did not has one there.
    """
    jobs = {labels["job"]: [at for at, _ in points] for labels, points in found.items() if labels.metric == "up"}
    brought: dict[str, dict[float, list[Sample]]] = {job: {at: [] for at in times} for job, times in jobs.items()}
    for labels, points in found.items():
        if labels in written({labels: points}):
            continue
        times, had = jobs[labels["job"]], {at for at, _ in points}
        for at, value in points:
            brought[labels["job"]][at].append(Sample(labels, value, at))
        for before, after in itertools.pairwise(times):
            if before in had and after not in had:
                brought[labels["job"]][after].append(Sample(labels, STALE, after))
    return {job: list(scraped.items()) for job, scraped in brought.items()}


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of one group as Prometheus did it.

    `seen`: job → its newest scrape when the first rule looked, `seen_last`: when the last one did; `reads`: another
    group that it reads → the newest evaluation of that.
    """

    at: float
    group: str
    edition: str
    seen: Mapping[str, float]
    seen_last: Mapping[str, float]
    reads: Mapping[str, float]


def evaluations(found: Rows, offsets: Mapping[str, float]) -> list[Evaluation]:
    """Every evaluation in the order in which they took place. `offsets`: group → its query_offset in seconds."""
    looks: dict[tuple[float, str, str], dict[str, dict[Labels, float]]] = {}
    for labels, points in found.items():
        if labels.metric in (SEEN, f"{SEEN}:again"):
            for at, value in points:
                key = round(at + offsets.get(labels["group"], 0.0), 3), labels["group"], labels["edition"]
                looks.setdefault(key, {}).setdefault(labels.metric, {})[labels.without("__name__")] = value
    done = []
    for (at, group, edition), look in looks.items():
        if len(look) == 2:  # else it was still under way
            first, last = ({labels["job"]: value for labels, value in one.items() if "job" in labels}
                           for one in (look[SEEN], look[f"{SEEN}:again"]))
            reads = {labels["read"]: value for labels, value in look[SEEN].items() if "read" in labels}
            done.append(Evaluation(at, group, edition, first, last, reads))
    slots = {(one.group, one.at) for one in done}
    return sorted(done, key=lambda one: min([one.at, *(
        before + 1e-6 for group, before in one.reads.items()
        if any(other == group and before < at < one.at for other, at in slots))]))


@dataclass
class Replay:
    """Our groups over the samples of a Prometheus. Lives as long as a comparison."""

    editions: Mapping[str, Mapping[str, GroupSpec]]
    offsets: Mapping[str, float]
    external_labels: Mapping[str, str]
    external_url: str
    resend_delay_seconds: float
    includes_start: bool = False
    store: Store = field(default_factory=Store)
    posted: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._groups: dict[str, tuple[str, Group]] = {}
        self._outboxes: dict[str, Outbox] = {}

    def run(self, found: Rows) -> int:
        """Replay everything that was stored, judge it whenever Prometheus did. Returns the number of evaluations."""
        waiting = {job: scraped[::-1] for job, scraped in scrapes(found).items()}
        done = evaluations(found, self.offsets)
        for one in done:
            arriving: list[Sample] = []
            for job, left in waiting.items():
                # A group with an offset looks at what was complete long ago, the others at what they say they saw.
                seen = one.at if one.group in self.offsets else one.seen.get(job, -math.inf)
                while left and left[-1][0] <= max(seen, one.seen_last.get(job, -math.inf)):
                    at, samples = left.pop()
                    if at <= seen:
                        self.store.append(samples)
                    else:
                        arriving += samples
            group = self._group(one)
            if arriving:
                self.store, group = self._torn(one, group, arriving, found)
            else:
                self._judge(self.store, group, one.at)
            self._groups[one.group] = one.edition, group
            self._post(one, group)
        return len(done)

    def _made(self, one: Evaluation) -> Group:
        return Group(self.editions[one.edition][one.group], default_interval_seconds=1.0,
                     external_labels=self.external_labels, external_url=self.external_url)

    def _group(self, one: Evaluation) -> Group:
        edition, group = self._groups.get(one.group, ("", None))
        if group is not None and edition == one.edition:
            return group
        fresh = self._made(one)
        if group is not None:
            fresh.copy_state(group)
        return fresh

    def _source(self, store: Store) -> Bounded:
        """How rules reach the samples. What Prometheus 2 reads includes its start."""
        earlier = 0.001 if self.includes_start else 0.0
        return Bounded(lambda matchers, start, end: store.select(matchers, start - earlier, end),
                       lambda matchers, start, end: store.newest(matchers, start - earlier, end), Options())

    def _judge(self, store: Store, group: Group, at: float, arriving: Sequence[Sample] = (), after: int = 0) -> None:
        """One evaluation, with samples that arrive after so many rules have written."""
        done = itertools.count(1)

        def append(samples: Iterable[Sample]) -> None:
            store.append(samples)
            if next(done) == after:
                store.append(arriving)

        group.evaluate(at, self._source(store), append)

    def _torn(self, one: Evaluation, group: Group, arriving: Sequence[Sample], found: Rows) -> tuple[Store, Group]:
        """A scrape arrived between two rules: between those where what we write is what Prometheus wrote."""
        theirs = at_moment(written(found), one.at)
        for after in range(1, len(group.rules) + 1):
            store, again = deepcopy(self.store), self._made(one)
            again.copy_state(group)
            self._judge(store, again, one.at, arriving, after)
            ours = at_moment(all_written(store), one.at)
            if ours.keys() == theirs.keys() and all(alike(ours[labels], theirs[labels]) for labels in ours):
                break
        return store, again

    def _post(self, one: Evaluation, group: Group) -> None:
        outbox = self._outboxes.setdefault(
            one.group, Outbox(resend_delay_seconds=self.resend_delay_seconds, uniform=lambda low, high: low))
        outbox.offer(group.alerts(), one.at)
        batch = outbox.take(one.at)
        self.posted += [(one.at, payload(message, self.external_labels, self.external_url)) for message in batch]
        outbox.acknowledge(batch, one.at)

    def visible(self, expr: str, start: float, end: float) -> Rows:
        """What a range query in steps of a second shows."""
        found = over_range(parse(expr), self.store.select, start, end, 1.0)
        return {one.labels: list(zip(one.times, one.values, strict=True)) for one in found}


def all_written(store: Store) -> Rows:
    """What rules wrote, without stale markers."""
    series = store.select((Matcher("__name__", "=~", ".+"),), -math.inf, math.inf)
    return written({
        one.labels: [(at, value) for at, value in zip(one.times, one.values, strict=True) if not is_stale(value)]
        for one in series})


def at_moment(found: Rows, at: float) -> dict[Labels, float]:
    """What the series were at one moment."""
    return {labels: value for labels, points in found.items() for when, value in points if when == at}


def alike(one: float, other: float) -> bool:
    """Whether two values are the same but for the last digits, which depend on the order of additions."""
    return one == other or math.isclose(one, other, rel_tol=1e-12) or (one != one and other != other)


def stored(prometheus: RunningPrometheus, at: float) -> Rows:
    """Everything that it holds of the last hour."""
    return rows(prometheus.query('{__name__!=""}[1h]', at)["result"])


def between(found: Rows, start: float, end: float) -> Rows:
    """Only the points after one moment, up to another."""
    cut = {labels: [point for point in points if start < point[0] <= end] for labels, points in found.items()}
    return {labels: points for labels, points in cut.items() if points}
