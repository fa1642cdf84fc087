"""The targets of the file, the environment and the command line laid over each other."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sidecar.config_channels import AgentChannel, SignalChannel
from sidecar.config_overrides import FLAGS, OF_TARGET, VARIABLES, Note, Overrides, selectors
from sidecar.config_settings import Target
from sidecar.config_values import TargetName, nearest
from sidecar.discovery.match import AsChild, ByUrl
from sidecar.thresholds import Size, contradiction

DEFAULT_NAME = TargetName("rag")


def merged(
    targets: tuple[Target, ...], overrides: Overrides, said: Mapping[str, Any], sizes: Mapping[str, Size], note: Note
) -> tuple[Target, ...]:
    """`targets` of the file as they are to be watched. Mistakes are noted; then the result is of no use."""
    ways = selectors(overrides)
    if len(ways) > 1:
        note(" ".join(ways), "only one of these can say which process is meant")
        return targets
    if not targets and not ways:
        note("targets", f"there is none: give {FLAGS['pid'].flag} N, {FLAGS['match'].flag} REGEX, {FLAGS['url'].flag} "
                        "URL or -- COMMAND, or name targets in a file")
        return targets
    named = targets or (Target(said.get("target", DEFAULT_NAME)),)
    index = spoken_of(named, overrides, said, note)
    found = [_with(target, sizes) for target in named]
    if index is not None:
        found[index] = _overridden(found[index], overrides, said)
    for at, target in enumerate(found):
        if isinstance(target.match, AsChild) and not (overrides.child and at == index):
            note(f"targets[{at}]", f"'match' is missing: no process is named for {target.name}")
        for key, wrong in _contradictions(target):
            note(f"targets[{at}].{key}", wrong)
    return tuple(_with(each, {"basis": "endpoint"}) if isinstance(each.match, ByUrl) else each for each in found)


def _contradictions(target: Target) -> Iterator[tuple[str, str]]:
    """(key, what) of what does not fit together in one target."""
    if wrong := contradiction(target.memory):
        yield "memory", wrong
    section, match, basis = target.endpoint, target.match, target.memory.basis
    if basis == "endpoint" and not (section and section.used):
        yield "memory.basis", "endpoint needs endpoint.used: which of its numbers counts"
    if isinstance(match, ByUrl):
        if basis not in ("auto", "endpoint"):
            yield "memory.basis", f"{basis} is not known of a target that is known by its URL alone"
        if section and section.url not in (None, match.url):
            yield "endpoint.url", "match names another URL"
        for at, channel in enumerate(target.cleanup):
            if isinstance(channel, AgentChannel | SignalChannel):
                yield f"cleanup[{at}]", f"{channel.KEY} needs a process, and the target is known by its URL alone"
    elif section and section.url is None:
        yield "endpoint", "'url' is missing"


def spoken_of(targets: tuple[Target, ...], overrides: Overrides, said: Mapping[str, Any], note: Note) -> int | None:
    """Which of `targets` the command line speaks of; None: of none in particular."""
    names = tuple(str(target.name) for target in targets)
    if "target" in said:
        if said["target"] in names:
            return names.index(said["target"])
        note(FLAGS["target"].flag, f"no target of the file has the name {said['target']!r}, "
                                   f"{nearest(said['target'], names)}")
        return None
    flags = [*selectors(overrides), *(FLAGS[name].flag for name in said if FLAGS[name].key.startswith(OF_TARGET))]
    if not flags:
        return None
    if len(targets) == 1:
        return 0
    note(flags[0], f"the file has {len(targets)} targets ({', '.join(names)}): say which one is meant with "
                   f"{FLAGS['target'].flag} NAME")
    return None


def origins(
    index: int | None, count: int, said: Mapping[str, Any], sizes: Mapping[str, Size]
) -> Iterator[tuple[str, str]]:
    """(key, who set it) of what did not come from the file, for `count` targets; the flags speak of target `index`."""
    for at in range(count):
        for level in sizes:
            yield f"targets[{at}].memory.{level}", VARIABLES[level]
    for name in said:
        flag, key, _ = FLAGS[name]
        if key and (index is not None or not key.startswith(OF_TARGET)):
            yield key.replace(OF_TARGET, f"targets[{index}]."), flag


def _overridden(target: Target, overrides: Overrides, said: Mapping[str, Any]) -> Target:
    wishes = {name.removeprefix("memory_"): value for name, value in said.items() if name.startswith("memory_")}
    match = AsChild() if overrides.child else said.get("pid") or said.get("match") or said.get("url") or target.match
    agent = replace(target.agent, inside=said.get("no_agent", target.agent.inside))
    return _with(replace(target, match=match, agent=agent), wishes)


def _with(target: Target, wishes: Mapping[str, Any]) -> Target:
    return replace(target, memory=replace(target.memory, **wishes))
