"""Unit tests of rules, run as `promtool test rules` runs them, but on the evaluator that the daemon uses.

A test group has a clock and a store of its own. At every evaluation its samples up to that moment are appended and all
groups of rules are evaluated; alerts are compared at the evaluation at or before their time, expressions at the end.
"""

import math
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sidecar.errors import QueryError, RuleError
from sidecar.model import METRIC_NAME, Labels, Sample, is_stale
from sidecar.promql.context import Options
from sidecar.promql.features import Features
from sidecar.promql.notation import format_duration, quote
from sidecar.promql.regex import regex
from sidecar.promql.tree import Expr
from sidecar.promql.values import Value
from sidecar.rules.gotemplate.format import format_float
from sidecar.rules.group import Group
from sidecar.rules.load import load
from sidecar.rules.native_histogram import NativeHistogram
from sidecar.rules.opaque import OpaqueStore, SampleStore
from sidecar.rules.rule import as_vector
from sidecar.rules.spec import AlertingSpec, GroupSpec
from sidecar.rules.testfile import AlertTest, QueryTest, UnitTest, UnitTestFile, read

MAX_EVALUATIONS = 1_000_000
MAX_TRACED = 200
"""How many samples of a series are traced."""

_VALUE = re.compile(r"\$value\b|\.Value\b|\bquery\b")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What is run, and how. The defaults are promtool's.

    `patterns` are regular expressions (RE2, found anywhere) of which a test's name must match one, if there are any.
    `lenient` passes over fields of rule files that Prometheus does not know. `trace` receives what is done.
    """

    patterns: Sequence[str] = ()
    features: Features = field(default_factory=Features)
    lenient: bool = False
    trace: Callable[[str], None] | None = None


@dataclass(frozen=True, slots=True)
class Element:
    """An alert (without a value) or a sample of a query's result. A native histogram's value is its notation."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    value: float | str | None = None

    def __str__(self) -> str:
        if self.value is None:
            return _braced(self.labels)
        rest = {name: value for name, value in self.labels.items() if name != METRIC_NAME}
        metric = self.labels.get(METRIC_NAME, "")
        return f"{metric}{_braced(rest) if rest or not metric else ''} {self.shown_value}"

    @property
    def shown_value(self) -> str:
        """The value in Go's notation, empty for an alert."""
        return format_float(self.value) if isinstance(self.value, float) else self.value or ""


@dataclass(frozen=True, slots=True)
class Failure:
    """What did not hold. `error` keeps it from being compared; else `expected` and `got` are what differs.

    `matched` are the elements that came as expected.
    """

    what: str
    error: str = ""
    expected: Sequence[Element] = ()
    got: Sequence[Element] = ()
    matched: Sequence[Element] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test group went: nothing in `failures` is a pass."""

    name: str
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class FileReport:
    """How one file went. `problems` kept it from being run at all."""

    path: Path
    outcomes: tuple[Outcome, ...] = ()
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether everything in the file was checked and held."""
        return not self.problems and not any(outcome.failures for outcome in self.outcomes)


def run(path: Path, new_store: Callable[[], SampleStore], options: RunOptions = RunOptions()) -> FileReport:
    """Run a file of unit tests. `new_store` makes an empty store that keeps every sample it has room for.

    As in promtool, rule files are read only if a test is to run. QueryError for a pattern that is none.
    """
    for pattern in options.patterns:
        regex(pattern)  # an error should show the pattern as it was given
    chosen = [regex(f"(?s:.*)(?:{pattern})(?s:.*)") for pattern in options.patterns]
    experimental = options.features.experimental_functions
    try:
        file = read(path, experimental=experimental)
        tests = [test for test in file.groups
                 if not chosen or any(one.groups(test.name) is not None for one in chosen)]
        specs = load(file.rule_files if tests else (), experimental=experimental, lenient=options.lenient)
    except RuleError as error:
        return FileReport(path, problems=tuple(map(str, error.problems)))
    order = {name: index for index, name in enumerate(file.group_order)}
    specs = tuple(sorted(specs, key=lambda spec: order.get(spec.name, len(order))))
    warnings = [f"no file matches {name}" for name in file.missing]
    if not tests:
        warnings.append("no test was run: " + ("none has a name that matches" if file.groups else "there is none"))
    outcomes = [Outcome(test.title, tuple(_Trial(file, test, specs, new_store(), options).run())) for test in tests]
    return FileReport(path, tuple(outcomes), warnings=tuple(warnings))


