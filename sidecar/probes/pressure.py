"""Pressure stall information: how long tasks have waited for memory, the CPU or storage (the kernel's psi.rst)."""

from collections.abc import Callable, Iterator

from sidecar.model import Sample
from sidecar.probes.series import SeriesOf
from sidecar.procfs import KeptFile

RESOURCES = ("memory", "cpu", "io")


def parse_pressure(text: bytes) -> Iterator[tuple[str, float]]:
    """(`some` or `full`, seconds stalled since the beginning) of each line. Raises ValueError for what is none."""
    for line in text.splitlines():
        kind, _, fields = line.partition(b" ")
        if kind in (b"some", b"full"):
            yield kind.decode(), int(fields.rpartition(b"total=")[2]) / 1e6


class Pressure:
    """The pressure files of a cgroup or of the machine. Lives as long as its probe.

    `opened` gives the file for a resource, None where there is none. A kernel without PSI has none, and one that has
    it switched off may refuse to be read: both are left out and named in `missing`.
    """

    def __init__(self, metric: str, opened: Callable[[str], KeptFile | None],
                 passed_over: frozenset[str] = frozenset()) -> None:
        self._metric = metric
        self._passed_over = passed_over
        self._files: dict[str, KeptFile] = {}
        self.missing = ""
        for resource in RESOURCES:
            try:
                file = opened(resource)
            except OSError as error:
                self.missing = str(error)
                continue
            if file:
                self._files[resource] = file
            else:
                self.missing = f"no pressure of {resource} is kept"

    def read(self, make: SeriesOf, at: float) -> list[Sample]:
        """Every total of this moment."""
        samples = []
        for resource, file in list(self._files.items()):
            try:
                totals = list(parse_pressure(file.read()))
            except (OSError, ValueError) as error:
                self.missing = f"{file.path}: {error}"
                continue
            samples += [make.sample(self._metric, seconds, at, "resource", resource, "kind", kind)
                        for kind, seconds in totals if f"{resource} {kind}" not in self._passed_over]
        return samples

    def close(self) -> None:
        """Give the descriptors back."""
        for file in self._files.values():
            file.close()
