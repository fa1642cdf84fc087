"""How a target is named: by pid, pidfile, command line, port, container or URL, or as what the guard starts."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}"
MOST_LABELS, MOST_LABEL_CHARACTERS = 10, 500


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
class ByDocker:
    """The first process of a container, as the Docker engine of this machine tells.

    By its name; or by the service of a Compose file, in that project; or by labels, all of which it has.
    """

    KEY: ClassVar = "docker"
    container: str = ""
    service: str = ""
    project: str = ""
    label: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if sum(map(bool, (self.container, self.service, self.label))) != 1:
            raise ValueError("expected exactly one of container, service, label")
        if self.project and not self.service:
            raise ValueError("a project has services: say which with 'service'")
        if not all(re.fullmatch(_NAME, word) for word in (self.container, self.service, self.project) if word):
            raise ValueError("a container, service or project is named by letters, digits, '_', '.' and '-'")
        if len(self.label) > MOST_LABELS or any(
                not key or "=" in key or len(key + value) > MOST_LABEL_CHARACTERS for key, value in self.label.items()):
            raise ValueError(f"at most {MOST_LABELS} labels, each with a name without '=', together with its value at "
                             f"most {MOST_LABEL_CHARACTERS} characters")

    def words(self) -> dict[str, object]:
        """What is said, by its keys."""
        said = {"container": self.container, "service": self.service, "project": self.project,
                "label": dict(self.label)}
        return {key: value for key, value in said.items() if value}

    def __str__(self) -> str:
        labels = [f"label {key}={value}" for key, value in self.label.items()]
        named = [f"{key} {value}" for key, value in self.words().items() if key != "label"]
        return f"docker {' '.join([*named, *labels])}"


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


Match = ByPid | ByPidfile | ByCmdline | ByPort | ByDocker | ByUrl | AsChild
