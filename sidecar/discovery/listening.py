"""Who listens on a TCP port: from /proc alone, and never on the hot path.

/proc/PID/net/tcp and tcp6 name the sockets of the process's network namespace with their inodes, listeners first (the
kernel's networking/proc_net_tcp.rst); /proc/PID/fd says who holds a socket of that inode.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from sidecar.procfs import KeptFile, parent_pid, start_time_ticks

LISTEN = b"0A"
MOST_LISTENERS = 10_000
MOST_FDS = 4096
"""How many descriptors of a process are looked at, lowest first: a server listens before anybody connects."""
STAND_INS = frozenset({"systemd", "docker-proxy", "rootlesskit", "rootlessport", "slirp4netns"})
"""Programs, by the name that the kernel keeps, that hold the listening socket for another one."""


class Found(NamedTuple):
    """The process that listens, None for none; then `why` says more, if there is more to say."""

    pid: int | None
    why: str = ""


class Holder(NamedTuple):
    """A process that holds a listening socket. Of two the lesser is the older one."""

    start_ticks: int
    pid: int
    name: str


def by_port(port: int, proc: str = "/proc") -> Found:
    """The process that listens on the port, whatever the address.

    In our own network namespace, else in the only other one in which somebody does. Of several processes that hold the
    socket the one from which the others descend, the master of a prefork server; of several such (SO_REUSEPORT) the
    oldest.
    """
    pids = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())
    sockets = {socket: at for at, home in enumerate(_homes(pids, proc)) for socket in _listeners(port, home)}
    if not sockets:
        return Found(None)
    holders = _holders(sockets, pids, proc)
    programs = {at: [one for one in each if one.name not in STAND_INS] for at, each in holders.items()}
    programs = {at: each for at, each in programs.items() if each}
    networks = set(sockets.values())  # ours is 0
    ours = 0 in networks and (0 in programs or 0 not in holders)  # else nobody is beside us, or a stand-in only
    meant = {0} if ours else networks - {0}
    if len(meant) > 1:
        return Found(None, f"port {port} is listened on in {len(meant)} containers or other networks: name the process "
                           "by its command line or a pidfile")
    for network in meant & programs.keys():
        return Found(_chief(programs[network], proc))
    for stand_in in (one for each in holders.values() for one in each if one.name in STAND_INS):
        return Found(None, f"{stand_in.name} holds port {port} for another program, which is not seen")
    return Found(None, f"something listens on port {port}, but its process may not be seen: run as root or as the same "
                       "user, and in the same pid namespace")


def _homes(pids: Sequence[int], proc: str) -> Iterator[str]:
    """The /proc folder of one process in each network namespace that may be seen: our own first."""
    seen = set()
    for pid in ("self", *pids):
        try:
            namespace = os.readlink(f"{proc}/{pid}/ns/net")
        except OSError:  # it has ended, or is another user's
            namespace = "" if pid == "self" else "unseen"
        if namespace not in seen and namespace != "unseen":
            seen.add(namespace)
            yield f"{proc}/{pid}"


def _listeners(port: int, home: str) -> Iterator[str]:
    """The sockets that listen on the port, as the links of a descriptor name them."""
    for table in ("tcp", "tcp6"):
        try:
            with open(f"{home}/net/{table}", "rb") as file:
                for line in islice(file, 1, MOST_LISTENERS):
                    fields = line.split()
                    if fields[3] != LISTEN:
                        break
                    if int(fields[1].rpartition(b":")[2], 16) == port:
                        yield f"socket:[{int(fields[9])}]"
        except (OSError, ValueError, IndexError):  # no IPv6, or the process has ended
            continue


def _holders(sockets: Mapping[str, int], pids: Sequence[int], proc: str) -> dict[int, list[Holder]]:
    """Who holds one of the sockets, by what `sockets` says of it."""
    found: defaultdict[int, list[Holder]] = defaultdict(list)
    for pid in pids:
        try:
            at = _held(f"{proc}/{pid}", sockets)
            if at is not None:
                found[at].append(_holder(pid, proc))
        except (OSError, ValueError, IndexError):
            continue  # it has ended, or is another user's
    return found


def _held(folder: str, sockets: Mapping[str, int]) -> int | None:
    """What `sockets` says of the first of them that this process holds; None if it holds none."""
    for fd in islice(os.listdir(f"{folder}/fd"), MOST_FDS):
        try:
            socket = os.readlink(f"{folder}/fd/{fd}")
        except FileNotFoundError:
            continue  # closed while we looked
        if socket in sockets:
            return sockets[socket]
    return None


def _holder(pid: int, proc: str) -> Holder:
    with open(f"{proc}/{pid}/comm", "rb") as file:
        name = file.read(64).decode("utf-8", "replace").rstrip("\n")
    return Holder(start_time_ticks(_stat(pid, proc)), pid, name)


def _stat(pid: int, proc: str) -> bytes:
    return KeptFile(f"{proc}/{pid}/stat", size=1024).read()


def _chief(holders: Sequence[Holder], proc: str) -> int:
    """The holder from which the others descend; of several such the oldest."""
    pids = {holder.pid for holder in holders}
    return min([each for each in holders if pids.isdisjoint(_ancestors(each.pid, proc))] or holders).pid


def _ancestors(pid: int, proc: str) -> Iterator[int]:
    """The parent of a process, its parent and so on, as far as they are there."""
    seen = {pid}
    try:
        while (pid := parent_pid(_stat(pid, proc))) not in seen:
            seen.add(pid)
            yield pid
    except (OSError, ValueError, IndexError):
        return
