"""Regular expressions as Prometheus has them: RE2 syntax, the whole value must match, and no pattern takes forever.

A pattern is read by the grammar of RE2 (https://github.com/google/re2/wiki/Syntax). Most become a pattern of Python's
`re`. Those on which a backtracking engine could run away (a repeat inside a repeat, or many open ones, or choices that
multiply), and values that are long for it, go to Pike's machine instead (Russ Cox, "Regular Expression Matching: the
Virtual Machine Approach"): slower, but linear in the value, because expressions also come from people who only ask.
Where even that would keep the tick waiting it gives up, with a QueryError.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from sidecar.errors import QueryError
from sidecar.promql import machine
from sidecar.promql.backtracking import longest
from sidecar.promql.pattern import Chars, Choice, Group, Node, PatternError, emit, parse_pattern
from sidecar.promql.pattern import Sequence as Parts
from sidecar.promql.recent import Recent
from sidecar.promql.values import Matcher

Groups = Sequence[str | None]

WEIGHT = 50_000
"""How much of compiled patterns is remembered: 10 MB at most, and hardly anything where patterns are as usual."""
SHORT = 128
"""What is longer is matched anew each time."""

_TEMPLATE = re.compile(r"\$(?:(\$)|\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")


def _words(node: Node) -> frozenset[str]:
    """The only values that match, where a pattern is but a list of them, as a dashboard makes it; else nothing."""
    choice = node.part if isinstance(node, Group) else node
    if not isinstance(choice, Choice):
        return frozenset()
    words = [_word(part) for part in choice.parts]
    return frozenset(word for word in words if word is not None) if None not in words else frozenset()


def _word(node: Node) -> str | None:
    parts = node.parts if isinstance(node, Parts) else (node,)
    codes = [part.ranges[0][0] for part in parts
             if isinstance(part, Chars) and not part.folds and len(part.ranges) == 1 == len(set(part.ranges[0]))]
    return "".join(map(chr, codes)) if len(codes) == len(parts) else None


class Regex:
    """A compiled pattern. `weight` is its characters and instructions, of about 200 bytes each."""

    def __init__(self, pattern: str) -> None:
        self.weight = len(pattern)
        try:
            node, self._names = parse_pattern(pattern)
            self.groups = self._engine(node)
        except (PatternError, re.error, RecursionError) as error:
            raise QueryError(f"invalid regular expression {pattern!r}: {error or 'nested too deep'}",
                             help="patterns follow RE2: no look-around and no back-references") from error

    def _engine(self, node: Node) -> Callable[[str], Groups | None]:
        if words := _words(node):
            found = 2 if isinstance(node, Group) else 1
            return lambda text: (text,) * found if text in words else None
        most = longest(node)
        if most == 0:
            program = machine.assemble(node, len(self._names))
            self.weight += len(program.steps)
            return lambda text: machine.run(program, text)
        search = re.compile(emit(node), re.DOTALL).fullmatch

        def groups(text: str) -> Groups | None:
            if len(text) > most:
                return self._linear(node, text)
            found = search(text)
            return None if found is None else (found[0], *found.groups())

        return groups

    def _linear(self, node: Node, text: str) -> Groups | None:
        try:
            return machine.run(machine.assemble(node, len(self._names)), text)
        except PatternError as error:
            raise QueryError(f"a value of {len(text)} characters is too long for this pattern: {error}") from None

    def expand(self, template: str, groups: Groups) -> str:
        """`template` with `$1`, `${1}`, `$name` and `$$` replaced, as Go's Regexp.Expand: unknown groups are empty."""

        def value(match: re.Match[str]) -> str:
            if match[1]:
                return "$"
            name = match[2] or match[3]
            index = int(name) if name.isdecimal() and len(name) < 6 else self._names.get(name, -1)
            return (groups[index] or "") if 0 <= index < len(groups) else ""

        return _TEMPLATE.sub(value, template)


_compiled = Recent(Regex, lambda _, made: made.weight, WEIGHT)


def regex(pattern: str) -> Regex:
    """The compiled form of `pattern`. QueryError if it is not one."""
    return _compiled(pattern)


def _matches(pattern: str, value: str) -> bool:
    # Long values come from targets, long patterns from people, and both would make the cache itself large.
    return _remembered(pattern, value) if len(value) <= SHORT else regex(pattern).groups(value) is not None


@lru_cache(maxsize=16_384)
def _remembered(pattern: str, value: str) -> bool:
    return regex(pattern).groups(value) is not None


def predicate(matcher: Matcher) -> Callable[[str], bool]:
    """The test that a label's value must pass. QueryError for an invalid pattern."""
    return _predicate(matcher) if len(matcher.value) <= SHORT else _long_predicate(matcher)


def _long_predicate(matcher: Matcher) -> Callable[[str], bool]:
    if matcher.op in ("=", "!="):
        return _predicate.__wrapped__(matcher)
    groups = regex(matcher.value).groups
    if matcher.op == "=~":
        return lambda value: groups(value) is not None
    return lambda value: groups(value) is None


@lru_cache(maxsize=2048)
def _predicate(matcher: Matcher) -> Callable[[str], bool]:
    wanted = matcher.value
    if matcher.op == "=":
        return wanted.__eq__
    if matcher.op == "!=":
        return wanted.__ne__
    regex(wanted)
    if matcher.op == "=~":
        return lambda value: _matches(wanted, value)
    return lambda value: not _matches(wanted, value)
