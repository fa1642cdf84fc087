"""Who acts on a process when several sidecars watch it: exactly one, for as long as the process lives.

The sign is a lock (flock(2)) that the kernel takes back when a guard ends, however it ends. It lies on the process's
`environ`, which only those can open who may trace the process, so no stranger can keep us away; where we may not, on
its directory. A procfs of one's own has its own files, so where the kernel has pidfs (Linux 6.9) the pidfd is locked,
too: there is one inode of it for the whole machine.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from sidecar.clock import monotonic
from sidecar.guard.process import Process, Remote
from sidecar.procfs import KeptFile, status_field

CLAIM_SECONDS = 5.0
"""Until it is seen again whether the other sidecar, that acts on a target, is still there."""


class Claims:
    """The processes that are ours to act on. Lives as long as the guard. Times are monotonic."""

    def __init__(self, tell: Callable[..., int]) -> None:
        self._tell = tell
        self._held: dict[tuple[int, int], tuple[list[int], set[str]]] = {}
        self._foreign: dict[str, float] = {}

    def foreign(self, target: str) -> bool:
        """Whether another sidecar acts on this target."""
        return target in self._foreign

    def ours(self, target: str, process: Process | Remote, now: float | None) -> bool:
        """Whether it is ours to act on the target; with no time given, seen anew however lately that was done.

        Tells `foreign` when it is another sidecar's, and `owned` when it is ours afterwards.
        """
        if now is not None and now < self._foreign.get(target, now):
            return False
        if self.take(target, process):
            if self._foreign.pop(target, None) is not None:
                self._tell("owned", target)
            return True
        if target not in self._foreign:
            self._tell("foreign", target, reason="another_sidecar")
        self._foreign[target] = monotonic() + CLAIM_SECONDS
        return False

    def take(self, target: str, process: Process | Remote) -> bool:
        """Claim the process for this target. False while another sidecar has it; what has no process is everyone's.

        Where no descriptor is left to see that it stays whose it was, or is ours: rather two that act than nobody.
        """
        if isinstance(process, Remote):
            return True
        life = process.identity.pid, process.identity.start_time_ticks
        if life not in self._held:
            try:
                locked = _locked(process)
            except OSError:
                return target not in self._foreign
            if locked is None:
                return False
            self._held[life] = locked, set()
        self._held[life][1].add(target)
        return True

    def release(self, target: str) -> None:
        """The target's process has ended, or is not watched any more."""
        self._foreign.pop(target, None)
        for life, (locked, targets) in list(self._held.items()):
            targets.discard(target)
            if not targets:
                del self._held[life]
                _close(locked)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _locked(process: Process) -> list[int] | None:
    """Descriptors that hold the locks, None where another sidecar holds one. Those of strangers do not count.

    Raises OSError where no descriptor is left.
    """
    try:
        fds, proven = [os.open("environ", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process.dir_fd)], 1
    except OSError:  # not ours to trace, or ending
        fds, proven = [os.dup(process.dir_fd)], 0
    try:
        if _on_pidfs(process.pidfd):
            fds.append(os.dup(process.pidfd))
    except OSError:
        _close(fds)
        raise
    for place, fd in enumerate(fds):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if place < proven or not _by_stranger(fd, process):
                _close(fds)
                return None
        except OSError:
            continue  # a kernel that locks no such files: nobody is excluded, as if there were no other sidecar
    return fds


def _on_pidfs(pidfd: int) -> bool:
    """Whether a pidfd has an inode of its process's own. Before, all had the same one."""
    ours = os.pidfd_open(os.getpid())
    try:
        return not os.path.sameopenfile(pidfd, ours)
    finally:
        os.close(ours)


def _by_stranger(fd: int, process: Process) -> bool:
    """Whether the lock is held by somebody who could not act on the process anyway.

    That is another user than root, the target's and ours; or nobody who lives: a guard holds its locks itself. Whom
    we cannot see is in a namespace above ours, and believed.
    """
    found = os.fstat(fd)
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        lines = KeptFile("/proc/locks").read().decode().splitlines()
        holder = next(words[4] for words in map(str.split, lines) if words[1] == "FLOCK" and words[5] == device)
    except (OSError, IndexError, StopIteration):
        return False
    try:
        uid = status_field(KeptFile(f"/proc/{holder}/status").read(), b"Uid")
        return uid not in (0, os.geteuid(), status_field(process.status.read(), b"Uid"))
    except (OSError, KeyError, ValueError):
        return True
