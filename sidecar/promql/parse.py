"""Text into tree: the only place that knows the parser package.

What cannot be evaluated here is refused here, by name and with the reason. The package tells operators only by
`str()`, writes its durations as timedelta and reports no positions; see tokens.py for how nodes get theirs.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Literal, NamedTuple, NoReturn

import promql_parser as parser

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME
from sidecar.promql.functions import EXPERIMENTAL, FUNCTIONS, NUMBERS
from sidecar.promql.recent import Recent
from sidecar.promql.regex import predicate
from sidecar.promql.spelling import respelled
from sidecar.promql.tokens import Landmarks, Token, tokenize
from sidecar.promql.tree import (
    Aggregate,
    At,
    Binary,
    Call,
    Cardinality,
    Expr,
    Matching,
    MatrixSelector,
    NumberLiteral,
    Paren,
    StringLiteral,
    Subquery,
    Unary,
    VectorSelector,
)
from sidecar.promql.values import Matcher

_MATCH_OPS: dict[str, Literal["=", "!=", "=~", "!~"]] = {
    "MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~",
}
_CARDINALITIES: dict[str, Cardinality] = {
    "VectorMatchCardinality.OneToOne": "one-to-one", "VectorMatchCardinality.ManyToOne": "many-to-one",
    "VectorMatchCardinality.OneToMany": "one-to-many", "VectorMatchCardinality.ManyToMany": "many-to-many",
}
_NATIVE = ("histogram_avg", "histogram_count", "histogram_sum", "histogram_stddev", "histogram_stdvar")
_UNCHECKED = ("exp", "ln", "log2", "log10")
"""The package lets some numbers through where these take a vector."""
_EXPERIMENTAL = ("it is experimental in Prometheus; --enable-feature=promql-experimental-functions, or that name in "
                 "`features`, admits it")
_EXPERIMENTAL_AGGREGATIONS = ("limitk", "limit_ratio")
_MET: dict[str, Any] = {}
"""The functions that were called so far, as the package describes them: it tells of them nowhere else."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
REMEMBERED = 50_000
"""Characters of expressions whose trees are remembered; a tree takes about 100 bytes for each."""


def parse(text: str, *, experimental: bool = False) -> Expr:
    """The tree of an expression. QueryError, with the position where it is known, if it cannot be evaluated.

    `experimental` admits the functions that Prometheus has behind --enable-feature=promql-experimental-functions.
    """
    return _parsed((text, experimental))


def parse_once(text: str, *, experimental: bool = False) -> Expr:
    """The same, of a text that will not come again. QueryError."""
    tokens = tokenize(text)
    spelling = respelled(tokens)
    try:
        return _Conversion(Landmarks(tokens), spelling.moments, experimental).convert(parser.parse(spelling.text))
    except (ValueError, OverflowError) as error:
        raise QueryError(f"cannot parse the expression: {error}", help=_hint(tokens)) from None
    except BaseException as error:
        # The package's panics derive from BaseException and cannot be imported; no text may end the daemon.
        if type(error).__name__ != "PanicException":
            raise
        raise QueryError(f"cannot parse the expression: {error}") from None


_parsed = Recent[tuple[str, bool], Expr](lambda key: parse_once(key[0], experimental=key[1]),
                                         lambda key, _: len(key[0]), REMEMBERED)


def parse_matchers(text: str) -> tuple[Matcher, ...]:
    """The matchers of a plain series selector (`match[]` of Prometheus's API). QueryError for anything else."""
    expr = parse(text)
    if not isinstance(expr, VectorSelector) or expr.offset_seconds or expr.at is not None:
        raise QueryError(f"{text!r} is not a series selector", help='write a name, matchers in braces, or both')
    return expr.matchers


class Signature(NamedTuple):
    """What a function takes and gives: `scalar`, `string`, `vector` or `matrix`.

    Of the arguments so many, `variadic`, may be absent at the end; -1: the last may be there any number of times.
    """

    argument_types: tuple[str, ...]
    variadic: int
    return_type: str


def signature(name: str) -> Signature:
    """The signature of a function that an expression parsed here has called."""
    function = _MET[name]
    return Signature(tuple(_named(kind) for kind in function.arg_types), function.variadic,
                     _named(function.return_type))


def _named(kind: Any) -> str:
    return str(kind).rpartition(".")[2].lower()


def _hint(tokens: list[Token]) -> str:
    words = {token.text for token in tokens}
    for word in ("anchored", "smoothed"):
        if word in words:
            return f"{word} ranges are not supported"
    if any(before.text in "<>" and after.text == "/" for before, after in pairwise(tokens)):
        return "operators on native histograms are not supported"
    return "check brackets, operators and the order of words; durations cannot be computed inside brackets"


