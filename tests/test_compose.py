"""The Compose files and what lies beside them, as far as that can be told without an engine; tests/stack runs them."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_apps import Client
from servers import CHECKOUT, amtool, end, free_port, promtool, running_alertmanager, wait_until

from sidecar import __version__

COMPOSE = CHECKOUT / "compose"
FILES = sorted(COMPOSE.glob("*compose*.yml")) + sorted(COMPOSE.glob("sidecar-only*.yml"))
MIB = 1 << 20
SENT_BY_PROMETHEUS = "fleet.yml"


def read(path: Path) -> Any:
    """A YAML file, with what its anchors stand for."""
    return yaml.safe_load(path.read_text())


def services(path: Path) -> dict[str, dict[str, Any]]:
    """The services that a Compose file runs itself: one that it only adds to has no image there."""
    return {name: service for name, service in read(path)["services"].items() if "image" in service}


SERVICES = [pytest.param(path, name, service, id=f"{path.name}-{name}")
            for path in FILES for name, service in services(path).items()]


def test_files_are_found() -> None:
    """The stack of the demo, and both ways to put a sidecar beside a stack that is there already."""
    assert [path.name for path in FILES] == ["docker-compose.yml", "sidecar-only-holder.yml", "sidecar-only.yml"]


@pytest.mark.parametrize(("path", "name", "service"), SERVICES)
def test_service_has_no_more_than_it_needs(path: Path, name: str, service: dict[str, Any]) -> None:
    """No capability, no other user's rights, nothing to write to but volumes, and a bound on its memory."""
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert re.fullmatch(r"[1-9]\d*:\d+", service["user"])
    assert re.fullmatch(r"\d+m", service["mem_limit"])
    assert service["restart"] == "unless-stopped"
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))


@pytest.mark.parametrize(("path", "name", "service"), SERVICES)
def test_image_is_pinned_and_tells_its_health(path: Path, name: str, service: dict[str, Any]) -> None:
    """Tomorrow's `up` runs the version of today, ours is this one, and a service that hangs is seen."""
    assert re.fullmatch(r"[a-z/-]+:v?\d+\.\d+\.\d+", service["image"])
    if service["image"].startswith("rag-"):
        assert service["image"].endswith(f":{__version__}")
    own = service["image"].startswith("rag-sidecar:") and "entrypoint" not in service  # the Dockerfile has one
    assert own or service["healthcheck"]["test"][0].startswith("CMD")


