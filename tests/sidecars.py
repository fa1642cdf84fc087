"""A whole sidecar, guard and desk, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from servers import end, free_port, wait_until

MIB = 1 << 20


class Sidecar:
    """A running `rag-sidecar run`. Lives until its context ends."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def get(self, path: str) -> str:
        """The body of a page."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            body: str = answer.read().decode()
        return body

    def ready(self) -> bool:
        """Whether it answers on /-/ready with 200. AssertionError if it has ended."""
        assert self.process.poll() is None, f"the sidecar ended:\n{self.log.read_text()}"
        try:
            return "is ready" in self.get("/-/ready")
        except OSError:
            return False

    def actions(self) -> list[dict[str, Any]]:
        """The attempts, newest first."""
        found: list[dict[str, Any]] = json.loads(self.get("/api/v1/actions"))["data"]["actions"]
        return found

    def incidents(self) -> list[dict[str, Any]]:
        """The incidents, newest first."""
        found: list[dict[str, Any]] = json.loads(self.get("/api/v1/actions"))["data"]["incidents"]
        return found

    def said(self, message: str) -> list[dict[str, Any]]:
        """The lines of its log with this message."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["msg"] == message]

    def alerts(self) -> set[tuple[str, str]]:
        """(name, state) of the alerts."""
        found = json.loads(self.get("/api/v1/alerts"))["data"]["alerts"]
        return {(alert["labels"]["alertname"], alert["state"]) for alert in found}

    def series(self, name: str) -> dict[str, float]:
        """Label part → value of every series of a metric."""
        found = {}
        for line in self.get("/metrics").splitlines():
            if line.startswith((f"{name}{{", f"{name} ")):
                labels, _, value = line.removeprefix(name).rpartition(" ")
                found[labels] = float(value)
        return found

    def page_with(self, line: str) -> str:
        """The page of /metrics if it has this line, else the empty string."""
        page = self.get("/metrics")
        return page if line in page.splitlines() else ""

    def value(self, name: str, *parts: str) -> float | None:
        """The value of the one series of a metric whose labels contain all of `parts`."""
        found = [value for labels, value in self.series(name).items() if all(part in labels for part in parts)]
        assert len(found) <= 1, found
        return found[0] if found else None

    def outcome(self, seconds: float = 40.0, count: int = 1) -> dict[str, Any]:
        """The newest attempt, once `count` attempts have an outcome."""
        def judged() -> dict[str, Any] | None:
            done = [action for action in self.actions() if action["outcome"] != "running"]
            return done[0] if len(done) >= count else None

        return wait_until(judged, seconds, f"{count} judged cleanup(s); log:\n{self.log.read_text()[-3000:]}")

    def child(self, what: str) -> int:
        """The pid of the desk or the courier; 0 while there is none."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        for pid in children:
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except FileNotFoundError:
                continue  # it has ended since
            if what.encode() in words or f"sidecar.guard.{what}".encode() in words:
                return int(pid)
        return 0

    def stop(self) -> int:
        """End it by SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def config(port: int, storage: Path, targets: list[dict[str, Any]], **more: Any) -> str:
    """A sidecar.yml (JSON is YAML), with no warm-up so that a young target is acted on."""
    acting = {"global": {"warmup": "0s"}, **more.pop("actions", {})}
    return json.dumps({"targets": targets, "web": {"listen": f"127.0.0.1:{port}"}, "storage": {"path": str(storage)},
                       "actions": acting, **more}, indent=1)


@contextmanager
def running_sidecar(tmp_path: Path, *arguments: str, file: str = "", port: int = 0,
                    env: Mapping[str, str] | None = None, ready: bool = True,
                    within: Sequence[str] = ()) -> Iterator[Sidecar]:
    """Start `rag-sidecar run`, with `file` as its configuration, and wait until it is ready; end it at the end.

    `within` is the command, such as nsenter, that runs it.
    """
    port = port or free_port()
    command = [*within, sys.executable, "-P", "-m", "sidecar", "run"]
    if file:
        path = tmp_path / "sidecar.yml"
        path.write_text(file)
        command += ["--config.file", str(path)]
    else:
        command += ["--web.listen-address", f"127.0.0.1:{port}", "--storage.path", str(tmp_path / "state")]
    log = tmp_path / f"sidecar-{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, *arguments], stdout=out, stderr=out, env={**os.environ, **(env or {})})
    sidecar = Sidecar(process, port, log)
    try:
        if ready:
            wait_until(sidecar.ready, 20, "the sidecar to be ready")
        yield sidecar
    finally:
        end(process)


def told(tmp_path: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Tell the sidecar whose state is in `tmp_path / "state"` what to do, as a user types it."""
    words = [sys.executable, "-P", "-m", "sidecar", *arguments, "--storage.path", str(tmp_path / "state")]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def refused(tmp_path: Path, *arguments: str, file: str = "", env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a sidecar that cannot start: its exit code, and what it says."""
    if file:
        (tmp_path / "bad.yml").write_text(file)
        arguments = ("--config.file", str(tmp_path / "bad.yml"), *arguments)
    done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "run", *arguments], capture_output=True, text=True,
                          timeout=30, env={**os.environ, "HOME": str(tmp_path), **(env or {})}, check=False)
    return done.returncode, done.stderr
