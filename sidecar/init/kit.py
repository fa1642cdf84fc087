"""What `init` writes: a few files, and what to do with them."""

import re
from pathlib import Path
from typing import NamedTuple

from sidecar.errors import SidecarError


class Kit(NamedTuple):
    """`files`: path → text. `steps`: two commands to run next."""

    files: dict[Path, str]
    steps: tuple[str, str]


class Watched(NamedTuple):
    """The program that is watched, as the user names it. All of it has been checked by the configuration's own rules.

    `lines` are sizes of main and critical; None: they follow the limit of its cgroup.
    """

    target: str
    cmdline: str
    lines: tuple[str | None, str | None] = (None, None)
    alertmanagers: tuple[str, ...] = ()


ADDRESS = r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?:\d{1,5}"
"""HOST:PORT, for `fit`."""


def fit(text: str, pattern: str, what: str, such_as: str) -> str:
    """`text`, if all of it matches. Raises SidecarError: `what` says what it is meant to be."""
    if not re.fullmatch(pattern, text, re.ASCII):
        raise SidecarError(f"{text!r} is not {what} such as {such_as}",
                           help="what is written into files for other programs has plain names only")
    return text
