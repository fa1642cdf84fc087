"""What the sidecar sees, read over HTTP as anybody could: /metrics, /api/v1/alerts and /api/v1/actions."""

import http.client
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

REQUEST_SECONDS = 2.0

_USED = re.compile(r"^rag_memory_used_bytes\{[^}]*\} (\S+)", re.MULTILINE)
_LINE = re.compile(r'^rag_memory_threshold_bytes\{[^}]*level="(\w+)"[^}]*\} (\S+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert that is pending or firing. `level` is empty where it is not about one of the three lines.

    `kept` says that it only stays visible: what it warned of is over.
    """

    name: str
    level: str
    firing: bool
    kept: bool
    active_at: float
    value: float
    summary: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """One cleanup that was asked for. `outcome` is `running` until it has been judged."""

    id: str
    cleanup: str
    level: str
    channel: str
    outcome: str
    reason: str
    started_at: float
    before_bytes: float
    line_bytes: float | None
    after_bytes: float | None
    freed_bytes: float | None
    delivery_seconds: float | None
    duration_seconds: float | None
    rebounded: bool | None


@dataclass(frozen=True, slots=True)
class State:
    """One look. `lines` are bytes by level, from low to high; alerts by name; attempts by id, the oldest first.

    `used_bytes` is None while the sidecar has no reading.
    """

    used_bytes: float | None
    lines: Mapping[str, float]
    alerts: Mapping[str, Alert]
    attempts: Mapping[str, Attempt]

    @property
    def newest(self) -> Attempt | None:
        """The last attempt, if there is one."""
        return list(self.attempts.values())[-1] if self.attempts else None


def look(address: str) -> State | None:
    """What the sidecar at `address` (host:port) sees now; None if it does not answer or what it says makes no sense.

    Actions are read first: should a tick fall in between, an alert is then seen before what was done about it.
    """
    try:
        actions = _data(address, "/api/v1/actions")["actions"]
        alerts = _data(address, "/api/v1/alerts")["alerts"]
        metrics = get(address, "/metrics").decode()
        return State(
            next((float(value) for value in _USED.findall(metrics)), None),
            dict(sorted(((level, float(value)) for level, value in _LINE.findall(metrics)), key=lambda line: line[1])),
            {alert.name: alert for alert in map(_alert, alerts)},
            {attempt.id: attempt for attempt in map(_attempt, reversed(actions))},
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def ready(address: str) -> bool:
    """Whether the sidecar at `address` says that it is ready."""
    try:
        return bool(get(address, "/-/ready"))
    except (OSError, http.client.HTTPException):
        return False


def get(address: str, path: str) -> bytes:
    """The body of a 200. Raises OSError or HTTPException for everything else.

    http.client and not urllib: a proxy of the environment must not come between us and loopback.
    """
    connection = http.client.HTTPConnection(address, timeout=REQUEST_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise http.client.HTTPException(f"{path} answered {response.status}")
        return response.read()
    finally:
        connection.close()


def _data(address: str, path: str) -> Any:
    return json.loads(get(address, path))["data"]


def _alert(raw: Mapping[str, Any]) -> Alert:
    labels = raw["labels"]
    return Alert(
        labels["alertname"], labels["level"] if "cleanup" in labels else "", raw["state"] == "firing",
        "keepFiringSince" in raw, datetime.fromisoformat(raw["activeAt"]).timestamp(), float(raw["value"]),
        raw["annotations"].get("summary", ""))


def _attempt(raw: Mapping[str, Any]) -> Attempt:
    numbers = {name: _number(raw[name]) for name in (
        "line_bytes", "after_bytes", "freed_bytes", "delivery_seconds", "duration_seconds")}
    return Attempt(
        raw["id"], raw["cleanup"], raw["alert"].get("level", ""), raw["channel"], raw["outcome"], raw["reason"],
        float(raw["started_at"]), float(raw["before_bytes"]), rebounded=raw["rebounded"], **numbers)


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
