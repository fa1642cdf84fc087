"""What is wrong with a configuration whose single values are all right: it shows when they are seen together."""

import os
import re
from collections.abc import Iterator, Sequence

from sidecar.actions.options import STRENGTH
from sidecar.config_alertmanagers import insecure, unusable
from sidecar.config_channels import ExecChannel
from sidecar.config_overrides import wrong_period
from sidecar.config_settings import Acting, Document, Settings, Target
from sidecar.thresholds import contradiction

LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def mistakes(document: Document) -> Iterator[tuple[str, str]]:
    """(where, what) of mistakes that show only when several values are seen together, or in their range."""
    names: dict[str, int] = {}
    for index, target in enumerate(document.targets):
        if not isinstance(target, Target):
            continue  # noted already
        if names.setdefault(target.name, index) != index:
            yield f"targets[{index}].name", f"{target.name!r} is the name of targets[{names[target.name]}] already"
        if wrong := contradiction(target.memory):
            yield f"targets[{index}].memory", wrong
        for at, channel in enumerate(target.cleanup):
            if isinstance(channel, ExecChannel):
                yield from _not_allowed(channel, document.actions, f"targets[{index}].cleanup[{at}].exec")
    interval, calm = document.intervals()
    if not 0.1 <= interval <= 3600:
        yield "evaluation_interval", "must be at least 100ms and at most 1h"
    elif not interval <= calm <= 3600:
        yield "calm_interval", "must be at least evaluation_interval and at most 1h"
    for name in document.external_labels:
        if not LABEL_NAME.fullmatch(name) or name.startswith("__"):
            yield f"external_labels.{name}", f"{name!r} is not the name of a label"
    for key in ("job", "instance"):
        if getattr(document, key) == "":
            yield key, "is empty"
    for index, host in enumerate(document.web.hosts):
        if isinstance(host, str) and not HOST_NAME.fullmatch(host):
            yield f"web.hosts[{index}]", f"{host!r} is not a host name (without a port)"
    yield from unusable(document.alertmanagers)
    yield from _acting_mistakes(document.actions)


def _not_allowed(channel: ExecChannel, acting: Acting, where: str) -> Iterator[tuple[str, str]]:
    for key, words in channel.commands():
        if isinstance(words[0], str) and words[0] not in acting.allow_exec:
            yield f"{where}.{key}[0]", f"{words[0]} does not stand in actions.allow_exec: nothing else is run"


def _acting_mistakes(acting: Acting) -> Iterator[tuple[str, str]]:
    for level, policy in acting.policies.items():
        if STRENGTH[policy.entry] > STRENGTH[policy.max]:
            yield f"actions.policies.{level}", f"entry {policy.entry} is stronger than max {policy.max}"
    if acting.verify.settle_seconds >= acting.verify.window_seconds:
        yield "actions.verify", "settle must be shorter than window"
    if not 0 < acting.verify.exit_ratio < 1:
        yield "actions.verify.exit_ratio", "must lie between 0 and 1"
    if acting.learning.skip_for_seconds > acting.learning.skip_max_seconds:
        yield "actions.learning", "skip_for must not be longer than skip_max"
    for cleanup, seconds in acting.every.items():
        if wrong := wrong_period(seconds):
            yield f"actions.every.{cleanup}", wrong


def warnings(targets: Sequence[Target], settings: Settings, from_environment: bool) -> Iterator[str]:
    """What is odd but usable. `from_environment`: thresholds come from there."""
    mode = settings.actions.mode
    if from_environment and len(targets) > 1:
        yield f"the thresholds in the environment hold for all {len(targets)} targets"
    if mode in ("enforce", "dry_run"):
        for target in targets:
            if not target.cleanup:
                yield (f"mode is {mode}, but target {target.name} has no cleanup channel: nothing can be asked of it "
                       "unless there is an agent in its process")
    yield from insecure(settings.alertmanagers)
    for program in settings.allow_exec:
        if not (os.path.isfile(program) and os.access(program, os.X_OK)):
            yield f"{program} of actions.allow_exec is not there, or may not be run by this user"
