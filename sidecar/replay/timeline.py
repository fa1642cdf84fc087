"""What people read of a replay: one line for each thing that happened, and a summary. Read off what the desk shows."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sidecar.explain.units import readable
from sidecar.model import Labels
from sidecar.web.view import Snapshot

PASSING = frozenset({"in_flight", "settling", "standing_order", "alert_pending", "parked",
                     "never_helps", "budget_spent", "baseline_above_threshold"})
"""Reasons for doing nothing that say no more than the lines around them."""
HELD, PARKED, INCIDENT = "rag_action_held", "rag_actions_parked", "rag_incident_open"


class Line(NamedTuple):
    """One thing that happened. `detail` is plain JSON; `at` is Unix time."""

    at: float
    target: str
    kind: str
    what: str
    detail: Mapping[str, Any]

    def as_json(self, start: float) -> dict[str, Any]:
        """For programs: `offset` are the seconds since the replay began."""
        return {"at": self.at, "offset": round(self.at - start, 3), "target": self.target, "kind": self.kind,
                "what": self.what, **self.detail}

    def as_text(self, start: float) -> str:
        """For people, in one line."""
        return f"{clock(self.at - start)}  {self.target:12}  {self.kind:8}  {self.what}"


def _bytes(size_bytes: float) -> str:
    return readable(size_bytes, "bytes")


def clock(seconds: float) -> str:
    """`1:02:03.4`: hours, minutes, seconds and tenths."""
    tenths = round(seconds * 10)
    return f"{tenths // 36000:3}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"


@dataclass(slots=True)
class Summary:
    """What it came to, by target."""

    outcomes: defaultdict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: defaultdict(Counter))
    freed_bytes: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    alerts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    incidents: Counter[str] = field(default_factory=Counter)
    seconds_parked: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    seconds_over: dict[tuple[str, str], float] = field(default_factory=dict)
    peak_bytes: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs: by target."""
        return {target: {
            "cleanups": [{"cleanup": cleanup, "outcome": outcome, "count": count}
                         for (cleanup, outcome), count in sorted(self.outcomes[target].items())],
            "freed_bytes": round(self.freed_bytes[target]), "alerts": dict(sorted(self.alerts[target].items())),
            "incidents": self.incidents[target], "seconds_parked": self.seconds_parked[target],
            "seconds_over": {level: self.seconds_over.get((target, level), 0.0) for level in ("main", "critical")},
            "peak_bytes": self.peak_bytes[target],
        } for target in sorted(self.peak_bytes)}

    def as_text(self) -> str:
        """For people."""
        return "\n".join(line for target in sorted(self.peak_bytes) for line in self._of(target))

    def _of(self, target: str) -> Iterator[str]:
        over = {level: self.seconds_over.get((target, level), 0.0) for level in ("main", "critical")}
        yield f"{target}: at most {_bytes(self.peak_bytes[target])}; " + ", ".join(
            f"over {level} {seconds:g} s" for level, seconds in over.items())
        told = ", ".join(f"{name} {count}" for name, count in sorted(self.alerts[target].items()))
        yield f"  alerts     {told or 'none'}"
        done = ", ".join(f"{cleanup} {outcome} {count}"
                         for (cleanup, outcome), count in sorted(self.outcomes[target].items()))
        yield f"  cleanups   {done or 'none'}; freed {_bytes(self.freed_bytes[target])}"
        if self.incidents[target] or self.seconds_parked[target]:
            yield f"  incidents  {self.incidents[target]}; parked {self.seconds_parked[target]:g} s"


