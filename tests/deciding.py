"""The machine that acts, beside a guard that is played: what tests of it in virtual time share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from sidecar.actions.acting import Acting
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.facts import Armed, Gate, Reason, Subject
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Options
from sidecar.actions.options import Policy as Cap
from sidecar.actions.policy import Policy
from sidecar.actions.standing import Standing
from sidecar.actions.verify import Reading
from sidecar.guard.wire import Channel, Event, Order
from sidecar.model import Cleanup, Labels
from sidecar.promql.steps import finish

MIB = 1 << 20
NOW = 1_000_000.0
USR1 = Channel("signal", signal=10)
LIFE = "boot/1:2", 42, 1000
LINES = {"preventive": 800.0, "main": 1000.0, "critical": 1200.0}
WANTED: Mapping[str, Cleanup] = {"preventive": "light", "main": "standard", "critical": "aggressive"}
HOLDS = {"preventive": 30.0, "main": 10.0, "critical": 0.0}
CLIMBING = Options(policies={"main": Cap("standard", "aggressive")})
RAG = Subject("rag", up=True, fresh=True, armed=True, age_seconds=3600.0, mode="enforce", life=LIFE,
              channels={"light": (USR1,), "standard": (USR1,), "aggressive": (USR1,)})


class Guard:
    """Stands in for the desk's end of the line: carries out at once what it is told. Outlives desks."""

    def __init__(self, frees: Mapping[str, float], answers: str = "answered") -> None:
        self.frees = frees
        self.answers = answers
        self.used = 0.0
        self.now = NOW
        self.events: list[Event] = []
        self.told = 0
        self.delivered: list[tuple[float, str]] = []
        self.standing: dict[str, tuple[list[Armed], int]] = {}

    def tell(self, kind: str, order: str = "", **detail: Any) -> None:
        """Write an event down."""
        self.events.append(Event(len(self.events) + 1, self.now, kind, "rag", order, detail))

    def deliver(self, order: Order) -> bool:
        """Carry an order out, if its line is still crossed."""
        if not order.crossed(self.used):
            self.tell("recovered", order.id, used_bytes=self.used)
            return True
        attempt = f"{order.id}.{len(self.events)}"
        self.tell("crossed", attempt, cleanup=order.cleanup, labels=order.labels, used_bytes=self.used,
                  line_bytes=order.line_bytes, dry_run=order.dry_run)
        if order.dry_run:
            self.tell("answered", attempt, channel="signal", duration_seconds=0.0)
        elif self.answers == "answered":
            self.delivered.append((self.now, order.cleanup))
            self.tell("delivered", attempt, channel="signal", delivery_seconds=0.001)
            self.tell("answered", attempt, channel="signal", duration_seconds=0.1)
            self.used -= self.frees.get(order.cleanup, 0.0) * MIB
        else:
            self.tell("failed", attempt, channel="http", reason="http_503", retry_after_seconds=600.0)
            self.tell("spent", attempt)
        return True

    def untold(self, _: str) -> bool:
        """The desk hears everything before it judges."""
        return False

    def stand(self, target: str, armed: Sequence[Armed], _: float) -> None:
        """Put standing orders in force; how often one has been carried out is forgotten when it changes."""
        known, _ = self.standing.get(target, ([], 0))
        if list(armed) != known:
            self.standing[target] = list(armed), 0

    def look(self) -> None:
        """Carry out the standing orders whose lines are crossed."""
        armed, times = self.standing.get("rag", ([], 0))
        for each in armed:
            if each.not_before <= self.now and each.order.crossed(self.used) and times < each.order.times:
                self.standing["rag"] = armed, times + 1
                self.deliver(each.order)


