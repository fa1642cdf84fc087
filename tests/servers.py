"""Real servers for tests: Prometheus, promtool, Alertmanager and amtool, run from a folder, never installed.

A binary on PATH is used as it is; otherwise Debian's package is fetched with the machine's own apt and unpacked into
`.cache/servers/`. `python tests/servers.py` fetches them all beforehand. A test that cannot get one is skipped, and
fails where `CI=true`: there, a missing server would hide a broken promise.
"""

import contextlib
import fcntl
import functools
import itertools
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
CACHE = CHECKOUT / ".cache" / "servers"
PACKAGES = {  # program -> Debian's package
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
READY_SECONDS = 30.0
TEMPLATES = b"/usr/share/prometheus/alertmanager"
_REFUSED: dict[str, str] = {}
"""What could not be fetched, and why."""


class NoServer(Exception):
    """A binary that could neither be found nor fetched."""


def promtool() -> Path:
    """The real promtool."""
    return _binary("promtool")


def prometheus() -> Path:
    """The real Prometheus server."""
    return _binary("prometheus")


def amtool() -> Path:
    """The real amtool."""
    return _binary("amtool")


def alertmanager() -> Path:
    """The real Alertmanager."""
    return _binary("alertmanager")


def _binary(program: str) -> Path:
    return needed(lambda: find_binary(program))


def needed(find: Callable[[], Path]) -> Path:
    """What `find` finds. Where it raises NoServer the test is skipped, and with CI=true it fails."""
    import pytest  # only here: `python tests/servers.py` runs before anything is installed

    try:
        return find()
    except NoServer as error:
        reason = str(error)
    if must_have():
        raise pytest.fail.Exception(reason, pytrace=False)
    raise pytest.skip.Exception(reason)


def must_have() -> bool:
    """Whether a missing server is a failure here."""
    return os.environ.get("CI", "").lower() in {"true", "1"}


def find_binary(program: str, package: str = "") -> Path:
    """A program of PACKAGES or of `package`, from PATH or from Debian's package. Raises NoServer."""
    package = package or PACKAGES[program]
    names = [program, f"prometheus-{program}"]  # Debian's name for Alertmanager
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    folder = debian(package)
    for name in names:
        if (path := folder / "usr" / "bin" / name).exists():
            return path
    raise NoServer(f"Debian's package {package} holds none of {', '.join(names)}; looked in {folder}")


def debian(package: str) -> Path:
    """Where a package of Debian lies unpacked. Raises NoServer."""
    return unpacked(package, functools.partial(_fetch, package))


def unpacked(name: str, fetch: Callable[[Path], None]) -> Path:
    """The folder of this name in the cache. If it is not there, it is what `fetch(work)` has laid into `work`/unpacked.

    Raises NoServer, of one name once and then at once: a machine without a network asks once.
    """
    folder = CACHE / name
    if folder.exists():
        return folder
    if name in _REFUSED:
        raise NoServer(_REFUSED[name])
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=CACHE) as work:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test runs may share a checkout
        if folder.exists():
            return folder
        try:
            fetch(Path(work))
        except (FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip() or error
            _REFUSED[name] = (f"{name} could not be fetched: {said}; is there a network, and does `apt-get download` "
                              "work? A program on PATH is used as it is")
            raise NoServer(_REFUSED[name]) from None
        (Path(work) / "unpacked").rename(folder)
    return folder


def unpack(work: Path) -> None:
    """Debian's packages in the folder `work`, all into `work`/unpacked. Raises what `subprocess.run` raises."""
    for package in work.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, work / "unpacked"], check=True, capture_output=True, timeout=120)


def _fetch(package: str, work: Path) -> None:
    """Have a package, and let Debian's Alertmanager find its templates where it is started instead of below /usr.

    It reads them from a fixed path there and ends without them. The replacement has the very same length, because the
    length of a string is written elsewhere in a Go program; `running_alertmanager` starts it in that folder.
    """
    from_lists(work, lambda options: apt(work, *options, "download", package))
    unpack(work)
    for program in (work / "unpacked").glob("usr/bin/*"):
        content = program.read_bytes()
        if TEMPLATES in content:
            program.write_bytes(content.replace(TEMPLATES, b"/proc/self/cwd".ljust(len(TEMPLATES), b"/")))


def from_lists(work: Path, ask: Callable[[list[str]], Any]) -> None:
    """`ask` by the machine's lists; where these are missing or outdated, by fresh ones in the cache.

    `ask` gets the options of apt-get that say so. Lists of our own need no root and leave the machine as it was.
    """
    own = [f"-oDir::State::Lists={CACHE / 'apt' / 'lists'}", f"-oDir::Cache={CACHE / 'apt'}"]
    try:
        ask([])
    except subprocess.CalledProcessError:
        for part in ("lists/partial", "archives/partial"):
            (CACHE / "apt" / part).mkdir(parents=True, exist_ok=True)
        apt(work, *own, "update")
        ask(own)


