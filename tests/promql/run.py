"""Runs files of Prometheus's query test language against our evaluator: python tests/promql/run.py FILE…

The language is described in prometheus/promql/promqltest/README.md. A case is counted as unsupported, apart from passed
and failed, where it looks at a native histogram or expects one, and where it is written with anchored or smoothed
ranges, info(), fill modifiers or computed durations.
The engine is set as that suite sets its own: subqueries step 1m, names removed at the end, experimental functions on.
Only the files in AT_ONCE have names removed at each function.
"""

import contextlib
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from sidecar.errors import QueryError
from sidecar.model import STALE, Labels
from sidecar.promql.context import Note, Options
from sidecar.promql.evaluate import instant, over_range
from sidecar.promql.parse import parse
from sidecar.promql.regex import predicate
from sidecar.promql.tree import Expr
from sidecar.promql.values import Matcher, Matrix, Series, Value

OPTIONS = Options(delayed_name_removal=True)
AT_ONCE = ("names_at_once.test",)

_DURATION = re.compile(r"(\d+)(ms|[smhdwy])")
_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_EVAL = re.compile(
    r"eval(?P<mode>|_fail|_ordered|_warn|_info)\s+"
    r"(?:instant\s+at\s+(?P<at>\S+)|range\s+from\s+(?P<start>\S+)\s+to\s+(?P<end>\S+)\s+step\s+(?P<step>\S+))\s+(?P<expr>.*)",
    re.DOTALL)
_EXPECT = re.compile(r"expect\s+(?P<what>\w+)(?:\s+(?P<kind>msg|regex)\s*:\s*(?P<text>.*)|\s+(?P<rest>.*))?")
_RANGE_VECTOR = re.compile(r"vector\s+from\s+(\S+)\s+to\s+(\S+)\s+step\s+(\S+)")
_SERIES = re.compile(r"""([A-Za-z_:][\w:]*)?\s*(\{(?!\{)(?:[^"}]|"(?:\\.|[^"\\])*")*\})?\s*(.*)""", re.DOTALL)
_LABEL = re.compile(r"""\s*("(?:\\.|[^"\\])*"|[\w.]+)\s*(?:=\s*("(?:\\.|[^"\\])*"|'[^']*'))?\s*,?""")
_VALUE = re.compile(r"\{\{.*?\}\}(?:[+-]\{\{.*?\}\})?(?:x\d+)?|\S+")
_REPEATED = re.compile(r"(?P<first>[+-]?(?:\d[\d.]*(?:[eE][+-]?\d+)?|\.\d+|[iI]nf|NaN|0x[0-9a-fA-F]+|stale|_))"
                       r"(?:(?P<step>[+-](?:\d[\d.]*(?:[eE][+-]?\d+)?|\.\d+|[iI]nf)))?(?:x(?P<times>\d+))?")
_LEFT_OUT = re.compile(r"\b(anchored|smoothed|info\s*\(|fill(_left|_right)?\s*\(|histogram_(avg|count|sum|std\w+)\s*\()"
                       r"|\[[^]]*[-+*/%^(][^]]*\]|\boffset\s+[-+]?\s*(\(|\w+\()")
_WHOLE_QUERY = re.compile(r"\b(start|end|step|range|sort\w*)\s*\(")


HISTOGRAM = "histogram"


class Unsupported(Exception):
    """A case that needs something which is left out on purpose."""


class Mismatch(Exception):
    """A case whose result is not the expected one."""


@dataclass
class Case:
    """One `eval` with what it expects."""

    line: int
    expr: str
    at: float = 0.0
    range: tuple[float, float, float] | None = None
    expects: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Result(NamedTuple):
    """How one file went; `messages` are one per failure."""

    passed: int
    failed: int
    unsupported: int
    messages: list[str]


