"""What the agent costs an app that serves HTTP: time of a processor for each request, memory, wakeups when idle.

A uvicorn app has its agent started and stopped by turns, under the same load in short runs: with it, each request is
counted and the figures are asked for once a second. Each run is compared with the one beside it. It is one process,
because two that do the same differ by several percent. Processor time is that of the app alone, so what else runs on
the machine matters less. Memory and wakeups are those of two apps of which one has an agent.
`python benchmarks/agent.py [ROUNDS]` writes benchmarks/results/agent.json and prints a table.
"""

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from agent_apps import Client  # noqa: E402
from machine import describe, save  # noqa: E402
from servers import end, free_port, wait_until  # noqa: E402

RUN_SECONDS, IDLE_SECONDS, READS, FOLDER = 1.5, 10.0, 300, "RAG_SIDECAR_AGENT_DIR"
REQUEST = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"x" * 1000


def serve(port: int, with_agent: bool) -> None:
    """The app: some dictionaries for each request, so that the collector has something to do."""
    import uvicorn

    def nothing() -> None:
        pass

    count = nothing
    if with_agent:
        from sidecar import agent

        agent.start()
    kept = [{n: [n]} for n in range(100_000)]

    async def app(scope: dict, receive: object, send: object) -> None:
        nonlocal count
        if scope["path"] != "/":
            from sidecar import agent

            (agent.start if scope["path"] == "/on" else agent.stop)()
            count = agent.count_request if scope["path"] == "/on" else nothing
        count()
        for place in range(50):
            kept[place] = {"n": [place], "again": [{"n": place}]}
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": BODY})

    uvicorn.run(app, port=port, log_level="error", lifespan="off")


@contextmanager
def app(folder: Path, with_agent: bool) -> "Iterator[tuple[int, int]]":
    """The app, answering: its pid and port."""
    port = free_port()
    command = [sys.executable, __file__, "serve", str(port), str(int(with_agent))]
    process = subprocess.Popen(command, env={**os.environ, FOLDER: str(folder)})
    try:
        wait_until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, 30, "the app")
        yield process.pid, port
    finally:
        end(process)


def get(client: socket.socket, path: bytes) -> None:
    """One request, and its answer."""
    client.sendall(REQUEST % path)
    answer = b""
    while len(answer) < 1000 or not answer.endswith(BODY):
        answer += client.recv(65536)


def load(pid: int, port: int) -> tuple[float, float]:
    """Requests a second over one connection, one after the other; microseconds of processor time for each."""
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        done, used, begun = 0, processor_seconds(pid), time.perf_counter()
        while (now := time.perf_counter()) < begun + RUN_SECONDS:
            get(client, b"/")
            done += 1
        return done / (now - begun), (processor_seconds(pid) - used) / done * 1e6


def processor_seconds(pid: int) -> float:
    """What all threads of a process have run so far."""
    return sum(map(thread_seconds, Path(f"/proc/{pid}/task").iterdir()))


def anonymous_kib(pid: int) -> int:
    """From smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))


def agent_thread(pid: int) -> Path:
    """The agent's: the second one that the app starts. Before Python 3.14 its name stays inside Python."""
    return sorted(Path(f"/proc/{pid}/task").iterdir(), key=lambda task: int(task.name))[1]


def wakeups(task: Path) -> int:
    """Times that a thread has slept so far."""
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


def thread_seconds(task: Path) -> float:
    """What a thread has run so far."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9


@contextmanager
def asked_every_second(path: Path) -> "Iterator[None]":
    """As a sidecar does, on a connection that stays."""
    over = threading.Event()

    def ask() -> None:
        with Client(path) as client:
            while not over.wait(1.0):
                client.ask("GET", "/memory")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def requests(rounds: int, pid: int, port: int, path: Path) -> dict[str, object]:
    """With and without by turns; whose turn is first alternates. The ratio is of processor time, with to without."""
    found: list[list[tuple[float, float]]] = [[], []]
    used = 0.0
    for number in range(rounds):
        for which in ((0, 1), (1, 0))[number % 2]:
            with socket.create_connection(("127.0.0.1", port)) as client:
                get(client, (b"/off", b"/on")[which])
            with asked_every_second(path) if which else nullcontext():
                found[which].append(load(pid, port))
            used += thread_seconds(agent_thread(pid)) if which else 0.0
    ratios = sorted(one[1] / none[1] for none, one in zip(*found, strict=True))
    result: dict[str, object] = {}
    for runs, name in zip(found, ("without", "with"), strict=True):
        result[f"{name}_per_second"] = round(statistics.median(run[0] for run in runs))
        result[f"{name}_us_each"] = round(statistics.median(run[1] for run in runs), 2)
    quartiles = statistics.quantiles(ratios, n=4)
    return {**result, "ratio_quartiles": [round(quartile, 4) for quartile in quartiles],
            "agent_thread_share_of_a_core": round(used / rounds / RUN_SECONDS, 5)}


def reading(path: Path) -> dict[str, float]:
    """Milliseconds of GET /memory."""
    taken = []
    with Client(path) as client:
        for _ in range(READS):
            begun = time.perf_counter()
            client.ask("GET", "/memory")
            taken.append((time.perf_counter() - begun) * 1e3)
    taken.sort()
    return {"p50_ms": round(taken[READS // 2], 3), "p99_ms": round(taken[int(READS * 0.99)], 3)}


def main() -> None:
    """Measure, save, print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    result: dict[str, object] = {"machine": describe(), "rounds": rounds, "run_seconds": RUN_SECONDS}
    with tempfile.TemporaryDirectory() as name, app(Path(name), False) as bare, app(Path(name), True) as other:
        path = Path(name) / f"rag-sidecar-{os.geteuid()}" / f"{other[0]}.sock"
        before = wakeups(agent_thread(other[0]))
        time.sleep(IDLE_SECONDS)
        result["idle"] = {"agent_wakeups_per_second": (wakeups(agent_thread(other[0])) - before) / IDLE_SECONDS}
        with Client(path) as client:
            client.ask("GET", "/memory")
        result["memory"] = {"added_anonymous_kib": anonymous_kib(other[0]) - anonymous_kib(bare[0])}
        result["GET /memory"] = reading(path)
        path = path.with_name(f"{bare[0]}.sock")
        result["requests"] = requests(rounds, *bare, path)
    save("agent", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]), sys.argv[3] == "1")
    else:
        main()
