"""The ways to ask a target for a cleanup, as sidecar.yml names them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from signal import Signals
from typing import ClassVar

from sidecar.config_secrets import read_token
from sidecar.config_values import HttpUrl, duration_text, signal_name
from sidecar.guard.wire import Channel
from sidecar.model import Cleanup

LONGEST_EXEC_SECONDS = 600.0
MOST_WORDS, MOST_CHARACTERS = 64, 4096


def check_request(timeout_seconds: float, headers: Mapping[str, str]) -> None:
    """Raise ValueError for what no HTTP request can have."""
    if not 0 < timeout_seconds <= 60:
        raise ValueError("timeout must be more than 0s and at most 60s")
    for name, value in headers.items():
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}", name):
            raise ValueError(f"{name!r} is not the name of a header")
        if not re.fullmatch(r"[ -~]{1,4096}", value):
            raise ValueError(f"the header {name} must be 1 to 4096 printable ASCII characters")


@dataclass(frozen=True, slots=True)
class HttpChannel:
    """A cleanup is asked for by POST. Headers and the query of the URL may hold secrets: they are not shown.

    The token in `token_file` becomes the header Authorization.
    """

    KEY: ClassVar = "http"
    url: HttpUrl
    timeout_seconds: float = 10.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    token_file: Path | None = None

    def __post_init__(self) -> None:
        check_request(self.timeout_seconds, self.headers)

    def __str__(self) -> str:
        headers = f", headers {', '.join(self.headers)}" if self.headers else ""
        token = f", token from {self.token_file}" if self.token_file else ""
        shown = self.url.partition("?")[0]
        return f"http POST {shown} (timeout {duration_text(self.timeout_seconds)}{headers}{token})"

    def authorized(self) -> "HttpChannel":
        """The channel with the token of its file among its headers. Raises ValueError if it has no usable one."""
        if self.token_file is None:
            return self
        if any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("the headers hold an Authorization already")
        return replace(self, headers={**self.headers, "Authorization": f"Bearer {read_token(self.token_file)}"})

    def serves(self, cleanup: Cleanup) -> Channel:
        """The way to ask for this cleanup: the level stands in the body."""
        return Channel("http", url=self.url, headers=tuple(self.headers.items()), timeout_seconds=self.timeout_seconds)


@dataclass(frozen=True, slots=True)
class SignalChannel:
    """A cleanup is asked for by a signal, each by its own or all by one. None: not by signal."""

    KEY: ClassVar = "signal"
    light: Signals | None = None
    standard: Signals | None = None
    aggressive: Signals | None = None

    def __post_init__(self) -> None:
        if not any((self.light, self.standard, self.aggressive)):
            raise ValueError("names no signal: give light, standard or aggressive")

    @classmethod
    def short(cls, text: str) -> "SignalChannel":
        """One signal for every cleanup."""
        number = signal_name(text)
        return cls(number, number, number)

    def __str__(self) -> str:
        named = {level: number.name for level in ("light", "standard", "aggressive")
                 if (number := getattr(self, level)) is not None}
        if len(named) == 3 and len(set(named.values())) == 1:
            return f"signal {named['light']}"
        return "signal " + ", ".join(f"{level}: {name}" for level, name in named.items())

    def serves(self, cleanup: Cleanup) -> Channel | None:
        """The way to ask for this cleanup, None if there is no signal for it."""
        number = {"light": self.light, "standard": self.standard, "aggressive": self.aggressive}[cleanup]
        return Channel("signal", signal=int(number)) if number is not None else None


@dataclass(frozen=True, slots=True)
class AgentChannel:
    """A cleanup is asked for at the agents in the target's processes. `timeout_seconds` is until their answers."""

    KEY: ClassVar = "agent"
    timeout_seconds: float = 30.0

    def __post_init__(self) -> None:
        check_request(self.timeout_seconds, {})

    def __str__(self) -> str:
        return f"agent (timeout {duration_text(self.timeout_seconds)})"

    def serves(self, cleanup: Cleanup) -> Channel:
        """The way to ask for this cleanup: the level stands in the body."""
        return Channel("agent", timeout_seconds=self.timeout_seconds)


@dataclass(frozen=True, slots=True)
class ExecChannel:
    """A cleanup is asked for by running a program: one `command` for every level, or one for each. No shell is used.

    Who reads what is set learns which program that is, and not its arguments.
    """

    KEY: ClassVar = "exec"
    command: tuple[str, ...] = ()
    light: tuple[str, ...] = ()
    standard: tuple[str, ...] = ()
    aggressive: tuple[str, ...] = ()
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.timeout_seconds <= LONGEST_EXEC_SECONDS:
            raise ValueError(f"timeout must be more than 0s and at most {duration_text(LONGEST_EXEC_SECONDS)}")
        commands = dict(self.commands())
        if not commands:
            raise ValueError("names no program: give command, or light, standard or aggressive")
        if "command" in commands and len(commands) > 1:
            raise ValueError("command serves every level: give either it or light, standard and aggressive")
        for key, words in commands.items():
            if isinstance(words[0], str) and (not words[0].startswith("/") or ".." in words[0].split("/")):
                raise ValueError(f"{key} begins with {words[0]!r}: write the absolute path of a program, without '..'")
            texts = [word for word in words if isinstance(word, str)]
            if len(words) > MOST_WORDS or sum(map(len, texts)) > MOST_CHARACTERS or any("\0" in word for word in texts):
                raise ValueError(f"{key} must be at most {MOST_WORDS} words of {MOST_CHARACTERS} characters altogether")

    def commands(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """(key, command) of those that were given."""
        for key in ("command", "light", "standard", "aggressive"):
            if words := getattr(self, key):
                yield key, words

    def __str__(self) -> str:
        named = ", ".join(_shown(words) if key == "command" else f"{key}: {_shown(words)}"
                          for key, words in self.commands())
        return f"exec {named} (timeout {duration_text(self.timeout_seconds)})"

    def serves(self, cleanup: Cleanup) -> Channel | None:
        """The way to ask for this cleanup, None if there is no program for it."""
        argv = self.command or {"light": self.light, "standard": self.standard, "aggressive": self.aggressive}[cleanup]
        return Channel("exec", argv=argv, timeout_seconds=self.timeout_seconds) if argv else None


def _shown(words: Sequence[str]) -> str:
    """A command as it may be shown."""
    return quote(words[0]) + (" ..." if words[1:] else "")
