"""The commands about the agent in a program: `attach` and `export agent` bring it there, `profile` asks it."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar import cli_told
from sidecar.cli_export import add_journal
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from sidecar.attach.injection import Patient
    from sidecar.attach.profile import Profile

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OK, REFUSED = 0, 4
POKE_SECONDS = 1.0

_ATTACH = """\
examples:
  rag-sidecar attach 4242                       asks before it does anything
  rag-sidecar attach 4242 --yes --timeout 60
  rag-sidecar attach 4242 --poke http://127.0.0.1:8000/healthz

It runs code in the process: the agent, in a thread of its own. CPython 3.14 and
later, unless remote debugging is switched off there. Nothing else is changed,
and nothing is left behind when it does not work.
Exit codes: 0 the agent answers, 4 refused, 1 failure. docs/attach.md
"""
_EXPORT = """\
examples:
  rag-sidecar export agent ./rag_agent     agent.py, and a README on starting it
  rag-sidecar export journal > j.jsonl     what a sidecar remembers
"""
_PROFILE = """\
examples:
  rag-sidecar profile --pid 4242 --seconds 20
  rag-sidecar profile --target rag              a target of a running sidecar

The agent in the process traces allocations meanwhile (tracemalloc): what is
allocated in that time and still held at its end is shown by the line that asked
for it. Code that does little but allocate runs several times slower meanwhile.
docs/attach.md
"""


def add(commands: "Commands") -> None:
    """Add the commands `attach`, `export` and `profile`."""
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    attach = commands.add_parser("attach", help="put the agent into a running Python 3.14 or later", epilog=_ATTACH,
                                 **form)
    attach.add_argument("pid", type=int, metavar="PID", help="the process")
    attach.add_argument("--yes", action="store_true", help="do not ask")
    attach.add_argument("--timeout", type=float, default=30.0, metavar="SECONDS",
                        help="how long its main thread may take to run Python again; default 30")
    attach.add_argument("--poke", metavar="URL",
                        help="ask for this meanwhile, once a second, so that it has something to do")
    cli_told.add_flag(attach)
    attach.set_defaults(call=partial(cli_told.run, command=_attach))
    export = commands.add_parser("export", help="write files for use elsewhere", epilog=_EXPORT, **form)
    whats = export.add_subparsers(dest="what", required=True, metavar="WHAT")
    agent = whats.add_parser("agent", help="the agent as one file, to be imported or copied into an image",
                             epilog=_EXPORT, **form)
    agent.add_argument("folder", type=Path, metavar="DIR", help="where to; it is made if it is not there")
    agent.add_argument("--force", action="store_true", help="overwrite files that differ")
    cli_told.add_flag(agent)
    agent.set_defaults(call=partial(cli_told.run, command=_export_agent))
    add_journal(whats)
    profile = commands.add_parser("profile", help="which lines of a program allocate memory that it keeps",
                                  epilog=_PROFILE, **form)
    which = profile.add_mutually_exclusive_group()
    which.add_argument("--pid", type=int, metavar="N", help="the process")
    which.add_argument("--target", metavar="NAME", help="a target of a running sidecar; default the only one")
    profile.add_argument("--seconds", type=int, default=10, metavar="N", help="how long, 1 to 60; default 10")
    profile.add_argument("--storage.path", dest="storage_path", metavar="DIRECTORY", type=Path,
                         help="where that sidecar keeps its state; default as for run")
    profile.add_argument("--directory", default="", metavar="DIR",
                         help="where the agent has its directory, if not in a usual place")
    profile.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    profile.set_defaults(call=_profile)


def _attach(arguments: argparse.Namespace, told: cli_told.Told) -> int:
    from sidecar.attach.debugger import Refused
    from sidecar.attach.injection import INSTEAD, Patient

    told.found["pid"] = arguments.pid
    try:
        patient = Patient(arguments.pid)
        try:
            return _put_into(patient, arguments, told)
        finally:
            patient.close()
    except Refused as refused:
        told.fail(f"no agent was put into process {arguments.pid}: {refused}", refused.help or INSTEAD)
        return REFUSED


def _put_into(patient: "Patient", arguments: argparse.Namespace, told: cli_told.Told) -> int:
    """Ask, do it, tell. Raises Refused."""
    from sidecar import clock
    from sidecar.attach.debugger import Debugger
    from sidecar.attach.injection import Clock, inject, may_be_refused, owner
    from sidecar.explain.seen import printable

    try:
        if patient.has_agent():
            told.found["was_there"] = True
            told.say(f"an agent answers in process {patient.pid} already")
            return OK
        Debugger(patient.pid, patient.thread).close()  # who cannot be helped need not be asked
        what = f"process {patient.pid} ({printable(patient.command)[:60]}) of user {owner(patient)}"
        asked = f"this runs code in {what}: the agent, in a thread of its own"
        if not arguments.yes and not _agreed(asked, told):
            told.found["error"] = "nothing has been done"
            told.say("nothing has been done")
            return REFUSED
        inject(patient, arguments.timeout, Clock(clock.monotonic, clock.sleep), lambda step: told.say(f"  {step}"),
               _poking(arguments.poke))
    except PermissionError as error:
        raise may_be_refused(error, patient) from None
    told.found["was_there"] = False
    told.say(f"the agent answers in process {patient.pid}; a sidecar that watches it finds it by itself")
    return OK


def _agreed(what: str, told: cli_told.Told) -> bool:
    """Whether a person at the terminal says yes. Raises SidecarError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise SidecarError(f"{what}; nobody is there to say yes to that", help="say it beforehand: --yes")
    try:
        print(f"{what}; go on? [y/N] ", end="", flush=True, file=sys.stdout if told.people else sys.stderr)
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _poking(url: str | None) -> Callable[[], None]:
    """What asks for `url` once a second; what is answered does not matter."""
    import urllib.error
    import urllib.request
    from http.client import HTTPException

    from sidecar.clock import monotonic

    last = 0.0

    def poke() -> None:
        nonlocal last
        if url is None or monotonic() < last + POKE_SECONDS:
            return
        try:
            with urllib.request.urlopen(url, timeout=POKE_SECONDS) as answer:
                answer.read(1)
        except (OSError, HTTPException):
            pass  # refused or late: it was asked, which is all that counts
        except ValueError as error:
            raise SidecarError(f"{url!r} is no URL: {error}") from None
        last = monotonic()

    return poke


