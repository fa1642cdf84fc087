"""The app that has an agent as its guest in benchmarks/agent.py: uvicorn, and a kilobyte for each request.

`python benchmarks/agent_host.py PORT [agent] [thread] [still] [user=UID] [layout=N]`: with an agent from the start;
with a thread of its own that sleeps; without uvicorn's ten looks at the clock a second, so that its work follows from
the requests alone; as another user; with everything at other places in memory.

`GET /` does next to nothing, `POST /answer` what a small RAG app does around its model. `GET /on` and `GET /off` start
and stop the agent, `GET /end` ends the app. An app with an agent counts requests.
"""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from heapq import nlargest
from operator import mul
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, socket
from zlib import crc32

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from servers import end, free_port, wait_until  # noqa: E402

BODY = b"x" * 1000
NOTHING, ANSWER = b"/", b"/answer"
QUESTION = json.dumps({"question": "where do word17 and word23 stand beside word59", "top": 3}).encode()
PASSAGES, WORDS, DIMENSIONS = 300, 30, 64
SHIFTED = 37
"""Objects of several sizes for each number of a layout."""
START_SECONDS = 120.0
"""Under valgrind a program starts a hundred times more slowly."""


def embed(text: str) -> list[float]:
    """A vector of length one: each word counts at the place that its checksum names."""
    found = [0.0] * DIMENSIONS
    for word in text.split():
        found[crc32(word.encode()) % DIMENSIONS] += 1.0
    length = math.hypot(*found)
    return [value / length for value in found]


class Passages:
    """Some hundred texts, found again by their vectors: a small RAG app without a model."""

    def __init__(self) -> None:
        self.texts = [" ".join(f"word{n * place % 997}" for place in range(1, WORDS)) for n in range(1, PASSAGES)]
        self.vectors = [embed(text) for text in self.texts]

    def answer(self, body: bytes) -> bytes:
        """JSON for JSON: the passages that are nearest to the question."""
        asked = json.loads(body)
        wanted = embed(asked["question"])
        scores = [sum(map(mul, wanted, vector)) for vector in self.vectors]
        best = nlargest(asked["top"], range(len(scores)), key=scores.__getitem__)
        found = [{"text": self.texts[place], "score": round(scores[place], 4)} for place in best]
        return json.dumps({"question": asked["question"], "passages": found}).encode().ljust(len(BODY))[: len(BODY)]


def shifted(layout: int) -> list[object]:
    """Types and bytes that take places in memory, and versions of types, which others would have had."""
    kinds = [type(f"Kind{n}", (), {}) for n in range(SHIFTED * layout)]
    return [(kind, getattr(kind, "absent", None), bytes(n)) for n, kind in enumerate(kinds)]


def serve(port: int, words: Sequence[str]) -> None:
    """The app. Its next to nothing: some dictionaries, and rings, which only the collector can free."""
    moved = [shifted(int(word[len("layout=") :])) for word in words if word.startswith("layout=")]
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
    kept, passages = [{n: [n]} for n in range(100_000)], Passages()

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        path, body = scope["path"], BODY
        if path == "/end":
            signal.raise_signal(signal.SIGTERM)
            ended.set()
        elif path in ("/on", "/off"):
            switch(path)
        count()
        if path == "/answer":
            body = passages.answer((await receive())["body"])
        else:
            for place in range(50):
                kept[place] = {"n": [place], "again": [{"n": place}]}
                ring: list[object] = []
                ring.append(ring)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
        await send({"type": "http.response.body", "body": body})

    kind = Still if "still" in words else uvicorn.Server
    kind(uvicorn.Config(app, port=port, log_level="error", lifespan="off")).run()
    moved.clear()


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


def get(client: socket, path: bytes = NOTHING) -> None:
    """One request, and its answer. Raises ConnectionError if the app goes instead."""
    if path == ANSWER:
        head = b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(QUESTION)
        client.sendall(head + QUESTION)
    else:
        client.sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
    answer = b""
    while len(answer.partition(b"\r\n\r\n")[2]) < len(BODY):
        received = client.recv(65536)
        if not received:
            raise ConnectionError("the app closed the connection instead of answering")
        answer += received


def thread_seconds(task: Path) -> float:
    """What a thread has run so far."""
    return int((task / "schedstat").read_text().split()[0]) / 1e9


def sleeps(task: Path) -> int:
    """Times that a thread has gone to sleep so far; as often it was woken."""
    lines = (task / "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt"))


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2:])
