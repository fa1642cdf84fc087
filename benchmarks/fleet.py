"""The series that the shipped rules read, for any number of targets: as samples of a store, and as a page to scrape."""

import math
from array import array
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from sidecar.model import Labels, Sample
from sidecar.store import SERIES_A_TURN, Store

MIB = 1 << 20
STEP_SECONDS = 1.0
LINES_MIB = {"preventive": 800, "main": 1000, "critical": 1200}
FIRST_PROCESS_SECONDS = 7200.0
"""How long ago every process began: the rules about trends leave younger ones alone."""


class Shape(NamedTuple):
    """One series of each target: its value at an age in seconds of the fleet, and how far back rules look at it."""

    name: str
    labels: tuple[tuple[str, str], ...]
    value: Callable[[float, int], float]
    back_seconds: float = 10.0


def _wave(mean: float, share: float) -> Callable[[float, int], float]:
    """Memory of a busy process: up and down around a mean, each target in a phase of its own, never the same twice."""
    return lambda age, target: float(round(mean * (1 + share * math.sin(age / 47.0 + target)) + age % 7))


def _grows(per_second: float) -> Callable[[float, int], float]:
    return lambda age, target: math.floor(age * per_second + target % 5)


def _shapes(over_lines: bool) -> Iterator[Shape]:
    main = (("process", "main"),)
    used = _wave((1300 if over_lines else 600) * MIB, 0.05)
    yield Shape("rag_memory_used_bytes", (), used, 310)
    yield Shape("rag_memory_limit_bytes", (), lambda age, target: 2048.0 * MIB)
    yield Shape("rag_target_up", (), lambda age, target: 1.0)
    yield Shape("rag_process_start_time_seconds", main, lambda age, target: 0.0)  # see `value_of`
    for level, mib in LINES_MIB.items():
        yield Shape("rag_memory_threshold_bytes", (("level", level),), lambda age, target, mib=mib: float(mib * MIB))
    yield Shape("rag_cgroup_memory_unreclaimable_bytes", (), used)
    for kind in ("max", "high"):
        yield Shape("rag_cgroup_memory_limit_bytes", (("kind", kind),), lambda age, target: 2048.0 * MIB)
    for event in ("low", "high", "max", "oom", "oom_kill"):
        back = 610.0 if event == "oom_kill" else 10.0
        yield Shape("rag_cgroup_memory_events_total", (("event", event),), lambda age, target: 0.0, back)
    for resource in ("memory", "cpu", "io"):
        for kind in ("some", "full"):
            yield Shape("rag_cgroup_pressure_seconds_total", (("kind", kind), ("resource", resource)), _grows(0.01),
                        70.0 if (kind, resource) == ("full", "memory") else 10.0)
    yield Shape("rag_cgroup_swap_usage_bytes", (), lambda age, target: float(target % 3) * 100 * MIB)
    for kind in ("anon", "file"):
        yield Shape("rag_cgroup_refaults_total", (("kind", kind),), _grows(3.0), 310.0 if kind == "anon" else 10.0)
    yield from _collector(main)


def _collector(main: tuple[tuple[str, str], ...]) -> Iterator[Shape]:
    """What is told of CPython's collector."""
    for generation, per_second in (("0", 5.0), ("1", 0.5), ("2", 0.05)):
        labels = (("generation", generation), *main)
        yield Shape("rag_python_gc_collections_total", labels, _grows(per_second), 1810)
        yield Shape("rag_python_gc_objects_uncollectable_total", labels, lambda age, target: 0.0, 910)
        yield Shape("rag_python_gc_threshold", labels, lambda age, target: 700.0)
    yield Shape("rag_python_gc_tracked_objects", main, _wave(400_000, 0.1))
    yield Shape("rag_python_gc_enabled", main, lambda age, target: 1.0)
    yield Shape("rag_python_info", (("collector", "generational"), ("implementation", "CPython"), *main,
                                    ("version", "3.12.1")), lambda age, target: 1.0)


class Fleet:
    """`targets` processes, watched since `began` (Unix seconds); `over_lines` has three alerts of each firing.

    `without` names metrics that are left out.
    """

    def __init__(self, targets: int, began: float, *, over_lines: bool = False, instance: str = "box:11611",
                 without: Collection[str] = ()) -> None:
        self.targets, self.began = targets, began
        shapes = tuple(_shapes(over_lines))
        self._series = [(Labels({"__name__": shape.name, "job": "rag-sidecar", "instance": instance,
                                 "target": f"rag-{target:04}", **dict(shape.labels)}), shape, target)
                        for target in range(targets) for shape in shapes if shape.name not in without]

    def __len__(self) -> int:
        return len(self._series)

    def _value(self, shape: Shape, target: int, at: float) -> float:
        if shape.name == "rag_process_start_time_seconds":
            return self.began - FIRST_PROCESS_SECONDS
        return shape.value(at - self.began, target)

    def samples(self, at: float) -> list[Sample]:
        """Every series as it is at `at`."""
        return [Sample(labels, self._value(shape, target, at), at) for labels, shape, target in self._series]

    def page(self, at: float) -> str:
        """The same as a page in Prometheus's format, without job and instance, which a scrape adds."""
        lines = []
        for labels, shape, target in self._series:
            shown = ",".join(f'{name}="{value}"' for name, value in labels.items()
                             if name not in ("__name__", "job", "instance"))
            lines.append(f"{shape.name}{{{shown}}} {self._value(shape, target, at)}\n")
        return "".join(lines)

    def store(self, until: float) -> Store:
        """A store with the history that the rules look back at, a sample a second, up to and with `until`."""
        store = Store(budget_bytes=1 << 40)
        needs: dict[str, float] = {}
        for _, shape, _ in self._series:
            needs[shape.name] = max(needs.get(shape.name, 0.0), shape.back_seconds)
        store.keep({**needs, "rag:memory_used_bytes:floor5m": 2110.0})
        for labels, shape, target in self._series:
            count = int(shape.back_seconds / STEP_SECONDS)
            times = array("d", (until - index * STEP_SECONDS for index in range(count, -1, -1)))
            store.append(Sample(labels, self._value(shape, target, at), at) for at in times)
            if shape.name == "rag_memory_used_bytes":
                floor = labels.merged({"__name__": "rag:memory_used_bytes:floor5m"})
                store.append(Sample(floor, self._value(shape, target, until - 30 * back) * 0.95, until - 30 * back)
                             for back in range(70, 0, -1))
        for _ in range(store.series_count // SERIES_A_TURN + 1):
            store.truncate(until)  # what is older than five minutes is thinned, as it would have been by now
        return store
