"""What the probes can read of the target: tried with the probes themselves, under the names of our metrics.

The facts of this group are those of `rag_sidecar_attach_capability{capability}`.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import closing

from sidecar.doctor import identity
from sidecar.doctor.facts import UNREADABLE, Fact, printable, told
from sidecar.doctor.patient import Patient
from sidecar.doctor.refusals import refused
from sidecar.errors import ProbeFailed
from sidecar.model import Labels, Target
from sidecar.probes.agent_socket import dial
from sidecar.probes.cgroup import CgroupProbe
from sidecar.probes.process import RSS, THREADS, ProcessProbe
from sidecar.thresholds import mib

GROUP = "reading"
GUARDED = ("fd", "io")
"""What a probe may find refused: facts that bear the name of their file."""
SERIES = {"anon": "anonymous and shared memory, swap: what only it can give back",
          "fd": "count of open descriptors", "io": "bytes read and written"}


def target(patient: Patient) -> Target:
    """It, as the probes want it."""
    return Target("rag", Labels(), patient.identity)


def facts(patient: Patient) -> Iterator[Fact]:
    """Every capability, tried, but for gc and cgroup, which tell more."""
    yield from _process(patient)
    yield from identity.tree(patient)
    yield _opened(patient, "pss", "smaps_rollup", "proportional set size, exact; read seldom: it holds up the target")
    yield _opened(patient, "maps", "maps", "which files are mapped, as finding Python takes")
    yield _exe(patient)
    yield _agent(patient)


def _process(patient: Patient) -> Iterator[Fact]:
    """process, anon, fd and io, as the probe of the sampler finds them."""
    try:
        with closing(ProcessProbe(target(patient), patient.roots.proc)) as probe:
            samples = {sample.labels.metric: sample.value for sample in probe.read(0.0)}
            missing = probe.missing
    except UNREADABLE as error:
        yield Fact(GROUP, "process", "missing", told(error))
        return
    threads = int(samples[THREADS])
    yield Fact(GROUP, "process", "ok", f"{mib(samples[RSS])} resident, {threads} thread{'s'[:threads > 1]}")
    for name, what in SERIES.items():
        if name not in missing:
            yield Fact(GROUP, name, "ok", what)
        elif name in GUARDED:
            yield _why_missing(patient, name, missing[name])
        else:
            yield Fact(GROUP, name, "missing", missing[name], "this kernel or sandbox does not tell the kinds apart",
                       "choose basis rss or cgroup")


def _why_missing(patient: Patient, name: str, said: str) -> Fact:
    """The probe tells that it was refused; why, only the file itself can say."""
    try:
        os.close(os.open(f"{patient.folder}/{name}", os.O_RDONLY | os.O_CLOEXEC))
    except FileNotFoundError:
        return Fact(GROUP, name, "missing", said, "the kernel was built without it")
    except OSError as error:
        return refused(patient, GROUP, name, name, error)
    return refused(patient, GROUP, name, name, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))  # when read


def _opened(patient: Patient, name: str, file: str, what: str) -> Fact:
    """Whether a file can be opened, where the kernel checks. It is not read: that may hold up the target."""
    try:
        os.close(os.open(f"{patient.folder}/{file}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        return Fact(GROUP, name, "missing", f"no {patient.folder}/{file}", "this kernel or sandbox does not have it")
    except OSError as error:
        return refused(patient, GROUP, name, file, error)
    return Fact(GROUP, name, "ok", what)


def _exe(patient: Patient) -> Fact:
    try:
        os.stat(f"{patient.folder}/exe")
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            return Fact(GROUP, "exe", "missing", f"no {patient.folder}/exe", "a kernel thread, or its file is gone")
        return refused(patient, GROUP, "exe", "exe", error)
    return Fact(GROUP, "exe", "ok", "which program it runs: an exec is noticed")


def _agent(patient: Patient) -> Fact:
    """Whether there is an agent in it: its socket is connected to, and nothing is said."""
    try:
        dial(patient.pid, lambda: None, proc=patient.roots.proc).close()
    except ProbeFailed as error:
        if error.reason == "absent":
            return Fact(GROUP, "agent", "info", str(error))
        return Fact(GROUP, "agent", "missing", str(error), "what is there is not used", "see docs/agent-channel.md")
    except OSError as error:
        return refused(patient, GROUP, "agent", "root", error)
    return Fact(GROUP, "agent", "ok", "there is one in it: it tells more, and cleans up when asked")


def cgroup(patient: Patient) -> tuple[Fact, int | None, bool]:
    """(the fact, the limit in bytes, whether it is known): no limit and none that can be read are not the same."""
    try:
        with closing(CgroupProbe(target(patient), *patient.roots)) as probe:
            probe.read(0.0)
            limit, basis, used = probe.limit_bytes, probe.basis, probe.used["cgroup"]
    except FileNotFoundError as error:
        return Fact(GROUP, "cgroup", "missing", told(error), "no memory cgroup of it is mounted where we can see it",
                    "mount /sys/fs/cgroup read-only into the sidecar, or set memory lines in bytes"), None, False
    except PermissionError as error:
        return refused(patient, GROUP, "cgroup", "root", error), None, False
    except UNREADABLE as error:
        return Fact(GROUP, "cgroup", "missing", told(error)), None, False
    version = "v1" if basis.usage.endswith("_in_bytes") else "v2"
    folder = basis.usage.rpartition("/")[0]
    return (Fact(GROUP, "cgroup", "ok", f"{version}, {mib(used)} that the kernel cannot take back, in "
                 + printable(folder)), limit, True)
