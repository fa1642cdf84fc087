"""YAML files as nodes that know their places, and a strict reading of them that gathers every problem.

Rule files and their unit tests are read with it. Values are taken as written: `1`, `yes` and `5m` are all text first,
so that nothing depends on what a YAML parser guesses.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sidecar.errors import Problem
from sidecar.rules.durations import parse_duration

MAX_VISITS = 200_000
"""How many nodes of one file are looked at; aliases can make a small file stand for a huge one."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value as written, None for null.

    `lines` are the places (line, column) where the lines of its text begin, as far as the layout shows them.
    """

    text: str | None
    place: tuple[int, int]
    lines: tuple[tuple[int, int], ...] = ()

    def place_of(self, offset: int | None) -> tuple[int, int]:
        """The place of the character at `offset`; the value's own where that is not known."""
        before = (self.text or "")[:offset].split("\n")
        if offset is None or len(before) > len(self.lines):
            return self.place
        line, column = self.lines[len(before) - 1]
        return line, column + len(before[-1])


@dataclass(frozen=True, slots=True)
class Items:
    """A sequence."""

    items: tuple["Node", ...]
    place: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping, merge keys resolved. `keys` are the places of the keys."""

    entries: Mapping[str, "Node"]
    keys: Mapping[str, tuple[int, int]]
    place: tuple[int, int]


Node = Scalar | Items | Fields


class TooMuch(Exception):
    """A file whose aliases expand to more than anybody means."""


class Reader:
    """Takes values out of one file's nodes and gathers what is wrong. Lives as long as one file is read.

    `lenient` passes over fields that are not known.
    """

    def __init__(self, file: str, *, lenient: bool = False) -> None:
        self.file = file
        self._lenient = lenient
        self.problems: list[Problem] = []
        self._where: list[str] = []
        self._visits = 0

    @contextmanager
    def inside(self, where: str) -> Iterator[None]:
        """Problems found within name `where` too."""
        self._where.append(where)
        yield
        self._where.pop()

    def problem(self, place: tuple[int, int], what: str) -> None:
        """Note what is wrong at a place."""
        self.problems.append(Problem(self.file, place[0], place[1], ", ".join(self._where), what))

    def aside(self) -> "Reader":
        """A reader at the same place whose problems are gathered apart."""
        other = Reader(self.file, lenient=self._lenient)
        other._where = list(self._where)
        return other

    def _visit(self, count: int = 1) -> None:
        self._visits += count
        if self._visits > MAX_VISITS:
            raise TooMuch

    def fields(self, node: Node, known: Collection[str]) -> Mapping[str, Node]:
        """A mapping whose keys are all in `known`; null is an empty one."""
        entries = self.mapping(node)
        for name in entries:
            if name not in known and not self._lenient:
                assert isinstance(node, Fields)
                from difflib import get_close_matches  # mistakes are seldom, and it takes 0.1 MiB

                near = get_close_matches(name, known, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
                self.problem(node.keys[name], f"field {name} not found{hint}")
        return {name: child for name, child in entries.items() if name in known}

    def mapping(self, node: Node) -> Mapping[str, Node]:
        """A mapping with keys of any name; null is an empty one."""
        if isinstance(node, Fields):
            self._visit(len(node.entries))
            return node.entries
        if not (isinstance(node, Scalar) and node.text is None):
            self.problem(node.place, f"expected a mapping, found {_kind(node)}")
        return {}

    def items(self, node: Node | None) -> tuple[Node, ...]:
        """A sequence; an absent one and null are empty."""
        if isinstance(node, Items):
            self._visit(len(node.items))
            return node.items
        if node is not None and not (isinstance(node, Scalar) and node.text is None):
            self.problem(node.place, f"expected a list, found {_kind(node)}")
        return ()

    def text(self, node: Node | None) -> str:
        """A single value as text; an absent one and null are the empty string."""
        self._visit()
        if isinstance(node, Scalar):
            return node.text or ""
        if node is not None:
            self.problem(node.place, f"expected a single value, found {_kind(node)}")
        return ""

    def texts(self, node: Node | None) -> dict[str, str]:
        """A mapping of names to single values."""
        return {} if node is None else {name: self.text(child) for name, child in self.mapping(node).items()}

    def duration(self, node: Node | None) -> float | None:
        """Seconds of a duration; None where it is absent, null or wrong."""
        text = self.text(node)
        if not isinstance(node, Scalar) or node.text is None:
            return None
        try:
            return parse_duration(text)
        except ValueError as error:
            self.problem(node.place, str(error))
            return None

    def flag(self, node: Node | None) -> bool:
        """True or false in the words of YAML 1.1; False where it is absent, null or wrong."""
        text = self.text(node).lower()
        if text in ("true", "yes", "on", "y"):
            return True
        if node is not None and text not in ("", "false", "no", "off", "n"):
            self.problem(node.place, f"expected true or false, found {text!r}")
        return False

    def integer(self, node: Node | None) -> int:
        """A whole number, not negative; 0 where it is absent, null or wrong."""
        text = self.text(node)
        if not isinstance(node, Scalar) or node.text is None:
            return 0
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            self.problem(node.place, f"expected a whole number, found {text!r}")
            return 0
        return int(text)


def _kind(node: Node) -> str:
    return {Scalar: "a single value", Items: "a list", Fields: "a mapping"}[type(node)]
