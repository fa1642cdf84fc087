"""Who is let in, by the web config file: read anew whenever it, or a file that it names, has changed."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from sidecar.web.bearer import Bearer
from sidecar.web.refusal import Refusal
from sidecar.web.terms import Terms, WebConfigError

log = logging.getLogger("sidecar.web")

Stamp = tuple[int, ...]


class Protection:
    """The terms of entrance that are in force. Lives as long as the server.

    `read` reads the file and raises WebConfigError. Where that happens later than at the start, the terms before stay.
    """

    def __init__(self, file: Path, read: Callable[[Path], Terms]) -> None:
        self._file = file
        self._read = read
        self._files: tuple[Path, ...] = (file,)
        self._stamps: tuple[Stamp, ...] = ()
        found = self._found()
        if isinstance(found, WebConfigError):
            raise found
        self._terms = found

    def now(self) -> Terms:
        """What is in force at this moment."""
        if tuple(map(_stamp, self._files)) != self._stamps:
            self._renew()
        return self._terms

    def entrance(self, bearer: Bearer | None, monotonic: Callable[[], float]) -> Middleware:
        """A middleware that lets in whoever gives a user's password, or the token of `bearer`, where users are named.

        It holds for every path, as in Prometheus. `monotonic` is in seconds.
        """
        check = None

        @web.middleware
        async def enter(request: web.Request, handler: Handler) -> web.StreamResponse:
            nonlocal check
            if users := self.now().users:
                try:
                    if bearer and request.headers.get(hdrs.AUTHORIZATION, "").lower().startswith("bearer "):
                        bearer.check(request)
                    else:
                        if check is None:
                            from sidecar.web.passwords import Passwords  # here: bcrypt is there only where it is needed

                            check = Passwords(monotonic).check
                        await check(request, users)
                except Refusal as refusal:
                    return refusal.answer()
            return await handler(request)

        return enter

    async def add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        """Lay the headers of the file over those of an answer."""
        for name, value in self._terms.headers.items():
            if value:
                response.headers[name] = value
            else:
                response.headers.pop(name, None)

    def _renew(self) -> None:
        found = self._found()
        if isinstance(found, WebConfigError):
            log.error("the web config file cannot be used, what it said before stays in force",
                      extra={"error": str(found), "help": found.help})
        elif (found.context is None) != (self._terms.context is None):
            log.error("TLS begins and ends with a start alone, what the web config file said before stays in force",
                      extra={"help": "start the sidecar anew, or take back the change"})
        else:
            self._terms = found
            log.info("the web config file was read anew", extra={"file": str(self._file)})

    def _found(self) -> Terms | WebConfigError:
        """What is there now; whatever changes while it is read differs from the stamps afterwards."""
        for _ in range(3):  # it may name other files than before
            files, self._stamps = self._files, tuple(map(_stamp, self._files))
            try:
                found: Terms | WebConfigError = self._read(self._file)
            except WebConfigError as error:
                found = error
            self._files = found.files
            if found.files == files:
                break
        return found


def _stamp(file: Path) -> Stamp:
    """What differs when a file was written, replaced, or opened to us; () while it is not there."""
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
