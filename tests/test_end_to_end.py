"""The main job beside the real thing: a leaking process, a real Prometheus with the same rules, a real Alertmanager."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Target, wait_until
from servers import AlertRecorder, free_port, running_alertmanager, running_prometheus
from sidecars import Sidecar, config, running_sidecar

LEVELS = {"RagMemoryPreventive": 170, "RagMemoryMain": 210, "RagMemoryCritical": 270}
"""Alert → MiB at which it is the highest one of a target with main 200MiB and critical 260MiB."""


def settings(port: int, tmp_path: Path, pid: int, cleanup: list[dict[str, Any]], alertmanager: str, **more: Any) -> str:
    """The sidecar.yml that the README shows."""
    target = {"name": "t", "match": {"pid": pid}, "memory": {"main": "200MiB", "critical": "260MiB"},
              "cleanup": cleanup}
    return config(port, tmp_path, [target], alertmanagers=[alertmanager], **more)


def scraping(port: int) -> str:
    """A Prometheus that scrapes the sidecar and evaluates as often as it."""
    return ("global: {scrape_interval: 1s, evaluation_interval: 1s}\nscrape_configs:\n"
            f"- {{job_name: rag-sidecar, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}")


def firing_here(sidecar: Sidecar) -> dict[str, dict[str, str]]:
    """Name → labels of what fires in the sidecar."""
    alerts = json.loads(sidecar.get("/api/v1/alerts"))["data"]["alerts"]
    return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts if alert["state"] == "firing"}


def test_observed_levels_fire_in_order_and_prometheus_agrees(
    spawn: Callable[..., Target], tmp_path: Path, checkout: Path
) -> None:
    """Preventive, main, critical: each fires in its turn, here and in Prometheus, with the same labels; nobody acts."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    port = free_port()
    with running_alertmanager(tmp_path) as alertmanager:
        file = settings(port, tmp_path, leaky.pid, [{"signal": "SIGUSR1"}], alertmanager.url,
                        actions={"mode": "observe"})
        rules = [checkout / "rules/memory.yml"]
        with running_sidecar(tmp_path, file=file, port=port) as sidecar, \
                running_prometheus(scraping(port), tmp_path, rule_files=rules) as prometheus:
            wait_until(lambda: prometheus.query("rag_memory_used_bytes"), 30, "the first scrape")
            held = 0
            for count, (name, mebibytes) in enumerate(LEVELS.items(), start=1):
                held = leaky.tell(f"grow {mebibytes - held // 2**20}")
                wait_until(lambda name=name: name in firing_here(sidecar), 60, f"{name} to fire here")
                assert list(LEVELS)[:count] == sorted(firing_here(sidecar), key=list(LEVELS).index)
                wait_until(lambda: {
                    alert["labels"]["alertname"]: alert["labels"] for alert in prometheus.alerts()
                    if alert["state"] == "firing"} == firing_here(sidecar), 30, f"Prometheus to agree on {name}")
            wait_until(lambda: {alert["labels"]["alertname"] for alert in alertmanager.alerts()} == set(LEVELS), 20,
                       "Alertmanager to know all three")

            assert sidecar.actions() == []
            assert leaky.tell("grow 0") == held


@pytest.mark.parametrize("channel", ["signal", "http"])
def test_cleanup_in_time_is_proved_and_told(spawn: Callable[..., Target], tmp_path: Path, channel: str) -> None:
    """Over the main line: a cleanup is asked for, memory falls, Alertmanager shows the alert and then its end."""
    leaky = spawn("leaky", "--handle", "SIGUSR1", "--http", "0")
    port = free_port()
    ways = {"signal": {"signal": "SIGUSR1"}, "http": {"http": {"url": f"{leaky.url}/cleanup"}}}
    with AlertRecorder() as recorder, running_alertmanager(tmp_path, webhook_url=recorder.url) as alertmanager:
        file = settings(port, tmp_path, leaky.pid, [ways[channel]], alertmanager.url)
        with running_sidecar(tmp_path, file=file, port=port) as sidecar:
            leaky.tell("grow 220")
            attempt = sidecar.outcome(60)

            assert (attempt["outcome"], attempt["cleanup"], attempt["channel"]) == ("effective", "standard", channel)
            assert leaky.tell("grow 0") == 0
            told = {("RagMemoryMain", "firing"), ("RagMemoryMain", "resolved")}
            recorder.wait_for(
                lambda: {(alert["labels"]["alertname"], alert["status"]) for alert in recorder.alerts()} >= told,
                40, "the alert and its end at the webhook")
            assert "RagMemoryMain" not in {alert["labels"]["alertname"] for alert in alertmanager.alerts()}
