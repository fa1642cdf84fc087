"""The agent among hostile clients, planted files, forks and endings: it serves whom it may and never harms its host."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from agent_apps import App, Client, launching
from hypothesis import given
from hypothesis import strategies as st
from servers import CHECKOUT, end, free_port, wait_until

from sidecar import agent

MIB = 1024 * 1024
TOKEN = "a-token-that-nobody-guesses"  # noqa: S105
NOBODY = 65534

root_alone = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """See agent_apps.launching."""
    with launching(tmp_path) as start:
        yield start


@pytest.fixture
def app(launch: Callable[..., App]) -> App:
    """An app with an agent started as it comes."""
    return launch()


@pytest.fixture
def tcp(launch: Callable[..., App]) -> int:
    """The port of an agent that listens on TCP too."""
    app = launch(f"listen='127.0.0.1:0', token='{TOKEN}'")
    return int(app.get("/")["listening"][0].rpartition(":")[2])


def said(app: App, request: bytes) -> bytes:
    """All that comes back for these bytes until the agent hangs up, which a lone line without Host makes it do."""
    with app.client() as client:
        client.socket.sendall(request)
        client.socket.shutdown(socket.SHUT_WR)
        answer = b""
        while data := client.socket.recv(65536):
            answer += data
        return answer


# Clients


@pytest.mark.parametrize(("request_", "status"), [
    (b"nonsense\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"GET http://evil/ HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000, 431),
    (b"POST /cleanup HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413),
    (b"POST /cleanup HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
    (b"POST /cleanup HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 415),
    (b"POST /cleanup HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415),
    (b"DELETE / HTTP/1.1\r\n\r\n", 405),
    (b"GET /cleanup HTTP/1.1\r\n\r\n", 405),
    (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
    (b"GET / HTTP/1.1\r\nOrigin: http://evil\r\n\r\n", 403),
    (b"GET / HTTP/1.1\r\nSec-Fetch-Site: none\r\n\r\n", 403),
])  # fmt: skip
def test_what_is_no_request_is_refused_by_name(app, request_, status):
    """Garbage, oversize and a browser each get a status, a JSON error, and no work done."""
    first = said(app, request_).split(b"\r\n", 1)[0]

    assert first.startswith(b"HTTP/1.1 %d " % status)
    assert app.get("/memory")["cleanups"] == []


@pytest.mark.parametrize("body", [
    b"[]", b"{", b"[" * 60000, b'{"level": "hard"}', b'{"level": 3}', b'{"level": ["light"]}',
    b'{"level": "light", "id": "a b"}', b'{"level": "light", "id": "a\\r\\nX: y"}', b'{"level": "light", "id": 7}',
    b'{"level": "light", "id": "%s"}' % (b"x" * 201),
])  # fmt: skip
def test_a_body_that_is_no_order_does_nothing(app, body):
    """Only an object with a known level and a plain id is an order; nothing of an id reaches a header unread."""
    head = b"POST /cleanup HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    assert said(app, head + body).startswith(b"HTTP/1.1 400 ")
    assert app.get("/memory")["cleanups"] == []


def test_requests_may_arrive_byte_by_byte_and_several_at_once(app):
    """However a client cuts its requests into pieces, each is answered, in order."""
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /nothing HTTP/1.1\r\n\r\nGET /memory HTTP/1.1\r\n\r\n"
    for size in (1, 7, len(request)):
        with app.client() as client:
            for at in range(0, len(request), size):
                client.socket.sendall(request[at : at + size])
            assert [client.answer().status for _ in range(3)] == [200, 404, 200]


def test_whoever_is_slow_or_silent_is_hung_up_on(app):
    """A request must be complete after some seconds, a connection used within a minute; others are served meanwhile."""
    app.do("agent.SLOW_SECONDS, agent.IDLE_SECONDS = 0.3, 0.5")
    with app.client() as slow, app.client() as silent:
        slow.socket.sendall(b"GET / HT")
        assert app.get("/")["pid"] == app.pid
        assert (slow.socket.recv(10), silent.socket.recv(10)) == (b"", b"")


def test_a_client_that_does_not_read_is_hung_up_on(app):
    """Answers that nobody takes are not piled up."""
    app.do("agent.SLOW_SECONDS = 0.3")
    with app.client() as client, contextlib.suppress(ConnectionError):
        client.socket.settimeout(5)
        while True:
            client.socket.sendall(b"GET /memory HTTP/1.1\r\n\r\n" * 100)
    assert app.get("/")["pid"] == app.pid


def test_a_flood_of_connections_costs_a_bounded_number_of_descriptors(app):
    """A thousand connections at a time leave the app eight more descriptors, and a newcomer is still answered."""
    before = len(os.listdir(f"/proc/{app.pid}/fd"))
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(app.path()))
        assert app.get("/")["pid"] == app.pid
        assert len(os.listdir(f"/proc/{app.pid}/fd")) <= before + agent.CONNECTIONS
    assert app.get("/")["pid"] == app.pid


def test_a_flood_over_tcp_does_not_shut_out_the_socket(launch):
    """Strangers who connect over TCP as fast as they can do not keep the sidecar from its answer."""
    app = launch(f"listen='127.0.0.1:0', token='{TOKEN}'")
    address = ("127.0.0.1", int(app.get("/")["listening"][0].rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        for number in range(500):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(address)
            if number % 50 == 0:
                assert app.get("/")["pid"] == app.pid


def test_a_client_that_leaves_during_a_cleanup_changes_nothing(app):
    """The cleanup is carried out and recorded, whether its asker still listens or not."""
    app.do("import threading; gate = threading.Event(); agent.CALLBACK_SECONDS = 60")
    app.do("agent.on_cleanup(lambda level: gate.wait() and None)")
    with app.client() as client:
        client.send("POST", "/cleanup", {"level": "standard", "id": "lost"})
        assert client.head()[0] == 102
    app.do("gate.set()")

    wait_until(lambda: bool(app.get("/memory")["cleanups"]), 30, "the cleanup to be recorded")
    assert app.post("/cleanup", level="standard", id="lost").body["outcome"] == "done"


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: b"GET / HTTP/1.1\r\nA: " + text.encode()))
def test_no_head_of_a_request_is_too_strange(head):
    """Whatever bytes arrive as a head, they are a request within bounds or refused, and nothing else happens."""
    with contextlib.suppress(agent._Refused):
        request, length, _ = agent._parse_head(head)
        assert request.path.startswith("/")
        assert 0 <= length <= agent.BODY_BYTES


# TCP


def test_over_tcp_only_the_token_opens(tcp):
    """Without the token, with a wrong one, or with a Host that a foreign name may stand for, nothing is told."""
    good = {"Authorization": f"Bearer {TOKEN}"}
    for headers, status in [
        ({}, 401), ({"Authorization": "Bearer x"}, 401), ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Basic {TOKEN}"}, 401), ({"Authorization": f"Bearer {TOKEN[:-1]}\xff"}, 401),
        ({**good, "Host": "evil.example"}, 403), ({**good, "Host": "127.0.0.1.evil.example"}, 403),
        ({**good, "Origin": "http://localhost"}, 403), (good, 200), ({**good, "Host": f"127.0.0.1:{tcp}"}, 200),
    ]:  # fmt: skip
        with Client(tcp) as client:
            answer = client.ask("GET", "/memory", None, headers)
        assert (answer.status, "gc" in answer.body) == (status, status == 200), headers


def test_a_stranger_gets_one_answer_for_each_connection(tcp):
    """Whoever has no token cannot ask again on the same connection."""
    with Client(tcp) as client:
        assert client.ask("GET", "/").status == 401
        with pytest.raises((EOFError, ConnectionError)):
            client.ask("GET", "/")


@pytest.mark.parametrize(("arguments", "why"), [
    ("listen='0.0.0.0:9', token='x' * 20", "loopback alone"), ("listen='example.org:9', token='x' * 20", "loopback"),
    ("listen='127.0.0.1', token='x' * 20", "loopback alone"), ("listen='127.0.0.1:0'", "token of at least 16"),
    ("listen='127.0.0.1:0', token='short'", "token of at least 16"), ("signals={'SIGUSR1': 'hard'}", "none of light"),
    ("signals={'SIGNONE': 'light'}", "no signal"), ("every_seconds=0", "greater than zero"),
    ("every_seconds='5'", "every_seconds='5': must be a number"), ("every_requests='5'", "must be a number"),
    ("every_seconds=float('nan')", "greater than zero"), ("freeze_after_startup='1m'", "True, False or seconds"),
    ("listen=9115", "listen must be a string"), ("listen='127.0.0.1:0', token=b'x' * 20", "token must be a string"),
])  # fmt: skip
def test_arguments_that_can_never_work_are_refused(launch, arguments, why):
    """start() raises ValueError for them, with what to write instead, and starts nothing."""
    app = launch(None)

    with pytest.raises(AssertionError, match=f"ValueError: .*{why}"):
        app.do(f"agent.start({arguments})")
    assert not app.path().exists()


@pytest.mark.parametrize(("call", "why"), [
    ("on_cleanup('abc')", "TypeError: on_cleanup: callback must be a function, not str"),
    ("on_cleanup(name='a')('abc')", "TypeError: on_cleanup: callback"), ("on_mode(5)", "TypeError: on_mode: callback"),
    ("register_cache('c', {}, clear='abc')", "TypeError: register_cache.'c'.: clear must be a function"),
    ("register_model('m', None)", "ValueError: register_model.'m'.: neither a model nor a function"),
    ("register_model('m', object(), unload='abc')", "TypeError: register_model.'m'.: unload must be a function"),
    ("register_model('m', object(), estimated_bytes='2G')", "ValueError: .* estimated_bytes='2G' is no number"),
])  # fmt: skip
def test_what_can_never_be_called_is_refused_where_it_is_registered(launch, call, why):
    """The app's author learns of it when the app starts, not from a cleanup that fails at night; nothing is kept."""
    app = launch()

    with pytest.raises(AssertionError, match=why):
        app.do(f"agent.{call}")
    assert list(app.steps("aggressive")) == ["gc", "release"]


