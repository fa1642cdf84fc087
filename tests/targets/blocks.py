"""What the target programs share: memory that is really there and really goes, and commands from the test.

Runs on Python 3.8 and later, standard library only: a target may be started with any interpreter.

Commands on stdin, one a line, each answered on stdout with the bytes then held: `grow MIB`, `drop`, `rate MB_PER_S`.
"""

from __future__ import annotations  # the syntax of types, also on Python 3.8

import mmap
import os
import select
import signal
import sys
import threading
import time

MIB = 1024 * 1024
CONTENT = b"\x01" * MIB  # made once: made anew for each block, it would stay behind in malloc and blur the figures
LIFE_SECONDS = 600


class Blocks:
    """Anonymous memory in blocks of 1 MiB, written to when taken, unmapped when dropped. Lives as long as a target."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._blocks: list[mmap.mmap] = []

    @property
    def held_bytes(self) -> int:
        """What is held now."""
        return len(self._blocks) * MIB

    def grow(self, mib: int) -> None:
        """Take `mib` more, but never more than the limit: a forgotten target must not take the machine with it."""
        for _ in range(min(mib, (self._limit_bytes - self.held_bytes) // MIB)):
            # Private: Python's default is a shared mapping, which the kernel counts as shmem.
            block = mmap.mmap(-1, MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            block.write(CONTENT)
            with self._lock:
                self._blocks.append(block)

    def write(self) -> None:
        """Write to every page again: what was shared with a parent is then this process's own."""
        for block in self._blocks:
            block.seek(0)
            block.write(CONTENT)

    def drop(self) -> int:
        """Give everything back to the kernel. Returns the bytes."""
        with self._lock:
            blocks, self._blocks = self._blocks, []
        for block in blocks:
            block.close()
        return len(blocks) * MIB


def obey(blocks: Blocks, rate_mb_per_s: float = 0.0, ready: str = "ready") -> None:
    """Say `ready`, then grow at the rate and as commanded until SIGTERM; after stdin has ended, at the rate only."""
    signal.alarm(LIFE_SECONDS)  # its default action ends a target that nobody ended
    print(ready, flush=True)
    commands, last, owed_bytes = [sys.stdin.fileno()], time.monotonic(), 0.0
    while True:
        readable, _, _ = select.select(commands, [], [], 0.005 if rate_mb_per_s else 1.0)
        now = time.monotonic()
        owed_bytes += (now - last) * rate_mb_per_s * 1e6
        last = now
        blocks.grow(int(owed_bytes // MIB))
        owed_bytes %= MIB
        if readable:
            line = _line(commands[0])
            if not line:
                commands = []
                continue
            word, _, number = line.strip().partition(" ")
            if word == "grow":
                blocks.grow(int(number))
            elif word == "drop":
                blocks.drop()
            elif word == "rate":
                rate_mb_per_s = float(number)
            print(blocks.held_bytes, flush=True)


def _line(fd: int) -> str:
    """One line, read byte by byte: what a buffer holds, select would not announce."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            break
        line += byte
    return line.decode()
