"""The figures of a CPython's garbage collector, read from outside by pid: nothing is asked of it, nothing is stopped.

Each figure is one aligned word, so a read during a collection shows some as before it and some as after, none as
neither. Sub-interpreters have collectors of their own; the figures are those of the main one.
"""

import errno
import struct
from itertools import repeat
from operator import lt

from sidecar.errors import SidecarError
from sidecar.model import Labels, Metric, Sample
from sidecar.probes.elf import Read
from sidecar.probes.gc_attach import PythonInfo as PythonInfo
from sidecar.probes.gc_attach import Unsupported as Unsupported
from sidecar.probes.gc_attach import attach
from sidecar.probes.gc_layouts import RECORD_BYTES, State
from sidecar.probes.memory import Memory
from sidecar.probes.series import SeriesOf

COLLECTIONS, COLLECTED = "rag_python_gc_collections_total", "rag_python_gc_objects_collected_total"
UNCOLLECTABLE, PAUSE = "rag_python_gc_objects_uncollectable_total", "rag_python_gc_pause_seconds_total"
OBJECTS, THRESHOLD = "rag_python_gc_objects", "rag_python_gc_threshold"
ENABLED, TRACKED, INFO = "rag_python_gc_enabled", "rag_python_gc_tracked_objects", "rag_python_info"

METRICS = (
    Metric(COLLECTIONS, "counter", "Collections of this generation."),
    Metric(COLLECTED, "counter", "Objects that collections of this generation freed."),
    Metric(UNCOLLECTABLE, "counter", "Objects that collections of this generation found but could not free."),
    Metric(PAUSE, "counter", "Time that collections of this generation took; CPython 3.15 and later."),
    Metric(OBJECTS, "gauge", "The generation's count: a collection is due when it exceeds the threshold."),
    Metric(THRESHOLD, "gauge", "The generation's threshold; 0 for generation 0 turns automatic collection off."),
    Metric(ENABLED, "gauge", "1 while automatic collection is enabled, else 0."),
    Metric(TRACKED, "gauge", "Objects that the collector tracks; up to CPython 3.13 those that outlived the last full "
                             "collection, absent before the first."),
    Metric(INFO, "info", "The Python that the process runs."),
)

BEYOND_BELIEF = 1 << 53
"""From here on a float is not exact, and no process has counted that far."""

_WORD, _INT = struct.Struct("<Q"), struct.Struct("<i")
_GENERATIONS = struct.Struct("<" + "16xii" * 3)  # the head of a list; threshold, count
_STATS = struct.Struct("<9q")  # three times collections, collected, uncollectable
_RECORD = struct.Struct("<8xqqqq8xd8x")  # when it ended; collections, collected, uncollectable; seconds
assert _RECORD.size == RECORD_BYTES


class GcProbe:
    """The collector of one program of one process. Lives from attach until the process has ended.

    Raises OSError (EACCES, EPERM: not permitted; ENOENT, ESRCH: gone; EAGAIN: its interpreter has not started yet) or
    Unsupported.
    """

    name = "gc"

    def __init__(self, pid: int, series: SeriesOf, proc: str = "/proc") -> None:
        self._memory = Memory(pid, proc)
        try:
            self.info, self._state, self._main_at, self._main, self._gc = attach(self._memory, pid, proc)
        except (OSError, SidecarError):
            self._memory.close()
            raise
        self._labels = _labels(series, self.info, self._state)
        self._last: tuple[float, ...] = ()

    def read(self, at: float) -> list[Sample]:
        """Every figure of this moment, by two or three small reads.

        Raises OSError (ESRCH) once the program or its interpreter has ended, ValueError where what is read cannot be
        true. Counters that have gone back are refused once: made anew in the same place, an interpreter counts on.
        """
        state, read = self._state, self._memory.read
        if _WORD.unpack(read(self._main_at, 8))[0] != self._main:
            raise ProcessLookupError(errno.ESRCH, "the interpreter has ended, or is another one now")
        raw = read(self._gc, state.size)
        enabled, collecting = _INT.unpack_from(raw, state.enabled)[0], _INT.unpack_from(raw, state.collecting)[0]
        if enabled not in (0, 1) or collecting not in (0, 1):
            raise ValueError(f"enabled is {enabled}, collecting {collecting}: neither 0 nor 1")
        if state.own is not None and _WORD.unpack_from(raw, state.own)[0] != self._gc + state.generations:
            raise ValueError("the collector does not lead back to itself")
        counted = _counted(raw, state, read)
        values = (1.0, *counted, *_generations(raw, state), enabled, *_tracked(raw, state, counted))
        if not 0 <= min(values) <= max(values) < BEYOND_BELIEF:
            raise ValueError(f"a figure is below zero or beyond belief: {min(values)} to {max(values)}")
        last, self._last = self._last, counted
        if True in map(lt, counted, last):
            raise ValueError("counters have gone back")
        return list(map(Sample, self._labels, values, repeat(at)))

    def close(self) -> None:
        """Give the descriptor back."""
        self._memory.close()


