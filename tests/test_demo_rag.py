"""The demo RAG, run for real: a child process on a free port, asked over HTTP and by signals."""

import gc
import http.client
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import procfs
from sidecar.demo.assistant import Assistant
from sidecar.demo.cleanup import Cleaner
from sidecar.demo.corpus import documents, passages, sentences
from sidecar.demo.search import DIMENSIONS, CosineIndex
from sidecar.demo.server import RagServer

MIB = 1024 * 1024
ROOT = Path(__file__).parent.parent
PATIENCE_SECONDS = 20.0


class Child:
    """One running demo RAG. Lives as long as a test."""

    def __init__(self, process: "subprocess.Popen[str]", log: Path) -> None:
        assert process.stdout is not None
        self.process = process
        self.log = log
        ready = process.stdout.readline()
        word, self.url, _, pid = ready.split() if ready else ("", "", "", "0")
        assert word == "ready", f"no ready line: {ready!r}, log: {log.read_text()}"
        self.pid = int(pid)
        self.address = self.url.removeprefix("http://")

    def request(self, method: str, path: str, body: str | bytes | None = None) -> tuple[int, Any]:
        """(status, decoded JSON) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_SECONDS)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def ask(self, question: str, session: str = "test") -> Any:
        """The JSON answer to a question."""
        status, answer = self.request("GET", "/query?" + urlencode({"q": question, "session": session}))
        assert status == 200
        return answer

    def memory(self) -> Any:
        """GET /memory."""
        return self.request("GET", "/memory")[1]

    def anon_bytes(self) -> int:
        """RssAnon, seen from outside."""
        return procfs.status_field(Path(f"/proc/{self.pid}/status").read_bytes(), b"RssAnon")

    def fill(self, added_bytes: int) -> int:
        """Ask new questions until RssAnon has grown by `added_bytes`; returns the growth."""
        before = self.anon_bytes()
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_SECONDS)
        for number in itertools.count():
            question = urlencode({"q": f"What is memory like with {number * 7919} workers?", "session": number % 5})
            connection.request("GET", f"/query?{question}")
            connection.getresponse().read()
            if self.anon_bytes() - before >= added_bytes:
                break
        connection.close()
        return self.anon_bytes() - before


@contextmanager
def running(tmp_path: Path, *options: str, cwd: Path = ROOT, python: tuple[str, ...] = ()) -> Iterator[Child]:
    """A demo RAG on a free port, ended with the block."""
    log = tmp_path / "rag.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *python, "-m", "sidecar.demo.rag", "--port", "0", *options],
            stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=cwd,
        )
    try:
        yield Child(process, log)
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for `condition`; fails if it has not come true in a long time."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def rag(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """One child for the tests that only ask."""
    with running(tmp_path_factory.mktemp("rag")) as child:
        yield child


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Child]:
    """A child of the test's own, with nothing in its memory yet."""
    with running(tmp_path) as child:
        yield child


@pytest.mark.parametrize(("question", "subject", "fact"), [
    ("What is the OOM killer?", "the-oom-killer", "ends a process when memory is exhausted"),
    ("How do I measure the resident set size?", "resident-set-size", "VmRSS in /proc/PID/status"),
    ("what goes wrong with signal handlers", "signal-handlers", "takes a lock"),
    ("How can I fix problems with the semantic cache?", "the-semantic-cache", "least recently used half"),
    ("Why did my container exit with status 137?", "the-oom-killer", "128 plus SIGKILL"),
])
def test_a_question_is_answered_from_the_document_about_it(
    rag: Child, question: str, subject: str, fact: str
) -> None:
    """The best source is about the subject that was asked for, and the answer says the fact."""
    answer = rag.ask(question)

    assert answer["sources"][0]["document"].startswith(subject)
    assert fact in answer["answer"]


def test_an_unknown_subject_gets_no_invented_answer(rag: Child) -> None:
    """A question that no document answers says so and names no source."""
    answer = rag.ask("Who won the bicycle race in Normandy?")

    assert answer["sources"] == []
    assert answer["answer"].startswith("None of the documents")


def test_the_cache_answers_what_means_the_same(rag: Child) -> None:
    """A reworded question comes from the cache with the same answer, another question does not."""
    first = rag.ask("What is memory pressure?", "one")
    reworded = rag.ask("please tell me what MEMORY PRESSURE is!", "two")
    other = rag.ask("What is heap fragmentation?", "two")

    assert (first["cached"], reworded["cached"], other["cached"]) == (False, True, False)
    assert reworded["answer"] == first["answer"] != other["answer"]


