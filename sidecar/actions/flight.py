"""The file of the guard's flight record: opened by the desk, kept and written by the guard."""

import logging
import os
import stat
from pathlib import Path

from sidecar.guard.record import recover
from sidecar.guard.ring import RING_BYTES
from sidecar.guard.wire import Event

log = logging.getLogger("sidecar.actions")

NAME = "flight.record"


def open_record(storage: Path) -> tuple[int, list[Event]]:
    """A descriptor of the file, made for us alone if it is missing, and what a guard has left in it.

    (-1, []) where it cannot be had, which is said in the log: then the guard keeps its record in memory only.
    """
    path, fd = storage / NAME, -1
    try:
        storage.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise OSError(None, "it is no file, or one that has another name, too")
        if found.st_uid not in (0, os.geteuid(), storage.stat().st_uid):
            raise OSError(None, f"it belongs to another user, with the number {found.st_uid}")
        if found.st_mode & 0o077:
            os.fchmod(fd, 0o600)
        os.posix_fallocate(fd, 0, RING_BYTES)  # the guard shall find room later, whatever happens to the disk
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        log.warning("the guard keeps its flight record in memory only", extra={
            "path": str(path), "error": str(error.strerror),
            "help": "see that the directory can be written, or name another one with --storage.path"})
        return -1, []
    return fd, recover(path)
