"""A webhook for Alertmanager that prints what people would have been told, one line for each alert.

    python sink.py 8080

Python's standard library alone. GET / shows the newest 500 lines.
"""

import json
import sys
from collections import deque
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MOST_BYTES = 1 << 20
MOST_CHARACTERS = 500
told: deque[str] = deque(maxlen=500)


def lines(message: Any) -> Iterator[str]:
    """What stands in a message of Alertmanager (webhook, version 4). Raises what a message of another form raises."""
    for alert in message["alerts"]:
        labels, notes = alert["labels"], alert["annotations"]
        at = alert["endsAt"] if alert["status"] == "resolved" else alert["startsAt"]
        words = [at, alert["status"].upper(), labels["alertname"], labels.get("severity", ""), labels.get("target", ""),
                 notes.get("summary", ""), notes.get("remediation", "")]
        line = "  ".join(word for word in words if word)[:MOST_CHARACTERS]
        yield "".join(each if each.isprintable() else " " for each in line)


class Sink(BaseHTTPRequestHandler):
    """One request."""

    timeout = 10

    def do_GET(self) -> None:
        """The newest lines."""
        self._answer(200, "".join(f"{line}\n" for line in told))

    def do_POST(self) -> None:
        """One message."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            self._answer(413, "a message has at most 1 MiB, and says how long it is\n")
            return
        try:
            found = list(lines(json.loads(self.rfile.read(int(length)))))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            self._answer(400, f"no message of Alertmanager: {type(error).__name__}\n")
            return
        told.extend(found)
        print(*found, sep="\n", flush=True)
        self._answer(200, "")

    def _answer(self, status: int, text: str) -> None:
        body = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Only alerts are printed."""


if __name__ == "__main__":
    ThreadingHTTPServer(("", int(sys.argv[1])), Sink).serve_forever()
