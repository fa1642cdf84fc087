"""From an Alertmanager's recovery to the alert that it has missed: the sidecar, and beside it a Prometheus.

Both evaluate the same rule, which fires while every Alertmanager answers 503; each has Alertmanagers of its own, and
these recover so many seconds after the first post that they refused. What counts is the time from there to the first
post that they accept. Prometheus has its defaults, and evaluates every 15 s as its example configuration does.
`python benchmarks/redelivery.py [SECONDS…]` (outages; 10 to 60) writes benchmarks/results/redelivery.json.
"""

import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from machine import describe, save  # noqa: E402
from servers import AlertRecorder, free_port, running_prometheus, wait_until  # noqa: E402
from sidecars import config, running_sidecar  # noqa: E402

LONGEST_WAIT_SECONDS = 300.0


def redelivery(recorder: AlertRecorder, outage_seconds: float) -> float:
    """Seconds from the recovery to the first alert, after an outage that begins with the first post."""
    wait_until(lambda: recorder.posts, LONGEST_WAIT_SECONDS, "the first post")
    threading.Event().wait(outage_seconds)
    recorder.posts.clear()
    recorder.status, recovered = 200, time.monotonic()
    wait_until(lambda: recorder.posts, LONGEST_WAIT_SECONDS, "a post after the recovery")
    return time.monotonic() - recovered


def measured(outages: Sequence[float]) -> dict[str, list[float]]:
    """Sender → seconds, one for each outage."""
    with ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        rules = folder / "rules.yml"
        rules.write_text(json.dumps({"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "vector(1)"}]}]}))
        told = {sender: [stack.enter_context(AlertRecorder(status=503)) for _ in outages]
                for sender in ("rag-sidecar", "Prometheus")}
        with ThreadPoolExecutor(2 * len(outages)) as pool:
            found = {sender: [pool.submit(redelivery, recorder, outage)
                              for recorder, outage in zip(recorders, outages, strict=True)]
                     for sender, recorders in told.items()}
            peers = [recorder.url.removeprefix("http://") for recorder in told["Prometheus"]]
            scraping = ("global: {evaluation_interval: 15s}\n"
                        f"alerting: {{alertmanagers: [{{static_configs: [{{targets: {json.dumps(peers)}}}]}}]}}")
            file = config(port, folder / "state", [{"name": "t", "match": {"pid": os.getpid()}}], rules=[str(rules)],
                          alertmanagers=[recorder.url for recorder in told["rag-sidecar"]])
            with (running_prometheus(scraping, folder, [rules]),
                  running_sidecar(folder, port=port, file=file)):
                return {sender: [future.result() for future in futures] for sender, futures in found.items()}


def main() -> None:
    """Measure both, save, print."""
    outages = sorted({float(word) for word in sys.argv[1:]}) or [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    rows = {f"{sender}, seconds from recovery to alert": {
        **{f"after_{outage:g}s": round(value, 2) for outage, value in zip(outages, values, strict=True)},
        "median": round(statistics.median(values), 2), "max": round(max(values), 2),
    } for sender, values in measured(outages).items()}
    save("redelivery", {"machine": describe(), **rows})


if __name__ == "__main__":
    main()
