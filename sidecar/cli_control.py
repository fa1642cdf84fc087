"""The command `cleanup`: an order to a running sidecar, and what came of it."""

import argparse
import json
from collections.abc import Iterator, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.cli_line import FAILURE, MOST_LINE_BYTES, REFUSED, START, Line, Way, add_flags, run
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from sidecar.cli_near import Watcher

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

EFFECTIVE, INEFFECTIVE = 0, 3
CODES: Mapping[str, int] = {"effective": EFFECTIVE, "dry_run": EFFECTIVE, "partial": INEFFECTIVE,
                            "ineffective": INEFFECTIVE, "refused": REFUSED, "skipped": REFUSED}
"""Outcome → exit code; every other one is a failure."""

MOST_ANSWER_BYTES = 16 << 20
MOST_STEPS = 40
LEAST_TOLD_BYTES = 1 << 20
"""What explains less than this is not worth a word."""
TTL_SECONDS = 20.0
"""For how long a cleanup is asked for over TCP, where it may have to wait."""

_CLEANUP = """\
examples:
  rag-sidecar cleanup                           a standard cleanup, now
  rag-sidecar cleanup --level aggressive --target rag
  rag-sidecar cleanup --pid 4242                the target that this process is
  rag-sidecar cleanup --dry-run                 every check, nothing is done
  rag-sidecar cleanup --storage.path /var/lib/rag-sidecar
  rag-sidecar cleanup --url unix:/var/lib/rag-sidecar/control.sock -o json
  rag-sidecar cleanup --url http://rag-1:11611 --token-file token

It needs a running sidecar and a way to ask the target: an agent in it, or a
configured cleanup. At the control socket no alert has to fire; with a token one
has to ask for a cleanup already, and this one may be a stronger one.
Exit codes: 0 effective, 3 not effective, 4 refused, 1 failure. docs/control.md
"""


