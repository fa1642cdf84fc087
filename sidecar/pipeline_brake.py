"""The brake as the desk sees it: which cgroups the guard may hold, what has come of it, and why it cannot be."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePath

from sidecar.actions.dispatch import Dispatch
from sidecar.guard.wire import Event
from sidecar.model import Labels, Metric, Sample, series
from sidecar.probes.sampler import CAPABILITY, Sampler

log = logging.getLogger("sidecar")

ENGAGED = Metric("rag_brake_engaged", "gauge", "1 while the target would be held, not killed, at its limit.")
HOLDS = Metric("rag_brake_holds_total", "counter", "Times the target was held at its limit, by what came of it.")
HELD = Metric("rag_brake_held_seconds_total", "counter",
              "Time from when the target was held until its limit was what it had been.")
METRICS = (ENGAGED, HOLDS, HELD)

OUTCOMES = ("returned", "called_in", "killed", "refused", "let_go", "unanswered")

Loan = tuple[int, float]
"""Bytes beyond the limit, and the seconds for which they are lent."""


class Braking:
    """Lives as long as the desk. What is held at the moment is the guard's to decide, by the orders that stand."""

    def __init__(self) -> None:
        self._wished: dict[str, tuple[str, Loan]] = {}
        self._states: dict[str, str] = {}
        self._why: dict[str, str] = {}
        self._ended: dict[str, Counter[str]] = {}
        self._held_seconds: dict[str, float] = {}

    def follow(self, loans: Mapping[str, Loan], sampler: Sampler, dispatch: Dispatch) -> None:
        """Have the guard know the cgroups of these targets whose limit binds them, and no others."""
        for target in self._wished.keys() | loans.keys():
            attached, loan = sampler.attached(target), loans.get(target)
            cgroup = attached.cgroup if attached else None
            folder = str(PurePath(cgroup.basis.usage).parent) if cgroup and cgroup.limit_bytes else ""
            if folder.startswith("/proc/"):
                folder = ""  # the target shows it, we do not see it: nothing is written there
            if attached and not folder:
                self._note(target, "off", "its cgroup cannot be seen from here, or has no limit")
            wish = (folder, loan) if folder and loan else None
            if self._wished.get(target) == wish:
                continue
            size, seconds = loan or (0, 0.0)
            if dispatch.brake("brake", target=target, folder=folder if wish else "", loan_bytes=size,
                              hold_seconds=seconds):
                self._wished.pop(target, None)
                if wish:
                    self._wished[target] = wish
        for target in self._ended.keys() - loans.keys():
            self._ended.pop(target), self._held_seconds.pop(target, None), self._states.pop(target, None)
            self._why.pop(target, None)
        for target in loans:
            self._ended.setdefault(target, Counter(dict.fromkeys(OUTCOMES, 0)))

    def take_in(self, event: Event) -> None:
        """What the guard tells of a brake."""
        target, state, reason = event.target, str(event.detail["state"]), str(event.detail.get("reason", ""))
        if state == "returned":
            outcome, seconds = str(event.detail["outcome"]), float(event.detail["held_seconds"])
            self._ended.setdefault(target, Counter(dict.fromkeys(OUTCOMES, 0)))[outcome] += 1
            self._held_seconds[target] = self._held_seconds.get(target, 0.0) + seconds
            log.warning("brake released", extra={"target": target, "outcome": outcome, "held_seconds": seconds})
            return
        self._note(target, state, reason)

    def _note(self, target: str, state: str, reason: str) -> None:
        """Say what has changed, once."""
        before, self._states[target] = self._states.get(target), state
        if reason and self._why.get(target) == reason:
            return
        self._why[target] = reason
        if reason:
            log.warning("no brake", extra={"target": target, "reason": reason,
                                           "help": "docs/brake.md says what it takes; the rest goes on without"})
        elif state == "held":
            log.warning("brake: held at the limit", extra={"target": target})
        elif state == "engaged" and before is None:
            log.info("brake engaged", extra={"target": target})

    def samples(self, bases: Mapping[str, Labels], at: float) -> list[Sample]:
        """The figures of the targets that are to be braked."""
        found = []
        for target, ended in self._ended.items():
            if (base := bases.get(target)) is None:
                continue
            engaged = float(self._states.get(target, "off") != "off")
            found += [Sample(series(base, ENGAGED.name), engaged, at),
                      Sample(series(base, HELD.name), self._held_seconds.get(target, 0.0), at),
                      Sample(series(base, CAPABILITY.name, "capability", "brake"), engaged, at)]
            found += [Sample(series(base, HOLDS.name, "outcome", outcome), count, at)
                      for outcome, count in ended.items()]
        return found
