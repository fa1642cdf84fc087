"""Where a secret may be put, and everything that the sidecar says: what was put in comes out nowhere."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from conftest import Target, wait_until
from servers import free_port
from sidecars import Sidecar, config, running_sidecar, told

PLACES = {
    "command line of the target": "canary-1-cmdline", "environment of the target": "canary-2-target-environment",
    "environment of the sidecar": "canary-3-sidecar-environment", "endpoint.headers": "canary-4-endpoint-header",
    "query of endpoint.url": "canary-5-endpoint-query", "query of match.url": "canary-6-match-query",
    "cleanup[].http.headers": "canary-7-cleanup-header", "query of cleanup[].http.url": "canary-8-cleanup-query",
    "cleanup[].http.token_file": "canary-9-cleanup-token", "arguments of cleanup[].exec": "canary-a-argument",
    "password in alertmanagers[].url": "canary-b-url-password",
    "alertmanagers[].basic_auth.password_file": "canary-c-password",
    "alertmanagers[].authorization.credentials_file": "canary-d-credentials", "web.token_file": "canary-e-web-token",
}
"""Place → what is put there."""

EVERYTHING = quote('{__name__=~".+"}')
PAGES = [
    "/", "/graph", "/metrics", "/metrics/target/rag", "/sd", "/-/ready", "/api/v1/status/config", "/api/v1/targets",
    "/api/v1/status/runtimeinfo", "/api/v1/status/buildinfo", "/api/v1/status/tsdb", "/api/v1/alertmanagers",
    "/api/v1/targets/metadata", "/api/v1/metadata", "/api/v1/scrape_pools", "/api/v1/rules", "/api/v1/alerts",
    "/api/v2/alerts", "/api/v2/status", "/api/v1/actions", "/api/v1/mode", "/api/v1/labels",
    f"/api/v1/series?match[]={EVERYTHING}", f"/api/v1/query?query={EVERYTHING}",
]


def secret(folder: Path, place: str) -> str:
    """A file that its owner alone can read, with what is put in this place; its path."""
    file = folder / f"secret-{len(list(folder.glob('secret-*')))}"
    file.touch(0o600)
    file.write_text(PLACES[place])
    return str(file)


@pytest.fixture
def watched(spawn: Callable[..., Target], tmp_path: Path) -> Iterator[tuple[Target, Sidecar]]:
    """A target above its line and a sidecar, with something secret in every place; every way to tell somebody fails."""
    requests, port, nobody = tmp_path / "requests", free_port(), free_port()
    target = spawn("leaky", "--http", "0", "--requests", str(requests), "--answer", "error", "--handle", "SIGUSR1",
                   "--handled", str(tmp_path / PLACES["command line of the target"]),
                   env={**os.environ, "API_KEY": PLACES["environment of the target"]})
    key = {place: f"?key={canary}" for place, canary in PLACES.items()}
    headers = {place: {"X-Key": PLACES[place]} for place in ("endpoint.headers", "cleanup[].http.headers")}
    targets: list[dict[str, Any]] = [
        {"name": "rag", "match": {"pid": target.pid}, "memory": {"main": "2MiB", "critical": "3MiB", "basis": "anon"},
         "endpoint": {"url": f"{target.url}/memory{key['query of endpoint.url']}", "every": "1s",
                      "headers": headers["endpoint.headers"]},
         "cleanup": [
             {"http": {"url": f"{target.url}/away{key['query of cleanup[].http.url']}"}},
             {"http": {"url": f"{target.url}/cleanup", "headers": headers["cleanup[].http.headers"],
                       "token_file": secret(tmp_path, "cleanup[].http.token_file")}},
             {"exec": {"command": ["/bin/false", PLACES["arguments of cleanup[].exec"]]}}, {"signal": "SIGUSR1"}]},
        {"name": "far", "match": {"url": f"http://127.0.0.1:{nobody}/{key['query of match.url']}"}}]
    managers = [
        f"http://rag:{PLACES['password in alertmanagers[].url']}@127.0.0.1:{nobody}",
        {"url": f"http://127.0.0.1:{nobody}/a", "basic_auth": {
            "username": "rag", "password_file": secret(tmp_path, "alertmanagers[].basic_auth.password_file")}},
        {"url": f"http://127.0.0.1:{nobody}/b", "authorization": {
            "credentials_file": secret(tmp_path, "alertmanagers[].authorization.credentials_file")}}]
    file = config(port, tmp_path / "state", targets, alertmanagers=managers,
                  actions={"allow_exec": ["/bin/false"], "verify": {"settle": "1s", "window": "2s"}},
                  web={"listen": f"127.0.0.1:{port}", "token_file": secret(tmp_path, "web.token_file")})
    with running_sidecar(tmp_path, "--log.level", "debug", file=file, port=port,
                         env={"RAG_KEY": PLACES["environment of the sidecar"]}) as sidecar:
        yield target, sidecar


def page(sidecar: Sidecar, path: str) -> str:
    """What is served there, whatever the status."""
    try:
        return sidecar.get(path)
    except HTTPError as error:
        with error:
            return error.read().decode()


def outputs(sidecar: Sidecar, target: Target, folder: Path) -> dict[str, str]:
    """Everything that the sidecar says of itself and its target, by where."""
    found = {path: page(sidecar, path) for path in PAGES}
    settings = str(folder / "sidecar.yml")
    commands = [["check", "config", settings], ["doctor", "--config.file", settings],
                ["doctor", "--pid", str(target.pid), "-o", "json"],
                ["explain", "RagMemoryCritical", "--url", sidecar.url]]
    for words in commands:
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", *words], capture_output=True, text=True,
                              timeout=60, check=False)
        found[" ".join(words[:2])] = done.stdout + done.stderr
    found["cleanup"] = (done := told(folder, "cleanup", "--target", "rag", "--dry-run")).stdout + done.stderr
    found["export journal"] = (done := told(folder, "export", "journal")).stdout + done.stderr
    found["log"] = sidecar.log.read_text()
    for file in (folder / "state").iterdir():
        if file.is_file():
            found[file.name] = file.read_bytes().decode("utf-8", "replace")
    for pid in (sidecar.process.pid, sidecar.child("desk"), sidecar.child("courier")):
        found[f"ps {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
    return found


def test_what_is_put_in_comes_out_nowhere(watched: tuple[Target, Sidecar], tmp_path: Path) -> None:
    """No page, log line, file of state, command or process list shows a secret from any place where one may be put.

    All of them have been used: what can be sent has been sent, and every failure has been told.
    """
    target, sidecar = watched
    sidecar.outcome()
    for sentence in ("channel failed", "Alertmanager cannot be told; alerts are kept and tried again"):
        wait_until(lambda: len(sidecar.said(sentence)) >= 3, 30, sentence)  # noqa: B023 - called here
    said = outputs(sidecar, target, tmp_path)
    sent = (tmp_path / "requests").read_text()
    shown = {(place, where) for place, canary in PLACES.items() for where, text in said.items() if canary in text}

    assert all(PLACES[place] in sent for place in PLACES if place.startswith(("cleanup[]", "query of cleanup")))
    assert all(said.values()), [where for where, text in said.items() if not text]
    assert shown == set()
