"""Memory and basics of one process from /proc, through files kept open: no instrumentation, nothing asked of it."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping

from sidecar.guard.tree import FILES
from sidecar.model import Metric, Sample, Target
from sidecar.probes.series import SeriesOf
from sidecar.procfs import (
    CLOCK_TICKS,
    PAGE_BYTES,
    KeptFile,
    boot_time,
    parse_stat,
    resident_bytes,
    status_field,
)

RSS, VMS = "rag_process_resident_memory_bytes", "rag_process_virtual_memory_bytes"
KIND, PEAK = "rag_process_memory_bytes", "rag_process_resident_memory_max_bytes"
FAULTS, CPU, THREADS = "rag_process_page_faults_total", "rag_process_cpu_seconds_total", "rag_process_threads"
FDS, IO, START = "rag_process_open_fds", "rag_process_io_bytes_total", "rag_process_start_time_seconds"
MOST_FDS, SWITCHES = "rag_process_max_fds", "rag_process_context_switches_total"
STOPPED, OOM_SCORE, OOM_ADJUSTMENT = "rag_process_stopped", "rag_process_oom_score", "rag_process_oom_score_adj"

METRICS = (
    Metric(RSS, "gauge", "Resident memory size of the target's process."),
    Metric(VMS, "gauge", "Virtual memory size of the target's process."),
    Metric(KIND, "gauge", "Resident memory by kind (anon, file and shmem add up to the resident size), and swap."),
    Metric(PEAK, "gauge", "Peak resident memory size since the process started."),
    Metric(FAULTS, "counter", "Page faults: minor ones without, major ones with disk access."),
    Metric(CPU, "counter", "CPU time spent in user and in system mode."),
    Metric(THREADS, "gauge", "Threads of the process."),
    Metric(FDS, "gauge", "Open file descriptors of the process."),
    Metric(MOST_FDS, "gauge", "Limit on open file descriptors of the process."),
    Metric(SWITCHES, "counter", "Times the process gave the CPU up (voluntary) or had it taken away (involuntary)."),
    Metric(STOPPED, "gauge", "1 while the process is stopped, by a signal or by a debugger: it cannot clean up then."),
    Metric(OOM_SCORE, "gauge", "How soon the kernel picks this process when memory runs out: the highest first."),
    Metric(OOM_ADJUSTMENT, "gauge", "What was added to that: -1000 is never, 1000 is first."),
    Metric(IO, "counter", "Bytes that the process caused to be read from and written to storage."),
    Metric(START, "gauge", "Start time of the process, in Unix time."),
)

MEMORY_KINDS = ((b"RssAnon", "anon"), (b"RssFile", "file"), (b"RssShmem", "shmem"), (b"VmSwap", "swap"))
COUNTED = ((FAULTS, "type", "minor", 7, 1.0), (FAULTS, "type", "major", 9, 1.0),
           (CPU, "mode", "user", 11, CLOCK_TICKS), (CPU, "mode", "system", 12, CLOCK_TICKS))
"""(metric, label, value, place in `parse_stat`, divisor)."""
SWITCHED = ((b"voluntary_ctxt_switches", "voluntary"), (b"nonvoluntary_ctxt_switches", "involuntary"))
REFUSED_SECONDS = 60.0
"""Until what was forbidden is tried again."""
NO_FILES: Mapping[str, KeptFile] = {}
LIMITS_SECONDS = 60.0
"""How often the limit on descriptors is read anew; the kernel takes its time to print that file."""


def _used(texts: Mapping[str, bytes]) -> Iterator[tuple[str, int]]:
    """(kind, bytes) of all kinds that this kernel tells, from the files of a process."""
    for kind, (file, _, meaning) in FILES.items():
        with contextlib.suppress(KeyError):
            yield kind, meaning(texts[file])


class ProcessProbe:
    """The readings of one life of one process. Lives from attach until the process has ended.

    Raises OSError where the process is gone or hidden. What alone may be forbidden or absent (io, fd) is left out,
    never zero, and stands in `missing` with its reason; it is tried again, for a process may drop its rights, and we
    may have descriptors again.
    `kept` are those of its files that somebody else keeps open anyway. `used` are its bytes at the last reading, by
    kind, as `Tree.used_bytes` counts those of one process.
    """

    name = "process"

    def __init__(self, target: Target, proc: str = "/proc", kept: Mapping[str, KeptFile] = NO_FILES) -> None:
        assert target.identity
        self._folder = f"{proc}/{target.identity.pid}"
        self._series = SeriesOf(target.base)
        self._start_seconds = target.identity.start_time_ticks / CLOCK_TICKS + boot_time(proc)
        self._status, self._statm, self._stat = (
            kept.get(name) or KeptFile(f"{self._folder}/{name}", size=size)
            for name, size in (("status", 4096), ("statm", 128), ("stat", 1024)))
        self._kept = kept
        self._scores = [(metric, KeptFile(path, size=64)) for metric, path in (
            (OOM_SCORE, f"{self._folder}/oom_score"), (OOM_ADJUSTMENT, f"{self._folder}/oom_score_adj"))
            if os.path.exists(path)]  # not on gVisor
        self._most_fds: tuple[float, int] | None = None
        self._io: KeptFile | None = None
        self.missing: dict[str, str] = {}
        self.threads = 1
        self.used: dict[str, int] = {}
        self._size = b""
        self._refused_at = 0.0

    def read(self, at: float) -> list[Sample]:
        """Every reading of this moment. Raises OSError (ESRCH) once the process has ended, reaped or not."""
        self._size = statm = self._statm.read()  # first: what changes from now on will have changed
        status, stat = self._status.read(), parse_stat(self._stat.read())
        if stat[0] in (b"Z", b"X"):
            raise ProcessLookupError(errno.ESRCH, "the process has ended", self._folder)
        self.used = dict(_used({"status": status, "statm": statm}))
        make, self.threads = self._series.sample, int(stat[17])
        samples = [make(RSS, resident_bytes(statm), at), make(VMS, int(statm.split(None, 1)[0]) * PAGE_BYTES, at),
                   make(START, self._start_seconds, at), make(THREADS, self.threads, at)]
        samples.append(make(STOPPED, float(stat[0] in b"Tt"), at))
        samples += [make(metric, int(file.read()), at) for metric, file in self._scores]
        for field, kind in SWITCHED:
            count = status_field(status, field, -1)
            if count >= 0:
                samples.append(make(SWITCHES, count, at, "type", kind))
        for field, kind in MEMORY_KINDS:
            size = status_field(status, field, -1)
            if size >= 0:
                samples.append(make(KIND, size, at, "kind", kind))
        peak = status_field(status, b"VmHWM", -1)
        if peak >= 0:
            samples.append(make(PEAK, peak, at))
        samples += [make(metric, int(stat[place]) / unit, at, label, value)
                    for metric, label, value, place, unit in COUNTED]
        return samples + self._guarded(at)

    def resized(self) -> bool:
        """Whether its sizes are others than when this was last asked, or it was read. Raises OSError (ESRCH).

        statm costs a fifth of status. What it cannot tell are pages swapped out while as many others came, or a change
        from file to shared memory: these wait for the next reading.
        """
        before, self._size = self._size, self._statm.read()
        return before != self._size

    def check(self) -> None:
        """Raise OSError (ESRCH) if the process has ended."""
        self._stat.read()

    def _guarded(self, at: float) -> list[Sample]:
        """What only the same user, or one with the right capability, may see; io is a choice of the kernel's build."""
        samples: list[Sample] = []
        if not 0 <= at - self._refused_at < REFUSED_SECONDS:
            self.missing, self._refused_at = {}, at
        for what, read in (("fd", self._fds), ("io", self._io_bytes)):
            if what not in self.missing:
                try:
                    samples += read(at)
                except ProcessLookupError:
                    raise
                except OSError as error:
                    self.missing[what] = f"{error.strerror}: {self._folder}/{what}"
        return samples

    def _fds(self, at: float) -> list[Sample]:
        folder = os.open(f"{self._folder}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            count = os.fstat(folder).st_size or len(os.listdir(folder))  # st_size is the count since Linux 6.2
        finally:
            os.close(folder)
        if self._most_fds is None or not 0 <= at - self._most_fds[0] < LIMITS_SECONDS:
            self._most_fds = at, self._read_most_fds()
        limit = self._most_fds[1]
        return [self._series.sample(FDS, count, at)] + (
            [self._series.sample(MOST_FDS, limit, at)] if limit >= 0 else [])

    def _read_most_fds(self) -> int:
        """The soft limit, -1 where there is none or it cannot be read."""
        try:
            limits = KeptFile(f"{self._folder}/limits", size=2048).read()
        except OSError:
            return -1
        words = limits.partition(b"\nMax open files")[2].split(None, 1)
        return int(words[0]) if words and words[0].isdigit() else -1

    def _io_bytes(self, at: float) -> list[Sample]:
        self._io = self._io or KeptFile(f"{self._folder}/io", size=512)
        counted = dict(line.split(b": ") for line in self._io.read().splitlines())
        return [self._series.sample(IO, int(counted[key]), at, "direction", direction)
                for key, direction in ((b"read_bytes", "read"), (b"write_bytes", "write"))]

    def close(self) -> None:
        """Give its own descriptors back."""
        for file in (self._status, self._statm, self._stat, self._io, *(file for _, file in self._scores)):
            if file and file not in self._kept.values():
                file.close()
