"""What the doctor says: one small value for each thing that was tried."""

from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

State = Literal["ok", "info", "warning", "missing"]
"""`ok` was tried and works; `info` is neither good nor bad; `warning` may hurt; `missing` cannot be seen or done."""

Need = Literal["same_user", "sys_ptrace", "dac_read", "dac_override", "kill", "yama", "hidepid"]
"""What would mend it: the target's user, a capability, Yama told otherwise, a /proc that hides nothing."""

UNREADABLE = (OSError, ValueError, KeyError, IndexError, ArithmeticError)
"""What a file of /proc or a cgroup may lead to: refused, gone, or garbage."""

MOST_SHOWN = 200


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


def told(error: BaseException) -> str:
    """An error as a short text for people."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {printable(str(error.filename))}" if error.filename else "")
    if isinstance(error, KeyError):
        return f"no {printable(str(error.args[0]))} in it"
    return f"not understood: {printable(str(error))}"


def printable(text: str | bytes) -> str:
    """A foreign text, harmless on a terminal: no control characters, no more than `MOST_SHOWN` characters."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    shown = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in text[:MOST_SHOWN])
    return "".join(shown) + ("…" if len(text) > MOST_SHOWN else "")


def attempt(group: str, facts: Iterable[Fact]) -> Iterator[Fact]:
    """These facts. Where finding them fails, one that says so: a file that is odd hides nothing of other groups."""
    try:
        yield from facts
    except UNREADABLE as error:
        yield Fact(group, "rest", "missing", told(error))