def test_memory_is_reported_as_the_kernel_sees_it(rag: Child) -> None:
    """/memory says RssAnon, counts entries and sessions, and gives bytes and MB of the same thing."""
    rag.ask("What is swap?", "a session seen by nobody else")
    memory = rag.memory()

    assert memory["anon_bytes"] == pytest.approx(rag.anon_bytes(), rel=0.1)
    assert memory["memory_mb"] == pytest.approx(memory["rss_bytes"] / MIB, abs=0.1)
    assert memory["cache"]["entries"] > 0
    assert memory["cache"]["bytes"] > 0
    assert memory["conversations"]["sessions"] > 0
    assert memory["status"] == "normal"


@pytest.mark.parametrize(("method", "path", "body", "status", "reason"), [
    ("GET", "/query", None, 400, "no question"),
    ("GET", "/query?q=+", None, 400, "no question"),
    ("GET", "/query?q=" + "x" * 2001, None, 400, "2000 characters"),
    ("GET", "/query?q=a&session=" + "x" * 129, None, 400, "128 characters"),
    ("GET", "/query?q=a" + "&z=1" * 30, None, 400, "20 parameters"),
    ("GET", "/nothing", None, 404, "/query"),
    ("GET", "/cleanup", None, 405, "POST"),
    ("POST", "/memory", None, 405, "GET"),
    ("BREW", "/memory", None, 501, "BREW"),
    ("POST", "/cleanup", "not json", 400, "not JSON"),
    ("POST", "/cleanup", b"\xff\xfe", 400, "not JSON"),
    ("POST", "/cleanup", "[" * 4000, 400, "not JSON"),
    ("POST", "/cleanup", "[1]", 400, "object"),
    ("POST", "/cleanup", '{"level": "brutal"}', 400, "light, standard, aggressive"),
    ("POST", "/cleanup", '{"level": ["light"]}', 400, "light, standard, aggressive"),
    ("POST", "/cleanup", '{"level": "light", "id": 7}', 400, "id must be a string"),
    ("POST", "/cleanup", " " * 5000, 413, "4096 bytes"),
])
def test_bad_input_is_refused_with_a_reason(
    rag: Child, method: str, path: str, body: str | bytes | None, status: int, reason: str
) -> None:
    """Whatever cannot be served gets a 4xx or 5xx in JSON that says why, and the log stays free of tracebacks."""
    given_status, answer = rag.request(method, path, body)

    assert given_status == status
    assert reason in answer["error"]
    assert "Traceback" not in rag.log.read_text()


@pytest.mark.parametrize("raw", [
    b"GET\r\n\r\n",
    b"GET http://[x/query HTTP/1.1\r\n\r\n",
    b"POST /cleanup HTTP/1.1\r\nContent-Length: many\r\n\r\n",
    b"POST /cleanup HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /cleanup HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /cleanup HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
])
def test_malformed_requests_are_answered_and_closed(rag: Child, raw: bytes) -> None:
    """A request that breaks HTTP gets a JSON error and its connection is closed."""
    host, port = rag.address.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(raw)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))

    assert b'"error"' in answer
    assert b"200 OK" not in answer
    assert "Traceback" not in rag.log.read_text()


def test_sigusr1_returns_a_large_part_of_the_memory(own: Child) -> None:
    """SIGUSR1 gives more than 40 % of the gained anonymous memory back to the kernel, and questions go on."""
    grown_bytes = own.fill(60 * MIB)
    full_bytes = own.anon_bytes()
    entries = own.memory()["cache"]["entries"]
    own.process.send_signal(signal.SIGUSR1)
    until(lambda: own.memory()["cleanups"] == 1, "a cleanup by SIGUSR1")

    assert full_bytes - own.anon_bytes() > 0.4 * grown_bytes
    assert own.memory()["cache"]["entries"] == entries - round(entries / 2)
    assert own.memory()["conversations"]["turns"] == own.memory()["conversations"]["sessions"] == 5
    assert "cleanup standard by SIGUSR1" in own.log.read_text()
    assert own.ask("What is the GIL?")["sources"]


def test_sigusr2_returns_nearly_all_of_the_memory(own: Child) -> None:
    """SIGUSR2 empties cache and history, and at least 80 % of what was gained goes back to the kernel."""
    grown_bytes = own.fill(60 * MIB)
    full_bytes = own.anon_bytes()
    own.process.send_signal(signal.SIGUSR2)
    until(lambda: own.memory()["cleanups"] == 1, "a cleanup by SIGUSR2")
    memory = own.memory()

    assert full_bytes - own.anon_bytes() > 0.8 * grown_bytes
    assert (memory["cache"]["entries"], memory["cache"]["bytes"]) == (0, 0)
    assert memory["conversations"] == {"sessions": 0, "turns": 0, "bytes": 0}


