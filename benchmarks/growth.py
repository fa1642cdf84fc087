"""How what the sidecar costs grows: with targets, with rules, with series, and with time.

Each part is measured by itself and written into benchmarks/results/growth.json; growth.md shows all of them.

targets, rules, series   The real pipeline, store, journal and page in virtual time, each size in a process of its own:
                         processor time of a tick and of a scrape, and anonymous memory after two minutes. 1 minute
                         each; targets up to 5.
soak                     A day in virtual time: programs that leak, are killed, refuse, and are cleaned up all the time.
                         Memory at each hour, and how it goes on once everything that is kept is full: an hour of
                         samples, and the last 500 cleanups. 5 to 9 minutes.
real                     Guard and desk as a user starts them, beside programs that cross their lines, are cleaned up
                         and restarted, while /metrics is read every two seconds and other pages every ten. In its first
                         hour a sidecar fills its store, which is counted and told, too.
"""

import argparse
import gc
import json
import logging
import math
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from figures import write  # noqa: E402
from machine import describe, merge  # noqa: E402
from servers import end, free_port  # noqa: E402
from sidecars import Sidecar, config, running_sidecar  # noqa: E402
from virtual import HABITS, World, copies  # noqa: E402

from sidecar.actions.attempts import KEPT_ATTEMPTS  # noqa: E402
from sidecar.rules.load import load, shipped  # noqa: E402

SIZES: dict[str, tuple[dict[str, int], ...]] = {
    "targets": tuple({"targets": count} for count in (1, 10, 100, 1000)),
    "rules": tuple({"targets": 10, "rules": count} for count in (10, 100, 1000)),
    "series": tuple({"targets": 10, "series": count} for count in (0, 100, 1000)),
}
WARMING_TICKS, TICKS, SCRAPES = 60, 60, 5
HOURS, HOUR_TICKS, MOST_SECONDS = 24, 3600, 560.0
SOAK_HABITS = HABITS[1:4]
REAL_SECONDS, SAMPLE_SECONDS, RESTART_SECONDS = 120.0, 2.0, 45.0
HELPED = 7
"""So many that all cleanups that are kept are there after a quarter of an hour."""
PARTS = (*SIZES, "soak", "real")
BLOCKS = 12


def anon_kib(pid: int | str = "self") -> int:
    """Anonymous resident memory of a process."""
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
                if line.startswith("RssAnon:"))


