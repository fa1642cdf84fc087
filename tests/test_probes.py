"""What is read of a target: real programs moved by known amounts, real memory cgroups, captured trees for the rest."""

import errno
import gc
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Target as Program
from conftest import read_line, wait_until

from sidecar.guard.wire import Basis
from sidecar.model import Labels, Sample, Target
from sidecar.probes import cgroup, sampler
from sidecar.probes.cgroup import CgroupProbe, parse_limit, paths
from sidecar.probes.process import ProcessProbe
from sidecar.probes.sampler import AGAIN_SECONDS, Sampler
from sidecar.probes.tree import TreeProbe
from sidecar.procfs import CLOCK_TICKS, PAGE_BYTES, Identity, identify

TREES = Path(__file__).parent / "proc"
MIB = 1 << 20
V1 = Path("/sys/fs/cgroup/memory")
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


def alone(watched: Target, proc: str = "/proc") -> TreeProbe:
    """The probe of a target without its descendants."""
    return TreeProbe(watched, None, time.monotonic, proc)


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


@pytest.fixture
def obedient() -> Iterator[Obedient]:
    """A Python that does as it is told."""
    made = Obedient()
    yield made
    made.end()


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


# The process


def test_memory_moves_by_what_a_program_takes_and_gives_back(spawn: Callable[..., Program]) -> None:
    """100 MiB more are 100 MiB more in every figure that means them, and the same less afterwards; the peak stays."""
    program = spawn("leaky")
    probe = ProcessProbe(target(program.pid))
    seen = []
    for command in ("grow 0", "grow 100", "drop"):
        program.tell(command)
        seen.append(values(probe.read(1.0)))
    before, grown, after = seen
    means = ["rag_process_resident_memory_bytes", "rag_process_virtual_memory_bytes", "rag_process_memory_bytes anon"]

    for name in means:
        assert grown[name] - before[name] == pytest.approx(100 * MIB, rel=0.03), name
        assert after[name] == pytest.approx(before[name], abs=3 * MIB), name
    assert after["rag_process_resident_memory_max_bytes"] >= 0.97 * grown[means[0]]
    assert grown["rag_process_memory_bytes shmem"] == before["rag_process_memory_bytes shmem"]
    assert grown["rag_process_page_faults_total minor"] - before["rag_process_page_faults_total minor"] > 10


def test_kinds_add_up_to_the_resident_size(spawn: Callable[..., Program]) -> None:
    """anon, file and shmem are all there is of RSS; swap stands beside them."""
    program = spawn("leaky")
    program.tell("grow 50")
    probe = alone(target(program.pid))
    found = values(probe.read(1.0))
    kinds = {kind: found[f"rag_process_memory_bytes {kind}"] for kind in ("anon", "file", "shmem", "swap")}

    assert kinds["anon"] + kinds["file"] + kinds["shmem"] == pytest.approx(
        found["rag_process_resident_memory_bytes"], abs=MIB)
    assert probe.used["rss"] == found["rag_process_resident_memory_bytes"]
    assert probe.used["anon"] == kinds["anon"] + kinds["shmem"] + kinds["swap"]


def test_shared_memory_counts_as_used(obedient: Obedient) -> None:
    """What a process writes to /dev/shm is shmem, no anon, and nobody else can give it back."""
    probe = alone(target(obedient.process.pid))
    before, used = values(probe.read(1.0)), probe.used["anon"]
    obedient.do("import mmap, os, tempfile; f = tempfile.TemporaryFile(dir='/dev/shm'); os.ftruncate(f.fileno(), 64 << "
                "20); m = mmap.mmap(f.fileno(), 64 << 20); m.write(b'x' * (64 << 20))")
    after = values(probe.read(2.0))
    moved = {kind: after[f"rag_process_memory_bytes {kind}"] - before[f"rag_process_memory_bytes {kind}"]
             for kind in ("anon", "shmem")}

    assert moved["shmem"] == pytest.approx(64 * MIB, rel=0.02)
    assert moved["anon"] < 8 * MIB
    assert probe.used["anon"] - used == pytest.approx(64 * MIB, rel=0.15)


