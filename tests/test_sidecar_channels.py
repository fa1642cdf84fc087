"""Channels as a sidecar.yml names them, from the crossing of a line to the program that is asked."""

import json
from collections.abc import Callable
from pathlib import Path

from conftest import Target, wait_until
from servers import free_port
from sidecars import config, running_sidecar

LINES = {"main": "200MiB", "critical": "260MiB"}


def test_a_program_is_run_for_a_cleanup(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """One that `allow_exec` names, for the level that has one, with its words as they stand; its doing is judged."""
    leaky = spawn("leaky", "--handle", "SIGUSR1")
    program, words = tmp_path / "clean", tmp_path / "words"
    program.write_text(f'#!/bin/sh\nprintf "%s|" "$@" "$RAG_SIDECAR_LEVEL" > {words}\nkill -USR1 "$RAG_SIDECAR_PID"\n')
    program.chmod(0o755)
    target = {"name": "t", "match": {"pid": leaky.pid}, "memory": LINES,
              "cleanup": [{"exec": {"aggressive": [str(program), "$HOME; exit 1", ""]}}]}
    port = free_port()
    file = config(port, tmp_path, [target], actions={"allow_exec": [str(program)]})
    with running_sidecar(tmp_path, file=file, port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_target_up") == 1, 20, "the target to be up")
        leaky.tell("grow 300")
        action = sidecar.outcome()

    assert (action["outcome"], action["channel"], action["cleanup"]) == ("effective", "exec", "aggressive")
    assert words.read_text() == "$HOME; exit 1||aggressive|"


def test_a_token_from_a_file_is_sent_and_never_shown(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """The program that is asked gets it as its Authorization; neither pages nor log have it."""
    requests, token = tmp_path / "requests", tmp_path / "token"
    leaky = spawn("leaky", "--http", "0", "--requests", str(requests))
    token.touch(0o600)
    token.write_text("s3cret-s3cret-s3cret\n")
    target = {"name": "t", "match": {"pid": leaky.pid}, "memory": LINES,
              "cleanup": [{"http": {"url": f"{leaky.url}/cleanup", "token_file": str(token)}}]}
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path, [target]), port=port) as sidecar:
        wait_until(lambda: sidecar.value("rag_target_up") == 1, 20, "the target to be up")
        leaky.tell("grow 300")
        action = sidecar.outcome()
        pages = "".join(sidecar.get(path) for path in ("/", "/metrics", "/api/v1/actions"))

    assert (action["outcome"], action["channel"]) == ("effective", "http")
    [asked] = [json.loads(line) for line in requests.read_text().splitlines()]
    assert asked["headers"]["Authorization"] == "Bearer s3cret-s3cret-s3cret"
    assert "s3cret" not in pages + sidecar.log.read_text()
