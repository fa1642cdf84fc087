"""The command line: reads arguments, hands over, prints errors with what to do about them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar import __version__, cli_agent, cli_control, cli_orders, cli_query, cli_replay, cli_rules
from sidecar.config import FLAGS, Overrides, Settings, describe, environment, load, rows
from sidecar.errors import ConfigError, SidecarError

if TYPE_CHECKING:  # a command imports what it runs when it runs: the desk is started through here, too
    from sidecar.config import Target
    from sidecar.doctor.examination import Examination
    from sidecar.doctor.report import Style
    from sidecar.doctor.surroundings import RunsIn

OK, FAILURE = cli_rules.OK, cli_rules.FAILURE

EXAMPLES = {
    "": """\
examples:
  rag-sidecar demo                           a leaking RAG beside a sidecar
  rag-sidecar run --pid 4242                 watch and judge, nothing is done
  rag-sidecar run --config.file sidecar.yml  watch, judge, and clean up
  rag-sidecar run -- python rag.py           start a program and watch it
  rag-sidecar check config sidecar.yml       what would be used, and from where
  rag-sidecar query rag_memory_used_bytes    ask a running sidecar in PromQL
  rag-sidecar explain RagMemoryMain          why an alert fires, waits or not
  rag-sidecar cleanup                        clean up now, see what that freed
  rag-sidecar pause --for 30m                do nothing unasked for half an hour
  rag-sidecar attach 4242                    the agent into a running Python
""",
    "run": """\
examples:
  rag-sidecar run --pid 4242
  rag-sidecar run --match 'uvicorn rag.app' --memory.critical 1800MiB
  rag-sidecar run --config.file sidecar.yml --web.listen-address :21611
  rag-sidecar run --memory.critical 2GiB -- python -m uvicorn rag.app:app

Without a way to ask for a cleanup it only observes; an agent inside is one, and
a Python that is started after -- gets one (docs/attach.md).
docs/configuration.md has every key.
""",
    "doctor": """\
examples:
  rag-sidecar doctor                            this machine and this sidecar
  rag-sidecar doctor --pid 4242                 a process, as the sidecar's user
  rag-sidecar doctor --config.file sidecar.yml  everything the file names
  rag-sidecar doctor --pid 4242 --for compose   the lines for one beside it

