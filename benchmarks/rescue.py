"""Whether a process is asked to clean up before the kernel kills it: by how fast it grows, and who watches.

A program in a cgroup of 512 MiB of its own grows through a line at 400 MiB: at 20 to 3,000 MiB a second asked for, in
steps of 0.25, 64 and 200 MiB, each one C call, without and with transparent huge pages. When it is asked it lets go at
once. Saved is who lives after that. Watchers: nobody; process-exporter, Prometheus 3, Alertmanager and a webhook,
scraping and evaluating every second without group_wait; earlyoom, which kills; the sidecar by a signal, by an HTTP
endpoint, by its agent, and by a signal with its brake. Needs root and a memory hierarchy of cgroup v1.
"""

import argparse
import json
import os
import random
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import peers
from crossing import HERE, settings
from machine import RESULTS, describe, merge, sentence
from servers import end, free_port, wait_until
from sidecars import running_sidecar

MIB = 1 << 20
CGROUPS = Path("/sys/fs/cgroup/memory")
LIMIT_MIB, LINE_MIB = 512, 400
RATES = (20, 50, 100, 200, 400, 800, 1500, 3000)
STEPS = {0.25: RATES, 64: (100, 800, 3000), 200: (100, 800, 3000)}
"""Rates at which each size of steps is tried; a big step is taken at once, whatever the pace between two."""
HUGE_FROM_MIB = 400
"""Huge pages make a fast program faster; what sleeps between its steps stays as it is."""
SETTLE_SECONDS, PEER_SETTLE_SECONDS = 0.5, 1.2
"""The watcher has seen what the program has before it begins to grow; peers look once a second."""
LOAN_MIB = 128
BATCH = 10
"""So many programs wait at a time."""
EPILOG = """A cell of 20 runs takes 40 s by the sidecar, of 6 by the pipeline 25 s, of 2 by nobody and earlyoom 5 s.
There are 24 cells, 12 of them with steps of 0.25 MiB, so all takes 90 minutes. In parts of at most 10 minutes each,
which are merged into results/rescue.json (rescue.md is made of it):
  nobody earlyoom
  pipeline --steps 0.25,  pipeline --steps 64 200
  signal --steps 0.25,  signal --steps 64 200; the same with http, agent and brake, which `--runs 10` halves"""
PATIENCE_SECONDS = 30.0


class Method(NamedTuple):
    """Who watches. Who is known to lose, or takes long, needs few runs."""

    name: str
    most_runs: int = 1000
    ways: tuple[str, ...] = ()
    channel: Mapping[str, Any] = {}
    brake: bool = False


METHODS = {
    "nobody": Method("nobody", 2),
    "pipeline": Method("tuned pipeline", 6),
    "earlyoom": Method("earlyoom", 2),
    "signal": Method("rag-sidecar, signal", channel={"signal": "SIGUSR1"}),
    "http": Method("rag-sidecar, HTTP", ways=("http",), channel={"http": {}}),
    "agent": Method("rag-sidecar, agent", ways=("agent",), channel={"agent": {}}),
    "brake": Method("rag-sidecar, signal and brake", channel={"signal": "SIGUSR1"}, brake=True),
}


class Cell(NamedTuple):
    """How a program grows."""

    rate_mib: int
    step_mib: float
    huge: bool

    def __str__(self) -> str:
        return f"{self.step_mib:g} MiB steps, {self.rate_mib} MiB/s{', huge pages' * self.huge}"

    def start_mib(self, number: int) -> float:
        """Where the run of this number starts to grow: a second or two before the line, at any part of a step."""
        part = random.Random(number).uniform(0, self.step_mib)
        return max(0.0, LINE_MIB - max(40, self.rate_mib) - self.step_mib) + part


CELLS = [Cell(rate, step, huge) for step, rates in STEPS.items() for huge in (False, True) for rate in rates
         if not huge or step > 1 or rate >= HUGE_FROM_MIB]


