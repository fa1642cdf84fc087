"""The demo as a newcomer runs it: a command, its output, its exit code, and nothing left behind."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until

from sidecar.demo import story_state
from sidecar.demo.story_crowd import COMES_AFTER_SECONDS, Crowd
from sidecar.demo.story_events import CLEANUP_OF, HOLD_SECONDS, MIB, Climb, events, status, summary
from sidecar.demo.story_state import Alert, Attempt, State, look
from sidecar.rules.load import load, shipped

PATIENCE_SECONDS = 60.0
DEMO = (sys.executable, "-P", "-m", "sidecar", "demo")

STUBBORN = """
import http.server, os, threading, time

class Stubborn(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", 0), Stubborn)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"ready http://127.0.0.1:{server.server_port} pid {os.getpid()}", flush=True)
kept, begun = [], time.monotonic()
while True:
    while len(kept) < min(420, 40 * (time.monotonic() - begun)):
        kept.append(b"x" * (1 << 20))
    time.sleep(0.02)
"""
"""A service that grows by 40 MiB/s whatever it is asked for, and answers every cleanup with 200."""


class Performance:
    """A running demo. All that it starts inherits `mark` in the environment and can so be found."""

    def __init__(self, command: tuple[str, ...], **popen: Any) -> None:
        self.mark = f"DEMO_TEST={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        env = {**os.environ, **popen.pop("env", {}), name: value}
        self.process = subprocess.Popen(
            command, env=env, **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **popen})

    def read_to(self, pattern: str) -> str:
        """What it says up to the first line in which `pattern` is found."""
        assert self.process.stdout
        said = ""
        for line in self.process.stdout:
            said += line
            if re.search(pattern, line):
                return said
        raise AssertionError(f"it ended with {self.process.wait()} before {pattern!r}: {said}")

    def rest(self) -> str:
        """What it says until its end."""
        return self.process.communicate(timeout=PATIENCE_SECONDS)[0]

    def left(self, found_in: str = "") -> list[int]:
        """The processes that it has started and that still live; only those with this in their command line."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = self.mark.encode() in (folder / "environ").read_bytes()
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if ours and found_in in command and int(folder.name) != self.process.pid:
                found.append(int(folder.name))
        return sorted(found)


@pytest.fixture
def perform() -> Iterator[Callable[..., Performance]]:
    """Start a demo; whatever happens, it and all that it started is ended, each by its pid."""
    started: list[Performance] = []

    def start(*command: str, **popen: Any) -> Performance:
        started.append(Performance(command, **popen))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        for pid in each.left():
            os.kill(pid, signal.SIGKILL)
        if each.process.stdout:
            each.process.stdout.close()


def folder_in(said: str) -> Path:
    """The temporary folder that the demo named."""
    found = re.search(r"files\s+(\S+)", said)
    assert found
    return Path(found[1])


def test_once_tells_the_story_in_order_and_ends_with_0(perform: Callable[..., Performance]) -> None:
    """Line crossed, alert pending, firing, cleanup asked for, bytes freed, verdict: then it ends and leaves nothing.

    Thresholds for somebody's own service, in the environment, change nothing.
    """
    demo = perform(*DEMO, "--once", env={"MEMORY_THRESHOLD_MB": "1", "MEMORY_CRITICAL_THRESHOLD_MB": "2"})
    said = demo.rest()
    beats = ["over preventive", "over main", "main fires", "cleanup asked", "freed", "verified as effective"]
    places = [said.find(beat) for beat in beats]

    assert demo.process.returncode == 0, said
    assert -1 not in places, said
    assert places == sorted(places), said
    assert re.search(r"1 cleanup in \d+ s, 1 verified as effective: \d+ MiB freed", said)
    assert re.search(r"Growing by \d+\.\d MiB/s, it was \d+ s away from 280 MiB", said)
    assert "resolved" in said
    assert "\x1b" not in said
    assert demo.left() == []
    assert not folder_in(said).exists()


def test_a_rag_that_never_cleans_up_ends_with_1(perform: Callable[..., Performance], tmp_path: Path) -> None:
    """A service that says 200 and frees nothing is asked, and the demo does not call that a success."""
    rag = tmp_path / "stubborn.py"
    rag.write_text(STUBBORN)
    call = f"story.main(once=True, limit_seconds=9.5, rag=[sys.executable, {str(rag)!r}])"
    demo = perform(sys.executable, "-P", "-c", f"import sys; from sidecar.demo import story; sys.exit({call})")
    said = demo.rest()

    assert demo.process.returncode == 1, said
    assert "aggressive by HTTP" in said
    assert "No cleanup was effective within 9.5 s" in said
    assert "Verdict effective" not in said
    assert demo.left() == []


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_everything(perform: Callable[..., Performance], ending: signal.Signals, code: int) -> None:
    """Ctrl-C is no failure, SIGTERM is told from it, and both leave neither processes nor files."""
    demo = perform(*DEMO)
    said = demo.read_to("under every line")
    children = len(demo.left())
    demo.process.send_signal(ending)
    said += demo.rest()

    assert demo.process.returncode == code, said
    assert children >= 3  # the RAG, the guard, the desk
    assert "To guard a process of your own" in said
    assert "Traceback" not in said
    assert demo.left() == []
    assert not folder_in(said).exists()


def test_a_killed_narrator_leaves_no_process(perform: Callable[..., Performance], tmp_path: Path) -> None:
    """SIGKILL gives it no chance to remove its files, yet the RAG and the sidecar end."""
    demo = perform(*DEMO, env={"TMPDIR": str(tmp_path)})
    demo.read_to("under every line")
    demo.process.kill()
    demo.process.wait()

    wait_until(lambda: not demo.left(), PATIENCE_SECONDS, "the end of the children")


@pytest.mark.parametrize(("command", "name"), [("sidecar.demo.rag", "RAG"), ("sidecar run", "sidecar")])
def test_a_child_that_dies_is_told_with_its_last_words(
    perform: Callable[..., Performance], command: str, name: str
) -> None:
    """Which one, how it ended, what it had said: then exit code 1, and the other one is ended too."""
    demo = perform(*DEMO)
    demo.read_to("under every line")
    os.kill(demo.left(command)[0], signal.SIGKILL)
    said = demo.rest()

    assert demo.process.returncode == 1, said
    assert f"The {name} was killed by SIGKILL" in said
    assert "Its last words:" in said
    assert "Traceback" not in said
    wait_until(lambda: not demo.left(), PATIENCE_SECONDS, "the end of the guard's orphans")


def test_a_reader_that_goes_away_ends_it_quietly(perform: Callable[..., Performance]) -> None:
    """`rag-sidecar demo | head` leaves no process and prints no traceback."""
    demo = perform(*DEMO, stderr=subprocess.PIPE)
    assert demo.process.stdout
    assert demo.process.stderr
    demo.process.stdout.readline()
    demo.process.stdout.close()
    trouble = demo.process.stderr.read()
    demo.process.stderr.close()

    assert demo.process.wait(PATIENCE_SECONDS) == 1
    assert trouble == ""
    assert demo.left() == []


@pytest.mark.parametrize(("env", "coloured"), [({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)])
def test_on_a_terminal_one_line_is_redrawn(
    perform: Callable[..., Performance], env: dict[str, str], coloured: bool
) -> None:
    """The bar carries its three lines, nothing is wider than the terminal, and the cursor is given back."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 72, 0, 0))
    demo = perform(*DEMO, stdin=theirs, stdout=theirs, stderr=theirs, env={"TERM": "xterm", **env})
    os.close(theirs)
    said = ""
    while said.count("under every line") < 3:
        said += os.read(ours, 65536).decode()
    demo.process.send_signal(signal.SIGINT)
    while True:
        try:
            said += os.read(ours, 65536).decode()
        except OSError:  # EIO: the other end is closed
            break
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
    drawn = [line for line in re.split(r"[\r\n]+", plain) if "under every line" in line]

    assert demo.process.wait(PATIENCE_SECONDS) == 0
    assert len(drawn) >= 3
    assert all(re.search(r"[█░]P[█░]+M[█░]+C[█░]", line) for line in drawn)
    assert max(map(len, drawn)) < 72
    assert said.index("\x1b[?25l") < said.index("\x1b[?25h")
    assert ("\x1b[32m" in said) == coloured


def test_what_it_says_about_the_rules_is_what_they_say() -> None:
    """The seconds and cleanups that the demo promises are those of the shipped rule files."""
    rules = [rule for group in load(shipped()) for rule in group.rules if "level" in rule.labels]

    assert {rule.labels["level"]: rule.for_seconds for rule in rules} == HOLD_SECONDS
    assert {rule.labels["level"]: rule.labels["cleanup"] for rule in rules} == CLEANUP_OF


def alert(level: str, *, firing: bool = False, kept: bool = False) -> Alert:
    """An alert of one of the three lines, active for 4 s at time 104."""
    return Alert(f"Rag{level}", level, firing, kept, 100.0, 125 * MIB, "")


def attempt(outcome: str, **more: Any) -> Attempt:
    """A standard cleanup at 230 MiB that was delivered."""
    known: dict[str, Any] = {
        "id": "1", "cleanup": "standard", "level": "main", "channel": "http", "outcome": outcome, "reason": "",
        "started_at": 100.0, "before_bytes": 230.0 * MIB, "line_bytes": 120.0 * MIB, "after_bytes": None,
        "freed_bytes": None, "delivery_seconds": 0.0009, "duration_seconds": 0.14, "rebounded": None}
    return Attempt(**{**known, **more})


def state(*things: Alert | Attempt, used: float = 125.0) -> State:
    """A look at these alerts and attempts, with `used` MiB in use."""
    return State(used * MIB, {"preventive": 96.0 * MIB, "main": 120.0 * MIB, "critical": 280.0 * MIB},
                 {each.name: each for each in things if isinstance(each, Alert)},
                 {each.id: each for each in things if isinstance(each, Attempt)})


@pytest.mark.parametrize(("before", "after", "told"), [
    (None, state(alert("main")), ["over main"]),
    (state(alert("main")), state(alert("main", firing=True)), ["main fires"]),
    (state(alert("main", firing=True)), state(alert("main", firing=True)), []),
    (state(alert("main", firing=True), alert("preventive")), state(), ["resolved"]),
    (state(alert("preventive")), state(), ["back under"]),
    (state(), state(attempt("running", delivery_seconds=None)), []),
    (state(attempt("running", delivery_seconds=None)), state(attempt("running")), ["cleanup asked"]),
    (state(attempt("running")), state(attempt("effective", after_bytes=90.0 * MIB, freed_bytes=142.0 * MIB)),
     ["freed 142 MiB"]),
    (state(attempt("running")), state(attempt("ineffective", after_bytes=231.0 * MIB, freed_bytes=-1.0 * MIB)),
     ["freed 0 MiB"]),
    (state(), state(attempt("refused", delivery_seconds=None, reason="signal_default")), ["no effect seen"]),
    (state(attempt("effective", after_bytes=90.0 * MIB, freed_bytes=142.0 * MIB)),
     state(attempt("effective", after_bytes=90.0 * MIB, freed_bytes=142.0 * MIB, rebounded=True)), ["came back"]),
])
def test_each_change_is_told_once(before: State | None, after: State, told: list[str]) -> None:
    """What is new between two looks gets one line each, and what stays as it was gets none."""
    assert [event.head for event in events(before, after)] == told
    assert list(events(after, after)) == []


def test_only_an_effective_verdict_is_good_news() -> None:
    """A cleanup that freed too little is marked as bad, with what the sidecar said about it."""
    judged = {outcome: attempt(outcome, after_bytes=200.0 * MIB, freed_bytes=20.0 * MIB)
              for outcome in ("effective", "partial", "ineffective")}
    told = {outcome: next(events(state(attempt("running")), state(each))) for outcome, each in judged.items()}

    assert {outcome: event.kind for outcome, event in told.items()} == {
        "effective": "good", "partial": "bad", "ineffective": "bad"}
    assert told["partial"].text == "Verdict partial: 200 MiB instead of 220 in 140 ms."


@pytest.mark.parametrize(("seen", "words"), [
    (state(), "under every line"),
    (state(alert("preventive"), alert("main")), "main fires in 6 s"),
    (state(alert("preventive"), alert("main", firing=True)), "main alert fires"),
    (state(alert("main", firing=True), attempt("running")), "cleanup sent, verifying bytes"),
    (state(alert("critical", firing=True, kept=True)), "under every line"),
])
def test_the_status_is_the_most_urgent_thing(seen: State, words: str) -> None:
    """What happens next comes first; an alert that is only kept visible is no news."""
    assert status(seen, now=104.0) == words


def test_the_pace_is_measured_before_the_first_cleanup() -> None:
    """The summary's growth is that of the readings; without any growth nothing is claimed."""
    climb, flat = Climb(), Climb()
    done = attempt("effective", after_bytes=90.0 * MIB, freed_bytes=142.0 * MIB)
    for second in range(10):
        climb.note(state(used=130.0 + 10 * second), float(second))
        flat.note(state(used=230.0), float(second))
    for each in (climb, flat):
        each.note(state(done, used=90.0), 10.0)

    assert list(summary(state(done), climb, 23.0)) == [
        "1 cleanup in 23 s, 1 verified as effective: 142 MiB freed.",
        "Growing by 10.0 MiB/s, it was 5 s away from 280 MiB when the first one came.",
    ]
    assert len(list(summary(state(done), flat, 23.0))) == 1


@pytest.mark.parametrize("body", [b"", b"[]", b'{"data": {"alerts": [1], "actions": []}}', b"\xff"])
def test_nonsense_from_the_sidecar_is_no_look(body: bytes) -> None:
    """What cannot be understood is no state, and no crash."""

    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Nonsense) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        address = f"127.0.0.1:{server.server_port}"
        seen = look(address)
        server.shutdown()
        thread.join()

    assert seen is None
    assert look(address) is None  # nobody listens there any more


def test_the_crowd_comes_after_a_calm_cleanup_and_goes_after_the_strongest(
    perform: Callable[..., Performance]
) -> None:
    """It asks a real RAG over HTTP until an aggressive cleanup was needed, and then no more."""
    rag = perform(sys.executable, "-m", "sidecar.demo.rag", "--port", "0")
    address = rag.read_to("ready").split()[1].removeprefix("http://")
    crowd, calm = Crowd(address, 50 * MIB), attempt("effective", after_bytes=0.0, freed_bytes=0.0)
    came = [crowd.attend(calm, now) for now in (0.0, COMES_AFTER_SECONDS - 1, COMES_AFTER_SECONDS)]

    def turns() -> int:
        found = re.search(rb'"turns": (\d+)', story_state.get(address, "/memory"))
        assert found
        return int(found[1])

    wait_until(lambda: turns() > 20, PATIENCE_SECONDS, "questions of the crowd")
    there = [thread.name for thread in threading.enumerate()]
    crowd.attend(attempt("running", cleanup="aggressive"), COMES_AFTER_SECONDS + 1)

    assert came == [False, False, True]
    assert "crowd" in there
    assert "crowd" not in [thread.name for thread in threading.enumerate()]
