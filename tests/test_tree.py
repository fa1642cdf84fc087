"""A target of several processes: what they use together, which slot each has, and what one that misbehaves can do."""

import os
import random
import resource
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from conftest import Target as Program
from conftest import wait_until
from probing import as_nobody
from servers import free_port
from sidecars import MIB, config, running_sidecar

from sidecar.guard.process import Process
from sidecar.guard.tree import Census, Tree
from sidecar.guard.watch import Watch
from sidecar.guard.wire import Basis, Order
from sidecar.model import Labels, Sample, Target
from sidecar.probes.sampler import Sampler
from sidecar.probes.tree import MOST_SLOTS, TreeProbe
from sidecar.procfs import PAGE_BYTES, identify

BASE = Labels({"target": "rag"})


class Watched:
    """A tree under a probe whose clock is turned by hand: each `look` is a second later."""

    def __init__(self, pid: int, census: Census | None = None, timer: Callable[[], float] = time.monotonic,
                 **options: Any) -> None:
        self.at = 1000.0
        self.probe = TreeProbe(Target("rag", BASE, identify(pid)), census or Census(), timer, **options)
        self.samples: list[Sample] = []

    def look(self, seconds: float = 1.0, calm: bool = True) -> dict[str, float]:
        """Used bytes by basis after so many seconds."""
        for _ in range(max(1, int(seconds))):
            self.at += min(seconds, 1.0)
            self.samples = self.probe.read(self.at, calm)
        return self.probe.used

    def series(self, metric: str) -> dict[str, float]:
        """The process (or the kind) of every series of a metric, and its value."""
        return {sample.labels.get("process", sample.labels.get("kind", "")): sample.value for sample in self.samples
                if sample.labels.metric == metric}


def mib(size_bytes: float) -> float:
    return size_bytes / MIB


# What they use together


def test_what_a_forked_worker_shares_is_counted_once(spawn: Callable[..., Program]) -> None:
    """A worker forked while we watch adds next to nothing, whatever its parent holds; RSS alone says otherwise."""
    program = spawn("prefork")
    program.tell("grow 200")
    watched = Watched(program.pid)
    before = dict(watched.look())
    program.tell("fork")
    program.tell("fork")
    after = dict(watched.look(3))

    assert mib(after["anon"] - before["anon"]) == pytest.approx(0, abs=6)
    assert mib(after["pss"] - before["pss"]) == pytest.approx(0, abs=12)
    assert mib(after["rss"] - before["rss"]) > 390


def test_server_that_has_its_workers_already_is_measured_at_once(spawn: Callable[..., Program]) -> None:
    """A sidecar that comes late finds the same: the kernel's own shares say what is common."""
    program = spawn("prefork")
    program.tell("grow 200")
    program.tell("fork")
    program.tell("fork")
    watched = Watched(program.pid)
    used = watched.look()

    assert 200 < mib(used["anon"]) < 225
    assert 200 < mib(used["pss"]) < 235
    assert mib(used["rss"]) > 600
    assert watched.series("rag_memory_shared_bytes")["anon"] / MIB == pytest.approx(400, rel=0.08)


def test_server_that_looks_too_big_is_measured_before_anybody_believes_it(spawn: Callable[..., Program]) -> None:
    """However near a line it looks: what is used is not told while nobody knows what is shared. This takes two looks.

    The timer says that each process takes a second to read.
    """
    program = spawn("prefork")
    program.tell("grow 100")
    program.tell("fork")
    program.tell("fork")
    timer = count()
    watched = Watched(program.pid, timer=lambda: float(next(timer)))
    used = [dict(watched.look(calm=False)) for _ in range(3)]

    assert [set(each) for each in used[:2]] == [{"rss"}, {"rss"}]
    assert 100 < mib(used[2]["anon"]) < 125
    assert 100 < mib(used[2]["pss"]) < 135


def test_workers_that_come_and_go_do_not_prevent_a_measurement(spawn: Callable[..., Program]) -> None:
    """At every look one has ended and another has come: what the others share is found all the same."""
    program = spawn("prefork")
    program.tell("grow 100")
    workers, timer = [program.tell("fork") for _ in range(4)], count()
    watched = Watched(program.pid, timer=lambda: float(next(timer)))
    for _ in range(20):
        used = watched.look(calm=False)
        program.tell(f"kill {workers.pop()}")
        workers.append(program.tell("fork"))

    assert "anon" in used
    assert mib(used["anon"]) < 250, "in truth 100, plainly added up 500"


