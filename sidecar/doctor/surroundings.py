"""What the target runs in, and the limits around it and us."""

from collections.abc import Iterator
from typing import Literal

from sidecar.doctor.facts import UNREADABLE, Fact, told
from sidecar.doctor.machine import files
from sidecar.doctor.patient import Patient, read

GROUP = "limits"
RunsIn = Literal["compose", "kubernetes", "systemd", "shell"]
"""What starts the target, and so what kind of lines would change how the sidecar runs. `shell`: none that we know."""

MARKS: tuple[tuple[RunsIn, tuple[str, ...]], ...] = (
    ("kubernetes", ("kubepods", "/var/lib/kubelet/pods/", "/kubernetes.io/serviceaccount")),
    ("compose", ("docker", "libpod", "containerd", "crio-", "/containers/overlay-containers/")))


def runs_in(patient: Patient) -> RunsIn:
    """By its cgroup's path, else by what is mounted into it: both may be read of any process."""
    try:
        cgroup = read(f"{patient.folder}/cgroup").decode("utf-8", "replace")
    except UNREADABLE:
        cgroup = ""
    try:
        mounts = read(f"{patient.folder}/mountinfo").decode("utf-8", "replace")
    except UNREADABLE:
        mounts = ""
    inside = "\n".join(" ".join(line.split()[3:5]) for line in mounts.splitlines() if _is_of_a_container(line))
    for text in (cgroup, inside):
        for kind, marks in MARKS:
            if any(mark in text for mark in marks):
                return kind
    return "systemd" if ".service" in cgroup or ".slice" in cgroup else "shell"


def _is_of_a_container(line: str) -> bool:
    """Whether a line of mountinfo is of a file that engines mount into a container: the host shows their folders."""
    return line.split()[4:5] in (["/etc/hosts"], ["/etc/hostname"], ["/etc/resolv.conf"], ["/dev/termination-log"],
                                 ["/run/secrets/kubernetes.io/serviceaccount"],
                                 ["/var/run/secrets/kubernetes.io/serviceaccount"])


def facts(patient: Patient) -> Iterator[Fact]:
    """What runs out besides memory, and who is killed first."""
    kind = runs_in(patient)
    said = {"compose": "a container", "kubernetes": "a pod", "systemd": "a unit of systemd", "shell": "no container"}
    yield Fact(GROUP, "runs_in", "info", said[kind])
    yield files(GROUP)
    yield _its_files(patient)
    yield _oom(patient)


def _its_files(patient: Patient) -> Fact:
    try:
        limits = read(f"{patient.folder}/limits").decode("utf-8", "replace").splitlines()
    except UNREADABLE as error:
        return Fact(GROUP, "target_files", "missing", told(error))
    soft = next((line.split()[3] for line in limits if line.startswith("Max open files") and len(line.split()) > 3), "")
    return Fact(GROUP, "target_files", "info", f"it may open {soft}" if soft else "not shown by this kernel")


def _oom(patient: Patient) -> Fact:
    try:
        its, ours = (int(read(f"{folder}/oom_score_adj")) for folder in (patient.folder, f"{patient.roots.proc}/self"))
    except UNREADABLE as error:
        return Fact(GROUP, "oom_score_adj", "missing", told(error))
    if ours > its:
        return Fact(GROUP, "oom_score_adj", "warning", f"its {its}, ours {ours}",
                    "out of memory, the kernel is readier to kill the sidecar than the target",
                    f"give the sidecar an oom_score_adj of {its} or less")
    return Fact(GROUP, "oom_score_adj", "ok", f"its {its}, ours {ours}")