def test_a_port_in_use_is_told_and_the_socket_serves_all_the_same(launch):
    """What the machine refuses is a warning in the app's log, never an exception."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        app = launch(f"listen='127.0.0.1:{other.getsockname()[1]}', token='{TOKEN}'")

    assert app.get("/")["listening"] == []
    assert "cannot be listened on" in app.errors.read_text()


# The socket's directory


def test_an_app_without_a_place_for_the_socket_is_told_by_whom_where_and_why(launch, tmp_path):
    """The warning names rag-sidecar, each place that was tried with the reason, and what to do; the app goes on."""
    app = launch(None)
    nowhere, file = tmp_path / "nowhere", tmp_path / "file"
    file.touch()
    app.do(f"agent.PLACES = ({str(file)!r},); os.environ['RAG_SIDECAR_AGENT_DIR'] = {str(nowhere)!r}; agent.start()")

    told = app.errors.read_text()
    assert "rag-sidecar: no directory for the socket could be used" in told
    assert f"{nowhere}: No such file or directory; {file}: Not a directory." in told
    assert "RAG_SIDECAR_AGENT_DIR" in told


def test_an_agent_whose_socket_is_not_where_it_was_asked_for_says_where_it_is(launch, tmp_path):
    """The next place is taken, and the warning tells both."""
    app = launch(None)
    app.do(f"agent.start(directory={str(tmp_path / 'nowhere')!r})")

    assert f"its socket is in {app.path().parent}, not where it was asked for: {tmp_path}" in app.errors.read_text()
    assert app.get("/")["pid"] == app.pid


def test_the_socket_is_for_this_user_alone(app):
    """Directory and socket are closed to others, and both names say whose they are."""
    assert oct(app.path().parent.stat().st_mode & 0o7777) == "0o700"
    assert oct(app.path().stat().st_mode & 0o7777) == "0o600"


@root_alone
def test_another_user_is_not_served_even_with_the_doors_open(app):
    """SO_PEERCRED decides: somebody who can reach the socket, and is neither this user nor root, hears nothing."""
    script = ("import os, socket, sys\nclient = socket.socket(socket.AF_UNIX); client.connect(sys.argv[1])\n"
              "client.settimeout(20)\n"
              "try:\n client.sendall(b'GET / HTTP/1.1\\r\\n\\r\\n'); print(client.recv(100))\n"
              "except ConnectionError: print(b'')")
    door = Path("/tmp") / f"agent-door-{os.getpid()}"
    door.mkdir(mode=0o755)
    try:
        app.do(f"agent.stop(); agent.start(directory={str(door)!r})")
        path = door / "rag-sidecar-0" / f"{app.pid}.sock"
        path.parent.chmod(0o755)
        path.chmod(0o666)
        asked = [subprocess.run(["/usr/bin/python3", "-c", script, path], user=user, capture_output=True, text=True,
                                timeout=60, check=False, cwd="/") for user in (NOBODY, 0)]
    finally:
        shutil.rmtree(door)

    assert asked[0].stdout == "b''\n", asked[0].stderr
    assert "HTTP/1.1 200 OK" in asked[1].stdout


@pytest.mark.parametrize("trap", ["file", "link", "dangling", pytest.param("anothers", marks=root_alone)])
def test_a_planted_directory_is_not_used(launch, tmp_path, trap):
    """A file, a link, or another user's directory in the agent's place: it takes the next place, and says so."""
    app = launch(None)
    place, elsewhere = tmp_path / "place", tmp_path / "elsewhere"
    place.mkdir()
    elsewhere.mkdir(mode=0o700)
    planted = place / f"rag-sidecar-{os.geteuid()}"
    if trap == "file":
        planted.write_text("")
    elif trap == "anothers":
        planted.mkdir(mode=0o700)
        os.chown(planted, NOBODY, NOBODY)
    else:
        planted.symlink_to(elsewhere if trap == "link" else tmp_path / "nowhere")

    app.do(f"agent.start(directory={str(place)!r})")

    assert app.get("/")["pid"] == app.pid
    assert list(elsewhere.iterdir()) == []
    assert str(place) in app.errors.read_text()


@pytest.mark.parametrize("planted", ["socket", "file", "link"])
def test_what_lies_in_the_sockets_place_is_replaced(launch, tmp_path, planted):
    """What a dead process of the same pid left, or anything else that lies there, gives way; no link is followed."""
    app = launch(None)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    app.path().parent.mkdir(mode=0o700)
    if planted == "socket":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(app.path()))
    elif planted == "file":
        app.path().write_text("")
    else:
        app.path().symlink_to(victim)

    app.do("agent.start()")

    assert app.get("/")["pid"] == app.pid
    assert victim.read_text() == "precious"


def test_a_living_agent_of_the_same_pid_keeps_its_socket(launch, tmp_path):
    """Containers may share a directory, and pids; the second takes the next place instead of the first one's name."""
    app = launch(None)
    app.path().parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(app.path()))
        other.listen()
        app.do(f"agent.start(directory={str(tmp_path)!r})")
        app.do("agent.stop(); agent.start()")  # now the directory of the environment comes first
        assert "another pid namespace" in app.errors.read_text()
        app.do("agent.stop()")
        assert app.path().exists()


