"""Whether the guard still acts at once, and the ticks come on time, while clients ask for much more than they should.

One sidecar guards eight programs that cross their critical line again and again; each crossing is timed inside the
program, from its own statm to its handler. The same in every state: nobody asks; 500 requests a second, half of them
for /metrics and half for five minutes of a series; these beside 20 clients that read a byte a second, beside 1,000
connections that say nothing, beside a desk that stands still for 0.3 s of every second as in a long garbage
collection, and beside a busy loop on every core; and 5,000 requests a second. Clients, programs and sidecar share the
machine.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from crossing import HERE, cpu_seconds, growers, of_all, row, settings
from machine import RESULTS, describe, save, sentence
from servers import end, free_port
from sidecars import Sidecar, running_sidecar

TARGETS = 8
LINE_MIB = 60
"""Low, so that little time goes into growing: how large a program is makes no difference to a crossing."""
MOST_P99_MS, MOST_LATE_MS = 15.0, 50.0


class State(NamedTuple):
    """What goes on besides: requests a second on so many connections, strangers, a desk that stops, busy cores."""

    name: str
    rate: int = 500
    connections: int = 32
    strangers: tuple[str, ...] = ()
    stops: bool = False
    spinners: int = 0


STATES = (
    State("nobody asks", 0),
    State("500 requests/s"),
    State("and 20 readers of 1 byte/s", strangers=("slow", "20")),
    State("and 1,000 silent connections", strangers=("silent", "1000")),
    State("and the desk stopped 0.3 s of each second", stops=True),
    State("and a busy loop on every core", spinners=os.cpu_count() or 1),
    State("5,000 requests/s", 5000, 128),
)


@contextmanager
def told(program: str, *arguments: object) -> Iterator[dict[str, Any]]:
    """Run a program of ours until the end of the block; what it says then is in the dictionary afterwards."""
    process = subprocess.Popen([sys.executable, str(HERE / program), *map(str, arguments)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    said: dict[str, Any] = {}
    try:
        yield said
        out, _ = process.communicate(timeout=60)
        said.update(json.loads(out))
    finally:
        end(process)


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """So many programs that never rest."""
    with ExitStack() as stack:
        for _ in range(count):
            stack.callback(end, subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        yield


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """The process stops for 0.3 s of every second."""
    over = threading.Event()

    def stop_and_go() -> None:
        while not over.wait(0.7):
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.3)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def measure(state: State, sidecar: Sidecar, targets: list["subprocess.Popen[bytes]"], count: int) -> dict[str, Any]:
    """The row of one state."""
    port, pids = int(sidecar.url.rpartition(":")[2]), {"guard": sidecar.process.pid, "desk": sidecar.child("desk")}
    strangers: Mapping[str, Any] = {}
    answers: Mapping[str, Any] = {}
    with ExitStack() as stack:
        if state.strangers:
            strangers = stack.enter_context(told("strangers.py", port, *state.strangers))
        if state.rate:
            answers = stack.enter_context(told("client.py", port, state.rate, state.connections))
        if state.stops:
            stack.enter_context(standing_still(pids["desk"]))
        stack.enter_context(busy_loops(state.spinners))
        begun, before = time.monotonic(), {who: cpu_seconds(pid) for who, pid in pids.items()}
        found = row(of_all(targets, count))
        seconds = time.monotonic() - begun
        cpu = {f"{who}_percent_of_a_core": round(100 * (cpu_seconds(pid) - before[who]) / seconds, 1)
               for who, pid in pids.items()}
    return {**found, **ticks(sidecar, seconds), **cpu, "load_average": round(os.getloadavg()[0], 1),
            "seconds": round(seconds), **answers, **({"strangers": strangers} if strangers else {})}


def ticks(sidecar: Sidecar, seconds: float) -> dict[str, float]:
    """What the sidecar says of its ticks of these last seconds, asked when all is quiet again."""
    def figure(expr: str) -> float:
        answer = json.loads(sidecar.get(f"/api/v1/query?{urllib.parse.urlencode({'query': expr})}"))
        return float(answer["data"]["result"][0]["value"][1])

    span = f"[{int(seconds)}s]"
    late, duration = "rag_sidecar_tick_late_seconds", "rag_sidecar_tick_duration_seconds"
    return {"tick_late_p99_ms": round(1000 * figure(f"quantile_over_time(0.99, {late}{span})"), 1),
            "tick_late_max_ms": round(1000 * figure(f"max_over_time({late}{span})"), 1),
            "tick_max_ms": round(1000 * figure(f"max_over_time({duration}{span})"), 1),
            "ticks_per_second": round(figure(f"increase(rag_sidecar_ticks_total{span})") / int(seconds), 2)}


def kept(state: State, found: Mapping[str, Any]) -> bool:
    """Whether what is promised of this state was so."""
    return bool(found["p99_ms"] < MOST_P99_MS and (state.stops or found["tick_late_max_ms"] < MOST_LATE_MS)
                and not found.get("lost") and not found.get("other")
                and found.get("fresh_answered") == found.get("fresh"))


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "# Under load", "",
        f"{sentence(result['machine'])}; the clients run on the same cores. `python benchmarks/load.py` makes "
        "this page.", "",
        "| state | crossings | crossing to handler, ms: median | p99 | max | tick late, ms: max | tick, ms: max "
        "| requests/s: offered | answered | refused | lost | first byte, ms: median | p99 | newcomers answered "
        "| desk, % of a core | guard | load | as promised |",
        "| :--- |" + " ---: |" * 17]
    for name, found in result["states"].items():
        asked = [found.get(key, "") for key in ("offered_per_second", "answered_per_second", "refused", "lost",
                                                "answer_median_ms", "answer_p99_ms")]
        fresh = f"{found['fresh_answered']} of {found['fresh']}" if "fresh" in found else ""
        cells = [name, *(found[key] for key in ("crossings", "median_ms", "p99_ms", "max_ms", "tick_late_max_ms",
                                                "tick_max_ms")),
                 *asked, fresh, found["desk_percent_of_a_core"], found["guard_percent_of_a_core"],
                 found["load_average"], "yes" if found["as_promised"] else "no"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "",
        f"{TARGETS} programs grow by 100 MiB/s through a line at {LINE_MIB} MiB each, at moments of their own.",
        f"Promised are crossings under {MOST_P99_MS:g} ms (p99), ticks less than {MOST_LATE_MS:g} ms late except where "
        "the desk was stopped,",
        "no request without an answer, and an answer to everybody new within two seconds. Refused is 503, with",
        "Retry-After. First byte: from the moment when a request was due. Load is the machine's load average."]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure every state, save, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="100 crossings a state take about 7 minutes in all; results/load.json and load.md are written.")
    parser.add_argument("crossings", nargs="?", type=int, default=100, help="of each state, at least (100)")
    parser.add_argument("--states", type=int, nargs="*", help="numbers of the states, from 0; nothing is written then")
    given = parser.parse_args()
    states = [STATES[at] for at in given.states] if given.states else STATES
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, growers(TARGETS, LINE_MIB) as targets:
        folder, port = Path(name), free_port()
        file = settings(port, folder, [target.pid for target in targets], LINE_MIB)
        with running_sidecar(folder, file=file, port=port) as sidecar:
            for state in states:
                found = measure(state, sidecar, targets, given.crossings)
                rows[state.name] = {**found, "as_promised": kept(state, found)}
                print(state.name, json.dumps(rows[state.name]), flush=True)
    result = {"machine": describe(), "targets": TARGETS, "states": rows}
    if not given.states:
        save("load", result)
        (RESULTS / "load.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
