"""Giving memory back: what is kept is dropped, the collector runs, and free pages return to the kernel. In this order.

Each step is measured by RssAnon, because dropped objects are no proof: bytes that stay inside malloc free nothing.
"""

import ctypes
import gc
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from sidecar.demo.assistant import Assistant

MIB = 1024 * 1024


class Memory(NamedTuple):
    """The process's resident bytes: all of them, and those that only the process itself can give back."""

    rss_bytes: int
    anon_bytes: int


class Step(NamedTuple):
    """One step of a cleanup. `removed` counts entries, turns or objects; malloc_trim says 1 if it gave any page."""

    step: str
    removed: int
    freed_bytes: int
    duration_seconds: float


class Release(NamedTuple):
    """How free memory goes back to the kernel here. `reason` says why not, and is empty if it does."""

    method: str
    available: bool
    reason: str


class Level(NamedTuple):
    """How far a cleanup goes. malloc_trim is left out if less than `release_from_bytes` has been dropped before it."""

    drops: Mapping[str, Callable[[Assistant], int]]
    gc_passes: int
    release_from_bytes: int


LEVELS = {
    "light": Level({"conversations": lambda rag: rag.conversations.forget_older_half()}, 1, 64 * MIB),
    "standard": Level(
        {
            "semantic cache": lambda rag: rag.cache.evict(0.5),
            "conversations": lambda rag: rag.conversations.keep_last_turns(),
        }, 2, 0,
    ),
    "aggressive": Level(
        {
            "semantic cache": lambda rag: rag.cache.evict(1.0),
            "conversations": lambda rag: rag.conversations.clear(),
        }, 3, 0,
    ),
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a cleanup did. The byte figures are RssAnon; they may grow during a light one, as queries go on."""

    id: str
    level: str
    trigger: str
    before_bytes: int
    after_bytes: int
    freed_bytes: int
    duration_seconds: float
    steps: tuple[Step, ...]
    release: Release

    def __str__(self) -> str:
        """One line for the log."""
        before, after, freed = (n / MIB for n in (self.before_bytes, self.after_bytes, self.freed_bytes))
        what = f"cleanup {self.level} by {self.trigger}"
        return f"{what}: {before:.1f} -> {after:.1f} MiB, freed {freed:.1f} MiB in {self.duration_seconds:.3f} s"

    def as_json(self) -> dict[str, Any]:
        """The answer to POST /cleanup."""
        steps = [step._asdict() for step in self.steps]
        return {**asdict(self), "steps": steps, "release": self.release._asdict()}


class CleanupRunning(Exception):
    """Another cleanup is at work, and there is only ever one."""


def read_memory() -> Memory:
    """VmRSS and RssAnon of this process, from /proc/self/status (proc(5)). OSError where there is no /proc."""
    with open("/proc/self/status", "rb") as file:
        found = dict(re.findall(rb"^(VmRSS|RssAnon):\s+(\d+) kB", file.read(), re.MULTILINE))
    return Memory(int(found[b"VmRSS"]) * 1024, int(found[b"RssAnon"]) * 1024)


class Cleaner:
    """Runs cleanups of one assistant, one at a time. Lives as long as the service."""

    def __init__(self, assistant: Assistant) -> None:
        self.done = 0
        self._assistant = assistant
        self._running = threading.Lock()
        self._malloc_trim, self.release = _find_malloc_trim()

    def clean(self, level: str, trigger: str, *, id: str = "", wait: bool = False) -> Report:
        """Carry out `level`, one of LEVELS. Raises CleanupRunning if one is at work, unless told to `wait` for it."""
        if not self._running.acquire(blocking=wait):
            raise CleanupRunning
        try:
            started, before = time.monotonic(), read_memory().anon_bytes
            steps = tuple(self._steps(LEVELS[level]))
            after = read_memory().anon_bytes
            self.done += 1
        finally:
            self._running.release()
        seconds = time.monotonic() - started
        return Report(id, level, trigger, before, after, before - after, seconds, steps, self.release)

    def _steps(self, level: Level) -> list[Step]:
        kept_bytes = self._kept_bytes()
        steps = [_measured(name, partial(drop, self._assistant)) for name, drop in level.drops.items()]
        steps += [_measured(f"gc pass {number}", gc.collect) for number in range(1, level.gc_passes + 1)]
        malloc_trim = self._malloc_trim
        if malloc_trim and kept_bytes - self._kept_bytes() >= level.release_from_bytes:
            steps.append(_measured("malloc_trim", lambda: malloc_trim(0)))
        return steps

    def _kept_bytes(self) -> int:
        return self._assistant.cache.bytes + self._assistant.conversations.bytes


def _measured(step: str, work: Callable[[], int]) -> Step:
    started, before = time.monotonic(), read_memory().anon_bytes
    removed = work()
    return Step(step, removed, before - read_memory().anon_bytes, time.monotonic() - started)


def _find_malloc_trim() -> tuple[Callable[[int], int] | None, Release]:
    """glibc's malloc_trim, if this process has it and its memory comes from glibc."""
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        other = re.search(r"lib(jemalloc|tcmalloc|mimalloc)", file.read())
    if other:  # a preloaded allocator: malloc_trim is there, and does nothing to the heap in use
        return None, Release("none", False, f"memory comes from {other[1]}, on which malloc_trim has no effect")
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return None, Release("none", False, "the C library has no malloc_trim: only glibc does, musl does not")
    # A ctypes function lets go of the GIL while it runs: questions are answered meanwhile.
    malloc_trim.argtypes, malloc_trim.restype = [ctypes.c_size_t], ctypes.c_int
    return malloc_trim, Release("malloc_trim", True, "")
