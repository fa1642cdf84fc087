"""Samples in memory: every one for five minutes, one for each five seconds up to an hour, within a budget of bytes.

Rule 1: what thins and what goes is decided only here. Rules look back as far as `keep` was told; everything else
gives way first when the budget is reached. Times are kept to the millisecond, as expressions see them.
"""

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from sidecar.model import METRIC_NAME, STALE, Labels, Sample, is_stale
from sidecar.promql.regex import predicate
from sidecar.promql.values import Matcher, Point, Series

RAW_SECONDS = 300.0
SLOT_SECONDS = 5.0
KEEP_SECONDS = 3600.0
BUDGET_BYTES = 16 * 1024 * 1024
TARGET_BYTES = 112 * 1024
"""What the series of one target take with as much of their past as the shipped rules look at, and some of the rest."""

SAMPLE_BYTES = 16
SERIES_BYTES = 850
"""What a series takes besides its samples: labels, arrays, places in the two indexes (measured, four labels)."""

SERIES_SHARE = 0.75
"""The part of the budget that series may take without their samples; beyond it new ones are refused."""
SERIES_A_TURN = 1000
NEARLY = 0.98
"""From this part of the budget on room is made, a little with all that comes."""

INDEXED_FROM = 32
"""A metric with fewer series than this is looked through one by one: no index pays there."""
INDEXED_LABELS = 8
"""So many labels of one metric are indexed at a time: whoever asks may name any."""

_SHRINK_TO_SECONDS = (1800.0, 900.0, RAW_SECONDS, 60.0, 0.0)
_COUNTERS = ("_total", "_count", "_sum", "_bucket")


