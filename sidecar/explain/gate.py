"""What a rule that asks for a cleanup leads to: its gate, and whether the guard acts at the crossing by itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidecar.explain.seen import SeenRule
from sidecar.promql.parse import parse
from sidecar.promql.tree import Binary, Expr, Paren
from sidecar.promql.values import Point
from sidecar.rules.alerting import AlertingRule
from sidecar.rules.rule import Terms
from sidecar.rules.spec import AlertingSpec
from sidecar.rules.standing import Standing, compared, standing, unforeseeable

HELD = "rag_action_held"
PARKED = "rag_actions_parked > 0"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A rule's cleanup. `line` asks for the lines of its gate, None where there is none, for `reason`; then the
    cleanup comes once each time that the alert fires, or `never`.

    `at_once`: the guard holds the line and acts by itself; if not, `reason` says why, and the tick acts.
    """

    level: str
    line: Expr | None
    op: str
    at_once: bool
    reason: str
    never: bool = False


def wanted(rule: SeenRule) -> Wanted | None:
    """What the rule asks for; None if it only tells. QueryError where its expression cannot be read here."""
    if not rule.labels.get("cleanup"):
        return None
    spec = AlertingSpec(rule.name, parse(rule.query), rule.for_seconds, rule.keep_seconds, rule.labels)
    own = AlertingRule(spec, Terms(rule.interval_seconds))
    level, gate, order = rule.labels["cleanup"], compared(own), standing(own)
    if not isinstance(gate, Standing):
        return Wanted(level, None, "", False, gate, never=bool(unforeseeable(own)))
    reason = order if isinstance(order, str) else ""
    return Wanted(level, _bracketed(gate.line), gate.op, not reason, reason)


def _bracketed(line: Expr) -> Expr:
    """The same expression written so that it reads as it was built, whatever binds more tightly."""
    if isinstance(line, Binary):
        return Binary(line.op, Paren(line.left), Paren(line.right), line.matching)
    return line


def lines(points: list[Point]) -> Mapping[str, float]:
    """Target → the lowest line at which it would act."""
    found: dict[str, float] = {}
    for labels, value in points:
        if target := labels.get("target"):
            found[target] = min(value, found.get(target, value))
    return found
