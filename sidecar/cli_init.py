"""The command `init`: files to run a sidecar with, for the user's own names."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config import FLAGS, Overrides, load
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from sidecar.init.kit import Kit, Watched

    Parser = argparse.ArgumentParser
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OK = 0
_NAME = "rag"
_CMDLINE = r"uvicorn rag\.app"
_CONFIG = "/etc/rag-sidecar/sidecar.yml"

_EXAMPLES = """\
examples:
  rag-sidecar init config                       ./sidecar.yml, with comments
  rag-sidecar init config --match 'gunicorn app' --memory.critical 2GiB
  rag-sidecar init systemd --user rag           ./rag-sidecar.service
  rag-sidecar init compose --service api        into the folder of compose.yaml
  rag-sidecar init prometheus mon               an Alertmanager, and the rules
  rag-sidecar init dashboards --sidecar rag-1:11611
  rag-sidecar init systemd --print | less       write nothing

A file that is there and differs is overwritten with --force alone.
Exit codes: 0 written or there already, 1 failure. docs/init.md
"""


def add(commands: "Commands") -> None:
    """Add the command."""
    form: dict[str, Any] = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    init = commands.add_parser("init", help="write files to run it with: configuration, systemd, Compose, dashboards",
                               **form)
    kinds = init.add_subparsers(dest="what", required=True, metavar="WHAT")
    for what, add_flags, make, said in (
            ("config", _add_watched, _config, "a sidecar.yml to begin with"),
            ("systemd", _add_systemd, _systemd, "a unit for a sidecar of the machine"),
            ("compose", _add_compose, _compose, "a sidecar beside a service of a Compose file"),
            ("prometheus", _add_prometheus, _prometheus, "a Prometheus and an Alertmanager beside it, and the rules"),
            ("dashboards", _add_dashboards, _dashboards, "dashboards for Grafana, and its data sources")):
        kind = kinds.add_parser(what, help=said, **form)
        add_flags(kind)
        _finish(kind, make)


def _add_target(parser: "Parser") -> None:
    parser.add_argument(FLAGS["target"].flag, dest="target", metavar="NAME", default=_NAME,
                        help=f"what the program is called (label target); default {_NAME}")


def _add_watched(parser: "Parser") -> None:
    """What stands in sidecar.yml."""
    _add_target(parser)
    parser.add_argument(FLAGS["match"].flag, dest="match", metavar="REGEX", default=_CMDLINE,
                        help="found in the command line of the program")
    for level in ("main", "critical"):
        parser.add_argument(FLAGS[f"memory_{level}"].flag, dest=level, metavar="SIZE",
                            help="such as 1000MiB; left out: a share of the limit of its cgroup")
    parser.add_argument(FLAGS["alertmanagers"].flag, dest="alertmanagers", metavar="URL", action="append", default=[],
                        help="an Alertmanager to tell; may be given several times")


def _add_systemd(systemd: "Parser") -> None:
    _add_target(systemd)
    systemd.add_argument("--user", metavar="USER[:GROUP]", default=_NAME, help="who the program runs as, and so the "
                         f"sidecar; default {_NAME}")
    systemd.add_argument("--service", metavar="UNIT", default=_NAME, help=f"the unit of the program; default {_NAME}")
    systemd.add_argument("--config.file", dest="config_file", metavar="FILE", default=_CONFIG,
                         help=f"its sidecar.yml on that machine; default {_CONFIG}")
    systemd.add_argument("--command", dest="program", metavar="PATH",
                         help="where rag-sidecar is on that machine; default this one")


def _add_compose(compose: "Parser") -> None:
    _add_watched(compose)
    compose.add_argument("--service", metavar="NAME", default=_NAME, help=f"that of the program; default {_NAME}")
    compose.add_argument("--user", metavar="UID:GID", help="who it runs as, and so the sidecar; default 10001:10001")
    compose.add_argument("--image", metavar="IMAGE", help="of the sidecar; default rag-sidecar of this version")
    compose.add_argument("--holder", action="store_true",
                         help="a third container holds their pid namespace, so that the sidecar outlives the program")


def _add_prometheus(prometheus: "Parser") -> None:
    for name, where in (("sidecar", "rag-sidecar:11611"), ("alertmanager", "alertmanager:9093")):
        prometheus.add_argument(f"--{name}", metavar="HOST:PORT", default=where, help=f"default {where}")
    prometheus.add_argument("--webhook", metavar="URL", default="http://sink:8080/",
                            help="whom Alertmanager tells; default http://sink:8080/")


def _add_dashboards(dashboards: "Parser") -> None:
    for name, where in (("sidecar", "localhost:11611"), ("prometheus", "localhost:9090")):
        dashboards.add_argument(f"--{name}", metavar="HOST:PORT", default=where, help=f"default {where}")


def _finish(parser: "Parser", make: Callable[[argparse.Namespace], "Kit"]) -> None:
    """What all kinds have in common; `make` gives the kit for the arguments."""
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", default=Path(),
                        help="where to; default here; it is made if it is not there")
    parser.add_argument("--force", action="store_true", help="overwrite files that differ")
    parser.add_argument("--print", dest="shown", action="store_true", help="to standard output; nothing is written")
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    parser.set_defaults(call=lambda arguments: _init(make(arguments), arguments))


def _watched(arguments: argparse.Namespace) -> "Watched":
    """What the flags say, checked as for `run`. Raises ConfigError."""
    from sidecar.init.kit import Watched

    said = {name: getattr(arguments, name, None) for name in ("main", "critical")}
    cmdline, alertmanagers = getattr(arguments, "match", _CMDLINE), getattr(arguments, "alertmanagers", [])
    load(None, {}, Overrides(target=arguments.target, match=cmdline, alertmanagers=alertmanagers, storage_path="/",
                             memory_main=said["main"], memory_critical=said["critical"]))
    return Watched(arguments.target, cmdline, (said["main"], said["critical"]), tuple(alertmanagers))


def _config(arguments: argparse.Namespace) -> "Kit":
    from sidecar.init import settings

    return settings.kit(_watched(arguments), arguments.folder)


def _systemd(arguments: argparse.Namespace) -> "Kit":
    from sidecar.init import unit

    target = _watched(arguments).target
    command = (arguments.program,) if arguments.program else _this_command()
    running = unit.Running(command, arguments.user, arguments.service, arguments.config_file, target)
    return unit.kit(running, arguments.folder)


def _compose(arguments: argparse.Namespace) -> "Kit":
    from sidecar.init import compose

    beside = compose.Beside(arguments.service, arguments.user or compose.USER, arguments.image or compose.IMAGE,
                            arguments.holder)
    return compose.kit(beside, _watched(arguments), arguments.folder)


def _prometheus(arguments: argparse.Namespace) -> "Kit":
    from sidecar.init import prometheus

    beside = prometheus.Beside(arguments.sidecar, arguments.alertmanager, arguments.webhook)
    return prometheus.kit(beside, arguments.folder)


def _dashboards(arguments: argparse.Namespace) -> "Kit":
    from sidecar.init import dashboards

    return dashboards.kit(dashboards.Sources(arguments.sidecar, arguments.prometheus), arguments.folder)


def _this_command() -> tuple[str, ...]:
    """The first words of the command that is running."""
    script = Path(sys.executable).with_name("rag-sidecar")
    return (str(script),) if script.exists() else (sys.executable, "-m", "sidecar")


def _init(kit: "Kit", arguments: argparse.Namespace) -> int:
    """Write the files, or show them. Raises SidecarError."""
    from sidecar.handout import differing_lines, hand_out, in_the_way

    files = {path: text.encode() for path, text in kit.files.items()}
    if arguments.shown:
        _show(files, arguments.output)
        return OK
    there = in_the_way(files)
    if there and not arguments.force:
        said = "\n".join(f"{path}: there already, and different: {differing_lines(content, files[path])}"
                         for path, content in there.items())
        raise SidecarError(said, help="nothing was written. --print shows what would be; --force overwrites")
    made = list(hand_out(files))
    if arguments.output == "json":
        print(json.dumps({"files": [{"path": str(path), "done": done} for path, done in made], "next": kit.steps},
                         indent=2))
    else:
        print(*(f"{path}: {done}" for path, done in made), f"next: {kit.steps[0]}", f"      {kit.steps[1]}", sep="\n")
    return OK


def _show(files: dict[Path, bytes], output: str) -> None:
    if output == "json":
        print(json.dumps([{"path": str(path), "content": text.decode()} for path, text in files.items()], indent=2))
        return
    for path, text in files.items():
        if len(files) > 1:
            print(f"==> {path} <==")
        print(text.decode(), end="")
