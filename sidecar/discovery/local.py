"""Finding a process on this machine. The only user of psutil, and never on the hot path."""

import os
import re
import stat
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from sidecar.procfs import parent_pid

MOST_COMMAND_LINE = 4096
MOST_BYTES_A_CHARACTER = 4
TO_SPACES = bytes.maketrans(b"\0\n", b"  ")
MOST_PIDFILE_BYTES = 64


class Noted(NamedTuple):
    """The number in a pidfile, and when the file was written, in Unix time."""

    pid: int
    written_at: float


def pid_in(path: Path) -> Noted | None:
    """What a pidfile says; None while it is not there, holds no number, or is no file: a pipe would never end."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            about = os.fstat(file.fileno())
            words = file.read(MOST_PIDFILE_BYTES).split() if stat.S_ISREG(about.st_mode) else []
    except OSError:
        return None
    if words and words[0].isdigit() and 0 < int(words[0]) < 1 << 31:
        return Noted(int(words[0]), about.st_mtime)
    return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


class Found(NamedTuple):
    """A process whose command line matches. `program` is its first word, `rest` the line behind the match."""

    created: float
    pid: int
    parent: int
    program: str
    rest: str

    def wraps(self, other: "Found") -> bool:
        """Whether this is another program that only starts the other: `sh -c`, `sudo`, `tini --`, `uv run`."""
        return other.parent == self.pid and other.program != self.program and self.rest.startswith(other.rest)


class Running(NamedTuple):
    """A process and its command line: words that end with NUL, or a title that it has given itself."""

    pid: int
    command_line: bytes


def running(proc: str = "/proc") -> list[Running]:
    """Every process that has a command line, read once for however many targets are looked for.

    Of each no more is read than is looked at: a machine may have thousands, and a command line may be megabytes. So
    psutil, which reads all of each and remembers every process that it has seen, is asked only about those that match.
    """
    found = []
    for entry in os.listdir(proc):
        if entry.isdigit():
            try:
                with open(f"{proc}/{entry}/cmdline", "rb", buffering=0) as file:
                    line = file.read(MOST_COMMAND_LINE * MOST_BYTES_A_CHARACTER).rstrip(b"\0")
            except OSError:  # ended meanwhile, or hidden from us
                continue
            if line:
                found.append(Running(int(entry), line))
    return found


def by_cmdline(pattern: re.Pattern[str], not_these: Collection[int], among: Iterable[Running]) -> int | None:
    """The process whose command line, joined by spaces, the expression is found in; None if there is none.

    Of several the oldest: the master of a prefork server, not one of its workers. What only wraps the program does not
    count, nor does a sidecar, in whose command line the expression itself stands.
    """
    import psutil  # 0.8 MiB that a sidecar of known pids does without

    found: list[Found] = []
    for pid, command in among:
        line = os.fsdecode(command.translate(TO_SPACES))[:MOST_COMMAND_LINE]
        match = pattern.search(line)
        if not match or pid in not_these:
            continue
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                words, parent, created = process.cmdline(), process.ppid(), process.create_time()
        except psutil.Error:
            continue  # it has ended
        if words and not _is_sidecar(words):
            found.append(Found(created, pid, parent, words[0].rpartition("/")[2], line[match.end():]))
    programs = [each for each in found if not any(each.wraps(other) for other in found)]
    return min(programs).pid if programs else None


def _is_sidecar(words: Sequence[str]) -> bool:
    """Whether this is the command line of a sidecar or of one of its parts, started by its script or as a module."""
    first = words[:5]
    return any(word.rpartition("/")[2] == "rag-sidecar" or (before == "-m" and word.partition(".")[0] == "sidecar")
               for before, word in pairwise(["", *first]))


def ourselves() -> frozenset[int]:
    """This process and whoever started it: never a target by its command line, which holds the expression itself."""
    found = [os.getpid()]
    while found[-1] > 0:  # a process without a parent in this namespace has the parent 0
        try:
            found.append(parent_pid(Path(f"/proc/{found[-1]}/stat").read_bytes()))
        except OSError:  # hidden from us (hidepid), or just ended
            break
    return frozenset(found)
