"""Carries out a parsed template: walks its bodies and writes the text. What it may take is bounded."""

from collections.abc import Iterator, Mapping, Sequence

from sidecar.rules.gotemplate.call import Callee
from sidecar.rules.gotemplate.evaluate import MAX_TEXT, Evaluation, truth
from sidecar.rules.gotemplate.format import format_value
from sidecar.rules.gotemplate.parse import Tree
from sidecar.rules.gotemplate.tree import (
    Action,
    Body,
    Branch,
    Include,
    Jump,
    Node,
    Text,
)

MAX_STEPS = 20_000
"""Nodes a template may visit, a quarter of a second's worth: a range over a billion ends here."""
MAX_INCLUDES = 40
"""How deep templates may call each other."""


class _Break(Exception):
    """Leaves the innermost range."""


class _Continue(Exception):
    """Goes on with the next element of the innermost range."""


def run(tree: Tree, name: str, data: object, functions: Mapping[str, Callee],
        variables: Sequence[tuple[str, object]] = ()) -> str:
    """The text that `tree` makes of `data`. `name` is the template's, for errors. Raises TemplateError.

    `variables` (with their dollars) are there before it begins, beside `$`.
    """
    running = _Run(tree, name, functions)
    running.enter(name, tree.body, data, variables)
    return "".join(running.output)


class _Run:
    """One execution. Lives as long as `run` runs."""

    def __init__(self, tree: Tree, name: str, functions: Mapping[str, Callee]) -> None:
        self._tree = tree
        self._inside = Evaluation(tree.source, tree.body, name, functions)
        self._steps = 0
        self._written = 0
        self.output: list[str] = []

    def _write(self, text: str) -> None:
        self._written += len(text)
        if self._written > MAX_TEXT:
            raise self._inside.failure(f"wrote more than {MAX_TEXT} characters")
        self.output.append(text)

    def enter(self, name: str, body: Body, dot: object, variables: Sequence[tuple[str, object]] = ()) -> None:
        """Carry out one named template, which sees no variables but `$` and those given."""
        if len(self._inside.names) > MAX_INCLUDES:
            raise self._inside.failure(f"exceeded maximum template depth ({MAX_INCLUDES})")
        self._inside.names.append(name)
        outer, self._inside.variables = self._inside.variables, [("$", dot), *variables]
        self._walk(dot, body)
        self._inside.variables = outer
        self._inside.names.pop()

    def _walk(self, dot: object, node: Node) -> None:
        self._inside.node = node
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise self._inside.failure(f"took more than {MAX_STEPS} steps")
        match node:
            case Text():
                self._write(node.text)
            case Action():
                value = self._inside.pipe(dot, node.pipe)
                self._inside.node = node
                if not node.pipe.variables:
                    self._write("<no value>" if value is None else format_value(value))
            case Body():
                for child in node.nodes:
                    self._walk(dot, child)
            case Branch(keyword="range"):
                self._range(dot, node)
            case Branch():
                self._branch(dot, node)
            case Include():
                self._include(dot, node)
            case Jump():
                raise _Break if node.keyword == "break" else _Continue

    def _branch(self, dot: object, node: Branch) -> None:
        known = len(self._inside.variables)
        value = self._inside.pipe(dot, node.pipe)
        if truth(value):
            self._walk(value if node.keyword == "with" else dot, node.body)
        elif node.otherwise is not None:
            self._walk(dot, node.otherwise)
        del self._inside.variables[known:]

    def _range(self, dot: object, node: Branch) -> None:
        known = len(self._inside.variables)
        items = self._items(self._inside.pipe(dot, node.pipe))
        inside, empty, names = len(self._inside.variables), True, node.pipe.variables
        for key, item in items:
            empty = False
            for name, value in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                self._inside.assign(name, value)
            try:
                self._walk(item, node.body)
            except _Break:
                break
            except _Continue:
                continue
            finally:
                del self._inside.variables[inside:]
        if empty and node.otherwise is not None:
            self._walk(dot, node.otherwise)
        del self._inside.variables[known:]

    def _items(self, value: object) -> Iterator[tuple[object, object]]:
        match value:
            case None:
                return iter(())
            case list():
                return iter(enumerate(value))
            case Mapping():
                return iter(sorted(value.items()))
            case int() if not isinstance(value, bool):
                return ((index, index) for index in range(value))
            case _:
                raise self._inside.failure(f"range can't iterate over {format_value(value)}")

    def _include(self, dot: object, node: Include) -> None:
        body = self._tree.defined.get(node.name)
        if body is None:
            raise self._inside.failure(f'template "{node.name}" not defined')
        self.enter(node.name, body, None if node.pipe is None else self._inside.pipe(dot, node.pipe))
