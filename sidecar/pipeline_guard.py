"""What the guard has that keeps it at work in need (docs/guard.md), as its child, the desk, sees it."""

import os
from collections.abc import Mapping

from sidecar.model import Metric
from sidecar.procfs import KeptFile, status_field

PROTECTION = Metric("rag_sidecar_guard_protection", "gauge",
                    "1 where the guard has what keeps it at work in need, 0 where it is not allowed to take it.")
LAST_TO_GO = -999
LEAST_NICE = -20


def protection(guard_pid: int) -> Mapping[str, bool]:
    """Kind → whether the guard has it: see docs/guard.md. What cannot be read is left out.

    The niceness is compared with our own, which is the one that the guard was started with.
    """
    found = {}
    try:
        niceness = os.getpriority(os.PRIO_PROCESS, guard_pid)
        found["scheduled_first"] = niceness < os.getpriority(os.PRIO_PROCESS, 0) or niceness == LEAST_NICE
        found["killed_last"] = int(KeptFile(f"/proc/{guard_pid}/oom_score_adj").read()) <= LAST_TO_GO
        found["memory_locked"] = status_field(KeptFile(f"/proc/{guard_pid}/status").read(), b"VmLck") > 0
    except (OSError, ValueError, KeyError):  # hidden, or a /proc that tells less
        return found
    return found
