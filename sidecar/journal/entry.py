"""What the journal keeps of one alert, and how it is written in a row of its table."""

import json
import math
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from typing import Any, NamedTuple, get_args

from sidecar.model import Alert, AlertState, Labels

RuleKey = tuple[str, str, str]
"""Which rule made an alert: its file, its group, and its name and labels there."""

Told = Mapping[str, int]
"""How much of an alert each Alertmanager, by its URL without credentials, has acknowledged: a small number."""

Life = tuple[str, int, int]
"""The process behind an alert's target: boot id, pid, start time in clock ticks."""

LEVELS = 4
"""What an Alertmanager has acknowledged is a number below this."""

LONGEST_TEXT = 1 << 18
"""Of the labels or the annotations of one alert, as written."""

COLUMNS = ("rule", "labels", "state", "condition", "active_at", "fired_at", "resolved_at", "keep_firing_since",
           "last_evaluation", "interval_seconds", "expr", "value", "annotations", "life", "told", "left_at")


class Entry(NamedTuple):
    """An alert with its rule and its target's process. Until `seen_at` (Unix seconds) somebody looked after it.

    `told` is None where nobody knows, as in a file of before version 3.
    """

    rule: RuleKey
    alert: Alert
    life: Life | None
    seen_at: float
    told: Told | None = None

    def fingerprint(self) -> tuple[object, ...]:
        """What is written at once when it changes."""
        alert = self.alert
        return (alert.state, alert.condition, alert.active_at, alert.fired_at, alert.resolved_at,
                alert.keep_firing_since, self.life, self.told)

    def details(self) -> tuple[object, ...]:
        """What changes all the time, and waits."""
        value = self.alert.value
        return value if value == value else None, self.alert.annotations


class Page(NamedTuple):
    """What a tick hands over: at Unix time `at` these are all the alerts of these rules.

    `used` and `rss` are bytes by target: used memory on the basis of its lines, and resident memory where it is known.
    """

    at: float
    rules: Set[RuleKey]
    entries: Sequence[Entry]
    used: Mapping[str, float] = {}
    rss: Mapping[str, float] = {}


def key_of(rule: RuleKey, labels: Labels) -> tuple[str, str]:
    """The two columns that tell rows apart. Escaped, because a label or a path may hold what no database takes."""
    return json.dumps(rule), json.dumps(dict(labels))


def row_of(entry: Entry) -> tuple[object, ...] | None:
    """The entry as COLUMNS; None for labels beyond measure. Annotations beyond measure are left out."""
    alert = entry.alert
    rule, labels = key_of(entry.rule, alert.labels)
    annotations = json.dumps(dict(alert.annotations))
    if len(rule) + len(labels) > LONGEST_TEXT:
        return None
    return (rule, labels, alert.state, alert.condition, alert.active_at, alert.fired_at, alert.resolved_at,
            alert.keep_firing_since, alert.last_evaluation, alert.interval_seconds, json.dumps(alert.expr), alert.value,
            annotations if len(annotations) <= LONGEST_TEXT else "{}", json.dumps(entry.life), _told_text(entry.told),
            None)


def entry_of(row: Sequence[Any], alive_at: float) -> Entry:
    """The entry in a row of COLUMNS. Raises ValueError or TypeError for what no sidecar has written.

    A row with `left_at` belongs to a rule that was not loaded any more then; the others were seen until `alive_at`.
    """
    found = dict(zip(COLUMNS, row, strict=True))
    file, group, rule = (_text(part) for part in json.loads(found["rule"]))
    labels = Labels(_texts(found["labels"]))
    state, fired_at, resolved_at = found["state"], _moment(found["fired_at"]), _moment(found["resolved_at"])
    if (state not in get_args(AlertState) or "alertname" not in labels or (state == "firing" and fired_at is None)
            or (state == "inactive" and resolved_at is None)):
        raise ValueError(f"an alert without sense: {state!r}")
    value = found["value"]
    alert = Alert(
        labels=labels, annotations=_texts(found["annotations"]), state=state, condition=bool(found["condition"]),
        value=math.nan if value is None else float(value), active_at=_time(found["active_at"]), fired_at=fired_at,
        resolved_at=resolved_at, keep_firing_since=_moment(found["keep_firing_since"]),
        last_evaluation=_time(found["last_evaluation"]), interval_seconds=_time(found["interval_seconds"]),
        expr=_text(json.loads(found["expr"])))
    left_at = _moment(found["left_at"])
    return Entry((file, group, rule), alert, _life(json.loads(found["life"])),
                 alive_at if left_at is None else left_at, _told(found["told"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.50} is no text")
    return value


def _texts(value: str) -> Mapping[str, str]:
    found = json.loads(value)
    if not isinstance(found, dict):
        raise ValueError(f"{value!r:.50} is no mapping")
    return {name: _text(text) for name, text in found.items()}


def _told_text(told: Told | None) -> str | None:
    text = None if told is None else json.dumps(dict(told))
    return None if text is None or len(text) > LONGEST_TEXT else text


@lru_cache(maxsize=64)
def _told(value: str | None) -> Told | None:
    """The same object for all alerts of which the same is known: there may be thousands."""
    if value is None:
        return None
    found = json.loads(value)
    if not isinstance(found, dict) or not all(type(level) is int and 0 <= level < LEVELS for level in found.values()):
        raise ValueError(f"{value!r:.50} is not who was told")
    return found


def _time(value: object) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{value!r:.50} is no time")
    return value


def _moment(value: object) -> float | None:
    return None if value is None else _time(value)


def _life(value: object) -> Life | None:
    if value is None:
        return None
    if not isinstance(value, list) or [type(part) for part in value] != [str, int, int]:
        raise ValueError(f"{value!r:.50} is no process")
    return value[0], value[1], value[2]
