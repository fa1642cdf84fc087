"""The values that cross from one stage to the next. All of them are frozen."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

from sidecar.procfs import Identity

METRIC_NAME = "__name__"

STALE = struct.unpack("<d", struct.pack("<Q", 0x7FF0000000000002))[0]
"""The stale marker: Prometheus's NaN with these very bits (model/value/value.go) says that a series has ended."""


def is_stale(value: float) -> bool:
    """True for the stale marker, False for every other number and every other NaN."""
    return value != value and struct.pack("<d", value) == _STALE_BYTES


_STALE_BYTES = struct.pack("<Q", 0x7FF0000000000002)


class Labels(dict[str, str]):
    """A set of labels: immutable, hashable, equal by content. An empty value is the same as no label (Prometheus).

    `made` are series with these labels and some more: see `series`.

    A dict, because labels are looked up and compared thousands of times a tick, and a class around one would do that
    at a third of the speed. Names are in order.
    """

    __slots__ = ("_hash", "made")

    def __init__(self, pairs: Mapping[str, str] | None = None) -> None:
        super().__init__(sorted([pair for pair in pairs.items() if pair[1]]) if pairs else ())
        self._hash = hash(tuple(self.items()))
        self.made = NOTHING_MADE

    def __hash__(self) -> int:  # type: ignore[override]
        return self._hash

    def __repr__(self) -> str:
        rest = ", ".join(f'{name}="{value}"' for name, value in self.items() if name != METRIC_NAME)
        return f"{self.metric}{{{rest}}}"

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("labels never change; merged() makes others")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    @property
    def metric(self) -> str:
        """The metric name, or the empty string."""
        return self.get(METRIC_NAME, "")

    def without(self, *names: str) -> "Labels":
        """These labels less `names`."""
        return Labels({name: value for name, value in self.items() if name not in names})

    def keep(self, *names: str) -> "Labels":
        """Only the labels in `names`."""
        return Labels({name: value for name, value in self.items() if name in names})

    def merged(self, other: Mapping[str, str]) -> "Labels":
        """These labels with `other` laid over them; an empty value in `other` deletes a label."""
        return Labels({**self, **other})


NOTHING_MADE: dict[tuple[str, ...], Labels] = {}
MOST_SERIES = 4096
"""So many series with the same base are remembered: a target with 32 processes has half of them."""


def series(base: Labels, *named: str) -> Labels:
    """The labels of one series: `base`, and `named`: the metric's name, then name, value, name, value …

    Remembered with the base: every tick needs the same ones, and making and hashing them anew costs more than what
    they stand for.
    """
    found = base.made.get(named)
    if found is None:
        if len(base.made) >= MOST_SERIES or base.made is NOTHING_MADE:
            base.made = {}
        pairs = dict(zip(named[1::2], named[2::2], strict=True))
        found = base.made[named] = base.merged({METRIC_NAME: named[0], **pairs})
    return found


class Sample(NamedTuple):
    """One value of one series. `labels` includes `__name__`; `at` is Unix time in seconds."""

    labels: Labels
    value: float
    at: float


class Metric(NamedTuple):
    """What a metric is, declared beside the code that measures it. `name` is the family's name as exposed."""

    name: str
    type: Literal["gauge", "counter", "histogram", "info"]
    help: str


class Target(NamedTuple):
    """One configured target in one round of discovery: `identity` is None while its process is not there.

    `base` are the labels that each of its series carries: target, job and instance. `missing` says why it is not there.
    """

    name: str
    base: Labels
    identity: Identity | None
    missing: str = ""


class Sight(NamedTuple):
    """What of a target there was to see, by short names, and what of it could not be seen: name → why, in words."""

    sought: tuple[str, ...]
    missing: Mapping[str, str]


Cleanup = Literal["light", "standard", "aggressive"]
"""What a target can be asked for, from weak to strong."""

AlertState = Literal["inactive", "pending", "firing"]


@dataclass(frozen=True, slots=True)
class Alert:
    """One instance of an alerting rule, as it was after the rule's last evaluation. Times are Unix seconds.

    `labels` include `alertname`. `condition` says whether the expression itself was true at the last evaluation:
    it is False while only `keep_firing_for` holds the alert. Actions follow `condition`, people see `state`.
    """

    labels: Labels
    annotations: Mapping[str, str]
    state: AlertState
    condition: bool
    value: float
    active_at: float
    fired_at: float | None
    resolved_at: float | None
    keep_firing_since: float | None
    last_evaluation: float
    interval_seconds: float
    expr: str

    @property
    def name(self) -> str:
        """The alert's name."""
        return self.labels["alertname"]