class _Kept:
    """The samples of one series in ascending time. The first `thinned` of them have been thinned already.

    `fell_at` and `broke_at` are when a value was last below the one before it, and last not a number: a window that
    begins later needs no look at each value. Lives from its first sample until it is stale and past its retention.
    """

    __slots__ = ("broke_at", "counter", "fell_at", "labels", "thinned", "times", "values")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.times = array("d")
        self.values = array("d")
        self.thinned = 0
        self.counter = labels.metric.endswith(_COUNTERS)
        self.fell_at = self.broke_at = -math.inf

    def ended(self) -> bool:
        return is_stale(self.values[-1])

    def cut(self, horizon: float, *, spare: int = 0) -> int:
        """Drop samples at or before `horizon`, less the newest `spare`. Returns how many went."""
        count = min(bisect_right(self.times, horizon), len(self.times) - spare)
        if count > 0:
            del self.times[:count], self.values[:count]
            self.thinned = max(0, self.thinned - count)
        return max(0, count)

    def thin(self, until: float) -> None:
        """Keep of each whole slot before `until` what `_survivors` says."""
        end = bisect_left(self.times, until // SLOT_SECONDS * SLOT_SECONDS)
        start = self.thinned
        if end - start < 2:
            self.thinned = max(start, end)
            return
        if self._even(start):
            chosen = list(_last_of_slots(self.times, start, end))
        else:
            chosen = list(_survivors(self.times, self.values, start, end, self.counter))
        self.times[start:end] = array("d", [self.times[index] for index in chosen])
        self.values[start:end] = array("d", [self.values[index] for index in chosen])
        self.thinned = start + len(chosen)

    def _even(self, start: int) -> bool:
        """Whether from here on no series has ended or begun again, and no counter fallen: as a rule none has."""
        return (self.broke_at < self.times[max(0, start - 1)]
                and not (self.counter and self.fell_at >= self.times[start]))


def _last_of_slots(times: "array[float]", start: int, end: int) -> Iterator[int]:
    """The last sample of each slot."""
    while start < end:
        start = bisect_left(times, (times[start] // SLOT_SECONDS + 1) * SLOT_SECONDS, start, end)
        yield start - 1


def _survivors(times: Sequence[float], values: Sequence[float], start: int, end: int, counter: bool) -> Iterator[int]:
    """The last sample of each slot, the samples beside a stale marker, and for a counter those beside a fall.

    Without both sides of a fall the reset, and so part of the increase, would be lost.
    """
    last = end - 1
    for index in range(start, end):
        if (
            index == last
            or times[index] // SLOT_SECONDS != times[index + 1] // SLOT_SECONDS
            or _breaks(values[index], values[index + 1], counter)
            or (index > 0 and _breaks(values[index - 1], values[index], counter))
        ):
            yield index


def _breaks(before: float, after: float, counter: bool) -> bool:
    return (counter and after < before) or is_stale(before) or is_stale(after)


class _Family:
    """The series of one metric. Lives as long as it has any.

    Those with a value of a label are found through an index of that label, made when it is first asked for and given
    up when series come or go: a rule that asks for one target at a time would look at all of them each time.
    """

    __slots__ = ("_by_label", "series")

    def __init__(self) -> None:
        self.series: dict[Labels, _Kept] = {}
        self._by_label: dict[str, dict[str, list[_Kept]]] = {}

    def add(self, kept: _Kept) -> None:
        self.series[kept.labels] = kept
        self._by_label.clear()

    def forget(self, labels: Labels) -> None:
        del self.series[labels]
        self._by_label.clear()

    def matching(self, matchers: Sequence[Matcher]) -> list[_Kept]:
        """The series whose labels pass all matchers, which are not about the metric's name."""
        candidates: Collection[_Kept] = self.series.values()
        found_by: Matcher | None = None
        if len(candidates) >= INDEXED_FROM:
            for matcher in matchers:
                if matcher.op == "=" and matcher.value:
                    fewer = self._indexed(matcher.name).get(matcher.value, [])
                    if len(fewer) < len(candidates):
                        candidates, found_by = fewer, matcher
        tests = [(matcher.name, predicate(matcher)) for matcher in matchers if matcher is not found_by]
        if not tests:
            return list(candidates)
        (name, test), *more = tests
        found = [kept for kept in candidates if test(kept.labels.get(name, ""))]
        for name, test in more:
            found = [kept for kept in found if test(kept.labels.get(name, ""))]
        return found

    def _indexed(self, name: str) -> dict[str, list[_Kept]]:
        """The series by their value of a label; those without it are left out."""
        index = self._by_label.get(name)
        if index is None:
            if len(self._by_label) >= INDEXED_LABELS:
                self._by_label.clear()
            index = self._by_label[name] = {}
            for kept in self.series.values():
                if value := kept.labels.get(name):
                    index.setdefault(value, []).append(kept)
        return index


class _Index:
    """Series by their labels and by their metric. Lives as long as its store."""

    def __init__(self) -> None:
        self.series: dict[Labels, _Kept] = {}
        self._families: dict[str, _Family] = {}

    def add(self, labels: Labels) -> _Kept:
        kept = _Kept(labels)
        self.series[labels] = kept
        self._families.setdefault(labels.metric, _Family()).add(kept)
        return kept

    def forget(self, labels: Labels) -> None:
        del self.series[labels]
        family = self._families[labels.metric]
        family.forget(labels)
        if not family.series:
            del self._families[labels.metric]

    def matching(self, matchers: Sequence[Matcher]) -> list[_Kept]:
        """The series whose labels pass all matchers."""
        on_name = [matcher for matcher in matchers if matcher.name == METRIC_NAME]
        others = [matcher for matcher in matchers if matcher.name != METRIC_NAME] if on_name else matchers
        fixed = next((matcher.value for matcher in on_name if matcher.op == "="), None)
        found: list[_Kept] = []
        for metric in self._families if fixed is None else (fixed,):
            family = self._families.get(metric)
            if family and (len(on_name) == (fixed is not None) or all(predicate(one)(metric) for one in on_name)):
                found += family.matching(others)
        return found


def _need(needs: Mapping[str, float], kept: _Kept) -> float:
    """How far back loaded rules read this series; negative where none does."""
    return max(needs.get(kept.labels.metric, -1.0), needs.get("", -1.0))


def budget_bytes(targets: int) -> int:
    """What the samples of so many targets may take."""
    return max(BUDGET_BYTES, targets * TARGET_BYTES)


class Store:
    """All series of the daemon. One writer, the tick; lives as long as the daemon."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self.budget_bytes = budget_bytes
        self._index = _Index()
        self._needs: Mapping[str, float] = {}
        self._turn: list[Labels] = []
        self._slot = -math.inf
        self._samples = 0
        self._dropped = 0
        self._shrunk = 0
        self._refused = 0
        self._shrinking: Iterator[None] | None = None

    @property
    def series_count(self) -> int:
        """Series held, ended ones within their retention included."""
        return len(self._index.series)

    @property
    def size_bytes(self) -> int:
        """What samples and series take, by count."""
        return self._samples * SAMPLE_BYTES + len(self._index.series) * SERIES_BYTES

    @property
    def dropped(self) -> int:
        """Samples not taken because they were not newer than the last one of their series."""
        return self._dropped

    @property
    def shrunk(self) -> int:
        """Samples given up before their time to stay within the budget."""
        return self._shrunk

    @property
    def refused(self) -> int:
        """Samples of new series that the budget had no room for."""
        return self._refused

    def append(self, samples: Iterable[Sample]) -> None:
        """Take samples, in time order for each series. Others are counted in `dropped`."""
        series = self._index.series
        seen = at = 0.0
        taken = 0
        for labels, value, when in samples:
            if when != seen:
                seen, at = when, round(when, 3)
            kept = series.get(labels)
            if kept is None:
                kept = self._add(labels)
                if kept is None:
                    continue
            times = kept.times
            if times and at <= times[-1]:
                self._dropped += 1
                continue
            values = kept.values
            if value != value:
                kept.broke_at = at
            elif values and value < values[-1]:
                kept.fell_at = at
            times.append(at)
            values.append(value)
            taken += 1
        self._samples += taken
        if taken:
            self._make_room(at)

    def mark_stale(self, labels: Iterable[Labels], at: float) -> None:
        """Say that these series have ended. Unknown ones and those that have ended already are passed over."""
        live = map(self._index.series.get, dict.fromkeys(labels))
        self.append([Sample(kept.labels, STALE, at) for kept in live if kept is not None and not kept.ended()])

    def select(self, matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Series]:
        """Every matching series that has samples in (start, end], with these, stale markers included.

        Each is cut out when it is asked for; which ones match is decided at the first. Nothing between two of them
        keeps the store from being written to.
        """
        for kept in self._index.matching(matchers):
            times = kept.times
            low, high = bisect_right(times, start), bisect_right(times, end)
            if low < high:
                whole = kept.broke_at < times[low]
                yield Series(kept.labels, times[low:high], kept.values[low:high], whole,
                             whole and kept.fell_at <= times[low])

    def newest(self, matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Point]:
        """Of every matching series the newest value in (start, end], unless that is a stale marker; as `select`."""
        made = tuple.__new__  # every rule asks at every tick: the class's own is three times as slow
        for kept in self._index.matching(matchers):
            times, index = kept.times, -1
            if times and times[-1] > end:
                index = bisect_right(times, end) - 1
                if index < 0:
                    continue
            if times and times[index] > start:
                value = kept.values[index]
                if value == value or not is_stale(value):
                    yield made(Point, (kept.labels, value))

    def keep(self, needs: Mapping[str, float]) -> None:
        """The metrics that loaded rules read, with how many seconds back; the empty name stands for all metrics."""
        self._needs = dict(needs)
        self._slot = -math.inf

    def truncate(self, now: float) -> None:
        """Let go of what is past its retention and thin what is older than five minutes.

        For every tick: one call looks at SERIES_A_TURN series at most, and goes on where the last one ended. Each is
        looked at once a slot, as no more can be due.
        """
        if not self._turn and self._slot != now // SLOT_SECONDS:
            self._turn, self._slot = list(self._index.series), now // SLOT_SECONDS
        turn, self._turn = self._turn[-SERIES_A_TURN:], self._turn[:-SERIES_A_TURN]
        for labels in turn:
            kept = self._index.series[labels]
            before = len(kept.times)
            kept.cut(now - max(KEEP_SECONDS, _need(self._needs, kept)))
            kept.thin(now - RAW_SECONDS)
            self._samples -= before - len(kept.times)
            if not kept.times:
                self._index.forget(labels)

    def _add(self, labels: Labels) -> _Kept | None:
        """A place for a new series; None where the budget has none left."""
        if (len(self._index.series) + 1) * SERIES_BYTES > self.budget_bytes * SERIES_SHARE:
            self._refused += 1
            return None
        return self._index.add(labels)

    def _make_room(self, now: float) -> None:
        """A little at a time once the budget is nearly used up, so that nobody waits; what is beyond it at once."""
        begun = False
        while self._shrinking is not None or self.size_bytes > self.budget_bytes * NEARLY:
            if self._shrinking is None:
                if begun:
                    return  # nothing is left that could go
                self._shrinking, begun = self._shrink(now), True
            if next(self._shrinking, True):
                self._shrinking = None
            if self.size_bytes <= self.budget_bytes:
                return

    def _shrink(self, now: float) -> Iterator[None]:
        """Shorten series until a tenth of the budget is free: those that no rule reads, then the others.

        Pauses after SERIES_A_TURN of them.
        """
        wanted = self.budget_bytes * 9 // 10
        unread: list[_Kept] = []
        read: list[_Kept] = []
        for place, kept in enumerate(list(self._index.series.values()), 1):
            (unread if _need(self._needs, kept) < 0 else read).append(kept)
            if not place % SERIES_A_TURN:
                yield
        for group, spares_needs in ((unread, False), (read, True), (read, False)):
            for seconds in _SHRINK_TO_SECONDS:
                for place, kept in enumerate(group, 1):
                    if self.size_bytes <= wanted:
                        return
                    # The newest sample stays: what a series says now is worth more than any history.
                    needed = _need(self._needs, kept) if spares_needs else 0.0
                    gone = kept.cut(now - max(seconds, needed), spare=1)
                    self._samples -= gone
                    self._shrunk += gone
                    if not place % SERIES_A_TURN:
                        yield
