"""Which alerts can be decided in advance: the guard then acts on the comparison itself, at the moment it turns true.

An alert becomes a standing order when nothing but used bytes decides it: no `for`, a `cleanup` label, and an expression
that compares `rag_memory_used_bytes` with something known before. The line comes from that expression and from nowhere
else, so a threshold has no second copy.
"""

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from sidecar.model import Labels
from sidecar.promql.evaluate import Query
from sidecar.promql.steps import Steps, finish
from sidecar.promql.tree import (
    Aggregate,
    Binary,
    Expr,
    NumberLiteral,
    Paren,
    Unary,
    VectorSelector,
    metric_names,
    unwrap,
    walk,
)
from sidecar.rules.alerting import AlertingRule
from sidecar.rules.rule import as_vector
from sidecar.rules.source import Source, source_of

USED = "rag_memory_used_bytes"

Comparison = Literal[">", ">="]

_LEFT: dict[str, Comparison] = {">": ">", ">=": ">="}
_MIRRORED: dict[str, Comparison] = {"<": ">", "<=": ">="}
_KNOWN_LATER = re.compile(r"\$value\b|\.Value\b|\b(?:query|now|__name__)\b")


@dataclass(frozen=True, slots=True)
class Line:
    """One series' line: an alert with `labels` comes into being when used bytes are `op` (above) `line_bytes`."""

    labels: Labels
    op: Comparison
    line_bytes: float


@dataclass(frozen=True, slots=True)
class Standing:
    """A rule whose lines can be told in advance. `line` is an expression: the line of each used-bytes series."""

    rule: AlertingRule
    op: Comparison
    line: Expr

    def inputs(self) -> tuple[VectorSelector, ...] | None:
        """The selectors whose newest samples alone decide the lines; None where something else does, as time may.

        Of used bytes themselves it matters which series there are, and nothing else.
        """
        nodes = list(walk(self.line))
        plain = all(isinstance(node, Binary | Paren | Unary | Aggregate | NumberLiteral) or (
            isinstance(node, VectorSelector) and node.at is None and not node.offset_seconds) for node in nodes)
        return tuple(node for node in nodes if isinstance(node, VectorSelector)) if plain else None

    def lines(self, query: Query | Source, at: float) -> list[Line]:
        """`steps` without a pause."""
        return finish(self.steps(query, at))

    def steps(self, query: Query | Source, at: float) -> Steps[list[Line]]:
        """The lines as they are at `at`, one for each alert that could come, with that alert's labels.

        Left out are alerts without the label `target` and lines that are no finite number. Raises QueryError.
        """
        found = []
        questions = source_of(query).questions()
        for point in as_vector((yield from questions.steps(self.line, at))):
            final = self.rule.final_labels(point, at, questions)
            if math.isfinite(point.value) and final.get("target"):
                found.append(Line(final, self.op, point.value))
            questions.charge()
            yield
        return found


def standing(rule: AlertingRule) -> Standing | str:
    """The standing form of a rule, or the reason why there is none, as a clause that completes "not in advance: "."""
    if rule.spec.for_seconds:
        return "it has a for, so a crossing alone does not decide it"
    return compared(rule)


def compared(rule: AlertingRule) -> Standing | str:
    """What a rule compares used bytes with, whatever its `for`: its gate, which can be read again at any moment."""
    reason = unforeseeable(rule)
    if reason:
        return reason
    comparison = unwrap(rule.spec.expr)
    if not isinstance(comparison, Binary) or comparison.op not in {**_LEFT, **_MIRRORED}:
        return f"its expression is no single comparison of {USED} with a line"
    if comparison.returns_bool:
        return "its comparison has bool, so it is never without a result"
    return _rewritten(rule, comparison)


def unforeseeable(rule: AlertingRule) -> str:
    """Why the rule cannot be evaluated anew between its own evaluations to the same labels; empty where it can."""
    if "cleanup" not in rule.spec.labels:
        return "it has no label cleanup"
    if rule.terms.query_offset_seconds:
        return "its group has a query_offset, so it looks at the past"
    if any("{{" in text and _KNOWN_LATER.search(text) for text in rule.spec.labels.values()):
        return "its labels depend on the value, the metric's name or a query"
    return ""


def _rewritten(rule: AlertingRule, comparison: Binary) -> Standing | str:
    """The comparison as a sum in which used bytes count nothing: it finds the same pairs and gives the lines."""
    op = _LEFT.get(comparison.op)
    used, other = (comparison.left, comparison.right) if op else (comparison.right, comparison.left)
    selector = unwrap(used)
    if not isinstance(selector, VectorSelector) or selector.name != USED:
        return f"the larger side of its comparison is not {USED} itself"
    if selector.offset_seconds or selector.at is not None:
        return "it compares used bytes of another time"
    if metric_names(other) & {USED, ""}:
        return "its line depends on used bytes"
    nothing = Binary("*", selector, NumberLiteral(0.0))
    left, right = (nothing, other) if op else (other, nothing)
    return Standing(rule, op or _MIRRORED[comparison.op], replace(comparison, op="+", left=left, right=right))