def _counted(raw: bytes, state: State, read: Read) -> tuple[float, ...]:
    """The counters, generation by generation: collections, collected, uncollectable and, from a ring, seconds."""
    if state.ring is None:
        return _STATS.unpack_from(raw, state.stats)
    found: list[float] = []
    at, start = _WORD.unpack_from(raw, state.stats)[0], 0
    rings = read(at, sum(length * RECORD_BYTES + 8 for length in state.ring))
    for length in state.ring:
        newest = rings[start + length * RECORD_BYTES]
        if newest >= length:
            raise ValueError(f"record {newest} of {length}")
        # The index moves on before the record is written, its end comes last: the one that ended later is whole.
        found += max(_RECORD.unpack_from(rings, start + place * RECORD_BYTES)
                     for place in (newest, (newest - 1) % length))[1:]
        start += length * RECORD_BYTES + 8
    if any(seconds != seconds for seconds in found[3::4]):
        raise ValueError("a time is no number")
    return tuple(found)


def _generations(raw: bytes, state: State) -> tuple[int, ...]:
    """Threshold and count of each generation, as gc.get_threshold() and gc.get_count() have them.

    None in a free-threaded build: there each thread counts for itself, and memory decides as well.
    """
    if state.collector == "free_threaded":
        return ()
    found: tuple[int, ...] = _GENERATIONS.unpack_from(raw, state.generations)
    if state.visited is None:
        return found
    visited, = _INT.unpack_from(raw, state.visited)  # the two old generations change places
    if visited not in (0, 1):
        raise ValueError(f"old generation {visited} of 2")
    return found[:3] + ((found[3], 0, found[5]) if not visited else (found[5], 0, found[3]))


def _tracked(raw: bytes, state: State, counted: tuple[float, ...]) -> tuple[int, ...]:
    """How many objects there are, where that is known."""
    if state.heap is not None:
        return _WORD.unpack_from(raw, state.heap)
    if state.survivors is not None and counted[6]:  # full collections: before the first, nobody has counted
        return _WORD.unpack_from(raw, state.survivors)
    return ()


def _labels(series: SeriesOf, info: PythonInfo, state: State) -> list[Labels]:
    """The labels of the figures, in their order; made once."""
    counters = (COLLECTIONS, COLLECTED, UNCOLLECTABLE, *((PAUSE,) if state.ring else ()))
    gauges = () if state.collector == "free_threaded" else (THRESHOLD, OBJECTS)
    named = [(metric, "generation", str(number)) for metrics in (counters, gauges) for number in range(3)
             for metric in metrics]
    told = [word for pair in info._asdict().items() for word in pair]
    return [series.sample(metric, 0.0, 0.0, *pairs).labels
            for metric, *pairs in [(INFO, *told), *named, (ENABLED,), (TRACKED,)]]
