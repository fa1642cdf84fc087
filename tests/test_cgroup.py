"""The target's memory cgroup: real ones of version 1, where it may lie, what version 2 shows, hostile ones."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import wait_until
from probing import BASE, MIB, OWN, TREES, Obedient, as_nobody, pictured, target, values

from sidecar.guard.wire import Basis
from sidecar.probes import cgroup, host, sampler
from sidecar.probes.cgroup import CgroupProbe
from sidecar.probes.cgroup_limits import parse_limit
from sidecar.probes.cgroup_paths import MOST_LEVELS, MOST_TABLE_BYTES, Mount, covering, parse_mounts, paths
from sidecar.probes.sampler import Sampler

V1 = Path("/sys/fs/cgroup/memory")
V2 = Path("/sys/fs/cgroup/unified")
GIB = 1 << 30


@pytest.fixture
def obedient() -> Iterator[Obedient]:
    """A Python that does as it is told."""
    made = Obedient()
    yield made
    made.end()


# Version 1, for real


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


def removed(path: Path) -> None:
    """End what runs in a cgroup and those below it, and remove them."""
    for folder in sorted(path.glob("**/"), reverse=True):
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not (folder / "cgroup.procs").read_text(), 5, "the end of its processes")  # noqa: B023
        folder.rmdir()


@pytest.fixture
def group() -> Iterator[Group]:
    """A memory cgroup limited to 128 MiB, removed with everything below when the test ends."""
    if os.geteuid() or not (V1 / "memory.limit_in_bytes").exists() or not os.access(V1, os.W_OK):
        pytest.skip("needs root and a memory hierarchy of cgroup v1 that can be written to")
    path = V1 / f"rag-sidecar-test-{os.getpid()}"
    yield Group(path, 128 * MIB)
    removed(path)


def test_target_in_a_limited_cgroup(group: Group, obedient: Obedient) -> None:
    """Usage moves by what was taken, the limit is its limit, and the guard is told where to read the same."""
    group.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    before = values(probe.read(1.0))
    obedient.do("x = b'x' * (60 << 20)")
    after = values(probe.read(2.0))
    usage, anon = "rag_cgroup_memory_usage_bytes", "rag_cgroup_memory_bytes anon"

    assert after[usage] - before[usage] == pytest.approx(60 * MIB, rel=0.05)
    assert after[anon] - before[anon] == pytest.approx(60 * MIB, rel=0.05)
    assert after["rag_cgroup_memory_peak_bytes"] >= after[usage] - MIB
    assert after["rag_cgroup_memory_limit_bytes max"] == probe.limit_bytes == 128 * MIB
    assert after["rag_memory_headroom_bytes cgroup"] == 128 * MIB - after["rag_cgroup_memory_unreclaimable_bytes"]
    assert probe.basis == Basis("cgroup", f"{group.path}/memory.usage_in_bytes", f"{group.path}/memory.stat")
    assert probe.used == {"cgroup": after["rag_cgroup_memory_unreclaimable_bytes"]}
    assert after["rag_cgroup_info 1"] == 1


def test_page_cache_fills_the_limit_without_danger(group: Group, obedient: Obedient, tmp_path: Path) -> None:
    """Reading more than the limit fills the cgroup to the brim, and is nothing that a cleanup would be needed for."""
    if "tmpfs" in subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout:
        pytest.skip("the temporary folder is memory, not storage")
    group.limit(64 * MIB)
    group.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    before = values(probe.read(1.0))
    obedient.do(f"import os; f = open({str(tmp_path / 'file')!r}, 'w+b'); "
                "[f.write(b'x' * (1 << 20)) for _ in range(100)]; f.flush(); os.fsync(f.fileno()); f.seek(0)")
    obedient.do("while f.read(1 << 20): pass")
    after = values(probe.read(2.0))

    assert after["rag_cgroup_memory_usage_bytes"] > 60 * MIB
    assert after["rag_cgroup_memory_events_total max"] > before["rag_cgroup_memory_events_total max"]
    assert after["rag_cgroup_memory_events_total oom_kill"] == 0
    assert after["rag_cgroup_memory_unreclaimable_bytes"] - before["rag_cgroup_memory_unreclaimable_bytes"] < 10 * MIB
    assert after["rag_cgroup_memory_unreclaimable_bytes"] <= after["rag_cgroup_memory_working_set_bytes"]
    assert after["rag_memory_headroom_bytes cgroup"] > 40 * MIB
    cached = [after[f"rag_cgroup_memory_bytes {kind}"] for kind in ("active_file", "inactive_file")]
    assert sum(cached) == pytest.approx(after["rag_cgroup_memory_bytes file"], abs=2 * MIB)


def test_shared_memory_cannot_be_dropped(group: Group, obedient: Obedient) -> None:
    """What is written to /dev/shm counts to the limit, whether or not anybody maps it."""
    group.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    before = values(probe.read(1.0))
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        obedient.do(f"f = open({file.name!r}, 'wb'); f.write(b'x' * (40 << 20)); f.close()")
        after = values(probe.read(2.0))
    moved = {name: after[name] - before[name] for name in after}

    for name in ("rag_cgroup_memory_bytes shmem", "rag_cgroup_memory_unreclaimable_bytes",
                 "rag_cgroup_memory_bytes file"):
        assert moved[name] == pytest.approx(40 * MIB, rel=0.1), name
    assert moved["rag_cgroup_memory_bytes anon"] < 2 * MIB
    assert abs(moved["rag_cgroup_memory_bytes active_file"] + moved["rag_cgroup_memory_bytes inactive_file"]) < 2 * MIB


def test_locked_file_pages_cannot_be_dropped(group: Group, obedient: Obedient, tmp_path: Path) -> None:
    """A file that is mapped and locked stays in memory: it is no page cache to count on."""
    if "tmpfs" in subprocess.run(["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True).stdout:
        pytest.skip("the temporary folder is memory, not storage")
    group.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    obedient.do(f"import ctypes, mmap, os; f = open({str(tmp_path / 'file')!r}, 'w+b'); "
                "f.write(b'x' * (32 << 20)); f.flush(); os.fsync(f.fileno()); m = mmap.mmap(f.fileno(), 0)")
    before = values(probe.read(1.0))
    obedient.do("a = ctypes.addressof(ctypes.c_char.from_buffer(m)); "
                "assert not ctypes.CDLL(None).mlock(ctypes.c_void_p(a), ctypes.c_size_t(32 << 20))")
    after = values(probe.read(2.0))

    grown = after["rag_cgroup_memory_unreclaimable_bytes"] - before["rag_cgroup_memory_unreclaimable_bytes"]
    assert grown == pytest.approx(32 * MIB, rel=0.1)


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


def test_headroom_is_that_of_the_cgroup_which_is_nearest_to_its_limit(group: Group, obedient: Obedient) -> None:
    """A neighbour fills the cgroup above: what is left there is less than what the target's own limit would leave."""
    group.below("inner", 100 * MIB).take(obedient.process.pid)
    group.below("neighbour").take((neighbour := Obedient()).process.pid)
    neighbour.do("x = b'x' * (100 << 20)")
    found = values(CgroupProbe(target(obedient.process.pid)).read(1.0))
    neighbour.end()

    assert found["rag_cgroup_memory_limit_bytes max"] == 100 * MIB
    assert found["rag_memory_headroom_bytes cgroup"] < 28 * MIB