def test_mapped_file_is_not_used_memory(obedient: Obedient, tmp_path: Path) -> None:
    """An index that is scanned through mmap raises RSS, and is none of what would have to be cleaned up."""
    (tmp_path / "index").write_bytes(b"x" * 64 * MIB)
    probe = alone(target(obedient.process.pid))
    before = {**values(probe.read(1.0)), **probe.used}
    obedient.do(f"import mmap; f = open({str(tmp_path / 'index')!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=1); "
                "[m[i] for i in range(0, len(m), 4096)]")
    after = {**values(probe.read(2.0)), **probe.used}

    assert after["rss"] - before["rss"] > 60 * MIB
    assert after["rag_process_memory_bytes file"] - before["rag_process_memory_bytes file"] > 60 * MIB
    assert after["anon"] - before["anon"] < 4 * MIB


def test_threads_descriptors_and_processor_time(obedient: Obedient) -> None:
    """Two threads, three files and some work more are seen as just that."""
    probe = ProcessProbe(target(obedient.process.pid))
    before = values(probe.read(1.0))
    obedient.do("import threading, time; e = threading.Event(); "
                "[threading.Thread(target=e.wait, daemon=True).start() for _ in range(2)]")
    obedient.do("files = [open('/dev/null') for _ in range(3)]")
    obedient.do("end = time.process_time() + 0.1")
    obedient.do("while time.process_time() < end: pass")
    after = values(probe.read(2.0))

    assert after["rag_process_threads"] - before["rag_process_threads"] == 2
    assert after["rag_process_open_fds"] - before["rag_process_open_fds"] == 3
    assert after["rag_process_open_fds"] == len(os.listdir(f"/proc/{obedient.process.pid}/fd"))
    cpu = [sum(found[f"rag_process_cpu_seconds_total {mode}"] for mode in ("user", "system"))
           for found in (before, after)]
    assert cpu[1] - cpu[0] >= 0.08


def test_bytes_written_to_storage(obedient: Obedient, tmp_path: Path) -> None:
    """Four MiB written to a file are four MiB of io."""
    probe = ProcessProbe(target(obedient.process.pid))
    if "rag_process_io_bytes_total write" not in values(probe.read(1.0)):
        pytest.skip(f"io cannot be read here: {probe.missing}")
    obedient.do(f"import os; f = open({str(tmp_path / 'file')!r}, 'wb'); f.write(b'x' * (4 << 20)); f.flush(); "
                "os.fsync(f.fileno())")
    written = values(probe.read(2.0))["rag_process_io_bytes_total write"]
    if not written:
        pytest.skip("the temporary folder is not on storage")

    assert written == pytest.approx(4 * MIB, rel=0.05)


def test_start_time_is_when_it_started(obedient: Obedient) -> None:
    """In Unix time, as precise as the kernel's second of boot."""
    found = values(ProcessProbe(target(obedient.process.pid)).read(1.0))

    assert found["rag_process_start_time_seconds"] == pytest.approx(time.time(), abs=30)


@pytest.mark.parametrize("reaped", [False, True])
def test_process_that_has_ended_raises(obedient: Obedient, reaped: bool) -> None:
    """Also while its parent has not taken note: a zombie has no memory, and that is not zero bytes in use."""
    probe = ProcessProbe(target(obedient.process.pid))
    obedient.process.kill()
    if reaped:
        obedient.process.wait()
    else:
        os.waitid(os.P_PID, obedient.process.pid, os.WEXITED | os.WNOWAIT)

    with pytest.raises(ProcessLookupError) as raised:
        probe.read(1.0)
    assert raised.value.errno == errno.ESRCH


