"""The short notation of series in unit tests of rules: `up{job="a"}` and `0+10x5 _ stale`.

Source: https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules/. Every error is a ValueError.
"""

import re

from sidecar.model import METRIC_NAME, STALE
from sidecar.rules.gotemplate.format import unquote

MAX_VALUES = 1_000_000

_HEAD = re.compile(r"\s*(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)?\s*(?P<brace>\{)?")
_STRING = r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|`[^`]*`'
_LABEL = re.compile(rf"\s*(?P<label>[a-zA-Z_][a-zA-Z0-9_]*|{_STRING})\s*=\s*(?P<value>{_STRING})\s*(?:,|(?=\}}))")
_CLOSE = re.compile(r"\s*\}\s*")
_NUMBER = r"(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[iI]nf|[nN]a[nN])"
_VALUES = re.compile(rf"(?P<first>[+-]?{_NUMBER})(?:(?P<step>[+-]{_NUMBER})?x(?P<times>[0-9]+))?")
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


def parse_values(text: str) -> list[float | None]:
    """The values in order, None for a missing one and the stale marker for `stale`."""
    values: list[float | None] = []
    for word in text.split():
        if word.startswith("{{"):
            raise ValueError("native histograms are not supported")
        if found := _GAP.fullmatch(word):
            values += [None] * _times(found["times"] or "1", values)
        elif word == "stale":
            values.append(STALE)
        elif found := _VALUES.fullmatch(word):
            value, step = float(found["first"]), float(found["step"] or 0)
            for _ in range(_times(found["times"] or "0", values) + 1):
                values.append(value)
                value += step
        else:
            raise ValueError(f"not a value: {word!r} (write 5, 0+10x5, 3x4, _, _x2 or stale)")
    return values


def _times(text: str, values: list[float | None]) -> int:
    if len(text) > 9 or int(text) + len(values) > MAX_VALUES:
        raise ValueError(f"more than {MAX_VALUES} values")
    return int(text)
