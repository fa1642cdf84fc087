"""Secrets that stand in files of their own: read only where nobody else can, never shown."""

import os
import stat
from pathlib import Path

FOR_OTHERS = 0o077
FOR_OTHERS_OF_ROOT = 0o037
"""A file of root may be read by its group: so does a secret reach a program that runs as another user."""


def read_private(file: Path, longest_bytes: int) -> bytes:
    """The whole content of a file without the white space around it; of a longer one the first bytes, and one more.

    Raises ValueError, with a whole sentence that does not hold the secret, if it cannot be read, or if others than its
    owner may read it.
    """
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would keep us waiting
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error.strerror}") from None
    with open(fd, "rb") as opened:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{file} is not a file")
        if found.st_uid not in (0, os.geteuid()):
            raise ValueError(f"{file} belongs to user {found.st_uid}: it must be this user's or root's")
        if found.st_mode & (FOR_OTHERS if found.st_uid else FOR_OTHERS_OF_ROOT):
            raise ValueError(f"{file} has mode {stat.S_IMODE(found.st_mode):04o}, others could read it or write to it: "
                             "use `chmod 600`, or mode 0400 where an orchestrator mounts it")
        return opened.read(longest_bytes + 3).strip()[:longest_bytes + 1]
