"""The guard in need: its cgroup is full, its target is stuck in the kernel, no descriptor is left. The order arrives.

A machine that is short of memory as a whole is not tried: it would take everybody else's memory, too.
"""

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, read_line, wait_until
from guarding import Hands, no_descriptors
from rooms import USABLE, WHY_NOT, Room, entering, tell
from servers import free_port
from sidecars import MIB, Sidecar, config, running_sidecar

from sidecar.procfs import anon_bytes

LIMIT = 256 * MIB
BARE = "prlimit", "--memlock=65536", "setpriv", "--bounding-set=-all", "--inh-caps=-all"
"""What stands behind it runs as this user, who may do nothing that others may not."""
PIDS = Path("/sys/fs/cgroup/pids")
SPARE = 24 * MIB
"""Less than a desk takes, and more than a guard."""

limited = pytest.mark.skipif(not USABLE, reason=WHY_NOT)


@pytest.fixture
def room() -> Iterator[Room]:
    """A cgroup with a limit of 256 MiB."""
    made = Room("need", LIMIT)
    yield made
    made.close()


@pytest.fixture
def endless(tmp_path: Path) -> str:
    """A file that fills every page cache, and takes no room on the disk."""
    path = tmp_path / "endless"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    return str(path)


def by_signal(name: str, pid: int, critical: str = "260MiB", **memory: str) -> dict[str, Any]:
    """A target that is asked by a signal beyond its line."""
    lines = {"main": "190MiB", "critical": critical, **memory}
    return {"name": name, "match": {"pid": pid}, "memory": lines, "cleanup": [{"signal": "SIGUSR1"}]}


def in_force(sidecar: Sidecar) -> None:
    """Wait until used bytes are known, and orders have followed from that."""
    wait_until(lambda: sidecar.value("rag_target_up") == 1, 20, "the target")
    ticks = sidecar.value("rag_sidecar_ticks_total") or 0
    wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) > ticks + 1, 20, "two ticks")


def anonymous_bytes(pid: int) -> int:
    """What a process has of its own."""
    return anon_bytes(Path(f"/proc/{pid}/status").read_bytes())


@limited
@pytest.mark.parametrize("bare", [(), BARE], ids=["with its memory locked", "without any privilege"])
def test_full_cgroup_of_its_own_keeps_the_guard_from_nothing(
    tmp_path: Path, room: Room, endless: str, spawn: Callable[..., Target], bare: tuple[str, ...]
) -> None:
    """While each page that the guard or the desk takes must be wrung from the page cache, the order arrives."""
    target, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    file = config(port, tmp_path / "state", [by_signal("t", target.pid)])
    with running_sidecar(tmp_path, file=file, port=port, within=[*entering(room.path), *bare]) as sidecar:
        in_force(sidecar)
        taken = sum(anonymous_bytes(int(pid)) for pid in (room.path / "cgroup.procs").read_text().split())
        neighbour = room.start("leaky", "--read", endless)
        tell(neighbour, f"grow {(LIMIT - taken - SPARE) // MIB}")
        assert read_line(neighbour, "the growth")
        wait_until(lambda: room.read("memory.failcnt") > 0, 20, "the limit")
        target.tell("grow 300")

        assert sidecar.outcome()["outcome"] == "effective"
        assert room.read("memory.failcnt") > 0
        assert neighbour.poll() is None
        assert sidecar.process.poll() is None


@limited
def test_guard_acts_while_the_kernel_kills_one_desk_after_another(
    tmp_path: Path, room: Room, spawn: Callable[..., Target]
) -> None:
    """Where no desk fits any more the guard, which is smaller, lives and acts; the next desk judges what it did."""
    handled, port, file = tmp_path / "handled", free_port(), Path(f"/dev/shm/rag-sidecar-need-{os.getpid()}")
    target = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(handled))
    written = config(port, tmp_path / "state", [by_signal("t", target.pid)])
    try:
        with running_sidecar(tmp_path, file=written, port=port, within=entering(room.path)) as sidecar:
            in_force(sidecar)
            count = (LIMIT - anonymous_bytes(sidecar.process.pid) - SPARE) // MIB
            subprocess.run([*entering(room.path), "dd", "if=/dev/zero", f"of={file}", "bs=1M", f"count={count}"],
                           stderr=subprocess.DEVNULL, check=True)
            wait_until(lambda: sidecar.log.read_text().count("the desk was killed by signal 9") > 1, 40, "two kills")
            target.tell("grow 300")
            wait_until(lambda: handled.exists() and handled.read_text(), 10, "the signal")
            file.unlink()

            wait_until(sidecar.ready, 60, "a desk that lives")
            assert sidecar.outcome()["outcome"] == "effective"
            assert sidecar.process.poll() is None
    finally:
        file.unlink(missing_ok=True)


@limited
def test_target_that_is_in_reclaim_all_the_time_gets_its_order(tmp_path: Path, room: Room, endless: str) -> None:
    """A program at its limit, whose every page has to be found first, is asked as any other, and answers."""
    process = room.start("leaky", "--handle", "SIGUSR1", "--read", endless)
    wait_until(lambda: room.read("memory.failcnt") > 0, 20, "the limit")
    port = free_port()
    target = by_signal("t", process.pid, "220MiB", basis="cgroup")
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", [target]), port=port) as sidecar:
        in_force(sidecar)
        tell(process, "grow 220")

        assert sidecar.outcome()["outcome"] == "effective"
        assert process.poll() is None


