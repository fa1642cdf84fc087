"""Files of unit tests for rules, read strictly: the format of `promtool test rules`.

Source: https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sidecar.errors import QueryError, RuleError
from sidecar.promql.parse import parse
from sidecar.promql.tree import Expr
from sidecar.rules.load import read_yaml
from sidecar.rules.nodes import Items, Node, Reader, Scalar, TooMuch
from sidecar.rules.series_notation import parse_series, parse_values

DEFAULT_INTERVAL_SECONDS = 60.0

_FILE = ("rule_files", "evaluation_interval", "group_eval_order", "tests", "fuzzy_compare")
_TEST = ("name", "interval", "input_series", "alert_rule_test", "promql_expr_test", "external_labels", "external_url",
         "start_timestamp")

Row = tuple[Mapping[str, str], float]
"""Labels and a value: one element of a query's result."""


@dataclass(frozen=True, slots=True)
class InputSeries:
    """`values` are one interval apart, None where there is none. `unsupported` says what we cannot load."""

    labels: Mapping[str, str]
    values: Sequence[float | None]
    unsupported: str = ""


@dataclass(frozen=True, slots=True)
class AlertTest:
    """The firing alerts of one name that must be there, each as its labels (`alertname` included) and annotations."""

    eval_seconds: float
    alertname: str
    expected: Sequence[tuple[Mapping[str, str], Mapping[str, str]]]


@dataclass(frozen=True, slots=True)
class QueryTest:
    """The result that an expression must have. `unsupported` says what we cannot compare."""

    eval_seconds: float
    text: str
    expr: Expr | None
    expected: Sequence[Row]
    unsupported: str = ""


@dataclass(frozen=True, slots=True)
class UnitTest:
    """One entry of `tests`."""

    name: str
    interval_seconds: float
    series: Sequence[InputSeries]
    alert_tests: Sequence[AlertTest]
    query_tests: Sequence[QueryTest]
    external_labels: Mapping[str, str]
    external_url: str
    start: float


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
    rule_files: list[Path] = []
    missing: list[str] = []
    for node in reader.items(fields.get("rule_files")):
        pattern = reader.text(node)
        matches = _glob(path.parent, pattern)
        rule_files += matches
        missing += [] if matches else [pattern]
    return UnitTestFile(
        path, rule_files, missing, interval,
        group_order=[reader.text(node) for node in reader.items(fields.get("group_eval_order"))],
        fuzzy=reader.text(fields.get("fuzzy_compare")).lower() == "true",
        groups=[_group(node, index, interval, reader, experimental) for index, node in
                enumerate(reader.items(fields.get("tests")), 1)],
    )


def _glob(folder: Path, pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_absolute():
        return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if (folder / path).is_file():
        return [folder / path]  # also reaches out of the folder with .., which a glob would not follow on all versions
    return sorted(folder.glob(pattern)) if pattern else []


def _group(node: Node, index: int, interval: float, reader: Reader, experimental: bool) -> UnitTest:
    name = reader.text(reader.mapping(node).get("name"))
    with reader.inside(f'test {index}{f" ({name})" if name else ""}'):
        fields = reader.fields(node, _TEST)
        return UnitTest(
            name or f"test {index}",
            reader.duration(fields.get("interval")) or interval,
            [_series(child, reader) for child in reader.items(fields.get("input_series"))],
            [_alert_test(child, reader) for child in reader.items(fields.get("alert_rule_test"))],
            [_query_test(child, reader, experimental) for child in reader.items(fields.get("promql_expr_test"))],
            reader.texts(fields.get("external_labels")),
            reader.text(fields.get("external_url")),
            _start(fields.get("start_timestamp"), reader),
        )


def _start(node: Node | None, reader: Reader) -> float:
    """Unix seconds, written as such or as RFC 3339."""
    text = reader.text(node)
    if not text or node is None:
        return 0.0
    try:
        if text.lstrip("+-").isdigit():
            return float(text)
        moment = datetime.fromisoformat(text)
        return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp(), 3)
    except ValueError:
        reader.problem(node.place, f"start_timestamp: neither Unix seconds nor RFC 3339: {text!r}")
        return 0.0


def _series(node: Node, reader: Reader) -> InputSeries:
    fields = reader.fields(node, ("series", "values"))
    labels = _labels(fields.get("series"), reader)
    values = fields.get("values")
    text = reader.text(values)
    if "{{" in text:
        return InputSeries(labels, (), "native histograms are not supported")
    try:
        return InputSeries(labels, parse_values(text))
    except ValueError as error:
        reader.problem(values.place if values else node.place, str(error))
        return InputSeries(labels, ())


def _labels(node: Node | None, reader: Reader) -> dict[str, str]:
    text = reader.text(node)
    try:
        return parse_series(text)
    except ValueError as error:
        reader.problem(node.place if node else (0, 0), str(error))
        return {}


def _alert_test(node: Node, reader: Reader) -> AlertTest:
    fields = reader.fields(node, ("eval_time", "alertname", "exp_alerts"))
    name = reader.text(fields.get("alertname"))
    if not name:
        reader.problem(node.place, "an item under alert_rule_test misses required attribute alertname")
    expected = []
    for child in reader.items(fields.get("exp_alerts")):
        alert = reader.fields(child, ("exp_labels", "exp_annotations"))
        labels = {**reader.texts(alert.get("exp_labels")), "alertname": name}
        expected.append((labels, reader.texts(alert.get("exp_annotations"))))
    return AlertTest(reader.duration(fields.get("eval_time")) or 0.0, name, expected)


def _query_test(node: Node, reader: Reader, experimental: bool) -> QueryTest:
    fields = reader.fields(node, ("expr", "eval_time", "exp_samples"))
    text, unsupported = reader.text(fields.get("expr")), ""
    expected: list[Row] = []
    for child in reader.items(fields.get("exp_samples")):
        row = reader.fields(child, ("labels", "value", "histogram"))
        if "histogram" in row:
            unsupported = "native histograms are not supported"
        expected.append((_labels(row.get("labels"), reader), _number(row.get("value"), reader)))
    expr = None
    try:
        expr = parse(text, experimental=experimental)
    except QueryError as error:
        unsupported = f"could not parse expression: {error}"
    return QueryTest(reader.duration(fields.get("eval_time")) or 0.0, text, expr, expected, unsupported)


def _number(node: Node | None, reader: Reader) -> float:
    text = reader.text(node)
    if node is None or isinstance(node, Items) or not text:
        return 0.0
    try:
        return float(text.replace(".inf", "inf").replace(".nan", "nan").replace(".NaN", "nan").replace(".Inf", "inf"))
    except ValueError:
        reader.problem(node.place, f"expected a number, found {text!r}")
        return math.nan
