"""The table of attacks: each is tried on a real sidecar that has a token, and gets what docs/security.md says.

`python tests/test_attacks.py` prints the tables of that page.
"""

import gzip
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from conftest import Target, read_line, wait_until
from servers import end, free_port, promtool
from sidecars import MIB, Sidecar, config, running_sidecar

from sidecar.procfs import anon_bytes

PAGE = Path(__file__).parent.parent / "docs" / "security.md"
TOKEN = "-".join(("correct", "horse", "battery", "staple"))
MOST_DESK_BYTES = 90 * MIB
HOST, JSON = "Host: localhost", "Content-Type: application/json"
KNOWN = f"Authorization: Bearer {TOKEN}"
FORM = "Content-Type: application/x-www-form-urlencoded"
MARKUP = "<script>document.title = 1</script>"
FORGED = {"memory_mb": 10, "ok\"} 1\nrag_forged{a=\"b": 1, "back\\slash": 2, "line\r\nrag_forged": 3, MARKUP: 4}
"""What the target tells of itself at its debug endpoint."""


class Attack(NamedTuple):
    """What is tried, the statuses that it gets, and the requests, each on a connection of its own."""

    name: str
    statuses: tuple[int, ...]
    requests: tuple[bytes, ...]


def get(path: str, *headers: str, host: str = HOST) -> bytes:
    """A request without a body."""
    return "".join(f"{line}\r\n" for line in (f"GET {path} HTTP/1.1", host, *headers, "")).encode()


def post(*headers: str, path: str = "/api/v1/pause", body: bytes = b"{}", method: str = "POST") -> bytes:
    """An order, by default to pause; its length is told unless a header speaks of the body."""
    lines = [f"{method} {path} HTTP/1.1", HOST, *headers]
    if not any(re.match("(?i)content-length|transfer-encoding", line) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode() + body


def chunks(*sizes: bytes) -> bytes:
    """A body in chunks, each of these sizes (in hexadecimal, right or wrong) with two bytes in it."""
    return b"".join(size + b"\r\n{}\r\n" for size in sizes) + b"0\r\n\r\n"


def query(text: str, path: str = "/api/v1/query", **more: str) -> bytes:
    """A query as a form."""
    return post(FORM, path=path, body=urlencode({"query": text, **more}).encode())


TEN = ", ".join(['"a"'] * 10)


def longer_and_longer(times: int) -> str:
    """An expression whose label would be 10 to the power of `times` characters long."""
    text = 'label_replace(vector(1), "a", "x", "", "")'
    for _ in range(times):
        text = f'label_join({text}, "a", "", {TEN})'
    return text


LONG = "a" * 100_000
WEBHOOK = json.dumps({"version": "4", "alerts": [{"status": "firing", "labels": {
    "target": "rag", "cleanup": "aggressive"}}]}).encode()
PATHS = ("/static/../server.py", "/static/..%2fserver.py", "/static/%2e%2e%2fserver.py",
         "/static/%252e%252e%252fserver.py", "/static/..%5cserver.py",
         "/static//etc/passwd", "/static/status.js%00", "/static/%c0%ae%c0%ae/server.py",
         "/metrics/target/..%2f..%2fetc%2fpasswd", "/../../etc/passwd")
HOSTS = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.1", "2130706433", "0x7f.1",
         "localhost:80@evil.example", "[::1]evil.example", "localhost:80:80", "evil.example/localhost", "localhost, b")
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
             "Sec-WebSocket-Key: YWJjZGVmZ2hpamtsbW5vcA==")

