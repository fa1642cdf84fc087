"""What happens while an order is on its way: the process ends, becomes another program, or its number another's."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target, read_line, wait_until
from guarding import ANON, Hands, running_courier

from sidecar.guard.wire import Channel
from sidecar.procfs import identify


@pytest.fixture
def hands() -> Iterator[Hands]:
    """A guard without a desk."""
    made = Hands()
    yield made
    made.close()


RECYCLED = """
import os, signal, sys, time
sys.path[:0] = sys.argv[1:3]
from guarding import ANON, Hands
from sidecar.procfs import identify

PID = 700

def started(code):
    with open("/proc/sys/kernel/ns_last_pid", "w") as file:
        file.write(str(PID - 1))
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        exec(code)
        os.write(writes, b"x")
        while True:
            time.sleep(1)
    os.read(reads, 1)
    assert pid == PID, pid

def end():
    os.kill(PID, signal.SIGKILL)
    os.waitpid(PID, 0)

hands = Hands()
started("signal.signal(signal.SIGUSR1, lambda *_: None); held = bytearray(80 << 20)")
first = identify(PID)
hands.watchlist.watch("t", list(first), ANON)
hands.stand(line_bytes=200.0 * (1 << 20))
hands.turn()
end()
marker = sys.argv[3]
started(f"signal.signal(signal.SIGUSR1, lambda *_: open({marker!r}, 'w').close()); held = bytearray(300 << 20)")
hands.deliver(line_bytes=None)  # before the guard has looked: the order is for the process that was
hands.until("gone")
hands.watchlist.watch("u", list(first), ANON)
hands.watchlist.watch("t", list(first), ANON)
hands.stand(line_bytes=1.0)
hands.deliver(line_bytes=None)
for _ in range(50):
    hands.turn()
