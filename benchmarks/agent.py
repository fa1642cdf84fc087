"""What the agent costs an app that serves HTTP: instructions, system calls and time for each request, memory, wakeups.

Measures the parts that are named, without a name all, and writes each into benchmarks/results/agent.json with its
machine and date. The first two hold on a busy machine, too. Only `time` needs a quiet one: `benchmarks/agent.py time`.
The app answers requests that do next to nothing, the worst case, and such as a small RAG app gets.

counts  Instructions in user space by valgrind, system calls by strace: an app with an agent against one without.
        What many requests take less what few take, so that the start cancels out. For several layouts of memory: it
        decides which lookups of Python's collide, and moves the figures by as much as the agent's own work does.
        Both apps have two threads, as most have. What any second thread costs, whatever it does, is told by itself:
        malloc locks nothing before there is one, and never goes back.
time    Apps whose agent is started and stopped by turns, in rounds without, with, with, without of some 10 ms each:
        so short that what else goes on in the machine hits all four alike. What follows a start or stop immediately
        is left out. Of each round the ratio and the difference; their median, and between which values it lies
        (bootstrap over apps and their rounds, 95 %): each app has its own layout of memory.
rest    Memory beside an app without, wakeups in an idle minute, and what it takes to be asked for the figures.
"""

import argparse
import os
import random
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from agent_apps import Client  # noqa: E402
from agent_host import ANSWER, NOTHING, START_SECONDS, Host, get, host, sleeps, thread_seconds  # noqa: E402
from machine import describe, merge  # noqa: E402

KINDS = {"next to nothing": NOTHING, "an answer": ANSWER}
LAYOUTS, FEW, MANY = 4, {NOTHING: 100, ANSWER: 20}, {NOTHING: 500, ANSWER: 80}
TRACED = 10
"""Times as many requests where only system calls are counted: it is quicker, and a single call weighs more."""
TIME_SECONDS, APPS, RESAMPLES = 200.0, 6, 1000
REQUESTS, WARMING = {NOTHING: 60, ANSWER: 8}, {NOTHING: 30, ANSWER: 3}
SETTLED_SECONDS, IDLE_SECONDS, NOBODY = 30.0, 60.0, 65534
ASKED_TIMES, ASKED_EVERY_SECONDS, DEFAULT_EVERY_SECONDS = 20, 1.0, 5.0

ONE, TWO, GUEST = ("still",), ("still", "thread"), ("still", "thread", "agent")
"""Apps of one thread, of two, and of two with an agent."""


