"""Who may ask: the checks that every request passes before anything else happens."""

import re
from collections.abc import Sequence
from ipaddress import ip_address

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

BODY_BYTES = 64 * 1024
REQUESTS = 64
"""How many requests are worked on at a time."""
FORMS = 32
"""How many of these may bring a form: whoever sends theirs slowly keeps no page and no order from anybody."""
FORM = "application/x-www-form-urlencoded"
ALWAYS = "/-/healthy"
"""Costs nothing and must be answered under any load: who gets no answer here restarts the sidecar."""
SAFE = frozenset({"GET", "HEAD"})

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?)(?::[0-9]{0,5})?", re.ASCII)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def admission(hosts: Sequence[str]) -> Middleware:
    """A middleware that refuses foreign hosts, cross-site requests, big or packed bodies, crowds, and says why."""
    known = frozenset(host.lower().rstrip(".") for host in hosts)
    busy = forms = 0

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal busy, forms
        form = request.content_type == FORM
        if not host_allowed(request.headers.getall(hdrs.HOST, []), known):
            raise web.HTTPForbidden(text="This Host is not served here; if it is right, add it to web.hosts.\n")
        if request.method not in SAFE and cross_site(request):
            raise web.HTTPForbidden(text="Cross-site requests are refused.\n")
        if (request.content_length or 0) > BODY_BYTES:
            raise web.HTTPRequestEntityTooLarge(BODY_BYTES, request.content_length or 0)
        if hdrs.CONTENT_ENCODING in request.headers:  # a few bytes could become very many
            raise web.HTTPUnsupportedMediaType(text="A body is to come as it is, without Content-Encoding.\n")
        if (busy >= REQUESTS or (form and forms >= FORMS)) and request.path != ALWAYS:
            raise web.HTTPServiceUnavailable(text="Too many requests at once.\n", headers={hdrs.RETRY_AFTER: "1"})
        busy, forms = busy + 1, forms + form
        try:
            return await handler(request)
        finally:
            busy, forms = busy - 1, forms - form

    return admit


def host_allowed(given: Sequence[str], known: frozenset[str]) -> bool:
    """Whether a Host header names this server: an IP literal, localhost, or one of `known`.

    A page of a foreign name that is made to point here (DNS rebinding) keeps its own name in Host. Without the header
    (HTTP/1.0) there is no browser behind the request.
    """
    if not given:
        return True
    found = _HOST.fullmatch(given[0].lower())
    if found is None or len(given) > 1:
        return False
    host = found[1] or found[2]
    return host in known or host == "localhost" or host.endswith(".localhost") or _is_address(host)


def cross_site(request: web.Request) -> bool:
    """Whether a browser sent this on behalf of another origin, another port of this machine included.

    The test of Go's net/http CrossOriginProtection: Sec-Fetch-Site where there is one, else Origin against Host;
    neither means that it was no browser.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = request.headers.get(hdrs.ORIGIN)
    return origin is not None and origin.partition("://")[2] != request.headers.get(hdrs.HOST, "")


@web.middleware
async def plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Unknown paths and methods are answered as Prometheus answers them: Grafana looks for the words.

    Who has hung up in the middle of an answer is no error of ours, and is not told anything more.
    """
    try:
        return await handler(request)
    except ConnectionResetError:
        return web.Response(status=400)
    except web.HTTPNotFound:
        return web.Response(status=404, text="404 page not found\n")
    except web.HTTPMethodNotAllowed as error:
        return web.Response(status=405, text="Method Not Allowed\n", headers={hdrs.ALLOW: error.headers[hdrs.ALLOW]})


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer says what a browser may do with it; a page may say it more exactly."""
    set_headers(response)


def set_headers(response: web.StreamResponse) -> None:
    """The headers that each answer has."""
    response.headers["Server"] = "rag-sidecar"  # instead of the versions of Python and aiohttp
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
