"""Families of metrics as lines, which both text formats have in common: NAME{LABELS} VALUE."""

import math
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from sidecar.model import METRIC_NAME, Labels, Metric, Sample, is_stale
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps

MOST_REMEMBERED = 131_072
"""Of so many series the lines are remembered: 12 MB, where a page has as many."""
KNOWN_AT_ONCE = 16
"""So many pieces that are as they were are gone through between two pauses."""

_LABELS, _VALUE = itemgetter(0), itemgetter(1)

# A NUL ends Prometheus's lexer, other control characters a terminal's good manners. Newlines are escaped by the format.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127) if chr(code) not in "\n\t"}
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
_SUFFIXES = {"_bucket": 0, "_count": 1, "_sum": 2}
_LEFT_TO_THE_SCRAPE = (METRIC_NAME, "job", "instance")
EXPONENTS_FROM = 1e6


class _Piece:
    """Lines of a page, one after the other, as they were last shown. Lives as long as its layout."""

    __slots__ = ("bits", "text")

    def __init__(self, heads: Sequence[str]) -> None:
        self.text = "".join([f"{head}\n" for head in heads]).encode()
        self.bits: Sequence[int | None] = (None,) * len(heads)

    def renewed(self, values: "array[float]") -> bool:
        """Write anew the lines whose values are others than before, bit by bit; whether there are any."""
        bits = array("q", values.tobytes())
        if bits == self.bits:
            return False
        lines = self.text.decode().split("\n")
        for place, (bit, before) in enumerate(zip(bits, self.bits, strict=True)):
            if bit != before:
                line = lines[place]
                lines[place] = f"{line[:line.rindex(' ') + 1]}{number(values[place])}"
        self.text, self.bits = "\n".join(lines).encode(), bits
        return True


class _Layout(NamedTuple):
    """The lines of a family. The value of a line is that of the sample at its place; without `places`, of each in turn.

    `labels` are those of the samples that it was made for, and `ended` the places of stale markers among them.
    """

    labels: list[Labels]
    ended: frozenset[int]
    places: Sequence[int] | None
    pieces: list[_Piece]
    size: int


class Lines:
    """Makes the lines of one family after the other. Lives as long as the page.

    From tick to tick the same series come in the same order, and many with the same value: so lines are remembered,
    and made anew where their value is another one.
    """

    def __init__(self) -> None:
        self._layouts: dict[str, _Layout] = {}
        self._remembered = 0

    def of(self, metric: Metric, given: Sequence[Sample]) -> Steps[tuple[list[bytes], int]]:
        """The lines, in pieces, and how many samples have none: strays, invalid labels, doubles before the last.

        A stale marker says that a series has ended: it is no sample. `job` and `instance` are for the scrape to add.
        """
        labels, values = list(map(_LABELS, given)), array("d", map(_VALUE, given))
        ended = _ended(values)
        layout = self._layouts.get(metric.name)
        if layout is None or layout.labels != labels or layout.ended != ended:
            layout = yield from _laid_out(metric, labels, ended)
            self._remember(metric.name, layout)
        if layout.places is not None:
            values = array("d", map(values.__getitem__, layout.places))
        for count, piece in enumerate(layout.pieces, 1):
            new = piece.renewed(values[(count - 1) * ELEMENTS_A_PIECE:count * ELEMENTS_A_PIECE])
            if len(piece.bits) == ELEMENTS_A_PIECE and (new or count % KNOWN_AT_ONCE == 0):
                yield
        return [piece.text for piece in layout.pieces], len(labels) - len(ended) - layout.size

    def _remember(self, name: str, layout: _Layout) -> None:
        before = self._layouts.pop(name, None)
        self._remembered -= len(before.labels) if before else 0
        if self._remembered + len(layout.labels) <= MOST_REMEMBERED:
            self._layouts[name] = layout
            self._remembered += len(layout.labels)


def _ended(values: "array[float]") -> frozenset[int]:
    """The places of stale markers."""
    if not math.isnan(sum(values)):  # as it would be with one of them
        return frozenset()
    return frozenset(place for place, value in enumerate(values) if is_stale(value))


def _laid_out(metric: Metric, labels: list[Labels], ended: frozenset[int]) -> Steps[_Layout]:
    """The lines of these series: of doubles the last stands, and a histogram is in order."""
    found: dict[str, int] = {}
    for place, each in enumerate(labels):
        if place not in ended and _fits(metric, each.metric) and (head := _head(each)):
            found[head] = place
        if place % ELEMENTS_A_PIECE == ELEMENTS_A_PIECE - 1:
            yield
    if metric.type == "histogram":
        found = yield from _in_order(found, labels)
    heads, places = list(found), array("I", found.values())
    pieces = [_Piece(heads[start:start + ELEMENTS_A_PIECE]) for start in range(0, len(heads), ELEMENTS_A_PIECE)]
    in_turn = places == array("I", range(len(labels)))
    return _Layout(labels, ended, None if in_turn else places, pieces, len(heads))


def _fits(metric: Metric, name: str) -> bool:
    return name.removeprefix(metric.name) in _SUFFIXES if metric.type == "histogram" else name == metric.name


def _head(labels: Labels) -> str:
    """All of a line that stands before the value; empty where a label has a name that the formats cannot carry."""
    shown = []
    for name, text in labels.items():
        if name in _LEFT_TO_THE_SCRAPE:
            continue
        if not (name.isascii() and name.isidentifier()) or name.startswith("__"):
            return ""
        shown.append(f'{name}="{readable(text).translate(_ESCAPES)}"')
    return f"{labels.metric}{{{','.join(shown)}}} " if shown else f"{labels.metric} "


def _in_order(places: Mapping[str, int], labels: Sequence[Labels]) -> Steps[dict[str, int]]:
    """OpenMetrics wants the buckets of one histogram together and ascending."""
    found: defaultdict[Labels, list[tuple[int, float, str]]] = defaultdict(list)
    for count, (head, place) in enumerate(places.items(), 1):
        of = labels[place]
        rank = next(rank for suffix, rank in _SUFFIXES.items() if of.metric.endswith(suffix))
        found[of.without("le", *_LEFT_TO_THE_SCRAPE)].append((rank, _bound(of.get("le", "")), head))
        if count % ELEMENTS_A_PIECE == 0:
            yield
    return {head: places[head] for rows in found.values() for _, _, head in sorted(rows)}


def _bound(text: str) -> float:
    """The upper bound of a bucket; of what is none, infinity."""
    try:
        return float(text)
    except ValueError:
        return math.inf


def readable(text: str) -> str:
    """The text as valid UTF-8: bytes that a file name or a command line brought along become visible escapes."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("utf-8", "backslashreplace").decode().translate(_CONTROL)


def number(value: float) -> str:
    """A value as prometheus-client writes it: from a million on with an exponent, as Go does."""
    if -math.inf < value < EXPONENTS_FROM:
        return repr(float(value))
    if not math.isfinite(value):
        return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"
    whole, dot, part = repr(float(value)).partition(".")
    digits = f"{whole[0]}.{whole[1:]}{part}".rstrip("0.")
    return f"{digits}e+{len(whole) - 1:02d}" if dot and "e" not in part else whole + dot + part
