"""What being watched costs: the machine, and the program that is watched.

Each part is measured by itself and written into benchmarks/results/cost.json; cost.md shows all of them.

processes   Guard and desk, as they come (all is calm, so every other second), looking every second, and scraped every
            second as well, beside what people have instead: process-exporter, Prometheus and Alertmanager, also once a
            second, one alert rule. 1 to 1,000 processes, each a target. Processor time, and memory (PSS) at the end.
            About 13 minutes.
target      A program that holds 1 GiB and maps, touches and unmaps memory all the time: how many page faults it gets
            done in a second of its own processor time and by the clock, by turns while nobody looks, while the sidecar
            does, while process-exporter is scraped once a second, and while that reads smaps, too, as it does by
            default. Of each round the ratio to nobody; their median, and where it lies with 95 %. About 6 minutes.
reads       Which files of a watched process are read, counted by strace: one process, and a server of five. 2 minutes.
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peers
from crossing import cpu_seconds
from figures import write
from machine import describe, merge
from watched import reads, target
from watchers import HIGH_MIB, children, fetch, herd, scraped, sidecar_for, to_guard

SIZES = (1, 10, 100, 1000)
SETTLE_SECONDS, SECONDS = 12.0, 30.0
SCRAPES = 5
PARTS = ("processes", "target", "reads")


def memory_kib(pid: int, file: str, key: str) -> int:
    """One kB line of a file of /proc/PID."""
    return next(int(line.split()[1]) for line in Path(f"/proc/{pid}/{file}").read_text().splitlines()
                if line.startswith(f"{key}:"))


def used(pids: dict[str, int], seconds: float) -> dict[str, Any]:
    """What each process and all together take."""
    threading.Event().wait(SETTLE_SECONDS)
    before, begun = {who: cpu_seconds(pid) for who, pid in pids.items()}, time.monotonic()
    threading.Event().wait(seconds)
    took = time.monotonic() - begun
    rows = {who: {"cpu_percent": round(100 * (cpu_seconds(pid) - before[who]) / took, 2),
                  "pss_mib": round(memory_kib(pid, "smaps_rollup", "Pss") / 1024, 1),
                  "anon_mib": round(memory_kib(pid, "status", "RssAnon") / 1024, 2)} for who, pid in pids.items()}
    together = {key: round(sum(row[key] for row in rows.values()), 2) for key in ("cpu_percent", "pss_mib", "anon_mib")}
    return {**rows, "together": together}


def scrape_ms(url: str) -> float:
    """The median of a few scrapes, a second apart so that none is given the page of the last one."""
    found = []
    for _ in range(SCRAPES):
        threading.Event().wait(1.1)
        found.append(fetch(url))
    return round(statistics.median(found) * 1000, 1)


def size(count: int, seconds: float) -> dict[str, Any]:
    """So many processes, watched by us, then by the others."""
    with tempfile.TemporaryDirectory() as name, herd(count) as (_, pids):
        folder, calm = Path(name), Path(name, "calm")
        calm.mkdir()
        with sidecar_for(calm, to_guard(pids)) as (_, found):
            alone = {"calm": used(found, seconds)}
        with sidecar_for(folder, to_guard(pids), evaluation_interval="1s") as (sidecar, found):
            alone["unscraped"] = used(found, seconds)
            with scraped(f"{sidecar.url}/metrics"):
                ours = used(found, seconds)
            ours |= {how: {who: row["cpu_percent"] for who, row in rows.items()} for how, rows in alone.items()}
            ours["scrape_ms"] = scrape_ms(f"{sidecar.url}/metrics")
            ours["targets_up"] = sum(sidecar.series("rag_target_up").values())
            assert ours["targets_up"] == count, ours
        with peers.pipeline(folder, "herd.py", pids, HIGH_MIB << 20, peers.TUNED):
            running = {child.program: child for child in children() if "python" not in child.program}
            theirs = used({who: child.pid for who, child in running.items()}, seconds)
            theirs["scrape_ms"] = scrape_ms(f"http://127.0.0.1:{running['process-exporter'].port}/metrics")
    ratios = {key: round(ours["together"][key] / theirs["together"][key], 3) for key in ("cpu_percent", "pss_mib")}
    return {"ours": ours, "theirs": theirs, "ratio": ratios}


def processes(counts: Sequence[int], seconds: float) -> dict[str, Any]:
    """Every size."""
    rows = {}
    others = sum(entry.name.isdigit() for entry in Path("/proc").iterdir())  # process-exporter looks at all of them
    for count in counts:
        rows[str(count)] = size(count, seconds)
        print(count, json.dumps(rows[str(count)]), flush=True)
    return {"seconds": seconds, "other_processes": others, "sizes": rows}


def main() -> None:
    """Measure the parts that are named, save, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; without a name all")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="numbers of processes (%(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each size (%(default)g)")
    parser.add_argument("--rounds", type=int, default=30, help="of the target (%(default)s)")
    parser.add_argument("--dry", action="store_true", help="write nothing")
    given = parser.parse_args()
    for part in given.parts or PARTS:
        begun = time.monotonic()
        if part == "processes":
            found = processes(given.sizes, given.seconds)
        elif part == "target":
            found = target(given.rounds)
        else:
            found = reads()
        found = {"machine": describe(), **found, "took_seconds": round(time.monotonic() - begun)}
        if given.dry:
            print(json.dumps(found, indent=1))
        else:
            merge("cost", part, found)
            write()


if __name__ == "__main__":
    main()
