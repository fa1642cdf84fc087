"""A group of rules: when it is due, and its evaluation, one rule after the other at one moment.

Semantics: Prometheus 3 (rules/group.go). The moment of an evaluation is its slot, not the clock: slots lie one
interval apart, shifted by a hash of the group's name, so that many groups do not all run at once.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from sidecar.model import STALE, Alert, Labels, Sample
from sidecar.promql.evaluate import Query
from sidecar.promql.steps import Steps, finish
from sidecar.rules.alerting import RESOLVED_RETENTION_SECONDS, AlertingRule
from sidecar.rules.recording import RecordingRule
from sidecar.rules.restart import history, unseen
from sidecar.rules.rule import Rule, Terms
from sidecar.rules.source import Source, source_of
from sidecar.rules.spec import AlertingSpec, GroupSpec, RuleSpec
from sidecar.rules.template import Surroundings

RuleKey = tuple[str, str, str]
"""What an alerting rule is known by: its file, its group, and its name and labels with its number among equals."""

Append = Callable[[Iterable[Sample]], object]
"""Where the samples of one rule go before the next rule is evaluated: the store's `append`."""

_SMALLEST_STEP_SECONDS = 0.001


class Group:
    """The rules of one group and their state. Lives until a reload changes the group; its one writer is the tick.

    `last_evaluation` is the slot evaluated last (Unix seconds), None before the first; `last_duration_seconds` how long
    that took, pauses included, and `last_samples` what it wrote. The counters only ever grow.
    """

    def __init__(self, spec: GroupSpec, *, default_interval_seconds: float, external_labels: Mapping[str, str],
                 external_url: str) -> None:
        self.spec = spec
        self.name = spec.name
        self.file = spec.file
        self.interval_seconds = spec.interval_seconds or default_interval_seconds
        terms = Terms(self.interval_seconds, spec.limit, spec.query_offset_seconds,
                      Surroundings(dict(external_labels), external_url))
        self.rules: tuple[Rule, ...] = tuple(_rule(one, terms) for one in spec.rules)
        self.keyed = tuple(_keyed(self.file, self.name, self.alerting_rules))
        self.evaluations = 0
        self.failures = 0
        self.iterations = 0
        self.missed = 0
        self.last_evaluation: float | None = None
        self.last_samples = 0
        self.last_duration_seconds = 0.0
        self._next_slot_ms: int | None = None
        self._orphans: frozenset[Labels] = frozenset()
        self._under_way: Steps[None] | None = None

    @property
    def alerting_rules(self) -> tuple[AlertingRule, ...]:
        """The rules that make alerts."""
        return tuple(rule for rule in self.rules if isinstance(rule, AlertingRule))

    def due(self, now: float, *, rested: bool = False) -> float | None:
        """The slot to evaluate now (Unix seconds, at most `now`), or None.

        The first slot is the next one after the first call. A slot is given once; those that went by unused are
        counted in `missed`, unless there was a `rested` pause before, and never made up for.
        """
        now_ms, interval_ms = int(now * 1000), max(1, round(self.interval_seconds * 1000))
        offset_ms = zlib.crc32(f"{self.name}\0{self.file}".encode()) % interval_ms
        slot_ms = (now_ms - offset_ms) // interval_ms * interval_ms + offset_ms
        if self._next_slot_ms is None:
            self._next_slot_ms = slot_ms if slot_ms == now_ms else slot_ms + interval_ms
        if slot_ms < self._next_slot_ms:
            if slot_ms < self._next_slot_ms - interval_ms:  # the clock was set back: start anew from here
                self._next_slot_ms = slot_ms + interval_ms
            return None
        self.missed += 0 if rested else (slot_ms - self._next_slot_ms) // interval_ms
        self._next_slot_ms = slot_ms + interval_ms
        return slot_ms / 1000

    def evaluate(self, at: float, query: Query | Source, append: Append) -> None:
        """`steps` without a pause."""
        finish(self.steps(at, query, append))

    def steps(self, at: float, query: Query | Source, append: Append) -> Steps[None]:
        """Evaluate every rule at `at`, appending what each one writes before the next one looks; pauses in between.

        A rule that fails says so in its `health`; the others go on. A rule that was already evaluated at `at` or
        later (see `evaluate_rule`) is left alone: its alerts never go back in time. What a rule says and has written
        is that of its last evaluation as long as this one is under way.
        """
        self._settle()
        self._under_way = self._slot(at, source_of(query), append)
        return self._under_way

    def _slot(self, at: float, source: Source, append: Append) -> Steps[None]:
        begun, samples = source.clock(), 0
        for rule in self.rules:
            if rule.last_evaluation is None or rule.last_evaluation < at:
                samples += yield from self._run(rule, at, source, append)
        if self._orphans:  # last, for a rule may write by now what another one left behind
            ended = self._orphans.difference(*(rule.written for rule in self.rules))
            append([Sample(labels, STALE, at - self.spec.query_offset_seconds) for labels in ended])
            self._orphans = frozenset()
        self.iterations += 1
        self.last_evaluation, self.last_samples = at, samples
        self.last_duration_seconds = source.clock() - begun

    def evaluate_rule(self, rule: Rule, at: float, query: Query | Source, append: Append) -> None:
        """Evaluate one rule between slots: at `at`, or just after its last evaluation if that was later.

        A slot under way comes to its end first: whoever drives it finds it done.
        """
        self._settle()
        if rule.last_evaluation is not None:
            at = max(at, round(rule.last_evaluation + _SMALLEST_STEP_SECONDS, 3))
        finish(self._run(rule, at, source_of(query), append))

    def _settle(self) -> None:
        """No slot is half done after this."""
        if self._under_way is not None:
            finish(self._under_way)
            self._under_way = None

    def _run(self, rule: Rule, at: float, source: Source, append: Append) -> Steps[int]:
        """One evaluation of one rule; how many samples it wrote."""
        begun = source.clock()
        samples = yield from rule.run(at, source.questions())
        rule.last_duration_seconds = source.clock() - begun
        self.evaluations += 1
        self.failures += rule.health == "err"
        append(samples)
        return len(samples)

    def alerts(self) -> list[Alert]:
        """Every alert of every rule: pending, firing, and resolved ones of the last 15 minutes."""
        return [alert for rule in self.alerting_rules for alert in rule.alerts()]

    def restore(self, alerts: Iterable[tuple[RuleKey, Alert]], now: float, recorded: Mapping[str, float]) -> None:
        """Go on at `now` with alerts from before a restart, whatever their `for`: `startsAt` and holds survive.

        Rules are matched by file, group, name and labels, in order. `recorded` is what `restart.recorded_history` says.
        """
        known = [(key, alert) for key, alert in alerts
                 if alert.resolved_at is None or now - alert.resolved_at <= RESOLVED_RETENTION_SECONDS]
        for key, rule in self.keyed:
            own = [alert for other, alert in known if other == key]
            seconds = history(rule.spec.expr, recorded) + self.spec.query_offset_seconds
            # One interval more: the first samples come with the first look, not with the start.
            rule.adopt(own, unseen(own, rule.spec.expr, now, seconds and seconds + self.interval_seconds))

    def copy_state(self, old: "Group") -> None:
        """Go on from where `old`, this group before a reload, stopped.

        Rules are matched by kind, name and labels, in order. Series of rules that are gone become stale at the next
        evaluation.
        """
        left: dict[object, list[Rule]] = {}
        for rule in old.rules:
            left.setdefault(_identity(rule), []).append(rule)
        for rule in self.rules:
            if before := left.get(_identity(rule)):
                _take_over(rule, before.pop(0))
        self.evaluations, self.failures, self.iterations, self.missed = (
            old.evaluations, old.failures, old.iterations, old.missed)
        self.last_evaluation, self.last_samples = old.last_evaluation, old.last_samples
        self.last_duration_seconds = old.last_duration_seconds
        if self.interval_seconds == old.interval_seconds and (self.file, self.name) == (old.file, old.name):
            self._next_slot_ms = old._next_slot_ms
        self._orphans = old._orphans | {labels for rules in left.values() for rule in rules for labels in rule.written}
        self._orphans -= {labels for rule in self.rules for labels in rule.written}

    def end(self, at: float) -> list[Sample]:
        """Stale markers for everything this group wrote: what to append when a reload drops it."""
        written = self._orphans.union(*(rule.written for rule in self.rules))
        return [Sample(labels, STALE, at) for labels in written]


def _rule(spec: RuleSpec, terms: Terms) -> Rule:
    return AlertingRule(spec, terms) if isinstance(spec, AlertingSpec) else RecordingRule(spec, terms)


def _keyed(file: str, group: str, rules: Iterable[AlertingRule]) -> Iterator[tuple[RuleKey, AlertingRule]]:
    """The rules, each with what it is known by in another life of the sidecar; the text of labels, not their values."""
    seen: Counter[str] = Counter()
    for rule in rules:
        name = f"{rule.name}{json.dumps(dict(sorted(rule.spec.labels.items())))}"
        seen[name] += 1
        yield (file, group, f"{name}#{seen[name]}"), rule


def _identity(rule: Rule) -> object:
    return type(rule), rule.name, tuple(sorted(rule.spec.labels.items()))


def _take_over(rule: Rule, old: Rule) -> None:
    rule.written, rule.last_evaluation = old.written, old.last_evaluation
    rule.last_duration_seconds = old.last_duration_seconds
    rule.health, rule.last_error = old.health, old.last_error
    if isinstance(rule, AlertingRule) and isinstance(old, AlertingRule):
        rule.adopt(old.alerts(), old.unseen)
