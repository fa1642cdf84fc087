"""What people have instead: Prometheus 3 with process-exporter, Alertmanager and a webhook; monit; earlyoom.

All are Debian's packages, run from a folder on free loopback ports. A process is known to them by its pid.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import newer_prometheus
from servers import (
    end,
    find_binary,
    free_port,
    running_alertmanager,
    running_prometheus,
    wait_until,
)

READY_SECONDS = 30.0


class Pace(NamedTuple):
    """How often Prometheus scrapes and evaluates, how long it waits for a page, and how long Alertmanager waits."""

    interval: str
    timeout: str
    group_wait: str
    group_interval: str


TUNED = Pace("1s", "1s", "0s", "1s")
DEFAULT = Pace("1m", "10s", "30s", "5m")
"""As they are where nothing is configured."""
LEAN = ("-threads=false", "-gather-smaps=false")


def resident_bytes(pid: int) -> tuple[int, int]:
    """(resident, of these backed by files)."""
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE"), int(words[2]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def pipeline(folder: Path, program: str, pids: Sequence[int], line_bytes: int, pace: Pace) -> Iterator[None]:
    """SIGUSR1 to each of these processes, which run `program`, when Prometheus sees more resident than the line."""
    with ExitStack() as stack:
        exporter = stack.enter_context(process_exporter(folder, program))
        hook = stack.enter_context(webhook(pids))
        routes = {"receiver": "hook", "group_by": ["..."], "group_wait": pace.group_wait,
                  "group_interval": pace.group_interval}
        receivers = [{"name": "hook", "webhook_configs": [{"url": hook}]}]
        alertmanager = stack.enter_context(running_alertmanager(
            folder, config_yaml=json.dumps({"route": routes, "receivers": receivers})))
        names = "|".join(map(str, pids))
        used = f'namedprocess_namegroup_memory_bytes{{memtype="resident",groupname=~"{names}"}}'
        rules = folder / "peer-rules.yml"
        alert = {"alert": "Critical", "expr": f"{used} > {line_bytes}"}
        rules.write_text(json.dumps({"groups": [{"name": "g", "rules": [alert]}]}))
        scraping = {
            "global": {"scrape_interval": pace.interval, "evaluation_interval": pace.interval,
                       "scrape_timeout": pace.timeout},
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.url[7:]]}]}]},
            "scrape_configs": [{"job_name": "processes", "static_configs": [{"targets": [exporter]}]}]}
        prometheus = stack.enter_context(running_prometheus(
            json.dumps({**scraping, "rule_files": [str(rules)]}), folder, program=newer_prometheus.find()))
        wait_until(lambda: len(prometheus.query(used)["result"]) == len(pids), 150, "the first scrape of every process")
        yield


@contextmanager
def process_exporter(folder: Path, program: str, flags: Sequence[str] = LEAN) -> Iterator[str]:
    """Its address. Every process whose command line has `program` is a group of its own."""
    config, port = folder / "exporter.yml", free_port()
    config.write_text(json.dumps({"process_names": [{"name": "{{.PID}}", "cmdline": [re.escape(program)]}]}))
    command = [find_binary("process-exporter", "prometheus-process-exporter"), "-config.path", config,
               f"-web.listen-address=127.0.0.1:{port}", *flags]
    with running(command, folder / "exporter.log"):
        yield f"127.0.0.1:{port}"


@contextmanager
def webhook(pids: Sequence[int]) -> Iterator[str]:
    """A receiver that signals a process when its alert fires."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            for alert in message["alerts"]:
                if alert["status"] == "firing" and int(alert["labels"]["groupname"]) in pids:
                    os.kill(int(alert["labels"]["groupname"]), signal.SIGUSR1)
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


@contextmanager
def monit(folder: Path, pids: Sequence[int], line_bytes: int) -> Iterator[None]:
    """SIGUSR1 to each of these processes when monit, at its shortest cycle of a second, sees more than the line."""
    lines = ["set daemon 1", f'set log "{folder}/monit.log"',
             *(f'set {kind}file "{folder}/monit.{kind}"' for kind in ("pid", "state", "id"))]
    for pid in pids:
        (folder / f"{pid}.pid").write_text(f"{pid}\n")
        lines += [f'check process p{pid} with pidfile "{folder}/{pid}.pid"',
                  f'  if memory usage > {line_bytes // 1024} KB then exec "/bin/kill -USR1 {pid}"']
    config = folder / "monitrc"
    config.write_text("\n".join(lines) + "\n")
    config.chmod(0o600)
    with running([find_binary("monit", "monit"), "-I", "-c", config], folder / "monit.out"):
        wait_until((folder / "monit.state").exists, READY_SECONDS, "monit to be ready")
        yield


@contextmanager
def earlyoom(folder: Path) -> Iterator[None]:
    """As it comes: it looks at the memory of the machine, and kills."""
    with running([find_binary("earlyoom", "earlyoom")], folder / "earlyoom.log"):
        wait_until(lambda: "sending SIGTERM" in (folder / "earlyoom.log").read_text(), READY_SECONDS, "earlyoom")
        yield


@contextmanager
def running(command: Sequence[str | Path], log: Path) -> Iterator[None]:
    """A program until the end of the block."""
    with log.open("wb") as out:
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        yield
    finally:
        end(process)
