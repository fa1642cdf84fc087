"""A server with workers: forks them from what it holds, as gunicorn with preload_app does, or starts them as programs.

Commands on stdin, one a line, each answered on stdout with a number:

    grow MIB         the first process takes more; the bytes it holds
    fork             a worker by fork; its pid
    exec             a worker that is a program of its own, holding 40 MiB; its pid
    kill PID         a worker is killed and reaped; 0
    worker PID …     any command, or `write` (over everything that it had from its parent); what it answers
    herd N           N workers at once, which sleep; N
    churn N          N times: a worker is forked, ends and is reaped; N
    drop             it gives everything back; 0
    adopt            orphans below it become its children, as those of a container's first process do; 0
    detach MIB       a child with so much of its own, which outlives its parent; its pid
    zombies N        N children that have ended and are not reaped; N
    run              a program is started by subprocess, run to its end and reaped; 0
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys

from blocks import LIFE_SECONDS, MIB, Blocks

OWN = "import sys; x = bytearray(40 << 20); print(1, flush=True); sys.stdin.read()"


class Server:
    """What one process holds, and its workers. Lives as long as that process."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.lines: dict[int, socket.socket] = {}
        self.programs: dict[int, subprocess.Popen[bytes]] = {}

    def fork(self) -> int:
        """A worker with all that this process has; it obeys until its line is closed."""
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            self.lines[pid] = ours
            return pid
        ours.close()
        for line in self.lines.values():
            line.close()
        signal.alarm(LIFE_SECONDS)
        worker = Server(self.blocks)
        while True:
            words = theirs.recv(100).decode().split()
            if not words:
                os._exit(0)
            theirs.send(str(worker.obey(*words)).encode())

    def program(self) -> int:
        """A worker that shares nothing."""
        made = subprocess.Popen([sys.executable, "-c", OWN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert made.stdout
        made.stdout.readline()
        self.programs[made.pid] = made
        return made.pid

    def end(self, pid: int) -> int:
        """Kill a worker."""
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        line = self.lines.pop(pid, None)
        if line:
            line.close()
        return 0

    def herd(self, count: int) -> int:
        """Many at once, which do nothing and end with their parent."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        parent = os.getpid()
        for _ in range(count):
            if not os.fork():
                signal.alarm(60)
                while os.getppid() == parent:
                    signal.sigtimedwait([], 0.5)
                os._exit(0)
        return count

    def churn(self, count: int) -> int:
        """Workers that come and go, one after the other."""
        for _ in range(count):
            pid = os.fork()
            if not pid:
                os._exit(0)
            os.waitpid(pid, 0)
        return count

    def detach(self, mib: int) -> int:
        """A child that lives as long as its parent, or the one above."""
        parents = os.getpid(), os.getppid()
        reading, writing = os.pipe()
        pid = os.fork()
        if not pid:
            signal.alarm(60)
            self.blocks.grow(mib)
            os.write(writing, b"1")
            while os.getppid() in parents:
                signal.sigtimedwait([], 0.1)
            os._exit(0)
        os.read(reading, 1)
        os.close(reading)
        os.close(writing)
        return pid

    def zombies(self, count: int) -> int:
        """Children that nobody reaps."""
        for _ in range(count):
            if not os.fork():
                os._exit(0)
        return count

    def obey(self, word: str, *rest: str) -> int:
        """Carry a command out."""
        if word == "grow":
            self.blocks.grow(int(rest[0]))
            return self.blocks.held_bytes
        if word == "write":
            self.blocks.write()
            return 0
        if word == "worker":
            line = self.lines[int(rest[0])]
            line.send(" ".join(rest[1:]).encode())
            return int(line.recv(100))
        if word == "kill":
            return self.end(int(rest[0]))
        if word == "run":
            return subprocess.run([sys.executable, "-c", "pass"], check=False).returncode
        if word == "drop":
            return 0 * self.blocks.drop()
        if word == "adopt":
            return int(ctypes.CDLL(None).prctl(36, 1, 0, 0, 0))  # PR_SET_CHILD_SUBREAPER
        if word in ("herd", "churn", "detach", "zombies"):
            return getattr(self, word)(int(rest[0]))
        return {"fork": self.fork, "exec": self.program}[word]()


if __name__ == "__main__":
    signal.alarm(LIFE_SECONDS)
    server = Server(Blocks(1024 * MIB))
    if len(sys.argv) > 1:
        signal.signal(signal.SIGUSR1, lambda *_: server.blocks.drop())
    print("ready", flush=True)
    for command in sys.stdin:
        print(server.obey(*command.split()), flush=True)
