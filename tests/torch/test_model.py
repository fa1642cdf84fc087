"""The agent beside a real model: what each cleanup gives back, as the kernel counts it. `make test-torch` runs it."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agent_apps import Client
from conftest import read_line
from servers import end, free_port, wait_until
from sidecars import config, running_sidecar

MIB = 1 << 20
APP = Path(__file__).parent / "apps" / "embeddings.py"
LOADING_SECONDS = ANSWER_SECONDS = 180.0
DOCUMENTS, THREADS, QUERIES = 96, 3, 3
OFFLINE = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="there is no model here: make test-torch")


class Service:
    """A running tests/torch/apps/embeddings.py that has loaded its model. Lives until its test ends."""

    def __init__(self, pid: int, place: Path, port: str) -> None:
        self.pid = pid
        self.place = place
        self._url = f"http://127.0.0.1:{port}"
        self.vector = self.embed()
        self.base_bytes = self.anon_bytes()

    def post(self, path: str, **body: object) -> dict[str, Any]:
        """A request of a user, and its answer."""
        request = urllib.request.Request(self._url + path, json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def embed(self) -> list[float]:
        """The vector of a question."""
        vector: list[float] = self.post("/embed", text="why was it killed?")["vector"]
        return vector

    def grow(self) -> dict[str, Any]:
        """Documents for its cache, scores that keep their graphs. Returns what it holds then."""
        self.post("/index", documents=DOCUMENTS, threads=THREADS)
        return self.post("/rank", queries=QUERIES)

    def held(self) -> dict[str, Any]:
        """What it holds."""
        return self.post("/index", documents=0, threads=1)

    def anon_bytes(self) -> int:
        """Its anonymous memory, as the kernel counts it."""
        line, = (line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if "RssAnon" in line)
        return int(line.split()[1]) * 1024

    def agent(self, method: str, path: str, **body: object) -> dict[str, Any]:
        """What its agent answers."""
        with Client(self.place / f"rag-sidecar-{os.geteuid()}" / f"{self.pid}.sock") as client:
            answer = client.ask(method, path, body or None)
        assert answer.status == 200, answer
        return dict(answer.body)

    def clean(self, level: str) -> tuple[int, dict[str, Any]]:
        """Bytes that a cleanup gave back, counted from outside; what the agent says about it."""
        before = self.anon_bytes()
        result = self.agent("POST", "/cleanup", level=level)
        freed = before - self.anon_bytes()
        print(f"{level}: {freed / MIB:.0f} of {before / MIB:.0f} MiB in {result['duration_seconds']:.2f} s, "
              f"{result['pause_seconds']:.2f} s of them paused")
        for line in result["steps"]:
            promise = f", {line['predicted_bytes'] / MIB:.1f} promised" if "predicted_bytes" in line else ""
            print(f"  {line['step']:16} {line['freed_bytes'] / MIB:8.1f} MiB  {line.get('detail', '')}{promise}")
        assert result["outcome"] == "done", result
        assert abs(freed - result["freed_bytes"]) <= max(8 * MIB, freed // 20)
        return freed, result


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[], Service]]:
    """Start the service, and wait until its model answers."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> Service:
        command = [sys.executable, str(APP), "--place", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, **OFFLINE})
        started.append(process)
        said = read_line(process, "ready", LOADING_SECONDS)
        return Service(process.pid, tmp_path, said.removeprefix("ready http="))

    yield begin
    for process in started:
        end(process)


@pytest.fixture
def service(start: Callable[[], Service]) -> Service:
    """One that has an agent."""
    return start()


def step(result: dict[str, Any], name: str) -> dict[str, Any]:
    """One step of a cleanup."""
    found, = (step for step in result["steps"] if step["step"] == name)
    return dict(found)


def test_light_returns_what_malloc_kept_and_takes_nothing(service):
    """A light cleanup gives back memory that nobody used, and leaves cache, graphs and model alone."""
    held = service.grow()
    freed, result = service.clean("light")

    assert freed > 64 * MIB
    assert service.held() == held
    assert step(result, "release")["freed_bytes"] > 64 * MIB
    assert service.embed() == service.vector


def test_standard_returns_half_the_cache_and_all_graphs(service):
    """A standard cleanup gives back what had grown but half of the cache; the model stays, and answers as before."""
    held = service.grow()
    grown = service.anon_bytes() - service.base_bytes
    freed, _ = service.clean("standard")
    kept = service.held()

    assert held["cached_bytes"] > 30 * MIB
    assert kept["cached_bytes"] <= held["cached_bytes"] / 2
    assert kept["graphs"] == 0
    assert freed >= held["cached_bytes"] / 2
    assert freed > 0.75 * grown
    assert service.embed() == service.vector
    assert kept["loads"] == 1


