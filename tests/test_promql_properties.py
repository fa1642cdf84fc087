"""Expressions of any kind: whatever is asked, the answer is a value or a QueryError, and values obey the laws."""

import math
import re
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import examples

from sidecar.errors import QueryError
from sidecar.model import Labels, Sample
from sidecar.promql.aggregate import AGGREGATIONS
from sidecar.promql.evaluate import instant, over_range
from sidecar.promql.functions import FUNCTIONS
from sidecar.promql.parse import parse as parse_strictly
from sidecar.promql.tokens import MAX_DEPTH, MAX_LENGTH
from sidecar.promql.tree import Expr, VectorSelector, children, lookback, metric_names
from sidecar.promql.values import Point, Series
from sidecar.store import Store

parse = partial(parse_strictly, experimental=True)
AT = 300.0
ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates and NUL too
LONGEST_MESSAGE = 2 * MAX_LENGTH


def filled() -> Store:
    """A counter, a gauge and a histogram, each in a few series, one of which has ended."""
    store = Store()
    for index, at in enumerate(range(0, 301, 15)):
        samples = []
        for a in ("1", "2", "3"):
            number = float(index * int(a) % 17)
            samples += [("x", {"a": a, "b": "p" if a == "1" else "q"}, number),
                        ("y", {"a": a}, [0.0, -1.5, math.inf, math.nan, 1e308, 7.0][(index + int(a)) % 6]),
                        ("n_total", {"a": a, "c": "é \n\"\\"}, float(index % 9 * int(a)))]
            samples += [("h_bucket", {"a": a, "le": le}, number * share)
                        for le, share in (("0.1", 0.0), ("1", 0.5), ("+Inf", 1.0))]
        store.append([Sample(Labels({"__name__": name, **labels}), value, float(at))
                      for name, labels, value in samples])
    store.append([Sample(Labels({"__name__": "x", "a": "4"}), 5.0, 200.0)])
    store.mark_stale([Labels({"__name__": "x", "a": "4"})], 215.0)
    return store


STORE = filled()

# Text of expressions by their type. Recursion is bounded by hypothesis's own leaf count.

DURATIONS = st.sampled_from(["1ms", "15s", "1m", "90s", "5m", "1h", "100d"])
NUMBERS = st.one_of(
    st.sampled_from(["0", "1", "-1", ".5", "1e308", "Inf", "-Inf", "NaN", "0x1f", "time()", "pi()", "5m", "1e-320"]),
    st.floats(0, 1e6).map(repr), st.integers(0, 2**70).map(str))
MODIFIERS = st.one_of(st.just(""), st.builds(" offset {}".format, DURATIONS),
                      st.builds(" offset -{}".format, DURATIONS),
                      st.sampled_from([" @ 100", " @ start()", " @ end()", " @ 1e9", " @ 150 offset 1m"]))
SELECTORS = st.sampled_from([
    "x", "y", "n_total", "h_bucket", "nothing", 'x{a="1"}', '{a=~"1|2"}', '{__name__=~"x|y"}', 'x{a!="1",b=~".*"}',
    'n_total{c=~"(?s).*"}', '{__name__="y",a!~"[13]"}', "x{}", 'x{nope=""}'])
INSTANT = st.builds("{}{}".format, SELECTORS, MODIFIERS)
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
OPERATORS = st.sampled_from([*"+-*/%^", "atan2", *COMPARISONS, *(f"{op} bool" for op in COMPARISONS)])
MATCHINGS = st.sampled_from(["", " on (a)", " ignoring (b)", " ignoring (b, c, le)", " on ()", " on (a) group_left ()",
                             " on (a) group_right (b)", " ignoring (b) group_left (c)"])
GROUPINGS = st.sampled_from(["", " by (a)", " by ()", " without (a)", " by (a, nope)", " by (__name__)", " without ()"])
OVER_TIME = sorted(name for name in FUNCTIONS if name.endswith("_over_time") and "quantile" not in name)
RANGED = st.sampled_from(["rate", "increase", "delta", "deriv", "irate", "idelta", "changes", "resets", *OVER_TIME])
PLAIN = st.sampled_from(["abs", "ceil", "exp", "floor", "ln", "log2", "log10", "sgn", "sqrt", "round", "sort",
                         "sort_desc", "timestamp", "absent", "day_of_month", "days_in_month", "hour", "month", "year",
                         "deg", "sin", "acosh", "atanh", "tanh"])