class Storage:
    """The samples loaded since the last `clear`. Of native histograms only the times are kept."""

    def __init__(self) -> None:
        self.series: dict[Labels, dict[float, float]] = {}
        self.histograms: dict[Labels, list[float]] = {}

    def load(self, header: str, lines: Sequence[str]) -> None:
        command, gap = header.split()[:2]
        loaded: dict[Labels, dict[float, float]] = {}
        for line in lines:
            labels, text = series_line(line)
            values = {round(index * duration(gap), 3): value for index, value in enumerate(sequence(text))}
            loaded[labels] = {at: value for at, value in values.items() if isinstance(value, float)}
            self.histograms.setdefault(labels, []).extend(at for at, value in values.items() if value == HISTOGRAM)
            if command == "load_with_nhcb":
                base = labels.without("le").merged({"__name__": labels.metric.removesuffix("_bucket")})
                self.histograms.setdefault(base, []).extend(loaded[labels])
        for labels, samples in loaded.items():
            self.series[labels] = samples | self.series.get(labels, {})

    def select(self, matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Series]:
        if any(matches(labels, matchers) and any(start < at <= end for at in times)
               for labels, times in self.histograms.items()):
            raise Unsupported("native histograms")
        for labels, samples in self.series.items():
            if matches(labels, matchers):
                times = [at for at in sorted(samples) if start < at <= end]
                if times:
                    yield Series(labels, times, [samples[at] for at in times])


def matches(labels: Labels, matchers: Sequence[Matcher]) -> bool:
    """Whether a series with these labels passes all matchers."""
    return all(predicate(matcher)(labels.get(matcher.name, "")) for matcher in matchers)


def duration(text: str) -> float:
    """`1m30s` or a plain number of seconds."""
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    parts = _DURATION.findall(text)
    return sign * round(sum(int(n) * _UNIT_SECONDS[unit] for n, unit in parts), 3) if parts else sign * float(text)


def number(text: str) -> float:
    """A number of the test language."""
    return float(int(text, 16)) if text.lower().startswith("0x") else float(text)


def sequence(text: str) -> list[float | str | None]:
    """`1 2+1x3 _x2 stale {{}}` as values: HISTOGRAM for a native histogram, None where there is no sample."""
    values: list[float | str | None] = []
    for part in _VALUE.findall(text):
        if part.startswith("{{"):
            values.extend([HISTOGRAM] * (int(part.rpartition("x")[2] if part[-1] != "}" else 0) + 1))
            continue
        found = _REPEATED.fullmatch(part)
        assert found is not None, part
        times = int(found["times"] or 0)
        if found["first"] == "_":
            values.extend([None] * max(times, 1))
        elif found["first"] == "stale":
            values.append(STALE)
        else:
            first, step = number(found["first"]), float(found["step"] or 0)
            values.extend(first + step * index for index in range(times + 1))
    return values


def series_line(line: str) -> tuple[Labels, str]:
    """The labels at the start of a line, and the rest."""
    found = _SERIES.fullmatch(line)
    assert found is not None, line
    pairs = {"__name__": found[1] or ""}
    for name, value in _LABEL.findall((found[2] or "{}")[1:-1]):
        if value:
            pairs[unquote(name) if name[0] == '"' else name] = unquote(value)
        else:
            pairs["__name__"] = unquote(name)
    return Labels(pairs), found[3]


def unquote(text: str) -> str:
    """A string of the test language without its quotes."""
    if text[0] == "`":
        return text[1:-1]
    return re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), text[1:-1])


def almost(left: float, right: float) -> bool:
    """Equal within one part in a million, as Prometheus's own runner compares."""
    if left == right or (left != left and right != right):
        return True
    if not (math.isfinite(left) and math.isfinite(right)):
        return False
    tiny = sys.float_info.min
    if left == 0 or right == 0 or abs(left) + abs(right) < tiny:
        return abs(left - right) < 1e-6 * tiny
    return abs(left - right) / min(abs(left) + abs(right), sys.float_info.max) < 1e-6


