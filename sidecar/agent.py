"""The agent: a small part of rag-sidecar that lives inside a Python process and tells and cleans on request.

    import sidecar.agent as agent      # or `import agent`, where this one file was copied
    agent.start()

It serves `GET /`, `/memory`, `/report` and `POST /cleanup`, `/mode` on a unix socket that only this user can open; the
sidecar finds it by the pid. docs/agent.md describes the protocol. The app says what can be given back:

    agent.register_cache("embeddings", embeddings)      # a dict, an lru_cache function, anything with clear()
    agent.register_model("reranker", lambda: app.reranker, unload=app.drop_reranker)

    @agent.on_cleanup
    def drop_history(level): history.clear()

Standard library alone, Python 3.8 and later. A guest in a foreign process: one daemon thread that sleeps until it is
asked, signal handlers that only set a flag, no import of torch, and nothing that raises into the app after `start()`.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import functools
import gc
import itertools
import os
import select
import signal
import socket
import stat
import sys
import threading
import time
import types
import weakref

TYPE_CHECKING = False  # type checkers take it for true; importing typing would cost every target half a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, TypeVar

    Figures = dict[str, Any]
    Function = TypeVar("Function", bound=Callable[..., Any])

VERSION = "0.1.0"
PROTOCOL = 1
LEVELS = ("light", "standard", "aggressive")
MODES = ("normal", "cautious", "degraded")

MIB = 1024 * 1024
SHOWN = 32
"""Caches, models, and steps of one kind that are told one by one; the rest is summed up as `other`."""
REGISTERED = 16_384
RESULTS = 16
RELEASE_FROM_BYTES = 64 * MIB
CALLBACK_SECONDS, CLEANUP_SECONDS = 5.0, 20.0
"""After the one a cleanup goes on without a callback that has not returned, after the other it is over."""
TWIN_SECONDS = 1.0
"""For so long an order joins a cleanup of its level that a signal has begun."""
MODE_SECONDS, MOST_MODE_SECONDS = 60.0, 86400.0
"""How long a mode holds after the last word of whoever has told it, unless that one says otherwise."""
PASS_EVERY_SECONDS = 60.0
FREEZE_AFTER_SECONDS = 60.0
LOWERED = (100, 5, 5)
"""The collector's thresholds during an aggressive cleanup."""
SHARE = 100
"""What took t seconds to find out is not found out again before SHARE x t have passed: one percent of a core."""

CONNECTIONS, BACKLOG, ACCEPTED_A_SECOND = 8, 64, 100
HEAD_BYTES, BODY_BYTES = 8 * 1024, 64 * 1024
ID_CHARACTERS = 200
"""A sidecar's has at most 134 and a count: `manual:`, a target's name of up to 100, the level, the time."""
IDLE_SECONDS, SLOW_SECONDS = 60.0, 5.0
USER_FIRST_SECONDS, USER_MOST_SECONDS = 0.1, 30.0
"""A process that may still change its user is looked at after the one, then ever more seldom, down to the other."""
PATIENCE_SECONDS = 0.05
PLACES = ("/run/rag-sidecar", "/tmp", "/dev/shm", "/var/tmp")
TOKEN_CHARACTERS = 16
SITES, TYPES = 25, 25
WINDOW_SECONDS, WINDOW_OVERHEAD_BYTES, WINDOW_BLOCKS = 60.0, 64 * MIB, 5_000_000


# What the app calls


def start(
    *,
    listen: str | None = None,
    token: str | None = None,
    directory: str | None = None,
    signals: bool | dict[str, str] = True,
    freeze_after_startup: bool | float = False,
    every_seconds: float | None = None,
    every_requests: int | None = None,
    gc_pause_budget_seconds: float = 0.1,
    name: str | None = None,
) -> None:
    """Start the agent of this process. A second call changes nothing; `stop()` comes before other arguments.

        agent.start()                                                    # the unix socket and both signals
        agent.start(listen="127.0.0.1:9115", token=environ["TOKEN"])     # loopback TCP as well

    `directory`: where the socket's directory is made, before the usual places. `signals`: True installs SIGUSR1 =
    standard and SIGUSR2 = aggressive where nobody handles them yet; a mapping {"SIGUSR1": "light"} installs just these
    and replaces what was there until `stop()`; only the main thread can install any. `freeze_after_startup`: after 60 s
    (or the seconds given) one collection, then gc.freeze(): later passes leave out what was loaded until then.
    `every_seconds` and `every_requests` (see `count_request`) clean lightly by themselves. A light cleanup leaves the
    collector alone if a pass is expected to take more than `gc_pause_budget_seconds`.

    Raises ValueError for arguments that can never work. What the machine refuses (no directory, a port in use, a
    sub-interpreter) is logged as a warning, and the app goes on.
    """
    options = _Options(listen, token, directory, signals, freeze_after_startup, every_seconds, every_requests,
                       gc_pause_budget_seconds, name)
    options.check()
    global _agent, _every_requests
    with _starting:
        if _agent is not None:
            if _agent.options != options:
                _warn("start() was called again with other arguments: they have no effect before stop()")
            return
        if not _in_main_interpreter():
            _warn("not started in a sub-interpreter: signals, forks and daemon threads belong to the main one")
            return
        _take_the_place_of_another()
        try:
            agent = _Agent(options)
        except OSError as error:
            _warn(f"not started: {error}")
            return
        if not agent.open():
            return
        _agent, _every_requests = agent, options.every_requests or 0
        _observe_collector()
        _once_per_process()
        agent.install_signals()


def stop() -> None:
    """End the agent: its thread, sockets and handlers are gone after it. Harmless where there is none."""
    global _agent, _every_requests
    with _starting:
        agent, _agent, _every_requests = _agent, None, 0
        if agent is not None:
            agent.close()
            _ignore_collector()


def on_cleanup(
    callback: Callable[..., Any] | None = None, *, name: str | None = None, level: str = "standard"
) -> Callable[..., Any]:
    """Call `callback(level)` in every cleanup of `level` or a stronger one, in a thread of the agent. A decorator too.

        agent.on_cleanup(index.shrink, name="index")

        @agent.on_cleanup(level="aggressive")
        def unload(level): ...

    It may return the bytes that it freed. What it raises is reported and stops nothing; after 5 s the cleanup goes on
    without it. A bound method is held weakly: it is forgotten with its object. Raises ValueError for an unknown level,
    TypeError for a callback that cannot be called.
    """
    _known("level", level, LEVELS)

    def register(function: Function) -> Function:
        _callable("on_cleanup", callback=function)
        _registry.add(_registry.cleaners, _Cleaner(name, function, LEVELS.index(level)))
        return function

    return register if callback is None else register(callback)


def register_cache(
    name: str,
    cache: Any = None,
    *,
    trim: Callable[[float], Any] | None = None,
    clear: Callable[[], Any] | None = None,
    entries: Callable[[], int] | None = None,
    size_bytes: Callable[[], int] | None = None,
    lock: Any = None,
) -> None:
    """Show a cache, halve it in a standard cleanup and clear it in an aggressive one. The same name replaces.

        agent.register_cache("embeddings", embeddings, lock=embeddings_lock)
        agent.register_cache("answers", answer)                             # def answer, under functools.lru_cache
        agent.register_cache("pages", clear=drop_pages, entries=count_pages)

    `cache` may be a dict (the oldest half goes), a function under `functools.lru_cache` (it can only be cleared, and is
    in a standard cleanup too), or an object with some of trim(fraction), evict(fraction), popitem(), clear(), len(),
    maxsize, currsize, size_bytes, max_bytes, hits, misses, evictions. The functions given here come first. `lock` is
    held meanwhile, if it can be had within 5 s. The cache is held weakly where Python can (not a plain dict).
    Raises ValueError if there is nothing to trim, clear or count, TypeError for a function that cannot be called.
    """
    given = {"trim": trim, "clear": clear, "entries": entries, "size_bytes": size_bytes}
    _callable(f"register_cache({name!r})", **given)
    if cache is None and not any(given.values()):
        raise ValueError(f"register_cache({name!r}): neither a cache nor a function was given")
    _registry.add(_registry.caches, _Cache(str(name), cache, given, lock))


def register_model(
    name: str,
    model: Any,
    *,
    unload: Callable[[], Any] | None = None,
    device: str | None = None,
    estimated_bytes: int | None = None,
) -> None:
    """Show a model; an aggressive cleanup drops its gradients, sets it to eval mode and calls `unload()`.

        agent.register_model("reranker", lambda: app.reranker, unload=app.drop_reranker, estimated_bytes=2 << 30)

    `model` is the model, held weakly where Python can, or a function that returns it, or None while it is not loaded.
    Only for models that answer, never for one in training. The bytes of its parameters are shown as measured; where it
    has none to count, `estimated_bytes`. Raises ValueError where there is no model or the estimate is no number,
    TypeError for an `unload` that cannot be called.
    """
    if model is None:
        raise ValueError(f"register_model({name!r}): neither a model nor a function that returns it was given")
    if estimated_bytes is not None and not _is_number(estimated_bytes):
        raise ValueError(f"register_model({name!r}): estimated_bytes={estimated_bytes!r} is no number of bytes")
    _callable(f"register_model({name!r})", unload=unload)
    _registry.add(_registry.models, _Model(str(name), model, unload, device, estimated_bytes))


def on_mode(callback: Function) -> Function:
    """Call `callback(mode)` whenever the sidecar sets another mode. A decorator too.

        @agent.on_mode
        def shed(mode): queue.accept = mode != "degraded"

    Raises TypeError for a callback that cannot be called.
    """
    _callable("on_mode", callback=callback)
    _registry.add(_registry.listeners, _Cleaner(None, callback, 0))
    return callback


def mode() -> str:
    """What the sidecar asks of the app: "normal", "cautious" or "degraded". "normal" until it says otherwise, and again
    when it has not been heard of for a while.

    if agent.mode() == "degraded": return too_busy()
    """
    return _registry.mode


def count_request() -> None:
    """Count a request of the app: once for each, from any thread. Takes well under a microsecond.

    Shown as `requests_total`; with `start(every_requests=50)` each fiftieth asks for a light cleanup.
    """
    number = next(_requests)
    if _every_requests and number % _every_requests == 0:
        agent = _agent
        if agent is not None:
            agent.ask("light", "requests")


def cleanup(level: str = "standard") -> Figures:
    """Clean up now, in this thread, with or without a started agent. Returns what `POST /cleanup` answers.

        print(agent.cleanup("aggressive")["freed_bytes"])

    While another cleanup runs nothing is done and `outcome` is "busy". Raises ValueError for an unknown level.
    """
    _known("level", level, LEVELS)
    return _runner.run_here(level)


