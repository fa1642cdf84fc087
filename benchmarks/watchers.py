"""Small programs to be watched, and those that watch them, by pid."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from crossing import HERE
from servers import end, free_port, wait_until
from sidecars import Sidecar, config

READY_SECONDS = 120.0
HIGH_MIB = 1 << 20
"""A line that nobody comes near."""


class Child(NamedTuple):
    """A program that was started here; `port` is where it was told to listen, 0 if it was not."""

    program: str
    pid: int
    port: int


@contextmanager
def herd(count: int, mib: float = 0.1) -> Iterator[tuple[int, list[int]]]:
    """So many small processes: the pid of the first one, which has forked them, and theirs."""
    process = subprocess.Popen([sys.executable, str(HERE / "herd.py"), str(count), str(mib)],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        yield process.pid, json.loads(process.stdout.readline())
    finally:
        end(process)


def children() -> list[Child]:
    """The programs that were started here and run."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            words = Path(f"/proc/{pid}/cmdline").read_text()
            port = re.search(r"web\.listen-address=127\.0\.0\.1:(\d+)", words)
            name = Path(words.split("\0")[0]).name.removeprefix("prometheus-")
            found.append(Child(name, int(pid), int(port[1]) if port else 0))
    return found


def fetch(url: str) -> float:
    """Seconds that a page takes."""
    begun = time.monotonic()
    with urllib.request.urlopen(url, timeout=30) as answer:
        answer.read()
    return time.monotonic() - begun


@contextmanager
def scraped(url: str) -> Iterator[None]:
    """Read a page once a second, until the end of the block."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(1.0):
            fetch(url)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def to_guard(pids: Sequence[int]) -> list[dict[str, Any]]:
    """Targets, each with lines that nobody comes near and a cleanup that nobody will ask for."""
    return [{"name": f"t{at}", "match": {"pid": pid}, **HARMLESS} for at, pid in enumerate(pids)]


HARMLESS = {"cleanup": [{"signal": "SIGUSR1"}],
            "memory": {"basis": "anon", "main": f"{HIGH_MIB}MiB", "critical": f"{HIGH_MIB + 1}MiB"}}


@contextmanager
def sidecar_for(folder: Path, targets: list[dict[str, Any]], **more: Any) -> Iterator[tuple[Sidecar, dict[str, int]]]:
    """The installed command, ready, as `python -m` would count Python's own runpy; guard and desk by name.

    `more` goes into its configuration.
    """
    port, file, log = free_port(), folder / "sidecar.yml", folder / "sidecar.log"
    file.write_text(config(port, folder, targets, **more))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    command = [Path(sys.executable).parent / "rag-sidecar", "run", "--config.file", file]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stderr=out, env=environment)
    try:
        sidecar = Sidecar(process, port, log)
        wait_until(sidecar.ready, READY_SECONDS, "the sidecar")
        yield sidecar, {"guard": process.pid, "desk": sidecar.child("desk")}
    finally:
        end(process, 30)
