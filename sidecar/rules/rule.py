"""What recording and alerting rules have in common: health, and the series they wrote last time."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal

from sidecar.errors import QueryError
from sidecar.model import STALE, Labels, Sample
from sidecar.promql.steps import Steps
from sidecar.promql.values import Point, Value, Vector
from sidecar.rules.source import Questions
from sidecar.rules.spec import RuleSpec
from sidecar.rules.template import Surroundings

Health = Literal["unknown", "ok", "err"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a group settles for its rules. `limit` 0 is none; `query_offset_seconds` looks that far into the past."""

    interval_seconds: float
    limit: int = 0
    query_offset_seconds: float = 0.0
    surroundings: Surroundings = field(default_factory=Surroundings)


class Rule(ABC):
    """A rule at work. Lives until a reload replaces its group; its one writer is the tick.

    `last_evaluation` is the moment it was evaluated at (Unix seconds), None before the first time;
    `last_duration_seconds` is how long that took.
    """

    def __init__(self, spec: RuleSpec, terms: Terms) -> None:
        self.spec: RuleSpec = spec
        self.terms = terms
        self.health: Health = "unknown"
        self.last_error = ""
        self.last_evaluation: float | None = None
        self.last_duration_seconds = 0.0
        self.written: frozenset[Labels] = frozenset()

    @property
    def name(self) -> str:
        """The alert's name or the recorded metric's."""
        return self.spec.name

    @abstractmethod
    def judge(self, at: float, questions: Questions) -> Steps[list[Sample]]:
        """Evaluate at `at` (Unix seconds) and return what to write. QueryError leaves the rule as it was.

        Nothing of the rule changes before the last pause.
        """

    def run(self, at: float, questions: Questions) -> Steps[list[Sample]]:
        """What one evaluation writes, with stale markers for series that it wrote last time and not now.

        An evaluation that fails writes nothing, not even stale markers; `health` and `last_error` tell of it.
        """
        try:
            samples = yield from self.judge(at, questions)
        except QueryError as error:
            self.last_evaluation, self.health, self.last_error = at, "err", str(error)
            return []
        self.last_evaluation, self.health, self.last_error = at, "ok", ""
        written = frozenset(sample.labels for sample in samples)
        stamp = at - self.terms.query_offset_seconds
        samples += [Sample(labels, STALE, stamp) for labels in self.written - written]
        self.written = written
        return samples


def as_vector(value: Value) -> Vector:
    """A rule's result as a vector: a number becomes one element without labels. QueryError for anything else."""
    if isinstance(value, float):
        return [Point(Labels(), value)]
    if isinstance(value, str) or any(not isinstance(element, Point) for element in value):
        raise QueryError("rule result is not a vector or scalar", help="let the expression give an instant vector")
    return [element for element in value if isinstance(element, Point)]
