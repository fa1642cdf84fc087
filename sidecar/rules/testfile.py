"""Files of unit tests for rules, read strictly: the format of `promtool test rules`.

Source: https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/.
"""

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sidecar.errors import QueryError, RuleError
from sidecar.promql.parse import parse
from sidecar.promql.tree import Expr
from sidecar.rules.load import read_yaml
from sidecar.rules.native_histogram import NativeHistogram
from sidecar.rules.nodes import Items, Node, Reader, Scalar, TooMuch
from sidecar.rules.series_notation import InputValue, parse_series, parse_values

T = TypeVar("T")

DEFAULT_INTERVAL_SECONDS = 60.0

_FILE = ("rule_files", "evaluation_interval", "group_eval_order", "tests", "fuzzy_compare")
_TEST = ("name", "interval", "input_series", "alert_rule_test", "promql_expr_test", "external_labels", "external_url",
         "start_timestamp")
_UNIX = re.compile(r"[+-]?[0-9]{1,12}(?:\.[0-9]+)?")
_RFC_3339 = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})")

Row = tuple[Mapping[str, str], float | str]
"""Labels and a value: one element of a query's result. A native histogram is text, in its canonical notation."""


@dataclass(frozen=True, slots=True)
class InputSeries:
    """`values` are one interval apart, None where there is none."""

    labels: Mapping[str, str]
    values: Sequence[InputValue]


