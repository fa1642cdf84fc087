"""Between rules and policy: which alerts ask for a cleanup, and whether their own comparison is true right now."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import cast

from sidecar.actions.facts import Gate
from sidecar.actions.options import STRENGTH
from sidecar.errors import QueryError
from sidecar.model import Alert, Cleanup, Labels
from sidecar.pipeline_families import USED
from sidecar.promql.evaluate import Query
from sidecar.promql.steps import Steps
from sidecar.promql.tree import LOOKBACK_SECONDS
from sidecar.promql.values import Matcher
from sidecar.rules.alerting import AlertingRule
from sidecar.rules.group import Group
from sidecar.rules.rule import as_vector
from sidecar.rules.source import Source, source_of
from sidecar.rules.standing import Standing, compared, unforeseeable
from sidecar.store import Store

log = logging.getLogger("sidecar")


class Gates:
    """The rules that ask for a cleanup. Lives as long as the desk.

    Those that compare used bytes with a line have a gate for each line, and those without a `for` stand as orders at
    the guard. Of all others, whatever they compare, the expression itself is the gate.
    """

    def __init__(self, groups: Sequence[Group], targets: Collection[str]) -> None:
        self.lined: list[tuple[Group, AlertingRule, Standing]] = []
        self._unlined: list[AlertingRule] = []
        self._targets = targets
        self._unread: set[str] = set()
        for group in groups:
            for rule in group.alerting_rules:
                gate = compared(rule)
                if isinstance(gate, Standing):
                    self.lined.append((group, rule, gate))
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
        """The gates of this moment, of the targets that are configured: each comparison is read anew."""
        found: list[Gate] = []
        firing = {alert.labels: alert for alert in alerts if alert.state == "firing" and alert.condition}
        used = {sample.labels["target"]: sample.value for sample in store.newest(
            [Matcher("__name__", "=", USED.name)], now - LOOKBACK_SECONDS, now)}
        for _, rule, gate in self.lined:
            try:
                found += yield from self._with_lines(rule, gate, query, used, firing, now)
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

    def _with_lines(self, rule: AlertingRule, gate: Standing, query: Query | Source, used: Mapping[str, float],
                    firing: Mapping[Labels, Alert], now: float) -> Steps[list[Gate]]:
        """The line of each target, and whether used bytes are over it."""
        lines, standing = (yield from gate.steps(query, now)), not rule.spec.for_seconds
        found = []
        for labels, op, line_bytes in ((line.labels, line.op, line.line_bytes) for line in lines):
            if self._ours(labels):
                used_bytes = used.get(labels["target"], 0.0)
                found.append(Gate(
                    labels["target"], labels.get("level", ""), cast(Cleanup, labels["cleanup"]), labels,
                    open=used_bytes >= line_bytes if op == ">=" else used_bytes > line_bytes,
                    ripe=standing or labels in firing, standing=standing, line_bytes=line_bytes, inclusive=op == ">="))
        return found

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
