"""What the numbers of an expression are, as far as the names of its metrics tell, and how people read them."""

from datetime import UTC, datetime
from typing import Literal

from sidecar.promql.notation import format_duration, format_float
from sidecar.promql.tree import (
    Aggregate,
    Binary,
    Call,
    Expr,
    MatrixSelector,
    Paren,
    Subquery,
    Unary,
    VectorSelector,
)

Unit = Literal["", "bytes", "bytes/s", "seconds", "timestamp", "ratio"]

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_ENDINGS: tuple[tuple[str, Unit], ...] = (
    ("_timestamp_seconds", "timestamp"), ("_start_time_seconds", "timestamp"), ("_bytes", "bytes"),
    ("_bytes_total", "bytes"), ("_seconds", "seconds"), ("_seconds_total", "seconds"), ("_ratio", "ratio"))
_KEEPING = frozenset((
    "abs", "ceil", "floor", "round", "clamp", "clamp_max", "clamp_min", "scalar", "vector", "sort", "sort_desc",
    "sort_by_label", "sort_by_label_desc", "label_replace", "label_join", "predict_linear", "delta", "idelta",
    "increase", "avg_over_time", "min_over_time", "max_over_time", "sum_over_time", "last_over_time",
    "quantile_over_time"))
_KEEPING_AGGREGATIONS = frozenset(("sum", "min", "max", "avg", "topk", "bottomk", "quantile", "limitk", "limit_ratio"))
_PER_SECOND = frozenset(("rate", "irate", "deriv"))
_COMPARISONS = frozenset((">", "<", ">=", "<=", "==", "!="))


def unit_of(expr: Expr) -> Unit:
    """The unit of an expression's values; the empty string where the names do not tell."""
    match expr:
        case VectorSelector():
            return unit_of_name(expr.name)
        case MatrixSelector():
            return unit_of_name(expr.selector.name)
        case Paren() | Unary() | Subquery():
            return unit_of(expr.expr)
        case Aggregate():
            return unit_of(expr.expr) if expr.op in _KEEPING_AGGREGATIONS else ""
        case Call():
            return _of_call(expr)
        case Binary():
            return _of_binary(expr)
    return ""


def unit_of_name(name: str) -> Unit:
    """The unit that a metric's name ends in; a recorded one may have it in any of its parts."""
    for part in name.split(":"):
        for ending, unit in _ENDINGS:
            if part.endswith(ending):
                return unit
    return ""


def _of_call(expr: Call) -> Unit:
    if expr.function == "time":
        return "timestamp"
    inner: Unit = next((unit for argument in expr.arguments if (unit := unit_of(argument))), "")
    if expr.function in _PER_SECOND:
        return "bytes/s" if inner == "bytes" else "ratio" if inner == "seconds" else ""
    return inner if expr.function in _KEEPING else ""


def _of_binary(expr: Binary) -> Unit:
    left, right = unit_of(expr.left), unit_of(expr.right)
    if expr.returns_bool:
        return ""
    if expr.op in _COMPARISONS or expr.op in ("and", "or", "unless"):
        return left or right
    if expr.op == "-" and left == right == "timestamp":
        return "seconds"
    if expr.op in ("+", "-"):
        return left or right
    if expr.op == "*":
        return left if not right else right if not left else ""
    if expr.op == "/":
        return left if not right else "ratio" if left == right else ""
    return ""


def readable(value: float, unit: Unit) -> str:
    """A number for people: `812 MiB`, `1.2 MiB/s`, `12.5 s`, `95.1 %`, a time, or six digits."""
    if value != value or value in (float("inf"), float("-inf")):
        return format_float(value)
    match unit:
        case "bytes":
            return _binary(value)
        case "bytes/s":
            return f"{_binary(value)}/s"
        case "seconds":
            return f"{value:.3g} s" if abs(value) < 120 else format_duration(round(value))
        case "ratio":
            return f"{value * 100:.4g} %"
        case "timestamp" if 0 <= value < 2e11:
            return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return format_float(value) if len(format_float(value)) <= 12 else f"{value:.6g}"


def _binary(value: float) -> str:
    power = 0
    while abs(value) >= 1024 and power < len(_BINARY) - 1:
        value /= 1024
        power += 1
    return f"{value:.4g} {_BINARY[power]}"