def _export_agent(arguments: argparse.Namespace, told: cli_told.Told) -> int:
    from sidecar.attach.export import export

    files = told.found["files"] = []
    for path, done in export(arguments.folder, force=arguments.force):
        files.append({"path": str(path), "done": done})
        told.say(f"{path}: {done}")
    return OK


def _profile(arguments: argparse.Namespace) -> int:
    from sidecar import clock
    from sidecar.attach.debugger import Refused
    from sidecar.attach.injection import Patient, may_be_refused
    from sidecar.attach.profile import LONGEST_SECONDS, profile

    if not 1 <= arguments.seconds <= LONGEST_SECONDS:
        raise SidecarError(f"--seconds {arguments.seconds}: an agent looks for 1 to {LONGEST_SECONDS} s")
    pid = arguments.pid
    if pid is None:
        from sidecar.cli_control import target_pid
        from sidecar.cli_line import socket_path

        _, pid = target_pid(socket_path(None, arguments.storage_path), arguments.target)
    patient = Patient(pid)
    try:
        found = profile(patient, arguments.seconds, clock.monotonic, _ticking(arguments.seconds), arguments.directory)
    except Refused as refused:
        raise SidecarError(f"process {pid} cannot be profiled: {refused}", help=refused.help) from None
    except PermissionError as error:
        raise may_be_refused(error, patient) from None
    finally:
        patient.close()
    if arguments.output == "json":
        print(json.dumps(found.raw, indent=2))
    else:
        print(*_sites(found), sep="\n")
    return OK


def _ticking(seconds: int) -> Callable[[float], None]:
    """Says what it costs, and shows at a terminal how much of the time has passed."""
    warned = False

    def tell(passed: float) -> None:
        nonlocal warned
        if not warned:
            print(f"allocations are traced for {seconds} s; the program may run several times slower meanwhile",
                  file=sys.stderr)
            warned = True
        if sys.stderr.isatty():
            text = f"{min(passed, seconds):.0f} of {seconds} s" if passed < seconds else "it is being added up"
            print(f"\r  {text:<30}\r", end="", flush=True, file=sys.stderr)

    return tell


def _sites(found: "Profile") -> Iterator[str]:
    """A profile for people."""
    from sidecar.explain.units import readable

    if not found.sites:
        yield "nothing was allocated meanwhile that is still held" if not found.note else "no lines are told"
    for site in found.largest():
        yield f"{readable(site.size_bytes, 'bytes'):>10} {site.blocks:>9,} blocks  {site.place}"
    if found.since_before:
        yield "tracing was on before: what was allocated since then is in it"
    if found.note:
        yield f"cut short: {found.note}"