def test_limit_beyond_the_machine_binds_nothing(group: Group, obedient: Obedient) -> None:
    """More than there is cannot be used up: such a limit is shown nowhere."""
    group.limit(1 << 50)
    group.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    found = values(probe.read(1.0))

    assert probe.limit_bytes is None
    assert "rag_cgroup_memory_limit_bytes max" not in found
    assert "rag_memory_headroom_bytes cgroup" not in found


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
    assert values(probe.last_words(3.0))["rag_cgroup_memory_events_total oom_kill"] == 1


def test_last_words_outlive_the_cgroup(group: Group, obedient: Obedient) -> None:
    """The kill stays told when container and cgroup have gone, too; and nothing but the events is told then."""
    inner = group.below("inner", 32 * MIB)
    inner.take(obedient.process.pid)
    probe = CgroupProbe(target(obedient.process.pid))
    probe.read(1.0)
    obedient.send("x = b'x' * (300 << 20)")
    obedient.process.wait(20)
    told = values(probe.last_words(2.0))
    inner.path.rmdir()

    assert told["rag_cgroup_memory_events_total oom_kill"] == 1
    assert {name.split()[0] for name in told} == {"rag_cgroup_memory_events_total"}
    assert [s._replace(at=2.0) for s in probe.last_words(3.0)] == probe.last_words(2.0)
    assert values(probe.last_words(3.0)) == told
    assert probe.moved()
    with pytest.raises(OSError, match="No such device"):
        probe.read(3.0)


