"""Values as Go's `fmt` package writes them: `%v`, the printf verbs, shortest floats, quoted strings.

Go values and their Python stand-ins: float64 `float`, int `int`, bool `bool`, string `str`, nil `None`, slice `list`,
map `Mapping`. Any other value prints by its own `str` and names its Go type in an attribute `go_type`.
Source: the documentation of Go's packages fmt and strconv, and the output of real programs where that is silent.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

from sidecar.promql.notation import quote

MAX_WIDTH = 1000
"""The widest field and the longest precision that printf obeys: a template must not fill the memory with spaces."""


def format_float(value: float) -> str:
    """`%v` of a float64: the fewest digits that read back as `value`; an exponent below 1e-4 and from 1e+06 on."""
    if not math.isfinite(value):
        return _non_finite(value)
    digits, exponent = _shortest(value)
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    if exponent < -4 or exponent >= 6:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{fraction}e{exponent:+03d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole, fraction = digits[: exponent + 1].ljust(exponent + 1, "0"), digits[exponent + 1 :]
    return f"{sign}{whole}.{fraction}" if fraction else sign + whole


def _shortest(value: float) -> tuple[str, int]:
    """The shortest round-trip digits and the decimal exponent of the first one; `repr` finds the same digits as Go."""
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    exponent = int(power or 0) + len(whole) - 1 - (len(whole + fraction) - len(digits))
    return (digits.rstrip("0"), exponent) if digits else ("0", 0)


def _non_finite(value: float) -> str:
    return "NaN" if value != value else "+Inf" if value > 0 else "-Inf"


def format_value(value: object) -> str:
    """`%v` of any value."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case float():
            return format_float(value)
        case str():
            return value
        case Mapping():
            return f"map[{' '.join(f'{k}:{format_value(v)}' for k, v in sorted(value.items()))}]"
        case list():
            return f"[{' '.join(format_value(item) for item in value)}]"
    return str(value)


def type_name(value: object) -> str:
    """The Go type a value stands for, as `%T` writes it."""
    names: dict[type, str] = {bool: "bool", int: "int", float: "float64", str: "string", type(None): "<nil>"}
    if type(value) in names:
        return names[type(value)]
    if named := getattr(value, "go_type", None):
        return str(named)
    if isinstance(value, Mapping):
        return "map[string]string"
    return "[]interface {}" if isinstance(value, list) else type(value).__name__


def sprint(values: Sequence[object]) -> str:
    """Go's Sprint: a space only between two operands of which neither is a string."""
    parts: list[str] = []
    for index, value in enumerate(values):
        if index and not isinstance(value, str) and not isinstance(values[index - 1], str):
            parts.append(" ")
        parts.append(format_value(value))
    return "".join(parts)


def sprintln(values: Sequence[object]) -> str:
    """Go's Sprintln: spaces between all operands and a newline."""
    return " ".join(map(format_value, values)) + "\n"


@dataclass(frozen=True, slots=True)
class _Verb:
    """One conversion of a printf format: `%[flags][width][.precision]letter`."""

    letter: str
    flags: str
    width: int | None
    precision: int | None

    def pad(self, text: str, zeros: bool = False) -> str:
        width = self.width or 0
        if "-" in self.flags:
            return text.ljust(width)
        if zeros and "0" in self.flags:
            signed = text[:1] in ("+", "-", " ")
            return (text[0] + text[1:].rjust(width - 1, "0")) if signed else text.rjust(width, "0")
        return text.rjust(width)

    def sign(self, negative: bool) -> str:
        return "-" if negative else "+" if "+" in self.flags else " " if " " in self.flags else ""


_SPEC = re.compile(r"%(?P<flags>[-+# 0]*)(?:\[(?P<i1>\d+)\])?(?P<width>\d+|\*)?"
                   r"(?:\.(?:\[(?P<i2>\d+)\])?(?P<precision>\d+|\*)?)?(?:\[(?P<i3>\d+)\])?(?P<letter>.)?", re.DOTALL)


