"""How a debug endpoint is asked, and what one answer of it told: values, and the bounds that they keep."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import NamedTuple

MOST_CHARACTERS = 200
"""The longest path, name or value of a label that is kept."""
MOST_USED_BYTES = float(1 << 60)
MOST_INSTANCE_CHARACTERS = 100
STATES = ("normal", "elevated", "high")
OTHER = "other"
"""The state of a text that is none of the endpoint's states."""

_LABEL = r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\["\\])*)"\s*'
_SELECTOR = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*\{{((?:{_LABEL}(?:,{_LABEL})*,?)?)\s*\}}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A debug endpoint. `used` is the path of the number that counts, `status` that of a text; empty: none.

    On a page of Prometheus's text format `used` is the name of a metric, or a selector as `Selector` reads it. The URL
    and the headers may hold secrets.
    """

    url: str = field(repr=False)
    used: str = ""
    unit_bytes: int = 1
    status: str = ""
    states: tuple[str, ...] = STATES
    every_seconds: float = 5.0
    timeout_seconds: float = 2.0
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Selector(NamedTuple):
    """Which sample of a page is meant: its name, and the labels that it must have."""

    name: str
    labels: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str) -> "Selector":
        """`name` or `name{label="value", …}`. Raises ValueError for a bracket that belongs to no selector."""
        if "{" not in text:
            return cls(text)
        match = _SELECTOR.fullmatch(text)
        if not match:
            raise ValueError(f'{text!r} is neither a path nor a selector such as memory_bytes{{kind="heap"}}')
        return cls(match[1], tuple((name, re.sub(r"\\(.)", r"\1", value))
                                   for name, value in re.findall(_LABEL, match[2])))


class Figures(NamedTuple):
    """What one answer told. `values`: the further labels of a series (name, value, name, value …) → its value.

    `dropped` counts by reason what was left out; `used_bytes` and `state` are None where they were not told.
    `instance_id` names this start of the program, "" where it was not told.
    """

    metric: str
    values: dict[tuple[str, ...], float]
    used_bytes: float | None
    state: str | None
    dropped: Counter[str]
    instance_id: str = ""


def gathered(pairs: Iterable[tuple[tuple[str, ...], float]], dropped: Counter[str]) -> dict[tuple[str, ...], float]:
    """The finite values by their labels. Of what stands twice nobody knows which is meant: it is left out."""
    values: dict[tuple[str, ...], float] = {}
    twice = set()
    for labels, value in pairs:
        if not isfinite(value):
            dropped["not_finite"] += 1
        elif labels in values:
            twice.add(labels)
        else:
            values[labels] = value
    dropped["duplicate"] += len(twice)
    return {labels: value for labels, value in values.items() if labels not in twice}


def used_bytes(found: Sequence[object], endpoint: Endpoint, dropped: Counter[str]) -> float | None:
    """Bytes of what was found where the number that counts should stand: exactly one number of a possible size."""
    if not endpoint.used:
        return None
    if len(found) == 1 and isinstance(found[0], float):
        size = found[0] * endpoint.unit_bytes
        if 0 <= size < MOST_USED_BYTES:
            return size
    dropped["used"] += 1
    return None


def state(found: Sequence[object], endpoint: Endpoint, dropped: Counter[str]) -> str | None:
    """The state that was told: one of the endpoint's, or OTHER."""
    if not endpoint.status:
        return None
    if len(found) == 1 and isinstance(found[0], str):
        return found[0] if found[0] in endpoint.states else OTHER
    dropped["status"] += 1
    return None


def instance(found: object, dropped: Counter[str]) -> str:
    """The name of this start of the program: a short text of printable ASCII characters, else ""."""
    if found is None:
        return ""
    if isinstance(found, str) and re.fullmatch(rf"[!-~]{{1,{MOST_INSTANCE_CHARACTERS}}}", found):
        return found
    dropped["instance_id"] += 1
    return ""
