"""Template source to tokens, by the rules of Go's text/template: delimiters, trim markers, comments, literals.

Source: the package documentation of Go's text/template.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

KEYWORDS = frozenset({"block", "break", "continue", "define", "else", "end", "if", "range", "template", "with"})


class Token(NamedTuple):
    """One lexeme. `kind` is `text`, `left`, `right`, `space`, a literal's or operator's name, a keyword, or `eof`."""

    kind: str
    text: str
    position: int


class TemplateSyntaxError(Exception):
    """A template that does not parse. `position` counts characters from the start of the source."""

    def __init__(self, reason: str, position: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position


_COMMENT = re.compile(r"\{\{(?:-[ \t\r\n]+)?/\*")
_COMMENT_END = re.compile(r"\*/(?P<trim>[ \t\r\n]+-)?\}\}")
_LEFT = re.compile(r"\{\{(?P<trim>-(?=[ \t\r\n]))?")
_SPACES = " \t\r\n"

_INSIDE = re.compile(
    r"""
      (?P<right>      (?:[ \t\r\n]+-)? \}\} )
    | (?P<space>      [ \t\r\n]+ )
    | (?P<string>     "(?:\\.|[^"\\\n])*" | `[^`]*` )
    | (?P<char>       '(?:\\.|[^'\\\n])+' )
    | (?P<number>     [+-]?(?: 0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+
                             | (?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9][0-9_]*)? ) )
    | (?P<field>      \.\w+ )
    | (?P<dot>        \. )
    | (?P<variable>   \$\w* )
    | (?P<identifier> \w+ )
    | (?P<declare>    := )
    | (?P<assign>     = )
    | (?P<pipe>       \| )
    | (?P<open>       \( )
    | (?P<close>      \) )
    | (?P<comma>      , )
    """,
    re.VERBOSE,
)
_NAMED_LITERALS = {"true": "bool", "false": "bool", "nil": "nil"}
_ENDS_A_NAME = re.compile(r"[ \t\r\n.,|:()]|\}\}|$")
_UNTERMINATED = {'"': "unterminated quoted string", "`": "unterminated raw quoted string",
                 "'": "unterminated character constant", ":": "expected :=",
                 "+": "bad number syntax", "-": "bad number syntax"}


def tokens(source: str) -> Iterator[Token]:
    """Every token of `source`, ending with one `eof`. Raises TemplateSyntaxError."""
    at, trim_next = 0, False
    while True:
        left = source.find("{{", at)
        text = source[at : left if left >= 0 else len(source)]
        text_at = at
        if trim_next:
            text_at += len(text) - len(text.lstrip(_SPACES))
            text = text.lstrip(_SPACES)
        opening = _LEFT.match(source, left) if left >= 0 else None
        if opening and opening["trim"]:
            text = text.rstrip(_SPACES)
        if text:
            yield Token("text", text, text_at)
        if opening is None:
            yield Token("eof", "", len(source))
            return
        if comment := _COMMENT.match(source, left):
            at, trim_next = _after_comment(source, comment.end())
            continue
        yield Token("left", opening[0], left)
        for token in _inside(source, opening.end()):
            yield token
        at, trim_next = token.position + len(token.text), token.text != "}}"


def _after_comment(source: str, at: int) -> tuple[int, bool]:
    if (star := source.find("*/", at)) < 0:
        raise TemplateSyntaxError("unclosed comment", at)
    if (end := _COMMENT_END.match(source, star)) is None:
        raise TemplateSyntaxError("comment ends before closing delimiter", star)
    return end.end(), bool(end["trim"])


def _inside(source: str, at: int) -> Iterator[Token]:
    """The tokens of one action, the closing delimiter last."""
    open_parentheses = 0
    while True:
        found = _INSIDE.match(source, at)
        if found is None or not found[0]:
            raise TemplateSyntaxError(_why_not(source, at), at)
        kind, text = str(found.lastgroup), found[0]
        at = found.end()
        if kind in ("field", "variable", "identifier") and not _ENDS_A_NAME.match(source, at):
            raise TemplateSyntaxError(f"bad character {_code_point(source[at])}", at)
        if kind == "number" and at < len(source) and (source[at].isalnum() or source[at] in "_."):
            raise TemplateSyntaxError(f'bad number syntax: "{text}{source[at]}"', found.start())
        open_parentheses += (kind == "open") - (kind == "close")
        if open_parentheses < 0:
            raise TemplateSyntaxError("unexpected right paren", found.start())
        if kind == "right" and open_parentheses:
            raise TemplateSyntaxError("unclosed left paren", found.start())
        if kind == "identifier":
            kind = text if text in KEYWORDS else _NAMED_LITERALS.get(text, kind)
        yield Token(kind, text, found.start())
        if kind == "right":
            return


def _why_not(source: str, at: int) -> str:
    char = source[at : at + 1]
    if not char:
        return "unclosed action"
    if char in _UNTERMINATED:
        return _UNTERMINATED[char]
    return f"unexpected {char!r} in operand" if char.isascii() and char.isprintable() else \
        f"unrecognized character in action: {_code_point(char)}"


def _code_point(char: str) -> str:
    return f"U+{ord(char):04X} {char!r}"