class _Options(
    collections.namedtuple(
        "_Options",
        "listen token directory signals freeze_after every_seconds every_requests gc_pause_budget_seconds name",
    )
):
    """The arguments of start()."""

    __slots__ = ()

    def check(self) -> None:
        """Raises ValueError for what can never work."""
        for title in ("listen", "token"):
            if not isinstance(getattr(self, title), (str, type(None))):
                raise ValueError(f"{title} must be a string")  # a token is not shown
        if self.listen is not None:
            host, port = self.address()
            if not _is_loopback(host):
                raise ValueError(f"listen={self.listen!r}: an agent listens on loopback alone, as in '127.0.0.1:0'")
            if not port.isdigit() or int(port) > 65535:
                raise ValueError(f"listen={self.listen!r}: a port is missing, as in '127.0.0.1:0'")
            if len(self.token or "") < TOKEN_CHARACTERS:
                raise ValueError(f"listen needs a token of at least {TOKEN_CHARACTERS} characters: every local user "
                                 "can connect to a port")
        for title, level in self.wanted_signals().items():
            _known("level", level, LEVELS)
            if not isinstance(getattr(signal, title, None), signal.Signals):
                raise ValueError(f"signals: {title!r} is no signal; SIGUSR1 is one")
        for title in ("every_seconds", "every_requests", "gc_pause_budget_seconds"):
            value = getattr(self, title)
            if value is not None and not (isinstance(value, (int, float)) and value > 0):
                raise ValueError(f"{title}={value!r}: must be a number greater than zero")
        if not isinstance(self.freeze_after, bool) and not _is_number(self.freeze_after):
            raise ValueError(f"freeze_after_startup={self.freeze_after!r}: must be True, False or seconds")

    def address(self) -> tuple[str, str]:
        """Host and port of `listen`, as written."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), port

    def wanted_signals(self) -> dict[str, str]:
        """{"SIGUSR1": "standard", …}, whoever handles them now."""
        if isinstance(self.signals, dict):
            return self.signals
        return {"SIGUSR1": "standard", "SIGUSR2": "aggressive"} if self.signals else {}

    def freeze_seconds(self) -> float | None:
        """After how many seconds what is loaded is frozen, if at all."""
        if self.freeze_after is True:
            return FREEZE_AFTER_SECONDS
        return None if self.freeze_after is False else float(self.freeze_after)


def _known(what: str, value: Any, among: tuple[str, ...]) -> None:
    if value not in among:
        raise ValueError(f"{what} {value!r} is none of {', '.join(among)}")


def _callable(where: str, **functions: Any) -> None:
    for what, function in functions.items():
        if function is not None and not callable(function):
            raise TypeError(f"{where}: {what} must be a function, not {type(function).__name__}")


def _is_loopback(host: str) -> bool:
    if host in ("localhost", "::1"):
        return True
    parts = host.split(".")
    return len(parts) == 4 and parts[0] == "127" and all(part.isdigit() and int(part) < 256 for part in parts)


def _warn(message: str) -> None:
    import logging  # never in a handler of a signal or of the collector, only where start() tells of trouble

    # Its name once more: where the app has not set up logging, only the message is shown.
    logging.getLogger("rag-sidecar").warning("the agent of rag-sidecar: %s", message)


def _take_the_place_of_another() -> None:
    """End the agent that came with the start of the program, or into it later: the app registers with this one."""
    other = sys.modules.get("_rag_sidecar_agent")
    if other is not None and vars(other) is not globals():
        other.stop()


def _in_main_interpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):
        try:
            interpreters = __import__(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True


def _attempt(function: Callable[..., Any], *arguments: Any) -> tuple[Any, str]:
    """What a function returns, and what it raised in words. The one place that catches everything.

    The functions are the app's, or call what is the app's: they may raise anything, SystemExit too, and neither a
    cleanup nor the agent's thread may end by it. In the main thread it goes on to the app, and so does Ctrl-C: there
    they are mostly a signal's, and an app that is told to end must end.
    """
    try:
        return function(*arguments), ""
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)) and threading.current_thread() is threading.main_thread():
            raise
        return None, f"{type(error).__name__}: {error}"[:300]


# Figures: the process


_PAGE = os.sysconf("SC_PAGE_SIZE")
_MANY_CORES = (os.cpu_count() or 1) >= 32


def _memory() -> dict[str, int]:
    """{"anon_bytes", "rss_bytes"} of /proc/self/statm (anon: resident less shared); empty where there is none.

    About ten microseconds. The kernel counts in batches for each core (mm_types_task.h, percpu_counter), so it may be
    off by 0.25 MiB on two cores, and by 8 MiB on 32.
    """
    try:
        with open("/proc/self/statm", "rb", 0) as file:
            _, resident, shared, *_ = file.read(200).split()
    except OSError:
        return {}
    return {"anon_bytes": (int(resident) - int(shared)) * _PAGE, "rss_bytes": int(resident) * _PAGE}


def _memory_exactly() -> dict[str, int]:
    """As `_memory`, on machines of many cores from /proc/self/smaps_rollup: exact, but it walks every page."""
    if not _MANY_CORES:
        return _memory()
    try:
        with open("/proc/self/smaps_rollup", "rb") as file:
            found = {line.split(b":")[0]: line.split() for line in file}
        return {"anon_bytes": int(found[b"Anonymous"][1]) * 1024, "rss_bytes": int(found[b"Rss"][1]) * 1024}
    except (OSError, KeyError):  # before Linux 4.14
        return _memory()


def _anon_freed(before: dict[str, int]) -> dict[str, int]:
    """{"freed_bytes"} since `before`, or nothing where memory cannot be read."""
    after = _memory()
    return {"freed_bytes": before["anon_bytes"] - after["anon_bytes"]} if before and after else {}


class _Throttled:
    """Finds something out no more often than what it costs allows. Holds one value."""

    def __init__(self, find_out: Callable[[], Figures]) -> None:
        self._find_out = find_out
        self._found: Figures = {}
        self._next_at = 0.0

    def __call__(self) -> Figures:
        """The value, at most one second old, or SHARE times what it takes to find out."""
        begun = time.monotonic()
        if begun >= self._next_at:
            self._found = _attempt(self._find_out)[0] or {}
            took = time.monotonic() - begun
            self._next_at = begun + max(0.5, SHARE * took)
        return self._found

    def forget(self) -> None:
        """What was found out does not hold any more."""
        self._next_at = 0.0


class _Patiently:
    """Figures of what is registered, found in a thread: a function of the app that hangs must not make us deaf."""

    def __init__(self) -> None:
        self._found: Figures = {}
        self._thread: threading.Thread | None = None

    def __call__(self) -> Figures:
        """The value, or the last one where it takes longer than PATIENCE_SECONDS."""
        if not (_registry.caches or _registry.models):
            return {}
        if self._thread is None or not self._thread.is_alive():
            self._thread = _thread(self._work, "rag-sidecar-figures")
        if self._thread is not None:
            self._thread.join(PATIENCE_SECONDS)
        return self._found

    def _work(self) -> None:
        self._found = _attempt(_registry.figures)[0] or self._found


def _thread(work: Callable[[], None], name: str) -> threading.Thread | None:
    """A daemon thread at work, or None where the process may start no more: too many, or Python is ending."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


# Figures: the garbage collector


class _Pauses:
    """How long the collector stopped the process, for each generation. Written by the collector's callback alone."""

    def __init__(self) -> None:
        self.seconds = [0.0, 0.0, 0.0]
        self.longest = [0.0, 0.0, 0.0]
        self.last_full = [0.0, -1.0]  # seconds, and when it ended
        self.callback = self._make_callback()

    def _make_callback(self) -> Callable[[str, dict[str, int]], None]:
        seconds, longest, last_full = self.seconds, self.longest, self.last_full
        clock, begun = time.perf_counter, 0.0

        def on_gc(phase: str, info: dict[str, int]) -> None:
            # No lock, no call into the app, nothing that grows: it runs wherever an object is made. Only names of its
            # own: it may run after the module has been torn down.
            nonlocal begun
            if phase == "start":
                begun = clock()
                return
            now, generation = clock(), info["generation"]
            took = now - begun
            seconds[generation] += took
            if took > longest[generation]:
                longest[generation] = took
            if generation == 2:
                last_full[0], last_full[1] = took, now

        return on_gc

    def why_no_pass(self, budget_seconds: float) -> str:
        """Why a light cleanup should leave the collector alone now, or nothing."""
        took, ended = self.last_full
        since = time.perf_counter() - ended
        if ended >= 0 and since < PASS_EVERY_SECONDS:
            return f"left out: the last full pass was {since:.0f} s ago"
        if ended < 0 and hasattr(sys, "getallocatedblocks"):
            took = sys.getallocatedblocks() * 1e-7  # four million objects took 0.28 s
        if took > budget_seconds:
            return f"left out: a pass is expected to take {took:.3f} s, more than {budget_seconds:g} s"
        return ""


def _observe_collector() -> None:
    callbacks = getattr(gc, "callbacks", None)  # PyPy has none
    if callbacks is not None and _pauses.callback not in callbacks:
        callbacks.append(_pauses.callback)


def _ignore_collector() -> None:
    callbacks = getattr(gc, "callbacks", [])
    if _pauses.callback in callbacks:
        callbacks.remove(_pauses.callback)


def _gc_figures() -> Figures:
    figures: Figures = {"enabled": gc.isenabled()}
    if hasattr(gc, "get_freeze_count"):
        figures["frozen"] = gc.get_freeze_count()
    observed = _pauses.callback in getattr(gc, "callbacks", [])
    if sys.implementation.name == "cpython":
        generations = []
        for number, (stats, count, threshold) in enumerate(zip(gc.get_stats(), gc.get_count(), gc.get_threshold())):  # noqa: B905
            generation = {key: stats[key] for key in ("collections", "collected", "uncollectable")}
            generation.update(count=count, threshold=threshold)
            if observed:
                generation["pause_seconds"] = _pauses.seconds[number]
                generation["pause_max_seconds"] = _pauses.longest[number]
            generations.append(generation)
        figures["generations"] = generations
    return figures


# Figures: tracemalloc


def _tracing() -> Any:
    """The C module behind tracemalloc if somebody uses it: the Python one would load more than it tells."""
    return sys.modules.get("_tracemalloc")


def _tracemalloc_figures() -> Figures:
    tracing = _tracing()
    if tracing is None or not tracing.is_tracing():
        return {"tracing": False}
    traced, peak = tracing.get_traced_memory()
    overhead = tracing.get_tracemalloc_memory()
    return {"tracing": True, "traced_bytes": traced, "peak_bytes": peak, "overhead_bytes": overhead}


class _Window:
    """A bounded look with tracemalloc: where memory was allocated meanwhile. Only one at a time."""

    def __init__(self) -> None:
        self.ours = False
        self.ended = threading.Event()

    def look(self, seconds: float) -> Figures:
        """The sites that hold most of what was allocated during `seconds`, or of what is traced anyway."""
        if not seconds and not _tracemalloc_figures()["tracing"]:
            return {}
        import tracemalloc

        note = {}
        if seconds and not tracemalloc.is_tracing():
            self.ours = True
            tracemalloc.start(1)
        try:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not self.ended.wait(min(0.25, seconds)):
                if tracemalloc.get_tracemalloc_memory() > WINDOW_OVERHEAD_BYTES:
                    note = {"cut_short": f"tracing itself took more than {WINDOW_OVERHEAD_BYTES // MIB} MiB"}
                    break
            if tracemalloc.get_tracemalloc_memory() > 4 * WINDOW_OVERHEAD_BYTES:
                return {"cut_short": "too many traces to summarise without stopping the process for seconds"}
            return {"sites": self._sites(tracemalloc.take_snapshot().statistics("lineno")), **note}
        finally:
            self.close()

    def close(self) -> None:
        """Stop tracing, if this window started it."""
        if self.ours:
            self.ours = False
            sys.modules["tracemalloc"].stop()

    @staticmethod
    def _sites(statistics: list[Any]) -> list[Figures]:
        sites = []
        for entry in statistics[:SITES]:
            frame = entry.traceback[0]
            sites.append({"site": f"{_site(frame.filename)}:{frame.lineno}"[-120:], "size_bytes": entry.size,
                          "blocks": entry.count})
        other = statistics[SITES:]
        if other:
            sites.append({"site": "other", "size_bytes": sum(entry.size for entry in other),
                          "blocks": sum(entry.count for entry in other)})
        return sites


def _site(filename: str) -> str:
    """A source file's name without where it is installed, so that it is the same on every machine."""
    for mark in ("/site-packages/", "/dist-packages/"):
        if mark in filename:
            return filename.rpartition(mark)[2]
    return "/".join(filename.split("/")[-2:])


def _object_types() -> list[Figures]:
    """How many objects the collector tracks of the most frequent types. One walk, over a list of them all."""
    if hasattr(sys, "getallocatedblocks") and sys.getallocatedblocks() > WINDOW_BLOCKS:
        return []
    counts: dict[type, int] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        counts[kind] = counts.get(kind, 0) + 1
    most = sorted(counts.items(), key=lambda item: -item[1])[:TYPES]
    return [{"type": f"{kind.__module__}.{kind.__qualname__}"[:120], "count": count} for kind, count in most]


# Figures: the allocator behind malloc


