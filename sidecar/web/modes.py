"""GET /api/v1/mode: how careful a target had better be, for load balancers and for the program itself."""

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sidecar.web.api import JSON
from sidecar.web.view import ModeStatus, Snapshot, View

WORST_FIRST = ("degraded", "cautious", "normal")
UNKNOWN = ModeStatus("unknown")


async def worst(view: View, request: web.Request) -> web.Response:
    """GET /api/v1/mode: the worst mode there is, and all of them. 503 if that is `degraded`, else 200."""
    rows = [_row(name, view.snapshot) for name in sorted(_names(view.snapshot))]
    found = {row["mode"] for row in rows}
    return _answer({"mode": next((mode for mode in WORST_FIRST if mode in found), UNKNOWN.mode), "targets": rows})


async def of_target(view: View, request: web.Request) -> web.Response:
    """GET /api/v1/mode/TARGET: 503 if that target is `degraded`, 404 if there is none of this name, else 200."""
    name = request.match_info["target"]
    if name not in _names(view.snapshot):
        there = ", ".join(sorted(_names(view.snapshot))[:20]) or "none yet"
        body = {"status": "error", "errorType": "not_found", "error": f"there is no such target; there is {there}"}
        return web.Response(status=404, text=json.dumps(body), content_type=JSON)
    return _answer(_row(name, view.snapshot))


def _names(snapshot: Snapshot) -> set[str]:
    return {target.name for target in snapshot.targets} | set(snapshot.modes)


def _row(name: str, snapshot: Snapshot) -> dict[str, Any]:
    """A target whose memory cannot be read has the mode `unknown`: that is no reason to send nobody there."""
    status = snapshot.modes.get(name, UNKNOWN)
    return {"target": name, **status._asdict()}


def _answer(data: Mapping[str, Any]) -> web.Response:
    status = 503 if data["mode"] == "degraded" else 200
    return web.Response(status=status, text=json.dumps({"status": "success", "data": data}), content_type=JSON)
