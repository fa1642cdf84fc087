"""One TCP connection: who speaks no HTTP is answered and not logged, and who has the most connections makes room."""

import asyncio
import logging
from collections import Counter
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from sidecar.web.admission import set_headers

log = logging.getLogger("sidecar.web")

IDLE_SECONDS = 75.0
"""How long a connection may be silent, or take over its first request line and headers."""
LINGER_SECONDS = 1.0
"""For how long the rest of a body is read that was refused, so that the client sees the answer."""


class Connection(RequestHandler):
    """A connection of `server`, of which there are at most `most`. Lives until either side closes it."""

    def __init__(self, server: web.Server, most: int) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), keepalive_timeout=IDLE_SECONDS,
                         lingering_time=LINGER_SECONDS, auto_decompress=False,
                         access_log=None)  # type: ignore[arg-type]  # as aiohttp's own runner says that there is none
        self._server = server
        self._most = most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Make room first, if there is none: whoever holds connections for nothing keeps nobody else out."""
        held = [each for each in self._server.connections if each.transport and not each.transport.is_closing()]
        if len(held) >= self._most:
            count = Counter(_address(each) for each in held)
            # Of whoever has the most: one that has asked nothing yet, else any; of these the first, the oldest.
            ending = max(held, key=lambda each: (count[_address(each)], not each._request_count)).transport
            assert isinstance(ending, asyncio.Transport)
            ending.abort()  # close would wait for who does not read
        super().connection_made(transport)

    def handle_error(self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None,
                     message: str | None = None) -> web.StreamResponse:
        """What went wrong, with the headers of every answer, and without a word of what was sent."""
        told = "This is no request that can be understood.\n" if status < 500 else message
        response = super().handle_error(request, status, exc, told)
        set_headers(response)
        return response

    def log_exception(self, *args: Any, **named: Any) -> None:
        """What a client gets wrong is none of ours, as often as it likes; and its headers may hold a secret."""
        error = named.get("exc_info")
        if isinstance(error, HttpProcessingError):
            log.debug("a request that is no HTTP", extra={"address": _address(self), "error": type(error).__name__})
        else:
            super().log_exception(*args, **named)


def _address(connection: RequestHandler) -> str:
    """Of whom it is; empty where nobody knows."""
    name = connection.peername
    return str(name[0]) if isinstance(name, tuple) else ""
