"""Memory and basics of one process from /proc, through files kept open: no instrumentation, nothing asked of it."""

import os

from sidecar.model import Metric, Sample, Target
from sidecar.probes.series import SeriesOf
from sidecar.procfs import (
    CLOCK_TICKS,
    PAGE_BYTES,
    KeptFile,
    anon_bytes,
    boot_time,
    parse_stat,
    resident_bytes,
    status_field,
)

RSS, VMS = "rag_process_resident_memory_bytes", "rag_process_virtual_memory_bytes"
KIND, PEAK = "rag_process_memory_bytes", "rag_process_resident_memory_max_bytes"
FAULTS, CPU, THREADS = "rag_process_page_faults_total", "rag_process_cpu_seconds_total", "rag_process_threads"
FDS, IO, START = "rag_process_open_fds", "rag_process_io_bytes_total", "rag_process_start_time_seconds"

METRICS = (
    Metric(RSS, "gauge", "Resident memory size of the target's process."),
    Metric(VMS, "gauge", "Virtual memory size of the target's process."),
    Metric(KIND, "gauge", "Resident memory by kind (anon, file and shmem add up to the resident size), and swap."),
    Metric(PEAK, "gauge", "Peak resident memory size since the process started."),
    Metric(FAULTS, "counter", "Page faults: minor ones without, major ones with disk access."),
    Metric(CPU, "counter", "CPU time spent in user and in system mode."),
    Metric(THREADS, "gauge", "Threads of the process."),
    Metric(FDS, "gauge", "Open file descriptors of the process."),
    Metric(IO, "counter", "Bytes that the process caused to be read from and written to storage."),
    Metric(START, "gauge", "Start time of the process, in Unix time."),
)

MEMORY_KINDS = ((b"RssAnon", "anon"), (b"RssFile", "file"), (b"RssShmem", "shmem"), (b"VmSwap", "swap"))


class ProcessProbe:
    """The readings of one life of one process. Lives from attach until the process has ended.

    Raises OSError where the process is gone or hidden. What alone is forbidden (io, fd) is left out, never zero, and
    stands in `missing` with its reason. After `read`, `used` holds the bytes on the two bases a process has.
    """

    name = "process"

    def __init__(self, target: Target, proc: str = "/proc") -> None:
        assert target.identity
        folder = f"{proc}/{target.identity.pid}"
        self._series = SeriesOf(target.base)
        self._start_seconds = target.identity.start_time_ticks / CLOCK_TICKS + boot_time(proc)
        self._fd_dir = f"{folder}/fd"
        self._files = [KeptFile(f"{folder}/status", size=4096), KeptFile(f"{folder}/statm", size=128),
                       KeptFile(f"{folder}/stat", size=1024)]
        self._io: KeptFile | None = None
        self.missing: dict[str, str] = {}
        self.used: dict[str, float] = {}
        try:
            self._io = KeptFile(f"{folder}/io", size=512)
            self._io.read()  # the kernel checks at reading, too
        except PermissionError as error:
            self._io = None
            self.missing["io"] = str(error.strerror)
        try:
            os.listdir(self._fd_dir)
        except PermissionError as error:
            self.missing["fd"] = str(error.strerror)

    def read(self, at: float) -> list[Sample]:
        """Every reading of this moment. Raises OSError (ESRCH) once the process has ended."""
        status, statm, stat = (file.read() for file in self._files)
        rss = resident_bytes(statm)
        self.used = {"rss": rss, "anon": anon_bytes(status)}
        make = self._series.sample
        samples = [make(RSS, rss, at), make(VMS, int(statm.split(None, 1)[0]) * PAGE_BYTES, at),
                   make(START, self._start_seconds, at)]
        samples += [make(KIND, status_field(status, field), at, "kind", kind)
                    for field, kind in MEMORY_KINDS if field in status]
        if b"VmHWM" in status:
            samples.append(make(PEAK, status_field(status, b"VmHWM"), at))
        fields = parse_stat(stat)
        for metric, label, values in ((FAULTS, "type", (("minor", 7, 1.0), ("major", 9, 1.0))),
                                      (CPU, "mode", (("user", 11, CLOCK_TICKS), ("system", 12, CLOCK_TICKS)))):
            samples += [make(metric, int(fields[index]) / unit, at, label, value) for value, index, unit in values]
        samples.append(make(THREADS, int(fields[17]), at))
        return samples + self._guarded(at)

    def _guarded(self, at: float) -> list[Sample]:
        """What only the same user, or one with the right capability, may see."""
        samples = []
        if "fd" not in self.missing:
            count = os.stat(self._fd_dir).st_size or len(os.listdir(self._fd_dir))  # st_size is the count since 6.2
            samples.append(self._series.sample(FDS, count, at))
        if self._io:
            counted = dict(line.split(b": ") for line in self._io.read().splitlines())
            for key, direction in ((b"read_bytes", "read"), (b"write_bytes", "write")):
                samples.append(self._series.sample(IO, int(counted[key]), at, "direction", direction))
        return samples

    def close(self) -> None:
        """Give the descriptors back."""
        for file in (*self._files, *filter(None, (self._io,))):
            file.close()
