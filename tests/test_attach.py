"""`attach` and `export agent`: the agent into running Pythons, refusals in words, and nothing left behind."""

import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agent_apps import Client
from conftest import wait_until
from pythons import Interpreter, installed, wanted
from servers import end, free_port

from sidecar.attach import payload
from sidecar.attach.debugger import SECTION, Refused, find
from sidecar.attach.payload import pieces, placed
from sidecar.errors import SidecarError
from sidecar.probes.gc_layouts import COOKIE, PUBLISHED

Start = Callable[..., "subprocess.Popen[bytes]"]
COMMAND = [sys.executable, "-P", "-m", "sidecar"]
BUSY = "import sys\nprint('ready', flush=True)\nwhile True: pass"
BLOCKED = "import signal\nprint('ready', flush=True)\nwhile True: signal.pause()"


@pytest.fixture(scope="module")
def newer() -> Interpreter:
    """CPython 3.14."""
    return wanted("3.14")


@pytest.fixture
def start(newer: Interpreter) -> Iterator[Start]:
    """Start a program in CPython 3.14: `start(arguments…, **environment)`; it says `ready`."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, **environment: str) -> "subprocess.Popen[bytes]":
        home = {"PYTHONHOME": newer.home} if newer.home else {}
        process = subprocess.Popen([*newer.command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   env={**os.environ, **home, **environment})
        started.append(process)
        assert process.stdout
        assert process.stdout.readline().startswith(b"ready")
        return process

    yield run
    for process in started:
        end(process)
        for stream in (process.stdout, process.stderr):
            assert stream
            stream.close()


def attach(pid: int, *arguments: str, **popen: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user types it."""
    return subprocess.run([*COMMAND, "attach", str(pid), *arguments], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=90, check=False, **popen)


def agent_of(pid: int) -> dict[str, Any]:
    """What the agent in this process says of itself."""
    with Client(Path(f"/tmp/rag-sidecar-{os.geteuid()}/{pid}.sock")) as client:
        return client.ask("GET", "/").body


def left_behind(said: str) -> bool:
    """Whether the folder that the command spoke of is still there."""
    (script,) = re.findall(r"(/\S+)/start\.py", said)
    return os.path.exists(script)


def test_busy_program_gets_the_agent(start: Start) -> None:
    """A program whose main thread computes runs the agent within moments, and carries out its orders."""
    process = start("-c", BUSY)
    done = attach(process.pid, "--yes")

    assert (done.returncode, done.stderr) == (0, "")
    assert "the agent answers" in done.stdout
    assert agent_of(process.pid)["signals"] == {}
    with Client(Path(f"/tmp/rag-sidecar-{os.geteuid()}/{process.pid}.sock")) as client:
        assert client.ask("POST", "/cleanup", {"level": "standard"}).body["outcome"] == "done"
    assert not left_behind(done.stdout)


def test_second_time_changes_nothing(start: Start) -> None:
    """Where an agent answers already nothing is done, and that is no failure."""
    process = start("-c", BUSY)
    first, second, third = attach(process.pid, "--yes"), attach(process.pid), attach(process.pid, "-o", "json")

    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(third.stdout) == {"status": "success", "pid": process.pid, "was_there": True}
    assert "already" in second.stdout


def test_server_under_load_answers_every_request(start: Start, checkout: Path) -> None:
    """While the agent is put in no request fails; afterwards `__main__` and the handlers of signals are as before."""
    port = free_port()
    process = start(str(checkout / "tests" / "targets" / "serving.py"), str(port))
    url = f"http://127.0.0.1:{port}/"
    answers: list[Any] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            with urllib.request.urlopen(url, timeout=10) as answer:
                answers.append(json.load(answer))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        wait_until(lambda: answers, 20, "an answer")
        done = attach(process.pid, "--yes")
        count = len(answers)
        wait_until(lambda: len(answers) > count + 10 or not asking.is_alive(), 20, "more answers")
    finally:
        over.set()
        asking.join()

    assert done.returncode == 0, done.stderr
    assert len(answers) > count
    assert answers[-1]["names"] == answers[0]["names"]
    assert answers[-1]["handler"] == answers[0]["handler"]
    assert len(answers[-1]["threads"]) == len(answers[0]["threads"]) + 1


