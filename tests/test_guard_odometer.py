"""What the kernel has handed out speaks for many targets at once: nobody is left alone who may be near a line."""

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target
from guarding import ANON, MIB, Hands, order
from hypothesis import given
from hypothesis import strategies as st

from sidecar.guard.agenda import MANY, MOST_OUTDATED, Agenda
from sidecar.guard.odometer import FAR_BYTES, NEAR_BYTES, Odometer, handed_out
from sidecar.guard.process import Process
from sidecar.guard.tree import Census
from sidecar.guard.watch import BURST_BYTES_PER_SECOND, FOREVER, Watch
from sidecar.guard.wire import Basis
from sidecar.procfs import PAGE_BYTES, identify

NOW = 1000.0
FAR = 4 * FAR_BYTES


def write(folder: Path, handed_out_bytes: float, shared_bytes: int = 0) -> None:
    """A /proc/vmstat that says this."""
    pages = int(handed_out_bytes) // PAGE_BYTES
    (folder / "vmstat").write_text(
        f"nr_free_pages 1\nnr_shmem {shared_bytes // PAGE_BYTES}\nnr_writeback 0\npgpgin 5\npgalloc_dma 0\n"
        f"pgalloc_dma32 {pages // 2}\npgalloc_normal {pages - pages // 2}\npgalloc_movable 0\nallocstall_normal 7\n")


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Ourselves under watch, far from a line."""
    found = Watch("t", Process(identify(os.getpid())), Basis("anon"), Census())
    found.distance_bytes, found.next_look, found.look_by = FAR, NOW + 0.1, NOW + 1.0
    yield found
    found.close()


def test_a_target_is_named_before_it_can_have_reached_its_line(tmp_path: Path, watch: Watch) -> None:
    """Whoever takes the memory that is handed out, a target is looked at again before that could be its whole room."""
    write(tmp_path, 10 * MIB)
    odometer, now = Odometer(NOW, str(tmp_path)), NOW
    room = FAR - handed_out((tmp_path / "vmstat").read_bytes())[1]
    assert odometer.vouch(watch)
    taken = 0.0
    while True:
        assert odometer.next_read > now
        taken += (odometer.next_read - now) * BURST_BYTES_PER_SECOND / 3  # as much again as somebody else takes
        now = odometer.next_read
        assert taken <= room
        write(tmp_path, 10 * MIB + taken)
        if named := odometer.read(now):
            break
    assert named == [("t", NOW + 0.1)]
    assert room - NEAR_BYTES < taken <= room
    assert odometer.next_read == FOREVER


def test_who_bursts_right_after_a_reading_is_read_of_at_its_line(tmp_path: Path, watch: Watch) -> None:
    """A target that takes as much as a core can is not past its line when the next reading comes."""
    write(tmp_path, 0)
    odometer = Odometer(NOW, str(tmp_path))
    odometer.vouch(watch)
    assert (odometer.next_read - NOW) * BURST_BYTES_PER_SECOND <= FAR


@pytest.mark.parametrize(("change", "vouched"), [
    ({}, True), ({"distance_bytes": FAR_BYTES}, False), ({"distance_bytes": FOREVER}, False),
    ({"basis": Basis("rss")}, False), ({"basis": Basis("pss")}, False), ({"basis": Basis("cgroup")}, False),
    ({"_growth": BURST_BYTES_PER_SECOND}, False)])
def test_only_for_who_is_far_and_grows_by_new_pages(
        tmp_path: Path, watch: Watch, change: dict[str, object], vouched: bool) -> None:
    """Near a line, and where cached files count, a target is looked at itself as ever."""
    write(tmp_path, 0)
    for name, value in change.items():
        setattr(watch, name, value)
    assert Odometer(NOW, str(tmp_path)).vouch(watch) == vouched


def test_shared_memory_may_be_mapped_without_a_page_being_handed_out(tmp_path: Path, watch: Watch) -> None:
    """Where mapping what others have made of shared memory would reach the line, a target is looked at itself."""
    write(tmp_path, 0, shared_bytes=FAR)
    assert not Odometer(NOW, str(tmp_path)).vouch(watch)


@pytest.mark.parametrize("then", ["", "nr_shmem 5\npgalloc_", "\npgalloc_normal x\nnr_shmem 5\n", "again"])
def test_where_the_kernel_tells_no_more_all_are_looked_at(tmp_path: Path, watch: Watch, then: str) -> None:
    """A /proc/vmstat that becomes unreadable, or begins anew, vouches for nobody."""
    write(tmp_path, 10 * MIB)
    odometer = Odometer(NOW, str(tmp_path))
    assert odometer.vouch(watch)
    if then == "again":
        write(tmp_path, 5 * MIB)
    else:
        (tmp_path / "vmstat").write_text(then)
    assert odometer.read(NOW + 0.01) == [("t", NOW + 0.1)]


@pytest.mark.parametrize("text", [b"", b"\nnr_shmem 5\n", b"\npgalloc_normal 1\n"])
def test_a_kernel_that_does_not_count_is_not_believed(text: bytes) -> None:
    """gVisor, for one, does not tell what it has handed out."""
    with pytest.raises(ValueError, match="not found"):
        handed_out(text)


def counters() -> dict[str, int]:
    """/proc/vmstat, by name."""
    return {name: int(number) for name, number in map(str.split, Path("/proc/vmstat").read_text().splitlines())}


@pytest.mark.parametrize("way", ["touched", "populated", "huge", "shared"])
def test_the_kernel_counts_every_page_that_a_program_gets(way: str) -> None:
    """However memory is taken, what this machine's kernel says to have handed out is at once no less than that."""
    if "pgalloc_normal" not in counters():
        pytest.skip("needs a kernel that counts what it hands out")
    size, before = 64 * MIB, handed_out(Path("/proc/vmstat").read_bytes())[0]
    flags = (mmap.MAP_SHARED if way == "shared" else mmap.MAP_PRIVATE) | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, size, flags | (mmap.MAP_POPULATE if way == "populated" else 0)) as taken:
        if way == "huge":
            taken.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size, PAGE_BYTES):
            taken[at] = 1
        assert handed_out(Path("/proc/vmstat").read_bytes())[0] - before >= size


