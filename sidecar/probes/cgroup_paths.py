"""Where the files of a process's cgroups are: what our mounts show of them, and what its own do.

/proc/PID/cgroup and the root field of mountinfo speak the same language: both are relative to the root of the reader's
cgroup namespace (cgroup_namespaces(7)), so one prefix rule serves containers, namespaces, bind mounts and odd places.
The kernel writes both; what lies below /proc/PID/root is the target's word. So no link is followed there, and a file
counts only if it lies on the file system that the mount table names: those files nobody but the kernel makes.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sidecar.procfs import KeptFile

Parts = tuple[str, ...]

MOST_TABLE_BYTES = 4 << 20
"""Of a mount table: some thirty thousand mounts."""
MOST_LEVELS = 64
"""Of cgroups within cgroups. Anybody to whom a cgroup was delegated may go deeper, at our expense."""

ESCAPED = re.compile(rb"\\([0-3][0-7]{2})")
FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Version:
    """The type of a version's file system, and how it names what every memory cgroup has."""

    number: int
    kind: str
    usage: str
    limit: str


V1 = Version(1, "cgroup", "memory.usage_in_bytes", "memory.limit_in_bytes")
V2 = Version(2, "cgroup2", "memory.current", "memory.max")


class Mount(NamedTuple):
    """A line of a mount table: the part `root` of the file system `device` is seen at `point`."""

    device: int
    root: Parts
    point: Parts
    kind: str
    options: Sequence[str]

    def shows(self, version: Version) -> bool:
        """Whether it is the hierarchy that holds memory in this version."""
        return self.kind == version.kind and (version is V2 or "memory" in self.options)


def paths(cgroup: str) -> Iterator[tuple[Version, str]]:
    """(version, path) of the memory hierarchies in /proc/PID/cgroup, v1 first: where it has memory, v2 has not."""
    lines = [line.split(":", 2) for line in cgroup.splitlines() if line.count(":") >= 2]
    yield from ((V1, path) for _, controllers, path in lines if "memory" in controllers.split(","))
    yield from ((V2, path) for number, controllers, path in lines if number == "0" and not controllers)


def parts(path: str) -> Parts:
    """A path in its parts; that of the root has none."""
    return tuple(part for part in path.split("/") if part)


def parse_mounts(table: bytes) -> list[Mount]:
    """The mounts of /proc/PID/mountinfo (proc_pid_mountinfo(5)), in its order; a line that is not one is skipped."""
    found = []
    for line in table.splitlines():
        fields = line.split(b" ")
        try:
            after = fields.index(b"-", 6)
            major, minor = fields[2].split(b":")
            root, point = (parts(os.fsdecode(ESCAPED.sub(lambda code: bytes([int(code[1], 8)]), field)))
                           for field in fields[3:5])
            kind, options = os.fsdecode(fields[after + 1]), os.fsdecode(fields[after + 3]).split(",")
            found.append(Mount(os.makedev(int(major), int(minor)), root, point, kind, options))
        except (ValueError, IndexError, OverflowError):
            continue
    return found


def read_table(path: str) -> bytes:
    """A mount table. Raises OSError, EFBIG where it is longer than we read."""
    with open(path, "rb") as file:
        table = file.read(MOST_TABLE_BYTES + 1)
    if len(table) > MOST_TABLE_BYTES:
        raise OSError(errno.EFBIG, f"more than {MOST_TABLE_BYTES} bytes of mounts", path)
    return table


def covering(path: Parts, mounts: Sequence[Mount]) -> Mount | None:
    """The mount on which a path lies: the longest point above it, and of several there the last, which hides them."""
    above = [mount for mount in reversed(mounts) if path[:len(mount.point)] == mount.point]
    return max(above, key=lambda mount: len(mount.point), default=None)


