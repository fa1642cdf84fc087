"""The processes of a target, each in a slot of its own: `main` is the one that was named, `worker-N` are the others.

A worker that takes the place of another takes its slot, too: restarts make no new series.
"""

import errno
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from sidecar.guard.tree import Census, Member, Tree
from sidecar.model import Metric, Sample, Target
from sidecar.probes.process import ProcessProbe
from sidecar.probes.series import SeriesOf
from sidecar.probes.sharing import Sharing
from sidecar.procfs import OUT_OF_SIGHT, rss_error_bytes

PROCESSES, RESTARTS = "rag_target_processes", "rag_process_restarts_total"
SHARED, SLOTLESS = "rag_memory_shared_bytes", "rag_target_processes_left_out"
ERROR = "rag_memory_error_bytes"
METRICS = (
    Metric(PROCESSES, "gauge", "Processes of the target: the one that was named and its descendants."),
    Metric(SLOTLESS, "gauge", "Processes of the target that have no series of their own, because there are so many."),
    Metric(RESTARTS, "counter", "Times the process of a slot was replaced by another one."),
    Metric(ERROR, "gauge", "How far off resident memory can be at most, as the kernel counts it; 0 if it is exact."),
    Metric(SHARED, "gauge", "Memory that processes of the target share, as last measured; counted once in used bytes."),
)

RELEASE, CPUS = os.uname().release, os.cpu_count() or 1
MOST_SLOTS = 32
MAIN = "main"
KINDS = ("anon", "rss", "pss")


@lru_cache(maxsize=64)
def _error_bytes(threads: int) -> int:
    return rss_error_bytes(RELEASE, CPUS, threads)


@dataclass(slots=True)
class Slot:
    """The process in a slot. Lives until that process has ended."""

    label: str
    target: Target
    process: ProcessProbe
    stack: int