class _Allocator:
    """An allocator that is not known, or gives nothing back on request: what every other one builds on."""

    name = "unknown"
    symbol = ""
    reason = "the allocator of this process is not known"

    def __init__(self, program: Any = None, reason: str = "") -> None:
        self._program = program
        self.reason = reason or self.reason
        self.returned_bytes = 0

    def figures(self) -> Figures:
        """arena_bytes, in_use_bytes, free_bytes, mmapped_bytes, releasable_bytes: those that are known."""
        return {"reason": self.reason}

    def release(self, expected_bytes: int) -> str:
        """Give free memory back to the kernel; says how, or why not."""
        return self.reason


class _Musl(_Allocator):
    name = "musl"
    reason = "musl gives nothing back on request"


class _Glibc(_Allocator):
    """malloc_trim(3), and an estimate of what it will return.

    malloc_trim returns whole pages inside free chunks, and the top of the main arena (glibc, malloc.c: mtrim). From
    malloc_info(3): a free chunk of s bytes, its header excluded, holds s - one page of them on average. Those that are
    not resident any more (mincore(2)) were returned before. What glibc has not sorted yet has only bounds; where they
    are too far apart, or the last promise was not kept, there is no promise.
    """

    name = "glibc"
    symbol = "malloc_trim"
    LOST_BYTES = _PAGE + 48
    ARENA_BYTES = 64 * MIB
    KEPT = (0.8, 1.2)
    """A promise is kept if between these shares of it return."""

    def __init__(self, program: Any) -> None:
        super().__init__(program)
        self._doubt = ""
        import ctypes

        program.malloc_trim.argtypes = [ctypes.c_size_t]
        program.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
        program.open_memstream.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        program.open_memstream.restype = ctypes.c_void_p
        program.fclose.argtypes = program.free.argtypes = [ctypes.c_void_p]
        program.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]

    def figures(self) -> Figures:
        """See _Allocator. `expected_bytes` is for our own decisions, also where nothing is promised."""
        arenas, mmapped = self._arenas()
        arena_bytes = sum(arena.system for arena in arenas)
        free = sum(arena.free for arena in arenas)
        known = {"arena_bytes": arena_bytes, "in_use_bytes": arena_bytes - free, "free_bytes": free,
                 "mmapped_bytes": mmapped}
        try:
            mapped, gone = self._mapped_and_gone()
        except OSError:  # a process that is not dumpable may not read its own memory as a file
            mapped = gone = 0
        side_tops = sum(arena.top for arena in arenas[1:])
        low = sum(arena.low for arena in arenas) - gone
        high = sum(arena.high for arena in arenas) - gone + min(gone, side_tops)
        least, most = self.KEPT
        known["expected_bytes"] = int(max(0, min(max(low + (high - low) / 4, least * high), most * low)))
        if abs(mapped - arena_bytes) > max(MIB, arena_bytes // 20):
            known["reason"] = "the arenas of malloc were not all found in /proc/self/maps"
        elif least * high > most * max(0, low) + MIB:
            known["reason"] = "what was freed lately has not been sorted by malloc yet"
        elif self._doubt and high > MIB:
            known["reason"] = self._doubt
        else:
            known["releasable_bytes"] = known["expected_bytes"]
        return known

    def release(self, expected_bytes: int) -> str:
        """malloc_trim; ctypes lets go of the GIL meanwhile."""
        before = _memory()
        self._program.malloc_trim(0)
        returned = _anon_freed(before).get("freed_bytes", 0)
        least, most = expected_bytes * self.KEPT[0] - MIB, expected_bytes * self.KEPT[1] + MIB
        self._doubt = "" if least <= returned <= most else (
            f"the last release returned {returned // MIB} MiB where {expected_bytes // MIB} MiB were expected")
        return "malloc_trim"

    def _arenas(self) -> tuple[list[_Arena], int]:
        """Every arena, the main one first, and the bytes that malloc mapped one by one."""
        import ctypes

        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        stream = self._program.open_memstream(ctypes.byref(text), ctypes.byref(size))
        self._program.malloc_info(0, stream)
        self._program.fclose(stream)
        try:
            *pages, whole = ctypes.string_at(text, size.value).split(b"</heap>")
        finally:
            self._program.free(text)
        mmapped = sum(row.size for row in _malloc_rows(whole) if row.type == b"mmap")
        arenas = [_Arena.of(_malloc_rows(page), self.LOST_BYTES, main=not nr) for nr, page in enumerate(pages)]
        return arenas, mmapped

    def _mapped_and_gone(self) -> tuple[int, int]:
        """How many bytes the arenas span in memory, and how many of these are not resident."""
        import ctypes

        mapped = gone = 0
        step = 1024 * _PAGE
        vector = ctypes.create_string_buffer(1024)
        for begin, end in _arena_ranges(self.ARENA_BYTES):
            mapped += end - begin
            for at in range(begin, end, step):
                length = min(step, end - at)
                if self._program.mincore(at, length, vector) == 0:
                    gone += vector.raw[: length // _PAGE].count(0) * _PAGE
        return mapped, gone


class _MallocRow(collections.namedtuple("_MallocRow", "element type least most total count size")):
    """One line of malloc_info(3): a bin (`size`, `unsorted`: total bytes, count of chunks) or a sum (`size` bytes)."""

    __slots__ = ()


def _malloc_rows(page: bytes) -> list[_MallocRow]:
    import re

    figures = "".join(rf'(?: {name}="(\d+)")?' for name in ("from", "to", "total", "count", "size"))
    rows = re.findall(rf'<(\w+)(?: type="(\w+)")?{figures}/>'.encode(), page)
    return [_MallocRow(element, kind, *(int(figure or 0) for figure in row)) for element, kind, *row in rows]


class _Arena(collections.namedtuple("_Arena", "system free top low high")):
    """An arena in bytes: all of it, what is free, its top chunk, and what a trim could return at least and at most."""

    __slots__ = ()

    @classmethod
    def of(cls, rows: list[_MallocRow], lost_bytes: int, *, main: bool) -> _Arena:
        """From its lines of malloc_info. A chunk loses `lost_bytes` to the edges of pages, on average."""
        sums = {(row.element, row.type): row.size for row in rows}
        free = sums.get((b"total", b"fast"), 0) + sums[b"total", b"rest"]  # fast: not from glibc 2.43 on
        bins = [row for row in rows if row.element in (b"size", b"unsorted")]
        top = max(0, free - sum(row.total for row in bins))
        low = high = top if main else 0  # only the main arena's top is cut
        for row in bins:
            evenly = row.total - row.count * lost_bytes
            if row.least >= lost_bytes:
                low, high = low + evenly, high + evenly
            elif row.most >= lost_bytes:  # from all chunks alike, to as many of the largest as the sum allows
                largest = (row.total - row.count * row.least) / (row.most - row.least)
                low, high = low + max(0, evenly), high + int(largest * (row.most - lost_bytes))
        return cls(sums[b"system", b"current"], free, top, low, high)


def _arena_ranges(reserved_bytes: int) -> Iterator[tuple[int, int]]:
    """Where glibc's arenas lie: the heap, and pieces that begin at multiples of what glibc reserves for each.

    Such a piece begins with arena, previous piece, size (glibc, arena.c: heap_info). It is read through /proc/self/mem,
    because another thread may unmap it at any moment.
    """
    with open("/proc/self/maps", "rb") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps:
            if b" rw-p 00000000 00:00 0" not in line:
                continue
            begin, end = (int(address, 16) for address in line.split(b" ", 1)[0].split(b"-"))
            if line.endswith(b"[heap]\n"):
                yield begin, end
                continue
            for at in range(-(-begin // reserved_bytes) * reserved_bytes, end, reserved_bytes):
                try:
                    memory.seek(at)
                    head = memory.read(24)
                except OSError:
                    continue
                arena, previous, size = (int.from_bytes(head[place:place + 8], sys.byteorder) for place in (0, 8, 16))
                plausible = 0 < size <= min(reserved_bytes, end - at) and not size % _PAGE
                if plausible and arena and not arena % 16 and not previous % reserved_bytes:
                    yield at, at + size


class _Jemalloc(_Allocator):
    """jemalloc 5: every arena purged through mallctl (jemalloc(3), arena.<i>.purge with MALLCTL_ARENAS_ALL)."""

    name = "jemalloc"
    symbol = "mallctl"

    def figures(self) -> Figures:
        """Resident less active and metadata: the dirty pages that a purge returns."""
        self._control(b"epoch", 1)
        stats = {key: self._control(b"stats." + key) for key in (b"allocated", b"active", b"metadata", b"resident")}
        allocated, active, metadata, resident = stats.values()
        if allocated is None or active is None or metadata is None or resident is None:
            return {"reason": "this jemalloc was built without statistics"}
        dirty, free = max(0, resident - active - metadata), max(0, resident - metadata - allocated)
        return {"arena_bytes": resident, "in_use_bytes": allocated, "free_bytes": free, "releasable_bytes": dirty,
                "expected_bytes": dirty}

    def release(self, expected_bytes: int) -> str:
        """The cache of this thread, then every arena."""
        self._control(b"thread.tcache.flush", read=False)
        failed = self._program.mallctl(b"arena.4096.purge", None, None, None, 0)
        return f"mallctl arena.4096.purge failed with {failed}" if failed else "mallctl arena.4096.purge"

    def _control(self, name: bytes, write: int | None = None, *, read: bool = True) -> int | None:
        import ctypes

        control = self._program.mallctl
        control.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
        if not read:
            return int(control(name, None, None, None, 0))
        value, size = ctypes.c_uint64(), ctypes.c_size_t(8)
        new = ctypes.c_uint64(write or 0)
        given = (None, 0) if write is None else (ctypes.byref(new), 8)
        return None if control(name, ctypes.byref(value), ctypes.byref(size), *given) else value.value


class _Tcmalloc(_Allocator):
    """tcmalloc of gperftools, by its C interface (malloc_extension_c.h)."""

    name = "tcmalloc"
    symbol = "MallocExtension_ReleaseFreeMemory"

    def figures(self) -> Figures:
        """What lies in free spans is released at once; what is free inside spans and caches is not."""
        heap, in_use = self._property(b"generic.heap_size"), self._property(b"generic.current_allocated_bytes")
        spans = self._property(b"tcmalloc.pageheap_free_bytes")
        if heap is None or in_use is None or spans is None:
            return {"reason": "this tcmalloc does not tell its figures"}
        return {"arena_bytes": heap, "in_use_bytes": in_use, "free_bytes": max(0, heap - in_use),
                "releasable_bytes": spans, "expected_bytes": spans}

    def release(self, expected_bytes: int) -> str:
        """Free spans of the page heap."""
        self._program.MallocExtension_ReleaseFreeMemory.restype = None
        self._program.MallocExtension_ReleaseFreeMemory()
        return self.symbol

    def _property(self, name: bytes) -> int | None:
        import ctypes

        value = ctypes.c_size_t()
        known = self._program.MallocExtension_GetNumericProperty(name, ctypes.byref(value))
        return value.value if known else None


class _Mimalloc(_Allocator):
    """mimalloc: mi_collect reaches the heap of the calling thread alone, and that is the agent's."""

    name = "mimalloc"
    symbol = "mi_collect"
    reason = "mimalloc gives back the calling thread's memory alone"

    def release(self, expected_bytes: int) -> str:
        """The memory that belongs to this thread, or to threads that have ended."""
        self._program.mi_collect.restype = None
        self._program.mi_collect(True)
        return "mi_collect: this thread's memory and that of ended ones; other threads keep theirs"


def _find_allocator() -> _Allocator:
    """The allocator that `malloc` belongs to: that a library is loaded does not mean that it serves this process."""
    try:
        import ctypes

        program = ctypes.CDLL(None)
        home = _home(program, "malloc")
    except ImportError as error:
        return _Allocator(reason=f"this Python has no ctypes, by which malloc is asked: {error}")
    except (OSError, TypeError, AttributeError) as error:
        return _Allocator(reason=f"the C library could not be asked about malloc: {error}")
    kinds = (_Jemalloc, _Tcmalloc, _Mimalloc, _Glibc)
    present = [kind for kind in kinds if hasattr(program, kind.symbol)]
    serving = [kind for kind in present if _home(program, kind.symbol) == home]
    for kind in serving or present:  # malloc may seem to live in the program itself, where its address was taken
        return kind(program)
    return _Musl() if b"musl" in home else _Allocator()


def _home(program: Any, symbol: str) -> bytes:
    """The file that a symbol comes from (dladdr(3))."""
    import ctypes

    class Place(ctypes.Structure):
        _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p),
                    ("address", ctypes.c_void_p)]

    place = Place()
    program.dladdr(ctypes.cast(getattr(program, symbol), ctypes.c_void_p), ctypes.byref(place))
    return place.file or b""


# Figures: torch, if the app has loaded it


class _Device:
    """One device of a torch backend that is initialised: "cuda:0"."""

    def __init__(self, backend: str, module: Any, index: int, title: str) -> None:
        self.backend = backend
        self.title = title
        self._module = module
        self._index = index

    def figures(self) -> Figures:
        """What the caching allocator tells; keys that this release of torch does not know are left out."""
        stats = _ask(self._module, "memory_stats", self._index) or {}
        figures = {name: stats[key] for name, key in _TORCH_KEYS if isinstance(stats.get(key), int)}
        if not figures.get("reserved_bytes") and not figures.get("allocated_max_bytes"):
            return {}  # never used: asking the device itself would make a context there, of hundreds of megabytes
        reserved, active = figures.get("reserved_bytes"), figures.get("active_bytes")
        if reserved is not None and active is not None:
            figures["releasable_bytes"] = max(0, reserved - active - figures.get("inactive_split_bytes", 0))
        way = "mem_get_info" if hasattr(self._module, "mem_get_info") else "get_memory_info"
        free_total = _ask(self._module, way, self._index)
        if free_total:
            figures["device_free_bytes"], figures["device_total_bytes"] = (int(figure) for figure in free_total)
        return {"device": self.title, "backend": self.backend, **_device_name(self._module, self._index), **figures}

    def reserved_bytes(self) -> int | None:
        """What the allocator holds of the device."""
        stats = _ask(self._module, "memory_stats", self._index) or {}
        return stats.get("reserved_bytes.all.current")


class _Mps(_Device):
    """Apple's; it has two figures and no index."""

    def figures(self) -> Figures:
        """Allocated by tensors, reserved from the driver."""
        allocated = _ask(self._module, "current_allocated_memory")
        reserved = self.reserved_bytes()
        if not allocated and not reserved:
            return {}
        figures = {"device": self.title, "backend": self.backend, "allocated_bytes": allocated,
                   "reserved_bytes": reserved}
        if allocated is not None and reserved is not None:
            figures["releasable_bytes"] = max(0, reserved - allocated)
        total = _ask(self._module, "recommended_max_memory")
        return {key: value for key, value in {**figures, "device_total_bytes": total}.items() if value is not None}

    def reserved_bytes(self) -> int | None:
        """What the driver holds."""
        reserved: int | None = _ask(self._module, "driver_allocated_memory")
        return reserved


_TORCH_KEYS = (
    ("allocated_bytes", "allocated_bytes.all.current"),
    ("allocated_max_bytes", "allocated_bytes.all.peak"),
    ("requested_bytes", "requested_bytes.all.current"),
    ("reserved_bytes", "reserved_bytes.all.current"),
    ("active_bytes", "active_bytes.all.current"),
    ("inactive_split_bytes", "inactive_split_bytes.all.current"),
    ("segments", "segment.all.current"),
    ("alloc_retries_total", "num_alloc_retries"),
    ("ooms_total", "num_ooms"),
    ("device_alloc_total", "num_device_alloc"),
    ("device_free_total", "num_device_free"),
)


def _ask(module: Any, function: str, *arguments: Any) -> Any:
    """What a function of torch says, or None: releases differ in what they have and in what they raise."""
    return _attempt(lambda: getattr(module, function)(*arguments))[0]


def _torch_backends() -> Iterator[tuple[str, Any]]:
    """Backends that the app has initialised, as (name, module). Nothing is asked of one that is not.

    Before that, memory_stats has crashed (pytorch#50721) and mem_get_info makes a context (pytorch#103584).
    """
    torch = sys.modules.get("torch")
    for name in ("cuda", "xpu"):
        module = getattr(torch, name, None)
        if module is not None and _ask(module, "is_initialized") is True:
            yield name, module
    mps = getattr(getattr(torch, "backends", None), "mps", None)
    if mps is not None and _ask(mps, "is_available") is True and hasattr(torch, "mps"):
        yield "mps", torch.mps  # type: ignore[union-attr]
    accelerator = getattr(torch, "accelerator", None)
    if accelerator is not None and hasattr(accelerator, "memory_stats"):
        kind = getattr(_ask(accelerator, "current_accelerator"), "type", None)
        owner = None if kind in ("cuda", "xpu", "mps") else getattr(torch, kind or "", None)
        if owner is not None and _ask(owner, "is_initialized") is True:
            yield "accelerator", accelerator


def _torch_devices(backend: str, module: Any) -> list[_Device]:
    if backend == "mps":
        return [_Mps(backend, module, 0, "mps")]
    count = _ask(module, "device_count") or 0
    return [_Device(backend, module, index, f"{backend}:{index}") for index in range(min(int(count), SHOWN))]


def _torch_figures() -> list[Figures]:
    found = (device.figures() for backend in _torch_backends() for device in _torch_devices(*backend))
    return [figures for figures in found if figures]


_device_names: dict[tuple[int, int], Figures] = {}


def _device_name(module: Any, index: int) -> Figures:
    """Name and uuid, asked once: they do not change."""
    key = (id(module), index)
    if key not in _device_names:
        properties = _ask(module, "get_device_properties", index)
        known = {"name": getattr(properties, "name", None), "uuid": getattr(properties, "uuid", None)}
        _device_names[key] = {what: str(value) for what, value in known.items() if value is not None}
    return _device_names[key]


# What the app has registered


def _held(thing: Any) -> Callable[[], Any]:
    """A way to a thing that does not keep it alive, where Python can: not for a plain dict or list."""
    if isinstance(thing, types.MethodType):
        return weakref.WeakMethod(thing)
    try:
        return weakref.ref(thing)
    except TypeError:
        return lambda: thing


def _held_function(function: Any) -> Callable[[], Any]:
    """As `_held`, but what is no bound method stays: a lambda is referenced from nowhere else."""
    return weakref.WeakMethod(function) if isinstance(function, types.MethodType) else lambda: function


class _Cleaner:
    """A function of the app, called in cleanups from `rank` on. `busy` while it has not returned."""

    kind = "cleaner"

    def __init__(self, name: str | None, function: Callable[..., Any], rank: int) -> None:
        self.name = name or getattr(function, "__qualname__", "") or type(function).__name__
        self.rank = rank
        self.busy = False
        self._function = _held_function(function)
        # Two methods or lambdas may have the same name: these are told apart by what they are.
        method = isinstance(function, types.MethodType)
        itself = (id(function.__self__), function.__func__) if method else function  # type: ignore[attr-defined]
        self.key: Any = name or itself

    def alive(self) -> bool:
        """Whether the app still has it."""
        return self._function() is not None

    def clean(self, level: str) -> Figures:
        """Call it."""
        function = self._function()
        told: Any = function(level) if function is not None else None
        if hasattr(told, "__await__"):
            told.close()
            raise TypeError("it is a coroutine function: nobody awaits it here; register a plain one")
        return {"told_bytes": int(told)} if isinstance(told, (int, float)) and not isinstance(told, bool) else {}


class _Cache:
    """A cache of the app, by the functions given for it and by what its object can do."""

    kind = "cache"
    rank = 1
    COUNTED = (("max_entries", ("maxsize", "max_entries")), ("size_bytes", ("size_bytes", "nbytes")),
               *((name, (name,)) for name in ("max_bytes", "hits", "misses", "evictions")))

    def __init__(self, name: str, cache: Any, given: dict[str, Callable[..., Any] | None], lock: Any) -> None:
        self.name = self.key = name
        self.busy = False
        self._cache = _held(cache)
        self._given = {what: _held_function(function) for what, function in given.items() if function is not None}
        self._lock = lock
        able = ("cache_clear", "clear", "trim", "evict", "popitem", "pop", "__len__")
        if cache is not None and not any(hasattr(cache, what) for what in able):
            raise ValueError(f"register_cache({name!r}): a {type(cache).__name__} can neither be counted nor cleared")

    def alive(self) -> bool:
        """Whether the app still has it."""
        return self._cache() is not None or any(function() is not None for function in self._given.values())

    def figures(self) -> Figures:
        """What is known of it: entries, size_bytes, max_entries, max_bytes, hits, misses, evictions."""
        cache, figures = self._cache(), {}
        if hasattr(cache, "cache_info"):
            info = cache.cache_info()
            figures = {"entries": info.currsize, "max_entries": info.maxsize, "hits": info.hits, "misses": info.misses}
        elif cache is not None:
            figures = {what: _number(cache, names) for what, names in self.COUNTED}
            figures["entries"] = len(cache) if hasattr(cache, "__len__") else _number(cache, ("currsize",))
        for what in ("entries", "size_bytes"):
            function = self._given[what]() if what in self._given else None
            if function is not None:
                figures[what] = function()
        return {what: int(value) for what, value in figures.items() if _is_number(value)}

    def clean(self, level: str) -> Figures:
        """Halved, or cleared in an aggressive cleanup."""
        if self._lock is not None and not self._lock.acquire(timeout=CALLBACK_SECONDS):
            return {"error": f"its lock was not to be had within {CALLBACK_SECONDS:g} s"}
        try:
            return {"detail": self._drop(1.0 if level == "aggressive" else 0.5)}
        finally:
            if self._lock is not None:
                self._lock.release()

    def _drop(self, fraction: float) -> str:
        ways = {what: self._given[what]() for what in ("trim", "clear") if what in self._given}
        cache = self._cache()
        trim = ways.get("trim") or getattr(cache, "trim", None) or getattr(cache, "evict", None)
        clear = ways.get("clear") or getattr(cache, "cache_clear", None) or getattr(cache, "clear", None)
        if clear and (fraction == 1.0 or hasattr(cache, "cache_clear")):
            clear()
            return "cleared"
        if trim:
            trim(fraction)
            return f"trimmed by {fraction:.0%}"
        if hasattr(cache, "pop") or hasattr(cache, "popitem"):
            return f"dropped {_drop_entries(cache, fraction)} entries"
        if clear and not hasattr(cache, "__len__"):
            clear()
            return "cleared: it cannot be trimmed"
        return "left alone: it can be cleared, but not trimmed" if clear else "left alone: it can only be counted"


def _drop_entries(cache: Any, fraction: float) -> int:
    """Drop a share of a mapping: the oldest of a dict, what popitem() chooses of any other."""
    count = -int(-len(cache) * fraction // 1)
    if not isinstance(cache, dict) and hasattr(cache, "popitem"):
        for dropped in range(count):
            try:
                cache.popitem()
            except KeyError:
                return dropped
        return count
    keys = list(itertools.islice(list(cache), count))  # the inner list is made in one step: others may be writing
    for key in keys:
        cache.pop(key, None)
    return len(keys)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _number(thing: Any, names: Iterable[str]) -> Any:
    """The first of these attributes that is there, called if it is a function."""
    for name in names:
        value = getattr(thing, name, None)
        if value is not None:
            return value() if callable(value) else value
    return None


class _Model:
    """A model of the app, or the way to one that is not always loaded."""

    kind = "model"
    rank = 2

    def __init__(self, name: str, model: Any, unload: Any, device: str | None, estimated_bytes: int | None) -> None:
        self.name = self.key = name
        self.busy = False
        self._is_getter = isinstance(model, (types.FunctionType, types.MethodType))
        self._model = _held_function(model) if self._is_getter else _held(model)
        self._unload = None if unload is None else _held_function(unload)
        self._device = device
        self._estimated_bytes = estimated_bytes
        self._measured: tuple[int, int] = (0, 0)  # of which object, bytes
        self._loaded = False
        self._loads = self._unloads = 0

    def alive(self) -> bool:
        """Whether the app still has it, or the way to it."""
        return self._model() is not None

    def model(self) -> Any:
        """The model, or None while it is not loaded."""
        held = self._model()
        return held() if held is not None and self._is_getter else held

    def figures(self) -> Figures:
        """loaded, memory_bytes and where they come from, device, loads and unloads seen."""
        model = self.model()
        self._note(model is not None)
        figures: Figures = {"loaded": model is not None, "loads": self._loads, "unloads": self._unloads}
        if model is not None:
            if self._measured[0] != id(model):
                self._measured = (id(model), _parameter_bytes(model))
            size = self._measured[1] or self._estimated_bytes
            if size:
                figures["memory_bytes"], figures["source"] = size, "measured" if self._measured[1] else "estimated"
        device = self._device or getattr(model, "device", None)
        if device is not None:
            figures["device"] = str(device)[:40]
        return figures

    def clean(self, level: str) -> Figures:
        """Gradients dropped, eval mode, unloaded: what of these the model knows."""
        model, done = self.model(), []
        self._note(model is not None)
        if model is None:
            return {"detail": "not loaded"}
        if hasattr(model, "zero_grad"):
            model.zero_grad(set_to_none=True)
            done.append("gradients dropped")
        if hasattr(model, "eval"):
            model.eval()
            done.append("eval mode")
        del model  # or what is unloaded would stay until this returns
        unload = self._unload() if self._unload is not None else None
        if unload is not None:
            unload()
            self._note(self.model() is not None)
            done.append("unloaded")
        return {"detail": ", ".join(done) or "left alone: it has no gradients and no unload was given"}

    def _note(self, loaded: bool) -> None:
        self._loads += loaded and not self._loaded
        self._unloads += self._loaded and not loaded
        self._loaded = loaded


def _parameter_bytes(model: Any) -> int:
    """Bytes of a torch module's parameters and buffers; 0 for anything else."""
    total = 0
    for what in ("parameters", "buffers"):
        if hasattr(model, what):
            total += sum(int(tensor.numel()) * int(tensor.element_size()) for tensor in getattr(model, what)())
    return total


class _Registry:
    """What the app has registered, by name, and the mode. Lives as long as the process, started or not."""

    def __init__(self) -> None:
        self.mode = MODES[0]
        self.cleaners: dict[Any, _Cleaner] = {}
        self.caches: dict[Any, _Cache] = {}
        self.models: dict[Any, _Model] = {}
        self.listeners: dict[Any, _Cleaner] = {}
        self._lock = threading.Lock()
        self._sweep_at = 64

    def add(self, kind: dict[Any, Any], thing: _Cleaner | _Cache | _Model) -> None:
        """Replaces what has the same name. Raises ValueError beyond REGISTERED of one kind."""
        with self._lock:
            if len(kind) >= self._sweep_at or len(kind) >= REGISTERED:
                for name in [name for name, old in list(kind.items()) if not old.alive()]:
                    del kind[name]
                self._sweep_at = max(64, 2 * len(kind))
            if len(kind) >= REGISTERED and thing.key not in kind:
                raise ValueError(f"{len(kind)} are registered already; {thing.name!r} is one too many. Register what "
                                 "holds them instead of each one")
            kind[thing.key] = thing

    @staticmethod
    def living(kind: dict[Any, Any]) -> list[Any]:
        """Those that the app still has."""
        return [thing for thing in list(kind.values()) if thing.alive()]

    def figures(self) -> Figures:
        """caches and models, the first of each one by one, the rest of them summed up."""
        caches = [{"cache": cache.name, **(_attempt(cache.figures)[0] or {})} for cache in self.living(self.caches)]
        models = [{"model": model.name, **(_attempt(model.figures)[0] or {})} for model in self.living(self.models)]
        return {"caches": _summed_up(caches, "cache"), "models": _summed_up(models, "model")}

    def set_mode(self, mode: str) -> None:
        """Tell the listeners, if it is another one."""
        if mode != self.mode:
            self.mode = mode
            for listener in self.living(self.listeners):
                _attempt(_clean, listener, mode)

    def after_fork(self) -> None:
        """Another thread may have held the lock."""
        self._lock = threading.Lock()
        for kind in (self.cleaners, self.caches, self.models, self.listeners):
            for thing in kind.values():
                thing.busy = False


def _summed_up(rows: list[Figures], title: str) -> list[Figures]:
    """The first SHOWN - 1 rows, and one `other` that adds up the numbers of the rest."""
    if len(rows) <= SHOWN:
        return rows
    other: Figures = {title: "other"}
    for row in rows[SHOWN - 1 :]:
        for what, value in row.items():
            if _is_number(value):
                other[what] = other.get(what, 0) + value
    return [*rows[: SHOWN - 1], other]


# A cleanup


class _Step:
    """One step: what it is called, what does it, and whether that is the app's, so that it may not return."""

    def __init__(self, name: str, work: Callable[[], Figures], is_the_apps: bool = False) -> None:
        self.name = name
        self.work = work
        self.is_the_apps = is_the_apps
        self.begun = 0.0
        self.before: dict[str, int] = {}

    def carry_out(self) -> Figures:
        """Its line in the result. What it raises becomes `error`."""
        told, error = _attempt(self.work)
        line = {**self.line(), **(told or {})}
        return {**line, "error": error} if error else line

    def line(self) -> Figures:
        """The line as it is now: freed_bytes and duration_seconds since it began."""
        return {"step": self.name, **_anon_freed(self.before), "duration_seconds": _since(self.begun)}


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 6)


class _Run:
    """One cleanup: asked for, at work, done. `ids` and `waiting` grow while others ask for the same."""

    def __init__(self, level: str, trigger: str, reason: str = "") -> None:
        self.level = level
        self.trigger = trigger
        self.reason = reason
        self.ids: list[str] = []
        self.waiting: list[tuple[str, Callable[[Figures], None]]] = []
        self.result: Figures = {}
        self.overtakable = True
        self.worker: object = None
        self.current: _Step | None = None
        self.pending: collections.deque[_Step] = collections.deque()
        self.lines: list[Figures] = []
        self.predicted: int | None = None
        self.begun = 0.0
        self.before: dict[str, int] = {}

    def begin(self, gc_pause_budget_seconds: float) -> None:
        """Measure, and plan the steps: what is registered, the collector, devices, the release."""
        self.begun = time.monotonic()
        self.before = _memory_exactly()
        if self.level == "light":
            _runner.forget_details()
        self.pending.extend(_registered_steps(self.level))
        self.pending.append(_Step("gc", lambda: _collect(self.level, gc_pause_budget_seconds)))
        if self.level != "light":
            self.pending.extend(_attempt(lambda: list(_torch_steps()))[0] or [])
        self.pending.append(_Step("release", self._release))

    def _release(self) -> Figures:
        allocator = _allocator()
        known = _attempt(allocator.figures)[0] or {"reason": "what malloc holds could not be found out"}
        self.predicted = known.get("releasable_bytes")
        expected = known.get("expected_bytes", 0)
        if self.level == "light" and expected < RELEASE_FROM_BYTES:
            few = f"left out: {expected // MIB} MiB are expected, less than {RELEASE_FROM_BYTES // MIB}"
            return {"detail": known.get("reason", few) if not expected else few}
        before = _memory()
        detail = allocator.release(expected)
        allocator.returned_bytes += max(0, _anon_freed(before).get("freed_bytes", 0))
        _malloc_figures.forget()
        return {"detail": detail, **({} if self.predicted is None else {"predicted_bytes": self.predicted})}

    def finish(self) -> None:
        """Write the result."""
        after = _memory_exactly()
        collected = sum(line.get("objects", 0) for line in self.lines)
        troubled = any("error" in line for line in self.lines)
        self.result = {
            "level": self.level, "trigger": self.trigger, "outcome": "partial" if troubled else "done",
            "at": round(time.time(), 3), "duration_seconds": _since(self.begun), "before": self.before, "after": after,
            "objects_collected": collected,
            "pause_seconds": round(sum(line.get("pause_seconds", 0.0) for line in self.lines), 6), "steps": self.lines,
        }  # fmt: skip
        if self.before and after:
            self.result["freed_bytes"] = self.before["anon_bytes"] - after["anon_bytes"]
        if self.predicted is not None:
            self.result["predicted_bytes"] = self.predicted
        if self.reason:
            self.result["reason"] = self.reason


def _registered_steps(level: str) -> Iterator[_Step]:
    """The first SHOWN of each kind as steps of their own, the rest as one."""
    rank = LEVELS.index(level)
    for kind in (_registry.cleaners, _registry.caches, _registry.models):
        things = [thing for thing in _registry.living(kind) if thing.rank <= rank]
        alone = things if len(things) <= SHOWN else things[: SHOWN - 1]
        for thing in alone:
            yield _Step(f"{thing.kind}:{thing.name}", functools.partial(_clean, thing, level), True)
        rest = things[len(alone) :]
        if rest:
            yield _Step(f"{rest[0].kind}:other", functools.partial(_clean_all, rest, level), True)


def _clean(thing: _Cleaner | _Cache | _Model, level: str) -> Figures:
    """Never two at a time: one that hangs would cost a thread in each cleanup."""
    if thing.busy:
        return {"error": "left out: it has not returned from an earlier cleanup"}
    thing.busy = True
    try:
        return thing.clean(level)
    finally:
        thing.busy = False


def _clean_all(things: list[Any], level: str) -> Figures:
    failed, first = 0, ""
    for thing in things:
        told, error = _attempt(_clean, thing, level)
        error = error or told.get("error", "")
        failed, first = failed + bool(error), first or (error and f"{thing.name}: {error}")
    detail = {"detail": f"{len(things)} of them"}
    return {**detail, "error": f"{failed} failed, first {first}"} if failed else detail


_lowered_from: list[tuple[int, int, int]] = []


def _collect(level: str, budget_seconds: float) -> Figures:
    """Full passes: one; two if the first found anything; three with lowered thresholds. The GIL is held meanwhile."""
    why_not = _pauses.why_no_pass(budget_seconds) if level == "light" else ""
    if why_not:
        return {"detail": why_not, "objects": 0, "pause_seconds": 0.0}
    found: list[int] = []
    begun, passes = time.monotonic(), LEVELS.index(level) + 1
    try:
        if level == "aggressive":
            _lower_thresholds()
        while len(found) < passes and not (level == "standard" and found == [0]):
            found.append(gc.collect() or 0)
    finally:
        _restore_thresholds()
    return {"objects": sum(found), "pause_seconds": _since(begun), "detail": f"passes: {len(found)}"}


def _lower_thresholds() -> None:
    if hasattr(gc, "get_threshold"):
        current = gc.get_threshold()
        if current[0] > LOWERED[0]:  # 0: the app has switched it off, and may rely on that
            _lowered_from.append(current)
            gc.set_threshold(*LOWERED)


def _restore_thresholds() -> None:
    while _lowered_from:
        before = _lowered_from.pop()
        if gc.get_threshold() == LOWERED:  # else the app has set others meanwhile
            gc.set_threshold(*before)


def _torch_steps() -> Iterator[_Step]:
    for backend, module in _torch_backends():
        for device in _torch_devices(backend, module):
            if device.reserved_bytes():
                yield _Step(f"torch:{device.title}", functools.partial(_empty, module, device))


def _empty(module: Any, device: _Device) -> Figures:
    """empty_cache() is for all devices of a backend: the first step empties them, the others find them empty."""
    before = device.reserved_bytes()
    if hasattr(module, "synchronize") and device.backend == "mps":
        module.synchronize()
    (module.empty_cache if hasattr(module, "empty_cache") else module.memory.empty_cache)()
    after = device.reserved_bytes()
    return {"device_freed_bytes": before - after} if before is not None and after is not None else {}


class _Runner:
    """Runs cleanups one at a time, remembers a stronger one asked for meanwhile, and the last RESULTS results."""

    def __init__(self) -> None:
        self.running: _Run | None = None
        self.queued: _Run | None = None
        self.gc_pause_budget_seconds = 0.1
        self._results: collections.deque[tuple[list[str], Figures]] = collections.deque(maxlen=RESULTS)
        self._lock = threading.Lock()
        self._count = 0

    def results(self) -> list[Figures]:
        """The last results, oldest first."""
        return [self._for(ids[0], result) for ids, result in list(self._results)]

    def forget_details(self) -> None:
        """Our own history: of all results but the last, the steps."""
        for _, result in list(self._results)[:-1]:
            result.pop("steps", None)

    def ask(
        self, level: str, id: str = "", trigger: str = "", reason: str = "",
        tell: Callable[[Figures], None] | None = None, accepted: Callable[[], None] | None = None,
    ) -> tuple[str, Figures]:  # fmt: skip
        """Have a cleanup done in a thread: ("accepted" | "busy" | "recorded", its result if recorded).

        `accepted()` is called before it begins; `tell(result)` when it is done, in that thread. An id that is known is
        not carried out again.
        """
        with self._lock:
            for ids, result in self._results:
                if id in ids:
                    return "recorded", self._for(id, result)
            id = id or self._next_id()
            same = next((run for run in (self.running, self.queued) if run is not None and id in run.ids), None)
            run = same or self._place_for(level, trigger, reason)
            if run is None:
                return "busy", {}
            if same is None:
                run.ids.append(id)
            if tell is not None:
                run.waiting.append((id, tell))
            starts = run is self.running and run.worker is None
            if starts:
                run.worker = object()
        if accepted is not None:
            _attempt(accepted)
        if starts:
            self._start(run)
        return "accepted", {}

    def _place_for(self, level: str, trigger: str, reason: str) -> _Run | None:
        if self.running is None:
            self.running = _Run(level, trigger, reason)
            return self.running
        rank, begun = LEVELS.index(level), self.running.begun or time.monotonic()
        if rank <= LEVELS.index(self.running.level):
            # Who got no acceptance in time sends the signal as well: the order that comes through late is the same one.
            twin = self.running.trigger == "signal" and time.monotonic() < begun + TWIN_SECONDS
            return self.running if twin and trigger == "request" else None
        if self.queued is None:
            self.queued = _Run(level, trigger, reason)
        elif rank > LEVELS.index(self.queued.level):
            self.queued.level = level  # who asked for less gets more
        return self.queued if len(self.queued.ids) < RESULTS else None

    def run_here(self, level: str) -> Figures:
        """One in the calling thread, or {"outcome": "busy"}."""
        with self._lock:
            if self.running is not None:
                return {"level": level, "outcome": "busy"}
            run = self.running = _Run(level, "app")
            run.ids.append(self._next_id())
            run.worker, run.overtakable = object(), False
        self._work(run, run.worker)
        return self._for(run.ids[0], run.result)

    def overtake(self, now: float) -> float | None:
        """Go on without a callback that takes too long. Returns when to look again, or None while nothing runs."""
        with self._lock:
            run = self.running
            if run is None or not run.overtakable:
                return None
            step = run.current
            if step is None or not step.is_the_apps:
                return now + 1.0
            if now < step.begun + CALLBACK_SECONDS:
                return step.begun + CALLBACK_SECONDS
            run.lines.append({**step.line(), "error": f"it has not returned after {CALLBACK_SECONDS:g} s; the cleanup "
                                                      "went on without it"})
            run.current, run.worker = None, object()
        self._start(run)
        return now + CALLBACK_SECONDS

    def _start(self, run: _Run) -> None:
        worker = run.worker
        if _thread(lambda: self._work(run, worker), "rag-sidecar-cleanup") is None:
            self._work(run, worker)

    def _work(self, run: _Run, worker: object) -> None:
        here, error = False, "it was interrupted"
        try:
            here, error = _attempt(self._steps, run, worker)
        finally:
            if error:  # interrupted, or for want of memory: what has been done is told all the same
                run.lines.append({"step": "cleanup", "error": error})
            if here or error:
                _attempt(run.finish)
                self._done(run)

    def _steps(self, run: _Run, worker: object) -> bool:
        """Carry out what is left to do. False if another thread has gone on without this one."""
        if not run.begun:
            run.begin(self.gc_pause_budget_seconds)
        while run.pending:
            step = run.pending.popleft()
            step.begun, step.before, run.current = time.monotonic(), _memory(), step
            late = step.is_the_apps and time.monotonic() > run.begun + CLEANUP_SECONDS
            line = {"step": step.name, "error": "left out: the cleanup takes too long"} if late else step.carry_out()
            with self._lock:
                if run.worker is not worker:
                    return False
                run.lines.append(line)
                run.current = None
        return True

    def _done(self, run: _Run) -> None:
        with self._lock:
            self._results.append((run.ids, run.result))
            following, self.queued = self.queued, None
            if self.running is run:
                self.running = following
            if following is not None:
                following.worker = object()
            waiting, run.waiting = run.waiting, []
        for id, tell in waiting:
            _attempt(tell, self._for(id, run.result))
        if following is not None:
            self._start(following)

    def _next_id(self) -> str:
        self._count += 1
        return f"agent-{os.getpid()}-{self._count}"

    @staticmethod
    def _for(id: str, result: Figures) -> Figures:
        return {"id": id, **result}

    def after_fork(self) -> None:
        """In the child: the threads and the lock of the parent are not there."""
        _restore_thresholds()
        budget = self.gc_pause_budget_seconds
        self.__init__()  # type: ignore[misc]
        self.gc_pause_budget_seconds = budget


# The server


class _Refused(Exception):
    """A request that is answered with an error: status, name, message, further headers."""

    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.payload = {"error": error, "message": message}
        self.headers = headers


class _Request(collections.namedtuple("_Request", "method path query headers body")):
    """One request; the names of headers are lower case."""

    __slots__ = ()

    def json(self) -> dict[str, Any]:
        """The body's object. Raises _Refused."""
        import json

        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused(415, "unsupported_media_type", "send a JSON object with Content-Type: application/json")
        try:
            found = json.loads(self.body or b"{}")
        except (ValueError, RecursionError) as error:
            raise _Refused(400, "bad_json", f"the body is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise _Refused(400, "bad_json", "the body is not a JSON object")
        return found

    def number(self, name: str, most: float) -> float:
        """A number of the query from 0 to `most`; 0 where it is absent. Raises _Refused."""
        text = self.query.get(name, "0")
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not 0 <= number <= most:
            raise _Refused(400, "bad_query", f"{name}={text[:20]!r}: a number from 0 to {most:g} is needed")
        return number


_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
            405: "Method Not Allowed", 409: "Conflict", 411: "Length Required", 413: "Content Too Large",
            415: "Unsupported Media Type", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}
_ID = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._:-")
_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _parse_head(head: bytes) -> tuple[_Request, int, bool]:
    """The request without its body, the body's length, and whether the connection stays (RFC 9112). Raises _Refused."""
    first, *lines = head.split(b"\r\n")
    parts = first.split(b" ")
    if len(parts) != 3 or parts[2] not in (b"HTTP/1.1", b"HTTP/1.0") or not parts[1].startswith(b"/"):
        raise _Refused(400, "bad_request", "the first line is not METHOD /path HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        title = name.decode("latin-1").lower()
        if not colon or not name or not _TOKEN.issuperset(name):
            raise _Refused(400, "bad_request", "a header is not Name: value")
        if title in headers and title in ("host", "content-length", "authorization"):
            raise _Refused(400, "bad_request", f"{title} is given twice")
        headers[title] = value.strip(b" \t").decode("latin-1")
    if "transfer-encoding" in headers:
        raise _Refused(411, "length_required", "send the body with Content-Length")
    length = headers.get("content-length", "0")
    if not (length.isdigit() and length.isascii()) or len(length) > 12:
        raise _Refused(400, "bad_request", "Content-Length is no number")
    if int(length) > BODY_BYTES:
        raise _Refused(413, "too_large", f"a body has at most {BODY_BYTES} bytes")
    path, _, query = parts[1].decode("latin-1").partition("?")
    pairs = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    stays = parts[2] == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return _Request(parts[0].decode("latin-1"), path, pairs, headers, b""), int(length), stays


class _Connection:
    """One client. Nothing blocks; what is read is bounded by one request, what is written by one answer."""

    def __init__(self, client: socket.socket, listener: _Listener) -> None:
        client.setblocking(False)
        self.client = client
        self.listener = listener
        self.busy = False
        self.deadline = time.monotonic() + IDLE_SECONDS
        self.stays = True
        self._knows_interim = True
        self._inbox = bytearray()
        self._outbox = bytearray()

    def events(self) -> int:
        """What to poll for: an answer is written before the next request is read."""
        if self._outbox:
            return select.POLLOUT
        return 0 if self.busy else select.POLLIN

    def read(self) -> bool:
        """Take in what has arrived. False if there will be nothing more."""
        try:
            data = self.client.recv(HEAD_BYTES + BODY_BYTES - len(self._inbox))
        except BlockingIOError:
            return True
        if data and not self._inbox:
            self.deadline = time.monotonic() + SLOW_SECONDS
        self._inbox += data
        return bool(data)

    def request(self) -> _Request | None:
        """The next request, once it is complete. Raises _Refused; the connection is closed after that answer."""
        end = self._inbox.find(b"\r\n\r\n", 0, HEAD_BYTES)
        if end < 0:
            if len(self._inbox) >= HEAD_BYTES:
                self.stays = False
                raise _Refused(431, "head_too_large", f"the first line and the headers have at most {HEAD_BYTES} bytes")
            return None
        self.stays, stays = False, self.stays  # until the head is understood, nobody knows where the next one begins
        request, length, keep_alive = _parse_head(bytes(self._inbox[:end]))
        self._knows_interim = self._inbox.find(b" HTTP/1.1\r\n", 0, end + 2) >= 0
        self.stays = stays and keep_alive
        if len(self._inbox) < end + 4 + length:
            return None
        body = bytes(self._inbox[end + 4 : end + 4 + length])
        del self._inbox[: end + 4 + length]
        return request._replace(body=body)

    def accept(self, id: str) -> None:
        """Tell at once that the cleanup was taken: an interim answer (RFC 9110, 15.2), not for HTTP/1.0."""
        if not self._knows_interim:
            return
        self._outbox += b"HTTP/1.1 102 Processing\r\nX-Rag-Sidecar-Accepted: %s\r\n\r\n" % id.encode()
        self.write()

    def answer(self, status: int, payload: Figures, headers: dict[str, str]) -> None:
        """The final answer: JSON."""
        import json

        body = json.dumps({"protocol": PROTOCOL, "pid": os.getpid(), "agent": VERSION, **payload}).encode() + b"\n"
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Cache-Control": "no-store",
                  "X-Content-Type-Options": "nosniff", "X-Rag-Sidecar-Protocol": str(PROTOCOL),
                  "Connection": "keep-alive" if self.stays else "close", **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._outbox += f"HTTP/1.1 {status} {_REASONS[status]}\r\n{head}\r\n".encode("latin-1") + body
        self.busy = False
        self.deadline = time.monotonic() + SLOW_SECONDS
        self.write()

    def write(self) -> None:
        """As much as the client takes now. OSError if it is gone."""
        while self._outbox:
            try:
                sent = self.client.send(self._outbox)
            except BlockingIOError:
                return
            del self._outbox[:sent]
        if not self.busy:
            self.deadline = time.monotonic() + (SLOW_SECONDS if self._inbox else IDLE_SECONDS)

    def over(self) -> bool:
        """Whether everything has been said."""
        return not (self.stays or self.busy or self._outbox)


class _Listener:
    """A socket that takes connections, with a budget of its own: a flood of one kind does not shut out the other."""

    def __init__(self, listening: socket.socket, token: str | None) -> None:
        listening.setblocking(False)
        self.listening = listening
        self.token = token
        self.connections: list[_Connection] = []
        self.rests_until = 0.0
        self._second = 0
        self._accepted = 0

    def accept(self) -> _Connection | None:
        """The next connection, of somebody who may; the one that has been idle for longest makes room for it."""
        try:
            client, _ = self.listening.accept()
        except OSError:  # gone already, or this process is out of descriptors
            self.rests_until = time.monotonic() + 0.1
            return None
        second = int(time.monotonic())
        self._accepted = self._accepted + 1 if second == self._second else 1
        self._second = second
        if self.token and self._accepted >= ACCEPTED_A_SECOND:  # on TCP: any user of the machine may try
            self.rests_until = second + 1.0
        if not self._may(client):
            client.close()
            return None
        connection = _Connection(client, self)
        self.connections.append(connection)
        return connection

    def close(self) -> None:
        """And every connection."""
        for connection in self.connections:
            connection.client.close()
        self.listening.close()

    def surplus(self) -> _Connection | None:
        """Whom to close, if there are too many: whoever has waited for longest, the newest if all are at work."""
        if len(self.connections) <= CONNECTIONS:
            return None
        return next((connection for connection in self.connections if not connection.busy), self.connections[-1])

    def _may(self, client: socket.socket) -> bool:
        """On a unix socket: this user, and root (SO_PEERCRED, unix(7))."""
        if client.family != socket.AF_UNIX or not hasattr(socket, "SO_PEERCRED"):
            return True
        credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[4:8], sys.byteorder) in (0, os.geteuid())

    def check(self, request: _Request) -> None:
        """Whether this request may be answered at all. Raises _Refused.

        A browser is turned away everywhere. On TCP every local user can connect: there it takes the token, and a Host
        that no foreign name can stand for (DNS rebinding).
        """
        if "origin" in request.headers or "sec-fetch-site" in request.headers:
            raise _Refused(403, "browser", "an agent does not talk to browsers")
        if self.token is None:
            return
        host = request.headers.get("host", "")
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        if not _is_loopback(name):
            raise _Refused(403, "host", "Host must be localhost or a loopback address")
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not _same(given.strip(), self.token):
            raise _Refused(401, "unauthorized", "send Authorization: Bearer TOKEN", **{"WWW-Authenticate": "Bearer"})


def _may_change_user() -> bool:
    """Whether this process is root, or has kept a user to go back to: any other one stays what it is, see setuid(2)."""
    users = os.getresuid() if hasattr(os, "getresuid") else (os.getuid(), os.geteuid())
    return 0 in users or len(set(users)) > 1


def _same(given: str, token: str) -> bool:
    """Compared in the same time wherever they differ. hmac would load OpenSSL for it."""
    a, b = given.encode("latin-1", "replace"), token.encode("latin-1", "replace")
    difference = len(a) ^ len(b)
    for one, other in zip(a.ljust(len(b), b"\0"), b):  # noqa: B905
        difference |= one ^ other
    return difference == 0


class _Directory:
    """The directory that holds the sockets of one user's agents, in the first place where it can be had."""

    def __init__(self, place: str) -> None:
        self.path = os.path.join(place, f"rag-sidecar-{os.geteuid()}")
        with contextlib.suppress(FileExistsError):  # of an earlier agent, or a trap: what follows tells
            os.mkdir(self.path, 0o700)
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            found = os.fstat(self.fd)
            if found.st_uid != os.geteuid():
                raise PermissionError(f"{self.path} belongs to user {found.st_uid}")
            if stat.S_IMODE(found.st_mode) != 0o700:
                os.fchmod(self.fd, 0o700)
        except OSError:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Let it go; nothing is removed."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def bind(self, name: str) -> tuple[socket.socket, tuple[int, int]]:
        """A listening socket of this name, and what it is known by. Raises OSError."""
        if self._exists(name):
            if self._answers(name):
                raise OSError(f"{self.path}/{name} is served by a process of another pid namespace")
            os.unlink(name, dir_fd=self.fd)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(self._way(name))
            os.chmod(name, 0o600, dir_fd=self.fd)
            listening.listen(BACKLOG)
            return listening, self.identity(name)
        except OSError:
            listening.close()
            raise

    def identity(self, name: str) -> tuple[int, int]:
        """Device and inode. Raises OSError."""
        found = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        return found.st_dev, found.st_ino

    def remove(self, name: str, identity: tuple[int, int]) -> None:
        """Remove a socket, unless another one has taken its place."""
        with contextlib.suppress(OSError):  # gone already, or this process has become another user's
            if self.identity(name) == identity:
                os.unlink(name, dir_fd=self.fd)

    def sweep(self) -> None:
        """Remove what dead processes have left: those that were killed, or ended without atexit."""
        left = [name for name in itertools.islice(os.listdir(self.fd), 1024) if name.endswith(".sock")]
        dead = (name for name in left if not os.path.exists(f"/proc/{name[:-5]}"))
        for name in itertools.islice(dead, 64):
            if name[:-5].isdigit() and not self._answers(name):  # it may live in another pid namespace
                os.unlink(name, dir_fd=self.fd)

    def _exists(self, name: str) -> bool:
        try:
            return bool(self.identity(name))
        except FileNotFoundError:
            return False

    def _answers(self, name: str) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.setblocking(False)
            try:
                client.connect(self._way(name))
            except BlockingIOError:
                return True
            except OSError:  # nobody listens, or it is no socket
                return False
            return True

    def _way(self, name: str) -> str:
        """A path that is short enough for a socket, and leads into this very directory."""
        return f"/proc/self/fd/{self.fd}/{name}" if os.path.isdir("/proc/self/fd") else f"{self.path}/{name}"


class _Agent:
    """The agent of this process: its sockets, its thread, its handlers. Lives from start() to stop(), or a fork."""

    def __init__(self, options: _Options) -> None:
        self.options = options
        self.started_at = time.time()
        self.listeners: list[_Listener] = []
        self.asked: collections.deque[tuple[str, str]] = collections.deque(maxlen=16)
        self.answers: collections.deque[tuple[_Connection, int, Figures]] = collections.deque(maxlen=256)
        self.levels: dict[int, str] = {}
        """What a signal asks for, by its number."""
        self.window: _Window | None = None
        self.froze = False
        self.stopping = False
        self.woken, self._waker = socket.socketpair()  # closed, it raises; a pipe's number might be somebody else's
        self.woken.setblocking(False)
        self._waker.setblocking(False)
        self._thread: threading.Thread | None = None
        self._directory: _Directory | None = None
        self._name, self._identity = f"{os.getpid()}.sock", (0, 0)
        self._user = os.geteuid()
        _runner.gc_pause_budget_seconds = options.gc_pause_budget_seconds

    def open(self, quiet: bool = False) -> bool:
        """Listen and serve. Whether that worked; what did not is logged, unless `quiet`."""
        troubles = [self._open_unix()]
        if self.options.listen:
            troubles.append(self._open_tcp())
        if self.listeners:
            self._thread = _thread(_Loop(self).run, "rag-sidecar-agent")
        told = "; ".join(trouble for trouble in troubles if trouble)
        if told and not quiet:
            _warn(told)
        if self._thread is None:
            self.close()
        return self._thread is not None

    def _open_unix(self) -> str:
        self._user = os.geteuid()
        asked_for = [place for place in (self.options.directory, os.environ.get("RAG_SIDECAR_AGENT_DIR")) if place]
        troubles = []
        for place in [*asked_for, *PLACES]:
            directory = None
            try:
                directory = _Directory(place)
                listening, self._identity = directory.bind(self._name)
            except OSError as error:
                troubles.append(f"{place}: {error.strerror or error}")
                if directory is not None:
                    directory.close()
                continue
            self._directory = directory
            self.listeners.append(_Listener(listening, None))
            _attempt(directory.sweep)
            missed = "; ".join(troubles[: len(asked_for)])
            return f"its socket is in {directory.path}, not where it was asked for: {missed}" if missed else ""
        return (f"no directory for the socket could be used: {'; '.join(troubles)}. Name one that this user may write "
                "to: agent.start(directory=…) or RAG_SIDECAR_AGENT_DIR")

    def _open_tcp(self) -> str:
        host, port = self.options.address()
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(("127.0.0.1" if host == "localhost" else host, int(port)))
            listening.listen(BACKLOG)
        except OSError as error:
            listening.close()
            return f"{self.options.listen} cannot be listened on: {error}"
        self.listeners.append(_Listener(listening, self.options.token))
        return ""

    def follow_user(self) -> None:
        """By the thread: if the process has become another user's, listen where that user's agents are looked for.

        The old file goes if that may still be done; root's later agents sweep away what is left. Where no directory
        can be had everything stays as it was.
        """
        if os.geteuid() == self._user or not _starting.acquire(False):  # taken: stop() waits for this thread
            return
        try:
            if self.stopping:
                return
            old, directory, identity = self.listeners, self._directory, self._identity
            self.listeners = [listener for listener in old if listener.token is not None]
            trouble = self._open_unix()
            if self._directory is directory:
                self.listeners = old
            else:
                for listener in old:
                    if listener.token is None:
                        listener.close()
                if directory is not None:
                    directory.remove(self._name, identity)
                    directory.close()
        finally:
            _starting.release()
        if trouble:
            _warn(trouble)

    def ask(self, level: str, trigger: str) -> None:
        """From anywhere, also from a handler of a signal: have a cleanup done soon."""
        self.asked.append((level, trigger))
        self._wake()

    def tell(self, connection: _Connection, status: int, payload: Figures) -> None:
        """From any thread: the answer to a request that took its time."""
        self.answers.append((connection, status, payload))
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake anyway; or closed: it is ending
            self._waker.send(b"!")

    def install_signals(self) -> None:
        """See start()."""
        wanted, explicit = self.options.wanted_signals(), isinstance(self.options.signals, dict)
        if threading.current_thread() is not threading.main_thread():
            if wanted and explicit:
                _warn("no signal is handled: start() must run in the main thread for that")
            return
        for title, level in wanted.items():
            number = getattr(signal, title)
            before = signal.getsignal(number)
            if explicit or before in (signal.SIG_DFL, _on_signal):
                signal.signal(number, _on_signal)
                _handled.setdefault(number, before)
                self.levels[number] = level

    def close(self) -> None:
        """End the thread, and give back what was taken."""
        if self._directory is not None:
            self._directory.remove(self._name, self._identity)
        self.stopping = True  # from here on the thread may close the descriptors
        _give_back_signals()
        if self.froze:
            gc.unfreeze()
        if self.window is not None:
            self.window.ended.set()
        if self._thread is None:
            self.close_descriptors()
            return
        self._wake()
        if self._thread is not threading.current_thread():
            self._thread.join(1.0)

    def close_descriptors(self) -> None:
        """By the thread when it ends; without a thread, as in the child of a fork, by whoever lets the agent go."""
        for listener in self.listeners:
            listener.close()
        for opened in (self._directory, self.woken, self._waker):
            if opened is not None:
                opened.close()


class _Loop:
    """The agent's thread: sleeps until a client, a signal, or a date set by start() has something for it."""

    def __init__(self, agent: _Agent) -> None:
        self._agent = agent
        self._routes = _Routes(agent)
        now, options = time.monotonic(), agent.options
        freeze = options.freeze_seconds()
        self._freeze_at = None if freeze is None else now + freeze
        self._clean_at = now + options.every_seconds if options.every_seconds else None
        self._overtake_at: float | None = None
        self._user_every, self._user_at = USER_FIRST_SECONDS, now + USER_FIRST_SECONDS if _may_change_user() else None

    def run(self) -> None:
        """Until the agent stops. What goes wrong in a turn costs the connections, not the agent."""
        wrong = 0
        while not self._agent.stopping and wrong < 10:
            error = _attempt(self._turn)[1]
            wrong = wrong + 1 if error else 0
            if error:
                for listener in self._agent.listeners:
                    for connection in list(listener.connections):
                        self._close(connection)
        self._agent.close_descriptors()

    def _turn(self) -> None:
        now, agent = time.monotonic(), self._agent
        poll = select.poll()
        meant: dict[int, _Listener | _Connection] = {}
        poll.register(agent.woken, select.POLLIN)
        for listener in agent.listeners:
            if listener.rests_until <= now:
                meant[listener.listening.fileno()] = listener
                poll.register(listener.listening, select.POLLIN)
            for connection in listener.connections:
                meant[connection.client.fileno()] = connection
                poll.register(connection.client, connection.events())
        for fd, events in poll.poll(self._sleep_milliseconds(now)):
            thing = meant.get(fd)
            if isinstance(thing, _Listener):
                self._accept(thing)
            elif isinstance(thing, _Connection):
                self._serve(thing, events)
        self._chores()

    def _sleep_milliseconds(self, now: float) -> int | None:
        """Until the next date, or for as long as it takes."""
        dates = [self._freeze_at, self._clean_at, self._overtake_at, self._user_at, self._routes.mode_until]
        for listener in self._agent.listeners:
            dates.append(listener.rests_until if listener.rests_until > now else None)
            dates.extend(connection.deadline for connection in listener.connections if not connection.busy)
        known = [date for date in dates if date is not None]
        return int(max(0.0, min(known) - now) * 1000) + 1 if known else None

    def _accept(self, listener: _Listener) -> None:
        for _ in range(CONNECTIONS):
            if listener.rests_until > time.monotonic() or not listener.accept():
                return
            surplus = listener.surplus()
            if surplus is not None:
                self._close(surplus)

    def _serve(self, connection: _Connection, events: int) -> None:
        try:
            if events & select.POLLOUT:
                connection.write()
            if events & select.POLLIN:
                if not connection.read():
                    self._close(connection)
                    return
            elif events & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                self._close(connection)
                return
            self._answer(connection)
        except OSError:  # the client has gone
            self._close(connection)

    def _answer(self, connection: _Connection) -> None:
        while not connection.busy and not connection.events() & select.POLLOUT:
            try:
                request = connection.request()
                if request is None:
                    break
                connection.listener.check(request)
                connection.busy = True
                payload = self._routes.answer(request, connection)
                if payload is not None:
                    connection.answer(200, payload, {})
            except _Refused as refused:
                connection.stays &= refused.status not in (401, 403)  # a stranger gets one answer for each connection
                connection.answer(refused.status, refused.payload, refused.headers)
            if connection.over():
                break
        if connection.over():
            self._close(connection)

    def _chores(self) -> None:
        now, agent = time.monotonic(), self._agent
        with contextlib.suppress(BlockingIOError):
            agent.woken.recv(4096)
        while agent.answers:
            connection, status, payload = agent.answers.popleft()
            if connection in connection.listener.connections:
                headers = {"Retry-After": "1"} if status == 409 else {}
                if _attempt(connection.answer, status, payload, headers)[1]:
                    self._close(connection)
                else:
                    self._serve(connection, 0)
        while agent.asked:
            level, trigger = agent.asked.popleft()
            _runner.ask(level, trigger=trigger)
        if self._clean_at is not None and now >= self._clean_at:
            self._clean_at = now + agent.options.every_seconds
            _runner.ask("light", trigger="interval")
        if self._freeze_at is not None and now >= self._freeze_at:
            self._freeze_at = None
            self._freeze()
        self._overtake_at = _runner.overtake(now)
        if self._routes.mode_until is not None and now >= self._routes.mode_until:
            self._routes.forget_mode()
        for listener in agent.listeners:
            for connection in list(listener.connections):
                if not connection.busy and now > connection.deadline:
                    self._close(connection)
        self._follow_user(now)

    def _follow_user(self, now: float) -> None:
        """At every occasion; one is made only as long as the process can become another user's."""
        self._agent.follow_user()
        if not _may_change_user():
            self._user_at = None
        elif self._user_at is None or now >= self._user_at:
            self._user_every = min(2 * self._user_every, USER_MOST_SECONDS)
            self._user_at = now + self._user_every

    def _freeze(self) -> None:
        """Garbage goes first, or it would stay for ever. stop() undoes it, if nobody else froze before."""
        if hasattr(gc, "freeze"):
            gc.collect()
            self._agent.froze = not gc.get_freeze_count()
            gc.freeze()

    @staticmethod
    def _close(connection: _Connection) -> None:
        connection.listener.connections.remove(connection)
        connection.client.close()


class _Routes:
    """What can be asked of an agent. An answer is a payload; None where it comes later; or _Refused is raised."""

    def __init__(self, agent: _Agent) -> None:
        self._agent = agent
        self.mode_until = time.monotonic() + MODE_SECONDS if _registry.mode != MODES[0] else None
        self._mode_from: _Connection | None = None
        self._mode_seconds = MODE_SECONDS
        self._registered = _Patiently()
        self._routes: dict[str, dict[str, Callable[[_Request, _Connection], Figures | None]]] = {
            "/": {"GET": self._hello}, "/memory": {"GET": self._memory}, "/report": {"GET": self._report},
            "/cleanup": {"POST": self._cleanup}, "/mode": {"POST": self._mode},
        }  # fmt: skip

    def answer(self, request: _Request, connection: _Connection) -> Figures | None:
        """The answer to a request that may be answered."""
        methods = self._routes.get(request.path)
        if methods is None:
            raise _Refused(404, "not_found", f"there are {', '.join(self._routes)}")
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise _Refused(405, "method_not_allowed", f"{request.path} takes {allowed}", Allow=allowed)
        if connection is self._mode_from and self.mode_until is not None:
            self.mode_until = time.monotonic() + self._mode_seconds
        return methods[request.method](request, connection)

    def forget_mode(self) -> None:
        """Whoever has told the mode has not been heard of for too long: nobody would ever take it back."""
        self.mode_until = self._mode_from = None
        if not _registry.listeners or _thread(lambda: _registry.set_mode(MODES[0]), "rag-sidecar-mode") is None:
            _registry.mode = MODES[0]

    def _hello(self, _: _Request, __: _Connection) -> Figures:
        ours = {nr: level for nr, level in self._agent.levels.items() if signal.getsignal(nr) is _on_signal}
        names = [listener.listening.getsockname() for listener in self._agent.listeners if listener.token]
        hello = {
            "python": sys.version.split()[0], "implementation": sys.implementation.name,
            "started_at": self._agent.started_at, "levels": list(LEVELS), "mode": _registry.mode,
            "signals": {signal.Signals(number).name: level for number, level in ours.items()},
            "allocator": _allocator().name,
            "listening": [f"{f'[{host}]' if ':' in host else host}:{port}" for host, port, *_ in names],
        }  # fmt: skip
        return {**hello, "name": self._agent.options.name} if self._agent.options.name else hello

    def _memory(self, _: _Request, __: _Connection) -> Figures:
        return _figures(self._registered())

    def _report(self, request: _Request, connection: _Connection) -> None:
        seconds, objects = request.number("seconds", WINDOW_SECONDS), request.number("objects", 1)
        if self._agent.window is not None:
            raise _Refused(409, "busy", "another report is being made", **{"Retry-After": "1"})
        window = self._agent.window = _Window()

        def work() -> None:
            report, error = _attempt(self._look, window, seconds, objects)
            self._agent.window = None
            failed = {"error": "failed", "message": error}
            self._agent.tell(connection, *((503, failed) if error else (200, report)))

        if _thread(work, "rag-sidecar-report") is None:
            self._agent.window = None
            raise _Refused(503, "no_thread", "this process can start no thread now")

    def _look(self, window: _Window, seconds: float, objects: float) -> Figures:
        found = window.look(seconds)
        figures = {**_figures(self._registered()), "cleanups": _runner.results()}
        figures["tracemalloc"].update(found)
        return {**figures, "objects": _object_types()} if objects else figures

    def _cleanup(self, request: _Request, connection: _Connection) -> Figures | None:
        asked = request.json()
        level, id, reason = asked.get("level", "standard"), asked.get("id", ""), asked.get("reason", "")
        if level not in LEVELS:
            raise _Refused(400, "bad_level", f"level must be one of {', '.join(LEVELS)}")
        if not isinstance(id, str) or len(id) > ID_CHARACTERS or not _ID.issuperset(id):
            raise _Refused(400, "bad_id", f"id must be at most {ID_CHARACTERS} letters, digits and . _ - :")
        id = id or f"agent-{os.getpid()}-{time.time_ns()}"
        agent = self._agent
        outcome, result = _runner.ask(
            level, id, "request", str(reason or "")[:200], lambda done: agent.tell(connection, 200, done),
            lambda: connection.accept(id),
        )  # fmt: skip
        if outcome == "busy":
            raise _Refused(409, "busy", "a cleanup is running", **{"Retry-After": "1"})
        return result or None

    def _mode(self, request: _Request, connection: _Connection) -> Figures | None:
        mode, seconds = request.json().get("mode"), request.json().get("seconds", MODE_SECONDS)
        if mode not in MODES:
            raise _Refused(400, "bad_mode", f"mode must be one of {', '.join(MODES)}")
        if not isinstance(seconds, (int, float)) or not 1 <= seconds <= MOST_MODE_SECONDS:
            raise _Refused(400, "bad_seconds", f"seconds must be a number from 1 to {MOST_MODE_SECONDS:.0f}")
        agent, self._mode_from, self._mode_seconds = self._agent, connection, float(seconds)
        self.mode_until = None if mode == MODES[0] else time.monotonic() + self._mode_seconds

        def work() -> None:
            _registry.set_mode(mode)
            agent.tell(connection, 200, {"mode": mode})

        if not _registry.listeners or _thread(work, "rag-sidecar-mode") is None:
            _registry.mode = mode
            return {"mode": mode}
        return None


def _figures(registered: Figures) -> Figures:
    """The answer to GET /memory. What is not known is not there."""
    malloc = {key: value for key, value in _malloc_figures().items() if key != "expected_bytes"}
    allocator, results = _allocator(), _runner.results()
    figures: Figures = {
        "gc": _gc_figures(),
        "malloc": {"allocator": allocator.name, **malloc, "trim_returned_bytes_total": allocator.returned_bytes},
        "torch": _attempt(_torch_figures)[0] or [], "tracemalloc": _tracemalloc_figures(),
        "caches": registered.get("caches", []), "models": registered.get("models", []),
        "requests_total": int(repr(_requests)[len("count(") : -1]) - 1,
        "cleanups": [*(_without_steps(result) for result in results[:-1]), *results[-1:]],
        "mode": _registry.mode, **_memory(),
    }  # fmt: skip
    if hasattr(sys, "getallocatedblocks"):
        figures["python"] = {"allocated_blocks": sys.getallocatedblocks()}
    return figures


def _without_steps(result: Figures) -> Figures:
    return {key: value for key, value in result.items() if key != "steps"}


# Signals, forks, and what there is one of in a process


def _on_signal(number: int, _: Any) -> None:
    """A handler: it may interrupt anything, so it only leaves a note and wakes the agent's thread."""
    agent = _agent
    if agent is not None and number in agent.levels:
        agent.ask(agent.levels[number], "signal")


def _give_back_signals() -> None:
    """Handlers of ours become what they were. Only the main thread can; elsewhere they stay, and do nothing."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in list(_handled):
        before = _handled.pop(number)
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL if before is None else before)


def _once_per_process() -> None:
    """Hooks that cannot be taken back: they do nothing while no agent is started."""
    global _hooked
    if not _hooked:
        _hooked = True
        atexit.register(stop)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=lambda: _attempt(_after_fork))


def _after_fork() -> None:
    """The child of a fork: sockets, threads and locks are the parent's; it gets an agent of its own."""
    global _agent, _requests, _starting
    _starting, _requests = threading.RLock(), itertools.count(1)
    _registry.after_fork()
    _runner.after_fork()
    parents, _agent = _agent, None
    if parents is None:
        return
    if parents.window is not None:
        parents.window.close()
    parents.close_descriptors()
    agent = _Agent(parents.options)
    agent.levels = parents.levels
    if agent.open(quiet=True):  # logging may still be locked by a thread of the parent
        _agent = agent


def _allocator() -> _Allocator:
    """Found out once: it loads ctypes."""
    global _found_allocator
    if _found_allocator is None:
        _found_allocator = _find_allocator()
    return _found_allocator


# Comments, because PyPy takes no annotation of a name that a function declares global.
_agent = None  # type: _Agent | None
_found_allocator = None  # type: _Allocator | None
_starting = threading.RLock()
_hooked = False
_handled: dict[int, Any] = {}
"""The signals that lead to `_on_signal`, and what they led to before."""
_requests = itertools.count(1)
"""Its next value: one more than requests were counted."""
_every_requests = 0
"""The option of the started agent; a request costs less with it here."""
_pauses = _Pauses()
_registry = _Registry()
_runner = _Runner()
_malloc_figures = _Throttled(lambda: _allocator().figures())
