"""From the crossing of the critical line to the handler in the target: the sidecar, and beside it what people have.

The peer is the usual pipeline at its quickest: the same figures scraped by Prometheus every second, evaluated every
second, sent by Alertmanager without group_wait to a webhook that sends the signal. Both in one run, on one machine.
`python benchmarks/latency.py [CROSSINGS]` writes benchmarks/results/latency.json and prints a table.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from machine import describe, save  # noqa: E402
from servers import end, free_port, running_alertmanager, running_prometheus, wait_until  # noqa: E402
from sidecars import config, running_sidecar  # noqa: E402

RATE_MIB, LINE_MIB, STEP_MIB = 100, 150, 0.25


@contextmanager
def grower() -> "Iterator[subprocess.Popen[bytes]]":
    """The target, ready."""
    command = [sys.executable, str(HERE / "grower.py"), str(RATE_MIB), str(LINE_MIB), str(STEP_MIB)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process
    finally:
        end(process)


def crossings(process: "subprocess.Popen[bytes]", count: int, rest_seconds: float) -> list[float]:
    """Seconds from crossing to handler, `count` times. The rest lets the sidecar judge what the last one did."""
    assert process.stdin
    assert process.stdout
    found = []
    for _ in range(count):
        threading.Event().wait(rest_seconds)
        process.stdin.write(b"\n")
        process.stdin.flush()
        noted = json.loads(process.stdout.readline())
        found.append(noted["handled"] - noted["crossed"])
    return found


def settings(port: int, folder: Path, pid: int, **more: object) -> str:
    """A sidecar.yml with the critical line at LINE_MIB."""
    target = {"name": "t", "match": {"pid": pid}, "cleanup": [{"signal": "SIGUSR1"}],
              "memory": {"basis": "anon", "critical": f"{LINE_MIB}MiB", "main": f"{LINE_MIB - 10}MiB"}}
    return config(port, folder, [target], **more)


def by_sidecar(count: int) -> list[float]:
    """The sidecar acts by itself."""
    with tempfile.TemporaryDirectory() as name, grower() as target:
        folder, port = Path(name), free_port()
        with running_sidecar(folder, file=settings(port, folder, target.pid), port=port):
            return crossings(target, count, 3.5)


def by_pipeline(count: int) -> list[float]:
    """The sidecar only shows; Prometheus, Alertmanager and a webhook act."""
    with tempfile.TemporaryDirectory() as name, grower() as target, ExitStack() as stack:
        folder, port = Path(name), free_port()
        stack.enter_context(running_sidecar(
            folder, port=port, file=settings(port, folder, target.pid, actions={"mode": "observe"})))
        hook = stack.enter_context(webhook(target.pid))
        alertmanager = stack.enter_context(running_alertmanager(folder, webhook_url=hook))
        rules = folder / "rules.yml"
        expr = 'rag_memory_used_bytes > ignoring(level) rag_memory_threshold_bytes{level="critical"}'
        rules.write_text(json.dumps({"groups": [{"name": "g", "rules": [{"alert": "Critical", "expr": expr}]}]}))
        scraping = ("global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
                    f"alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager.url[7:]}']}}]}}]}}\n"
                    f"scrape_configs:\n- {{job_name: rag, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}")
        prometheus = stack.enter_context(running_prometheus(scraping, folder, rule_files=[rules]))
        wait_until(lambda: prometheus.query("rag_memory_used_bytes"), 30, "the first scrape")
        return crossings(target, count, 6.0)


@contextmanager
def webhook(pid: int) -> Iterator[str]:
    """A receiver that signals the target when the critical alert fires."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if any(alert["status"] == "firing" for alert in message["alerts"]):
                os.kill(pid, signal.SIGUSR1)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def row(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: median, 90th percentile, maximum."""
    ordered = sorted(seconds)
    return {"crossings": len(ordered), "median_ms": round(statistics.median(ordered) * 1000, 2),
            "p90_ms": round(ordered[int(0.9 * (len(ordered) - 1))] * 1000, 2), "max_ms": round(ordered[-1] * 1000, 2)}


def main() -> None:
    """Measure both, save, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    ours, peer = row(by_sidecar(count)), row(by_pipeline(max(5, count // 4)))
    result = {"machine": describe(), "growth_mib_per_second": RATE_MIB, "line_mib": LINE_MIB,
              "rag-sidecar, SIGUSR1": ours, "Prometheus + Alertmanager + webhook (1 s, 1 s, 0 s)": peer,
              "ratio_of_medians": round(peer["median_ms"] / ours["median_ms"], 1)}
    save("latency", result)


if __name__ == "__main__":
    main()
