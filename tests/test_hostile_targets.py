"""A target that means harm, or is only strange, beside one that behaves: a whole sidecar, and what its user sees."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import Target as Program
from conftest import wait_until
from probing import BASE, Obedient
from servers import free_port, promtool
from sidecars import MIB, Sidecar, config, running_sidecar
from test_adversity import Played
from test_adversity import played as played
from test_cgroup import Group
from test_cgroup import group as group

from sidecar.probes.gc_remote import GcProbe
from sidecar.probes.series import SeriesOf
from sidecar.procfs import anon_bytes, identify

LINES = {"main": "120MiB", "critical": "150MiB"}
MOST_SERIES, MOST_GUARD_BYTES, MOST_DESK_BYTES = 2000, 16 * MIB, 80 * MIB
MORE_TICKS = 3

RENAMED = r"""
import itertools, threading
def rename(names=itertools.cycle([b") R 1 (", b"\n\n) Z 0\n", b"\xff" * 15, b"", b"a b) T 7 7"])):
    while True:
        with open(f"/proc/{os.getpid()}/comm", "wb", 0) as comm:
            comm.write(next(names))
        time.sleep(0.001)
threading.Thread(target=rename, daemon=True).start()
with open("/proc/self/stat", "rb") as stat, open("/proc/self/mem", "r+b", 0) as memory:
    start, end = (int(field) for field in stat.read().rpartition(b")")[2].split()[45:47])
    memory.seek(start)
    memory.write(b"\n\xff" * ((end - start) // 2))
"""
LONG = r"os.execv(sys.executable, [sys.executable, '-c', sys.orig_argv[2], *['x\n\r\xff' * 20000] * 20])"

HERD = """
for _ in range(5000):
    if not os.fork():
        libc.prctl(1, 9)
        time.sleep(120)
        os._exit(0)
"""

RESTLESS = """
for _ in range(300):
    if not os.fork():
        os._exit(0)
if not os.fork():
    os.setuid(65534)
    libc.prctl(1, 9)
    time.sleep(120)
    os._exit(0)
if not os.fork():
    libc.prctl(1, 9)
    while True:
        if not os.fork():
            os.setsid()
            if not os.fork():
                time.sleep(0.2)
            os._exit(0)
        os.wait()
"""
"""Three hundred zombies, a child of another user, and one that makes daemon after daemon."""

EXECS = ("os.execv('/bin/sh', ['sh', '-c', 'sleep 0.05; exec \"$@\"', 'sh', sys.executable, '-S', '-c', "
         "'import os, sys, time; time.sleep(0.05); os.execv(\"/bin/sh\", sys.argv[1:] + sys.orig_argv)', "
         "'sh', '-c', 'sleep 0.05; exec \"$@\"', 'sh'])")

GLUTTON = """
import mmap, threading
threading.stack_size(65536)
for _ in range(5000):
    threading.Thread(target=time.sleep, args=(300,), daemon=True).start()
mappings = [mmap.mmap(-1, 4096) for _ in range(20000)]
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(2000)]
"""

HALF_DEAD = "threading.Thread(target=time.sleep, args=(120,), daemon=True).start(); libc.syscall({}, 0)"
"""The main thread alone has ended: exit(2), not exit_group(2)."""

FORGED = """
import gc, random, threading
gc.disable()
def forge():
    while True:
        ctypes.memmove({at}, random.randbytes({size}), {size})
        time.sleep(0.001)
threading.Thread(target=forge, daemon=True).start()
"""


class Beside:
    """A sidecar on a hostile target, `bad`, and one that behaves, `good`. Lives until its test ends."""

    def __init__(self, sidecar: Sidecar, good: Program, handled: Path) -> None:
        self.sidecar = sidecar
        self._good = good
        self._handled = handled

    def some_ticks(self, count: int = MORE_TICKS) -> None:
        """Let the desk look a few times."""
        before = self.sidecar.value("rag_sidecar_ticks_total") or 0
        wait_until(lambda: (self.sidecar.value("rag_sidecar_ticks_total") or 0) >= before + count, 60, "some ticks")

    def bad(self, metric: str, *parts: str) -> float | None:
        """What is told of the hostile target."""
        return self.sidecar.value(metric, 'target="bad"', *parts)

    def check(self, up: int = 1) -> None:
        """The other one is cleaned up when it crosses its line; pages are whole and small; nobody died or grew."""
        self.some_ticks()
        assert self.sidecar.actions() == []
        assert self.bad("rag_target_up") == up
        self._good.tell("grow 200")
        wait_until(lambda: self._handled.exists() and self._handled.read_text(), 20, "the cleanup of the other target")
        outcome = self.sidecar.outcome()
        page = self.sidecar.get("/metrics")
        checked = subprocess.run([promtool(), "check", "metrics"], input=page, text=True, capture_output=True,
                                 check=False)

        assert (outcome["target"], outcome["outcome"]) == ("good", "effective")
        assert checked.returncode == 0, checked.stderr + checked.stdout
        assert sum('target="bad"' in line for line in page.splitlines()) < MOST_SERIES
        assert self.sidecar.value("rag_sidecar_desk_starts_total") == 1
        assert anon(self.sidecar.process.pid) < MOST_GUARD_BYTES
        assert anon(self.sidecar.child("desk")) < MOST_DESK_BYTES


def anon(pid: int) -> int:
    """Anonymous memory of a process."""
    return anon_bytes(Path(f"/proc/{pid}/status").read_bytes())


@pytest.fixture
def bad() -> Iterator[Obedient]:
    """A Python that does what it is told, however hostile."""
    made = Obedient()
    made.do("import ctypes, os, sys, threading, time; libc = ctypes.CDLL(None)")
    yield made
    made.process.kill()
    made.end()


@pytest.fixture
def beside(spawn: Callable[..., Program], tmp_path: Path) -> Iterator[Callable[..., Beside]]:
    """Start the sidecar: `beside(pid)`; what the configuration says of the hostile target besides comes by name."""
    handled = tmp_path / "handled"
    good = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(handled))
    running = []

    def start(pid: int, **more: Any) -> Beside:
        port = free_port()
        targets = [{"name": "bad", "match": {"pid": pid}, "memory": {"main": "8GiB", "critical": "9GiB"}, **more},
                   {"name": "good", "match": {"cmdline": str(handled)}, "memory": LINES,
                    "cleanup": [{"signal": "SIGUSR1"}]}]
        running.append(running_sidecar(tmp_path, file=config(port, tmp_path, targets), port=port))
        made = Beside(running[-1].__enter__(), good, handled)
        wait_until(lambda: made.sidecar.value("rag_target_up", 'target="good"') == 1, 20, "the targets")
        return made

    yield start
    for each in running:
        each.__exit__(None, None, None)


def test_names_and_command_lines_are_only_bytes(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """Names that look like fields, newlines, no characters; a command line of megabytes, overwritten as it runs."""
    seen = beside(bad.process.pid)
    bad.do(LONG)
    bad.do("import ctypes, os, sys, time")
    assert len(Path(f"/proc/{bad.process.pid}/cmdline").read_bytes()) > MIB
    bad.do(f"exec({RENAMED!r})")

    seen.check()
    assert seen.bad("rag_process_threads") == 2


def test_herd_and_its_neighbour(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """Five thousand children: all are counted, some hundreds are summed up, some have series, and that is said."""
    seen = beside(bad.process.pid)
    bad.do(f"exec({HERD!r})")
    wait_until(lambda: seen.bad("rag_target_processes") == 5001, 60, "the herd")

    seen.check()
    assert seen.bad("rag_sidecar_attach_capability", "tree") == 0


def test_zombies_other_users_and_daemons_are_no_trouble(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """Children that have ended are no processes; one of another user is one; daemons come and go."""
    if os.geteuid():
        pytest.skip("needs root to become another user")
    seen = beside(bad.process.pid)
    bad.do(f"exec({RESTLESS!r})")

    seen.check()
    assert 3 <= (seen.bad("rag_target_processes") or 0) < 20


def test_program_after_program_in_one_process(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """Twenty times a second another program: it is up all the time."""
    seen = beside(bad.process.pid)
    bad.send(EXECS)
    for program in ("python", "sh", "python", "sh"):
        wait_until(lambda: program in os.readlink(f"/proc/{bad.process.pid}/exe"), 10, program)  # noqa: B023

    seen.check()
    assert bad.process.poll() is None


def test_threads_mappings_and_files_without_measure(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """Five thousand threads, twenty thousand mappings, two thousand open files: figures, and nothing more."""
    seen = beside(bad.process.pid)
    bad.do(f"exec({GLUTTON!r})")

    seen.check()
    assert seen.bad("rag_process_threads") == 5001
    assert (seen.bad("rag_process_open_fds") or 0) > 2000


def test_stopped_target_is_up(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """It cannot clean up, but it can be read."""
    seen = beside(bad.process.pid)
    bad.process.send_signal(signal.SIGSTOP)

    seen.check()
    assert seen.bad("rag_process_stopped") == 1


def test_target_whose_main_thread_has_ended_cannot_be_read(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """The kernel tells nothing of its memory any more, though its threads have some: that is not zero."""
    seen = beside(bad.process.pid)
    bad.send(HALF_DEAD.format({"x86_64": 60, "aarch64": 93}[os.uname().machine]))

    seen.check(up=0)
    assert seen.bad("rag_memory_used_bytes") is None
    assert seen.bad("rag_process_resident_memory_bytes") is None
    assert bad.process.poll() is None


def test_forged_collector_is_counted_and_left_out(bad: Obedient, beside: Callable[..., Beside]) -> None:
    """A process that writes garbage over the figures of its own garbage collector has none, but errors."""
    probe = GcProbe(bad.process.pid, SeriesOf(BASE))
    at, size = probe._gc + probe._state.stats, 72
    probe.close()
    seen = beside(bad.process.pid)
    bad.do(f"exec({FORGED.format(at=at, size=size)!r})")
    wait_until(lambda: seen.sidecar.value("rag_sidecar_collector_errors_total", 'collector="gc"'), 20, "an error")

    seen.check()
    assert seen.bad("rag_process_threads") == 2


@pytest.mark.parametrize("path", ["/memory", "/huge", "/loris", "/endless", "/garbage"])
def test_endpoint_that_lies_is_not_believed(
    spawn: Callable[..., Program], beside: Callable[..., Beside], path: str
) -> None:
    """No number, one beyond belief, 100 MB, a byte now and then: the process is read all the same."""
    program, seen = spawn("endpoint"), None
    for lie in ("NaN", "1e30", "-1", '"all of it"') if path == "/memory" else ("0",):
        told = f'{{"memory_mb": {lie}}}'.encode()
        urlopen(Request(f"{program.url}/memory", told, {"Content-Type": "application/json"}), timeout=10).close()
        seen = seen or beside(
            program.pid, endpoint={"url": program.url + path, "used": "memory_mb", "unit": "MiB", "every": "1s"},
            memory={"basis": "endpoint", "main": "8GiB", "critical": "9GiB"})
        seen.some_ticks()
        assert seen.bad("rag_memory_used_bytes") is None, lie

    assert seen
    seen.check()
    assert seen.bad("rag_memory_used_bytes") is None
    assert seen.bad("rag_process_threads")


def test_cgroup_that_vanishes_leaves_the_process(
    bad: Obedient, beside: Callable[..., Beside], group: Group
) -> None:
    """Moved out of its limited cgroup, which is removed: the process is watched on."""
    limited = group.below("vanishing", 512 * MIB)
    limited.take(bad.process.pid)
    seen = beside(bad.process.pid, memory={})
    seen.some_ticks()
    assert seen.bad("rag_cgroup_memory_limit_bytes") == 128 * MIB
    Group.take(group, bad.process.pid)
    limited.path.rmdir()

    seen.check()


def test_sidecar_that_comes_late_to_a_server_with_workers_raises_no_alarm(
    spawn: Callable[..., Program], tmp_path: Path
) -> None:
    """Five processes that share 120 MiB look like 600: neither desk nor guard believes that."""
    program = spawn("prefork", "with a handler")
    program.tell("grow 120")
    for _ in range(4):
        program.tell("fork")
    target = {"name": "rag", "match": {"pid": program.pid}, "cleanup": [{"signal": "SIGUSR1"}],
              "memory": {"main": "200MiB", "critical": "220MiB"}}
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) > 5, 20, "some ticks")
        assert sidecar.actions() == []
        assert sidecar.value("rag_target_processes") == 5
        assert (sidecar.value("rag_memory_used_bytes") or 0) < 160 * MIB

        program.tell("grow 120")
        assert sidecar.outcome()["outcome"] == "effective"


def test_shares_that_make_no_sense_change_nothing(
    spawn: Callable[..., Program], played: Callable[..., Played]
) -> None:
    """Whatever a desk says of what processes share: the guard says that it did not understand, and counts as before."""
    program = spawn("prefork", "with a handler")
    worker, guard = program.tell("fork"), played()
    guard.hello()
    guard.watch(program.pid)
    good: dict[str, Any] = {"target": "t", "used_bytes": None, "shares": [], "error_bytes": 0}
    start = identify(worker).start_time_ticks
    for wrong in (
        {"shares": 5}, {"shares": None}, {"shares": [[worker, start, 1]]}, {"shares": [[worker, start, "x", 0]]},
        {"shares": [[worker, start, 1 << 40, 0], [worker, start, -1, 0]]}, {"error_bytes": None}, {"used_bytes": "x"},
        {"shares": [[worker, start, 1 << 40, 0]] * 5000}, {"surprise": 1},
    ):
        guard.say_raw(json.dumps({"v": 1, "type": "told", **good, **wrong}).encode())
        assert guard.hear("misunderstood"), wrong
    guard.stand()
    program.tell(f"worker {worker} grow 100")

    assert guard.hear("crossed")
    assert guard.process.poll() is None
