"""What the doctor says: one small value for each thing that was tried."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from sidecar.errors import printable as printable
from sidecar.errors import told as told

State = Literal["ok", "info", "warning", "missing"]
"""`ok` was tried and works; `info` is neither good nor bad; `warning` may hurt; `missing` cannot be seen or done."""

Need = Literal["same_user", "sys_ptrace", "dac_read", "dac_override", "kill", "yama", "hidepid"]
"""What would mend it: the target's user, a capability, Yama told otherwise, a /proc that hides nothing."""

UNREADABLE = (OSError, ValueError, KeyError, IndexError, ArithmeticError)
"""What a file of /proc or a cgroup may lead to: refused, gone, or garbage."""


class Fact(NamedTuple):
    """One thing that was tried. `what` was seen, `why` it is not better, what to `do` about it, what it `needs`.

    `group` and `name` are stable; the other texts are for people.
    """

    group: str
    name: str
    state: State
    what: str
    why: str = ""
    do: str = ""
    needs: tuple[Need, ...] = ()


class Roots(NamedTuple):
    """Where /proc and /sys are: captured trees stand for machines that are not at hand."""

    proc: str = "/proc"
    sys: str = "/sys"


def attempt(group: str, facts: Iterable[Fact]) -> Iterator[Fact]:
    """These facts. Where finding them fails, one that says so: a file that is odd hides nothing of other groups."""
    try:
        yield from facts
    except UNREADABLE as error:
        yield Fact(group, "rest", "missing", told(error))
