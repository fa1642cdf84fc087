"""One TCP connection: who speaks no HTTP is answered and not logged, and who has the most connections makes room."""

import asyncio
import logging
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


class Crowd:
    """The connections of a server, at most `most`, by address. Lives as long as the server."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._of: dict[str, dict[Connection, None]] = {}

    def join(self, connection: "Connection") -> None:
        """Count it in. If there is no room, another is ended: whoever holds many for nothing keeps nobody else out."""
        if self._count >= self._most:
            ending = self._ending()
            self.leave(ending)
            if isinstance(ending.transport, asyncio.Transport):
                ending.transport.abort()  # close would wait for who does not read
        self._of.setdefault(connection.address, {})[connection] = None
        self._count += 1

    def leave(self, connection: "Connection") -> None:
        """Count it out, once."""
        group = self._of.get(connection.address, {})
        if connection in group:
            del group[connection]
            self._count -= 1
            if not group:
                del self._of[connection.address]

    def _ending(self) -> "Connection":
        # Of whoever has the most: one that has asked nothing yet, else any; of these the first, the oldest.
        most = max(map(len, self._of.values()))
        held = [each for group in self._of.values() if len(group) == most for each in group]
        return next((each for each in held if not each._request_count), held[0])


class Connection(RequestHandler):
    """A connection of `server`, in its `crowd`. Lives until either side closes it.

    `address` is whose it is; empty where nobody knows.
    """

    def __init__(self, server: web.Server, crowd: Crowd) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), keepalive_timeout=IDLE_SECONDS,
                         lingering_time=LINGER_SECONDS, auto_decompress=False,
                         access_log=None)  # type: ignore[arg-type]  # as aiohttp's own runner says that there is none
        self.address = ""
        self._crowd = crowd

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Join the crowd."""
        super().connection_made(transport)
        name = self.peername
        self.address = str(name[0]) if isinstance(name, tuple) else ""
        self._crowd.join(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Leave the crowd."""
        self._crowd.leave(self)
        super().connection_lost(exc)

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
            log.debug("a request that is no HTTP", extra={"address": self.address, "error": type(error).__name__})
        else:
            super().log_exception(*args, **named)