def add(commands: "Commands") -> None:
    """Add the command `cleanup`."""
    cleanup = commands.add_parser("cleanup", help="have a running sidecar clean up a target, and see what it freed",
                                  epilog=_CLEANUP, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = cleanup.add_mutually_exclusive_group()
    which.add_argument("--target", metavar="NAME", help="which target; needed where the sidecar has several")
    which.add_argument("--pid", type=int, metavar="N",
                       help="the target that a sidecar of this machine watches under this number")
    cleanup.add_argument("--level", choices=("light", "standard", "aggressive"), default="standard",
                         help="how much may be given up; default standard")
    cleanup.add_argument("--dry-run", action="store_true", help="walk through every check and stop before the delivery")
    add_flags(cleanup)
    cleanup.set_defaults(call=_cleanup)


def _cleanup(arguments: argparse.Namespace) -> int:
    def order() -> int:
        if arguments.pid is None:
            return _ordered(arguments, Way.of(arguments), arguments.target)
        return _ordered(arguments, *_watcher(arguments))

    return run(order)


def _watcher(arguments: argparse.Namespace) -> "Watcher":
    """The sidecar of this machine that watches the process, and its name for it. Raises SidecarError."""
    from sidecar.cli_near import watcher

    if arguments.url is not None and not arguments.url.startswith("unix:"):
        raise SidecarError(f"--pid {arguments.pid} is a number of this machine, and {arguments.url} may be another one",
                           help="say --target NAME there; --pid N goes alone, with --storage.path or --url unix:PATH")
    chosen = arguments.url is not None or arguments.storage_path is not None
    path = Way.of(arguments).path if chosen else None
    if (found := watcher(arguments.pid, path)) is None:
        where = f"the sidecar at {path} does not watch" if path else "no sidecar that we may ask here watches"
        raise SidecarError(f"{where} a process {arguments.pid}", help=(
            f"`rag-sidecar run --pid {arguments.pid}` would; one that runs as another user, or in a container, is\n  "
            "asked as that user, or in there; `rag-sidecar cleanup --target NAME` goes by the name"))
    return found


def _ordered(arguments: argparse.Namespace, way: Way, target: str | None) -> int:
    from sidecar.clock import monotonic

    wish = {"level": arguments.level, **({"target": target} if target is not None else {})}
    if way.path is not None:
        wish["dry_run"] = arguments.dry_run
    elif arguments.dry_run:
        raise SidecarError("a dry run is for the control socket",
                           help="--url unix:PATH on the machine where the sidecar runs")
    else:
        wish["ttl"] = TTL_SECONDS
    row: dict[str, Any] = {}
    begun = monotonic()
    for stage, row in _stages(way, wish):
        if arguments.output == "text" and stage != "ended":
            print(f"{monotonic() - begun:6.1f} s  {_progress(stage, row)}", flush=True)
    if arguments.output == "json":
        print(json.dumps(row, indent=2))
    else:
        print(*_result(row), sep="\n")
    return CODES.get(str(row.get("outcome")), FAILURE)


def _stages(way: Way, wish: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(stage, the attempt so far) of an order, as they are reached. Raises SidecarError."""
    with way.posted("/api/v1/cleanup?wait=1", wish) as answer:
        stage = ""
        while text := answer.readline(MOST_LINE_BYTES):
            told = json.loads(text)
            stage, row = str(told["stage"]), dict(told["action"])
            yield stage, row
        if stage != "ended":
            raise SidecarError("the sidecar ended before the cleanup was judged",
                               help="its log says why; the cleanup itself may go on in the target")


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
    return {"agent": "the agent", "http": "POST", "signal": "signal", "exec": "the program"}.get(
        str(row.get("channel")), "no channel")


def _result(row: Mapping[str, Any]) -> Iterator[str]:
    """The end of an attempt for people."""
    outcome, reason = str(row.get("outcome")), str(row.get("reason") or "")
    if outcome == "dry_run":
        yield f"dry run: target {row.get('target')} would be asked for {row.get('cleanup')} by {_channel(row)}"
        return
    yield f"{outcome}{f' ({reason})' if reason else ''}: {_explained(outcome, row)}"
    for refusal in row.get("refusals") or ():
        yield f"  {refusal.get('channel')} could not be used: {refusal.get('reason')}"
    for name in ("before", "after", "freed"):
        yield f"  {name:9} {size(row.get(f'{name}_bytes'))}{_beside(row) if name == 'freed' else ''}"
    if row.get("kind") not in (None, "", "unknown"):
        yield f"  {'it was':9} {row['kind']} (docs/verdicts.md)"
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


def _beside(row: Mapping[str, Any]) -> str:
    """Why more or less than what fell was freed, where that is so; docs/verdicts.md."""
    figures = [row.get(f"{name}_bytes") for name in ("before", "after", "freed")]
    known = [figure for figure in figures if isinstance(figure, int | float)]
    if len(known) < len(figures):
        return ""
    before, after, freed = known
    fallen = before - after
    if freed > fallen + LEAST_TOLD_BYTES:
        return f": {size(freed - fallen)} of it against its growth, which would have gone on"
    return f": {size(fallen - freed)} fell that may have fallen without it" if fallen > freed + LEAST_TOLD_BYTES else ""


def _explained(outcome: str, row: Mapping[str, Any]) -> str:
    """An outcome in words. Beside a leak memory may have been freed and be more than before all the same."""
    before, after = row.get("before_bytes"), row.get("after_bytes")
    if outcome in ("effective", "partial") and before is not None and after is not None and after >= before:
        return "memory has grown less than it would have"
    return _EXPLAINED.get(outcome, "see its log")


_EXPLAINED: Mapping[str, str] = {
    "effective": "memory has fallen",
    "partial": "memory has fallen, but not enough to count",
    "ineffective": "memory has not fallen",
    "refused": "no channel could be used",
    "skipped": "the guard did not begin it",
    "undelivered": "nobody took it",
    "unknown": "nobody can say what it did",
    "interrupted": "the sidecar was restarted, so nobody can say what it did",
}


def size(value: object) -> str:
    """Bytes for people. What is not known is a dash."""
    return f"{round(value / (1 << 20), 1) + 0.0:,.1f} MiB" if isinstance(value, int | float) else "-"
