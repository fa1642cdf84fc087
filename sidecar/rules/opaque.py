"""Native histograms carried through a store and an evaluator that know only numbers.

A histogram lies on a shelf; a NaN whose payload is its place stands for it. What looks at a NaN as at a number would
compute nonsense, so only a bare selector gets to see one: every other expression that selects one is refused.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol, cast

from sidecar.errors import QueryError
from sidecar.model import Labels, Sample
from sidecar.promql.context import Options
from sidecar.promql.evaluate import instant
from sidecar.promql.tree import (
    Aggregate,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    Paren,
    Subquery,
    Unary,
    VectorSelector,
    children,
    unwrap,
    walk,
)
from sidecar.promql.values import Matcher, Select, Series, Value
from sidecar.rules.native_histogram import Hint, NativeHistogram

_TAG = 0x7FFC
"""The upper 16 bits of a NaN that stands for a histogram; neither a computation nor a written NaN has them."""


class SampleStore(Protocol):
    """What a test group needs of a store. `shrunk` and `refused` count samples that it could not keep."""

    @property
    def select(self) -> Select:
        """How expressions reach its samples."""

    def append(self, samples: Iterable[Sample]) -> None:
        """Take samples, in time order for each series."""

    @property
    def shrunk(self) -> int:
        """Samples given up for want of room."""

    @property
    def refused(self) -> int:
        """Samples not taken for want of room."""


class OpaqueStore:
    """A store of numbers that holds native histograms too. Lives as long as one test group."""

    def __init__(self, store: SampleStore, options: Options) -> None:
        self._store = store
        self._options = options
        self._shelf: list[NativeHistogram] = []
        self._places: dict[str, int] = {}
        self._before: dict[Labels, NativeHistogram | None] = {}

    @property
    def full(self) -> bool:
        """Whether samples were lost for want of room."""
        return bool(self._store.shrunk or self._store.refused)

    def series(self) -> Iterable[Series]:
        """Everything that is stored."""
        return self._store.select((), -float("inf"), float("inf"))

    def put(self, histogram: NativeHistogram) -> float:
        """The number that stands for a histogram from now on."""
        place = self._places.setdefault(str(histogram), len(self._shelf))
        if place == len(self._shelf):
            self._shelf.append(histogram)
        return cast(float, struct.unpack("<d", struct.pack("<Q", _TAG << 48 | place))[0])

    def get(self, value: float) -> NativeHistogram | None:
        """The histogram that a number stands for, if it does."""
        if value == value or not self._shelf:
            return None
        (bits,) = struct.unpack("<Q", struct.pack("<d", value))
        return self._shelf[bits & (1 << 48) - 1] if bits >> 48 == _TAG else None

    def append(self, samples: Iterable[Sample]) -> None:
        """Take samples, in time order for each series."""
        self._store.append(map(self._hinted, samples) if self._shelf else samples)

    def _hinted(self, sample: Sample) -> Sample:
        """A histogram with the hint that a TSDB gives it when it is read: where a counter goes on, it was not reset.

        The first one, and one after a reset or a gap, reads as unknown, whatever hint it was written with: the TSDB
        keeps hints by chunk, and does not trust the one that a chunk begins with (tsdb/chunkenc of Prometheus 3).
        """
        histogram = self.get(sample.value)
        before = self._before.get(sample.labels)
        if histogram is None:
            if before is not None:
                self._before[sample.labels] = None
            return sample
        hint: Hint = "unknown"
        if histogram.hint == "gauge":
            hint = "gauge"
        elif (before is not None and before.hint != "gauge" and histogram.hint != "reset"
              and histogram.continues(before)):
            hint = "not_reset"
        self._before[sample.labels] = read = replace(histogram, hint=hint)
        return sample._replace(value=self.put(read))

    def query(self, expr: Expr, at: float, *, opaque: bool = True) -> Value:
        """The value of `expr` at `at`. QueryError where it would compute with a histogram.

        Without `opaque` nothing may read one, not even a bare selector.
        """
        select = self._store.select
        if self._shelf and not (opaque and isinstance(unwrap(expr), VectorSelector)):
            select = self._numbers(expr)
        return instant(expr, select, at, options=self._options)

    def _numbers(self, expr: Expr) -> Select:
        """`select` of the store that refuses histograms on behalf of `expr`."""

        def select(matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Series]:
            for series in self._store.select(matchers, start, end):
                if any(self.get(value) for value in series.values):
                    raise QueryError(f"{_reader(expr, matchers)} on the native histogram {series.labels.metric}: only "
                                     "a bare selector can read one here")
                yield series

        return select


def _reader(expr: Expr, matchers: Sequence[Matcher]) -> str:
    """What in `expr` works on the selector with these matchers."""
    for node in walk(expr):
        for inner in map(_selector, children(node)):
            if isinstance(inner, VectorSelector) and inner.matchers == matchers:
                match node:
                    case Call():
                        return f"{node.function}()"
                    case Aggregate() | Binary() | Unary():
                        return f"{node.op}{'()' if isinstance(node, Aggregate) else ''}"
    return "a template's value or query"


def _selector(expr: Expr) -> Expr:
    """What a range, a subquery or brackets are around."""
    while isinstance(expr, Paren | Subquery | MatrixSelector):
        expr = expr.selector if isinstance(expr, MatrixSelector) else expr.expr
    return expr
