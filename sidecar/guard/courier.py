"""The courier: a child of the guard that carries POSTs, so that no network ever keeps the guard waiting.

Started as `python -m sidecar.guard.courier FD` only when an http channel is configured; ends at EOF.
One total deadline for each request: name, connection, sending, answer. Redirects are not followed, proxies of the
environment are not used, an answer is read up to 64 KiB.
"""

import http.client
import json
import socket
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

from sidecar.clock import monotonic
from sidecar.guard.wire import MAX_MESSAGE_BYTES, decode, encode

MOST_AT_ONCE = 16
MAX_ANSWER_BYTES = 65536
PULSE_SECONDS = 0.25


class Errand:
    """One POST. Lives until its answer has been reported."""

    def __init__(self, message: dict[str, Any], out: socket.socket) -> None:
        self.id = str(message["id"])
        self.deadline = monotonic() + float(message["timeout_seconds"])
        self._url = str(message["url"])
        self._headers = {str(k): str(v) for k, v in message["headers"]}
        self._body = json.dumps(message["body"]).encode()
        self._connection: http.client.HTTPConnection | None = None
        self._out = out
        self._told = threading.Lock()

    def run(self) -> None:
        """Carry it out and report how it went."""
        try:
            self._report(**self._post())
        except TimeoutError:
            self._report(error="timeout", message="no answer within the total deadline")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._report(error=type(error).__name__, message=str(error)[:200])

    def _post(self) -> dict[str, Any]:
        url = urlsplit(self._url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        left = max(0.001, self.deadline - monotonic())
        self._connection = connection = kind(url.hostname or "", url.port, timeout=left)
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", path, self._body, {"Content-Type": "application/json", **self._headers})
            self._send(sent=True)
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER_BYTES)
            return {"status": answer.status, "body": text.decode("utf-8", "replace")[:2000]}
        finally:
            connection.close()

    def expire(self) -> None:
        """Past its deadline: report that, and break the connection so that its thread comes free."""
        self._report(error="timeout", message="no answer within the total deadline")
        sock = self._connection.sock if self._connection else None
        if sock:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # closed by its own thread in the meantime

    def turn_away(self) -> None:
        """Not begun: there are too many already."""
        self._report(error="busy", message=f"{MOST_AT_ONCE} others are on their way")

    def _report(self, **body: Any) -> None:
        if self._told.acquire(blocking=False):  # only the first report counts; never released
            self._send(**body)

    def _send(self, **body: Any) -> None:
        try:
            self._out.send(encode("answer", id=self.id, **body))
        except OSError:
            return  # the guard is gone; so is the courier in a moment


def main(fd: int) -> None:
    """Take errands from the socket `fd` until it ends."""
    sock = socket.socket(fileno=fd)
    sock.settimeout(PULSE_SECONDS)
    running: dict[Errand, threading.Thread] = {}
    while True:
        try:
            data = sock.recv(MAX_MESSAGE_BYTES)
            if not data:
                return
            errand = Errand(decode(data)[1], sock)
            if len(running) < MOST_AT_ONCE:
                thread = running[errand] = threading.Thread(target=errand.run, daemon=True)
                thread.start()
            else:
                errand.turn_away()
        except TimeoutError:
            pass  # the pulse: nothing has come, but a deadline may have passed
        now = monotonic()
        for errand, thread in list(running.items()):
            if now > errand.deadline:
                errand.expire()
            if not thread.is_alive():
                del running[errand]


if __name__ == "__main__":
    main(int(sys.argv[1]))
