"""Long expressions over several lines, short ones on one: where Prometheus breaks lines (promql/parser/prettier.go)."""

from collections.abc import Iterable, Set
from dataclasses import replace

from sidecar.promql.tree import (
    Aggregate,
    Binary,
    Call,
    Expr,
    NumberLiteral,
    Paren,
    Subquery,
    Unary,
    children,
    walk,
)

WIDTH_BYTES = 100
"""What fits into this stays on one line."""
INDENT = "  "

_ONE = NumberLiteral(1.0)


def laid_out(expr: Expr) -> str:
    """The expression for people; it parses to the same tree."""
    return _lines(expr, 0, _too_wide(expr))


def _too_wide(expr: Expr) -> Set[int]:
    """The ids of the nodes that do not fit on a line. What holds such a one does not either, so none is written out."""
    found: set[int] = set()
    for node in reversed([*walk(expr)]):  # from the leaves up
        if any(id(child) in found for child in children(node)) or len(_bytes(node)) > WIDTH_BYTES:
            found.add(id(node))
    return found


def _bytes(expr: Expr) -> bytes:
    return str(expr).encode("utf-8", "surrogatepass")


def _lines(expr: Expr, depth: int, wide: Set[int]) -> str:
    margin = INDENT * depth
    if isinstance(expr, Unary):
        return f"{margin}{expr.op}{_lines(expr.expr, depth, wide).strip()}"
    if id(expr) not in wide:
        return f"{margin}{expr}"
    match expr:
        case Binary():
            left, right = (_lines(side, depth + 1, wide) for side in (expr.left, expr.right))
            return f"{left}\n{margin}{str(replace(expr, left=_ONE, right=_ONE))[2:-2]}\n{right}"
        case Call():
            return f"{margin}{expr.function}({_inside(expr.arguments, depth, wide)})"
        case Aggregate():
            head = str(replace(expr, parameter=None, expr=_ONE)).removesuffix("(1)")
            return f"{margin}{head}({_inside(children(expr), depth, wide)})"
        case Paren():
            return f"{margin}({_inside((expr.expr,), depth, wide)})"
        case Subquery():
            return _lines(expr.expr, depth, wide) + str(replace(expr, expr=_ONE))[1:]
        case _:
            return f"{margin}{expr}"


def _inside(inner: Iterable[Expr], depth: int, wide: Set[int]) -> str:
    """What stands between two brackets, each on its own line, and the margin of the closing one."""
    lines = ",\n".join(_lines(one, depth + 1, wide) for one in inner)
    return f"\n{lines}\n{INDENT * depth}"
