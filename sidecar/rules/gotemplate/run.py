"""Carries out a parsed template: walks the tree, evaluates pipelines, writes the text.

Semantics and the wording of errors follow Go's text/template with the option `missingkey=zero`. Values are those of
format.py; an object may offer fields in `go_fields` and methods in `go_methods` (both mappings by name).
"""

from collections.abc import Iterator, Mapping, Sequence

from sidecar.rules.gotemplate.call import Callee, CallFailed, go_name, mismatch
from sidecar.rules.gotemplate.format import format_value, type_name
from sidecar.rules.gotemplate.parse import Tree
from sidecar.rules.gotemplate.tree import (
    Action,
    Body,
    Branch,
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Include,
    Jump,
    Node,
    Pipe,
    Text,
    Variable,
)

MAX_OUTPUT = 64 * 1024
"""Characters a template may write."""
MAX_STEPS = 100_000
"""Nodes a template may visit: a range over a billion ends here."""
MAX_INCLUDES = 40
"""How deep templates may call each other."""

_ABSENT = object()
"""No value came down the pipeline; nil is a value."""


class TemplateError(Exception):
    """A template that failed while it ran, in the words of Go: place, what was evaluated, why."""


class _Break(Exception):
    """Leaves the innermost range."""


class _Continue(Exception):
    """Goes on with the next element of the innermost range."""


def truth(value: object) -> bool:
    """Go's truth: false are nil, false, zero and everything empty."""
    return value != 0 if isinstance(value, float) else bool(value)


def run(tree: Tree, name: str, data: object, functions: Mapping[str, Callee]) -> str:
    """The text that `tree` makes of `data`. `name` is the template's, for errors. Raises TemplateError."""
    running = _Run(tree, name, functions)
    running.enter(name, tree.body, data)
    return "".join(running.output)


