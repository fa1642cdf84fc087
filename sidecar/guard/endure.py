"""What keeps the guard at work when the machine is short of memory and time: what it may take, and who gets it not.

Each is optional: where it is not allowed the guard goes on without. What the guard starts has everything as it was
before: nobody outlives others, or gets ahead of them, because the guard does.
"""

from __future__ import annotations

import errno
import gc
import os
import resource

from sidecar.procfs import KeptFile, status_mask

OOM_SCORE = "/proc/self/oom_score_adj"
LAST_TO_GO = -999
"""Killed after everybody else; but not exempt, as with -1000: where all are, the kernel panics for want of one."""
FIRST_BY = 10
"""How much less nice the guard is than it was started: nine times the weight in the kernel's scheduler."""
CAP_IPC_LOCK = 14
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
"""mlockall(2). On fault: what has never been touched takes no memory; it would be 2 MiB of Python's own reserves."""
TIDY_SECONDS = 60.0
CALM_SECONDS = 0.1
"""There is time to look for garbage when nothing is due for so long: it takes less than a hundredth of it."""


def score() -> int | None:
    """How early the kernel kills us for want of memory, from -1000 to 1000; None where it cannot be read."""
    try:
        return int(KeptFile(OOM_SCORE, size=64).read())
    except (OSError, ValueError):
        return None


NICENESS_BEFORE, SCORE_BEFORE = os.getpriority(os.PRIO_PROCESS, 0), score()
"""As we were started."""


def prepare() -> None:
    """Before the guard starts anything: first to run, last to go."""
    go_first()
    go_last()


def go_first() -> None:
    """Be scheduled before others, where CAP_SYS_NICE allows it: lines are crossed while every core is busy."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS_BEFORE - FIRST_BY)
    except PermissionError:
        return


def go_last() -> None:
    """Be killed for want of memory after all others, where CAP_SYS_RESOURCE allows it."""
    if SCORE_BEFORE is not None and SCORE_BEFORE > LAST_TO_GO:
        try:
            _write_score(LAST_TO_GO)
        except OSError:
            return


def as_before() -> None:
    """Be again as we were started: for a child, before it becomes another program. Raises OSError if it cannot."""
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS_BEFORE)
    if SCORE_BEFORE is not None and score() == LAST_TO_GO:
        _write_score(SCORE_BEFORE)


def _write_score(score: int) -> None:
    fd = os.open(OOM_SCORE, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % score)
    finally:
        os.close(fd)


def may_lock() -> bool:
    """Whether mlockall would be allowed: with CAP_IPC_LOCK, or without a limit. A smaller limit is never enough."""
    if resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY:
        return True
    try:
        return bool(status_mask(KeptFile("/proc/self/status").read(), b"CapEff") >> CAP_IPC_LOCK & 1)
    except (OSError, KeyError, ValueError):
        return False


def stay_in_memory() -> int:
    """Keep what we use from being swapped out or dropped, program text included. 0, or the errno that says why not.

    Children do not inherit it (mlockall(2)). What the allocator holds and nobody uses is given back first; that is as
    much as the way to the C library costs, so that being locked is no larger than not being.
    """
    if not may_lock():
        return errno.EPERM
    try:
        import _ctypes
    except ImportError:  # a Python without it
        return errno.ENOSYS
    library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # the program itself
    for name, argument in (("malloc_trim", 0), ("mlockall", MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)):
        try:
            result = _ctypes.call_function(_ctypes.dlsym(library, name), (argument,))
        except OSError:  # musl does not trim
            result = -1
    return errno.ENOMEM if result else 0


class Garbage:
    """Collected when there is time, never while something is due. Lives as long as the guard's loop.

    Its code makes no cycles, so this finds nothing as a rule; it is there for what a library may make.
    """

    def __init__(self, now: float) -> None:
        gc.collect()
        gc.freeze()  # what is there by now stays: it need not be gone through again
        gc.disable()
        self._next = now + TIDY_SECONDS

    def collect_if_idle(self, now: float, idle_seconds: float) -> None:
        """`idle_seconds`: until the next thing is due."""
        if now >= self._next and idle_seconds >= CALM_SECONDS:
            gc.collect()
            self._next = now + TIDY_SECONDS