def test_program_that_waits_is_explained_and_left_as_it_was(start: Start) -> None:
    """A main thread that runs no Python: the command says so in time, and takes everything back."""
    process = start("-c", BLOCKED)
    done = attach(process.pid, "--yes", "--timeout", "1")

    assert done.returncode == 4
    assert "has run no Python" in done.stderr
    assert "taken back" in done.stderr
    assert "--poke URL" in done.stderr
    assert not left_behind(done.stdout)
    process.send_signal(signal.SIGCONT)
    process.terminate()  # now it looks: there must be nothing to run
    assert process.wait(20) == -signal.SIGTERM
    assert process.stderr
    assert process.stderr.read() == b""


def test_program_that_waits_for_requests_is_poked(start: Start, checkout: Path) -> None:
    """A server that waits in the kernel gets the agent when it is asked for something meanwhile."""
    port = free_port()
    process = start(str(checkout / "tests" / "targets" / "serving.py"), str(port))
    done = attach(process.pid, "--yes", "--poke", f"http://127.0.0.1:{port}/")

    assert done.returncode == 0, done.stderr
    assert agent_of(process.pid)["python"].startswith("3.14")


@pytest.mark.parametrize(("arguments", "environment"), [
    (["-X", "disable-remote-debug"], {}), ([], {"PYTHON_DISABLE_REMOTE_DEBUG": "1"})], ids=["option", "variable"])
def test_program_that_takes_in_no_code_is_refused(
        start: Start, arguments: list[str], environment: dict[str, str]) -> None:
    """Where remote debugging is switched off nothing is written, and the other ways are named."""
    done = attach(start(*arguments, "-c", BUSY, **environment).pid, "--yes")

    assert done.returncode == 4
    assert "disable-remote-debug" in done.stderr
    assert "rag-sidecar run -- COMMAND" in done.stderr


