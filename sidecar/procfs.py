"""What /proc and cgroup files say: pure parsing, and files kept open so that a look costs one pread.

Stdlib only and light, because the guard uses it too. Formats: proc(5), the kernel's cgroup-v1/memory.rst and
cgroup-v2.rst. A kept file below /proc/PID belongs to one life of one process: after its end reads fail with
ESRCH, also when the pid has been given to another process.
"""

from __future__ import annotations

import os

from sidecar.tuples import NamedTuple

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

ENDED = FileNotFoundError, ProcessLookupError
"""What says that a process has ended. Any other OSError says nothing of it: where memory or descriptors are short,
files of /proc cannot be read for a while (ENOMEM, EMFILE, ENFILE, EINTR, EAGAIN)."""
OUT_OF_SIGHT = *ENDED, PermissionError
"""The same, or what may not be seen by us."""


class Identity(NamedTuple):
    """One life of one process. `exe` is (device, inode) of its program, None where it may not be read."""

    boot_id: str
    pid: int
    start_time_ticks: int
    exe: tuple[int, int] | None


LONGEST_FIGURE = 24
LONGEST_FILE_BYTES = 1 << 20
"""Longer than any file we keep: /proc/PID/status names every group of its user, of which there may be 65536."""


class KeptFile:
    """A file of /proc or a cgroup, kept open and read from its start with one system call. Lives as long as a target.

    Closed with its last reference, like every file of Python's. `size` is what is expected; a longer file is read
    whole nevertheless, up to `LONGEST_FILE_BYTES`: cut short, a field behind the cut would look as if it were absent.
    Opened without waiting: what a container shows as its own /sys may hold a pipe that nobody ever writes to.
    Raises OSError as the kernel reports it (ENOENT, EACCES; ESRCH once the process has ended; ESPIPE for a pipe).
    """

    __slots__ = ("_fd", "_size", "path")

    def __init__(self, path: str, *, dir_fd: int | None = None, size: int = 8192) -> None:
        self.path = path
        self._size = size
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=dir_fd)

    def __del__(self) -> None:
        self.close()

    def read(self) -> bytes:
        """The content of the file."""
        content = os.pread(self._fd, self._size, 0)
        while len(content) == self._size < LONGEST_FILE_BYTES:
            self._size *= 2
            content = os.pread(self._fd, self._size, 0)
        return content

    def close(self) -> None:
        """Give the descriptor back; harmless when called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def parse_stat(text: bytes) -> list[bytes]:
    """The fields of /proc/PID/stat from the third (state) on: index 0 is field 3 of proc(5).

    The second field, the name, is skipped by its last closing bracket: a process may put brackets into its name.
    """
    return text[text.rindex(b")") + 2:].split()


def parent_pid(stat: bytes) -> int:
    """Field 4 of /proc/PID/stat: who started the process, or who has adopted it since; 0 if nobody that is seen."""
    return int(parse_stat(stat)[1])


def start_time_ticks(stat: bytes) -> int:
    """Field 22 of /proc/PID/stat: when the process started, in clock ticks since boot."""
    return int(parse_stat(stat)[19])


def resident_bytes(statm: bytes) -> int:
    """Resident set size from /proc/PID/statm."""
    return int(statm.split(None, 2)[1]) * PAGE_BYTES


def parse_keyed(text: bytes) -> dict[bytes, int]:
    """`key value` lines as in memory.stat; a line that is not that is skipped."""
    found: dict[bytes, int] = {}
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if value.isdigit():
            found[key] = int(value)
    return found


def status_field(status: bytes, name: bytes, default: int | None = None) -> int:
    """A number of /proc/PID/status, in bytes where the kernel says kB. KeyError if it is absent and has no default."""
    at = status.find(b"\n" + name + b":")
    if at < 0:
        if default is None:
            raise KeyError(name.decode())
        return default
    words = status[at + len(name) + 2:].split(None, 2)
    return int(words[0]) * (1024 if words[1:2] == [b"kB"] else 1)


def status_mask(status: bytes, name: bytes) -> int:
    """A signal mask of /proc/PID/status (SigCgt, SigIgn, ShdPnd …): bit n−1 stands for signal n."""
    at = status.find(b"\n" + name + b":")
    if at < 0:
        raise KeyError(name.decode())
    return int(status[at + len(name) + 2:].split(None, 1)[0], 16)


def anon_bytes(status: bytes) -> int:
    """What only this process can give back: RssAnon + RssShmem + VmSwap of /proc/PID/status.

    KeyError where RssAnon is absent (a zombie, gVisor): that is not known, which is not zero. Only swap and shmem may
    be missing from a kernel built without them.
    """
    return status_field(status, b"RssAnon") + status_field(status, b"RssShmem", 0) + status_field(status, b"VmSwap", 0)


def exact_bytes(rollup: bytes) -> dict[str, int]:
    """What /proc/PID/smaps_rollup says of anon, rss and pss, page by page where other files have counters.

    anon is what `anon_bytes` counts, but of a page that several processes share only this one's part, as in pss.
    KeyError where the kernel does not tell the kinds apart.
    """
    anon = sum(status_field(rollup, name) for name in (b"Pss_Anon", b"Pss_Shmem"))
    return {"anon": anon + status_field(rollup, b"SwapPss", 0), "pss": status_field(rollup, b"Pss"),
            "rss": status_field(b"\n" + rollup, b"Rss")}


def file_bytes(figures: dict[bytes, int]) -> tuple[int, int]:
    """(active, inactive) file pages of a cgroup, from its memory.stat of v2 or v1 as `parse_keyed` gives it.

    In v1 the `total_` figures include the children, as usage does.
    """
    prefix = b"total_" if b"total_active_file" in figures else b""
    return figures.get(prefix + b"active_file", 0), figures.get(prefix + b"inactive_file", 0)


def unreclaimable_bytes(usage: bytes, stat: bytes) -> int:
    """Usage of a cgroup less the file pages that the kernel can drop: usage − active_file − inactive_file.

    As `file_bytes` says, but nothing else is parsed: the guard does this hundreds of times a second near a line.
    """
    text = b"\n" + stat
    prefix = b"\ntotal_" if b"\ntotal_active_file " in text else b"\n"
    return max(0, int(usage) - _figure(text, prefix + b"active_file ") - _figure(text, prefix + b"inactive_file "))


def _figure(text: bytes, key: bytes) -> int:
    at = text.find(key)
    digits = text[at + len(key):at + len(key) + LONGEST_FIGURE].split(b"\n", 1)[0] if at >= 0 else b""
    return int(digits) if digits.isdigit() else 0


def boot_id(proc: str = "/proc") -> str:
    """The kernel's identity of this boot, or the empty string where it is hidden. OSError: not now (see `ENDED`)."""
    try:
        with open(f"{proc}/sys/kernel/random/boot_id", "rb") as file:
            return file.read(64).decode("utf-8", "replace").strip()
    except OUT_OF_SIGHT:
        return ""


