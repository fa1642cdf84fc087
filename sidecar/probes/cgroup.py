"""The memory cgroup that a target lives in, v1 or v2: usage, limit, and what the kernel cannot take back.

The *target's* cgroup, not ours. Limits nest, so the tightest one up the tree binds, and usage is read there.
Formats: the kernel's cgroup-v1/memory.rst and cgroup-v2.rst; working set as cAdvisor defines it.
"""

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from sidecar.guard.wire import Basis
from sidecar.model import Metric, Sample, Target
from sidecar.probes.series import SeriesOf
from sidecar.procfs import KeptFile, parse_keyed, unreclaimable_bytes

USAGE, LIMIT = "rag_cgroup_memory_usage_bytes", "rag_cgroup_memory_limit_bytes"
UNRECLAIMABLE, WORKING_SET = "rag_cgroup_memory_unreclaimable_bytes", "rag_cgroup_memory_working_set_bytes"
EVENTS = "rag_cgroup_memory_events_total"

METRICS = (
    Metric(USAGE, "gauge", "Memory charged to the target's cgroup, page cache included."),
    Metric(LIMIT, "gauge", "Memory limit that binds the target's cgroup: the tightest up the tree."),
    Metric(UNRECLAIMABLE, "gauge", "Memory of the cgroup that the kernel cannot drop: usage less its file pages."),
    Metric(WORKING_SET, "gauge", "Usage of the cgroup less its inactive file pages."),
    Metric(EVENTS, "counter", "Memory events of the cgroup; oom_kill counts processes that the kernel killed."),
)

NO_LIMIT_BYTES = 1 << 62
"""v1 says "none" by the largest multiple of the page size below 2**63."""

LIMIT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Files:
    """What differs between the two versions."""

    version: int
    usage: str
    limit: str
    events: str


VERSIONS = (Files(1, "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control"),
            Files(2, "memory.current", "memory.max", "memory.events"))


def paths(cgroup: str) -> Iterator[tuple[int, str]]:
    """(version, path) of the memory hierarchies in /proc/PID/cgroup, v1 first: there the controller is where it is."""
    lines = [line.split(":", 2) for line in cgroup.splitlines() if line.count(":") >= 2]
    yield from ((1, path) for _, controllers, path in lines if "memory" in controllers.split(","))
    yield from ((2, path) for number, controllers, path in lines if number == "0" and not controllers)


def parse_limit(text: bytes) -> int | None:
    """A limit in bytes; None is no limit (`max`, or v1's huge number)."""
    word = text.strip()
    return int(word) if word.isdigit() and int(word) < NO_LIMIT_BYTES else None


def _read(path: PurePosixPath) -> bytes | None:
    """The file's content; None if there is no such file. What may not be read raises: that is not "no limit"."""
    try:
        with open(path, "rb") as file:
            return file.read(8192)
    except (FileNotFoundError, NotADirectoryError):
        return None


class CgroupProbe:
    """The readings of the cgroup that binds one target. Lives as long as the target's process.

    Raises FileNotFoundError if no memory cgroup of it can be seen. `limit_bytes` is None where nothing limits it;
    that is not the same as a limit that cannot be read, which makes the probe fail.
    """

    name = "cgroup"

    def __init__(self, target: Target, proc: str = "/proc", sys: str = "/sys") -> None:
        assert target.identity
        pid = target.identity.pid
        self._series = SeriesOf(target.base)
        cgroup = (_read(PurePosixPath(f"{proc}/{pid}/cgroup")) or b"").decode("utf-8", "replace")
        self._mount, self._own, self._files = self._find(cgroup, f"{proc}/{pid}/root", sys)
        self.limit_bytes: int | None = None
        self._folder = self._own
        self._limit_read_at = float("-inf")
        self.missing: dict[str, str] = {}
        self.used: dict[str, float] = {}
        self._bind()

    @staticmethod
    def _find(cgroup: str, root: str, sys: str) -> tuple[PurePosixPath, PurePosixPath, Files]:
        """(mount, own folder, files): where our /sys shows the target's path, else where its own root shows it.

        A path with `..` lies outside of what our cgroup namespace shows, and the root of the target's own view may
        stand for the target only there.
        """
        refused = FileNotFoundError(errno.ENOENT, "no memory cgroup of the target is visible", cgroup.strip()[:200])
        for version, path in paths(cgroup):
            files, below = VERSIONS[version - 1], path.lstrip("/")
            hierarchy = "fs/cgroup/memory" if version == 1 else "fs/cgroup"
            for seen, inside in ((sys, below), (f"{root}/sys", below), (f"{root}/sys", "")):
                mount = PurePosixPath(seen) / hierarchy
                try:
                    if ".." not in inside and _read(mount / inside / files.usage) is not None:
                        return mount, mount / inside, files
                except PermissionError as error:
                    refused.strerror = f"{error.strerror}: {error.filename}"
        raise refused

    def _bind(self) -> None:
        """Find the cgroup with the tightest limit and open its files."""
        tightest, folder = None, self._own
        for level in (self._own, *self._own.parents):
            limit = parse_limit(_read(level / self._files.limit) or b"max")
            if limit is not None and (tightest is None or limit < tightest):
                tightest, folder = limit, level
            if level == self._mount:
                break
        self.limit_bytes = tightest
        self._folder = folder
        self._usage = KeptFile(str(folder / self._files.usage), size=64)
        self._stat = KeptFile(str(folder / "memory.stat"))
        self._events = KeptFile(str(folder / self._files.events), size=1024)

    @property
    def basis(self) -> Basis:
        """How the guard can read the same used bytes."""
        return Basis("cgroup", str(self._usage.path), str(self._stat.path))

    def read(self, at: float) -> list[Sample]:
        """Every reading of this moment. Raises OSError once the cgroup is gone."""
        if at - self._limit_read_at >= LIMIT_SECONDS:
            self._limit_read_at = at
            self.limit_bytes = parse_limit(_read(self._folder / self._files.limit) or b"max")
        usage, stat = self._usage.read(), self._stat.read()
        figures = parse_keyed(stat)
        inactive = figures.get(b"total_inactive_file", figures.get(b"inactive_file", 0))
        unreclaimable = unreclaimable_bytes(usage, stat)
        self.used = {"cgroup": unreclaimable}
        make = self._series.sample
        samples = [make(USAGE, int(usage), at), make(UNRECLAIMABLE, unreclaimable, at),
                   make(WORKING_SET, max(0, int(usage) - inactive), at)]
        if self.limit_bytes is not None:
            samples.append(make(LIMIT, self.limit_bytes, at, "kind", "max"))
        for event, count in parse_keyed(self._events.read()).items():
            if event not in (b"oom_kill_disable", b"under_oom"):
                samples.append(make(EVENTS, count, at, "event", event.decode("ascii", "replace")))
        return samples

    def close(self) -> None:
        """Give the descriptors back."""
        for file in (self._usage, self._stat, self._events):
            file.close()
