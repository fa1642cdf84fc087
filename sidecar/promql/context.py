"""What an evaluation carries along: its data, its moment, its limits, and what it has to remark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Labels
from sidecar.promql.notes import Note as Note
from sidecar.promql.tree import LOOKBACK_SECONDS
from sidecar.promql.values import Newest, Point, Select, Vector

MAX_SAMPLES = 5_000_000
MAX_LABEL_LENGTH = 65_536
SUBQUERY_STEP_SECONDS = 60.0

Clock = Callable[[], float]
"""Seconds since an arbitrary moment, never going back."""


def no_clock() -> float:
    """A clock that stands still: with it, nothing takes any time."""
    return 0.0


def mute_clock() -> float:
    """A clock that says nothing: whoever goes by it has to ask another one."""
    return math.inf


@dataclass(frozen=True, slots=True)
class Options:
    """How an engine is set. The defaults are Prometheus's own, but for the number of samples.

    `max_samples` bounds what one evaluation may load and produce, all its steps together, and `max_seconds` how long it
    may take on `clock`, its pauses included. `quick` is a clock that never goes more slowly than that one and costs
    less to read: as long as it shows that the time cannot be over, the other is not asked.
    `delayed_name_removal` drops metric names at the end of a query, not at each function (a feature flag there).
    """

    lookback_seconds: float = LOOKBACK_SECONDS
    subquery_step_seconds: float = SUBQUERY_STEP_SECONDS
    max_samples: int = MAX_SAMPLES
    max_seconds: float = math.inf
    clock: Clock = no_clock
    quick: Clock = mute_clock
    delayed_name_removal: bool = False


class Window(NamedTuple):
    """The samples of one series in the left-open range (start, end], stale markers left out. `at` is the evaluation.

    `whole` and `rising` as in Series.
    """

    labels: Labels
    times: Sequence[float]
    values: Sequence[float]
    start: float
    end: float
    at: float
    whole: bool = False
    rising: bool = False


Operand = float | str | Vector | list[Window]
"""What a node evaluates to while an evaluation runs; outside, a range is a list of Series."""


@dataclass(slots=True)
class Budget:
    """What an evaluation may still take: samples, and time until a moment of a clock. Lives as long as it.

    `limit_seconds` is for what people are told. Before `quick` shows `look_at`, `clock` cannot be over.
    """

    limit: int
    spent: int = 0
    clock: Clock = no_clock
    until: float = math.inf
    limit_seconds: float = math.inf
    quick: Clock = mute_clock
    look_at: float = math.inf

    @classmethod
    def of(cls, options: Options) -> "Budget":
        """The budget of an evaluation that begins now."""
        quick, seconds = options.quick, options.max_seconds
        look_at = quick() + seconds
        return cls(options.max_samples, 0, options.clock, options.clock() + seconds, seconds, quick, look_at)

    def charge(self, samples: int) -> None:
        """Count samples loaded or produced, and look at the clock. QueryError once either limit is passed."""
        self.spent += samples
        if self.spent > self.limit:
            raise QueryError(f"the query needs more than {self.limit} samples ({self.spent} and not done): {_LESS}")
        passed = self.quick()
        if passed < self.look_at:
            return
        now = self.clock()
        if now > self.until:
            raise QueryError(f"the query took more than {self.limit_seconds:g} s ({self.spent} samples read and not "
                             f"done): {_LESS}")
        self.look_at = passed + self.until - now


_LESS = "narrow its matchers, shorten its range, lengthen its step, or record a part of it by a rule of its own"


class Fading(Labels):
    """Labels whose metric name goes at the end of the query: equal to plain ones, told apart by their class alone.

    So the flag that Prometheus keeps beside each sample needs no field in Point, which almost no query would use.
    """

    __slots__ = ()


@dataclass(slots=True)
class Evaluation:
    """One moment of one evaluation. `start`, `end` and `step_seconds` are those of the whole query."""

    select: Select
    newest: Newest
    at: float
    start: float
    end: float
    step_seconds: float
    options: Options
    budget: Budget
    notes: list[Note] | None = field(default=None)

    def moved(self, at: float) -> "Evaluation":
        """The same evaluation at another moment."""
        return replace(self, at=at)

    def charge(self, samples: int) -> None:
        """Count samples against the budget. QueryError once it is spent."""
        self.budget.charge(samples)

    def note(self, severity: Literal["warning", "info"], message: str, position: int | None) -> None:
        """Remember a remark once, if anybody asked for them."""
        note = Note(severity, message, position)
        if self.notes is not None and note not in self.notes:
            self.notes.append(note)

    def nameless(self, labels: Labels) -> Labels:
        """`labels` of a result that is no longer the metric it was made of."""
        if self.options.delayed_name_removal:
            return labels if type(labels) is Fading else Fading(labels)
        return project(labels, False, METADATA)

    def unique(self, vector: Vector) -> Vector:
        """`vector` itself. QueryError if two of its elements have the same labels."""
        if len(vector) > 1 and len({point.labels for point in vector}) < len(vector):
            raise QueryError("vector cannot contain metrics with the same labelset",
                             help="two series differ only in their metric name or in a label that was overwritten")
        return vector

    def finished(self, vector: Vector) -> Vector:
        """The vector as the asker sees it: names that were to go are gone."""
        if not self.options.delayed_name_removal:
            return vector
        return self.unique([
            Point(project(point.labels, False, METADATA), point.value) if type(point.labels) is Fading else point
            for point in vector
        ])


METADATA = (METRIC_NAME, "__type__", "__unit__")
"""The labels that say what a metric is: they go together (model/schema of Prometheus)."""


@lru_cache(maxsize=1 << 16)
def project(labels: Labels, keep: bool, names: tuple[str, ...]) -> Labels:
    """`labels` with only `names`, or without them. Remembered, since every tick asks for the same ones again."""
    return labels.keep(*names) if keep else labels.without(*names)
