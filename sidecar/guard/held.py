"""The file that says what the keeper of the brake holds, so that the next one can put it back."""

from __future__ import annotations

import json
import os

from sidecar.guard.wire import loads
from sidecar.procfs import boot_id
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

MOST_BYTES = 1 << 20


def write_down(file: str, rows: list[dict[str, Any]]) -> bool:
    """Write down what is held, whole or not at all; nothing is no file. False where that cannot be."""
    fresh = f"{file}.new"
    try:
        if not rows:
            if os.path.lexists(file):
                os.unlink(file)
            return True
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as opened:
            opened.write(json.dumps({"boot_id": boot_id(), "held": rows}))
        os.replace(fresh, file)
    except OSError:
        return False
    return True


def left(file: str) -> list[dict[str, Any]]:
    """What a keeper had written down that was killed since this machine was booted; [] if there is nothing."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as kept:
            found = loads(kept.read(MOST_BYTES))
        return [dict(row) for row in found["held"]] if found["boot_id"] == boot_id() else []
    except (OSError, ValueError, TypeError, KeyError):
        return []
