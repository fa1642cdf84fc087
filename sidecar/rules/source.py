"""What rules ask, and what one evaluation of a rule may take.

A rule that explodes (a join of everything with everything, a range over all there is) would take the tick with it, and
with the tick the watch over every target. So it is cut off, becomes unhealthy and says why; the others go on.
"""

from typing import Protocol, cast

from sidecar.promql.context import Budget, Clock, Options, no_clock
from sidecar.promql.evaluate import Query, instant_steps
from sidecar.promql.steps import Steps, finish
from sidecar.promql.tree import Expr
from sidecar.promql.values import Newest, Select, Value

MAX_SAMPLES = 5_000_000
"""What one evaluation of a rule may load. The shipped rules load 1.8 million for a thousand targets: the half hours of
their 3000 counters."""
MAX_SECONDS = 1.0
"""How much of a processor one evaluation of a rule may take, its templates included: the time between two ticks. For a
thousand targets the slowest shipped rule takes 70 ms, and 1000 alerts that come at once a third of a second. Time that
others take (a machine without memory, which is when rules matter most) does not count."""


class Questions(Protocol):
    """What one evaluation of one rule asks, its expression and its templates together."""

    def __call__(self, expr: Expr, at: float) -> Value:
        """The value of an expression at a moment. Raises QueryError."""

    def steps(self, expr: Expr, at: float) -> Steps[Value]:
        """The same in pieces."""

    def charge(self) -> None:
        """Look at the clock. QueryError where the evaluation has taken too long."""


class Source(Protocol):
    """Where rules are evaluated: `clock` is what their durations are told by."""

    clock: Clock

    def questions(self) -> Questions:
        """For one evaluation of one rule."""


class Bounded:
    """The source over a store: every evaluation has what `options` allow. Lives as long as the store.

    The time that `options` allow is told by their clock, durations by `clock`, where it is another one.
    """

    def __init__(self, select: Select, newest: Newest, options: Options, clock: Clock | None = None) -> None:
        self._select = select
        self._newest = newest
        self._options = options
        self.clock = clock or options.clock

    def questions(self) -> Questions:
        """With a budget of their own."""
        return _Asking(self._select, self._newest, self._options)

    def __call__(self, expr: Expr, at: float) -> Value:
        """One question, alone."""
        return self.questions()(expr, at)


class _Asking:
    """One evaluation's questions. Lives as long as it."""

    def __init__(self, select: Select, newest: Newest, options: Options) -> None:
        self._select = select
        self._newest = newest
        self._options = options
        self._budget = Budget.of(options)

    def __call__(self, expr: Expr, at: float) -> Value:
        return finish(self.steps(expr, at))

    def steps(self, expr: Expr, at: float) -> Steps[Value]:
        return instant_steps(expr, self._select, at, newest=self._newest, options=self._options, budget=self._budget)

    def charge(self) -> None:
        self._budget.charge(0)


class Plain:
    """The source that is a function: it neither pauses nor looks at a clock. Lives as long as a caller needs it."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self.clock = no_clock

    def questions(self) -> "Plain":
        """Itself."""
        return self

    def __call__(self, expr: Expr, at: float) -> Value:
        return self._query(expr, at)

    def steps(self, expr: Expr, at: float) -> Steps[Value]:
        """The value, without a pause."""
        yield from ()
        return self._query(expr, at)

    def charge(self) -> None:
        """Nothing to look at."""


def source_of(given: Query | Source) -> Source:
    """A function as a source, a source as it is."""
    return cast(Source, given) if hasattr(given, "questions") else Plain(given)  # isinstance: a twelfth of a tick
