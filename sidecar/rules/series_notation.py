"""The short notation of series in unit tests of rules: `up{job="a"}` and `0+10x5 _ stale {{sum:1 count:2}}x3`.

Source: https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/. Every error is a ValueError.
"""

import re

from sidecar.model import METRIC_NAME, STALE
from sidecar.rules.gotemplate.format import unquote
from sidecar.rules.native_histogram import NativeHistogram, combined, parse_histogram

MAX_VALUES = 1_000_000
MAX_COMBINED = 10_000
"""How many histograms one `{{…}}+{{…}}xN` may make: each is an object of its own."""

InputValue = float | NativeHistogram | None

_HEAD = re.compile(r"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)?\s*(?P<brace>\{)?")
_STRING = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|`[^`]*`'
_LABEL = re.compile(rf"\s*(?P<label>[a-zA-Z_][a-zA-Z0-9_]*|{_STRING})\s*=\s*(?P<value>{_STRING})\s*(?:,|(?=\}}))")
_CLOSE = re.compile(r"\s*\}\s*")
_NUMBER = r"(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[iI]nf|[nN]a[nN])"
_VALUES = re.compile(rf"(?P<first>[+-]?{_NUMBER})(?:(?P<step>[+-]{_NUMBER})?x(?P<times>[0-9]+))?")
_HISTOGRAM = r"\{\{([^{}]*)\}\}"
_HISTOGRAMS = re.compile(rf"{_HISTOGRAM}(?:(?:([+-]){_HISTOGRAM})?x([0-9]+))?")
_WORD = re.compile(r"\{\{[^{}]*\}\}(?:[^\s{]*\{\{[^{}]*\}\})?\S*|\S+")  # only in a histogram do spaces not separate
_GAP = re.compile(r"_(?:x(?P<times>[0-9]+))?")


def parse_series(text: str) -> dict[str, str]:
    """The labels of `name{label="value", …}`, the name as `__name__`. Empty text has none."""
    head = _HEAD.match(text)
    labels = {METRIC_NAME: head["name"]} if head and head["name"] else {}
    at = head.end() if head else 0
    if not head or not head["brace"]:
        if text[at:].strip():
            raise ValueError(f"not a series: {text!r}")
        return labels
    while not (ended := _CLOSE.match(text, at)):
        found = _LABEL.match(text, at)
        if found is None:
            raise ValueError(f'not a series: {text!r} (write it like up{{job="a", instance="b"}})')
        name = found["label"]
        labels[unquote(name) if name[0] in "\"'`" else name] = unquote(found["value"])
        at = found.end()
    if ended.end() < len(text):
        raise ValueError(f"not a series: {text!r}")
    return labels


def parse_values(text: str) -> list[InputValue]:
    """The values in order, None for a missing one and the stale marker for `stale`."""
    values: list[InputValue] = []
    for word in _WORD.findall(text):
        if word.startswith("{{"):
            values += _histograms(word, values)
        elif found := _GAP.fullmatch(word):
            values += [None] * _times(found["times"] or "1", values)
        elif word == "stale":
            values.append(STALE)
        elif found := _VALUES.fullmatch(word):
            value, step = float(found["first"]), float(found["step"] or 0)
            for _ in range(_times(found["times"] or "0", values) + 1):
                values.append(value)
                value += step
        else:
            raise ValueError(f"not a value: {word!r} (write 5, 0+10x5, 3x4, _, _x2, stale or {{{{sum:1 count:2}}}})")
    return values


def _histograms(word: str, values: list[InputValue]) -> list[NativeHistogram]:
    found = _HISTOGRAMS.fullmatch(word)
    if found is None:
        raise ValueError(f"not a value: {word!r} (write a native histogram like {{{{sum:5 count:3 buckets:[1 2]}}}}, "
                         f"and several like {{{{…}}}}x3 or {{{{…}}}}+{{{{…}}}}x3)")
    first, sign, step, times = found.groups()
    histogram, count = parse_histogram(first), _times(times or "0", values)
    if sign is None:
        return [histogram] * (count + 1)
    if count > MAX_COMBINED:
        raise ValueError(f"more than {MAX_COMBINED} histograms in {word!r}")
    made, by = [histogram], parse_histogram(step)
    for _ in range(count):
        made.append(combined(made[-1], by, 1 if sign == "+" else -1))
    return made


def _times(text: str, values: list[InputValue]) -> int:
    if len(text) > 9 or int(text) + len(values) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    return int(text)
