"""Which memory limits bind a process: limits nest, the tightest wins, and usage counts where that limit stands."""

import errno
from collections.abc import Iterator, Sequence

from sidecar.probes.cgroup_paths import V1, Folder, Version
from sidecar.procfs import KeptFile, file_bytes, parse_keyed, status_field

NO_LIMIT_BYTES = 1 << 62
"""v1 says "none" by the largest multiple of the page size below 2**63."""

HIERARCHICAL = b"hierarchical_memory_limit"


def parse_bytes(text: bytes) -> int:
    """The number that a file consists of. Raises OSError (EBADMSG) for what is none, or none that 64 bits hold."""
    word = text.strip()
    if not word.isdigit() or len(word) > 20:
        raise OSError(errno.EBADMSG, "not a number of bytes", text[:40].decode("ascii", "replace"))
    return int(word)


def parse_limit(text: bytes) -> int | None:
    """A limit in bytes; None is no limit (`max`, or v1's huge number). Raises OSError (EBADMSG) for what is neither."""
    limit = NO_LIMIT_BYTES if text.strip() == b"max" else parse_bytes(text)
    return limit if limit < NO_LIMIT_BYTES else None


def machine_bytes(proc: str) -> int | None:
    """The machine's memory, None where /proc does not say."""
    try:
        with open(f"{proc}/meminfo", "rb") as file:
            return status_field(b"\n" + file.read(8192), b"MemTotal")
    except (OSError, KeyError, ValueError, IndexError):
        return None


def charged(version: Version, folders: Sequence[Folder]) -> Iterator[Folder]:
    """The cgroups to which memory of the first is charged: in v1 only as far up as `memory.use_hierarchy` says.

    The kernel always charges all of them since Linux 5.11. Raises OSError.
    """
    for folder, above in zip(folders, [*folders[1:], None], strict=True):
        yield folder
        flag = above.file("memory.use_hierarchy") if above and version is V1 else None
        if flag and flag.read().strip() == b"0":
            return


def needed(folder: Folder, name: str, size: int = 64) -> KeptFile:
    """A file that every such cgroup has. Raises OSError, ENOENT where it has not."""
    file = folder.file(name, size)
    if file is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", f"{folder.path}/{name}")
    return file


class Level:
    """A cgroup that binds a process, by its limit, or because none limits it and this is its own.

    Lives as long as its probe. Raises OSError if it has not what every memory cgroup has.
    """

    __slots__ = ("folder", "limit_bytes", "stat", "usage")

    def __init__(self, version: Version, folder: Folder, limit_bytes: int | None) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self.usage = needed(folder, version.usage)
        self.stat = needed(folder, "memory.stat", 8192)

    def read(self) -> tuple[int, dict[bytes, int], int]:
        """(usage, the figures of memory.stat, what of the usage the kernel cannot drop). Raises OSError."""
        usage, figures = parse_bytes(self.usage.read()), parse_keyed(self.stat.read())
        return usage, figures, max(0, usage - sum(file_bytes(figures)))

    def close(self) -> None:
        """Give the descriptors back."""
        self.usage.close()
        self.stat.close()


class Bounds:
    """The levels whose limits can bind a process, the tightest first; never empty. Lives as long as its probe.

    A limit above the machine's memory binds nothing. (At it, it may be one that lxcfs shows as the machine's memory.)
    v1 also tells of a limit above what is shown: that one is taken with the usage of the highest cgroup that is.
    Raises OSError where one limit cannot be read: that is not "no limit".
    """

    def __init__(self, version: Version, folders: Sequence[Folder], machine: int | None) -> None:
        self._files: list[tuple[KeptFile, bytes]] = []
        self._most = NO_LIMIT_BYTES - 1 if machine is None else machine
        found: list[tuple[int, Folder]] = []
        reached = list(charged(version, folders))
        for folder in reached:
            file = folder.file(version.limit)
            if file is None:  # the root of v2 has no such file, and no limit
                continue
            text = file.read()
            self._files.append((file, text))
            limit = parse_limit(text)
            if limit is not None and limit <= self._most:
                found.append((limit, folder))
        self.levels = [Level(version, folder, limit) for limit, folder in sorted(found, key=lambda pair: pair[0])]
        self.levels = self.levels or [Level(version, folders[0], None)]
        self._shown = self.levels[0].limit_bytes
        self._hidden_now: int | None = None
        self.read()
        self._hidden = self._hidden_now
        if self._hidden is not None:
            self.levels.insert(0, Level(version, reached[-1], self._hidden))

    @property
    def limit_bytes(self) -> int | None:
        """The tightest limit, None if there is none."""
        return self.levels[0].limit_bytes

    def read(self) -> tuple[int, dict[bytes, int], int]:
        """What the first level says, as `Level.read` does."""
        found = self.levels[0].read()
        limit = found[1].get(HIERARCHICAL, NO_LIMIT_BYTES)
        tighter = limit <= self._most and (self._shown is None or limit < self._shown)
        self._hidden_now = limit if tighter else None
        return found

    def left_bytes(self, unreclaimable: int) -> int | None:
        """Memory left before a limit is reached, where it is least; None without a limit. Raises OSError.

        `unreclaimable` is that of the first level, which has been read already.
        """
        if self.limit_bytes is None:
            return None
        others = (level.limit_bytes - level.read()[2] for level in self.levels[1:] if level.limit_bytes is not None)
        return max(0, min((self.limit_bytes - unreclaimable, *others)))

    def changed(self) -> bool:
        """Whether a limit is another one by now. Raises OSError if that cannot be read."""
        return self._hidden_now != self._hidden or any(file.read() != text for file, text in self._files)

    def close(self) -> None:
        """Give the descriptors back."""
        for file, _ in self._files:
            file.close()
        for level in self.levels:
            level.close()
