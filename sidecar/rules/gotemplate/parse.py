"""Tokens to tree, by the grammar of Go's text/template. Unknown functions and variables are refused here, as in Go."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NoReturn

from sidecar.rules.gotemplate.format import unquote
from sidecar.rules.gotemplate.lex import TemplateSyntaxError, Token, tokens
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
    Literal,
    Node,
    Pipe,
    Text,
    Variable,
)

MAX_DEPTH = 50
"""The deepest nesting of parentheses and blocks: a template must not exhaust Python's stack."""

_OPERANDS = {"bool", "char", "dot", "field", "identifier", "nil", "number", "open", "string", "variable"}


@dataclass(frozen=True, slots=True)
class Tree:
    """A parsed template: its main body and the templates it defines, by name."""

    source: str
    body: Body
    defined: dict[str, Body]


def parse(source: str, functions: Collection[str]) -> Tree:
    """The tree of `source`. `functions` are the names that may be called. Raises TemplateSyntaxError."""
    bodies = _Bodies(_Cursor(list(tokens(source))), functions)
    body, _ = bodies.body(stop=("eof",))
    return Tree(source, body, bodies.defined)


class _Cursor:
    """A place in the tokens. Lives as long as `parse` runs."""

    def __init__(self, stream: list[Token]) -> None:
        self._tokens = stream
        self.at = 0
        self._depth = 0

    def peek(self) -> Token:
        return self._tokens[self.at]

    def next(self) -> Token:
        """The next token that is not space, taken; `eof` for ever at the end."""
        token = self.peek_solid()
        self.at += token.kind != "eof"
        return token

    def peek_solid(self) -> Token:
        """The next token that is not space, left in place (the space is taken)."""
        while self._tokens[self.at].kind == "space":
            self.at += 1
        return self._tokens[self.at]

    def expect(self, kind: str, context: str) -> Token:
        token = self.next()
        if token.kind != kind:
            _unexpected(token, context)
        return token

    @contextmanager
    def nested(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateSyntaxError(f"nested more than {MAX_DEPTH} deep", self.peek().position)
        yield
        self._depth -= 1


def _unexpected(token: Token, context: str) -> NoReturn:
    shown = f"{{{{{token.kind}}}}}" if token.kind in ("end", "else") else f'"{token.text}"'
    reason = "unexpected EOF" if token.kind == "eof" else f"unexpected {shown} in {context}"
    raise TemplateSyntaxError(reason, token.position)


class _Bodies:
    """Text, actions and blocks. Lives as long as `parse` runs."""

    def __init__(self, cursor: _Cursor, functions: Collection[str]) -> None:
        self._cursor = cursor
        self._pipelines = _Pipelines(cursor, functions)
        self._ranges = 0
        self.defined: dict[str, Body] = {}

    def body(self, stop: tuple[str, ...]) -> tuple[Body, Token]:
        """Nodes up to an action that starts with one of `stop` (or the end), and the token that ended them."""
        nodes: list[Node] = []
        start = self._cursor.peek().position
        with self._cursor.nested():
            while (token := self._cursor.next()).kind != "eof":
                if token.kind == "text":
                    nodes.append(Text(token.position, token.text))
                elif self._cursor.peek_solid().kind in stop:
                    return Body(start, tuple(nodes)), self._cursor.next()
                elif node := self._action(top="eof" in stop):
                    nodes.append(node)
        if "eof" not in stop:
            _unexpected(token, "template")
        return Body(start, tuple(nodes)), token

    def _action(self, *, top: bool) -> Node | None:
        """What stands behind a left delimiter. A definition leaves no node."""
        token = self._cursor.peek_solid()
        match token.kind:
            case "if" | "with" | "range":
                return self._branch(self._cursor.next())
            case "define" if top:
                self._define(self._cursor.next())
                return None
            case "block":
                return self._block(self._cursor.next())
            case "template":
                self._cursor.next()
                return self._include()
            case "break" | "continue":
                return self._jump(self._cursor.next())
            case "end" | "else" | "define":
                _unexpected(token, "template")
        pipe = self._pipelines.pipeline("command", "right")
        return Action(token.position, pipe)

    def _branch(self, start: Token) -> Branch:
        known = len(self._pipelines.variables)
        pipe = self._pipelines.pipeline(start.kind, "right")
        self._ranges += start.kind == "range"
        inner, token = self.body(("end", "else"))
        self._ranges -= start.kind == "range"
        otherwise: Body | None = None
        if token.kind == "else":
            following = self._cursor.peek_solid()
            if following.kind == start.kind and start.kind != "range":
                otherwise = Body(following.position, (self._nested_branch(),))
            else:
                self._cursor.expect("right", "else")
                otherwise, _ = self.body(("end",))
                self._cursor.expect("right", "end")
        else:
            self._cursor.expect("right", "end")
        del self._pipelines.variables[known:]
        return Branch(pipe.position, start.kind, pipe, inner, otherwise)

    def _nested_branch(self) -> Branch:
        """`{{else if}}`: a branch inside the branch, closed by the same `{{end}}`."""
        with self._cursor.nested():
            return self._branch(self._cursor.next())

    def _apart(self, name: str, position: int) -> None:
        """Parse a body that sees no variable from outside, up to its end, and keep it as the template `name`."""
        outer, self._pipelines.variables = self._pipelines.variables, ["$"]
        ranges, self._ranges = self._ranges, 0
        inner, _ = self.body(("end",))
        self._cursor.expect("right", "end")
        self._pipelines.variables, self._ranges = outer, ranges
        if name in self.defined:
            raise TemplateSyntaxError(f'multiple definition of template "{name}"', position)
        self.defined[name] = inner

    def _name(self, context: str) -> tuple[str, int]:
        token = self._cursor.expect("string", context)
        return str(_literal(token, unquote)), token.position

    def _define(self, start: Token) -> None:
        name, _ = self._name("define clause")
        self._cursor.expect("right", "define clause")
        self._apart(name, start.position)

    def _block(self, start: Token) -> Include:
        name, position = self._name("block clause")
        pipe = self._pipelines.pipeline("block clause", "right")
        self._apart(name, start.position)
        return Include(position, name, pipe)

    def _include(self) -> Include:
        name, position = self._name("template clause")
        pipe = None
        if self._cursor.peek_solid().kind == "right":
            self._cursor.next()
        else:
            pipe = self._pipelines.pipeline("template clause", "right")
        return Include(position, name, pipe)

    def _jump(self, start: Token) -> Jump:
        if not self._ranges:
            raise TemplateSyntaxError(f"{{{{{start.kind}}}}} outside {{{{range}}}}", start.position)
        self._cursor.expect("right", start.kind)
        return Jump(start.position, start.kind)


class _Pipelines:
    """What stands inside an action. Lives as long as `parse` runs."""

    def __init__(self, cursor: _Cursor, functions: Collection[str]) -> None:
        self._cursor = cursor
        self._functions = functions
        self.variables = ["$"]

    def pipeline(self, context: str, end: str) -> Pipe:
        start = self._cursor.peek_solid().position
        variables, assigns = self._declarations(context)
        commands: list[Command] = []
        while (token := self._cursor.peek_solid()).kind != end:
            if token.kind not in _OPERANDS:
                _unexpected(token, context)
            commands.append(self._command())
        self._cursor.next()
        if not commands:
            raise TemplateSyntaxError(f"missing value for {context}", token.position)
        for stage, command in enumerate(commands[1:], 2):
            if isinstance(command.arguments[0], Constant | Dot):
                raise TemplateSyntaxError(f"non executable command in pipeline stage {stage}", command.position)
        return Pipe(start, variables, assigns, tuple(commands))

    def _declarations(self, context: str) -> tuple[tuple[str, ...], bool]:
        """`$x :=`, `$x =`, and for a range `$i, $x :=`: the names, and whether they are assigned, not declared."""
        start, names = self._cursor.at, list[str]()
        while self._cursor.peek_solid().kind == "variable":
            names.append(self._cursor.next().text)
            token = self._cursor.next()
            if token.kind in ("declare", "assign"):
                if token.kind == "declare":
                    self.variables.extend(names)
                for name in names:
                    self._known(name, token.position)
                return tuple(names), token.kind == "assign"
            if token.kind != "comma":
                break
            if context != "range" or len(names) == 2:
                raise TemplateSyntaxError(f"too many declarations in {context}", token.position)
        self._cursor.at = start
        return (), False

    def _command(self) -> Command:
        start, arguments = self._cursor.peek_solid().position, list[Node]()
        while self._cursor.peek_solid().kind in _OPERANDS:
            arguments.append(self._operand())
            if self._cursor.peek().kind != "space":
                break
        token = self._cursor.peek_solid()
        if token.kind == "pipe":
            self._cursor.next()
            if self._cursor.peek_solid().kind in ("right", "close"):
                raise TemplateSyntaxError("missing value for command", token.position)
        elif token.kind not in ("right", "close"):
            _unexpected(token, "operand")
        return Command(start, tuple(arguments))

    def _operand(self) -> Node:
        node = self._term(self._cursor.next())
        start, fields = self._cursor.peek().position, list[str]()
        while self._cursor.peek().kind == "field":
            fields.append(self._cursor.next().text[1:])
        if not fields:
            return node
        match node:
            case Field():
                return Field(start, (*node.fields, *fields))
            case Variable():
                return Variable(start, node.name, (*node.fields, *fields))
            case Constant() | Dot():
                raise TemplateSyntaxError(f'unexpected . after term "{node}"', start)
        return Chain(start, node, tuple(fields))

    def _term(self, token: Token) -> Node:
        match token.kind:
            case "identifier":
                if token.text not in self._functions:
                    raise TemplateSyntaxError(f'function "{token.text}" not defined', token.position)
                return Function(token.position, token.text)
            case "dot":
                return Dot(token.position)
            case "field":
                return Field(token.position, (token.text[1:],))
            case "variable":
                self._known(token.text, token.position)
                return Variable(token.position, token.text, ())
            case "open":
                return self._parenthesis()
        value = _literal(token, _LITERALS[token.kind])
        return Constant(token.position, value, token.text)

    def _parenthesis(self) -> Pipe:
        with self._cursor.nested():
            return self.pipeline("parenthesized pipeline", "close")

    def _known(self, name: str, position: int) -> None:
        if name not in self.variables:
            raise TemplateSyntaxError(f'undefined variable "{name}"', position)


def _literal(token: Token, read: Callable[[str], Literal]) -> Literal:
    try:
        return read(token.text)
    except ValueError as error:
        raise TemplateSyntaxError(str(error), token.position) from None


def _number(text: str) -> int | float:
    """A Go number: with a point or an exponent a float64, else an int. Raises ValueError where Go finds it illegal."""
    plain = text.replace("_", "")
    digits = plain.lstrip("+-").lower()
    if digits.startswith(("0x", "0b", "0o")):
        value: int | float = int(plain, 0)
    elif any(mark in digits for mark in ".e"):
        return float(plain)
    else:
        octal = len(digits) > 1 and digits.startswith("0")
        value = int(plain, 8 if octal else 10)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"illegal number syntax: {text} overflows int")
    return value


def _character(text: str) -> int:
    char = unquote(text)
    if len(char) != 1:
        raise ValueError(f"malformed character constant: {text}")
    return ord(char)


_LITERALS: dict[str, Callable[[str], Literal]] = {
    "string": unquote, "char": _character, "number": _number, "bool": "true".__eq__, "nil": lambda _: None,
}
