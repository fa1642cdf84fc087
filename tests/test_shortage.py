"""A machine short of memory or descriptors: what cannot be read for a while has not ended. The kernel's own errors."""

import ctypes
import errno
import platform
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from conftest import Target, wait_until
from guarding import MIB, Hands, no_descriptors, order
from probing import OWN, Obedient, target, values

from sidecar.discovery.match import ByPid
from sidecar.discovery.roster import Roster, Wanted
from sidecar.guard.process import NotTheSame, Process
from sidecar.guard.tree import Census, Member, Tree
from sidecar.model import Labels
from sidecar.probes.sampler import Sampler
from sidecar.procfs import identify

PREAD = {"x86_64": 17, "aarch64": 67}.get(platform.machine())
"""The number of pread64(2), with which files that are kept open are read."""
NO_NEW_PRIVS, SECCOMP, FILTER, ERROR, ALLOW = 38, 22, 2, 0x00050000, 0x7FFF0000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06

Result = TypeVar("Result")

pytestmark = pytest.mark.skipif(PREAD is None, reason="the numbers of system calls are known for x86_64 and aarch64")


def fail_to_read() -> None:
    """From now on the kernel answers pread64 in this thread with ENOMEM: seccomp(2), which no thread gets rid of."""
    steps = ((LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, PREAD), (RETURN, 0, 0, ERROR | errno.ENOMEM), (RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SECCOMP, FILTER, ctypes.c_void_p(ctypes.addressof(program))):
        raise OSError(ctypes.get_errno(), "seccomp filters cannot be set here")


def without_memory(call: Callable[[], Result]) -> Result:
    """What comes of it where the kernel has no memory for reading /proc. Raises what `call` raises."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            fail_to_read()
            results.append(call())
        except BaseException as error:  # told to the test
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    for error in errors:
        raise error
    return results[0]


class Readable(Member):
    """The first process of a tree, of which the kernel still has the figures at hand."""

    __slots__ = ()

    def __init__(self) -> None: ...

    def own_bytes(self, kind: str) -> int:
        """None of its own."""
        return 0


@pytest.fixture
def hands() -> Iterator[Hands]:
    """A guard without a desk."""
    made = Hands()
    yield made
    made.close()


@pytest.fixture
def obedient() -> Iterator[Obedient]:
    """A running Python, ended with its test."""
    running = Obedient()
    yield running
    running.end()


def test_process_that_cannot_be_read_is_not_gone(obedient: Obedient) -> None:
    """Whether it is the same is not known while memory is short; once it has ended it is gone, memory or not."""
    process = Process(identify(obedient.process.pid))
    with pytest.raises(OSError, match="Cannot allocate memory"):
        without_memory(process.check)
    process.check()
    obedient.process.kill()
    wait_until(process.ended, 10, "its end")
    with pytest.raises(NotTheSame, match="gone"):
        without_memory(process.check)
    process.close()


def test_order_that_comes_while_memory_is_short_is_refused_and_the_next_one_delivered(
    hands: Hands, spawn: Callable[..., Target]
) -> None:
    """The target is held all the time: nobody is told that it had ended."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    hands.watch(leaky)
    leaky.tell("grow 100")
    watch = hands.watchlist.watches["t"]
    without_memory(lambda: hands.deliveries.begin(order(), watch, time.monotonic()))
    assert hands.until("refused").detail["reason"] == "unreadable"
    assert "delivered" not in hands.kinds()
    hands.deliver()
    hands.until("answered")

    assert "gone" not in hands.kinds()


def test_signal_is_not_taken_for_answered_because_that_cannot_be_seen(
    hands: Hands, spawn: Callable[..., Target]
) -> None:
    """A delivery under way is awaited until its answer can be read."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    hands.watch(leaky)
    leaky.tell("grow 100")
    leaky.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: Path(f"/proc/{leaky.pid}/stat").read_text().split()[2] == "T", 10, "the stop")
    hands.deliver()
    without_memory(lambda: hands.deliveries.poll(time.monotonic()))
    before = hands.deliveries.in_flight("t")
    leaky.process.send_signal(signal.SIGCONT)
    hands.until("answered")

    assert before


def test_worker_that_cannot_be_read_still_counts(spawn: Callable[..., Target]) -> None:
    """Used bytes are not known then, rather than too few; afterwards they are what they were."""
    server = spawn("prefork")
    worker = server.tell("fork")
    server.tell(f"worker {worker} grow 50")
    tree = Tree(server.pid, ("anon",), Census())
    tree.update(1.0)
    before, first = tree.used_bytes("anon"), tree.members[server.pid]
    tree.members[server.pid] = Readable()
    with pytest.raises(OSError, match="Cannot allocate memory"):
        without_memory(lambda: tree.used_bytes("anon"))
    tree.members[server.pid] = first

    assert len(tree.members) == tree.count == 2
    assert tree.used_bytes("anon") == before > 50 * MIB


@pytest.mark.parametrize("short", ["memory", "descriptors"])
def test_target_is_not_lost_because_it_cannot_be_looked_at(obedient: Obedient, short: str) -> None:
    """Discovery keeps the process that it has found until it sees its end."""
    pid = obedient.process.pid
    roster = Roster([Wanted("rag", Labels({"target": "rag"}), ByPid(pid))], ())
    known = roster.update()[0].identity
    roster.doubt("rag")
    if short == "memory":
        found = without_memory(roster.update)
    else:
        with no_descriptors():
            found = roster.update()
    assert found[0].identity == known is not None
    roster.doubt("rag")
    assert roster.update()[0].identity == known
    obedient.end()
    roster.doubt("rag")
    assert roster.update()[0].identity is None


def test_first_look_without_descriptors_says_so_and_the_next_one_finds_it(obedient: Obedient) -> None:
    """A target that has not been found yet is found when there are descriptors, as the same process as ever."""
    roster = Roster([Wanted("rag", Labels({"target": "rag"}), ByPid(obedient.process.pid))], ())
    with no_descriptors():
        missing = roster.update()[0]
    assert missing.identity is None
    assert "Too many open files" in missing.missing
    assert roster.update()[0].identity == identify(obedient.process.pid)


def test_target_that_cannot_be_read_is_down_for_now_and_goes_on_as_it_was(obedient: Obedient) -> None:
    """Its probes stay, and nobody is told to let go of it: used bytes are not known, which is not an end."""
    rag, sampler = target(obedient.process.pid), Sampler(OWN, time.monotonic)
    sampler.read([rag], 1.0)
    before = sampler.attached("rag")
    short = without_memory(lambda: sampler.read([rag], 2.0))
    after = sampler.read([rag], 3.0)

    assert values(short.samples)["rag_target_up"] == 0
    assert short.used == {"rag": {}}
    assert "Cannot allocate memory" in short.sights["rag"].missing["process"]
    assert sampler.attached("rag") is before is not None
    assert values(after.samples)["rag_target_up"] == 1
    obedient.end()
    ended = sampler.read([rag], 4.0)
    assert "rag" not in ended.used
    assert sampler.attached("rag") is None


def test_memory_is_read_on_without_descriptors(obedient: Obedient) -> None:
    """Only what has to be opened anew is missing, with the reason."""
    rag, sampler = target(obedient.process.pid), Sampler(OWN, time.monotonic)
    sampler.read([rag], 1.0)
    with no_descriptors():
        short = sampler.read([rag], 2.0)
    found = values(short.samples)
    assert found["rag_target_up"] == 1
    assert found["rag_process_resident_memory_bytes"] > 0
    assert "rag_process_open_fds" not in found
    assert short.sights["rag"].missing["fd"] == f"Too many open files: /proc/{obedient.process.pid}/fd"
