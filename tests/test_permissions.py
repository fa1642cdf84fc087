"""Who may read what of whom: each pair of users, by what the sampler tells. Unreadable is left out and named."""

import ctypes
import os
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from probing import BASE, OWN, Obedient, seen_as, values

from sidecar.model import Target
from sidecar.probes.sampler import Sampler
from sidecar.procfs import identify

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")

THEM, OTHERS = 54321, 54322
DOCKER = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_RAW, SYS_CHROOT, MKNOD,
AUDIT_WRITE, SETFCAP: capability.h's numbers of what Docker leaves to root."""
SYS_PTRACE, VERSION_3 = 19, 0x20080522
NOT_DUMPABLE, DUMPABLE = "libc.prctl(4, 0, 0, 0, 0)", "libc.prctl(4, 1, 0, 0, 0)"

SERIES = {"anon": ("rag_process_memory_bytes anon",), "fd": ("rag_process_open_fds", "rag_process_max_fds"),
          "io": ("rag_process_io_bytes_total read", "rag_process_io_bytes_total write"),
          "gc": ("rag_python_gc_collections_total 0", "rag_python_gc_enabled"), "tree": ("rag_target_processes",)}
"""Capability → some of the series that need it."""


def user(uid: int) -> Callable[[], None]:
    """Become this user, without any capability."""
    def become() -> None:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)

    return become


def root_with(*capabilities: int) -> Callable[[], None]:
    """Stay root, with these capabilities and no others; also after an exec."""
    libc = ctypes.CDLL(None, use_errno=True)

    def become() -> None:
        for number in range(64):
            if number not in capabilities:
                libc.prctl(24, number, 0, 0, 0)  # PR_CAPBSET_DROP
        mask = sum(1 << number for number in capabilities)
        words = [mask & 0xFFFFFFFF, mask & 0xFFFFFFFF, 0, mask >> 32, mask >> 32, 0]
        if libc.capset((ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)(*words)):
            raise OSError(ctypes.get_errno(), "capset")

    return become


WHO = {"root": lambda: None, "them": user(THEM), "others": user(OTHERS), "docker": root_with(*DOCKER),
       "ptrace": root_with(SYS_PTRACE)}


@pytest.fixture
def running() -> Iterator[Callable[[str], Obedient]]:
    """Start a Python as one of WHO: what it may do is settled before it is executed, so it is as open as any."""
    started: list[Obedient] = []

    def start(who: str) -> Obedient:
        started.append(Obedient(preexec_fn=WHO[who], cwd="/", executable=sys._base_executable))  # type: ignore[attr-defined]
        started[-1].do("import ctypes, os, time; libc = ctypes.CDLL(None); held = bytearray(30 << 20)")
        return started[-1]

    yield start
    for each in started:
        each.end()


class Looking:
    """A sampler on one process. Lives as long as whoever made it."""

    def __init__(self, pid: int) -> None:
        self._target = Target("rag", BASE, identify(pid))
        self._sampler = Sampler(OWN, time.monotonic)

    def look(self, at: float) -> dict[str, dict[str, float]]:
        """What it tells, by process; what is told of the whole target is under ""."""
        found = self._sampler.read([self._target], at).samples
        return {process: values([sample for sample in found if sample.labels.get("process", "") == process])
                for process in {sample.labels.get("process", "") for sample in found}}


def told_to(who: str, pid: int) -> dict[str, dict[str, float]]:
    """What the sampler tells one of WHO."""
    found: dict[str, dict[str, float]] = seen_as(WHO[who], lambda: Looking(pid).look(1000.0))
    return found


def capabilities(told: dict[str, dict[str, float]]) -> dict[str, float]:
    """Capability → its value; the cgroup's is another matter, and there is no agent."""
    found = {name.split()[-1]: value for name, value in told[""].items() if "attach_capability" in name}
    assert found.pop("cgroup") in (0, 1)
    assert found.pop("agent") == 0
    return found


def everything(**but: int) -> dict[str, int]:
    """All capabilities, but these."""
    return {**dict.fromkeys(("anon", "fd", "io", "pss", "tree", "gc"), 1), **but}


@pytest.mark.parametrize(("who", "whom", "prepared", "expected"), [
    ("root", "root", "", everything()),
    ("root", "them", "", everything()),
    ("root", "them", NOT_DUMPABLE, everything()),
    ("them", "them", "", everything()),
    ("them", "them", NOT_DUMPABLE, everything(fd=0, io=0, pss=0, gc=0)),
    ("others", "them", "", everything(fd=0, io=0, pss=0, gc=0)),
    ("them", "root", "", everything(fd=0, io=0, pss=0, gc=0)),
    ("docker", "them", "", everything(io=0, pss=0, gc=0)),
    ("docker", "docker", "", everything()),
    ("docker", "root", "", everything(io=0, pss=0, gc=0)),
    ("ptrace", "them", "", everything(fd=0, io=0, gc=0)),
])
def test_who_may_read_what_of_whom(
    running: Callable[[str], Obedient], who: str, whom: str, prepared: str, expected: dict[str, int]
) -> None:
    """Each pair: what cannot be read is said, and none of its series is there; what can be is there."""
    target = running(whom)
    target.do(prepared or "pass")
    told = told_to(who, target.process.pid)
    series = {name for samples in told.values() for name in samples}

    assert told[""]["rag_target_up"] == 1
    assert capabilities(told) == expected
    for capability, names in SERIES.items():
        assert {name for name in names if name in series} == (set(names) if expected[capability] else set())
    assert told["main"]["rag_process_memory_bytes anon"] > 30 << 20


def test_cgroup_is_no_secret(running: Callable[[str], Obedient]) -> None:
    """It is found and read by everybody, or by nobody."""
    target = running("them")
    found = {who: told_to(who, target.process.pid)[""]["rag_sidecar_attach_capability cgroup"] for who in WHO}

    assert set(found.values()) in ({0}, {1}), found


def test_worker_of_another_user_lacks_only_what_is_its_own(running: Callable[[str], Obedient]) -> None:
    """A server of root's whose worker has dropped its rights, seen by a root that may do as much as a container's.

    The worker has figures of memory, and none of what may not be read; nothing of what it uses is taken off.
    """
    server = running("docker")
    server.do("reading, writing = os.pipe()")
    server.do("pid = os.fork() or [os.setgid(54321), os.setuid(54321), libc.prctl(1, 9), os.write(writing, b'1'), "
              "time.sleep(120), os._exit(0)]")
    server.do("os.read(reading, 1)")
    told = told_to("docker", server.process.pid)
    worker, main = told["worker-0"], told["main"]

    assert main.keys() - worker.keys() >= {"rag_process_io_bytes_total read", "rag_python_gc_enabled"}
    assert worker["rag_process_memory_bytes anon"] > 30 << 20
    assert worker["rag_process_open_fds"] > 0
    assert told[""].get("rag_memory_shared_bytes anon", 0) == 0


def test_what_was_forbidden_is_tried_again(running: Callable[[str], Obedient]) -> None:
    """A process that keeps itself closed while it starts is read completely some minutes later."""
    target = running("them")
    target.do(NOT_DUMPABLE)

    def look() -> list[dict[str, float]]:
        looking = Looking(target.process.pid)
        closed = capabilities(looking.look(1000.0))
        target.do(DUMPABLE)
        return [closed, capabilities(looking.look(1070.0))]

    assert seen_as(WHO["them"], look) == [everything(fd=0, io=0, pss=0, gc=0), everything()]