def instructions(folder: Path, words: Sequence[str], path: bytes, requests: int) -> int:
    """Of an app's whole life, in user space."""
    out = folder / "callgrind"
    app_life(folder, words, ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"), path, requests)
    return next(int(line.split()[1]) for line in out.read_text().splitlines() if line.startswith("totals:"))


def system_calls(folder: Path, words: Sequence[str], path: bytes, requests: int) -> int:
    """Of an app's whole life."""
    out = folder / "strace"
    app_life(folder, words, ("strace", "-f", "-c", "-o", str(out)), path, requests)
    return next(int(line.split()[3]) for line in out.read_text().splitlines() if line.endswith(" total"))


def app_life(folder: Path, words: Sequence[str], below: Sequence[str], path: bytes, requests: int) -> None:
    """Starts, answers so many requests one after the other, ends."""
    with host(folder, *words, below=below) as app, app.connect() as client:
        for _ in range(requests):
            get(client, path)
        get(client, b"/end")
        app.process.wait(START_SECONDS)


Count = Callable[[Path, Sequence[str], bytes, int], int]


def each(count: Count, words: Sequence[str], path: bytes, layouts: int, times: int) -> list[float]:
    """For each request, in each layout."""

    def life(layout: int, requests: int) -> int:
        with tempfile.TemporaryDirectory() as name:
            return count(Path(name), (*words, f"layout={layout}"), path, requests)

    few, many = times * FEW[path], times * MANY[path]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        lives = [(pool.submit(life, layout, few), pool.submit(life, layout, many)) for layout in range(layouts)]
        return [(most.result() - least.result()) / (many - few) for least, most in lives]


def beside(without: Sequence[float], added: Sequence[float]) -> dict[str, object]:
    """Means over the layouts, and their ratio; the least and the greatest ratio of a layout."""
    ratios = [one / none for none, one in zip(without, added, strict=True)]
    return {"without": round(statistics.mean(without), 2), "with": round(statistics.mean(added), 2),
            "ratio": round(statistics.mean(added) / statistics.mean(without), 4),
            "of layouts": [round(min(ratios), 4), round(max(ratios), 4)]}  # fmt: skip


def counts(_folder: Path, _seconds: float) -> dict[str, object]:
    """For each request of a kind, with and without an agent; system calls are the same in each layout."""
    result: dict[str, object] = {}
    for tool, count, *often in (("valgrind", instructions, LAYOUTS, 1), ("strace", system_calls, 1, TRACED)):
        if shutil.which(tool) is None:
            result[count.__name__] = f"not measured: {tool} is not installed"
            continue
        found: dict[str, object] = {}
        for kind, path in KINDS.items():
            two = each(count, TWO, path, *often)
            found[kind] = beside(two, each(count, GUEST, path, *often))
            if path == NOTHING:
                found["any second thread"] = beside(each(count, ONE, path, *often), two)
        result[count.__name__] = found
    return result


def run(app: Host, client: socket.socket, switch: bytes, path: bytes) -> tuple[float, float]:
    """Microseconds for each request: by the clock, and of a processor in the app's main thread, which does them all."""
    main = app.tasks()[0]
    get(client, switch)
    for _ in range(WARMING[path]):
        get(client, path)
    used, begun = thread_seconds(main), time.perf_counter()
    for _ in range(REQUESTS[path]):
        get(client, path)
    took = time.perf_counter() - begun
    return took / REQUESTS[path] * 1e6, (thread_seconds(main) - used) / REQUESTS[path] * 1e6


Round = list[tuple[float, float]]


def rounds(app: Host, path: bytes, seconds: float) -> list[Round]:
    """Without, with, with, without, for so long, once at least."""
    found, until = [], time.monotonic() + seconds
    with app.connect() as client:
        while not found or time.monotonic() < until:
            found.append([run(app, client, switch, path) for switch in (b"/off", b"/on", b"/on", b"/off")])
    return found


def timed(folder: Path, seconds: float) -> dict[str, object]:
    """Each kind of request, in several apps of two threads; all of it takes about so many seconds."""
    result: dict[str, object] = {}
    for kind, path in KINDS.items():
        apps = []
        for seed in range(APPS):
            with host(folder, "thread", seed=seed) as app:
                apps.append(rounds(app, path, seconds / APPS / len(KINDS)))
        result[kind] = {"apps": APPS, "rounds": sum(map(len, apps)), **summary(apps)}
    return result


def summary(apps: Sequence[Sequence[Round]]) -> dict[str, object]:
    """The figures of one kind, in microseconds for each request, and ratios of with to without."""
    result: dict[str, object] = {}
    for place, name in enumerate(("processor", "wall")):
        rows = [[[run[1 - place] for run in one] for one in app] for app in apps]
        every = [row for app in rows for row in app]
        result[f"{name}_us_without"] = round(statistics.median(row[0] for row in every), 2)
        result[f"{name}_us_added"] = interval([[(r[1] + r[2] - r[0] - r[3]) / 2 for r in app] for app in rows])
        result[f"{name}_ratio"] = interval([[(r[1] + r[2]) / (r[0] + r[3]) for r in app] for app in rows])
    return result


def interval(apps: Sequence[Sequence[float]]) -> list[float]:
    """[least, median, most]: between the outer two lies the median with a probability of 95 %, by bootstrap.

    Apps are drawn, then rounds of each: one round tells nothing of an app with another layout.
    """
    chance = random.Random(0)  # the same data give the same interval

    def again() -> float:
        drawn = chance.choices(apps, k=len(apps))
        return statistics.median(value for app in drawn for value in chance.choices(app, k=len(app)))

    medians = sorted(again() for _ in range(RESAMPLES))
    median = statistics.median(value for app in apps for value in app)
    chosen = medians[RESAMPLES // 40], median, medians[-RESAMPLES // 40]
    return [round(value, 4) for value in chosen]


def rest(folder: Path, _seconds: float) -> dict[str, object]:
    """Memory, an idle minute, and the cost of questions. As root also of an agent that cannot change its user."""
    folder.chmod(0o777)
    users = {"as root": (), "as another user": (f"user={NOBODY}",)} if os.geteuid() == 0 else {"as a user": ()}
    result: dict[str, object] = {}
    for name, words in users.items():
        with host(folder, *words) as bare, host(folder, "agent", *words) as app:
            agent = app.tasks()[1]
            time.sleep(SETTLED_SECONDS)
            woken, used = sleeps(agent), thread_seconds(agent)
            time.sleep(IDLE_SECONDS)
            idle = {"wakeups_a_minute": (sleeps(agent) - woken) / IDLE_SECONDS * 60,
                    "processor_ms_a_minute": round((thread_seconds(agent) - used) / IDLE_SECONDS * 60e3, 3)}
            asked = questions(app)
            result[name] = {**idle, "added_anonymous_kib": app.anonymous_kib() - bare.anonymous_kib(), **asked}
    return result


def questions(app: Host) -> dict[str, object]:
    """Time of a processor for each GET /memory, in an app that is kept busy; the share of a core that is, as asked."""
    over = threading.Event()

    def load() -> None:
        with app.connect() as client:
            while not over.is_set():
                get(client)

    thread = threading.Thread(target=load)
    with Client(app.path) as client:
        client.ask("GET", "/memory")  # the first one finds out about malloc
        thread.start()
        try:
            agent = app.tasks()[1]
            used = thread_seconds(agent)
            for _ in range(ASKED_TIMES):
                time.sleep(ASKED_EVERY_SECONDS)
                client.ask("GET", "/memory")
            each = (thread_seconds(agent) - used) / ASKED_TIMES
        finally:
            over.set()
            thread.join()
    return {"GET /memory processor_ms": round(each * 1e3, 3),
            f"share_of_a_core_asked_every_{DEFAULT_EVERY_SECONDS:g}_s": round(each / DEFAULT_EVERY_SECONDS, 6)}


def main() -> None:
    """Measure, save, print."""
    parts: dict[str, Callable[[Path, float], dict[str, object]]] = {"counts": counts, "rest": rest, "time": timed}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(parts)}")
    parser.add_argument("--seconds", type=float, default=TIME_SECONDS,
                        help="what `time` takes, without the starts of its apps (default: %(default)g)")
    asked = parser.parse_args()
    unknown = [part for part in asked.parts if part not in parts]
    if unknown:
        parser.error(f"no part {unknown[0]!r}; there are {', '.join(parts)}")
    for part in asked.parts or parts:
        with tempfile.TemporaryDirectory() as name:
            merge("agent", part, {"machine": describe(), **parts[part](Path(name), asked.seconds)})


if __name__ == "__main__":
    main()