def exe_of(folder: str, dir_fd: int | None = None) -> tuple[int, int] | None:
    """(device, inode) of the program of a process, given its /proc folder; None if not permitted."""
    try:
        found = os.stat(f"{folder}/exe", dir_fd=dir_fd)
    except (PermissionError, FileNotFoundError):  # another user's process; a kernel thread
        return None
    return found.st_dev, found.st_ino


def identify(pid: int, proc: str = "/proc") -> Identity:
    """Who is `pid` now. Raises OSError: one of `ENDED` if there is no such process."""
    dir_fd = os.open(f"{proc}/{pid}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        stat = KeptFile("stat", dir_fd=dir_fd)
        try:
            return Identity(boot_id(proc), pid, start_time_ticks(stat.read()), exe_of(".", dir_fd))
        finally:
            stat.close()
    finally:
        os.close(dir_fd)


def boot_time(proc: str = "/proc") -> float:
    """When the machine was booted, in Unix seconds: the btime line of /proc/stat. 0 where it is hidden.

    Raises OSError where it cannot be read now.
    """
    try:
        with open(f"{proc}/stat", "rb") as file:
            return next((float(line[6:]) for line in file if line.startswith(b"btime ")), 0.0)
    except OUT_OF_SIGHT:
        return 0.0


def rss_error_bytes(release: str, cpus: int, threads: int) -> int:
    """How far the resident size in statm and status can be off from the truth, on this release of the kernel.

    Before Linux 6.2 each thread keeps up to 64 page faults to itself (SPLIT_RSS_COUNTING). Since then each of the
    three counters that make up the size (file, anon, shmem) is a percpu_counter, of which each CPU keeps less than
    a batch of max(32, 2 x CPUs) pages to itself (lib/percpu_counter.c). Since 6.16 and 6.12.39 statm and status add
    these up ("mm: fix the inaccurate memory statistics issue for users"); stat does not. A release that cannot be
    read counts as the worse of the two.
    """
    numbers = tuple(int(part) for part in release.split("-")[0].split("+")[0].split(".")[:3] if part.isdecimal())
    by_thread, by_cpu = 64 * threads * PAGE_BYTES, 3 * max(32, 2 * cpus) * cpus * PAGE_BYTES
    if len(numbers) < 2:
        return max(by_thread, by_cpu)
    if numbers >= (6, 16) or (6, 12, 39) <= numbers < (6, 13):
        return 0
    return by_cpu if numbers >= (6, 2) else by_thread
