"""Where an expression that does not parse has its mistake."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import QueryError
from sidecar.promql.mistake import described, place
from sidecar.promql.parse import parse


def mistake(text: str) -> QueryError:
    """What the parser says."""
    with pytest.raises(QueryError) as caught:
        parse(text)
    return caught.value


@pytest.mark.parametrize(("text", "said"), [
    ("a b", '1:3: parse error: unexpected "b"'),
    ("a >", "1:4: parse error: unexpected end of input"),
    ("a >> 5", '1:4: parse error: unexpected ">"'),
    ("a\n  and\n  b c", '3:5: parse error: unexpected "c"'),
    ('a{b="1" c="2"}', '1:9: parse error: unexpected "c"'),
    ("topk(3 x)", '1:8: parse error: unexpected "x"'),
    ("sum by a (x)", '1:8: parse error: unexpected "a"'),
    ("foo{a=}", '1:7: parse error: unexpected "}"'),
    ("sum(", "1:4: parse error: unclosed left parenthesis"),
    ("sum(rate(a[5m]) by (x)", "1:17: parse error: unclosed left parenthesis"),
    ("(a))", "1:4: parse error: unexpected right parenthesis ')'"),
    ("x[5q]", "1:4: parse error: bad number or duration syntax: 5q"),
    ("nope(x)", "1:1: parse error: unknown function with name 'nope'"),
    ("a + rate(x)", "1:5: parse error: expected type matrix in call to function 'rate', got vector"),
    ("", "unknown position: parse error: no expression found in input"),
])
def test_mistakes_have_a_place(text: str, said: str) -> None:
    """The first word after which nothing would help is named, with line and column, as Prometheus counts them."""
    assert described(text, mistake(text)) == said


SOUND = ["sum by (a) (rate(x[5m]))", 'a{b="c",d=~"e"} > ignoring (f) group_left (g) h offset 5m',
         "max_over_time(rate(x[1m])[5m:1s]) unless on () (y or z)", "topk(3, a) / 1e3 ^ -2"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(SOUND), st.integers(0, 60), st.integers(0, 60),
       st.sampled_from(["", ")", "]", "}", "> ", "by", "\n"]))
def test_any_broken_expression_has_a_place_inside_it(text: str, at: int, gone: int, more: str) -> None:
    """Whatever is cut out of an expression and put in, the place that is told lies inside it."""
    broken = text[:at] + more + text[at + gone % 5:]
    try:
        parse(broken)
    except QueryError as caught:
        error = caught
    else:
        return  # still an expression
    found = place(broken, error)
    assert found is None or 1 <= found[1] <= len(broken.split("\n")[found[0] - 1]) + 1
    assert "parse error: " in described(broken, error)


def test_long_expressions_are_not_searched() -> None:
    """A text too long to look at again and again gets no place, and no long wait."""
    text = f'a{{b="{"x" * 2500}"}} b b'

    assert place(text, mistake(text)) is None
