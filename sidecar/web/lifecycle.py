"""POST or PUT /-/reload: the configuration is read again, as Prometheus does it (docs/management_api.md there)."""

from aiohttp import web

from sidecar.web.view import View

PATH = "/-/reload"
CLOSED = "Lifecycle API is not enabled: start with --web.enable-lifecycle, or send SIGHUP to the sidecar.\n"


def routes(view: View, *, allowed: bool) -> list[web.RouteDef]:
    """What is served; not `allowed`: everybody is told how it would be. Over TCP that is a flag of the command."""

    async def reload(request: web.Request) -> web.Response:
        """200 once what was read is in force, 500 with every mistake where it stays out."""
        if not allowed:
            return web.Response(status=403, text=CLOSED)
        if view.reload is None:
            return web.Response(status=503, text="rag-sidecar has only just started; ask again in a second.\n")
        mistakes = await view.reload()
        if mistakes:
            return web.Response(status=500, text=f"failed to reload config:\n{mistakes}\n")
        return web.Response(text="The configuration is in force.\n")

    return [web.post(PATH, reload), web.put(PATH, reload)]
