"""The processes of a target: the one that was named and all its descendants, and the bytes they use together.

Guard and desk count with this same code, so that a line means the same to both. What a forked process shares with its
parent counts in both of them, as the kernel counts it: `shared` is taken off again. It is an estimate (what the child
had when it was first seen) until the desk has measured it.
"""

from __future__ import annotations

import errno
import os

from sidecar.clock import busy
from sidecar.procfs import ENDED, OUT_OF_SIGHT, KeptFile, anon_bytes, exact_bytes, parse_stat, resident_bytes
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence
    from typing import Any

FOREVER = float("inf")
LEAST_FIELDS = 20
MOST_PROCESSES = 256
"""How many of a tree's processes are counted together."""
MOST_KNOWN = 1 << 14
MOST_NEW_AT_ONCE = 2048
EVERYTHING_AGAIN = 60
"""After so many looks everything has been read again."""
SHORTEST_SECONDS, LONGEST_SECONDS = 1.0, 5.0
"""How often it is looked who is there: the longest where the kernel says that nobody has begun since."""
NOT_TOLD = (b"", b"0")
MOST_SHARE_OF_TIME = 0.01
"""How much of the time may go into looking who is there."""
AT_A_TIME = 16
"""So many processes are looked at before it is asked whether there is time for more."""


def _resident_bytes(statm: bytes) -> int:
    """As statm tells it. KeyError for 0: its main thread has ended, and what the others hold is not told here."""
    found = resident_bytes(statm)
    if not found:
        raise KeyError("resident size")
    return found


FILES = {"anon": ("status", 4096, anon_bytes), "rss": ("statm", 128, _resident_bytes),
         "pss": ("statm", 128, _resident_bytes)}
"""Kind of bytes → (file of /proc/PID, expected size, what it says). `pss` is `rss` less what is shared."""


