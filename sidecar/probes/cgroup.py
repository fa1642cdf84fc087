"""The memory cgroup that a target lives in, v1 or v2: usage, limits, what the kernel cannot take back, kills, pressure.

The *target's* cgroup, not ours. Limits nest, so the tightest one up the tree binds, and usage is read there.
Formats: the kernel's cgroup-v1/memory.rst and cgroup-v2.rst; working set as cAdvisor defines it.

Unreclaimable is usage less active_file and inactive_file. Pages of tmpfs and /dev/shm are kept on the anonymous lists
and locked file pages on the unevictable one, so both count, as do anonymous and kernel memory. Dirty pages and those
being written count as page cache: the kernel writes them out before it kills. What the kernel might drop beyond file
pages (slab, and anonymous memory where there is swap) is not taken off: the figure errs towards caution.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from sidecar.guard.wire import Basis
from sidecar.model import Metric, Sample, Target
from sidecar.probes import host
from sidecar.probes.cgroup_limits import HIERARCHICAL, NO_LIMIT_BYTES, Bounds, machine_bytes, parse_bytes, parse_limit
from sidecar.probes.cgroup_paths import V1 as V1
from sidecar.probes.cgroup_paths import V2, Folder, Sight
from sidecar.probes.cgroup_paths import paths as paths
from sidecar.probes.pressure import Pressure
from sidecar.probes.series import SeriesOf
from sidecar.procfs import KeptFile, file_bytes, parse_keyed

USAGE, LIMIT = "rag_cgroup_memory_usage_bytes", "rag_cgroup_memory_limit_bytes"
UNRECLAIMABLE, WORKING_SET = "rag_cgroup_memory_unreclaimable_bytes", "rag_cgroup_memory_working_set_bytes"
KIND, PEAK = "rag_cgroup_memory_bytes", "rag_cgroup_memory_peak_bytes"
SWAP, SWAP_LIMIT = "rag_cgroup_swap_usage_bytes", "rag_cgroup_swap_limit_bytes"
EVENTS, REFAULTS = "rag_cgroup_memory_events_total", "rag_cgroup_refaults_total"
PRESSURE, INFO, HEADROOM = "rag_cgroup_pressure_seconds_total", "rag_cgroup_info", host.HEADROOM

METRICS = (
    Metric(USAGE, "gauge", "Memory charged to the target's cgroup, page cache included."),
    Metric(LIMIT, "gauge", "Memory limit of the target's cgroup: max is the tightest up the tree, the others its own."),
    Metric(UNRECLAIMABLE, "gauge", "Memory of the cgroup that the kernel cannot drop: usage less its file pages."),
    Metric(WORKING_SET, "gauge", "Usage of the cgroup less its inactive file pages."),
    Metric(KIND, "gauge", "Memory of the cgroup by kind. Kinds overlap: file includes shmem, kernel includes slab."),
    Metric(PEAK, "gauge", "Highest usage of the cgroup since it was made, page cache included."),
    Metric(SWAP, "gauge", "Memory of the cgroup that has been swapped out."),
    Metric(SWAP_LIMIT, "gauge", "Limit of what may be swapped out of the cgroup."),
    Metric(EVENTS, "counter", "Memory events of the cgroup; oom_kill counts processes that the kernel killed."),
    Metric(REFAULTS, "counter", "Pages of the cgroup that were needed again soon after the kernel had dropped them."),
    Metric(PRESSURE, "counter", "Time that some or all tasks of the cgroup have waited for a resource."),
    Metric(INFO, "info", "The version of the target's memory cgroup."),
    Metric(HEADROOM, "gauge", "Memory left to the target: before a limit of its cgroup is reached, or on the machine."),
    *host.METRICS,
)

KILLS = (b"oom_kill", b"oom_group_kill")
"""Events that v1 counts in the cgroup of the victim alone, and v2 in those above, too, where others die as well."""


@dataclass(frozen=True, slots=True)
class Names:
    """How one version names what not every kernel has: files, and figures of memory.stat by what we call them."""

    gauges: tuple[tuple[str, tuple[str, ...], str], ...]
    kinds: tuple[tuple[str, bytes], ...]
    refaults: tuple[tuple[str, bytes], ...]


SAME = ("anon", "file", "kernel", "slab", "sock", "shmem", "active_file", "inactive_file", "file_mapped", "file_dirty",
        "file_writeback")
NAMES = {
    V1: Names(((PEAK, (), "memory.max_usage_in_bytes"), (LIMIT, ("kind", "soft"), "memory.soft_limit_in_bytes"),
               (KIND, ("kind", "kernel"), "memory.kmem.usage_in_bytes")),
              (("anon", b"total_rss"), ("file", b"total_cache"), ("shmem", b"total_shmem"),
               ("active_file", b"total_active_file"), ("inactive_file", b"total_inactive_file"),
               ("file_mapped", b"total_mapped_file"), ("file_dirty", b"total_dirty"),
               ("file_writeback", b"total_writeback")),
              (("anon", b"total_workingset_refault_anon"), ("file", b"total_workingset_refault_file"))),
    V2: Names(((PEAK, (), "memory.peak"), (LIMIT, ("kind", "high"), "memory.high"),
               (LIMIT, ("kind", "low"), "memory.low"), (SWAP, (), "memory.swap.current"),
               (SWAP_LIMIT, (), "memory.swap.max")),
              tuple((kind, kind.encode()) for kind in SAME),
              (("anon", b"workingset_refault_anon"), ("file", b"workingset_refault_file"))),
}
OF_OWN = (LIMIT,)
"""Read in the target's own cgroup, not where the limit stands that binds."""


