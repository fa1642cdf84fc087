"""The memory limit of one cgroup as the brake uses it: hold whoever reaches it, lend beyond it, call the loan in.

cgroup v1: with `memory.oom_control` at 1 tasks that fault beyond the limit wait instead of being killed, and an eventfd
that was registered with `cgroup.event_control` tells of it at once (the kernel's cgroup-v1/memory.rst, 9 and 10).
cgroup v2 has no such wait: `memory.high`, just below `memory.max`, slows allocations down, and `memory.events` tells of
it (cgroup-v2.rst). The two classes have the same methods. All of them raise OSError as the kernel reports it.
"""

from __future__ import annotations

import errno
import os
import select

from sidecar.procfs import OUT_OF_SIGHT, KeptFile, parse_keyed, parse_stat, unreclaimable_bytes
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

MIB = 1 << 20
NO_LIMIT_BYTES = 1 << 62
MARGIN_BYTES = 8 * MIB
"""What is left above usage when a limit is lowered: to whom nothing is left, even freeing may be the end."""
MOST_PIDS, MOST_ANCESTORS = 4096, 64


class Refused(Exception):
    """This cgroup cannot be held; the message says why."""


class Files:
    """The files of one cgroup, below a descriptor of its folder. Raises OSError if that is none, or a link."""

    USAGE = LIMIT = ""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self.inode = os.fstat(self._fd).st_ino
        self.eventfd = -1

    def read(self, name: str) -> bytes:
        """What a file says."""
        return KeptFile(name, dir_fd=self._fd).read()

    def bytes_of(self, name: str) -> int:
        """The size that a file names; what has no limit is very large."""
        text = self.read(name).strip()
        return 2 * NO_LIMIT_BYTES if text == b"max" else int(text)

    def write(self, name: str, value: int) -> None:
        """Write a number; one without measure is the word for no limit."""
        fd = os.open(name, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self._fd)
        try:
            os.write(fd, b"-1" if value >= NO_LIMIT_BYTES and "_in_bytes" in name else
                     b"max" if value >= NO_LIMIT_BYTES else b"%d" % value)
        finally:
            os.close(fd)

    def writable(self) -> bool:
        """Whether we may change the limit."""
        return os.access(self.LIMIT, os.W_OK, dir_fd=self._fd)

    def used_bytes(self) -> int:
        """What the kernel cannot take back."""
        return unreclaimable_bytes(self.read(self.USAGE), self.read("memory.stat"))

    def children(self) -> list[str]:
        """The names of the cgroups within it."""
        with os.scandir(self._fd) as found:
            return [each.name for each in found if each.is_dir(follow_symlinks=False)]

    def pids(self) -> list[int]:
        """The processes in it, of which only so many are read; 0 stands for one that cannot be seen from here."""
        return [int(line) for line in self.read("cgroup.procs").split()[:MOST_PIDS]]

    def room_above_bytes(self) -> int:
        """What the cgroups above it, as far as they are shown, have left to lend."""
        room, folder = NO_LIMIT_BYTES, os.path.dirname(self.folder)
        while os.path.exists(f"{folder}/{self.LIMIT}"):
            above = Files(folder)
            try:
                room = min(room, above.bytes_of(self.LIMIT) - above.bytes_of(self.USAGE))
            finally:
                above.close()
            folder = os.path.dirname(folder)
        return room

    def close(self) -> None:
        """Give the descriptors back; harmless when called twice."""
        for fd in (self._fd, self.eventfd):
            if fd >= 0:
                os.close(fd)
        self._fd = self.eventfd = -1