@limited
def test_target_that_the_kernel_holds_keeps_nobody_else_waiting(
    tmp_path: Path, room: Room, spawn: Callable[..., Target]
) -> None:
    """Who waits for memory in the kernel takes no signal until it has some; other targets get theirs meanwhile."""
    room.write("memory.oom_control", 1)
    process, other, port = room.start("bursting", "150"), spawn("leaky", "--handle", "SIGUSR1"), free_port()
    targets = [by_signal("held", process.pid, "220MiB", basis="cgroup"), by_signal("other", other.pid)]
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", targets), port=port) as sidecar:
        wait_until(lambda: sum(sidecar.series("rag_target_up").values()) == 2, 20, "both targets")
        ticks = sidecar.value("rag_sidecar_ticks_total") or 0
        wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) > ticks + 1, 20, "two ticks")
        tell(process, "call 120")
        wait_until(lambda: room.control("under_oom"), 10, "the hold")
        other.tell("grow 300")
        sidecar.outcome()
        outcomes = {action["target"]: action["outcome"] for action in sidecar.actions()}
        assert outcomes == {"held": "running", "other": "effective"}

        room.write("memory.limit_in_bytes", 2 * LIMIT)
        assert read_line(process, "the end of the burst") == "done"
        sidecar.outcome(count=2)
        outcomes = {action["target"]: action["outcome"] for action in sidecar.actions()}
        assert outcomes == {"held": "effective", "other": "effective"}


def test_orders_that_come_while_no_descriptor_is_left_are_carried_out(spawn: Callable[..., Target]) -> None:
    """Whether another sidecar acts on the target cannot be seen then: it is acted on, and the guard lives."""
    target, hands = spawn("leaky", "--handle", "SIGUSR1"), Hands()
    try:
        hands.watch(target)
        files = len(os.listdir("/proc/self/fd"))
        with no_descriptors():
            hands.stand()
            target.tell("grow 100")
            hands.until("answered")
        assert len(os.listdir("/proc/self/fd")) == files
    finally:
        hands.close()


def without_descriptors(sidecar: Sidecar) -> None:
    """From now on the guard can open nothing: what is open stays so."""
    _, hard = resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE, (3, hard))


@pytest.mark.parametrize("channel", ["agent", "signal"])
def test_order_needs_no_new_descriptor(spawn: Callable[..., Target], tmp_path: Path, channel: str) -> None:
    """All that a delivery takes was opened when the target came: none left is no reason not to act."""
    port = free_port()
    if channel == "agent":
        target = spawn("cared_for", "--place", str(tmp_path))
        entry = {"name": "t", "match": {"pid": target.pid}, "memory": {"main": "190MiB", "critical": "260MiB"},
                 "agent": {"directory": str(tmp_path), "every": "1s"}, "cleanup": [{"agent": {}}]}
    else:
        target = spawn("leaky", "--handle", "SIGUSR1")
        entry = by_signal("t", target.pid)
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", [entry]), port=port) as sidecar:
        if channel == "agent":
            wait_until(lambda: sum(sidecar.series("rag_agent_up").values()) == 1, 20, "the agent")
        in_force(sidecar)
        without_descriptors(sidecar)
        target.tell("grow 300")

        attempt = sidecar.outcome()
        assert (attempt["channel"], attempt["outcome"]) == (channel, "effective")


@pytest.mark.skipif(os.geteuid() != 0 or not PIDS.exists(), reason="takes root and the cgroup hierarchy of processes")
def test_post_needs_no_new_thread(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """Where a container may have no more threads the courier carries out one order after the other."""
    target, port, room = spawn("leaky", "--http", "0"), free_port(), PIDS / f"rag-sidecar-need-{os.getpid()}"
    entry = by_signal("t", target.pid) | {"cleanup": [{"http": {"url": f"{target.url}/cleanup"}}]}
    room.mkdir()
    try:
        file = config(port, tmp_path / "state", [entry])
        with running_sidecar(tmp_path, file=file, port=port, within=entering(room)) as sidecar:
            in_force(sidecar)
            courier = wait_until(lambda: sidecar.child("courier"), 20, "the courier")
            (room / "pids.max").write_text("1")
            target.tell("grow 300")

            attempt = sidecar.outcome()
            assert (attempt["channel"], attempt["outcome"]) == ("http", "effective")
            assert sidecar.child("courier") == courier
    finally:
        wait_until(lambda: not (room / "cgroup.procs").read_text(), 10, "the end of its processes")
        room.rmdir()


def test_guard_without_descriptors_says_what_it_cannot_hold_and_holds_it_later(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Which target is not guarded, and why, stands in the log; it is guarded as soon as that is possible."""
    port, pidfile = free_port(), tmp_path / "pid"
    file = json.loads(config(port, tmp_path / "state", [by_signal("t", 0)]))
    file["targets"][0]["match"] = {"pidfile": str(pidfile)}
    with running_sidecar(tmp_path, file=json.dumps(file), port=port) as sidecar:
        _, hard = resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE)
        without_descriptors(sidecar)
        target = spawn("leaky", "--handle", "SIGUSR1")
        pidfile.write_text(str(target.pid))
        wait_until(lambda: sidecar.said("guard"), 20, "a word")
        said = sidecar.said("guard")[0]
        assert (said["target"], said["kind"]) == ("t", "unreadable")
        assert "Too many open files" in said["reason"]

        resource.prlimit(sidecar.process.pid, resource.RLIMIT_NOFILE, (hard, hard))
        target.tell("grow 300")
        assert sidecar.outcome()["outcome"] == "effective"
