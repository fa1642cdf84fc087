"""Real servers with workers, gunicorn with Flask and uvicorn: each worker's figures, their sum, and slots that stay."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from probing import MIB, target
from servers import end, free_port

from sidecar.model import Labels
from sidecar.probes.sampler import Sampler
from sidecar.procfs import parse_keyed

APPS = Path(__file__).parent / "apps"
CGROUP = Path("/sys/fs/cgroup/memory")
SERVERS: dict[str, Callable[[int], list[str]]] = {
    "gunicorn": lambda port: ["gunicorn", "--workers", "2", "--bind", f"127.0.0.1:{port}", "wsgi:app"],
    "gunicorn with preload": lambda port: ["gunicorn", "--workers", "2", "--preload", "--bind", f"127.0.0.1:{port}",
                                           "wsgi:app"],
    "uvicorn": lambda port: ["uvicorn", "--workers", "2", "--port", str(port), "--log-level", "warning", "asgi:app"],
}


class Server:
    """A server with two workers. Lives until its test ends."""

    def __init__(self, command: list[str], port: int, cgroup: Path | None, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.cgroup = cgroup
        script = f'{f"echo $$ > {cgroup}/cgroup.procs; " if cgroup else ""}exec "$@"'
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", script, "sh", sys.executable, "-m", *command], cwd=APPS, stdout=out, stderr=out,
                start_new_session=True)

    def get(self, path: str = "/") -> Any:
        """What a worker answers."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def up(self) -> bool:
        """Whether it answers."""
        try:
            return "pid" in self.get()
        except OSError:
            return False

    def workers(self) -> set[int]:
        """The pids of the workers that answer."""
        found: set[int] = set()

        def both() -> bool:
            found.add(self.get()["pid"])
            return len(found) == 2

        wait_until(both, 20, "two workers")
        return found

    def charged_bytes(self) -> int:
        """What its cgroup has been charged for anonymous and shared memory."""
        assert self.cgroup
        stat = parse_keyed((self.cgroup / "memory.stat").read_bytes())
        return stat[b"total_rss"] + stat[b"total_shmem"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], Server]]:
    """Start one of the servers, within a memory cgroup of its own where that can be had."""
    started: list[Server] = []

    def one(name: str) -> Server:
        port, folder = free_port(), None
        if not os.geteuid() and (CGROUP / "memory.limit_in_bytes").exists():
            folder = CGROUP / f"rag-sidecar-server-{os.getpid()}-{len(started)}"
            folder.mkdir()
        server = Server(SERVERS[name](port), port, folder, tmp_path / "log")
        started.append(server)
        wait_until(server.up, 30, f"{name} to answer")
        return server

    yield one
    for server in started:
        os.killpg(server.process.pid, signal.SIGTERM)
        end(server.process)
        if server.cgroup:
            procs = server.cgroup / "cgroup.procs"
            for pid in procs.read_text().split():
                os.kill(int(pid), signal.SIGKILL)
            wait_until(lambda: not procs.read_text(), 10, "the end of its processes")  # noqa: B023
            server.cgroup.rmdir()


class Looking:
    """A sampler on one server, a second of its own time at each look."""

    def __init__(self, server: Server) -> None:
        self.watched = target(server.process.pid)
        self.sampler = Sampler(Labels({}), time.monotonic)
        self.at = 0.0
        self.used: Mapping[str, float] = {}

    def look(self) -> dict[tuple[str, ...], float]:
        """(metric, process, further labels) → value."""
        self.at += 1.0
        readings = self.sampler.read([self.watched], self.at)
        self.used = readings.used["rag"]
        found = {}
        for sample in readings.samples:
            more = sample.labels.without("__name__", "process", "target", "job").values()
            found[(sample.labels.metric, sample.labels.get("process", ""), *more)] = sample.value
        return found

    def slots(self) -> dict[str, int]:
        """Process → pid."""
        attached = self.sampler.attached("rag")
        assert attached
        return {label: slot.target.identity.pid for label, slot in attached.tree.slots.items() if slot.target.identity}


