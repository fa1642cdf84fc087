"""What an Alertmanager posts (webhook, version 4), as wishes for cleanups. Pure, and wary: anybody may label alerts.

Source: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from sidecar.actions.options import STRENGTH
from sidecar.model import Cleanup
from sidecar.web.hands import Asked, Hands

VERSION = "4"
TTL_SECONDS = 60.0
"""For how long a wish is good. Alertmanager does not tell when an alert that fires will be over."""
MOST_TTL_SECONDS = 300.0
MOST_ALERTS = 100
"""How many alerts of a message are looked at."""
KEPT_LABELS = ("alertname", "severity", "level", "cleanup", "target", "job", "instance")
MOST_CHARACTERS = 200

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_NEVER = "0001-01-01"

Dropped = dict[str, Any]


def read(message: Any, hands: Hands) -> tuple[list[tuple[str, Asked]], list[Dropped]]:
    """The wishes of a message, each with the fingerprint of its alert, and the alerts that are none, with the reason.

    An alert asks for a cleanup if it fires and has the label `target`, of one of ours, and `cleanup`, or `level`: then
    the policy of that level says which. Our own alerts are told by their generatorURL. Raises ValueError for what is no
    such message.
    """
    if not isinstance(message, dict) or not isinstance(message.get("alerts"), list):
        raise ValueError("an object with a list of alerts is expected")
    if message.get("version") != VERSION:
        raise ValueError(f"version {VERSION} is expected")
    wishes: list[tuple[str, Asked]] = []
    dropped: list[Dropped] = []
    for number, alert in enumerate(message["alerts"]):
        found = _wish(alert, hands) if number < MOST_ALERTS else "too_many"
        fingerprint = _text(alert.get("fingerprint")) if isinstance(alert, dict) else ""
        if isinstance(found, str):
            dropped.append({"fingerprint": fingerprint, "reason": found})
        else:
            wishes.append((fingerprint, found))
    return wishes, dropped


def _wish(alert: Any, hands: Hands) -> Asked | str:
    """What one alert asks for, or why nothing."""
    labels = alert.get("labels") if isinstance(alert, dict) else None
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        return "malformed"
    if str(alert.get("generatorURL")).startswith(f"{hands.external_url.rstrip('/')}/"):
        return "our_own"
    if alert.get("status") != "firing":
        return "not_firing"
    cleanup = labels.get("cleanup") or hands.levels.get(labels.get("level", ""))
    if not cleanup:
        return "no_cleanup"
    if cleanup not in STRENGTH:
        return "unknown_cleanup"
    if labels.get("target") not in hands.targets:
        return "unknown_target"
    ttl_seconds = _good_for(alert, hands.now())
    if ttl_seconds <= 0:
        return "not_now"
    kept = {name: _text(labels[name]) for name in KEPT_LABELS if name in labels}
    return Asked(labels["target"], cast(Cleanup, cleanup), "webhook", ttl_seconds, kept)


def _good_for(alert: Mapping[str, Any], now: float) -> float:
    """Seconds from now until the alert is over; none if it is, or if it has not begun."""
    begins, ends = (_moment(alert.get(name)) for name in ("startsAt", "endsAt"))
    if begins is not None and begins > now + TTL_SECONDS:
        return 0.0
    return TTL_SECONDS if ends is None else min(ends - now, MOST_TTL_SECONDS)


def _moment(text: Any) -> float | None:
    """Unix seconds of an RFC 3339 time; None where there is none, as Go's zero time says, too."""
    found = _MOMENT.fullmatch(text) if isinstance(text, str) and not text.startswith(_NEVER) else None
    try:
        return datetime.fromisoformat("".join(found.groups())).timestamp() if found else None
    except (ValueError, OverflowError):
        return None


def _text(value: Any) -> str:
    """At most so much of a foreign text."""
    return value[:MOST_CHARACTERS].encode("utf-8", "replace").decode() if isinstance(value, str) else ""

