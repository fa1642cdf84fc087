"""What the tests of probes share: targets, samples by name, a Python that does as it is told, another user."""

import json
import os
import subprocess
import sys
import traceback
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


def seen_as(prepare: Callable[[], None], look: Callable[[], Any]) -> Any:
    """What `look` gives to somebody else: in a fork that has prepared itself, as JSON."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            prepare()
            with open(writing, "w") as file:
                json.dump(look(), file)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    with open(reading) as answer:
        said = answer.read()
    assert os.waitpid(pid, 0)[1] == 0, "it failed: its traceback is above"
    return json.loads(said)


def _become_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def as_nobody(function: Callable[[], Any]) -> Any:
    """What the function gives when it runs as another user than root."""
    return function() if os.geteuid() else seen_as(_become_nobody, function)
