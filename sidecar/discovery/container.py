"""A container as its engine tells of it: what is kept of that, its first process, and its series."""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from sidecar.model import Labels, Metric, Sample, series
from sidecar.procfs import KeptFile, start_time_ticks

INFO = Metric("rag_container_info", "info", "The container of a target that is found through Docker.")
RUNNING = Metric("rag_container_running", "gauge", "1 while the container runs, else 0; absent where there is none.")
LIMIT = Metric("rag_container_memory_limit_bytes", "gauge", "The container's memory limit; absent where it has none.")
RESTARTS = Metric("rag_container_restarts_total", "counter", "Times the engine has restarted the container by itself.")
EXIT_CODE = Metric("rag_container_last_exit_code", "gauge", "What the container's first process ended with last.")
EXIT_OOM = Metric("rag_container_last_exit_oom_killed", "gauge",
                  "1 if the kernel had killed a process of it for want of memory before it ended last, else 0.")
UP = Metric("rag_sidecar_docker_up", "gauge", "1 while the Docker engine answers, else 0.")
METRICS = (INFO, RUNNING, LIMIT, RESTARTS, EXIT_CODE, EXIT_OOM, UP)

SHOWN_ID = 12
"""So many characters of a container's id are shown, as `docker ps` does."""
INITS = frozenset({"docker-init", "tini", "tini-static", "dumb-init", "catatonit"})
"""Programs, by the name that the kernel keeps, that only start another one and reap what it leaves."""


class Exit(NamedTuple):
    """How a container ended."""

    code: int
    oom_killed: bool


class Container(NamedTuple):
    """What the engine said last. `pid` is the engine's number of its first process, 0 while it does not run.

    `service` and `project` are Compose's, "" without it. `limit_bytes` is 0 where there is none. `others` is how many
    containers more would fit what was asked for.
    """

    id: str
    name: str
    image: str
    service: str
    project: str
    pid: int
    restarts: int
    limit_bytes: int
    last_exit: Exit | None
    others: int = 0

    def samples(self, base: Labels, at: float) -> Iterator[Sample]:
        """Its series. Of its labels only those of Compose: what else stands there may be a secret."""
        named = ("container", self.name, "container_id", self.id[:SHOWN_ID], "image", self.image,
                 "compose_service", self.service, "compose_project", self.project)
        yield Sample(series(base, INFO.name, *named), 1.0, at)
        figures = [(RUNNING, float(self.pid > 0)), (RESTARTS, self.restarts)]
        if self.limit_bytes:
            figures.append((LIMIT, self.limit_bytes))
        if self.last_exit:
            figures += [(EXIT_CODE, self.last_exit.code), (EXIT_OOM, float(self.last_exit.oom_killed))]
        for metric, value in figures:
            yield Sample(series(base, metric.name), value, at)


def first_process(container: Container, may_search: Callable[[], bool], proc: str = "/proc") -> int | None:
    """The pid, here, of the program that a container was started for; None while it is not seen.

    That is the engine's number if the process with it is in the container: in another pid namespace it is another
    process's, or nobody's. There, if it `may_search`, it is the oldest process whose cgroup has the container's id:
    engines name the cgroup so (docker-ID.scope, docker/ID), and the kernel shows the name in every namespace.
    Where that is an init the program is its first child.
    """
    pid: int | None = container.pid or None
    if pid is not None and not _is_in(container.id, pid, proc):
        pid = _oldest_in(container.id, proc) if may_search() else None
    try:
        while pid is not None and _name(pid, proc) in INITS:
            children = _children(pid, proc)
            pid = children[0] if children else None
    except (OSError, ValueError, IndexError):
        return None
    return pid


def _is_in(container_id: str, pid: int, proc: str) -> bool:
    try:
        with open(f"{proc}/{pid}/cgroup", "rb") as file:
            return container_id.encode() in file.read(16384)
    except OSError:
        return False


def _oldest_in(container_id: str, proc: str) -> int | None:
    found = []
    for entry in os.listdir(proc):
        if entry.isdecimal() and _is_in(container_id, int(entry), proc):
            try:
                found.append((start_time_ticks(KeptFile(f"{proc}/{entry}/stat", size=1024).read()), int(entry)))
            except (OSError, ValueError, IndexError):  # it has ended
                continue
    return min(found)[1] if found else None


def _name(pid: int, proc: str) -> str:
    with open(f"{proc}/{pid}/comm", "rb") as file:
        return file.read(64).decode("utf-8", "replace").rstrip("\n")


def _children(pid: int, proc: str) -> list[int]:
    """The oldest first, as the kernel lists them."""
    with open(f"{proc}/{pid}/task/{pid}/children", "rb") as file:
        return [int(word) for word in file.read(4096).split()[:1]]