def test_probe_gives_its_descriptors_back(obedient: Obedient, tmp_path: Path) -> None:
    """Closed by hand, or forgotten, or failed half-way: nothing stays open."""
    shutil.copytree(TREES / "odd" / "proc" / "42", tmp_path / "42")
    (tmp_path / "42" / "stat").unlink()
    gc.collect()  # what earlier tests have left behind
    before = os.listdir("/proc/self/fd")
    probe = ProcessProbe(target(obedient.process.pid))
    probe.read(1.0)
    assert len(os.listdir("/proc/self/fd")) > len(before)
    probe.close()
    forgotten = ProcessProbe(target(obedient.process.pid))
    del forgotten
    with pytest.raises(FileNotFoundError):
        ProcessProbe(pictured(), str(tmp_path))
    gc.collect()  # the exception held what was open already

    assert os.listdir("/proc/self/fd") == before


def test_another_users_process_is_read_as_far_as_that_is_allowed(spawn: Callable[..., Program]) -> None:
    """Memory is open to all; io and descriptors are not, and are then missing and named, never zero."""
    if os.geteuid() and os.stat("/proc/1").st_uid == os.geteuid():
        pytest.skip("every process here is of this user")
    program = spawn("leaky")
    program.tell("grow 20")
    other = target(program.pid if os.geteuid() == 0 else 1)

    def look() -> dict[str, float]:
        return values(Sampler(OWN, time.monotonic).read([other], 1.0).samples)

    found = as_nobody(look)

    assert found["rag_target_up"] == 1
    if os.geteuid() == 0:
        assert found["rag_process_memory_bytes anon"] > 20 * MIB
    assert not [name for name in found if name.startswith(("rag_process_io", "rag_process_open_fds"))]
    assert {name.split()[-1]: value for name, value in found.items() if "capability" in name} == {
        "anon": 1, "fd": 0, "io": 0, "pss": 0, "tree": 1, "cgroup": found["rag_sidecar_attach_capability cgroup"]}


def test_hostile_name_moves_no_figure() -> None:
    """`) R 1 (` and a newline in a process's name, as captured: the fields are those behind the last bracket."""
    found = values(ProcessProbe(pictured(), str(TREES / "odd" / "proc")).read(1.0))

    assert found["rag_process_threads"] == 1
    assert found["rag_process_resident_memory_bytes"] == 2301 * PAGE_BYTES
    assert [found[f"rag_process_page_faults_total {kind}"] for kind in ("minor", "major")] == [916, 3]
    assert [found[f"rag_process_cpu_seconds_total {mode}"] * CLOCK_TICKS for mode in ("user", "system")] == [150, 25]
    assert found["rag_process_start_time_seconds"] == pytest.approx(1700000000 + 627893 / CLOCK_TICKS)
    assert found["rag_process_memory_bytes swap"] == 0


def test_captured_zombie_has_ended() -> None:
    """Its files can still be read, and say so."""
    with pytest.raises(ProcessLookupError):
        ProcessProbe(pictured(43), str(TREES / "odd" / "proc")).read(1.0)


def test_kernel_without_the_kinds_of_memory_leaves_them_out() -> None:
    """gVisor tells neither anon nor io: RSS is there, the rest is missing by name, and nothing is zero."""
    probe = alone(pictured(44, 5000), str(TREES / "odd" / "proc"))
    found = values(probe.read(1.0))

    assert found["rag_process_resident_memory_bytes"] == 25600 * PAGE_BYTES
    assert probe.used == {"rss": 25600 * PAGE_BYTES, "pss": 25600 * PAGE_BYTES}
    assert set(probe.missing) == {"anon", "io", "pss"}
    assert not [name for name in found if name.startswith(("rag_process_memory_bytes", "rag_process_io"))]


def test_user_in_many_groups_hides_no_memory() -> None:
    """2000 groups fill the first pages of the status file; memory stands behind them."""
    probe = alone(pictured(45), str(TREES / "odd" / "proc"))

    assert values(probe.read(1.0))["rag_process_memory_bytes anon"] > 0
    assert probe.used["anon"] > 0


# The memory cgroup, version 1, for real


