"""The sidecars that run on this machine, as far as this user may ask them: which one watches a process."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from sidecar.cli_line import FILE, Way
from sidecar.config import default_storage, environment
from sidecar.errors import SidecarError

MOST_ANSWER_BYTES = 16 << 20
MOST_SIDECARS = 32
_PASSING = f"/.{FILE}."
"""What a control socket is bound as, before the desk's pid, and called by the kernel ever after: web/control.py."""

_Told = TypeVar("_Told")


class Watcher(NamedTuple):
    """A sidecar and the name that it has for the process."""

    way: Way
    target: str

    def lines(self) -> Mapping[str, Any]:
        """The target's row of /api/v1/thresholds. Raises SidecarError."""
        def own(data: Any) -> Mapping[str, Any]:
            return next(dict(row) for row in data["targets"] if row["target"] == self.target)

        return _asked(self.way, "/api/v1/thresholds", own)


def watcher(pid: int, path: Path | None = None) -> Watcher | None:
    """The sidecar that watches this process, of all there are or of the one at `path`; None where none is found.

    Raises SidecarError where the one at `path` does not answer; of others that do not, nothing is said.
    """
    if path is not None:
        return _watching(Way(path), pid)
    for each in list(dict.fromkeys(_sockets()))[:MOST_SIDECARS]:
        try:
            if found := _watching(Way(each), pid):
                return found
        except SidecarError:
            continue  # ended since, or somebody else's
    return None


def _watching(way: Way, pid: int) -> Watcher | None:
    def has(data: Any) -> Watcher | None:
        return next((Watcher(way, str(each["metric"]["target"])) for each in data["result"]
                     if each["metric"].get("pid") == str(pid)), None)

    return _asked(way, "/api/v1/query?query=rag_target_info", has)


def _asked(way: Way, path: str, read: Callable[[Any], _Told]) -> _Told:
    """What `read` finds in the answer. Raises SidecarError, also where it is no such answer."""
    with way.asked("GET", path) as answer:
        try:
            return read(json.loads(answer.read(MOST_ANSWER_BYTES))["data"])
        except (AttributeError, StopIteration) as error:
            raise ValueError(f"an odd answer to {path}: {error!r}") from None


def _sockets() -> Iterator[Path]:
    """Control sockets: the usual one, and beside every journal that a listening desk holds open."""
    from sidecar.journal.journal import FILE as JOURNAL

    if usual := default_storage(environment()):
        yield usual / FILE
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()
    except OSError:
        return
    for desk in sorted({line.rpartition(_PASSING)[2] for line in lines if _PASSING in line}):
        if desk.isascii() and desk.isdigit():
            yield from (Path(held).with_name(FILE) for held in _open_files(int(desk)) if held.endswith(f"/{JOURNAL}"))


def _open_files(pid: int) -> Iterator[str]:
    """The paths of what it holds open; nothing where we may not look, or it has ended."""
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            yield os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return
