"""Which series belong together is remembered from tick to tick: nobody may notice."""

from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from sidecar.errors import QueryError
from sidecar.model import Labels, Sample
from sidecar.promql.binary import FEW_ELEMENTS, MOST_ELEMENTS
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.promql.tree import Expr
from sidecar.promql.values import Value
from sidecar.store import Store

JOINS = ["x > on (t) y", "x * ignoring (k) y", "x > bool on (t) group_left (k) y", "y - on (t) group_right () x",
         "x == ignoring (k) y"]


def store(names: frozenset[tuple[str, str, str]], value: float) -> Store:
    """A series of each (metric, t, k), and as many others as make it worth while to remember anything."""
    made = Store()
    for number in range(FEW_ELEMENTS):
        made.append([Sample(Labels({"__name__": name, "t": f"other-{number}"}), value + number, 0.0) for name in "xy"])
    made.append([Sample(Labels({"__name__": name, "t": t, "k": k}), value, 0.0) for name, t, k in sorted(names)])
    return made


def answer(expr: Expr, held: Store) -> Value | str:
    """What an expression gives, or what is wrong with it."""
    try:
        return instant(expr, held.select, 1.0)
    except QueryError as error:
        return str(error)


SERIES = st.frozensets(st.tuples(st.sampled_from("xy"), st.sampled_from("ab"), st.sampled_from(["", "1", "2"])))


@given(st.sampled_from(JOINS), st.lists(SERIES, min_size=2, max_size=5))
@examples(100)
def test_a_join_gives_what_it_would_give_the_first_time(
        text: str, moments: list[frozenset[tuple[str, str, str]]]) -> None:
    """Series come, go and get in each other's way: the result, or the mistake, is that of an expression just read."""
    expr = parse(text)
    for value, names in enumerate(moments):
        held = store(names, float(value))
        assert answer(expr, held) == answer(parse(text), held)


def test_more_joins_than_are_remembered_are_right() -> None:
    """Whoever asks for many large joins, one after the other, is told the same each time."""
    joins = 3
    held, count = Store(1 << 40), MOST_ELEMENTS // (2 * joins) + 1
    for name in "xy":
        held.append([Sample(Labels({"__name__": name, "t": str(number)}), number, 0.0) for number in range(count)])
    exprs = [parse(f"x + on (t) y + {number}") for number in range(joins)]
    for _ in range(2):
        for number, expr in enumerate(exprs):
            found = instant(expr, held.select, 1.0)
            assert isinstance(found, list)
            assert [point[1] for point in found] == [2.0 * each + number for each in range(count)]
