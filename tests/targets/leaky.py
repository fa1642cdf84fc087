"""Grows, and cleans up when asked by a signal or by POST /cleanup: the well-behaved patient, with bad days to choose.

Says `ready`, or `ready http=PORT`. With `--handle SIGUSR1` (may be repeated) that signal drops everything, and with
`--handled FILE` each one is noted there as a line of JSON: signal, monotonic and wall time at which the handler ran,
the bytes that were dropped. With `--http PORT` (0: any) `POST /cleanup` drops everything and `GET /memory` tells the
bytes; `--requests FILE` notes each request there as a line of JSON; `--answer` chooses how a cleanup is answered:
ok, error (500), html, huge (100 MB), nothing (the connection closes), hang. With `--read FILE` it reads that file again
and again, so that all the page cache that its cgroup allows is its own.
"""

from __future__ import annotations  # the syntax of types, also on Python 3.8

import argparse
import collections
import contextlib
import json
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from blocks import MIB, Blocks, obey


def note(path: str | None, entry: dict[str, Any]) -> None:
    """Append one line of JSON in one write, so that a reader never sees half of it."""
    if path:
        with open(path, "ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")


def clean_on_signals(names: list[str], blocks: Blocks, handled: str | None) -> None:
    """Handlers only take the time and wake a thread, which does the work: a handler must be free to interrupt it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    arrivals: collections.deque[tuple[int, float, float]] = collections.deque(maxlen=1000)

    def on_signal(signum: int, _: Any) -> None:
        arrivals.append((signum, time.monotonic(), time.time()))
        with contextlib.suppress(BlockingIOError):  # full: the thread is awake anyway
            os.write(writing, b"!")

    def work() -> None:
        while os.read(reading, 4096):
            while arrivals:
                signum, monotonic, wall = arrivals.popleft()
                freed = blocks.drop()
                name = signal.Signals(signum).name
                note(handled, {"signal": name, "monotonic": monotonic, "wall": wall, "freed_bytes": freed})

    threading.Thread(target=work, daemon=True).start()
    for name in names:
        signal.signal(signal.Signals[name], on_signal)


def serve(port: int, answer: str, blocks: Blocks, requests: str | None) -> int:
    """Serve HTTP on loopback in threads. Returns the port."""

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/memory":
                body = json.dumps({"memory_mb": blocks.held_bytes / MIB, "memory_bytes": blocks.held_bytes}).encode()
                self.reply(200, "application/json", body)
            else:
                self.reply(404, "text/plain", b"not found\n")

        def do_POST(self) -> None:
            announced = int(self.headers.get("Content-Length") or 0)
            read = self.rfile.read(announced)
            if len(read) < announced:  # whoever asked was killed meanwhile: nothing has been asked for
                self.close_connection = True
                return
            entry = {"path": self.path, "headers": dict(self.headers.items()), "body": read.decode("utf-8", "replace")}
            note(requests, {**entry, "monotonic": time.monotonic(), "wall": time.time()})
            if self.path != "/cleanup":
                self.reply(404, "text/plain", b"not found\n")
            elif answer == "ok":
                before = blocks.held_bytes
                freed = blocks.drop()
                result = {"status": "ok", "before_bytes": before, "after_bytes": before - freed, "freed_bytes": freed}
                self.reply(200, "application/json", json.dumps(result).encode())
            elif answer == "error":
                self.reply(500, "text/plain", b"no\n")
            elif answer == "html":
                self.reply(200, "text/html", b"<!doctype html><title>Sign in</title>")
            elif answer == "huge":
                self.reply(200, "application/json", b" " * 100_000_000)
            elif answer == "hang":
                threading.Event().wait()

        def reply(self, status: int, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # 100 MB are more than a client should read
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def read_for_ever(path: str) -> None:
    """Have the kernel keep as much of the file in memory as it can, and wring every further page from that."""
    with open(path, "rb", buffering=0) as file:
        while True:
            if not file.read(MIB):
                file.seek(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=0.0, metavar="MB_PER_S")
    parser.add_argument("--limit", type=int, default=512, metavar="MIB")
    parser.add_argument("--handle", action="append", default=[], metavar="SIGNAL")
    parser.add_argument("--handled", metavar="FILE")
    parser.add_argument("--http", type=int, metavar="PORT")
    parser.add_argument("--requests", metavar="FILE")
    parser.add_argument("--answer", choices=["ok", "error", "html", "huge", "nothing", "hang"], default="ok")
    parser.add_argument("--read", metavar="FILE")
    options = parser.parse_args()
    held = Blocks(options.limit * MIB)
    if options.handle:
        clean_on_signals(options.handle, held, options.handled)
    ready = "ready"
    if options.http is not None:
        ready = f"ready http={serve(options.http, options.answer, held, options.requests)}"
    if options.read:
        threading.Thread(target=read_for_ever, args=(options.read,), daemon=True).start()
    obey(held, options.rate, ready)
