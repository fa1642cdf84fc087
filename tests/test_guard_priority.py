"""The guard goes first where it may; what it starts runs as nice as the guard was started."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from servers import wait_until
from sidecars import running_sidecar

from sidecar.guard.endure import FIRST_BY

PROGRAM = ("import os, time; print('niceness', os.getpriority(os.PRIO_PROCESS, 0), flush=True); time.sleep(600)",)


def may_go_first() -> bool:
    """Whether a process of ours may be less nice than we are."""
    program = "import os; os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)"
    return not subprocess.run([sys.executable, "-c", program], stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.parametrize("nicer", [0, 5])
def test_only_the_guard_goes_first(tmp_path: Path, nicer: int) -> None:
    """Neither the desk nor the program that is guarded gets ahead of other programs because the guard does."""
    started_at = min(19, os.getpriority(os.PRIO_PROCESS, 0) + nicer)
    within = ("nice", "-n", str(nicer))
    with running_sidecar(tmp_path, "--", sys.executable, "-c", *PROGRAM, within=within) as sidecar:
        guard, desk = sidecar.process.pid, sidecar.child("desk")
        first = max(-20, started_at - FIRST_BY) if may_go_first() else started_at
        assert os.getpriority(os.PRIO_PROCESS, guard) == first
        assert os.getpriority(os.PRIO_PROCESS, desk) == started_at
        said = wait_until(lambda: [line for line in sidecar.log.read_text().splitlines() if "niceness" in line], 20,
                          "the program to say how nice it is")
        assert said == [f"niceness {started_at}"]