ATTACKS = [
    Attack("an order, an alert or a line without a token", (401,), (
        post(JSON), post(JSON, path="/alertmanager", body=WEBHOOK),
        post(JSON, path="/api/v1/thresholds", method="PUT"))),
    Attack("a reload where nobody has allowed it", (403,), (
        post(path="/-/reload"), post(KNOWN, JSON, path="/-/reload"))),
    Attack("an order with a wrong token, twice a token, or the right one as a password", (401,), (
        post("Authorization: Bearer 0123456789abcdef", JSON), post(KNOWN, "Authorization: Bearer x", JSON),
        post(f"Authorization: Basic {TOKEN}", JSON))),
    Attack("the token in the query string or in a cookie", (401,), (
        post(JSON, path=f"/api/v1/pause?token={TOKEN}&access_token={TOKEN}"), post(f"Cookie: token={TOKEN}", JSON))),
    Attack("a post that a browser sends for another site, with the token", (403,), tuple(
        post(KNOWN, JSON, line) for line in (
            "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site", "Origin: http://evil.example",
            "Origin: http://localhost:1", "Origin: null"))),
    Attack("a form or a text instead of JSON, with the token", (415,), (
        post(KNOWN, FORM), post(KNOWN, "Content-Type: text/plain"))),
    Attack("a preflight that asks whether another site may post", (403,), (
        post("Origin: http://evil.example", "Access-Control-Request-Method: POST", method="OPTIONS", body=b""),)),
    Attack("a foreign name in Host (DNS rebinding), also behind ports, users and paths", (403,), tuple(
        get("/metrics", host=f"Host: {host}") for host in HOSTS)),
    Attack("two Host headers, or none", (400,), (get("/metrics", "Host: evil.example"), get("/metrics", host="X: y"))),
    Attack("paths out of the folder of static files: raw, encoded, encoded twice", (404,), tuple(map(get, PATHS))),
    Attack("line ends in parameters, names and paths, to add headers to the answer", (400, 404), tuple(map(get, (
        "/api/v1/query?query=up%0d%0aSet-Cookie:%20a=b", "/api/v1/mode/x%0d%0aSet-Cookie:%20a=b",
        "/%0d%0aSet-Cookie:%20a=b")))),
    Attack("a body of more than 64 KiB: announced, in chunks", (413,), (
        post(KNOWN, JSON, "Content-Length: 99999999999"),
        post(KNOWN, JSON, "Transfer-Encoding: chunked", body=b"10000\r\n" + b" " * 65536 + b"\r\n" + chunks(b"2")))),
    Attack("a body that is packed (a bomb of 10 MB in 10 kB)", (415,), tuple(
        post(KNOWN, JSON, f"Content-Encoding: {how}", body=gzip.compress(b" " * 10_000_000))
        for how in ("gzip", "deflate", "br", "gzip, gzip"))),
    Attack("a line, a header or a number of headers without end", (400,), (
        get(f"/{LONG}"), get("/", f"X: {LONG}"), get("/", *(f"X-{number}: y" for number in range(1000))))),
    Attack("smuggling: two lengths, a length and chunks, odd lengths", (400,), tuple(
        post(KNOWN, JSON, *lines, body=b"0\r\n\r\n" + get("/api/v1/alerts")) for lines in (
            ("Content-Length: 5", "Transfer-Encoding: chunked"), ("Transfer-Encoding: chunked", "Content-Length: 5"),
            ("Content-Length: 5", "Content-Length: 6"), ("Content-Length: 5", "Content-Length: 5"),
            ("Content-Length: 5, 5",), ("Content-Length: +5",), ("Content-Length: 0x5",), ("Content-Length: -1",),
            ("Content-Length : 5",), ("Transfer-Encoding: chunked, chunked",), ("Transfer-Encoding: xchunked",),
            ("Transfer-Encoding: chunked", "Transfer-Encoding: identity")))),
    Attack("smuggling: folded lines, bare line ends, a zero byte", (400,), (
        get("/", "X: a\r\n b"), get("/", "X: a\nY: b"), get("/", "X: a\rY: b"), get("/", "X: a\0b"),
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        post(KNOWN, JSON, "Transfer-Encoding:\r\n chunked", body=chunks(b"2")))),
    Attack("chunks whose sizes are no numbers, negative or beyond all bounds", (400,), tuple(
        post(KNOWN, JSON, "Transfer-Encoding: chunked", body=chunks(size))
        for size in (b"zz", b"-2", b"0x2", b"f" * 40))),
    Attack("methods that are none, and those that something in between might mean", (400, 404, 405), (
        get("/", KNOWN).replace(b"GET", b"TRACE"), get("/", KNOWN).replace(b"GET", b"FOO"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        get("/api/v1/pause", KNOWN, "X-HTTP-Method-Override: POST"),
        get("/api/v1/pause?_method=POST", KNOWN),
        b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n")),
    Attack("a connection that is to become another (websocket, h2c): it stays HTTP", (200,), (
        get("/-/healthy", *WEBSOCKET), get("/-/healthy", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"))),
    Attack("TLS, SSH and noise", (400,), (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"\0" * 99 + b"\r\n\r\n")),
    Attack("expressions nested thousands deep, or with figures beyond all bounds", (400,), (
        query("(" * 10_000 + "1" + ")" * 10_000), query("-" * 20_000 + "1"), query("up @ 1e308"),
        query("up offset 99999999999999999y"), query("up", "/api/v1/query_range", start="0", end="1e9", step="1"))),
    Attack("expressions that would fill the memory: samples, labels, pairs", (422,), (
        query("max_over_time(rag_target_up[1000d:1ms])"), query('{__name__=~".+"} * on() group_left {__name__=~".+"}'),
        query(longer_and_longer(9)))),
    Attack("an expression that would take for ever", (503,), (
        query("max_over_time(max_over_time(rag_target_up[1h:1s])[1h:1s])", timeout="100ms"),)),
    Attack("regular expressions that are slow elsewhere", (200,), tuple(
        query(f'{{__name__=~"{pattern}"}}') for pattern in ("(a*)*b", "(.*)*(.*)*(.*)*x", "(r|a|g|_|ra|ag)*!"))),
    Attack("regular expressions that are slow here too", (422,), (
        query('{__name__=~"(.?){1,1000}!"}'),
        query('label_replace(label_replace(vector(1),"a","' + "y" * 10_000 + '","b",""),"c","","a","(.*)(.*)x")'))),
    Attack("regular expressions that grow when they are compiled", (400,), (
        query('{__name__=~"((((a{1,1000}){1,1000}){1,1000}){1,1000})"}'),
        query('{__name__=~"' + "(a?){1,1000}" * 3 + '"}'))),
]

SHOWN = [
    ("ten wrong tokens", "the address is locked out for seconds",
     "web_orders::test_guessing_comes_to_an_end_and_the_lock_opens_again"),
    ("a body that does not come", "408; the place is free again",
     "web_orders::test_body_that_does_not_come_is_not_waited_for"),
    ("forms byte by byte", "other forms wait; pages and orders do not",
     "hostile_orders::test_forms_that_come_slowly_keep_nobody_from_pages_and_orders"),
    ("orders byte by byte, without a token", "turned away before the body",
     "hostile_orders::test_orders_that_come_slowly_without_a_token_hold_no_place"),
    ("an answer that is not read", "cut off",
     "web_query::test_who_does_not_read_is_cut_off"),
    ("a crowd of requests", "503; `/-/healthy` is answered",
     "web::test_requests_at_once_are_bounded"),
    ("all connections taken", "who has the most makes room",
     "web::test_connections_are_bounded"),
    ("10,000 forged or repeated alerts at the webhook, with the token", "one cleanup, once an alert of ours asks",
     "hostile_orders::test_flood_of_alerts_makes_one_wish_and_no_log_without_end"),
    ("an order over TCP where none of our alerts asks, with the token", "409",
     "orders_sidecar::test_wish_over_tcp_needs_an_alert_of_ours"),
    ("any JSON as an order, nested to any depth", "400, 404 or 409",
     "hostile_orders::test_every_body_is_answered"),
    ("the control socket as another user, its modes opened", "403",
     "control::test_other_user_is_refused"),
    ("a file or a second sidecar where the control socket is to be", "left as it is",
     "control::test_file_in_the_way_is_kept"),
    ("links, pipes and second names where journal and flight record are to be", "not written to",
     "hostile_orders::test_journal_is_not_written_to_what_is_not_ours"),
    ("TLS 1.1 and older, where TLS is served", "an alert, no page",
     "web_config::test_old_tls_is_refused_with_an_alert"),
    ("plain HTTP, where TLS is served", "400", "web_config::test_plain_http_is_told_that_this_is_tls"),
    ("handshakes byte by byte", "others are served", "web_config::test_slow_handshakes_keep_nobody_out"),
    ("markup in annotations of rules, in a browser", "text",
     "status_page::test_names_of_targets_are_text"),
    ("line ends and quotes in what a log line tells", "one line",
     "logs::test_value_cannot_break_out_of_its_line"),
    ("an endpoint that lies, is endless, slow, or packed", "not believed; the process is read",
     "hostile_targets::test_endpoint_that_lies_is_not_believed"),
    ("a target with five thousand children", "some have series, all are counted",
     "hostile_targets::test_herd_and_its_neighbour"),
    ("a target that overwrites the figures of its collector", "an error is counted",
     "hostile_targets::test_forged_collector_is_counted_and_left_out"),
    ("secrets in every place where one may be put", "shown nowhere",
     "secrets::test_what_is_put_in_comes_out_nowhere"),
]
"""What others of our tests try: the attack, what it gets, and which test shows it."""


@pytest.fixture(scope="module")
def held() -> Iterator[ExitStack]:
    """What lives as long as the module."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, held: ExitStack) -> Sidecar:
    """A sidecar with a token; its target tells odd names at its endpoint."""
    folder, port = tmp_path_factory.mktemp("attacked"), free_port()
    (folder / "token").touch(0o600)
    (folder / "token").write_text(TOKEN)
    target = held.enter_context(endpoint())
    told = json.dumps(FORGED).encode()
    urlopen(Request(f"{target.url}/memory", told, {"Content-Type": "application/json"}), timeout=10).close()
    watched = {"name": "rag", "match": {"pid": target.pid}, "cleanup": [{"signal": "SIGUSR1"}],
               "endpoint": {"url": f"{target.url}/memory", "every": "1s"}}
    file = config(port, folder / "state", [watched],
                  web={"listen": f"127.0.0.1:{port}", "token_file": str(folder / "token")})
    running = held.enter_context(running_sidecar(folder, file=file, port=port))
    wait_until(lambda: running.series("rag_endpoint_value"), 20, "the endpoint to be read")
    return running


@contextmanager
def endpoint() -> Iterator[Target]:
    """The program with a debug endpoint."""
    program = Path(__file__).parent / "targets" / "endpoint.py"
    process = subprocess.Popen([sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Target(process, dict(pair.split("=", 1) for pair in read_line(process, "ready").split()[1:]))
    finally:
        end(process)


def answer(sidecar: Sidecar, request: bytes, address: str = "127.0.0.1") -> bytes:
    """What comes back first: the head and the beginning of the body."""
    port = int(sidecar.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(address, 0)) as line:
        with suppress(ConnectionError):  # it may be refused before it has been sent
            line.sendall(request)
        return line.recv(65536)


@pytest.mark.parametrize(("number", "attack"), list(enumerate(ATTACKS)), ids=[attack.name for attack in ATTACKS])
def test_attack_gets_what_the_page_says(sidecar: Sidecar, number: int, attack: Attack) -> None:
    """Every request of a row is answered with its statuses; nothing is paused, and no word of ours tells what was sent.

    Each row comes from an address of its own, since wrong tokens lock an address out.
    """
    for request in attack.requests:
        head, _, body = answer(sidecar, request, f"127.0.1.{number + 1}").partition(b"\r\n\r\n")
        status = int((head.split() or [b"", b"0"])[1])
        assert status in attack.statuses, (request[:300], head, body)
        assert b"\r\nServer: rag-sidecar\r\n" in head + b"\r\n"
        assert b"set-cookie" not in head.lower()
        assert b"nosniff" in head
        assert TOKEN.encode() not in body
    assert sidecar.get("/-/healthy")
    assert not paused(sidecar)


def paused(sidecar: Sidecar) -> bool:
    """Whether the page shows a pause."""
    return "data-paused" in sidecar.get("/")


def test_token_in_its_place_is_taken(sidecar: Sidecar) -> None:
    """The order that all others try in vain is carried out with the token, so that their refusals mean something."""
    assert b" 200 " in answer(sidecar, post(KNOWN, JSON))
    assert paused(sidecar)
    assert b" 200 " in answer(sidecar, post(KNOWN, JSON, path="/api/v1/resume"))
    assert not paused(sidecar)


def test_flood_of_requests_on_one_connection_is_answered(sidecar: Sidecar) -> None:
    """A thousand requests sent at once are answered one after the other, and others are served meanwhile."""
    port = int(sidecar.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line, line.makefile("rb") as answers:
        line.sendall(get("/-/healthy") * 1000)
        assert sidecar.get("/-/ready")
        for _ in range(1000):
            assert answers.readline().startswith(b"HTTP/1.1 200")
            while answers.readline() not in (b"\r\n", b""):
                pass
            assert answers.readline() == b"rag-sidecar is healthy.\n"


def test_clients_that_hold_connections_keep_nobody_out(sidecar: Sidecar) -> None:
    """Three hundred connections that begin a request and never end it: whoever asks properly is served at once."""
    port = int(sidecar.url.rpartition(":")[2])
    with ExitStack() as open_lines:
        for _ in range(300):
            line = socket.create_connection(("127.0.0.1", port), source_address=("127.0.2.1", 0))
            open_lines.enter_context(line).sendall(b"GET / HTTP/1.1\r\nHost: local")
        assert sidecar.get("/-/healthy")
        assert sidecar.get("/metrics")


def test_what_a_target_tells_forges_no_series_and_no_markup(sidecar: Sidecar) -> None:
    """Quotes, line ends, backslashes and markup in names make no line of /metrics and no element of the page."""
    page, html = sidecar.get("/metrics"), sidecar.get("/")

    assert not [line for line in page.splitlines() if "rag_forged" in line]
    assert 'path="back\\\\slash"' in page
    assert MARKUP not in html
    assert subprocess.run([promtool(), "check", "metrics"], input=page, text=True, capture_output=True,
                          check=False).returncode == 0


def test_nothing_is_left_of_all_that(sidecar: Sidecar) -> None:
    """After every row: nobody has died, nothing was done to the target, the log is short, and memory is bounded."""
    said = sidecar.log.read_text()
    status = Path(f"/proc/{sidecar.child('desk')}/status").read_bytes()

    assert sidecar.actions() == []
    assert len(sidecar.said("paused")) <= 1
    assert sidecar.value("rag_sidecar_desk_starts_total") == 1
    assert "Traceback" not in said
    assert TOKEN not in said
    assert len(said) < 20_000
    assert anon_bytes(status) < MOST_DESK_BYTES


def tables() -> str:
    """The two tables of the page."""
    tried = [f"| {attack.name} | {', '.join(map(str, attack.statuses))} |" for attack in ATTACKS]
    shown = [f"| {name} | {got} | `test_{test}` |" for name, got, test in SHOWN]
    return "\n".join(["| sent | got |", "|---|---|", *tried, "", "| tried | got | shown by |", "|---|---|---|", *shown])


def test_the_page_has_the_tables() -> None:
    """What docs/security.md says of attacks is what was tried here; `python tests/test_attacks.py` prints it anew."""
    assert tables() in PAGE.read_text().replace("\n\nAnd by tests of their own:\n\n", "\n\n")


@pytest.mark.parametrize("test", [test for _, _, test in SHOWN])
def test_tests_that_the_page_names_exist(test: str) -> None:
    """Whoever wants to see an attack tried finds the test."""
    file, _, name = test.partition("::")
    assert f"def {name}(" in (Path(__file__).parent / f"test_{file}.py").read_text()


if __name__ == "__main__":
    print(tables())
