"""The files of the status page: a list of names, each with its type. Whatever else is asked for is not there."""

from hashlib import sha256
from pathlib import Path

from aiohttp import ETag, hdrs, web

FOLDER = Path(__file__).resolve().parent / "static"
TYPES = {
    "status.css": "text/css", "uPlot.min.css": "text/css", "icon.svg": "image/svg+xml",
    "status.js": "text/javascript", "chart.js": "text/javascript", "orders.js": "text/javascript",
    "uPlot.iife.min.js": "text/javascript", "uPlot.LICENSE": "text/plain",
}  # fmt: skip


async def handle(request: web.Request) -> web.Response:
    """GET /static/NAME. Browsers keep it and ask each time whether it is still the same: 304.

    Read anew for everyone: a page is opened seldom, and what is kept for that would lie in memory for good.
    """
    name = request.match_info["name"]
    if name not in TYPES:
        raise web.HTTPNotFound
    body = (FOLDER / name).read_bytes()
    tag = ETag(sha256(body).hexdigest()[:32])
    headers = {hdrs.CACHE_CONTROL: "no-cache"}
    if tag in (request.if_none_match or ()):
        response = web.Response(status=304, headers=headers)
    else:
        response = web.Response(body=body, content_type=TYPES[name], charset="utf-8", headers=headers)
    response.etag = tag
    return response
