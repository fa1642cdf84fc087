"""From the crossing of the critical line to the handler in the target: the sidecar, and beside it what people have.

The peer is the usual pipeline at its quickest: the same figures scraped by Prometheus every second, evaluated every
second, sent by Alertmanager without group_wait to a webhook that sends the signal. Both in one run, on one machine.
`python benchmarks/latency.py [CROSSINGS]` writes benchmarks/results/latency.json and prints a table.
"""

import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from crossing import LINE_MIB, RATE_MIB, crossings, growers, row, settings
from machine import describe, save
from servers import free_port, running_alertmanager, running_prometheus, wait_until
from sidecars import running_sidecar

PEER_REST_SECONDS = 6.0
"""A Prometheus and an Alertmanager see at their next turns that the last one is over."""


def by_sidecar(count: int) -> list[float]:
    """The sidecar acts by itself."""
    with tempfile.TemporaryDirectory() as name, growers() as (target,):
        folder, port = Path(name), free_port()
        with running_sidecar(folder, file=settings(port, folder, [target.pid]), port=port):
            return crossings(target, count)


def by_pipeline(count: int) -> list[float]:
    """The sidecar only shows; Prometheus, Alertmanager and a webhook act."""
    with tempfile.TemporaryDirectory() as name, growers() as (target,), ExitStack() as stack:
        folder, port = Path(name), free_port()
        stack.enter_context(running_sidecar(
            folder, port=port, file=settings(port, folder, [target.pid], actions={"mode": "observe"})))
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
        return crossings(target, count, PEER_REST_SECONDS)


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
