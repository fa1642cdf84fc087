"""One alert as Alertmanager's API v2 wants it (POST /api/v2/alerts). Pure."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any
from urllib.parse import quote_plus

from sidecar.notify.queue import Message

_FOREIGN = re.compile(r"[^a-zA-Z0-9_]")


def payload(message: Message, external_labels: Mapping[str, str], external_url: str) -> dict[str, Any]:
    """The JSON object of one alert: labels, annotations, startsAt, endsAt, generatorURL.

    `startsAt` is when it fired, not when it became pending. External labels never replace a label of the alert.
    """
    alert = message.alert
    started = alert.active_at if alert.fired_at is None else alert.fired_at
    return {
        "labels": {**external_labels, **alert.labels},
        "annotations": annotations(alert.annotations),
        "startsAt": rfc3339(started),
        # An end before the start is refused with 400; a clock that was set back can make one.
        "endsAt": rfc3339(max(message.ends_at, started)),
        "generatorURL": generator_url(external_url, alert.expr),
    }


def annotations(given: Mapping[str, str]) -> dict[str, str]:
    """Annotations under names that every Alertmanager accepts; where two become one, the unchanged name wins.

    Before version 0.27 a `-` in a name made it answer 400, and a value that is no string cost the whole batch.
    """
    named = {_FOREIGN.sub("_", name): str(value) for name, value in given.items()}
    named.update((name, str(value)) for name, value in given.items() if name in named)
    return {f"_{name}" if not name or name[0].isdigit() else name: value for name, value in named.items()}


@lru_cache(maxsize=64)
def generator_url(external_url: str, expr: str) -> str:
    """Where a person sees the expression: the path and the escaping (Go's url.QueryEscape) of Prometheus."""
    return f"{external_url.rstrip('/')}/graph?g0.expr={quote_plus(expr, errors='replace')}&g0.tab=1"


def rfc3339(at: float) -> str:
    """Unix time as RFC 3339 in UTC with milliseconds: `2026-11-20T09:12:07.730Z`."""
    milliseconds = round(at * 1000)
    moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