def test_growth_of_a_worker_is_counted_in_full(spawn: Callable[..., Program]) -> None:
    """Whatever it shares with its parent, what it takes itself is its own."""
    program = spawn("prefork")
    program.tell("grow 100")
    worker = program.tell("fork")
    watched = Watched(program.pid)
    before = dict(watched.look(2))
    program.tell(f"worker {worker} grow 50")
    after = watched.look()

    assert {kind: round(mib(after[kind] - before[kind]) / 50, 1) for kind in after} == {"anon": 1, "rss": 1, "pss": 1}


def test_glance_says_what_a_whole_reading_would(spawn: Callable[..., Program]) -> None:
    """Used bytes of this moment: after it has grown, with a worker that comes and grows, and when that one is gone."""
    program = spawn("prefork")
    watched = Watched(program.pid)
    watched.look()

    def glanced() -> float:
        watched.at += 1.0
        watched.probe.glance(watched.at, "anon")
        return mib(watched.probe.used["anon"])

    start, found = glanced(), []
    program.tell("grow 40")
    found.append(glanced())
    worker = program.tell("fork")
    program.tell(f"worker {worker} grow 50")
    glanced()
    found.append(glanced())
    program.tell(f"kill {worker}")
    found += [glanced(), glanced()]
    whole = mib(watched.look()["anon"])

    assert [round((used - start) / 10) for used in found] in ([4, 9, 4, 4], [4, 9, 9, 4])
    assert found[-1] == pytest.approx(whole, abs=0.5)


def test_pages_that_a_worker_makes_its_own_are_found_at_the_next_measurement(spawn: Callable[..., Program]) -> None:
    """The kernel's counters do not move when a page is copied. Near a line nothing is measured."""
    program = spawn("prefork")
    program.tell("grow 100")
    worker = program.tell("fork")
    watched = Watched(program.pid)
    before = dict(watched.look())
    program.tell(f"worker {worker} write")
    unmeasured = dict(watched.look(2))
    near = dict(watched.look(400, calm=False))
    measured = dict(watched.look(4))

    assert mib(unmeasured["anon"] - before["anon"]) == pytest.approx(0, abs=3)
    assert mib(near["anon"] - before["anon"]) == pytest.approx(0, abs=3)
    assert mib(measured["anon"] - before["anon"]) == pytest.approx(100, rel=0.05)


def test_worker_that_ends_takes_its_share_along(spawn: Callable[..., Program]) -> None:
    """Of three that share 100 MiB one ends: 100 MiB are still in use, without any new measurement."""
    program = spawn("prefork")
    program.tell("grow 100")
    workers = [program.tell("fork") for _ in range(3)]
    watched = Watched(program.pid)
    before = dict(watched.look())
    shared = watched.series("rag_memory_shared_bytes")["anon"]
    program.tell(f"kill {workers[0]}")
    after = watched.look(calm=False)

    assert mib(after["anon"] - before["anon"]) == pytest.approx(0, abs=8)
    assert watched.series("rag_memory_shared_bytes")["anon"] == pytest.approx(shared * 2 / 3, rel=0.1)


@pytest.fixture
def guarded(spawn: Callable[..., Program]) -> "Guarded":
    """A server with 20 MiB whose processes the guard counts."""
    return Guarded(spawn("prefork"))


class Guarded:
    """A server that the guard counts by itself: nobody measures anything. A look is two seconds after the last."""

    def __init__(self, program: Program) -> None:
        program.tell("grow 20")
        self.program, self.now = program, 0.0
        self.tree = Tree(program.pid, ("anon",), Census())
        self.look()

    def look(self) -> float:
        """Used MiB."""
        self.now += 2.0
        self.tree.update(self.now)
        return mib(self.tree.used_bytes("anon"))


def test_what_a_worker_took_before_it_was_seen_is_its_own(guarded: Guarded) -> None:
    """It cannot have more from its parent than that one has: a leak does not hide by being quick."""
    before, worker = guarded.look(), guarded.program.tell("fork")
    guarded.program.tell(f"worker {worker} grow 100")

    assert guarded.look() - before == pytest.approx(100, abs=8)