def bigger(vector: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Vectors made of vectors."""
    matrix = st.one_of(st.builds("{}[{}]{}".format, SELECTORS, DURATIONS, MODIFIERS),
                       st.builds("({})[{}:{}]{}".format, vector, st.sampled_from(["1m", "5m", "100s"]),
                                 st.sampled_from(["", "15s", "1m", "7s"]), MODIFIERS))
    scalar = st.one_of(NUMBERS, st.builds("scalar({})".format, vector))
    plain_aggregations = sorted(AGGREGATIONS - {"topk", "bottomk", "quantile", "count_values", "limitk", "limit_ratio"})
    return st.one_of(
        st.builds("-({})".format, vector),
        st.builds("({}) {} ({})".format, vector, OPERATORS, scalar),
        st.builds("({}) {} ({})".format, scalar, OPERATORS, vector),
        st.builds("({}) {}{} ({})".format, vector, OPERATORS, MATCHINGS, vector),
        st.builds("({}) {}{} ({})".format, vector, st.sampled_from(["and", "or", "unless"]),
                  st.sampled_from(["", " on (a)", " ignoring (b)", " on ()"]), vector),
        st.builds("{}{} ({})".format, st.sampled_from(plain_aggregations), GROUPINGS, vector),
        st.builds("{}{} ({}, {})".format, st.sampled_from(["topk", "bottomk", "quantile"]), GROUPINGS, scalar, vector),
        st.builds('count_values{} ("v", {})'.format, GROUPINGS, vector),
        st.builds("{}({})".format, PLAIN, vector),
        st.builds("clamp({}, {}, {})".format, vector, scalar, scalar),
        st.builds("vector({})".format, scalar),
        st.builds('label_replace({}, "{}", "$1", "a", "{}")'.format, vector, st.sampled_from(["b", "a", "__name__"]),
                  st.sampled_from(["(.*)", "1(.?)", "", "([12])"])),
        st.builds('label_join({}, "b", "-", "a", "c")'.format, vector),
        st.builds("{}({})".format, RANGED, matrix),
        st.builds("predict_linear({}, {})".format, matrix, scalar),
        st.builds("quantile_over_time({}, {})".format, scalar, matrix),
        st.builds("histogram_quantile({}, {})".format, scalar, vector),
    )


VECTORS = st.recursive(INSTANT, bigger, max_leaves=6)

TOKENS = [
    *"()[]{}+-*/%^=,:@;$\\#\n\0 ", "==", "!=", "=~", "!~", "<=", "and", "or", "unless", "bool", "on", "ignoring", "by",
    "group_left", "without", "offset", "start()", "end()", "sum", "topk", "x", "rate", "1", ".5", "1e400", "0x", "NaN",
    "5m", "1ms", "99999999y", "0s", '"a"', "'b'", "`c`", '"\\x"', '"\\ud800"', '"\\U0010ffff"', '"', "'", "`", "é", "𝄞",
    "\ud800", "[5m]", "[5m:]", "[5m:1ms]", "@ -1", "@ 1e300", "offset -1y", '{a=~"("}', '{a=~"(a*)*b"}', '{"x y"}',
]


@st.composite
def mistaken(draw: st.DrawFn) -> str:
    """An expression with some tokens gone, doubled, exchanged or added."""
    tokens = re.findall(r'"(?:\\.|[^"])*"|[A-Za-z_]\w*|[0-9.]+[a-z]*|\s+|.', draw(VECTORS), re.DOTALL)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(tokens) - 1))
        other = draw(st.one_of(st.sampled_from(["", *TOKENS]), st.sampled_from(tokens)))
        tokens[at:at + draw(st.integers(0, 1))] = [other]
    return "".join(tokens)


def parsed(text: str) -> Expr | None:
    """The tree, or None with an error that can be shown."""
    try:
        return parse(text)
    except QueryError as error:
        refusal = error
    assert 0 < len(str(refusal)) < LONGEST_MESSAGE
    assert refusal.position is None or 0 <= refusal.position <= len(text)
    return None


def shape(expr: Expr) -> object:
    """A tree whose parts can be compared: NaN is itself here, and matchers have no order."""
    if isinstance(expr, VectorSelector):
        return str(expr), sorted(expr.matchers)
    return type(expr), str(expr), [shape(child) for child in children(expr)]


@examples(400)
@given(st.one_of(ANY_TEXT, st.lists(st.sampled_from(TOKENS), max_size=12).map(" ".join), mistaken()))
def test_any_text_is_an_expression_or_an_error(text: str) -> None:
    """No text brings the parser down; what parses is shown in a form that means the same, and can be analysed."""
    expr = parsed(text)
    if expr is not None:
        again = parse(str(expr))
        assert shape(again) == shape(expr)
        assert lookback(expr) >= 0
        assert all(isinstance(name, str) for name in metric_names(expr))


DEEP: dict[str, Callable[[int], str]] = {
    "parentheses": lambda n: "(" * n + "x" + ")" * n,
    "open parentheses": lambda n: "(" * n,
    "closing parentheses": lambda n: ")" * n,
    "braces": lambda n: "{" * n,
    "brackets": lambda n: "x" + "[5m:1m]" * n,
    "open brackets": lambda n: "[" * n,
    "signs": lambda n: "-" * n + "x",
    "mixed signs": lambda n: "+-" * n + "1",
    "sums": lambda n: "+".join(["x"] * n),
    "powers": lambda n: "^".join(["2"] * n),
    "sets": lambda n: " or ".join(["x"] * n),
    "calls": lambda n: "abs(" * n + "x" + ")" * n,
    "aggregations": lambda n: "sum by (a) (" * n + "x" + ")" * n,
    "subqueries": lambda n: "max_over_time(" * n + "x" + "[5m:1m])" * n,
    "arguments": lambda n: "clamp(" + ",".join("x" * n) + ")",
    "labels": lambda n: "sum by (" + ",".join(f"l{i}" for i in range(n)) + ") (x)",
    "matchers": lambda n: "x{" + ",".join(f'l{i}="v"' for i in range(n)) + "}",
    "pattern": lambda n: 'x{a=~"' + "(" * n + ")" * n + '"}',
    "repeats": lambda n: 'x{a=~"' + "(a*)*" * n + 'b"}',
    "counted repeats": lambda n: 'x{a=~"' + "(" * n + "a" + "{9})" * n + '"}',
    "classes": lambda n: 'x{a=~"[' + "a-z" * n + ']"}',
    "string": lambda n: '"' + "\\n" * n + '"',
    "comments": lambda n: "#\n" * n + "x",
    "digits": lambda n: "9" * n,
    "duration": lambda n: "x[" + "9" * n + "s]",
    "name": lambda n: "x" * n,
    "offsets": lambda n: "x" + " offset 1s" * n,
    "unterminated": lambda n: '"' + "a" * n,
    "words": lambda n: "sum " * n,
}


@pytest.mark.parametrize("count", [2, MAX_DEPTH - 1, MAX_DEPTH + 1, 3000, 20_000, 200_000])
@pytest.mark.parametrize("form", DEEP)
def test_depth_and_length_end_in_a_value_or_an_error(form: str, count: int) -> None:
    """However deep or long a text is, it is refused with a reason or evaluated; the process goes on."""
    expr = parsed(DEEP[form](count))
    if expr is not None:
        assert shape(parse(str(expr))) == shape(expr)
        value(expr)


def value(expr: Expr, at: float = AT) -> Any:
    """What an expression gives, or None where that is an error."""
    try:
        return instant(expr, STORE.select, at)
    except QueryError as error:
        refusal = error
    assert 0 < len(str(refusal)) < LONGEST_MESSAGE
    return None


def vector(text: str, at: float = AT) -> list[Point]:
    """The vector that an expression gives; examples without one teach nothing."""
    found = value(parse(text), at)
    assume(isinstance(found, list))
    return found


def bits(points: list[Point]) -> dict[Labels, str]:
    """A vector that can be compared, NaN included."""
    found = {point.labels: repr(point.value) for point in points}
    assert len(found) == len(points), "labels twice"
    return found


@examples(400)
@given(VECTORS)
def test_any_expression_gives_a_vector_without_duplicates(text: str) -> None:
    """Whatever is combined, the result is a vector of different label sets, or an error that can be shown."""
    expr = parse(text)
    found = value(expr)
    if found is not None:
        assert isinstance(found, list)
        bits(found)
        assert all(isinstance(point.value, float) and "" not in point.labels.values() for point in found)


@examples(150)
@given(VECTORS)
def test_range_is_instant_at_every_step(text: str) -> None:
    """A range query gives at each step what an instant query gives there."""
    assume("start()" not in text and "end()" not in text)
    expr = parse(text)
    steps = [60.0, 137.5, 215.0]
    alone = [value(expr, at) for at in steps]
    try:
        matrix = over_range(expr, STORE.select, steps[0], steps[-1], 77.5)
    except QueryError:
        assert None in alone
        return
    seen: list[dict[Labels, str]] = [{} for _ in steps]
    for series in matrix:
        assert all(before < after for before, after in pairwise(series.times))
        for at, number in zip(series.times, series.values, strict=True):
            seen[steps.index(at)][series.labels] = repr(number)
    assert seen == [bits(points) for points in alone]


@examples(150)
@given(VECTORS, st.sampled_from(COMPARISONS), NUMBERS)
def test_comparison_filters(text: str, op: str, number: str) -> None:
    """A comparison keeps some elements, as they are; with its opposite it keeps each number exactly once."""
    whole = bits(vector(text))
    opposite = {"==": "!=", "!=": "==", ">": "<=", "<": ">=", ">=": "<", "<=": ">"}[op]
    kept, rest = bits(vector(f"({text}) {op} ({number})")), bits(vector(f"({text}) {opposite} ({number})"))
    assert kept.items() <= whole.items()
    assert not kept.keys() & rest.keys()
    if value(parse(number)) == value(parse(number)):
        assert {labels: shown for labels, shown in whole.items() if shown != "nan"}.keys() <= kept.keys() | rest.keys()
    judged = bits(vector(f"({text}) {op} bool ({number})"))
    assert sorted(judged.values()) == sorted(["1.0"] * len(kept) + ["0.0"] * (len(whole) - len(kept)))


@examples(150)
@given(VECTORS)
def test_sets(text: str) -> None:
    """A vector without itself is empty; with itself, or joined to itself, it stays as it is."""
    whole = bits(vector(text))
    assert vector(f"({text}) unless ({text})") == []
    assert bits(vector(f"({text}) and ({text})")) == whole
    assert bits(vector(f"({text}) or ({text})")) == whole
    assert bits(vector(f"({text}) or nothing")) == bits(vector(f"nothing or ({text})")) == whole


@examples(150)
@given(VECTORS, st.sampled_from(["a", "b", "nope", "le"]))
def test_aggregation_of_parts_is_that_of_the_whole(text: str, label: str) -> None:
    """Sums, counts and extremes of groups give, taken together, those of everything."""
    whole = vector(text)
    for op in ("sum", "min", "max"):
        alone, together = vector(f"{op}({text})"), vector(f"{op}({op} by ({label}) ({text}))")
        assert [point.labels for point in alone] == [point.labels for point in together]
        for one, other in zip(alone, together, strict=True):
            assert one.value == other.value or one.value != one.value or other.value != other.value \
                or math.isclose(one.value, other.value, rel_tol=1e-9, abs_tol=1e-6) or abs(one.value) > 1e300
    assert sum(point.value for point in vector(f"count by ({label}) ({text})")) == len(whole)
    assert len(vector(f"group({text})")) == bool(whole)


@examples(100)
@given(VECTORS, st.integers(-1, 5))
def test_topk_and_sorting_take_from_what_is_there(text: str, count: int) -> None:
    """topk gives the largest elements as they are, in order; sorting loses and adds nothing."""
    whole = bits(vector(text))
    found = vector(f"topk({count}, {text})")
    assert bits(found).items() <= whole.items()
    assert len(found) == max(0, min(count, len(whole)))
    assert [point.value for point in found] == sorted((p.value for p in found), reverse=True) or "nan" in whole.values()
    assert bits(vector(f"sort({text})")) == whole


@examples(100)
@given(SELECTORS, st.sampled_from(["15s", "1m", "5m", "1h"]), st.sampled_from([0.0, 37.0, 150.0, 299.999, 400.0]))
def test_windows_agree_with_each_other(selector: str, length: str, at: float) -> None:
    """What functions say of one range fits together: extremes, mean, number, sum, first and last, rate and increase."""
    def over(function: str) -> dict[Labels, float]:
        return {labels.without("__name__"): number
                for labels, number in vector(f"{function}({selector}[{length}])", at)}

    assume("=~" not in selector or "__name__" not in selector)
    assume('{a=~"1|2"}' not in selector)  # of several metrics, which would lose their names
    low, high, mean, count = (over(f"{name}_over_time") for name in ("min", "max", "avg", "count"))
    total, first, last = (over(f"{name}_over_time") for name in ("sum", "first", "last"))
    raw: list[Series] = value(parse(f"{selector}[{length}]"), at)
    assert {series.labels.without("__name__"): float(len(series.times)) for series in raw} == count
    for labels in count:
        if math.isfinite(total[labels]) and abs(total[labels]) < 1e300:
            assert low[labels] - 1e-9 <= mean[labels] <= high[labels] + 1e-9
            assert math.isclose(total[labels], mean[labels] * count[labels], rel_tol=1e-9, abs_tol=1e-9)
            assert low[labels] <= min(first[labels], last[labels]) <= max(first[labels], last[labels]) <= high[labels]
    seconds = {"15s": 15, "1m": 60, "5m": 300, "1h": 3600}[length]
    for labels, number in over("rate").items():
        assert number >= 0 or number != number or "y" in selector
        increase = over("increase")[labels]
        assert repr(number) == repr(increase) or math.isclose(number * seconds, increase, rel_tol=1e-9)


@examples(100)
@given(VECTORS)
def test_blanks_and_comments_change_nothing(text: str) -> None:
    """An expression may be laid out in any way."""
    tokens = re.findall(r'"(?:\\.|[^"])*"|[\w.:]+|\s+|.', text)
    spread = "".join(f"{token} # {token}\n" if token in ("(", ")", ",", "{", "}") else token for token in tokens)
    assert shape(parse(spread)) == shape(parse(text))
