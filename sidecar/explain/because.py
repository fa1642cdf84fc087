"""Why an expression gives something for a target or nothing: one clause in plain words."""

from sidecar.explain.pairs import COMPARISONS, SETS, Pair
from sidecar.explain.tree import Node, of_target
from sidecar.explain.units import readable
from sidecar.promql.notation import format_duration
from sidecar.promql.tree import Binary, Call, Expr, MatrixSelector, NumberLiteral, Subquery, VectorSelector, unwrap

LONGEST = 60
_WORDS = {">": "above", ">=": "at or above", "<": "below", "<=": "at or below", "==": "equal to", "!=": "other than"}
_NAMES = {
    "rag_memory_used_bytes": "used", "rag_memory_limit_bytes": "the memory limit", "rag_target_up": "up",
    "rag_cgroup_memory_limit_bytes": "the cgroup's limit",
    "rag_cgroup_memory_unreclaimable_bytes": "what the cgroup cannot give back"}


def why(node: Node, target: str) -> str:
    """The clause about a part and a target: what is true of it, or the first thing in it that is missing."""
    if node.error:
        return f"{named(node.expr)} cannot be evaluated: {node.error}"
    found = of_target(node.points, target)
    if isinstance(node.expr, Binary) and node.expr.op in COMPARISONS and not node.expr.returns_bool:
        return _compared(node, node.expr, target)
    if found and isinstance(node.expr, Binary) and node.expr.op in SETS:
        return why(next(part for part in node.parts if of_target(part.points, target)), target)
    if found:
        shown = ", ".join(dict.fromkeys(readable(point.value, node.unit) for point in found[:3]))
        return f"{named(node.expr)} gives {shown}"
    return _missing(node, target)


def _compared(node: Node, expr: Binary, target: str) -> str:
    pairs = [pair for pair in node.pairs if pair.labels.get("target", target) == target]
    true = [pair for pair in pairs if pair.holds]
    if true:
        return _said(node, expr, max(true, key=lambda pair: pair.gap))
    if pairs:
        return _said(node, expr, min(pairs, key=lambda pair: pair.gap))
    return _missing(node, target)


def _said(node: Node, expr: Binary, pair: Pair) -> str:
    """`used 812 MiB is not above the main line 1000 MiB, 188 MiB to go`."""
    left = f"{named(expr.left)} {readable(pair.left, node.unit)}"
    right = readable(pair.right, node.unit)
    if not isinstance(unwrap(expr.right), NumberLiteral):
        right = f"{named(expr.right)} {right}"
    return f"{left} is {'' if pair.holds else 'not '}{_WORDS[expr.op]} {right}{distance(expr, pair, node)}"


def distance(expr: Binary, pair: Pair, node: Node) -> str:
    """How far a comparison is from changing: `, 188 MiB to go`, `, by 12 MiB`; empty where that says nothing."""
    if expr.op in ("==", "!=") or not pair.gap or pair.gap != pair.gap or pair.gap == float("inf"):
        return ""
    gap = readable(pair.gap, "seconds" if node.unit == "timestamp" else node.unit)
    return f", by {gap}" if pair.holds else f", {gap} to go"


def _missing(node: Node, target: str) -> str:
    """The first thing below a part that gives nothing though it would have to."""
    expr = node.expr
    if isinstance(expr, VectorSelector):
        return f"there is no series {expr}"
    if isinstance(expr, MatrixSelector):
        return f"there are no samples of {expr.selector} in the {format_duration(expr.range_seconds)} it looks at"
    if isinstance(expr, Subquery):
        return f"{named(expr.expr)} gave nothing in the {format_duration(expr.range_seconds)} it looks at"
    vectors = [part for part in node.parts if part.kind in ("vector", "range", "failed")]
    empty = [part for part in vectors if part.error or not of_target(part.points, target)]
    if isinstance(expr, Binary) and expr.op == "unless" and node.pairs:
        return f"what {named(expr.left)} gives is taken away by unless {named(expr.right)}"
    if isinstance(expr, Binary) and expr.op == "unless":
        empty = [part for part in empty if part is vectors[0]]
    if isinstance(expr, Binary) and expr.op == "or" and len(empty) == 2:
        return f"{why(empty[0], target)}, and {why(empty[1], target)}"
    if empty:
        return why(empty[0], target)
    if isinstance(expr, Call) and (ranges := [part for part in node.parts if part.kind == "range"]):
        most = max((point.value for part in ranges for point in of_target(part.points, target)), default=0)
        if most < 2:  # what rate, deriv and their kin need
            return f"{named(expr)} needs two samples, and there is {most:.0f} in the time it looks at"
    lonely = [one for one in node.alone if one.labels.get("target", target) == target]
    if isinstance(expr, Binary) and lonely:
        return f"the sides of {expr.op} find no partners: {lonely[0].why}"
    return f"{named(expr)} gives nothing"


def named(expr: Expr) -> str:
    """A part by a name that people use, or as it is written."""
    expr = unwrap(expr)
    if isinstance(expr, VectorSelector):
        level = next((m.value for m in expr.matchers if m.name == "level" and m.op == "="), "")
        if expr.name == "rag_memory_threshold_bytes" and level:
            return f"the {level} line"
        if expr.name in _NAMES:
            return _NAMES[expr.name]
    text = str(expr)
    return text if len(text) <= LONGEST else text[:LONGEST - 1] + "…"
