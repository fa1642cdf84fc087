"""Answers HTTP in its main thread, one request after the other, and waits for the next one in the kernel.

Its argument is the port; it says `ready`. GET answers with the names in `__main__` and the threads, as JSON.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Answers(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """What is there."""
        told = {"names": sorted(globals()), "threads": [thread.name for thread in threading.enumerate()],
                "handler": str(signal.getsignal(signal.SIGUSR1))}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


if __name__ == "__main__":
    signal.alarm(300)
    server = HTTPServer(("127.0.0.1", int(sys.argv[1])), Answers)
    print("ready", flush=True)
    while True:
        server.handle_request()