def test_what_a_worker_gave_back_is_shared_no_more(guarded: Guarded) -> None:
    """It takes as much anew: that is its own."""
    guarded.program.tell("grow 80")
    before, worker = guarded.look(), guarded.program.tell("fork")
    assert guarded.look() - before == pytest.approx(0, abs=8)
    guarded.program.tell(f"worker {worker} drop")
    assert guarded.look() - before == pytest.approx(0, abs=8)
    guarded.program.tell(f"worker {worker} grow 100")

    assert guarded.look() - before == pytest.approx(100, abs=8)


def test_orphan_that_its_grandparent_adopts_stays_counted(guarded: Guarded) -> None:
    """A target that is the first process of its container inherits every orphan, and pays for it."""
    guarded.program.tell("adopt")
    before, worker = guarded.look(), guarded.program.tell("fork")
    guarded.program.tell(f"worker {worker} detach 60")
    assert guarded.look() - before == pytest.approx(60, abs=8)
    guarded.program.tell(f"kill {worker}")

    assert guarded.look() - before == pytest.approx(60, abs=8)
    assert guarded.tree.count == 2


def test_number_that_was_given_to_another_process_is_not_counted(guarded: Guarded) -> None:
    """Between the census and the opening of its files a child may have ended, and its number be another's."""
    worker = guarded.program.tell("fork")

    class Late(Census):
        """Takes us for a child of the server's."""

        def update(self, now: float, most_seconds: float = 0.0) -> bool:
            self.children = {guarded.program.pid: [worker, os.getpid()]}
            return True

    tree = Tree(guarded.program.pid, ("anon",), Late())
    tree.update(1.0)

    assert set(tree.members) == {guarded.program.pid, worker}


def test_processes_that_have_ended_take_nobodys_place(guarded: Guarded) -> None:
    """A server that does not reap its children: they are no processes any more, and a worker is found behind them."""
    guarded.program.tell("zombies 300")
    before, worker = guarded.look(), guarded.program.tell("fork")
    guarded.program.tell(f"worker {worker} grow 50")
    watched = Watched(guarded.program.pid)
    watched.look(2)

    assert guarded.look() - before == pytest.approx(50, abs=8)
    assert watched.series("rag_target_processes") == {"": 2}
    assert watched.series("rag_target_processes_left_out") == {"": 0}
    assert "tree" not in watched.probe.missing


