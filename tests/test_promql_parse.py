"""Text into tree: canonical form, positions, what is refused and how, and that no text breaks it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import QueryError
from sidecar.promql.parse import parse, parse_matchers
from sidecar.promql.tree import Expr, lookback, metric_names, reads, walk
from sidecar.promql.values import Matcher

CANONICAL = {
    'foo{b="2",a="1"}': 'foo{a="1",b="2"}',
    '{__name__="foo"}': '{__name__="foo"}',
    'foo{a=~"x|y\\n"} offset 90s': 'foo{a=~"x|y\\n"} offset 1m30s',
    "foo[300] @ 100 offset -1h": "foo[5m] @ 100.000 offset -1h",
    "foo @ start()": "foo @ start()",
    "max_over_time(rate(foo[7d])[90d:])": "max_over_time(rate(foo[1w])[90d:])",
    "sum(foo)by(a,b)": "sum by (a, b) (foo)",
    "sum by () (foo)": "sum(foo)",
    "sum without(a) (foo)": "sum without (a) (foo)",
    "topk(3,foo)": "topk(3, foo)",
    "predict_linear(x[1h],4h)<0": "predict_linear(x[1h], 4h) < 0",
    "-foo^2": "-foo ^ 2",
    "(a+b)*c": "(a + b) * c",
    "a>bool b": "a > bool b",
    "a/on(x)group_left(y)b": "a / on (x) group_left (y) b",
    "a/ignoring(x)b": "a / ignoring (x) b",
    "a and on() b": "a and on () b",
    "a or b unless c": "a or b unless c",
    "1e21 + .5 + 1e-7": "1000000000000000000000 + 0.5 + 0.0000001",
    "Inf - NaN": "+Inf - NaN",
    'label_replace(a,"b","$1","c","(.*)")': 'label_replace(a, "b", "$1", "c", "(.*)")',
    'sum by ("a.b") ({"m.n"})': 'sum by ("a.b") ({__name__="m.n"})',
    'sum by (`a.b`) ({`m\\n`, a=~`\\d"`})': 'sum by ("a.b") ({__name__="m\\\\n",a=~"\\\\d\\""})',
    "1_000.5_0 + 0xF_f": "1000.5 + 255",
    "x[.5 # half a second\n]": "x[500ms]",
    "sum by (a:b) (x) + on(c:d) y": 'sum by ("a:b") (x) + on ("c:d") y',
    "0d + x offset -0s": "0s + x",
    "x @ -1_0.5 offset -0": "x @ -10.500",
    "x[5m:1_0] @ - 0x10": "x[5m:10s] @ -16.000",
    "x @ 1e14 + x @ 5m": "x @ 100000000000000.000 + x @ 300.000",
}


@pytest.mark.parametrize(("text", "canonical"), CANONICAL.items())
def test_canonical_form(text: str, canonical: str) -> None:
    """An expression is shown as Prometheus shows it, and shown again it stays as it is."""
    assert str(parse(text)) == canonical
    assert str(parse(canonical)) == canonical


def test_positions_are_those_of_the_text() -> None:
    """Each node says where it begins, past labels, ranges, offsets and comments of other nodes."""
    text = 'sum by (used) (rate(used{a="used"}[5m] offset 5m)) / 5 # used\n > bool max(used, ) or {b="1"}'
    text = text.replace(", )", ")")
    places = [(str(node), node.position) for node in walk(parse(text))]
    assert ("rate(used{a=\"used\"}[5m] offset 5m)", text.index("rate")) in places
    assert ("used{a=\"used\"} offset 5m", text.index("used{")) in places
    assert ("5", text.index("5 #")) in places
    assert ("used", text.rindex("used")) in places
    assert ('{b="1"}', text.index('{b="1"}')) in places


REFUSED = {
    "limitk(1, x)": "limitk() cannot be evaluated: it is experimental",
    "mad_over_time(x[5m])": "mad_over_time() cannot be evaluated: it is experimental",
    "histogram_avg(x)": "it works on native histograms",
    "info(x)": "info() cannot be evaluated",
    "a + fill(0) b": "fill() cannot be evaluated",
    "nope(x)": "unknown function",
    "ln(-1)": 'expected type instant vector in call to function "ln", got scalar',
    "exp(Inf)": 'expected type instant vector in call to function "exp", got scalar',
    "sum(": "unclosed left parenthesis",
    "x[5m] + 1": "must contain only scalar and instant vector types",
    'x{a=~"(?=b)"}': "regex",
    'x{a="b" or c="d"}': "`or` between matchers",
    "x offset 1e999": "1e999: duration out of range",
    "x[9.3e9]": "9.3e9: duration out of range",
    f"x[{'9' * 5000}s]": "duration out of range",
    f"1 + 0x{'f' * 16}": "0xffffffffffffffff: the number is too large",
    "x offset 300y": "300y: duration out of range",
    "x[0]": "duration must be greater than 0",
    "x[5m:0]": "duration must be greater than 0",
    "x @ NaN": "timestamp out of bounds",
    "x @ -1e16": "timestamp out of bounds",
    "1e999": "the number is too large",
    "limit_ratio(-(time() + x), x)": "the first parameter of limit_ratio() must be a number",
    "{}": "at least one non-empty matcher",
    "(" * 1000 + "1" + ")" * 1000: "nested more than 150 levels",
    "1" + " + 1" * 5000: "nested more than 150 levels",
    "a" * 40_000: "characters long",
    "": "no expression",
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=[text[:24] for text in REFUSED])
def test_refusals_name_the_reason(text: str, reason: str) -> None:
    """What cannot be evaluated is refused when it is read, with the name of the thing and why."""
    with pytest.raises(QueryError) as caught:
        parse(text, experimental="limit_ratio" in text)
    assert reason in str(caught.value)


def test_refused_function_has_a_position() -> None:
    """A refusal points at the function, so that an editor can too."""
    with pytest.raises(QueryError) as caught:
        parse("sum(x) + mad_over_time(x[5m])")
    assert caught.value.position == 9
    assert str(parse("mad_over_time(x[5m])", experimental=True)) == "mad_over_time(x[5m])"


@pytest.mark.parametrize(("text", "seconds"), [
    ("1 + 2", 0),
    ("x", 300),
    ("x offset 1h", 3900),
    ("x offset -1h", 0),
    ("x[1h]", 3600),
    ("rate(x[1h] offset 1d) > y", 90_000),
    ("max_over_time(rate(x[1m])[10m:30s] offset 1h)", 60 + 600 + 3600),
    ("max_over_time(x[10m:30s] @ end())", 900),
    ("x @ 100", float("inf")),
])
def test_lookback(text: str, seconds: float) -> None:
    """The furthest an expression looks back is range, offset and, for an instant selector, five minutes."""
    assert lookback(parse(text)) == seconds


def test_reads_per_metric() -> None:
    """Each metric is named with its own reach; a selector without a name may read any metric."""
    expr = parse('rate(a_total[10m]) > on(x) b or {__name__="c"} or {job="d"}')
    assert reads(expr) == {"a_total": 600, "b": 300, "c": 300, "": 300}
    assert metric_names(expr) == {"a_total", "b", "c", ""}


def test_parse_matchers() -> None:
    """A series selector gives its matchers, name included; anything else is refused."""
    assert set(parse_matchers('up{job=~"a.*",b!="c"}')) == {
        Matcher("__name__", "=", "up"), Matcher("job", "=~", "a.*"), Matcher("b", "!=", "c"),
    }
    for text in ("up offset 1m", "sum(up)", "1", "up @ 5"):
        with pytest.raises(QueryError):
            parse_matchers(text)


PIECES = st.sampled_from([
    "foo", "bar{", "}", "(", ")", "[", "]", "5m", '"a"', '"', "'", "`", "=", "=~", "!~", "!=", "==", ">", "bool",
    "on(x)", "group_left", "by", "without", "sum", "topk", "count_values", "rate", "@", "offset", "-", "+", "/", "^",
    "and", "or", "unless", "atan2", ",", ":", "1", "0x", "1e999", ".5", "start()", "NaN", "Inf", "{", "\\", "\x00",
    "é", "😀", "#", "\n", " ", "99999999999999y", "fill", "anchored", "[5m:1m]", "\ud800", "limitk", "$", '{"a.b"}',
])


def _parsed(text: str) -> Expr | None:
    try:
        return parse(text, experimental=True)
    except QueryError:
        return None


@given(st.text() | st.lists(PIECES, max_size=15).map(" ".join) | st.lists(PIECES, max_size=15).map("".join))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text gives a tree or a QueryError; a tree's canonical form is itself stable."""
    expr = _parsed(text)
    if expr is not None:
        again = _parsed(str(expr))
        assert again is None or str(again) == str(expr)
