"""Servers with TLS of which nothing else is configured: the machine's authorities say who is believed."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import certificates
import pytest
from conftest import Target
from servers import free_port, wait_until
from sidecars import Sidecar, config, running_sidecar


class _Told(BaseHTTPRequestHandler):
    """An app's GET /memory, and an Alertmanager that accepts everything."""

    def do_GET(self) -> None:
        self._answer({"used": 1})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer({"status": "success"})

    def _answer(self, body: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """One of these with the certificate server.pem; its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Told) as listening:
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]  # a handshake that is broken off
        listening.socket = context.wrap_socket(listening.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            thread.join()


@pytest.mark.parametrize("believed", [True, False])
def test_machine_says_which_servers_are_believed(
    spawn: Callable[..., Target], tmp_path: Path, believed: bool
) -> None:
    """Whoever has a certificate of one of the machine's authorities is asked, and told; nobody else is."""
    folder = certificates.make(tmp_path, {"server": ("ca", "DNS:localhost,IP:127.0.0.1")})
    authority = {"SSL_CERT_FILE": str(folder / ("ca.pem" if believed else "other.pem")), "SSL_CERT_DIR": "/nonexistent"}
    rules, port = tmp_path / "rules.yml", free_port()
    rules.write_text(json.dumps({"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "vector(1)"}]}]}))
    with server(folder) as url:
        target = {"name": "t", "match": {"pid": spawn("leaky").pid}, "endpoint": {"url": f"{url}/memory"}}
        file = config(port, tmp_path / "state", [target], alertmanagers=[url], rules=[str(rules)])
        with running_sidecar(tmp_path, file=file, port=port, env=authority) as sidecar:
            wait_until(lambda: _sent(sidecar, "sent" if believed else "failed"), 20, "an answer, or none")
            asked = "rag_debug_endpoint_up" if believed else "rag_debug_endpoint_errors_total"
            wait_until(lambda: any(sidecar.series(asked).values()), 20, "the endpoint")
            assert bool(_sent(sidecar, "sent")) == bool(sidecar.value("rag_debug_endpoint_up")) == believed


def _sent(sidecar: Sidecar, outcome: str) -> float:
    return sidecar.value("rag_sidecar_notifications_total", f'outcome="{outcome}"') or 0.0
