"""/api/v1/format_query, /api/v1/parse_query, and /api/v1/query_exemplars, which there are none of."""

import math
from typing import Any

from aiohttp import web

from sidecar.errors import QueryError
from sidecar.promql.layout import laid_out
from sidecar.promql.mistake import described
from sidecar.promql.notation import format_float
from sidecar.promql.parse import is_number, parse, signature
from sidecar.promql.tree import (
    Aggregate,
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
)
from sidecar.web.api import ApiError, Response, success
from sidecar.web.parameters import invalid, named_moment, parameters
from sidecar.web.query import Queries, sources_of


async def format_query(request: web.Request, queries: Queries) -> Response:
    """GET, POST /api/v1/format_query: the expression as Prometheus would write it. Raises ApiError."""
    text = (await parameters(request)).first("query")
    try:
        return success(laid_out(_tree(text, queries)))
    except QueryError as error:
        raise invalid("query", described(text, error)) from None


async def parse_query(request: web.Request, queries: Queries) -> Response:
    """GET, POST /api/v1/parse_query: the syntax tree, as Prometheus 3 tells it. Raises ApiError."""
    text = (await parameters(request)).first("query")
    try:
        return success(_node(_tree(text, queries)))
    except QueryError as error:
        raise invalid("query", described(text, error)) from None


async def query_exemplars(request: web.Request, queries: Queries) -> Response:
    """GET, POST /api/v1/query_exemplars: always none. Raises ApiError for a question that is none."""
    given = await parameters(request)
    start = given.read("start", named_moment("start"), -math.inf)
    if given.read("end", named_moment("end"), math.inf) < start:
        raise ApiError("bad_data", "end timestamp must not be before start timestamp")
    text = given.first("query")
    try:
        _tree(text, queries)
    except QueryError as error:
        raise ApiError("bad_data", described(text, error)) from None
    return success([])


def _node(expr: Expr) -> dict[str, Any]:
    match expr:
        case NumberLiteral():
            return {"type": "numberLiteral", "val": format_float(expr.value)}
        case StringLiteral():
            return {"type": "stringLiteral", "val": expr.value}
        case VectorSelector():
            return {"type": "vectorSelector", **_selector(expr)}
        case MatrixSelector():
            return {"type": "matrixSelector", **_selector(expr.selector), "range": _milliseconds(expr.range_seconds)}
        case Subquery():
            return {"type": "subquery", "expr": _node(expr.expr), "range": _milliseconds(expr.range_seconds),
                    "step": _milliseconds(expr.step_seconds), **_moved(expr)}
        case Call():
            return {"type": "call", "func": _function(expr), "args": [_node(one) for one in expr.arguments]}
        case Unary():
            return {"type": "unaryExpr", "op": expr.op, "expr": _node(expr.expr)}
        case Paren():
            return {"type": "parenExpr", "expr": _node(expr.expr)}
        case Binary():
            return {"type": "binaryExpr", "op": expr.op, "lhs": _node(expr.left), "rhs": _node(expr.right),
                    "matching": _matching(expr), "bool": expr.returns_bool}
        case Aggregate():
            return {"type": "aggregation", "op": expr.op, "expr": _node(expr.expr),
                    "param": None if expr.parameter is None else _node(expr.parameter),
                    "grouping": list(expr.grouping), "without": expr.without}


def _selector(expr: VectorSelector) -> dict[str, Any]:
    matchers = [{"name": one.name, "type": one.op, "value": one.value} for one in expr.matchers]
    return {"name": expr.name, "matchers": matchers, **_moved(expr)}


def _moved(expr: VectorSelector | Subquery) -> dict[str, Any]:
    """`offset` and `@`."""
    return {"offset": _milliseconds(expr.offset_seconds), "startOrEnd": expr.at if isinstance(expr.at, str) else None,
            "timestamp": _milliseconds(expr.at) if isinstance(expr.at, float) else None}


def _function(call: Call) -> dict[str, Any]:
    found = signature(call.function)
    return {"name": call.function, "argTypes": found.argument_types, "variadic": found.variadic,
            "returnType": found.return_type}


def _matching(expr: Binary) -> dict[str, Any] | None:
    """How vectors find each other; None where a number is on one side."""
    if is_number(expr.left) or is_number(expr.right):
        return None
    matching = expr.matching
    return {"card": matching.cardinality, "labels": list(matching.labels), "on": matching.on,
            "include": list(matching.include)}


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _tree(text: str, queries: Queries) -> Expr:
    return parse(text, experimental=sources_of(queries.view).experimental)
