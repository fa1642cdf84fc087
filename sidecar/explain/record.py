"""An explanation for programs: one JSON object with stable keys."""

import math
from typing import Any

from sidecar.explain.explanation import Explanation
from sidecar.explain.tree import Node

MOST = 1000
"""So many elements of a part are listed; `count` tells how many there are."""


def as_record(explained: Explanation) -> dict[str, Any]:
    """The object, with numbers that JSON knows: docs/api.md has its keys."""
    rule, wanted = explained.rule, explained.cleanup
    return {
        "alert": rule.name, "state": rule.state, "group": rule.group, "file": rule.file, "query": rule.query,
        "interval_seconds": rule.interval_seconds, "for_seconds": rule.for_seconds,
        "keep_firing_for_seconds": rule.keep_seconds, "labels": dict(rule.labels), "health": rule.health,
        "last_error": rule.error, "evaluated_at": rule.evaluated_at, "at": explained.at,
        "expression": None if explained.tree is None else _node(explained.tree), "unreadable": explained.unreadable,
        "verdicts": [{"target": verdict.target, "state": verdict.state, "sentence": verdict.sentence,
                      "timer": verdict.timer} for verdict in explained.verdicts],
        "cleanup": None if wanted is None else {
            "level": wanted.level, "by_the_guard_at_once": wanted.at_once, "reason": wanted.reason,
            "lines": dict(explained.lines), "held": {name: list(why) for name, why in explained.held.items()},
            "parked": sorted(explained.parked), "parked_for": dict(explained.parked),
            "held_until": dict(explained.rests)},
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "expression": node.text, "kind": node.kind, "unit": node.unit, "error": node.error, "count": len(node.points),
        "elements": [{"labels": dict(labels), "value": _number(value)} for labels, value in node.points[:MOST]],
        "pairs": [{"labels": dict(pair.labels), "left": _number(pair.left), "right": _number(pair.right),
                   "holds": pair.holds, "gap": _number(pair.gap)} for pair in node.pairs[:MOST]],
        "without_partner": [{"labels": dict(one.labels), "value": _number(one.value), "side": one.side, "why": one.why}
                            for one in node.alone[:MOST]],
        "parts": [_node(part) for part in node.parts],
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "NaN" if math.isnan(value) else f"{value:+}".title()
