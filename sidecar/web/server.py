"""The web server: what can be read over TCP, and, with the token, what can be ordered."""

import asyncio
import errno
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from sidecar.clock import monotonic
from sidecar.errors import SidecarError
from sidecar.web import api, modes, prometheus, rules
from sidecar.web.admission import ALWAYS, BODY_BYTES, add_headers, admission, plain_errors
from sidecar.web.bearer import Bearer
from sidecar.web.breath import breath_of, through
from sidecar.web.connection import Connection, Crowd
from sidecar.web.metrics import Exposition
from sidecar.web.orders import Orders
from sidecar.web.parameters import limit, parameters
from sidecar.web.query import Queries
from sidecar.web.view import View

if TYPE_CHECKING:  # it takes memory, and few need it
    from sidecar.web.protection import Protection

CONNECTIONS = 256
"""How many clients may be connected; each holds a file descriptor that the probes would lack."""
ACCEPTED_AT_ONCE = 16
"""How many clients are let in before others get the event loop."""
QUEUE = 128
"""How many clients the kernel lets wait to be let in."""
SHUTDOWN_SECONDS = 2.0

VIEW = web.AppKey("view", View)
EXPOSITION = web.AppKey("exposition", Exposition)
TOKEN = web.AppKey("token", bool)
"""Whether there is a token, with which orders are taken."""


def build(view: View, *, hosts: Sequence[str] = (), token: str = "", protection: "Protection | None" = None,
          clock: Callable[[], float] = monotonic) -> web.Application:
    """The application behind TCP: it shows `view`, and takes orders from whoever has the `token` ("": from nobody).

    It is served under any IP address, localhost and the names in `hosts`, to whom the `protection` lets in. `clock` is
    in seconds and never goes back.
    """
    app = pages(view, hosts=hosts)
    app[TOKEN] = bool(token)
    bearer = Bearer(token, clock)
    app.add_routes(Orders(view, bearer).routes())
    if protection:
        app.middlewares.insert(1, protection.entrance(bearer if token else None, clock))
        app.on_response_prepare.append(protection.add_headers)
    return app


def pages(view: View, *, hosts: Sequence[str] = ()) -> web.Application:
    """An application that shows `view` and changes nothing."""
    app = web.Application(middlewares=[plain_errors, admission(hosts)], client_max_size=BODY_BYTES)
    app[VIEW] = view
    app[EXPOSITION] = Exposition()
    app.on_response_prepare.append(add_headers)
    queries = Queries(view)
    instant, over_range = api.answering(queries.instant), api.answering(queries.over_range)
    app.add_routes([
        web.get("/", landing),
        web.get("/graph", landing),  # where the generatorURL of an alert points, as Prometheus's does
        web.get("/static/{name}", static),
        web.get("/metrics", metrics),
        web.get(ALWAYS, healthy),
        web.get("/-/ready", ready),
        web.get("/api/v1/query", instant),
        web.post("/api/v1/query", instant),  # a form instead of a long URL: it changes nothing either
        web.get("/api/v1/query_range", over_range),
        web.post("/api/v1/query_range", over_range),
        web.get("/api/v1/rules", api.answering(partial(rules.handle, view=view))),
        web.get("/api/v1/alerts", alerts),
        web.get("/api/v1/actions", api.answering(actions)),
        web.get("/api/v1/mode", partial(modes.worst, view)),
        web.get("/api/v1/mode/{target}", partial(modes.of_target, view)),
        *prometheus.routes(queries),
    ])
    return app


async def landing(request: web.Request) -> web.Response:
    """GET /: what is going on, for a person."""
    from sidecar.web import page  # here: many a sidecar is never looked at

    headers = {"Content-Security-Policy": page.CONTENT_SECURITY_POLICY}
    view = request.app[VIEW]
    body = await through(page.landing(view, token=request.app.get(TOKEN, False)), breath_of(view))
    return web.Response(body=body, content_type="text/html", charset="utf-8", headers=headers)


async def static(request: web.Request) -> web.Response:
    """GET /static/NAME: what the page needs."""
    from sidecar.web import static_files  # here: as above

    return await static_files.handle(request)


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: what is going on, for Prometheus."""
    snapshot, exposition = request.app[VIEW].snapshot, request.app[EXPOSITION]
    exposition.publish(snapshot.families, snapshot.tick)
    return await exposition.handle(request, breath_of(request.app[VIEW]))


async def healthy(request: web.Request) -> web.Response:
    """GET /-/healthy: 200 for as long as the event loop turns."""
    return web.Response(text="rag-sidecar is healthy.\n")


async def ready(request: web.Request) -> web.Response:
    """GET /-/ready: 200, or 503 with the reason."""
    if reason := request.app[VIEW].snapshot.unready:
        return web.Response(status=503, text=f"rag-sidecar is not ready: {reason}.\n")
    return web.Response(text="rag-sidecar is ready.\n")


async def alerts(request: web.Request) -> web.Response:
    """GET /api/v1/alerts, in Prometheus's shape."""
    return api.success(api.alerts(request.app[VIEW].snapshot.alerts))