def test_moves_and_new_limits_are_noticed(group: Group, obedient: Obedient) -> None:
    """A process that is moved, a limit that changes here or up the tree; quiet while nothing of that happens."""
    inner = group.below("inner")
    inner.take(obedient.process.pid)
    rag = target(obedient.process.pid)

    def fresh() -> CgroupProbe:
        probe = CgroupProbe(rag)
        probe.read(1.0)
        assert not probe.moved()
        return probe

    probe = fresh()
    obedient.do("x = b'x' * (20 << 20)")
    assert not probe.moved()
    group.limit(96 * MIB)
    assert probe.moved()
    probe = fresh()
    inner.limit(64 * MIB)
    assert probe.moved()
    probe = fresh()
    group.take(obedient.process.pid)
    assert probe.moved()
    assert fresh().limit_bytes == 96 * MIB


def test_new_limit_and_new_cgroup_are_seen_within_half_a_minute(group: Group, obedient: Obedient) -> None:
    """`docker update --memory`, or a process that is moved: what binds is looked for again and again."""
    group.take(obedient.process.pid)
    rag, probes = target(obedient.process.pid), Sampler(OWN, time.monotonic)

    def limit_at(at: float) -> int | None:
        return probes.read([rag], at).limits["rag"]

    assert limit_at(1000.0) == 128 * MIB
    group.limit(96 * MIB)
    assert limit_at(1000.0 + sampler.AGAIN_SECONDS) == 96 * MIB
    group.below("inner", 32 * MIB).take(obedient.process.pid)
    assert limit_at(1000.0 + 2 * sampler.AGAIN_SECONDS) == 32 * MIB
    group.limit(16 * MIB)
    assert limit_at(900.0) == 16 * MIB  # the clock was set back


def test_cgroup_that_vanishes_fails_or_is_found_again(group: Group, obedient: Obedient) -> None:
    """The target was moved and its old cgroup removed: never "no limit", and soon the new one."""
    inner = group.below("inner", 64 * MIB)
    inner.take(obedient.process.pid)
    rag, probes = target(obedient.process.pid), Sampler(OWN, time.monotonic)
    probes.read([rag], 1.0)
    group.take(obedient.process.pid)
    inner.path.rmdir()
    lost = probes.read([rag], 2.0)
    found = probes.read([rag], 1.0 + sampler.AGAIN_SECONDS)

    assert lost.limits["rag"] in (64 * MIB, 128 * MIB)
    assert values(lost.samples)["rag_sidecar_attach_capability cgroup"] == ("cgroup" in lost.used["rag"])
    assert found.limits["rag"] == 128 * MIB
    assert values(found.samples)["rag_sidecar_attach_capability cgroup"] == 1


IN_NAMESPACES = """
import json, os, sys
from sidecar.model import Labels, Target
from sidecar.probes.cgroup import CgroupProbe
from sidecar.procfs import identify
pid = int(sys.argv[1]) or os.getpid()
probe = CgroupProbe(Target("rag", Labels({}), identify(pid)))
print(json.dumps([open(f"/proc/{pid}/cgroup").read(), probe.limit_bytes, probe.basis.usage]))
"""