assert identify(PID).start_time_ticks != first.start_time_ticks
print(*hands.kinds())
end()
"""


def test_process_that_got_the_number_of_a_dead_one_is_never_signalled(tmp_path: Path, checkout: Path) -> None:
    """The kernel is made to give the target's number to another process, which is over the line and has a handler."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    probe = subprocess.run([*inside, "sh", "-c", "echo 698 > /proc/sys/kernel/ns_last_pid"], capture_output=True,
                           text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no pid namespace whose numbers can be chosen may be made here: {probe.stderr.strip()}")
    marker = tmp_path / "signalled"
    command = [sys.executable, "-c", RECYCLED, str(checkout), str(checkout / "tests"), str(marker)]
    done = subprocess.run([*inside, *command], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    kinds = done.stdout.split()
    assert "delivered" not in kinds
    assert "crossed" not in kinds
    assert {"gone", "changed", "refused"} <= set(kinds)
    assert not marker.exists()


BUSY = """
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: open(sys.argv[1], "a").write("x"))
held = bytearray(100 << 20)
print("ready", flush=True)
n = int(sys.stdin.readline())
print("busy", flush=True)
sum(range(n))  # one call in C: Python's handler waits for its end
print("back", flush=True)
sys.stdin.readline()
"""


def processor_ticks(pid: int) -> int:
    """How long a process has run, in ticks of the kernel's clock."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return int(user) + int(system)


def test_handler_that_comes_late_is_awaited_and_not_called_twice(hands: Hands, tmp_path: Path) -> None:
    """Python runs handlers between calls: the signal is taken by the kernel's account, and sent once."""
    marker = tmp_path / "handled"
    process = subprocess.Popen([sys.executable, "-c", BUSY, str(marker)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    try:
        assert process.stdin
        assert read_line(process, "ready") == "ready"
        process.stdin.write(b"200000000\n")  # some seconds
        process.stdin.flush()
        assert read_line(process, "busy") == "busy"
        begun = processor_ticks(process.pid)
        wait_until(lambda: processor_ticks(process.pid) > begun + 10, 10, "it to be in the middle of the call")
        hands.watchlist.watch("t", list(identify(process.pid)), ANON)
        hands.stand(times=5, again_after_seconds=300.0)
        hands.until("answered")
        assert not marker.exists()
        for _ in range(20):
            hands.turn()
        assert read_line(process, "the end of the call") == "back"
        wait_until(lambda: (hands.turn(), marker.exists())[1], 5, "the handler")

        assert hands.kinds() == ["crossed", "delivered", "answered"]
        assert marker.read_text() == "x"
    finally:
        process.kill()
        process.communicate()


def test_signal_that_is_blocked_is_answered_when_it_is_taken(hands: Hands, tmp_path: Path) -> None:
    """While it is pending the delivery is in flight: no second one is begun, whatever is ordered."""
    code = ("import signal, sys\nsignal.signal(10, lambda *_: open(sys.argv[1], 'a').write('x'))\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [10])\nheld = bytearray(100 << 20)\nprint('ready', flush=True)\n"
            "sys.stdin.readline()\nsignal.pthread_sigmask(signal.SIG_UNBLOCK, [10])\nsys.stdin.readline()")
    marker = tmp_path / "handled"
    process = subprocess.Popen([sys.executable, "-c", code, str(marker)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE)
    try:
        assert process.stdin
        assert read_line(process, "ready") == "ready"
        hands.watchlist.watch("t", list(identify(process.pid)), ANON)
        hands.stand(again_after_seconds=0.0, times=9)
        hands.until("delivered")
        hands.deliver(id="second")
        for _ in range(20):
            hands.turn()
        assert hands.kinds() == ["crossed", "delivered", "busy"]
        hands.watchlist.stand("t", [], 10**6)
        process.stdin.write(b"\n")
        process.stdin.flush()
        hands.until("answered")
        wait_until(marker.exists, 5, "the handler")

        assert marker.read_text() == "x"
    finally:
        process.kill()
        process.communicate()


def test_process_that_ends_while_it_is_asked_is_told_as_gone(hands: Hands, spawn: Callable[..., Target]) -> None:
    """Nothing more is awaited or sent; what the endpoint says afterwards is about nobody."""
    target = spawn("leaky", "--handle", "SIGUSR1", "--http", "0", "--answer", "hang")
    hands.watch(target)
    target.tell("grow 100")
    with running_courier(hands):
        hands.deliver(channels=(Channel("http", url=f"{target.url}/cleanup"), Channel("signal", signal=10)))
        hands.until("delivered")
        target.process.kill()
        hands.until("gone")
        for _ in range(20):
            hands.turn()

    assert hands.kinds() == ["crossed", "delivered", "gone"]
    assert not hands.deliveries.in_flight("t")


EXEC = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        os.execv(sys.argv[1], [sys.argv[1], "-c", "import signal, time; signal.signal(10, print); "
                 "x = bytearray(90 << 20); print('exchanged', flush=True); time.sleep(60)"])
held = bytearray(90 << 20)
server = HTTPServer(("127.0.0.1", 0), Server)
print(server.server_port, flush=True)
server.serve_forever()
"""


def test_program_that_is_exchanged_while_it_is_asked_gets_no_second_channel(hands: Hands, tmp_path: Path) -> None:
    """The POST made it another program: the signal that would have been next is not sent to that one."""
    other = tmp_path / "python"
    other.write_bytes(Path(sys.executable).resolve().read_bytes())
    other.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", EXEC, str(other)], stdout=subprocess.PIPE,
        env={"PYTHONHOME": sys.base_prefix, "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"})
    try:
        port = int(read_line(process, "the port"))
        hands.watchlist.watch("t", list(identify(process.pid)), ANON)
        with running_courier(hands):
            post = Channel("http", url=f"http://127.0.0.1:{port}/cleanup")
            hands.deliver(channels=(post, Channel("signal", signal=int(signal.SIGUSR1))))
            hands.until("failed")
            refused = hands.until("refused")

        assert refused.detail["reason"] == "changed"
        assert hands.kinds().count("delivered") == 1
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()
