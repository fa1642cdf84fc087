"""HTTP in front of the assistant: GET /query, /memory, /healthz and POST /cleanup, all in JSON."""

import json
import logging
import os
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from sidecar.demo.assistant import Assistant
from sidecar.demo.cleanup import LEVELS, MIB, Cleaner, CleanupRunning, read_memory

log = logging.getLogger("rag")

_MAX_BODY_BYTES = 4096
_MAX_QUESTION_CHARS = 2000
_MAX_NAME_CHARS = 128
_MAX_CONNECTIONS = 64
_SHOWN_SOURCES = 5


class Refused(Exception):
    """A request that cannot be served: the status and a sentence that says what to change."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class RagServer(ThreadingHTTPServer):
    """Serves one assistant, a thread per connection. Port 0 takes a free one. Raises OSError if it cannot listen."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], assistant: Assistant, cleaner: Cleaner, max_rss_bytes: int) -> None:
        self.assistant = assistant
        self.cleaner = cleaner
        self.max_rss_bytes = max_rss_bytes
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        super().__init__(address, Request)

    def server_bind(self) -> None:
        """Bind without asking DNS for our own name, which http.server does and which can take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, or close it if there are too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve the connection in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error; anything else is logged."""
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("request from %s failed", client_address)

    def status(self, rss_bytes: int) -> str:
        """`high` from 80 % of the most it may use, `elevated` from 80 % of that, else `normal`."""
        if rss_bytes >= 0.8 * self.max_rss_bytes:
            return "high"
        return "elevated" if rss_bytes >= 0.64 * self.max_rss_bytes else "normal"