def sprintf(template: str, values: Sequence[object]) -> str:
    """Go's Sprintf, its complaints included: `%!d(string=x)`, `%!d(MISSING)`, `%!(EXTRA int=1)`, `%!(NOVERB)`."""
    parts: list[str] = []
    used = reordered = at = 0
    for found in _SPEC.finditer(template):
        parts.append(template[at : found.start()])
        at = found.end()
        if found["letter"] is None:
            parts.append("%!(NOVERB)")
            continue
        if found["letter"] == "%":
            parts.append("%")
            continue
        if index := found["i1"] or found["i2"] or found["i3"]:
            used, reordered = int(index) - 1, 1
        try:
            verb, used = _verb(found, values, used)
        except IndexError:
            parts.append(f"%!{found['letter']}(BADINDEX)" if reordered else f"%!{found['letter']}(MISSING)")
            continue
        parts.append(_convert(verb, values[used]))
        used += 1
    parts.append(template[at:])
    if not reordered and used < len(values):
        rest = ", ".join(f"{type_name(v)}={format_value(v)}" if v is not None else "<nil>" for v in values[used:])
        parts.append(f"%!(EXTRA {rest})")
    return "".join(parts)


def _verb(found: re.Match[str], values: Sequence[object], used: int) -> tuple[_Verb, int]:
    """The conversion with its stars filled in from `values`, and how many of those are used up. Raises IndexError."""
    flags, sizes = found["flags"], []
    for text in (found["width"], found["precision"]):
        size = int(text) if text and text != "*" else None
        if text == "*":
            given = values[used]
            used += 1
            size = given if isinstance(given, int) else None
        sizes.append(None if size is None else max(-MAX_WIDTH, min(size, MAX_WIDTH)))
    width, precision = sizes
    if width is not None and width < 0:
        flags, width = flags + "-", -width
    if precision is None and "." in found.group():
        precision = 0
    if not 0 <= used < len(values):
        raise IndexError(used)
    return _Verb(found["letter"], flags, width, precision), used


def _convert(verb: _Verb, value: object) -> str:
    text = _by_kind(verb, value)
    if text is not None:
        return text
    shown = "<nil>" if value is None else f"{type_name(value)}={format_value(value)}"
    return f"%!{verb.letter}({shown})"


def _by_kind(verb: _Verb, value: object) -> str | None:
    """The converted value, or None where the verb does not fit the kind of value."""
    if verb.letter == "T":
        return verb.pad(type_name(value))
    if verb.letter == "v" and "#" in verb.flags and isinstance(value, str):
        return verb.pad(quote(value))
    match value:
        case None:
            return verb.pad("<nil>") if verb.letter == "v" else None
        case bool():
            return verb.pad(format_value(value)) if verb.letter in "tv" else None
        case int():
            return _integer(verb, value)
        case float():
            return _float(verb, value)
        case str():
            return _string(verb, value)
        case Mapping():
            return f"map[{' '.join(f'{_convert(verb, k)}:{_convert(verb, v)}' for k, v in sorted(value.items()))}]"
        case list():
            return f"[{' '.join(_convert(verb, item) for item in value)}]"
    if verb.letter in "vsqxX":
        return _string(verb, str(value))
    return _integer(verb, value.__index__()) if isinstance(value, SupportsIndex) else None


_BASES: dict[str, Callable[[int], str]] = {
    "d": str, "v": str, "b": lambda n: f"{n:b}", "o": lambda n: f"{n:o}", "O": lambda n: f"0o{n:o}",
    "x": lambda n: f"{n:x}", "X": lambda n: f"{n:X}",
}
_PREFIXES = {"b": "0b", "o": "0", "x": "0x", "X": "0X"}


