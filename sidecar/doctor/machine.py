"""This machine and this sidecar, whatever the target: kernel, capabilities, what the configuration needs."""

import os
import platform
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

from sidecar.doctor import guard
from sidecar.doctor.facts import UNREADABLE, Fact, Roots, told
from sidecar.doctor.patient import DAC_OVERRIDE, DAC_READ_SEARCH, KILL, SYS_PTRACE, hidepid, ourselves, read, yama_scope
from sidecar.probes.cgroup import V1, paths
from sidecar.procfs import CLOCK_TICKS

GROUP = "machine"
CAPABILITIES = {"SYS_PTRACE": SYS_PTRACE, "DAC_OVERRIDE": DAC_OVERRIDE, "DAC_READ_SEARCH": DAC_READ_SEARCH,
                "KILL": KILL}
YAMA = {0: "any process of the same user may be looked into", 1: "memory is read by ancestors, or with CAP_SYS_PTRACE",
        2: "memory is read with CAP_SYS_PTRACE only", 3: "nobody reads another process's memory until the next boot"}
FEW_FILES = 256


def facts(roots: Roots, listen: tuple[str, int], storage: Path) -> Iterator[Fact]:
    """`listen` and `storage` are those of the configuration."""
    yield Fact(GROUP, "kernel", "info", f"{platform.system()} {platform.release()} {platform.machine()}")
    yield Fact(GROUP, "python", "info", f"{platform.python_implementation()} {platform.python_version()} runs us")
    yield _ourselves(roots)
    yield _yama(roots)
    hides = hidepid(roots)
    yield Fact(GROUP, "hidepid", "warning" if hides else "ok", f"hidepid={hides}" if hides else "/proc hides nothing",
               "processes of other users cannot be found" if hides else "")
    yield _cgroup(roots)
    yield _pressure(roots)
    yield Fact(GROUP, "clock", "info", f"{CLOCK_TICKS} ticks a second: how exact start times are")
    yield files(GROUP)
    yield guard.fact(GROUP, roots)
    yield _listen(*listen)
    yield _storage(storage)


def files(group: str) -> Fact:
    """How many files we may have open: a target takes about ten."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    said = "as many as we like" if soft == resource.RLIM_INFINITY else str(soft)
    if 0 <= soft < FEW_FILES:
        return Fact(group, "files", "warning", f"we may open {soft}", "each process of a target takes several",
                    "raise RLIMIT_NOFILE (ulimit -n)")
    return Fact(group, "files", "ok", f"we may open {said}")


def _ourselves(roots: Roots) -> Fact:
    try:
        us = ourselves(roots)
    except UNREADABLE as error:
        return Fact(GROUP, "capabilities", "missing", told(error))
    held = ", ".join(f"CAP_{name}" for name, number in CAPABILITIES.items() if us.can(number))
    filtered = {None: "", 0: ""}.get(us.seccomp, ", under a seccomp filter")
    return Fact(GROUP, "capabilities", "info", f"we are {us.user} with {held or 'none of those that matter'}{filtered}")


def _yama(roots: Roots) -> Fact:
    scope = yama_scope(roots)
    return Fact(GROUP, "yama", "info", f"ptrace_scope {scope}: {YAMA.get(scope, 'not known')}")


def _cgroup(roots: Roots) -> Fact:
    try:
        found = [version for version, _ in paths(read(f"{roots.proc}/self/cgroup").decode("utf-8", "replace"))]
    except UNREADABLE as error:
        return Fact(GROUP, "cgroup", "missing", told(error))
    if not found:
        return Fact(GROUP, "cgroup", "missing", "no memory cgroups", "the kernel was built or started without them")
    return Fact(GROUP, "cgroup", "ok", "v1 has the memory" if found[0] is V1 else "v2")


def _pressure(roots: Roots) -> Fact:
    try:
        read(f"{roots.proc}/pressure/memory")
    except UNREADABLE as error:
        return Fact(GROUP, "pressure", "info", f"no pressure figures (PSI): {told(error)}")
    return Fact(GROUP, "pressure", "ok", "pressure figures (PSI) can be read")


def _listen(host: str, port: int) -> Fact:
    """Whether we could listen there: bound for a moment, never listened on."""
    address = f"{host}:{port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(found[0], found[1]) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(found[4])
    except OSError as error:
        return Fact(GROUP, "listen", "warning", f"{address}: {told(error)}",
                    "a sidecar that runs already, or another program", "choose another --web.listen-address")
    return Fact(GROUP, "listen", "ok", f"{address} is free")


def _storage(path: Path) -> Fact:
    """Whether the state could be kept there. Nothing is made or written."""
    elsewhere = "choose another --storage.path"
    there = next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))
    if not there.is_dir():
        return Fact(GROUP, "storage", "missing", f"{there} is no directory", do=elsewhere)
    if not os.access(there, os.W_OK | os.X_OK):
        return Fact(GROUP, "storage", "missing", f"{there} may not be written to by us", do=elsewhere)
    return Fact(GROUP, "storage", "ok", f"{path}" + ("" if there == path else " can be made"))
