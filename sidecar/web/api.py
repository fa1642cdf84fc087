"""The JSON answers: Prometheus's envelope and its shapes (web/api/v1/api.go)."""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from aiohttp import hdrs, web

from sidecar.errors import QueryError
from sidecar.model import Alert
from sidecar.notify.payload import rfc3339
from sidecar.web.view import Snapshot

ErrorType = Literal["bad_data", "execution", "canceled", "timeout", "unavailable"]
STATUS: dict[ErrorType, int] = {"bad_data": 400, "execution": 422, "canceled": 499, "timeout": 503, "unavailable": 503}
JSON = "application/json"
LINES = "application/jsonl"
PIECE_BYTES = 64 * 1024
PIECES_A_BREATH = 500
SLOWEST_SECONDS = 10.0
HURRIED_SECONDS = 1.0
RETRY_SECONDS = 1


Response = web.StreamResponse
Handler = Callable[[web.Request], Awaitable[Response]]


class ApiError(Exception):
    """What an endpoint answers instead of data: `errorType` and `error` of the envelope, and so the status."""

    def __init__(self, kind: ErrorType, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def success(data: Any) -> web.Response:
    """`{"status":"success","data":…}`. Numbers that JSON does not know have to be strings or None by now."""
    text = json.dumps({"status": "success", "data": data}, allow_nan=False)
    return web.Response(text=text, content_type=JSON)


def answering(handler: Handler) -> Handler:
    """`handler`, whose ApiErrors become `{"status":"error","errorType":…,"error":…}` with the status that fits."""

    async def answer(request: web.Request) -> Response:
        try:
            return await handler(request)
        except (ApiError, QueryError) as found:  # a pattern may be too slow for a value wherever series are chosen
            error = found if isinstance(found, ApiError) else ApiError("execution", f"{found} ({found.help})")
            text = json.dumps({"status": "error", "errorType": error.kind, "error": str(error)})
            headers = {hdrs.RETRY_AFTER: str(RETRY_SECONDS)} if error.kind == "unavailable" else {}
            return web.Response(status=STATUS[error.kind], text=text, content_type=JSON, headers=headers)

    return answer


async def send(request: web.Request, pieces: Iterable[str], breathe: Callable[[], Awaitable[None]],
               awaited: Callable[[], bool] = lambda: False) -> Response:
    """The answer that `pieces` make up, sent while it is made: however big it is, little of it is in memory.

    A reader that does not take a piece for SLOWEST_SECONDS is cut off; after HURRIED_SECONDS where others wait for the
    end of this answer, as `awaited` tells.
    """
    gathered: list[str] = []
    size, begun = 0, None
    for count, piece in enumerate(pieces, 1):
        gathered.append(piece)
        size += len(piece)
        if size < PIECE_BYTES:
            if count % PIECES_A_BREATH == 0:
                await breathe()
            continue
        if request.method == hdrs.METH_HEAD:
            return web.Response(content_type=JSON)
        if begun is None:
            begun = web.StreamResponse(headers={hdrs.CONTENT_TYPE: f"{JSON}; charset=utf-8"})
            await begun.prepare(request)
        await _write(request, begun, "".join(gathered).encode(), awaited)
        gathered, size = [], 0
        await breathe()
    if begun is None:
        return web.Response(text="".join(gathered), content_type=JSON)
    await _write(request, begun, "".join(gathered).encode(), awaited)
    return begun


async def _write(request: web.Request, response: Response, body: bytes, awaited: Callable[[], bool]) -> None:
    writing = asyncio.ensure_future(response.write(body))
    try:
        for _ in range(math.ceil(SLOWEST_SECONDS / HURRIED_SECONDS)):
            await asyncio.wait([writing], timeout=min(HURRIED_SECONDS, SLOWEST_SECONDS))
            if writing.done():
                return await writing
            if awaited():
                break
    finally:
        writing.cancel()
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("the answer was not read")


def alerts(given: Sequence[Alert]) -> dict[str, Any]:
    """The `data` of GET /api/v1/alerts: pending and firing alerts; resolved ones are not listed."""
    return {"alerts": [alert_shape(alert) for alert in given if alert.state != "inactive"]}


def actions(shown: Snapshot, target: str = "", outcome: str = "", most: int = 0) -> dict[str, Any]:
    """The `data` of GET /api/v1/actions: attempts, with this outcome; decisions; incidents. Newest first.

    Of one target if one is named; `most` of each list, 0 is all.
    """
    newest_first = sorted(shown.actions, key=lambda action: action["started_at"], reverse=True)
    incidents = sorted(shown.incidents, key=lambda incident: incident.get("opened_at", 0.0), reverse=True)
    chosen = [action for action in newest_first if outcome in ("", action.get("outcome"))]
    return {name: [_finite(row) for row in rows if target in ("", row.get("target"))][:most or None]
            for name, rows in (("actions", chosen), ("decisions", shown.decisions), ("incidents", incidents))}


def exponent_form(value: float) -> str:
    """The shortest decimal that reads back as `value`, as Go's FormatFloat(value, 'e', -1, 64): `4.7153152e+07`."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}".title()
    return next(text for digits in range(17) if float(text := f"{value:.{digits}e}") == value)


def alert_shape(alert: Alert) -> dict[str, Any]:
    """An alert as /api/v1/alerts and /api/v1/rules list it."""
    kept = {} if alert.keep_firing_since is None else {"keepFiringSince": rfc3339(alert.keep_firing_since)}
    return {
        "labels": dict(alert.labels),
        "annotations": dict(alert.annotations),
        "state": alert.state,
        "activeAt": rfc3339(alert.active_at),
        **kept,
        "value": exponent_form(alert.value),
    }


def _finite(value: Any) -> Any:
    """What JSON knows: null for a number that is none."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
