"""The same in ASGI's own terms, for uvicorn: GET / says the worker's pid, GET /hold/MIB holds more."""

import json
import os

held = [bytes([1]) * (20 << 20)]


async def app(scope, receive, send):
    """Answer with the pid of this worker."""
    if scope["type"] != "http":
        return
    if scope["path"].startswith("/hold/"):
        held.append(bytes([1]) * (int(scope["path"].removeprefix("/hold/")) << 20))
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps({"pid": os.getpid()}).encode()})
