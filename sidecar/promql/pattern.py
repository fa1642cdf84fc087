"""The grammar of RE2 patterns, read into a small tree."""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

MAX_REPEAT = 1000
MAX_GROUPS = 100
_LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """A pattern that RE2 would refuse, or the few of its features that we lack. Becomes a QueryError one level up."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One character out of a set, or, with `folds`, one that equals it when case is ignored."""

    ranges: Ranges
    folds: bool = False


@dataclass(frozen=True, slots=True)
class Border:
    """A place between characters, in the words of Python's `re`."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Sequence:
    """Parts that follow each other."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Alternatives, the first preferred."""

    parts: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A part from `least` to `most` times; `most` None for no end."""

    part: "Node"
    least: int
    most: int | None
    greedy: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A numbered group, counted from 1."""

    part: "Node"
    index: int


Node = Chars | Border | Sequence | Choice | Repeat | Group


@dataclass(frozen=True, slots=True)
class _Flags:
    i: bool = False
    m: bool = False
    s: bool = True  # Prometheus compiles every pattern as ^(?s:…)$
    U: bool = False


_DIGIT: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_SPACE: Ranges = ((9, 10), (12, 13), (32, 32))
_POSIX: dict[str, Ranges] = {
    "alnum": ((48, 57), (65, 90), (97, 122)), "alpha": ((65, 90), (97, 122)), "ascii": ((0, 127),),
    "blank": ((9, 9), (32, 32)), "cntrl": ((0, 31), (127, 127)), "digit": _DIGIT, "graph": ((33, 126),),
    "lower": ((97, 122),), "print": ((32, 126),), "punct": ((33, 47), (58, 64), (91, 96), (123, 126)),
    "space": ((9, 13), (32, 32)), "upper": ((65, 90),), "word": _WORD, "xdigit": ((48, 57), (65, 70), (97, 102)),
}
_CONTROL = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_QUANTIFIER = re.compile(r"[*+?]|\{(\d+)(?:(,)(\d*))?\}", re.ASCII)
_GROUP_START = re.compile(r"\(\?(?:P?<([A-Za-z_][A-Za-z0-9_]*)>|([imsU]*)(?:-([imsU]+))?([:)]))", re.ASCII)
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|x\{([0-9A-Fa-f]{1,8})\}|([1-7][0-7]{2}|0[0-7]{0,2})", re.ASCII)


def complement(ranges: Ranges) -> Ranges:
    """Every character that is not in `ranges`."""
    found, start = [], 0
    for low, high in sorted(ranges):
        if low > start:
            found.append((start, low - 1))
        start = max(start, high + 1)
    if start <= _LAST:
        found.append((start, _LAST))
    return tuple(found)


_PERL: dict[str, Ranges] = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_PERL |= {name.upper(): complement(ranges) for name, ranges in _PERL.items()}


def parse_pattern(pattern: str) -> tuple[Node, dict[str, int]]:
    """The tree of a pattern, and the number of every group by name (a group without one by its number as text).

    Raises PatternError. As in RE2, repeats inside each other count as what they multiply to.
    """
    parser = _Parser(pattern)
    node = parser.choice(_Flags(), 0)
    if not parser.at_end():
        raise PatternError("unexpected )")
    if _times(node) > MAX_REPEAT:
        raise PatternError(f"its repetitions multiply to more than {MAX_REPEAT}")
    return node, parser.names


def _times(node: Node) -> int:
    """How often a part of it is repeated at most; a repeat without an end counts as often as it must occur."""
    match node:
        case Sequence(parts) | Choice(parts):
            return max(map(_times, parts), default=1)
        case Group(part, _):
            return _times(part)
        case Repeat(part, least, most, _):
            return (max(least, 1) if most is None else most) * _times(part)
        case _:
            return 1


