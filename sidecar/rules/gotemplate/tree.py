"""The tree of a parsed template. `str` of a node is its source in Go's canonical spelling, which errors quote."""

from dataclasses import dataclass

Literal = bool | int | float | str | None
"""The value of a literal: a bool, an int, a float64, a string, nil."""


@dataclass(frozen=True, slots=True)
class Node:
    """Anything in a template. `position` counts characters from the start of the source."""

    position: int


@dataclass(frozen=True, slots=True)
class Text(Node):
    """What stands between the actions."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Dot(Node):
    """`.`"""

    def __str__(self) -> str:
        return "."


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """A literal with its value. `source` is how it was written."""

    value: Literal
    source: str

    def __str__(self) -> str:
        return self.source


@dataclass(frozen=True, slots=True)
class Function(Node):
    """A function's name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Field(Node):
    """`.A.B`: fields of dot."""

    fields: tuple[str, ...]

    def __str__(self) -> str:
        return "".join(f".{name}" for name in self.fields)


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """`$x.A.B`: a variable and fields of it. `name` includes the dollar."""

    name: str
    fields: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.name, *self.fields))


@dataclass(frozen=True, slots=True)
class Chain(Node):
    """`(pipeline).A.B`: fields of any other operand."""

    operand: Node
    fields: tuple[str, ...]

    def __str__(self) -> str:
        inner = f"({self.operand})" if isinstance(self.operand, Pipe) else str(self.operand)
        return ".".join((inner, *self.fields))


@dataclass(frozen=True, slots=True)
class Command(Node):
    """One stage of a pipeline: an operand, or a function and its arguments."""

    arguments: tuple[Node, ...]

    def __str__(self) -> str:
        return " ".join(f"({part})" if isinstance(part, Pipe) else str(part) for part in self.arguments)


@dataclass(frozen=True, slots=True)
class Pipe(Node):
    """Commands joined by bars, perhaps declaring (`:=`) or assigning (`=`) variables."""

    variables: tuple[str, ...]
    assigns: bool
    commands: tuple[Command, ...]

    def __str__(self) -> str:
        head = f"{', '.join(self.variables)} {'=' if self.assigns else ':='} " if self.variables else ""
        return head + " | ".join(map(str, self.commands))


@dataclass(frozen=True, slots=True)
class Action(Node):
    """`{{pipeline}}`: evaluate and, unless it sets variables, print."""

    pipe: Pipe

    def __str__(self) -> str:
        return f"{{{{{self.pipe}}}}}"


@dataclass(frozen=True, slots=True)
class Body(Node):
    """A sequence of nodes."""

    nodes: tuple[Node, ...]

    def __str__(self) -> str:
        return "".join(map(str, self.nodes))


@dataclass(frozen=True, slots=True)
class Branch(Node):
    """`{{if}}`, `{{with}}` or `{{range}}` with its bodies."""

    keyword: str
    pipe: Pipe
    body: Body
    otherwise: Body | None

    def __str__(self) -> str:
        otherwise = "" if self.otherwise is None else f"{{{{else}}}}{self.otherwise}"
        return f"{{{{{self.keyword} {self.pipe}}}}}{self.body}{otherwise}{{{{end}}}}"


@dataclass(frozen=True, slots=True)
class Include(Node):
    """`{{template "name" pipeline}}`."""

    name: str
    pipe: Pipe | None

    def __str__(self) -> str:
        return f'{{{{template "{self.name}"{"" if self.pipe is None else f" {self.pipe}"}}}}}'


@dataclass(frozen=True, slots=True)
class Jump(Node):
    """`{{break}}` or `{{continue}}`."""

    keyword: str

    def __str__(self) -> str:
        return f"{{{{{self.keyword}}}}}"
