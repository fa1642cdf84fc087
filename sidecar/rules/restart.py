"""After a restart: alerts go on as they were, while the store that they were judged by is empty.

What Prometheus does for alerts with a `for` of ten minutes or more (rules/group.go, RestoreForState) is done for all,
and with everything it leaves out: since when an alert fires, what holds it, and that it has ended.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from sidecar.model import METRIC_NAME, Alert, Labels
from sidecar.promql.evaluate import Query
from sidecar.promql.tree import Expr, VectorSelector, metric_names, reads
from sidecar.promql.values import Matcher

TOLERANCE_SECONDS = 3600.0
"""What was seen further back than this is no state to go on from (Prometheus: --rules.alert.for-outage-tolerance)."""
SETTLE_SECONDS = 30.0
"""By then whatever a target tells has been asked for once: endpoints answer late, shared memory is measured first."""


def continued(alert: Alert, *, seen_at: float, now: float, interval_seconds: float, same_process: bool) -> Alert | None:
    """The alert as it goes on at `now`, when nobody looked since `seen_at`; None where there is nothing to go on from.

    The time in which nobody looked, beyond one interval, does not count towards `for`: a pending alert becomes active
    that much later. It starts anew where the process behind its target is another one. A firing alert is kept, so that
    it goes on or its end is told. Where the clock was set back, all times move with it.
    """
    away = now - seen_at
    if away > TOLERANCE_SECONDS:
        return None
    if away < 0.0:
        alert, away = _moved(alert, away), 0.0
    if alert.state == "inactive":
        return alert
    if alert.state == "pending" and not same_process:
        return None
    alert = replace(alert, last_evaluation=now)
    return _later(alert, max(0.0, away - interval_seconds)) if alert.state == "pending" else alert


def _moved(alert: Alert, seconds: float) -> Alert:
    def moved(at: float | None) -> float | None:
        return None if at is None else at + seconds

    return replace(alert, active_at=alert.active_at + seconds, fired_at=moved(alert.fired_at),
                   resolved_at=moved(alert.resolved_at), keep_firing_since=moved(alert.keep_firing_since))


def _later(alert: Alert, seconds: float) -> Alert:
    return replace(alert, active_at=alert.active_at + seconds)


@dataclass(frozen=True, slots=True)
class Unseen:
    """Alerts from before a restart whose elements the expression has not given since: absence says nothing yet.

    It says nothing before `told_at`, when the store reaches as far back as the expression looks, and until `settled_at`
    not while one of the metrics has no series yet. What the expression looks at only as it is now is judged at once.
    """

    labels: frozenset[Labels]
    metrics: Collection[str]
    told_at: float
    settled_at: float

    def holds(self, alert: Alert, at: float, query: Query) -> bool:
        """Whether this alert, whose element is absent at `at`, is to be left as it is."""
        if alert.labels not in self.labels or alert.state == "inactive" or not alert.condition:
            return False
        return at < self.told_at or (at < self.settled_at and not self._are_told(alert, at, query))

    def less(self, found: Collection[Labels], at: float) -> "Unseen | None":
        """Those that are still unseen after an evaluation at `at` that found these; None where all is said."""
        left = self.labels.difference(found)
        return replace(self, labels=left) if left and at < max(self.told_at, self.settled_at) else None

    def _are_told(self, alert: Alert, at: float, query: Query) -> bool:
        """Whether every metric of the expression has series by now, of the alert's own target where it has one."""
        target = alert.labels.get("target")
        more = (Matcher("target", "=", target),) if target else ()
        return all(query(VectorSelector(name, (Matcher(METRIC_NAME, "=", name), *more)), at) for name in self.metrics)


def unseen(alerts: Iterable[Alert], expr: Expr, now: float, history_seconds: float) -> Unseen | None:
    """What is to be waited for after a restart at `now`; `history_seconds` is how far back `expr` looks."""
    labels = frozenset(alert.labels for alert in alerts if alert.state != "inactive" and alert.condition)
    metrics = sorted(metric_names(expr) - {""})
    return Unseen(labels, metrics, now + history_seconds, now + SETTLE_SECONDS) if labels else None


def left_as_it_is(alert: Alert, at: float) -> Alert:
    """An alert of which an evaluation at `at` could say nothing. A pending one does not come nearer to its `for`."""
    unlooked = max(0.0, at - alert.last_evaluation)
    alert = replace(alert, last_evaluation=max(at, alert.last_evaluation))
    return _later(alert, unlooked) if alert.state == "pending" else alert


def history(expr: Expr, recorded: Mapping[str, float]) -> float:
    """For how many seconds an empty store must gather samples until `expr` sees all it looks at.

    That is what ranges, subqueries and offsets reach back; an instant selector needs one look. `recorded` says it of
    series that rules record. With `@` and a fixed time waiting is of no use: 0.
    """
    reach = {name: seconds for name, seconds in reads(expr, lookback_seconds=0.0).items() if seconds < math.inf}
    return max((seconds + recorded.get(name, 0.0) for name, seconds in reach.items()), default=0.0)


def recorded_history(rules: Iterable[tuple[str, Expr, float]]) -> Mapping[str, float]:
    """`history` of each recorded series, from (name, expression, interval in seconds) of the rules that record them."""
    given: dict[str, list[tuple[Expr, float]]] = {}
    for name, expr, interval_seconds in rules:
        given.setdefault(name, []).append((expr, interval_seconds))
    known: dict[str, float] = {}

    def find(name: str) -> float:
        if name not in known:
            known[name] = 0.0  # a rule that reads what it records ends here
            known[name] = max(interval_seconds + history(expr, {other: find(other) for other in metric_names(expr)
                                                                if other in given})
                              for expr, interval_seconds in given[name])
        return known[name]

    return {name: find(name) for name in given}
