"""A program with a debug endpoint of many faces, good and bad. Says `ready http=PORT`; ends with its stdin.

`GET /memory` answers what the last `POST /memory` brought, with its Content-Type; `GET /seen` lists the requests so
far, each with its path and headers. Every other path has a bad day of its own: see FACES.
"""

from __future__ import annotations  # the syntax of types, also on Python 3.8

import collections.abc
import gzip
import io
import json
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

LIFE_SECONDS = 600
MANY = 100_000_000
TYPE_CHECKING = False
if TYPE_CHECKING:  # at run time these need a newer Python
    Write = collections.abc.Callable[[bytes], Any]
    Face = collections.abc.Callable[[Write], None]


def hang(_: Write) -> None:
    """Take the question and say nothing."""
    threading.Event().wait(60)


def loris(write: Write) -> None:
    """A header that never ends, a byte now and then."""
    write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    for _ in range(600):
        write(b"a")
        time.sleep(0.05)


def slow(write: Write) -> None:
    """A body that never ends, a byte now and then."""
    write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n[")
    for _ in range(600):
        write(b" ")
        time.sleep(0.05)


def endless(write: Write) -> None:
    """A body without a length that goes on for ever."""
    write(b"HTTP/1.1 200 OK\r\n\r\n[")
    while True:
        write(b"1," * 10_000)


def headers(write: Write) -> None:
    """More and more headers."""
    write(b"HTTP/1.1 200 OK\r\n")
    while True:
        write(b"".join(b"X-%d: y\r\n" % number for number in range(1000)))


def bomb(write: Write) -> None:
    """A few kilobytes that unpack to 100 MB."""
    packed = gzip.compress(b" " * MANY)
    write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed)


def plain(text: bytes) -> Face:
    """Always these bytes."""
    return lambda write: write(text)


FACES: dict[str, Face] = {
    "/hang": hang, "/loris": loris, "/slow": slow, "/endless": endless, "/headers": headers, "/bomb": bomb,
    "/huge": plain(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b" " * MANY),
    "/redirect": plain(b"HTTP/1.1 302 Found\r\nLocation: /memory\r\nContent-Length: 2\r\n\r\n{}"),
    "/error": plain(b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{\"a\": 1}"),
    "/gone": plain(b""),
    "/garbage": plain(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "/cut": plain(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"a\": 1}"),
    "/chunks": plain(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n"),
    "/html": plain(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<!doctype html><title>Sign in</title>"),
}


class Answering(BaseHTTPRequestHandler):
    """Answers one request."""

    said = b'{"memory_mb": 512.5, "status": "normal"}', "application/json"
    seen: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/seen":
            self.reply(json.dumps(Answering.seen).encode(), "application/json")
            return
        Answering.seen.append({"path": self.path, "headers": dict(self.headers.items())})
        if path == "/memory":
            self.reply(*Answering.said)
            return
        try:
            FACES[path](self.wfile.write)
            self.wfile.flush()
        except (ConnectionError, io.UnsupportedOperation):
            pass
        self.close_connection = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Answering.said = body, self.headers.get("Content-Type", "")
        self.reply(b"ok", "text/plain")

    def reply(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        if content_type:
            self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


if __name__ == "__main__":
    signal.alarm(LIFE_SECONDS)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"ready http={server.server_port}", flush=True)
    sys.stdin.read()