class Run(NamedTuple):
    """What came of one program. Headroom is what was left at the worst moment; 0 where it was killed."""

    saved: bool
    headroom_mib: float
    reached_mib: float | None


class Leaker:
    """A program in its own cgroup. Lives until its context ends."""

    def __init__(self, number: int, cell: Cell, ways: Sequence[str]) -> None:
        self.cgroup = CGROUPS / f"rag-sidecar-rescue-{os.getpid()}-{number}"
        self._arguments = [cell.rate_mib, cell.step_mib, cell.start_mib(number), LINE_MIB, *ways,
                           *(["huge"] * cell.huge)]
        self._left = b""

    def __enter__(self) -> "Leaker":
        self.cgroup.mkdir()
        (self.cgroup / "memory.limit_in_bytes").write_text(str(LIMIT_MIB * MIB))
        command = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.cgroup), sys.executable,
                   str(HERE / "leaker.py"), *map(str, self._arguments)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self._said()[1])
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        end(self.process)
        wait_until(lambda: not (self.cgroup / "cgroup.procs").read_text(), 10, f"{self.cgroup} to be empty")
        self.cgroup.rmdir()

    def run(self, settle_seconds: float) -> Run:
        """Let it grow, and see what comes of it."""
        self._tell()
        if self._said() != ["filled"]:
            return Run(False, 0.0, None)
        threading.Event().wait(settle_seconds)
        self._tell()
        reached = None
        while (said := self._said()) and said[0] == "crossed":
            reached = float(said[1])
        saved = said == ["cleaned"]
        peak = int((self.cgroup / "memory.max_usage_in_bytes").read_text())
        return Run(saved, (LIMIT_MIB - peak / MIB) if saved else 0.0, reached)

    def _tell(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def _said(self) -> list[str]:
        """The words of the next line; none when it has been killed, or says nothing for too long."""
        assert self.process.stdout
        until = time.monotonic() + PATIENCE_SECONDS
        while b"\n" not in self._left:
            if not select.select([self.process.stdout], [], [], max(0.0, until - time.monotonic()))[0]:
                return []
            data = os.read(self.process.stdout.fileno(), 1024)
            if not data:
                return []
            self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return line.decode().split()


def of_method(key: str, cell: Cell, runs: int) -> list[Run]:
    """The runs of one cell, one after the other."""
    found: list[Run] = []
    method = METHODS[key]
    settle_seconds = SETTLE_SECONDS if method.channel else PEER_SETTLE_SECONDS
    for first in range(0, runs, BATCH):
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            leakers = [stack.enter_context(Leaker(first + at, cell, method.ways))
                       for at in range(min(BATCH, runs - first))]
            stack.enter_context(watcher(key, Path(name), leakers))
            found += [leaker.run(settle_seconds) for leaker in leakers]
    return found


def watcher(key: str, folder: Path, leakers: Sequence[Leaker]) -> AbstractContextManager[None]:
    """Who watches these programs, ready."""
    pids = [leaker.process.pid for leaker in leakers]
    if key == "nobody":
        return nullcontext()
    if key == "earlyoom":
        return peers.earlyoom(folder)
    if key == "pipeline":
        line_bytes = LINE_MIB * MIB + peers.resident_bytes(pids[0])[1]
        return peers.pipeline(folder, "leaker.py", pids, line_bytes, peers.TUNED)
    return sidecar(METHODS[key], folder, leakers)


@contextmanager
def sidecar(method: Method, folder: Path, leakers: Sequence[Leaker]) -> Iterator[None]:
    """A sidecar that has one standing order for each program."""
    port = free_port()
    file = json.loads(settings(port, folder, [leaker.process.pid for leaker in leakers], LINE_MIB))
    for target, leaker in zip(file["targets"], leakers, strict=True):
        target["cleanup"] = [{"http": {"url": f"http://127.0.0.1:{leaker.port}/cleanup"}}
                             if "http" in method.channel else method.channel]
        if method.brake:
            target["brake"] = {"loan": f"{LOAN_MIB}MiB"}
    with running_sidecar(folder, file=json.dumps(file), port=port) as running:
        wait_until(lambda: len([up for up in running.series("rag_target_up").values() if up]) == len(leakers), 20,
                   "every program to be watched")
        if method.brake:
            wait_until(lambda: sum(running.series("rag_brake_engaged").values()) == len(leakers), 20,
                       f"every brake to be engaged: see {running.log.read_text()}")
        if "agent" in method.channel:
            wait_until(lambda: len(running.series("rag_agent_info")) == len(leakers), 20, "every agent to be found")
        yield


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures of one cell."""
    saved = [run for run in runs if run.saved]
    reached = [run.reached_mib for run in runs if run.reached_mib is not None]
    return {"runs": len(runs), "saved": len(saved),
            "least_headroom_mib": round(min((run.headroom_mib for run in saved), default=0.0), 1),
            "reached_mib_per_second": round(statistics.median(reached), 1) if reached else None}


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    have = [key for key in METHODS if key in result]
    lines = [
        "# Rescue", "",
        f"{sentence(result['machine'])}. `python benchmarks/rescue.py` makes this page.", "",
        f"| steps of MiB | huge pages | MiB/s asked for | reached | {' | '.join(METHODS[key].name for key in have)} |",
        "| ---: | :--- | ---: | ---: |" + " ---: |" * len(have)]
    for cell in CELLS:
        found = [result[key].get(str(cell)) for key in have]
        reached = [each["reached_mib_per_second"] for each in found if each and each["reached_mib_per_second"]]
        if any(found):
            cells = [f"{cell.step_mib:g}", "yes" if cell.huge else "no", cell.rate_mib,
                     round(statistics.median(reached)) if reached else "",
                     *("" if not each else f"{each['saved']} of {each['runs']}"
                       + f" ({each['least_headroom_mib']:.0f})" * bool(each["saved"]) for each in found)]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "", "Saved, of so many runs; in parentheses the least headroom in MiB: what was left of "
        f"{LIMIT_MIB} MiB at the worst moment of any of those saved. Below 0 the brake has lent it, {LOAN_MIB} MiB at "
        "most.",
        f"The line is at {LINE_MIB} MiB. A step of 200 MiB that passes it ends above the limit in 44 of 100 runs; a "
        "Python program answers when a C call has ended, so only who holds it in between can save these.",
        "Each method has the same starts: anywhere in a step. An empty cell was not measured.",
        "Reached is the pace from the start of the growth to the crossing; none where the kernel was quicker."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure what is asked for, keep the rest of what was measured before, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    parser.add_argument("methods", nargs="*", metavar="METHOD", choices=[[], *METHODS],
                        help=f"all ({' '.join(METHODS)})")
    parser.add_argument("--runs", type=int, default=20, help="of each cell (20), fewer of what is slow or trivial")
    parser.add_argument("--steps", type=float, nargs="*", default=list(STEPS), help="sizes of steps in MiB (all)")
    parser.add_argument("--rates", type=int, nargs="*", default=RATES, help="MiB/s (all)")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # no cgroup stays behind
    cells = [cell for cell in CELLS if cell.step_mib in given.steps and cell.rate_mib in given.rates]
    path = RESULTS / "rescue.json"
    for key in given.methods or METHODS:
        before = json.loads(path.read_text()).get(key, {}) if path.exists() else {}
        for cell in cells:
            begun = time.monotonic()
            before[str(cell)] = summary(of_method(key, cell, min(given.runs, METHODS[key].most_runs)))
            print(f"{METHODS[key].name}, {cell}: {before[str(cell)]} in {time.monotonic() - begun:.0f} s",
                  file=sys.stderr, flush=True)
        merge("rescue", key, before)
    merge("rescue", "machine", describe())
    page = table(json.loads(path.read_text()))
    (RESULTS / "rescue.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
