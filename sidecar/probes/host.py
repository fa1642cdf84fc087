"""The machine: memory, swap and pressure, on which every target without a limit of its own depends.

/proc/meminfo and /proc/pressure are the machine's inside a container, too (unless lxcfs stands in their place).
"""

from sidecar.model import Metric, Sample
from sidecar.probes.pressure import Pressure
from sidecar.probes.series import SeriesOf
from sidecar.procfs import KeptFile, status_field

MEMORY, SWAP, PRESSURE = "rag_host_memory_bytes", "rag_host_swap_bytes", "rag_host_pressure_seconds_total"
HEADROOM = "rag_memory_headroom_bytes"

METRICS = (
    Metric(MEMORY, "gauge", "Memory of the machine: available is what can be had without swapping."),
    Metric(SWAP, "gauge", "Swap space of the machine."),
    Metric(PRESSURE, "counter", "Time that some or all tasks of the machine have waited for a resource."),
)

KINDS = ((b"MemTotal", "total"), (b"MemAvailable", "available"), (b"MemFree", "free"), (b"AnonPages", "anon"),
         (b"Cached", "cached"), (b"Shmem", "shmem"), (b"SUnreclaim", "slab_unreclaimable"))
SWAP_KINDS = ((b"SwapTotal", "total"), (b"SwapFree", "free"))

UNDEFINED = frozenset({"cpu full"})
"""Of the machine as a whole; shown as zero since Linux 5.13 (psi.rst)."""


class HostProbe:
    """The readings of the machine. Lives as long as the desk; `series` makes its samples, which belong to no target.

    Raises OSError where /proc/meminfo may not be read. What is left out of the rest stands in `missing`.
    """

    name = "host"

    def __init__(self, series: SeriesOf, proc: str = "/proc") -> None:
        self._series = series
        self._meminfo = KeptFile(f"{proc}/meminfo", size=4096)
        self._available: int | None = None
        self.missing: dict[str, str] = {}
        self._pressure = Pressure(PRESSURE, lambda resource: _opened(f"{proc}/pressure/{resource}"), UNDEFINED)

    def read(self, at: float) -> list[Sample]:
        """Every reading of this moment. Raises OSError."""
        text = b"\n" + self._meminfo.read()
        samples = []
        for metric, kinds in ((MEMORY, KINDS), (SWAP, SWAP_KINDS)):
            for field, kind in kinds:
                size = status_field(text, field, -1)
                if size >= 0:
                    samples.append(self._series.sample(metric, size, at, "kind", kind))
        available = status_field(text, b"MemAvailable", -1)
        self._available = available if available >= 0 else None
        samples += self._pressure.read(self._series, at)
        if self._pressure.missing:
            self.missing["pressure"] = self._pressure.missing
        return samples

    def headroom(self, series: SeriesOf, at: float) -> list[Sample]:
        """What the machine leaves to a target, by the last reading: a series of that target, beside its cgroup's."""
        return [] if self._available is None else [series.sample(HEADROOM, self._available, at, "basis", "host")]

    def close(self) -> None:
        """Give the descriptors back."""
        self._meminfo.close()
        self._pressure.close()


def _opened(path: str) -> KeptFile | None:
    try:
        return KeptFile(path, size=256)
    except FileNotFoundError:
        return None
