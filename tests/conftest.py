"""Fixtures that every test may use: real target programs, free ports, the checkout."""

import logging
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import servers
from servers import wait_until as wait_until

READY_SECONDS = 90.0
LONGEST = ("audit", "sidecar", "acting_properties", "control", "sidecar_incidents", "differential", "acting_traces",
           "sidecar_limits", "rules_properties", "demo_rag", "agent_channel", "end_to_end", "journal_sidecar",
           "status_page", "adversity", "attach", "agent_user", "agent_hostile", "reload", "notify_restarts",
           "orders_sidecar", "hostile_targets", "crashes", "agent")
"""Files that take half a minute or more, tests/test_*.py; those that compute stand between those that wait."""

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each program that a test starts would compile the sidecar anew
for _ignored in (signal.SIGINT, signal.SIGHUP):  # by nohup, or a shell that put us behind: programs would inherit it
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, signal.default_int_handler if _ignored == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files go first, so that side by side with the others they are not what everybody waits for."""
    rank = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="module")
def silence() -> Iterator[None]:
    """What the desk would write to its log is of no interest here, and takes time."""
    log = logging.getLogger("sidecar")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the repository."""
    return servers.CHECKOUT


@pytest.fixture
def free_port() -> int:
    """A loopback port on which nothing listens."""
    return servers.free_port()


@dataclass(frozen=True)
class Target:
    """A running program of tests/targets. Lives until its test ends. `said` is what followed `ready`: {"http": …}."""

    process: "subprocess.Popen[bytes]"
    said: dict[str, str]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def url(self) -> str:
        """Where it serves HTTP."""
        return f"http://127.0.0.1:{self.said['http']}"

    def tell(self, command: str) -> int:
        """Have a command carried out (`grow MIB`, `drop`, `rate MB_PER_S`). Returns the bytes it holds then."""
        assert self.process.stdin
        self.process.stdin.write(f"{command}\n".encode())
        self.process.stdin.flush()
        return int(read_line(self.process, f"the answer to {command!r}"))


def read_line(process: "subprocess.Popen[bytes]", what: str, seconds: float = READY_SECONDS) -> str:
    """The next line of a program's stdout. AssertionError where it ends or keeps silent for `seconds`."""
    assert process.stdout
    fd, line, deadline = process.stdout.fileno(), b"", time.monotonic() + seconds
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert readable, f"waited {seconds:g} s in vain for {what} of {process.args!r}"
        byte = os.read(fd, 1)  # byte by byte: a buffer would hide the next line from select
        assert byte, f"{process.args!r} ended with {process.wait(seconds)} before {what}"
        line += byte
    return line.decode().strip()


@pytest.fixture
def spawn(checkout: Path) -> Iterator[Callable[..., Target]]:
    """Start `tests/targets/NAME.py` for real: `spawn("leaky", "--rate", "50", python=…)`; more goes to Popen.

    Returns when it has said `ready`. Whatever happens, it is ended by its pid when the test ends.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str, python: str = sys.executable, **popen: Any) -> Target:
        program = checkout / "tests" / "targets" / f"{name}.py"
        command = [python, str(program), *arguments]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen)
        started.append(process)
        word, *said = read_line(process, "ready").split()
        assert word == "ready", f"{program} said {word!r} before ready"
        return Target(process, dict(pair.split("=", 1) for pair in said))

    yield start
    for process in reversed(started):
        servers.end(process)
