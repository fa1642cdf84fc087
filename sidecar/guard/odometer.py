"""How much memory the kernel has handed out. Nobody can have grown by more: one reading speaks for many targets.

Every page that a process gets was handed out by the kernel, which counts them (`pgalloc_*` of /proc/vmstat, added up
when it is read); what is given back and taken again counts twice. Without that, anonymous memory grows only by mapping
shared memory that others have made, which is no more than there is (`nr_shmem`). A page that comes back from swap was
counted as used before. Of resident sets and cgroups this does not hold: cached files are mapped, or locked, without a
page being handed out.
"""

from __future__ import annotations

import os

from sidecar.guard.watch import BURST_BYTES_PER_SECOND, FOREVER, Watch
from sidecar.procfs import PAGE_BYTES, KeptFile

FAR_BYTES = 64 << 20
"""Who is nearer to a line than that is looked at itself."""
NEAR_BYTES = 32 << 20
"""So far from where its line could be reached it is looked at itself. More than is handed out and not used yet."""
MOST_UNTOLD_PAGES = 125
"""What each processor may know of shared memory and not have told (`calculate_normal_threshold` in the kernel)."""


def handed_out(vmstat: bytes) -> tuple[int, int]:
    """(bytes handed out since the machine was started, bytes of shared memory). ValueError if they are not told."""
    at, pages = vmstat.index(b"\npgalloc_"), 0
    for line in vmstat[at + 1:].split(b"\n"):
        if not line.startswith(b"pgalloc_"):
            break
        pages += int(line.partition(b" ")[2])
    at = vmstat.index(b"\nnr_shmem ") + len(b"\nnr_shmem ")
    shared = int(vmstat[at:vmstat.index(b"\n", at)]) + MOST_UNTOLD_PAGES * (os.cpu_count() or 1)
    return pages * PAGE_BYTES, shared * PAGE_BYTES


class Odometer:
    """What the kernel has handed out, and at which reading each target may have come near its line at the earliest.

    Lives as long as the guard. Raises OSError or ValueError where the kernel does not count. Times are monotonic.
    """

    def __init__(self, now: float, proc: str = "/proc") -> None:
        self.next_read = FOREVER
        self._file = KeptFile(f"{proc}/vmstat")
        self._marks: dict[str, float] = {}
        self._alone: dict[str, float] = {}
        self._read_at = now
        self._bytes, self._shared = handed_out(self._file.read())

    def vouch(self, watch: Watch) -> bool:
        """Whether the target, looked at just now, need not be looked at before `read` names it, or `watch.look_by`."""
        room = watch.distance_bytes - self._shared
        if watch.basis.kind != "anon" or watch.hasty or not FAR_BYTES < room < FOREVER:
            self._marks.pop(watch.target, None)
            return False
        self._marks[watch.target], self._alone[watch.target] = self._bytes + room, watch.next_look
        self.next_read = min(self.next_read, self._read_at + room / BURST_BYTES_PER_SECOND)
        return True

    def drop(self, target: str) -> None:
        """It is not watched any more."""
        self._marks.pop(target, None)
        self._alone.pop(target, None)

    def read(self, now: float) -> list[tuple[str, float]]:
        """Read anew: who may have come near its line, and when each would have been looked at without us.

        Where the kernel does not tell any more, or has begun to count anew, that is everybody.
        """
        before, self._read_at = self._bytes, now
        try:
            self._bytes, self._shared = handed_out(self._file.read())
        except (OSError, ValueError):
            self._bytes = -1
        near = self._bytes + NEAR_BYTES if self._bytes >= before else FOREVER
        least, named = min(self._marks.values(), default=FOREVER), []
        if least < near:
            named = [(target, self._alone[target]) for target, mark in self._marks.items() if mark < near]
            self._marks = {target: mark for target, mark in self._marks.items() if mark >= near}
            least = min(self._marks.values(), default=FOREVER)
        self.next_read = now + (least - self._bytes) / BURST_BYTES_PER_SECOND
        return named
