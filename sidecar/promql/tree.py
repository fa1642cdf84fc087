"""The syntax tree of an expression: our own, frozen, independent of the parser behind it.

`str(expr)` is Prometheus's canonical form (promql/parser/printer.go). `position` is the offset of a node's first
character in the text it was parsed from, None where it is not known; it takes no part in equality.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sidecar.model import METRIC_NAME
from sidecar.promql.notation import format_duration, format_float, label_name, label_names, quote
from sidecar.promql.values import Matcher

LOOKBACK_SECONDS = 300.0

At = float | Literal["start", "end"] | None
Cardinality = Literal["one-to-one", "many-to-one", "one-to-many", "many-to-many"]


@dataclass(frozen=True, slots=True)
class NumberLiteral:
    """A number. `duration` says that it was written as one (`1h`), which the canonical form keeps."""

    value: float
    duration: bool = False
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return format_duration(self.value) if self.duration else format_float(self.value)


@dataclass(frozen=True, slots=True)
class StringLiteral:
    """A string, without its quotes."""

    value: str
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return quote(self.value)


@dataclass(frozen=True, slots=True)
class VectorSelector:
    """The latest sample of each matching series. `matchers` include the one for `name`, where a name is written."""

    name: str
    matchers: tuple[Matcher, ...]
    offset_seconds: float = 0.0
    at: At = None
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.series() + _modifiers(self.at, self.offset_seconds)

    def series(self) -> str:
        """The selector without `@` and `offset`."""
        shown = sorted(
            f"{label_name(matcher.name)}{matcher.op}{quote(matcher.value)}"
            for matcher in self.matchers
            if not (self.name and matcher == Matcher(METRIC_NAME, "=", self.name))
        )
        return self.name + ("{" + ",".join(shown) + "}" if shown else "")


@dataclass(frozen=True, slots=True)
class MatrixSelector:
    """The samples of a selector over a range that ends at its moment and excludes its start."""

    selector: VectorSelector
    range_seconds: float
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        modifiers = _modifiers(self.selector.at, self.selector.offset_seconds)
        return f"{self.selector.series()}[{format_duration(self.range_seconds)}]{modifiers}"


@dataclass(frozen=True, slots=True)
class Subquery:
    """An instant expression evaluated at every step of a range. `step_seconds` 0 means the engine's default."""

    expr: "Expr"
    range_seconds: float
    step_seconds: float = 0.0
    offset_seconds: float = 0.0
    at: At = None
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        step = format_duration(self.step_seconds) if self.step_seconds else ""
        return f"{self.expr}[{format_duration(self.range_seconds)}:{step}]{_modifiers(self.at, self.offset_seconds)}"


@dataclass(frozen=True, slots=True)
class Call:
    """A function applied to its arguments."""

    function: str
    arguments: tuple["Expr", ...]
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.function}({', '.join(map(str, self.arguments))})"


@dataclass(frozen=True, slots=True)
class Unary:
    """A sign in front of an expression."""

    op: Literal["-", "+"]
    expr: "Expr"
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.op}{self.expr}"


@dataclass(frozen=True, slots=True)
class Matching:
    """How the elements of two vectors find each other. `include` are the labels of `group_left` or `group_right`."""

    on: bool = False
    labels: tuple[str, ...] = ()
    cardinality: Cardinality = "one-to-one"
    include: tuple[str, ...] = ()

    def __str__(self) -> str:
        grouped = self.cardinality in ("many-to-one", "one-to-many")
        shown = ""
        if self.on or self.labels or grouped:
            shown += f" {'on' if self.on else 'ignoring'} ({label_names(self.labels)})"
        if grouped:
            side = "left" if self.cardinality == "many-to-one" else "right"
            shown += f" group_{side} ({label_names(self.include)})"
        return shown


