"""What a bad day does to guard and desk: crash loops, want, garbage, freezes, signals at the worst moment."""

import contextlib
import json
import os
import random
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import free_port
from sidecars import MIB, Sidecar, config, running_sidecar

from sidecar.guard import wire
from sidecar.guard.record import MOST_TELLINGS, FlightRecord
from sidecar.guard.wire import Channel, Order
from sidecar.procfs import identify

USR1 = Channel("signal", signal=int(signal.SIGUSR1))
BY_SIGNAL = [{"signal": "SIGUSR1"}]
LINES = {"main": "200MiB", "critical": "260MiB"}
ANON = ["anon", "", "", True]
GUARD = """
import sys
from sidecar.guard import desk, guard
desk.program = lambda module: [sys.executable, "-S", "-c", sys.argv[1], sys.argv[2]]
vars(desk).update(eval(sys.argv[3]))
sys.exit(guard.main(sys.argv[4:]))
"""
"""The real guard, whose desks hand their end of the line to the test. Its patience may be made shorter."""

DESK = """
import socket, sys, time
test = socket.socket(socket.AF_UNIX)
test.connect(sys.argv[1])
socket.send_fds(test, [sys.argv[4].encode()], [int(sys.argv[6])])
time.sleep(600)
"""


class Played:
    """A guard whose desks the test plays. Lives until its test ends. `starts` is the number of the present desk."""

    def __init__(self, folder: Path, *arguments: str, **patience: float) -> None:
        self.log = folder / "guard.log"
        self.starts = 0
        self.events: dict[int, wire.Event] = {}
        self.seen = 0
        self._line: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "line"))
        self._listener.listen(64)
        self._listener.settimeout(20)
        command = [sys.executable, "-P", "-c", GUARD, DESK, str(folder / "line"), repr(patience), *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def end(self) -> None:
        """End the guard and whoever it has started."""
        children = self.children() if self.process.poll() is None else []
        self.process.kill()
        self.process.wait()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):  # it may just have ended by itself
                os.kill(pid, signal.SIGKILL)
        self._listener.close()
        if self._line:
            self._line.close()

    def children(self) -> list[int]:
        """The pids of its children, zombies included."""
        thread = f"/proc/{self.process.pid}/task/{self.process.pid}"
        return [int(pid) for pid in Path(f"{thread}/children").read_text().split()]

    def desk(self) -> int:
        """The pid of the present desk."""
        return next(pid for pid in self.children() if DESK.encode() in Path(f"/proc/{pid}/cmdline").read_bytes())

    def holds(self, pid: int) -> bool:
        """Whether the guard has a pidfd of a process."""
        for info in Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed while we looked
                if f"Pid:\t{pid}\n" in info.read_text():
                    return True
        return False

    def files(self) -> int:
        """How many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def next_desk(self) -> None:
        """Be the desk that the guard starts next."""
        test, _ = self._listener.accept()
        starts, fds, _, _ = socket.recv_fds(test, 100, 1)
        test.close()
        if self._line:
            self._line.close()
        self._line = socket.socket(fileno=fds[0])
        self.starts, self.seen = int(starts), 0

    def say(self, kind: str, **body: Any) -> None:
        """A message of the desk."""
        self.say_raw(wire.encode(kind, **body))

    def say_raw(self, data: bytes) -> None:
        """Bytes of the desk."""
        assert self._line
        self._line.send(data)

    def hello(self, courier: bool = False) -> None:
        """Be the next desk, and get its welcome."""
        self.next_desk()
        self.say("hello", kill_switch="", courier=courier)
        assert self.hear("welcome")

    def hear(self, kind: str, seconds: float = 10.0) -> bool:
        """Take in messages until one of this kind; whether it came. Events go to `events`."""
        assert self._line
        while select.select([self._line], [], [], seconds)[0]:
            data = self._line.recv(wire.MAX_MESSAGE_BYTES)
            if not data:
                return kind == "end"
            said, body = wire.decode(data)
            if said == "event":
                told = wire.event(body["event"])
                self.events[told.number], self.seen = told, told.number
                said = told.kind
            if said == kind:
                return True
        return False

    def listen(self) -> None:
        """Take in what has come."""
        self.hear("nothing", 0.0)

    def kinds(self, but: str = "") -> list[str]:
        """The kinds of all events so far."""
        return [told.kind for told in self.events.values() if told.kind != but]

    def watch(self, pid: int, target: str = "t") -> None:
        """Have a process held, judged by its anonymous memory."""
        self.say("watch", target=target, identity=list(identify(pid)), basis=ANON)

    def stand(self, **changes: Any) -> None:
        """Put the standing order in force: an aggressive cleanup by SIGUSR1 above 60 MiB."""
        self.say("orders", target="t", orders=[order(**changes)], seen=self.seen, serial=1)
        assert self.hear("applied")


def order(**changes: Any) -> Order:
    """An order with a line at 60 MiB."""
    return Order("o", "t", "aggressive", (USR1,), {"alertname": "A"}, 60.0 * MIB)._replace(**changes)


@pytest.fixture
def played(tmp_path: Path) -> Iterator[Callable[..., Played]]:
    """Start a guard whose desk is played; `played("--", "sleep", "9", SILENCE_SECONDS=1.0)`."""
    started: list[Played] = []

    def start(*arguments: str, **patience: float) -> Played:
        started.append(Played(tmp_path, *arguments, **patience))
        return started[-1]

    yield start
    for each in started:
        each.end()


# the guard


def test_hundred_desks_killed_at_random_cost_no_delivery_and_no_event(
    played: Callable[..., Played], spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """While desk after desk is killed, a growing target is asked at each crossing, once, and every event is heard."""
    handled, dice = tmp_path / "handled", random.Random(7)
    leaky = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(handled), "--rate", "150")
    guard = played(FIRST_PAUSE_SECONDS=0.001, LONGEST_PAUSE_SECONDS=0.001)
    files = 0
    for _ in range(100):
        guard.hello()
        files = files or guard.files()
        guard.watch(leaky.pid)
        guard.stand(again_after_seconds=0.25)
        if dice.random() < 0.5:
            guard.hear("answered", dice.random() / 10)
        if dice.random() < 0.5:
            guard.say("beat", number=guard.seen)
        os.kill(guard.desk(), signal.SIGKILL)
        guard.listen()  # what it had been told when it died
    guard.hello()
    guard.hear("nothing", 0.3)
    leaky.tell("rate 0")
    guard.hear("nothing", 0.3)

    rows = [json.loads(line) for line in handled.read_text().splitlines()]
    told = [event for event in guard.events.values() if event.kind == "delivered"]
    times = [row["monotonic"] for row in rows]
    assert len(told) == len(rows) >= 3
    assert sorted(guard.events) == list(range(1, len(guard.events) + 1))
    assert min(later - sooner for sooner, later in pairwise(times)) > 0.2
    assert guard.starts == 101
    assert guard.files() <= files + 10  # the target's own; those of a hundred desks are gone
    assert len(guard.children()) == 1


def test_desk_that_does_not_know_of_the_last_delivery_does_not_repeat_it(
    played: Callable[..., Played], spawn: Callable[..., Target]
) -> None:
    """What an earlier desk has done with is not told again; its pause is kept all the same, and not for ever."""
    stubborn = spawn("stubborn")
    guard = played()
    guard.hello()
    guard.watch(stubborn.pid)
    stubborn.tell("grow 100")
    guard.stand(again_after_seconds=2.0)
    assert guard.hear("answered")
    guard.say("beat", number=guard.seen)
    os.kill(guard.desk(), signal.SIGKILL)

    guard.hello()
    guard.stand()
    guard.say("deliver", order=order(id="now"), seen=guard.seen)
    assert guard.hear("busy")
    assert guard.kinds().count("crossed") == 1

    wait_until(lambda: (guard.stand(), guard.hear("crossed", 0.1))[1], 10, "the pause to end")


def test_desk_that_dies_again_and_again_is_started_later_each_time_and_that_is_said(
    played: Callable[..., Played]
) -> None:
    """No silent crash loop: each end is a line, with how it came and when the next start is."""
    guard = played()
    for _ in range(3):
        guard.hello()
        os.kill(guard.desk(), signal.SIGKILL)
    guard.next_desk()

    said = guard.log.read_text().splitlines()
    assert [line.split("tried again in ")[1].split(" s")[0] for line in said] == ["0.2", "0.4", "0.8"]
    assert all("the desk was killed by signal 9" in line for line in said)


def test_desk_that_never_says_hello_is_replaced(played: Callable[..., Played]) -> None:
    """At a restart: killed when patience ends, and the next one is welcome."""
    guard = played(START_SECONDS=1.0)
    guard.hello()
    os.kill(guard.desk(), signal.SIGKILL)
    guard.next_desk()
    guard.hello()

    assert guard.starts == 3
    assert "has not been heard of for too long" in guard.log.read_text()


def test_first_desk_that_is_killed_ends_the_command(played: Callable[..., Played]) -> None:
    """With the code of its end, and a word: it could not say why itself."""
    guard = played()
    guard.next_desk()
    os.kill(guard.desk(), signal.SIGKILL)

    assert guard.process.wait(10) == 128 + signal.SIGKILL
    assert "killed by signal 9 before it was ready" in guard.log.read_text()


def test_event_of_which_desk_after_desk_dies_is_given_up() -> None:
    """It must not keep the desk in a crash loop for ever; that it went is counted."""
    record = FlightRecord()
    ours, theirs = wire.pair()
    record.tell("crossed", "t")
    record.tell("gone", "t")
    heard = []
    for _ in range(MOST_TELLINGS + 1):
        record.start_over()
        record.flush(ours)
        heard.append(wire.event(wire.decode(theirs.recv(65536))[1]["event"]).number)
        while wire.receive(theirs) if select.select([theirs], [], [], 0)[0] else b"":
            continue

    assert heard == [1] * MOST_TELLINGS + [2]
    assert record.lost == 1
    ours.close()
    theirs.close()


def test_guard_without_descriptors_or_processes_lives_and_goes_on_when_there_are_some(
    played: Callable[..., Played], spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """EMFILE at a watch is told, at a restart it is said, and neither is the end."""
    leaky = spawn("leaky")
    guard = played()
    guard.hello()
    resource.prlimit(guard.process.pid, resource.RLIMIT_NOFILE, (guard.files(), 4096))
    guard.watch(leaky.pid)
    assert guard.hear("unreadable")
    assert "Too many open files" in guard.events[1].detail["reason"]
    guard.say("keep", file=str(tmp_path / "brake.held"))  # what is needed for that is loaded only now
    assert guard.hear("misunderstood")
    resource.prlimit(guard.process.pid, resource.RLIMIT_NOFILE, (3, 4096))
    os.kill(guard.desk(), signal.SIGKILL)
    wait_until(lambda: "the desk cannot be started: Too many open files" in guard.log.read_text(), 10, "a word")

    resource.prlimit(guard.process.pid, resource.RLIMIT_NOFILE, (4096, 4096))
    guard.hello()
    guard.watch(leaky.pid)
    wait_until(lambda: guard.holds(leaky.pid), 10, "a hold on the process")
    leaky.process.kill()
    assert guard.hear("gone")


@pytest.mark.parametrize("data", [
    b"", b"\xff\xfe", b"[]", b"{}", b'{"v":1}', b'{"v":2,"type":"beat","number":1}', b'{"v":1,"type":"exec"}',
    b"[" * 60000, b'{"v":1,"type":"beat","number":"x"}', b'{"v":1,"type":"beat","number":null}',
    b'{"v":1,"type":"beat"}', b'{"v":1,"type":"hello","kill_switch":7}',
    b'{"v":1,"type":"orders","target":"t","orders":[[]],"seen":0,"serial":1}',
    b'{"v":1,"type":"orders","target":["t"],"orders":[],"seen":0,"serial":1}',
    b'{"v":1,"type":"deliver","order":null,"seen":0}',
    *(wire.encode("orders", target="t", orders=[order(**change)], seen=0, serial=1) for change in (
        {"again_after_seconds": -1.0}, {"valid_seconds": -1e300}, {"times": -5},
        {"channels": (USR1._replace(signal=65),)}, {"channels": (Channel("http", timeout_seconds=1e308),)})),
    b'{"v":1,"type":"orders","target":"t","orders":[["o","t","x",[],{},NaN,false,1,0,0,0,false]],"seen":0,"serial":1}',
    *(wire.encode("watch", target="x", identity=identity, basis=basis) for identity, basis in (
        ([], ANON), (["b", -1, 1, None], ANON), (["b", 2**40, 1, None], ANON), (list(identify(os.getpid())), ["anon"]),
        (list(identify(os.getpid())), ["all", "", "", False]),
        (list(identify(os.getpid())), ["cgroup", "\0", "\0", False]))),
], ids=lambda data: repr(data[:60]))
def test_message_without_sense_is_told_of_and_changes_nothing(
    shared: Played, data: bytes
) -> None:
    """Whatever a desk sends: the guard lives, says that it did not understand, and has leaked nothing."""
    files, before = shared.files(), len(shared.events)
    if data:
        shared.say_raw(data)
        assert shared.hear("misunderstood")
        assert len(shared.events) == before + 1
    shared.say("beat", number=shared.seen)

    assert shared.files() == files
    assert shared.process.poll() is None


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """One guard with its desk for many messages."""
    guard = Played(tmp_path_factory.mktemp("shared"))
    guard.hello()
    yield guard
    guard.end()


def test_target_with_a_name_beyond_measure_is_told_of(shared: Played) -> None:
    """What cannot be told because of its name is told without it."""
    name, nowhere = "é" * 20_000, ["cgroup", "/nowhere/usage", "/nowhere/stat", False]
    shared.say_raw(json.dumps({"v": 1, "type": "watch", "target": name, "identity": list(identify(os.getpid())),
                               "basis": nowhere}, ensure_ascii=False).encode())

    assert shared.hear("misunderstood")
    assert shared.process.poll() is None


def test_guard_does_not_watch_itself_and_leaves_pid_1_alone(shared: Played) -> None:
    """A pidfile may hold any number: ours is refused, that of init is watched and not signalled without a handler."""
    shared.watch(shared.process.pid)
    assert shared.hear("misunderstood")
    assert "is the guard itself" in shared.events[shared.seen].detail["reason"]

    shared.watch(1)
    shared.say("deliver", order=order(line_bytes=None, channels=(USR1._replace(signal=int(signal.SIGSTKFLT)),)), seen=0)
    assert shared.hear("refused")
    shared.say("unwatch", target="t")


def test_target_that_ends_at_the_very_moment_of_delivery(played: Callable[..., Played]) -> None:
    """Its end is told once, and nothing is awaited any more."""
    script = "import os, signal, time; signal.signal(10, lambda *_: os._exit(0)); print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as dying:
        assert dying.stdout
        dying.stdout.readline()
        guard = played()
        guard.hello()
        guard.watch(dying.pid)
        guard.say("deliver", order=order(line_bytes=None), seen=0)
        assert guard.hear("gone")

    assert guard.kinds("answered") == ["crossed", "delivered", "gone"]
    guard.watch(os.getpid())
    guard.say("deliver", order=order(line_bytes=None, dry_run=True), seen=guard.seen)
    assert guard.hear("refused")  # nothing is in flight any more, and we have no handler


SWING = """
import mmap, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("asked", flush=True))
sys.stdin.readline()
for _ in range(50):
    memory = mmap.mmap(-1, 80 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(bytes(70 << 20))
    time.sleep(0.01)
    memory.close()
    time.sleep(0.01)
memory = bytearray(80 << 20)
sys.stdin.readline()
"""


def test_target_that_swings_around_its_line_is_asked_once(played: Callable[..., Played]) -> None:
    """However often it crosses: the pause after the first delivery holds, the rest is for the desk to judge."""
    guard = played()
    guard.hello()
    command = [sys.executable, "-c", SWING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as swinging:
        assert swinging.stdin
        assert swinging.stdout
        guard.watch(swinging.pid)
        guard.stand()
        swinging.stdin.write("\n")
        swinging.stdin.flush()
        assert guard.hear("answered")
        swinging.stdin.write("\n")
        swinging.stdin.flush()
        while swinging.poll() is None:  # on a busy machine that takes longer than a desk may be silent
            guard.say("beat", number=0)
            time.sleep(0.1)
        said = swinging.stdout.read()

    assert guard.hear("gone")
    assert said == "asked\n"
    assert guard.kinds() == ["crossed", "delivered", "answered", "gone"]
    assert guard.events[3].detail["duration_seconds"] >= 0


def test_many_targets_fit_where_few_files_are_allowed_and_a_program_gets_its_own_limit_back(tmp_path: Path) -> None:
    """The usual soft limit of 1024 is raised for the guard, not for the program that it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
    limit = "import resource as r, time; print(r.getrlimit(r.RLIMIT_NOFILE)[0], flush=True); time.sleep(60)"
    try:
        guard = Played(tmp_path, "--", sys.executable, "-c", limit)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        guard.hello()
        for number in range(200):
            guard.watch(os.getpid(), f"t{number}")
        guard.say("deliver", order=order(target="t199", line_bytes=None), seen=0)

        assert guard.hear("refused")
        assert guard.kinds() == ["crossed", "refused"]
        assert guard.files() > 800
        wait_until(lambda: guard.log.read_text() == "256\n", 10, "the program's own limit")
        subprocess.run(["kill", str(guard.children()[-1])], check=True)
    finally:
        guard.end()


def test_courier_that_is_killed_again_and_again_comes_back(
    played: Callable[..., Played], spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """Nothing leaks, and the next POST is carried."""
    requests = tmp_path / "requests"
    leaky = spawn("leaky", "--http", "0", "--requests", str(requests))
    guard = played()
    guard.hello(courier=True)

    def courier() -> int:
        return next((pid for pid in guard.children() if pid != guard.desk()), 0)

    files = 0
    for _ in range(3):
        pid = wait_until(courier, 10, "a courier")
        files = files or guard.files()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda pid=pid: courier() not in (0, pid), 10, "the next courier")
        assert guard.files() == files
    guard.watch(leaky.pid)
    guard.say("deliver", order=order(line_bytes=None, channels=(Channel("http", url=f"{leaky.url}/cleanup"),)), seen=0)

    assert guard.hear("answered")
    assert len(requests.read_text().splitlines()) == 1


def test_pause_of_everything_is_no_silence_of_the_desk(played: Callable[..., Played]) -> None:
    """`docker pause`, a suspended machine: when it goes on, so does the desk."""
    guard = played(SILENCE_SECONDS=1.5, AWAY_SECONDS=1.8)
    guard.hello()
    desk = guard.desk()
    os.kill(guard.process.pid, signal.SIGSTOP)
    time.sleep(2.2)
    os.kill(guard.process.pid, signal.SIGCONT)
    guard.say("beat", number=0)
    guard.watch(1, "x")
    guard.say("unwatch", target="x")
    guard.stand()

    assert guard.desk() == desk
    assert guard.log.read_text() == ""


# signals


def test_signals_in_a_row_during_a_delivery_end_it_once(
    played: Callable[..., Played], spawn: Callable[..., Target]
) -> None:
    """SIGTERM, SIGINT and SIGHUP while an answer is awaited: the desk may finish, then the code is 0."""
    leaky = spawn("leaky", "--http", "0", "--answer", "hang")
    guard = played()
    guard.hello(courier=True)
    wait_until(lambda: len(guard.children()) == 2, 10, "the courier")
    guard.watch(leaky.pid)
    guard.say("deliver", order=order(line_bytes=None, channels=(Channel("http", url=f"{leaky.url}/cleanup"),)), seen=0)
    assert guard.hear("delivered")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        guard.process.send_signal(number)
    assert guard.hear("end")
    assert guard.process.poll() is None  # it waits for the desk's last words
    os.kill(guard.desk(), signal.SIGKILL)

    assert guard.process.wait(10) == 0
    assert guard.log.read_text() == ""


def test_signal_after_the_end_of_the_program_does_not_change_the_code(played: Callable[..., Played]) -> None:
    """The first reason to end is the one that counts."""
    guard = played("--", "sh", "-c", "exit 7")
    guard.hello()
    assert guard.hear("end")
    guard.process.send_signal(signal.SIGTERM)
    guard.process.send_signal(signal.SIGINT)
    os.kill(guard.desk(), signal.SIGKILL)

    assert guard.process.wait(10) == 7


def test_program_is_not_started_when_the_end_came_first(played: Callable[..., Played], tmp_path: Path) -> None:
    """SIGTERM while the desk is still starting: nothing is left running that nobody guards."""
    guard = played("--", "touch", str(tmp_path / "started"))
    guard.next_desk()
    guard.process.send_signal(signal.SIGTERM)
    assert guard.hear("end")
    guard.say("hello", kill_switch="", courier=False)
    guard.say("beat", number=0)
    os.kill(guard.desk(), signal.SIGKILL)

    assert guard.process.wait(10) == 0
    assert not (tmp_path / "started").exists()


def test_hangup_is_ignored_where_it_was_before(played: Callable[..., Played]) -> None:
    """`nohup rag-sidecar run` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        guard = played()
    finally:
        signal.signal(signal.SIGHUP, before)
    guard.hello()
    guard.process.send_signal(signal.SIGHUP)
    guard.watch(1)
    guard.stand()

    assert guard.process.poll() is None
    assert not guard.hear("end", 0.1)


def test_storm_of_orphans_leaves_no_zombie_and_loses_no_exit_code(tmp_path: Path) -> None:
    """As init of a container: five hundred children of the command end at once, then the command does."""
    storm = ("for i in $(seq 500); do (true &) ; done; sleep 0.3; "
             "exit $((10 + $(cat /proc/[0-9]*/stat | grep -c ' Z ')))")
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc",
               sys.executable, "-P", "-m", "sidecar", "run", "--web.listen-address", f"127.0.0.1:{free_port()}",
               "--storage.path", str(tmp_path), "--", "sh", "-c", storm]
    done = subprocess.run(command, capture_output=True, timeout=40, check=False)

    assert done.returncode == 10, done.stderr.decode()


# guard and desk


def test_signal_to_the_whole_group_lets_the_desk_finish(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A service manager sends SIGTERM to every process: the desk still says its last words and is not called killed."""
    leaky = spawn("leaky")
    with running_sidecar(tmp_path, "--pid", str(leaky.pid)) as sidecar:
        for pid in (sidecar.child("desk"), sidecar.process.pid):
            os.kill(pid, signal.SIGTERM)

        assert sidecar.process.wait(20) == 0
        assert "killed" not in sidecar.log.read_text()


@pytest.mark.parametrize("stuck", ["closed", "full"])
def test_terminal_that_takes_nothing_stops_nothing(
    spawn: Callable[..., Target], tmp_path: Path, stuck: str
) -> None:
    """stdin, stdout and stderr closed, or a pipe that is full and never read: watched and acted on all the same."""
    leaky, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for size in (4096, 1):
        while select.select([], [writing], [], 0)[1]:
            try:
                os.write(writing, b"x" * size)
            except BlockingIOError:
                break
    os.set_blocking(writing, True)
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"] if stuck == "closed" else []
    target = {"name": "t", "match": {"pid": leaky.pid}, "memory": LINES, "cleanup": BY_SIGNAL}
    (tmp_path / "sidecar.yml").write_text(config(port, tmp_path, [target]))
    process = subprocess.Popen([*closed, sys.executable, "-P", "-m", "sidecar", "run", "--config.file",
                                str(tmp_path / "sidecar.yml")], stdout=writing, stderr=writing)
    try:
        sidecar = Sidecar(process, port, tmp_path / "sidecar.yml")
        wait_until(sidecar.ready, 20, "the sidecar")
        leaky.tell("grow 300")

        assert sidecar.outcome()["outcome"] == "effective"
        assert sidecar.value("rag_sidecar_desk_starts_total") == 1
        assert sidecar.stop() == 0
    finally:
        process.kill()
        process.wait()
        os.close(reading)
        os.close(writing)


def test_address_taken_while_the_desk_was_dead_stops_only_the_pages(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """The next desk guards without pages, says so once, and serves them again as soon as it can."""
    leaky, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    target = {"name": "t", "match": {"pid": leaky.pid}, "memory": LINES, "cleanup": BY_SIGNAL}
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        first = sidecar.child("desk")
        os.kill(first, signal.SIGSTOP)
        os.kill(first, signal.SIGKILL)
        with wait_until(lambda: listener(port), 10, "the port"):
            wait_until(lambda: "no pages are served" in sidecar.log.read_text(), 20, "a word")
            leaky.tell("grow 300")
            wait_until(lambda: leaky.tell("grow 0") < 200 * MIB, 10, "the cleanup")
        wait_until(sidecar.ready, 20, "the pages")

        assert sidecar.outcome()["outcome"] == "effective"
        assert sidecar.value("rag_sidecar_desk_starts_total") == 2
        assert sidecar.log.read_text().count("no pages are served") == 1


def listener(port: int) -> socket.socket | None:
    """A program on this port; None while another one has it."""
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError:
        return None


SET_CLOCK = """
import os, time
real = time.time
def offset():
    try:
        return float(open(os.environ["CLOCK"]).read())
    except (OSError, ValueError):
        return 0.0
time.time = lambda: real() + offset()
"""


def test_clock_that_is_set_back_costs_one_start_and_no_protection(
    spawn: Callable[..., Target], tmp_path: Path
) -> None:
    """An hour back: the desk starts anew, instead of waiting an hour for its own samples, and acts as before."""
    leaky, port = spawn("leaky", "--handle", "SIGUSR1"), free_port()
    (tmp_path / "sitecustomize.py").write_text(SET_CLOCK)
    target = {"name": "t", "match": {"pid": leaky.pid}, "memory": LINES, "cleanup": BY_SIGNAL}
    env = {"PYTHONPATH": str(tmp_path), "CLOCK": str(tmp_path / "clock")}
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port, env=env) as sidecar:
        (tmp_path / "clock").write_text("-3600")
        wait_until(lambda: "the clock was set back by" in sidecar.log.read_text(), 10, "a word")
        wait_until(sidecar.ready, 20, "the next desk")
        leaky.tell("grow 300")

        assert sidecar.outcome()["outcome"] == "effective"
        assert sidecar.value("rag_sidecar_desk_starts_total") == 2
