"""Evaluation seen from Python: values, limits, remarks, options, and what must not happen to the data."""

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import QueryError
from sidecar.model import STALE, Labels
from sidecar.promql import arithmetic
from sidecar.promql.context import Note, Options
from sidecar.promql.evaluate import instant, over_range
from sidecar.promql.parse import parse
from sidecar.promql.regex import predicate
from sidecar.promql.values import Matcher, Point, Select, Series


def series(text: str, *samples: tuple[float, float]) -> Series:
    """A series named like a selector with equalities only."""
    labels = Labels({m.name: m.value for m in parse(text).matchers})  # type: ignore[union-attr]
    return Series(labels, [at for at, _ in samples], [value for _, value in samples])


def selecting(*data: Series) -> Select:
    """The plainest possible `select` over these series."""

    def select(matchers: Sequence[Matcher], start: float, end: float) -> list[Series]:
        found = []
        for labels, times, values, *_ in data:
            if all(predicate(m)(labels.get(m.name, "")) for m in matchers):
                inside = [(at, value) for at, value in zip(times, values, strict=True) if start < at <= end]
                found.append(Series(labels, [at for at, _ in inside], [value for _, value in inside]))
        return found

    return select


NOTHING = selecting()


def test_kinds_of_values() -> None:
    """A number, a string, a vector and the raw samples of a range, each in its own shape."""
    x = series('x{a="1"}', (10, 1.0), (20, STALE), (30, 3.0))
    select = selecting(x)
    assert instant(parse("1 + 1"), select, 0) == 2.0
    assert instant(parse('"text"'), select, 0) == "text"
    assert instant(parse("x"), select, 30) == [Point(x.labels, 3.0)]
    assert instant(parse("x"), select, 20) == []
    assert instant(parse("x[1m]"), select, 30) == [Series(x.labels, [10, 30], [1.0, 3.0])]


def test_lookback_can_be_set() -> None:
    """An instant selector looks back as far as it is told, five minutes by default, its start excluded."""
    select = selecting(series("x", (0, 1.0)))
    assert instant(parse("x"), select, 299.999)
    assert not instant(parse("x"), select, 300)
    assert instant(parse("x"), select, 59, lookback_seconds=60)
    assert not instant(parse("x"), select, 60, lookback_seconds=60)


def test_milliseconds_do_not_blur_ranges() -> None:
    """A range of 100 ms at a large time holds the samples of 100 ms, whatever binary fractions do."""
    start = 1_700_000_000
    data = series("x", *[(round(start + index / 1000, 3), 1.0) for index in range(1000)])
    for end in range(200, 999, 37):
        at = start + end / 1000
        assert instant(parse("count_over_time(x[100ms])"), selecting(data), at) == [Point(Labels(), 100.0)]


@pytest.mark.parametrize("text", [
    "sum_over_time(vector(1)[100d:1s])",
    "count_over_time(x[1h])",
    "sum_over_time(sum_over_time(x[1h])[1h:1s])",
])
def test_a_budget_bounds_an_evaluation(text: str) -> None:
    """An expression that would load or produce too much ends in an error that says what to narrow."""
    select = selecting(series("x", *[(float(at), 1.0) for at in range(3000)]))
    with pytest.raises(QueryError, match="more than 2000 samples"):
        instant(parse(text), select, 3000, options=Options(max_samples=2000))
    with pytest.raises(QueryError, match="more than 2000 samples"):
        over_range(parse(text), select, 0, 3000, 60, options=Options(max_samples=2000))


def test_labels_cannot_grow_without_bound() -> None:
    """A value doubled at each call is refused long before it fills memory."""
    text = "x"
    for _ in range(60):
        text = f'label_join({text}, "a", "", "a", "a")'
    text = text.replace("(x,", '(label_replace(x, "a", "seed", "", ""),')
    with pytest.raises(QueryError, match="longer than"):
        instant(parse(text), selecting(series("x", (0, 1.0))), 0)