class _Run:
    """One execution. Lives as long as `run` runs."""

    def __init__(self, tree: Tree, name: str, functions: Mapping[str, Callee]) -> None:
        self._tree = tree
        self._root = name
        self._names = [name]
        self._functions = functions
        self._variables: list[tuple[str, object]] = []
        self._node: Node = tree.body
        self._steps = 0
        self._written = 0
        self.output: list[str] = []

    def _failure(self, reason: str) -> "TemplateError":
        """A TemplateError with the place and the source of the node at work."""
        before = self._tree.source[: self._node.position]
        line, column = before.count("\n") + 1, len(before[before.rfind("\n") + 1 :].encode())
        return TemplateError(f'template: {self._root}:{line}:{column}: executing "{self._names[-1]}" '
                            f"at <{self._node}>: {reason}")

    def _write(self, text: str) -> None:
        self._written += len(text)
        if self._written > MAX_OUTPUT:
            raise self._failure(f"wrote more than {MAX_OUTPUT} characters")
        self.output.append(text)

    def enter(self, name: str, body: Body, dot: object) -> None:
        """Carry out one named template, which sees no variables but `$`."""
        if len(self._names) > MAX_INCLUDES:
            raise self._failure(f"exceeded maximum template depth ({MAX_INCLUDES})")
        self._names.append(name)
        outer, self._variables = self._variables, [("$", dot)]
        self._walk(dot, body)
        self._variables = outer
        self._names.pop()

    def _walk(self, dot: object, node: Node) -> None:
        self._node = node
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise self._failure(f"took more than {MAX_STEPS} steps")
        match node:
            case Text():
                self._write(node.text)
            case Action():
                value = self._pipe(dot, node.pipe)
                self._node = node
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
        known = len(self._variables)
        value = self._pipe(dot, node.pipe)
        if truth(value):
            self._walk(value if node.keyword == "with" else dot, node.body)
        elif node.otherwise is not None:
            self._walk(dot, node.otherwise)
        del self._variables[known:]

    def _range(self, dot: object, node: Branch) -> None:
        known = len(self._variables)
        items = self._items(self._pipe(dot, node.pipe))
        inside, empty, names = len(self._variables), True, node.pipe.variables
        for key, item in items:
            empty = False
            for name, value in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                self._assign(name, value)
            try:
                self._walk(item, node.body)
            except _Break:
                break
            except _Continue:
                continue
            finally:
                del self._variables[inside:]
        if empty and node.otherwise is not None:
            self._walk(dot, node.otherwise)
        del self._variables[known:]

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
                raise self._failure(f"range can't iterate over {format_value(value)}")

    def _include(self, dot: object, node: Include) -> None:
        body = self._tree.defined.get(node.name)
        if body is None:
            raise self._failure(f'template "{node.name}" not defined')
        self.enter(node.name, body, None if node.pipe is None else self._pipe(dot, node.pipe))

    def _assign(self, name: str, value: object) -> None:
        at = max(index for index, (known, _) in enumerate(self._variables) if known == name)
        self._variables[at] = (name, value)

    def _pipe(self, dot: object, pipe: Pipe) -> object:
        self._node = pipe
        value: object = _ABSENT
        for command in pipe.commands:
            value = self._command(dot, command, value)
        for name in pipe.variables:
            if pipe.assigns:
                self._assign(name, value)
            else:
                self._variables.append((name, value))
        return value

    def _command(self, dot: object, command: Command, final: object) -> object:
        """One command's value; `final` is what the command before it in the pipeline gave."""
        first = command.arguments[0]
        if isinstance(first, Function):
            self._node = first
            return self._function(dot, first, command, final)
        if isinstance(first, Field | Variable | Chain):
            return self._operand(dot, first, command.arguments[1:], final)
        self._node = first
        if len(command.arguments) > 1 or final is not _ABSENT:
            raise self._failure(f"can't give argument to non-function {first}")
        if isinstance(first, Constant) and first.source == "nil":
            raise self._failure("nil is not a command")
        return self._operand(dot, first)

    def _operand(self, dot: object, node: Node, arguments: Sequence[Node] = (), final: object = _ABSENT) -> object:
        """The value of anything that can stand as an argument; arguments are only for a method at a chain's end."""
        self._node = node
        match node:
            case Dot():
                return dot
            case Constant():
                return node.value
            case Pipe():
                return self._pipe(dot, node)
            case Function():
                return self._function(dot, node, Command(node.position, (node,)), _ABSENT)
            case Field():
                receiver: object = dot
            case Variable():
                receiver = next(value for name, value in reversed(self._variables) if name == node.name)
            case Chain():
                receiver = self._operand(dot, node.operand)
                self._node = node
            case _:
                raise self._failure(f"can't evaluate {node}")
        for index, name in enumerate(node.fields):
            last = index == len(node.fields) - 1
            receiver = self._field(dot, node, receiver, name, (arguments, final) if last else ((), _ABSENT))
        if not node.fields and (arguments or final is not _ABSENT):
            raise self._failure(f"can't give argument to non-function {node}")
        return receiver

    def _field(self, dot: object, node: Node, receiver: object, name: str,
               given: tuple[Sequence[Node], object]) -> object:
        """One field, map entry or method call of `receiver`."""
        self._node = node
        arguments, final = given
        if (method := getattr(receiver, "go_methods", {}).get(name)) is not None:
            return self._call(name, method, dot, node, given)
        has_arguments = bool(arguments) or final is not _ABSENT
        if isinstance(receiver, Mapping):
            if has_arguments:
                raise self._failure(f"{name} is not a method but has arguments")
            return receiver.get(name, getattr(receiver, "go_zero", ""))
        fields = getattr(receiver, "go_fields", {})
        if name in fields:
            if has_arguments:
                raise self._failure(f"{name} has arguments but cannot be invoked as function")
            return fields[name]
        if receiver is not None:
            raise self._failure(f"can't evaluate field {name} in type {type_name(receiver)}")
        return None

    def _function(self, dot: object, node: Function, command: Command, final: object) -> object:
        """A function's value. Its failure is told at the whole command, as Go does."""
        given = (command.arguments[1:], final)
        if node.name in ("and", "or"):
            return self._short_circuit(dot, node, *given)
        return self._call(node.name, self._functions[node.name], dot, command, given)

    def _short_circuit(self, dot: object, node: Function, arguments: Sequence[Node], final: object) -> object:
        if not arguments and final is _ABSENT:
            raise self._failure(f"wrong number of args for {node.name}: want at least 1 got 0")
        value: object = None
        for one in arguments:
            value = self._operand(dot, one)
            if truth(value) == (node.name == "or"):
                return value
        return value if final is _ABSENT else final

    def _call(self, name: str, callee: Callee, dot: object, node: Node, given: tuple[Sequence[Node], object]) -> object:
        """Call a function or method with its written arguments and, behind them, the pipeline's value."""
        arguments, final = given
        if wrong := callee.miscount(len(arguments) + (final is not _ABSENT)):
            raise self._failure(f"wrong number of args for {name}: {wrong}")
        values = [self._argument(dot, one, callee.parameter(index)) for index, one in enumerate(arguments)]
        if final is not _ABSENT:
            if wrong := mismatch(final, callee.parameter(len(values))):
                raise self._failure(wrong)
            values.append(final)
        self._node = node
        try:
            return callee.call(*values)
        except CallFailed as error:
            raise self._failure(f"error calling {name}: {error}") from error

    def _argument(self, dot: object, node: Node, wanted: type) -> object:
        value = self._operand(dot, node)
        if wrong := mismatch(value, wanted):
            raise self._failure(f"expected {go_name(wanted)}; found {node}" if isinstance(node, Constant) else wrong)
        return value