class Group:
    """A memory cgroup of version 1. Lives until its test ends."""

    def __init__(self, path: Path, limit_bytes: int | None = None) -> None:
        self.path = path
        path.mkdir()
        if limit_bytes:
            self.limit(limit_bytes)

    def limit(self, limit_bytes: int) -> None:
        """Set its limit."""
        (self.path / "memory.limit_in_bytes").write_text(str(limit_bytes))

    def take(self, pid: int) -> None:
        """Move a process into it; what it has already is left to where it was."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def below(self, name: str, limit_bytes: int | None = None) -> "Group":
        """A cgroup within it."""
        return Group(self.path / name, limit_bytes)


@pytest.fixture
def group() -> Iterator[Group]:
    """A memory cgroup limited to 128 MiB, removed with everything below when the test ends."""
    if os.geteuid() or not (V1 / "memory.limit_in_bytes").exists():
        pytest.skip("needs root and a memory hierarchy of cgroup v1")
    path = V1 / f"rag-sidecar-test-{os.getpid()}"
    try:
        made = Group(path, 128 * MIB)
    except OSError as error:
        pytest.skip(f"no cgroup can be made: {error}")
    yield made
    for folder in (*sorted(path.glob("**/"), reverse=True),):
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), 5, "the end of its processes")  # noqa: B023
        folder.rmdir()


def test_target_in_a_limited_cgroup(group: Group, obedient: Obedient) -> None:
    """Usage moves by what was taken, the limit is its limit, and the guard is told where to read the same."""
    group.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    before = values(probe.read(1.0))
    obedient.do("x = b'x' * (60 << 20)")
    after = values(probe.read(2.0))
    usage = "rag_cgroup_memory_usage_bytes"

    assert after[usage] - before[usage] == pytest.approx(60 * MIB, rel=0.05)
    assert after["rag_cgroup_memory_limit_bytes max"] == probe.limit_bytes == 128 * MIB
    assert probe.basis == Basis("cgroup", f"{group.path}/memory.usage_in_bytes", f"{group.path}/memory.stat")
    assert probe.used == {"cgroup": after["rag_cgroup_memory_unreclaimable_bytes"]}


def test_page_cache_is_usage_and_can_be_dropped(group: Group, obedient: Obedient, tmp_path: Path) -> None:
    """Reading a big file fills the cgroup to the brim, and is nothing that a cleanup would be needed for."""
    group.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    before = values(probe.read(1.0))
    obedient.do(f"import os; f = open({str(tmp_path / 'file')!r}, 'w+b'); "
                "[f.write(b'x' * (1 << 20)) for _ in range(60)]; f.flush(); os.fsync(f.fileno()); f.seek(0)")
    obedient.do("while f.read(1 << 20): pass")
    after = values(probe.read(2.0))
    moved = {name: after[f"rag_cgroup_memory_{name}_bytes"] - before[f"rag_cgroup_memory_{name}_bytes"]
             for name in ("usage", "unreclaimable", "working_set")}
    if "shmem" in subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout:
        pytest.skip("the temporary folder is memory, not storage")

    assert moved["usage"] > 55 * MIB
    assert moved["unreclaimable"] < 10 * MIB
    assert moved["unreclaimable"] <= moved["working_set"] <= moved["usage"]


def test_tightest_limit_up_the_tree_binds(group: Group, obedient: Obedient) -> None:
    """A loose limit below a tight one is none; usage is read where the limit stands."""
    inner = group.below("inner", 1024 * MIB)
    inner.take(obedient.process.pid)
    obedient.do("x = b'x' * (20 << 20)")
    loose = CgroupProbe(target(obedient.process.pid))
    inner.limit(64 * MIB)
    tight = CgroupProbe(target(obedient.process.pid))

    assert (loose.limit_bytes, loose.basis.usage) == (128 * MIB, f"{group.path}/memory.usage_in_bytes")
    assert (tight.limit_bytes, tight.basis.usage) == (64 * MIB, f"{group.path}/inner/memory.usage_in_bytes")
    assert values(loose.read(1.0))["rag_cgroup_memory_usage_bytes"] > 20 * MIB


def test_kill_by_the_kernel_is_counted(group: Group, obedient: Obedient) -> None:
    """Also where the limit of a cgroup above was what killed: v1 counts the death where the process lived."""
    inner = group.below("inner")
    inner.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    assert probe.limit_bytes == 128 * MIB
    assert values(probe.read(1.0))["rag_cgroup_memory_events_total oom_kill"] == 0
    obedient.send("x = b'x' * (300 << 20)")
    assert obedient.process.wait(20) == -signal.SIGKILL

    assert values(probe.read(2.0))["rag_cgroup_memory_events_total oom_kill"] == 1


def test_new_limit_and_new_cgroup_are_seen_within_half_a_minute(group: Group, obedient: Obedient) -> None:
    """`docker update --memory`, or a process that is moved: what binds is looked for again and again."""
    group.take(obedient.process.pid)
    rag, probes = target(obedient.process.pid), Sampler(OWN, time.monotonic)

    def limit_at(at: float) -> int | None:
        return probes.read([rag], at).limits["rag"]

    assert limit_at(1000.0) == 128 * MIB
    group.limit(96 * MIB)
    assert limit_at(1000.0 + AGAIN_SECONDS - 1) == 128 * MIB
    assert limit_at(1000.0 + AGAIN_SECONDS) == 96 * MIB
    group.below("inner", 32 * MIB).take(obedient.process.pid)
    assert limit_at(1000.0 + 2 * AGAIN_SECONDS) == 32 * MIB
    group.limit(16 * MIB)
    assert limit_at(900.0) == 16 * MIB  # the clock was set back


def test_cgroup_that_vanishes_fails_and_is_found_again(group: Group, obedient: Obedient) -> None:
    """The target was moved and its old cgroup removed: no reading, a capability 0, a count, then the new one."""
    inner = group.below("inner", 64 * MIB)
    inner.take(obedient.process.pid)
    rag, probes = target(obedient.process.pid), Sampler(OWN, time.monotonic)
    probes.read([rag], 1.0)
    group.take(obedient.process.pid)
    inner.path.rmdir()
    lost = probes.read([rag], 2.0)
    found = probes.read([rag], 1.0 + AGAIN_SECONDS)

    assert "cgroup" not in lost.used["rag"]
    assert lost.limits["rag"] == 64 * MIB  # a limit that cannot be read is not "no limit"
    assert values(lost.samples)["rag_sidecar_attach_capability cgroup"] == 0
    assert values(lost.samples)["rag_sidecar_collector_errors_total cgroup enodev"] == 1
    assert found.limits["rag"] == 128 * MIB
    assert values(found.samples)["rag_sidecar_attach_capability cgroup"] == 1


# The memory cgroup as captured


def pictured_cgroup(tree: str, pid: int = 42, folder: Path = TREES) -> CgroupProbe:
    """The cgroup of a captured process."""
    return CgroupProbe(pictured(pid), str(folder / tree / "proc"), str(folder / tree / "sys"))


@pytest.mark.parametrize(("tree", "pid", "limit_mib", "usage_mib", "usage_file"), [
    ("v2", 42, 2048, 1500, "sys/fs/cgroup/system.slice/memory.current"),  # the slice binds, not the service
    ("v2", 43, None, 1024, "sys/fs/cgroup/user.slice/session-1.scope/memory.current"),
    ("v2", 44, 1536, 1024, "sys/fs/cgroup/user.slice/a..b/memory.current"),
    ("v2-container", 42, 1536, 1024, "proc/42/root/sys/fs/cgroup/memory.current"),
    ("hybrid", 42, 1536, 1024, "sys/fs/cgroup/memory/docker/0123abcd/memory.usage_in_bytes"),
    ("hybrid", 43, 256, 100, "proc/43/root/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ("unified", 42, 1536, 1024, "sys/fs/cgroup/unified/rag/memory.current"),
])
def test_captured_cgroup_is_found(tree: str, pid: int, limit_mib: int | None, usage_mib: int, usage_file: str) -> None:
    """The target's own cgroup in every layout, never ours, and the file in which usage stands."""
    probe = pictured_cgroup(tree, pid)
    found = values(probe.read(1.0))

    assert probe.limit_bytes == (limit_mib * MIB if limit_mib else None)
    assert ("rag_cgroup_memory_limit_bytes max" in found) == (limit_mib is not None)
    assert found["rag_cgroup_memory_usage_bytes"] == usage_mib * MIB
    assert probe.basis.usage == str(TREES / tree / usage_file)


