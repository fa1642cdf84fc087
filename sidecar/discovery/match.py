"""How a target is named: by pid, by pidfile, by its command line, or as the program that the guard starts."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ByPid:
    """The process with this number."""

    KEY: ClassVar = "pid"
    pid: int

    def __str__(self) -> str:
        return f"pid {self.pid}"


@dataclass(frozen=True, slots=True)
class ByPidfile:
    """The process whose number stands in a file."""

    KEY: ClassVar = "pidfile"
    path: Path

    def __str__(self) -> str:
        return f"pidfile {self.path}"


@dataclass(frozen=True, slots=True)
class ByCmdline:
    """The process in whose command line, joined by spaces, the expression is found."""

    KEY: ClassVar = "cmdline"
    pattern: re.Pattern[str]

    def __str__(self) -> str:
        return f"cmdline {self.pattern.pattern!r}"


@dataclass(frozen=True, slots=True)
class AsChild:
    """The process that the guard starts: `-- COMMAND`."""

    def __str__(self) -> str:
        return "the command after --"


Match = ByPid | ByPidfile | ByCmdline | AsChild
