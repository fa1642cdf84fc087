"""From the crossing of the critical line to the handler in the target: the sidecar, and beside it what people have.

Programs grow by 100 MiB a second, each at moments of its own; each crossing is timed inside the program, from its own
statm to its handler. The sidecar is measured alone, while clients ask 500 times a second, while its desk stands still
for 0.3 s of every second as in a long garbage collection, and beside a busy loop on every core; the peers alone. The
pipeline is process-exporter, Prometheus 3, Alertmanager and a webhook: scraping and evaluating every second without
group_wait, and as they are where nothing is configured. monit looks once a second, its shortest cycle.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import peers
from crossing import RATE_MIB, STEP_MIB, crossings, growers, of_all, row, settings
from load import LINE_MIB, TARGETS, State, measure
from machine import RESULTS, describe, merge, sentence
from servers import free_port
from sidecars import running_sidecar

MIB = 1 << 20
STATES = {
    "alone": State("rag-sidecar, SIGUSR1", 0),
    "asked": State("rag-sidecar, 500 requests/s"),
    "stopped": State("rag-sidecar, its desk stopped 0.3 s of each second", 0, stops=True),
    "busy": State("rag-sidecar, a busy loop on every core", 0, spinners=2),
}
PIPELINE = "process-exporter, Prometheus 3, Alertmanager, webhook"
PEERS = {"tuned": f"{PIPELINE}: 1 s, 1 s, 0 s", "monit": "monit, every second", "default": f"{PIPELINE}: defaults"}
SHARE = {"alone": 1.0, "asked": 1.0, "stopped": 0.5, "busy": 0.5, "tuned": 0.2, "monit": 0.2}
"""Of the crossings that are asked for."""
PEER_REST_SECONDS = 6.0
"""A Prometheus and an Alertmanager see at their next turns that the last one is over."""
DEFAULT_MINUTE_SECONDS, DEFAULT_PATIENCE_SECONDS = 60.0, 300.0
MOST_MS = {"alone": 10.0, "asked": 15.0}
MOST_MEDIAN_MS, LEAST_RATIO = 4.0, 100.0


def by_sidecar(part: str, count: int) -> dict[str, Any]:
    """The sidecar acts by itself."""
    with tempfile.TemporaryDirectory() as name, growers(TARGETS, LINE_MIB) as targets:
        folder, port = Path(name), free_port()
        file = settings(port, folder, [target.pid for target in targets], LINE_MIB)
        with running_sidecar(folder, file=file, port=port) as sidecar:
            found = measure(STATES[part], sidecar, targets, count)
    return {key: found[key] for key in ("crossings", "median_ms", "p90_ms", "p99_ms", "max_ms", "load_average")}


def by_peer(part: str, count: int) -> dict[str, Any]:
    """A peer acts. Its line counts what is resident: the files that the program has mapped are added to it."""
    with tempfile.TemporaryDirectory() as name, growers(TARGETS, LINE_MIB) as targets:
        folder, pids = Path(name), [target.pid for target in targets]
        line_bytes = LINE_MIB * MIB + peers.resident_bytes(pids[0])[1]
        acting: AbstractContextManager[None]
        if part == "monit":
            acting = peers.monit(folder, pids, line_bytes)
        else:
            pace = peers.TUNED if part == "tuned" else peers.DEFAULT
            acting = peers.pipeline(folder, "grower.py", pids, line_bytes, pace)
        with acting:
            if part != "default":
                return row(of_all(targets, count, PEER_REST_SECONDS))
            chance = random.Random(0)
            with ThreadPoolExecutor(TARGETS) as pool:  # each once: the second time they wait for group_interval
                started = [pool.submit(crossings, target, 1, chance.uniform(0, DEFAULT_MINUTE_SECONDS), 0,
                                       DEFAULT_PATIENCE_SECONDS) for target in targets]
                return row([seconds for one in started for seconds in one.result()])


def table(result: Mapping[str, Any]) -> str:
    """The result in Markdown."""
    lines = [
        "# From the crossing to the handler", "",
        f"{sentence(result['machine'])}. `python benchmarks/latency.py` makes this page.", "",
        "| who acts | crossings | ms: median | p90 | p99 | max | times the tuned pipeline's median | as promised |",
        "| :--- | ---: | ---: | ---: | ---: | ---: | ---: | :--- |"]
    peer = result.get("tuned", {}).get("median_ms", 0)
    for part, name in {**{part: state.name for part, state in STATES.items()}, **PEERS}.items():
        if part in result:
            found = result[part]
            ratio = found["median_ms"] / peer if peer else 0
            cells = [name, *(found[key] for key in ("crossings", "median_ms", "p90_ms", "p99_ms", "max_ms")),
                     f"1/{1 / ratio:,.0f}" if 0 < ratio < 0.5 else f"{ratio:.1f}" if ratio else "",
                     {True: "yes", False: "no", None: ""}[kept(part, found, peer)]]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", f"{TARGETS} programs grow by {RATE_MIB} MiB/s in steps of {STEP_MIB} MiB through a line at "
              f"{LINE_MIB} MiB each; peers have the machine for themselves.",
              f"Promised are a median of at most {MOST_MEDIAN_MS:g} ms and 1/{LEAST_RATIO:g} of the tuned pipeline's, "
              f"a p99 of at most {MOST_MS['alone']:g} ms,", f"and of {MOST_MS['asked']:g} ms under 500 requests/s.",
              "With their defaults the peers scrape and evaluate every minute and wait 30 s for more alerts: one",
              "crossing of each program, so few."]
    return "\n".join(lines) + "\n"


def kept(part: str, found: Mapping[str, Any], peer_ms: float) -> bool | None:
    """Whether what is promised of a row was so; None where nothing is."""
    if part not in MOST_MS:
        return None
    return bool(found["p99_ms"] <= MOST_MS[part] and found["median_ms"] <= MOST_MEDIAN_MS
                and (not peer_ms or LEAST_RATIO * found["median_ms"] <= peer_ms))


def main() -> None:
    """Measure what is asked for, keep the rest of what was measured before, print."""
    everything = [*STATES, *PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="200 crossings take 90 s alone, as long under requests, 45 s stopped and busy each, 60 s tuned and "
               "monit each, and 5 minutes with defaults: 12 in all, and two runs, of the first four and of the last "
               "three, take less than 10 each. A part is merged into results/latency.json, and latency.md made of it.")
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], *everything],
                        help=f"all ({' '.join(everything)})")
    parser.add_argument("--crossings", type=int, default=200, help="of the sidecar alone (200); others have a share")
    given = parser.parse_args()
    if not given.parts:
        (RESULTS / "latency.json").unlink(missing_ok=True)
    for part in given.parts or everything:
        found = (by_sidecar(part, round(SHARE[part] * given.crossings)) if part in STATES
                 else by_peer(part, round(SHARE.get(part, 0) * given.crossings)))
        merge("latency", part, found)
    merge("latency", "machine", describe())
    page = table(json.loads((RESULTS / "latency.json").read_text()))
    (RESULTS / "latency.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