class Census:
    """Who is whose child, of every process that can be seen. Shared by all trees; lives as long as they do.

    A parent is read once, because it changes only by its end: whose parent has ended is read again, a subreaper (or the
    first process of a container) takes orphans in. So are some at every look: a number may have been given to another
    process. `whole` says whether nobody was passed over at the last look; what is known already never is.
    """

    def __init__(self, proc: str = "/proc") -> None:
        self.children: dict[int, list[int]] = {}
        self.whole = True
        self._proc = proc
        self._parents: dict[int, int] = {}
        self._due = self._spent = self._at_latest = 0.0
        self._newest = b""
        self._anybody_new = True
        self._round = 0
        self._sweep: Iterator[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether a look has begun that is not complete yet."""
        return self._sweep is not None

    def update(self, now: float, most_seconds: float = FOREVER) -> bool:
        """Look again if it is time to, for no longer than this; the next time it goes on. True when that is complete.

        With thousands of processes a look takes 10 ms and the first one 40: too long for who has a line to watch.
        """
        if not self._sweep:
            if now < self._due:
                return False
            if self._nobody_new() and now < self._at_latest:
                self._due = now + SHORTEST_SECONDS
                return False
            self._sweep, self._spent, self._at_latest = self._look(), 0.0, now + LONGEST_SECONDS
        begun, spent = busy(), 0.0
        while spent < most_seconds:
            complete = next(self._sweep, True)
            spent = busy() - begun
            if complete:
                self._sweep = None
                self._due = now + max(SHORTEST_SECONDS, (self._spent + spent) / MOST_SHARE_OF_TIME)
                return True
        self._spent += spent
        return False

    def _nobody_new(self) -> bool:
        """Whether no process or thread has begun since this was asked last, and none that we knew not yet."""
        before = self._newest
        try:
            with open(f"{self._proc}/loadavg", "rb", 0) as file:
                self._newest = file.read(128).split()[4]
        except (OSError, IndexError):
            self._newest = b""
        return self._newest == before and self._newest not in NOT_TOLD and not self._anybody_new

    def _look(self) -> Iterator[None]:
        pids = []
        try:
            with os.scandir(self._proc) as listing:
                for entry in listing:
                    if entry.name.isdigit():
                        pids.append(int(entry.name))
                        if not len(pids) % AT_A_TIME:
                            yield
        except OSError:
            self._anybody_new = True  # no descriptor is left: what is known holds until it can be seen
            return
        there = frozenset(pids)
        self._round = (self._round + 1) % EVERYTHING_AGAIN
        known, parents, new = self._parents, {}, 0
        most_new = min(MOST_NEW_AT_ONCE, MOST_KNOWN - len(known))
        for place, pid in enumerate(reversed(pids), 1):  # the newest first, as a rule
            parent = known.get(pid)
            new += parent is None
            if parent is None and new > most_new:
                continue
            if parent is None or (parent and parent not in there) or pid % EVERYTHING_AGAIN == self._round:
                parent = _parent(f"{self._proc}/{pid}/stat", parent)
            if parent is not None:
                parents[pid] = parent
            if not place % AT_A_TIME:
                yield
        children: dict[int, list[int]] = {}
        for pid, parent in reversed(parents.items()):
            children.setdefault(parent, []).append(pid)
        self._parents, self.children, self.whole, self._anybody_new = parents, children, new <= most_new, bool(new)


def _parent(stat: str, known: int | None) -> int | None:
    """None if it has ended, 0 if it has no parent or is hidden; what is known if nothing can be read now."""
    try:
        return int(parse_stat(KeptFile(stat, size=1024).read())[1])
    except PermissionError:
        return 0
    except (*ENDED, ValueError, IndexError):
        return None
    except OSError:
        return known


class Member:
    """One life of one process of a tree. Raises OSError or ValueError if it has ended or is hidden."""

    __slots__ = ("_files", "_folder", "_stat", "parent", "settled", "shared", "stack", "start_time_ticks")

    def __init__(self, pid: int, kinds: Sequence[str], proc: str) -> None:
        self._folder = f"{proc}/{pid}"
        dir_fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._stat = KeptFile("stat", dir_fd=dir_fd, size=1024)
            needed = {FILES[kind] for kind in kinds}
            self._files = {file: KeptFile(file, dir_fd=dir_fd, size=size) for file, size, _ in needed}
        finally:
            os.close(dir_fd)
        fields = self._fields()
        self.parent, self.start_time_ticks = int(fields[1]), int(fields[19])
        self.stack = _stack(fields)
        self.shared = dict.fromkeys(kinds, 0)
        self.settled = True

    @property
    def files(self) -> dict[str, KeptFile]:
        """What of it is kept open, by name, for others to read as well."""
        return {"stat": self._stat, **self._files}

    def _fields(self) -> list[bytes]:
        fields = parse_stat(self._stat.read())
        if len(fields) < LEAST_FIELDS:
            raise ValueError(f"{self._folder}/stat is too short")
        if fields[0] in (b"Z", b"X"):
            if int(fields[17]) > 1:  # threads: they live on, and nobody can see what they use
                raise ValueError(f"the main thread of process {self._folder} has ended")
            raise ProcessLookupError(errno.ESRCH, "the process has ended", self._folder)
        return fields

    @property
    def shares(self) -> bool:
        """Whether what it shares may change."""
        return not self.settled or any(self.shared.values())

    def newcomer(self, parent: Member | None) -> None:
        """It has come while we were watching: what it has now may be its parent's, until it has run a program.

        But not more than its parent has: the rest it has taken itself before it was seen.
        """
        if not self.stack or (parent and parent.stack == self.stack):
            self.shared = {kind: self._in_common(kind, parent) for kind in self.shared}
            self.settled = False

    def _in_common(self, kind: str, parent: Member | None) -> int:
        try:
            return min(self.bytes(kind), parent.bytes(kind)) if parent else self.bytes(kind)
        except KeyError:
            return 0  # this kernel does not tell that kind

    def again(self) -> None:
        """It is still there: has it run a program since? Raises OSError or ValueError if it has ended."""
        stack = _stack(self._fields())
        if stack != self.stack:
            self.shared = dict.fromkeys(self.shared, 0)
            self.stack = stack
        if not self.settled:  # plain resident sets are added up as they are; but not those of a fork about to exec
            self.shared = {kind: size if stack and kind != "rss" else 0 for kind, size in self.shared.items()}
            self.settled = True

    def bytes(self, kind: str) -> int:
        """What it uses. Raises OSError (ESRCH: ended), KeyError or ValueError."""
        file, _, meaning = FILES[kind]
        try:
            return meaning(self._files[file].read())
        except KeyError:
            self._fields()  # a zombie has no memory: it has ended
            raise
        except IndexError:
            raise ValueError(f"{self._folder}/{file} is cut short") from None

    def most_bytes(self, kind: str) -> int:
        """No less than `own_bytes` of this process where nothing is swapped, and quicker: all that is resident.

        Raises as `bytes` does.
        """
        if "statm" not in self._files:
            file = KeptFile(f"{self._folder}/statm", size=128)
            self._stat.read()  # ESRCH if what was opened is another's
            self._files["statm"] = file
        return _resident_bytes(self._files["statm"].read()) - self.shared[kind]

    def own_bytes(self, kind: str) -> int:
        """What it uses and shares with nobody. What it has given back it shares no more. Raises as `bytes` does."""
        size = self.bytes(kind)
        if size < self.shared[kind]:
            self.shared[kind] = size
        return size - self.shared[kind]

    def exact(self) -> dict[str, int]:
        """The same page by page, of all kinds; for which the process has to wait. Raises as `bytes` does."""
        found = exact_bytes(KeptFile(f"{self._folder}/smaps_rollup").read())
        self._stat.read()  # ESRCH if what was read was another's
        return found


def _stack(fields: list[bytes]) -> int:
    """Where the stack begins: drawn anew by exec, kept by fork; 0 where it may not be seen (gVisor: is not told)."""
    return int(fields[25]) if len(fields) > 25 else 0


class Tree:
    """A process and its descendants. Lives as long as the target; `members` are by pid, the first one first.

    `count` is how many there are, also those that are not members: beyond `MOST_PROCESSES`, or hidden. With no census
    it is the one process alone; `skip` are processes that are not the target's, though their parent is: ourselves.
    """

    def __init__(self, pid: int, kinds: Sequence[str], census: Census | None = None,
                 skip: Collection[int] = (), proc: str = "/proc") -> None:
        self.pid = pid
        self.members = {pid: Member(pid, kinds, proc)}
        self.count = 1
        self._kinds = kinds
        self._census = census
        self._skip = skip
        self._proc = proc
        self._began = False
        self._seen: dict[int, list[int]] | None = None
        self._ended: set[int] = set()
        self._round = 0
        self._measured: dict[tuple[int, int], dict[str, int]] = {}

    def update(self, now: float, most_seconds: float = FOREVER) -> None:
        """See who has come and gone, as often as the census allows; it may take so long for that (`Census.update`)."""
        if self._census:
            self._census.update(now, most_seconds)
            if self._seen is not self._census.children:
                self._seen = self._census.children
                self._compare(self._descendants(self._seen))
                self._began = self._census.whole  # else who is found next may have been there for long

    def _descendants(self, children: dict[int, list[int]]) -> dict[int, int]:
        """Descendant → its parent, parents before their children."""
        found: dict[int, int] = {}
        known = {self.pid, *self._skip}
        waiting = [self.pid]
        for pid in waiting:
            for child in children.get(pid, ()):
                if child in known:
                    continue
                known.add(child)
                waiting.append(child)
                found[child] = pid
        return found

    def _compare(self, found: dict[int, int]) -> None:
        for pid in self.members.keys() - found.keys() - {self.pid}:
            del self.members[pid]
        newcomers = found.keys() - self.members.keys() - self._ended
        for pid, member in list(self.members.items()):
            if newcomers or member.shares:  # of others it is no matter whether they have run a program
                try:
                    member.again()
                except (*OUT_OF_SIGHT, ValueError):
                    if pid != self.pid:
                        del self.members[pid]
                except OSError:
                    continue  # whether it has run a program is seen the next time
        self._round = (self._round + 1) % EVERYTHING_AGAIN
        self._ended = {pid for pid in self._ended if pid in found and pid % EVERYTHING_AGAIN != self._round}
        for pid, parent in found.items():
            if len(self.members) < MOST_PROCESSES and pid not in self.members and pid not in self._ended:
                self._admit(pid, parent)
        self.count = 1 + len(found) - len(self._ended)

    def _admit(self, pid: int, parent: int) -> None:
        """Make it a member, if it is still the one that was seen."""
        try:
            member = Member(pid, self._kinds, self._proc)
            if member.parent != parent:
                return  # it is another process now, or another's child: the next census knows
            if self._began:
                member.newcomer(self.members.get(parent))
        except ENDED:  # it need not be looked at again, as long as it is not reaped
            self._ended.add(pid)
        except (OSError, KeyError, ValueError):
            pass  # hidden: counted, and no member
        else:
            self.members[pid] = member
            self._take_off(pid, member)

    def used_bytes(self, kind: str) -> int:
        """What all of them use together. Raises OSError, KeyError or ValueError if the first cannot be read.

        Also OSError where another one cannot be read now, though it is there: less than all would look like a fall.
        """
        total = 0
        for pid, member in list(self.members.items()):
            try:
                total += member.own_bytes(kind)
            except (*OUT_OF_SIGHT, KeyError, ValueError):
                if pid == self.pid:
                    raise
                del self.members[pid]
                self.count -= 1
        return total

    def most_bytes(self, kind: str) -> int:
        """What all of them use together at most, if nothing is swapped. Raises OSError, KeyError or ValueError.

        Also where somebody has come or gone since `update`: KeyError.
        """
        if self._census and self._seen is not self._census.children:
            raise KeyError("who is there")
        return sum(member.most_bytes(kind) for member in self.members.values())

    def exact_bytes(self, kind: str) -> int:
        """What all of them use together, page by page. Raises OSError, KeyError or ValueError if one cannot be read."""
        return sum(member.exact()[kind] for member in self.members.values())

    def share(self, shares: Iterable[Sequence[Any]]) -> None:
        """What was measured: (pid, start in clock ticks, bytes of anon, bytes of rss) that count elsewhere already.

        It holds until the next measurement, also for those that are found only now. Raises ValueError if it is no such.
        """
        measured = {}
        for pid, start, anon, rss in shares:
            if min(anon, rss) < 0:
                raise ValueError("a share below zero")
            measured[pid, start] = {"anon": anon, "pss": rss}
        self._measured = measured
        for pid, member in self.members.items():
            self._take_off(pid, member)

    def _take_off(self, pid: int, member: Member) -> None:
        measured = self._measured.get((pid, member.start_time_ticks))
        if measured:
            member.shared = {kind: measured.get(kind, size) for kind, size in member.shared.items()}
