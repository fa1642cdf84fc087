"""One incident: a target that needs cleaning up, from its first alert until it has been well for a while. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any

from sidecar.actions.facts import SENTENCES, Gate, Reason, Subject
from sidecar.actions.ladder import cap
from sidecar.actions.options import STRENGTH, Options

LEVELS: Mapping[str, int] = MappingProxyType({"preventive": 0, "main": 1, "critical": 2})
MOST_LINES = 32


@dataclass(frozen=True, slots=True)
class Incident:
    """What has been tried for a target and what comes next. Times are Unix seconds.

    `level` is the highest that was seen, `lines` the line in bytes of each alert that it was opened for (None: it has
    none of used bytes). `step` is how far up the ladder it has come, in STRENGTH; `tries` are the attempts by cleanup
    that helped and left an alert's condition true, `strikes` those that did not help, `attempts` all that were
    delivered. `looking` names a cleanup that helped, until it is known whether the condition still holds.
    `parked` is why nothing more is done, `parked_at` the strongest cleanup (in STRENGTH) that was allowed then.
    `well_since`: no condition is true, and used bytes are under the exit line. `dry`: everything is rehearsed.
    """

    id: str
    target: str
    opened_at: float
    dry: bool = False
    baseline: bool = False
    level: str = ""
    lines: Mapping[str, float | None] = field(default_factory=dict)
    step: int = 0
    attempts: int = 0
    tries: Mapping[str, int] = field(default_factory=dict)
    strikes: Mapping[str, int] = field(default_factory=dict)
    looking: str = ""
    parked: str = ""
    parked_at: int = -1
    well_since: float | None = None
    ended_at: float | None = None
    why: str = ""

    def holds(self, strength: int) -> bool:
        """Whether it is parked for good where nothing stronger than this is allowed."""
        return bool(self.parked) and self.parked != Reason.NO_CHANNEL and strength <= self.parked_at

    def seen(self, gates: Sequence[Gate], options: Options) -> "Incident":
        """With the gates of this moment, open and closed: levels and lines, the step after what helped, the cap."""
        ripe = [gate for gate in gates if gate.open and gate.ripe]
        lines = {_alert(gate): gate.line_bytes for gate in gates if gate in ripe or _alert(gate) in self.lines}
        level = max([self.level, *(gate.level for gate in ripe)], key=lambda name: LEVELS.get(name, -1))
        kept = dict(list({**self.lines, **lines}.items())[:MOST_LINES])
        made = replace(self, lines=kept, level=level)
        allowed = cap(ripe, options)
        if self.looking:
            made = made._helped(self.looking, options, still=bool(ripe) and allowed >= STRENGTH[self.looking])
        return made.unparked() if made.parked and allowed > made.parked_at and made.parked_at >= 0 else made

    def _helped(self, cleanup: str, options: Options, *, still: bool) -> "Incident":
        if not still:  # what a cleanup brings under the line is no load that stands above it
            return replace(self, looking="", tries={}, baseline=False)
        tries = self.tries.get(cleanup, 0) + 1
        patient = tries < next(many for name, many in options.escalate_after.items() if name == cleanup)
        return replace(self, looking="", tries={**self.tries, cleanup: tries},
                       step=self.step if patient else max(self.step, STRENGTH[cleanup] + 1))

    def judged(self, cleanup: str, outcome: str) -> "Incident":
        """An attempt that was delivered has ended. Missing data is no reason to ask for more."""
        made = replace(self, attempts=self.attempts + 1)
        if outcome == "effective":
            return replace(made, looking=cleanup)
        if outcome in ("ineffective", "partial", "dry_run"):
            return replace(made._struck(cleanup), step=max(self.step, STRENGTH[cleanup] + 1))
        return made

    def rebounded(self, cleanup: str) -> "Incident":
        """What a cleanup had freed has come back."""
        return self._struck(cleanup)

    def _struck(self, cleanup: str) -> "Incident":
        return replace(self, strikes={**self.strikes, cleanup: self.strikes.get(cleanup, 0) + 1})

    def park(self, reason: Reason, strength: int) -> "Incident":
        """Do nothing more, while nothing stronger than `strength` is allowed."""
        return replace(self, parked=reason.value, parked_at=strength)

    def unparked(self) -> "Incident":
        """Go on."""
        return replace(self, parked="", parked_at=-1)

    def watched(self, subject: Subject, gates: Sequence[Gate], options: Options, now: float) -> "Incident":
        """Whether it is well now, and has been for long enough for the incident to end.

        A value that stays between the exit line and the line, or crosses them again and again, makes one incident.
        """
        if not self._well(subject, gates, options):
            return replace(self, well_since=None) if self.well_since is not None else self
        since = now if self.well_since is None else min(self.well_since, now)
        if now - since >= options.exit_for_seconds:
            return self.ended(now, "well")
        return replace(self, well_since=since) if since != self.well_since else self

    def _well(self, subject: Subject, gates: Sequence[Gate], options: Options) -> bool:
        if any(gate.open for gate in gates) or not (subject.up and subject.fresh):
            return False
        lines = [line for line in self.lines.values() if line is not None]
        if not lines:
            return True
        return subject.used_bytes is not None and subject.used_bytes <= options.verification.exit_ratio * min(lines)

    def ended(self, now: float, why: str) -> "Incident":
        """It is over: `well`, `target_gone`, `target_changed`, `target_replaced`, or `mode_changed`."""
        return replace(self, ended_at=now, why=why)

    def as_json(self) -> dict[str, Any]:
        """As people see it."""
        message = f"It is over: {self.why}." if self.ended_at is not None else "It goes on."
        if self.parked and self.ended_at is None:
            message = SENTENCES[Reason(self.parked)]
        return {"id": self.id, "target": self.target, "level": self.level, "opened_at": self.opened_at,
                "ended_at": self.ended_at, "why": self.why, "attempts": self.attempts, "strikes": dict(self.strikes),
                "parked": self.parked, "dry_run": self.dry, "message": message}

    def as_record(self) -> dict[str, Any]:
        """As plain JSON, all of it."""
        return asdict(self)

    @classmethod
    def of_record(cls, body: Mapping[str, Any]) -> "Incident":
        """From plain JSON. Raises KeyError, TypeError or ValueError for what is none."""
        if body["parked"]:
            Reason(body["parked"])
        return cls(
            str(body["id"]), str(body["target"]), float(body["opened_at"]), bool(body["dry"]), bool(body["baseline"]),
            str(body["level"]),
            {str(name): None if line is None else float(line) for name, line in dict(body["lines"]).items()},
            int(body["step"]), int(body["attempts"]), _counts(body["tries"]), _counts(body["strikes"]),
            body["looking"] if body["looking"] in STRENGTH else "", str(body["parked"]), int(body["parked_at"]),
            _moment(body["well_since"]), _moment(body["ended_at"]), str(body["why"]))


def _counts(raw: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in dict(raw).items() if name in STRENGTH}


def _moment(raw: Any) -> float | None:
    return None if raw is None else float(raw)


def _alert(gate: Gate) -> str:
    """What tells the alerts of one target apart."""
    return f"{gate.labels.get('alertname', '')}/{gate.level}"
