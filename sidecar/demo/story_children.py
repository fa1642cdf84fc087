"""The two programs of the demo as child processes: started, watched, heard, and ended whatever happens."""

import ctypes
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TypeVar

START_SECONDS = 30.0
END_SECONDS = 10.0
TAIL_LINES = 12
TAIL_BYTES = 64 * 1024

T = TypeVar("T")

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class Failed(Exception):
    """The demo cannot go on. The message is for the person who watches it."""


class Ended(BaseException):
    """Somebody asked us to end. No Exception, so that nothing on the way takes it for trouble of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise Ended inside when Ctrl-C, SIGTERM or SIGHUP comes. Only the first counts: ending is not interrupted."""

    def end(number: int, frame: FrameType | None) -> None:
        ignore_endings()
        raise Ended(number)

    before = {each: signal.signal(each, end) for each in _ENDINGS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def ignore_endings() -> None:
    """From here on Ctrl-C, SIGTERM and SIGHUP change nothing: the end has begun."""
    for each in _ENDINGS:
        signal.signal(each, signal.SIG_IGN)


class Child:
    """One program with its output in a file. Lives until `end`, at most as long as we do.

    It is in a process group of its own: Ctrl-C reaches us alone, and the children end in the order that we choose.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=dict(env), process_group=0,
                preexec_fn=_end_with_parent)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise Failed, with the end of what it said, if it has ended."""
        code = self._process.poll()
        if code is not None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise Failed(f"The {self.name} {how}, and nobody asked it to. {self.last_words()}")

    def last_words(self) -> str:
        """The last lines of its output, with a line above them that says so."""
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        printable = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
        return "\n".join(["Its last words:" if lines else "It said nothing.", *(f"  {line}" for line in printable)])

    def wait_for(self, what: Callable[[], T]) -> T:
        """The first true answer of `what`. Raises Failed if the program ends before, or it takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not (answer := what()):
            self.check()
            if time.monotonic() > deadline:
                raise Failed(f"The {self.name} was not ready within {START_SECONDS:.0f} s. {self.last_words()}")
            time.sleep(0.02)
        return answer

    def said(self, pattern: str) -> str:
        """The first group of the first match of `pattern` in its output; the empty string if there is none."""
        match = re.search(pattern, self.log.read_text(errors="replace"), re.MULTILINE)
        return match[1] if match else ""

    def end(self) -> None:
        """SIGTERM, SIGKILL where that is not enough, and wait. Harmless when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A loopback port on which nothing listens just now, chosen by the kernel."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _end_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent is gone (prctl(2)): a parent killed by SIGKILL ends nobody itself."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
