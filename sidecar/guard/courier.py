"""The courier: a child of the guard that runs errands, so that no network and no program keeps the guard waiting.

Started as `python -m sidecar.guard.courier FD` only when an http or exec channel is configured; ends at EOF.
One total deadline for each POST: name, connection, sending, answer. Redirects are not followed, proxies of the
environment are not used, an answer is read up to 64 KiB.
"""

import http.client
import json
import resource
import signal
import socket
import sys
import threading
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.parse import urlsplit

from sidecar.clock import monotonic, wall
from sidecar.guard.errand import MOST_AT_ONCE, Errand
from sidecar.guard.fanout import figures
from sidecar.guard.wire import MAX_MESSAGE_BYTES, decode, loads

MAX_ANSWER_BYTES = 65536
PULSE_SECONDS = 0.25
LAST_WORDS_SECONDS = 3.0
LONGEST_RETRY_SECONDS = 3600.0
FILES = 1024
"""The limit on open files that programs are used to; the guard's own is higher."""


class Post(Errand):
    """One POST."""

    def __init__(self, message: dict[str, Any], out: socket.socket) -> None:
        super().__init__(message, out)
        self._url = str(message["url"])
        self._headers = {str(k): str(v) for k, v in message["headers"]}
        self._body = json.dumps(message["body"]).encode()
        self._connection: http.client.HTTPConnection | None = None

    def run(self) -> None:
        """Carry it out and report how it went."""
        try:
            self.report(**self._post())
        except TimeoutError:
            self.report(error="timeout", message="no answer within the total deadline")
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.report(error=type(error).__name__, message=str(error)[:200])

    def _post(self) -> dict[str, Any]:
        url = urlsplit(self._url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        left = max(0.001, self.deadline - monotonic())
        self._connection = connection = kind(url.hostname or "", url.port, timeout=left)
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            connection.request("POST", path, self._body, {"Content-Type": "application/json", **self._headers})
            self.send(sent=True)
            answer = connection.getresponse()
            text = answer.read(MAX_ANSWER_BYTES)
            return {"status": answer.status, "body": text.decode("utf-8", "replace")[:2000], "told": _told(text),
                    "retry_after_seconds": retry_after_seconds(answer.getheader("Retry-After", ""), wall())}
        finally:
            connection.close()

    def expire(self) -> None:
        """Past its deadline: report that, and break the connection so that its thread comes free."""
        super().expire()
        sock = self._connection.sock if self._connection else None
        if sock:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # closed by its own thread in the meantime


def _told(text: bytes) -> dict[str, float]:
    """The figures of an answer that is JSON as an agent gives it; of any other there are none."""
    try:
        return figures(loads(text))
    except ValueError:
        return {}


def retry_after_seconds(value: str, now: float) -> float | None:
    """What a Retry-After header asks for: seconds, or a date (RFC 9110, 10.2.3). None if it makes no sense."""
    text = value.strip()
    try:
        if text.isascii() and text.isdigit():
            seconds = float(text)
        else:
            date = parsedate_tz(text)
            seconds = mktime_tz(date) - now if date else -1.0
            if not date:
                return None
    except (ValueError, OverflowError, IndexError, TypeError):
        return None
    return min(max(0.0, seconds), LONGEST_RETRY_SECONDS)


def errand_of(kind: str, message: dict[str, Any], out: socket.socket) -> Errand:
    """A POST or a program, as the guard's message says. KeyError or ValueError if it makes no sense."""
    if kind == "post":
        return Post(message, out)
    from sidecar.guard.command import Command  # which costs memory that POSTs do not need

    return Command(message, out)


def _thread_of(errand: Errand) -> threading.Thread | None:
    """A thread in which it is carried out; None where there may not be one more (`pids.max`, RLIMIT_NPROC)."""
    thread = threading.Thread(target=errand.run, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


def main(fd: int) -> None:
    """Take errands from the socket `fd` until it ends."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # not for us; what were ignored, programs that we start would ignore
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, most) if most >= 0 else FILES, most))
    sock = socket.socket(fileno=fd)
    sock.settimeout(PULSE_SECONDS)
    running: dict[Errand, threading.Thread] = {}
    while True:
        try:
            data = sock.recv(MAX_MESSAGE_BYTES)
            if not data:
                break
            kind, message = decode(data)
            errand = errand_of(kind, message, sock)
            if len(running) >= MOST_AT_ONCE:
                errand.turn_away()
            elif thread := _thread_of(errand):
                running[errand] = thread
            else:
                errand.run()  # here, and the others wait
        except TimeoutError:
            pass  # the pulse: nothing has come, but a deadline may have passed
        now = monotonic()
        for errand, thread in list(running.items()):
            if now > errand.deadline:
                errand.expire()
            if not thread.is_alive():
                del running[errand]
    for errand in running:
        errand.deadline = 0.0
    for thread in [thread for errand, thread in running.items() if errand.lingers]:
        thread.join(LAST_WORDS_SECONDS)


if __name__ == "__main__":
    main(int(sys.argv[1]))
