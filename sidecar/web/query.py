"""GET and POST /api/v1/query and /api/v1/query_range, on the sidecar's own store.

One query is evaluated at a time, in pieces that leave the event loop to the tick; the others wait their turn.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import NamedTuple

from aiohttp import web

from sidecar.errors import QueryError
from sidecar.promql.context import Note, Options
from sidecar.promql.evaluate import MAX_STEPS, instant_steps, range_steps
from sidecar.promql.mistake import described
from sidecar.promql.parse import parse
from sidecar.promql.steps import Result, Steps
from sidecar.promql.tree import Expr
from sidecar.promql.values import Value
from sidecar.web import result
from sidecar.web.api import ApiError, send
from sidecar.web.parameters import Parameters, duration, invalid, limit, moment, named_moment, parameters
from sidecar.web.passes import FULL_PASSES
from sidecar.web.view import Sources, View

MAX_SAMPLES = 1_000_000
"""How many samples a query may hold at a time: as many as fit into the whole store."""
LONGEST_SECONDS = 10.0
"""How long a query may take, waiting for its turn included; `timeout` may only shorten it."""
HOLD_SECONDS = 0.005
"""After how long at the latest, where an evaluation can pause, others get the event loop."""
WAITING = 32
"""How many queries may be there at a time; a dashboard asks for all its panels at once."""


class _Asked(NamedTuple):
    """What both kinds of query have in common. `limit` 0 is none; `until` is on the clock that never goes back."""

    text: str
    expr: Expr
    options: Options
    limit: int
    until: float


class Queries:
    """The endpoints. Lives as long as the server; `view` is where the data comes from, and is only read."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._turn = asyncio.Lock()
        self._present = 0

    async def instant(self, request: web.Request) -> web.StreamResponse:
        """/api/v1/query: the value of an expression at a moment, by default now."""
        given, sources = await parameters(request), sources_of(self.view)
        wanted = given.read("limit", limit, 0)
        at = given.read("time", named_moment("time"), round(sources.now(), 3))
        asked = _asked(given, sources, wanted)
        async with self.turn(asked.until, sources):
            notes: list[Note] = []
            steps = instant_steps(asked.expr, sources.select, at, newest=sources.newest,
                                  options=_until(asked, sources), notes=notes)
            value = await in_pieces(request, sources, steps, asked.until)
            kind = result.result_type(asked.expr, value)
            return await send(request, _pieces(kind, value, at, asked, notes), sources.breathe, self.awaited)

    async def over_range(self, request: web.Request) -> web.StreamResponse:
        """/api/v1/query_range: the value of an expression at every step from `start` to `end`."""
        given, sources = await parameters(request), sources_of(self.view)
        wanted = given.read("limit", limit, 0)
        start, end, step_seconds = _range(given)
        asked = _asked(given, sources, wanted)
        if reason := result.unfit_for_range(asked.expr):
            raise invalid("query", reason)
        async with self.turn(asked.until, sources):
            notes: list[Note] = []
            steps = range_steps(asked.expr, sources.select, start, end, step_seconds,
                                options=_until(asked, sources), notes=notes)
            matrix = await in_pieces(request, sources, steps, asked.until)
            return await send(request, _pieces("matrix", matrix, end, asked, notes), sources.breathe, self.awaited)

    def awaited(self) -> bool:
        """Whether somebody waits for the turn."""
        return self._present > 1

    @asynccontextmanager
    async def turn(self, until: float, sources: Sources) -> AsyncIterator[None]:
        """Wait for the turn, and have it. Raises ApiError where too many wait, or the time is over before it comes."""
        if self._present >= WAITING:
            raise ApiError("unavailable", f"{WAITING} queries are waiting already: ask again in a moment")
        self._present += 1
        try:
            await self._come_to_turn(until, sources)
            try:
                with FULL_PASSES.postponed():
                    yield
            finally:
                self._turn.release()
        finally:
            self._present -= 1

    async def _come_to_turn(self, until: float, sources: Sources) -> None:
        left = until - sources.elapsed()
        try:
            if left <= 0:
                raise TimeoutError
            async with asyncio.timeout(left):
                await self._turn.acquire()
        except TimeoutError:
            raise ApiError("timeout", "query timed out in query queue") from None


def sources_of(view: View) -> Sources:
    """What can be asked. Raises ApiError while there is nothing yet."""
    if view.sources is None:
        raise ApiError("unavailable", "the sidecar has not begun to watch yet: ask again in a moment")
    return view.sources


def _asked(given: Parameters, sources: Sources, wanted: int) -> _Asked:
    seconds = given.read("timeout", duration, LONGEST_SECONDS)
    options = replace(sources.options, max_samples=MAX_SAMPLES)
    try:
        lookback = duration(text) if (text := given.first("lookback_delta")) else 0.0
    except ValueError as error:
        raise ApiError("bad_data", f"error parsing lookback delta duration: {error}") from None
    if lookback > 0:
        options = replace(options, lookback_seconds=lookback)
    text = given.first("query")
    try:
        expr = parse(text, experimental=sources.experimental)
    except QueryError as error:
        raise invalid("query", described(text, error)) from None
    return _Asked(text, expr, options, wanted, sources.elapsed() + min(seconds, LONGEST_SECONDS))


def _said(error: QueryError) -> str:
    return f"{error} ({error.help})" if error.help else str(error)


def _range(given: Parameters) -> tuple[float, float, float]:
    """Start, end and step of a range query. Raises ApiError for what Prometheus refuses."""
    start, end = given.must("start", moment), given.must("end", moment)
    if end < start:
        raise invalid("end", "end timestamp must not be before start time")
    step_seconds = given.must("step", duration)
    if step_seconds <= 0:
        raise invalid("step", "zero or negative query resolution step widths are not accepted. Try a positive integer")
    if step_seconds < 0.001:
        raise invalid("step", "steps below one millisecond are not accepted: samples lie no closer")
    if math.floor(round((end - start) / step_seconds, 6)) > MAX_STEPS:
        raise ApiError("bad_data", f"exceeded maximum resolution of {MAX_STEPS:,} points per timeseries. "
                       "Try decreasing the query resolution (?step=XX)")
    return start, end, step_seconds


def _until(asked: _Asked, sources: Sources) -> Options:
    """The options, with the time that is left."""
    return replace(asked.options, max_seconds=asked.until - sources.elapsed(), clock=sources.elapsed)


async def in_pieces(request: web.Request, sources: Sources, steps: Steps[Result], until: float) -> Result:
    """Drive work to its end, giving way to others; a QueryError after `until` is its timeout. Raises ApiError."""
    begun = sources.elapsed()
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            value: Result = ended.value
            return value
        except QueryError as error:
            if sources.elapsed() > until:
                raise ApiError("timeout", f"query timed out in expression evaluation: {_said(error)}") from None
            raise ApiError("execution", _said(error)) from None
        if sources.elapsed() - begun > HOLD_SECONDS:
            await sources.breathe()
            if request.transport is None or request.transport.is_closing():
                raise ApiError("canceled", "query was canceled in expression evaluation: nobody waits for it")
            begun = sources.elapsed()


def _pieces(kind: result.ResultType, value: Value, at: float, asked: _Asked, notes: Sequence[Note]) -> Iterator[str]:
    remarks = result.remarks(notes, asked.text)
    if isinstance(value, list) and 0 < asked.limit < len(value):
        value = value[:asked.limit]
        remarks["warnings"].append("results truncated due to limit")
    return result.success_pieces(kind, value, at, remarks)
