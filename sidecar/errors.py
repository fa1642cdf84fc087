"""Every error that a person may see.

SidecarError            .help: what to do next
├── ConfigError         .problems: every mistake in a configuration file, at once
│   └── RuleError       the same for rule files
├── QueryError          .position: an expression that does not parse or cannot be evaluated
├── TargetGone          the process ended or its pid was reused: normal life
└── ProbeFailed         .reason: a source that could not be read or understood
"""

from collections.abc import Sequence
from typing import NamedTuple

MOST_SHOWN = 200


class SidecarError(Exception):
    """The root: something a person can act on. `help` says how."""

    def __init__(self, message: str, *, help: str = "") -> None:
        super().__init__(message)
        self.help = help


class Problem(NamedTuple):
    """One mistake in a file. `line` and `column` count from 1; 0 where there is no position."""

    file: str
    line: int
    column: int
    where: str
    what: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.where}: {self.what}" if self.where else f"{place}: {self.what}"


class ConfigError(SidecarError):
    """A configuration that cannot be used. The message is one line per problem."""

    def __init__(self, problems: Sequence[Problem], *, help: str = "") -> None:
        super().__init__("\n".join(map(str, problems)), help=help)
        self.problems = tuple(problems)


class RuleError(ConfigError):
    """A rule file that cannot be used."""


class QueryError(SidecarError):
    """An expression that does not parse, is not supported, or failed while it was evaluated."""

    def __init__(self, message: str, *, position: int | None = None, help: str = "") -> None:
        super().__init__(message, help=help)
        self.position = position


class TargetGone(SidecarError):
    """The process has ended or is no longer the one that was attached."""


class ProbeFailed(SidecarError):
    """A source could not be read. `reason` is a short constant word, fit for a label."""

    def __init__(self, reason: str, message: str, *, help: str = "") -> None:
        super().__init__(message, help=help)
        self.reason = reason


def told(error: BaseException) -> str:
    """An error as a short text for people."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {printable(str(error.filename))}" if error.filename else "")
    if isinstance(error, KeyError):
        return f"no {printable(str(error.args[0]))} in it"
    return f"not understood: {printable(str(error))}"


def printable(text: str | bytes) -> str:
    """A foreign text, harmless on a terminal: no control characters, no more than `MOST_SHOWN` characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    shown = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:MOST_SHOWN])
    return "".join(shown) + ("…" if len(text) > MOST_SHOWN else "")
