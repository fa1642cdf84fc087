"""Why the kernel refuses a file of /proc/PID, and what would help.

The rules are those of ptrace(2), "Ptrace access mode checking", of proc_pid(5), and of the kernel's Yama.rst.
"""

from collections.abc import Iterator
from typing import NamedTuple

from sidecar.doctor.facts import Fact, Need, told
from sidecar.doctor.patient import DAC_OVERRIDE, DAC_READ_SEARCH, SYS_PTRACE, Patient

OWNED = ("fd", "io", "mem")
"""Files with a mode for their owner only."""
TRACED = ("io", "smaps_rollup", "maps", "exe", "root", "mem")
"""Files that take the right to read another process (PTRACE_MODE_READ; for mem PTRACE_MODE_ATTACH)."""

NOT_FROM_OUTSIDE = "only the program itself can tell then: give it a debug endpoint"


class Refusal(NamedTuple):
    """One reason, what to do about it, and what that needs."""

    why: str
    do: str
    needs: tuple[Need, ...]


def refused(patient: Patient, group: str, name: str, file: str, error: OSError) -> Fact:
    """The fact that `file` of /proc/PID may not be read, with every reason that holds."""
    if not isinstance(error, PermissionError):
        return Fact(group, name, "missing", told(error))
    found = list(refusals(patient, file))
    return Fact(group, name, "missing", f"{error.strerror}: {patient.folder}/{file}",
                "; ".join(each.why for each in found), "; ".join(dict.fromkeys(each.do for each in found)),
                tuple(dict.fromkeys(need for each in found for need in each.needs)))


def unwritable(patient: Patient, group: str, name: str, error: OSError) -> Fact:
    """The fact that memory which may be read may not be written to, as by somebody with CAP_DAC_READ_SEARCH alone."""
    us, it = patient.us, patient.it
    what = f"`rag-sidecar attach` could not put the agent into it: {told(error)}"
    if not isinstance(error, PermissionError) or us.can(DAC_OVERRIDE) or patient.owner == us.uids[3]:
        return Fact(group, name, "info", what)
    as_it = f"call attach as {it.user}, or " if patient.owner == it.uids[1] and not it.changes_user else ""
    return Fact(group, name, "info", what, f"it belongs to user {patient.owner}: its owner writes to it, or who has "
                "CAP_DAC_OVERRIDE; CAP_DAC_READ_SEARCH is for reading", f"{as_it}add CAP_DAC_OVERRIDE",
                ("dac_override",))


def refusals(patient: Patient, file: str) -> Iterator[Refusal]:
    """Every reason why this file is refused to us; if none is known, that."""
    found = [*_of_the_user(patient, file), *_of_tracing(patient, file), *_of_yama(patient, file)]
    if not found and patient.namespaces["user"] is False:
        found = [Refusal("it lives in another user namespace: what we may do in ours does not hold there",
                         "run the sidecar in the target's user namespace, or outside of both", ())]
    yield from found or [Refusal("users, capabilities and Yama allow it: a security module (AppArmor, SELinux), a "
                                 "sandbox (gVisor) or a user namespace refuses it",
                                 "look into the kernel's log for what refused it", ())]


def _of_the_user(patient: Patient, file: str) -> Iterator[Refusal]:
    """Another user's process, or one whose files belong to another user."""
    us, it = patient.us, patient.it
    may_open = us.can(DAC_OVERRIDE, DAC_READ_SEARCH) or file not in OWNED
    if us.can(SYS_PTRACE):
        if not may_open and patient.owner != us.uids[3]:
            can_be_its_user = patient.owner == it.uids[1] and not it.changes_user
            yield Refusal(f"it belongs to user {patient.owner}, and only its owner may open it: CAP_SYS_PTRACE does "
                          "not help, CAP_DAC_READ_SEARCH would",
                          (f"run the sidecar as {it.user}, or " if can_be_its_user else "") + "add CAP_DAC_READ_SEARCH"
                          + (", or CAP_DAC_OVERRIDE, which `attach` needs" if file == "mem" else ""),
                          ("same_user", "dac_read") if can_be_its_user else ("dac_read",))
    elif file not in TRACED and may_open:
        return
    elif it.changes_user:
        yield Refusal("it has changed its user or group and holds on to the old one: only CAP_SYS_PTRACE may look",
                      "run the sidecar as root with CAP_SYS_PTRACE", ("sys_ptrace",))
    elif us.uids[3] != it.uids[1] or us.gids[3] != it.gids[1]:
        yield Refusal(f"it runs as {it.user}, we as {us.user}: without capabilities one reads one's own processes "
                      "only, of the same user and group", f"run the sidecar as {it.user}", ("same_user",))


def _of_tracing(patient: Patient, file: str) -> Iterator[Refusal]:
    """What the process itself has set, or holds."""
    us, it = patient.us, patient.it
    if us.can(SYS_PTRACE):
        return
    if patient.dumpable is False and not (file == "fd" and us.can(DAC_OVERRIDE, DAC_READ_SEARCH)):
        yield Refusal("it is not dumpable (PR_SET_DUMPABLE, or it changed its user after its start): only "
                      "CAP_SYS_PTRACE may look", "start it as its user from the beginning, or run the sidecar as root "
                      "with CAP_SYS_PTRACE", ("sys_ptrace",))
    elif file in TRACED and us.uids[3] == it.uids[1] and it.permitted & ~us.effective:
        yield Refusal("it has capabilities that we have not, and only CAP_SYS_PTRACE looks up to them",
                      "give the sidecar the same capabilities, or CAP_SYS_PTRACE", ("sys_ptrace",))


def _of_yama(patient: Patient, file: str) -> Iterator[Refusal]:
    """The machine's rule for looking into memory: not for descendants in scope 1, but a sidecar is no ancestor."""
    if file != "mem" or not patient.yama:
        return
    if patient.yama >= 3:
        yield Refusal("kernel.yama.ptrace_scope is 3: nobody may look into another process until the next boot",
                      NOT_FROM_OUTSIDE, ())
    elif not patient.us.can(SYS_PTRACE):
        yield Refusal(f"kernel.yama.ptrace_scope is {patient.yama}: memory is read by "
                      + ("ancestors, by whom the target names, or" if patient.yama == 1 else "nobody, except")
                      + " with CAP_SYS_PTRACE",
                      "give the sidecar CAP_SYS_PTRACE" + (", or have the target allow it (PR_SET_PTRACER)"
                                                           if patient.yama == 1 else ""), ("yama",))