def test_range_queries() -> None:
    """Every step of a range, the last included; numbers become a series, ranges and strings are refused."""
    select = selecting(series('x{a="2"}', (0, 1.0), (10, 2.0)), series('x{a="1"}', (10, 5.0)))
    found = over_range(parse("x"), select, 0, 20, 10)
    assert [(dict(s.labels)["a"], list(s.times), list(s.values)) for s in found] == [
        ("1", [10, 20], [5, 5]), ("2", [0, 10, 20], [1, 2, 2]),
    ]
    steps = [0, 0.1, 0.2, 0.3]
    (numbers,) = over_range(parse("time()"), NOTHING, 0, 0.3, 0.1)
    assert (numbers.labels, list(numbers.times), list(numbers.values)) == (Labels(), steps, steps)
    for text in ("x[1m]", '"a"'):
        with pytest.raises(QueryError):
            over_range(parse(text), select, 0, 10, 10)
    for step in (0, -1, math.nan, 0.0001):
        with pytest.raises(QueryError):
            over_range(parse("1"), select, 0, 10, step)


def test_remarks_carry_their_place() -> None:
    """A remark reads as Prometheus writes it, with line and column, once however often it occurs."""
    notes: list[Note] = []
    text = "1 +\n  sum(rate(x[1m])) + sum(rate(x[1m]))"
    data = [series(f'x{{a="{index}"}}', (0, 1.0), (10, 2.0)) for index in range(3)]
    instant(parse(text), selecting(*data), 10, notes=notes)
    assert [note.render(text) for note in notes] == [
        f'PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: "x" (2:{column})'
        for column in (12, 31)
    ]


def test_names_removed_late() -> None:
    """With delayed removal a name that a function gave up can still be copied, and is gone from the result."""
    select = selecting(series("a_total", (0, 1.0), (10, 2.0)), series("b_total", (0, 1.0), (10, 3.0)))
    expr = parse('label_replace(rate({__name__=~"._total"}[11s]), "was", "$1", "__name__", "(.).*")')
    with pytest.raises(QueryError, match="same labelset"):
        instant(expr, select, 10)
    value = instant(expr, select, 10, options=Options(delayed_name_removal=True))
    assert sorted(point.labels["was"] for point in value) == ["a", "b"]  # type: ignore[union-attr]
    assert all("__name__" not in point.labels for point in value)  # type: ignore[union-attr]


@pytest.mark.parametrize(("text", "value"), [
    ("0/0", math.nan), ("1/0", math.inf), ("-1/0", -math.inf), ("1/-0", -math.inf), ("0^-1", math.inf),
    ("-8^(1/3)", -2), ("(-8)^(1/3)", math.nan), ("10^1000", math.inf), ("(-10)^1001", -math.inf), ("1%0", math.nan),
    ("Inf%2", math.nan), ("-7%3", -1), ("1%Inf", 1), ("Inf-Inf", math.nan),
])
def test_arithmetic_never_raises(text: str, value: float) -> None:
    """Numbers behave as IEEE 754 and C say: infinities and NaN instead of errors."""
    assert instant(parse(text), NOTHING, 0) == pytest.approx(value, nan_ok=True)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.sampled_from([
    "abs", "ceil", "floor", "round", "sgn", "exp", "sqrt", "ln", "log2", "log10", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "deg", "rad", "minute", "hour", "day_of_week",
    "day_of_month", "day_of_year", "days_in_month", "month", "year", "-", "deriv", "stddev", "avg", "stddev_over_time",
    "avg_over_time", "sum_over_time", "delta", "rate", "changes", "quantile",
]), st.lists(NUMBERS, min_size=1, max_size=5))
def test_no_number_breaks_a_function(function: str, numbers: list[float]) -> None:
    """Whatever the samples are, a function gives numbers."""
    data = series("x", *[(float(at), value) for at, value in enumerate(numbers)])
    argument = "x[1h]" if function.endswith("_time") or function in ("deriv", "delta", "rate", "changes") else "x"
    text = f"quantile(0.3, {argument})" if function == "quantile" else f"{function}({argument})"
    value = instant(parse(text), selecting(data), len(numbers))
    assert all(isinstance(point.value, float) for point in value)  # type: ignore[union-attr]


@given(st.lists(st.floats(-1e15, 1e15), min_size=1, max_size=50))
def test_sums_lose_nothing(values: list[float]) -> None:
    """A compensated sum is the exact sum to the last digits, and the mean lies between the extremes."""
    exact = math.fsum(values)
    scale = math.fsum(map(abs, values))
    assert abs(arithmetic.compensated_sum(values) - exact) <= 4e-16 * abs(exact) + 1e-28 * scale
    assert min(values) - 1e-6 <= arithmetic.mean(values) <= max(values) + 1e-6