It only reads. Exit codes: 0 nothing is missing, 3 something is, 1 there is no
such process. docs/doctor.md
""",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="rag-sidecar", description="Stands beside a RAG process, watches its memory, judges it by Prometheus\n"
        "alert rules, has it clean up before the kernel kills it, and proves in bytes\nthat it helped.",
        epilog=EXAMPLES[""], formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"rag-sidecar {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run: dict[str, Any] = {
        "prog": "rag-sidecar run", "usage": "rag-sidecar run [FLAGS] [-- COMMAND ...]", "epilog": EXAMPLES["run"],
        "formatter_class": argparse.RawDescriptionHelpFormatter}
    _add_run_flags(commands.add_parser("run", help="watch, judge and guard processes until stopped", **run))
    desk = commands.add_parser("desk", **run)  # what `run` starts; not for people, so without a help line
    _add_run_flags(desk)
    desk.add_argument("--guard-fd", type=int, required=True, help=argparse.SUPPRESS)
    desk.add_argument("--starts", type=int, required=True, help=argparse.SUPPRESS)
    desk.add_argument("--short-lives", type=int, default=0, help=argparse.SUPPRESS)
    desk.set_defaults(call=_desk)
    _add_check(commands)
    _add_doctor(commands)
    cli_rules.add_test(commands)
    cli_query.add(commands)
    cli_replay.add(commands)
    cli_control.add(commands)
    cli_orders.add(commands)
    cli_agent.add(commands)
    demo = commands.add_parser("demo", help="a leaking RAG beside a sidecar: alert, cleanup, freed bytes, in a minute")
    demo.add_argument("--once", action="store_true",
                      help="end with the first verified effective cleanup (exit 0), or after a minute without one (1)")
    demo.set_defaults(call=_demo)
    return parser


def _add_run_flags(parser: argparse.ArgumentParser) -> None:
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
    other.add_argument(flags["storage_path"], dest="storage_path", metavar="DIRECTORY", help="where state is kept")
    other.add_argument(flags["log_level"], dest="log_level", metavar="LEVEL", help="debug, info, warning or error")
    other.add_argument(flags["log_format"], dest="log_format", metavar="FORMAT", help="logfmt or json")
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="-- COMMAND…",
                        help="a program to start and watch; its exit code is passed on")


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    check = commands.add_parser("check", help="check files without starting anything")
    checks = check.add_subparsers(dest="what", required=True, metavar="WHAT")
    config = checks.add_parser("config", help="what would be used, and from where")
    config.add_argument("file", nargs="?", type=Path, metavar="FILE")
    config.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    config.set_defaults(call=_check_config)
    cli_rules.add_check(checks)


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    doctor = commands.add_parser(
        "doctor", help="what can be seen of a process and done to it, why not, and what to add",
        epilog=EXAMPLES["doctor"], formatter_class=argparse.RawDescriptionHelpFormatter)
    doctor.add_argument("--config.file", dest="config_file", type=Path, metavar="FILE", help="a sidecar.yml")
    for name, metavar, said in (("pid", "N", "the process with this number"),
                                ("match", "REGEX", "found in its command line"),
                                ("target", "NAME", "this target of the file alone")):
        doctor.add_argument(FLAGS[name].flag, dest=name, metavar=metavar, help=said)
    doctor.add_argument("--for", dest="runs_in", choices=("compose", "kubernetes", "systemd", "shell"),
                        help="print all lines that a sidecar takes there; default: what changes something where the "
                        "target runs")
    doctor.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    doctor.set_defaults(call=_doctor)


def _settings(arguments: argparse.Namespace) -> Settings:
    said = {name: getattr(arguments, name) for name in FLAGS}
    return load(arguments.config_file, environment(), Overrides(child=bool(arguments.program), **said))


def _desk(arguments: argparse.Namespace) -> int:
    from sidecar.app import run  # heavy: only the desk needs it

    return run(_settings(arguments), arguments.guard_fd, arguments.starts, arguments.short_lives)


def _check_config(arguments: argparse.Namespace) -> int:
    child = arguments.file is None
    settings = load(arguments.file, environment(), Overrides(child=child))
    if arguments.output == "json":
        print(json.dumps([row._asdict() for row in rows(settings)], indent=2))
    else:
        print(describe(settings))
    return OK


def _doctor(arguments: argparse.Namespace) -> int:
    from sidecar.clock import wall
    from sidecar.doctor import machine, report
    from sidecar.doctor.facts import Roots

    whole = arguments.config_file is not None or (arguments.pid is None and arguments.match is None)
    overrides = Overrides(pid=arguments.pid, match=arguments.match, target=arguments.target,
                          child=whole and arguments.config_file is None and arguments.target is None,
                          storage_path=None if whole else "/")  # looking at a process takes no place for state
    settings = load(arguments.config_file, environment(), overrides)
    listen = settings.web.listen
    of_us = tuple(machine.facts(Roots(), (listen.host, listen.port), settings.storage)) if whole else ()
    found = [_examined(target, arguments.runs_in, wall()) for target in settings.targets
             if not overrides.child and arguments.target in (None, target.name)]
    if arguments.output == "json":
        print(report.as_json(of_us, found))
    else:
        print(report.as_text(of_us, found, _style()))
    return report.code(of_us, found)


def _examined(target: "Target", runs_in: "RunsIn | None", now: float) -> "Examination":
    """What the doctor finds of a configured target."""
    from sidecar.discovery.local import ourselves
    from sidecar.discovery.match import ByPid, ByUrl
    from sidecar.discovery.roster import Roster, Wanted
    from sidecar.doctor.examination import Question, absent, examine, without_process
    from sidecar.model import Labels

    signals = frozenset(way.signal for cleanup in ("light", "standard", "aggressive")
                        for way in target.channels(cleanup) if way.kind == "signal")
    question = Question(target.name, target.memory, signals, runs_in)
    if isinstance(target.match, ByPid):
        return examine(target.match.pid, question, now)
    if isinstance(target.match, ByUrl):
        return without_process(question)
    (found,) = Roster([Wanted(target.name, Labels(), target.match)], ourselves()).update()
    if found.identity is None:
        return absent(question, f"there is no process for {target.match}", "`ps -e` shows those there are")
    return examine(found.identity.pid, question, now)


def _style() -> "Style":
    """What the terminal can do."""
    from sidecar.cli_terminal import terminal
    from sidecar.doctor.report import Style

    return Style(*terminal())


def _demo(arguments: argparse.Namespace) -> int:
    from sidecar.demo.story import main as story

    return story(once=arguments.once)


def main(arguments: Sequence[str]) -> int:
    """Run one command. Errors go to standard error, with what to do next; the exit code says how it went."""
    parsed = build_parser().parse_args(arguments)
    call: Callable[[argparse.Namespace], int] = parsed.call
    try:
        return call(parsed)
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