def _integer(verb: _Verb, value: int) -> str | None:
    if verb.letter in "cqU":
        if verb.letter == "U":
            return verb.pad(f"U+{value:04X}")
        char = chr(value) if 0 <= value < 0x110000 and not 0xD800 <= value < 0xE000 else "\ufffd"
        return verb.pad(char if verb.letter == "c" else _quote_character(char))
    if verb.letter not in _BASES:
        return None
    digits = _BASES[verb.letter](abs(value)).rjust(verb.precision or 0, "0")
    prefix = _PREFIXES.get(verb.letter, "") if "#" in verb.flags else ""
    return verb.pad(verb.sign(value < 0) + prefix + digits, zeros=verb.precision is None)


def _quote_character(char: str) -> str:
    return "'" + {"'": r"\'", '"': '"'}.get(char, quote(char)[1:-1]) + "'"


def _float(verb: _Verb, value: float) -> str | None:
    letter = "g" if verb.letter == "v" else verb.letter
    if letter not in "eEfFgG":
        return None
    if not math.isfinite(value):
        text = _non_finite(value)
        if value > 0 and verb.sign(False) == " ":
            text = " Inf"
        return verb.pad(verb.sign(False) + text if value != value else text)
    size = abs(value)
    if letter in "gG" and verb.precision is None:
        text = format_float(size)
        text = text.upper() if letter == "G" else text
    else:
        text = f"{size:.{6 if verb.precision is None else verb.precision}{letter}}"
    return verb.pad(verb.sign(math.copysign(1.0, value) < 0) + text, zeros=True)


def _string(verb: _Verb, text: str) -> str | None:
    if verb.letter in "xX":
        text = text.encode().hex(" ") if " " in verb.flags else text.encode().hex()
        return verb.pad(text.upper() if verb.letter == "X" else text)
    text = text[: verb.precision]
    if verb.letter == "q":
        plain = "#" in verb.flags and "`" not in text and text.isprintable()
        return verb.pad(f"`{text}`" if plain else quote(text))
    return verb.pad(text) if verb.letter in "vs" else None


def unquote(literal: str) -> str:
    """The text of a Go string literal: in double quotes, apostrophes or backquotes.

    Raises:
        ValueError: an escape that Go does not know, or a missing closing quote.
    """
    mark, body = literal[:1], literal[1:-1]
    if len(literal) < 2 or mark not in "\"'`" or literal[-1] != mark:
        raise ValueError(f"invalid string literal {literal}")
    return body.replace("\r", "") if mark == "`" else "".join(_unescaped(body, mark))


_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}
_NUMERIC = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})")


def _unescaped(body: str, mark: str) -> Iterator[str]:
    pending = bytearray()  # \xNN and \NNN are bytes of UTF-8, which only together make a character
    at = 0
    while at < len(body):
        char, step = body[at], 1
        if char == "\n" or char == mark:
            raise ValueError("a line end or a quote inside a string literal")
        if char == "\\":
            char, step, byte = _escape(body, at + 1)
            if byte is not None:
                pending.append(byte)
                at += step
                continue
        if pending:
            yield pending.decode(errors="replace")
            pending.clear()
        yield char
        at += step
    if pending:
        yield pending.decode(errors="replace")


def _escape(body: str, at: int) -> tuple[str, int, int | None]:
    """The escape whose letter stands at `at`: its character, its length with the backslash, its byte if it is one."""
    if found := _NUMERIC.match(body, at):
        byte, short, long, octal = found.groups()
        if byte or octal:
            code = int(byte, 16) if byte else int(octal, 8)
            if code > 0xFF:
                raise ValueError(f"escape \\{octal} is above 255")
            return "", 1 + len(found[0]), code
        code = int(short or long, 16)
        if code >= 0x110000 or 0xD800 <= code < 0xE000:
            raise ValueError(f"escape \\{found[0]} is no character")
        return chr(code), 1 + len(found[0]), None
    letter = body[at : at + 1]
    if letter not in _SIMPLE or not letter:
        raise ValueError(f"unknown escape \\{letter}")
    return _SIMPLE[letter], 2, None
