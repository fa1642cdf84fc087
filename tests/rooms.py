"""Rooms with a limit: cgroups of version 1 that tests make, and programs of theirs that run in them."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from conftest import read_line, wait_until
from servers import end

V1 = Path("/sys/fs/cgroup/memory")
TARGETS = Path(__file__).parent / "targets"
USABLE = os.geteuid() == 0 and (V1 / "memory.oom_control").exists()
WHY_NOT = "takes root and a memory hierarchy of cgroup v1"


class Room:
    """A cgroup of ours with a limit. Lives as long as its test."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.path = V1 / f"rag-sidecar-{name}-{os.getpid()}"
        self.path.mkdir()
        self.write("memory.limit_in_bytes", limit_bytes)
        self.write("memory.swappiness", 0)  # on a machine that has swap nobody would ever reach the limit
        self.members: list[subprocess.Popen[bytes]] = []

    def write(self, name: str, value: int) -> None:
        """Write a number into one of its files."""
        (self.path / name).write_text(str(value))

    def read(self, name: str) -> int:
        """The number in one of its files."""
        return int((self.path / name).read_text())

    def control(self, key: str) -> int:
        """A figure of memory.oom_control."""
        lines = (self.path / "memory.oom_control").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key} "))

    def as_before(self) -> bool:
        """Whether the limit is what it was, and the kernel kills whoever goes beyond."""
        return self.read("memory.limit_in_bytes") == self.limit_bytes and not self.control("oom_kill_disable")

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """A program of tests/targets in it, which is ready."""
        process = subprocess.Popen([*entering(self.path), sys.executable, str(TARGETS / f"{name}.py"), *arguments],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.members.append(process)
        assert read_line(process, "ready") == "ready"
        return process

    def close(self) -> None:
        """End what is in it, and remove it."""
        self.write("memory.oom_control", 0)
        for process in self.members:
            end(process)
        for left in (self.path / "cgroup.procs").read_text().split():
            os.kill(int(left), signal.SIGKILL)
        wait_until(lambda: not (self.path / "cgroup.procs").read_text(), 10, "the end of its processes")
        self.path.rmdir()


def entering(cgroup: Path) -> Sequence[str]:
    """A command that goes into a cgroup and runs there what stands behind it."""
    return "sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs")


def tell(process: "subprocess.Popen[bytes]", command: str) -> None:
    """Have a program do something; does not wait for its answer."""
    assert process.stdin
    process.stdin.write(f"{command}\n".encode())
    process.stdin.flush()
