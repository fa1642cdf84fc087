"""What a guard that we start may take to endure want of memory and time; the reasons stand in docs/guard.md."""

import os
import resource

from sidecar.doctor.facts import UNREADABLE, Fact, Roots, told
from sidecar.doctor.patient import ourselves, read

IPC_LOCK, SYS_NICE, SYS_RESOURCE = 14, 23, 24
"""Numbers of capabilities(7)."""
FIRST_BY, LAST_TO_GO = 10, -999
"""As the guard takes it: so much less nice than it was started, and this oom_score_adj."""
EVERYBODY = (0, 0, 4294967295)
"""The map of users where there is no user namespace. In one these capabilities are not enough."""
WITHOUT = {"CAP_IPC_LOCK": "locked memory", "CAP_SYS_RESOURCE": "being killed last", "CAP_SYS_NICE": "running first"}


def fact(group: str, roots: Roots) -> Fact:
    """Judged by capabilities and limits: nothing is tried."""
    try:
        us = ourselves(roots)
        real = tuple(map(int, read(f"{roots.proc}/self/uid_map").split())) == EVERYBODY
        score = int(read(f"{roots.proc}/self/oom_score_adj"))
    except UNREADABLE as error:
        return Fact(group, "guard", "info", f"what it may take is not known: {told(error)}")
    has = {
        "CAP_IPC_LOCK": (real and us.can(IPC_LOCK)) or _limit(resource.RLIMIT_MEMLOCK) == float("inf"),
        "CAP_SYS_RESOURCE": (real and us.can(SYS_RESOURCE)) or score <= LAST_TO_GO,
        "CAP_SYS_NICE": (real and us.can(SYS_NICE)) or _limit(resource.RLIMIT_NICE) >= _niceness_wanted(),
    }
    lacks = [name for name in has if not has[name]]
    if lacks:
        without = ", ".join(WITHOUT[name] for name in lacks)
        return Fact(group, "guard", "info", f"does without {without}; it need not have that (docs/guard.md)",
                    f"that takes {', '.join(lacks)}" + ("" if real else ", and no user namespace"))
    return Fact(group, "guard", "ok", "its memory is locked, it is killed last, it runs first")


def _limit(which: int) -> float:
    soft = resource.getrlimit(which)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def _niceness_wanted() -> int:
    """As RLIMIT_NICE counts it, from 1 for a niceness of 19 to 40 for -20: setrlimit(2)."""
    return min(40, 20 - (os.getpriority(os.PRIO_PROCESS, 0) - FIRST_BY))
