"""Cleanups that the courier carries: what a POST's answers and a program's end mean. Real servers, real programs."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from guarding import USR1, Hands, running_courier
from servers import free_port
from sidecars import config, running_sidecar

from sidecar.guard.courier import retry_after_seconds
from sidecar.guard.wire import Channel, Event


@pytest.fixture
def hands(spawn: Callable[..., Target]) -> Iterator[Hands]:
    """A guard without a desk that watches a target which is over its line, with a real courier."""
    made = Hands()
    target = spawn("leaky", "--handle", "SIGUSR1")
    made.watch(target)
    target.tell("grow 100")
    with running_courier(made):
        yield made
    made.close()


@contextmanager
def serving(status: int, headers: dict[str, str], body: bytes = b"{}") -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers every POST like this: its URL, and what it was sent."""
    asked: list[dict[str, Any]] = []

    class Answering(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append({"path": self.path, **json.loads(text)})
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def posted(hands: Hands, kind: str, *answer: Any, **order: Any) -> tuple[Event, list[dict[str, Any]]]:
    """The event of this kind that comes of a POST which is answered like this, and what the server was asked."""
    with serving(*answer) as (url, asked):
        hands.deliver(channels=(Channel("http", url=f"{url}/cleanup"),), **order)
        return hands.until(kind), asked


def test_post_names_the_instance_it_is_meant_for(hands: Hands) -> None:
    """A program that was replaced can see that another one was meant; without a name nothing is said of it."""
    answered, asked = posted(hands, "answered", 200, {}, instance_id="abc")

    assert asked == [{"path": "/cleanup", "level": "aggressive", "id": answered.order, "instance_id": "abc"}]


@pytest.mark.parametrize(("status", "reason"), [(401, "http_401"), (403, "http_403"), (412, "instance_changed")])
def test_no_of_the_target_is_a_refusal_and_the_next_channel_is_used(hands: Hands, status: int, reason: str) -> None:
    """Who is not let in, or asks another program than was meant, need not try again."""
    with serving(status, {}) as (url, _):
        hands.deliver(channels=(Channel("http", url=url), USR1))
        refused, answered = hands.until("refused"), hands.until("answered")

    assert (refused.detail["channel"], refused.detail["reason"]) == ("http", reason)
    assert answered.detail["channel"] == "signal"
    assert "failed" not in hands.kinds()


@pytest.mark.parametrize(("status", "headers", "reason", "seconds"), [
    (409, {}, "busy", 5.0), (409, {"Retry-After": "30"}, "busy", 30.0), (429, {"Retry-After": "7"}, "http_429", 7.0),
    (503, {"Retry-After": "99999999"}, "http_503", 3600.0), (503, {"Retry-After": "soon"}, "http_503", None),
    (503, {}, "http_503", None), (500, {"Retry-After": "7"}, "http_500", None), (404, {}, "http_404", None)])
def test_target_that_cannot_now_says_when_to_ask_again(
    hands: Hands, status: int, headers: dict[str, str], reason: str, seconds: float | None
) -> None:
    """Busy, overloaded, out of order: a failure, with the time after which it may be asked again."""
    failed, _ = posted(hands, "failed", status, headers)

    assert failed.detail["reason"] == reason
    assert failed.detail.get("retry_after_seconds") == seconds


NOW = 1_700_000_000.0


@pytest.mark.parametrize(("value", "seconds"), [
    ("0", 0.0), (" 12 ", 12.0), ("3601", 3600.0), ("9" * 400, 3600.0), ("-5", None), ("1.5", None), ("", None),
    ("٣", None), ("soon", None), (formatdate(NOW + 90, usegmt=True), 90.0), (formatdate(NOW - 90, usegmt=True), 0.0),
    (formatdate(NOW + 9e6, usegmt=True), 3600.0), ("Tue, 99 Foo 99999999 99:99:99 GMT", None),
    ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None)])
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    """Both forms of the header, never more than an hour; what makes no sense says nothing."""
    assert retry_after_seconds(value, NOW) == seconds


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_is_never_followed(hands: Hands, status: int) -> None:
    """Wherever it leads: an order goes to the address that was configured, and to no other."""
    with serving(200, {}) as (elsewhere, asked):
        failed, _ = posted(hands, "failed", status, {"Location": f"{elsewhere}/cleanup"})

    assert failed.detail["reason"] == f"http_{status}"
    assert asked == []