@dataclass(frozen=True, slots=True)
class AlertTest:
    """The firing alerts of one name that must be there, each as its labels (`alertname` included) and annotations."""

    eval_seconds: float
    alertname: str
    expected: Sequence[tuple[Mapping[str, str], Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class QueryTest:
    """The result that an expression must have. `problem` says why it cannot be evaluated or compared."""

    eval_seconds: float
    text: str
    expr: Expr | None
    expected: Sequence[Row]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class UnitTest:
    """One entry of `tests`. `title` tells it from the others where it has no name.

    `problems` are mistakes that keep this test from being run, but not the others of its file.
    """

    name: str
    title: str
    interval_seconds: float
    series: Sequence[InputSeries]
    alert_tests: Sequence[AlertTest]
    query_tests: Sequence[QueryTest]
    external_labels: Mapping[str, str]
    external_url: str
    start: float
    problems: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class UnitTestFile:
    """A whole file. `rule_files` are the paths found; `missing` are patterns without any."""

    path: Path
    rule_files: Sequence[Path]
    missing: Sequence[str]
    interval_seconds: float
    group_order: Sequence[str]
    fuzzy: bool
    groups: Sequence[UnitTest]


def read(path: Path, *, experimental: bool = False) -> UnitTestFile:
    """The tests of a file. RuleError holds every mistake in it.

    `experimental` admits what Prometheus has behind --enable-feature=promql-experimental-functions.
    """
    reader = Reader(str(path))
    try:
        found = _file(path, read_yaml(path, reader) or Scalar(None, (1, 1)), reader, experimental)
    except TooMuch:
        reader.problem((1, 1), "aliases make this file stand for too many values")
    if reader.problems:
        raise RuleError(reader.problems, help="the format is that of `promtool test rules`")
    return found


def _file(path: Path, document: Node, reader: Reader, experimental: bool) -> UnitTestFile:
    fields = reader.fields(document, _FILE)
    interval = reader.duration(fields.get("evaluation_interval")) or DEFAULT_INTERVAL_SECONDS
    rule_files: dict[Path, None] = {}
    missing: list[str] = []
    for node in reader.items(fields.get("rule_files")):
        pattern = reader.text(node)
        matches = _glob(path.parent, pattern)
        rule_files |= dict.fromkeys(matches)
        missing += [] if matches else [pattern]
    return UnitTestFile(
        path, tuple(rule_files), missing, interval, _order(fields.get("group_eval_order"), reader),
        fuzzy=reader.flag(fields.get("fuzzy_compare")),
        groups=[_group(node, index, interval, reader, experimental) for index, node in
                enumerate(reader.items(fields.get("tests")), 1)],
    )


def _glob(folder: Path, pattern: str) -> list[Path]:
    """The files that match, as Go's filepath.Glob finds them: `*` stays within a folder, and takes hidden files."""
    found = glob.glob(os.path.join(glob.escape(str(folder)), pattern), include_hidden=True) if pattern else []
    return sorted(Path(os.path.normpath(name)) for name in found)


def _order(node: Node | None, reader: Reader) -> list[str]:
    names: list[str] = []
    for child in reader.items(node):
        name = reader.text(child)
        if name in names:
            reader.problem(child.place, f"group name repeated in evaluation order: {name}")
        names.append(name)
    return names


def _group(node: Node, index: int, interval: float, reader: Reader, experimental: bool) -> UnitTest:
    name = reader.text(reader.mapping(node).get("name"))
    title = name or f"test {index}"
    with reader.inside(f"test {index} ({name})" if name else title):
        fields = reader.fields(node, _TEST)
        content = reader.aside()
        return UnitTest(
            name, title,
            reader.duration(fields.get("interval")) or interval,
            [_series(child, reader, content) for child in reader.items(fields.get("input_series"))],
            [_alert_test(child, reader, content) for child in reader.items(fields.get("alert_rule_test"))],
            [_query_test(child, reader, experimental) for child in reader.items(fields.get("promql_expr_test"))],
            reader.texts(fields.get("external_labels")),
            reader.text(fields.get("external_url")),
            _start(fields.get("start_timestamp"), reader),
            tuple(map(str, content.problems)),
        )


def _start(node: Node | None, reader: Reader) -> float:
    """Unix seconds, written as such or as RFC 3339."""
    text = reader.text(node)
    if not text or node is None:
        return 0.0
    try:
        if _UNIX.fullmatch(text):
            return round(float(text), 3)
        if _RFC_3339.fullmatch(text):
            return round(datetime.fromisoformat(text).timestamp(), 3)
    except ValueError:
        pass  # such as the 31st of February: told below
    reader.problem(node.place, f"start_timestamp: neither Unix seconds nor RFC 3339: {text!r}")
    return 0.0


def _series(node: Node, reader: Reader, content: Reader) -> InputSeries:
    fields = reader.fields(node, ("series", "values"))
    labels, values = fields.get("series"), fields.get("values")
    return InputSeries(_parsed(parse_series, labels or node, reader.text(labels), content) or {},
                       _parsed(parse_values, values or node, reader.text(values), content) or ())


def _parsed(parse: Callable[[str], T], node: Node, text: str, content: Reader) -> T | None:
    try:
        return parse(text)
    except ValueError as error:
        content.problem(node.place, str(error))
        return None


def _alert_test(node: Node, reader: Reader, content: Reader) -> AlertTest:
    fields = reader.fields(node, ("eval_time", "alertname", "exp_alerts"))
    name = reader.text(fields.get("alertname"))
    if not name:
        content.problem(node.place, "an item under alert_rule_test misses required attribute alertname")
    expected = []
    for child in reader.items(fields.get("exp_alerts")):
        alert = reader.fields(child, ("exp_labels", "exp_annotations"))
        labels = {**reader.texts(alert.get("exp_labels")), "alertname": name}
        expected.append((labels, reader.texts(alert.get("exp_annotations"))))
    return AlertTest(reader.duration(fields.get("eval_time")) or 0.0, name, expected)


def _query_test(node: Node, reader: Reader, experimental: bool) -> QueryTest:
    fields = reader.fields(node, ("expr", "eval_time", "exp_samples"))
    text, problem, expr = reader.text(fields.get("expr")), "", None
    expected: list[Row] = []
    for child in reader.items(fields.get("exp_samples")):
        row = reader.fields(child, ("labels", "value", "histogram"))
        labels, histogram = reader.text(row.get("labels")), reader.text(row.get("histogram"))
        value = _number(row.get("value"), reader)
        try:
            expected.append((parse_series(labels), _histogram(histogram) if histogram else value))
        except ValueError as error:
            problem = problem or f"exp_samples: {error}"
    try:
        expr = parse(text, experimental=experimental)
    except QueryError as error:
        problem = f"could not parse expression: {error}"
    return QueryTest(reader.duration(fields.get("eval_time")) or 0.0, text, expr, expected, problem)


def _histogram(text: str) -> str:
    """The canonical notation of the one histogram that `text` is. Raises ValueError."""
    values = parse_values(text)
    if len(values) != 1 or not isinstance(values[0], NativeHistogram):
        raise ValueError(f"expected one native histogram, found {text!r}")
    return str(values[0])


def _number(node: Node | None, reader: Reader) -> float:
    text = reader.text(node)
    if node is None or isinstance(node, Items) or not text:
        return 0.0
    try:
        return float(text.replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan").replace(".Inf", "inf"))
    except ValueError:
        reader.problem(node.place, f"expected a number, found {text!r}")
        return 0.0
