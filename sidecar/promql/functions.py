"""Every function that an expression may call, in one table.

A function gets the evaluation, the call and its evaluated arguments, and gives a number or a vector.
Semantics: promql/functions.go of Prometheus 3.
"""

import calendar
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Labels
from sidecar.promql import arithmetic, windows
from sidecar.promql.context import MAX_LABEL_LENGTH, Evaluation, Fading, Operand, Window
from sidecar.promql.histograms import histogram_fraction, histogram_quantile, histogram_quantiles
from sidecar.promql.regex import regex
from sidecar.promql.remarks import remark_gauge, remark_share
from sidecar.promql.tree import Call, MatrixSelector, VectorSelector, unwrap
from sidecar.promql.values import Point, Vector

Function = Callable[[Evaluation, Call, Sequence[Operand]], float | Vector]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GREGORIAN_SECONDS = 146_097 * 86_400
"""400 years, after which the calendar repeats itself, days of the week included."""
_LAST_SECOND = 2.0**63


def _vector(operand: Operand) -> Vector:
    return cast(Vector, operand)


def _pointwise(fn: Callable[..., float]) -> Function:
    """`fn(value, *numbers)` for each element of a vector; the other arguments are numbers."""

    def apply(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
        vector, *numbers = arguments
        return ev.unique([Point(ev.nameless(labels), fn(value, *numbers)) for labels, value in _vector(vector)])

    return apply


def _windowed(fn: Callable[..., float | None], *, keeps_name: bool = False, counter: bool = False) -> Function:
    """`fn(window, *numbers)` for each series of a range; the other arguments are numbers."""

    def apply(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
        ranges = next(argument for argument in arguments if isinstance(argument, list))
        numbers = [argument for argument in arguments if not isinstance(argument, list)]
        found: Vector = []
        for window in cast(list[Window], ranges):
            value = fn(window, *numbers)
            if value is not None:
                found.append(Point(window.labels if keeps_name else ev.nameless(window.labels), value))
                if counter and ev.notes is not None:
                    remark_gauge(ev, window.labels.metric, call.arguments[0].position)
        return found if keeps_name else ev.unique(found)

    return apply


def _checked_quantile(apply: Function) -> Function:
    def checked(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> float | Vector:
        if arguments[1]:
            remark_share(ev, cast(float, arguments[0]), call.arguments[0].position)
        return apply(ev, call, arguments)

    return checked


def _smoothing(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> float | Vector:
    for what, factor in (("smoothing", arguments[1]), ("trend", arguments[2])):
        if arguments[0] and (cast(float, factor) <= 0 or cast(float, factor) >= 1):
            raise QueryError(f"invalid {what} factor {factor}: it must be between 0 and 1", position=call.position)
    return _windowed(windows.double_exponential_smoothing)(ev, call, arguments)


def _dated(fn: Callable[[datetime, int], float]) -> Function:
    """A field of a date in UTC, of each element's value as Unix time; without an argument, of the evaluation's."""

    def apply(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
        vector = _vector(arguments[0]) if arguments else [Point(Labels(), ev.at)]
        return ev.unique([Point(ev.nameless(labels), _date_field(fn, value)) for labels, value in vector])

    return apply


def _date_field(fn: Callable[[datetime, int], float], value: float) -> float:
    if not abs(value) < _LAST_SECOND:
        return math.nan
    cycle, seconds = divmod(math.trunc(value), _GREGORIAN_SECONDS)
    date = _EPOCH + timedelta(seconds=seconds)
    return fn(date, date.year + 400 * cycle)


def _absent(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    """One element if there is none, with the labels that the selector's equalities say it would have."""
    if arguments[0]:
        return []
    selector = unwrap(call.arguments[0])
    if isinstance(selector, MatrixSelector):
        selector = selector.selector
    pairs: dict[str, str] = {}
    seen: set[str] = set()
    for matcher in selector.matchers if isinstance(selector, VectorSelector) else ():
        if matcher.name == METRIC_NAME:
            continue
        if matcher.op == "=" and matcher.name not in seen:
            pairs[matcher.name] = matcher.value
            seen.add(matcher.name)
        else:
            pairs.pop(matcher.name, None)
    return [Point(Labels(pairs), 1.0)]


def _scalar(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> float:
    vector = _vector(arguments[0])
    return vector[0].value if len(vector) == 1 else math.nan


def _to_vector(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    return [Point(Labels(), cast(float, arguments[0]))]


def _timestamp(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    """The evaluation's time; of a plain selector, the evaluator gives the samples' own times instead."""
    return ev.unique([Point(ev.nameless(labels), ev.at) for labels, _ in _vector(arguments[0])])


def _clamp(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> float | Vector:
    _, low, high = cast(tuple[Vector, float, float], arguments)
    if high < low:
        return []
    return _pointwise(lambda value, *_: arithmetic.greater(low, arithmetic.smaller(high, value)))(ev, call, arguments)


def _round(value: float, nearest: float = 1.0) -> float:
    # Go multiplies with the inverse; dividing would round differently for nearest = 0.1.
    inverse = arithmetic.divide(1.0, nearest)
    return arithmetic.divide(math.floor(value * inverse + 0.5)
                             if math.isfinite(value * inverse) else value * inverse, inverse)


def _whole(fn: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: math.copysign(float(fn(value)), value) if math.isfinite(value) else value


def _sign(value: float) -> float:
    return value if value != value else float((value > 0) - (value < 0))


def _note_unsorted(ev: Evaluation, call: Call) -> None:
    if ev.step_seconds:
        what = "is ineffective for range queries since results are always ordered by labels"
        ev.note("warning", f"sort {what}", call.position)


def _sorted(*, descending: bool) -> Function:
    def apply(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
        _note_unsorted(ev, call)
        return by_value(_vector(arguments[0]), descending=descending)

    return apply


def by_value(vector: Vector, *, descending: bool) -> Vector:
    """The elements in order of their values, NaN last either way."""
    numbers = sorted((p for p in vector if p.value == p.value), key=lambda p: p.value, reverse=descending)
    return numbers + [point for point in vector if point.value != point.value]


def _sorted_by_label(*, descending: bool) -> Function:
    def apply(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
        _note_unsorted(ev, call)
        vector, *names = arguments

        def key(point: Point) -> tuple[object, ...]:
            named = tuple(_natural(point.labels.get(cast(str, name), "")) for name in names)
            return (named, tuple(point.labels.items()))

        return sorted(_vector(vector), key=key, reverse=descending)

    return apply


def _natural(text: str) -> tuple[tuple[int, str], ...]:
    """A key that puts `4m5` before `4m600`: runs of digits compare as numbers."""
    parts: list[tuple[int, str]] = []
    run = ""
    for char in text:
        if char.isdecimal():
            run += char
            continue
        if run:
            parts.append((len(run.lstrip("0")), run.lstrip("0")))
            run = ""
        parts.append((10**6 + ord(char), ""))
    if run:
        parts.append((len(run.lstrip("0")), run.lstrip("0")))
    return tuple(parts)


def _label_replace(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    vector, target, template, source, pattern = cast(tuple[Vector, str, str, str, str], arguments)
    compiled = regex(pattern)
    _check_label(target, call)

    def replaced(labels: Labels) -> Labels:
        groups = compiled.groups(labels.get(source, ""))
        return labels if groups is None else _with_label(labels, target, compiled.expand(template, groups))

    return ev.unique([Point(replaced(labels), value) for labels, value in vector])


def _label_join(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    vector, target, separator, *sources = cast(tuple[Vector, str, str, str], arguments)
    _check_label(target, call)
    return ev.unique([
        Point(_with_label(labels, target, separator.join(labels.get(source, "") for source in sources)), value)
        for labels, value in vector
    ])


def _check_label(name: str, call: Call) -> None:
    if not name or any(ord(char) < 0x20 or 0x7F <= ord(char) < 0x100 for char in name):
        raise QueryError(f"invalid destination label name in {call.function}(): {name!r}", position=call.position)


def _with_label(labels: Labels, name: str, value: str) -> Labels:
    if len(value) > MAX_LABEL_LENGTH:
        raise QueryError(f"a value for label {name!r} would be longer than {MAX_LABEL_LENGTH} characters")
    merged = labels.merged({name: value})
    return Fading(merged) if type(labels) is Fading and name != METRIC_NAME else merged


def _number(fn: Callable[..., float]) -> Function:
    return lambda ev, call, arguments: fn(ev, *arguments)


def _total(fn: Callable[[float], float]) -> Callable[[float], float]:
    return lambda value: arithmetic.total(fn, value)


def _logarithm(fn: Callable[[float], float]) -> Callable[[float], float]:
    return lambda value: -math.inf if value == 0 else arithmetic.total(fn, value)


_POINTWISE: dict[str, Callable[..., float]] = {
    "abs": abs, "ceil": _whole(math.ceil), "floor": _whole(math.floor), "round": _round, "sgn": _sign,
    "clamp_min": arithmetic.greater, "clamp_max": arithmetic.smaller,
    "exp": _total(math.exp), "sqrt": _total(math.sqrt),
    "ln": _logarithm(math.log), "log2": _logarithm(math.log2), "log10": _logarithm(math.log10),
    "sin": _total(math.sin), "cos": _total(math.cos), "tan": _total(math.tan),
    "asin": _total(math.asin), "acos": _total(math.acos), "atan": math.atan,
    "sinh": lambda value: math.copysign(_total(math.sinh)(abs(value)), value), "cosh": _total(math.cosh),
    "tanh": math.tanh, "asinh": math.asinh, "acosh": _total(math.acosh),
    "atanh": lambda value: math.copysign(math.inf, value) if abs(value) == 1 else arithmetic.total(math.atanh, value),
    "deg": lambda value: value * 180 / math.pi, "rad": lambda value: value * math.pi / 180,
}

_DATED: dict[str, Callable[[datetime, int], float]] = {
    "minute": lambda date, year: float(date.minute), "hour": lambda date, year: float(date.hour),
    "day_of_week": lambda date, year: float(date.isoweekday() % 7), "day_of_month": lambda date, year: float(date.day),
    "day_of_year": lambda date, year: float(date.timetuple().tm_yday),
    "days_in_month": lambda date, year: float(calendar.monthrange(date.year, date.month)[1]),
    "month": lambda date, year: float(date.month), "year": lambda date, year: float(year),
}

_WINDOWED: dict[str, Callable[..., float | None]] = {
    fn.__name__: fn for fn in (
        windows.irate, windows.delta, windows.idelta, windows.deriv, windows.predict_linear, windows.avg_over_time,
        windows.sum_over_time, windows.count_over_time, windows.max_over_time, windows.min_over_time,
        windows.present_over_time, windows.stdvar_over_time, windows.stddev_over_time, windows.mad_over_time,
        windows.changes, windows.resets, windows.ts_of_first_over_time, windows.ts_of_last_over_time,
        windows.ts_of_max_over_time, windows.ts_of_min_over_time,
    )
}

_NUMBERS: dict[str, Callable[..., float]] = {
    "pi": lambda ev: math.pi, "time": lambda ev: ev.at, "start": lambda ev: ev.start, "end": lambda ev: ev.end,
    "step": lambda ev: ev.step_seconds, "range": lambda ev: ev.end - ev.start,
    "min_of": lambda ev, left, right: arithmetic.smaller(left, right),
    "max_of": lambda ev, left, right: arithmetic.greater(left, right),
}

FUNCTIONS: dict[str, Function] = {
    **{name: _number(fn) for name, fn in _NUMBERS.items()},
    **{name: _pointwise(fn) for name, fn in _POINTWISE.items()},
    **{name: _dated(fn) for name, fn in _DATED.items()},
    **{name: _windowed(fn) for name, fn in _WINDOWED.items()},
    "rate": _windowed(windows.rate, counter=True),
    "increase": _windowed(windows.increase, counter=True),
    "first_over_time": _windowed(windows.first_over_time, keeps_name=True),
    "last_over_time": _windowed(windows.last_over_time, keeps_name=True),
    "quantile_over_time": _checked_quantile(_windowed(windows.quantile_over_time)),
    "double_exponential_smoothing": _smoothing,
    "histogram_fraction": histogram_fraction,
    "histogram_quantile": histogram_quantile,
    "histogram_quantiles": histogram_quantiles,
    "absent": _absent,
    "absent_over_time": _absent,
    "clamp": _clamp,
    "label_join": _label_join,
    "label_replace": _label_replace,
    "scalar": _scalar,
    "sort": _sorted(descending=False),
    "sort_desc": _sorted(descending=True),
    "sort_by_label": _sorted_by_label(descending=False),
    "sort_by_label_desc": _sorted_by_label(descending=True),
    "timestamp": _timestamp,
    "vector": _to_vector,
}

ONE_BY_ONE = frozenset((*_POINTWISE, *_DATED, "clamp", "label_join", "label_replace", "timestamp"))
"""The functions that make of each element of a vector one by itself: a long vector can be given to them in pieces."""

NUMBERS = frozenset((*_NUMBERS, "scalar"))
"""The functions that give a number; all others give a vector."""

EXPERIMENTAL = frozenset((
    "mad_over_time", "first_over_time", "ts_of_first_over_time", "ts_of_last_over_time", "ts_of_max_over_time",
    "ts_of_min_over_time", "double_exponential_smoothing", "sort_by_label", "sort_by_label_desc",
    "start", "end", "step", "range", "min_of", "max_of", "histogram_quantiles",
))
