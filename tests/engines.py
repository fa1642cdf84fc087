"""A Docker engine to be asked: a real HTTP server that answers as a recorded one did."""

import copy
import json
import queue
import socket
import socketserver
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parent / "engine"


def recorded(name: str) -> Any:
    """An answer of the engine."""
    return json.loads((RECORDED / f"{name}.json").read_text())


def events() -> list[dict[str, Any]]:
    """What the engine told while a container was started, restarted, stopped, and killed for its memory."""
    return [json.loads(line) for line in (RECORDED / "events.jsonl").read_text().splitlines()]


class Engine:
    """What the server answers, to be changed while it runs, and what it was asked.

    It listens on a unix socket at `path`, or on a loopback `port`, as a proxy before one does.
    """

    def __init__(self, path: Path, port: int = 0) -> None:
        self.path = path
        self.port = port
        self.host = f"tcp://127.0.0.1:{port}" if port else f"unix://{path}"
        self.containers: dict[str, dict[str, Any]] = {}
        self.asked: list[tuple[str, str]] = []
        self.instead: bytes | None = None
        self.waits_seconds = 0.0
        self.streams: list[queue.Queue[bytes | None]] = []
        self.told = recorded("version")

    def run(self, name: str, pid: int, state: str = "running", number: int = 1, **labels: str) -> dict[str, Any]:
        """Have a container: the recorded one, with this name, pid and number, and further labels."""
        container = copy.deepcopy(recorded(state))
        container["Id"], container["Name"] = f"{number:064x}", f"/{name}"
        container["State"]["Pid"] = pid
        container["Config"]["Labels"] |= labels
        self.containers[container["Id"]] = container
        return container

    def tell(self, action: str, container: dict[str, Any], **more: str) -> None:
        """Have everybody who listens be told of an event."""
        attributes = {**container["Config"]["Labels"], "name": container["Name"].removeprefix("/"), **more}
        event = {"Type": "container", "Action": action, "Actor": {"ID": container["Id"], "Attributes": attributes}}
        self.say(json.dumps(event).encode() + b"\n")

    def say(self, what: bytes | None) -> None:
        """Have everybody who listens be told this; None hangs up."""
        for stream in self.streams:
            stream.put(what)

    def listed(self, labels: list[str]) -> list[dict[str, Any]]:
        """What `GET /containers/json` answers."""
        return [{"Id": each["Id"], "Names": [each["Name"]], "Labels": each["Config"]["Labels"],
                 "State": each["State"]["Status"], "Created": int(each["Id"], 16)} for each in self.containers.values()
                if all(each["Config"]["Labels"].get(key) == value
                       for key, _, value in (label.partition("=") for label in labels))]

    def found(self, name: str) -> dict[str, Any] | None:
        """What `GET /containers/NAME/json` answers."""
        return next((each for each in self.containers.values() if name in (each["Id"], each["Name"][1:])), None)


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 16
    engine: Engine

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever asked has gone."""


class _UnixServer(_Server):
    address_family = socket.AF_UNIX
    allow_reuse_address = False


class _Answering(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: Any) -> None:
        return

    def handle_one_request(self) -> None:
        super().handle_one_request()
        if self.raw_requestline and self.command not in (None, "GET", "HEAD"):
            self.close_connection = True

    def do_POST(self) -> None:
        self._answer(500, {"message": "it was asked to change something"})

    do_PUT = do_DELETE = do_PATCH = do_HEAD = do_POST

    def do_GET(self) -> None:
        engine, url = self.server.engine, urllib.parse.urlsplit(self.path)
        engine.asked.append((self.command, url.path))
        time.sleep(engine.waits_seconds)
        if engine.instead is not None:
            self.wfile.write(engine.instead)
            self.close_connection = True
            return
        path = url.path.removeprefix(f"/v{engine.told['ApiVersion']}")
        filters = json.loads(dict(urllib.parse.parse_qsl(url.query)).get("filters", "{}"))
        if path == "/version":
            self._answer(200, engine.told)
        elif path == "/containers/json":
            self._answer(200, engine.listed(filters["label"]))
        elif path == "/events":
            self._stream(engine)
        elif found := engine.found(path.removeprefix("/containers/").removesuffix("/json")):
            self._answer(200, found)
        else:
            self._answer(404, {"message": "No such container"})

    def _answer(self, status: int, what: Any) -> None:
        body = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, engine: Engine) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        stream: queue.Queue[bytes | None] = queue.Queue()
        engine.streams.append(stream)
        while (what := stream.get()) is not None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(what), what))
        engine.streams.remove(stream)
        self.close_connection = True


@contextmanager
def listening(engine: Engine) -> Iterator[Engine]:
    """Have it answer at its path, until the end; then its socket is gone and everybody is hung up on."""
    made = _Server(("127.0.0.1", engine.port), _Answering) if engine.port else _UnixServer(
        str(engine.path), _Answering)
    with made as server:
        server.engine = engine
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield engine
        finally:
            server.shutdown()
            thread.join()
            engine.say(None)
            engine.path.unlink(missing_ok=True)
