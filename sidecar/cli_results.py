"""Results of queries for people: what the elements have in common once, then a line each, ranges as a small curve."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from sidecar.cli_terminal import Terminal
from sidecar.errors import SidecarError
from sidecar.explain.seen import labels as labels_of
from sidecar.explain.units import Unit, readable, unit_of_name
from sidecar.model import METRIC_NAME, Labels
from sidecar.promql.notation import label_name, quote

BARS, PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
NARROWEST, WIDEST = 20, 120

Rows = Sequence[tuple[Labels, Sequence[tuple[float, str]]]]
"""For each element its labels, and its values with their times, as the API wrote them."""


def as_text(data: Mapping[str, Any], unit: Unit, terminal: Terminal) -> str:
    """The `data` of /api/v1/query or query_range; the empty string if it has no element. SidecarError if it is odd."""
    try:
        kind = data["resultType"]
        if kind in ("scalar", "string"):
            return _scalar(str(data["result"][1]), kind, unit)
        single = kind == "vector"
        rows = [(labels_of(each["metric"]), [(float(at), str(text)) for at, text in
                                             ([each["value"]] if single else each["values"])])
                for each in data["result"] if ("value" if single else "values") in each]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise SidecarError(f"this is not what Prometheus's API answers: {type(error).__name__}: {error}") from None
    if not rows:
        return ""
    text = "\n".join(_vector(rows, unit) if single else _matrix(rows, unit, terminal))
    return text.encode("ascii", "backslashreplace").decode() if terminal.plain else text


def _scalar(text: str, kind: str, unit: Unit) -> str:
    return quote(text) if kind == "string" else text + _aside(text, unit)


def _aside(text: str, unit: Unit) -> str:
    """The value as people read it, in brackets, where that differs."""
    shown = readable(float(text), unit) if unit else text
    return "" if shown == text else f" ({shown})"


def _vector(rows: Rows, unit: Unit) -> Iterator[str]:
    shared = _shared(rows)
    if len(rows) == 1:
        (labels, ((_, text),)), = rows
        yield f"{_written(labels)}  {text}{_aside(text, _unit(labels, unit))}"
        return
    yield _written(shared)
    own = [_written(labels.without(*shared)) if shared else _written(labels) for labels, _ in rows]
    widest, digits = max(map(len, own)), max(len(values[-1][1]) for _, values in rows)
    for name, (labels, values) in zip(own, rows, strict=True):
        text = values[-1][1]
        yield f"  {name:<{widest}}  {text:>{digits}}{_aside(text, _unit(labels, unit))}"


def _matrix(rows: Rows, unit: Unit, terminal: Terminal) -> Iterator[str]:
    shared = _shared(rows) if len(rows) > 1 else Labels()
    if shared:
        yield _written(shared)
    times = [at for _, values in rows for at, _ in values]
    first, last = min(times), max(times)
    width = min(max(terminal.width - 4, NARROWEST), WIDEST)
    for labels, values in rows:
        kind = _unit(labels, unit)
        numbers = [float(text) for _, text in values]
        sound = [number for number in numbers if number == number] or numbers
        yield f"  {_written(labels.without(*shared))}"
        curve = _curve([at for at, _ in values], numbers, (first, last), width, terminal.plain)
        yield f"    {curve}"
        yield (f"    min {readable(min(sound), kind)}  max {readable(max(sound), kind)}  "
               f"last {readable(numbers[-1], kind)}  ({len(values)} samples)")
    yield f"  {_moment(first)} to {_moment(last)}"


def _curve(times: Sequence[float], numbers: Sequence[float], span: tuple[float, float], width: int, plain: bool) -> str:
    """One sign for each piece of the time, as high as the largest value in it; a gap where there is none."""
    bars = PLAIN_BARS if plain else BARS
    step = min((later - at for at, later in pairwise(sorted(set(times)))), default=0.0)
    pieces = min(width, round((span[1] - span[0]) / step) + 1) if step > 0 else 1
    highest: list[float | None] = [None] * pieces
    for at, number in zip(times, numbers, strict=True):
        place = round((at - span[0]) / (span[1] - span[0]) * (pieces - 1)) if pieces > 1 else 0
        before = highest[place]
        if number == number and abs(number) != float("inf") and (before is None or number > before):
            highest[place] = number
    known = [number for number in highest if number is not None]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join(" " if number is None else bars[
        int((number - low) / (high - low) * (len(bars) - 1)) if high > low else 0] for number in highest)


def _shared(rows: Rows) -> Labels:
    """The labels that all have with the same value."""
    shared = dict(rows[0][0])
    for labels, _ in rows:
        shared = {name: value for name, value in shared.items() if labels.get(name) == value}
    return Labels(shared)


def _unit(labels: Labels, unit: Unit) -> Unit:
    return unit_of_name(labels.metric) if labels.metric else unit


def _written(labels: Labels) -> str:
    """`name{a="b"}`."""
    inside = ", ".join(f"{label_name(name)}={quote(value)}" for name, value in labels.items() if name != METRIC_NAME)
    return labels.metric + (f"{{{inside}}}" if inside or not labels.metric else "")


def _moment(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return f"{at:.3f}"


def wrapped(text: str, terminal: Terminal) -> str:
    """A sentence in lines that fit."""
    return "\n".join(textwrap.wrap(text, min(max(terminal.width, 40), WIDEST), break_on_hyphens=False))