def test_leftovers_of_the_dead_are_swept(launch):
    """Processes that were killed leave their sockets; the next agent of this user removes them."""
    first, app = launch(), launch(None)
    first.process.kill()
    first.process.wait()
    shutil.copytree(first.path().parent, app.path().parent, copy_function=lambda *_: None)
    left = app.path(first.pid)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(left))

    app.do("agent.start()")

    assert sorted(app.path().parent.iterdir()) == [app.path()]


# Forks, and other lives of a process


def test_a_forked_child_has_an_agent_of_its_own(app):
    """The child gets its own socket, signals and counts; the parent's stay; a killed child leaves no trace for long."""
    app.do("agent.on_cleanup(lambda level: None, name='inherited')")
    app.do("""child = os.fork()
if child == 0:
    import signal
    while True: signal.pause()""")
    child = app.do("child")
    wait_until(lambda: app.path(child).exists(), 30, "the child's socket")

    with Client(app.path(child)) as client:
        assert client.ask("GET", "/").body["pid"] == child
        assert client.ask("GET", "/").body["signals"] == app.get("/")["signals"]
        answer = client.ask("POST", "/cleanup", {"level": "standard"})
        assert answer.body["steps"][0]["step"] == "cleaner:inherited"
        os.kill(child, signal.SIGUSR2)
        wait_until(lambda: len(client.ask("GET", "/memory").body["cleanups"]) == 2, 30, "the child to take a signal")
    assert app.get("/memory")["cleanups"] == []
    app.do("os.kill(child, 9); os.waitpid(child, 0); agent.stop(); agent.start()")
    assert not app.path(child).exists()


