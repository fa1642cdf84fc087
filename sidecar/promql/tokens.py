"""Where the words of an expression stand, and how deep it is nested.

The parser package reports no positions, and its recursion ends the process on deep nesting. So the text is first cut
into tokens here: that bounds the depth before the parser sees the text, and afterwards tells where each node begins.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from sidecar.errors import QueryError

MAX_LENGTH = 32_768
MAX_DEPTH = 150
"""Levels of brackets and chained operators. The parser overflows its stack at thousands, evaluation at hundreds."""

_PATTERN = r"""(?P<blank>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`[^`]*`)
      | (?P<duration>(?:[0-9]+(?:ms|[smhdwy]))+(?![A-Za-z0-9_]))
      | (?P<number>(?:0[xX](?:_?HEX)+|(?:DIGITS\.?(?:DIGITS)?|\.DIGITS)(?:[eE][+-]?DIGITS)?
          |[iI][nN][fF]|[nN][aA][nN])(?![A-Za-z0-9_]))
      | (?P<word>[A-Za-z_:][A-Za-z0-9_:]*)
      | (?P<sign>[=!<>]=|=~|!~|.)""".replace("DIGITS", "[0-9](?:_?[0-9])*").replace("HEX", "[0-9a-fA-F]")
_TOKEN = re.compile(_PATTERN, re.VERBOSE | re.DOTALL)
_BRACKETED = re.compile(_PATTERN.replace("[A-Za-z_:]", "[A-Za-z_]"), re.VERBOSE | re.DOTALL)
"""Between square brackets no word begins with a colon: `[5m:1m]` are two durations."""
_PART = re.compile(r"([0-9]+)(ms|[smhdwy])")
_OPEN = {"(": ")", "[": "]", "{": "}"}
_OPERATORS = frozenset(("+", "-", "*", "/", "%", "^", "==", "!=", "<=", ">=", "<", ">", "and", "or", "unless", "atan2"))
LISTS = frozenset(("by", "without", "on", "ignoring", "group_left", "group_right"))
"""Words after which names of labels stand in brackets."""
_BEFORE_SELECTOR = _OPERATORS | LISTS | {"bool"}


class Token(NamedTuple):
    """A piece of an expression. `kind` is string, duration, number, word or sign; `bracketed`: between [ and ]."""

    kind: str
    text: str
    position: int
    bracketed: bool = False

    def parts(self) -> list[tuple[str, str]]:
        """The (count, unit) pairs of a duration."""
        return _PART.findall(self.text)


def tokenize(text: str) -> list[Token]:
    """The tokens of `text` without blanks and comments. QueryError if it is too long or too deep to evaluate."""
    if len(text) > MAX_LENGTH:
        raise QueryError(f"the expression is {len(text)} characters long, more than {MAX_LENGTH}",
                         help="record a part of it under a name of its own and use that name")
    tokens: list[Token] = []
    bracketed, position = False, 0
    while match := (_BRACKETED if bracketed else _TOKEN).match(text, position):
        position = match.end()
        if match.lastgroup != "blank":
            tokens.append(Token(match.lastgroup or "", match[0], match.start(), bracketed))
            bracketed = match[0] == "[" or (bracketed and match[0] != "]")
    _check_depth(tokens)
    return tokens


def _check_depth(tokens: list[Token]) -> None:
    levels = [0]  # operators chained so far in each bracket that is open
    for token in tokens:
        lowered = token.text.lower()
        if token.text in _OPEN:
            levels.append(0)
        elif token.text in _OPEN.values():
            if len(levels) > 1:
                levels.pop()
        elif token.text == ",":
            levels[-1] = 0
        elif lowered in _OPERATORS:
            levels[-1] += 1
        if len(levels) + sum(levels) > MAX_DEPTH:
            raise QueryError(f"the expression is nested more than {MAX_DEPTH} levels deep", position=token.position,
                             help="record a part of it under a name of its own and use that name")


class Landmarks:
    """The tokens at which nodes begin, found one after another in the order in which the tree is built."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = list(_landmarks(tokens))
        self._next = 0

    def find(self, *texts: str, kinds: tuple[str, ...] = ()) -> Token | None:
        """The next token with one of `texts` (lower case) or `kinds`; None if there is none, and nothing is skipped."""
        for index in range(self._next, len(self._tokens)):
            token = self._tokens[index]
            if token.text.lower() in texts or token.kind in kinds:
                self._next = index + 1
                return token
        return None

    def before(self) -> Token | None:
        """The token before the one found last."""
        return self._tokens[self._next - 2] if self._next > 1 else None


def _landmarks(tokens: list[Token]) -> Iterator[Token]:
    """Tokens less what stands in braces, square brackets and label lists, and less the values of `offset` and `@`."""
    skip_until = ""
    for index, token in enumerate(tokens):
        before = tokens[index - 1].text.lower() if index else ""
        if skip_until:
            skip_until = "" if token.text == skip_until else skip_until
        elif token.text == "(" and before in LISTS:
            skip_until = ")"
        elif token.kind in ("number", "duration") and _is_modifier_value(tokens, index):
            continue
        else:
            skip_until = {"{": "}", "[": "]"}.get(token.text, "")
            if not (skip_until and index and tokens[index - 1].kind == "word" and before not in _BEFORE_SELECTOR):
                yield token


def _is_modifier_value(tokens: list[Token], index: int) -> bool:
    while index and tokens[index - 1].text in "+-":
        index -= 1
    return index > 0 and tokens[index - 1].text.lower() in ("offset", "@")
