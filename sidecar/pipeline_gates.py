"""Between rules and policy: which alerts ask for a cleanup, and whether their own comparison is true right now."""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from sidecar.actions.facts import Gate
from sidecar.actions.options import STRENGTH
from sidecar.errors import QueryError
from sidecar.model import Alert, Cleanup, Labels
from sidecar.pipeline_families import USED
from sidecar.promql.evaluate import Query
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps
from sidecar.promql.tree import LOOKBACK_SECONDS, VectorSelector
from sidecar.promql.values import Matcher
from sidecar.rules.alerting import AlertingRule
from sidecar.rules.group import Group
from sidecar.rules.rule import as_vector
from sidecar.rules.source import Source, source_of
from sidecar.rules.standing import Standing, compared, unforeseeable
from sidecar.store import Store

log = logging.getLogger("sidecar")

USED_BYTES = (Matcher("__name__", "=", USED.name),)


class _Seen(NamedTuple):
    """What a selector gave: its series, and their values where these matter."""

    series: list[Labels]
    values: list[float]


@dataclass(slots=True)
class _Lined:
    """The gates of a rule as they were last, and what they follow from. Lives as long as the rules.

    `inputs` are the selectors that decide where the lines are, None where more than they does; `seen` is what they
    gave when the lines were last worked out, None before.
    """

    inputs: tuple[VectorSelector, ...] | None
    seen: list[_Seen] | None = None
    gates: list[Gate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Moment:
    """What all rules of a moment look at: the store, its used bytes by target, and the alerts that fire.

    `seen` remembers what selectors gave.
    """

    store: Store
    now: float
    used: Mapping[str, float]
    firing: Mapping[Labels, Alert]
    seen: dict[tuple[Matcher, ...], _Seen] = field(default_factory=dict)

    def select(self, selector: VectorSelector) -> _Seen:
        """What a selector gives."""
        found = self.seen.get(selector.matchers)
        if found is None:
            points = list(self.store.newest(selector.matchers, self.now - LOOKBACK_SECONDS, self.now))
            values = [point.value for point in points]
            if selector.name == USED.name and math.isfinite(sum(values)):
                values = []  # of used bytes nothing but that they are there decides where a line is
            found = self.seen[selector.matchers] = _Seen([point.labels for point in points], values)
        return found


class Gates:
    """The rules that ask for a cleanup. Lives as long as the desk.

    Those that compare used bytes with a line have a gate for each line, and those without a `for` stand as orders at
    the guard. Of all others, whatever they compare, the expression itself is the gate.
    """

    def __init__(self, groups: Sequence[Group], targets: Collection[str]) -> None:
        self.lined: list[tuple[Group, AlertingRule, Standing]] = []
        self._known: dict[AlertingRule, _Lined] = {}
        self._unlined: list[AlertingRule] = []
        self._targets = targets
        self._unread: set[str] = set()
        for group in groups:
            for rule in group.alerting_rules:
                gate = compared(rule)
                if isinstance(gate, Standing):
                    self.lined.append((group, rule, gate))
                    self._known[rule] = _Lined(gate.inputs())
                elif "cleanup" in rule.spec.labels:
                    self._take(rule)

    def _take(self, rule: AlertingRule) -> None:
        """A rule without a line: it can be read anew unless its labels, or the past that it looks at, forbid it."""
        reason = unforeseeable(rule)
        if reason:
            log.warning("rule asks for a cleanup that never comes", extra={"alert": rule.name, "reason": reason})
        else:
            self._unlined.append(rule)

    def steps(self, query: Query | Source, store: Store, alerts: Sequence[Alert], now: float) -> Steps[list[Gate]]:
        """The gates of this moment, of the targets that are configured: each comparison is read anew.

        Where the lines are is worked out anew when something that they follow from has changed.
        """
        found: list[Gate] = []
        firing = {alert.labels: alert for alert in alerts if alert.state == "firing" and alert.condition}
        used = {labels["target"]: value
                for labels, value in store.newest(USED_BYTES, now - LOOKBACK_SECONDS, now)}
        moment = _Moment(store, now, used, firing)
        for _, rule, gate in self.lined:
            try:
                found += yield from self._with_lines(rule, gate, query, moment)
            except QueryError as error:
                self._cannot_read(rule, error)
            else:
                self._unread.discard(rule.name)
            yield
        for rule in self._unlined:
            if not any(alert.state != "inactive" for alert in rule.alerts()):
                continue
            try:
                found += yield from self._without_lines(rule, query, firing, now)
            except QueryError as error:
                self._cannot_read(rule, error)
            else:
                self._unread.discard(rule.name)
            yield
        return found

    def _cannot_read(self, rule: AlertingRule, error: QueryError) -> None:
        if rule.name not in self._unread:
            log.warning("gate", extra={"alert": rule.name, "error": str(error)})
        self._unread.add(rule.name)

    def _ours(self, labels: Labels) -> bool:
        return labels.get("target", "") in self._targets and labels.get("cleanup", "") in STRENGTH

    def _with_lines(self, rule: AlertingRule, gate: Standing, query: Query | Source, moment: _Moment
                    ) -> Steps[list[Gate]]:
        """The line of each target, and whether used bytes are over it."""
        known, seen = self._known[rule], list[_Seen]()
        for selector in known.inputs or ():
            seen.append(moment.select(selector))
            yield
        if not known.inputs or known.seen != seen:
            lines, standing = (yield from gate.steps(query, moment.now)), not rule.spec.for_seconds
            known.gates = [Gate(
                line.labels["target"], line.labels.get("level", ""), cast(Cleanup, line.labels["cleanup"]), line.labels,
                open=False, ripe=standing, standing=standing, line_bytes=line.line_bytes, inclusive=line.op == ">=")
                for line in lines if self._ours(line.labels)]
            known.seen = seen
        yield from _moved(known.gates, moment)
        return known.gates

    def _without_lines(self, rule: AlertingRule, query: Query | Source, firing: Mapping[Labels, Alert],
                       now: float) -> Steps[list[Gate]]:
        """Each alert that the expression gives at this moment."""
        questions, found = source_of(query).questions(), []
        for point in as_vector((yield from questions.steps(rule.spec.expr, now))):
            labels = rule.final_labels(point, now, questions)
            questions.charge()
            if self._ours(labels):
                alert = firing.get(labels)
                found.append(Gate(
                    labels["target"], labels.get("level", ""), cast(Cleanup, labels["cleanup"]), labels, open=True,
                    ripe=alert is not None, standing=False, line_bytes=None, inclusive=False,
                    fired_at=alert.fired_at if alert else None))
        return found


def _moved(gates: list[Gate], moment: _Moment) -> Steps[None]:
    """Open and shut them. Those that stay as they are stay the same objects."""
    used, firing = moment.used, moment.firing
    for number, gate in enumerate(gates):
        used_bytes, line_bytes = used.get(gate.target, 0.0), cast(float, gate.line_bytes)
        is_open = used_bytes >= line_bytes if gate.inclusive else used_bytes > line_bytes
        ripe = gate.standing or (bool(firing) and gate.labels in firing)
        if is_open != gate.open or ripe != gate.ripe:
            gates[number] = gate._replace(open=is_open, ripe=ripe)
        if number % ELEMENTS_A_PIECE == ELEMENTS_A_PIECE - 1:
            yield
