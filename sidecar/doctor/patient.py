"""Who the target is to the kernel, and who we are: users, capabilities, namespaces. Read once, judged by the others."""

import errno
import os
from typing import NamedTuple

from sidecar.doctor.facts import UNREADABLE, Fact, Roots, told
from sidecar.errors import TargetGone
from sidecar.procfs import Identity, KeptFile, identify, parse_stat, start_time_ticks, status_mask

DAC_OVERRIDE, DAC_READ_SEARCH, KILL, SYS_PTRACE = 1, 2, 5, 19
"""Numbers of capabilities(7), from linux/capability.h."""

NAMESPACES = ("pid", "mnt", "net", "user", "cgroup")
SERVERS = ("gunicorn", "uvicorn", "celery", "uwsgi", "hypercorn")
ENDED = (b"Z", b"X")
"""States of a process that has ended and is not reaped."""
VIRTUAL = 20
"""Where `parse_stat` has the size of virtual memory: 0 of a kernel thread, and while a process ends."""
MOST_COMMAND_LINE_BYTES = 4096
FIRST_WORDS = 5


class Credentials(NamedTuple):
    """What /proc/PID/status says of a process, see proc(5). Users are (real, effective, saved, of file access).

    `pids` are its numbers from the namespace of this /proc inwards. A mask that the kernel does not show is None.
    """

    pids: tuple[int, ...]
    uids: tuple[int, ...]
    gids: tuple[int, ...]
    permitted: int
    effective: int
    caught: int | None
    ignored: int | None
    seccomp: int | None

    def can(self, *capabilities: int) -> bool:
        """Whether one of these capabilities is in force."""
        return any(self.effective >> capability & 1 for capability in capabilities)

    @property
    def user(self) -> str:
        """`UID:GID`, as in force."""
        return f"{self.uids[1]}:{self.gids[1]}"

    @property
    def changes_user(self) -> bool:
        """Whether its users or its groups differ among themselves: then nobody is "the same user"."""
        return len(set(self.uids[:3])) > 1 or len(set(self.gids[:3])) > 1


def credentials(status: bytes) -> Credentials:
    """Parsed. KeyError or ValueError where Uid or Gid is absent or odd."""
    fields = dict(line.split(b":", 1) for line in status.splitlines() if b":" in line)

    def numbers(name: bytes, default: bytes | None = None) -> tuple[int, ...]:
        text = fields.get(name, default)
        if text is None:
            raise KeyError(name.decode())
        return tuple(map(int, text.split()))

    def mask(name: bytes) -> int | None:
        return status_mask(status, name) if name in fields else None

    uids, gids = numbers(b"Uid"), numbers(b"Gid")
    if len(uids) != 4 or len(gids) != 4:
        raise ValueError("Uid and Gid are not four numbers each")
    seccomp = numbers(b"Seccomp", b"")
    return Credentials(numbers(b"NSpid", fields.get(b"Pid", b"0")), uids, gids, mask(b"CapPrm") or 0,
                       mask(b"CapEff") or 0, mask(b"SigCgt"), mask(b"SigIgn"), seccomp[0] if seccomp else None)


def ourselves(roots: Roots) -> Credentials:
    """Our own. Raises what reading them raises."""
    return credentials(read(f"{roots.proc}/self/status"))


def read(path: str) -> bytes:
    """A small file, bounded, never waited for."""
    return KeptFile(path).read()


class Patient(NamedTuple):
    """The process that is looked at. `dumpable` is None where it cannot be told; `words` begin its command line.

    `namespaces` says of each kind whether it is ours too: None where that may not be seen.
    """

    pid: int
    identity: Identity
    roots: Roots
    us: Credentials
    it: Credentials
    name: str
    words: tuple[str, ...]
    dumpable: bool | None
    owner: int
    namespaces: dict[str, bool | None]
    yama: int

    @property
    def folder(self) -> str:
        """Its folder below /proc."""
        return f"{self.roots.proc}/{self.pid}"

    @property
    def server(self) -> str:
        """The server program that it is known to be by its command line, or the empty string."""
        for word in self.words:
            name = word.rpartition("/")[2].partition(":")[0].partition(" ")[0].lower()
            if name in SERVERS:
                return name
        return ""

    @property
    def is_python(self) -> bool:
        """Whether its command line begins with a Python."""
        return bool(self.words) and self.words[0].rpartition("/")[2].startswith("python")


class Hidden(TargetGone):
    """There is such a process, and /proc does not show it. `fact` says so."""

    def __init__(self, fact: Fact) -> None:
        super().__init__(fact.what, help=fact.do)
        self.fact = fact


