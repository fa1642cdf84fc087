"""The JSON answers: Prometheus's envelope, and its shape of an alert (web/api/v1/api.go)."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from sidecar.model import Alert
from sidecar.notify.payload import rfc3339


def success(data: Any) -> web.Response:
    """`{"status":"success","data":…}`. Numbers that JSON does not know have to be strings or None by now."""
    text = json.dumps({"status": "success", "data": data}, allow_nan=False)
    return web.Response(text=text, content_type="application/json")


def alerts(given: Sequence[Alert]) -> dict[str, Any]:
    """The `data` of GET /api/v1/alerts: pending and firing alerts; resolved ones are not listed."""
    return {"alerts": [_alert(alert) for alert in given if alert.state != "inactive"]}


def actions(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The `data` of GET /api/v1/actions, newest first."""
    newest_first = sorted(given, key=lambda action: action["started_at"], reverse=True)
    return {"actions": [{name: _finite(value) for name, value in action.items()} for action in newest_first]}


def exponent_form(value: float) -> str:
    """The shortest decimal that reads back as `value`, as Go's FormatFloat(value, 'e', -1, 64): `4.7153152e+07`."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}".title()
    return next(text for digits in range(17) if float(text := f"{value:.{digits}e}") == value)


def _alert(alert: Alert) -> dict[str, Any]:
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
    return None if isinstance(value, float) and not math.isfinite(value) else value
