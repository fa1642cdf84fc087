"""The functions that Prometheus adds to Go's templates, less those that need the alert's moment (see template.py).

Source: the template reference of Prometheus's documentation, and the output of promtool for numbers.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from sidecar.errors import QueryError
from sidecar.promql.backtracking import runs_away
from sidecar.promql.notation import quote
from sidecar.promql.pattern import emit, parse_pattern
from sidecar.promql.regex import Regex, regex
from sidecar.rules.durations import parse_duration
from sidecar.rules.gotemplate.builtins import BUILTINS, query_escape
from sidecar.rules.gotemplate.call import Callee, CallFailed
from sidecar.rules.gotemplate.format import format_float, format_value, type_name
from sidecar.rules.gotemplate.moments import NANOSECONDS, Duration, Time

_LARGEST = 2**63 - 1


class TemplateSample:
    """One element of a query's result, with the fields Labels and Value. Lives as long as one expansion."""

    go_type = "*template.sample"

    def __init__(self, labels: Mapping[str, str], value: float) -> None:
        self.labels = labels
        self.value = value

    def __str__(self) -> str:
        return f"{{{format_value(self.labels)} {format_float(self.value)}}}"

    @property
    def go_fields(self) -> Mapping[str, object]:
        """The fields a template may name."""
        return {"Labels": self.labels, "Value": self.value}


class QueryResult(list[TemplateSample]):
    """What `query` gives. Lives as long as one expansion."""

    go_type = "template.queryResult"


class _Arguments(dict[str, object]):
    """What `args` gives: a missing entry is nil, not the empty string."""

    go_zero = None


def _first(result: QueryResult) -> TemplateSample:
    if not result:
        raise CallFailed("first() called on vector with no elements")
    return result[0]


def _sort_by_label(label: str, result: QueryResult) -> QueryResult:
    return QueryResult(sorted(result, key=lambda sample: sample.labels.get(label, "")))


_GO_FLOAT = re.compile(r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?|inf|infinity)|nan", re.IGNORECASE)


def to_float(value: object) -> float:
    """A float64, int, numeric string or duration (in seconds) as a number. Raises CallFailed for anything else."""
    match value:
        case bool():
            raise CallFailed("can't convert bool to float")
        case int() | float():
            return float(value)
        case str():
            if not _GO_FLOAT.fullmatch(value):
                raise CallFailed(f"strconv.ParseFloat: parsing {quote(value)}: invalid syntax")
            return float(value)
        case Duration():
            return value.nanoseconds / NANOSECONDS
    raise CallFailed(f"can't convert {type_name(value)} to float")


_DECIMAL, _BINARY, _SMALL = "kMGTPEZY", ("ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"), "munpfazy"


def _divided(value: float, factor: float, prefixes: Iterable[str]) -> str:
    """Four digits of a large number with the first prefix that brings it below `factor`."""
    shown = ""
    for prefix in prefixes:
        if abs(value) < factor:
            break
        shown, value = prefix, value / factor
    return f"{_four_digits(value)}{shown}"


def _multiplied(value: float) -> str:
    """Four digits of a number below one with the first prefix that brings it to one or more."""
    shown = ""
    for prefix in _SMALL:
        if abs(value) >= 1:
            break
        shown, value = prefix, value * 1000
    return f"{_four_digits(value)}{shown}"


