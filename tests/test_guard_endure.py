"""The guard endures want of memory, where it may; what it starts does not have that from it."""

import gc
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target, wait_until
from guarding import Hands
from sidecars import running_sidecar

from sidecar.guard.endure import LAST_TO_GO, TIDY_SECONDS, Garbage, may_lock
from sidecar.procfs import status_field

CAP_SYS_RESOURCE = 24
PROGRAM = """
import time
locked = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmLck"))
print("score", open("/proc/self/oom_score_adj").read().strip(), "locked", locked, flush=True)
time.sleep(600)
"""
STRANGER = """
import os, sys
os.setgid(65534), os.setuid(65534)
from sidecar.guard import endure
endure.prepare()
print(open("/proc/self/oom_score_adj").read().strip(), endure.stay_in_memory(),
      os.getpriority(os.PRIO_PROCESS, 0) == endure.NICENESS_BEFORE)
"""


def status(pid: int, name: str) -> int:
    """A number of a process's status."""
    return status_field(Path(f"/proc/{pid}/status").read_bytes(), name.encode())


def score(pid: int | str) -> int:
    """How early the kernel kills it for want of memory."""
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def may_go_last() -> bool:
    """Whether a process of ours may lower its score."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def test_only_the_guard_endures(tmp_path: Path) -> None:
    """It is killed after all others and never swapped out, where it may ask for that; desk and program as ever."""
    before = score("self")
    with running_sidecar(tmp_path, "--", sys.executable, "-c", PROGRAM) as sidecar:
        guard, desk = sidecar.process.pid, sidecar.child("desk")
        assert score(guard) == (LAST_TO_GO if may_go_last() else before)
        assert (status(guard, "VmLck") > 0) == may_lock()
        assert (score(desk), status(desk, "VmLck")) == (before, 0)
        said = wait_until(lambda: [line for line in sidecar.log.read_text().splitlines() if "score" in line], 20,
                          "the program to say what it has")
        assert said == [f"score {before} locked 0"]
        shown = sidecar.series("rag_sidecar_guard_protection")
        assert shown['{kind="killed_last"}'] == may_go_last()
        assert shown['{kind="memory_locked"}'] == may_lock()


def test_what_the_guard_is_not_allowed_is_shown(tmp_path: Path) -> None:
    """Somebody who may nothing of it has a sidecar that works, and on whose page each of the three is 0."""
    if os.geteuid():
        pytest.skip("needs root, to start something without capabilities")
    bare = "prlimit", "--memlock=65536", "setpriv", "--bounding-set=-all", "--inh-caps=-all"
    with running_sidecar(tmp_path, "--", "sleep", "600", within=bare) as sidecar:
        shown = sidecar.series("rag_sidecar_guard_protection")
    assert shown == {f'{{kind="{kind}"}}': 0 for kind in ("killed_last", "memory_locked", "scheduled_first")}


def test_goes_on_where_nothing_is_allowed() -> None:
    """A user without capabilities has a guard that is as it was started: no error, no half of it."""
    if os.geteuid():
        pytest.skip("needs root, to become somebody who may nothing")
    limits = (1 << 16, 1 << 16)
    ran = subprocess.run([sys.executable, "-c", STRANGER], capture_output=True, text=True, check=True, timeout=60,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_MEMLOCK, limits))
    assert ran.stdout.split() == [str(score("self")), "1", "True"]


@pytest.fixture
def no_collections() -> Iterator[None]:
    """As in the guard's loop."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def test_deliveries_leave_no_cycles_behind(no_collections: None, spawn: Callable[..., Target]) -> None:
    """A guard that has not collected garbage for long has not grown for that: there was none to collect."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    silent = spawn("no_handler")
    hands = Hands()
    try:
        target.tell("grow 100")
        for _ in range(20):
            hands.events.clear()
            hands.watch(target)
            hands.deliver(line_bytes=1.0)
            hands.until("answered")
            hands.stand(line_bytes=None, dry_run=True)
            hands.until("crossed")
            hands.watchlist.unwatch("t")
            hands.watch(silent)
            hands.deliver(line_bytes=1.0)
            hands.until("spent")
            hands.watchlist.unwatch("t")
        hands.events.clear()
        left = gc.collect()
    finally:
        hands.close()
    assert left <= 20, f"{left} objects"


def test_garbage_is_collected_only_while_nothing_is_due() -> None:
    """Near a line the guard never stops to clean up its own memory; when all is quiet it does, at last."""
    garbage = Garbage(0.0)
    try:
        ring: list[object] = []
        ring.append(ring)
        del ring
        found: list[int] = []
        gc.callbacks.append(lambda phase, told: found.append(told["collected"]) if phase == "stop" else None)
        try:
            garbage.collect_if_idle(TIDY_SECONDS + 1, 0.001)
            garbage.collect_if_idle(TIDY_SECONDS - 1, 1.0)
            assert found == []
            garbage.collect_if_idle(TIDY_SECONDS + 2, 1.0)
            assert len(found) == 1
            assert found[0] >= 1
            garbage.collect_if_idle(TIDY_SECONDS + 3, 1.0)
            assert len(found) == 1
        finally:
            gc.callbacks.pop()
    finally:
        gc.enable()
        gc.unfreeze()