def slope(rows: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Units a second, and the standard error: least squares over the means of blocks, as neighbours are alike."""
    size = max(1, len(rows) // BLOCKS)
    blocks = [rows[at:at + size] for at in range(0, len(rows) - size + 1, size)]
    points = [(statistics.mean(x for x, _ in block), statistics.mean(y for _, y in block)) for block in blocks]
    if len(points) < 3:
        return math.nan, math.nan
    mean_x, mean_y = (statistics.mean(values) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    found = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - found * (x - mean_x)) ** 2 for x, y in points)
    return found, math.sqrt(left / (len(points) - 2) / spread)


def an_hour(rows: Sequence[tuple[float, float]]) -> dict[str, float]:
    """(seconds, KiB) → KiB an hour, and its standard error."""
    found, error = slope(rows)
    return {"kib_an_hour": round(found * 3600, 1), "error": round(error * 3600, 1)}


def measured(targets: int, rules: int = 0, series: int = 0) -> dict[str, float]:
    """One size, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        before = anon_kib()
        world = World(targets, Path(folder), more_series=series, specs=copies(load(shipped()), rules) if rules else ())
        for _ in range(WARMING_TICKS):
            world.tick()
        ticks = sorted(world.tick() for _ in range(TICKS))
        scrapes = []
        for _ in range(SCRAPES):
            world.tick()
            scrapes.append(world.scrape())
        found = {"tick_mean_ms": ms(statistics.mean(ticks)), "tick_worst_ms": ms(ticks[-1]),
                 "scrape_ms": ms(statistics.median(seconds for seconds, _ in scrapes)),
                 "page_kib": round(scrapes[-1][1] / 1024, 1), "series": world.store.series_count,
                 "grown_mib": round((anon_kib() - before) / 1024, 2)}
        world.close()
    return found


def ms(seconds: float) -> float:
    """Milliseconds, as they are shown."""
    return round(seconds * 1000, 2)


def sizes(part: str) -> dict[str, Any]:
    """Every size of a part, each in a process of its own, with what it costs beside the smallest."""
    rows: dict[str, Any] = {}
    for size in SIZES[part]:
        done = subprocess.run([sys.executable, __file__, "--one", json.dumps(size)], stdout=subprocess.PIPE, check=True)
        row = json.loads(done.stdout)
        first = next(iter(rows.values()), row)
        rows[str(size[part])] = {**row, **{f"{what}_ratio": round(row[f"{what}_ms"] / first[f"{what}_ms"], 2)
                                           for what in ("tick_mean", "scrape")}}
        print(part, size, rows[str(size[part])], flush=True)
    return {"machine": describe(), "sizes": rows}


def soak(hours: int) -> dict[str, Any]:
    """Hours in virtual time, in this process."""
    rows, kinds, cleanups, full = [], Counter[str](), 0, None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        world, begun = World(len(SOAK_HABITS), folder, habits=SOAK_HABITS), time.monotonic()
        for hour in range(1, hours + 1):
            if (time.monotonic() - begun) * hour / max(1, hour - 1) > MOST_SECONDS:
                break  # a busy machine: what there is must do
            ticks = []
            for index in range(HOUR_TICKS):
                ticks.append(world.tick())
                if index % 60 == 0:
                    scrape, _ = world.scrape()
            cleanups += len(world.guard.deliveries.asked)
            world.guard.deliveries.asked.clear()  # it is the replay's, not the sidecar's
            rows.append({
                "hour": hour, "anon_kib": anon_kib(), "objects": len(gc.get_objects()),
                "series": world.store.series_count, "store_kib": world.store.size_bytes // 1024,
                "journal_kib": sum(file.stat().st_size for file in folder.iterdir()) // 1024,
                "cleanups": cleanups,
                "tick_mean_ms": ms(statistics.mean(ticks)), "tick_worst_ms": ms(max(ticks)), "scrape_ms": ms(scrape)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if full is None and hour > 1 and cleanups > KEPT_ATTEMPTS:
                full, kinds = hour, objects()
        more = (objects() - kinds).most_common(8) if full else []
        world.close()
    late = [(row["hour"] * 3600.0, float(row["anon_kib"])) for row in rows if full and row["hour"] >= full]
    return {"hours": rows, "full_after_hours": full, **an_hour(late), "more_objects": dict(more)}


def objects() -> Counter[str]:
    """Objects that the collector knows, by type."""
    gc.collect()
    return Counter(type(one).__name__ for one in gc.get_objects())


@contextmanager
def patients(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Programs that grow through their lines, one of them without a cleanup that helps; their targets.

    Each is restarted every now and then, as a deployment would. They are started by a link in the folder, so that no
    other program of the machine is taken for one of them.
    """
    over = threading.Event()
    helped = {f"helps-{number}": "leaky.py --rate 8 --handle SIGUSR1" for number in range(HELPED)}
    commands = {**helped, "still": "leaky.py --handle SIGUSR1",
                "leaks": "stubborn.py --rate 3 --limit 160"}

    def keep_running(name: str, command: str) -> None:
        program, *words = command.split()
        (folder / name).symlink_to(HERE.parent / "tests/targets" / program)
        while not over.is_set():
            process = subprocess.Popen([sys.executable, str(folder / name), *words],
                                       stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            over.wait(RESTART_SECONDS)
            end(process)

    with ExitStack() as stack:
        for name, command in commands.items():
            thread = threading.Thread(target=keep_running, args=(name, command))
            thread.start()
            stack.callback(thread.join)
        stack.callback(over.set)
        yield [{"name": name, "match": {"cmdline": re.escape(str(folder / name))}, "cleanup": [{"signal": "SIGUSR1"}],
                "memory": {"basis": "anon", "main": "80MiB", "critical": "100MiB"}}
               for name in commands]


def real(seconds: float) -> dict[str, Any]:
    """Both processes, sampled while they work; the first quarter is left out."""
    rows: list[tuple[float, float, float, float]] = []
    with tempfile.TemporaryDirectory() as name, patients(Path(name)) as targets:
        folder, port = Path(name), free_port()
        with running_sidecar(folder, file=config(port, folder, targets), port=port) as sidecar:
            begun = time.monotonic()
            while (at := time.monotonic() - begun) < seconds:
                used = sidecar.value("rag_sidecar_store_bytes") or 0.0
                rows.append((at, anon_kib(sidecar.process.pid), anon_kib(sidecar.child("desk")), used / 1024))
                read_pages(sidecar, len(rows))
                threading.Event().wait(max(0.0, begun + len(rows) * SAMPLE_SECONDS - time.monotonic()))
            cleanups = len(sidecar.actions())
            starts = sidecar.value("rag_sidecar_desk_starts_total")
    late = [row for row in rows if row[0] >= seconds / 4]
    slopes = {"guard": an_hour([(at, guard) for at, guard, _, _ in late]),
              "desk": an_hour([(at, desk) for at, _, desk, _ in late]),
              "store": an_hour([(at, store) for at, _, _, store in late]),
              "desk_less_store": an_hour([(at, desk - store) for at, _, desk, store in late])}
    minutes = [[round(at / 60), *map(int, kib)] for at, *kib in rows[::round(60 / SAMPLE_SECONDS)]]
    return {"seconds": seconds, "samples": len(late), "minutes": minutes, "cleanups_shown": cleanups,
            "desk_starts": starts,
            "anon_kib": {"guard": [rows[0][1], late[0][1], late[-1][1]], "desk": [rows[0][2], late[0][2], late[-1][2]]},
            **slopes}


def read_pages(sidecar: Sidecar, number: int) -> None:
    """What people and programs read."""
    sidecar.get("/metrics")
    if number % 5 == 0:
        for path in ("/", "/api/v1/alerts", "/api/v1/query?query=rag_memory_used_bytes[5m]", "/api/v1/rules"):
            sidecar.get(path)


def main() -> None:
    """Measure the parts that are named, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; without a name all")
    parser.add_argument("--hours", type=int, default=HOURS, help="virtual hours of the soak (%(default)s)")
    parser.add_argument("--real-seconds", type=float, default=REAL_SECONDS, help="of the real one (%(default)g)")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    parser.add_argument("--one", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.disable(logging.CRITICAL)  # what happens to invented programs is no news
    if given.one:
        print(json.dumps(measured(**given.one)))
        return
    for part in given.parts or PARTS:
        begun = time.monotonic()
        if part == "soak":
            found = {"machine": describe(), **soak(given.hours)}
        elif part == "real":
            found = {"machine": describe(), **real(given.real_seconds)}
        else:
            found = sizes(part)
        found["took_seconds"] = round(time.monotonic() - begun)
        if given.dry:
            print(json.dumps(found, indent=1))
        else:
            merge("growth", part, found)
    if not given.dry:
        write()


if __name__ == "__main__":
    main()
