"""The command line as a whole: what every command says of itself, and how it ends where nobody reads."""

import argparse
import subprocess
import sys
from collections.abc import Iterator

import pytest

from sidecar.cli import build_parser

WIDTH = 80


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


@pytest.mark.parametrize("parser", list(parsers(build_parser())), ids=lambda parser: parser.prog)
def test_help_fits_a_terminal_and_has_examples(
    parser: argparse.ArgumentParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--help` of every command can be read on 80 columns of any terminal, and shows how the command is typed."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    lines = parser.format_help().splitlines()

    assert [line for line in lines if len(line) > WIDTH or not line.isascii()] == []
    assert "examples:" in lines
    assert any(line.startswith(f"  {parser.prog} ") for line in lines[lines.index("examples:"):])


def test_reader_who_has_seen_enough_sees_no_traceback() -> None:
    """`… | head -1` ends the command as it ends others: quietly, with the code of SIGPIPE."""
    with subprocess.Popen([sys.executable, "-P", "-m", "sidecar", "check", "config"],
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        command.stdout.close()
        _, said = command.communicate(timeout=60)

    assert (command.returncode, said) == (141, "")