class _Scanner:
    """A text and a place in it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def at_end(self) -> bool:
        return self._at >= len(self._text)

    def _peek(self, text: str) -> bool:
        return self._text.startswith(text, self._at)

    def _take(self) -> str:
        if self.at_end():
            raise PatternError("it ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found:
            self._at = found.end()
        return found


class _Parser(_Scanner):
    """One reading of one pattern, by recursive descent."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.names: dict[str, int] = {}
        self._flags = _Flags()

    def choice(self, flags: _Flags, depth: int) -> Node:
        """Alternatives up to the closing bracket. `flags` hold from here on; `(?i)` changes them up to that bracket."""
        if depth > MAX_GROUPS:
            raise PatternError(f"more than {MAX_GROUPS} nested groups")
        outer, self._flags = self._flags, flags
        parts = [self._sequence(depth)]
        while self._peek("|"):
            self._at += 1
            parts.append(self._sequence(depth))
        self._flags = outer
        return parts[0] if len(parts) == 1 else Choice(tuple(parts))

    def _sequence(self, depth: int) -> Node:
        parts: list[Node] = []
        while not self.at_end() and not self._peek("|") and not self._peek(")"):
            if self._peek("\\Q"):
                parts.extend(self._quoted())
                continue
            part = self._atom(depth)
            if part is not None:
                parts.append(self._repeated(part))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _quoted(self) -> list[Node]:
        end = self._text.find("\\E", self._at)
        quoted = self._text[self._at + 2: end if end >= 0 else None]
        self._at = end + 2 if end >= 0 else len(self._text)
        parts = [self._one(ord(char)) for char in quoted]
        return [*parts[:-1], self._repeated(parts[-1])] if parts else []

    def _repeated(self, part: Node) -> Node:
        found = self._match(_QUANTIFIER)
        if found is None:
            return part
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(found[0], (0, 0))
        if found[1]:
            least = int(found[1])
            most = least if not found[2] else int(found[3]) if found[3] else None
            if max(least, most or 0) > MAX_REPEAT or (most is not None and most < least):
                raise PatternError(f"bad repetition {found[0]}: at most {MAX_REPEAT} times, the smaller number first")
        lazy = self._peek("?")
        self._at += lazy
        if _QUANTIFIER.match(self._text, self._at):
            raise PatternError("a repetition of a repetition needs brackets")
        return Repeat(part, least, most, lazy == self._flags.U)

    def _atom(self, depth: int) -> Node | None:
        if self._peek("("):
            return self._group(depth)
        char = self._take()
        match char:
            case "[":
                return self._class()
            case ".":
                return Chars(((0, _LAST),) if self._flags.s else complement(((10, 10),)))
            case "^":
                return Border("(?m:^)" if self._flags.m else r"\A")
            case "$":
                return Border("(?m:$)" if self._flags.m else r"\Z")
            case "\\":
                return self._escape()
            case "*" | "+" | "?":
                raise PatternError(f"nothing to repeat before {char}")
        return self._one(ord(char))

    def _group(self, depth: int) -> Node | None:
        index = None
        flags = self._flags
        if not self._peek("(?"):
            self._at += 1
            index = self._number(None)
        elif (found := self._match(_GROUP_START)) is None:
            raise PatternError(f"RE2 has no group that starts with {self._text[self._at:self._at + 4]}")
        elif found[1]:
            index = self._number(found[1])
        else:
            flags = replace(flags, **dict.fromkeys(found[2], True) | dict.fromkeys(found[3] or "", False))
            if found[4] == ")":
                self._flags = flags
                return None
        part = self.choice(flags, depth + 1)
        if self._take() != ")":
            raise PatternError("missing )")
        return part if index is None else Group(part, index)

    def _number(self, name: str | None) -> int:
        index = len(self.names) + 1
        if (name or str(index)) in self.names or index > MAX_GROUPS:
            raise PatternError(f"group {name} occurs twice" if name else f"more than {MAX_GROUPS} groups")
        self.names[name or str(index)] = index
        return index

    def _escape(self) -> Node:
        borders: dict[str, str] = {"A": r"\A", "z": r"\Z", "b": r"(?a:\b)", "B": r"(?a:\B)"}
        for letter, border in borders.items():
            if self._peek(letter):
                self._at += 1
                return Border(border)
        ranges = self._escaped()
        return Chars(ranges, self._flags.i)

    def _escaped(self) -> Ranges:
        """What an escape stands for, inside and outside a class."""
        if code := self._match(_CODE):
            value = int(code[1] or code[2], 16) if code[1] or code[2] else int(code[3], 8)
            if value > _LAST:
                raise PatternError(f"no character has the number {value:#x}")
            return ((value, value),)
        char = self._take()
        if char in _PERL:
            return _PERL[char]
        if char in _CONTROL:
            return ((_CONTROL[char], _CONTROL[char]),)
        if char in "pP":
            raise PatternError("Unicode classes such as \\pL are not supported here; write the characters out")
        if char.isalnum():
            raise PatternError(f"RE2 has no escape \\{char}")
        return ((ord(char), ord(char)),)

    def _one(self, code: int) -> Node:
        return _char(code, self._flags.i)

    def _class(self) -> Node:
        negated = self._peek("^")
        self._at += negated
        ranges: list[tuple[int, int]] = []
        first = True
        while first or not self._peek("]"):
            first = False
            part = self._class_part()
            if self._peek("-") and not self._peek("-]"):
                self._at += 1
                end = self._class_part()
                low, high = part[0][0], end[-1][1]
                if len(part) != 1 or len(end) != 1 or part[0][0] != part[0][1] or low > high:
                    raise PatternError("bad range in a character class")
                part = ((low, high),)
            ranges.extend(part)
        self._at += 1
        if not negated:
            return Chars(tuple(ranges), self._flags.i)
        return Chars(complement((*ranges, *(_folded(ranges) if self._flags.i else ()))))

    def _class_part(self) -> Ranges:
        if self._peek("[:"):
            end = self._text.find(":]", self._at)
            name = self._text[self._at + 2:end] if end > 0 else ""
            ranges = _POSIX.get(name.removeprefix("^"))
            if ranges is None:
                raise PatternError(f"no character class is called [:{name}:]")
            self._at = end + 2
            return complement(ranges) if name.startswith("^") else ranges
        char = self._take()
        return self._escaped() if char == "\\" else ((ord(char), ord(char)),)