@dataclass(frozen=True, slots=True)
class Binary:
    """Two expressions joined by an operator."""

    op: str
    left: "Expr"
    right: "Expr"
    matching: Matching = Matching()
    returns_bool: bool = False
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.left} {self.op}{' bool' if self.returns_bool else ''}{self.matching} {self.right}"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregation over the elements of a vector. Without `without`, `grouping` lists the labels to keep."""

    op: str
    expr: "Expr"
    parameter: "Expr | None" = None
    grouping: tuple[str, ...] = ()
    without: bool = False
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        by = f" {'without' if self.without else 'by'} ({label_names(self.grouping)}) "
        parameter = f"{self.parameter}, " if self.parameter is not None else ""
        return f"{self.op}{by if self.without or self.grouping else ''}({parameter}{self.expr})"


@dataclass(frozen=True, slots=True)
class Paren:
    """An expression in brackets; kept so that the canonical form needs no table of precedences."""

    expr: "Expr"
    position: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"({self.expr})"


Expr = (
    NumberLiteral | StringLiteral | VectorSelector | MatrixSelector | Subquery
    | Call | Unary | Binary | Aggregate | Paren
)


def _modifiers(at: At, offset_seconds: float) -> str:
    shown = ""
    if at is not None:
        shown += f" @ {at}()" if isinstance(at, str) else f" @ {at:.3f}"
    if offset_seconds:
        shown += f" offset {format_duration(offset_seconds)}"
    return shown


def unwrap(expr: Expr) -> Expr:
    """The expression inside any brackets."""
    while isinstance(expr, Paren):
        expr = expr.expr
    return expr


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside this one, in the order they were written."""
    match expr:
        case Call():
            return expr.arguments
        case Binary():
            return (expr.left, expr.right)
        case Aggregate():
            return (expr.expr,) if expr.parameter is None else (expr.parameter, expr.expr)
        case Unary() | Paren() | Subquery():
            return (expr.expr,)
        case MatrixSelector():
            return (expr.selector,)
        case _:
            return ()


def walk(expr: Expr) -> Iterator[Expr]:
    """This expression and everything inside it."""
    yield expr
    for child in children(expr):
        yield from walk(child)


def reads(expr: Expr, *, lookback_seconds: float = LOOKBACK_SECONDS) -> Mapping[str, float]:
    """Every metric an expression reads, with the furthest seconds back of the moment it is evaluated at.

    The empty name stands for selectors that fix no metric name. With `@` and a fixed time that is infinity.
    """
    found: dict[str, float] = {}
    _collect(expr, 0.0, found, lookback_seconds)
    return found


def _collect(expr: Expr, back: float, found: dict[str, float], lookback_seconds: float) -> None:
    if isinstance(expr, Subquery):
        # The first step lies on a multiple of the step, at or after the range's start: never further back than that.
        back = _shift(back, expr.at, expr.offset_seconds) + expr.range_seconds
    window = lookback_seconds
    if isinstance(expr, MatrixSelector):
        window, expr = expr.range_seconds, expr.selector
    if isinstance(expr, VectorSelector):
        reach = max(0.0, _shift(back, expr.at, expr.offset_seconds) + window)
        for name in _names(expr):
            found[name] = max(found.get(name, 0.0), reach)
    for child in children(expr):
        _collect(child, back, found, lookback_seconds)


def _shift(back: float, at: At, offset_seconds: float) -> float:
    if isinstance(at, float):
        return math.inf
    return (0.0 if at is not None else back) + offset_seconds


def _names(selector: VectorSelector) -> tuple[str, ...]:
    return tuple({m.value for m in selector.matchers if m.name == METRIC_NAME and m.op == "="}) or ("",)


def lookback(expr: Expr) -> float:
    """The furthest seconds back that an expression reads: range, offset and, for an instant selector, the lookback."""
    return max(reads(expr).values(), default=0.0)


def metric_names(expr: Expr) -> frozenset[str]:
    """The metrics an expression reads; the empty string where a selector fixes no name and may read any."""
    return frozenset(reads(expr))
