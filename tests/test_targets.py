"""The target programs and servers themselves: what other tests build on must hold."""

import json
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from servers import AlertRecorder, running_alertmanager, running_prometheus, wait_until

from sidecar import procfs

MIB = 1024 * 1024


def anon_bytes(pid: int) -> int:
    """RssAnon, the kernel's word for memory that is really there."""
    return procfs.status_field(Path(f"/proc/{pid}/status").read_bytes(), b"RssAnon")


def post_cleanup(url: str) -> bytes:
    """The answer to POST /cleanup."""
    request = urllib.request.Request(f"{url}/cleanup", b'{"level": "standard"}')
    with urllib.request.urlopen(request, timeout=10) as answer:
        content: bytes = answer.read()
        return content


def interpreters() -> list[str]:
    """This Python, and those from 3.8 on that pyenv holds here, in the order of their versions."""
    versions = (Path.home() / ".pyenv" / "versions").glob("3.*/bin/python3")
    numbered = sorted((tuple(map(int, path.parts[-3].split(".")[:2])), str(path)) for path in versions)
    return [sys.executable, *(path for version, path in numbered if version >= (3, 8))]


@pytest.mark.parametrize("python", interpreters())
def test_leaky_takes_real_memory_and_gives_it_back_on_a_signal(spawn, tmp_path, python):
    """What it takes shows in the kernel's count, and is gone there when the handled signal has been noted."""
    handled = tmp_path / "handled"
    target = spawn("leaky", "--handle", "SIGUSR1", "--handled", str(handled), python=python)
    before = anon_bytes(target.pid)

    assert target.tell("grow 50") == 50 * MIB
    assert anon_bytes(target.pid) - before == pytest.approx(50 * MIB, abs=2 * MIB)

    target.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: handled.exists() and handled.read_bytes(), 10, "the note of the signal")
    assert json.loads(handled.read_bytes())["freed_bytes"] == 50 * MIB
    assert anon_bytes(target.pid) - before == pytest.approx(0, abs=2 * MIB)


def test_leaky_cleans_up_over_http_and_notes_the_request(spawn, tmp_path):
    """A cleanup over HTTP frees what was held, says so, and what was asked can be read afterwards."""
    requests = tmp_path / "requests"
    target = spawn("leaky", "--http", "0", "--requests", str(requests))
    target.tell("grow 20")

    assert json.loads(post_cleanup(target.url))["freed_bytes"] == 20 * MIB
    assert json.loads(json.loads(requests.read_bytes())["body"]) == {"level": "standard"}
    assert target.tell("grow 1") == MIB


@pytest.mark.parametrize(("answer", "size"), [("html", 37), ("huge", 100_000_000)])
def test_leaky_answers_badly_when_told(spawn, answer, size):
    """A page or 100 MB instead of JSON arrive in full, and nothing is freed."""
    target = spawn("leaky", "--http", "0", "--answer", answer)
    target.tell("grow 5")

    assert len(post_cleanup(target.url)) == size
    assert target.tell("grow 1") == 6 * MIB


def test_leaky_grows_at_the_rate_and_stops_at_its_limit(spawn):
    """A rate needs no further command, and the limit holds."""
    target = spawn("leaky", "--rate", "500", "--limit", "60")

    wait_until(lambda: target.tell("grow 0") == 60 * MIB, 30, "60 MiB")
    assert target.tell("grow 1") == 60 * MIB


def test_stubborn_survives_the_signal_and_keeps_its_memory(spawn):
    """A handler that frees nothing frees nothing."""
    target = spawn("stubborn")
    target.tell("grow 5")
    target.process.send_signal(signal.SIGUSR1)

    assert target.tell("grow 1") == 6 * MIB


def test_a_target_without_handler_dies_of_the_signal(spawn):
    """SIGUSR1 kills who has no handler: the danger that the guard has to see beforehand."""
    target = spawn("no_handler")
    target.process.send_signal(signal.SIGUSR1)

    assert target.process.wait(10) == -signal.SIGUSR1


def test_an_alert_travels_from_prometheus_through_alertmanager_to_a_receiver(tmp_path):
    """The three servers of the tests work together: a rule fires in the first and its alert reaches the last."""
    rules = tmp_path / "rules.yml"
    rules.write_text("groups: [{name: g, interval: 200ms, rules: [{alert: Always, expr: vector(1)}]}]")
    with AlertRecorder() as recorder, running_alertmanager(tmp_path, f"{recorder.url}/hook") as manager:
        peers = json.dumps([{"static_configs": [{"targets": [manager.url.removeprefix("http://")]}]}])
        config = f"alerting: {{alertmanagers: {peers}}}"
        # Prometheus knows its Alertmanagers only some seconds after it is ready; what it sent before is sent again.
        again = ["--rules.alert.resend-delay=1s"]
        with running_prometheus(config, tmp_path, [rules], again) as prometheus:
            recorder.wait_for(lambda: bool(recorder.posts), 60, "the webhook's post")

            assert recorder.posts[0].path == "/hook"
            assert recorder.alerts()[0]["labels"]["alertname"] == "Always"
            assert manager.alerts()[0]["labels"]["alertname"] == "Always"
            assert prometheus.query("ALERTS")["result"][0]["metric"]["alertstate"] == "firing"


def test_the_recorder_answers_as_told(tmp_path):
    """An error status is what a client sees, a hanging answer comes when it is released, and both are recorded."""
    with AlertRecorder(status=500) as recorder:
        with pytest.raises(urllib.request.HTTPError) as caught:
            post_cleanup(recorder.url)
        caught.value.close()
        recorder.hang = True
        recorder.status = 200
        request = urllib.request.Request(f"{recorder.url}/api/v2/alerts", b"[]")
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(request, timeout=0.2)

    assert [post.path for post in recorder.posts] == ["/cleanup", "/api/v2/alerts"]