def test_a_leap_among_many_is_seen_though_none_is_looked_at(
        spawn: Callable[..., Target], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many targets a quiet one is looked at when memory is taken, and a leap to its line is seen at once."""
    monkeypatch.setattr("sidecar.guard.watch.LONGEST_SECONDS", 1e6)  # nobody's turn comes by time alone
    target, hands = spawn("leaky", "--handle", "SIGUSR1"), Hands()
    names = ["t", *(f"t{at}" for at in range(MANY))]
    try:
        for name in names:
            hands.watchlist.watch(name, list(identify(target.pid)), ANON)
        if "pgalloc_normal" not in counters() or counters()["nr_shmem"] * PAGE_BYTES > 60 * MIB:
            pytest.skip("needs a kernel that counts what it hands out, and little shared memory on the machine")
        odometer = hands.watchlist.agenda.odometer
        assert odometer
        line = hands.watchlist.watches["t"].read_used() + 300 * MIB
        for name in names:
            hands.watchlist.stand(name, [order(target=name, line_bytes=line, times=0 if name != "t" else 1)], 10**6)
        hands.stand(line_bytes=line)
        hands.turn()
        vouched = set(odometer._marks)
        target.tell("grow 400")
        crossed = hands.until("crossed")
    finally:
        for name in names:
            hands.watchlist.unwatch(name)
        hands.close()
    assert "t" in vouched
    assert crossed.detail["used_bytes"] > line


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.0, 1.0, 2.0, 3.0, None])), max_size=40))
def test_each_is_due_when_it_was_last_said_to_be(steps: list[tuple[str, float | None]]) -> None:
    """Whoever is put off, called early or dropped in between is due once, at the time that holds."""
    agenda, holds = Agenda(), dict[str, float]()
    for target, at in steps:
        if at is None:
            agenda.drop(target)
            holds.pop(target, None)
        else:
            agenda.put(target, at)
            holds[target] = at
    assert agenda.first() == min(holds.values(), default=FOREVER)
    for now in (1.0, 3.0):
        found = []
        for target in agenda.due(now):
            found.append(target)
            agenda.drop(target)
        assert sorted(found) == sorted(name for name, at in holds.items() if now - 2.0 < at <= now)


def test_what_is_put_off_again_and_again_does_not_pile_up() -> None:
    """A target of which something is heard at every moment takes no more memory than one that is quiet."""
    agenda = Agenda()
    for at in range(10_000):
        agenda.put("t", float(at))
    assert len(agenda._heap) <= MOST_OUTDATED + 2
    assert agenda.first() == 9999.0