class V1(Files):
    """A limit of cgroup v1. `kept` is what it was before, by file; as long as the brake is on."""

    VERSION = 1
    EVENTS = select.EPOLLIN
    USAGE, LIMIT, BOTH = "memory.usage_in_bytes", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
    CONTROL = "memory.oom_control"

    def __init__(self, folder: str, kept: dict[str, int] | None = None) -> None:
        super().__init__(folder)
        self.kept = kept or {name: self.bytes_of(name) for name in (self.LIMIT, self.BOTH) if self._has(name)}

    def _has(self, name: str) -> bool:
        return os.access(name, os.F_OK, dir_fd=self._fd)

    @property
    def limit_bytes(self) -> int:
        """The limit as it was found."""
        return self.kept[self.LIMIT]

    def _control(self, key: bytes) -> int:
        return parse_keyed(self.read(self.CONTROL)).get(key, 0)

    def engaged(self) -> bool:
        """Whether whoever reaches the limit waits."""
        return self._control(b"oom_kill_disable") == 1

    def waiting(self) -> bool:
        """Whether somebody waits at the limit."""
        return self._control(b"under_oom") == 1

    def kills(self) -> int:
        """How many processes the kernel has killed here."""
        return self._control(b"oom_kill")

    def engage(self) -> int:
        """From now on whoever reaches the limit waits. The descriptor that tells when somebody does."""
        if self.eventfd < 0:
            self.eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            control = os.open(self.CONTROL, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
            listen = os.open("cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._fd)
            try:
                os.write(listen, b"%d %d" % (self.eventfd, control))
            finally:
                os.close(listen)
                os.close(control)
        self.write(self.CONTROL, 1)
        return self.eventfd

    def hear(self) -> None:
        """What the descriptor had to tell has been heard."""
        try:
            os.eventfd_read(self.eventfd)
        except BlockingIOError:
            return

    def let_go(self) -> None:
        """From now on the kernel kills again, as it would have without us; also in cgroups made within meanwhile."""
        self.write(self.CONTROL, 0)
        for name in self.children():  # they have taken the setting over from it
            self.write(f"{name}/{self.CONTROL}", 0)

    def lend(self, loan_bytes: int) -> None:
        """So much beyond the limit; then the kernel kills."""
        most = self.limit_bytes + loan_bytes
        if self.kept.get(self.BOTH, most) < most:
            self.write(self.BOTH, most)
        self.write(self.LIMIT, most)
        self.let_go()

    def call_in(self, *, now: bool) -> bool:
        """Put the limit back once usage is below it; `now`: as far as that goes at present. Whether it is as before."""
        used = self.used_bytes()
        if used > self.limit_bytes - MARGIN_BYTES and not now:
            return False
        aim = self.limit_bytes if used < self.limit_bytes else used + MARGIN_BYTES
        try:
            if aim < self.bytes_of(self.LIMIT):
                self.write(self.LIMIT, aim)
            if aim == self.limit_bytes and self.BOTH in self.kept:
                self.write(self.BOTH, self.kept[self.BOTH])
        except OSError as error:
            if error.errno != errno.EBUSY:  # it has grown meanwhile
                raise
            return False
        return aim == self.limit_bytes


class V2(Files):
    """A limit of cgroup v2. There is no waiting, only slowing down, for which some room is kept below the limit."""

    VERSION = 2
    EVENTS = select.EPOLLPRI | select.EPOLLERR
    USAGE, LIMIT, HIGH = "memory.current", "memory.max", "memory.high"
    ROOM_RATIO, LEAST_ROOM_BYTES = 0.05, 32 * MIB

    def __init__(self, folder: str, kept: dict[str, int] | None = None) -> None:
        super().__init__(folder)
        self.kept = kept or {name: self.bytes_of(name) for name in (self.LIMIT, self.HIGH)}
        self._seen = 0

    @property
    def limit_bytes(self) -> int:
        """The limit as it was found."""
        return self.kept[self.LIMIT]

    @property
    def high_bytes(self) -> int:
        """Where it begins to slow down: a twentieth below the limit, at least 32 MiB, unless it is lower anyway."""
        room = max(int(self.limit_bytes * self.ROOM_RATIO), self.LEAST_ROOM_BYTES)
        return min(self.kept[self.HIGH], max(0, self.limit_bytes - room))

    def engaged(self) -> bool:
        """Whether whoever comes near the limit is slowed down."""
        return self.bytes_of(self.HIGH) <= self.high_bytes < self.kept[self.HIGH]

    def _event(self, key: bytes) -> int:
        return parse_keyed(self.read("memory.events")).get(key, 0)

    def waiting(self) -> bool:
        """Whether somebody has been slowed down since it was engaged."""
        return self._event(b"high") > self._seen and self.used_bytes() >= self.high_bytes - MARGIN_BYTES

    def kills(self) -> int:
        """How many processes the kernel has killed here."""
        return self._event(b"oom_kill")

    def engage(self) -> int:
        """From now on whoever comes near the limit is slowed down. The descriptor that tells when somebody is."""
        if self.kept[self.HIGH] <= self.high_bytes:
            raise Refused("memory.high is set already: the kernel slows it down by itself")
        self._seen = self._event(b"high")
        if self.eventfd < 0:
            self.eventfd = os.open("memory.events", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._fd)
        self.write(self.HIGH, self.high_bytes)
        return self.eventfd

    def hear(self) -> None:
        """What the descriptor had to tell has been heard: the kernel tells anew after a reading."""
        os.pread(self.eventfd, 4096, 0)

    def let_go(self) -> None:
        """Nobody is slowed down any more."""
        self.write(self.HIGH, self.kept[self.HIGH])

    def lend(self, loan_bytes: int) -> None:
        """So much beyond the limit; then the kernel kills."""
        self.write(self.LIMIT, self.limit_bytes + loan_bytes)
        self.let_go()

    def call_in(self, *, now: bool) -> bool:
        """Put the limit back once usage is below it; `now`: as far as that goes at present. Whether it is as before.

        The kernel kills at once where it is put below usage, so that is never done.
        """
        used = self.bytes_of(self.USAGE)
        if used > self.limit_bytes - MARGIN_BYTES and not (now and used + MARGIN_BYTES < self.bytes_of(self.LIMIT)):
            return False
        aim = max(self.limit_bytes, used + MARGIN_BYTES)
        if aim < self.bytes_of(self.LIMIT):
            self.write(self.LIMIT, aim)
        return aim == self.limit_bytes


def limit_of(folder: str, kept: dict[str, int] | None = None) -> V1 | V2:
    """The limit of the cgroup with this folder, of either version. Raises OSError."""
    return (V1 if os.path.exists(f"{folder}/{V1.LIMIT}") else V2)(folder, kept)


def strangers(files: Files, pid: int, proc: str = "/proc") -> list[int]:
    """The processes of the cgroup that are neither `pid` nor below it. Raises OSError where that cannot be read now."""
    parents: dict[int, int] = {}

    def parent(of: int) -> int:
        if of not in parents:
            try:
                parents[of] = int(parse_stat(KeptFile(f"{proc}/{of}/stat", size=1024).read())[1])
            except (*OUT_OF_SIGHT, ValueError, IndexError):
                parents[of] = -1  # it has just ended
        return parents[of]

    found = []
    for member in files.pids():
        at, steps = member, 0
        while at > 0 and at != pid and steps < MOST_ANCESTORS:
            at, steps = parent(at), steps + 1
        if at != pid and parents.get(member, 0) >= 0:
            found.append(member)
    return found


def check(limit: V1 | V2, pid: int, loan_bytes: int, proc: str = "/proc") -> None:
    """Raise Refused unless it is the cgroup of this process alone, with a limit beyond which something may be lent."""
    if limit.limit_bytes >= NO_LIMIT_BYTES:
        raise Refused("the cgroup has no limit of its own")
    if pid not in limit.pids():
        raise Refused(f"process {pid} is not in {limit.folder} itself")
    if others := strangers(limit, pid, proc):
        raise Refused("the cgroup holds processes that are not the target's: " + ", ".join(map(str, others[:5])))
    if limit.children():
        raise Refused("there are cgroups within the target's cgroup")
    if limit.VERSION == 1 and limit.engaged():
        raise Refused("somebody else has disabled the kill there (memory.oom_control)")
    if limit.room_above_bytes() < limit.limit_bytes - limit.bytes_of(limit.USAGE) + loan_bytes:
        raise Refused("a cgroup above it has no room for the loan")


def free_bytes() -> int:
    """What the machine could lend: three quarters of what is available. Raises OSError or KeyError."""
    figures: dict[bytes, Any] = {line.split(b":")[0]: line.split()[1] for line in
                                 KeptFile("/proc/meminfo").read().splitlines() if len(line.split()) > 1}
    return int(figures[b"MemAvailable"]) * 1024 * 3 // 4
