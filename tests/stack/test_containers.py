"""Targets that are containers, on a real engine: `make test-stack` runs this. The sidecar runs on the engine's host."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import free_port, wait_until
from sidecars import Sidecar, config, running_sidecar

pytestmark = pytest.mark.skipif("STACK" not in os.environ, reason="it takes an engine and minutes: make test-stack")

HUNGRY = "kept = [bytearray(1 << 20) for _ in range(1 << 20)]"
COMPOSE = """
services:
  rag:
    image: {image}
    init: true
    command: [sleep, "100000"]
    mem_limit: 64m
    stop_grace_period: 1s
    network_mode: none
  hungry:
    image: {image}
    command: [python3, -c, "{hungry}"]
    mem_limit: 32m
    memswap_limit: 32m
    network_mode: none
    profiles: [later]
"""


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running engine with the base image."""
    from stack import packages
    from stack.engine import BASE, Engine, raise_loopback

    raise_loopback()
    with Engine(tmp_path_factory.mktemp("engine")).running() as running:
        running.docker("import", packages.base() / "base.tar", BASE)
        yield running


@pytest.fixture
def compose(engine: Any, tmp_path: Path) -> Iterator[Any]:
    """`docker compose ARGUMENTS` in a project called shop, whose rag runs."""
    from stack.engine import BASE

    (tmp_path / "compose.yml").write_text(COMPOSE.format(image=BASE, hungry=HUNGRY))

    def said(*arguments: str) -> str:
        told: str = engine.compose("-p", "shop", "-f", tmp_path / "compose.yml", *arguments)
        return told

    said("up", "--detach")
    yield said
    said("--profile", "later", "down", "--timeout", "0")


def sidecar_file(engine: Any, tmp_path: Path, port: int) -> str:
    """A configuration that names both services."""
    targets = [{"name": name, "match": {"docker": {"service": name, "project": "shop"}}} for name in ("rag", "hungry")]
    return config(port, tmp_path / "state", targets, docker={"host": f"unix://{engine.folder}/docker.sock"})


def watched(sidecar: Sidecar) -> str:
    """The pid of the process that is watched as rag, "" if there is none."""
    found = [series for series in sidecar.series("rag_target_info") if 'target="rag"' in series]
    return found[0].partition('pid="')[2].partition('"')[0] if found else ""


def test_service_is_followed_through_restarts_and_new_containers(engine: Any, compose: Any, tmp_path: Path) -> None:
    """What is watched is always the program below its init, also of the container that Compose makes anew."""
    port = free_port()
    with running_sidecar(tmp_path, file=sidecar_file(engine, tmp_path, port), port=port) as sidecar:
        def program() -> str:
            init = engine.state("shop-rag-1")["Pid"]
            return Path(f"/proc/{init}/task/{init}/children").read_text().split()[0] if init else ""

        wait_until(lambda: watched(sidecar) == program() != "", 30, "the program to be watched")
        assert sidecar.value("rag_container_memory_limit_bytes", 'target="rag"') == 64 << 20
        assert sidecar.value("rag_memory_limit_bytes", 'target="rag"') == 64 << 20
        for again, arguments in enumerate((["restart"], ["up", "--detach", "--force-recreate"]), 1):
            compose(*arguments, "rag")
            wait_until(lambda: watched(sidecar) == program() != "", 30, "the program after it to be watched")
            assert sidecar.value("rag_target_restarts_total", 'target="rag"') == again
        assert engine.state("shop-rag-1")["Id"][:12] in next(iter(sidecar.series("rag_container_info")))


def test_kill_for_want_of_memory_is_told(engine: Any, compose: Any, tmp_path: Path) -> None:
    """137 alone does not say who killed it; the engine does."""
    port = free_port()
    with running_sidecar(tmp_path, file=sidecar_file(engine, tmp_path, port), port=port) as sidecar:
        compose("--profile", "later", "up", "--detach", "hungry")
        wait_until(lambda: sidecar.value("rag_container_last_exit_oom_killed", 'target="hungry"') == 1, 30, "the kill")
        assert sidecar.value("rag_container_last_exit_code", 'target="hungry"') == 137
        assert sidecar.value("rag_container_running", 'target="hungry"') == 0


def test_sidecar_in_the_pid_namespace_of_its_target(engine: Any, compose: Any, tmp_path: Path) -> None:
    """There the engine's numbers mean nothing; the process is found by its container's cgroup."""
    port, init = free_port(), engine.state("shop-rag-1")["Pid"]
    inside = ["nsenter", "--target", str(init), "--pid", "unshare", "--mount", "sh", "-c",
              'mount -t proc proc /proc && exec "$@"', "sh"]
    file = sidecar_file(engine, tmp_path, port)
    with running_sidecar(tmp_path, file=file, port=port, within=inside) as sidecar:
        wait_until(lambda: watched(sidecar), 30, "the program to be watched")
        assert int(watched(sidecar)) < 10
        engine.docker("kill", "shop-rag-1")
        wait_until(lambda: sidecar.process.poll() is not None, 30, "the end of the namespace")
