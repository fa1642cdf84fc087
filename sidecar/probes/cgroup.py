"""The memory cgroup that a target lives in, v1 or v2: usage, limit, and what the kernel cannot take back.

The *target's* cgroup, not ours. Limits nest, so the tightest one up the tree binds, and usage is read there.
Formats: the kernel's cgroup-v1/memory.rst and cgroup-v2.rst; working set as cAdvisor defines it.
"""

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from sidecar.guard.wire import Basis
from sidecar.model import Metric, Sample, Target
from sidecar.probes.series import SeriesOf
from sidecar.procfs import KeptFile, file_bytes, parse_keyed

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


@dataclass(frozen=True, slots=True)
class Version:
    """What differs between the two versions: where they are mounted, and the names of their files."""

    mounts: tuple[str, ...]
    usage: str
    limit: str
    events: str


V1 = Version(("fs/cgroup/memory",), "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.oom_control")
V2 = Version(("fs/cgroup", "fs/cgroup/unified"), "memory.current", "memory.max", "memory.events")


def paths(cgroup: str) -> Iterator[tuple[Version, str]]:
    """(version, path) of the memory hierarchies in /proc/PID/cgroup, v1 first: where it has memory, v2 has not."""
    lines = [line.split(":", 2) for line in cgroup.splitlines() if line.count(":") >= 2]
    yield from ((V1, path) for _, controllers, path in lines if "memory" in controllers.split(","))
    yield from ((V2, path) for number, controllers, path in lines if number == "0" and not controllers)


def parse_limit(text: bytes) -> int | None:
    """A limit in bytes; None is no limit (`max`, or v1's huge number)."""
    word = text.strip()
    return int(word) if word.isdigit() and int(word) < NO_LIMIT_BYTES else None


def _read(path: PurePosixPath) -> bytes | None:
    """The file's content; None if there is no such file. What may not be read raises: that is not "no limit"."""
    try:
        return KeptFile(str(path)).read()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _find(cgroup: str, root: str, sys: str) -> tuple[Version, PurePosixPath, PurePosixPath]:
    """(version, mount, own folder): where our /sys shows the target's path, else where its own root shows it.

    A path with `..` lies outside of what our cgroup namespace shows, and a path that nobody shows is that of a
    container whose own root is its cgroup: then the root of the target's own view stands for it.
    """
    refused: OSError = FileNotFoundError(errno.ENOENT, "no memory cgroup of the target is visible", cgroup[:200])
    for version, path in paths(cgroup):
        below = path.lstrip("/")
        for seen, inside in ((sys, below), (f"{root}/sys", below), (f"{root}/sys", "")):
            for mount in (PurePosixPath(seen) / mount for mount in version.mounts):
                try:
                    if ".." not in inside.split("/") and _read(mount / inside / version.usage) is not None:
                        return version, mount, mount / inside
                except PermissionError as error:
                    refused = error
    raise refused


def _tightest(version: Version, mount: PurePosixPath, own: PurePosixPath) -> tuple[int | None, PurePosixPath]:
    """(limit in bytes, folder) of the tightest limit from the target's own cgroup up to the mount."""
    tightest, folder = None, own
    for level in (own, *own.parents):
        limit = parse_limit(_read(level / version.limit) or b"max")  # the root of v2 has no such file, and no limit
        if limit is not None and (tightest is None or limit < tightest):
            tightest, folder = limit, level
        if level == mount:
            break
    return tightest, folder


class CgroupProbe:
    """The readings of the cgroup that binds one target now. Lives until the sampler looks for it anew.

    Raises OSError if no memory cgroup of it can be seen: FileNotFoundError, or PermissionError if that is why.
    `limit_bytes` is None where nothing limits it; that is not the same as a limit that cannot be read, which makes
    the probe fail.
    """

    name = "cgroup"

    def __init__(self, target: Target, proc: str = "/proc", sys: str = "/sys") -> None:
        assert target.identity
        pid = target.identity.pid
        self._series = SeriesOf(target.base)
        cgroup = os.fsdecode(_read(PurePosixPath(f"{proc}/{pid}/cgroup")) or b"")
        version, mount, own = _find(cgroup, f"{proc}/{pid}/root", sys)
        self.limit_bytes, folder = _tightest(version, mount, own)
        self.used: dict[str, float] = {}
        self._usage = KeptFile(str(folder / version.usage), size=64)
        self._stat = KeptFile(str(folder / "memory.stat"))
        # v1 counts a killed process in its own cgroup only, v2 in those above, too, where other events are.
        self._events = KeptFile(str((own if version is V1 else folder) / version.events), size=1024)

    @property
    def basis(self) -> Basis:
        """How the guard can read the same used bytes."""
        return Basis("cgroup", self._usage.path, self._stat.path)

    def read(self, at: float) -> list[Sample]:
        """Every reading of this moment. Raises OSError once the cgroup is gone."""
        usage = int(self._usage.read())
        active, inactive = file_bytes(parse_keyed(self._stat.read()))
        unreclaimable = max(0, usage - active - inactive)
        self.used = {"cgroup": unreclaimable}
        make = self._series.sample
        samples = [make(USAGE, usage, at), make(UNRECLAIMABLE, unreclaimable, at),
                   make(WORKING_SET, max(0, usage - inactive), at)]
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