@pytest.mark.parametrize(("body", "told"), [
    (b'{"freed_bytes": 7, "pause_seconds": 0.5, "outcome": "done", "x": 1}', {"freed_bytes": 7, "pause_seconds": 0.5}),
    (b'{"freed_bytes": 8, "steps": "' + b"x" * 60_000 + b'"}', {"freed_bytes": 8}),
    (b'{"freed_bytes": 1e300, "objects_collected": true, "pause_seconds": "x"}', {}), (b"[1]", {}), (b"", {}),
    (b"<html>", {}), (b"[" * 60_000, {}), (b'{"freed_bytes": NaN}', {}), (b"\xff\xfe", {}), (b" " * 100_000, {})],
    ids=lambda value: str(value)[:40])
def test_figures_of_an_answer_are_told_as_those_of_agents(hands: Hands, body: bytes, told: dict[str, float]) -> None:
    """What an endpoint says of its cleanup, as far as it is numbers that can be true."""
    answered, _ = posted(hands, "answered", 200, {}, body)

    assert answered.detail["told"] == told


# Programs


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Channel]:
    """A channel that runs a Python script with one argument: a file of its own."""
    def make(text: str, timeout_seconds: float = 20.0) -> Channel:
        path = tmp_path / "program"
        path.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{text}\n")
        path.chmod(0o755)
        return Channel("exec", timeout_seconds=timeout_seconds, argv=(str(path), str(tmp_path / "said")))

    return make


SAY_ALL = """
import json
with open(sys.argv[1], "w") as file:
    json.dump({"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd(), "stdin": sys.stdin.read(),
               "leads": os.getsid(0) == os.getpid(), "fds": sorted(os.listdir("/proc/self/fd")),
               "ignored": [n for n in (1, 2, 13, 15) if signal.getsignal(n) == signal.SIG_IGN]}, file)
print("done")
"""


def test_program_is_started_with_what_it_needs_and_nothing_else(
    hands: Hands, script: Callable[..., Channel], tmp_path: Path
) -> None:
    """Its arguments, who is meant and how; no secrets of ours, no open files, no terminal; exit 0 is yes."""
    channel = script(SAY_ALL)
    hands.deliver(channels=(channel._replace(argv=(*channel.argv, "a b", "$HOME;*")),))
    answered = hands.until("answered")
    said = json.loads((tmp_path / "said").read_text())

    assert said["argv"][1:] == ["a b", "$HOME;*"]
    assert said["env"].pop("PATH").startswith("/usr/local/sbin:")
    assert said["env"].pop("HOME").startswith("/")
    assert said["env"].pop("RAG_SIDECAR_PID") == str(hands.watchlist.watches["t"].process.identity.pid)
    assert {name: value for name, value in said["env"].items() if name not in ("LANG", "LC_CTYPE")} == {
        "RAG_SIDECAR_TARGET": "t", "RAG_SIDECAR_LEVEL": "aggressive", "RAG_SIDECAR_ID": answered.order}
    assert (said["cwd"], said["stdin"], said["leads"], said["ignored"]) == ("/", "", True, [13])
    assert len(said["fds"]) <= 5  # the three, the file it writes, the folder it lists
    assert (answered.detail["exit_code"], answered.detail["output"]) == (0, "done\n")
    assert hands.kinds() == ["crossed", "delivered", "answered"]


@pytest.mark.parametrize(("text", "reason"), [
    ("sys.exit(3)", "exit_3"), ("os.kill(os.getpid(), 9)", "exit_137"), ("raise ValueError('why')", "exit_1")])
def test_program_that_says_no_is_a_failure_and_the_next_channel_is_used(
    hands: Hands, script: Callable[..., Channel], text: str, reason: str
) -> None:
    """Every exit code but 0; a signal counts as in a shell. What it said last is told."""
    hands.deliver(channels=(script(f"print('said', file=sys.stderr, flush=True)\n{text}"), USR1))
    failed, answered = hands.until("failed"), hands.until("answered")

    assert failed.detail["reason"] == reason
    assert failed.detail["message"].startswith("said")
    assert answered.detail["channel"] == "signal"


def test_program_that_cannot_be_started_is_refused(hands: Hands, tmp_path: Path) -> None:
    """Absent, forbidden, a directory, no program at all: never delivered, and the next channel is used."""
    junk, forbidden = tmp_path / "junk", tmp_path / "forbidden"
    junk.write_bytes(b"\x00\x01\x02")
    junk.chmod(0o755)
    forbidden.write_text("#!/bin/sh\n")
    nothing = (tmp_path / "nothing", forbidden, tmp_path, junk, Path("/dev/null/x"))
    hands.deliver(channels=(*(Channel("exec", argv=(str(path),)) for path in nothing), USR1))
    hands.until("answered")

    assert [each.detail["reason"] for each in hands.events if each.kind == "refused"] == [
        "not_found", "permission", "permission", "not_executable", "not_found"]
    assert hands.kinds().count("delivered") == 1


