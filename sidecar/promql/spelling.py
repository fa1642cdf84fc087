"""What Prometheus's grammar has and the parser package lacks, spelled in a way that the package knows.

Prometheus: promql/parser/lex.go and generated_parser.y. The package takes no underscores in numbers and no raw strings
as values of labels, refuses durations of zero, and panics or goes astray on times before 1970 and on far ones.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

from sidecar.errors import QueryError
from sidecar.promql.notation import quote
from sidecar.promql.tokens import LISTS, Token

_LONGEST_SECONDS = 9_223_372_036.0
"""What fits into the nanoseconds of Go's time.Duration."""
_FARTHEST_SECONDS = 9.2e15
"""What fits into the milliseconds of a time stamp."""
_SHORTEST_SECONDS = 0.0005
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0, "y": 31_536_000.0}


class Spelling(NamedTuple):
    """The text for the parser package. `@ 3` in it stands for `@` and the Unix time `moments[3]`."""

    text: str
    moments: tuple[float, ...]


def respelled(tokens: Sequence[Token]) -> Spelling:
    """An expression, cut into tokens, for the parser package. QueryError for numbers that Prometheus refuses."""
    pieces: list[str] = []
    moments: list[float] = []
    end, listed = 0, False
    for index, token in enumerate(tokens):
        place, sign = _place(tokens, index)
        pieces.append(" " if token.position > end else "")  # also for a comment, which the package knows not everywhere
        end = token.position + len(token.text)
        listed = token.text != ")" if listed else token.text == "(" and place in LISTS
        if token.kind in ("number", "duration") and place == "@":
            moments.append(_moment(token, -1 if sign == "-" else 1))
            pieces[-1 - 2 * bool(sign):] = [" ", str(len(moments) - 1)]
        else:
            colons = listed and token.kind == "word" and ":" in token.text
            pieces.append(quote(token.text) if colons else _spelled(token, place))
    return Spelling("".join(pieces), tuple(moments))


def _place(tokens: Sequence[Token], index: int) -> tuple[str, str]:
    """What stands before a token, in lower case, and the sign between them."""
    before = tokens[index - 1].text if index else ""
    if before in ("+", "-") and index > 1:
        return tokens[index - 2].text.lower(), before
    return before.lower(), ""


def _spelled(token: Token, place: str) -> str:
    if token.kind == "string" and token.text[0] == "`":
        return quote(token.text[1:-1])
    if token.kind not in ("number", "duration"):
        return token.text
    seconds = _seconds(token)
    bracketed = place == "[" or (place == ":" and token.bracketed)
    if bracketed and seconds < _SHORTEST_SECONDS:
        _refuse(token, "duration must be greater than 0")
    if (bracketed or place == "offset" or token.kind == "duration") and not seconds <= _LONGEST_SECONDS:
        _refuse(token, "duration out of range")
    if token.kind == "duration":
        return token.text if seconds else "0"
    if seconds == math.inf and token.text[0].isdigit():
        _refuse(token, "the number is too large")
    plain = token.text.replace("_", "")
    return f"0{plain}" if plain.startswith(".") else plain


def _seconds(token: Token) -> float:
    if token.kind == "number":
        plain = token.text.replace("_", "")
        if plain[:2] not in ("0x", "0X"):
            return float(plain)
        whole = int(plain, 16)
        return float(whole) if whole < 2**63 else math.inf
    return sum(float(count) * _SECONDS[unit] for count, unit in token.parts())


def _moment(token: Token, sign: int) -> float:
    seconds = sign * _seconds(token)
    if not abs(seconds) < _FARTHEST_SECONDS:
        _refuse(token, "timestamp out of bounds for @ modifier")
    return math.copysign(math.floor(abs(seconds) * 1000 + 0.5) / 1000, seconds)


def _refuse(token: Token, why: str) -> NoReturn:
    shown = token.text if len(token.text) <= 40 else f"{token.text[:40]}…"
    raise QueryError(f"cannot parse the expression: {shown}: {why}", position=token.position)
