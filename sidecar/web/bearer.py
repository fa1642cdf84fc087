"""Who may change anything over TCP: whoever has the token (RFC 6750), and nobody who guesses."""

import hmac
import logging
from collections.abc import Callable
from hashlib import sha256

from aiohttp import hdrs, web

from sidecar.web.guesses import Guesses, address_of
from sidecar.web.refusal import Refusal, again_in

log = logging.getLogger("sidecar.web")

CHALLENGE = {str(hdrs.WWW_AUTHENTICATE): 'Bearer realm="rag-sidecar"'}


class Bearer:
    """The lock. Lives as long as the server. The token is neither logged nor shown.

    An address that has used up its failures is not even compared until the next one is due: whoever shares it with
    somebody who guesses is locked out, too, and can still use the control socket. `monotonic` is in seconds.
    """

    def __init__(self, token: str, monotonic: Callable[[], float]) -> None:
        self._token = _digest(token) if token else b""
        self._guesses = Guesses(monotonic)

    def check(self, request: web.Request) -> None:
        """Raise Refusal unless this request carries the token."""
        if not self._token:
            raise Refusal(403, "forbidden", "nothing can be changed over TCP, for want of a token: write one into a "
                          "file of mode 0600 and name it as web.token_file, or use the control socket of this machine")
        address = address_of(request.remote or "")
        wait_seconds = self._guesses.wait_seconds(address)
        if wait_seconds > 0:
            raise Refusal(429, "too_many_failures", "too many wrong tokens came from this address; wait a little",
                          again_in(wait_seconds))
        given = request.headers.getall(hdrs.AUTHORIZATION, [])
        scheme, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if hmac.compare_digest(_digest(token.strip()), self._token) and scheme.lower() == "bearer":
            return
        if not given:  # who does not know that a token is needed does not guess
            raise Refusal(401, "unauthorized", "this needs the header `Authorization: Bearer …` with the token of "
                          "web.token_file", CHALLENGE)
        if self._guesses.failed(address):
            log.warning("too many wrong tokens", extra={"address": address})
        raise Refusal(401, "unauthorized", "that is not the token of web.token_file", CHALLENGE)


def _digest(text: str) -> bytes:
    """Of one length for all tokens: how long the right one is cannot be measured."""
    return sha256(text.encode("utf-8", "surrogateescape")).digest()