class TreeProbe:
    """The readings of every process of a target. Lives from attach until the first process has ended.

    Raises OSError where that one is gone or hidden. What cannot be read stands in `missing` with its reason; `used`
    holds the bytes of all together by basis, `error_bytes` how far off these can be; `slots` are the processes with
    series of their own.
    """

    name = "process"

    def __init__(self, target: Target, census: Census | None, timer: Callable[[], float],
                 proc: str = "/proc", skip: Collection[int] = ()) -> None:
        assert target.identity
        self.missing: dict[str, str] = {}
        self.used: dict[str, float] = {}
        self.error_bytes = 0
        self.slots: dict[str, Slot] = {}
        self._target = target
        self._proc = proc
        self._census = census
        self._alone = False
        self._series = SeriesOf(target.base)
        self._tree = Tree(target.identity.pid, KINDS, census, skip, proc)
        self._check()
        self.sharing = Sharing(self._tree, timer, proc)
        self._restarts: Counter[str] = Counter()
        self._slot_of: dict[tuple[int, int], str] = {}

    def _check(self) -> None:
        assert self._target.identity
        if self._tree.members[self._tree.pid].start_time_ticks != self._target.identity.start_time_ticks:
            raise ProcessLookupError(errno.ESRCH, "the process has ended")

    def read(self, at: float, calm: bool = True) -> list[Sample]:
        """Every reading of this moment. Raises OSError (ESRCH) once the first process has ended."""
        self._tree.update(at)
        self._seat()
        self.sharing.step(at, calm)
        samples = [sample for slot in list(self.slots.values()) for sample in self._read_slot(slot, at)]
        self._sum_up()
        self.error_bytes = sum(_error_bytes(slot.process.threads) for slot in self.slots.values())
        self.error_bytes += max(0, len(self._tree.members) - len(self.slots)) * _error_bytes(1)
        make = self._series.sample
        samples += [make(RESTARTS, count, at, "process", label) for label, count in self._restarts.items()]
        samples += [make(ERROR, self.error_bytes, at), make(PROCESSES, self._tree.count, at),
                    make(SLOTLESS, self._tree.count - len(self.slots), at)]
        if self.sharing.shares:
            samples += [make(SHARED, sum(share[place] for share in self.sharing.shares), at, "kind", kind)
                        for place, kind in ((2, "anon"), (3, "rss"))]
        return samples

    def glance(self, at: float, kind: str) -> list[Sample]:
        """Bring `used` up to date, of one kind that could be read the last time. Raises like `read`."""
        known, self._alone = self._alone, self._stays_alone(at)
        if not self._alone:
            self._tree.update(at)
        if kind in self.used and (self.slots[MAIN].process.resized() or not (known and self._alone)):
            self.used = {kind: self._tree.used_bytes(kind)}
        return []

    def _stays_alone(self, at: float) -> bool:
        """Whether it was one process, and still has no child: then there is nobody to look for."""
        if self._tree.count > 1 or len(self._tree.members) > 1:
            return False
        if self._census is None:
            return True
        self._census.update(at)
        return self._tree.pid not in self._census.children

    def _used_bytes(self, kind: str) -> int:
        """What all use together; of one process that has just been read it is known. Raises KeyError."""
        main, read = self._tree.members[self._tree.pid], self.slots[MAIN].process.used
        if not self._alone or any(main.shared.values()) or kind not in read:
            return self._tree.used_bytes(kind)
        return read[kind]

    def _read_slot(self, slot: Slot, at: float) -> list[Sample]:
        try:
            return slot.process.read(at)
        except OSError as error:
            if slot.label == MAIN:
                raise
            if isinstance(error, OUT_OF_SIGHT):  # else it is there, and cannot be read now
                self._leave(slot.label)
            return []

    def _sum_up(self) -> None:
        """Used bytes of all processes, and what cannot be known of them."""
        self._alone = self._tree.count == len(self._tree.members) == 1
        self.used, self.missing = {}, dict(self.slots[MAIN].process.missing)
        for kind in KINDS:
            try:
                self.used[kind] = self._used_bytes(kind)
            except KeyError as error:
                self.missing[kind] = f"no {error.args[0]} in {self._proc}/{self._tree.pid}/status"
        if self.sharing.unsure:
            for kind in ("anon", "pss"):
                self.used.pop(kind, None)
                self.missing[kind] = "what its processes share is still being measured"
        if self.sharing.missing:
            self.missing["pss"] = self.sharing.missing
            if self._tree.count > 1:
                self.used.pop("pss", None)
        if self._tree.count > len(self._tree.members):
            self.missing["tree"] = f"only {len(self._tree.members)} of {self._tree.count} processes are counted"

    def _seat(self) -> None:
        """Give each process a slot: the oldest first, the lowest that is free, for as long as it lives."""
        present = {(pid, member.start_time_ticks): member for pid, member in self._tree.members.items()}
        if present.keys() != self._slot_of.keys():
            self._change_seats(present)
        for key, label in self._slot_of.items():
            self.slots[label].stack = present[key].stack

    def _change_seats(self, present: Mapping[tuple[int, int], Member]) -> None:
        for key, label in list(self._slot_of.items()):
            if key not in present:
                self._leave(label)
        for key in sorted(present.keys() - self._slot_of.keys(), key=lambda key: (key[1], key[0])):
            label = MAIN if key[0] == self._tree.pid else next(self._free(), "")
            if label:
                self._join(label, present[key], key)

    def _free(self) -> Iterator[str]:
        return (label for n in range(MOST_SLOTS - 1) if (label := f"worker-{n}") not in self.slots)

    def _join(self, label: str, member: Member, key: tuple[int, int]) -> None:
        assert self._target.identity
        identity = self._target.identity._replace(pid=key[0], start_time_ticks=key[1], exe=None)
        target = Target(self._target.name, self._target.base.merged({"process": label}), identity)
        try:
            self.slots[label] = Slot(label, target, ProcessProbe(target, self._proc, member.files), member.stack)
        except OSError:
            if label == MAIN:
                raise
            return
        self._slot_of[key] = label
        self._restarts[label] += label in self._restarts

    def _leave(self, label: str) -> None:
        self.slots.pop(label).process.close()
        self._slot_of = {key: other for key, other in self._slot_of.items() if other != label}

    def close(self) -> None:
        """Give the descriptors back."""
        for slot in self.slots.values():
            slot.process.close()