def apt(work: Path, *arguments: str, quiet: bool = True) -> str:
    """What apt-get prints. Raises CalledProcessError."""
    polite = ["-oAcquire::Retries=2", "-oAcquire::http::Timeout=20", "-oAPT::Sandbox::User=", *(["-qq"] * quiet)]
    done = subprocess.run(["apt-get", *polite, *arguments], cwd=work, check=True, capture_output=True, timeout=300)
    return done.stdout.decode(errors="replace")


PORTS_A_WORKER = 2_500
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw7").removeprefix("gw")) % 8
_PORTS = itertools.count(secrets.randbelow(PORTS_A_WORKER))


def free_port() -> int:
    """A loopback port on which nothing listens now. For a server of ours prefer port 0.

    Below those that Linux gives to connections and to whoever binds port 0: else one of them may have it before long.
    Each of the processes that run tests side by side has its own, and gives none of them a second time soon.
    """
    for number in _PORTS:
        port = 10_000 + PORTS_A_WORKER * _WORKER + number % PORTS_A_WORKER
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port
    raise AssertionError("counting has ended")


def wait_until(predicate: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first truthy answer of `predicate`: only for programs that cannot tell us by themselves.

    It is asked every 20 ms, and after a while every 100 ms: tests mostly wait, and asking is most of what they do.
    AssertionError after `seconds`; they are a lifeline, not a measurement, so make them generous.
    """
    begun = time.monotonic()
    while not (answer := predicate()):
        waited = time.monotonic() - begun
        assert waited < seconds, f"waited {seconds:g} s in vain: {what}"
        time.sleep(min(0.1, max(0.02, waited / 10)))
    return answer


@dataclass(frozen=True)
class RunningServer:
    """A server that answers. Lives until its context ends."""

    url: str
    pid: int
    log: Path

    def get(self, path: str, **parameters: str | float) -> Any:
        """The JSON answer to GET `path`. Raises urllib.error.HTTPError on an error status."""
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)

    def post(self, path: str, body: Any = None) -> bytes:
        """The answer to POST `path` with a JSON body. Raises urllib.error.HTTPError on an error status."""
        request = urllib.request.Request(
            f"{self.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
            return content


class RunningPrometheus(RunningServer):
    """A Prometheus that answers."""

    def query(self, expr: str, at: float | None = None) -> Any:
        """The `data` of an instant query, at Unix time `at` or now: {"resultType": …, "result": [...]}."""
        return self.get("/api/v1/query", query=expr, **({} if at is None else {"time": at}))["data"]

    def alerts(self) -> list[dict[str, Any]]:
        """Its pending and firing alerts."""
        found: list[dict[str, Any]] = self.get("/api/v1/alerts")["data"]["alerts"]
        return found


class RunningAlertmanager(RunningServer):
    """An Alertmanager that answers."""

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts it holds. It leaves out resolved ones: those are seen only by a receiver (`webhook_url`)."""
        found: list[dict[str, Any]] = self.get("/api/v2/alerts")
        return found

    def send(self, alerts: Sequence[Mapping[str, Any]]) -> None:
        """Post alerts as a Prometheus does."""
        self.post("/api/v2/alerts", alerts)


@contextlib.contextmanager
def running_prometheus(
    config_yaml: str, tmp_path: Path, rule_files: Sequence[Path] = (), flags: Sequence[str] = (),
    program: Path | None = None, storage: Path | None = None,
) -> Iterator[RunningPrometheus]:
    """A Prometheus on a free port with `config_yaml` plus `rule_files`; an interval may be as short as 200ms.

    `storage` holds what it knows already.
    """
    folder = Path(tempfile.mkdtemp(prefix="prometheus-", dir=tmp_path))
    config = folder / "prometheus.yml"
    if rule_files:
        config_yaml += f"\nrule_files: {json.dumps([str(path.resolve()) for path in rule_files])}\n"
    config.write_text(config_yaml)
    port = free_port()
    command = [
        str(program or prometheus()), f"--config.file={config}", f"--storage.tsdb.path={storage or folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--web.enable-lifecycle", *flags,
    ]  # fmt: skip
    with _running(command, folder / "log", port, folder) as pid:
        yield RunningPrometheus(f"http://127.0.0.1:{port}", pid, folder / "log")


@contextlib.contextmanager
def running_alertmanager(
    tmp_path: Path, webhook_url: str = "", config_yaml: str = "", flags: Sequence[str] = ()
) -> Iterator[RunningAlertmanager]:
    """A lone Alertmanager on a free port that passes everything, resolves too, on to `webhook_url` without delay."""
    folder = Path(tempfile.mkdtemp(prefix="alertmanager-", dir=tmp_path))
    config = folder / "alertmanager.yml"
    receiver = {"name": "test", "webhook_configs": [{"url": webhook_url, "send_resolved": True}] if webhook_url else []}
    route = {"receiver": "test", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
    config.write_text(config_yaml or json.dumps({"route": route, "receivers": [receiver]}))
    port, program = free_port(), alertmanager()
    templates = program.parent.parent / "share" / "prometheus" / "alertmanager"  # see _unpack
    command = [
        str(program), f"--config.file={config}", f"--storage.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", *flags,
    ]  # fmt: skip
    with _running(command, folder / "log", port, templates if templates.exists() else folder) as pid:
        yield RunningAlertmanager(f"http://127.0.0.1:{port}", pid, folder / "log")


@contextlib.contextmanager
def _running(command: list[str], log: Path, port: int, cwd: Path) -> Iterator[int]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: _ready(process, log, port), READY_SECONDS, f"{command[0]} to be ready, see {log}")
        yield process.pid
    finally:
        end(process)


def _ready(process: "subprocess.Popen[bytes]", log: Path, port: int) -> bool:
    assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text(errors='replace')[-2000:]}"
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:  # not listening yet, or listening and answering 503 (HTTPError is an OSError)
        return False


