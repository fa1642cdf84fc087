"""What the agent costs an app that serves HTTP: instructions, system calls and time for each request, memory, wakeups.

`python benchmarks/agent.py [counts] [rest] [time]` measures these parts, without an argument all, and writes each into
benchmarks/results/agent.json with its machine and date. The first two hold on a busy machine, too. Only `time` needs
a quiet one: `python benchmarks/agent.py time`.

counts  Instructions in user space by valgrind, system calls by strace: an app with an agent against one without.
        What many requests take less what few take, so that the start cancels out. For more than one hash seed: where
        things lie in memory decides which lookups of Python's collide, and moves it by more than the agent's own work.
time    One app whose agent is started and stopped by turns, in rounds without, with, with, without of some 10 ms each:
        so short that what else goes on in the machine hits all four alike. What follows a start or stop immediately
        is left out. The ratio of each round; their median, and between which values it lies (bootstrap, 95 %).
        Once in an app of one thread: the kernel looks up descriptors more cheaply there and malloc locks nothing, and
        the second thread ends that, whatever it does. Once in an app that has another thread anyway, as most have.
rest    Memory beside an app without, wakeups in an idle minute, and what it takes to be asked for the figures.
"""

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
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from agent_apps import Client  # noqa: E402
from agent_host import START_SECONDS, Host, get, host, sleeps, thread_seconds  # noqa: E402
from machine import describe, merge  # noqa: E402

SEEDS, FEW, MANY = 2, 500, 2500
ROUNDS, REQUESTS, WARMING, RESAMPLES = 2000, 60, 60, 1000
SETTLED_SECONDS, IDLE_SECONDS, NOBODY = 30.0, 60.0, 65534
ASKED_TIMES, ASKED_EVERY_SECONDS, DEFAULT_EVERY_SECONDS = 20, 1.0, 5.0

Ratios = list[tuple[float, float]]


def instructions(folder: Path, words: Sequence[str], requests: int, seed: int) -> int:
    """Of an app's whole life, in user space."""
    out = folder / "callgrind"
    app_life(folder, words, ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}"), requests, seed)
    return next(int(line.split()[1]) for line in out.read_text().splitlines() if line.startswith("totals:"))


def system_calls(folder: Path, words: Sequence[str], requests: int, seed: int) -> int:
    """Of an app's whole life."""
    out = folder / "strace"
    app_life(folder, words, ("strace", "-f", "-c", "-o", str(out)), requests, seed)
    return next(int(line.split()[3]) for line in out.read_text().splitlines() if line.endswith(" total"))


def app_life(folder: Path, words: Sequence[str], below: Sequence[str], requests: int, seed: int) -> None:
    """Starts, answers so many requests one after the other, ends."""
    with host(folder, *words, below=below, seed=seed) as app, app.connect() as client:
        for _ in range(requests):
            get(client)
        get(client, b"/end")
        app.process.wait(START_SECONDS)


def counts(folder: Path) -> dict[str, object]:
    """For each request, with and without; the ratio is with to without. System calls are the same for each seed."""
    result: dict[str, object] = {"requests": MANY - FEW}
    for tool, count, seeds in (("valgrind", instructions, SEEDS), ("strace", system_calls, 1)):
        if shutil.which(tool) is None:
            result[count.__name__] = f"not measured: {tool} is not installed"
            continue
        each: dict[str, list[float]] = {"without": [], "with": []}
        for seed in range(seeds):
            for words, name in ((("still",), "without"), (("still", "agent"), "with")):
                few, many = (count(folder, words, requests, seed) for requests in (FEW, MANY))
                each[name].append((many - few) / (MANY - FEW))
        ratios = [one / none for none, one in zip(each["without"], each["with"], strict=True)]
        result[count.__name__] = {
            **{name: round(statistics.mean(found), 2) for name, found in each.items()},
            "ratio": round(statistics.mean(ratios), 4), "ratios": [round(ratio, 4) for ratio in ratios],
        }  # fmt: skip
    return result


def run(app: Host, client: socket.socket, path: bytes) -> tuple[float, float]:
    """Microseconds for each request: by the clock, and of a processor in the app's main thread, which does them all."""
    main = app.tasks()[0]
    get(client, path)
    for _ in range(WARMING):
        get(client)
    used, begun = thread_seconds(main), time.perf_counter()
    for _ in range(REQUESTS):
        get(client)
    took = time.perf_counter() - begun
    return took / REQUESTS * 1e6, (thread_seconds(main) - used) / REQUESTS * 1e6


def paired(app: Host) -> dict[str, object]:
    """Rounds without, with, with, without; see the module."""
    rounds = []
    with app.connect() as client:
        for _ in range(ROUNDS):
            rounds.append([run(app, client, path) for path in (b"/off", b"/on", b"/on", b"/off")])
    result: dict[str, object] = {"rounds": ROUNDS}
    for place, name in enumerate(("wall", "processor")):
        rows = [[one[place] for one in four] for four in rounds]
        result[f"{name}_us_without"] = round(statistics.median(row[0] for row in rows), 2)
        result[f"{name}_us_with"] = round(statistics.median(row[1] for row in rows), 2)
        result[f"{name}_ratio"] = interval([(row[1] + row[2]) / (row[0] + row[3]) for row in rows])
    return result


def interval(ratios: Sequence[float]) -> list[float]:
    """[least, median, most]: between the outer two lies the median with a probability of 95 %, by bootstrap."""
    chance = random.Random(0)  # the same data give the same interval
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    chosen = medians[RESAMPLES // 40], statistics.median(ratios), medians[-RESAMPLES // 40]
    return [round(value, 4) for value in chosen]


def timed(folder: Path) -> dict[str, object]:
    """In an app of one thread, and in one of two."""
    found: dict[str, object] = {}
    for words, name in (((), "one thread"), (("thread",), "two threads")):
        with host(folder, *words) as app:
            found[name] = paired(app)
    return found


def rest(folder: Path) -> dict[str, object]:
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
    parts: dict[str, Callable[[Path], dict[str, object]]] = {"counts": counts, "rest": rest, "time": timed}
    wanted = sys.argv[1:] or list(parts)
    unknown = [part for part in wanted if part not in parts]
    if unknown:
        sys.exit(f"benchmarks/agent.py: no part {unknown[0]!r}; there are {', '.join(parts)}")
    for part in wanted:
        with tempfile.TemporaryDirectory() as name:
            merge("agent", part, {"machine": describe(), **parts[part](Path(name))})


if __name__ == "__main__":
    main()
