"""Files that are written for people, who may have changed them since: whole or not at all, over nothing unasked."""

import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path

from sidecar.errors import SidecarError

LONGEST_BYTES = 4 << 20
_MODE = 0o644
_MOST_PLACES = 5


def in_the_way(files: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """What is there already and differs from what is to be written; of a huge file its beginning. SidecarError where
    it cannot be read."""
    found = {path: _content(path) for path in files}
    return {path: there for path, there in found.items() if there not in (None, files[path])}


def hand_out(files: Mapping[Path, bytes]) -> Iterator[tuple[Path, str]]:
    """Write the files, folders included; each one's path and what was done: written, overwritten, there already.

    What is overwritten keeps its mode. Raises SidecarError where it cannot be written.
    """
    for path, content in files.items():
        there = _content(path)
        if there != content:
            with _told(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _replace(path, content)
        yield path, {None: "written", content: "there already"}.get(there, "overwritten")


def differing_lines(there: bytes, content: bytes) -> str:
    """Where `there` differs, by its lines; not what they say: there may be secrets in them."""
    places = [_place(start, end) for kind, start, end, *_ in
              SequenceMatcher(None, there.splitlines(), content.splitlines()).get_opcodes() if kind != "equal"]
    if not places:
        return "only in how lines end"
    more = len(places) - _MOST_PLACES
    return ", ".join(places[:_MOST_PLACES]) + (f" and in {more} more places" if more > 0 else "")


def _place(start: int, end: int) -> str:
    if end == start:
        return f"after line {start}"
    return f"line {end}" if end == start + 1 else f"lines {start + 1} to {end}"


def _content(path: Path) -> bytes | None:
    """What is there; None if nothing is."""
    with _told(path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SidecarError(f"{path} is no file", help="name a folder where it is out of the way")
            with open(fd, "rb", closefd=False) as file:
                return file.read(LONGEST_BYTES)
        finally:
            os.close(fd)


def _replace(path: Path, content: bytes) -> None:
    """Whole or not at all: a program may be reading it."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mode = _MODE
    fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, mode)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SidecarError(f"cannot write {error.filename or path}: {error.strerror}",
                           help="name a folder that you may write to") from None