def meet(pid: int, roots: Roots) -> Patient:
    """Look who it is. Raises TargetGone if there is no such process or it has ended, Hidden if it may not be seen."""
    folder = f"{roots.proc}/{pid}"
    try:
        us = ourselves(roots)
    except UNREADABLE as error:
        raise TargetGone(f"we are not in {roots.proc}: {told(error)}",
                         help="/proc must be that of our own pid namespace, or of one around it") from None
    try:
        identity = identify(pid, roots.proc)
        stat, it = read(f"{folder}/stat"), credentials(read(f"{folder}/status"))
        state, memory, owner = parse_stat(stat)[0], int(parse_stat(stat)[VIRTUAL]), _owner(folder, it)
    except UNREADABLE as error:
        raise _absent(pid, error, roots) from None
    if state in ENDED:
        raise TargetGone(f"process {pid} has ended; its parent has not taken note yet",
                         help="`ps -e` shows what runs")
    if not memory:
        raise TargetGone(f"process {pid} has no memory of its own: it is a kernel thread, or about to end")
    return Patient(
        pid, identity, roots, us, it, name=stat[stat.index(b"(") + 1:stat.rindex(b")")].decode("utf-8", "replace"),
        words=_words(folder), dumpable=_dumpable(it, owner), owner=owner,
        namespaces=_namespaces(folder, roots, it, us), yama=yama_scope(roots))


def still_there(patient: Patient) -> None:
    """Raise TargetGone unless it lives, and is the same process as when we met."""
    try:
        stat = read(f"{patient.folder}/stat")
        state, memory = parse_stat(stat)[0], int(parse_stat(stat)[VIRTUAL])
        same = start_time_ticks(stat) == patient.identity.start_time_ticks and state not in ENDED and memory > 0
    except UNREADABLE:
        same = False
    if not same:
        raise TargetGone(f"process {patient.pid} ended while it was looked at", help="`ps -e` shows what runs")


def yama_scope(roots: Roots) -> int:
    """kernel.yama.ptrace_scope, 0 to 3; 0 where there is no Yama."""
    try:
        return int(read(f"{roots.proc}/sys/kernel/yama/ptrace_scope"))
    except UNREADABLE:
        return 0


def hidepid(roots: Roots) -> str:
    """How /proc hides other users' processes: the value of its mount option, the empty string if it does not."""
    try:
        mounts = read(f"{roots.proc}/self/mountinfo").decode("utf-8", "replace").splitlines()
    except UNREADABLE:
        return ""
    for line in reversed(mounts):  # the last one mounted lies on top
        own, _, system = line.partition(" - ")
        if own.split()[4:5] == ["/proc"] and system.startswith("proc "):
            options = dict(option.partition("=")[::2] for option in system.split()[-1].split(","))
            hides = options.get("hidepid", "")
            return "" if hides in ("0", "off") else hides
    return ""


def _absent(pid: int, error: BaseException, roots: Roots) -> TargetGone:
    """Why there is no meeting."""
    if isinstance(error, ValueError | KeyError | IndexError):
        return TargetGone(f"what /proc says of process {pid} is not understood: {error}")
    hides = hidepid(roots)
    if hides and _exists(pid):
        return Hidden(Fact(
            "reading", "process", "missing", f"process {pid} is there, but /proc hides it",
            f"/proc is mounted with hidepid={hides}: other users' processes cannot be seen",
            "run the sidecar as the target's user, or with CAP_SYS_PTRACE, or mount /proc without hidepid",
            ("hidepid",)))
    if isinstance(error, PermissionError):
        return TargetGone(f"process {pid} may not be looked at: {error.strerror}")
    return TargetGone(
        f"there is no process {pid} here",
        help="`ps -e` shows those there are. One in another container is seen only from the host, or from within its "
             "pid namespace: compose `pid: \"service:NAME\"`, Kubernetes `shareProcessNamespace: true`.")


def _exists(pid: int) -> bool:
    try:
        os.close(os.pidfd_open(pid))
    except OSError as error:
        return error.errno not in (errno.ESRCH, errno.EINVAL)
    return True


def _words(folder: str) -> tuple[str, ...]:
    """The first words of the command line: what program it is. The rest may hold secrets."""
    try:
        line = read(f"{folder}/cmdline")[:MOST_COMMAND_LINE_BYTES]
    except UNREADABLE:
        return ()
    return tuple(word.decode("utf-8", "replace") for word in line.split(b"\0")[:FIRST_WORDS] if word)


def _owner(folder: str, it: Credentials) -> int:
    """Whose its files are; a sandbox may have no mem."""
    try:
        return os.stat(f"{folder}/mem").st_uid
    except FileNotFoundError:
        return it.uids[1]


def _dumpable(it: Credentials, owner: int) -> bool | None:
    """A process that is not dumpable has its files owned by root, see proc_pid(5); root's own always are."""
    return None if it.uids[1] == owner == 0 else owner == it.uids[1]


def _namespaces(folder: str, roots: Roots, it: Credentials, us: Credentials) -> dict[str, bool | None]:
    """Kind → whether it is ours too. Where links may not be read, what is open to all still tells some that are not."""
    found: dict[str, bool | None] = {}
    for kind in NAMESPACES:
        try:
            found[kind] = os.readlink(f"{folder}/ns/{kind}") == os.readlink(f"{roots.proc}/self/ns/{kind}")
        except OSError:
            found[kind] = None
    if found["pid"] is None and len(it.pids) > len(us.pids):
        found["pid"] = False
    try:
        if found["user"] is None and read(f"{folder}/uid_map") != read(f"{roots.proc}/self/uid_map"):
            found["user"] = False
    except OSError:
        pass
    return found
