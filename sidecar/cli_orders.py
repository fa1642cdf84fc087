"""The commands `pause`, `resume` and `unpark`: what a running sidecar may do unasked."""

import argparse
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sidecar.cli_line import MOST_LINE_BYTES, Way, add_flags, run
from sidecar.explain.seen import printable

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_PAUSE = """\
examples:
  rag-sidecar pause                     nothing is done unasked, until `resume`
  rag-sidecar pause --for 30m           for half an hour
  rag-sidecar pause --target rag        to this target alone
  rag-sidecar pause --url http://rag-1:11611 --token-file token

It ends when the guard has confirmed it. Watching, judging and telling go on,
and so does a cleanup that is under way. A pause outlives restarts.
Exit codes: 0 paused, 4 refused, 1 failure. docs/control.md
"""
_RESUME = """\
examples:
  rag-sidecar resume                    act again, on every target
  rag-sidecar resume --target rag -o json

Exit codes: 0 resumed, also where nothing was paused, 4 refused, 1 failure.
"""
_UNPARK = """\
examples:
  rag-sidecar unpark                    try again what did not help, everywhere
  rag-sidecar unpark --target rag

A target is parked when nothing that may be done to it is left to try: then
nothing more is done until the incident ends, or until this. What was learnt is
forgotten; budgets are kept, so where one is spent it is parked again at once.
Exit codes: 0 done, also where nothing was parked, 4 refused, 1 failure.
"""


def add(commands: "Commands") -> None:
    """Add the three commands."""
    for name, said, epilog in (("pause", "have a running sidecar do nothing unasked for a while", _PAUSE),
                               ("resume", "have it act again", _RESUME),
                               ("unpark", "have it try again what it has given up", _UNPARK)):
        command = commands.add_parser(name, help=said, epilog=epilog,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.add_argument("--target", metavar="NAME", help="this target alone; default all")
        if name == "pause":
            command.add_argument("--for", dest="for", metavar="DURATION",
                                 help="how long, such as 30m; default until `resume`")
        add_flags(command)
        command.set_defaults(call=lambda arguments: run(lambda: _order(arguments)))


def _order(arguments: argparse.Namespace) -> int:
    """Have an order carried out, and tell what holds now. Raises SidecarError."""
    wish = {key: value for key in ("target", "for") if (value := getattr(arguments, key, None)) is not None}
    with Way.of(arguments).posted(f"/api/v1/{arguments.command}", wish) as answer:
        data = json.loads(answer.read(MOST_LINE_BYTES))["data"]
        lines = [f"{printable(row['target'])}: {_state(arguments.command, row)}" for row in data["targets"]]
    print(json.dumps(data, indent=2) if arguments.output == "json" else "\n".join(lines))
    return 0


def _state(command: str, row: Mapping[str, Any]) -> str:
    if command == "unpark":
        return "tried again" if row["was_parked"] else "was not parked; what did not help is tried again"
    if row["paused"]:
        until = row["until"]
        return "paused until " + ("`rag-sidecar resume`" if until is None else _moment(float(until)))
    return "acted on"


def _moment(at: float) -> str:
    """A moment as the clock on the wall shows it here."""
    return f"{datetime.fromtimestamp(at).astimezone():%Y-%m-%d %H:%M:%S %Z}"
