"""What is read of a target: real programs moved by known amounts, captured trees for the rest."""

import errno
import gc
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target as Program
from conftest import wait_until
from probing import BASE, MIB, OWN, TREES, Obedient, as_nobody, pictured, target, values

from sidecar.model import Target
from sidecar.probes import sampler
from sidecar.probes.process import ProcessProbe
from sidecar.probes.sampler import Sampler
from sidecar.probes.tree import TreeProbe
from sidecar.procfs import CLOCK_TICKS, PAGE_BYTES


def alone(watched: Target, proc: str = "/proc") -> TreeProbe:
    """The probe of a target without its descendants."""
    return TreeProbe(watched, None, time.monotonic, proc)


@pytest.fixture
def obedient() -> Iterator[Obedient]:
    """A Python that does as it is told."""
    made = Obedient()
    yield made
    made.end()


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


def test_state_limits_and_what_the_oom_killer_thinks(obedient: Obedient) -> None:
    """A process that is stopped is seen as stopped; its limit on descriptors and its oom score follow changes."""
    pid = obedient.process.pid
    probe = ProcessProbe(target(pid))
    before = values(probe.read(1.0))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (77, 77))
    Path(f"/proc/{pid}/oom_score_adj").write_text("700")
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T", 5, "the stop")
    after = values(probe.read(100.0))

    assert (before["rag_process_stopped"], after["rag_process_stopped"]) == (0, 1)
    assert before["rag_process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert after["rag_process_max_fds"] == 77
    assert (before["rag_process_oom_score_adj"], after["rag_process_oom_score_adj"]) == (0, 700)
    assert after["rag_process_oom_score"] > before["rag_process_oom_score"]
    assert after["rag_process_context_switches_total voluntary"] >= 1


def test_bytes_written_to_storage(obedient: Obedient, tmp_path: Path) -> None:
    """Four MiB written to a file are four MiB of io."""
    io = Path(f"/proc/{obedient.process.pid}/io")
    if not os.access(io, os.R_OK):
        pytest.skip("needs a kernel that counts io (CONFIG_TASK_IO_ACCOUNTING)")
    probe = ProcessProbe(target(obedient.process.pid))
    obedient.do(f"import os; f = open({str(tmp_path / 'file')!r}, 'wb'); f.write(b'x' * (4 << 20)); f.flush(); "
                "os.fsync(f.fileno())")
    written = values(probe.read(2.0))["rag_process_io_bytes_total write"]
    if "\nwrite_bytes: 0\n" in io.read_text():
        pytest.skip("needs a temporary folder on storage")

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
        "anon": 1, "fd": 0, "io": 0, "pss": 0, "tree": 1, "gc": 0,
        "agent": 0, "cgroup": found["rag_sidecar_attach_capability cgroup"]}


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


# The sampler


def test_targets_do_not_hurt_each_other(spawn: Callable[..., Program], obedient: Obedient) -> None:
    """One that is gone has `up` 0 and nothing else; the other one is read as ever; the failure is counted."""
    alive, gone = target(spawn("leaky").pid), target(obedient.process.pid, "gone")
    probes = Sampler(OWN, time.monotonic)
    probes.read([gone, alive], 1.0)
    obedient.end()
    found = probes.read([gone, alive], 2.0)
    of_gone = [sample for sample in found.samples if sample.labels.get("target") == "gone"]

    left = {name: value for name, value in values(of_gone).items() if not name.startswith("rag_cgroup_memory_events")}
    assert left == {"rag_target_up": 0}, "of a target that has gone only its cgroup's events are told"
    assert set(found.used) == set(found.limits) == {"rag"}
    assert {"rag_target_up": 1.0}.items() <= values([s for s in found.samples if s not in of_gone]).items()
    assert values([s for s in found.samples if s not in of_gone])[
        "rag_sidecar_collector_errors_total process esrch"] == 1
    assert (probes.attached("gone"), probes.attached("rag") is None) == (None, False)


