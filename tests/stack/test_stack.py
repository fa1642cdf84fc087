"""The Compose file as it is written, on a real engine: `make test-stack` runs this. Grafana alone is left out.

The RAG of the demo leaks by 10 MiB a second in a container of 512 MB. What stands for Prometheus and Alertmanager are
Debian's binaries of the same versions under the images' names (tests/stack/engine.py).
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import wait_until

pytestmark = pytest.mark.skipif("STACK" not in os.environ, reason="it takes an engine and minutes: make test-stack")

MIB = 1 << 20
SIDECAR, PROMETHEUS = "http://127.0.0.1:11611", "http://127.0.0.1:9090"
SERVICES = ("holder", "rag", "sidecar", "prometheus", "alertmanager", "sink")
PATIENCE_SECONDS = 180.0
FOREVER = "30m"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running engine with all images."""
    from stack.engine import Engine, raise_loopback

    raise_loopback()
    with Engine(tmp_path_factory.mktemp("engine")).running() as running:
        yield running


@pytest.fixture(scope="module")
def checkout_copy(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, with images built of it."""
    from stack.engine import copy_of_the_checkout

    found: Path = copy_of_the_checkout(tmp_path_factory.mktemp("copy") / "rag-sidecar")
    engine.build(found)
    return found


class Stack:
    """The running stack of compose/docker-compose.yml."""

    def __init__(self, engine: Any, folder: Path) -> None:
        self.engine = engine
        self.folder = folder

    def compose(self, *arguments: str, code: int = 0) -> str:
        """`docker compose -f compose/docker-compose.yml ARGUMENTS`."""
        said: str = self.engine.compose("-f", "compose/docker-compose.yml", *arguments, cwd=self.folder, code=code)
        return said

    def tell(self, *arguments: str, code: int = 0) -> str:
        """`rag-sidecar ARGUMENTS` in the sidecar's container."""
        return self.compose("exec", "-T", "sidecar", "rag-sidecar", *arguments, code=code)

    def state(self, service: str) -> dict[str, Any]:
        """What the engine knows of its container."""
        found: dict[str, Any] = self.engine.state(f"rag-sidecar-{service}-1")
        return found

    def value(self, expr: str, url: str = SIDECAR) -> float | None:
        """The one value of an expression, None while there is none."""
        from stack.engine import page

        answer = page(f"{url}/api/v1/query?query={expr}")
        result = json.loads(answer)["data"]["result"] if answer else []
        return float(result[0]["value"][1]) if result else None

    def attempts(self) -> list[dict[str, Any]]:
        """The sidecar's cleanups that have an outcome, newest first."""
        from stack.engine import page

        answer = page(f"{SIDECAR}/api/v1/actions")
        found = json.loads(answer)["data"]["actions"] if answer else []
        return [attempt for attempt in found if attempt["outcome"] != "running"]

    def incidents(self) -> set[str]:
        """The ids of the incidents that the sidecar knows."""
        from stack.engine import page

        found = json.loads(page(f"{SIDECAR}/api/v1/actions"))["data"]["incidents"]
        return {incident["id"] for incident in found}

    def told(self, *words: str) -> list[str]:
        """What has reached people: the sink's lines with these words."""
        return [line for line in self.compose("logs", "--no-log-prefix", "sink").splitlines()
                if all(word in line for word in words)]

    def configure(self, cleanup: list[Any]) -> None:
        """Other ways to ask for a cleanup, from now on."""
        path = self.folder / "compose/sidecar/sidecar.yml"
        file = yaml.safe_load(path.read_text())
        file["targets"][0]["cleanup"] = cleanup
        path.write_text(yaml.safe_dump(file))
        self.tell("reload")

    def oom_kills(self) -> int:
        """How often the kernel has killed the RAG since the stack came up: as often as it was started again."""
        count: int = self.state("rag")["RestartCount"]
        return count


@pytest.fixture(scope="module")
def stack(engine: Any, checkout_copy: Path) -> Iterator[Stack]:
    """The stack, up and healthy."""
    running = Stack(engine, checkout_copy)
    try:
        running.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", "120")
        yield running
    finally:
        print(running.compose("logs", "--tail", "40"))
        running.compose("down", "--volumes", "--timeout", "5")


def test_everything_is_healthy_and_sees_the_rag(stack: Stack) -> None:
    """Each service is healthy; the sidecar reads the RAG's own limit across the namespaces; Prometheus scrapes it."""
    assert {service: stack.state(service)["Health"]["Status"] for service in SERVICES} == dict.fromkeys(
        SERVICES, "healthy")
    wait_until(lambda: stack.value("rag_target_up") == 1, PATIENCE_SECONDS, "the sidecar to find the RAG")
    assert stack.value('rag_cgroup_memory_limit_bytes{kind="max"}') == 512 * MIB
    assert stack.value('rag_memory_threshold_bytes{level="critical"}') == pytest.approx(0.9 * 512 * MIB, abs=1)
    wait_until(lambda: stack.value("rag_memory_used_bytes", PROMETHEUS), PATIENCE_SECONDS, "the first scrape")


def test_image_is_small(engine: Any, checkout_copy: Path) -> None:
    """The sidecar's image is its Python and 60 MiB more at most."""
    ours, base = (int(engine.docker("image", "inspect", "--format", "{{.Size}}", name))
                  for name in ("rag-sidecar:0.1.0", "python:3.13-slim-trixie"))
    print(f"{(ours - base) / MIB:.1f} MiB beyond the base's {base / MIB:.1f} MiB")

    assert ours - base < 60 * MIB


def test_doctor_misses_nothing_without_any_capability(stack: Stack) -> None:
    """As the RAG's user, with every capability dropped, the sidecar can see and do all that the doctor looks for."""
    said = stack.tell("doctor", "--config.file", "/etc/rag-sidecar/sidecar.yml")

    assert "✓ gc" in said
    assert "✗" not in said


def test_doctor_names_what_another_user_cannot(stack: Stack) -> None:
    """Another user in the same place is told what is missing, and that the RAG's own user would see it."""
    said = stack.compose("exec", "-T", "--user", "10002:10002", "sidecar", "rag-sidecar", "doctor", "--match",
                         r"^python app\.py", code=3)

    assert "✗ gc" in said
    assert '    user: "10001:10001"' in said


@pytest.mark.parametrize(("channel", "cleanup"), [
    ("agent", [{"agent": {}}]),
    ("http", [{"http": {"url": "http://rag:8000/cleanup"}}]),
    ("signal", [{"signal": "SIGUSR1"}]),
])
def test_leak_is_cleaned_up_in_time(stack: Stack, channel: str, cleanup: list[Any]) -> None:
    """Over a line the RAG is asked in this way, gives memory back, and is not killed."""
    before = len(stack.attempts())
    stack.configure(cleanup)

    def effective() -> dict[str, Any] | None:
        new = stack.attempts()[:-before or None]
        return next((each for each in new if each["channel"] == channel and each["outcome"] == "effective"), None)

    attempt = wait_until(effective, PATIENCE_SECONDS, f"an effective cleanup by {channel}")
    assert attempt["freed_bytes"] > 32 * MIB
    assert stack.oom_kills() == 0
    assert stack.state("rag")["Running"]


def test_people_are_told(stack: Stack) -> None:
    """The alert goes from the sidecar to Alertmanager and on to the webhook."""
    wait_until(lambda: stack.told("FIRING", "RagMemory"), PATIENCE_SECONDS, "the alert at the sink")
    assert wait_until(lambda: stack.value('ALERTS{alertname=~"RagMemory.*"}', PROMETHEUS), PATIENCE_SECONDS,
                      "Prometheus to see it, too")


def test_restarted_sidecar_remembers(stack: Stack) -> None:
    """A sidecar that is started anew knows the cleanups and incidents from before, and goes on guarding."""
    stack.tell("pause", "--for", FOREVER)
    before, incidents = [attempt["id"] for attempt in stack.attempts()], stack.incidents()
    started = stack.state("rag")["StartedAt"]
    stack.compose("restart", "--timeout", "20", "sidecar")
    wait_until(lambda: stack.value("rag_target_up") == 1, PATIENCE_SECONDS, "the sidecar to be back")

    assert before
    assert incidents
    assert stack.incidents() >= incidents
    assert {attempt["id"] for attempt in stack.attempts()} >= set(before)
    assert stack.state("rag")["StartedAt"] == started


def test_kill_is_told_and_the_target_found_again(stack: Stack) -> None:
    """Paused, the sidecar lets the kernel kill the RAG, survives that, tells of it, and finds the one that follows."""
    stack.tell("pause", "--for", FOREVER)
    ours, kills = stack.state("sidecar")["StartedAt"], stack.oom_kills()
    wait_until(lambda: stack.oom_kills() > kills, PATIENCE_SECONDS, "the kernel to kill the RAG")
    wait_until(lambda: stack.told("FIRING", "RagOomKill"), PATIENCE_SECONDS, "the kill to be told")
    wait_until(lambda: stack.value("rag_target_up") == 1 and stack.value("rag_target_restarts_total"),
               PATIENCE_SECONDS, "the new one to be found")

    assert stack.state("sidecar")["StartedAt"] == ours
    stack.tell("resume")


def test_without_the_sidecar_the_rag_is_killed(stack: Stack) -> None:
    """The same container, nobody beside it: the kernel kills it within a minute or two."""
    stack.compose("stop", "--timeout", "20", "sidecar")
    kills = stack.oom_kills()
    wait_until(lambda: stack.oom_kills() > kills, PATIENCE_SECONDS, "the kernel to kill the RAG")


def test_killed_holder_takes_all_with_it_and_all_come_back(stack: Stack) -> None:
    """The kernel kills who lives in the holder's namespace; the restart policies bring everybody back."""
    stack.compose("start", "sidecar")
    wait_until(lambda: stack.value("rag_target_up") == 1, PATIENCE_SECONDS, "the sidecar to be there")
    ours = stack.state("sidecar")["StartedAt"]
    os.kill(stack.state("holder")["Pid"], signal.SIGKILL)
    wait_until(lambda: stack.state("sidecar")["StartedAt"] != ours and stack.value("rag_target_up") == 1,
               PATIENCE_SECONDS, "all to be back")


@pytest.mark.parametrize(("override", "survives"), [("sidecar-only.yml", False), ("sidecar-only-holder.yml", True)])
def test_override_guards_a_stack_that_is_there(
    engine: Any, checkout_copy: Path, stack: Stack, tmp_path: Path, override: str, survives: bool
) -> None:
    """Your Compose file and one of ours: the sidecar has your service clean up, also after the service was killed."""
    stack.compose("stop", "--timeout", "5")
    service = {"image": "rag-demo:0.1.0", "read_only": True, "tmpfs": ["/tmp"], "mem_limit": "512m",
               "restart": "unless-stopped"}
    (tmp_path / "yours.yml").write_text(yaml.safe_dump({"name": "yours", "services": {"rag": service}}))
    (tmp_path / "rag-sidecar").mkdir()
    (tmp_path / "rag-sidecar/sidecar.yml").write_text(yaml.safe_dump({
        "targets": [{"name": "rag", "match": {"cmdline": r"^python app\.py"}}],
        "web": {"listen": ":11611"}, "actions": {"global": {"warmup": "0s"}}}))
    files = ("-f", tmp_path / "yours.yml", "-f", checkout_copy / "compose" / override, "--project-directory", tmp_path)

    def sidecar_started() -> str:
        return str(engine.state("yours-rag-sidecar-1")["StartedAt"])

    def guarded() -> None:
        wait_until(lambda: stack.value("rag_agent_up") == 1, PATIENCE_SECONDS, "the sidecar to find the agent")
        wait_until(lambda: (stack.value("rag_memory_used_bytes") or 0) > 200 * MIB, PATIENCE_SECONDS, "some growth")
        engine.compose(*files, "exec", "-T", "rag-sidecar", "rag-sidecar", "cleanup", "--level", "aggressive",
                       cwd=tmp_path)  # which ends with 0 if it was effective

    try:
        engine.compose(*files, "up", "--detach", "--wait", cwd=tmp_path)
        guarded()
        before = sidecar_started()
        os.kill(engine.state("yours-rag-1")["Pid"], signal.SIGKILL)
        wait_until(lambda: engine.state("yours-rag-1")["RestartCount"], PATIENCE_SECONDS, "the service to be back")
        wait_until(lambda: stack.value("rag_target_restarts_total") if survives else sidecar_started() != before,
                   PATIENCE_SECONDS, "the sidecar to find the new one")
        guarded()
        assert (sidecar_started() == before) is survives
    finally:
        engine.compose(*files, "down", "--volumes", "--timeout", "5", cwd=tmp_path)
