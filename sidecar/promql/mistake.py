"""Where in an expression that does not parse the mistake is. The parser package does not tell; so it is asked again.

The mistake is the first word after which nothing would help: cut off there, and ended in any way that could be meant,
the expression still has an error of syntax.
"""

from bisect import bisect_left

from sidecar.errors import QueryError
from sidecar.promql.notation import quote
from sidecar.promql.parse import parse_once
from sidecar.promql.tokens import Token, tokenize

MAX_LENGTH = 2000
"""Longer expressions are not searched: each look costs as much as parsing them."""

_CLOSING = {"(": ")", "[": "]", "{": "}"}
_ENDINGS = ("", " x", "(x)", "(1, x)", '="a"', '"a"', " 5m", " 1", "(a) (x)", " (x)", ":")
_PREFIX = "cannot parse the expression: "
_SAYS_NOTHING = "invalid promql query"
_SYNTAX = (_SAYS_NOTHING, "unexpected", "unclosed", "unterminated", "bad number", "no expression", "'")


def place(text: str, error: QueryError) -> tuple[int, int] | None:
    """Line and column, from 1, of the mistake in `text` that `error` is about; None where that cannot be told."""
    position = error.position if error.position is not None else _position(text, error)
    if position is None:
        return None
    before = text[:position]
    return before.count("\n") + 1, position - before.rfind("\n")


def described(text: str, error: QueryError) -> str:
    """The error with line and column in front, as Prometheus words it: `1:5: parse error: unexpected ">"`."""
    where, what = place(text, error), str(error).removeprefix(_PREFIX)
    if where is None:
        return f"unknown position: parse error: {what}"
    if what == _SAYS_NOTHING:
        found = _at(text, *where)
        what = f"unexpected {quote(found)}" if found else "unexpected end of input"
    return f"{where[0]}:{where[1]}: parse error: {what}"


def _at(text: str, line: int, column: int) -> str:
    """The word at a place."""
    position = sum(len(before) + 1 for before in text.split("\n")[:line - 1]) + column - 1
    return next((token.text for token in tokenize(text) if token.position == position), "")


def _position(text: str, error: QueryError) -> int | None:
    try:
        tokens = tokenize(text)
    except QueryError:
        return None
    if not tokens or len(text) > MAX_LENGTH:
        return None
    if not _is_syntax(error):
        return next((token.position for token in tokens if token.kind == "word" and f"'{token.text}'" in str(error)),
                    None)
    count = bisect_left(range(1, len(tokens) + 1), True, key=lambda count: not _may_go_on(text, tokens[:count]))
    return tokens[count].position if count < len(tokens) else _open(tokens)


def _open(tokens: list[Token]) -> int:
    """Every word fits, and the end comes too soon: the bracket that is still open, or the end itself."""
    brackets = _brackets(tokens)
    return brackets[-1].position if brackets else tokens[-1].position + len(tokens[-1].text)


def _brackets(tokens: list[Token]) -> list[Token]:
    brackets: list[Token] = []
    for token in tokens:
        if token.text in _CLOSING:
            brackets.append(token)
        elif brackets and token.text == _CLOSING[brackets[-1].text]:
            brackets.pop()
    return brackets


def _may_go_on(text: str, tokens: list[Token]) -> bool:
    """Whether some ending makes an expression of these first tokens, though perhaps one without sense."""
    begun = text[:tokens[-1].position + len(tokens[-1].text)]
    closing = "".join(_CLOSING[bracket.text] for bracket in reversed(_brackets(tokens)))
    return any(_is_sound(begun + ending + closing) for ending in _ENDINGS)


def _is_sound(text: str) -> bool:
    try:
        parse_once(text)  # what is only tried is not worth remembering
    except QueryError as error:
        return not _is_syntax(error)
    return True


def _is_syntax(error: QueryError) -> bool:
    return error.position is None and str(error).removeprefix(_PREFIX).startswith(_SYNTAX)