def _four_digits(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else format_float(value)


def humanize(given: object) -> str:
    """`21M`: four digits and a decimal prefix."""
    value = to_float(given)
    if value == 0 or not math.isfinite(value):
        return _four_digits(value)
    return _divided(value, 1000, _DECIMAL) if abs(value) >= 1 else _multiplied(value)


def humanize1024(given: object) -> str:
    """`1.5Gi`: four digits and a binary prefix."""
    value = to_float(given)
    if abs(value) <= 1 or not math.isfinite(value):
        return _four_digits(value)
    return _divided(value, 1024, _BINARY)


def humanize_duration(given: object) -> str:
    """`1d 2h 3m 4s` of seconds; below a minute four digits."""
    value = to_float(given)
    if not math.isfinite(value) or value == 0:
        return _four_digits(value) + ("s" if value == 0 else "")
    if abs(value) < 1:
        return _multiplied(value) + "s"
    sign, value = ("-", -value) if value < 0 else ("", value)
    # Go converts a float that no int64 can hold to the smallest int64, and its division truncates towards zero.
    whole = int(value) if value <= _LARGEST else -_LARGEST - 1
    days, hours, minutes, seconds = (
        int(math.copysign(abs(whole) // size % cycle, whole)) for size, cycle in
        ((86_400, 2**64), (3600, 24), (60, 60), (1, 60))
    )
    if days:
        return f"{sign}{days}d {hours}h {minutes}m {seconds}s"
    if hours:
        return f"{sign}{hours}h {minutes}m {seconds}s"
    return f"{sign}{minutes}m {seconds}s" if minutes else f"{sign}{_four_digits(value)}s"


def _nanoseconds(given: object, what: str) -> int:
    value = to_float(given)
    if not math.isfinite(value):
        raise CallFailed("value is NaN or Inf")
    if not -_LARGEST - 1 <= value * NANOSECONDS <= _LARGEST:
        raise CallFailed(f"{format_float(value)} cannot be represented as a {what} since it overflows int64")
    return int(value * NANOSECONDS)


def _time(given: object) -> Time:
    milliseconds = math.trunc(_nanoseconds(given, "nanoseconds timestamp") / 1_000_000)
    return Time(milliseconds * 1_000_000)


def _humanize_timestamp(given: object) -> str:
    value = to_float(given)
    return str(_time(value)) if math.isfinite(value) else _four_digits(value)


@lru_cache(maxsize=256)
def _searching(pattern: str) -> tuple[Regex, re.Pattern[str]]:
    """A pattern made ready to be found anywhere in a text. Raises CallFailed."""
    try:
        node, _ = parse_pattern(f"(?-s:{pattern})")
        if runs_away(node):
            raise CallFailed(f"pattern {quote(pattern)} could take forever on some texts: write it with fewer repeats")
        return regex(pattern), re.compile(emit(node), re.DOTALL)
    except (QueryError, ValueError, re.error, RecursionError) as error:
        raise CallFailed(f"error parsing regexp {quote(pattern)}: {error}") from None


def _replace_all(pattern: str, replacement: str, text: str) -> str:
    parsed, compiled = _searching(pattern)
    parts, at = list[str](), 0
    for found in compiled.finditer(text):
        if found.end() == found.start() == at and parts:
            continue  # Go ignores an empty match right behind another match
        parts += [text[at : found.start()], parsed.expand(replacement, (found[0], *found.groups()))]
        at = found.end()
    return "".join(parts) + text[at:]


def _title(text: str) -> str:
    return re.sub(r"(?<!\w)\w", lambda found: found[0].title(), text)


def _split_host_port(text: str) -> tuple[str, str] | None:
    """The host without brackets and the port of `host:port`, or None where it has no such form (net.SplitHostPort)."""
    found = re.fullmatch(r"\[([^\[\]]*)\]:([^:\[\]]*)|([^:\[\]]*):([^:\[\]]*)", text)
    if found is None:
        return None
    return (found[1], found[2]) if found[1] is not None else (found[3], found[4])


def _strip_domain(text: str) -> str:
    split = _split_host_port(text)
    host, port = split or (text, "")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        host = host.partition(".")[0]
        return f"{host}:{port}" if port else host
    return text


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise CallFailed(str(error)) from None


def _graph_link(tab: int) -> Callable[[str], str]:
    return lambda expression: f"/graph?g0.expr={query_escape(expression)}&g0.tab={tab}"


FUNCTIONS: Mapping[str, Callee] = {
    **BUILTINS,
    "args": Callee(lambda *values: _Arguments({f"arg{i}": value for i, value in enumerate(values)}), (), object),
    "first": Callee(_first, (QueryResult,)),
    "graphLink": Callee(_graph_link(0), (str,)),
    "humanize": Callee(humanize, (object,)),
    "humanize1024": Callee(humanize1024, (object,)),
    "humanizeDuration": Callee(humanize_duration, (object,)),
    "humanizePercentage": Callee(lambda value: _four_digits(to_float(value) * 100) + "%", (object,)),
    "humanizeTimestamp": Callee(_humanize_timestamp, (object,)),
    "label": Callee(lambda name, sample: sample.labels.get(name, ""), (str, TemplateSample)),
    "match": Callee(lambda pattern, text: _searching(pattern)[1].search(text) is not None, (str, str)),
    "parseDuration": Callee(_seconds, (str,)),
    "reReplaceAll": Callee(_replace_all, (str, str, str)),
    "safeHtml": Callee(lambda text: text, (str,)),
    "sortByLabel": Callee(_sort_by_label, (str, QueryResult)),
    "stripDomain": Callee(_strip_domain, (str,)),
    "stripPort": Callee(lambda text: (_split_host_port(text) or (text,))[0], (str,)),
    "strvalue": Callee(lambda sample: sample.labels.get("__value__", ""), (TemplateSample,)),
    "tableLink": Callee(_graph_link(1), (str,)),
    "title": Callee(_title, (str,)),
    "toDuration": Callee(lambda value: Duration(_nanoseconds(value, "duration")), (object,)),
    "toLower": Callee(str.lower, (str,)),
    "toTime": Callee(_time, (object,)),
    "toUpper": Callee(str.upper, (str,)),
    "urlQueryEscape": Callee(query_escape, (str,)),
    "value": Callee(lambda sample: sample.value, (TemplateSample,)),
}
