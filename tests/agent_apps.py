"""Apps with the agent inside, as real processes, and a plain client of the agent's protocol."""

import contextlib
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import servers

SECONDS = 30.0


class Answer(NamedTuple):
    """What the agent said: the id that it accepted in an interim answer, then status, headers (lower case), JSON."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]
    accepted: str = ""


class Client:
    """One connection to an agent, over a unix socket (a path) or TCP (a port)."""

    def __init__(self, address: Path | int) -> None:
        if isinstance(address, int):
            self.socket = socket.create_connection(("127.0.0.1", address), timeout=SECONDS)
        else:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self.socket.connect(str(address))
            except OSError:
                self.socket.close()
                raise
            self.socket.settimeout(SECONDS)
        self._rest = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> None:
        """A request. A `body` becomes JSON."""
        text = b"" if body is None else json.dumps(body).encode()
        fields = {"Host": "localhost", "Content-Length": str(len(text)), **(headers or {})}
        if body is not None:
            fields.setdefault("Content-Type", "application/json")
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.socket.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + text)

    def head(self) -> tuple[int, dict[str, str]]:
        """The next status and headers, an interim answer too. EOFError where the agent has hung up."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in pairs}

    def answer(self) -> Answer:
        """The next answer, with what was accepted before it."""
        status, headers = self.head()
        accepted = ""
        if status == 102:
            accepted = headers["x-rag-sidecar-accepted"]
            status, headers = self.head()
        length = int(headers["content-length"])
        while len(self._rest) < length:
            self._more()
        body, self._rest = self._rest[:length], self._rest[length:]
        return Answer(status, headers, json.loads(body), accepted)

    def ask(self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None) -> Answer:
        """One request and its answer."""
        self.send(method, path, body, headers)
        return self.answer()

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError(f"the agent hung up after {self._rest!r}")
        self._rest += data


class App:
    """A running tests/agent/app.py. Lives until its test ends."""

    def __init__(self, folder: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder  # of this app alone: the copied agent, the place of its socket, what it writes to stderr
        shutil.copy(servers.CHECKOUT / "sidecar" / "agent.py", folder)
        program = servers.CHECKOUT / "tests" / "agent" / "app.py"
        own = {**os.environ, "RAG_SIDECAR_AGENT_DIR": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, str(program), str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=own,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def errors(self) -> Path:
        """What it wrote to stderr."""
        return self.folder / "stderr"

    def path(self, pid: int = 0) -> Path:
        """The agent's socket, of this process or another one of the same user."""
        return self.folder / f"rag-sidecar-{os.geteuid()}" / f"{pid or self.pid}.sock"

    def begin(self, code: str) -> None:
        """Have Python carried out, without waiting for it."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(code).encode() + b"\n")
        self.process.stdin.flush()

    def end(self) -> Any:
        """The value of what was begun. AssertionError with what it raised."""
        assert self.process.stdout
        fd, line, deadline = self.process.stdout.fileno(), b"", time.monotonic() + SECONDS
        while not line.endswith(b"\n"):
            assert select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0], "the app keeps silent"
            data = os.read(fd, 65536)
            assert data, f"the app ended with {self.process.wait(SECONDS)}: {self.errors.read_text()[-2000:]}"
            line += data
        value, error = json.loads(line)
        assert not error, error
        return value

    def do(self, code: str) -> Any:
        """Have Python carried out. Returns its value."""
        self.begin(code)
        return self.end()

    def client(self) -> Client:
        """A connection to its agent."""
        return Client(self.path())

    def get(self, path: str) -> dict[str, Any]:
        """What the agent answers to GET."""
        with self.client() as client:
            answer = client.ask("GET", path)
        assert answer.status == 200, answer
        return answer.body

    def post(self, path: str, **body: object) -> Answer:
        """What the agent answers to POST of JSON."""
        with self.client() as client:
            return client.ask("POST", path, body)

    def steps(self, level: str) -> dict[str, dict[str, Any]]:
        """The steps of a cleanup, by their names."""
        answer = self.post("/cleanup", level=level)
        assert answer.status == 200, answer
        return {step["step"]: step for step in answer.body["steps"]}

    def agent_sleeps(self, seconds: float) -> bool:
        """Whether its thread passes the next seconds without a switch of context."""
        tid = self.do("next(t.native_id for t in __import__('threading').enumerate() if t.name == 'rag-sidecar-agent')")

        def switches() -> list[str]:
            status = Path(f"/proc/{self.pid}/task/{tid}/status").read_text()
            return [line for line in status.splitlines() if "ctxt_switches" in line]

        before = switches()
        self.do(f"__import__('time').sleep({seconds})")
        return switches() == before

    def close(self) -> int:
        """End it in order: its input ends. Returns its exit code."""
        assert self.process.stdin
        self.process.stdin.close()
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def launching(folder: Path) -> Iterator[Callable[..., App]]:
    """A way to start apps: `launch("signals=False")` are arguments of start(), None starts no agent.

    `python` is an interpreter of pythons.py, keywords are the environment. What was started ends with the context.
    """
    started: list[App] = []

    def launch(arguments: str | None = "", python: Any = None, **environment: str) -> App:
        command = python.command if python else (sys.executable,)
        home = {"PYTHONHOME": python.home} if python and python.home else {}
        app = App(folder / f"app{len(started)}", command, {**home, **environment})
        started.append(app)
        if arguments is not None:
            app.do(f"agent.start({arguments})")
        return app

    try:
        yield launch
    finally:
        for app in started:
            servers.end(app.process)
