"""Several sidecars, one process: exactly one of them acts on it, whoever else is there."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target, wait_until
from guarding import ANON, Hands
from probing import as_nobody
from servers import free_port
from sidecars import Sidecar, config, running_sidecar

from sidecar.guard.claim import Claims
from sidecar.guard.process import Process, Remote
from sidecar.procfs import identify

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


@pytest.fixture
def guards(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hands, Hands]]:
    """Two guards without desks, that look soon whether the other is still there."""
    for module in ("claim", "watchlist"):
        monkeypatch.setattr(f"sidecar.guard.{module}.CLAIM_SECONDS", 0.05)
    made = Hands(), Hands()
    yield made
    for each in made:
        each.close()


def claims() -> Claims:
    """The claims of a guard that tells nobody."""
    return Claims(lambda *_, **__: 0)


def pidfs() -> bool:
    """Whether this kernel knows a process by one inode, whatever procfs one looks through."""
    ours, other = os.pidfd_open(os.getpid()), os.pidfd_open(os.getppid())
    try:
        return not os.path.sameopenfile(ours, other)
    finally:
        os.close(ours)
        os.close(other)


def handled(path: Path) -> int:
    """How many signals the target has handled."""
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_one_of_two_guards_acts_and_the_other_says_why_not(
    guards: tuple[Hands, Hands], spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Standing orders and orders for now: who came first carries them out, the other refuses them and says so once."""
    target = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(tmp_path / "handled"))
    for each in guards:
        each.watch(target)
        each.stand()
    target.tell("grow 100")
    guards[0].until("answered")
    target.tell("grow 100")
    guards[1].deliver()
    refused = guards[1].until("refused")
    for _ in range(20):
        guards[1].turn()

    assert (refused.order, refused.detail["reason"]) == ("o", "another_sidecar")
    assert guards[1].kinds() == ["foreign", "refused", "spent"]
    assert [part["foreign"] for part in guards[1].watchlist.held()] == [["t"]]
    assert handled(tmp_path / "handled") == 1
    assert "foreign" not in guards[0].kinds()


def test_when_the_one_ends_the_other_takes_over(
    guards: tuple[Hands, Hands], spawn: Callable[..., Target]
) -> None:
    """What it was ordered meanwhile holds from then on."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    for each in guards:
        each.watch(target)
        each.stand()
    target.tell("grow 100")
    guards[1].until("foreign")
    guards[0].watchlist.unwatch("t")
    guards[1].until("answered")

    assert guards[1].kinds() == ["foreign", "owned", "crossed", "delivered", "answered"]
    assert not any(part["foreign"] for part in guards[1].watchlist.held())
    wait_until(lambda: target.tell("grow 0") == 0, 5, "the memory to be dropped")


def test_who_only_rehearses_claims_nothing(guards: tuple[Hands, Hands], spawn: Callable[..., Target]) -> None:
    """A sidecar that observes or runs dry keeps no other from acting, and rehearses beside it."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    guards[0].watch(target)
    guards[0].stand(dry_run=True)
    guards[1].watch(target)
    guards[1].stand(again_after_seconds=0.0)
    target.tell("grow 100")
    assert guards[0].until("answered").detail["dry_run"]
    guards[1].until("answered")
    target.tell("grow 100")
    guards[0].stand(dry_run=True, id="again")
    wait_until(lambda: (guards[0].turn(), guards[0].kinds().count("answered") == 2)[1], 5, "a second rehearsal")

    assert "foreign" not in guards[0].kinds() + guards[1].kinds()


def test_two_targets_of_one_sidecar_may_share_a_process(
    guards: tuple[Hands, Hands], spawn: Callable[..., Target]
) -> None:
    """A sidecar does not stand in its own way; it lets go when the last of them is not watched any more."""
    target = spawn("leaky", "--handle", "SIGUSR1")
    for name in "tu":
        guards[0].watchlist.watch(name, list(identify(target.pid)), ANON)
        assert guards[0].watchlist.claims.take(name, guards[0].watchlist.watches[name].process)
    other, process = claims(), Process(identify(target.pid))
    guards[0].watchlist.unwatch("u")
    assert not other.take("t", process)
    guards[0].watchlist.unwatch("t")
    assert other.take("t", process)
    other.release("t")
    process.close()


def test_target_without_a_process_is_everyones() -> None:
    """There is nothing here to hold of what is known by an URL alone."""
    assert claims().take("t", Remote())
    assert claims().take("t", Remote())


def test_claim_costs_no_descriptor_after_its_end(spawn: Callable[..., Target]) -> None:
    """Taken or refused, again and again: everything is given back."""
    target = spawn("leaky")
    before, ours, other = len(os.listdir("/proc/self/fd")), claims(), claims()
    process = Process(identify(target.pid))
    for _ in range(50):
        assert ours.take("t", process)
        assert ours.take("t", process)
        assert not other.take("t", process)
        ours.release("t")
    process.close()

    assert len(os.listdir("/proc/self/fd")) <= before  # what earlier tests have left may be collected meanwhile