def test_what_the_kernel_cannot_take_back() -> None:
    """Usage less active and inactive file pages; the working set less the inactive ones only."""
    for tree in ("v2-container", "hybrid"):
        found = values(pictured_cgroup(tree).read(1.0))
        assert found["rag_cgroup_memory_unreclaimable_bytes"] == 1024 * MIB - 240 * MIB - 50 * MIB
        assert found["rag_cgroup_memory_working_set_bytes"] == 1024 * MIB - 240 * MIB


def test_events_of_both_versions() -> None:
    """v2 tells everything of the cgroup that binds; v1 tells the kills, and its settings are no events."""
    events = [{name.split()[-1]: value for name, value in values(pictured_cgroup(tree).read(1.0)).items()
               if "events" in name} for tree in ("v2", "hybrid")]

    assert events == [{"low": 0, "high": 0, "max": 41, "oom": 3, "oom_kill": 2}, {"oom_kill": 1}]


def test_cgroup_that_is_gone_is_not_found() -> None:
    """Its path says `(deleted)`, and no other one is taken for it."""
    with pytest.raises(FileNotFoundError, match="no memory cgroup"):
        pictured_cgroup("v2", 45)


def test_unreadable_limit_is_not_no_limit() -> None:
    """A limit that may not be read makes the probe fail with the reason, and the other readings go on."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TREES, folder, dirs_exist_ok=True)
        os.chmod(folder, 0o755)  # noqa: S103 - the other user shall come as far as the file in question
        shutil.copytree(Path(folder) / "odd" / "proc", Path(folder) / "v2" / "proc", dirs_exist_ok=True)
        (Path(folder) / "v2/sys/fs/cgroup/system.slice/memory.max").chmod(0)

        def look() -> dict[str, float]:
            probes = Sampler(OWN, time.monotonic, proc=f"{folder}/v2/proc", sys=f"{folder}/v2/sys")
            found = probes.read([pictured()], 1.0)
            assert "cgroup" not in found.used["rag"]
            return values(found.samples)

        found = as_nobody(look)

    assert found["rag_target_up"] == 1
    assert found["rag_sidecar_attach_capability cgroup"] == 0
    assert found["rag_sidecar_collector_errors_total cgroup eacces"] == 1
    assert not [name for name in found if name.startswith("rag_cgroup")]


def test_root_of_another_user_is_named_as_the_reason() -> None:
    """A container that only the target's own root shows, and that root may not be entered: permission is why."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(TREES / "v2-container", folder, dirs_exist_ok=True)
        os.chmod(folder, 0o755)  # noqa: S103 - the other user shall come as far as the file in question
        (Path(folder) / "proc/42/root").chmod(0)

        def look() -> str:
            try:
                CgroupProbe(pictured(), f"{folder}/proc", f"{folder}/sys")
            except OSError as error:
                return type(error).__name__
            return "found"

        found = as_nobody(look)
        (Path(folder) / "proc/42/root").chmod(0o755)

    assert found == "PermissionError"


