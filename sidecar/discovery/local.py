"""Finding a process on this machine. The only user of psutil, and never on the hot path."""

import re
from collections.abc import Collection
from pathlib import Path

import psutil

MOST_COMMAND_LINE = 4096
MOST_PIDFILE_BYTES = 64


def pid_in(path: Path) -> int | None:
    """The number in a pidfile; None while the file is not there or holds none."""
    try:
        with path.open("rb") as file:
            words = file.read(MOST_PIDFILE_BYTES).split()
    except OSError:
        return None
    return int(words[0]) if words and words[0].isdigit() and 0 < int(words[0]) < 1 << 31 else None


def by_cmdline(pattern: re.Pattern[str], not_these: Collection[int]) -> int | None:
    """The process whose command line the expression is found in; None if there is none.

    Of several the oldest whose parent does not match too: the master of a prefork server, not one of its workers.
    """
    found: dict[int, tuple[float, int]] = {}
    for process in psutil.process_iter(["cmdline", "ppid", "create_time"]):
        facts = process.info
        line = " ".join(facts["cmdline"] or ())[:MOST_COMMAND_LINE]
        if line and process.pid not in not_these and pattern.search(line):
            found[process.pid] = (facts["create_time"] or 0.0, facts["ppid"] or 0)
    masters = [(created, pid) for pid, (created, parent) in found.items() if parent not in found]
    return min(masters)[1] if masters else None


def ourselves() -> frozenset[int]:
    """This process and whoever started it: never a target by its command line, which holds the expression itself."""
    me = psutil.Process()
    return frozenset(process.pid for process in (me, *me.parents()))
