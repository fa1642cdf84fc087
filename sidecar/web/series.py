"""/api/v1/series, /api/v1/labels, /api/v1/label/NAME/values, /api/v1/status/tsdb: which series there are.

Wording and limits are those of Prometheus's web/api/v1/api.go. Who asks takes turns with the queries, and is cut off
like them. A series counts from its first sample to its last, the marker of its end included.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from aiohttp import web

from sidecar.errors import QueryError
from sidecar.model import Labels
from sidecar.promql.mistake import described
from sidecar.promql.notation import quote
from sidecar.promql.parse import parse_matchers
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps
from sidecar.promql.values import Matcher, Series
from sidecar.web.api import ApiError, Response, send, success
from sidecar.web.parameters import Parameters, invalid, limit, named_moment, parameters
from sidecar.web.query import LONGEST_SECONDS, Queries, in_pieces, sources_of
from sidecar.web.result import listed
from sidecar.web.view import Sources

TRUNCATED = "results truncated due to limit"
TOP = 10
"""How many rows each list of /api/v1/status/tsdb has."""

T = TypeVar("T")

_ESCAPED = re.compile(r"_(_|[0-9a-fA-F]{1,6}_)")
_HALF_A_MILLISECOND = 0.0005
"""The store's ranges exclude their start, those of the API do not; samples lie at whole milliseconds."""


class _Wanted(NamedTuple):
    """Which series: those that match one of `selectors` (all, where there is none) and have samples in the time."""

    selectors: Sequence[Sequence[Matcher]]
    start: float
    end: float
    limit: int


async def series(request: web.Request, queries: Queries) -> Response:
    """GET, POST /api/v1/series: the labels of every series that matches. Raises ApiError."""
    given = await parameters(request)
    if not given.every("match[]"):
        raise ApiError("bad_data", "no match[] parameter provided")
    return await _list(request, queries, _wanted(given), lambda labels: (labels,), _order)


async def labels(request: web.Request, queries: Queries) -> Response:
    """GET, POST /api/v1/labels: the names of all labels. Raises ApiError."""
    return await _list(request, queries, _wanted(await parameters(request)), lambda labels: labels, str)


async def values(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/label/NAME/values: what this label says anywhere. Raises ApiError."""
    name = unescaped(request.match_info["name"])
    if not name:
        raise ApiError("bad_data", f"invalid label name: {quote(name)}")
    wanted = _wanted(await parameters(request))
    return await _list(request, queries, wanted, lambda labels: filter(None, (labels.get(name),)), str)


async def tsdb(request: web.Request, queries: Queries) -> Response:
    """GET /api/v1/status/tsdb: how many series there are, and of which metrics and labels. Raises ApiError."""
    top = _top((await parameters(request)).first("limit"))
    metrics, pairs, said = Counter[str](), Counter[str](), defaultdict[str, set[str]](set)
    times = [math.inf, -math.inf]

    def count(one: Series) -> None:
        metrics[one.labels.metric] += 1
        pairs.update(f"{name}={value}" for name, value in one.labels.items())
        for name, value in one.labels.items():
            said[name].add(value)
        times[:] = min(times[0], one.times[0]), max(times[1], one.times[-1])

    sources, everything = sources_of(queries.view), _Wanted((), -math.inf, math.inf, 0)
    until = sources.elapsed() + LONGEST_SECONDS
    async with queries.turn(until, sources):
        await in_pieces(request, sources, _look(sources, everything, count, until), until)
    head = {"numSeries": metrics.total(), "numLabelPairs": len(pairs), "chunkCount": metrics.total(),
            "minTime": _milliseconds(times[0]), "maxTime": _milliseconds(times[1])}
    sizes = {name: sum(len(value.encode("utf-8", "replace")) for value in texts) for name, texts in said.items()}
    return success({
        "headStats": head, "seriesCountByMetricName": _most(metrics, top),
        "labelValueCountByLabelName": _most(Counter({name: len(texts) for name, texts in said.items()}), top),
        "memoryInBytesByLabelName": _most(Counter(sizes), top), "seriesCountByLabelValuePair": _most(pairs, top)})


def selectors(given: Parameters, name: str = "match[]") -> list[Sequence[Matcher]]:
    """The series selectors of a parameter. Raises ApiError."""
    found: list[Sequence[Matcher]] = []
    for text in given.every(name):
        try:
            found.append(parse_matchers(text))
        except QueryError as error:
            empty = "at least one non-empty matcher" in str(error)
            raise invalid(name, f"{name} must contain at least one non-empty matcher" if empty
                          else described(text, error)) from None
    return found


def unescaped(name: str) -> str:
    """The label that `U__…` stands for: `__` is an underscore, `_2e_` the character with this code; else as it is."""
    if not name.startswith("U__"):
        return name
    rest = name.removeprefix("U__")
    if "_" in _ESCAPED.sub("", rest):
        return name
    try:
        return _ESCAPED.sub(lambda found: "_" if found[1] == "_" else chr(int(found[1][:-1], 16)), rest)
    except (ValueError, OverflowError):
        return name


async def _list(request: web.Request, queries: Queries, wanted: _Wanted, parts: Callable[[Labels], Iterable[T]],
                key: Callable[[T], str]) -> Response:
    """What `parts` gives of the wanted series: each once, in the order of their keys, at most as many as are wanted."""
    sources, found = sources_of(queries.view), set[T]()
    until = sources.elapsed() + LONGEST_SECONDS
    async with queries.turn(until, sources):
        steps = _look(sources, wanted, lambda one: found.update(parts(one.labels)), until)
        await in_pieces(request, sources, steps, until)
        runs = await in_pieces(request, sources, _sorted_runs(found, key), until)
        more = 0 < wanted.limit < len(found)
        texts = (json.dumps(one, separators=(",", ":")) for _, one in merge(*runs, key=itemgetter(0)))
        answer = listed(islice(texts, wanted.limit if more else None), [TRUNCATED] if more else [])
        return await send(request, answer, sources.breathe, queries.awaited)


def _look(sources: Sources, wanted: _Wanted, take: Callable[[Series], None], until: float) -> Steps[None]:
    """Show every wanted series to `take`."""
    for matchers in wanted.selectors or ((),):
        for one in sources.select(matchers, wanted.start - _HALF_A_MILLISECOND, wanted.end):
            take(one)
            yield
            if sources.elapsed() > until:
                raise QueryError("there are too many series", help="ask for fewer of them with match[]")


def _sorted_runs(found: Collection[T], key: Callable[[T], str]) -> Steps[list[list[tuple[str, T]]]]:
    """Short sorted lists, to be merged while they are sent: sorting all at once would hold the tick."""
    runs = []
    rest = iter(found)
    while run := [(key(one), one) for one in islice(rest, ELEMENTS_A_PIECE)]:
        run.sort(key=itemgetter(0))
        runs.append(run)
        yield
    return runs


def _order(labels: Labels) -> str:
    """The order of series: by the first name in which they differ, or the first value."""
    return "\0".join(f"{name}\0{value}" for name, value in labels.items())


def _wanted(given: Parameters) -> _Wanted:
    most = given.read("limit", limit, 0)
    start = given.read("start", named_moment("start"), -math.inf)
    end = given.read("end", named_moment("end"), math.inf)
    return _Wanted(selectors(given), start, end, most)


def _top(text: str) -> int:
    if text and not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise ApiError("bad_data", "limit must be a positive number")
    return int(text or TOP)


def _most(counted: Counter[str], top: int) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in counted.most_common(top)]


def _milliseconds(at: float) -> int:
    return round(at * 1000) if math.isfinite(at) else 0
