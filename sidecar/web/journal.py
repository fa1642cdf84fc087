"""GET /api/v1/journal at the control socket: everything that the journal keeps, as JSON lines."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future

from aiohttp import web

from sidecar.journal.book import Place
from sidecar.journal.export import header, lines
from sidecar.journal.file import Unusable
from sidecar.journal.journal import Piece
from sidecar.web.api import LINES, SLOWEST_SECONDS, ApiError, answering

Read = Callable[[float, Place | None], "Future[Piece]"]
"""`Journal.read`."""


def route(read: Read, now: Callable[[], float]) -> web.RouteDef:
    """The route; `?since=` is Unix time in seconds. What is read is sent piece by piece: little of it is in memory."""

    async def journal(request: web.Request) -> web.StreamResponse:
        since = _since(request)
        try:
            piece = await asyncio.wrap_future(read(since, None))
        except Unusable as error:
            raise ApiError("unavailable", str(error)) from None
        response = web.StreamResponse(headers={"Content-Type": LINES})
        await response.prepare(request)
        text = header(now(), since)
        while True:
            text = "\n".join([*([text] if text else []), *lines(piece.records, piece.points), ""])
            try:
                async with asyncio.timeout(SLOWEST_SECONDS):
                    await response.write(text.encode())
                if piece.place is None:
                    break
                piece, text = await asyncio.wrap_future(read(since, piece.place)), ""
            except (TimeoutError, Unusable):
                if request.transport is not None:
                    request.transport.abort()  # so that nobody takes a part for the whole
                raise ConnectionResetError("the journal was not read to its end") from None
        await response.write_eof()
        return response

    return web.get("/api/v1/journal", answering(journal))


def _since(request: web.Request) -> float:
    """Raises ApiError."""
    text = request.query.get("since", "0")
    try:
        since = float(text)
    except ValueError:
        since = float("nan")
    if not abs(since) < 1e12:
        raise ApiError("bad_data", f"since is to be Unix time in seconds, not {text[:50]!r}")
    return since