class Folder:
    """A folder of a cgroup, held open. `device` is the file system that the mount table names for it."""

    __slots__ = ("_fd", "device", "path")

    def __init__(self, path: str, fd: int, device: int) -> None:
        self.path = path
        self._fd = fd
        self.device = device

    def __del__(self) -> None:
        os.close(self._fd)

    def below(self, part: str) -> "Folder":
        """The folder of this name in it. Raises OSError: ENOENT, or ENOTDIR for a link."""
        fd = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=self._fd)
        return Folder(f"{self.path.rstrip('/')}/{part}", fd, self.device)

    def file(self, name: str, size: int = 64) -> KeptFile | None:
        """A file of it, None if there is none. Raises OSError: it may not be read, or (EXDEV) is not the kernel's."""
        path = f"{self.path}/{name}"
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if not stat.S_ISREG(found.st_mode) or found.st_dev != self.device:
                raise OSError(errno.EXDEV, "not a file of the cgroup file system", path)
            kept = KeptFile(name, dir_fd=self._fd, size=size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from error
        kept.path = path
        return kept


class Sight:
    """What can be seen of the cgroups of one process. `refused` is why something else could not be.

    `root` is where our own file system begins. Raises OSError if the process is gone.
    """

    def __init__(self, pid: int, proc: str, root: str) -> None:
        self._tables = ((root, f"{proc}/self/mountinfo"), (f"{proc}/{pid}/root", f"{proc}/{pid}/mountinfo"))
        self._mounts: list[tuple[str, list[Mount]]] | None = None
        self.membership = KeptFile(f"{proc}/{pid}/cgroup", size=2048)
        self.cgroup = self.membership.read()
        self.refused: OSError = FileNotFoundError(errno.ENOENT, "no memory cgroup of the target is visible",
                                                  os.fsdecode(self.cgroup[:200]))

    def levels(self, version: Version) -> Iterator[list[Folder]]:
        """The process's own cgroup and those above it as far as they are shown; where most is shown comes first."""
        for found, path in paths(os.fsdecode(self.cgroup)):
            if found is version:
                for view, mount, rest in sorted(self._places(version, parts(path)), key=lambda place: -len(place[2])):
                    try:
                        yield self._open(view, mount, rest)
                    except (FileNotFoundError, NotADirectoryError):
                        continue
                    except OSError as error:
                        self.refused = error

    def memory(self) -> tuple[Version, list[Folder]]:
        """The memory cgroup that is charged, and those above it.

        In v2 that may be one above the process's own, where memory is not handed on. Raises OSError if none is seen.
        """
        for version in (V1, V2):
            for levels in self.levels(version):
                try:
                    while levels and levels[0].file(version.usage) is None:
                        del levels[0]
                except OSError as error:
                    self.refused = error
                    continue
                if levels:
                    return version, levels
                if isinstance(self.refused, FileNotFoundError):
                    self.refused = FileNotFoundError(
                        errno.ENOENT, "no memory cgroup: the target is in the root, or memory is not enabled for it",
                        os.fsdecode(self.cgroup[:200]))
        raise self.refused

    def _places(self, version: Version, path: Parts) -> Iterator[tuple[str, Mount, Parts]]:
        """(where the view begins, mount, path from there) wherever a mount shows the path of a cgroup."""
        for view, mounts in self._views():
            for mount in mounts:
                rest = path[len(mount.root):]
                if mount.shows(version) and path[:len(mount.root)] == mount.root and ".." not in rest \
                        and covering(mount.point + rest, mounts) is mount:
                    yield view, mount, rest

    def _views(self) -> list[tuple[str, list[Mount]]]:
        """(where it begins, its mounts) of our own view and of the target's, once where both are the same."""
        if self._mounts is None:
            read: dict[bytes, str] = {}
            for view, table in self._tables:
                try:
                    read.setdefault(read_table(table), view)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    self.refused = error
            self._mounts = [(view, parse_mounts(table)) for table, view in read.items()]
        return self._mounts

    def _open(self, view: str, mount: Mount, rest: Parts) -> list[Folder]:
        """The folder at the end of the path and those above it, up to where the mount begins. Raises OSError."""
        if len(rest) > MOST_LEVELS:
            raise OSError(errno.E2BIG, f"more than {MOST_LEVELS} cgroups within each other", "/".join(rest)[:200])
        folder = Folder(view, os.open(view, FOLDER), mount.device)
        for part in mount.point:
            folder = folder.below(part)
        levels = [folder]
        for part in rest:
            levels.append(levels[-1].below(part))
        return levels[::-1]
