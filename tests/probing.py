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


TOLD = {
    "gc": {"enabled": True, "frozen": 0, "generations": [
        {"collections": 5, "collected": 6, "uncollectable": 0, "count": 1, "threshold": 700, "pause_seconds": 0.5,
         "pause_max_seconds": 0.25}] * 3},
    "python": {"allocated_blocks": 1000},
    "malloc": {"allocator": "glibc", "arena_bytes": 9, "in_use_bytes": 5, "free_bytes": 4, "mmapped_bytes": 3,
               "releasable_bytes": 2, "trim_returned_bytes_total": 1},
    "torch": [{"device": "cuda:0", "backend": "cuda", "name": "A100", "uuid": "u", "allocated_bytes": 10,
               "allocated_max_bytes": 11, "requested_bytes": 9, "reserved_bytes": 20, "active_bytes": 12,
               "inactive_split_bytes": 2, "segments": 3, "alloc_retries_total": 1, "ooms_total": 0,
               "device_alloc_total": 7, "device_free_total": 6, "releasable_bytes": 6, "device_free_bytes": 100,
               "device_total_bytes": 200}],
    "tracemalloc": {"tracing": False, "traced_bytes": 1, "peak_bytes": 2, "overhead_bytes": 3},
    "caches": [{"cache": "answers", "entries": 3, "size_bytes": 300, "max_entries": 5, "max_bytes": 500, "hits": 8,
                "misses": 2, "evictions": 1}],
    "models": [{"model": "reranker", "loaded": True, "memory_bytes": 99, "device": "cpu", "source": "measured",
                "last_used_at": 1.5, "loads": 1, "unloads": 0}],
    "requests_total": 42, "mode": "normal", "cleanups": [],
}
"""What an agent with everything in it says of its process."""
