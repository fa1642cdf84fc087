"""What watching does to the program that is watched: how much work it still gets done, and what is read of it."""

import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import peers
from crossing import HERE
from servers import end, wait_until
from watchers import HARMLESS, children, fetch, herd, scraped, sidecar_for, to_guard

HELD_MIB, BLOCK_SECONDS, SETTLE_SECONDS = 1024, 2.0, 0.3
RESAMPLES = 2000
READ_SECONDS = 45.0
WORKERS, WORKER_MIB = 4, 32
NOBODY = "nobody"
_READ = re.compile(r"(?:read|pread64)\(\d+<(?:/proc)?/(\d+)/([^>]*)>")

Pids = Sequence[int]


class Faulter:
    """The program, at work when it is told to be. Lives until its context ends."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def work(self, seconds: float) -> dict[str, float]:
        """Have it work for so long; what it got done."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{seconds}\n".encode())
        self.process.stdin.flush()
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def faulter(held_mib: int) -> Iterator[Faulter]:
    """A program that holds so much."""
    process = subprocess.Popen([sys.executable, str(HERE / "faulter.py"), str(held_mib)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield Faulter(process)
    finally:
        end(process)


@contextmanager
def awake(pids: Pids, url: str) -> Iterator[None]:
    """Let these programs, which stand still, run and be scraped for a while.

    It must come again before the guard, which does not know that it stood still, has lost its patience with the desk.
    """
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    try:
        with scraped(url):
            threading.Event().wait(SETTLE_SECONDS)
            yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)


def target(rounds: int) -> dict[str, Any]:
    """Rounds in which each state has its turn."""
    rows: defaultdict[str, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as name, faulter(HELD_MIB) as program, ExitStack() as stack:
        states = watchers(Path(name), program.process.pid, stack)
        for _ in range(rounds):
            for state, turn in states.items():
                with turn():
                    done = program.work(BLOCK_SECONDS)
                rows[state].append({"a_cpu_second": done["faults"] / done["cpu_seconds"],
                                    "a_second": done["faults"] / done["seconds"],
                                    "longest_ms": done["longest_seconds"] * 1000})
    found: dict[str, Any] = {}
    for state, measured in rows.items():
        longest = [row["longest_ms"] for row in measured]
        found[state] = {"longest_map_ms": {"median": round(statistics.median(longest), 2),
                                           "worst": round(max(longest), 2)}}
        for what in ("a_cpu_second", "a_second") if state != NOBODY else ():
            found[state][f"faults_{what}_ratio"] = middle(
                [row[what] / alone[what] for row, alone in zip(measured, rows[NOBODY], strict=True)])
    return {"held_mib": HELD_MIB, "rounds": rounds, "block_seconds": BLOCK_SECONDS, "states": found}


def middle(ratios: Sequence[float]) -> dict[str, float]:
    """The median, and between which values it lies (bootstrap, 95 %)."""
    chance = random.Random(1)
    again = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    return {"median": round(statistics.median(ratios), 4), "from": round(again[int(RESAMPLES * 0.025)], 4),
            "to": round(again[int(RESAMPLES * 0.975)], 4)}


def watchers(folder: Path, pid: int, stack: ExitStack) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    """State → the context in which it holds. All watchers stand still else."""
    sidecar, found = stack.enter_context(sidecar_for(folder, to_guard([pid])))
    running = {"rag-sidecar": (list(found.values()), f"{sidecar.url}/metrics")}
    for state, flags in {"process-exporter": peers.LEAN, "process-exporter with smaps": ()}.items():
        own = folder / state.replace(" ", "-")
        own.mkdir()
        address = stack.enter_context(peers.process_exporter(own, "faulter.py", flags))
        wait_until(lambda address=address: listening(address), 20, address)
        exporter = next(child.pid for child in children() if address.endswith(f":{child.port}"))
        running[state] = [exporter], f"http://{address}/metrics"
    for pids, _ in running.values():
        for each in pids:
            os.kill(each, signal.SIGSTOP)
            stack.callback(os.kill, each, signal.SIGCONT)  # before it is asked to end
    return {NOBODY: nullcontext, **{state: partial(awake, *given) for state, given in running.items()}}


def listening(address: str) -> bool:
    """Whether somebody does."""
    try:
        fetch(f"http://{address}/metrics")
    except OSError:
        return False
    return True


def reads() -> dict[str, Any]:
    """Which files of watched processes are read, in a time that begins when they do: of one, and of a server."""
    if not shutil.which("strace"):
        raise SystemExit("strace is not there; it counts the reads: apt-get install strace")
    found: dict[str, Any] = {}
    for what, workers in (("one process", 0), (f"a server with {WORKERS} workers of {WORKER_MIB} MiB", WORKERS)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            wanted = [{"name": "t", "match": {"cmdline": "herd.py"}, **HARMLESS}]
            with sidecar_for(folder, wanted) as (_, pids), traced(folder, list(pids.values())) as seen, \
                    herd(workers, WORKER_MIB) as (first, others):
                threading.Event().wait(READ_SECONDS)
            found[what] = {"seconds": READ_SECONDS, "files": counted(seen.read_text(), {first, *others})}
    return {"watched": found}


@contextmanager
def traced(folder: Path, pids: Pids) -> Iterator[Path]:
    """What programs read, as strace has it."""
    out = folder / "strace"
    command = ["strace", "-f", "-y", "-e", "trace=read,pread64", "-o", out, *(f"--attach={pid}" for pid in pids)]
    with peers.running(command, folder / "strace.log"):
        wait_until(lambda: (folder / "strace.log").read_text().count("attached") >= len(pids), 20, "strace")
        yield out


def counted(text: str, pids: set[int]) -> dict[str, float]:
    """File of /proc/PID → how often it was read, of all these processes together."""
    found = Counter(match[2] for match in _READ.finditer(text) if int(match[1]) in pids)
    return {"smaps_rollup": 0, **dict(found.most_common())}