class _Trial:
    """One test group at work. Lives as long as it runs."""

    def __init__(self, file: UnitTestFile, test: UnitTest, specs: Sequence[GroupSpec], store: SampleStore,
                 options: RunOptions) -> None:
        self._file = file
        self._test = test
        self._trace = options.trace or (lambda text: None)
        self._traced = options.trace is not None
        self._store = OpaqueStore(store, Options(subquery_step_seconds=file.interval_seconds,
                                                 delayed_name_removal=options.features.delayed_name_removal))
        self._pending = deque(sorted(self._samples(), key=lambda sample: sample.at))
        self._rule_groups = [
            Group(spec, default_interval_seconds=test.interval_seconds, external_labels=test.external_labels,
                  external_url=test.external_url) for spec in specs]
        rules = [rule for spec in specs for rule in spec.rules]
        self._plain = {rule.expr for rule in rules} - {rule.expr for rule in rules if _shows_value(rule)}

    def run(self) -> Iterator[Failure]:
        """Everything that did not hold."""
        self._trace(f"starting {self._test.title}")
        if self._test.problems:
            yield from (Failure(problem) for problem in self._test.problems)
        else:
            yield from self._run()
        if self._traced:
            self._dump()
        self._trace(f"finished {self._test.title}")

    def _run(self) -> Iterator[Failure]:
        test, step_ms = self._test, round(self._file.interval_seconds * 1000)
        ends = [*(one.eval_seconds for one in test.alert_tests), *(one.eval_seconds for one in test.query_tests)]
        count = round(max(ends, default=0.0) * 1000) // step_ms + 1
        if count > MAX_EVALUATIONS:
            yield Failure("interval", f"needs {count} evaluations, more than {MAX_EVALUATIONS}: lengthen "
                          "evaluation_interval")
            return
        due = deque(sorted(test.alert_tests, key=lambda one: one.eval_seconds))
        for index in range(count):
            elapsed_ms = index * step_ms
            if failures := self._evaluate(round(test.start + elapsed_ms / 1000, 3)):
                yield from failures
                return
            while due and round(due[0].eval_seconds * 1000) < elapsed_ms + step_ms:
                yield from self._check_alerts(due.popleft())
        for query_test in test.query_tests:
            yield from self._check_query(query_test)
        if self._store.full:
            yield Failure("store", "had no room for all samples, so nothing is certain: split the test")

    def _samples(self) -> Iterator[Sample]:
        step_ms = round(self._test.interval_seconds * 1000)
        for series in self._test.series:
            labels = Labels(series.labels)
            for index, value in enumerate(series.values):
                at = round(self._test.start + index * step_ms / 1000, 3)
                if value is not None:
                    number = self._store.put(value) if isinstance(value, NativeHistogram) else value
                    yield Sample(labels, number, at)

    def _query_of_rules(self, expr: Expr, at: float) -> Value:
        """For rules and the queries in their templates; a histogram is for those alone that hand it on as it is."""
        return self._store.query(expr, at, opaque=expr in self._plain)

    def _evaluate(self, at: float) -> list[Failure]:
        """Append the samples up to `at` and evaluate everything. Returns what failed in the rules."""
        ready = []
        while self._pending and self._pending[0].at <= at:
            ready.append(self._pending.popleft())
        self._store.append(ready)
        for group in self._rule_groups:
            group.evaluate(at, self._query_of_rules, self._store.append)
        since = format_duration(at - self._test.start)
        return [Failure(f"rule: {rule.name}, time: {since}", rule.last_error)
                for group in self._rule_groups for rule in group.rules if rule.last_error]

    def _check_alerts(self, test: AlertTest) -> Iterator[Failure]:
        got = [Element(alert.labels, alert.annotations) for group in self._rule_groups for alert in group.alerts()
               if alert.name == test.alertname and alert.state == "firing"]
        wanted = [Element(labels, annotations) for labels, annotations in test.expected]
        what = f"alertname: {test.alertname}, time: {format_duration(test.eval_seconds)}"
        yield from self._compared(what, wanted, got)

    def _check_query(self, test: QueryTest) -> Iterator[Failure]:
        what = f"expr: {quote(test.text)}, time: {format_duration(test.eval_seconds)}"
        if test.problem or test.expr is None:
            yield Failure(what, test.problem)
            return
        try:
            value = as_vector(self._store.query(test.expr, self._test.start + test.eval_seconds))
        except QueryError as error:
            yield Failure(what, str(error))
            return
        got = [Element(point.labels, value=self._shown(point.value)) for point in value]
        wanted = [Element(labels, value=value) for labels, value in test.expected]
        yield from self._compared(what, wanted, got)

    def _shown(self, value: float) -> float | str:
        if is_stale(value):
            return "stale"
        histogram = self._store.get(value)
        return value if histogram is None else str(histogram)

    def _compared(self, what: str, wanted: Sequence[Element], got: Sequence[Element]) -> Iterator[Failure]:
        """The failure, if the elements are not the same ones, in whatever order."""
        left: dict[Labels, list[Element]] = {}
        for element in got:
            left.setdefault(_key(element), []).append(element)
        missing: list[Element] = []
        matched: list[Element] = []
        for element in wanted:
            rivals = left.get(_key(element), [])
            found = next((index for index, rival in enumerate(rivals) if self._same(element, rival)), None)
            (missing if found is None else matched).append(element)
            if found is not None:
                del rivals[found]
        surplus = [element for elements in left.values() for element in elements]
        if missing or surplus:
            yield Failure(what, "", *(sorted(one, key=_order) for one in (missing, surplus, matched)))

    def _same(self, wanted: Element, got: Element) -> bool:
        if dict(wanted.labels) != dict(got.labels) or dict(wanted.annotations) != dict(got.annotations):
            return False
        a, b = wanted.value, got.value
        if not isinstance(a, float) or not isinstance(b, float):
            return a == b
        near = self._file.fuzzy and math.nextafter(b, -math.inf) <= a <= math.nextafter(b, math.inf)
        return a == b or near or (math.isnan(a) and math.isnan(b))

    def _dump(self) -> None:
        """Trace everything that was stored: what the test put in, and what its rules wrote."""
        for series in sorted(self._store.series(), key=lambda series: str(series.labels)):
            shown = [f"{_value(self._shown(value))} @{format_duration(at - self._test.start)}"
                     for at, value in zip(series.times[:MAX_TRACED], series.values[:MAX_TRACED], strict=True)]
            more = len(series.times) - MAX_TRACED
            self._trace(f"  {series.labels}: {', '.join(shown)}{f' and {more} more' if more > 0 else ''}")


def _braced(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}={quote(value)}" for name, value in sorted(labels.items())) + "}"


def _value(value: float | str) -> str:
    return Element({}, value=value).shown_value


def _shows_value(rule: object) -> bool:
    """Whether a rule may print its value, or that of a query of its own, into labels or annotations."""
    return isinstance(rule, AlertingSpec) and any(
        _VALUE.search(text) for text in (*rule.labels.values(), *rule.annotations.values()) if "{{" in text)


def _key(element: Element) -> Labels:
    return Labels(element.labels)


def _order(element: Element) -> tuple[list[tuple[str, str]], str]:
    return sorted(element.labels.items()), element.shown_value
