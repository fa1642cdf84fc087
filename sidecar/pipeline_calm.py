"""Whether all is calm: then nothing is missed when the next tick comes later than usual."""

from collections.abc import Mapping, Sequence

from sidecar.actions.facts import Subject
from sidecar.model import Alert
from sidecar.pipeline_thresholds import Known
from sidecar.promql.tree import MatrixSelector, Subquery, walk
from sidecar.rules.spec import GroupSpec

FAR = 0.75
"""This part of the lowest line, and all below it, is far from the lines. The guard sees to what comes quickly."""
LOOKS_A_RANGE = 4
"""So many looks at least lie in every range of time that a rule reads: fewer, and a missed one leaves it empty."""


def calm(subjects: Sequence[Subject], known: Mapping[str, Known], alerts: Sequence[Alert]) -> bool:
    """Whether every target is there and far from its lines, the guard can see that for itself, and no alert is up."""
    return all(_far(subject, known.get(subject.name)) for subject in subjects) and not any(
        alert.state in ("pending", "firing") for alert in alerts)


def _far(subject: Subject, known: Known | None) -> bool:
    if known is None or subject.used_bytes is None or known.lines.basis == "endpoint":
        return False  # what an endpoint says the guard has from us
    return subject.up and subject.used_bytes <= FAR * known.lines.preventive.size_bytes


def may_rest(specs: Sequence[GroupSpec], seconds: float) -> bool:
    """Whether no rule is evaluated, or reads a range of time, so short that ticks so far apart would starve it."""
    for spec in specs:
        if spec.interval_seconds and spec.interval_seconds < seconds:
            return False
        ranges = (node.range_seconds for rule in spec.rules for node in walk(rule.expr)
                  if isinstance(node, MatrixSelector | Subquery))
        if any(range_seconds < LOOKS_A_RANGE * seconds for range_seconds in ranges):
            return False
    return True