class Request(BaseHTTPRequestHandler):
    """The requests of one connection."""

    server: RagServer
    protocol_version = "HTTP/1.1"
    timeout = 10
    disable_nagle_algorithm = True  # head and body are two writes: Nagle would hold the second for 40 ms

    def do_GET(self) -> None:
        """Serve one GET."""
        self._serve()

    def do_POST(self) -> None:
        """Serve one POST."""
        self._serve()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server itself refuses (a malformed request, an unknown method), in JSON like the rest."""
        self.close_connection = True
        self._send(code, {"error": message or HTTPStatus(code).phrase})

    def version_string(self) -> str:
        """The Server header: no versions, no Python."""
        return "demo-rag"

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged: there are too many of them."""

    def _serve(self) -> None:
        try:
            path, _, query = self.path.partition("?")
            methods = _ROUTES.get(path)
            if methods is None:
                raise Refused(HTTPStatus.NOT_FOUND, f"no such path; there are {', '.join(_ROUTES)}")
            if self.command not in methods:
                raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, f"{path} takes {', '.join(methods)}")
            answer = methods[self.command](self, query)
        except Refused as refused:
            self.close_connection = True  # its body, if it has one, has not been read
            self._send(refused.status, {"error": str(refused)})
        else:
            self._send(HTTPStatus.OK, answer)

    def _send(self, status: int, answer: Mapping[str, Any]) -> None:
        body = json.dumps(answer, indent=2).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _index(self, query: str) -> Mapping[str, Any]:
        return {
            "what": "a small RAG service that keeps more than it should",
            "try": ["GET /query?q=What+is+the+OOM+killer%3F&session=me", "GET /memory", "GET /healthz",
                    'POST /cleanup {"level": "standard", "id": "1"}'],
        }

    def _query(self, query: str) -> Mapping[str, Any]:
        try:
            given = parse_qs(query, max_num_fields=20)
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, "more than 20 parameters; there are two, q and session") from None
        question = given.get("q", [""])[0].strip()
        session = given.get("session", ["anonymous"])[0]
        if not question:
            raise Refused(HTTPStatus.BAD_REQUEST, "no question; ask /query?q=What+is+the+OOM+killer%3F")
        if len(question) > _MAX_QUESTION_CHARS:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the question has more than {_MAX_QUESTION_CHARS} characters")
        if len(session) > _MAX_NAME_CHARS:
            raise Refused(HTTPStatus.BAD_REQUEST, f"the session's name has more than {_MAX_NAME_CHARS} characters")
        started = time.monotonic()
        reply = self.server.assistant.ask(question, session)
        best = {source.document: source for source in reversed(reply.sources)}  # each document with its best passage
        return {
            "answer": reply.answer,
            "sources": [
                {"document": source.document, "title": source.title, "score": round(source.score, 3)}
                for source in list(reversed(best.values()))[:_SHOWN_SOURCES]
            ],
            "score": round(reply.sources[0].score, 3) if reply.sources else 0.0,
            "cached": reply.similarity is not None,
            "similarity": reply.similarity and round(reply.similarity, 3),
            "session": session,
            "turn": reply.turn,
            "kept_bytes": reply.kept_bytes,
            "seconds": round(time.monotonic() - started, 6),
        }

    def _memory(self, query: str) -> Mapping[str, Any]:
        rss_bytes, anon_bytes = read_memory()
        rag = self.server.assistant
        return {
            "status": self.server.status(rss_bytes),
            "memory_mb": round(rss_bytes / MIB, 1),
            "anon_mb": round(anon_bytes / MIB, 1),
            "rss_bytes": rss_bytes,
            "anon_bytes": anon_bytes,
            "cache": {
                "entries": len(rag.cache), "bytes": rag.cache.bytes, "hits": rag.cache.hits, "misses": rag.cache.misses
            },
            "conversations": {
                "sessions": len(rag.conversations),
                "turns": rag.conversations.turns,
                "bytes": rag.conversations.bytes,
            },
            "passages": len(rag),
            "cleanups": self.server.cleaner.done,
            "release": self.server.cleaner.release._asdict(),
        }

    def _healthz(self, query: str) -> Mapping[str, Any]:
        return {"status": "ok", "pid": os.getpid()}

    def _cleanup(self, query: str) -> Mapping[str, Any]:
        wanted = self._json_body()
        level, id = wanted.get("level", "standard"), wanted.get("id", "")
        if not isinstance(level, str) or level not in LEVELS:
            raise Refused(HTTPStatus.BAD_REQUEST, f"level must be one of {', '.join(LEVELS)}")
        if not isinstance(id, str) or len(id) > _MAX_NAME_CHARS:
            raise Refused(HTTPStatus.BAD_REQUEST, f"id must be a string of at most {_MAX_NAME_CHARS} characters")
        try:
            report = self.server.cleaner.clean(level, "http", id=id)
        except CleanupRunning:
            raise Refused(HTTPStatus.CONFLICT, "a cleanup is running; ask again when it is done") from None
        log.info("%s", report)
        return report.as_json()

    def _json_body(self) -> Mapping[str, Any]:
        """The body as an object. No body at all is an empty object, so that `curl -X POST` works."""
        if "Transfer-Encoding" in self.headers:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "send the body with a Content-Length, not in chunks")
        length = self.headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refused(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        if len(length) > 9 or int(length) > _MAX_BODY_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {_MAX_BODY_BYTES} bytes")
        body = self.rfile.read(int(length))
        try:
            wanted = json.loads(body or b"{}")
        except (ValueError, RecursionError):  # the second: brackets nested a thousand deep
            raise Refused(HTTPStatus.BAD_REQUEST, "the body is not JSON") from None
        if not isinstance(wanted, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, 'the body must be an object such as {"level": "standard"}')
        return wanted


_ROUTES: Mapping[str, Mapping[str, Callable[[Request, str], Mapping[str, Any]]]] = {
    "/": {"GET": Request._index},
    "/query": {"GET": Request._query},
    "/memory": {"GET": Request._memory},
    "/healthz": {"GET": Request._healthz},
    "/cleanup": {"POST": Request._cleanup},
}
