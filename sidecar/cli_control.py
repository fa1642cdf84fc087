"""The command `cleanup`: a person's order to a running sidecar, over its control socket."""

import argparse
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.config import default_storage, environment
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EFFECTIVE, FAILURE, INEFFECTIVE, REFUSED = 0, 1, 3, 4
CODES: Mapping[str, int] = {"effective": EFFECTIVE, "dry_run": EFFECTIVE, "partial": INEFFECTIVE,
                            "ineffective": INEFFECTIVE, "refused": REFUSED, "skipped": REFUSED}
"""Outcome → exit code; every other one is a failure."""

FILE = "control.sock"
SECONDS = 30.0
"""Longest silence between two lines of an answer: what is waited for longest is the verdict, 20 s after the answer."""
MOST_LINE_BYTES = 1 << 20
MOST_ANSWER_BYTES = 16 << 20
MOST_STEPS = 40
START = f"`rag-sidecar run …` starts one; it listens at {FILE} in the folder that its --storage.path names"

_CREDENTIALS = struct.Struct("3i")

_CLEANUP = """\
examples:
  rag-sidecar cleanup                           a standard cleanup, now
  rag-sidecar cleanup --level aggressive --target rag
  rag-sidecar cleanup --dry-run                 every check, nothing is done
  rag-sidecar cleanup --storage.path /var/lib/rag-sidecar
  rag-sidecar cleanup --url unix:/var/lib/rag-sidecar/control.sock -o json

It needs a running sidecar and a way to ask the target: an agent in it, or a
configured cleanup. No alert has to fire.
Exit codes: 0 effective, 3 not effective, 4 refused, 1 failure. docs/attach.md
"""


def add(commands: "Commands") -> None:
    """Add the command `cleanup`."""
    cleanup = commands.add_parser("cleanup", help="have a running sidecar clean up a target, and see what it freed",
                                  epilog=_CLEANUP, formatter_class=argparse.RawDescriptionHelpFormatter)
    cleanup.add_argument("--target", metavar="NAME", help="which target; needed where the sidecar has several")
    cleanup.add_argument("--level", choices=("light", "standard", "aggressive"), default="standard",
                         help="how much may be given up; default standard")
    cleanup.add_argument("--dry-run", action="store_true", help="walk through every check and stop before the delivery")
    where = cleanup.add_mutually_exclusive_group()
    where.add_argument("--storage.path", dest="storage_path", metavar="DIRECTORY", type=Path,
                       help="where the sidecar keeps its state; default as for run")
    where.add_argument("--url", metavar="unix:PATH", help="its control socket")
    cleanup.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    cleanup.set_defaults(call=_cleanup)


def _cleanup(arguments: argparse.Namespace) -> int:
    from sidecar.clock import monotonic

    path = socket_path(arguments.url, arguments.storage_path)
    wish = {"level": arguments.level, "dry_run": arguments.dry_run}
    if arguments.target is not None:
        wish["target"] = arguments.target
    row: dict[str, Any] = {}
    begun = monotonic()
    try:
        for stage, row in _stages(path, wish):
            if arguments.output == "text" and stage != "ended":
                print(f"{monotonic() - begun:6.1f} s  {_progress(stage, row)}", flush=True)
    except Refusal as refusal:
        print(f"rag-sidecar: {refusal}", f"  {refusal.help}" if refusal.help else "", sep="\n", file=sys.stderr)
        return refusal.code
    if arguments.output == "json":
        print(json.dumps(row, indent=2))
    else:
        print(*_result(row), sep="\n")
    return CODES.get(str(row.get("outcome")), FAILURE)


def socket_path(url: str | None, storage: Path | None) -> Path:
    """Where the control socket is. Raises SidecarError."""
    if url is not None:
        if not url.startswith("unix:") or url == "unix:":
            raise SidecarError(f"cannot order anything at {url!r}: over TCP a sidecar can only be read",
                               help="give its control socket, on the machine where it runs: --url unix:PATH")
        return Path(url.removeprefix("unix:"))
    folder = storage or default_storage(environment())
    if folder is None:
        raise SidecarError("neither XDG_STATE_HOME nor HOME says where the sidecar keeps its state",
                           help="give --storage.path DIRECTORY")
    return folder / FILE


