"""Expressions evaluated over selected samples, at one moment or at every step of a range.

One small function for each kind of node. Times have a resolution of one millisecond, as in Prometheus: the moment
given is rounded to it, so that a range ends exactly where a sample lies.

An evaluation pauses after every node and every few series of a range, so that whoever drives it can let others run.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, cast

from sidecar.errors import QueryError
from sidecar.model import Labels, is_stale
from sidecar.promql import binary
from sidecar.promql.aggregate import aggregate
from sidecar.promql.context import Budget, Evaluation, Note, Operand, Options, Window
from sidecar.promql.functions import FUNCTIONS, ONE_BY_ONE
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps, finish, piecewise
from sidecar.promql.tree import (
    Aggregate,
    At,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    VectorSelector,
    unwrap,
    walk,
)
from sidecar.promql.values import Matcher, Matrix, Newest, Point, Select, Series, Value, Vector

Query = Callable[[Expr, float], Value]
"""`query(expr, at)`: the value of an expression at a moment. How rules and pages reach their data."""

MAX_STEPS = 11_000
WINDOWS_A_PIECE = 8
"""So many series of a range go through a function between two pauses."""
_DEFAULTS = Options()


def instant(expr: Expr, select: Select, at: float, *, lookback_seconds: float | None = None,
            options: Options = _DEFAULTS, notes: list[Note] | None = None) -> Value:
    """The value of `expr` at `at` (Unix seconds): number, string, vector, or for a range its raw samples.

    `lookback_seconds` goes before that of `options`. `notes`, when given, receives remarks. Raises QueryError for
    what only the data shows: ambiguous matching, duplicate results, or more than `options` allow of samples or time.
    """
    if lookback_seconds is not None:
        options = replace(options, lookback_seconds=lookback_seconds)
    return finish(instant_steps(expr, select, at, options=options, notes=notes))


def instant_steps(expr: Expr, select: Select, at: float, *, newest: Newest | None = None, options: Options = _DEFAULTS,
                  budget: Budget | None = None, notes: list[Note] | None = None) -> Steps[Value]:
    """`instant` in pieces. What is stored during a pause may be seen.

    `newest` is a quicker way to what `select` gives an instant selector; `budget`, when given, goes before `options`.
    """
    at = round(float(at), 3)
    ev = Evaluation(select, newest or _newest_of(select), at, at, at, 0.0, options, budget or Budget.of(options), notes)
    value = yield from evaluate(expr, ev)
    if not isinstance(value, list):
        return value
    if value and isinstance(value[0], Window):
        return [Series(*window[:3]) for window in value if isinstance(window, Window)]
    return ev.finished(cast(Vector, value))


def _newest_of(select: Select) -> Newest:
    """What `newest` gives, made of what `select` gives."""
    def newest(matchers: Sequence[Matcher], start: float, end: float) -> list[Point]:
        return [Point(one.labels, one.values[-1]) for one in select(matchers, start, end)
                if one.times and not is_stale(one.values[-1])]

    return newest


def over_range(expr: Expr, select: Select, start: float, end: float, step_seconds: float, *,
               options: Options = _DEFAULTS, notes: list[Note] | None = None) -> Matrix:
    """`expr` at every step of [start, end], as series ordered by labels; a number becomes one series without labels.

    Raises QueryError as `instant` does, for a string or a range, and for more than MAX_STEPS steps.
    """
    return finish(range_steps(expr, select, start, end, step_seconds, options=options, notes=notes))


def range_steps(expr: Expr, select: Select, start: float, end: float, step_seconds: float, *,
                options: Options = _DEFAULTS, notes: list[Note] | None = None) -> Steps[Matrix]:
    """`over_range` in pieces.

    Every selector is asked once, before the first step. `max_samples` bounds what is held at a time: the samples
    loaded, the result so far, and what one step needs.
    """
    start, end, step_seconds = round(float(start), 3), round(float(end), 3), float(step_seconds)
    steps = _steps(start, end, step_seconds)
    found: dict[Labels, tuple[array[float], array[float]]] = {}
    loaded = Budget.of(options)
    memory = _Remembered(select, loaded)
    yield from memory.load(expr)
    ev = Evaluation(memory.select, memory.newest, start, start, end, step_seconds, options, loaded, notes)
    held = 0
    for at in steps:
        step = replace(ev, at=at, budget=replace(loaded, spent=loaded.spent + held))
        value = yield from evaluate(expr, step)
        for number, (labels, result) in enumerate(step.finished(_as_vector(value)), 1):
            times, values = found.setdefault(labels, (array("d"), array("d")))
            times.append(at)
            values.append(result)
            held += 1
            if number % ELEMENTS_A_PIECE == 0:
                yield
    return (yield from _in_order(found))


def _in_order(found: "dict[Labels, tuple[array[float], array[float]]]") -> Steps[Matrix]:
    """The series ordered by labels: short lists are sorted, and merged."""
    rest = iter(found)
    runs: list[list[tuple[tuple[tuple[str, str], ...], Labels]]] = []
    while run := [(tuple(labels.items()), labels) for labels in islice(rest, ELEMENTS_A_PIECE)]:
        runs.append(sorted(run, key=itemgetter(0)))
        yield
    matrix: Matrix = []
    for number, (_, labels) in enumerate(merge(*runs, key=itemgetter(0)), 1):
        matrix.append(Series(labels, *found[labels]))
        if number % ELEMENTS_A_PIECE == 0:
            yield
    return matrix


def _steps(start: float, end: float, step_seconds: float) -> list[float]:
    if not (step_seconds > 0 and math.isfinite(end - start)):
        raise QueryError(f"a range needs a positive step, not {step_seconds}")
    count = math.floor(round((end - start) / step_seconds, 6)) + 1
    if count > MAX_STEPS + 1:  # so many lie between one more points
        raise QueryError(f"{count} steps are more than {MAX_STEPS}", help="lengthen the step or shorten the range")
    return [round(start + index * step_seconds, 3) for index in range(count)]


def _as_vector(value: Operand) -> Vector:
    if isinstance(value, float):
        return [Point(Labels(), value)]
    if isinstance(value, str) or (value and isinstance(value[0], Window)):
        raise QueryError("a range query needs an expression that gives a number or an instant vector")
    return cast(Vector, value)


class _Remembered:
    """Asks `select` once for all samples of a selector, so that a hundred steps copy them only once.

    Lives as long as one evaluation over a range.
    """

    def __init__(self, select: Select, budget: Budget) -> None:
        self._select = select
        self._budget = budget
        self._seen: dict[Sequence[Matcher], list[Series]] = {}

    def load(self, expr: Expr) -> Steps[None]:
        """Ask for everything that an expression selects, in pieces, before it is evaluated."""
        for node in walk(expr):
            if isinstance(node, VectorSelector) and node.matchers not in self._seen:
                found = self._seen[node.matchers] = []
                for number, series in enumerate(self._select(node.matchers, -math.inf, math.inf), 1):
                    self._budget.charge(len(series.times))
                    found.append(series)
                    if number % ELEMENTS_A_PIECE == 0:
                        yield

    def select(self, matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Series]:
        """As `Select`."""
        for labels, times, values, whole, rising in self._seen[matchers]:
            low, high = bisect_right(times, start), bisect_right(times, end)
            if low < high:
                yield Series(labels, times[low:high], values[low:high], whole, rising)

    def newest(self, matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Point]:
        """As `Newest`."""
        for series in self._seen[matchers]:
            index = bisect_right(series.times, end) - 1
            if index >= 0 and series.times[index] > start and not is_stale(series.values[index]):
                yield Point(series.labels, series.values[index])


def evaluate(expr: Expr, ev: Evaluation) -> Steps[Operand]:
    """The value of a node and everything below it."""
    value = yield from _EVALUATORS[type(expr)](expr, ev)
    ev.charge(0)
    yield
    return value


def _literal(expr: NumberLiteral | StringLiteral, ev: Evaluation) -> Steps[Operand]:
    yield from ()
    return expr.value


def _paren(expr: Paren, ev: Evaluation) -> Steps[Operand]:
    return (yield from evaluate(expr.expr, ev))


def _moment(ev: Evaluation, at: At, offset_seconds: float) -> float:
    """When a selector looks: `@` fixes it, `offset` moves it."""
    base = ev.at if at is None else ev.start if at == "start" else ev.end if at == "end" else at
    return round(base - offset_seconds, 3)


def _looked_back(expr: VectorSelector, ev: Evaluation) -> tuple[float, float]:
    """What a selector looks at: a sample from before is too old."""
    moment = _moment(ev, expr.at, expr.offset_seconds)
    return round(moment - ev.options.lookback_seconds, 3), moment


def _vector(expr: VectorSelector, ev: Evaluation) -> Steps[Operand]:
    """The newest sample of each series that is neither too old nor marked stale."""
    found: Vector = []
    points = iter(ev.newest(expr.matchers, *_looked_back(expr, ev)))
    while piece := [*islice(points, ELEMENTS_A_PIECE)]:
        found += piece
        ev.charge(len(piece))
        yield
    return found


def _matrix(expr: MatrixSelector, ev: Evaluation) -> Steps[Operand]:
    found: list[Window] = []
    windows = _windows(expr, ev)
    while piece := list(islice(windows, WINDOWS_A_PIECE)):
        found += piece
        yield
    return found


def _windows(expr: MatrixSelector, ev: Evaluation) -> Iterator[Window]:
    """The series of a range, each cut out only when it is asked for."""
    selector = expr.selector
    end = _moment(ev, selector.at, selector.offset_seconds)
    start = round(end - expr.range_seconds, 3)
    for labels, times, values, whole, rising in ev.select(selector.matchers, start, end):
        if not whole and not (whole := (total := sum(values)) == total):
            # Only a NaN, or both infinities, make a sum NaN: otherwise no stale marker is among the values.
            kept = [(time, value) for time, value in zip(times, values, strict=True) if not is_stale(value)]
            times, values = [time for time, _ in kept], [value for _, value in kept]
        if times:
            ev.charge(len(times))
            yield Window(labels, times, values, start, end, ev.at, whole, rising)


def _subquery(expr: Subquery, ev: Evaluation) -> Steps[Operand]:
    """The expression at every multiple of the step inside the left-open range, whatever the moment of the query is."""
    end = _moment(ev, expr.at, expr.offset_seconds)
    start = round(end - expr.range_seconds, 3)
    step_ms = round((expr.step_seconds or ev.options.subquery_step_seconds) * 1000)
    first, last = round(start * 1000) // step_ms + 1, round(end * 1000) // step_ms
    ev.charge(max(0, last - first + 1))
    memory = _Remembered(ev.select, ev.budget)
    yield from memory.load(expr.expr)
    inner = replace(ev, select=memory.select, newest=memory.newest)
    found: dict[Labels, tuple[list[float], list[float]]] = {}
    for index in range(first, last + 1):
        at = index * step_ms / 1000
        for labels, value in _as_vector((yield from evaluate(expr.expr, inner.moved(at)))):
            times, values = found.setdefault(labels, ([], []))
            times.append(at)
            values.append(value)
    return [Window(labels, times, values, start, end, ev.at) for labels, (times, values) in found.items()]


def _unary(expr: Unary, ev: Evaluation) -> Steps[Operand]:
    value = yield from evaluate(expr.expr, ev)
    if isinstance(value, float):
        return -value if expr.op == "-" else value
    if expr.op == "+":
        return value
    return ev.unique((yield from piecewise(
        lambda piece: [Point(ev.nameless(labels), -number) for labels, number in piece], cast(Vector, value))))


def _call(expr: Call, ev: Evaluation) -> Steps[Operand]:
    if expr.function == "timestamp" and isinstance(selector := unwrap(expr.arguments[0]), VectorSelector):
        return (yield from _times(selector, ev))
    arguments: list[Operand] = []
    ranges: Iterator[Window] | None = None
    for argument in expr.arguments:
        node = unwrap(argument)
        if isinstance(node, MatrixSelector) and expr.function != "absent_over_time":
            ranges = _windows(node, ev)
            arguments.append([])
        else:
            arguments.append((yield from evaluate(argument, ev)))
    if ranges is not None:
        return (yield from _over_time(expr, ev, arguments, ranges))
    if expr.function in ONE_BY_ONE and arguments and len(cast(Vector, arguments[0])) > ELEMENTS_A_PIECE:
        return (yield from _one_by_one(expr, ev, arguments))
    return FUNCTIONS[expr.function](ev, expr, arguments)


def _times(selector: VectorSelector, ev: Evaluation) -> Steps[Operand]:
    """`timestamp` of a plain selector: the samples' own times."""
    found: Vector = []
    seen = (one for one in ev.select(selector.matchers, *_looked_back(selector, ev)) if not is_stale(one.values[-1]))
    while piece := [Point(ev.nameless(one.labels), one.times[-1]) for one in islice(seen, ELEMENTS_A_PIECE)]:
        found += piece
        ev.charge(len(piece))
        yield
    return ev.unique(found)


