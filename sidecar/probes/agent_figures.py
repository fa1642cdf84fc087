"""What an agent tells → values by metric and labels. Pure; nothing of it is believed: what is odd is left out."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sidecar.errors import ProbeFailed
from sidecar.model import Cleanup, Metric
from sidecar.probes.gc_remote import COLLECTED, COLLECTIONS, ENABLED, OBJECTS, PAUSE, THRESHOLD, UNCOLLECTABLE

PROTOCOL = 1
MOST_ROWS = 32
"""Caches, models and devices of one process that are told one by one."""
MOST_CHARACTERS = 100
BEYOND_BELIEF = float(1 << 62)
SIGNALS: Mapping[str, int] = {"SIGUSR1": 10, "SIGUSR2": 12}
"""Those that an agent may announce, by their numbers on Linux (signal(7), all but Alpha, MIPS and SPARC)."""

PAUSE_MAX = "rag_python_gc_pause_seconds_max"
DEVICE_MEMORY, DEVICE_INFO = "rag_torch_device_memory_bytes", "rag_torch_device_info"
MODEL_BYTES = "rag_model_memory_bytes"

OF_PYTHON = (Metric("rag_python_allocated_blocks", "gauge", "Blocks of memory that Python's allocator has given out."),)
OF_MALLOC = (
    Metric("rag_malloc_arena_bytes", "gauge", "Memory that malloc has from the kernel in its arenas."),
    Metric("rag_malloc_in_use_bytes", "gauge", "Memory in malloc's arenas that the program uses."),
    Metric("rag_malloc_free_bytes", "gauge", "Memory in malloc's arenas that the program has given back to it."),
    Metric("rag_malloc_mmapped_bytes", "gauge", "Memory that malloc has from the kernel piece by piece."),
    Metric("rag_malloc_releasable_bytes", "gauge", "What malloc could return to the kernel, as estimated."),
    Metric("rag_malloc_trim_returned_bytes_total", "counter", "Memory that the agent had malloc return to the kernel."),
)
OF_TRACING = (
    Metric("rag_tracemalloc_tracing", "gauge", "1 while tracemalloc traces, which slows the program down, else 0."),
    Metric("rag_tracemalloc_traced_bytes", "gauge", "Memory whose allocation tracemalloc has seen."),
    Metric("rag_tracemalloc_peak_bytes", "gauge", "The most of it so far."),
    Metric("rag_tracemalloc_overhead_bytes", "gauge", "Memory that tracemalloc takes itself."),
)
OF_TORCH = (
    Metric("rag_torch_allocated_bytes", "gauge", "Memory of a device that tensors occupy."),
    Metric("rag_torch_allocated_max_bytes", "gauge", "The most of it so far."),
    Metric("rag_torch_requested_bytes", "gauge", "Memory that the program asked for, before rounding."),
    Metric("rag_torch_reserved_bytes", "gauge", "Memory that torch's allocator holds of a device."),
    Metric("rag_torch_active_bytes", "gauge", "Memory in blocks that are in use or about to be free."),
    Metric("rag_torch_inactive_split_bytes", "gauge", "Free pieces of split blocks: they cannot be returned."),
    Metric("rag_torch_segments", "gauge", "Segments that torch's allocator holds of a device."),
    Metric("rag_torch_alloc_retries_total", "counter", "Allocations for which torch had to empty its cache."),
    Metric("rag_torch_ooms_total", "counter", "Allocations that failed for want of memory on a device."),
    Metric("rag_torch_device_alloc_total", "counter", "Times torch asked a device's driver for memory."),
    Metric("rag_torch_device_free_total", "counter", "Times torch gave memory back to a device's driver."),
    Metric("rag_torch_releasable_bytes", "gauge", "What emptying torch's cache can return at most."),
)
OF_CACHE = (
    Metric("rag_cache_entries", "gauge", "Entries of a cache that the program has registered."),
    Metric("rag_cache_size_bytes", "gauge", "What the cache says it occupies."),
    Metric("rag_cache_max_entries", "gauge", "Entries that it may have."),
    Metric("rag_cache_max_bytes", "gauge", "What it may occupy."),
    Metric("rag_cache_hits_total", "counter", "Times it had what was asked for."),
    Metric("rag_cache_misses_total", "counter", "Times it had not."),
    Metric("rag_cache_evictions_total", "counter", "Entries that it has dropped by itself."),
)
OF_MODEL = (
    Metric("rag_model_loaded", "gauge", "1 while a model that the program has registered is loaded, else 0."),
    Metric("rag_model_last_used_timestamp_seconds", "gauge", "When it was used last, in Unix time."),
    Metric("rag_model_loads_total", "counter", "Times it was seen to be loaded."),
    Metric("rag_model_unloads_total", "counter", "Times it was seen to be unloaded."),
)
METRICS = (
    Metric(PAUSE_MAX, "gauge", "The longest collection of this generation so far."), *OF_PYTHON, *OF_MALLOC, *OF_TORCH,
    Metric(DEVICE_MEMORY, "gauge", "Memory of a device, by kind: free and total."),
    Metric(DEVICE_INFO, "info", "A device that torch uses: its name and uuid."), *OF_TRACING, *OF_CACHE, *OF_MODEL,
    Metric(MODEL_BYTES, "gauge", "What it occupies, by source: measured or estimated."),
    Metric("rag_requests_total", "counter", "Requests that the program has counted."),
)

Rows = dict[tuple[str, ...], float]
"""(metric, label, value, label, value …) → value."""


class Hello(NamedTuple):
    """How an agent introduces itself. `signals` says which signal serves which cleanup."""

    version: str
    protocol: int
    allocator: str
    signals: Mapping[Cleanup, int]


def hello(told: object) -> Hello:
    """The answer to `GET /`. Raises ProbeFailed if it is not an agent's."""
    protocol = _number(_object(told).get("protocol"))
    if not protocol or protocol != int(protocol) or protocol < 1:
        raise ProbeFailed("protocol", "what answers there does not introduce itself as an agent")
    found = _object(told)
    signals: dict[Cleanup, int] = {}
    for name, cleanup in _object(found.get("signals", {})).items():
        for level in ("light", "standard", "aggressive"):
            if name in SIGNALS and cleanup == level:
                signals[level] = SIGNALS[name]
    return Hello(_text(found.get("agent")) or "unknown", int(protocol), _text(found.get("allocator")) or "unknown",
                 signals)


