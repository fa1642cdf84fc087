"""Who the target is, as far as anybody may know: number, program, user, age, namespaces, processes."""

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from sidecar.doctor.facts import UNREADABLE, Fact, printable
from sidecar.doctor.patient import SYS_PTRACE, Patient, hidepid, meet, read
from sidecar.doctor.refusals import refused
from sidecar.errors import TargetGone
from sidecar.procfs import CLOCK_TICKS, boot_time, parent_pid

GROUP = "identity"
MOST_PROCESSES = 1 << 16


def facts(patient: Patient, now: float) -> Iterator[Fact]:
    """Who it is. `now` is Unix time."""
    it = patient.it
    inner = f", {it.pids[-1]} in its own pid namespace" if len(it.pids) > 1 else ""
    yield Fact(GROUP, "pid", "info", f"{patient.pid}{inner}")
    yield Fact(GROUP, "program", "info", _program(patient))
    same = it.uids[1] == patient.us.uids[1] and it.gids[1] == patient.us.gids[1]
    yield Fact(GROUP, "user", "info", f"{it.user}, {'as we' if same else f'we are {patient.us.user}'}")
    yield Fact(GROUP, "started", "info", _started(patient, now))
    yield _namespaces(patient)
    yield _claimed(patient)
    yield from _life(patient)


def tree(patient: Patient) -> Iterator[Fact]:
    """How many processes it has, whether it is a prefork server, and whether its children can be read as well."""
    found = descendants(patient)
    yield _tree(patient, found)
    for pid in found:
        try:
            os.close(os.open(f"{patient.roots.proc}/{pid}/smaps_rollup", os.O_RDONLY | os.O_CLOEXEC))
        except PermissionError as error:
            with suppress(TargetGone):
                yield refused(meet(pid, patient.roots), "reading", "children", "smaps_rollup", error)
                return  # what holds for one holds for its like
        except OSError:
            continue  # it has ended
    if found:
        yield Fact("reading", "children", "ok", "its other processes can be read, too")


def _tree(patient: Patient, found: dict[int, str]) -> Fact:
    hides = hidepid(patient.roots)
    if hides and not patient.us.can(SYS_PTRACE):
        return Fact("reading", "tree", "warning", f"{len(found) + 1} that can be seen",
                    f"/proc is mounted with hidepid={hides}: children of another user are hidden",
                    "mount /proc without hidepid, or run as root with CAP_SYS_PTRACE", ("hidepid",))
    if not found:
        return Fact("reading", "tree", "ok", "one process, without children")
    workers = [name for name in found.values() if name == patient.name]
    is_server = len(workers) > 1 and (patient.server or patient.is_python)
    said = f"a prefork server, main and {len(workers)} workers" if is_server else "counted together"
    return Fact("reading", "tree", "ok", f"{len(found) + 1} processes: {said}")


def descendants(patient: Patient) -> dict[int, str]:
    """Pid → name of every process below it, of those that can be seen now."""
    children: dict[int, list[tuple[int, str]]] = {}
    for pid in [int(name) for name in os.listdir(patient.roots.proc) if name.isdigit()][:MOST_PROCESSES]:
        try:
            stat = read(f"{patient.roots.proc}/{pid}/stat")
            name = stat[stat.index(b"(") + 1:stat.rindex(b")")].decode("utf-8", "replace")
            children.setdefault(parent_pid(stat), []).append((pid, name))
        except UNREADABLE:
            continue  # it has ended, or is hidden
    found: dict[int, str] = {}
    waiting = [patient.pid]
    for parent in waiting:
        for pid, name in children.get(parent, ()):
            if pid not in found and pid != patient.pid:
                found[pid] = name
                waiting.append(pid)
    return found


def _program(patient: Patient) -> str:
    """Its first word, and of Python what it runs; never more of the command line."""
    first, *more = patient.words or (patient.name,)
    said = os.path.basename(first) or patient.name
    if patient.is_python and more:
        said += f" -m {more[1]}" if more[0] == "-m" and more[1:] else "" if more[0][0] == "-" else (
            f" {os.path.basename(more[0])}")
    named = "" if os.path.basename(first).startswith(patient.name) else f", named {patient.name}"
    return printable(said + named)


def _started(patient: Patient, now: float) -> str:
    booted = boot_time(patient.roots.proc)
    if not booted:
        return "when is not known: the time of boot is hidden"
    at = booted + patient.identity.start_time_ticks / CLOCK_TICKS
    age = max(0, int(now - at))
    days, hours, minutes = age // 86400, age % 86400 // 3600, age % 3600 // 60
    said = f"{days} d {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {age % 60} s"
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC, {said} ago"


def _namespaces(patient: Patient) -> Fact:
    """Which it shares with us."""
    sorts = (("ours", True), ("others", False), ("unknown", None))
    said = [f"{word}: {', '.join(kinds)}" for word, answer in sorts
            if (kinds := [kind for kind, shared in patient.namespaces.items() if shared is answer])]
    return Fact(GROUP, "namespaces", "info", "; ".join(said))


def _claimed(patient: Patient) -> Fact:
    """Which sidecar acts on it: the one that holds the lock which is its sign (guard/claim.py), see proc_locks(5)."""
    places = set()
    for path in (f"{patient.folder}/environ", patient.folder):
        with suppress(OSError):
            found = os.stat(path)
            places.add(f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}")
    locks: list[list[str]] = []
    with suppress(*UNREADABLE):
        locks = [line.split() for line in read(f"{patient.roots.proc}/locks").decode().splitlines()]
    holders = [words[4] for words in locks if len(words) > 5 and words[1] == "FLOCK" and words[5] in places]
    return Fact(GROUP, "sidecar", "info", f"process {printable(holders[0])} acts on it; any other one looks on"
                if holders else "none that can be seen has acted on it yet")


def _life(patient: Patient) -> Iterator[Fact]:
    """Whose end is ours: the kernel kills a pid namespace with its first process, see pid_namespaces(7)."""
    if patient.us.pids[-1] == 1 or patient.namespaces["pid"] is False:
        return
    first = patient.pid == 1 or _is_below_first(patient)
    if first:
        yield Fact(GROUP, "init", "warning", "process 1 of the pid namespace that we share goes with it",
                   "the kernel kills every process of a pid namespace whose first process ends: the sidecar too, "
                   "before it can tell of it",
                   "have a third, tiny container hold the pid namespace, and join it with both")


def _is_below_first(patient: Patient) -> bool:
    """Whether process 1 starts the target in its own container, and is in no container of ours."""
    try:
        cgroups = [read(f"{patient.roots.proc}/{who}/cgroup") for who in ("1", patient.pid, "self")]
        if not cgroups[0] == cgroups[1] != cgroups[2]:
            return False
        parent = patient.pid
        for _ in range(100):
            parent = parent_pid(read(f"{patient.roots.proc}/{parent}/stat"))
            if parent <= 1:
                return parent == 1
    except UNREADABLE:
        return False
    return False
