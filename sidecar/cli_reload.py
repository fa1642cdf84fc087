"""The command `reload`: another configuration for a running sidecar."""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from sidecar.cli_line import FAILURE, MOST_LINE_BYTES, Way, add_flags, run
from sidecar.errors import SidecarError
from sidecar.explain.seen import printable

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

_RELOAD = """\
examples:
  rag-sidecar reload                    read the configuration again, now
  rag-sidecar reload --url http://rag-1:11611

It ends when the configuration is in force, or with every mistake: then nothing
has changed. Over TCP the sidecar needs --web.enable-lifecycle.
Exit codes: 0 in force, 1 mistakes or failure. docs/reload.md
"""
_REFUSED = 500


def add(commands: "Commands") -> None:
    """Add the command."""
    command = commands.add_parser("reload", help="have a running sidecar read its configuration again", epilog=_RELOAD,
                                  formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(command)
    command.set_defaults(call=lambda arguments: run(lambda: _reload(arguments)))


def _reload(arguments: argparse.Namespace) -> int:
    """Have it reloaded, and tell what is wrong. Raises SidecarError."""
    way = Way.of(arguments, reads=True)
    with way.asked("POST", "/-/reload", told=(_REFUSED, 403, 503)) as answer:
        lines = [printable(line) for line in answer.read(MOST_LINE_BYTES).decode(errors="replace").splitlines()]
    if answer.status not in (200, _REFUSED):
        raise SidecarError(f"the sidecar at {way.name} does not reload: {' '.join(lines)}")
    mistakes = lines[1:] if answer.status == _REFUSED else []
    if arguments.output == "json":
        print(json.dumps({"mistakes": mistakes}, indent=2))
    else:
        print(*(mistakes or lines), sep="\n", file=sys.stderr if mistakes else sys.stdout)
    return FAILURE if answer.status == _REFUSED else 0
