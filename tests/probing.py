"""What the tests of probes share: targets, samples by name, a Python that does as it is told, another user."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import read_line

from sidecar.model import Labels, Sample, Target
from sidecar.procfs import Identity, identify

TREES = Path(__file__).parent / "proc"
MIB = 1 << 20
BASE = Labels({"target": "rag", "job": "sidecar"})
OWN = Labels({"job": "sidecar"})
NOBODY = 65534


def target(pid: int, name: str = "rag") -> Target:
    """The target that a running process is."""
    return Target(name, BASE.merged({"target": name}), identify(pid))


def pictured(pid: int = 42, start_time_ticks: int = 627893) -> Target:
    """A target of a captured tree."""
    return Target("rag", BASE, Identity("00000000-1111-2222-3333-444444444444", pid, start_time_ticks, None))


def values(samples: list[Sample]) -> dict[str, float]:
    """Samples by their metric and what tells them apart: `rag_process_memory_bytes anon`."""
    found = {}
    for sample in samples:
        own = sample.labels.without("__name__", "process", *BASE)
        found[" ".join([sample.labels.metric, *own.values()])] = sample.value
    assert len(found) == len(samples)
    return found


class Obedient:
    """A bare Python that carries out statements. Lives until its test ends."""

    def __init__(self, **popen: Any) -> None:
        code = "import sys\nprint(1, flush=True)\nfor line in sys.stdin:\n exec(line)\n print(1, flush=True)"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        **popen)
        read_line(self.process, "ready")

    def send(self, statement: str) -> None:
        """Have it carried out, without waiting."""
        assert self.process.stdin
        self.process.stdin.write(f"{statement}\n".encode())
        self.process.stdin.flush()

    def do(self, statement: str) -> None:
        """Have it carried out."""
        self.send(statement)
        read_line(self.process, statement)

    def end(self) -> None:
        """Kill and reap it."""
        self.process.kill()
        self.process.communicate()


def as_nobody(function: Callable[[], Any]) -> Any:
    """What the function gives when it runs as another user than root: in a fork, as JSON."""
    if os.geteuid():
        return function()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            theirs.sendall(json.dumps(function()).encode())
        finally:
            os._exit(0)
    theirs.close()
    with ours.makefile("rb") as answer:
        found = answer.read()
    ours.close()
    os.waitpid(pid, 0)
    assert found, "the function failed: its traceback is above"
    return json.loads(found)
