"""Alerting rules: inactive → pending → firing → resolved, with `for` and `keep_firing_for`.

Semantics: Prometheus 3 (rules/alerting.go). An alert's identity is its final set of labels. Every alert is a frozen
value that an evaluation replaces, so what was handed out never changes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Alert, AlertState, Labels, Sample, series
from sidecar.promql.evaluate import Query
from sidecar.promql.steps import Steps
from sidecar.promql.values import Point, Value
from sidecar.rules.restart import Unseen, left_as_it_is
from sidecar.rules.rule import Rule, Terms, as_vector
from sidecar.rules.source import Questions
from sidecar.rules.spec import AlertingSpec
from sidecar.rules.template import Expansion, Template

RESOLVED_RETENTION_SECONDS = 15 * 60
"""How long a resolved alert is kept, so that its end can be told again to whoever missed it."""

_MOST_REMEMBERED = 16_384


class _Told(NamedTuple):
    """The annotations of one alert, and what each was made of."""

    shown: Mapping[str, str]
    expansions: Mapping[str, Expansion]


_ORDER: tuple[AlertState, ...] = ("inactive", "pending", "firing")


def _elapsed(since: float, at: float) -> float:
    """Seconds between two moments to the millisecond, so that 30 s are 30 s for floats too."""
    return round(at - since, 3)


class AlertingRule(Rule):
    """One `alert` rule and its alerts. Lives as long as its group; a reload hands its alerts on."""

    spec: AlertingSpec

    def __init__(self, spec: AlertingSpec, terms: Terms) -> None:
        super().__init__(spec, terms)
        self._expr = str(spec.expr)
        self._labels = {name: Template(text, spec.name) for name, text in spec.labels.items()}
        self._annotations = {name: Template(text, spec.name) for name, text in spec.annotations.items()}
        self._final: dict[Labels, Labels] = {}
        self._told: dict[Labels, _Told] = {}
        self._alerts: dict[Labels, Alert] = {}
        self._unseen: Unseen | None = None

    @property
    def state(self) -> AlertState | Literal["unknown"]:
        """The strongest state among the alerts; `unknown` before the first evaluation."""
        if self.last_evaluation is None:
            return "unknown"
        return max((alert.state for alert in self._alerts.values()), key=_ORDER.index, default="inactive")

    def alerts(self) -> list[Alert]:
        """Pending, firing, and resolved ones of the last 15 minutes (state `inactive`)."""
        return list(self._alerts.values())

    @property
    def unseen(self) -> Unseen | None:
        """Which alerts wait to be seen again after a restart, if any."""
        return self._unseen

    def adopt(self, alerts: Iterable[Alert], unseen: Unseen | None = None) -> None:
        """Go on with alerts from before a reload or a restart; those that cannot be this rule's are passed over.

        Those that are `unseen` stay as they are while their absence says nothing.
        """
        self._unseen = unseen
        fixed = [(name, text) for name, text in self.spec.labels.items() if "{{" not in text]
        self._alerts = {alert.labels: alert for alert in alerts if alert.name == self.name
                        and all(alert.labels.get(name, "") == text for name, text in fixed)}

    def judge(self, at: float, questions: Questions) -> Steps[list[Sample]]:
        """Move every alert on and return the ALERTS and ALERTS_FOR_STATE samples.

        QueryError for a query that fails, two elements with the same final labels (both leave the alerts as they
        are), and more alerts than the group's limit (which drops them all).
        """
        stamp = at - self.terms.query_offset_seconds
        found = yield from self._identified((yield from questions.steps(self.spec.expr, stamp)), at, questions)
        alerts: list[Alert] = []
        told: dict[Labels, _Told] = {}
        for labels, point in found.items():
            told[labels] = self._annotated(labels, point, at, questions)
            alerts.append(self._held(self._present(labels, point, at, told[labels].shown), at))
            questions.charge()
            yield
        for labels, alert in self._alerts.items():
            if labels not in found and (kept := self._absent(alert, at, questions)) is not None:
                alerts.append(self._held(kept, at))
                questions.charge()
                yield
        active = [alert for alert in alerts if alert.state != "inactive"]
        if self.terms.limit and len(active) > self.terms.limit:
            self._alerts, self._told = {}, {}
            raise QueryError(f"exceeded limit of {self.terms.limit} with {len(active)} alerts")
        samples: list[Sample] = []
        for alert in active:
            samples += _samples(alert, stamp)
            yield
        self._alerts, self._told = {alert.labels: alert for alert in alerts}, told
        self._unseen = self._unseen and self._unseen.less(found, at)
        return samples

    def _identified(self, value: Value, at: float, questions: Questions) -> Steps[dict[Labels, Point]]:
        """The elements by the final labels of their alerts. QueryError if two have the same."""
        found: dict[Labels, Point] = {}
        for point in as_vector(value):
            labels = self.final_labels(point, at, questions)
            if labels in found:
                raise QueryError("vector contains metrics with the same labelset after applying alert labels",
                                 help="aggregate the expression, or keep the labels that tell its elements apart")
            found[labels] = point
            questions.charge()
            yield
        return found

    def final_labels(self, point: Point, at: float, query: Query) -> Labels:
        """The alert's labels for one element: its own less the name, then the rule's (an empty one deletes)."""
        known = self._final.get(point.labels)
        if known is None:
            own = {name: template.expand(point, at, query, self.terms.surroundings)
                   for name, template in self._labels.items()}
            known = point.labels.merged({METRIC_NAME: "", **own, "alertname": self.name})
            if all(template.steady for template in self._labels.values()):
                if len(self._final) >= _MOST_REMEMBERED:
                    self._final.clear()
                self._final[point.labels] = known
        return known

    def _annotated(self, labels: Labels, point: Point, at: float, query: Query) -> _Told:
        """The annotations of an element's alert. Where nothing has changed since the last time, the very same ones."""
        known = self._told.get(labels)
        before = known.expansions if known else {}
        made = {name: template.expansion(point, at, query, self.terms.surroundings, before.get(name))
                for name, template in self._annotations.items()}
        if known and all(made[name] is before[name] for name in made):
            return known
        return _Told({name: expansion.text for name, expansion in made.items()}, made)

    def _present(self, labels: Labels, point: Point, at: float, annotations: Mapping[str, str]) -> Alert:
        """The alert of an element that the expression gave just now."""
        known = self._alerts.get(labels)
        if known is None or known.state == "inactive":
            return Alert(
                labels=labels, annotations=annotations, state="pending", condition=True, value=point.value,
                active_at=at, fired_at=None, resolved_at=None, keep_firing_since=None, last_evaluation=at,
                interval_seconds=self.terms.interval_seconds, expr=self._expr)
        return replace(known, annotations=annotations, condition=True, value=point.value, keep_firing_since=None,
                       last_evaluation=at, interval_seconds=self.terms.interval_seconds, expr=self._expr)

    def _absent(self, alert: Alert, at: float, query: Query) -> Alert | None:
        """An alert whose element is gone: steadied by `keep_firing_for`, resolved, kept for a while, or forgotten."""
        if self._unseen and self._unseen.holds(alert, at, query):
            return left_as_it_is(alert, at)
        if alert.state == "pending":
            return None
        if alert.state == "inactive":
            ended = alert.resolved_at if alert.resolved_at is not None else at
            return None if _elapsed(ended, at) > RESOLVED_RETENTION_SECONDS else alert
        since = alert.keep_firing_since
        if self.spec.keep_firing_for_seconds and since is None:
            since = at
        if since is not None and _elapsed(since, at) < self.spec.keep_firing_for_seconds:
            return replace(alert, condition=False, keep_firing_since=since, last_evaluation=at)
        return replace(alert, state="inactive", condition=False, resolved_at=at, keep_firing_since=since,
                       last_evaluation=at)

    def _held(self, alert: Alert, at: float) -> Alert:
        """Pending becomes firing when `for` has passed, and firing pending again when a reload has lengthened it."""
        waited = _elapsed(alert.active_at, at) >= self.spec.for_seconds
        if alert.state == "pending" and waited:
            return replace(alert, state="firing", fired_at=at)
        if alert.state == "firing" and not waited:
            return replace(alert, state="pending", fired_at=None, keep_firing_since=None)
        return alert


def _samples(alert: Alert, stamp: float) -> tuple[Sample, Sample]:
    return (
        Sample(series(alert.labels, "ALERTS", "alertstate", alert.state), 1.0, stamp),
        # Whole seconds, as Prometheus writes them.
        Sample(series(alert.labels, "ALERTS_FOR_STATE"), float(int(alert.active_at)), stamp),
    )
