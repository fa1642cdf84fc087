"""Expressions evaluated over selected samples, at one moment or at every step of a range.

One small function for each kind of node. Times have a resolution of one millisecond, as in Prometheus: the moment
given is rounded to it, so that a range ends exactly where a sample lies.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, cast

from sidecar.errors import QueryError
from sidecar.model import Labels, is_stale
from sidecar.promql import binary
from sidecar.promql.aggregate import aggregate
from sidecar.promql.context import Budget, Evaluation, Note, Operand, Options, Window
from sidecar.promql.functions import FUNCTIONS
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
)
from sidecar.promql.values import Matcher, Matrix, Point, Select, Series, Value, Vector

Query = Callable[[Expr, float], Value]
"""`query(expr, at)`: the value of an expression at a moment. How rules and pages reach their data."""

MAX_STEPS = 11_000
_DEFAULTS = Options()


def instant(expr: Expr, select: Select, at: float, *, lookback_seconds: float | None = None,
            options: Options = _DEFAULTS, notes: list[Note] | None = None) -> Value:
    """The value of `expr` at `at` (Unix seconds): number, string, vector, or for a range its raw samples.

    `lookback_seconds` goes before that of `options`. `notes`, when given, receives remarks. Raises QueryError for
    what only the data shows: ambiguous matching, duplicate results, or more samples than `options.max_samples`.
    """
    at = round(float(at), 3)
    if lookback_seconds is not None:
        options = replace(options, lookback_seconds=lookback_seconds)
    ev = Evaluation(select, at, at, at, 0.0, options, Budget(options.max_samples), notes)
    value = evaluate(expr, ev)
    if not isinstance(value, list):
        return value
    if value and isinstance(value[0], Window):
        return [Series(*window[:3]) for window in value if isinstance(window, Window)]
    return ev.finished(cast(Vector, value))


def over_range(expr: Expr, select: Select, start: float, end: float, step_seconds: float, *,
               options: Options = _DEFAULTS, notes: list[Note] | None = None) -> Matrix:
    """`expr` at every step of [start, end], as series ordered by labels; a number becomes one series without labels.

    Raises QueryError as `instant` does, for a string or a range, and for more than MAX_STEPS steps.
    """
    steps = range_steps(expr, select, start, end, step_seconds, options=options, notes=notes)
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            return cast(Matrix, ended.value)


def range_steps(expr: Expr, select: Select, start: float, end: float, step_seconds: float, *,
                options: Options = _DEFAULTS, notes: list[Note] | None = None) -> Generator[None, None, Matrix]:
    """`over_range` in pieces: pauses after each step, so that others may run, and returns the series at the end.

    Every selector is asked once, at the first step: what is stored during a pause is not seen. `max_samples` bounds
    what is held at a time: the samples loaded, the result so far, and what one step needs.
    """
    start, end, step_seconds = round(float(start), 3), round(float(end), 3), float(step_seconds)
    steps = _steps(start, end, step_seconds)
    found: dict[Labels, tuple[array[float], array[float]]] = {}
    loaded = Budget(options.max_samples)
    ev = Evaluation(_remembered(select, loaded), start, start, end, step_seconds, options, loaded, notes)
    held = 0
    for at in steps:
        step = replace(ev, at=at, budget=replace(loaded, spent=loaded.spent + held))
        for labels, number in step.finished(_as_vector(evaluate(expr, step))):
            times, values = found.setdefault(labels, (array("d"), array("d")))
            times.append(at)
            values.append(number)
            held += 1
        yield
    return [Series(labels, *found[labels]) for labels in sorted(found, key=lambda labels: tuple(labels.items()))]


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


def _remembered(select: Select, budget: Budget) -> Select:
    """`select` asked once for all samples of a selector, so that a hundred steps copy them only once."""
    seen: dict[Sequence[Matcher], list[Series]] = {}

    def narrowed(matchers: Sequence[Matcher], start: float, end: float) -> list[Series]:
        if matchers not in seen:
            seen[matchers] = list(select(matchers, -math.inf, math.inf))
            budget.spent += sum(len(series.times) for series in seen[matchers])
            if budget.spent > budget.limit:
                raise QueryError(f"the query needs more than {budget.limit} samples", help="narrow its matchers")
        found = []
        for labels, times, values in seen[matchers]:
            low, high = bisect_right(times, start), bisect_right(times, end)
            if low < high:
                found.append(Series(labels, times[low:high], values[low:high]))
        return found

    return narrowed


def evaluate(expr: Expr, ev: Evaluation) -> Operand:
    """The value of a node and everything below it."""
    return _EVALUATORS[type(expr)](expr, ev)


def _literal(expr: NumberLiteral | StringLiteral, ev: Evaluation) -> Operand:
    return expr.value


def _paren(expr: Paren, ev: Evaluation) -> Operand:
    return evaluate(expr.expr, ev)


def _moment(ev: Evaluation, at: At, offset_seconds: float) -> float:
    """When a selector looks: `@` fixes it, `offset` moves it."""
    base = ev.at if at is None else ev.start if at == "start" else ev.end if at == "end" else at
    return round(base - offset_seconds, 3)


def _latest(expr: VectorSelector, ev: Evaluation) -> list[tuple[Labels, float, float]]:
    """Labels, value and time of the newest sample of each series that is neither too old nor marked stale."""
    moment = _moment(ev, expr.at, expr.offset_seconds)
    start = round(moment - ev.options.lookback_seconds, 3)
    found = []
    for labels, times, values in ev.select(expr.matchers, start, moment):
        if times and not is_stale(values[-1]):
            found.append((labels, values[-1], times[-1]))
    ev.charge(len(found))
    return found


def _vector(expr: VectorSelector, ev: Evaluation) -> Vector:
    return [Point(labels, value) for labels, value, _ in _latest(expr, ev)]


def _matrix(expr: MatrixSelector, ev: Evaluation) -> list[Window]:
    selector = expr.selector
    end = _moment(ev, selector.at, selector.offset_seconds)
    start = round(end - expr.range_seconds, 3)
    found = []
    for labels, times, values in ev.select(selector.matchers, start, end):
        if (total := sum(values)) != total:
            # Only a NaN, or both infinities, make a sum NaN: otherwise no stale marker is among the values.
            kept = [(time, value) for time, value in zip(times, values, strict=True) if not is_stale(value)]
            times, values = [time for time, _ in kept], [value for _, value in kept]
        if times:
            ev.charge(len(times))
            found.append(Window(labels, times, values, start, end, ev.at))
    return found


def _subquery(expr: Subquery, ev: Evaluation) -> list[Window]:
    """The expression at every multiple of the step inside the left-open range, whatever the moment of the query is."""
    end = _moment(ev, expr.at, expr.offset_seconds)
    start = round(end - expr.range_seconds, 3)
    step_ms = round((expr.step_seconds or ev.options.subquery_step_seconds) * 1000)
    first, last = round(start * 1000) // step_ms + 1, round(end * 1000) // step_ms
    ev.charge(max(0, last - first + 1))
    inner = replace(ev, select=_remembered(ev.select, ev.budget))
    found: dict[Labels, tuple[list[float], list[float]]] = {}
    for index in range(first, last + 1):
        at = index * step_ms / 1000
        for labels, value in _as_vector(evaluate(expr.expr, inner.moved(at))):
            times, values = found.setdefault(labels, ([], []))
            times.append(at)
            values.append(value)
    return [Window(labels, times, values, start, end, ev.at) for labels, (times, values) in found.items()]


def _unary(expr: Unary, ev: Evaluation) -> Operand:
    value = evaluate(expr.expr, ev)
    if isinstance(value, float):
        return -value if expr.op == "-" else value
    if expr.op == "+":
        return value
    return ev.unique([Point(ev.nameless(labels), -number) for labels, number in cast(Vector, value)])


def _call(expr: Call, ev: Evaluation) -> Operand:
    if expr.function == "timestamp" and isinstance(selector := unwrap(expr.arguments[0]), VectorSelector):
        return ev.unique([Point(ev.nameless(labels), time) for labels, _, time in _latest(selector, ev)])
    return FUNCTIONS[expr.function](ev, expr, [evaluate(argument, ev) for argument in expr.arguments])


def _binary(expr: Binary, ev: Evaluation) -> Operand:
    left, right = evaluate(expr.left, ev), evaluate(expr.right, ev)
    if isinstance(left, float):
        if isinstance(right, float):
            return binary.scalars(expr.op, left, right)
        return binary.vector_with_scalar(ev, expr, cast(Vector, right), left, swapped=True)
    if isinstance(right, float):
        return binary.vector_with_scalar(ev, expr, cast(Vector, left), right, swapped=False)
    return binary.vectors(ev, expr, cast(Vector, left), cast(Vector, right))


def _aggregate(expr: Aggregate, ev: Evaluation) -> Operand:
    parameter = None if expr.parameter is None else cast("float | str", evaluate(expr.parameter, ev))
    return aggregate(ev, expr, cast(Vector, evaluate(expr.expr, ev)), parameter)


_EVALUATORS: dict[type[Any], Callable[[Any, Evaluation], Operand]] = {
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
