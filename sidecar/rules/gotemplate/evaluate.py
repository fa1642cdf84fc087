"""Evaluates what stands inside the actions of a template: pipelines, commands, operands, calls.

Semantics and the wording of errors follow Go's text/template with the option `missingkey=zero`. Values are those of
format.py; an object may offer fields in `go_fields` and methods in `go_methods` (both mappings by name).
"""

from collections.abc import Mapping, Sequence

from sidecar.rules.gotemplate.call import Callee, CallFailed, go_name, mismatch
from sidecar.rules.gotemplate.format import type_name
from sidecar.rules.gotemplate.tree import (
    Chain,
    Command,
    Constant,
    Dot,
    Field,
    Function,
    Node,
    Pipe,
    Variable,
)

MAX_TEXT = 64 * 1024
"""Characters a template may write, and a function may give: a loop that doubles a text ends here."""

_ABSENT = object()
"""No value came down the pipeline; nil is a value."""


class TemplateError(Exception):
    """A template that failed while it ran, in the words of Go: place, what was evaluated, why."""


def truth(value: object) -> bool:
    """Go's truth: false are nil, false, zero and everything empty."""
    return value != 0 if isinstance(value, float) else bool(value)


class Evaluation:
    """The variables and the place of one execution. Lives as long as it.

    `variables` are those in scope, the innermost last; `node` is what is at work, for errors; `names` are the templates
    entered, the outermost first.
    """

    def __init__(self, source: str, root: Node, name: str, functions: Mapping[str, Callee]) -> None:
        self._source = source
        self._functions = functions
        self.node = root
        self.names = [name]
        self.variables: list[tuple[str, object]] = []

    def failure(self, reason: str) -> TemplateError:
        """A TemplateError with the place and the source of the node at work."""
        before = self._source[: self.node.position]
        line, column = before.count("\n") + 1, len(before[before.rfind("\n") + 1 :].encode())
        return TemplateError(f'template: {self.names[0]}:{line}:{column}: executing "{self.names[-1]}" '
                            f"at <{self.node}>: {reason}")

    def assign(self, name: str, value: object) -> None:
        """Give the innermost variable of this name another value."""
        at = max(index for index, (known, _) in enumerate(self.variables) if known == name)
        self.variables[at] = (name, value)

    def pipe(self, dot: object, pipe: Pipe) -> object:
        """The value of a pipeline, which may set variables."""
        self.node = pipe
        value: object = _ABSENT
        for command in pipe.commands:
            value = self._command(dot, command, value)
        for name in pipe.variables:
            if pipe.assigns:
                self.assign(name, value)
            else:
                self.variables.append((name, value))
        return value

    def _command(self, dot: object, command: Command, final: object) -> object:
        """One command's value; `final` is what the command before it in the pipeline gave."""
        first = command.arguments[0]
        if isinstance(first, Function):
            self.node = first
            return self._function(dot, first, command, final)
        if isinstance(first, Field | Variable | Chain):
            return self._operand(dot, first, command.arguments[1:], final)
        self.node = first
        if len(command.arguments) > 1 or final is not _ABSENT:
            raise self.failure(f"can't give argument to non-function {first}")
        if isinstance(first, Constant) and first.source == "nil":
            raise self.failure("nil is not a command")
        return self._operand(dot, first)

    def _operand(self, dot: object, node: Node, arguments: Sequence[Node] = (), final: object = _ABSENT) -> object:
        """The value of anything that can stand as an argument; arguments are only for a method at a chain's end."""
        self.node = node
        match node:
            case Dot():
                return dot
            case Constant():
                return node.value
            case Pipe():
                return self.pipe(dot, node)
            case Function():
                return self._function(dot, node, Command(node.position, (node,)), _ABSENT)
            case Field():
                receiver: object = dot
            case Variable():
                receiver = next((value for name, value in reversed(self.variables) if name == node.name), _ABSENT)
                if receiver is _ABSENT:  # `$x := $x` parses
                    raise self.failure(f"undefined variable: {node.name}")
            case Chain():
                receiver = self._operand(dot, node.operand)
                self.node = node
            case _:
                raise self.failure(f"can't evaluate {node}")
        for index, name in enumerate(node.fields):
            last = index == len(node.fields) - 1
            receiver = self._field(dot, node, receiver, name, (arguments, final) if last else ((), _ABSENT))
        if not node.fields and (arguments or final is not _ABSENT):
            raise self.failure(f"can't give argument to non-function {node}")
        return receiver

    def _field(self, dot: object, node: Node, receiver: object, name: str,
               given: tuple[Sequence[Node], object]) -> object:
        """One field, map entry or method call of `receiver`."""
        self.node = node
        arguments, final = given
        if (method := getattr(receiver, "go_methods", {}).get(name)) is not None:
            return self._call(name, method, dot, node, given)
        has_arguments = bool(arguments) or final is not _ABSENT
        if isinstance(receiver, Mapping):
            if has_arguments:
                raise self.failure(f"{name} is not a method but has arguments")
            return receiver.get(name, getattr(receiver, "go_zero", ""))
        fields = getattr(receiver, "go_fields", {})
        if name in fields:
            if has_arguments:
                raise self.failure(f"{name} has arguments but cannot be invoked as function")
            return fields[name]
        if receiver is not None:
            raise self.failure(f"can't evaluate field {name} in type {type_name(receiver)}")
        return None

    def _function(self, dot: object, node: Function, command: Command, final: object) -> object:
        """A function's value. Its failure is told at the whole command, as Go does."""
        given = (command.arguments[1:], final)
        if node.name in ("and", "or"):
            return self._short_circuit(dot, node, *given)
        return self._call(node.name, self._functions[node.name], dot, command, given)

    def _short_circuit(self, dot: object, node: Function, arguments: Sequence[Node], final: object) -> object:
        if not arguments and final is _ABSENT:
            raise self.failure(f"wrong number of args for {node.name}: want at least 1 got 0")
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
            raise self.failure(f"wrong number of args for {name}: {wrong}")
        values = [self._argument(dot, one, callee.parameter(index)) for index, one in enumerate(arguments)]
        if final is not _ABSENT:
            if wrong := mismatch(final, callee.parameter(len(values))):
                raise self.failure(wrong)
            values.append(final)
        self.node = node
        try:
            value = callee.call(*values)
        except CallFailed as error:
            raise self.failure(f"error calling {name}: {error}") from error
        if isinstance(value, str) and len(value) > MAX_TEXT:
            raise self.failure(f"error calling {name}: more than {MAX_TEXT} characters")
        return value

    def _argument(self, dot: object, node: Node, wanted: type) -> object:
        value = self._operand(dot, node)
        if wrong := mismatch(value, wanted):
            raise self.failure(f"expected {go_name(wanted)}; found {node}" if isinstance(node, Constant) else wrong)
        return value
