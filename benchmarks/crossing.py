"""Targets that cross their critical line again and again, and how long each crossing waits for its cleanup."""

import json
import random
import select
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from servers import end  # noqa: E402
from sidecars import config  # noqa: E402

RATE_MIB, LINE_MIB, STEP_MIB = 100, 150, 0.25
REST_SECONDS = 2.5
"""The sidecar sees at its next ticks what the last cleanup did, and may ask again a second after it."""
JITTER_SECONDS = 1.0
"""At any moment between two ticks a crossing is as likely as at any other."""
PATIENCE_SECONDS = 30.0


@contextmanager
def growers(count: int = 1, line_mib: int = LINE_MIB) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The targets, ready."""
    command = [sys.executable, str(HERE / "grower.py"), str(RATE_MIB), str(line_mib), str(STEP_MIB)]
    with ExitStack() as stack:
        found = []
        for _ in range(count):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(end, process)
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            found.append(process)
        yield found


def crossings(process: "subprocess.Popen[bytes]", count: int, rest_seconds: float = REST_SECONDS,
              seed: int = 0, patience_seconds: float = PATIENCE_SECONDS) -> list[float]:
    """Seconds from crossing to handler, `count` times. Raises TimeoutError where nobody cleans up."""
    assert process.stdin
    assert process.stdout
    found, chance = [], random.Random(seed)
    for at in range(count):
        threading.Event().wait(rest_seconds + chance.uniform(0, JITTER_SECONDS))
        process.stdin.write(b"\n")
        process.stdin.flush()
        if not select.select([process.stdout], [], [], patience_seconds)[0]:
            raise TimeoutError(f"crossing {at + 1} of {count}: nobody has asked pid {process.pid} to clean up for "
                               f"{patience_seconds:g} s; see the log of the sidecar")
        noted = json.loads(process.stdout.readline())
        found.append(noted["handled"] - noted["crossed"])
    return found


def of_all(targets: Sequence["subprocess.Popen[bytes]"], count: int, rest_seconds: float = REST_SECONDS) -> list[float]:
    """At least `count` crossings of the targets together, each at its own moments."""
    each = -(-count // len(targets))
    with ThreadPoolExecutor(len(targets)) as pool:
        started = [pool.submit(crossings, target, each, rest_seconds, seed) for seed, target in enumerate(targets)]
        return [seconds for one in started for seconds in one.result()]


def settings(port: int, folder: Path, pids: Sequence[int], line_mib: int = LINE_MIB, **more: object) -> str:
    """A sidecar.yml that guards these processes, with the critical line at `line_mib`."""
    targets: list[dict[str, Any]] = [
        {"name": f"t{at}", "match": {"pid": pid}, "cleanup": [{"signal": "SIGUSR1"}],
         "memory": {"basis": "anon", "critical": f"{line_mib}MiB", "main": f"{line_mib - 10}MiB"}}
        for at, pid in enumerate(pids)]
    # Memory that comes back again and again is what these programs are for: it must not make the sidecar give up.
    acting = {"learning": {"strikes": 1000}, "levels": {"aggressive": {"cooldown": "1s", "budget": "1000/h"}},
              "global": {"warmup": "0s", "max_per_hour": 10000}}
    return config(port, folder, targets, **{"actions": acting, **more})


def row(seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds: median, 90th and 99th percentile, maximum."""
    ordered = sorted(seconds)
    return {"crossings": len(ordered), **{
        f"{name}_ms": round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2)
        for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0))}}


def cpu_seconds(pid: int) -> float:
    """Processor time that the threads of a process have used: in nanoseconds, where stat counts hundredths."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9
