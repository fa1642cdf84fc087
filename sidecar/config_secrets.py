"""Secrets that stand in files of their own: read once at the start, never shown."""

import os
import re
import stat
from pathlib import Path

SHORTEST_TOKEN, LONGEST_TOKEN = 16, 4096
FOR_OTHERS = 0o077
FOR_OTHERS_OF_ROOT = 0o037
"""A file of root may be read by its group: so does a secret reach a program that runs as another user."""


def read_token(file: Path) -> str:
    """The token that is the whole content of a file, without the white space around it.

    Raises ValueError, with a whole sentence that does not hold the token, if it cannot be read, if others than its
    owner may read it, or if it is no token: 16 to 4096 printable ASCII characters without a space.
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
        text = opened.read(LONGEST_TOKEN + 3).decode("ascii", "replace").strip()
    if not re.fullmatch(rf"[!-~]{{{SHORTEST_TOKEN},{LONGEST_TOKEN}}}", text):
        raise ValueError(f"{file} holds no token: it must be {SHORTEST_TOKEN} to {LONGEST_TOKEN} printable ASCII "
                         "characters, for example those of `openssl rand -hex 32`")
    return text