@pytest.mark.parametrize(("text", "limit"), [
    (b"max\n", None), (b"9223372036854771712\n", None), (b"0\n", 0), (b"1610612736\n", 1610612736), (b"", None),
    (b"-1\n", None), (b"garbage", None)])
def test_limits(text: bytes, limit: int | None) -> None:
    """Both versions' way to say none, and a limit of nothing is one."""
    assert parse_limit(text) == limit


def test_paths_of_memory_hierarchies() -> None:
    """v1 first, where the controller is; colons in names and lines of other controllers do no harm."""
    text = "5:cpu,memory:/a:b\n3:memoryless:/x\n2:name=memory:/y\n0::/c:d\nnonsense\n"

    assert list(paths(text)) == [(cgroup.V1, "/a:b"), (cgroup.V2, "/c:d")]


# The sampler


def test_targets_do_not_hurt_each_other(spawn: Callable[..., Program], obedient: Obedient) -> None:
    """One that is gone has `up` 0 and nothing else; the other one is read as ever; the failure is counted."""
    alive, gone = target(spawn("leaky").pid), target(obedient.process.pid, "gone")
    probes = Sampler(OWN, time.monotonic)
    probes.read([gone, alive], 1.0)
    obedient.end()
    found = probes.read([gone, alive], 2.0)
    of_gone = [sample for sample in found.samples if sample.labels.get("target") == "gone"]

    assert values(of_gone) == {"rag_target_up": 0}
    assert set(found.used) == set(found.limits) == {"rag"}
    assert {"rag_target_up": 1.0}.items() <= values([s for s in found.samples if s not in of_gone]).items()
    assert values([s for s in found.samples if s not in of_gone])[
        "rag_sidecar_collector_errors_total process esrch"] == 1
    assert (probes.attached("gone"), probes.attached("rag") is None) == (None, False)


