"""What a template reads: from its tree alone, without carrying it out."""

from collections.abc import Iterator

from sidecar.rules.gotemplate.parse import Tree
from sidecar.rules.gotemplate.tree import (
    Action,
    Body,
    Branch,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    Include,
    Node,
    Pipe,
    Variable,
)


def reads_field(tree: Tree, field: str, variable: str) -> bool:
    """Whether the text may depend on a field of the data, or on a variable that holds it. Says so when in doubt."""
    nodes = [*_walk(tree.body, True), *(pair for body in tree.defined.values() for pair in _walk(body, False))]
    return any(_reads(node, at_root, field, variable) for node, at_root in nodes)


def _reads(node: Node, at_root: bool, field: str, variable: str) -> bool:
    match node:
        case Dot():
            return at_root
        case Field():
            return at_root and node.fields[0] == field
        case Variable(name="$"):
            return not node.fields or node.fields[0] == field
        case Variable():
            return node.name == variable
    return False


def calls(tree: Tree) -> frozenset[str]:
    """The names of all functions that the template may call."""
    bodies = (tree.body, *tree.defined.values())
    return frozenset(node.name for body in bodies for node, _ in _walk(body, True) if isinstance(node, Function))


def _walk(node: Node, at_root: bool) -> Iterator[tuple[Node, bool]]:
    """Every node, and whether dot may be the template's whole data there.

    Inside `with` and `range` it is what their pipeline gives. That is the data only if the pipeline names the data
    itself, which then is found there.
    """
    yield node, at_root
    match node:
        case Body():
            inner: tuple[Node | None, ...] = node.nodes
        case Action() | Include():
            inner = (node.pipe,)
        case Pipe():
            inner = node.commands
        case Command():
            inner = node.arguments
        case Chain():
            inner = (node.operand,)
        case Branch():
            yield from _walk(node.body, at_root and node.keyword == "if")
            inner = (node.pipe, node.otherwise)
        case _:
            inner = ()
    for one in inner:
        if one is not None:
            yield from _walk(one, at_root)
