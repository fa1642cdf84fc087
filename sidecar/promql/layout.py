"""Long expressions over several lines, short ones on one: where Prometheus breaks lines (promql/parser/prettier.go)."""

from sidecar.promql.tree import Aggregate, Binary, Call, Expr, Paren, Subquery, Unary

WIDTH_BYTES = 100
"""What fits into this stays on one line."""
INDENT = "  "


def laid_out(expr: Expr, depth: int = 0) -> str:
    """The expression for people; it parses to the same tree. `depth` is how far it is indented."""
    margin, text = INDENT * depth, str(expr)
    if isinstance(expr, Unary):
        return f"{margin}{expr.op}{laid_out(expr.expr, depth).strip()}"
    if len(text.encode("utf-8", "surrogatepass")) <= WIDTH_BYTES:
        return margin + text
    match expr:
        case Binary():
            left, right = str(expr.left), str(expr.right)
            operator = text[len(left) + 1:len(text) - len(right) - 1]
            return f"{laid_out(expr.left, depth + 1)}\n{margin}{operator}\n{laid_out(expr.right, depth + 1)}"
        case Call():
            return f"{margin}{expr.function}({_inside(expr.arguments, depth)})"
        case Aggregate():
            inner = (expr.expr,) if expr.parameter is None else (expr.parameter, expr.expr)
            head = text[:len(text) - len(", ".join(map(str, inner))) - 2]
            return f"{margin}{head}({_inside(inner, depth)})"
        case Paren():
            return f"{margin}({_inside((expr.expr,), depth)})"
        case Subquery():
            return laid_out(expr.expr, depth) + text[len(str(expr.expr)):]
        case _:
            return margin + text


def _inside(inner: tuple[Expr, ...], depth: int) -> str:
    """What stands between two brackets, each on its own line, and the margin of the closing one."""
    lines = ",\n".join(laid_out(one, depth + 1) for one in inner)
    return f"\n{lines}\n{INDENT * depth}"