def holder(pid: int, uid: int) -> "subprocess.Popen[bytes]":
    """A process of this user that has locked everything it can of another one."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(pid), str(uid)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    return process


HOLDER = """
import fcntl, os, sys, time
pid, uid = map(int, sys.argv[1:])
os.setgid(uid)
os.setuid(uid)
fds = [os.pidfd_open(pid), os.open(f"/proc/{pid}", 0)]
try:
    fds.append(os.open(f"/proc/{pid}/environ", 0))
except PermissionError:
    pass
for fd in fds:
    fcntl.flock(fd, fcntl.LOCK_EX)
print(len(fds), flush=True)
time.sleep(100)
"""


@AS_ROOT
@pytest.mark.skipif(not pidfs(), reason="before Linux 6.9 such a lock would be one on all processes together")
def test_stranger_cannot_keep_us_from_acting(spawn: Callable[..., Target]) -> None:
    """Another user who locks what everybody may open of a process is no sidecar that could act on it."""
    target = spawn("leaky")
    process, stranger = Process(identify(target.pid)), holder(target.pid, 65534)
    try:
        ours = claims()
        assert ours.take("t", process)
        ours.release("t")
    finally:
        stranger.kill()
        stranger.communicate()
        process.close()


@AS_ROOT
def test_who_may_not_trace_the_process_claims_it_by_its_directory(spawn: Callable[..., Target]) -> None:
    """Two sidecars of one user beside another user's process exclude each other, too."""
    target = spawn("leaky")

    def excluded() -> bool:
        process, same = Process(identify(target.pid)), Process(identify(target.pid))
        with pytest.raises(PermissionError):
            os.open("environ", os.O_RDONLY, dir_fd=process.dir_fd)
        return claims().take("t", process) and not claims().take("t", same)

    assert as_nobody(excluded)


PRIVATE = """
import sys
sys.path.insert(0, sys.argv[2])
from sidecar.guard.claim import Claims
from sidecar.guard.process import Process
from sidecar.procfs import identify
claims, process = Claims(lambda *_, **__: 0), Process(identify(int(sys.argv[1])))
print(claims.take("t", process), flush=True)
sys.stdin.read()
"""


@AS_ROOT
@pytest.mark.skipif(not pidfs(), reason="a procfs of one's own hides the locks of others before Linux 6.9")
def test_sidecar_with_a_procfs_of_its_own_is_excluded_too(spawn: Callable[..., Target], checkout: Path) -> None:
    """Containers have their own mounts of procfs, whose files are others; the process is the same one."""
    target = spawn("leaky")
    script = 'mount -t proc proc /proc && echo mounted && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, "-c", PRIVATE, str(target.pid), checkout]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert other.stdout
    try:
        if not other.stdout.readline():
            pytest.skip(f"needs a mount namespace: {other.communicate()[1].decode()}")
        assert other.stdout.readline() == b"True\n"
        process = Process(identify(target.pid))
        assert not claims().take("t", process)
        with open(f"/proc/{target.pid}/environ", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as free as if nobody had it
        process.close()
    finally:
        other.kill()
        other.communicate()


def claimed(sidecar: Sidecar, pid: int) -> bool:
    """Whether this sidecar's guard keeps the process's environ open, which is its claim."""
    folder = Path(f"/proc/{sidecar.process.pid}/fd")
    return any(os.path.realpath(fd) == f"/proc/{pid}/environ" for fd in folder.iterdir())


def test_of_two_sidecars_one_acts_and_its_end_makes_the_other_act(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """As users meet it: started twice, each cleanup is asked for once, also after one of them was killed."""
    asked = tmp_path / "handled"
    leaky = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(asked))
    target = {"name": "rag", "match": {"pid": leaky.pid}, "cleanup": [{"signal": "SIGUSR1"}],
              "memory": {"main": "140MiB", "critical": "150MiB"}}
    ports, folders = (free_port(), free_port()), (tmp_path / "a", tmp_path / "b")
    for folder in folders:
        folder.mkdir()
    files = [config(port, folder, [target]) for port, folder in zip(ports, folders, strict=True)]
    with running_sidecar(folders[0], file=files[0], port=ports[0]) as first:
        wait_until(lambda: claimed(first, leaky.pid), 20, "the first sidecar to claim the target")
        with running_sidecar(folders[1], file=files[1], port=ports[1]) as second:
            leaky.tell("grow 200")
            wait_until(lambda: handled(asked) == 1, 10, "the cleanup")
            assert first.outcome()["outcome"] == "effective"
            assert not claimed(second, leaky.pid)
            for pid in (first.process.pid, first.child("desk")):
                os.kill(pid, signal.SIGKILL)
            first.process.wait()
            wait_until(lambda: claimed(second, leaky.pid), 20, "the second sidecar to take over")
            leaky.tell("grow 200")
            assert second.outcome()["outcome"] in ("effective", "skipped")
            wait_until(lambda: handled(asked) == 2, 20, "the cleanup by the second")

    assert [json.loads(line)["signal"] for line in asked.read_text().splitlines()] == ["SIGUSR1"] * 2