def end(process: "subprocess.Popen[Any]", seconds: float = 10.0) -> int:
    """SIGTERM, SIGKILL where that is not enough, pipes closed. Returns the exit code; harmless when it has ended."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe:
            with contextlib.suppress(BrokenPipeError):  # what was written to a program that has ended
                pipe.close()
    return process.wait()


@dataclass(frozen=True)
class Post:
    """One POST as it arrived. `json` is None where the body is not JSON."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass
class AlertRecorder:
    """A small real HTTP server: records what is posted and answers as told. Lives until its context ends.

    `status` and `body` are the answer to every later POST (a body may be 100 MB); with `hang` set nothing is answered
    until it is cleared or the recorder ends. `url` is its root, fit for a list of Alertmanagers or, with a path, for a
    webhook receiver.
    """

    status: int = 200
    body: bytes = b'{"status":"success"}'
    content_type: str = "application/json"
    port: int = 0
    posts: list[Post] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> "AlertRecorder":
        self._arrived = threading.Condition()
        self._go_on = threading.Event()
        self._go_on.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), functools.partial(_Recording, self))
        self._server.daemon_threads = False  # server_close joins its threads then: no socket outlives the test
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._go_on.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def hang(self) -> bool:
        """Whether posts are left without an answer."""
        return not self._go_on.is_set()

    @hang.setter
    def hang(self, hang: bool) -> None:
        (self._go_on.clear if hang else self._go_on.set)()

    def alerts(self) -> list[dict[str, Any]]:
        """Every alert of every post in order, whether posted as a bare list (API v2) or inside a webhook's message."""
        with self._arrived:
            bodies = [post.json for post in self.posts]
        lists = [body.get("alerts", []) if isinstance(body, dict) else body or [] for body in bodies]
        return [alert for alerts in lists for alert in alerts]

    def wait_for(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Until `condition` is true, asked anew at each post. AssertionError after `seconds`."""
        with self._arrived:
            assert self._arrived.wait_for(condition, seconds), f"waited {seconds:g} s in vain: {what}"

    def note(self, post: Post) -> None:
        """Record a post and wake who waits for it."""
        with self._arrived:
            self.posts.append(post)
            self._arrived.notify_all()

    def await_permission(self) -> None:
        """Wait while `hang` is set."""
        self._go_on.wait()


class _Recording(BaseHTTPRequestHandler):
    timeout = 10  # a client that connects and says nothing must not keep the recorder from ending

    def __init__(self, recorder: AlertRecorder, *arguments: Any) -> None:
        self.recorder = recorder
        super().__init__(*arguments)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.recorder.note(Post(self.path, dict(self.headers.items()), body))
        self.recorder.await_permission()
        with contextlib.suppress(ConnectionError):  # a client may stop reading 100 MB, or have given up while we hung
            self.send_response(self.recorder.status)
            self.send_header("Content-Type", self.recorder.content_type)
            self.send_header("Content-Length", str(len(self.recorder.body)))
            self.end_headers()
            self.wfile.write(self.recorder.body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Keep quiet: a test says what matters."""


if __name__ == "__main__":
    import browser  # they import this file by its name
    import grafana_types
    import newer_prometheus
    import pythons

    try:
        for program in PACKAGES:
            print(find_binary(program))
        print(browser.find()[0])
        print(pythons.fetched(pythons.MUST))
        print(newer_prometheus.find())
        print(grafana_types.find())
    except (NoServer, pythons.servers.NoServer) as error:
        print(f"{error}\nThe tests that need it {'fail' if must_have() else 'are skipped'}.", file=sys.stderr)
        sys.exit(must_have())
