"""The commands `check healthy` and `check ready`: whether a running sidecar, or a Prometheus, answers as it should."""

import argparse
from functools import partial
from typing import TYPE_CHECKING, Any

from sidecar import cli_told
from sidecar.cli_http import add_flag, read_pass
from sidecar.cli_query import DEFAULT_URL, OK
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    Checks = argparse._SubParsersAction[argparse.ArgumentParser]

_WHAT = {"healthy": "whether a running sidecar answers: for a container's HEALTHCHECK",
         "ready": "whether it also watches by now, with its rules loaded"}


def add_checks(checks: "Checks", **form: Any) -> None:
    """Add both to the command `check`."""
    for what, said in _WHAT.items():
        command = checks.add_parser(what, help=said, **form)
        command.add_argument("--url", default=DEFAULT_URL, metavar="URL", help="whom to ask: a server, or unix:PATH, "
                             f"a sidecar's control socket; default {DEFAULT_URL}")
        add_flag(command)
        cli_told.add_flag(command)
        command.set_defaults(call=partial(cli_told.run, command=_check))


def _check(arguments: argparse.Namespace, told: cli_told.Told) -> int:
    """Ask, and say what was said. Raises SidecarError for every answer but 200."""
    from sidecar.cli_api import Api

    api = Api(arguments.url, read_pass(arguments.http_config))
    told.found["url"] = api.url
    status, said = api.page(f"/-/{arguments.what}")
    if status != 200:
        raise SidecarError(f"{api.url} is not {arguments.what}: {status} {said}",
                           help="its log says more; `rag-sidecar doctor` looks at this machine")
    told.found["answer"] = said
    told.say(said)
    return OK