def _stages(path: Path, wish: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(stage, the attempt so far) of an order, as they are reached. Raises SidecarError."""
    line = Line(path)
    try:
        line.request("POST", "/api/v1/cleanup", json.dumps(wish), {"Content-Type": "application/json"})
        answer = line.getresponse()
        if answer.status != 200:
            raise _refused(answer)
        stage = ""
        while text := answer.readline(MOST_LINE_BYTES):
            told = json.loads(text)
            stage, row = str(told["stage"]), dict(told["action"])
            yield stage, row
        if stage != "ended":
            raise SidecarError("the sidecar ended before the cleanup was judged",
                               help="its log says why; the cleanup itself may go on in the target")
    except TimeoutError:
        raise SidecarError(f"the sidecar at {path} has said nothing for {SECONDS:g} s",
                           help="is it stopped? `rag-sidecar doctor` looks at this machine") from None
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise SidecarError(f"what listens at {path} does not answer as a rag-sidecar does: {error!r}",
                           help=START) from None
    finally:
        line.close()


def target_pid(path: Path, target: str | None) -> tuple[str, int]:
    """(name, pid) of a target of the sidecar at `path`, of the only one if none is named. Raises SidecarError."""
    line = Line(path)
    try:
        line.request("GET", "/api/v1/query?query=rag_target_info")
        answer = line.getresponse()
        found = [each["metric"] for each in json.loads(answer.read(MOST_ANSWER_BYTES))["data"]["result"]]
        pids = {str(each["target"]): int(each["pid"]) for each in found if each.get("process", "main") == "main"}
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise SidecarError(f"what listens at {path} does not answer as a rag-sidecar does: {error!r}",
                           help=START) from None
    finally:
        line.close()
    names = ", ".join(sorted(pids)[:20]) or "none that runs"
    if target is None and len(pids) == 1:
        target = next(iter(pids))
    if target not in pids:
        said = f"there is no process for the target {target}" if target else "say which target is meant"
        raise SidecarError(f"{said}; those there are: {names}", help="--target NAME, or --pid N")
    return target, pids[target]


def _refused(answer: HTTPResponse) -> SidecarError:
    from sidecar.explain.seen import printable

    try:
        said = json.loads(answer.read(MOST_LINE_BYTES))
        return Refusal(printable(said["error"]), answer.status, str(said["errorType"]))
    except (ValueError, KeyError, TypeError):
        return SidecarError(f"the sidecar answered {answer.status}", help="is its version the same as this one's?")


class Refusal(SidecarError):
    """The sidecar does not begin the cleanup. `code` is the exit code."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        help = {
            "no_usable_channel": "start the program with `rag-sidecar run -- COMMAND`, or see docs/agent.md, or "
                                 "`cleanup:` in docs/configuration.md",
            "kill_switch": "remove the file that actions.kill_switch names",
            "target_down": "`rag-sidecar doctor` says what can be seen of it",
        }.get(reason, "")
        super().__init__(message, help=help)
        self.code = REFUSED if status == 409 else FAILURE


class Line(HTTPConnection):
    """HTTP over the control socket. `connect` raises SidecarError where there is none that can be trusted."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """By way of the folder's descriptor: a path may be longer than an address."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            holder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                self.sock.connect(f"/proc/self/fd/{holder}/{self._path.name}")
            finally:
                os.close(holder)
        except PermissionError:
            raise SidecarError(f"cannot ask the sidecar at {self._path}: permission denied",
                               help="only the user that it runs as, and root, may ask it here: use sudo") from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise SidecarError(f"no sidecar listens at {self._path}", help=START) from None
        peer = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, _ = _CREDENTIALS.unpack(peer)
        if uid not in (0, os.geteuid()) and os.geteuid() != 0:
            raise SidecarError(f"process {pid} of user {uid} listens at {self._path}: that is no sidecar of ours",
                               help="its folder should be writable for its owner alone")


def _progress(stage: str, row: Mapping[str, Any]) -> str:
    if stage == "delivered":
        return f"delivered by {_channel(row)} after {1000 * float(row.get('delivery_seconds') or 0):.1f} ms"
    if stage == "answered":
        seconds = float(row.get("duration_seconds") or 0)
        return f"answered by {_channel(row)} after {seconds:.2f} s; measuring what it freed, up to 20 s"
    if stage == "begun":
        return "begun"
    return "asked"


def _channel(row: Mapping[str, Any]) -> str:
    return {"agent": "the agent", "http": "POST", "signal": "signal"}.get(str(row.get("channel")), "no channel")


def _result(row: Mapping[str, Any]) -> Iterator[str]:
    """The end of an attempt for people."""
    outcome, reason = str(row.get("outcome")), str(row.get("reason") or "")
    if outcome == "dry_run":
        yield f"dry run: target {row.get('target')} would be asked for {row.get('cleanup')} by {_channel(row)}"
        return
    yield f"{outcome}{f' ({reason})' if reason else ''}: {_EXPLAINED.get(outcome, 'see its log')}"
    for refusal in row.get("refusals") or ():
        yield f"  {refusal.get('channel')} could not be used: {refusal.get('reason')}"
    for name in ("before", "after", "freed"):
        yield f"  {name:9} {size(row.get(f'{name}_bytes'))}"
    told = row.get("told") or {}
    if "predicted_bytes" in told:
        yield f"  {'predicted':9} {size(told['predicted_bytes'])}"
    if "pause_seconds" in told:
        yield f"  {'paused':9} {float(told['pause_seconds']):.3f} s"
    steps = row.get("steps") or []
    if steps:
        yield f"what the agent{'s' if len(row.get('processes') or ()) > 1 else ''} did:"
    for step in steps[:MOST_STEPS]:
        error = f"  {step['error']}" if step.get("error") else ""
        yield f"  {str(step.get('step'))[:36]:36} {size(step.get('freed_bytes')):>12}" + (
            f" {float(step.get('duration_seconds') or 0):8.3f} s{error}")
    for process in row.get("processes") or ():
        if process.get("failed"):
            yield f"  {process.get('process')}: {process['failed']}"
    if outcome in ("ineffective", "partial"):
        yield "What a program still refers to is kept: `rag-sidecar profile` shows what grows,"
        yield "docs/agent.md how to register a cache or a callback that lets go of it."


_EXPLAINED: Mapping[str, str] = {
    "effective": "memory has fallen",
    "partial": "memory has fallen, but not enough to count",
    "ineffective": "memory has not fallen",
    "refused": "no channel could be used",
    "skipped": "the guard did not begin it",
    "undelivered": "nobody took it",
    "unknown": "nobody can say what it did",
}


def size(value: object) -> str:
    """Bytes for people. What is not known is a dash."""
    return f"{round(value / (1 << 20), 1) + 0.0:,.1f} MiB" if isinstance(value, int | float) else "-"
