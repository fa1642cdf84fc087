"""The command `thresholds`: which lines are in force at a running sidecar, and other ones for a while."""

import argparse
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sidecar.cli_line import MOST_LINE_BYTES, Way, add_flags, run
from sidecar.errors import SidecarError
from sidecar.explain.seen import printable

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PATH = "/api/v1/thresholds"

_THRESHOLDS = """\
examples:
  rag-sidecar thresholds                       what is in force, and who said so
  rag-sidecar thresholds --main 1500MiB --critical 1800MiB --ttl 2h
  rag-sidecar thresholds --target rag --critical 1GiB --ttl 30m
  rag-sidecar thresholds --withdraw            as configured again
  rag-sidecar thresholds --url http://rag-1:11611 --token-file token -o json

Other lines hold until their time is over, also for the next sidecar; what they
are compared with stays. Looking over TCP needs no token.
Exit codes: 0 done, 4 refused, 1 failure. docs/control.md
"""


def add(commands: "Commands") -> None:
    """Add the command."""
    command = commands.add_parser("thresholds", help="the lines in force at a running sidecar, and others for a while",
                                  epilog=_THRESHOLDS, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--target", metavar="NAME", help="which target; needed for a change where there are several")
    command.add_argument("--main", metavar="SIZE", help="the main line, such as 1500MiB; preventive is 80%% of it")
    command.add_argument("--critical", metavar="SIZE", help="the critical line, such as 1800MiB")
    command.add_argument("--ttl", metavar="DURATION", help="for how long the lines hold, such as 2h; a week at most")
    command.add_argument("--withdraw", action="store_true", help="the configured lines again, now")
    add_flags(command)
    command.set_defaults(call=lambda arguments: run(lambda: _thresholds(arguments)))


def _thresholds(arguments: argparse.Namespace) -> int:
    """Have it done, and tell what is in force. Raises SidecarError."""
    wish = {key: value for key in ("main", "critical", "ttl") if (value := getattr(arguments, key)) is not None}
    if arguments.withdraw and wish:
        raise SidecarError("--withdraw takes the lines away, so there are none to give", help="leave one of both out")
    if wish and "ttl" not in wish:
        raise SidecarError("for how long? Lines that are given here hold for a while",
                           help="--ttl 2h; what is to stay belongs into the configuration")
    target = {} if arguments.target is None else {"target": arguments.target}
    path = PATH + (f"?target={quote(arguments.target, safe='')}" if target else "")
    way = Way.of(arguments, reads=not (wish or arguments.withdraw))
    if wish:
        ask = way.asked("PUT", PATH, {**target, **wish})
    else:
        ask = way.asked("DELETE" if arguments.withdraw else "GET", path)
    with ask as answer:
        data = json.loads(answer.read(MOST_LINE_BYTES))["data"]
        lines = [line for row in data["targets"] for line in _told(row)]
    print(json.dumps(data, indent=2) if arguments.output == "json" else "\n".join(lines))
    return 0


def _told(row: Mapping[str, Any]) -> Iterator[str]:
    """A target's lines for people."""
    limit, override = row["limit_bytes"], row["override"]
    if row["lines"] is None:
        yield f"{printable(row['target'])}: not seen yet, so its limit is not known"
    else:
        yield f"{printable(row['target'])}: compared with {printable(row['basis'])}, " + (
            "no limit" if limit is None else f"limit {_size(limit)}")
        for level, line in row["lines"].items():
            said = ", ".join(filter(None, (printable(line["source"]), printable(line["how"]))))
            yield f"  {printable(level):<11} {_size(line['bytes']):>10}  {said}"
    if override:
        end = f"{datetime.fromtimestamp(float(override['until'])).astimezone():%Y-%m-%d %H:%M:%S %Z}"
        given = " and ".join(f"{level} {_size(override[f'{level}_bytes'])}" for level in ("main", "critical")
                             if override[f"{level}_bytes"] is not None)
        yield f"  {given} until {end}, then as configured"
    if row["up"] and not row["in_force"]:
        yield "  not in force yet: the guard goes by the lines before, until the next look at it has ended"
    yield from (f"  warning: {printable(warning)}" for warning in row["warnings"])


def _size(size_bytes: float) -> str:
    from sidecar.thresholds import mib

    return mib(float(size_bytes))
