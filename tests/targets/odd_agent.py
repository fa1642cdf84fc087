"""Listens where an agent would, and answers as it is told: well, badly, or not at all. Obeys on stdin as leaky does.

`--place DIRECTORY` (where its own directory is made), `--answer` for questions, `--cleanup` for POST /cleanup,
`--memory JSON` for what it tells of memory, `--name PID` to take another process's name. `--handle SIGNAL` makes that
signal drop everything; with `--stoppable` SIGUSR2 ends every conversation and the listening.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import threading
import time
from typing import Any

from blocks import MIB, Blocks, obey

HELLO = {"protocol": 1, "agent": "0.0.1", "python": "3.12.1", "allocator": "glibc",
         "signals": {"SIGUSR1": "standard", "SIGUSR2": "aggressive", "SIGKILL": "light", "SIGTERM": "odd"}}


def told(status: str, body: dict[str, Any], more: str = "") -> bytes:
    """A whole answer."""
    text = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(text)}\r\n\r\n".encode() + text


def odd(peer: socket.socket, answer: str) -> None:
    """What no agent would say; the connection is closed afterwards."""
    if answer == "garbage":
        peer.sendall(b"\x00\xff\r\n\r\n" * 100)
    elif answer == "nothing":
        time.sleep(60)
    elif answer == "drip":
        for byte in b"HTTP/1.1 200 OK\r\nX-Drip: " + b"x" * 8000:
            peer.sendall(bytes([byte]))
            time.sleep(0.5)
    elif answer == "endless":
        while True:
            peer.sendall(b"HTTP/1.1 200 OK\r\n" + b"X-Header: y\r\n" * 1000)
    elif answer == "interim":
        while True:
            peer.sendall(b"HTTP/1.1 102 Processing\r\n\r\n")
    elif answer == "huge":
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10485760\r\n\r\n" + b" " * 10485760)
    elif answer == "more":
        peer.sendall(told("200 OK", HELLO) * 2)
    elif answer == "deep":
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"[" * 60000)
    elif answer == "list":
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")
    elif answer == "chunked":
        peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
    elif answer == "error":
        peer.sendall(told("500 Internal Server Error", {"error": "odd"}))
    elif answer == "die":
        os._exit(1)


def clean(peer: socket.socket, how: str, order: dict[str, Any], blocks: Blocks) -> bool:
    """Carry a cleanup out, or not. True if the conversation goes on."""
    accepted = f"HTTP/1.1 102 Processing\r\nX-Rag-Sidecar-Accepted: {order['id']}\r\n\r\n".encode()
    if how == "late":
        time.sleep(0.5)
    if how == "busy":
        peer.sendall(told("409 Conflict", {"error": "busy", "retry_after_seconds": 3}, "Retry-After: 3\r\n"))
        return True
    if how not in ("ok", "late", "wordy"):
        if how.startswith("accept-"):
            peer.sendall(accepted)
        odd(peer, how.removeprefix("accept-"))
        return False
    peer.sendall(accepted)
    steps = [{"step": "cleaner:drop", "freed_bytes": blocks.held_bytes, "duration_seconds": 0.01, "pause_seconds": 0.0,
              "error": "x" * 1000}] * (500 if how == "wordy" else 1)
    freed = blocks.drop()
    peer.sendall(told("200 OK", {
        "id": order["id"], "level": order["level"], "outcome": "done", "freed_bytes": freed, "predicted_bytes": freed,
        "objects_collected": 7, "duration_seconds": 0.01, "pause_seconds": 0.002, "steps": steps[:55]}))
    return True


def serve(peer: socket.socket, options: argparse.Namespace, blocks: Blocks) -> None:
    """One conversation."""
    inbox, going = b"", True
    while going:
        data = peer.recv(65536)
        if not data:
            return
        inbox += data
        while b"\r\n\r\n" in inbox and going:
            head, _, inbox = inbox.partition(b"\r\n\r\n")
            path = head.split()[1].decode()
            if path == "/cleanup":
                length = int(head.lower().partition(b"content-length:")[2].split()[0])
                order, inbox = json.loads(inbox[:length]), inbox[length:]
                going = clean(peer, options.cleanup, order, blocks)
            elif options.answer in ("ok", "newer"):
                hello = {**HELLO, "protocol": 99} if options.answer == "newer" else HELLO
                peer.sendall(told("200 OK", hello if path == "/" else json.loads(options.memory)))
            elif path == "/" and options.answer.startswith("memory-"):
                peer.sendall(told("200 OK", HELLO))
            else:
                odd(peer, options.answer.removeprefix("memory-"))
                going = False
    peer.close()


def listen(options: argparse.Namespace, blocks: Blocks) -> None:
    """At the place, in a directory of our own, under the pid of this process or the one that was given."""
    folder = os.path.join(options.place, f"rag-sidecar-{os.geteuid()}")
    os.makedirs(folder, 0o700, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    path = os.path.join(folder, f"{options.name or os.getpid()}.sock")
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(16)

    peers = []

    def stop(*_: Any) -> None:
        os.unlink(path)
        for each in (listener, *peers):
            with contextlib.suppress(OSError):  # it has hung up already
                each.shutdown(socket.SHUT_RDWR)

    if options.stoppable:
        signal.signal(signal.SIGUSR2, stop)

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return  # it was stopped
            peers.append(peer)
            threading.Thread(target=quietly, args=(peer,), daemon=True).start()

    def quietly(peer: socket.socket) -> None:
        try:
            serve(peer, options, blocks)
        except OSError:
            peer.close()

    threading.Thread(target=accept, daemon=True).start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", required=True)
    parser.add_argument("--answer", default="ok")
    parser.add_argument("--cleanup", default="ok")
    parser.add_argument("--memory", default="{}")
    parser.add_argument("--name", type=int)
    parser.add_argument("--handle", metavar="SIGNAL")
    parser.add_argument("--stoppable", action="store_true")
    parser.add_argument("--limit", type=int, default=512, metavar="MIB")
    chosen = parser.parse_args()
    held = Blocks(chosen.limit * MIB)
    if chosen.handle:
        signal.signal(signal.Signals[chosen.handle], lambda *_: held.drop())
    listen(chosen, held)
    obey(held, 0.0, "ready")
