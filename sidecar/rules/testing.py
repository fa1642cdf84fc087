"""Unit tests of rules, run as `promtool test rules` runs them, but on the evaluator that the daemon uses.

A test group has a clock and a store of its own. At every evaluation its samples up to that moment are appended and all
groups of rules are evaluated; alerts are compared at the evaluation at or before their time, expressions at the end.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sidecar.errors import QueryError, RuleError
from sidecar.model import Labels, Sample
from sidecar.promql.evaluate import instant
from sidecar.promql.notation import format_duration, quote
from sidecar.promql.tree import Expr
from sidecar.promql.values import Select, Value
from sidecar.rules.gotemplate.format import format_float
from sidecar.rules.group import Group
from sidecar.rules.load import load
from sidecar.rules.rule import as_vector
from sidecar.rules.spec import GroupSpec
from sidecar.rules.testfile import AlertTest, QueryTest, Row, UnitTest, UnitTestFile, read

MAX_EVALUATIONS = 1_000_000


class SampleStore(Protocol):
    """What a test group needs of a store. `shrunk` and `refused` count samples that it could not keep."""

    @property
    def select(self) -> Select:
        """How expressions reach its samples."""

    def append(self, samples: Iterable[Sample]) -> None:
        """Take samples, in time order for each series."""

    @property
    def shrunk(self) -> int:
        """Samples given up for want of room."""

    @property
    def refused(self) -> int:
        """Samples not taken for want of room."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test group went: nothing in `failures` is a pass."""

    name: str
    failures: tuple[str, ...] = ()


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

    def __str__(self) -> str:
        lines = [f"{self.path}", *(f"  WARNING: {text}" for text in self.warnings)]
        if self.passed:
            return "\n".join([*lines, f"  SUCCESS ({len(self.outcomes)} tests)"])
        lines += ["  FAILED:", *(_indented(text, 4) for text in self.problems)]
        for outcome in self.outcomes:
            if outcome.failures:
                lines += [f"    {outcome.name}:", *(_indented(text, 6) for text in outcome.failures)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Report:
    """How all files went; its text is for people."""

    files: tuple[FileReport, ...]

    @property
    def passed(self) -> bool:
        """Whether every file passed."""
        return all(file.passed for file in self.files)

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.files))


def run(paths: Sequence[Path], new_store: Callable[[], SampleStore]) -> Report:
    """Run files of unit tests. `new_store` makes an empty store that keeps every sample it has room for."""
    return Report(tuple(_run_file(Path(path), new_store) for path in paths))


def _run_file(path: Path, new_store: Callable[[], SampleStore]) -> FileReport:
    try:
        file = read(path)
        specs = load(file.rule_files)
    except RuleError as error:
        return FileReport(path, problems=tuple(map(str, error.problems)))
    order = {name: index for index, name in enumerate(file.group_order)}
    specs = tuple(sorted(specs, key=lambda spec: order.get(spec.name, len(order))))
    outcomes = [Outcome(group.name, tuple(_Trial(file, group, specs, new_store()).run())) for group in file.groups]
    return FileReport(path, tuple(outcomes), warnings=tuple(f"no file matches {name}" for name in file.missing))


