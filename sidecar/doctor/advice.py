"""The lines to add, so that the sidecar sees and may do what it cannot yet: only those that would change something.

The target's own user, without any capability, comes first; CAP_SYS_PTRACE only where that is not enough. In containers
a capability is of no effect for a user other than root (moby/moby#38664, kubernetes/kubernetes#56374).
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sidecar.doctor.facts import Fact
from sidecar.doctor.patient import Patient
from sidecar.doctor.surroundings import RunsIn

WHERE = {"compose": "compose.yaml", "kubernetes": "the pod's manifest", "systemd": "systemctl edit rag-sidecar.service",
         "shell": "the command line"}
PR_SET_PTRACER = 0x59616D61
"""linux/prctl.h; with −1 for every process that may otherwise look."""


class Advice(NamedTuple):
    """Lines to add and where: `title` says what for, `place` the file or command."""

    title: str
    place: str
    lines: tuple[str, ...]


class Plan(NamedTuple):
    """How the sidecar should run: as whom ("UID:GID"), with what, next to what."""

    user: str
    capabilities: tuple[str, ...] = ()
    shared: bool = False
    unhidden: bool = False


def advise(patient: Patient, facts: Sequence[Fact], kind: RunsIn, chosen: bool) -> Iterator[Advice]:
    """What to add for a target that runs in `kind`. Where a person has `chosen` it, all that a sidecar takes there."""
    needs = {need for fact in facts for need in fact.needs}
    it, stranger = patient.it, patient.it.user != patient.us.user
    apart = patient.namespaces["pid"] is False and kind in ("compose", "kubernetes")
    root = it.changes_user or patient.dumpable is False
    if not root and (chosen or (stranger and needs & {"same_user", "dac_read", "kill"})):
        yield Advice("the target's own user may look and send signals, without any capability", WHERE[kind],
                     _lines(kind, Plan(it.user, (), apart or chosen, "hidepid" in needs), patient.pid))
    of_children = "same_user" in needs and not stranger  # there is no user who is each of them
    if "sys_ptrace" in needs or of_children or (root and (chosen or "dac_read" in needs)):
        yield Advice("to look into a process that only CAP_SYS_PTRACE may look into", WHERE[kind],
                     _lines(kind, _powerful(kind, patient, apart or chosen), patient.pid))
    if "yama" in needs or (chosen and not root and patient.yama in (1, 2)):
        yield from _yama(kind, patient, apart or chosen)


def unhide(kind: RunsIn) -> Advice:
    """What shows processes that /proc hides."""
    if kind == "systemd":
        return Advice("to see other users' processes", WHERE[kind], ("[Service]", "ProtectProc=default"))
    return Advice("to see other users' processes", "as root, on this machine",
                  ("mount -o remount,hidepid=0 /proc",))


def _powerful(kind: RunsIn, patient: Patient, shared: bool) -> Plan:
    """Root in a container, where nobody else holds a capability; under systemd the target's user with ambient ones."""
    if kind == "systemd":
        owned = ("CAP_DAC_READ_SEARCH",) if patient.dumpable is False or patient.it.changes_user else ()
        return Plan(patient.it.user, ("CAP_SYS_PTRACE", *owned), shared)
    return Plan("0:0", ("SYS_PTRACE",), shared)


def _yama(kind: RunsIn, patient: Patient, shared: bool) -> Iterator[Advice]:
    """Three ways, from the narrowest to the widest."""
    if patient.yama == 1:
        allow = f"ctypes.CDLL(None).prctl({PR_SET_PTRACER:#x}, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER"
        yield Advice("for the garbage collector's figures: the target itself allows it, at its start",
                     "the target's code", ("import ctypes", allow))
    yield Advice("or: the sidecar may look into any process", WHERE[kind],
                 _lines(kind, _powerful(kind, patient, shared), patient.pid))
    if patient.yama == 1:
        yield Advice("or: every process of this machine may look into those of its own user",
                     "as root, on this machine", ("sysctl -w kernel.yama.ptrace_scope=0",))


def _lines(kind: RunsIn, plan: Plan, pid: int) -> tuple[str, ...]:
    return {"compose": _compose, "kubernetes": _kubernetes, "systemd": _systemd, "shell": _shell}[kind](plan, pid)


def _compose(plan: Plan, _: int) -> tuple[str, ...]:
    found = ["services:", "  rag-sidecar:"]
    if plan.shared:
        found.append('    pid: "service:rag"  # the name of the target\'s service')
    found.append(f'    user: "{plan.user}"')
    if plan.capabilities:
        found.append(f"    cap_add: [{', '.join(plan.capabilities)}]")
    return tuple(found)


def _kubernetes(plan: Plan, _: int) -> tuple[str, ...]:
    found = ["spec:"]
    if plan.shared:
        found.append("  shareProcessNamespace: true")
    user, group = plan.user.split(":")
    found += ["  containers:", "    - name: rag-sidecar", "      securityContext:", f"        runAsUser: {user}",
              f"        runAsGroup: {group}"]
    if plan.capabilities:
        found.append(f"        capabilities: {{add: [{', '.join(plan.capabilities)}]}}")
    return tuple(found)


def _systemd(plan: Plan, _: int) -> tuple[str, ...]:
    user, group = plan.user.split(":")
    found = ["[Service]", f"User={user}", f"Group={group}"]
    if plan.capabilities:
        found.append(f"AmbientCapabilities={' '.join(plan.capabilities)}")
    if plan.unhidden:
        found.append("ProtectProc=default")
    return tuple(found)


def _shell(plan: Plan, pid: int) -> tuple[str, ...]:
    if plan.capabilities:
        return (f"sudo rag-sidecar run --pid {pid}",)
    user, group = plan.user.split(":")
    return (f"sudo -u '#{user}' -g '#{group}' rag-sidecar run --pid {pid}",)
