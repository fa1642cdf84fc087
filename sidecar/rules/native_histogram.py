"""Native histograms, as unit tests of rules write them: read, added up, and printed in the same notation.

The daemon has none of them. A test carries them from its input to a bare selector and compares them there.
Source of the notation: https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/.
Source of the rest: what `promtool test rules` 3.5 prints for the same input. Every error is a ValueError.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast, get_args

from sidecar.rules.gotemplate.format import format_float

Hint = Literal["unknown", "reset", "not_reset", "gauge"]
Buckets = Mapping[int, float]

CUSTOM_SCHEMA = -53
SCHEMAS = (*range(-4, 9), CUSTOM_SCHEMA)
MAX_INDEX = 100_000
"""How far from index 0 a bucket may lie: what is printed has a place for every bucket between the outermost two."""

_ITEM = re.compile(r"(?P<key>[A-Za-z_]+):(?P<value>\[[^\]]*\]|[^\s\[\]]+)(?:\s+|$)")
_NUMBER = re.compile(r"-?(?:[0-9]+\.?[0-9]*(?:[eE][+-]?[0-9]+)?|[iI]nf|[nN]a[nN])")
_INTEGER = re.compile(r"-?[0-9]{1,9}")
_INTEGERS = ("schema", "offset", "n_offset")
_NUMBERS = ("sum", "count", "z_bucket", "z_bucket_w")
_LISTS = ("buckets", "n_buckets", "custom_values")
_HINT = "counter_reset_hint"


@dataclass(frozen=True, slots=True)
class NativeHistogram:
    """One sample: counts of observations by bucket index. Index i of schema s ends at 2^(i * 2^-s)."""

    schema: int = 0
    count: float = 0.0
    sum: float = 0.0
    zero_count: float = 0.0
    zero_width: float = 0.0
    custom_bounds: tuple[float, ...] = ()
    hint: Hint = "unknown"
    positive: Buckets = field(default_factory=dict)
    negative: Buckets = field(default_factory=dict)

    def __str__(self) -> str:
        """The canonical notation, by which promtool compares: no empty buckets at the ends, nothing that is 0."""
        numbers = (("schema", self.schema), ("count", self.count), ("sum", self.sum), ("z_bucket", self.zero_count),
                   ("z_bucket_w", self.zero_width))
        shown = [f"{key}:{format_float(float(value))}" for key, value in numbers if value != 0]
        if self.schema == CUSTOM_SCHEMA:
            shown.append(f"custom_values:[{' '.join(map(format_float, self.custom_bounds))}]")
        if self.hint != "unknown":
            shown.append(f"{_HINT}:{self.hint}")
        return "{{" + " ".join([*shown, *_shown("", self.positive), *_shown("n_", self.negative)]) + "}}"

    def continues(self, before: "NativeHistogram") -> bool:
        """Whether a TSDB takes this for the same counter as the sample before it: same layout, and nothing fell."""
        return (
            self.count >= before.count and self.zero_count >= before.zero_count
            and (self.schema, self.zero_width, self.custom_bounds)
            == (before.schema, before.zero_width, before.custom_bounds)
            and all(self.positive.get(index, 0.0) >= count for index, count in before.positive.items())
            and all(self.negative.get(index, 0.0) >= count for index, count in before.negative.items()))


def _shown(prefix: str, buckets: Buckets) -> Iterator[str]:
    used = [index for index, count in buckets.items() if count != 0]
    if used:
        first, last = min(used), max(used)
        if first:
            yield f"{prefix}offset:{first}"
        counts = " ".join(format_float(buckets.get(index, 0.0)) for index in range(first, last + 1))
        yield f"{prefix}buckets:[{counts}]"


def parse_histogram(text: str) -> NativeHistogram:
    """The histogram of what stands between `{{` and `}}`: `schema:1 sum:5 count:4 buckets:[1 2 1]`, in any order."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip()):
        item = _ITEM.match(text, at)
        key = item["key"].lower() if item else ""
        if item is None or key not in (*_INTEGERS, *_NUMBERS, *_LISTS, _HINT):
            raise ValueError(f"not a native histogram: {{{{{text}}}}} (write it like "
                             "{{sum:5 count:3 buckets:[1 2]}})")
        if key in found:
            raise ValueError(f'duplicate key "{key}" in histogram {{{{{text}}}}}')
        found[key], at = item["value"], item.end()
    integers = {key: _integer(key, found.get(key, "0")) for key in _INTEGERS}
    sum_, count, zero_count, zero_width = (_number(key, found.get(key, "0")) for key in _NUMBERS)
    positive, negative, bounds = (_list(key, found.get(key, "[]")) for key in _LISTS)
    hint = found.get(_HINT, "unknown").lower()
    if hint not in get_args(Hint):
        raise ValueError(f"{_HINT} is one of {', '.join(get_args(Hint))}, not {hint!r}")
    return _checked(NativeHistogram(
        integers["schema"], count, sum_, zero_count, zero_width, tuple(bounds), cast(Hint, hint),
        dict(enumerate(positive, integers["offset"])), dict(enumerate(negative, integers["n_offset"]))))