@pytest.mark.parametrize("interpreter", [each for each in installed((3, 9)) if each.version < (3, 14)], ids=str)
def test_older_pythons_are_refused(interpreter: Interpreter) -> None:
    """Up to 3.13 there is no way in: the message says what to do instead."""
    with subprocess.Popen([*interpreter.command, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        done = attach(process.pid, "--yes")
        process.kill()

    assert done.returncode == 4
    assert "only 3.14 and later" in done.stderr
    assert "rag-sidecar export agent DIR" in done.stderr


def test_what_is_no_python_is_refused() -> None:
    """A program that is none, and a number that no process has."""
    with subprocess.Popen(["sleep", "60"]) as process:
        done = attach(process.pid, "--yes")
        process.kill()

    assert (done.returncode, "it is no CPython" in done.stderr) == (4, True)
    gone = attach(process.pid, "--yes")
    assert (gone.returncode, f"there is no process {process.pid}" in gone.stderr) == (4, True)


def test_program_that_ends_meanwhile_is_told(start: Start) -> None:
    """The program ends while its main thread is waited for: said at once, and nothing is left."""
    process = start("-c", BLOCKED)
    with subprocess.Popen([*COMMAND, "attach", str(process.pid), "--yes"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as attaching:
        assert attaching.stdout
        told = attaching.stdout.readline()
        process.kill()
        process.wait()
        said = attaching.communicate(timeout=30)[1]

    assert attaching.returncode == 4
    assert "has ended" in said
    assert not left_behind(told)


def test_interrupted_command_leaves_nothing(start: Start) -> None:
    """Ctrl-C while it waits takes the request back."""
    process = start("-c", BLOCKED)
    with subprocess.Popen([*COMMAND, "attach", str(process.pid), "--yes"], stdout=subprocess.PIPE) as attaching:
        assert attaching.stdout
        told = attaching.stdout.readline().decode()
        attaching.send_signal(signal.SIGINT)
        attaching.communicate(timeout=30)

    assert attaching.returncode == 130
    assert not left_behind(told)
    process.terminate()
    assert process.wait(20) == -signal.SIGTERM
    assert process.stderr
    assert process.stderr.read() == b""


def test_without_a_yes_nothing_is_done(start: Start) -> None:
    """Nobody is there to be asked: --yes is asked for, and no agent is started."""
    process = start("-c", BUSY)
    done = attach(process.pid)

    assert done.returncode == 1
    assert "this runs code in process" in done.stderr
    assert "--yes" in done.stderr
    with pytest.raises(FileNotFoundError):
        agent_of(process.pid)


@pytest.mark.parametrize(("answer", "code"), [("n", 4), ("", 4), ("y", 0)])
def test_person_is_asked_first(start: Start, answer: str, code: int) -> None:
    """At a terminal the command names process and user, and does nothing unless the answer is yes."""
    process = start("-c", BUSY)
    ours, theirs = pty.openpty()
    try:
        asking = subprocess.Popen([*COMMAND, "attach", str(process.pid)], stdin=theirs, stdout=theirs, stderr=theirs)
        os.write(ours, f"{answer}\n".encode())
        said = b""
        while asking.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                said += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)

    assert asking.returncode == code, said
    assert f"this runs code in process {process.pid}".encode() in said
    assert b"go on? [y/N]" in said
    with suppress(FileNotFoundError):
        assert bool(agent_of(process.pid)) == (code == 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_process_of_another_user_is_refused(start: Start, checkout: Path) -> None:
    """Who may not write into the process is told so, and where to look for what is missing."""
    process = start("-c", BUSY)
    drop = ("import os, runpy, sys; sys.path.insert(0, sys.argv.pop(1)); import sidecar.cli, sidecar.cli_agent\n"
            "import sidecar.attach.injection, sidecar.explain.seen\n"
            "os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(sidecar.cli.main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", drop, str(checkout), "attach", str(process.pid), "--yes"],
                          capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 4, done.stderr
    assert "may not be written to" in done.stderr
    assert f"rag-sidecar doctor --pid {process.pid}" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give up a capability of it")
def test_root_is_told_each_capability_that_writing_needs() -> None:
    """Root that may look into every process, and may not open another user's files, learns what else it needs."""
    target = subprocess.Popen(["sleep", "60"], user=65534, group=65534, extra_groups=[])
    without = ("import ctypes, os, sys\nPR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1\n"
               "assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0\n"
               "os.execv(sys.argv[1], sys.argv[1:])")
    try:
        done = subprocess.run([sys.executable, "-c", without, *COMMAND, "attach", str(target.pid), "--yes"],
                              capture_output=True, text=True, timeout=60, check=False)
    finally:
        end(target)

    assert done.returncode == 4, done.stderr
    assert "may not be written to" in done.stderr
    assert "root with CAP_SYS_PTRACE and CAP_DAC_OVERRIDE" in done.stderr


def fake_root(tmp_path: Path) -> Path:
    """A folder of /proc with one process, whose root is a folder of ours."""
    root = tmp_path / "proc" / "7" / "root"
    root.mkdir(parents=True)
    return root


def test_files_are_put_where_nobody_can_exchange_them(tmp_path: Path) -> None:
    """Links and folders that others may change are passed over; what was made is readable, and gone afterwards."""
    root = fake_root(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (root / "tmp").symlink_to(tmp_path / "elsewhere")
    (root / "dev" / "shm").mkdir(parents=True)
    (root / "dev" / "shm").chmod(0o777)
    (root / "var" / "tmp").mkdir(parents=True)
    (root / "var" / "tmp").chmod(0o1777)
    with placed(7, str(tmp_path / "proc")) as script:
        assert script.startswith("/var/tmp/rag-sidecar-start-")
        found = root / script[1:]
        assert (found.stat().st_mode & 0o777, found.parent.stat().st_mode & 0o777) == (0o644, 0o755)
        assert (found.parent / "agent.py").read_bytes() == payload.AGENT.read_bytes()

    assert list((root / "var" / "tmp").iterdir()) == []
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_root_without_a_place_is_refused(tmp_path: Path) -> None:
    """No folder that may be written to: the message says what was tried."""
    fake_root(tmp_path)
    with pytest.raises(Refused, match="there is no place"), placed(7, str(tmp_path / "proc")):
        pass


def test_pieces_are_the_whole_agent() -> None:
    """The agent is compiled in pieces that make up the whole file, none of them much longer than a page."""
    source = payload.AGENT.read_text()
    found = pieces(source)
    lines = source.splitlines(keepends=True)

    assert "".join("".join(lines[first:last]) for first, last in found) == source
    assert max(last - first for first, last in found) <= 300
    for first, last in found:
        compile("\n" * first + "".join(lines[first:last]), "agent.py", "exec")


class Lies:
    """The memory of a stranger: a table of offsets at 4096, and words by chance everywhere else."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        size = PUBLISHED[14].size
        words = [chance.choice((0, 8, 72, 4096, 1 << 20, 1 << 40, (1 << 64) - 1, chance.getrandbits(64)))
                 for _ in range(size // 8)]
        block = bytearray(struct.pack(f"<{len(words)}Q", *words))
        if chance.random() < 0.9:
            block[:16] = COOKIE + struct.pack("<Q", 0x030E08F0)
            struct.pack_into("<Q", block, 16, 0)
        if chance.random() < 0.8:
            struct.pack_into("<Q", block, 48, chance.choice((0, 9000, 1 << 40)))
            struct.pack_into("<Q", block, 176, chance.choice((0, 900, 1 << 40)))
            numbers = (chance.choice((0, 24, 304, 512, 1 << 50)) for _ in range(6))
            SECTION.pack_into(block, size - SECTION.size, *numbers)
        self._block = bytes(block)

    def read(self, address: int, size: int) -> bytes:
        """Whatever it likes."""
        assert 0 <= size <= 4096
        if not 0 < address < 1 << 63:
            raise ValueError("no address")
        if address == 4096:
            return self._block[:size]
        return self._chance.choice((bytes(size), self._chance.randbytes(size), b"\1" + bytes(size - 1)))


def test_offsets_of_a_stranger_are_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a program publishes, the answer is a refusal in words or places within its thread's state."""
    chance = random.Random(14)

    class Image:
        """One that has the symbol."""

        def __init__(self, *_: object) -> None:
            pass

        def symbol(self, _: bytes) -> int:
            """Where the table lies."""
            return 4096

    monkeypatch.setattr("sidecar.probes.gc_attach.images", lambda *_: [(1, b"python3.14")])
    monkeypatch.setattr("sidecar.probes.gc_attach.Image", Image)
    monkeypatch.setattr("sidecar.attach.debugger.version_of", lambda *_: (14, "3.14.8"))
    for _ in range(3000):
        with suppress(SidecarError, BlockingIOError):
            found = find(Lies(chance), 7, 7)  # type: ignore[arg-type]
            assert 64 <= found.path_bytes <= 4096


def test_agent_is_exported_with_its_page(tmp_path: Path) -> None:
    """The file that is written is the agent, works by itself, and is not overwritten by another one unasked."""
    command = [*COMMAND, "export", "agent", str(tmp_path / "a" / "b")]
    first, again = (subprocess.run(command, capture_output=True, text=True, timeout=60, check=True) for _ in range(2))
    copy = tmp_path / "a" / "b" / "agent.py"

    assert (first.stdout.count("written"), again.stdout.count("there already")) == (2, 2)
    assert copy.read_bytes() == payload.AGENT.read_bytes()
    assert "agent.start()" in (copy.parent / "README.md").read_text()
    ran = subprocess.run([sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(copy.parent)!r})\n"
                          "import agent; agent.start(); agent.stop(); print('fine')"], capture_output=True, text=True,
                         timeout=60, check=True)
    assert (ran.stdout, ran.stderr) == ("fine\n", "")

    copy.write_text("# mine\n")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert copy.read_text() == "# mine\n"
    subprocess.run([*command, "--force"], capture_output=True, timeout=60, check=True)
    assert copy.read_bytes() == payload.AGENT.read_bytes()


def test_export_to_where_nothing_may_be_written(tmp_path: Path) -> None:
    """A path that leads through a file: what was tried, and why it failed."""
    (tmp_path / "file").touch()
    done = subprocess.run([*COMMAND, "export", "agent", str(tmp_path / "file" / "x")], capture_output=True, text=True,
                          timeout=60, check=False)

    assert done.returncode == 1
    assert "cannot write" in done.stderr