def test_post_cleanup_says_what_each_step_did(own: Child) -> None:
    """The answer carries the id, the bytes before and after as the kernel sees them, and one entry per step."""
    grown_bytes = own.fill(30 * MIB)
    full_bytes = own.anon_bytes()
    status, report = own.request("POST", "/cleanup", '{"level": "aggressive", "id": "order-1"}')

    assert status == 200
    assert (report["id"], report["level"], report["trigger"]) == ("order-1", "aggressive", "http")
    assert full_bytes - own.anon_bytes() > 0.7 * grown_bytes
    assert report["freed_bytes"] == report["before_bytes"] - report["after_bytes"] > 0.7 * grown_bytes
    assert [step["step"] for step in report["steps"]] == [
        "semantic cache", "conversations", "gc pass 1", "gc pass 2", "gc pass 3", "malloc_trim"
    ]
    assert sum(step["duration_seconds"] for step in report["steps"]) <= report["duration_seconds"]


def test_a_light_cleanup_only_trims_the_oldest_turns(own: Child) -> None:
    """Light drops the older half of a session's turns and nothing of the cache; an empty body means standard."""
    for number in range(6):
        own.ask(f"What is swap number {number * 7919}?")
    entries = own.memory()["cache"]["entries"]
    light = own.request("POST", "/cleanup", '{"level": "light"}')[1]

    assert [step["step"] for step in light["steps"]] == ["conversations", "gc pass 1"]
    assert own.memory()["conversations"]["turns"] == 3
    assert own.memory()["cache"]["entries"] == entries
    assert own.request("POST", "/cleanup")[1]["level"] == "standard"


def test_there_is_only_one_cleanup_at_a_time() -> None:
    """A POST that arrives in the middle of a cleanup is answered 409, and one after it is carried out."""
    cleaner = Cleaner(assistant := Assistant(documents(1)))
    server = RagServer(("127.0.0.1", 0), assistant, cleaner, 1024 * MIB)
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    statuses: list[int] = []

    def post() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE_SECONDS)
        connection.request("POST", "/cleanup", '{"level": "light"}')
        statuses.append(connection.getresponse().status)
        connection.close()

    def in_the_middle(phase: str, info: dict[str, int]) -> None:
        if threading.current_thread() is threading.main_thread() and not statuses:
            post()

    gc.disable()  # so that the callback runs in the cleanup's own pass, where the cleanup certainly is under way
    gc.callbacks.append(in_the_middle)
    try:
        cleaner.clean("light", "test")
    finally:
        gc.callbacks.remove(in_the_middle)
        gc.enable()
    post()
    server.shutdown()
    serving.join()
    server.server_close()

    assert statuses == [409, 200]
    assert cleaner.done == 2


def test_the_load_makes_memory_grow_and_rests_at_the_limit(tmp_path: Path) -> None:
    """Under load memory grows while some questions hit the cache; at --max-rss it rests until a cleanup makes room."""
    with running(tmp_path, "--growth", "100MiB", "--max-rss", "110MiB") as child:
        before = child.anon_bytes()
        until(lambda: "load rests" in child.log.read_text(), "the load resting")
        memory = child.memory()
        child.request("POST", "/cleanup", '{"level": "aggressive"}')
        until(lambda: "load goes on" in child.log.read_text(), "the load going on")

    assert memory["anon_bytes"] - before > 50 * MIB
    assert memory["rss_bytes"] < 120 * MIB
    assert memory["status"] == "high"
    assert memory["cache"]["hits"] > 0
    assert memory["cache"]["misses"] > 0


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_in_the_middle_of_work(tmp_path: Path, ending: signal.Signals) -> None:
    """SIGTERM and SIGINT end the process with code 0 while questions are being asked."""
    with running(tmp_path, "--load", "200") as child:
        until(lambda: child.memory()["cache"]["entries"] > 5, "questions from the load")
        child.process.send_signal(ending)

        assert child.process.wait(PATIENCE_SECONDS) == 0
        assert "Traceback" not in child.log.read_text()


def test_without_handlers_sigusr1_kills(tmp_path: Path) -> None:
    """With --no-signal no handler shows in SigCgt, and SIGUSR1 does what it does to any program: it ends it."""
    with running(tmp_path) as child:
        caught = procfs.status_mask(Path(f"/proc/{child.pid}/status").read_bytes(), b"SigCgt")
    with running(tmp_path, "--no-signal") as child:
        not_caught = procfs.status_mask(Path(f"/proc/{child.pid}/status").read_bytes(), b"SigCgt")
        child.process.send_signal(signal.SIGUSR1)

        assert child.process.wait(PATIENCE_SECONDS) == -signal.SIGUSR1
    assert [mask >> (signal.SIGUSR1 - 1) & 1 for mask in (caught, not_caught)] == [1, 0]


