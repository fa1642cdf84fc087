"""How a target is named: by pid, pidfile, command line, port or URL, or as the program that the guard starts."""

import re
from dataclasses import dataclass, field
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
class ByPort:
    """The process that listens on this TCP port."""

    KEY: ClassVar = "port"
    port: int

    def __str__(self) -> str:
        return f"port {self.port}"


@dataclass(frozen=True, slots=True)
class ByUrl:
    """No process, only a debug endpoint. The query of its URL is not shown: it may hold a secret."""

    KEY: ClassVar = "url"
    url: str = field(repr=False)

    def __str__(self) -> str:
        return f"url {self.url.partition('?')[0]}"


@dataclass(frozen=True, slots=True)
class AsChild:
    """The process that the guard starts: `-- COMMAND`."""

    def __str__(self) -> str:
        return "the command after --"


Match = ByPid | ByPidfile | ByCmdline | ByPort | ByUrl | AsChild
