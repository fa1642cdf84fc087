"""What limits the target's memory, where the lines would lie, and how exact the figures are."""

import os
from collections.abc import Iterator
from contextlib import closing

from sidecar.doctor.facts import UNREADABLE, Fact, told
from sidecar.doctor.patient import Patient, read
from sidecar.doctor.reading import cgroup
from sidecar.errors import SidecarError
from sidecar.guard.limits import MIB, Refused, check, limit_of
from sidecar.probes.cgroup_paths import Sight
from sidecar.procfs import rss_error_bytes, status_field
from sidecar.thresholds import Thresholds, Wanted, mib, resolve

GROUP = "memory"


def facts(patient: Patient, wanted: Wanted) -> Iterator[Fact]:
    """The cgroup, its limit, the lines that would hold, swap."""
    fact, limit, known = cgroup(patient)
    yield fact
    if not known:
        yield Fact(GROUP, "limit", "missing", "not known: that is not \"unlimited\"", "the cgroup cannot be read",
                   "see cgroup, or set memory lines in bytes")
    elif limit is None:
        yield Fact(GROUP, "limit", "info", "none, from its own cgroup up to the root")
    else:
        yield Fact(GROUP, "limit", "ok", f"{mib(limit)}, the tightest from its own cgroup up")
    yield _lines(limit, known, wanted)
    yield _swap(patient)
    yield _exactness(patient)
    if limit is not None:
        yield _brake(patient)


def _brake(patient: Patient) -> Fact:
    """Whether it could be held at its limit instead of being killed there. Nothing is written."""
    proc, sys = patient.roots
    try:
        _, levels = Sight(patient.identity.pid, proc, sys.rstrip("/").removesuffix("sys")).memory()
        if levels[0].path.startswith("/proc/"):
            raise Refused("its cgroup is only seen in its own mounts")
        with closing(limit_of(levels[0].path)) as held:
            check(held, patient.identity.pid, MIB, proc)
            if not held.writable():
                raise Refused(f"{held.folder}/{held.LIMIT} may not be written")
    except Refused as error:
        return Fact(GROUP, "brake", "info", "could not be held at its limit", str(error))
    except UNREADABLE as error:
        return Fact(GROUP, "brake", "info", "could not be held at its limit", told(error))
    return Fact(GROUP, "brake", "info", "could be held at its limit: `brake` of a target, docs/brake.md")


def _lines(limit: int | None, known: bool, wanted: Wanted) -> Fact:
    """The thresholds, as `run` would find them."""
    try:
        found = resolve(limit, wanted)
    except SidecarError as error:
        return Fact(GROUP, "lines", "missing", str(error), do=error.help)
    what = _said(found)
    if found.armed:
        return Fact(GROUP, "lines", "warning" if found.warnings else "ok", what, "; ".join(found.warnings))
    return Fact(GROUP, "lines", "warning", what,
                ("no limit" if known else "no limit that can be read") + ", and no line was set: nothing is done then",
                "set --memory.main and --memory.critical, or limit the target's cgroup")


def _exactness(patient: Patient) -> Fact:
    """The kernel keeps a part of resident memory in counters of its own: how much that can be."""
    try:
        release = read(f"{patient.roots.proc}/sys/kernel/osrelease").decode("ascii", "replace").strip()
        threads = status_field(read(f"{patient.folder}/status"), b"Threads")
    except UNREADABLE:
        return Fact(GROUP, "exactness", "info", "not known")
    error = rss_error_bytes(release, os.cpu_count() or 1, threads)
    return Fact(GROUP, "exactness", "info", f"resident memory is off by up to {mib(error)}" if error else
                "resident memory is exact on this kernel")


def _said(found: Thresholds) -> str:
    main, critical = found.main, found.critical
    source = critical.source if main.source == critical.source else f"{main.source}, {critical.source}"
    return f"main {mib(main.size_bytes)}, critical {mib(critical.size_bytes)} ({source}), basis {found.basis}"


def _swap(patient: Patient) -> Fact:
    """Swapped-out memory leaves the resident size; what the bases anon and cgroup count, they count with it."""
    try:
        swapped = status_field(read(f"{patient.folder}/status"), b"VmSwap", 0)
        total = status_field(read(f"{patient.roots.proc}/meminfo"), b"SwapTotal", 0)
    except UNREADABLE:
        return Fact(GROUP, "swap", "info", "not known")
    if not total and not swapped:
        return Fact(GROUP, "swap", "info", "none on this machine")
    return Fact(GROUP, "swap", "info", f"{mib(swapped)} of it swapped out, {mib(total)} on this machine")
