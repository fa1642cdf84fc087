"""Basic authentication (RFC 7617) against bcrypt hashes: off the event loop, one at a time, and remembered."""

import asyncio
import base64
import binascii
import hmac
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping

import bcrypt
from aiohttp import hdrs, web

from sidecar.web.guesses import Guesses, address_of
from sidecar.web.refusal import Refusal, again_in

log = logging.getLogger("sidecar.web")

REMEMBERED = 256
WAITING = 16
"""How many may wait for bcrypt: it takes 70 ms or so of a processor for each, and other things are to be done."""
HIGHEST_COST = 16
HASHED_BYTES = 72
"""So much of a password bcrypt looks at."""
CHALLENGE = {str(hdrs.WWW_AUTHENTICATE): 'Basic realm="rag-sidecar", charset="UTF-8"'}
_HASH = re.compile(r"\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}")


def wrong_hash(text: str) -> str:
    """What is wrong with a bcrypt hash, "" if nothing. It is not shown: it may be the password itself."""
    found = _HASH.fullmatch(text)
    if not found:
        return "is no bcrypt hash: `htpasswd -nBC 10 USER` makes one"
    if not 4 <= int(found[1]) <= HIGHEST_COST:
        return f"has the cost {int(found[1])}: it must be 4 to {HIGHEST_COST}, 10 takes about 70 ms"
    return ""


class Passwords:
    """Compares them. Lives as long as the server; none is kept, only a keyed digest of what was right.

    What was right once from an address is let in at once; it goes when the hash changes. Names that there are and names
    that there are not take the same time.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._guesses = Guesses(monotonic)
        self._key = os.urandom(32)
        self._right: OrderedDict[bytes, None] = OrderedDict()
        self._one = asyncio.Lock()
        self._waiting = 0

    async def check(self, request: web.Request, users: Mapping[str, bytes]) -> None:
        """Raise Refusal unless this request has the name and the password of one of the `users` (name → hash)."""
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        said = _credentials(given[0]) if len(given) == 1 else None
        if said is None:
            raise Refusal(401, "unauthorized", "this needs a user and a password of basic_auth_users", CHALLENGE)
        user, password = said
        known = user.decode("utf-8", "surrogateescape")
        hashed = users.get(known) or next(iter(users.values()))
        address = address_of(request.remote or "")
        digest = hmac.digest(self._key, repr((address, user, hashed, password)).encode(), "sha256")
        if digest in self._right and known in users:
            self._right.move_to_end(digest)
            return
        if (wait_seconds := self._guesses.wait_seconds(address)) > 0:
            raise Refusal(429, "too_many_failures", "too many wrong passwords came from this address; wait a little",
                          again_in(wait_seconds))
        if not await self._is(hashed, password) or known not in users:
            if self._guesses.failed(address):
                log.warning("too many wrong passwords", extra={"address": address})
            raise Refusal(401, "unauthorized", "that is no user and password of basic_auth_users", CHALLENGE)
        self._right[digest] = None
        if len(self._right) > REMEMBERED:
            self._right.popitem(last=False)

    async def _is(self, hashed: bytes, password: bytes) -> bool:
        if self._waiting >= WAITING:
            raise Refusal(503, "unavailable", "too many passwords wait to be looked at", again_in(1.0))
        self._waiting += 1
        try:
            async with self._one:
                return await asyncio.to_thread(_matches, hashed, password)
        finally:
            self._waiting -= 1


def _matches(hashed: bytes, password: bytes) -> bool:
    try:
        return bcrypt.checkpw(password[:HASHED_BYTES], hashed)
    except ValueError:  # a hash whose last bits cannot be
        return False


def _credentials(header: str) -> tuple[bytes, bytes] | None:
    """(user, password) of a header Authorization; None where there are none in it."""
    scheme, _, coded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(coded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon else None
