"""File, environment and command line → Settings; later wins, and every setting remembers who set it.

Every mistake is reported at once, as `file:line:col: where: what`. This is the only module that reads the environment.
"""

import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from signal import Signals
from typing import Any

from sidecar.actions.options import STRENGTH
from sidecar.config_describe import Row, describe, rows
from sidecar.config_overrides import FLAGS, Note, Overrides, default_storage, said, variables
from sidecar.config_settings import Acting, Document, Log, Settings, Target
from sidecar.config_targets import merged, origins, spoken_of
from sidecar.config_values import (
    Address,
    BaseUrl,
    HttpUrl,
    TargetName,
    address,
    base_url,
    count,
    file_wish,
    http_url,
    path,
    pattern,
    port,
    signal_name,
    target_name,
    truth,
)
from sidecar.config_yaml import MAX_TEXT_CHARACTERS, Parse, Reader
from sidecar.discovery.match import ByCmdline, ByPid, ByPidfile, ByPort, ByUrl
from sidecar.errors import ConfigError, Problem
from sidecar.thresholds import Share, Size, contradiction

__all__ = [
    "FLAGS", "Overrides", "Row", "Settings", "Target", "default_storage", "describe", "environment", "load", "rows",
]

HELP = "docs/configuration.md describes every key; `rag-sidecar check config` checks without starting anything"
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


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
    document = _document(file, reader)
    rules = _rules(document, folder, reader.note)
    for where, what in _mistakes(document):
        reader.note(where, what)
    sizes = variables(env, lambda where, what: problems.append(Problem("environment", 0, 0, where, what)))
    flags = said(overrides, lambda where, what: problems.append(Problem("command line", 0, 0, where, what)))
    problems.sort(key=lambda problem: (problem.line or MAX_TEXT_CHARACTERS, problem.column))
    if problems:  # laying them over each other would only repeat the same mistakes in other words
        raise ConfigError(problems, help=HELP)

    def note(where: str, what: str) -> None:
        if where.startswith("-"):
            problems.append(Problem("command line", 0, 0, where, what))
        else:
            reader.note(where, what)

    targets = merged(document.targets, overrides, flags, sizes, note)
    storage = flags.get("storage_path") or document.storage.path or default_storage(env)
    if storage is None:
        reader.note("storage.path", "neither XDG_STATE_HOME nor HOME says where state is kept: set it here, or give "
                                    f"{FLAGS['storage_path'].flag} DIRECTORY")
    if problems or storage is None:
        raise ConfigError(problems, help=HELP)
    spoken = spoken_of(targets, overrides, flags, note)
    return replace(
        _settings(document, flags, storage),
        targets=targets,
        rules=rules,
        warnings=tuple(_warnings(targets, flags.get("mode", document.actions.mode), bool(sizes))),
        origins={
            **{where: f"{reader.file}:{place.line}" for where, place in reader.places.items()},
            **dict(origins(spoken, len(targets), flags, sizes)),
        },
    )


def _settings(document: Document, flags: Mapping[str, Any], storage: Path) -> Settings:
    """What the document says about everything but its targets and rules, with the flags laid over it."""
    acting = replace(document.actions, mode=flags.get("mode", document.actions.mode))
    web = replace(document.web, listen=flags.get("web_listen", document.web.listen))
    return Settings(
        targets=(),
        rules=None,
        evaluation_interval_seconds=document.evaluation_interval_seconds,
        features=flags.get("features", tuple(dict.fromkeys(document.features))),
        external_labels=document.external_labels,
        job=document.job,
        instance=document.instance or str(web.listen),
        actions=acting.options(acting.kill_switch or storage / "kill-switch"),
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
        HttpUrl: http_url, BaseUrl: base_url, Address: address, Signals: signal_name,
        ByPid: lambda text: ByPid(count(text)), ByPidfile: lambda text: ByPidfile(below(text)),
        ByCmdline: lambda text: ByCmdline(pattern(text)), ByPort: lambda text: ByPort(port(text)),
        ByUrl: lambda text: ByUrl(http_url(text)),
    }


def _document(file: Path | None, reader: Reader) -> Document:
    if file is None:
        return Document()
    try:
        with open(file, "rb") as opened:
            text = opened.read(4 * MAX_TEXT_CHARACTERS + 1).decode("utf-8-sig")
    except OSError as error:
        reader.note("", f"cannot be read: {error.strerror}")
        return Document()
    except UnicodeDecodeError as error:
        reader.note("", f"is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}")
        return Document()
    found: Document = reader.read(text, Document())
    return found


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


def _mistakes(document: Document) -> Iterator[tuple[str, str]]:
    """(where, what) of mistakes that show only when several values are seen together, or in their range."""
    names: dict[str, int] = {}
    for index, target in enumerate(document.targets):
        if not isinstance(target, Target):
            continue  # noted already
        if names.setdefault(target.name, index) != index:
            yield f"targets[{index}].name", f"{target.name!r} is the name of targets[{names[target.name]}] already"
        if wrong := contradiction(target.memory):
            yield f"targets[{index}].memory", wrong
    if not 0.1 <= document.evaluation_interval_seconds <= 3600:
        yield "evaluation_interval", "must be at least 100ms and at most 1h"
    for name in document.external_labels:
        if not LABEL_NAME.fullmatch(name) or name.startswith("__"):
            yield f"external_labels.{name}", f"{name!r} is not the name of a label"
    for key in ("job", "instance"):
        if getattr(document, key) == "":
            yield key, "is empty"
    for index, host in enumerate(document.web.hosts):
        if isinstance(host, str) and not HOST_NAME.fullmatch(host):
            yield f"web.hosts[{index}]", f"{host!r} is not a host name (without a port)"
    for index, url in enumerate(document.alertmanagers):
        if isinstance(url, str) and url in document.alertmanagers[:index]:
            yield f"alertmanagers[{index}]", "this one is named already"
    yield from _acting_mistakes(document.actions)


def _acting_mistakes(acting: Acting) -> Iterator[tuple[str, str]]:
    for level, policy in acting.policies.items():
        if STRENGTH[policy.entry] > STRENGTH[policy.max]:
            yield f"actions.policies.{level}", f"entry {policy.entry} is stronger than max {policy.max}"
    if acting.verify.settle_seconds >= acting.verify.window_seconds:
        yield "actions.verify", "settle must be shorter than window"
    if not 0 < acting.verify.exit_ratio < 1:
        yield "actions.verify.exit_ratio", "must lie between 0 and 1"


def _warnings(targets: tuple[Target, ...], mode: str | None, from_environment: bool) -> Iterator[str]:
    if from_environment and len(targets) > 1:
        yield f"the thresholds in the environment hold for all {len(targets)} targets"
    if mode in ("enforce", "dry_run"):
        for target in targets:
            if not target.cleanup:
                yield (f"mode is {mode}, but target {target.name} has no cleanup channel: nothing can be asked of it "
                       "unless there is an agent in its process")