def test_a_fork_during_a_cleanup_leaves_both_well(app):
    """A child made while a cleanup runs starts with none, with the app's thresholds, and can clean up itself."""
    app.do("import threading, gc; gate = threading.Event(); agent.CALLBACK_SECONDS = 60; before = gc.get_threshold()")
    app.do("agent.on_cleanup(lambda level: gate.wait() and None, name='waits')")
    app.do("""class Slow:
    def __del__(self): gate.wait()
loop = [Slow()]; loop.append(loop); del loop""")  # the collector waits in it, with lowered thresholds
    with app.client() as client:
        client.send("POST", "/cleanup", {"level": "aggressive"})
        assert client.head()[0] == 102
        app.do("""reading, writing = os.pipe()
if os.fork() == 0:
    gate.set()
    result = agent.cleanup('standard')
    os.write(writing, ('%s %s %s' % (result['outcome'], gc.get_threshold() == before, agent._runner.running)).encode())
    os._exit(0)""")
        assert app.do("os.read(reading, 100).decode()") == "done True None"
        app.do("gate.set()")
        assert client.answer().body["outcome"] == "done"
    assert app.do("gc.get_threshold() == before")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_every_process_of_a_pool_has_an_agent(tmp_path, method):
    """However multiprocessing makes its workers, each serves under its own pid; nothing is printed or left hanging."""
    shutil.copy(CHECKOUT / "sidecar" / "agent.py", tmp_path)
    program = CHECKOUT / "tests" / "agent" / "pool.py"
    done = subprocess.run([sys.executable, program, tmp_path, method], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "RAG_SIDECAR_AGENT_DIR": str(tmp_path)}, check=False)  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")
    assert len([pid for pid in done.stdout.split() if int(pid)]) == len(done.stdout.split()) >= 2


