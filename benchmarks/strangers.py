"""Clients that mean no good. `strangers.py PORT silent|slow COUNT`: until its input ends, then one JSON line.

`silent`: COUNT connections that send nothing; those that are closed are opened again. `slow`: COUNT connections with
small buffers, each of which asks for pages, or for a range of everything, and reads a byte a second of the answer.
"""

import contextlib
import json
import resource
import select
import socket
import sys
import time
from urllib.parse import urlencode

SMALL_BYTES = 4096


def opened(port: int, asked: bytes) -> socket.socket | None:
    """A connection that has asked; None where it was refused at once."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BYTES)
    sock.settimeout(2.0)
    try:
        sock.connect(("127.0.0.1", port))
        sock.sendall(asked)
    except OSError:
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def asked(port: int, at: int, slow: bool) -> bytes:
    """What the connection with this number sends."""
    if not slow:
        return b""
    now = round(time.time())
    query = urlencode({"query": '{__name__=~"rag_.+"}', "start": now - 300, "end": now, "step": 1})
    path = "/metrics" if at % 2 else f"/api/v1/query_range?{query}"
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def closed(sock: socket.socket) -> bool:
    """Whether the other side has hung up; a byte of what it says is read."""
    try:
        return not sock.recv(1)
    except BlockingIOError:
        return False
    except OSError:
        return True


def main() -> None:
    """Hold on to the connections, and begin anew where one was closed."""
    port, slow, count = int(sys.argv[1]), sys.argv[2] == "slow", int(sys.argv[3])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096) if hard > 0 else 4096, hard))
    held: list[socket.socket | None] = [None] * count
    tried, most = 0, 0
    while not select.select([sys.stdin], [], [], 1.0)[0]:
        for at, sock in enumerate(held):
            if sock and closed(sock):
                sock.close()
                held[at] = None
            if held[at] is None:
                held[at] = opened(port, asked(port, at, slow))
                tried += 1
        most = max(most, sum(sock is not None and not (not slow and closed(sock)) for sock in held))
    print(json.dumps({"connections": count, "opened": tried, "held_at_most": most}), flush=True)


if __name__ == "__main__":
    main()