def pressure_file(levels: list[Folder] | None) -> Callable[[str], KeptFile | None]:
    """Opens the pressure files of the first of these cgroups of v2. Those of the root are the machine's."""

    def opened(resource: str) -> KeptFile | None:
        own = levels[0] if levels else None
        if own is None or own.file("cgroup.events") is None:  # the root alone has no such file
            return None
        return own.file(f"{resource}.pressure", size=256)

    return opened


class CgroupProbe:
    """The readings of the cgroups that bind one target now. Lives until `moved` says that they may be others.

    Raises OSError if no memory cgroup of it can be seen: FileNotFoundError, or what else is the reason.
    `limit_bytes` is None where nothing limits it; that is not the same as a limit that cannot be read, which makes
    the probe fail. What this kernel has not, or does not show, is left out and stands in `missing` with the reason.
    """

    name = "cgroup"

    def __init__(self, target: Target, proc: str = "/proc", sys: str = "/sys") -> None:
        assert target.identity
        self._series = SeriesOf(target.base)
        sight = Sight(target.identity.pid, proc, sys.rstrip("/").removesuffix("sys"))
        self._membership, self._cgroup = sight.membership, sight.cgroup
        self._version, folders = sight.memory()
        self._names = NAMES[self._version]
        self._bounds = Bounds(self._version, folders, machine_bytes(proc))
        self.limit_bytes = self._bounds.limit_bytes
        self.used: dict[str, float] = {}
        self.missing: dict[str, str] = {}
        self._events: dict[str, int] = {}
        own, binding = folders[0], self._bounds.levels[0].folder
        self._gauges = [(metric, labels, file) for metric, labels, name in self._names.gauges
                        if (file := self._optional(own if metric in OF_OWN else binding, name))]
        self._kills = self._optional(own, "memory.oom_control" if self._version is V1 else "memory.events")
        self._others = self._kills if self._version is V2 and own is binding else self._optional(
            binding, "memory.failcnt" if self._version is V1 else "memory.events")
        self._pressure = Pressure(PRESSURE, pressure_file(next(sight.levels(V2), None)))
        if self._pressure.missing:
            self.missing["pressure"] = self._pressure.missing

    def _optional(self, folder: Folder, name: str) -> KeptFile | None:
        """A file that not every kernel has, or lets everybody read."""
        try:
            file = folder.file(name, size=256)
        except OSError as error:
            self.missing[name] = str(error)
            return None
        if file is None:
            self.missing[name] = "this kernel has no such file"
        return file

    @property
    def basis(self) -> Basis:
        """How the guard can read the same used bytes."""
        level = self._bounds.levels[0]
        return Basis("cgroup", level.usage.path, level.stat.path)

    def moved(self) -> bool:
        """Whether this may no longer be what binds: the process is elsewhere, a limit is another, or a file is gone.

        Costs a read of /proc/PID/cgroup, and of the limit of each cgroup up the tree.
        """
        try:
            return self._membership.read() != self._cgroup or self._bounds.changed()
        except OSError:
            return True

    def read(self, at: float) -> list[Sample]:
        """Every reading of this moment. Raises OSError once the cgroup is gone."""
        usage, figures, unreclaimable = self._bounds.read()
        self.used = {"cgroup": unreclaimable}
        make = self._series.sample
        samples = [make(USAGE, usage, at), make(UNRECLAIMABLE, unreclaimable, at),
                   make(WORKING_SET, max(0, usage - file_bytes(figures)[1]), at),
                   make(INFO, 1.0, at, "version", str(self._version.number))]
        left = self._bounds.left_bytes(unreclaimable)
        if self.limit_bytes is not None and left is not None:
            samples += [make(LIMIT, self.limit_bytes, at, "kind", "max"), make(HEADROOM, left, at, "basis", "cgroup")]
        for metric, names in ((KIND, self._names.kinds), (REFAULTS, self._names.refaults)):
            samples += [make(metric, figures[name], at, "kind", kind) for kind, name in names if name in figures]
        samples += self._optional_gauges(at) + self._swap(figures, at)
        self._count()
        return samples + self._told_events(at) + self._pressure.read(self._series, at)

    def glance(self) -> list[Sample]:
        """Bring `used` up to date, and nothing else. Raises like `read`."""
        self.used = {"cgroup": self._bounds.read()[2]}
        return []

    def _optional_gauges(self, at: float) -> list[Sample]:
        """What one file each says; one that cannot be read takes nothing else with it."""
        samples = []
        for metric, labels, file in self._gauges:
            try:
                size = parse_limit(file.read())
            except OSError as error:
                self.missing[file.path.rpartition("/")[2]] = str(error)
                continue
            if size is not None:
                samples.append(self._series.sample(metric, size, at, *labels))
        return samples

    def _swap(self, figures: dict[bytes, int], at: float) -> list[Sample]:
        """v1 limits memory and swap together; what it counts as swapped stands in memory.stat."""
        both, memory = figures.get(b"hierarchical_memsw_limit"), figures.get(HIERARCHICAL)
        samples = []
        if b"total_swap" in figures:
            samples.append(self._series.sample(SWAP, figures[b"total_swap"], at))
        elif self._version is V1:
            self.missing["swap"] = "this kernel does not account for swap"
        if both is not None and memory is not None and both < NO_LIMIT_BYTES:
            samples.append(self._series.sample(SWAP_LIMIT, max(0, both - memory), at))
        return samples

    def _count(self) -> None:
        """Take the events in. Raises OSError."""
        counts: dict[bytes, int] = {}
        if self._others:
            text = self._others.read()
            counts = parse_keyed(text) if self._version is V2 else {b"max": parse_bytes(text)}
        if self._kills:
            own = parse_keyed(self._kills.read())
            counts |= {event: own[event] for event in KILLS if event in own}
        self._events = {event.decode("ascii", "replace"): count for event, count in counts.items()}

    def _told_events(self, at: float) -> list[Sample]:
        return [self._series.sample(EVENTS, count, at, "event", event) for event, count in self._events.items()]

    def last_words(self, at: float) -> list[Sample]:
        """The events for as long as the target is gone: read again while the cgroup is there, else as last known.

        A kill that ended the target is counted before its process is gone, and seen by nobody who looks only at
        living ones. A container that starts anew begins at zero, which `increase()` takes for the reset that it is.
        """
        with contextlib.suppress(OSError):
            self._count()
        return self._told_events(at)

    def close(self) -> None:
        """Give the descriptors back."""
        self._bounds.close()
        self._pressure.close()
        for file in (self._membership, self._kills, self._others, *(file for _, _, file in self._gauges)):
            if file:
                file.close()