@pytest.mark.parametrize("flags", [[], ["--preload"]])
def test_every_worker_of_gunicorn_has_an_agent(tmp_path, flags):
    """With and without --preload each worker answers under its pid, and its socket is gone after a clean end."""
    shutil.copy(CHECKOUT / "sidecar" / "agent.py", tmp_path)
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "2", "--chdir",
               str(CHECKOUT / "tests" / "agent"), *flags, "wsgi"]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log,
                                   env={**os.environ, "RAG_SIDECAR_AGENT_DIR": str(tmp_path)})  # fmt: skip
    folder = tmp_path / f"rag-sidecar-{os.geteuid()}"
    try:
        wait_until(lambda: len(list(folder.glob("*.sock"))) == 2 + bool(flags), 30, "the sockets")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            served = answer.read().decode()
        for path in folder.iterdir():
            with Client(path) as client:
                memory = client.ask("GET", "/memory").body
            assert (memory["pid"], memory["requests_total"]) == (int(path.stem), int(path.stem == served))
    finally:
        end(process)
    assert list(folder.iterdir()) == []


def test_after_exec_the_new_program_has_no_agent_and_may_start_one(app):
    """Exec leaves neither handler nor thread, only the socket's file; an agent started after it takes the name over."""
    app.begin("os.execv(sys.executable, [sys.executable, *sys.argv])")

    def refused() -> bool:
        try:
            app.client().socket.close()
        except ConnectionRefusedError:
            return True
        return False

    wait_until(refused, 30, "the new program")
    assert app.do("agent._agent") is None
    assert app.do("__import__('signal').getsignal(10)") == signal.SIG_DFL

    app.do("agent.start()")

    assert app.get("/")["pid"] == app.pid


@pytest.mark.parametrize("during", ["nothing", "a cleaner", "a collection", "a release", "a report", "a stop"])
def test_an_app_ends_as_it_would_without_an_agent(launch, during):
    """Whatever the agent is doing, the app's end is clean: its exit code, nothing on stderr, no file left."""
    app = launch()
    app.do("import threading; gate = threading.Event(); agent.CALLBACK_SECONDS = 60")
    app.do({
        "a cleaner": "agent.on_cleanup(lambda level: gate.wait())",
        "a collection": "rest = [[n] for n in range(2000000)]",
        "a release": "keep = [(bytearray(12000), bytes(900))[1] for n in range(20000)]",
        "a stop": "def again(): [(agent.stop(), agent.start()) for _ in range(500)]\n"
                  "threading.Thread(target=again, daemon=True).start()",
    }.get(during, "None"))  # fmt: skip
    with contextlib.ExitStack() as stack:
        if during == "a report":
            stack.enter_context(app.client()).send("GET", "/report?seconds=60&objects=1")
        elif during not in ("nothing", "a stop"):
            client = stack.enter_context(app.client())
            client.send("POST", "/cleanup", {"level": "aggressive"})
            assert client.head()[0] == 102
        assert app.close() == 0

    assert app.errors.read_text() == ""
    assert during == "a stop" or not app.path().exists()


