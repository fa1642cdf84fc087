"""Regular expressions as Prometheus has them: RE2 syntax, the whole value must match, and no pattern takes forever.

A pattern is read by the grammar of RE2 (https://github.com/google/re2/wiki/Syntax). Most become a pattern of Python's
`re`. Those on which a backtracking engine could run away (a repeat inside a repeat, or many open ones) run on
Pike's machine instead (Russ Cox, "Regular Expression Matching: the Virtual Machine Approach"): slower, but linear in
the value, because expressions also come from people who only ask.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

from sidecar.errors import QueryError
from sidecar.promql import machine
from sidecar.promql.pattern import Node, PatternError, emit, parse_pattern, runs_away
from sidecar.promql.values import Matcher

Groups = Sequence[str | None]

_TEMPLATE = re.compile(r"\$(?:(\$)|\{([A-Za-z0-9_]+)\}|([A-Za-z0-9_]+))")


class Regex:
    """A compiled pattern. Lives as long as the expressions that use it, in a bounded cache."""

    def __init__(self, pattern: str) -> None:
        try:
            self._node, self._names = parse_pattern(pattern)
            self.groups = self._engine(self._node)
        except (PatternError, re.error, RecursionError) as error:
            raise QueryError(f"invalid regular expression {pattern!r}: {error or 'nested too deep'}",
                             help="patterns follow RE2: no look-around and no back-references") from error

    def _engine(self, node: Node) -> Callable[[str], Groups | None]:
        if runs_away(node):
            program = machine.assemble(node, len(self._names))
            return lambda text: machine.run(program, text)
        search = re.compile(emit(node), re.DOTALL).fullmatch

        def groups(text: str) -> Groups | None:
            found = search(text)
            return None if found is None else (found[0], *found.groups())

        return groups

    def expand(self, template: str, groups: Groups) -> str:
        """`template` with `$1`, `${1}`, `$name` and `$$` replaced, as Go's Regexp.Expand: unknown groups are empty."""

        def value(match: re.Match[str]) -> str:
            if match[1]:
                return "$"
            name = match[2] or match[3]
            index = int(name) if name.isdecimal() and len(name) < 6 else self._names.get(name, -1)
            return (groups[index] or "") if 0 <= index < len(groups) else ""

        return _TEMPLATE.sub(value, template)


@lru_cache(maxsize=512)
def regex(pattern: str) -> Regex:
    """The compiled form of `pattern`. QueryError if it is not one."""
    return Regex(pattern)


def _matches(pattern: str, value: str) -> bool:
    # Long values come from targets and would make the cache itself large.
    return _remembered(pattern, value) if len(value) <= 128 else regex(pattern).groups(value) is not None


@lru_cache(maxsize=16_384)
def _remembered(pattern: str, value: str) -> bool:
    return regex(pattern).groups(value) is not None


@lru_cache(maxsize=2048)
def predicate(matcher: Matcher) -> Callable[[str], bool]:
    """The test that a label's value must pass. QueryError for an invalid pattern."""
    wanted = matcher.value
    if matcher.op == "=":
        return wanted.__eq__
    if matcher.op == "!=":
        return wanted.__ne__
    regex(wanted)
    if matcher.op == "=~":
        return lambda value: _matches(wanted, value)
    return lambda value: not _matches(wanted, value)
