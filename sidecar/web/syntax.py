"""/api/v1/format_query, and /api/v1/query_exemplars, which there are none of."""

import math

from aiohttp import web

from sidecar.errors import QueryError
from sidecar.promql.layout import laid_out
from sidecar.promql.mistake import described
from sidecar.promql.parse import parse
from sidecar.promql.tree import Expr
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


def _tree(text: str, queries: Queries) -> Expr:
    return parse(text, experimental=sources_of(queries.view).experimental)
