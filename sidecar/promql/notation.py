"""How PromQL writes numbers, durations, strings and label sets: what Go's strconv and Prometheus's printer write."""

import math
import re
from collections.abc import Iterable

from sidecar.model import Labels

_LEGACY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNITS_MS = (("y", 31_536_000_000), ("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000))
_ESCAPES = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
            "\\": "\\\\", '"': '\\"'}


def format_float(value: float) -> str:
    """The shortest digits that read back as `value`, never with an exponent: Go's FormatFloat(value, 'f', -1, 64)."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return text.removesuffix(".0")
    digits, point = mantissa.lstrip("-").replace(".", ""), 1 + int(exponent)
    sign = "-" if value < 0 else ""
    return sign + (f"0.{'0' * -point}{digits}" if point <= 0 else digits.ljust(point, "0"))


def format_general(value: float) -> str:
    """The shortest digits that read back as `value`, with an exponent below -4 and from 6 on: Go's %g."""
    if not math.isfinite(value) or value == 0:
        return format_float(value)
    from decimal import Decimal  # 0.3 MiB, for warnings that are seldom met

    exact = Decimal(repr(value)).normalize()
    if -4 <= exact.adjusted() < 6:
        return format_float(value)
    return f"{exact.scaleb(-exact.adjusted())}e{exact.adjusted():+03d}"


def format_duration(seconds: float) -> str:
    """`1h30m`, as Prometheus's model.Duration: years and weeks only where nothing remains, since 90d reads better."""
    left = round(abs(seconds) * 1000)
    if left == 0:
        return "0s"
    parts = ["-" if seconds < 0 else ""]
    for unit, size in _UNITS_MS:
        if left >= size and (unit not in "yw" or left % size == 0):
            parts.append(f"{left // size}{unit}")
            left %= size
    if left:
        parts.append(f"{left}ms")
    return "".join(parts)


def quote(text: str) -> str:
    """`text` in double quotes with Go's escapes (strconv.Quote)."""
    return '"' + "".join(_ESCAPES.get(char) or (char if char.isprintable() else _escape(char)) for char in text) + '"'


def _escape(char: str) -> str:
    code = ord(char)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def label_name(name: str) -> str:
    """A label name as written in an expression: quoted when it is not a plain identifier."""
    return name if _LEGACY_NAME.fullmatch(name) else quote(name)


def label_names(names: Iterable[str]) -> str:
    """Label names between the brackets of `by`, `on` and their kin."""
    return ", ".join(map(label_name, names))


def format_labels(labels: Labels) -> str:
    """`{__name__="up", job="a"}`: how Prometheus's errors show a series."""
    return "{" + ", ".join(f"{label_name(name)}={quote(value)}" for name, value in labels.items()) + "}"
