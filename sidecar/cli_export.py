"""The command `export journal`: what a sidecar remembers, as JSON lines, of a running one or of one that has ended."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidecar.errors import SidecarError

if TYPE_CHECKING:
    Kinds = argparse._SubParsersAction[argparse.ArgumentParser]

OK = 0
_LOCK_START, _LOCK_BYTES = 0x40000002, 510
"""What SQLite locks of a file that it reads (sqlite.org/fileformat2.html, the lock-byte page)."""

_JOURNAL = """\
examples:
  rag-sidecar export journal > journal.jsonl
  rag-sidecar export journal --since 1h --storage.path /var/lib/rag-sidecar
  rag-sidecar export journal -o j.jsonl && rag-sidecar replay --data j.jsonl

A sidecar that runs there is asked, and goes on meanwhile; otherwise the file is
read, and not changed. docs/journal.md
"""


def add_journal(kinds: "Kinds") -> None:
    """Add `journal` to the kinds of `export`."""
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    journal = kinds.add_parser("journal", help="cleanups, incidents and used memory of the past, as JSON lines",
                               epilog=_JOURNAL, **form)
    journal.add_argument("--storage.path", dest="storage_path", metavar="DIRECTORY", type=Path,
                         help="where the sidecar keeps its state; default as for run")
    journal.add_argument("--since", metavar="DURATION", help="only what is not older, such as 1h or 7d; default "
                         "everything")
    journal.add_argument("-o", dest="output_file", metavar="FILE", type=Path, help="where to; default standard output")
    journal.set_defaults(call=_export_journal)


def _export_journal(arguments: argparse.Namespace) -> int:
    from sidecar.cli_line import socket_path
    from sidecar.clock import wall

    now = wall()
    since = now - _seconds(arguments.since) if arguments.since is not None else 0.0
    socket = socket_path(None, arguments.storage_path)
    found = _lines(socket, since, now)
    path: Path | None = arguments.output_file
    if path is None:
        try:
            for line in found:
                print(line)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in found)
        passing.replace(path)
    except OSError as error:
        raise SidecarError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        passing.unlink(missing_ok=True)
    return OK


def _seconds(text: str) -> float:
    from sidecar.rules.durations import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise SidecarError(f"--since: {error}") from None


def _lines(socket: Path, since: float, now: float) -> Iterator[str]:
    """The journal beside this control socket. Raises SidecarError."""
    from tempfile import TemporaryDirectory

    from sidecar.journal.journal import FILE

    with TemporaryDirectory(prefix="rag-sidecar-") as folder:
        copy = Path(folder) / FILE
        if _copied(socket.with_name(FILE), copy):
            yield from _of_file(copy, since, now)
            return
    yield from _of_sidecar(socket, since)


def _copied(path: Path, copy: Path) -> bool:
    """Copy a journal that nobody uses, with the log beside it; False where a sidecar has it. Raises SidecarError."""
    import fcntl
    import shutil

    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_START)
            except (BlockingIOError, PermissionError):
                return False
            with copy.open("wb") as made:
                shutil.copyfileobj(file, made)
            log = path.with_name(f"{path.name}-wal")
            if log.exists():
                shutil.copyfile(log, copy.with_name(f"{copy.name}-wal"))
    except FileNotFoundError:
        raise SidecarError(f"there is no journal at {path}",
                           help="--storage.path DIRECTORY says where a sidecar keeps its state") from None
    except OSError as error:
        raise SidecarError(f"{path} cannot be read: {error.strerror}",
                           help="it is for the user that the sidecar runs as: use sudo") from None
    return True


def _of_file(path: Path, since: float, now: float) -> Iterator[str]:
    from sidecar.journal.book import Book, Place
    from sidecar.journal.export import header, lines

    book = Book(path, now)
    try:
        yield header(now, since)
        place: Place | None = Place()
        while place is not None:
            records, points, place = book.piece(since, place)
            yield from lines(records, points)
    finally:
        book.close()


def _of_sidecar(socket: Path, since: float) -> Iterator[str]:
    from http.client import HTTPException

    from sidecar.cli_line import MOST_LINE_BYTES, START, Line

    line = Line(socket)
    try:
        line.request("GET", f"/api/v1/journal?since={since}")
        answer = line.getresponse()
        if answer.status != 200:
            said = answer.read(MOST_LINE_BYTES).decode(errors="replace")
            raise SidecarError(f"the sidecar at {socket} answered {answer.status}: {said[:200]!r}",
                               help="its log says what is wrong with its journal")
        while text := answer.readline(MOST_LINE_BYTES):
            yield text.decode().rstrip("\n")
    except TimeoutError:
        raise SidecarError(f"the sidecar at {socket} has said nothing for a while", help="is it stopped?") from None
    except (OSError, HTTPException, ValueError) as error:
        raise SidecarError(f"the sidecar at {socket} has not told its whole journal: {error!r}", help=START) from None
    finally:
        line.close()