def _one_by_one(expr: Call, ev: Evaluation, arguments: list[Operand]) -> Steps[Operand]:
    """A function that makes of each element one by itself, applied to some of a long vector at a time."""
    function, (vector, *others) = FUNCTIONS[expr.function], arguments
    return ev.unique((yield from piecewise(
        lambda piece: cast(Vector, function(ev, expr, [piece, *others])), cast(Vector, vector))))


def _over_time(expr: Call, ev: Evaluation, arguments: list[Operand], ranges: Iterator[Window]) -> Steps[Operand]:
    """A function of a range, applied to a few series at a time; the empty list among the arguments is their place."""
    place = arguments.index([])
    found: Vector = []
    while True:
        piece = list(islice(ranges, WINDOWS_A_PIECE))
        arguments[place] = piece
        found += cast(Vector, FUNCTIONS[expr.function](ev, expr, arguments))
        if len(piece) < WINDOWS_A_PIECE:
            return ev.unique(found)
        yield


def _binary(expr: Binary, ev: Evaluation) -> Steps[Operand]:
    left = yield from evaluate(expr.left, ev)
    right = yield from evaluate(expr.right, ev)
    if isinstance(left, float):
        if isinstance(right, float):
            return binary.scalars(expr.op, left, right)
        return (yield from binary.vector_with_scalar(ev, expr, cast(Vector, right), left, swapped=True))
    if isinstance(right, float):
        return (yield from binary.vector_with_scalar(ev, expr, cast(Vector, left), right, swapped=False))
    return (yield from binary.vectors(ev, expr, cast(Vector, left), cast(Vector, right)))


def _aggregate(expr: Aggregate, ev: Evaluation) -> Steps[Operand]:
    parameter = None if expr.parameter is None else cast("float | str", (yield from evaluate(expr.parameter, ev)))
    return (yield from aggregate(ev, expr, cast(Vector, (yield from evaluate(expr.expr, ev))), parameter))


_EVALUATORS: dict[type[Any], Callable[[Any, Evaluation], Steps[Operand]]] = {
    NumberLiteral: _literal,
    StringLiteral: _literal,
    VectorSelector: _vector,
    MatrixSelector: _matrix,
    Subquery: _subquery,
    Call: _call,
    Unary: _unary,
    Binary: _binary,
    Aggregate: _aggregate,
    Paren: _paren,
}
