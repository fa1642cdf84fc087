"""What a command says: lines for people as they come, or one JSON object in the end, for errors too."""

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from sidecar.errors import SidecarError

FAILURE = 1


def add_flag(parser: argparse.ArgumentParser) -> None:
    """The flag that chooses."""
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")


class Told:
    """What is said in one run of a command. `found` is the object, without its `status`; `people` read the lines."""

    def __init__(self, *, people: bool) -> None:
        self.people = people
        self.found: dict[str, Any] = {}

    def say(self, line: str) -> None:
        """A line that is no error."""
        if self.people:
            print(line, flush=True)

    def fail(self, message: str, help: str = "") -> None:
        """An error, as `error` and `help` of the object."""
        self.found |= {"error": message, "help": help}
        if self.people:
            print(f"rag-sidecar: {message}", *([f"  {help}"] if help else []), sep="\n", file=sys.stderr)


def run(arguments: argparse.Namespace, command: Callable[[argparse.Namespace, Told], int]) -> int:
    """The exit code of a command, which is the same in both forms. Raises SidecarError where people are told."""
    told = Told(people=arguments.output == "text")
    try:
        code = command(arguments, told)
    except SidecarError as error:
        if told.people:
            raise
        told.fail(str(error), error.help)
        code = FAILURE
    if not told.people:
        print(json.dumps({"status": "error" if code else "success", **told.found}, indent=2))
    return code