async def actions(request: web.Request) -> web.Response:
    """GET /api/v1/actions: what was done about it, newest first, what is decided now, and the incidents.

    `target` and `outcome` choose, `limit` is how many of each list. Raises ApiError for a limit that is none.
    """
    wanted = await parameters(request)
    return api.success(api.actions(request.app[VIEW].snapshot, wanted.first("target"), wanted.first("outcome"),
                                   wanted.read("limit", limit, 0)))


@asynccontextmanager
async def serving(app: web.Application, listen: Sequence[str],
                  protection: "Protection | None" = None) -> AsyncIterator[list[str]]:
    """Serve `app` on every address (`HOST:PORT`, `:PORT`, `[::1]:PORT`; port 0 takes a free one) until the end.

    With TLS where the `protection` says so. Yields the URLs that answer. Raises SidecarError where an address cannot be
    listened on.
    """
    addresses = [parse_listen(address) for address in listen]
    runner = web.AppRunner(app, shutdown_timeout=SHUTDOWN_SECONDS)
    async with AsyncExitStack() as cleanup:
        await runner.setup()
        cleanup.push_async_callback(runner.cleanup)
        assert runner.server
        accepted: Callable[[], asyncio.BaseProtocol] = partial(Connection, runner.server, Crowd(CONNECTIONS))
        secure = protection is not None and protection.now().context is not None
        if protection and secure:
            accepted = cleanup.enter_context(_with_tls(accepted, protection))
        urls = []
        for host, port in addresses:
            server = await _listen(accepted, host, port)
            cleanup.callback(server.close)
            urls += [_url(listener.getsockname(), "https" if secure else "http") for listener in server.sockets]
        yield urls


@contextmanager
def _with_tls(factory: Callable[[], asyncio.BaseProtocol],
              protection: "Protection") -> Iterator[Callable[[], asyncio.BaseProtocol]]:
    """`factory` behind handshakes, each with the certificates that are there when it begins."""
    from sidecar.web.tls import Handshakes  # here: TLS is loaded only where it is spoken

    handshakes = Handshakes(factory, lambda: protection.now().context)
    try:
        yield handshakes.accepted
    finally:
        handshakes.close()


def parse_listen(address: str) -> tuple[str | None, int]:
    """(host, port) of a listen address; no host means every interface. Raises SidecarError."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # an IPv6 address without brackets: nobody can tell where its port begins
    if not colon or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        raise SidecarError(
            f"cannot listen on {address!r}: not an address with a port",
            help="Write it as 127.0.0.1:11611, [::1]:11611, or :11611 for every interface.",
        )
    return host or None, int(port)


async def _listen(factory: Callable[[], asyncio.BaseProtocol], host: str | None, port: int) -> asyncio.Server:
    try:
        server = await asyncio.get_running_loop().create_server(factory, host, port, backlog=ACCEPTED_AT_ONCE)
        for listener in server.sockets:
            with listener.dup() as same:
                same.listen(QUEUE)  # asyncio has one number for both
        return server
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that DNS could never carry
        reason, advice = _trouble(error, port)
        shown = f"[{host}]" if host and ":" in host else host or ""
        raise SidecarError(
            f"cannot listen on {shown}:{port}: {reason}", help=f"{advice}, or choose another address: web.listen."
        ) from error


def _trouble(error: OSError | UnicodeError, port: int) -> tuple[str, str]:
    if isinstance(error, socket.gaierror | UnicodeError):
        return "the host name cannot be resolved", "Give an IP address of this machine"
    return {
        errno.EADDRINUSE: ("another program listens there", f"End it (`ss -ltnp 'sport = :{port}'` names it)"),
        errno.EADDRNOTAVAIL: ("this machine does not have that address", "See `ip address` for those it has"),
        errno.EACCES: ("permission denied", "Ports below 1024 need CAP_NET_BIND_SERVICE: take one above"),
    }.get(error.errno or 0, (str(error), "Look up what the system says"))


def _url(name: tuple[str, int], scheme: str) -> str:
    host, port = name[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
