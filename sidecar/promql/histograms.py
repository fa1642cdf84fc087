"""Functions over classic histograms: series that differ in `le`. Semantics: promql/functions.go of Prometheus 3."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import cast

from sidecar.model import Labels
from sidecar.promql import buckets
from sidecar.promql.buckets import Bucket
from sidecar.promql.context import Evaluation, Operand, project
from sidecar.promql.notation import format_general
from sidecar.promql.notes import Fix
from sidecar.promql.remarks import remark_bucket, remark_fix, remark_share
from sidecar.promql.tree import Call
from sidecar.promql.values import Point, Vector

_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_HEXADECIMAL = re.compile(r"[+-]?0x([0-9a-f]+\.?[0-9a-f]*|\.[0-9a-f]+)p[+-]?\d+", re.IGNORECASE | re.ASCII)
_WORD = re.compile(r"[+-]?inf(inity)?|nan", re.IGNORECASE | re.ASCII)
_LE = ("le",)


def histogram_quantile(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    """One element for each histogram."""
    share, vector = cast(tuple[float, Vector], arguments)
    remark_share(ev, share, call.arguments[0].position)
    position = call.arguments[1].position
    return ev.unique([
        Point(ev.nameless(labels), _quantile(ev, share, labels, found, position))
        for labels, found in _histograms(ev, vector, position)
    ])


def histogram_quantiles(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    """One element for each histogram and each quantile asked for, which stands in a label of the given name."""
    vector, label, *shares = cast(tuple[Vector, str, float], arguments)
    for share, argument in zip(shares, call.arguments[2:], strict=True):
        remark_share(ev, share, argument.position)
    position = call.arguments[0].position
    histograms = list(_histograms(ev, vector, position))
    return ev.unique([
        Point(ev.nameless(labels.merged({label: _quantile_text(share)})),
              _quantile(ev, share, labels, found, position))
        for share in shares for labels, found in histograms
    ])


def histogram_fraction(ev: Evaluation, call: Call, arguments: Sequence[Operand]) -> Vector:
    """The share of each histogram's observations that lies between two numbers."""
    low, high, vector = cast(tuple[float, float, Vector], arguments)
    return ev.unique([
        Point(ev.nameless(labels), buckets.fraction(low, high, found))
        for labels, found in _histograms(ev, vector, call.arguments[2].position)
    ])


def _histograms(ev: Evaluation, vector: Vector, position: int | None) -> Iterator[tuple[Labels, list[Bucket]]]:
    """The elements gathered by what remains of their labels without `le`. Those without a number there are left out."""
    found: dict[Labels, list[Bucket]] = {}
    for labels, count in vector:
        text = labels.get("le", "")
        upper = _bound(text)
        if upper is None:
            remark_bucket(ev, labels.metric, text, position)
        else:
            found.setdefault(project(labels, False, _LE), []).append(Bucket(upper, count))
    return iter(found.items())


def _bound(text: str) -> float | None:
    """The number that Go's strconv.ParseFloat reads in `text`; Python's float() takes blanks, underscores and more."""
    if _DECIMAL.fullmatch(text):
        value = float(text)
        return value if math.isfinite(value) else None
    if _HEXADECIMAL.fullmatch(text):
        try:
            return float.fromhex(text)
        except OverflowError:
            return None
    return float(text) if _WORD.fullmatch(text) else None


def _quantile(ev: Evaluation, share: float, labels: Labels, found: list[Bucket], position: int | None) -> float:
    value, mended = buckets.quantile(share, found)
    if mended:
        name = labels.metric if ev.options.delayed_name_removal else ""
        remark_fix(ev, name, Fix(*mended, since=ev.at, until=ev.at), position)
    return value


def _quantile_text(share: float) -> str:
    """As OpenMetrics writes a quantile: never as a whole number."""
    text = format_general(share)
    return text if not math.isfinite(share) or "e" in text or "." in text else f"{text}.0"