class Timeline:
    """Reads off, after each tick, what is new. Lives as long as a replay."""

    def __init__(self) -> None:
        self.summary = Summary()
        self._alerts: dict[Labels, str] = {}
        self._actions: dict[str, tuple[Any, ...]] = {}
        self._gauges: dict[tuple[str, str], str] = {}

    def read(self, shown: Snapshot, now: float, seconds: float) -> list[Line]:
        """What has happened since the last time, `seconds` ago, in the order of time."""
        found = [*self._alerts_of(shown, now), *self._actions_of(shown, now), *self._gauges_of(shown, now, seconds)]
        self._note(shown, seconds)
        return sorted(found, key=lambda line: line.at)

    def _note(self, shown: Snapshot, seconds: float) -> None:
        for target in shown.targets:
            used, summary = target.used_bytes or 0.0, self.summary
            summary.peak_bytes[target.name] = max(used, summary.peak_bytes.get(target.name, 0.0))
            for level, line in (("main", target.main_bytes), ("critical", target.critical_bytes)):
                if line is not None and used > line:
                    key = target.name, level
                    summary.seconds_over[key] = summary.seconds_over.get(key, 0.0) + seconds

    def _alerts_of(self, shown: Snapshot, now: float) -> Iterator[Line]:
        active = {alert.labels: alert for alert in shown.alerts if alert.state != "inactive"}
        for labels, alert in active.items():
            if self._alerts.get(labels) != alert.state:
                target, name = labels.get("target", ""), alert.name
                self.summary.alerts[target][name] += alert.state == "firing"
                yield Line(now, target, "alert", f"{name} {alert.state}",
                           {"alert": dict(labels), "state": alert.state, "value": alert.value})
        for labels, state in self._alerts.items():
            if labels not in active:
                ended = "resolved" if state == "firing" else "cleared"
                yield Line(now, labels.get("target", ""), "alert", f"{labels['alertname']} {ended}",
                           {"alert": dict(labels), "state": ended})
        self._alerts = {labels: alert.state for labels, alert in active.items()}

    def _actions_of(self, shown: Snapshot, now: float) -> Iterator[Line]:
        known, self._actions = self._actions, {}
        for action in shown.actions:
            name, state = action["id"], (action["outcome"], action["rebounded"])
            self._actions[name] = state
            if (before := known.get(name)) == state:
                continue
            if before is None:
                yield Line(action["started_at"], action["target"], "cleanup", _asked(action), {"action": dict(action)})
            if state[0] != "running" and (before is None or before[0] == "running"):
                self.summary.outcomes[action["target"]][action["cleanup"], action["outcome"]] += 1
                self.summary.freed_bytes[action["target"]] += max(0.0, action["freed_bytes"] or 0.0)
                yield Line(action["ended_at"] or now, action["target"], "cleanup", _ended(action),
                           {"action": dict(action)})
            elif state[1]:
                yield Line(now, action["target"], "cleanup", f"{action['cleanup']}: what it freed has come back",
                           {"action": dict(action)})

    def _gauges_of(self, shown: Snapshot, now: float, seconds: float) -> Iterator[Line]:
        """Why nothing is done, incidents, and where no way is left."""
        found: dict[tuple[str, str], str] = {}
        parked = {row["target"]: row["parked"] for row in shown.incidents if row["ended_at"] is None}
        for family in shown.families:
            if family.metric.name in (HELD, PARKED, INCIDENT):
                for sample in family.samples:
                    metric, target = sample.labels.metric, sample.labels["target"]
                    reason = sample.labels.get("reason", "open")
                    if sample.value and reason not in PASSING:
                        found[metric, target] = parked.get(target, reason) if metric == PARKED else reason
        for (metric, target), reason in found.items():
            if metric == PARKED:
                self.summary.seconds_parked[target] += seconds
            if self._gauges.get((metric, target)) != reason:
                self.summary.incidents[target] += metric == INCIDENT
                kind, what = {HELD: ("waits", reason), PARKED: ("parked", f"{reason}: nothing more is done"),
                              INCIDENT: ("incident", "opened")}[metric]
                yield Line(now, target, kind, what, {"reason": reason})
        for metric, target in self._gauges.keys() - found.keys():
            if metric != HELD:
                yield Line(now, target, "incident" if metric == INCIDENT else "parked", "ended", {})
        self._gauges = found


def _asked(action: Mapping[str, Any]) -> str:
    alert = action["alert"].get("alertname", action["trigger"])
    over = f" over {_bytes(action['line_bytes'])}" if action["line_bytes"] is not None else ""
    return f"{action['cleanup']} asked for: {alert}, {_bytes(action['before_bytes'])}{over}"


def _ended(action: Mapping[str, Any]) -> str:
    reason = f" ({action['reason']})" if action["reason"] else ""
    freed = f": freed {_bytes(action['freed_bytes'])}" if action["freed_bytes"] is not None else ""
    return f"{action['cleanup']} {action['outcome']}{reason}{freed}"