@lru_cache(maxsize=128)  # long patterns are made of few characters
def _char(code: int, folds: bool) -> Chars:
    return Chars(((code, code),), folds)


def _folded(ranges: list[tuple[int, int]]) -> Ranges:
    """The letters of ASCII in `ranges` in their other case: `(?i)[^a]` shuts out `A` too."""
    letters = [code for code in (*range(65, 91), *range(97, 123)) if any(low <= code <= high for low, high in ranges)]
    return tuple((code ^ 32, code ^ 32) for code in letters)


def emit(node: Node) -> str:
    """The same pattern for Python's `re`."""
    match node:
        case Chars(ranges, folds):
            shown = char_class(ranges)
            return f"(?i:{shown})" if folds else shown
        case Border(pattern):
            return pattern
        case Sequence(parts):
            return "".join(map(emit, parts))
        case Choice(parts):
            return "(?:" + "|".join(map(emit, parts)) + ")"
        case Repeat(part, least, most, greedy):
            return f"(?:{emit(part)}){{{least},{'' if most is None else most}}}{'' if greedy else '?'}"
        case Group(part, _):
            return f"({emit(part)})"


def char_class(ranges: Ranges) -> str:
    """A set of characters for Python's `re`."""
    if not ranges:
        return "(?!)"
    if ranges == ((0, _LAST),):
        return "."
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return re.escape(chr(ranges[0][0]))
    return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in ranges) + "]"
