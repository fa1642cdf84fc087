"""What will be used and who said so: the answer of `rag-sidecar check config`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from typing import NamedTuple

from sidecar.actions.options import Options
from sidecar.config_settings import AgentSection, EndpointSection, Settings, Target
from sidecar.config_values import duration_text, size_text
from sidecar.config_yaml import key_of
from sidecar.notify.options import Alertmanager
from sidecar.thresholds import (
    CRITICAL_OF_LIMIT,
    CRITICAL_OF_MAIN,
    DEFAULT_MAIN_BYTES,
    LEVELS,
    MAIN_OF_LIMIT,
    PREVENTIVE_OF_MAIN,
    Level,
    Share,
    Size,
    Wanted,
)


class Row(NamedTuple):
    """One setting: its key in the file, its value for people, and who set it ("default" if nobody)."""

    key: str
    value: str
    origin: str


def describe(settings: Settings) -> str:
    """Every setting with its value and where it comes from, then warnings and notes. Secrets are not shown."""
    found = rows(settings)
    keys, values = (max(len(row[column]) for row in found) for column in (0, 1))
    lines = [f"{row.key:<{keys}}  {row.value:<{min(values, 60)}}  {row.origin}" for row in found]
    lines += (f"warning: {text}" for text in settings.warnings)
    if not settings.alertmanagers:  # no warning: a central Prometheus may tell people
        lines.append("note: no Alertmanager is configured: alerts stand on the status page and are sent to nobody "
                     "(alertmanagers; docs/alertmanager.md)")
    return "\n".join(lines)


def rows(settings: Settings) -> tuple[Row, ...]:
    """Every setting."""
    return tuple(Row(key, value, settings.origins.get(key, "default")) for key, value in _pairs(settings))


def _pairs(settings: Settings) -> Iterator[tuple[str, str]]:
    for index, target in enumerate(settings.targets):
        yield from _target(target, f"targets[{index}]")
    yield "rules", ", ".join(map(str, settings.rules)) if settings.rules is not None else "the shipped ones"
    yield "evaluation_interval", duration_text(settings.evaluation_interval_seconds)
    yield "calm_interval", duration_text(settings.calm_interval_seconds)
    yield "features", _listed(settings.features)
    yield "external_labels", _listed(f"{name}={value}" for name, value in settings.external_labels.items())
    yield "job", settings.job
    yield "instance", settings.instance
    yield "actions.mode", settings.actions.mode or ", ".join(
        f"{settings.mode(target)} for {target.name}" + (
            " (enforce with an agent)" if settings.waits_for_agent(target) else "")
        for target in settings.targets)
    yield from _acting(settings.actions)
    yield "actions.allow_exec", _listed(settings.allow_exec)
    yield from _alertmanagers(settings.alertmanagers)
    yield "web.listen", str(settings.web.listen)
    yield "web.hosts", _listed(settings.web.hosts)
    yield "web.token_file", str(settings.web.token_file or "none")
    yield "web.config_file", str(settings.web.config_file or "none")
    yield "storage.path", str(settings.storage)
    if settings.docker_host:
        yield "docker.host", settings.docker_host
    yield "log.level", settings.log.level
    yield "log.format", settings.log.format


def _alertmanagers(alertmanagers: Sequence[Alertmanager]) -> Iterator[tuple[str, str]]:
    """Each on its own where more is said of one than where it is."""
    if any(str(each) != each.shown for each in alertmanagers):
        yield from ((f"alertmanagers[{index}]", str(each)) for index, each in enumerate(alertmanagers))
    else:
        yield "alertmanagers", _listed(map(str, alertmanagers))


def _target(target: Target, where: str) -> Iterator[tuple[str, str]]:
    yield f"{where}.name", target.name
    yield f"{where}.match", str(target.match)
    for level in LEVELS:
        yield f"{where}.memory.{level}", _line(target.memory, level)
    yield f"{where}.memory.basis", target.memory.basis
    if target.endpoint:
        yield from _endpoint(target.endpoint, f"{where}.endpoint")
    if target.agent != AgentSection():
        yield f"{where}.agent.directory", target.agent.directory or "the usual places"
        yield f"{where}.agent.every", duration_text(target.agent.every_seconds)
        yield f"{where}.agent.inside", "true" if target.agent.inside else "false"
    for index, channel in enumerate(target.cleanup):
        yield f"{where}.cleanup[{index}]", str(channel)
    if not target.cleanup:
        yield f"{where}.cleanup", "none"
    if target.brake:
        yield f"{where}.brake.loan", size_text(target.brake.loan)
        yield f"{where}.brake.hold", duration_text(target.brake.hold_seconds)


def _endpoint(section: EndpointSection, where: str) -> Iterator[tuple[str, str]]:
    """Of the headers only the names, of the URL all but the query: both may hold secrets."""
    if section.url:
        yield f"{where}.url", section.url.partition("?")[0]
    yield f"{where}.used", section.used or "none"
    yield f"{where}.unit", section.unit
    yield f"{where}.status", section.status or "none"
    yield f"{where}.states", ", ".join(section.states)
    yield f"{where}.every", duration_text(section.every_seconds)
    yield f"{where}.timeout", duration_text(section.timeout_seconds)
    yield f"{where}.headers", _listed(section.headers)


def _line(wanted: Wanted, level: Level) -> str:
    """The line as asked for, or how it will be found once the limit is known."""
    asked = {"preventive": wanted.preventive, "main": wanted.main, "critical": wanted.critical}
    wish = asked[level]
    if isinstance(wish, Size):
        return size_text(wish.size_bytes)
    if isinstance(wish, Share):
        return f"{wish.ratio:.5%}".rstrip("0%").removesuffix(".") + "% of the cgroup limit"
    if level == "preventive":
        return f"{PREVENTIVE_OF_MAIN:.0%} of main"
    if level == "main" and wanted.critical:
        return f"critical / {CRITICAL_OF_MAIN}"
    if level == "critical" and wanted.main:
        return f"{CRITICAL_OF_MAIN} × main"
    share, size_bytes = {"main": (MAIN_OF_LIMIT, DEFAULT_MAIN_BYTES),
                         "critical": (CRITICAL_OF_LIMIT, round(DEFAULT_MAIN_BYTES * CRITICAL_OF_MAIN))}[level]
    return f"{share:.0%} of the cgroup limit; without one {size_text(size_bytes)}, watched only"


def _acting(options: Options) -> Iterator[tuple[str, str]]:
    yield "actions.kill_switch", options.kill_switch
    yield "actions.global.max_concurrent", str(options.max_concurrent)
    yield "actions.global.min_interval", duration_text(options.min_interval_seconds)
    yield "actions.global.max_per_hour", str(options.max_per_hour)
    yield "actions.global.warmup", duration_text(options.warmup_seconds)
    for cleanup in options.budget_per_hour:
        yield f"actions.levels.{cleanup}.cooldown", duration_text(options.cooldown_seconds[cleanup])
        yield f"actions.levels.{cleanup}.budget", f"{options.budget_per_hour[cleanup]}/h"
        yield f"actions.levels.{cleanup}.escalate_after", str(options.escalate_after[cleanup])
    for level, policy in options.policies.items():
        yield f"actions.policies.{level}.entry", policy.entry
        yield f"actions.policies.{level}.max", policy.max
    for field in fields(options.verification):
        value = getattr(options.verification, field.name)
        text = (duration_text(value) if field.name.endswith("_seconds")
                else size_text(value) if field.name.endswith("_bytes") else f"{value:g}")
        yield f"actions.verify.{key_of(field.name)}", text
    yield "actions.exit_for", duration_text(options.exit_for_seconds)
    yield "actions.learning.strikes", str(options.strikes)
    yield "actions.learning.skip_for", duration_text(options.skip_seconds)
    yield "actions.learning.skip_backoff", f"{options.skip_backoff:g}"
    yield "actions.learning.skip_max", duration_text(options.skip_max_seconds)
    for cleanup in options.budget_per_hour:
        seconds = options.every_seconds.get(cleanup, 0.0)
        yield f"actions.every.{cleanup}", duration_text(seconds) if seconds else "never"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"