def test_the_folder_runs_by_itself(tmp_path: Path) -> None:
    """Copied alone and without any installed package, the folder serves: a container needs nothing else."""
    shutil.copytree(ROOT / "sidecar" / "demo", tmp_path / "sidecar" / "demo")
    with running(tmp_path, cwd=tmp_path, python=("-S", "-E")) as child:
        assert child.ask("What is the OOM killer?")["sources"]


@pytest.mark.parametrize(("options", "code", "reason"), [
    (["--growth", "10"], 2, "unit"),
    (["--growth", "0MiB"], 2, "above zero"),
    (["--load", "-1"], 2, "questions per second"),
    (["--load", "nan"], 2, "questions per second"),
    (["--load", "1", "--growth", "1MiB"], 2, "not allowed with"),
    (["--port", "99999"], 1, "Try --port 0"),
])
def test_wrong_options_are_explained(options: list[str], code: int, reason: str) -> None:
    """A wrong option ends the program at once with a sentence that names the mistake."""
    ended = subprocess.run(
        [sys.executable, "-m", "sidecar.demo.rag", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert ended.returncode == code
    assert reason in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_port_in_use_is_explained(rag: Child) -> None:
    """A second server on the same port says which port is taken and what to do."""
    port = rag.address.rpartition(":")[2]
    ended = subprocess.run(
        [sys.executable, "-m", "sidecar.demo.rag", "--port", port],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )

    assert ended.returncode == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert "--port 0" in ended.stderr


def test_the_least_recently_used_half_is_evicted() -> None:
    """What was asked again lately survives an eviction, what was not asked again is computed anew."""
    assistant = Assistant(documents(1))
    for subject in ("swap", "jemalloc", "hysteresis", "reranking"):
        assistant.ask(f"What is {subject}?", "one")
    assistant.ask("What is swap?", "two")
    assistant.cache.evict(0.5)

    assert assistant.ask("What is swap?", "three").similarity == pytest.approx(1)
    assert assistant.ask("What is jemalloc?", "three").similarity is None


def test_each_turn_keeps_the_whole_conversation() -> None:
    """Later turns of a session leave more behind than earlier ones, up to the window: that is the leak."""
    assistant = Assistant(documents(1))
    kept = [assistant.ask("What is swap?", "one").kept_bytes for _ in range(12)]

    assert kept[1] < kept[2] < kept[3]
    assert kept[-1] == kept[-2] < 100 * 1024


def test_documents_are_cut_into_overlapping_passages() -> None:
    """No sentence is lost by chunking, neighbours share one, and a seed always gives the same documents."""
    for document in documents(3):
        pieces = [sentences(passage.text) for passage in passages(document, length=200, overlap=60)]

        assert len(pieces) > 1
        assert set(sentences(document.text)) == {sentence for piece in pieces for sentence in piece}
        assert all(set(left) & set(right) for left, right in itertools.pairwise(pieces))
    assert list(documents(3)) == list(documents(3)) != list(documents(4))


_sparse = st.dictionaries(st.integers(0, DIMENSIONS - 1), st.floats(0.125, 1, width=16), max_size=6)


@given(vectors=st.lists(_sparse, max_size=8), query=_sparse, kept=st.sets(st.integers(0, 7)))
def test_the_index_finds_what_comparing_all_vectors_finds(
    vectors: list[dict[int, float]], query: dict[int, float], kept: set[int]
) -> None:
    """The nearest vectors are those that a plain dot product with every vector finds, also after some were dropped."""
    index = CosineIndex()
    for key, vector in enumerate(vectors):
        index.add(key, _dense(vector))
    index.keep(kept)
    scores = {
        key: sum(weight * query.get(dimension, 0) for dimension, weight in vector.items())
        for key, vector in enumerate(vectors) if key in kept
    }
    found = index.search(_dense(query), 10)

    assert {key: score for score, key in found} == pytest.approx({key: s for key, s in scores.items() if s})
    assert [score for score, _ in found] == sorted((score for score, _ in found), reverse=True)


def _dense(vector: dict[int, float]) -> "array[float]":
    dense = array("f", bytes(4 * DIMENSIONS))
    for dimension, weight in vector.items():
        dense[dimension] = weight
    return dense