def _integer(key: str, text: str) -> int:
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"{key} is a whole number, not {text!r}")
    return int(text)


def _number(key: str, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{key} is a number, not {text!r}")
    return float(text)


def _list(key: str, text: str) -> list[float]:
    if not text.startswith("["):
        raise ValueError(f"{key} is a list such as [1 2 1], not {text!r}")
    return [_number(key, word) for word in text[1:-1].split()]


def _checked(histogram: NativeHistogram) -> NativeHistogram:
    """The histogram itself, if a TSDB would take it."""
    custom = histogram.schema == CUSTOM_SCHEMA
    indexes = [*histogram.positive, *histogram.negative]
    if histogram.schema not in SCHEMAS:
        raise ValueError(f"schema {histogram.schema} is none: -4 to 8, or {CUSTOM_SCHEMA} with custom_values")
    if custom != bool(histogram.custom_bounds):
        raise ValueError(f"custom_values and schema {CUSTOM_SCHEMA} belong together")
    if custom and (histogram.negative or histogram.zero_count or histogram.zero_width):
        raise ValueError("a histogram with custom_values has neither a zero bucket nor n_buckets")
    if any(count < 0 for count in (*histogram.positive.values(), *histogram.negative.values(), histogram.zero_count)):
        raise ValueError(f"a bucket of {histogram} has a negative count")
    if not histogram.zero_width >= 0:
        raise ValueError(f"z_bucket_w is a width, not {format_float(histogram.zero_width)}")
    if any(abs(index) > MAX_INDEX for index in indexes):
        raise ValueError(f"a bucket lies further than {MAX_INDEX} from index 0: is the offset meant?")
    return histogram


def combined(base: NativeHistogram, step: NativeHistogram, sign: Literal[1, -1]) -> NativeHistogram:
    """`base` plus or minus `step`, on base's schema and the wider zero bucket: one step of `{{…}}+{{…}}x3`."""
    if (base.schema == CUSTOM_SCHEMA) != (step.schema == CUSTOM_SCHEMA) or base.custom_bounds != step.custom_bounds:
        raise ValueError("histograms with other custom_values cannot be combined")
    if base.schema > step.schema:
        raise ValueError(f"cannot merge from schema {step.schema} to {base.schema}: the step has the coarser buckets")
    step = _coarser(step, base.schema)
    while base.zero_width != step.zero_width:
        width = max(base.zero_width, step.zero_width)
        base, step = _widened(base, width), _widened(step, width)
    return _checked(replace(
        base, count=base.count + sign * step.count, sum=base.sum + sign * step.sum,
        zero_count=base.zero_count + sign * step.zero_count, hint=_reconciled(base.hint, step.hint, sign),
        positive=_sum(base.positive, step.positive, sign), negative=_sum(base.negative, step.negative, sign)))


def _sum(left: Buckets, right: Buckets, sign: Literal[1, -1]) -> Buckets:
    return {index: left.get(index, 0.0) + sign * right.get(index, 0.0) for index in left.keys() | right.keys()}


def _reconciled(base: Hint, step: Hint, sign: Literal[1, -1]) -> Hint:
    if sign < 0 or base == step:
        return base
    return "gauge" if "gauge" in (base, step) else "unknown"


def _coarser(histogram: NativeHistogram, schema: int) -> NativeHistogram:
    """The same on a schema of fewer buckets."""
    shift = histogram.schema - schema
    if not shift:
        return histogram
    merged: list[dict[int, float]] = []
    for buckets in (histogram.positive, histogram.negative):
        merged.append({})
        for index, count in buckets.items():
            target = ((index - 1) >> shift) + 1
            merged[-1][target] = merged[-1].get(target, 0.0) + count
    return replace(histogram, schema=schema, positive=merged[0], negative=merged[1])


def _widened(histogram: NativeHistogram, width: float) -> NativeHistogram:
    """The same with a zero bucket of at least `width`: it ends where a bucket ends that it would cut in two."""
    if histogram.zero_width >= width:
        return histogram
    buckets = [(index, count) for side in (histogram.positive, histogram.negative) for index, count in side.items()]
    cut = [_end(index, histogram.schema) for index, count in buckets
           if count and _end(index - 1, histogram.schema) < width < _end(index, histogram.schema)]
    width = max([width, *cut])
    swallowed = sum(count for index, count in buckets if _end(index, histogram.schema) <= width)
    left = [{index: count for index, count in side.items() if _end(index, histogram.schema) > width}
            for side in (histogram.positive, histogram.negative)]
    return replace(histogram, zero_width=width, zero_count=histogram.zero_count + swallowed, positive=left[0],
                   negative=left[1])


def _end(index: int, schema: int) -> float:
    exponent = index * 2.0**-schema
    return float("inf") if exponent > 1023 else 2.0**exponent