class World:
    """A target that uses memory, its alerts, a guard and a desk. Lives as long as a test."""

    def __init__(self, options: Options | None = None, frees: Mapping[str, float] | None = None,
                 subject: Subject = RAG, answers: str = "answered") -> None:
        self.options = options or Options()
        self.subject = subject
        self.guard = Guard(frees or {}, answers)
        self.readings: list[Reading] = []
        self.over_since: dict[str, float] = {}
        self.reasons: list[Reason] = []
        self.others: list[Gate] = []
        self.kept: dict[str, dict[tuple[str, str], tuple[float, Mapping[str, Any]]]] = {}
        self._desk()

    def _desk(self) -> None:
        self.ledger = Ledger()
        self.acting = Acting(self.ledger, cast(Dispatch, self.guard), lambda _, start, end: [
            reading for reading in self.readings[-200:] if start < reading[0] <= end])
        self.standing = Standing(self.ledger, self.acting.incidents)

    def restart(self) -> None:
        """The desk is killed; what was written down and not yet done with at the guard is all that is left."""
        done = self.acting.done()
        self._desk()
        rows = {kind: [(key, stage, at, body) for (key, stage), (at, body) in found.items()]
                for kind, found in self.kept.items()}
        assert json.loads(json.dumps(rows, allow_nan=False))  # plain JSON, without infinities
        self.ledger.restore(rows["attempt"], self.guard.now)
        self.acting.incidents.restore(rows["incident"], self.guard.now)
        self.acting.restore_notes([(key, at, body) for key, _, at, body in rows["note"]])
        self.guard.told = done

    def note(self) -> None:
        """Write down what has changed, as a journal does."""
        attempts, incidents = self.kept.setdefault("attempt", {}), self.kept.setdefault("incident", {})
        for key, stage, at, body in self.ledger.drain():
            attempts.setdefault((key, stage), (at, body)) if stage != "rebound" else attempts.update(
                {(key, stage): (at, body)})
        incidents.update({(key, stage): (at, body) for key, stage, at, body in self.acting.incidents.drain()})
        self.kept.setdefault("note", {}).update(
            {(key, "state"): (at, body) for key, at, body in self.acting.drain_notes()})

    def gates(self) -> list[Gate]:
        """The alerts as the shipped rules have them."""
        found = []
        for level, line in LINES.items():
            is_open = self.guard.used > line * MIB
            since = self.over_since.setdefault(level, self.guard.now) if is_open else self.over_since.pop(level, 0.0)
            found.append(Gate(
                "rag", level, WANTED[level], {"alertname": level, "level": level}, open=is_open, inclusive=False,
                ripe=level == "critical" or (is_open and self.guard.now - since >= HOLDS[level]),
                standing=level == "critical", line_bytes=line * MIB))
        return found + self.others

    def tick(self, used: float | None = None, seconds: float = 1.0) -> Reason:
        """One second: the guard looks, the desk ticks. Used bytes (MiB) are set where they are given."""
        guard = self.guard
        guard.now += seconds
        if used is not None:
            guard.used = used * MIB
        guard.look()
        self.readings.append((guard.now, guard.used))
        policy = Policy(self.options, kill_switch=False)
        for event in guard.events[guard.told:]:
            self.acting.take_in(event, policy)
        guard.told = len(guard.events)
        self.acting.judge(policy, guard.now)
        subject = replace(self.subject, used_bytes=guard.used, paused="rag" in self.acting.paused)
        finish(self.acting.steps(policy, [subject], self.gates(), guard.now))
        self.standing.begin(policy, ["rag"], guard.now)
        anew = policy.stand(subject, self.gates(), self.ledger, self.acting.incidents, guard.now)
        assert self.standing.of(subject, self.gates()) == anew, "what is remembered is what would be found now"
        self.note()
        self.reasons.append(self.acting.decisions[0].reason)
        return self.reasons[-1]

    def run(self, seconds: int, used: float | None = None) -> None:
        """Many ticks; used bytes are set before the first one only."""
        for second in range(seconds):
            self.tick(used if second == 0 else None)

    def cleanups(self) -> list[str]:
        """What was delivered, in order."""
        return [cleanup for _, cleanup in self.guard.delivered]

    def incidents(self) -> list[dict[str, Any]]:
        """All incidents as people see them, oldest first."""
        return sorted(self.acting.explain()["incidents"], key=lambda each: float(each["opened_at"]))

    def gauges(self) -> dict[str, float]:
        """The gauges of incident and parking."""
        samples = self.acting.samples([self.subject], {"rag": Labels({"target": "rag"})}, self.guard.now)
        return {sample.labels.metric: sample.value for sample in samples if "reason" not in sample.labels}