@pytest.mark.parametrize("unmounted", [False, True])
def test_target_is_found_from_within_another_cgroup_namespace(
    group: Group, obedient: Obedient, checkout: Path, unmounted: bool
) -> None:
    """A sidecar in a container of its own: the path begins with `..`, and what mounts show of the tree decides.

    With nothing of cgroups mounted here, the target's own view is the only one.
    """
    group.take(obedient.process.pid)
    own = group.path.with_name(f"{group.path.name}-own")
    script = f"echo $$ > {own}/cgroup.procs; exec unshare -C -m sh -c '{'umount -R /sys/fs/cgroup;' * unmounted} " \
             'exec "$@"\' sh "$@"'
    own.mkdir()
    try:
        command = [sys.executable, "-c", IN_NAMESPACES, str(obedient.process.pid)]
        done = subprocess.run(["sh", "-c", script, "sh", *command], cwd=checkout, capture_output=True, text=True,
                              timeout=30)
    finally:
        removed(own)

    assert f":memory:/../{group.path.name}" in done.stdout, done.stderr
    root = f"/proc/{obedient.process.pid}/root" if unmounted else ""
    assert f'{128 * MIB}, "{root}{group.path}/memory.usage_in_bytes"]' in done.stdout


def test_bind_mount_of_one_cgroup_at_another_place(group: Group, checkout: Path, tmp_path: Path) -> None:
    """What a container of v1 sees: its own cgroup alone, here at an odd place. memory.stat tells of the limit above."""
    inner = group.below("inner")
    script = f'echo $$ > {inner.path}/cgroup.procs; exec unshare -m sh -c \'mount --bind {inner.path} "{tmp_path}"; ' \
             'umount -R /sys/fs/cgroup; exec "$@"\' sh "$@"'
    done = subprocess.run(["sh", "-c", script, "sh", sys.executable, "-c", IN_NAMESPACES, "0"],
                          cwd=checkout, capture_output=True, text=True, timeout=30)

    assert f'{128 * MIB}, "{tmp_path}/memory.usage_in_bytes"]' in done.stdout, done.stderr


def test_pressure_of_the_own_cgroup_where_both_versions_are_mounted(obedient: Obedient) -> None:
    """Memory is counted by v1, waiting by v2: seconds of the target's own cgroup, and none of the machine's."""
    if os.geteuid() or not (V2 / "cgroup.procs").exists():
        pytest.skip("needs root and a hybrid hierarchy")
    assert not any("pressure" in name for name in values(CgroupProbe(target(obedient.process.pid)).read(1.0)))
    own = V2 / f"rag-sidecar-test-{os.getpid()}"
    own.mkdir()
    try:
        if not (own / "cpu.pressure").exists():
            pytest.skip("this kernel keeps no pressure")
        (own / "cgroup.procs").write_text(str(obedient.process.pid))
        probe = CgroupProbe(target(obedient.process.pid))
        before = values(probe.read(1.0))
        said = (own / "cpu.pressure").read_text()
        after = values(probe.read(2.0))
    finally:
        obedient.end()
        removed(own)
    name = "rag_cgroup_pressure_seconds_total"

    assert {key for key in before if name in key} == {
        f"{name} {kind} {resource}" for kind in ("some", "full") for resource in ("memory", "cpu", "io")}
    total = int(said.split("total=")[1].split()[0]) / 1e6
    assert before[f"{name} some cpu"] <= total <= after[f"{name} some cpu"]


def test_version_2_for_real(obedient: Obedient) -> None:
    """Limit, usage, shared memory, the kill and its last words, where the machine holds its memory in v2."""
    own = Path(f"/sys/fs/cgroup/rag-sidecar-test-{os.getpid()}")
    enabled = own.parent / "cgroup.subtree_control"
    if os.geteuid() or not enabled.exists() or "memory" not in enabled.read_text().split():
        pytest.skip("needs root and a memory hierarchy of cgroup v2")
    own.mkdir()
    try:
        (own / "memory.max").write_text(str(128 * MIB))
        if (own / "memory.swap.max").exists():
            (own / "memory.swap.max").write_text("0")
        (own / "cgroup.procs").write_text(str(obedient.process.pid))
        probe = CgroupProbe(target(obedient.process.pid))
        before = values(probe.read(1.0))
        obedient.do("x = b'x' * (60 << 20)")
        after = values(probe.read(2.0))
        assert not probe.moved()
        (own / "memory.max").write_text(str(96 * MIB))
        assert probe.moved()
        obedient.send("y = b'x' * (300 << 20)")
        obedient.process.wait(20)
        told = values(probe.last_words(3.0))
    finally:
        obedient.end()
        removed(own)

    name = "rag_cgroup_memory_unreclaimable_bytes"
    assert probe.limit_bytes == 128 * MIB
    assert after[name] - before[name] == pytest.approx(60 * MIB, rel=0.05)
    assert after["rag_cgroup_info 2"] == 1
    assert told["rag_cgroup_memory_events_total oom_kill"] == 1
    assert values(probe.last_words(4.0)) == told