def test_starting_and_stopping_can_be_repeated(app):
    """A second start() changes nothing and warns if it wanted something else; stop() twice is harmless."""
    threads, descriptors = app.do("__import__('threading').active_count()"), len(os.listdir(f"/proc/{app.pid}/fd"))
    app.do("agent.start(); agent.start(every_requests=5)")
    assert "no effect before stop()" in app.errors.read_text()

    app.do("[(agent.stop(), agent.stop(), agent.start()) for _ in range(50)]")

    assert app.get("/")["pid"] == app.pid
    assert app.do("__import__('threading').active_count()") == threads
    wait_until(lambda: len(os.listdir(f"/proc/{app.pid}/fd")) == descriptors, 30, "all that was opened to be closed")
    assert app.do("len(__import__('gc').callbacks)") == 1
    app.do("agent.stop()")
    assert (app.do("__import__('gc').callbacks"), app.path().exists()) == ([], False)


def test_a_sub_interpreter_is_refused_politely(launch):
    """start() in a sub-interpreter logs why and does nothing; the main interpreter's agent is untouched."""
    app = launch()
    app.do("import _xxsubinterpreters as interpreters; one = interpreters.create()")
    app.do("""interpreters.run_string(one, '''
import sys; sys.path.insert(0, %r)
import agent
agent.start(); assert agent._agent is None; agent.stop()''' % sys.argv[1])""")

    assert "sub-interpreter" in app.errors.read_text()
    assert app.get("/")["pid"] == app.pid


def test_an_app_that_has_run_into_its_limit_can_still_be_cleaned(launch):
    """Where nothing can be allocated any more, not even a thread, an order is still taken and gives memory back."""
    app = launch()
    app.do("import resource; cache = {}; agent.register_cache('answers', cache)")
    app.do("size = int(open('/proc/self/statm').read().split()[0]) * 4096 + (120 << 20)")
    app.do("resource.setrlimit(resource.RLIMIT_AS, (size, size))")
    app.do("""try:
    while True: cache[len(cache)] = bytearray(50000)
except MemoryError: pass""")

    result = app.post("/cleanup", level="aggressive").body

    assert app.do("len(cache)") == 0
    assert result["freed_bytes"] > 80 * MIB


def test_a_listener_that_hangs_does_not_make_the_agent_deaf(app):
    """POST /mode to an app whose listener never returns costs one thread, and everything else is still answered."""
    app.do("import threading; gate = threading.Event(); agent.on_mode(lambda mode: gate.wait())")
    with contextlib.ExitStack() as stack:
        for number in range(20):
            mode = agent.MODES[number % 3]
            stack.enter_context(app.client()).send("POST", "/mode", {"mode": mode})
            assert app.get("/memory")["pid"] == app.pid
    assert app.post("/cleanup", level="standard").body["outcome"] == "done"
    assert app.do("threading.active_count()") <= 4


# A guest that is not noticed


def test_an_idle_agent_sleeps(app):
    """Its thread does not spin while nobody asks: whole seconds pass without a switch of context."""
    app.get("/memory")
    wait_until(lambda: app.agent_sleeps(1), 30, "a second without waking; only the first may see the last client off")


def test_an_agent_takes_less_than_two_megabytes(tmp_path):
    """Loaded from bytecode, asked for everything once, it adds less than 2 MiB of anonymous memory."""
    script = """
import json, logging, os, re, socket, sys, threading
sys.path.insert(0, sys.argv[1])
def anon():
    with open('/proc/self/smaps_rollup') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('Anonymous'))
before = anon()
import agent
agent.start()
for path in (b'/', b'/memory', b'/report', b'/memory'):
    client = socket.socket(socket.AF_UNIX)
    client.connect('%s/rag-sidecar-%d/%d.sock' % (sys.argv[1], os.geteuid(), os.getpid()))
    client.sendall(b'GET %s HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n' % path)
    while client.recv(65536): pass
agent.cleanup('standard')
print(anon() - before, *sorted({'torch', 'typing', 'asyncio', 'ssl', 'tracemalloc'} & set(sys.modules)))
"""
    shutil.copy(CHECKOUT / "sidecar" / "agent.py", tmp_path)
    environment = {"RAG_SIDECAR_AGENT_DIR": str(tmp_path)}
    runs = [subprocess.run([sys.executable, "-I", "-S", "-c", script, tmp_path], env=environment, capture_output=True,
                           text=True, timeout=60, check=True).stdout.split() for _ in range(2)]  # fmt: skip

    assert [len(run) for run in runs] == [1, 1]
    assert int(runs[1][0]) < 2048