def check_notes(case: Case, notes: list[Note]) -> None:
    """Warnings and remarks against `expect warn`, `no_warn` and their kin."""
    for what, severity in (("warn", "warning"), ("info", "info")):
        rendered = [note.render(case.expr) for note in notes if note.severity == severity]
        for kind, text in case.expects.get(what, ()):
            if not any(says(kind, text, shown) for shown in rendered):
                raise Mismatch(f"expected {what} {text!r}, got {rendered}")
        if rendered and f"no_{what}" in case.expects:
            raise Mismatch(f"unexpected {what}: {rendered}")


def says(kind: str, text: str, shown: str) -> bool:
    """Whether a message is the expected one."""
    return bool(re.search(text, shown)) if kind == "regex" else text in shown


def check_value(case: Case, value: Value) -> None:
    """The value of an instant query."""
    if isinstance(value, str):
        wanted = unquote(case.expects["string"][0][1])
        if value != wanted:
            raise Mismatch(f"got {value!r}, expected {wanted!r}")
    elif isinstance(value, float):
        if not almost(value, number(case.lines[0])):
            raise Mismatch(f"got {value}, expected {case.lines[0]}")
    elif "range" in case.expects:
        check_series(case, [(s.labels, list(zip(s.times, s.values, strict=True))) for s in value])
    else:
        got = [(point.labels, [(case.at, point.value)]) for point in value]
        check_series(case, got)
        wanted_order = [series_line(line)[0] for line in case.lines]
        if "ordered" in case.expects and [labels for labels, _ in got] != wanted_order:
            raise Mismatch(f"got the order {[labels for labels, _ in got]}")


def check_series(case: Case, got: list[tuple[Labels, list[tuple[float, float]]]]) -> None:
    """Series against the expected lines; a line's values stand for the steps of the query."""
    start, step = case.at, 0.0
    if case.range:
        start, _, step = case.range
    elif "range" in case.expects:
        found = _RANGE_VECTOR.fullmatch(case.expects["range"][0][1])
        assert found is not None
        start, step = duration(found[1]), duration(found[3])
    wanted: dict[Labels, list[tuple[float, float]]] = {}
    for line in case.lines:
        labels, text = series_line(line)
        wanted[labels] = [(round(start + index * step, 3), value)
                          for index, value in enumerate(sequence(text)) if isinstance(value, float)]
    wanted = {labels: points for labels, points in wanted.items() if points}
    left = dict(got)
    if left.keys() != wanted.keys() or len(left) != len(got):
        raise Mismatch(f"got {sorted(map(repr, left))}, expected {sorted(map(repr, wanted))}")
    for labels, points in wanted.items():
        mine = left[labels]
        if [at for at, _ in mine] != [at for at, _ in points] or not all(
            almost(a[1], b[1]) for a, b in zip(mine, points, strict=True)
        ):
            raise Mismatch(f"{labels}: got {mine}, expected {points}")


def run_case(case: Case, storage: Storage, options: Options = OPTIONS) -> None:
    """Evaluate one case. Unsupported or Mismatch say why it did not pass."""
    if any("{{" in line or "{count:" in line for line in case.lines):
        raise Unsupported("native histograms")
    fails = case.expects.get("fail")
    try:
        expr = parse(case.expr, experimental=True)
    except QueryError as error:
        if _LEFT_OUT.search(case.expr) or "native histograms" in error.help:
            raise Unsupported(str(error)) from error
        return check_failure(case, error)
    notes: list[Note] = []
    try:
        if case.range:
            matrix = over_range(expr, storage.select, *case.range, options=options, notes=notes)
            got = [(s.labels, list(zip(s.times, s.values, strict=True))) for s in matrix]
        else:
            value = instant(expr, storage.select, case.at, options=options, notes=notes)
    except QueryError as error:
        return check_failure(case, error)
    if fails:
        raise Mismatch("it should have failed")
    if case.range:
        check_series(case, got)
    else:
        check_value(case, value)
        check_as_range(case, expr, storage, options)
    return check_notes(case, notes)