# As captured, and as built: layouts that this machine does not have


def copied(tree: str, folder: Path) -> Path:
    """A copy of a captured tree in whose mount tables the device is that of the copy."""
    shutil.copytree(TREES / tree, folder, dirs_exist_ok=True)
    for table in folder.glob("proc/*/mountinfo"):
        device = table.stat().st_dev
        table.write_text(table.read_text().replace("@DEVICE@", f"{os.major(device)}:{os.minor(device)}"))
    return folder


def pictured_cgroup(folder: Path, pid: int = 42) -> CgroupProbe:
    """The cgroup of a captured process."""
    return CgroupProbe(pictured(pid), str(folder / "proc"), str(folder / "sys"))


@pytest.mark.parametrize(("tree", "pid", "limit_mib", "usage_mib", "usage_file"), [
    ("v2", 42, 2048, 1500, "sys/fs/cgroup/system.slice/memory.current"),  # the slice binds, not the service
    ("v2", 43, None, 1024, "sys/fs/cgroup/user.slice/session-1.scope/memory.current"),
    ("v2", 44, 1536, 1024, "sys/fs/cgroup/user.slice/a..b/memory.current"),
    ("v2-container", 42, 1536, 1024, "proc/42/root/sys/fs/cgroup/memory.current"),
    ("hybrid", 42, 1536, 1024, "sys/fs/cgroup/memory/docker/0123abcd/memory.usage_in_bytes"),
    ("hybrid", 43, 256, 100, "proc/43/root/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ("unified", 42, 1536, 1024, "sys/fs/cgroup/unified/rag/memory.current"),
    ("v2-5.15", 42, 1024, 512, "sys/fs/cgroup/rag/memory.current"),
    ("v2-6.8", 42, 1024, 512, "sys/fs/cgroup/rag/memory.current"),
])
def test_captured_cgroup_is_found(
    tmp_path: Path, tree: str, pid: int, limit_mib: int | None, usage_mib: int, usage_file: str
) -> None:
    """The target's own cgroup in every layout, never ours, and the file in which usage stands."""
    probe = pictured_cgroup(copied(tree, tmp_path), pid)
    found = values(probe.read(1.0))

    assert probe.limit_bytes == (limit_mib * MIB if limit_mib else None)
    assert ("rag_cgroup_memory_limit_bytes max" in found) == (limit_mib is not None)
    assert found["rag_cgroup_memory_usage_bytes"] == usage_mib * MIB
    assert probe.basis.usage == str(tmp_path / usage_file)


@pytest.mark.parametrize("tree", ["v2-container", "hybrid"])
def test_what_the_kernel_cannot_take_back(tmp_path: Path, tree: str) -> None:
    """Usage less active and inactive file pages; the working set less the inactive ones only."""
    found = values(pictured_cgroup(copied(tree, tmp_path)).read(1.0))

    assert found["rag_cgroup_memory_unreclaimable_bytes"] == 1024 * MIB - 240 * MIB - 50 * MIB
    assert found["rag_cgroup_memory_working_set_bytes"] == 1024 * MIB - 240 * MIB


def test_events_of_both_versions(tmp_path: Path) -> None:
    """v2: the cgroup that binds says how often that was, the target's own says who was killed. v1: what it counts."""
    kills = tmp_path / "v2/sys/fs/cgroup/system.slice/rag.service/memory.events"
    trees = {tree: copied(tree, tmp_path / tree) for tree in ("v2", "hybrid")}
    kills.write_text(kills.read_text().replace("oom_kill 2", "oom_kill 1"))
    events = [{name.split()[-1]: value for name, value in values(pictured_cgroup(tree).read(1.0)).items()
               if "events" in name} for tree in trees.values()]

    assert events == [{"low": 0, "high": 0, "max": 41, "oom": 3, "oom_kill": 1}, {"oom_kill": 1}]


def test_older_kernel_leaves_out_what_it_has_not(tmp_path: Path) -> None:
    """5.15: neither a peak nor kernel memory as one figure nor pressure here; left out, and named."""
    probe = pictured_cgroup(copied("v2-5.15", tmp_path))
    found = values(probe.read(1.0))

    assert set(probe.missing) == {"memory.peak", "pressure"}
    assert not {name for name in found if "peak" in name or "pressure" in name or name.endswith(" kernel")}
    assert found["rag_cgroup_memory_bytes slab"] == 3 * MIB
    assert found["rag_cgroup_refaults_total file"] == 345
    assert found["rag_cgroup_memory_limit_bytes high"] == 768 * MIB
    assert found["rag_cgroup_memory_limit_bytes low"] == 0


def test_newer_kernel_tells_everything(tmp_path: Path) -> None:
    """6.8: peak, kernel memory, swap without a limit, seconds of pressure."""
    probe = pictured_cgroup(copied("v2-6.8", tmp_path))
    found = values(probe.read(1.0))

    assert probe.missing == {}
    assert found["rag_cgroup_memory_peak_bytes"] == 576 * MIB
    assert found["rag_cgroup_memory_bytes kernel"] == 6 * MIB
    assert found["rag_cgroup_swap_usage_bytes"] == 4 * MIB
    assert "rag_cgroup_swap_limit_bytes" not in found
    assert found["rag_cgroup_pressure_seconds_total some memory"] == 2.5
    assert found["rag_cgroup_pressure_seconds_total full io"] == 1.25
    assert found["rag_cgroup_memory_events_total oom_group_kill"] == 0


def test_what_cannot_be_read_takes_nothing_else_with_it(tmp_path: Path) -> None:
    """Peak, pressure and swap are extras: they are left out and named, and used memory is still known."""
    own = copied("v2-6.8", tmp_path) / "sys/fs/cgroup/rag"
    (own / "memory.swap.current").write_text("garbage")
    for name in ("memory.peak", "cgroup.events"):
        (own / name).unlink()
        (own / name).mkdir()
    probe = pictured_cgroup(tmp_path)
    found = values(probe.read(1.0))

    assert set(probe.missing) == {"memory.peak", "memory.swap.current", "pressure"}
    assert not [name for name in found if "swap" in name or "peak" in name or "pressure" in name]
    assert probe.used["cgroup"] > 0


def test_every_sample_is_declared(tmp_path: Path) -> None:
    """What a probe says stands in its list of metrics, with the target's labels and the given time."""
    declared = {metric.name for metric in cgroup.METRICS}
    for tree in ("v2-6.8", "hybrid"):
        samples = pictured_cgroup(copied(tree, tmp_path / tree)).read(7.0)
        assert {sample.labels.metric for sample in samples} <= declared
        assert all(BASE.items() <= sample.labels.items() and sample.at == 7.0 for sample in samples)
    assert host.HEADROOM in declared


def test_swap_of_version_1(tmp_path: Path) -> None:
    """v1 limits memory and swap together: the limit of swap is what it grants beyond memory."""
    stat = copied("hybrid", tmp_path) / "sys/fs/cgroup/memory/docker/0123abcd/memory.stat"
    before = pictured_cgroup(tmp_path)
    without = values(before.read(1.0))
    stat.write_text(f"{stat.read_text()}hierarchical_memsw_limit {2 * GIB}\ntotal_swap {8 * MIB}\n")
    found = values(pictured_cgroup(tmp_path).read(1.0))

    assert found["rag_cgroup_swap_usage_bytes"] == 8 * MIB
    assert found["rag_cgroup_swap_limit_bytes"] == 512 * MIB
    assert not [name for name in without if "swap" in name]
    assert "swap" in before.missing


def test_children_that_are_not_charged_to_their_parents(tmp_path: Path) -> None:
    """v1 before 5.11, memory.use_hierarchy 0: the limit of a cgroup above holds nobody below."""
    folder = copied("hybrid", tmp_path) / "sys/fs/cgroup/memory/docker"
    (folder / "memory.limit_in_bytes").write_text(str(512 * MIB))
    with_hierarchy = pictured_cgroup(tmp_path).limit_bytes
    (folder / "memory.use_hierarchy").write_text("0\n")

    assert (with_hierarchy, pictured_cgroup(tmp_path).limit_bytes) == (512 * MIB, 1536 * MIB)


def test_memory_that_is_not_handed_on_is_charged_above(tmp_path: Path) -> None:
    """v2: a cgroup whose parent does not enable memory for it has no figures; its parent is charged, and limits it."""
    folder = copied("v2-6.8", tmp_path)
    (folder / "sys/fs/cgroup/rag/worker").mkdir()
    (folder / "proc/42/cgroup").write_text("0::/rag/worker\n")

    assert pictured_cgroup(folder).basis.usage == str(folder / "sys/fs/cgroup/rag/memory.current")


def test_root_of_version_2_has_no_figures(tmp_path: Path) -> None:
    """A process in the root cgroup has no limit and no usage of its own: that is said, and nothing else is taken."""
    folder = copied("v2", tmp_path)
    (folder / "proc/42/cgroup").write_text("0::/\n")
    with pytest.raises(FileNotFoundError, match="in the root"):
        pictured_cgroup(folder)


def test_cgroup_that_is_gone_is_not_found(tmp_path: Path) -> None:
    """Its path says `(deleted)`, and no other one is taken for it."""
    with pytest.raises(FileNotFoundError, match="no memory cgroup"):
        pictured_cgroup(copied("v2", tmp_path), 45)


def test_unreadable_limit_is_not_no_limit() -> None:
    """A limit that may not be read makes the probe fail with the reason, and the other readings go on."""
    with tempfile.TemporaryDirectory() as name:
        folder = copied("v2", Path(name))
        os.chmod(folder, 0o755)  # noqa: S103 - the other user shall come as far as the file in question
        shutil.copytree(TREES / "odd" / "proc", folder / "proc", dirs_exist_ok=True)
        (folder / "sys/fs/cgroup/system.slice/memory.max").chmod(0)

        def look() -> dict[str, float]:
            probes = Sampler(OWN, time.monotonic, proc=f"{folder}/proc", sys=f"{folder}/sys")
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
    with tempfile.TemporaryDirectory() as name:
        folder = copied("v2-container", Path(name))
        os.chmod(folder, 0o755)  # noqa: S103 - the other user shall come as far as the file in question
        (folder / "proc/42/root").chmod(0)

        def look() -> str:
            try:
                pictured_cgroup(folder)
            except OSError as error:
                return type(error).__name__
            return "found"

        found = as_nobody(look)
        (folder / "proc/42/root").chmod(0o755)

    assert found == "PermissionError"


# What a container may show


@pytest.fixture
def container(tmp_path: Path) -> Path:
    """The cgroup folder that a container shows as its own; the mount table says that it is one."""
    return copied("v2-container", tmp_path) / "proc/42/root/sys/fs/cgroup"


def refusal(container: Path) -> OSError:
    """Why the container's cgroup is not taken."""
    try:
        pictured_cgroup(container.parents[5])
    except OSError as error:
        return error
    raise AssertionError("it was taken")


def test_link_out_of_a_container_is_not_followed(container: Path, tmp_path: Path) -> None:
    """An absolute link on the way leads out to our own files: refused at every step, nothing of ours is shown."""
    ours = tmp_path / "ours"
    container.rename(ours)
    container.symlink_to(ours)
    by_folder = refusal(container)
    container.unlink()
    container.mkdir()
    (container / "memory.current").symlink_to(ours / "memory.current")

    assert by_folder.errno == errno.ENOENT
    assert refusal(container).errno == errno.EXDEV


def test_file_that_is_not_the_kernels_is_not_believed(container: Path) -> None:
    """The mount table names the file system: a file from another one is what somebody wants us to read."""
    (container / "memory.max").unlink()
    (container / "memory.max").symlink_to("/proc/sys/kernel/pid_max")
    link = refusal(container)
    table = container.parents[3] / "mountinfo"
    device = (container / "memory.stat").stat().st_dev
    table.write_text(table.read_text().replace(f" {os.major(device)}:{os.minor(device)} ", " 0:4095 "))

    assert (link.errno, refusal(container).errno) == (errno.EXDEV, errno.EXDEV)


def test_pipe_in_the_place_of_a_file_keeps_nobody_waiting(container: Path) -> None:
    """A container may show anything: opening it must not stop the desk, and with it all targets."""
    (container / "memory.current").unlink()
    os.mkfifo(container / "memory.current")

    assert refusal(container).errno == errno.EXDEV


@pytest.mark.parametrize("text", ["9" * 31, "", "-1", "garbage", "1 2", "1e9"])
def test_malformed_number_is_neither_a_limit_nor_none(container: Path, text: str) -> None:
    """What is not a number of 64 bits is refused by name, for usage as for limits."""
    (container / "memory.max").write_text(text)
    limit = refusal(container)
    (container / "memory.max").write_text("max")
    (container / "memory.current").write_text(text)

    assert (limit.errno, refusal(container).errno) == (errno.EBADMSG, errno.EBADMSG)


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    """Whoever was given a cgroup may make others in it, as deep as a path is long."""
    folder = copied("v2", tmp_path)
    (folder / "proc/42/cgroup").write_text("0::" + "/a" * (MOST_LEVELS + 1))
    with pytest.raises(OSError, match="within each other"):
        pictured_cgroup(folder)


def test_endless_mount_table_is_refused(tmp_path: Path) -> None:
    """Whoever may mount may mount on and on: a table of megabytes is not searched, and that is the reason given."""
    folder = copied("v2-container", tmp_path)
    table = folder / "proc/42/mountinfo"
    table.write_text("1 1 0:1 / /x rw - tmpfs tmpfs rw\n" * (MOST_TABLE_BYTES // 30) + table.read_text())
    with pytest.raises(OSError, match="bytes of mounts"):
        pictured_cgroup(folder)


def test_cgroups_mounted_at_another_place(tmp_path: Path) -> None:
    """Not where everybody has them, with a blank in the name: the mount table is asked, not custom."""
    folder = copied("v2-6.8", tmp_path)
    (folder / "sys/fs").rename(folder / "my cgroups")
    table = folder / "proc/self/mountinfo"
    table.write_text(table.read_text().replace("/sys/fs/cgroup", "/my\\040cgroups/cgroup"))
    probe = pictured_cgroup(folder)

    assert probe.basis.usage == str(folder / "my cgroups/cgroup/rag/memory.current")
    assert probe.limit_bytes == GIB


def test_something_mounted_over_a_cgroup_hides_it() -> None:
    """The last mount on a point is what is seen there; one further down hides what it covers."""
    table = b"".join(b"%d 1 0:%d / /%s rw - %s x rw,memory\n" % line for line in (
        (30, 30, b"a", b"cgroup"), (31, 31, b"a", b"tmpfs"), (32, 32, b"a/b\\040c/d", b"tmpfs")))
    cgroup_mount, over, further = parse_mounts(table)

    assert cgroup_mount == Mount(30, (), ("a",), "cgroup", ["rw", "memory"])
    assert covering(("a", "x"), [cgroup_mount, over, further]) is over
    assert covering(("a", "b c", "d", "e"), [cgroup_mount, over, further]) is further
    assert covering(("b",), [cgroup_mount]) is None


def test_mount_table_of_nonsense_has_no_mounts() -> None:
    """Short lines, numbers that are none, a separator in the wrong place."""
    assert parse_mounts(b"\n1 2 3\n1 2 x:y / / rw - a b c\n1 2 0:1 / / rw - a\n1 2 0:1 - / rw a b c\n") == []


@pytest.mark.parametrize(("text", "limit"), [
    (b"max\n", None), (b"9223372036854771712\n", None), (b"0\n", 0), (b"1610612736\n", 1610612736)])
def test_limits(text: bytes, limit: int | None) -> None:
    """Both versions' way to say none, and a limit of nothing is one."""
    assert parse_limit(text) == limit


def test_paths_of_memory_hierarchies() -> None:
    """v1 first, where the controller is; colons in names and lines of other controllers do no harm."""
    text = "5:cpu,memory:/a:b\n3:memoryless:/x\n2:name=memory:/y\n0::/c:d\nnonsense\n"

    assert [(version.number, path) for version, path in paths(text)] == [(1, "/a:b"), (2, "/c:d")]