def test_aggressive_unloads_the_model_and_it_answers_again(service):
    """After an aggressive cleanup cache and model are gone; the next request loads the model, and is answered."""
    service.grow()
    grown = service.anon_bytes() - service.base_bytes
    freed, _ = service.clean("aggressive")
    model, = service.agent("GET", "/memory")["models"]

    assert freed > 0.75 * grown  # what worker threads of torch keep for themselves differs from run to run
    assert (model["loaded"], model["unloads"]) == (False, 1)
    assert service.embed() == service.vector
    kept, (model,) = service.held(), service.agent("GET", "/memory")["models"]
    assert (kept["cached_bytes"], kept["loads"]) == (0, 2)
    assert (model["loaded"], model["loads"]) == (True, 2)
    assert model["memory_bytes"] > 80 * MIB


def test_promises_are_kept(service):
    """What a cleanup says that it will release comes back within a fifth, wherever it promises anything."""
    promised = []
    for level in ("light", "standard", "aggressive"):
        service.grow()
        release = step(service.clean(level)[1], "release")
        if release.get("predicted_bytes", 0) > 64 * MIB:
            promised.append((release["predicted_bytes"], release["freed_bytes"]))

    assert promised
    assert [pair for pair in promised if abs(pair[0] - pair[1]) > 0.2 * pair[0] + 8 * MIB] == []


def test_no_device_is_woken(service):
    """On the CPU there are no figures of devices, and neither questions nor cleanups start one."""
    service.agent("POST", "/cleanup", level="aggressive")

    assert service.agent("GET", "/memory")["torch"] == []
    assert service.held()["device_awake"] is False


def test_alert_cleanup_and_verdict(service, tmp_path):
    """Beside a model: memory crosses the main line, the alert fires, the agent cleans, the sidecar counts the bytes."""
    port = free_port()
    memory = {"main": f"{service.base_bytes // MIB + 300}MiB", "critical": f"{service.base_bytes // MIB + 8000}MiB"}
    target = {"name": "minilm", "match": {"pid": service.pid}, "memory": memory,
              "agent": {"directory": str(tmp_path), "every": "1s"}}
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", [target]), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_agent_up"), 20, "the agent to be found")
        held = service.post("/index", documents=DOCUMENTS, threads=THREADS)
        wait_until(lambda: sidecar.value("rag_cache_size_bytes") == held["cached_bytes"], 20, "the cache's size")
        service.post("/rank", queries=QUERIES)
        wait_until(lambda: ("RagMemoryMain", "firing") in sidecar.alerts(), 60, "the alert")
        attempt = sidecar.outcome(90)
        print({key: attempt[key] for key in ("before_bytes", "after_bytes", "freed_bytes", "told")})

        assert (attempt["cleanup"], attempt["channel"], attempt["outcome"]) == ("standard", "agent", "effective")
        assert attempt["freed_bytes"] > 200 * MIB
        assert abs(attempt["freed_bytes"] - attempt["told"]["freed_bytes"]) < 0.2 * attempt["freed_bytes"]
        wait_until(lambda: ("RagMemoryMain", "firing") not in sidecar.alerts(), 30, "the alert's end")
        wait_until(lambda: sidecar.value("rag_cache_size_bytes") <= held["cached_bytes"] / 2, 20, "a smaller cache")
        assert sidecar.value("rag_model_loaded") == 1
        assert not sidecar.series("rag_torch_allocated_bytes")
    assert service.embed() == service.vector


def test_unchanged_program_is_cleaned_by_hand(tmp_path):
    """Started by `run --` the same program, which knows of no agent, gives back what its malloc keeps when asked to."""
    with running_sidecar(tmp_path, "--", sys.executable, str(APP), env=OFFLINE) as sidecar:
        wait_until(lambda: "ready http=" in sidecar.log.read_text(), LOADING_SECONDS, "the program")
        port, = re.findall(r"ready http=(\d+)", sidecar.log.read_text())
        pid, = re.findall(r'pid="(\d+)"', "".join(sidecar.series("rag_target_info")))
        service = Service(int(pid), tmp_path, port)
        service.post("/index", documents=2 * DOCUMENTS, threads=THREADS)
        held, before = service.held(), service.anon_bytes()
        wait_until(lambda: sidecar.value("rag_agent_up"), 60, "the agent to be found")
        command = [sys.executable, "-m", "sidecar", "cleanup", "--storage.path", str(tmp_path / "state"), "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        freed = before - service.anon_bytes()
        print(f"{freed / MIB:.0f} of {before / MIB:.0f} MiB")

        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["outcome"] == "effective"
        assert freed > 32 * MIB
        assert service.held() == held
        assert service.embed() == service.vector
