"""The command `profile`: which lines allocate, asked of the agent in a process."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Target
from servers import end, free_port
from sidecars import config, running_sidecar

from sidecar.attach.debugger import Refused
from sidecar.attach.injection import Patient
from sidecar.attach.profile import Site, profile
from sidecar.clock import monotonic
from sidecar.guard.children import with_agent

GROWS = """
import time
kept = []
def remember():
    kept.append(bytes(200_000))
print("ready", flush=True)
while True:
    remember()
    time.sleep(0.01)
"""


@pytest.fixture
def grows(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that grows by some 20 MB a second, in line 5 of grows.py, with an agent inside."""
    (tmp_path / "grows.py").write_text(GROWS)
    env = with_agent({**os.environ, "RAG_SIDECAR_AGENT_DIR": str(tmp_path)})
    process = subprocess.Popen([sys.executable, str(tmp_path / "grows.py")], env=env, stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    yield process
    end(process)
    process.stdout.close()


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command as a user types it."""
    command = [sys.executable, "-P", "-m", "sidecar", "profile", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)


def test_the_line_that_grows_comes_first(grows: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """What was allocated and kept meanwhile is told by line, the most first, and the cost is warned of."""
    done = run("--pid", str(grows.pid), "--seconds", "1", "--directory", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "grows.py:5" in done.stdout.splitlines()[0]
    assert "MiB" in done.stdout.splitlines()[0]
    assert "several times slower" in done.stderr


def test_tracing_ends_with_the_look(grows: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """A second look sees only what came since, and JSON is what the agent told."""
    arguments = ("--pid", str(grows.pid), "--seconds", "1", "--directory", str(tmp_path), "-o", "json")
    looks = [json.loads(run(*arguments).stdout) for _ in range(2)]

    assert [look["tracing"] for look in looks] == [False, False]
    assert all(look["sites"][0]["size_bytes"] < 100_000_000 for look in looks)


def test_target_of_a_sidecar_is_found_by_its_name(grows: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    """A running sidecar says which process a target is; names that it does not have are answered with those it has."""
    port = free_port()
    target = {"name": "web", "match": {"pid": grows.pid}, "agent": {"directory": str(tmp_path)}}
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", [target]), port=port):
        place = ("--storage.path", str(tmp_path / "state"), "--directory", str(tmp_path), "--seconds", "1")
        named, only, other = (run(*name, *place) for name in (("--target", "web"), (), ("--target", "x")))

    assert "grows.py:5" in named.stdout
    assert "grows.py:5" in only.stdout
    assert other.returncode == 1
    assert "those there are: web" in other.stderr


def test_process_without_an_agent_is_refused(spawn: Callable[..., Target]) -> None:
    """No agent: the message names the ways to get one in."""
    done = run("--pid", str(spawn("stubborn").pid))

    assert done.returncode == 1
    assert "no agent answers in it" in done.stderr
    assert "rag-sidecar attach" in done.stderr
    assert "slower" not in done.stderr


@pytest.mark.parametrize(("arguments", "said"), [
    (["--pid", "4194001"], "there is no process 4194001"), (["--pid", "1", "--seconds", "61"], "1 to 60"),
    (["--storage.path", "/nowhere"], "no sidecar listens")])
def test_mistakes_are_told(arguments: list[str], said: str) -> None:
    """What was tried, on what, and what to do instead."""
    done = run(*arguments)

    assert done.returncode == 1
    assert said in done.stderr


ODD: dict[str, Any] = {
    "no JSON": b"{", "a list": b"[]", "nothing of tracemalloc": b'{"tracemalloc": 3}',
    "odd sites": json.dumps({"tracemalloc": {"sites": [
        3, {"site": 4, "size_bytes": "x"}, {"site": "\x1b[31m" + "a" * 999, "size_bytes": 1 << 20, "blocks": 2},
        *({"site": "b", "size_bytes": 1, "blocks": True} for _ in range(9))] * 1000}}).encode()[:60000],
    "sites": json.dumps({"tracemalloc": {"sites": [{"site": "\x1b[31m" + "a" * 999, "size_bytes": 7, "blocks": 2}, 3],
                                         "cut_short": ["x"]}}).encode(),
}


@pytest.mark.parametrize("body", ODD.values(), ids=ODD)
def test_odd_agents_are_not_believed(body: bytes, tmp_path: Path) -> None:
    """Whatever listens there and answers: a refusal, or lines that are short and printable."""
    folder = tmp_path / f"rag-sidecar-{os.geteuid()}"
    folder.mkdir(0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / f"{os.getpid()}.sock"))
        (folder / f"{os.getpid()}.sock").chmod(0o600)
        listening.listen()

        def answer() -> None:
            line, _ = listening.accept()
            with line:
                while line.recv(4096):
                    line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        answering = threading.Thread(target=answer)
        answering.start()
        patient = Patient(os.getpid())
        try:
            said = [*profile(patient, 1, monotonic, lambda _: None, str(tmp_path)).sites]
        except Refused as refused:
            said = [Site(str(refused), 0, 0)]
        finally:
            patient.close()
            answering.join()

    assert all(site.place.isprintable() and len(site.place) <= 120 for site in said)
    assert len(said) <= 30