def test_crowd_of_strangers_makes_nobody_forget_a_worker(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are more processes than are kept in mind: who is known is not forgotten for them, nor taken for new."""
    worker = guarded.program.tell("fork")
    before = guarded.look()
    while worker not in guarded.tree.members:  # a crowd on the machine is looked at a part at a time
        before = guarded.look()
    monkeypatch.setattr("sidecar.guard.tree.MOST_KNOWN", 0)
    found = [guarded.look() for _ in range(70)]

    assert worker in guarded.tree.members
    assert found == pytest.approx([before] * 70, abs=8)


def test_worker_is_counted_where_the_kernel_does_not_tell_kinds_of_memory(tmp_path: Path) -> None:
    """gVisor, kernels before 4.5: resident memory is all there is, also of a worker that comes later."""
    def process(pid: int, parent: int) -> None:
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (python) S {parent} " + "0 " * 15 + "1 0 " + f"{pid} 0 0 0 0 0\n")
        (folder / "statm").write_text("9000 1000 10 1 0 100 0\n")
        (folder / "status").write_text("Name:\tpython\nVmRSS:\t4000 kB\n")

    process(7, 1)
    census = Census(str(tmp_path))
    tree = Tree(7, ("anon", "rss"), census, proc=str(tmp_path))
    tree.update(1.0)
    process(8, 7)
    tree.update(3e9)
    tree.update(6e9)

    assert tree.used_bytes("rss") == 2000 * PAGE_BYTES
    with pytest.raises(KeyError):
        tree.used_bytes("anon")


def test_garbage_of_a_kernel_is_an_error_that_guard_and_desk_expect(tmp_path: Path) -> None:
    """Files with bytes missing or changed give OSError, ValueError or KeyError, or figures: never anything else."""
    dice, whole = random.Random(5), {}
    for name in ("stat", "statm", "status"):
        whole[name] = Path(f"/proc/self/{name}").read_bytes().replace(str(os.getpid()).encode(), b"7")
    (tmp_path / "7").mkdir()
    refused = 0
    for _ in range(3000):
        for name, content in whole.items():
            garbled = bytearray(content)
            for _ in range(dice.choice((0, 1, 5))):
                garbled[dice.randrange(len(garbled))] = dice.choice(b"\0 \n)-:9\xffk")
            (tmp_path / "7" / name).write_bytes(garbled[:dice.choice((0, 20, 10**4, 10**4, 10**4))])
        try:
            tree = Tree(7, ("anon", "rss"), Census(str(tmp_path)), proc=str(tmp_path))
            tree.update(1.0)
            tree.used_bytes("rss")
            tree.used_bytes("anon")
        except (OSError, ValueError, KeyError):
            refused += 1

    assert 500 < refused < 2900


def test_without_descriptors_nobody_is_forgotten(guarded: Guarded) -> None:
    """Who was known stays counted while nothing can be opened."""
    guarded.program.tell("fork")
    worker = guarded.program.tell("fork")
    guarded.program.tell(f"worker {worker} grow 50")
    before, limits = guarded.look(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        found = [guarded.look() for _ in range(70)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert before > 70
    assert found == [before] * 70


def test_worker_that_is_a_program_of_its_own_is_counted_in_full(spawn: Callable[..., Program]) -> None:
    """What exec has replaced is shared with nobody."""
    program = spawn("prefork")
    program.tell("grow 100")
    watched = Watched(program.pid)
    before = dict(watched.look())
    program.tell("exec")
    after = watched.look(2)

    assert mib(after["anon"] - before["anon"]) == pytest.approx(45, abs=8)
    assert mib(after["rss"] - before["rss"]) == pytest.approx(50, abs=15)


def test_process_about_to_exec_is_not_its_parent_twice(spawn: Callable[..., Program]) -> None:
    """Between fork and exec a child looks as big as its parent: no basis counts that at first sight."""
    program = spawn("prefork")
    program.tell("grow 200")
    watched = Watched(program.pid)
    before = dict(watched.look())
    program.tell("fork")
    after = dict(watched.look())

    assert mib(after["rss"] - before["rss"]) == pytest.approx(0, abs=6)
    assert mib(after["anon"] - before["anon"]) == pytest.approx(0, abs=6)


def test_children_of_children_belong_to_the_target(spawn: Callable[..., Program]) -> None:
    """The whole tree, and nothing else: with `children: false` the one process alone."""
    program = spawn("prefork")
    worker = program.tell("fork")
    grandchild = program.tell(f"worker {worker} fork")
    program.tell(f"worker {worker} grow 30")
    watched = Watched(program.pid)
    alone = TreeProbe(Target("rag", BASE, identify(program.pid)), None, time.monotonic)
    alone.read(1.0)

    assert watched.look()["anon"] - alone.used["anon"] > 30 * MIB
    assert watched.series("rag_target_processes") == {"": 3}
    assert {slot.target.identity.pid for slot in watched.probe.slots.values() if slot.target.identity} == {
        program.pid, worker, grandchild}
    assert set(alone.slots) == {"main"}


def test_processes_of_ours_below_a_target_are_not_its(spawn: Callable[..., Program]) -> None:
    """A program that starts its own sidecar is not charged for it."""
    program = spawn("prefork")
    worker, other = program.tell("fork"), program.tell("fork")
    program.tell(f"worker {worker} fork")
    watched = Watched(program.pid, skip=(worker,))
    watched.look()

    assert watched.series("rag_target_processes") == {"": 2}
    assert [slot.target.identity and slot.target.identity.pid for slot in watched.probe.slots.values()] == [
        program.pid, other]


# Slots


def test_worker_that_is_killed_and_comes_again_keeps_its_slot(spawn: Callable[..., Program]) -> None:
    """The others keep theirs as well, and the restart is counted."""
    program = spawn("prefork")
    workers = [program.tell("fork") for _ in range(3)]
    watched = Watched(program.pid)
    watched.look()
    slots = {slot.label: slot.target.identity and slot.target.identity.pid for slot in watched.probe.slots.values()}
    assert slots == {"main": program.pid, "worker-0": workers[0], "worker-1": workers[1], "worker-2": workers[2]}

    program.tell(f"kill {workers[1]}")
    again = program.tell("fork")
    watched.look()

    now = {slot.label: slot.target.identity and slot.target.identity.pid for slot in watched.probe.slots.values()}
    assert now == {**slots, "worker-1": again}
    assert watched.series("rag_process_restarts_total") == {"main": 0, "worker-0": 0, "worker-1": 1, "worker-2": 0}
    assert set(watched.series("rag_process_resident_memory_bytes")) == {"main", "worker-0", "worker-1", "worker-2"}


def test_slot_that_is_free_has_no_figures(spawn: Callable[..., Program]) -> None:
    """A worker that has gone leaves its count of restarts behind, and nothing else."""
    program = spawn("prefork")
    worker = program.tell("fork")
    watched = Watched(program.pid)
    watched.look()
    program.tell(f"kill {worker}")
    watched.look()

    assert set(watched.series("rag_process_resident_memory_bytes")) == {"main"}
    assert watched.series("rag_target_processes") == {"": 1}


def test_a_thousand_restarts_make_no_new_series(spawn: Callable[..., Program]) -> None:
    """Nor do they leave descriptors open."""
    program = spawn("prefork")
    workers = [program.tell("fork"), program.tell("fork")]
    watched = Watched(program.pid)
    watched.look()
    labels, files = {sample.labels for sample in watched.samples}, len(os.listdir("/proc/self/fd"))
    for number in range(1000):
        program.tell(f"kill {workers[number % 2]}")
        workers[number % 2] = program.tell("fork")
        watched.look()

    assert {sample.labels for sample in watched.samples} == labels
    assert sum(watched.series("rag_process_restarts_total").values()) == 1000
    assert len(os.listdir("/proc/self/fd")) <= files


# What cannot be read, and what is too much


def test_without_permission_everything_is_counted_in_full_and_pss_is_not_known(spawn: Callable[..., Program]) -> None:
    """Nobody can see what another user's processes share: that is said, and nothing is taken off."""
    if os.geteuid():
        pytest.skip("needs root to become another user")
    program = spawn("prefork")
    program.tell("grow 100")
    program.tell("fork")

    def look() -> dict[str, Any]:
        watched = Watched(program.pid)
        watched.look(3)
        return {"used": watched.probe.used, "missing": sorted(watched.probe.missing)}

    found = as_nobody(look)

    assert found["missing"] == ["fd", "io", "pss"]
    assert set(found["used"]) == {"anon", "rss"}
    assert mib(found["used"]["anon"]) > 200


def test_herd_is_counted_and_bounded(spawn: Callable[..., Program]) -> None:
    """Two thousand children: a few have series, some hundreds are summed up, all are counted, and that is said."""
    program = spawn("prefork")
    census = Census()
    program.tell("herd 2000")
    watched = Watched(program.pid, census)
    begun = os.times()
    watched.look(10)
    spent = sum(os.times()[:2]) - sum(begun[:2])

    assert watched.series("rag_target_processes") == {"": 2001}
    assert len(watched.probe.slots) == MOST_SLOTS
    assert watched.series("rag_target_processes_left_out") == {"": 2001 - MOST_SLOTS}
    assert watched.probe.missing["tree"] == "only 256 of 2001 processes are counted"
    assert len({sample.labels for sample in watched.samples}) < 1000
    assert spent < 8, "a look at a herd takes a core"


def test_children_that_come_and_go_disturb_nothing(spawn: Callable[..., Program]) -> None:
    """A program that forks all the time is read all the same."""
    program = spawn("prefork")
    program.tell("grow 50")
    assert program.process.stdin
    program.process.stdin.write(b"churn 2000\n")
    program.process.stdin.flush()
    watched = Watched(program.pid)
    used = [mib(watched.look()["anon"]) for _ in range(200)]

    assert 50 < min(used) <= max(used) < 80


@pytest.mark.parametrize("told_first", [False, True])
def test_guard_and_desk_count_alike(spawn: Callable[..., Program], told_first: bool) -> None:
    """The guard is told what was measured, so one line means the same to both. Whoever looks first."""
    program = spawn("prefork")
    program.tell("grow 100")
    program.tell("fork")
    watched = Watched(program.pid)
    used = watched.look()["anon"]
    guards = Tree(program.pid, ("anon",), Census())
    if not told_first:
        guards.update(1.0)
        assert mib(guards.used_bytes("anon") - used) > 90
    guards.share(watched.probe.sharing.shares)
    guards.update(3.0)

    assert guards.used_bytes("anon") == used
    guards.share([[1, 2, 3, 4], [program.pid, 0, 10**30, 0]])
    assert guards.used_bytes("anon") == used, "another life of another process is none of ours"


@pytest.mark.parametrize(("error_mib", "cleanup", "line_mib", "certain"), [
    (64, "aggressive", 150, False),  # counted 193 MiB, in truth 97: within the error, so it is read exactly
    (64, "aggressive", 90, True),  # the exact reading is over the line, too
    (64, "standard", 150, True),  # a process is not made to wait for a cleanup that costs it little
    (64, "aggressive", 120, True),  # over by more than the error
    (7, "aggressive", 190, True),  # an error of less than 5 % of the line does not matter
    (0, "aggressive", 150, True),
])
def test_aggressive_cleanup_waits_for_certainty(
    spawn: Callable[..., Program], error_mib: int, cleanup: str, line_mib: int, certain: bool
) -> None:
    """Where the kernel's counters can be off by more than the overshoot, memory is read exactly before it is acted on.

    Two processes that share 100 MiB, of which the guard has not been told, stand for counters that are off.
    """
    program = spawn("prefork")
    program.tell("grow 90")
    program.tell("fork")
    watch = Watch("rag", Process(identify(program.pid)), Basis("anon", tree=True), Census())
    watch.tell(None, [], error_mib * MIB, 0.0)
    order = Order("o", "rag", cleanup, (), {}, line_mib * MIB)

    assert order.crossed(watch.read_used())
    assert watch.certain(order) == certain
    watch.close()


# The whole sidecar


def test_worker_over_the_line_gets_the_target_cleaned_up(spawn: Callable[..., Program], tmp_path: Path) -> None:
    """What the workers hold counts: the guard signals the server although it is small itself."""
    program = spawn("prefork", "with a handler")
    worker = program.tell("fork")
    target = {"name": "rag", "match": {"pid": program.pid}, "cleanup": [{"signal": "SIGUSR1"}],
              "memory": {"main": "150MiB", "critical": "180MiB"}}
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        wait_until(lambda: sidecar.series("rag_process_threads"), 10, "the workers' series")
        program.tell("grow 100")
        program.tell(f"worker {worker} grow 100")
        action = sidecar.outcome()
        page = sidecar.get("/metrics")

    assert (action["cleanup"], action["outcome"]) == ("aggressive", "effective")
    assert action["before_bytes"] > 180 * MIB
    assert 'process="worker-0"' in page


def test_fork_of_a_big_process_is_no_alarm(spawn: Callable[..., Program], tmp_path: Path) -> None:
    """Ten workers that share 120 MiB with their parent stay below a line of 180 MiB."""
    program = spawn("prefork", "with a handler")
    program.tell("grow 120")
    target = {"name": "rag", "match": {"pid": program.pid}, "cleanup": [{"signal": "SIGUSR1"}],
              "memory": {"main": "170MiB", "critical": "180MiB"}}
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_memory_used_bytes"), 10, "used bytes")
        for _ in range(10):
            program.tell("fork")
        wait_until(lambda: sidecar.value("rag_target_processes") == 11, 10, "the workers")
        ticks = sidecar.value("rag_sidecar_ticks_total") or 0
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) > ticks + 3, 10, "some ticks")

        assert sidecar.actions() == []
        assert (sidecar.value("rag_memory_used_bytes") or 0) < 170 * MIB


def test_one_target_does_not_read_the_other(spawn: Callable[..., Program]) -> None:
    """Two trees in one sampler, one census for both."""
    programs = [spawn("prefork"), spawn("prefork")]
    programs[0].tell("fork")
    targets = [Target(name, BASE.merged({"target": name}), identify(program.pid))
               for name, program in zip("ab", programs, strict=True)]
    sampler = Sampler(Labels({}), time.monotonic)
    samples = sampler.read(targets, 1.0).samples
    counts = {sample.labels["target"]: sample.value for sample in samples
              if sample.labels.metric == "rag_target_processes"}

    assert counts == {"a": 2, "b": 1}