def test_many_targets_take_turns(spawn: Callable[..., Program]) -> None:
    """Beyond 10 used bytes of each are read every time, everything else in turn, and is shown as it was meanwhile."""
    program, count = spawn("leaky"), 3 * sampler.WHOLE_A_TICK
    many = [target(program.pid, f"rag-{number}") for number in range(count)]
    bases = {each.name: "anon" for each in many}
    probes = Sampler(OWN, time.monotonic)
    first = probes.read(many, 1.0, bases=bases)
    program.tell("grow 100")
    rounds = [probes.read(many, at, near={"rag-7"}, bases=bases) for at in (2.0, 3.0, 4.0)]
    whole = [bases.keys() - found.glanced for found in rounds]
    series = {(sample.labels, sample.at) for sample in rounds[0].samples if "target" in sample.labels}

    assert not first.glanced, "the first look at a target is a whole one"
    assert set().union(*whole) == set(bases), "after three rounds each has had its turn"
    assert all("rag-7" in found and len(found) <= count // 3 + 1 for found in whole)
    assert all(min(used["anon"] for used in found.used.values()) > first.used["rag-0"]["anon"] + 90 * MIB
               for found in rounds), "used bytes are those of this moment"
    assert {labels for labels, _ in series} == {s.labels for s in first.samples if "target" in s.labels}
    assert all(at == (1.0 if labels["target"] in rounds[0].glanced else 2.0) for labels, at in series
               if labels.metric != "rag_target_up"), "what is shown again says when it was read"


def test_nobody_waits_longer_for_a_turn_however_many_there_are(spawn: Callable[..., Program]) -> None:
    """Of each target everything is read at least every ten rounds."""
    program, count = spawn("leaky"), 2 * sampler.WHOLE_A_TICK * sampler.MOST_TURNS
    many = [target(program.pid, f"rag-{number}") for number in range(count)]
    bases = {each.name: "anon" for each in many}
    probes = Sampler(OWN, time.monotonic)
    probes.read(many, 1.0, bases=bases)
    whole = [bases.keys() - probes.read(many, 2.0 + at, bases=bases).glanced for at in range(sampler.MOST_TURNS)]
    assert set().union(*whole) == set(bases)
    assert all(len(each) == count // sampler.MOST_TURNS for each in whole)


def test_ended_target_is_noticed_out_of_turn(spawn: Callable[..., Program], obedient: Obedient) -> None:
    """However many there are: one whose process has ended is down at the next look."""
    program = spawn("leaky")
    many = [target(obedient.process.pid, "gone")] + [target(program.pid, f"rag-{n}") for n in range(300)]
    probes = Sampler(OWN, time.monotonic)
    bases = {each.name: "anon" for each in many}
    probes.read(many, 1.0, bases=bases)
    obedient.end()

    for at in (2.0, 3.0, 4.0):
        found = probes.read(many, at, bases=bases)
        up = {s.labels["target"]: s.value for s in found.samples if s.labels.metric == "rag_target_up"}
        assert (up["gone"], up["rag-0"], "gone" in found.used) == (0, 1, False)


def test_target_without_a_process_is_down() -> None:
    """Not there yet, or already gone: `up` is 0, and that is no error."""
    found = Sampler(OWN, time.monotonic).read([Target("rag", BASE, None)], 1.0)

    assert values([sample for sample in found.samples if "target" in sample.labels]) == {"rag_target_up": 0}
    assert (found.used, found.limits) == ({}, {})


def test_garbage_is_a_failure_of_the_probe(tmp_path: Path) -> None:
    """A file that is not what it should be is counted as such, round after round."""
    shutil.copytree(TREES / "odd" / "proc", tmp_path, dirs_exist_ok=True)
    (tmp_path / "42/statm").write_text("nonsense\n")
    probes = Sampler(OWN, time.monotonic, proc=str(tmp_path))
    probes.read([pictured()], 1.0)
    found = values(probes.read([pictured()], 2.0).samples)

    assert found == {"rag_target_up": 0, "rag_sidecar_collector_errors_total process parse": 2,
                     "rag_sidecar_collector_errors_total host enoent": 2}


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
    own = [sample for sample in found.samples
           if sample.labels.metric.startswith(("rag_sidecar_collector", "rag_host_"))]

    assert {sample.labels.metric for sample in found.samples} <= {metric.name for metric in sampler.METRICS}
    assert all(sample.at == 7.0 for sample in found.samples)
    assert all(BASE.items() <= sample.labels.items() for sample in found.samples if sample not in own)
    assert values(own)["rag_sidecar_collector_duration_seconds process"] == 1
