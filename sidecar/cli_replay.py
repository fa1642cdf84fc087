"""The command `replay`: what rules and settings would have told and done over a recording, in virtual time."""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config import Overrides, environment, load
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from sidecar.replay.play import Play
    from sidecar.replay.program import Assumption

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OK = 0
CLEANUPS = ("light", "standard", "aggressive")

_REPLAY = """\
examples:
  rag-sidecar query -o json --start 1h --step 5s rag_memory_used_bytes > h.json
  rag-sidecar replay --data h.json --memory.main 800MiB
  rag-sidecar replay --data h.json --config.file sidecar.yml --rules mine.yml
  rag-sidecar replay --data h.json --assume frees=80% --assume light:ineffective

What a cleanup frees is not known beforehand, so it is assumed: effective (30 %
of used memory, the default), ineffective, frees=200MiB, frees=50%, refused or
unanswered; with LEVEL: before it for one level alone. Nothing is watched, asked
or told. Exit codes: 0 it was played, 1 failure. docs/replay.md
"""


def add(commands: "Commands") -> None:
    """Add the command `replay`."""
    replay = commands.add_parser("replay", help="what rules and settings would have done over a recording",
                                 epilog=_REPLAY, formatter_class=argparse.RawDescriptionHelpFormatter)
    replay.add_argument("--data", type=Path, required=True, metavar="FILE", help="recorded or invented series, as JSON")
    replay.add_argument("--config.file", dest="config_file", type=Path, metavar="FILE", help="a sidecar.yml")
    replay.add_argument("--rules", type=Path, nargs="+", metavar="FILE",
                        help="rule files; default: those of the configuration, else the shipped ones")
    replay.add_argument("--memory.main", dest="memory_main", metavar="SIZE", help="the main line, such as 1000MiB")
    replay.add_argument("--memory.critical", dest="memory_critical", metavar="SIZE", help="the critical line")
    replay.add_argument("--mode", metavar="MODE", help="observe, dry_run or enforce (default)")
    replay.add_argument("--interval", metavar="DURATION", help="how often the desk looks, such as 5s: a long recording "
                        "takes less time then; default: as configured, 1s")
    replay.add_argument("--assume", action="append", default=[], metavar="[LEVEL:]EFFECT",
                        help="what cleanups do; may be given several times")
    replay.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    replay.set_defaults(call=_replay)


def _replay(arguments: argparse.Namespace) -> int:
    import gc
    import logging

    from sidecar.replay.data import read
    from sidecar.replay.play import stage
    from sidecar.rules.load import load as load_rules
    from sidecar.rules.load import shipped

    configured = arguments.config_file is not None
    settings = load(arguments.config_file, environment(), Overrides(
        child=not configured, memory_main=arguments.memory_main, memory_critical=arguments.memory_critical,
        mode=arguments.mode, storage_path="/"))
    specs = load_rules(arguments.rules or (settings.rules if settings.rules is not None else shipped()))
    if arguments.interval is not None:
        settings = replace(settings, evaluation_interval_seconds=_interval(arguments.interval))
    play = stage(read(arguments.data), specs, settings, _assumed(arguments.assume), configured=configured)
    log = logging.getLogger("sidecar")
    level = log.level
    log.setLevel(logging.CRITICAL)  # the timeline tells the same
    gc.collect()
    gc.freeze()  # the recording stays: passes over it would double the time
    try:
        _show(play, arguments.output)
    finally:
        gc.unfreeze()
        log.setLevel(level)
    return OK


def _show(play: "Play", output: str) -> None:
    from sidecar.replay.timeline import Timeline

    timeline = Timeline()
    for line in play.run(timeline):
        print(json.dumps(line.as_json(play.start)) if output == "json" else line.as_text(play.start))
    if output == "json":
        print(json.dumps({"summary": timeline.summary.as_json()}))
        return
    print("", timeline.summary.as_text(), sep="\n")
    if play.unarmed:
        print(f"no memory lines are known of {', '.join(play.unarmed)}, so nothing is done: give --memory.main or a "
              "configuration", file=sys.stderr)


def _interval(text: str) -> float:
    """Seconds of a duration. Raises SidecarError for one that is none, or of no use."""
    from sidecar.config_values import duration

    try:
        seconds = duration(text)
    except ValueError as error:
        raise SidecarError(f"--interval {error}") from None
    if not 0.1 <= seconds <= 3600:
        raise SidecarError(f"--interval {text} is not from 100ms to 1h")
    return seconds


def _assumed(texts: list[str]) -> "dict[str, Assumption]":
    """Cleanup → what it is assumed to do. Raises SidecarError for a text that says nothing."""
    from sidecar.replay.program import EFFECTIVE

    found: dict[str, Assumption] = dict.fromkeys(CLEANUPS, EFFECTIVE)
    for text in texts:
        level, colon, effect = text.rpartition(":")
        if colon and level not in CLEANUPS:
            raise SidecarError(f"--assume {text}: {level!r} is no cleanup", help=f"there are {', '.join(CLEANUPS)}")
        for each in [level] if colon else CLEANUPS:
            found[each] = _effect(text, effect)
    return found


def _effect(text: str, effect: str) -> "Assumption":
    from sidecar.replay.program import EFFECTIVE, INEFFECTIVE, Assumption
    from sidecar.thresholds import size

    known: dict[str, Any] = {"effective": EFFECTIVE, "ineffective": INEFFECTIVE,
                             "refused": Assumption(refused=True), "unanswered": Assumption(silent=True)}
    if effect in known:
        found: Assumption = known[effect]
        return found
    name, _, amount = effect.partition("=")
    try:
        if name != "frees":
            raise ValueError("effective, ineffective, frees=SIZE, frees=SHARE%, refused and unanswered are known")
        if not amount.endswith("%"):
            return Assumption(size_bytes=size(amount))
        if not 0 < float(amount[:-1]) <= 100:
            raise ValueError(f"{amount} is not a share of used memory")
        return Assumption(share=float(amount[:-1]) / 100)
    except ValueError as error:
        raise SidecarError(f"--assume {text}: {error}", help="such as --assume standard:frees=200MiB") from None