def mode(told: object) -> str:
    """The mode that the agent holds, "" where it tells none. Raises ProbeFailed if the answer is no object."""
    return _text(_object(told).get("mode"))


def figures(told: object) -> Rows:
    """The answer to `GET /memory`. Raises ProbeFailed if it is no object; single figures that are odd are left out."""
    found = _object(told)
    rows: Rows = dict(_of_collector(found.get("gc")))
    for key, metrics in (("python", OF_PYTHON), ("malloc", OF_MALLOC), ("tracemalloc", OF_TRACING)):
        rows |= _plain(found.get(key), f"rag_{key}_", metrics)
    for key, of_row in (("torch", _of_device), ("caches", _of_cache), ("models", _of_model)):
        told_rows = found.get(key)
        for row in told_rows[:MOST_ROWS] if isinstance(told_rows, list) else ():
            if isinstance(row, dict):
                rows = of_row(row) | rows  # of two with the same name the first one counts
    return rows | _values(found, [("requests_total", "rag_requests_total")])


def _object(told: object) -> dict[str, Any]:
    if not isinstance(told, dict):
        raise ProbeFailed("protocol", "what answers there is not an object")
    return told


def _number(value: object) -> float | None:
    """A figure that can be true: not negative, not beyond belief."""
    return float(value) if isinstance(value, int | float) and 0 <= value < BEYOND_BELIEF else None


def _text(value: object) -> str:
    """A text that can be a label, or the empty string."""
    return value if isinstance(value, str) and len(value) <= MOST_CHARACTERS and value.isprintable() else ""


def _values(told: dict[str, Any], names: list[tuple[str, str]], *labels: str) -> Rows:
    """The figures of these (key, metric) that are there."""
    found = ((metric, _number(told.get(key))) for key, metric in names)
    return {(metric, *labels): value for metric, value in found if value is not None}


def _plain(told: object, prefix: str, metrics: tuple[Metric, ...], *labels: str) -> Rows:
    """Figures whose keys are their metrics' names less the prefix."""
    if not isinstance(told, dict):
        return {}
    return _values(told, [(metric.name.removeprefix(prefix), metric.name) for metric in metrics], *labels)


GENERATION = [("collections", COLLECTIONS), ("collected", COLLECTED), ("uncollectable", UNCOLLECTABLE),
              ("pause_seconds", PAUSE), ("pause_max_seconds", PAUSE_MAX), ("count", OBJECTS), ("threshold", THRESHOLD)]
CACHE = [(key, f"rag_cache_{key}{end}") for key, end in (
    ("entries", ""), ("size_bytes", ""), ("max_entries", ""), ("max_bytes", ""), ("hits", "_total"),
    ("misses", "_total"), ("evictions", "_total"))]
MODEL = [("loaded", "rag_model_loaded"), ("last_used_at", "rag_model_last_used_timestamp_seconds"),
         ("loads", "rag_model_loads_total"), ("unloads", "rag_model_unloads_total")]


def _of_collector(told: object) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(told, dict):
        yield from _values(told, [("enabled", ENABLED)]).items()
        generations = told.get("generations")
        for number, row in enumerate(generations[:3] if isinstance(generations, list) else ()):
            if isinstance(row, dict):
                yield from _values(row, GENERATION, "generation", str(number)).items()


def _of_device(row: dict[str, Any]) -> Rows:
    device, backend = _text(row.get("device")), _text(row.get("backend"))
    if not device:
        return {}
    labels = ("device", device, "backend", backend)
    found = _plain(row, "rag_torch_", OF_TORCH, *labels)
    for kind in ("free", "total"):
        found |= _values(row, [(f"device_{kind}_bytes", DEVICE_MEMORY)], *labels, "kind", kind)
    named = [word for key in ("name", "uuid") for word in (key, _text(row.get(key)))]
    return found | {(DEVICE_INFO, *labels, *named): 1.0}


def _of_cache(row: dict[str, Any]) -> Rows:
    name = _text(row.get("cache"))
    return _values(row, CACHE, "cache", name) if name else {}


def _of_model(row: dict[str, Any]) -> Rows:
    name, source = _text(row.get("model")), _text(row.get("source"))
    if not name:
        return {}
    device = _text(row.get("device"))
    return _values(row, MODEL, "model", name) | _values(
        row, [("memory_bytes", MODEL_BYTES)], "model", name, "device", device,
        "source", source if source in ("measured", "estimated") else "unknown")
