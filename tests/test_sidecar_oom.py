"""The whole sidecar beside a process that the kernel kills for want of memory, in a container that goes at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import read_line, wait_until
from servers import end, free_port
from sidecars import config, running_sidecar

CGROUP = Path("/sys/fs/cgroup/memory")
PATIENT = "import sys; print('ready', flush=True); sys.stdin.readline(); x = bytearray(300 << 20)"
ENGINE = """
import os, sys
pid = os.fork()
if not pid:
    open(sys.argv[1] + "/cgroup.procs", "w").write(str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2]])
print(pid, flush=True)
os.waitpid(pid, 0)
import time; time.sleep(0.1)  # an engine reaps, tells, and removes the cgroup: 100 ms are quick
os.rmdir(sys.argv[1])
print("removed", flush=True)
sys.stdin.read()
"""


def test_kill_is_told_although_process_and_cgroup_are_gone_in_the_same_moment(tmp_path: Path) -> None:
    """The desk takes in what the cgroup has counted as soon as the guard has seen the end, not at the next tick."""
    if os.geteuid() or not (CGROUP / "memory.limit_in_bytes").exists():
        pytest.skip("needs root and a memory hierarchy of cgroup v1")
    folder = CGROUP / f"rag-sidecar-oom-{os.getpid()}"
    folder.mkdir()
    (folder / "memory.limit_in_bytes").write_text(str(128 << 20))
    engine = subprocess.Popen([sys.executable, "-c", ENGINE, str(folder), PATIENT], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, start_new_session=True)
    pid, port = int(read_line(engine, "the pid")), free_port()
    try:
        assert read_line(engine, "ready") == "ready"
        target = {"name": "rag", "match": {"pid": pid}}
        with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
            wait_until(lambda: sidecar.value("rag_cgroup_memory_events_total", "oom_kill") == 0, 20, "the first count")
            assert engine.stdin
            engine.stdin.write(b"\n")
            engine.stdin.flush()
            assert read_line(engine, "the removal") == "removed"
            wait_until(lambda: sidecar.value("rag_target_up") == 0, 20, "the target to be down")
            wait_until(lambda: sidecar.value("rag_cgroup_memory_events_total", "oom_kill") == 1, 5, "the kill")
            wait_until(lambda: ("RagOomKill", "firing") in sidecar.alerts(), 20, "the alert")
    finally:
        end(engine)
        if folder.exists():
            for left in (folder / "cgroup.procs").read_text().split():
                os.kill(int(left), signal.SIGKILL)
            wait_until(lambda: not (folder / "cgroup.procs").read_text(), 5, "the end of its processes")
            folder.rmdir()
