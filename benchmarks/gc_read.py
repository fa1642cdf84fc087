"""What it costs to read the collector of a running Python, and what the Python notices of it.

A target with memory answers requests, each of which maps a piece more and gives it back, while a second process reads
it ten times a second: its collector, or /proc/PID/smaps_rollup as the peer, or nothing. The three take turns.
`python benchmarks/gc_read.py [ROUNDS]` writes benchmarks/results/gc_read.json and prints a table.
"""

import mmap
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from machine import describe, save  # noqa: E402
from servers import end  # noqa: E402

from sidecar.model import Labels  # noqa: E402
from sidecar.probes.gc_remote import GcProbe  # noqa: E402
from sidecar.probes.series import SeriesOf  # noqa: E402

RESIDENT_MIB, PIECE_BYTES, HERTZ, RUN_SECONDS, PAUSE_SECONDS = 512, 1 << 20, 10, 4.0, 0.001
READS = 20_000


def serve(file: int) -> None:
    """The target: hold memory, answer each byte with the seconds that mapping, touching and unmapping a piece took."""
    held = bytearray(RESIDENT_MIB << 20)
    held[::4096] = b"1" * len(range(0, len(held), 4096))
    with socket.socket(fileno=file) as client:
        client.sendall(b"r")
        while client.recv(1):
            begun = time.perf_counter()
            piece = mmap.mmap(-1, PIECE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            piece[0] = 1
            piece.close()
            client.sendall(struct.pack("<d", time.perf_counter() - begun))


def watch(pid: int, what: str) -> None:
    """The reader: HERTZ times a second until its input ends. Prints what one reading took, in microseconds."""
    probe, taken, closed = GcProbe(pid, SeriesOf(Labels({"target": "t"}))), [], threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), closed.set()), daemon=True).start()
    while not closed.wait(1 / HERTZ):
        begun = time.perf_counter()
        if what == "gc":
            probe.read(0.0)
        elif what == "smaps_rollup":
            Path(f"/proc/{pid}/smaps_rollup").read_bytes()
        taken.append(time.perf_counter() - begun)
    print(statistics.median(taken) * 1e6)


@contextmanager
def target() -> "Iterator[tuple[int, socket.socket]]":
    """The target, ready."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, "serve", str(theirs.fileno())]
    process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    try:
        assert ours.recv(1) == b"r"
        yield process.pid, ours
    finally:
        ours.close()
        end(process)


def run(pid: int, client: socket.socket, what: str) -> tuple[list[float], list[float], float]:
    """Seconds of each mapping, of each request; and the median of a reading, in microseconds."""
    reader = subprocess.Popen([sys.executable, __file__, "watch", str(pid), what], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    mappings, requests, until = [], [], time.perf_counter() + RUN_SECONDS
    while (begun := time.perf_counter()) < until:
        client.sendall(b"?")
        mappings.append(struct.unpack("<d", client.recv(8))[0])
        requests.append(time.perf_counter() - begun)
        time.sleep(PAUSE_SECONDS)
    output, _ = reader.communicate(b"")
    return mappings, requests, float(output)


def row(seconds: list[float]) -> dict[str, float]:
    """Microseconds: median, 99th percentile, maximum."""
    ordered = sorted(seconds)
    places = {"p50_us": len(ordered) // 2, "p99_us": int(0.99 * len(ordered)), "max_us": -1}
    return {name: round(ordered[place] * 1e6, 1) for name, place in places.items()}


def one_read() -> dict[str, float]:
    """Microseconds of a reading with all its samples; and of the two preads and unpackings alone, the best of five."""
    with target() as (pid, _):
        probe, found = GcProbe(pid, SeriesOf(Labels({"target": "t"}))), {}
        read, whole = probe._memory.read, struct.Struct(f"<{probe._state.size // 8}q")
        for name, function in (("with_samples", lambda: probe.read(0.0)),
                               ("preads_and_unpacking", lambda: (read(probe._main_at, 8), whole.unpack(
                                   read(probe._gc, probe._state.size))))):
            best = min(_timed(function) for _ in range(5))
            found[f"{name}_us"] = round(best / READS * 1e6, 2)
        begun = time.perf_counter()
        for _ in range(100):
            GcProbe(pid, SeriesOf(Labels({"target": "t"}))).close()
        found["attach_us"] = round((time.perf_counter() - begun) / 100 * 1e6, 1)
        return found


def _timed(function: "object") -> float:
    begun = time.perf_counter()
    for _ in range(READS):
        function()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, save, print."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    kinds = ("nothing", "gc", "smaps_rollup")
    found = {kind: ([], [], []) for kind in kinds}
    result = {"machine": describe(), "one reading": one_read()}
    with target() as (pid, client):
        for _ in range(rounds):
            for kind in kinds:
                mappings, requests, reading = run(pid, client, kind)
                for into, what in zip(found[kind], (mappings, requests, [reading]), strict=True):
                    into.extend(what)
    result["resident_mib"], result["readings_per_second"] = RESIDENT_MIB, HERTZ
    result["seconds_each"] = rounds * RUN_SECONDS
    for kind, (mappings, requests, readings) in found.items():
        result[f"{kind}: mapping in the target"] = row(mappings)
        result[f"{kind}: request"] = row(requests)
        if kind != "nothing":
            result[f"{kind}: a reading"] = {"median_us": round(statistics.median(readings), 1)}
    save("gc_read", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(int(sys.argv[2]))
    elif sys.argv[1:2] == ["watch"]:
        watch(int(sys.argv[2]), sys.argv[3])
    else:
        main()