def test_target_without_a_process_is_down() -> None:
    """Not there yet, or already gone: `up` is 0, and that is no error."""
    found = Sampler(OWN, time.monotonic).read([Target("rag", BASE, None)], 1.0)

    assert values(found.samples) == {"rag_target_up": 0}
    assert (found.used, found.limits) == ({}, {})


def test_garbage_is_a_failure_of_the_probe(tmp_path: Path) -> None:
    """A file that is not what it should be is counted as such, round after round."""
    shutil.copytree(TREES / "odd" / "proc", tmp_path, dirs_exist_ok=True)
    (tmp_path / "42/statm").write_text("nonsense\n")
    probes = Sampler(OWN, time.monotonic, proc=str(tmp_path))
    probes.read([pictured()], 1.0)
    found = values(probes.read([pictured()], 2.0).samples)

    assert found == {"rag_target_up": 0, "rag_sidecar_collector_errors_total process parse": 2}


def test_new_process_of_a_target_is_read_from_then_on(spawn: Callable[..., Program]) -> None:
    """Another identity under the same name: its own figures, with its own pid in the one series that has it."""
    first, second = spawn("leaky"), spawn("leaky")
    second.tell("grow 40")
    probes = Sampler(OWN, time.monotonic)
    rounds = [probes.read([target(program.pid)], 1.0) for program in (first, second)]
    infos = [name for found in rounds for name in values(found.samples) if name.startswith("rag_target_info")]

    assert infos == [f"rag_target_info {first.pid}", f"rag_target_info {second.pid}"]
    assert rounds[1].used["rag"]["anon"] - rounds[0].used["rag"]["anon"] > 38 * MIB


def test_samples_are_those_that_are_declared(spawn: Callable[..., Program]) -> None:
    """Every sample belongs to a declared metric and carries its target's labels; collectors say how long they took."""
    timer = iter(range(100))
    found = Sampler(OWN, lambda: float(next(timer))).read([target(spawn("leaky").pid)], 7.0)
    own = [sample for sample in found.samples if sample.labels.metric.startswith("rag_sidecar_collector")]

    assert {sample.labels.metric for sample in found.samples} <= {metric.name for metric in sampler.METRICS}
    assert all(sample.at == 7.0 for sample in found.samples)
    assert all(BASE.items() <= sample.labels.items() for sample in found.samples if sample not in own)
    assert values(own)["rag_sidecar_collector_duration_seconds process"] == 1
