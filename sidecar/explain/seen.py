"""What an API says, as values: rules from /api/v1/rules, results from /api/v1/query. Nothing of it is trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sidecar.errors import SidecarError
from sidecar.model import Labels
from sidecar.promql.values import Point

Result = float | str | list[Point]
"""A number, a string or a vector."""


@dataclass(frozen=True, slots=True)
class SeenAlert:
    """One pending or firing alert. Times are Unix seconds; `keep_since` is None while its condition is true."""

    labels: Labels
    state: str
    active_at: float
    keep_since: float | None
    value: float


@dataclass(frozen=True, slots=True)
class SeenRule:
    """One alerting rule. `evaluated_at` is Unix seconds, None before the first evaluation."""

    name: str
    group: str
    file: str
    interval_seconds: float
    state: str
    query: str
    for_seconds: float
    keep_seconds: float
    labels: Mapping[str, str]
    alerts: tuple[SeenAlert, ...]
    health: str
    error: str
    evaluated_at: float | None


def rules(data: Any) -> list[SeenRule]:
    """The alerting rules of the `data` of /api/v1/rules. SidecarError if it is not what Prometheus answers."""
    try:
        return [_rule(rule, group) for group in data["groups"] for rule in group["rules"]
                if rule["type"] == "alerting"]
    except (KeyError, TypeError, ValueError) as error:
        raise _odd("/api/v1/rules", error) from None


def parked(data: Any) -> Mapping[str, str]:
    """Target → why nothing more is tried, of the `data` of /api/v1/actions. SidecarError if it is none."""
    try:
        return {str(row["target"]): str(row["parked"]) for row in data["incidents"]
                if row["parked"] and row["ended_at"] is None}
    except (KeyError, TypeError) as error:
        raise _odd("/api/v1/actions", error) from None


def rests(data: Any) -> Mapping[str, float]:
    """Target → until when (Unix time) it rests, of the `data` of /api/v1/actions. SidecarError if it is none.

    A sidecar of an earlier version does not say it.
    """
    try:
        return {str(row["target"]): float(row["until"]) for row in data["decisions"] if row.get("until") is not None}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _odd("/api/v1/actions", error) from None


def result(data: Any) -> Result:
    """The value of the `data` of /api/v1/query. SidecarError for anything but a number, a string or a vector."""
    try:
        kind, found = data["resultType"], data["result"]
        if kind == "vector":
            return [Point(labels(each["metric"]), float(each["value"][1])) for each in found if "value" in each]
        if kind == "scalar":
            return float(found[1])
        if kind == "string":
            return str(found[1])
        raise ValueError(f"a result of type {kind}")
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise _odd("/api/v1/query", error) from None


def labels(given: Any) -> Labels:
    """A set of labels, printable. TypeError or AttributeError for anything else."""
    return Labels({printable(name): printable(value) for name, value in given.items()})


def printable(text: object) -> str:
    """Text that no terminal takes for a command: what is not printable is written as an escape."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def moment(text: str) -> float | None:
    """Unix seconds of an RFC 3339 time; None for Go's zero time, which is never. ValueError."""
    if text.startswith("0001-01-01"):
        return None
    return datetime.fromisoformat(text).timestamp()


def _rule(rule: Mapping[str, Any], group: Mapping[str, Any]) -> SeenRule:
    return SeenRule(
        printable(rule["name"]), printable(group["name"]), printable(group["file"]), float(group["interval"]),
        printable(rule["state"]),
        str(rule["query"]), float(rule["duration"]), float(rule.get("keepFiringFor", 0)),
        dict(labels(rule.get("labels", {}))), tuple(map(_alert, rule.get("alerts") or ())),
        printable(rule["health"]), printable(rule.get("lastError", "")), moment(rule["lastEvaluation"]))


def _alert(alert: Mapping[str, Any]) -> SeenAlert:
    kept = alert.get("keepFiringSince")
    return SeenAlert(labels(alert["labels"]), printable(alert["state"]), moment(alert["activeAt"]) or 0.0,
                     None if kept is None else moment(kept), float(alert["value"]))


def _odd(path: str, error: Exception) -> SidecarError:
    return SidecarError(f"what {path} answers is not what Prometheus's API answers: {type(error).__name__}: {error}",
                        help="--url has to lead to a rag-sidecar or a Prometheus")


def targets(points: Sequence[Point]) -> set[str]:
    """The values of the label `target`."""
    return {point.labels["target"] for point in points if "target" in point.labels}
