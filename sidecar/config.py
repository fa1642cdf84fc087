"""File, environment and command line → Settings; later wins, and every setting remembers who set it.

Every mistake is reported at once, as `file:line:col: where: what`. This is the only module that reads the environment.
"""

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

from sidecar.config_alertmanagers import root_url
from sidecar.config_channels import HttpChannel
from sidecar.config_describe import Row, describe, rows
from sidecar.config_mistakes import mistakes, warnings
from sidecar.config_overrides import (
    ENGINE,
    FLAGS,
    PERIODS,
    Note,
    Overrides,
    default_docker,
    default_storage,
    periods,
    said,
    variables,
)
from sidecar.config_secrets import read_token
from sidecar.config_settings import Document, Log, Settings, Target, Web
from sidecar.config_targets import merged, origins, spoken_of
from sidecar.config_values import (
    Address,
    Bytes,
    DockerHost,
    Factor,
    HttpUrl,
    PerHour,
    Program,
    TargetName,
    address,
    count,
    docker_host,
    factor,
    file_wish,
    http_url,
    path,
    pattern,
    per_hour,
    port,
    program,
    signal_name,
    target_name,
    truth,
)
from sidecar.config_yaml import MAX_TEXT_CHARACTERS, Parse, Reader, read_file
from sidecar.discovery.match import ByCmdline, ByDocker, ByPid, ByPidfile, ByPort, ByUrl
from sidecar.errors import ConfigError, Problem
from sidecar.notify.options import RootUrl
from sidecar.thresholds import Share, Size, size

__all__ = [
    "FLAGS", "Overrides", "Row", "Settings", "Target", "default_storage", "describe", "environment", "load", "rows",
]

HELP = "docs/configuration.md describes every key; `rag-sidecar check config` checks without starting anything"


def environment() -> Mapping[str, str]:
    """The environment of this process."""
    return os.environ


def load(file: Path | None, env: Mapping[str, str], overrides: Overrides) -> Settings:
    """Settings from a file (None: there is none), the environment and the command line.

    Raises ConfigError with every mistake in all three.
    """
    folder = file.absolute().parent if file else Path()
    reader = Reader(str(file or "command line"), _scalars(folder))
    problems = reader.problems
    document = Document() if file is None else read_file(reader, file, Document())
    rules = _rules(document, folder, reader.note)
    for where, what in mistakes(document):
        reader.note(where, what)
    document, token = _with_tokens(document, reader.note)
    note_in_env = partial(_note_elsewhere, problems, "environment")
    sizes, seconds = variables(env, note_in_env), periods(env, note_in_env)
    flags = said(overrides, partial(_note_elsewhere, problems, "command line"))
    problems.sort(key=lambda problem: (problem.line or MAX_TEXT_CHARACTERS, problem.column))
    if problems:  # laying them over each other would only repeat the same mistakes in other words
        raise ConfigError(problems, help=HELP)

    def note(where: str, what: str) -> None:
        if where.startswith("-"):
            _note_elsewhere(problems, "command line", where, what)
        else:
            reader.note(where, what)

    targets = merged(document.targets, overrides, flags, sizes, note)
    storage = flags.get("storage_path") or document.storage.path or default_storage(env)
    if storage is None:
        note("storage.path", "neither XDG_STATE_HOME nor HOME says where state is kept: set it here, or give "
                             f"{FLAGS['storage_path'].flag} DIRECTORY")
    if problems or storage is None:
        raise ConfigError(problems, help=HELP)
    settings = _settings(document, flags, storage, seconds)
    return replace(
        settings,
        targets=targets, rules=rules, web=replace(settings.web, token=token), watched=_watched(file, document),
        warnings=tuple(warnings(targets, settings, bool(sizes))), docker_host=_engine(document, targets, env),
        origins={
            **({"docker.host": ENGINE} if env.get(ENGINE) else {}),
            **{where: f"{reader.file}:{place.line}" for where, place in reader.places.items()},
            **dict(origins(spoken_of(targets, overrides, flags, note), len(targets), flags, sizes)),
            **{f"actions.every.{cleanup}": PERIODS[cleanup] for cleanup in seconds},
        })


def _note_elsewhere(problems: list[Problem], place: str, where: str, what: str) -> None:
    """Note a mistake that stands in no file."""
    problems.append(Problem(place, 0, 0, where, what))