@pytest.mark.parametrize(("path", "name", "service"), SERVICES)
def test_nothing_is_published_beyond_loopback(path: Path, name: str, service: dict[str, Any]) -> None:
    """Docker publishes past the host's firewall: whoever wants that writes it himself."""
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in service.get("ports", ()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_who_shares_a_pid_namespace_follows_it(path: Path) -> None:
    """Who joins the namespace of a service starts after it and anew with it; target and sidecar are one user."""
    found = read(path)["services"]
    joined = {name: service for name, service in found.items() if "pid" in service}

    assert joined
    for service in joined.values():
        whose = service["pid"].removeprefix("service:")
        assert service["depends_on"][whose] == {"condition": "service_started", "restart": True}
    assert len({service["user"] for service in joined.values() if "user" in service}) == 1


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_named_volumes_are_declared_and_mounted_files_exist(path: Path) -> None:
    """`up` in a fresh clone finds every file that is mounted; what the user brings himself lies in ./rag-sidecar."""
    file = read(path)
    mounts = [volume.split(":")[0] for service in file["services"].values() for volume in service.get("volumes", ())]
    own = {mount for mount in mounts if not mount.startswith(".")}

    assert own == set(file["volumes"])
    assert [mount for mount in mounts if mount.startswith(".") and mount != "./rag-sidecar"
            and not (COMPOSE / mount).exists()] == []


@pytest.mark.parametrize("path", [COMPOSE / "Dockerfile", COMPOSE / "rag" / "Dockerfile"],
                         ids=["sidecar", "rag"])
def test_image_runs_as_nobody_special(path: Path) -> None:
    """The base has a version, the user is that of the Compose file, and the image says which version it is."""
    text = path.read_text()

    assert re.search(r"^ARG PYTHON=python:3\.\d+-slim-[a-z]+$", text, re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert f'org.opencontainers.image.version="{__version__}"' in text
    assert re.search(r"^HEALTHCHECK ", text, re.MULTILINE)


def test_rag_of_the_demo_has_no_swap_to_flee_to() -> None:
    """At its limit the demo's RAG is killed, as the page says: with swap beside it, it would only become slow."""
    rag = services(COMPOSE / "docker-compose.yml")["rag"]

    assert rag["memswap_limit"] == rag["mem_limit"]


def test_sidecar_configuration_is_sound() -> None:
    """`rag-sidecar check config` has nothing to say against the stack's sidecar.yml."""
    done = subprocess.run([sys.executable, "-P", "-m", "sidecar", "check", "config", COMPOSE / "sidecar/sidecar.yml"],
                          capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_prometheus_configuration_is_sound(tmp_path: Path) -> None:
    """promtool accepts the configuration with the rules that are mounted beside it."""
    text = (COMPOSE / "prometheus.yml").read_text()
    here = tmp_path / "prometheus.yml"
    here.write_text(text.replace("/etc/prometheus/rules/", f"{CHECKOUT}/rules/"))
    done = subprocess.run([promtool(), "check", "config", here], capture_output=True, text=True, timeout=60,
                          check=False)

    assert done.returncode == 0, done.stderr
    assert f"{len(list((CHECKOUT / 'rules').glob('*.yml')))} rule files found" in done.stdout


def test_each_alert_has_one_sender() -> None:
    """Prometheus passes on what the sidecar does not evaluate, and nothing else: two senders would make alerts flap."""
    def passes(labels: dict[str, str]) -> bool:
        for step in read(COMPOSE / "prometheus.yml")["alerting"]["alert_relabel_configs"]:
            value = ";".join(labels.get(label, "") for label in step["source_labels"])
            if bool(re.fullmatch(step["regex"], value)) is (step["action"] == "drop"):
                return False
        return True

    told = {}
    for path in (CHECKOUT / "rules").glob("*.yml"):
        rules = [rule for group in read(path)["groups"] for rule in group["rules"] if "alert" in rule]
        told[path.name] = {passes({"alertname": rule["alert"], **rule["labels"]}) for rule in rules} - {None}

    assert told.pop(SENT_BY_PROMETHEUS) == {True}
    assert told
    assert set().union(*told.values()) == {False}


def test_alertmanager_configuration_is_sound() -> None:
    """amtool accepts the configuration; a threshold alert and one about the sidecar both reach people."""
    def asked(*arguments: str) -> str:
        done = subprocess.run([amtool(), *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    file = str(COMPOSE / "alertmanager.yml")
    assert "SUCCESS" in asked("check-config", file)
    for labels in (["alertname=RagMemoryMain", "target=rag", "level=main"], ["alertname=RagSidecarDown"]):
        assert asked("config", "routes", "test", f"--config.file={file}", *labels).strip() == "people"


@contextlib.contextmanager
def sink() -> Iterator[str]:
    """The webhook of the stack; its URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-u", COMPOSE / "sink.py", str(port)], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/"

    def answers() -> bool:
        with contextlib.suppress(OSError):
            return page(url) is not None
        return False

    try:
        wait_until(answers, 30, "the sink to answer")
        yield url
    finally:
        end(process)


def page(url: str) -> str:
    """What GET says."""
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_people_get_the_worst_level_alone(tmp_path: Path) -> None:
    """Over all three lines people are told of the critical one; another target's main one comes by itself."""
    def alert(name: str, level: str, target: str) -> dict[str, Any]:
        return {"labels": {"alertname": name, "level": level, "target": target, "job": "rag-sidecar",
                           "instance": "sidecar:11611"}, "annotations": {"summary": f"{target} is over {level}"}}

    with sink() as url:
        config = (COMPOSE / "alertmanager.yml").read_text().replace("http://sink:8080/", url)
        with running_alertmanager(tmp_path, config_yaml=config) as alertmanager:
            alertmanager.send([alert("RagMemoryPreventive", "preventive", "rag"), alert("RagMemoryMain", "main", "rag"),
                               alert("RagMemoryCritical", "critical", "rag"), alert("RagMemoryMain", "main", "other")])
            wait_until(lambda: len(page(url).splitlines()) >= 2, 30, "the sink to be told")

            told = sorted(line.split("  ")[1:] for line in page(url).splitlines())
            assert told == [["FIRING", "RagMemoryCritical", "rag", "rag is over critical"],
                            ["FIRING", "RagMemoryMain", "other", "other is over main"]]


def test_sink_refuses_what_is_no_message() -> None:
    """Whatever else is posted to the webhook is refused, and it goes on."""
    with sink() as url:
        for body in (b"", b"{}", b"[]", b'{"alerts": [1]}', b"[" * 5000):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=10)
        with pytest.raises(urllib.error.HTTPError, match="413"):
            urllib.request.urlopen(urllib.request.Request(url, b"x", {"Content-Length": "9" * 9}), timeout=10)
        assert page(url) == ""


def test_rag_of_the_demo_can_be_asked_in_three_ways(tmp_path: Path) -> None:
    """The container's RAG gives memory back by its agent's socket, by POST /cleanup and by SIGUSR2."""
    log = tmp_path / "log"
    with log.open("wb") as out:
        rag = subprocess.Popen([sys.executable, COMPOSE / "rag/app.py", "--port", "0", "--growth", "40MiB",
                                "--max-rss", "200MiB"], stdout=out, stderr=out,
                               env={**os.environ, "RAG_SIDECAR_AGENT_DIR": str(tmp_path)})
    try:
        ready = wait_until(lambda: re.search(r"ready (\S+)", log.read_text()), 60, "the RAG to be ready")
        place = tmp_path / f"rag-sidecar-{os.getuid()}" / f"{rag.pid}.sock"

        def kept() -> int:
            with Client(place) as client:
                (cache,) = client.ask("GET", "/memory").body["caches"]
            return int(cache["size_bytes"])

        wait_until(lambda: kept() > 20 * MIB, 60, "its cache to have grown")
        with Client(place) as client:
            by_agent = client.ask("POST", "/cleanup", {"level": "aggressive", "id": "a"}).body
        assert by_agent["freed_bytes"] > 10 * MIB

        wait_until(lambda: kept() > 20 * MIB, 60, "its cache to have grown again")
        body = b'{"level": "aggressive", "id": "b"}'
        with urllib.request.urlopen(f"{ready[1]}/cleanup", data=body, timeout=30) as answer:
            assert answer.status == 200

        rag.send_signal(signal.SIGUSR2)
        wait_until(lambda: "cleanup aggressive by SIGUSR2" in log.read_text(), 30, "the signal to be taken")
    finally:
        code = end(rag)
    assert code == 0