def test_program_that_hangs_is_ended_with_all_it_started(
    hands: Hands, script: Callable[..., Channel], tmp_path: Path
) -> None:
    """One deadline; then SIGTERM to its whole session, and SIGKILL for those that do not hear."""
    text = ("child = os.fork()\nsignal.signal(15, signal.SIG_IGN)\n"
            "if child: open(sys.argv[1], 'w').write(f'{os.getpid()} {child} ')\nwhile True: time.sleep(1)")
    hands.deliver(channels=(script(text, timeout_seconds=1.0), USR1))
    failed = hands.until("failed")
    assert failed.detail["reason"] == "timeout"
    hands.until("answered")

    pids = [int(pid) for pid in (tmp_path / "said").read_text().split()]
    assert len(pids) == 2
    wait_until(lambda: not any(running(pid) for pid in pids), 10, "the program and its child to be gone")


def running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except FileNotFoundError:
        return False


def test_program_that_never_stops_talking_is_listened_to_and_cut(
    hands: Hands, script: Callable[..., Channel]
) -> None:
    """A hundred megabytes of output do not fill our memory, nor does a full pipe stop the program."""
    hands.deliver(channels=(script("for _ in range(1600): os.write(1, b'x' * 65536)\nprint('the end')"),))
    answered = hands.until("answered", 60.0)

    assert answered.detail["output"].endswith("xxx" + "the end\n")
    assert len(answered.detail["output"]) == 300


def test_program_whose_child_keeps_its_output_open_has_ended(hands: Hands, script: Callable[..., Channel]) -> None:
    """What it starts in the background and leaves there does not keep its answer back."""
    hands.deliver(channels=(script("if os.fork(): print('left', os.getpid(), flush=True)\nelse: time.sleep(15)"),))

    assert hands.until("answered", 8.0).detail["output"].startswith("left")


def test_dry_run_starts_no_program(hands: Hands, script: Callable[..., Channel], tmp_path: Path) -> None:
    """The events are those of a delivery, and nothing has happened."""
    hands.deliver(channels=(script(SAY_ALL),), dry_run=True)

    assert hands.until("answered").detail["dry_run"] is True
    hands.deliver(channels=(Channel("exec", argv=("/bin/true",)),), id="after")
    wait_until(lambda: (hands.turn(), hands.kinds().count("answered") == 2)[1], 5, "a program that was started")
    assert not (tmp_path / "said").exists()


def test_end_of_the_guard_ends_what_its_courier_runs(script: Callable[..., Channel], tmp_path: Path,
                                                     spawn: Callable[..., Target]) -> None:
    """No program is left behind, and no courier."""
    hands, target = Hands(), spawn("leaky")
    hands.watch(target)
    target.tell("grow 100")
    with running_courier(hands) as courier:
        hands.deliver(channels=(script("open(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)"),))
        said = tmp_path / "said"
        wait_until(lambda: (hands.turn(), said.exists() and said.read_text())[1], 10, "the program")
        assert hands.deliveries.courier
        hands.deliveries.courier.close()
        assert courier.wait(10) == 0
        wait_until(lambda: not running(int(said.read_text())), 5, "the program to be gone")
    hands.close()


def test_sidecar_runs_the_program_of_its_configuration(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """As users meet it: the program knows which process is meant, and what it brings about is measured."""
    leaky, program, port = spawn("leaky", "--handle", "SIGUSR1"), tmp_path / "clean", free_port()
    program.write_text('#!/bin/sh\nkill -USR1 "$RAG_SIDECAR_PID"\n')
    program.chmod(0o755)
    target = {"name": "rag", "match": {"pid": leaky.pid}, "memory": {"main": "140MiB", "critical": "150MiB"},
              "cleanup": [{"exec": {"command": [str(program)]}}]}
    file = config(port, tmp_path, [target], actions={"allow_exec": [str(program)], "global": {"warmup": "0s"}})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        leaky.tell("grow 200")
        attempt = sidecar.outcome()

    assert (attempt["channel"], attempt["outcome"]) == ("exec", "effective")
