"""What rule files say, compiled: groups of recording and alerting rules."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sidecar.promql.tree import Expr


@dataclass(frozen=True, slots=True)
class RecordingSpec:
    """`record`: the result of `expr` becomes the series `name`, with `labels` laid over (an empty one deletes)."""

    name: str
    expr: Expr
    labels: Mapping[str, str] = field(default_factory=dict)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class AlertingSpec:
    """`alert`: every element of the result of `expr` is an alert. Labels and annotations are templates."""

    name: str
    expr: Expr
    for_seconds: float = 0.0
    keep_firing_for_seconds: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    line: int = field(default=0, compare=False)


RuleSpec = RecordingSpec | AlertingSpec


@dataclass(frozen=True, slots=True)
class GroupSpec:
    """Rules evaluated one after the other at the same moments.

    `interval_seconds` None is the daemon's interval. `limit` 0 is none. The group's labels are already in its rules.
    """

    name: str
    file: str
    rules: tuple[RuleSpec, ...]
    interval_seconds: float | None = None
    limit: int = 0
    query_offset_seconds: float = 0.0
