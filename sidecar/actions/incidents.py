"""The incidents of all targets: what opens them, what moves them on, and what ends them."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from sidecar.actions.attempt import BY_RULE, Attempt
from sidecar.actions.facts import Gate, Reason, Subject
from sidecar.actions.incident import Incident
from sidecar.actions.ladder import NEVER_DELIVERED
from sidecar.actions.lives import Lives, Row
from sidecar.actions.options import Options
from sidecar.actions.register import Register
from sidecar.model import Labels, Metric, Sample, series
from sidecar.said import Said

log = logging.getLogger("sidecar.actions")

OPEN = Metric("rag_incident_open", "gauge", "1 while the target has an incident: it needs cleaning up, or did lately.")
PARKED = Metric("rag_actions_parked", "gauge", "1 while nothing more is tried until the incident ends.")
METRICS = (OPEN, PARKED)


class Incidents:
    """One incident at most for each target. Written by the tick only; lives as long as the desk."""

    def __init__(self) -> None:
        self.lives = Lives()
        self.kept = Register()
        self._said = Said()

    def current(self, target: str) -> Incident | None:
        """The incident that a target has now."""
        return self.kept.open.get(target)

    def update(self, subject: Subject, gates: Sequence[Gate], options: Options, now: float) -> None:
        """See a target with its gates, open and closed: its incident begins, goes on or ends."""
        if self.lives.meet(subject, now):
            self._end(subject.name, now, "target_replaced")
        self.lives.look(subject, gates)
        incident = self.kept.open.get(subject.name)
        if incident and incident.dry != subject.dry:
            self._end(subject.name, now, "mode_changed")
            self.kept.put(replace(self._begin(subject.name, now, dry=subject.dry), baseline=incident.baseline,
                              level=incident.level, lines=incident.lines))
            incident = self.kept.open[subject.name]
        if incident is None and subject.up and subject.fresh and any(gate.open and gate.ripe for gate in gates):
            incident = self._begin(subject.name, now, dry=subject.dry)
        if incident is not None:
            self.kept.put(incident.seen(gates, options).watched(subject, gates, options, now))

    def _begin(self, target: str, at: float, *, dry: bool) -> Incident:
        made = Incident(f"{target}.{int(at * 1000)}", target, at, dry=dry, baseline=self.lives.baseline(target))
        log.info("incident begins", extra={"target": target, "id": made.id})
        return made

    def _end(self, target: str, at: float, why: str) -> None:
        incident = self.kept.open.get(target)
        if incident:
            self.kept.put(incident.ended(at, why))

    def begun(self, attempt: Attempt) -> str:
        """An attempt has begun: the id of the incident that it is part of, empty for none.

        A line that the guard saw crossed opens one at that moment, even if used bytes have fallen again since.
        """
        incident = self.kept.open.get(attempt.target)
        if incident is None and attempt.trigger == BY_RULE:
            name, level = attempt.labels.get("alertname", ""), attempt.labels.get("level", "")
            incident = replace(self._begin(attempt.target, attempt.started_at, dry=attempt.dry_run), level=level,
                               lines={f"{name}/{level}": attempt.line_bytes})
            self.kept.put(incident)
        return incident.id if incident else ""

    def judged(self, attempt: Attempt, options: Options, now: float) -> None:
        """An attempt has ended. What nobody asked for because of its memory teaches nothing."""
        if attempt.trigger in ("manual", "periodic") or attempt.outcome in NEVER_DELIVERED or not attempt.outcome:
            return
        life = self.lives.get(attempt.target)
        if attempt.outcome in ("ineffective", "partial", "dry_run") and life and attempt.started_at >= life.since:
            self.lives.learn(attempt.target, attempt.cleanup, options, now, dry=attempt.dry_run, helped=False)
        incident = self.kept.open.get(attempt.target)
        if incident and incident.id == attempt.incident:
            self.kept.put(incident.judged(attempt.cleanup, attempt.outcome))

    def rebounded(self, attempt: Attempt, options: Options, now: float) -> None:
        """What an attempt freed has come back within the rebound time, or has not."""
        if attempt.trigger in ("manual", "periodic") or attempt.outcome != "effective":
            return
        back = attempt.rebounded is True
        self.lives.learn(attempt.target, attempt.cleanup, options, now, dry=attempt.dry_run, helped=not back)
        incident = self.kept.open.get(attempt.target)
        if back and incident and incident.id == attempt.incident:
            self.kept.put(incident.rebounded(attempt.cleanup))

    def park(self, target: str, reason: Reason, strength: int) -> None:
        """Nothing more is to be tried, while nothing stronger than `strength` is allowed."""
        incident = self.kept.open.get(target)
        if incident and (incident.parked, incident.parked_at) != (reason.value, strength):
            self.kept.put(incident.park(reason, strength))
            log.warning("parked", extra={"target": target, "reason": reason.value, "id": incident.id})

    def unpark(self, target: str, *, forgive: bool = False) -> bool:
        """Go on, with a person's wish (`forgive`) as if nothing had been learnt. False if it was not parked."""
        incident = self.kept.open.get(target)
        if forgive:
            self.lives.forgive(target)
        if incident is None or not (incident.parked or (forgive and incident.baseline)):
            return False
        made = incident.unparked()
        self.kept.put(replace(made, baseline=False, step=0, tries={}, strikes={}) if forgive else made)
        log.info("unparked", extra={"target": target, "id": incident.id})
        return True

    def end_life(self, target: str, at: float, why: str) -> None:
        """The process has ended or is another program now, and its incident is over."""
        if self.lives.forget(target, at):
            self._end(target, at, why)

    def keep(self, targets: Collection[str], now: float) -> None:
        """End the incidents of all others: they are not configured any more."""
        for target in [each for each in self.kept.open if each not in targets]:
            self._end(target, now, "target_unknown")

    def samples(self, bases: Mapping[str, Labels], at: float, spared: Collection[str] = ()) -> list[Sample]:
        """For each target whose base labels are given: has it an incident, is it parked; for `spared` see `Said`."""
        found = []
        for target, base in bases.items():
            incident = self.kept.open.get(target)
            facts = incident is not None, bool(incident and incident.parked)
            found += self._said.of(base, facts, at, spared, partial(_told, base, facts, at))
        self._said.keep(bases)
        return found

    def drain(self) -> list[Row]:
        """What has changed since the last call."""
        return self.kept.drain()

    def restore(self, rows: Sequence[Row], now: float) -> None:
        """Go on at Unix time `now` with what a desk before this one has told, oldest first."""
        self.kept.restore(rows)


def _told(base: Labels, facts: tuple[bool, bool], at: float) -> list[Sample]:
    return [Sample(series(base, metric.name), float(fact), at) for metric, fact in zip(METRICS, facts, strict=True)]
