"""What is put into a process: a script that has the agent started in a thread of its own, and its place on disk.

The program runs the script in its main thread, in the namespace of `__main__`. So it leaves no name there and does
nothing but start a thread. That one compiles the agent a piece at a time: at once it would keep all others waiting.

The files lie below the program's own root. A target is a stranger, and so is everything in its /tmp: no link is
followed, the folder is made anew and must be ours, and only where nobody else can take its place.
"""

import ast
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from sidecar.attach.debugger import Refused

PLACES = ("tmp", "dev/shm", "var/tmp")
AGENT = Path(__file__).resolve().parent.parent / "agent.py"
MOST_LINES = 150
"""Of a piece: a few milliseconds of compiling."""

SCRIPT = '''\
__import__("builtins").exec(r"""
import _thread
def start(folder):
    import __future__, sys, time, types
    name = "_rag_sidecar_agent"
    try:
        with open(folder + "/agent.py", encoding="utf-8") as file:
            lines = file.readlines()
        module = types.ModuleType(name)
        module.__file__ = folder + "/agent.py"
        sys.modules[name] = module
        for first, last in {pieces}:
            text = "\\n" * first + "".join(lines[first:last])
            flags = __future__.annotations.compiler_flag
            exec(compile(text, "agent.py", "exec", flags, True), vars(module))
            time.sleep(0.001)
        module.start(signals=False)
    except BaseException as error:
        sys.modules.pop(name, None)
        sys.stderr and print("rag-sidecar: no agent in process:", type(error).__name__, error, file=sys.stderr)
_thread.start_new_thread(start, ({folder!r},))
""", {{"__name__": "_rag_sidecar_start"}})
'''


def pieces(source: str) -> list[tuple[int, int]]:
    """The statements of a file in groups of some lines, as (first, last) for a slice of its lines."""
    statements = ast.parse(source).body
    starts = [min([each.lineno, *(mark.lineno for mark in getattr(each, "decorator_list", ()))]) - 1
              for each in statements]
    bounds = [0, *starts[1:], source.count("\n") + 1]
    found: list[tuple[int, int]] = []
    for first, last in pairwise(bounds):
        if found and last - found[-1][0] <= MOST_LINES:
            found[-1] = (found[-1][0], last)
        else:
            found.append((first, last))
    return found


@contextmanager
def placed(pid: int, proc: str = "/proc") -> Iterator[str]:
    """The files below the root of this process, until the end; the path of the script as the process sees it.

    Raises Refused where there is no place for them, OSError where that root may not be entered.
    """
    source = AGENT.read_text(encoding="utf-8")
    root = os.open(f"{proc}/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        reasons = []
        for place in PLACES:
            name = f"rag-sidecar-start-{secrets.token_hex(8)}"
            try:
                parent = _entered(root, place)
            except OSError as error:
                reasons.append(f"/{place}: {error.strerror}")
                continue
            try:
                folder = f"/{place}/{name}"
                script = SCRIPT.format(pieces=pieces(source), folder=folder)
                try:
                    _write(parent, name, {"agent.py": source, "start.py": script})
                except OSError as error:
                    reasons.append(f"/{place}: {error.strerror}")
                    continue
                yield f"{folder}/start.py"
                return
            finally:
                _remove(parent, name)
                os.close(parent)
        raise Refused(f"there is no place for the agent's files below its root ({'; '.join(reasons)})",
                      help="mount a tmpfs at /tmp or /dev/shm there, or start it with the agent (docs/attach.md)")
    finally:
        os.close(root)


def _entered(root: int, place: str) -> int:
    """The folder at this place, with no link on the way. Raises OSError where it is not fit for files of ours."""
    opened = [root]
    try:
        for name in place.split("/"):
            opened.append(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=opened[-1]))
        found = os.fstat(opened[-1])
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            raise PermissionError(0, "others may rename what is in it")
        return os.dup(opened[-1])
    finally:
        for fd in opened[1:]:
            os.close(fd)


def _write(parent: int, name: str, files: dict[str, str]) -> None:
    """Make the folder and the files in it, readable for everybody. Raises OSError."""
    os.mkdir(name, 0o700, dir_fd=parent)
    folder = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
    try:
        found = os.fstat(folder)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PermissionError(0, "the folder just made is another one now")
        for file, text in files.items():
            fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
            with os.fdopen(fd, "w", encoding="utf-8") as opened:
                opened.write(text)
                os.fchmod(fd, 0o644)
        os.fchmod(folder, 0o755)
    finally:
        os.close(folder)


def _remove(parent: int, name: str) -> None:
    with suppress(OSError):
        folder = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=parent)
        try:
            for file in ("agent.py", "start.py"):
                with suppress(OSError):
                    os.unlink(file, dir_fd=folder)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=parent)