class _Conversion:
    """One tree on its way from the package's nodes to ours. Nodes are visited in the order they were written."""

    def __init__(self, landmarks: Landmarks, moments: Sequence[float], experimental: bool) -> None:
        self._landmarks = landmarks
        self._moments = moments
        self._experimental = experimental

    def convert(self, node: Any) -> Expr:
        return _CONVERTERS[type(node)](self, node)

    def _place(self, *texts: str, kinds: tuple[str, ...] = ()) -> int | None:
        token = self._landmarks.find(*texts, kinds=kinds)
        return token.position if token else None

    def _opened(self, name: str) -> int | None:
        position = self._place(name.lower())
        self._landmarks.find("(")
        return position

    def number(self, node: Any) -> Expr:
        token = self._landmarks.find(kinds=("number", "duration"))
        if token is None:
            return NumberLiteral(node.val)
        sign = self._landmarks.before() if math.copysign(1, node.val) < 0 else None
        return NumberLiteral(node.val, token.kind == "duration", (sign or token).position)

    def string(self, node: Any) -> Expr:
        return StringLiteral(node.val, self._place(kinds=("string",)))

    def vector(self, node: Any) -> VectorSelector:
        position = self._place((node.name or "{").lower())
        if node.matchers.or_matchers:
            _refuse("`or` between matchers", "Prometheus has no such syntax", position)
        matchers = tuple(Matcher(m.name, _MATCH_OPS[str(m.op)], m.value) for m in node.matchers.matchers)
        for matcher in matchers:
            predicate(matcher)
        if node.name:
            matchers = (*matchers, Matcher(METRIC_NAME, "=", node.name))
        return VectorSelector(node.name or "", matchers, _seconds(node.offset), self._at(node.at), position)

    def matrix(self, node: Any) -> Expr:
        selector = self.vector(node.vector_selector)
        return MatrixSelector(selector, _seconds(node.range), selector.position)

    def subquery(self, node: Any) -> Expr:
        expr = self.convert(node.expr)
        return Subquery(expr, _seconds(node.range), _seconds(node.step), _seconds(node.offset),
                        self._at(node.at), expr.position)

    def _at(self, modifier: Any) -> At:
        if modifier is None:
            return None
        kind = str(modifier.type)
        if kind.endswith("Start"):
            return "start"
        if kind.endswith("End"):
            return "end"
        index: float = (modifier.at - _EPOCH).total_seconds()
        return self._moments[round(index)]

    def call(self, node: Any) -> Expr:
        name = node.func.name
        position = self._opened(name)
        if name in _NATIVE:
            _refuse(f"{name}()", "it works on native histograms, which are not stored here", position)
        if name not in FUNCTIONS:
            _refuse(f"{name}()", "it is not implemented here", position)
        if (node.func.experimental or name in EXPERIMENTAL) and not self._experimental:
            _refuse(f"{name}()", _EXPERIMENTAL, position)
        _MET[name] = node.func
        arguments = tuple(map(self.convert, node.args))
        if name in _UNCHECKED and isinstance(arguments[0], NumberLiteral):
            raise QueryError(f'expected type instant vector in call to function "{name}", got scalar',
                             position=position, help=f"write {name}(vector({arguments[0]}))")
        return Call(name, arguments, position)

    def unary(self, node: Any) -> Expr:
        position = self._place("-")
        return Unary("-", self.convert(node.expr), position)

    def paren(self, node: Any) -> Expr:
        position = self._place("(")
        return Paren(self.convert(node.expr), position)

    def binary(self, node: Any) -> Expr:
        op, modifier = str(node.op), node.modifier
        left = self.convert(node.lhs)
        self._place(op)
        right = self.convert(node.rhs)
        if modifier is None:
            cardinality: Cardinality = "many-to-many" if op in ("and", "or", "unless") else "one-to-one"
            return Binary(op, left, right, Matching(cardinality=cardinality), position=left.position)
        fill = modifier.fill_values
        if fill is not None and (fill.lhs is not None or fill.rhs is not None):
            _refuse("fill()", "it is experimental in Prometheus, and not implemented here", left.position)
        labels = modifier.matching
        matching = Matching(
            on=labels is not None and str(labels.type).endswith("Include"),
            labels=tuple(labels.labels) if labels is not None else (),
            cardinality=_CARDINALITIES[str(modifier.card)],
            include=tuple(modifier.group_labels or ()),
        )
        return Binary(op, left, right, matching, bool(modifier.return_bool), left.position)

    def aggregate(self, node: Any) -> Expr:
        op = str(node.op)
        position = self._opened(op)
        if op in _EXPERIMENTAL_AGGREGATIONS and not self._experimental:
            _refuse(f"{op}()", _EXPERIMENTAL, position)
        parameter = self.convert(node.param) if node.param is not None else None
        if op in _EXPERIMENTAL_AGGREGATIONS and not is_number(parameter):
            raise QueryError(f"the first parameter of {op}() must be a number", position=position)
        expr = self.convert(node.expr)
        modifier = node.modifier
        grouping = tuple(modifier.labels) if modifier is not None else ()
        without = modifier is not None and str(modifier.type).endswith("Without")
        return Aggregate(op, expr, parameter, grouping, without, position)


def is_number(expr: Expr | None) -> bool:
    """Whether an expression gives a number, and neither a vector nor a text."""
    match expr:
        case Unary() | Paren():
            return is_number(expr.expr)
        case Binary():
            return is_number(expr.left) and is_number(expr.right)
        case Call():
            return expr.function in NUMBERS
    return isinstance(expr, NumberLiteral)


def _refuse(what: str, why: str, position: int | None) -> NoReturn:
    raise QueryError(f"{what} cannot be evaluated: {why}", position=position)


def _seconds(delta: timedelta | None) -> float:
    return 0.0 if delta is None else round(delta.total_seconds(), 3)


_CONVERTERS: dict[type[Any], Callable[[_Conversion, Any], Expr]] = {
    parser.NumberLiteral: _Conversion.number,
    parser.StringLiteral: _Conversion.string,
    parser.VectorSelector: _Conversion.vector,
    parser.MatrixSelector: _Conversion.matrix,
    parser.SubqueryExpr: _Conversion.subquery,
    parser.Call: _Conversion.call,
    parser.UnaryExpr: _Conversion.unary,
    parser.ParenExpr: _Conversion.paren,
    parser.BinaryExpr: _Conversion.binary,
    parser.AggregateExpr: _Conversion.aggregate,
}