class _Trial:
    """One test group at work. Lives as long as it runs."""

    def __init__(self, file: UnitTestFile, group: UnitTest, specs: Sequence[GroupSpec], store: SampleStore) -> None:
        self._file = file
        self._group = group
        self._store = store
        self._pending = deque(sorted(_samples(group), key=lambda sample: sample.at))
        self._rule_groups = [
            Group(spec, default_interval_seconds=file.interval_seconds, external_labels=group.external_labels,
                  external_url=group.external_url) for spec in specs]

    def run(self) -> Iterator[str]:
        """Every difference between what was expected and what came, as text."""
        group = self._group
        yield from (f"series {_shown(one.labels)}: {one.unsupported}" for one in group.series if one.unsupported)
        step_ms = round(self._file.interval_seconds * 1000)
        ends = [*(test.eval_seconds for test in group.alert_tests), *(test.eval_seconds for test in group.query_tests)]
        count = round(max(ends, default=0.0) * 1000) // step_ms + 1
        if count > MAX_EVALUATIONS:
            yield f"needs {count} evaluations, more than {MAX_EVALUATIONS}: lengthen evaluation_interval"
            return
        due = deque(sorted(group.alert_tests, key=lambda test: test.eval_seconds))
        for index in range(count):
            elapsed_ms = index * step_ms
            if failures := self._evaluate(round(group.start + elapsed_ms / 1000, 3)):
                yield from failures
                return
            while due and round(due[0].eval_seconds * 1000) < elapsed_ms + step_ms:
                yield from self._check_alerts(due.popleft())
        for test in group.query_tests:
            yield from self._check_query(test)
        if self._store.shrunk or self._store.refused:
            yield "the store had no room for all samples: nothing above is certain; split the test"

    def _query(self, expr: Expr, at: float) -> Value:
        return instant(expr, self._store.select, at)

    def _evaluate(self, at: float) -> list[str]:
        """Append the samples up to `at` and evaluate everything. Returns what failed in the rules."""
        ready = []
        while self._pending and self._pending[0].at <= at:
            ready.append(self._pending.popleft())
        self._store.append(ready)
        for group in self._rule_groups:
            group.evaluate(at, self._query, self._store.append)
        since = format_duration(at - self._group.start)
        return [f"rule: {rule.name}, time: {since}, err: {rule.last_error}"
                for group in self._rule_groups for rule in group.rules if rule.last_error]

    def _check_alerts(self, test: AlertTest) -> Iterator[str]:
        got = [(alert.labels, alert.annotations) for group in self._rule_groups for alert in group.alerts()
               if alert.name == test.alertname and alert.state == "firing"]
        wanted_shown = sorted(_alert(*one) for one in test.expected)
        got_shown = sorted(_alert(*one) for one in got)
        if wanted_shown != got_shown:
            yield (f"alertname: {test.alertname}, time: {format_duration(test.eval_seconds)},\n"
                   f"  exp: {_listed(wanted_shown)}\n  got: {_listed(got_shown)}")

    def _check_query(self, test: QueryTest) -> Iterator[str]:
        head = f"expr: {quote(test.text)}, time: {format_duration(test.eval_seconds)},"
        if test.unsupported or test.expr is None:
            yield f"{head} err: {test.unsupported}"
            return
        try:
            value = as_vector(self._query(test.expr, self._group.start + test.eval_seconds))
        except QueryError as error:
            yield f"{head} err: {error}"
            return
        got: list[Row] = sorted(((dict(point.labels), point.value) for point in value), key=_order)
        wanted = sorted(test.expected, key=_order)
        if len(got) != len(wanted) or not all(map(self._same, wanted, got)):
            yield f"{head}\n  exp: {_listed(list(map(_row, wanted)))}\n  got: {_listed(list(map(_row, got)))}"

    def _same(self, wanted: Row, got: Row) -> bool:
        if dict(wanted[0]) != dict(got[0]):
            return False
        a, b = wanted[1], got[1]
        near = self._file.fuzzy and math.nextafter(b, -math.inf) <= a <= math.nextafter(b, math.inf)
        return a == b or near or (math.isnan(a) and math.isnan(b))


def _samples(group: UnitTest) -> Iterator[Sample]:
    step_ms = round(group.interval_seconds * 1000)
    for series in group.series:
        labels = Labels(series.labels)
        for index, value in enumerate(series.values):
            if value is not None:
                yield Sample(labels, value, round(group.start + index * step_ms / 1000, 3))


def _order(row: Row) -> tuple[list[tuple[str, str]], float]:
    return sorted(row[0].items()), row[1]


def _shown(labels: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{name}={quote(value)}" for name, value in sorted(labels.items())) + "}"


def _alert(labels: Mapping[str, str], annotations: Mapping[str, str]) -> str:
    return f"Labels:{_shown(labels)} Annotations:{_shown(annotations)}"


def _row(row: Row) -> str:
    return f"{_shown(row[0])} {format_float(row[1])}"


def _listed(lines: Sequence[str]) -> str:
    return "[" + "".join(f"\n    {line}" for line in lines) + ("\n  ]" if lines else "]")


def _indented(text: str, by: int) -> str:
    return "\n".join(" " * by + line for line in text.split("\n"))
