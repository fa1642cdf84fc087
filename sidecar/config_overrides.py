"""What the command line and the environment may set: the flags, the variables, and how each is read."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from sidecar.actions.options import Mode
from sidecar.config_alertmanagers import at_urls
from sidecar.config_settings import LogFormat, LogLevel
from sidecar.config_values import (
    DockerHost,
    address,
    choice,
    count,
    docker_host,
    http_url,
    megabytes,
    path,
    pattern,
    target_name,
    wish,
)
from sidecar.discovery.match import ByCmdline, ByPid, ByUrl
from sidecar.promql.features import read_features
from sidecar.thresholds import AskedBasis, Size

Note = Callable[[str, str], None]
"""`note(where, what)` takes down a mistake."""

VARIABLES = {"main": "MEMORY_THRESHOLD_MB", "critical": "MEMORY_CRITICAL_THRESHOLD_MB"}
"""Level → variable. The names and the unit come from the programs that this one grew out of."""
PERIODS = {"light": "GC_INTERVAL_SECONDS"}
"""Cleanup → variable that says how often it is asked for."""
ENGINE = "DOCKER_HOST"
"""The variable by which Docker's own programs are told where the engine listens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the command line says, as it was typed; None is "not said". `child`: there is a command after `--`."""

    target: str | None = None
    pid: int | str | None = None
    match: str | None = None
    url: str | None = None
    child: bool = False
    memory_main: str | None = None
    memory_critical: str | None = None
    memory_basis: str | None = None
    no_agent: str | None = None
    web_listen: str | None = None
    web_lifecycle: str | None = None
    web_config: str | None = None
    storage_path: str | None = None
    mode: str | None = None
    alertmanagers: Sequence[str] = ()
    features: Sequence[str] = ()
    log_level: str | None = None
    log_format: str | None = None


class Flag(NamedTuple):
    """One flag: its spelling, the key of the file that it sets, how it is read: its text, or all its texts."""

    flag: str
    key: str
    read: Callable[[Any], Any]


def _wish(text: str) -> Any:
    return wish(text, "command line")


def _one_of(choices: Any) -> Callable[[str], str]:
    return lambda text: choice(text, get_args(choices))


OF_TARGET = "targets[]."
"""Stands before the keys of the one target that the command line speaks of."""

FLAGS: Mapping[str, Flag] = {
    "target": Flag("--target", "", target_name),
    "pid": Flag("--pid", OF_TARGET + "match", lambda text: ByPid(count(text))),
    "match": Flag("--match", OF_TARGET + "match", lambda text: ByCmdline(pattern(text))),
    "url": Flag("--url", OF_TARGET + "match", lambda text: ByUrl(http_url(text))),
    "memory_main": Flag("--memory.main", OF_TARGET + "memory.main", _wish),
    "memory_critical": Flag("--memory.critical", OF_TARGET + "memory.critical", _wish),
    "memory_basis": Flag("--memory.basis", OF_TARGET + "memory.basis", _one_of(AskedBasis)),
    "no_agent": Flag("--no-agent", OF_TARGET + "agent.inside", lambda _: False),
    "web_listen": Flag("--web.listen-address", "web.listen", address),
    "web_lifecycle": Flag("--web.enable-lifecycle", "", lambda _: True),
    "web_config": Flag("--web.config.file", "web.config_file", lambda text: path(text).absolute()),
    "storage_path": Flag("--storage.path", "storage.path", lambda text: path(text).absolute()),
    "mode": Flag("--mode", "actions.mode", _one_of(Mode)),
    "alertmanagers": Flag("--alertmanager.url", "alertmanagers", at_urls),
    "features": Flag("--enable-feature", "features", read_features),
    "log_level": Flag("--log.level", "log.level", _one_of(LogLevel)),
    "log_format": Flag("--log.format", "log.format", _one_of(LogFormat)),
}
"""Field of Overrides → its flag."""


def said(overrides: Overrides, note: Note) -> dict[str, Any]:
    """Field → value of everything that was said. A flag that cannot be read is noted and left out."""
    found: dict[str, Any] = {}
    for name, flag in FLAGS.items():
        given = getattr(overrides, name)
        try:
            if isinstance(given, int | str):
                found[name] = flag.read(str(given))
            elif given:
                found[name] = flag.read(given)
        except ValueError as error:
            note(flag.flag, str(error))
    return found


def selectors(overrides: Overrides) -> list[str]:
    """The ways in which the command line says which process is meant; more than one is a mistake."""
    given = [FLAGS[name].flag for name in ("pid", "match", "url") if getattr(overrides, name) is not None]
    return [*given, "-- COMMAND"] if overrides.child else given


def variables(env: Mapping[str, str], note: Note) -> dict[str, Size]:
    """Level → size of the thresholds in the environment. An empty variable is one that is not set."""
    found: dict[str, Size] = {}
    for level, name in VARIABLES.items():
        if text := env.get(name, "").strip():
            try:
                found[level] = megabytes(text)
            except ValueError as error:
                note(name, str(error))
    return found


def periods(env: Mapping[str, str], note: Note) -> dict[str, float]:
    """Cleanup → seconds between two of them, as the environment says; 0: none. An empty variable is not set."""
    found: dict[str, float] = {}
    for cleanup, name in PERIODS.items():
        if text := env.get(name, "").strip():
            if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", text) and not wrong_period(float(text)):
                found[cleanup] = float(text)
            else:
                note(name, f"{text!r} is not a number of seconds, 0 (never) or from 10 to 86400, without a unit")
    return found


def wrong_period(seconds: float) -> str:
    """What is wrong with asking for a cleanup every so many seconds, "" if nothing."""
    return "" if not seconds or 10 <= seconds <= 86400 else "must be 0s (never), or at least 10s and at most 1d"


def default_docker(env: Mapping[str, str]) -> DockerHost:
    """$DOCKER_HOST, else where Docker's own programs look. Raises ValueError."""
    return docker_host(env.get(ENGINE) or "unix:///var/run/docker.sock")


def default_storage(env: Mapping[str, str]) -> Path | None:
    """$XDG_STATE_HOME/rag-sidecar, else ~/.local/state/rag-sidecar; None where neither is known.

    A relative XDG_STATE_HOME is ignored, as the XDG Base Directory Specification says.
    """
    if env.get("XDG_STATE_HOME", "").startswith("/"):
        return Path(env["XDG_STATE_HOME"], "rag-sidecar")
    return Path(env["HOME"], ".local/state/rag-sidecar") if env.get("HOME", "").startswith("/") else None
