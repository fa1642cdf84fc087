"""What the processes of a tree have in common, measured exactly but rarely.

A forked worker's memory is its parent's until one of them writes to it, and the kernel counts such a page in both.
/proc/PID/smaps_rollup gives each process its share of a page (PSS, proc(5)), so the sum over the tree is true.
Reading it takes some 20 ms for each GiB, and the process waits meanwhile whenever it maps memory: hence the budget.
"""

from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple

from sidecar.errors import told
from sidecar.guard.tree import Member, Tree
from sidecar.procfs import KeptFile

WORTHWHILE_BYTES = 16 << 20
"""Two processes of this size are worth asking what they share."""
SECONDS_PER_BYTE = 0.025 / (1 << 30)
MOST_SECONDS_EACH = 0.25
MOST_SECONDS_AT_ONCE = 0.2
AGAIN_SECONDS = 300.0
REFUSED_SECONDS = 60.0
"""Until one that may not be read is asked again: it may have dropped its rights by then, or run another program."""
SETTLE_SECONDS = 5.0
LEAST_REST_SECONDS = 10.0
REST_PER_COST = 1000.0
REST_PER_COST_AFTER_CHANGE = 100.0

Share = tuple[int, int, int, int]
"""A process that shares with others: pid, start in clock ticks, bytes of anon and of rss that are counted elsewhere."""

Life = tuple[int, int, int]
"""One program of one life of a process: pid, start in clock ticks, where its stack begins."""


class _Look(NamedTuple):
    """Bytes of one kind that the kernel's counters say, and how many of them are more than the process's share."""

    size: int
    excess: int


class Sharing:
    """Measures a tree, and takes off what is counted twice. Lives as long as the tree.

    `missing` says why it cannot be measured; `shares` is the last measurement, for the guard to count alike. While the
    very first one is under way, `unsure`, what is used cannot be told: a server with its workers looks many times its
    size.
    """

    def __init__(self, tree: Tree, timer: Callable[[], float], proc: str = "/proc") -> None:
        self.missing = self._refused = self._refusal(tree.pid, proc)
        self.shares: tuple[Share, ...] = ()
        self.unsure = not self.missing
        self._tree = tree
        self._proc = proc
        self._timer = timer
        self._round: Iterator[None] | None = None
        self._measured: frozenset[Life] = frozenset()
        self._present: frozenset[Life] = frozenset()
        self._changed_at = self._ended_at = self._asked_at = -inf
        self._cost_seconds = 0.0

    @staticmethod
    def _refusal(pid: int, proc: str) -> str:
        """Why it may not be read; asked by opening the file, which is where the kernel decides."""
        try:
            KeptFile(f"{proc}/{pid}/smaps_rollup").close()
        except OSError as error:
            return told(error)
        return ""

    def step(self, at: float, calm: bool) -> None:
        """Do a little of what is due.

        Nothing while a line is near, where the target must not be made to wait; but until it has been measured once
        nobody knows how near that is.
        """
        present = frozenset((pid, member.start_time_ticks, member.stack) for pid, member in self._tree.members.items())
        if present != self._present:
            gone = {life[:2] for life in self._present - present}
            self.shares = tuple(share for share in self.shares if share[:2] not in gone)
            self._present, self._changed_at = present, at
        if self.missing and self.missing == self._refused and not 0 <= at - self._asked_at < REFUSED_SECONDS:
            self.missing = self._refused = self._refusal(self._tree.pid, self._proc)
            self._asked_at = at
        if self.missing or (self.shares and not calm):
            self._round = None
        elif self._round is None and self._due(at) and self._worthwhile():
            self._round, self._cost_seconds = self._measure(at), 0.0
        if self._round is not None:
            self._go_on(self._round)
        self.unsure = self.unsure and self._round is not None

    def _go_on(self, steps: Iterator[None]) -> None:
        """The next process of the round; as many as there is time for, if there is no measurement yet."""
        end = self._timer() + (0.0 if self.shares else MOST_SECONDS_AT_ONCE)
        for _ in steps:
            if self._timer() >= end:
                return
        self._round = None

    def _due(self, at: float) -> bool:
        rest = at - self._ended_at
        seldom = max(AGAIN_SECONDS, REST_PER_COST * self._cost_seconds)
        if self._present == self._measured or (self.shares and at - self._changed_at < SETTLE_SECONDS):
            return rest >= seldom
        return rest >= max(LEAST_REST_SECONDS, REST_PER_COST_AFTER_CHANGE * self._cost_seconds)

    def _worthwhile(self) -> bool:
        if len(self._tree.members) < 2:
            return False
        try:
            return sum(member.bytes("rss") > WORTHWHILE_BYTES for member in self._tree.members.values()) > 1
        except (OSError, KeyError, ValueError):
            return False  # one has just ended: next time

    def _measure(self, at: float) -> Iterator[None]:
        """One process a step. What comes, goes or runs another program meanwhile is left out, until the next time."""
        looks: dict[Life, tuple[_Look, _Look]] = {}
        self._ended_at, self._measured = at, self._present
        for life in sorted(self._measured):
            if looks:
                yield
            member = self._tree.members.get(life[0])
            if member is None or life not in self._present:
                continue
            begun = self._timer()
            try:
                if member.bytes("rss") * SECONDS_PER_BYTE > MOST_SECONDS_EACH:
                    self.missing = f"process {life[0]} is so big that it would have to wait for too long"
                    return
                looks[life] = _look(member)
            except (ProcessLookupError, FileNotFoundError, ValueError):
                continue
            except PermissionError as error:
                if life[0] == self._tree.pid:
                    self.missing = self._refused = told(error)
                    return
                continue  # a worker runs as another user: it is counted in full
            except OSError as error:  # not now: asked again like what was refused
                self.missing = self._refused = told(error)
                return
            except KeyError as error:
                self.missing = told(error)
                return
            self._cost_seconds += self._timer() - begun
        self._apply({life: look for life, look in looks.items() if life in self._present})

    def _apply(self, looks: dict[Life, tuple[_Look, _Look]]) -> None:
        """Take off what is counted twice."""
        first = self._tree.pid
        anon, rss = (_attributed({life[0]: look[kind] for life, look in looks.items()}, first) for kind in (0, 1))
        anon[first] = 0  # what it shares with nobody of the tree is its own; of files that is not so: libraries
        self.shares = tuple((pid, start, anon[pid], rss[pid]) for pid, start, _ in looks)
        self._tree.share(self.shares)


def _look(member: Member) -> tuple[_Look, _Look]:
    """Anon and rss of a process, which may grow or shrink meanwhile. Raises OSError, KeyError or ValueError."""
    before, exact = (member.bytes("anon"), member.bytes("rss")), member.exact()
    anon, rss = min(before[0], member.bytes("anon")), min(before[1], member.bytes("rss"))
    return _Look(anon, max(0, anon - exact["anon"])), _Look(rss, max(0, rss - exact["pss"]))


def _attributed(looks: dict[int, _Look], first: int) -> dict[int, int]:
    """Process → bytes to take off it, so that the sum is true, and stays so when one of the children ends.

    Of n processes that share S bytes, n - 1 count S too much; when one of them ends, n - 2 do. So all of it is taken
    off the children, who came by it, as far as they have it.
    """
    total = sum(look.excess for look in looks.values())
    of_children = sum(look.excess for pid, look in looks.items() if pid != first)
    found = {pid: min(look.size, look.excess * total // of_children) if of_children else 0
             for pid, look in looks.items() if pid != first}
    return found | {first: total - sum(found.values())}
