"""A client that asks at a fixed pace, however slow the answers are, and says what came of every request.

`client.py PORT RATE CONNECTIONS` asks RATE times a second, by turns for /metrics and for five minutes of a series, on
connections that are kept, until its input ends, and then prints one JSON line. Once a second it asks on a connection
of its own as well: `fresh`. Times count from the moment when a request was due.
A request is lost when its connection breaks or no answer comes for 30 s, and held back, never sent, when more than
10,000 wait for a free connection.
"""

import asyncio
import json
import sys
import time
from collections import Counter, deque
from urllib.parse import urlencode

PATIENCE_SECONDS = 30.0
MOST_WAITING = 10_000
TURN_SECONDS = 0.002

Request = tuple[float, bytes]
"""When it was due, and what is sent."""


class Tally:
    """What came of the requests. `queue` are those that wait for a connection."""

    def __init__(self) -> None:
        self.queue: deque[Request] = deque()
        self.idle: list[Connection] = []
        self.statuses: Counter[int] = Counter()
        self.seconds: list[float] = []
        self.sent = self.lost = self.held_back = 0

    def offer(self, request: Request) -> None:
        """A request is due."""
        if self.idle:
            self.idle.pop().ask(request)
        elif len(self.queue) < MOST_WAITING:
            self.queue.append(request)
        else:
            self.held_back += 1

    def rest(self, connection: "Connection") -> None:
        """A connection is free."""
        if self.queue:
            connection.ask(self.queue.popleft())
        else:
            self.idle.append(connection)


class Connection(asyncio.Protocol):
    """One connection that is kept. Reads answers by their Content-Length."""

    def __init__(self, tally: Tally) -> None:
        self.broken = False
        self._tally = tally
        self._due = 0.0
        self._missing = 0
        self._head = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to ask."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._tally.rest(self)

    def ask(self, request: Request) -> None:
        """Send it."""
        assert self._transport
        self._due, sent = request
        self._tally.sent += 1
        self._transport.write(sent)

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        if not self._missing:
            self._head += data
            head, end, data = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head = b""
            lowered = head.lower()
            self._tally.statuses[int(head[9:12])] += 1
            self._missing = int(lowered.partition(b"\r\ncontent-length: ")[2].split(b"\r\n", 1)[0])
            self._tally.seconds.append(time.monotonic() - self._due)
        self._missing -= len(data)
        if not self._missing:
            self._due = 0.0
            self._tally.rest(self)

    def connection_lost(self, _: Exception | None) -> None:
        """It broke: what was asked on it is lost, and another takes its place."""
        self._tally.lost += bool(self._due)
        if self in self._tally.idle:
            self._tally.idle.remove(self)
        self.broken = True

    @property
    def busy(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._due) and not self.broken


def requests(port: int) -> tuple[bytes, bytes]:
    """The page and the query of this moment."""
    now = round(time.time())
    query = urlencode({"query": "rag_memory_used_bytes", "start": now - 300, "end": now, "step": 5})
    return tuple(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
                 for path in ("/metrics", f"/api/v1/query_range?{query}"))  # type: ignore[return-value]


async def ask_all(port: int, rate: float, connections: int) -> tuple[Tally, float, list[bool]]:
    """Ask until the input ends, then wait for what is still to come. Also for how long, and what fresh ones got."""
    loop, tally, over = asyncio.get_running_loop(), Tally(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    open_ones = [await connected(tally, port) for _ in range(connections)]
    fresh = asyncio.create_task(ask_afresh(port, over))
    begun, count, texts, texts_at = time.monotonic(), 0, requests(port), 0.0
    while not over.is_set():
        now = time.monotonic()
        if now - texts_at > 0.5:
            texts, texts_at = requests(port), now
        while (due := begun + count / rate) <= now:
            tally.offer((due, texts[count % 2]))
            count += 1
        for at, one in enumerate(open_ones):
            if one.broken:
                open_ones[at] = await connected(tally, port)
        await asyncio.sleep(TURN_SECONDS)
    seconds = time.monotonic() - begun
    for _ in range(int(PATIENCE_SECONDS / 0.05)):
        if not tally.queue and not any(one.busy for one in open_ones):
            break
        await asyncio.sleep(0.05)
    tally.lost += len(tally.queue) + sum(one.busy for one in open_ones)
    return tally, seconds, await fresh


async def connected(tally: Tally, port: int) -> Connection:
    """One more connection."""
    return (await asyncio.get_running_loop().create_connection(lambda: Connection(tally), "127.0.0.1", port))[1]


async def ask_afresh(port: int, over: asyncio.Event) -> list[bool]:
    """Whether /-/healthy answered within two seconds to somebody new, once a second."""
    found = []
    while not over.is_set():
        try:
            async with asyncio.timeout(2.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                try:
                    writer.write(b"GET /-/healthy HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    found.append(b" 200 " in await reader.readline())
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            found.append(False)
        await asyncio.sleep(1.0)
    return found


def percentile(seconds: list[float], part: float) -> float:
    """In milliseconds."""
    ordered = sorted(seconds)
    return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))] * 1000, 1) if ordered else 0.0


def main() -> None:
    """Ask, and say what came of it."""
    tally, seconds, fresh = asyncio.run(ask_all(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
    refused, answered = tally.statuses[429] + tally.statuses[503], tally.statuses[200]
    print(json.dumps({
        "offered_per_second": round((tally.sent + tally.held_back) / seconds, 1),
        "answered_per_second": round(answered / seconds, 1), "answered": answered, "refused": refused,
        "other": sum(tally.statuses.values()) - answered - refused, "lost": tally.lost, "held_back": tally.held_back,
        "answer_median_ms": percentile(tally.seconds, 0.5), "answer_p99_ms": percentile(tally.seconds, 0.99),
        "fresh": len(fresh), "fresh_answered": sum(fresh)}), flush=True)


if __name__ == "__main__":
    main()
