"""The expression of a rule as a tree in which every part has the value that it had when the rule was last evaluated."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sidecar.explain.pairs import Alone, Pair, meet
from sidecar.explain.seen import Result
from sidecar.explain.units import Unit, unit_of
from sidecar.model import Labels
from sidecar.promql.tree import (
    Binary,
    Expr,
    MatrixSelector,
    NumberLiteral,
    StringLiteral,
    Subquery,
    children,
    unwrap,
)
from sidecar.promql.values import Point

Kind = Literal["number", "string", "vector", "range", "failed"]

Answer = Result | Exception
"""What an API said about one part: its value, or why there is none."""


@dataclass(frozen=True, slots=True)
class Node:
    """One part. `points` are its elements; a number is one without labels; of a range they count its samples.

    `parts` are the parts inside it, without numbers and texts as written. `error` says why there is no value.
    """

    expr: Expr
    kind: Kind
    unit: Unit
    points: tuple[Point, ...] = ()
    pairs: tuple[Pair, ...] = ()
    alone: tuple[Alone, ...] = ()
    parts: tuple["Node", ...] = ()
    error: str = ""

    @property
    def text(self) -> str:
        """The part as Prometheus writes it."""
        return str(self.expr)


def question(expr: Expr) -> str:
    """The expression that asks for a part's value; the empty string for what needs none. A range is counted."""
    if isinstance(expr, NumberLiteral | StringLiteral):
        return ""
    return f"count_over_time({expr})" if isinstance(expr, MatrixSelector | Subquery) else str(expr)


def questions(expr: Expr) -> list[str]:
    """What has to be asked about an expression and all its parts, each question once, the whole first."""
    texts = (question(unwrap(part)) for part in _asked(expr))
    return [text for text in dict.fromkeys(texts) if text]


def _asked(expr: Expr) -> Iterator[Expr]:
    yield expr
    for part in _inside(expr):
        yield from _asked(part)


def _inside(expr: Expr) -> list[Expr]:
    """The parts that say something by themselves: the selector of a range says nothing that its samples do not."""
    inner = unwrap(expr)
    return [] if isinstance(inner, MatrixSelector) else [unwrap(child) for child in children(inner)]


def grow(expr: Expr, answers: Mapping[str, Answer]) -> Node:
    """The tree, from the answers to its questions."""
    expr = unwrap(expr)
    parts = tuple(grow(part, answers) for part in _inside(expr))
    shown = tuple(part for part in parts if not isinstance(part.expr, NumberLiteral | StringLiteral))
    if isinstance(expr, NumberLiteral):
        return Node(expr, "number", unit_of(expr), (Point(Labels(), expr.value),))
    if isinstance(expr, StringLiteral):
        return Node(expr, "string", "")
    answer = answers.get(question(expr), LookupError("it was not asked"))
    if isinstance(answer, Exception):
        return Node(expr, "failed", "", parts=shown, error=str(answer))
    if isinstance(answer, str):
        return Node(expr, "string", "", parts=shown)
    if isinstance(answer, float):
        return Node(expr, "number", unit_of(expr), (Point(Labels(), answer),), parts=shown)
    kind: Kind = "range" if isinstance(expr, MatrixSelector | Subquery) else "vector"
    pairs, alone = meet(expr, *(_side(part) for part in parts)) if isinstance(expr, Binary) and all(
        part.kind in ("number", "vector") for part in parts) else ((), ())
    return Node(expr, kind, "" if kind == "range" else unit_of(expr), tuple(answer), pairs, alone, shown)


def _side(node: Node) -> Sequence[Point] | float:
    return node.points[0].value if node.kind == "number" else node.points


def ask(expr: Expr, question_to_answer: Callable[[str], Answer]) -> Node:
    """The tree, asking for each part as needed."""
    return grow(expr, {text: question_to_answer(text) for text in questions(expr)})


def of_target(points: Sequence[Point], target: str) -> list[Point]:
    """The elements that speak of a target, or of none in particular."""
    return [point for point in points if point.labels.get("target", target) == target]


def everything(node: Node) -> Iterator[Node]:
    """This part and all inside it."""
    yield node
    for part in node.parts:
        yield from everything(part)
