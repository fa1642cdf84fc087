"""The app that has an agent as its guest in benchmarks/agent.py: uvicorn, and a kilobyte for each request.

`python benchmarks/agent_host.py PORT [agent] [thread] [still] [user=UID]`: with an agent from the start; with a thread
of its own that sleeps; without uvicorn's ten looks at the clock a second, so that its work follows from the requests
alone; as another user. `GET /on` and `GET /off` start and stop the agent, `GET /end` ends the app. An app with an agent
counts requests.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from servers import end, free_port, wait_until  # noqa: E402

BODY = b"x" * 1000
START_SECONDS = 120.0
"""Under valgrind a program starts a hundred times more slowly."""


def serve(port: int, words: Sequence[str]) -> None:
    """The app: for each request some dictionaries, and rings, which only the collector can free."""
    import uvicorn

    def nothing() -> None:
        pass

    def switch(path: str) -> None:
        nonlocal count
        from sidecar import agent  # an app without one has not imported it

        (agent.start if path == "/on" else agent.stop)()
        count = agent.count_request if path == "/on" else nothing

    class Still(uvicorn.Server):
        async def main_loop(self) -> None:
            await self.on_tick(0)
            await ended.wait()

    count, ended = nothing, asyncio.Event()
    for word in words:
        if word.startswith("user="):
            os.setuid(int(word[len("user=") :]))
    if "thread" in words:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    if "agent" in words:
        switch("/on")
    kept = [{n: [n]} for n in range(100_000)]

    async def app(scope: dict, receive: object, send: object) -> None:
        if scope["path"] == "/end":
            signal.raise_signal(signal.SIGTERM)
            ended.set()
        elif scope["path"] != "/":
            switch(scope["path"])
        count()
        for place in range(50):
            kept[place] = {"n": [place], "again": [{"n": place}]}
            ring: list[object] = []
            ring.append(ring)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": BODY})

    kind = Still if "still" in words else uvicorn.Server
    kind(uvicorn.Config(app, port=port, log_level="error", lifespan="off")).run()


class Host:
    """A running app. Its agent's socket, if it has one, is in a folder of its own below `folder`."""

    def __init__(self, folder: Path, words: Sequence[str], below: Sequence[str] = (), seed: int = 0) -> None:
        self.port = free_port()
        environment = {**os.environ, "RAG_SIDECAR_AGENT_DIR": str(folder), "PYTHONHASHSEED": str(seed)}
        command = [*below, sys.executable, __file__, str(self.port), *words]
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL if below else None)
        self.pid = self.process.pid
        """Of the app, unless it runs `below` a program that has a process of its own."""
        users = [word[len("user=") :] for word in words if word.startswith("user=")]
        self.path = folder / f"rag-sidecar-{users[0] if users else os.geteuid()}" / f"{self.pid}.sock"

    def wait(self) -> None:
        """Until it listens."""
        wait_until(lambda: socket().connect_ex(("127.0.0.1", self.port)) == 0, START_SECONDS, "the app")

    def connect(self) -> socket:
        """A connection that stays."""
        client = create_connection(("127.0.0.1", self.port))
        client.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        return client

    def tasks(self) -> list[Path]:
        """Its threads, oldest first. Before Python 3.14 their names stay inside Python."""
        return sorted(Path(f"/proc/{self.pid}/task").iterdir(), key=lambda task: int(task.name))

    def anonymous_kib(self) -> int:
        """From smaps_rollup."""
        lines = Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))


@contextmanager
def host(folder: Path, *words: str, below: Sequence[str] = (), seed: int = 0) -> "Iterator[Host]":
    """An app that answers, until the context ends."""
    app = Host(folder, words, below, seed)
    try:
        app.wait()
        yield app
    finally:
        end(app.process, START_SECONDS)


def get(client: socket, path: bytes = b"/") -> None:
    """One request, and its answer."""
    client.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    answer = b""
    while len(answer) < len(BODY) or not answer.endswith(BODY):
        answer += client.recv(65536)


def thread_seconds(task: Path) -> float:
    """What a thread has run so far."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9


def sleeps(task: Path) -> int:
    """Times that a thread has gone to sleep so far; as often it was woken."""
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