@pytest.mark.parametrize("name", SERVERS)
def test_sum_over_the_processes_is_what_the_kernel_charges_the_container(
    start: Callable[[str], Server], name: str
) -> None:
    """Within 2 %, also with preload, where workers share with their parent, and after a worker has taken more."""
    server = start(name)
    if not server.cgroup:
        pytest.skip("needs root and a memory hierarchy of cgroup v1")
    server.workers()
    looking, charged = Looking(server), [0]

    def still() -> bool:  # workers that have just started take pages of their own for a while
        charged.append(server.charged_bytes())
        return len(charged) > 20 and len(set(charged[-20:])) == 1

    wait_until(still, 60, "workers that have settled")
    for _ in range(20):
        looking.look()
    before = looking.used["anon"], server.charged_bytes()
    server.get("/hold/60")
    for _ in range(20):
        looking.look()
    after = looking.used["anon"], server.charged_bytes()

    assert before[0] == pytest.approx(before[1], rel=0.02)
    assert after[0] == pytest.approx(after[1], rel=0.02)
    assert after[0] - before[0] > 55 * MIB


@pytest.mark.parametrize("name", SERVERS)
def test_every_worker_has_figures_of_its_own(start: Callable[[str], Server], name: str) -> None:
    """Memory, processor time and garbage collections of each, under labels that name no pid."""
    server = start(name)
    workers = server.workers()
    looking = Looking(server)
    looking.look()
    found = looking.look()
    slots = looking.slots()
    assert slots["main"] == server.process.pid
    assert workers <= set(slots.values())
    serving = [label for label, pid in slots.items() if pid in workers]
    sizes = {label: found["rag_process_memory_bytes", label, "anon"] for label in serving}
    server_pid = server.get("/hold/40")["pid"]
    grown = looking.look()
    moved = {slots[label]: grown["rag_process_memory_bytes", label, "anon"] - size for label, size in sizes.items()}

    assert moved.pop(server_pid) > 38 * MIB
    assert all(size < 8 * MIB for size in moved.values())
    for label in slots:
        assert ("rag_process_cpu_seconds_total", label, "user") in found
        assert ("rag_python_gc_collections_total", label, "2") in found
    assert found["rag_sidecar_attach_capability", "", "gc"] == 1


def test_collections_of_each_worker_are_what_the_worker_says(start: Callable[[str], Server]) -> None:
    """The figures read from outside and gc.get_stats() inside, between two of which nothing is collected."""
    server = start("gunicorn")
    server.workers()
    looking = Looking(server)
    looking.look()

    def agreed() -> bool:
        before, told, after = looking.look(), server.get(), looking.look()
        label = next(label for label, pid in looking.slots().items() if pid == told["pid"])
        names = ("rag_python_gc_collections_total", "rag_python_gc_objects_collected_total",
                 "rag_python_gc_objects_uncollectable_total")
        read = [[[found[name, label, str(generation)] for name in names] for generation in range(3)]
                for found in (before, after)]
        return read[0] == read[1] == told["gc"] and told["gc"][0][0] > 0

    server.get("/hold/1")
    wait_until(agreed, 20, "a moment without a collection in which both say the same")


@pytest.mark.parametrize("name", ["gunicorn", "uvicorn"])
def test_worker_that_is_killed_and_started_anew_keeps_its_slot(start: Callable[[str], Server], name: str) -> None:
    """The series of the other worker go on, those of the killed one go on with the new process's figures."""
    server = start(name)
    workers = server.workers()
    looking = Looking(server)
    looking.look()
    before = looking.slots()
    killed = next(label for label, pid in before.items() if pid in workers)
    os.kill(before[killed], signal.SIGKILL)

    def replaced() -> bool:
        looking.look()
        now = looking.slots()
        return len(now) == len(before) and now.get(killed) not in (None, before[killed])

    wait_until(replaced, 20, "the new worker")
    after = looking.slots()

    assert {label: pid for label, pid in after.items() if label != killed} == {
        label: pid for label, pid in before.items() if label != killed}
    assert looking.look()["rag_process_restarts_total", killed] == 1
