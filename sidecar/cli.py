"""The command line: reads arguments, hands over, prints errors with what to do about them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar import (
    __version__,
    cli_agent,
    cli_control,
    cli_health,
    cli_init,
    cli_orders,
    cli_query,
    cli_reload,
    cli_replay,
    cli_rules,
    cli_run,
    cli_thresholds,
    cli_told,
)
from sidecar.config import FLAGS, Overrides, describe, environment, load, rows
from sidecar.errors import ConfigError, SidecarError

if TYPE_CHECKING:  # a command imports what it runs when it runs: the command line is to be quick
    from sidecar.config import Target
    from sidecar.discovery.engine import Engine
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
  rag-sidecar init config                    a sidecar.yml to begin with
  rag-sidecar check config sidecar.yml       what would be used, and from where
  rag-sidecar query rag_memory_used_bytes    ask a running sidecar in PromQL
  rag-sidecar explain RagMemoryMain          why an alert fires, waits or not
  rag-sidecar cleanup                        clean up now, see what that freed
  rag-sidecar pause --for 30m                do nothing unasked for half an hour
  rag-sidecar attach 4242                    the agent into a running Python
""",
    "check": """\
examples:
  rag-sidecar check config                   the defaults and the environment
  rag-sidecar check config sidecar.yml       each setting, and who said so
  rag-sidecar check rules my-rules.yml       mistakes and lint
  rag-sidecar check web-config web.yml       --web.config.file, certificates
  rag-sidecar check healthy                  whether the one here answers
  rag-sidecar check ready                    and whether it watches by now

Exit codes: 0 fine, 1 mistakes, 3 only lint of rules. docs/configuration.md
""",
    "demo": """\
examples:
  rag-sidecar demo                           until Ctrl-C
  rag-sidecar demo --once                    about 25 seconds

Exit codes: 0 a cleanup was verified, or Ctrl-C, 1 none was. docs/demo.md
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
    cli_run.add(commands)
    _add_check(commands)
    _add_doctor(commands)
    cli_rules.add_test(commands)
    cli_query.add(commands)
    cli_replay.add(commands)
    cli_control.add(commands)
    cli_orders.add(commands)
    cli_thresholds.add(commands)
    cli_reload.add(commands)
    cli_agent.add(commands)
    cli_init.add(commands)
    demo = commands.add_parser("demo", help="a leaking RAG beside a sidecar: alert, cleanup, freed bytes, in a minute",
                               epilog=EXAMPLES["demo"], formatter_class=argparse.RawDescriptionHelpFormatter)
    demo.add_argument("--once", action="store_true",
                      help="end with the first verified effective cleanup (exit 0), or after a minute without one (1)")
    demo.set_defaults(call=_demo)
    return parser


def _add_check(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    form: dict[str, Any] = {"epilog": EXAMPLES["check"], "formatter_class": argparse.RawDescriptionHelpFormatter}
    check = commands.add_parser("check", help="check files without starting anything", **form)
    checks = check.add_subparsers(dest="what", required=True, metavar="WHAT")
    config = checks.add_parser("config", help="what would be used, and from where", **form)
    config.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a sidecar.yml; default: none")
    config.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    config.set_defaults(call=_check_config)
    cli_rules.add_check(checks)
    web = checks.add_parser("web-config", help="check files of --web.config.file, as promtool does", **form)
    web.add_argument("files", nargs="+", type=Path, metavar="FILE", help="TLS, passwords and headers")
    cli_told.add_flag(web)
    web.set_defaults(call=partial(cli_told.run, command=_check_web_config))
    cli_health.add_checks(checks, **form)


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


def _check_config(arguments: argparse.Namespace) -> int:
    child = arguments.file is None
    settings = load(arguments.file, environment(), Overrides(child=child))
    if settings.web.config_file:
        from sidecar.config_web import read

        read(settings.web.config_file)
    if arguments.output == "json":
        print(json.dumps([row._asdict() for row in rows(settings)], indent=2))
    else:
        print(describe(settings))
    return OK


def _check_web_config(arguments: argparse.Namespace, told: cli_told.Told) -> int:
    from sidecar.config_web import HELP, read

    files = told.found["files"] = []
    problems: list[str] = []
    for file in arguments.files:
        try:
            terms = read(file)
        except ConfigError as error:
            problems.append(str(error))
            files.append({"file": str(file), "problems": [problem._asdict() for problem in error.problems]})
            if told.people:
                print(error, file=sys.stderr)
        else:
            tls, users, headers = bool(terms.context), len(terms.users), len(terms.headers)
            files.append({"file": str(file), "problems": [], "tls": tls, "users": users, "headers": headers})
            told.say(f"{file}: {'TLS' if tls else 'no TLS'}, {users or 'no'} user{'s' * (users != 1)}, "
                     f"{headers or 'no'} header{'s' * (headers != 1)}")
    if problems and told.people:
        print(f"  {HELP}", file=sys.stderr)
    elif problems:
        told.fail("\n".join(problems), HELP)
    return FAILURE if problems else OK


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
    meant = [target for target in settings.targets if not overrides.child and arguments.target in (None, target.name)]
    engine = None
    if settings.docker_host:
        from sidecar.doctor import container

        engine, facts = container.asked(settings.docker_host, {target.name: target.match for target in meant})
        of_us = (*of_us, *facts)
    found = [_examined(target, arguments.runs_in, wall(), engine) for target in meant]
    if arguments.config_file is None:
        found = [_with_lines(each) for each in found]
    if arguments.output == "json":
        print(report.as_json(of_us, found))
    else:
        print(report.as_text(of_us, found, _style()))
    return report.code(of_us, found)


def _examined(target: "Target", runs_in: "RunsIn | None", now: float, engine: "Engine | None") -> "Examination":
    """What the doctor finds of a configured target; `engine` knows its container, if it is one."""
    from sidecar.discovery.local import ourselves
    from sidecar.discovery.match import ByDocker, ByPid, ByUrl
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
    roster = Roster([Wanted(target.name, Labels(), target.match)], ourselves())
    roster.engine = engine
    (found,) = roster.update()
    if found.identity is None and engine and isinstance(target.match, ByDocker):
        from sidecar.doctor import container

        return absent(question, *container.why_not(engine.find(target.name)))
    if found.identity is None:
        return absent(question, f"there is no process for {target.match}", "`ps -e` shows those there are")
    return examine(found.identity.pid, question, now)


def _with_lines(found: "Examination") -> "Examination":
    """With the lines of the sidecar that watches this process; where none does, whose they would be is said."""
    from sidecar.cli_near import watcher
    from sidecar.doctor.watched import in_force, would_be

    try:
        if found.pid is not None and (watched := watcher(found.pid)):
            return in_force(found, watched.lines(), watched.way.name)
    except SidecarError:
        pass  # it has just ended, say: then it is as if there were none
    return would_be(found)


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
    return cli_run.told(lambda: call(parsed))