def _with_tokens(document: Document, note: Note) -> tuple[Document, str]:
    """The document with the tokens of its HTTP channels, and the one of its pages; "" where there is none."""
    targets, token = [], ""
    for at, target in enumerate(document.targets):
        channels = list(target.cleanup) if isinstance(target, Target) else []  # else it is noted already
        for index, channel in enumerate(channels):
            if isinstance(channel, HttpChannel):
                try:
                    channels[index] = channel.authorized()
                except ValueError as error:
                    note(f"targets[{at}].cleanup[{index}].http.token_file", str(error))
        targets.append(replace(target, cleanup=tuple(channels)) if channels else target)
    if document.web.token_file:
        try:
            token = read_token(document.web.token_file)
        except ValueError as error:
            note("web.token_file", str(error))
    return replace(document, targets=tuple(targets)), token


def _engine(document: Document, targets: Sequence[Target], env: Mapping[str, str]) -> str:
    """Where the Docker engine listens; "" where no target is a container. Raises ConfigError."""
    if not any(isinstance(target.match, ByDocker) for target in targets):
        return ""
    try:
        return document.docker.host or default_docker(env)
    except ValueError as error:
        raise ConfigError([Problem("environment", 0, 0, ENGINE, str(error))], help=HELP) from None


def _settings(document: Document, flags: Mapping[str, Any], storage: Path, seconds: Mapping[str, float]) -> Settings:
    """What the document says about everything but its targets and rules, with environment and flags laid over it."""
    every = replace(document.actions.every, **{f"{cleanup}_seconds": value for cleanup, value in seconds.items()})
    acting = replace(document.actions, mode=flags.get("mode", document.actions.mode), every=every)
    interval, calm = document.intervals()
    web = Web(flags.get("web_listen", document.web.listen), document.web.hosts, document.web.token_file,
              flags.get("web_config", document.web.config_file), lifecycle="web_lifecycle" in flags)
    return Settings(
        targets=(),
        rules=None,
        evaluation_interval_seconds=interval,
        calm_interval_seconds=calm,
        features=flags.get("features", tuple(dict.fromkeys(document.features))),
        external_labels=document.external_labels,
        job=document.job,
        instance=document.instance or str(web.listen),
        actions=acting.options(acting.kill_switch or storage / "kill-switch"),
        allow_exec=tuple(dict.fromkeys(document.actions.allow_exec)),
        alertmanagers=flags.get("alertmanagers", document.alertmanagers),
        web=web,
        storage=storage,
        log=replace(Log(), **{key: flags[f"log_{key}"] for key in ("level", "format") if f"log_{key}" in flags}),
        warnings=(),
        origins={},
    )


def _scalars(folder: Path) -> dict[Any, Parse]:
    """How each type is written in a file. Relative paths count from the folder of the file."""
    def below(text: str) -> Path:
        return folder / path(text)

    return {
        str: str, int: count, bool: truth, Path: below, Size | Share: file_wish, TargetName: target_name,
        HttpUrl: http_url, DockerHost: docker_host, Address: address, Signals: signal_name,
        RootUrl: root_url, PerHour: per_hour, Bytes: size, Factor: factor, Program: program,
        ByPid: lambda text: ByPid(count(text)), ByPidfile: lambda text: ByPidfile(below(text)),
        ByCmdline: lambda text: ByCmdline(pattern(text)), ByPort: lambda text: ByPort(port(text)),
        ByUrl: lambda text: ByUrl(http_url(text)),
    }


def _watched(file: Path | None, document: Document) -> tuple[str, ...]:
    """The file itself and the patterns of its rules, whatever directory somebody is in later."""
    if file is None:
        return ()
    folder = glob.escape(str(file.absolute().parent))
    return glob.escape(str(file.absolute())), *(os.path.join(folder, wanted) for wanted in document.rules or ())


def _rules(document: Document, folder: Path, note: Note) -> tuple[Path, ...] | None:
    """The rule files that the patterns name, each once; None where no pattern is given."""
    if document.rules is None:
        return None
    found: dict[Path, None] = {}
    for index, wanted in enumerate(document.rules):
        if not isinstance(wanted, str):
            continue  # noted already
        names = sorted(glob.glob(wanted, root_dir=folder, recursive=True))
        files = [folder / name for name in names if (folder / name).is_file()]
        if not files:
            note(f"rules[{index}]", f"no file matches {wanted!r} in {folder}")
        found |= dict.fromkeys(files)
    return tuple(found)