def check_failure(case: Case, error: QueryError) -> None:
    """A failure, which must be expected, and its message."""
    if "fail" not in case.expects:
        raise Mismatch(f"failed: {error}") from error
    for kind, text in case.expects["fail"]:
        if not says(kind, text, str(error)):
            raise Mismatch(f"failed with {error}, expected {text}")


def check_as_range(case: Case, expr: Expr, storage: Storage, options: Options) -> None:
    """An instant query must give the same as the middle step of a range query."""
    if {"range", "string", "ordered"} & case.expects.keys() or _WHOLE_QUERY.search(case.expr):
        return
    with contextlib.suppress(Unsupported):
        compare_middle(case, over_range(expr, storage.select, case.at - 60, case.at + 60, 60, options=options))


def compare_middle(case: Case, matrix: Matrix) -> None:
    """The middle step of a range query against what an instant query at that moment must give."""
    middle = [(s.labels, [(at, v) for at, v in zip(s.times, s.values, strict=True) if at == case.at]) for s in matrix]
    if case.lines and re.match(r"[-+\d.]|NaN|[iI]nf", case.lines[0]):
        case = Case(case.line, case.expr, case.at, lines=["{} " + case.lines[0]])
    check_series(case, [(labels, points) for labels, points in middle if points])


def blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Runs of lines that are neither blank nor comments, with the number of their first line."""
    block: list[str] = []
    for index, line in enumerate([*text.splitlines(), ""], 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            if stripped == "clear" or (block and re.match(r"(eval\w*\s+(instant|range)|load\w*\s+\d)", stripped)):
                if block:
                    yield index - len(block), block
                block = []
            block.append(stripped)
        elif block:
            yield index - len(block), block
            block = []


def read_case(line: int, block: Sequence[str]) -> Case:
    """An `eval` and the lines that follow it."""
    found = _EVAL.fullmatch(block[0])
    assert found is not None, f"line {line}: {block[0]}"
    case = Case(line, found["expr"])
    if found["at"]:
        case.at = duration(found["at"])
    else:
        case.range = (duration(found["start"]), duration(found["end"]), duration(found["step"]))
    if found["mode"]:
        case.expects[found["mode"][1:]] = [("msg", "")]
    for text in block[1:]:
        expect = _EXPECT.fullmatch(text)
        if expect:
            wanted = (expect["kind"] or "msg", expect["text"] or expect["rest"] or "")
            case.expects.setdefault(expect["what"], []).append(wanted)
        elif text.startswith("expected_fail_"):
            kind = "regex" if text.startswith("expected_fail_regexp") else "msg"
            case.expects.setdefault("fail", []).append((kind, text.split(None, 1)[1]))
        else:
            case.lines.append(text)
    return case


def run_file(path: Path) -> Result:
    """Run every case of a file."""
    storage = Storage()
    options = replace(OPTIONS, delayed_name_removal=path.name not in AT_ONCE)
    passed = failed = unsupported = 0
    messages = []
    for line, block in blocks(path.read_text()):
        if block[0] == "clear":
            storage = Storage()
        elif block[0].startswith("load"):
            storage.load(block[0], block[1:])
        else:
            try:
                case = read_case(line, block)
                run_case(case, storage, options)
                passed += 1
            except Unsupported:
                unsupported += 1
            except Mismatch as mismatch:
                failed += 1
                messages.append(f"{path}:{line}: {block[0]}\n    {mismatch}")
    return Result(passed, failed, unsupported, messages)


def main(arguments: Sequence[str]) -> int:
    """Run files and print one line for each, then the total. 1 if anything failed."""
    results = []
    for argument in arguments:
        result = run_file(Path(argument))
        results.append(result)
        print(*result.messages, sep="\n", end="\n" if result.messages else "")
        print(f"{argument} passed {result.passed} failed {result.failed} unsupported {result.unsupported}")
    passed, failed, unsupported = (sum(result[index] for result in results) for index in range(3))
    print(f"total passed {passed} failed {failed} unsupported {unsupported}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
