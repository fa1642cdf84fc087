"""`rag-sidecar run`: its flags, and the desk that it starts, which loads no other command."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sidecar.config import FLAGS, Overrides, Settings, environment, load
from sidecar.errors import ConfigError, SidecarError

FAILURE, UNREAD = 1, 128 + signal.SIGPIPE

EXAMPLES = """\
examples:
  rag-sidecar run --pid 4242
  rag-sidecar run --match 'uvicorn rag.app' --memory.critical 1800MiB
  rag-sidecar run --config.file sidecar.yml --web.listen-address :21611
  rag-sidecar run --memory.critical 2GiB -- python -m uvicorn rag.app:app

Without a way to ask for a cleanup it only observes; an agent inside is one, and
a Python that is started after -- gets one (docs/attach.md).
docs/configuration.md has every key.
"""
APPEARANCE: dict[str, Any] = {
    "prog": "rag-sidecar run", "usage": "rag-sidecar run [FLAGS] [-- COMMAND ...]", "epilog": EXAMPLES,
    "formatter_class": argparse.RawDescriptionHelpFormatter}


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Have the whole command line show it; the guard and its desk read the arguments."""
    _add_flags(commands.add_parser("run", help="watch, judge and guard processes until stopped", **APPEARANCE))


def desk(arguments: Sequence[str]) -> int:
    """Be the desk of a guard, which hands on the arguments of `run` behind its own."""
    parser = argparse.ArgumentParser(**APPEARANCE)
    _add_flags(parser)
    parser.add_argument("--guard-fd", type=int, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--starts", type=int, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--short-lives", type=int, default=0, help=argparse.SUPPRESS)
    said = parser.parse_args(arguments)

    def run() -> int:
        from sidecar.web import frugal  # not before the arguments are known to be good

        frugal.load()
        from sidecar.app import run as be_desk

        return be_desk(partial(_settings, said), said.guard_fd, said.starts, said.short_lives)

    return told(run)


def told(call: Callable[[], int]) -> int:
    """The exit code of `call`. Errors go to standard error, with what to do next."""
    try:
        code = call()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads has seen enough: what is still to be written goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
    except ConfigError as error:  # each problem on a line of its own, `file:line:column` first: editors can jump there
        print(error, f"  {error.help}" if error.help else "", sep="\n", file=sys.stderr)
        return FAILURE
    except SidecarError as error:
        print(f"rag-sidecar: {error}", file=sys.stderr)
        if error.help:
            print(f"  {error.help}", file=sys.stderr)
        return FAILURE
    except KeyboardInterrupt:
        return 130


def _settings(arguments: argparse.Namespace) -> Settings:
    said = {name: getattr(arguments, name) for name in FLAGS}
    return load(arguments.config_file, environment(), Overrides(child=bool(arguments.program), **said))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    flags = {name: flag.flag for name, flag in FLAGS.items()}
    parser.add_argument("--config.file", dest="config_file", type=Path, metavar="FILE", help="a sidecar.yml")
    which = parser.add_argument_group("which process")
    which.add_argument(flags["pid"], dest="pid", metavar="N", help="the process with this number")
    which.add_argument(flags["match"], dest="match", metavar="REGEX", help="found in its command line")
    which.add_argument(flags["url"], dest="url", metavar="URL", help="no process, only a debug endpoint that tells its "
                       "memory")
    which.add_argument(flags["target"], dest="target", metavar="NAME", help="its name (label target), or the one of "
                       "the file that these flags speak of; default rag")
    lines = parser.add_argument_group("memory lines")
    lines.add_argument(flags["memory_main"], dest="memory_main", metavar="SIZE", help="such as 1000MiB; default 80%% "
                       "of the cgroup limit")
    lines.add_argument(flags["memory_critical"], dest="memory_critical", metavar="SIZE", help="default 90%%, or 1.2 "
                       "times main")
    lines.add_argument(flags["memory_basis"], dest="memory_basis", metavar="BASIS",
                       help="auto, cgroup, anon, rss, pss or endpoint: what is compared with the lines")
    parser.add_argument_group("the command").add_argument(
        flags["no_agent"], dest="no_agent", action="store_const", const="no",
        help="start it as it is, without the agent inside its Pythons")
    other = parser.add_argument_group("other")
    other.add_argument(flags["mode"], dest="mode", metavar="MODE", help="observe, dry_run or enforce")
    other.add_argument(flags["alertmanagers"], dest="alertmanagers", metavar="URL", action="append", default=[],
                       help="an Alertmanager to tell; may be given several times")
    other.add_argument(flags["features"], dest="features", metavar="NAME", action="append", default=[],
                       help="promql-experimental-functions or promql-delayed-name-removal, as in Prometheus; several "
                       "with commas or by repeating it")
    other.add_argument(flags["web_listen"], dest="web_listen", metavar="ADDRESS", help="default 127.0.0.1:11611")
    other.add_argument(flags["web_lifecycle"], dest="web_lifecycle", action="store_const", const="yes",
                       help="let everybody who can reach the pages POST /-/reload; SIGHUP does the same")
    other.add_argument(flags["web_config"], dest="web_config", metavar="FILE", help="TLS, passwords and headers, as "
                       "for Prometheus")
    other.add_argument(flags["storage_path"], dest="storage_path", metavar="DIRECTORY", help="where state is kept")
    other.add_argument(flags["log_level"], dest="log_level", metavar="LEVEL", help="debug, info, warning or error")
    other.add_argument(flags["log_format"], dest="log_format", metavar="FORMAT", help="logfmt or json")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- COMMAND ...",
                        help="a program to start and watch; its exit code is passed on")
