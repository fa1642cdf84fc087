"""The commands `pause`, `resume`, `unpark` and `cleanup`, as a user types them: what they say, and their exit codes."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ordering import NOW, TOKEN, Desk
from servers import free_port

from sidecar.cli import main
from sidecar.web.control import build_control, listening
from sidecar.web.server import build, serving
from sidecar.web.view import View

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A file with the token."""
    file = tmp_path / "token"
    file.touch(0o600)
    file.write_text(f"{TOKEN}\n")
    return file


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(desk, "pause", …)`: the exit code, what was printed and what was said of errors; tcp=True: by its URL."""

    def told(desk: Desk, *arguments: str, tcp: bool = False) -> tuple[int, str, str]:
        async def steps() -> int:
            view = View(hands=desk.hands())
            if tcp:
                async with serving(build(view, token=TOKEN), ["127.0.0.1:0"]) as (url,):
                    return await asyncio.to_thread(main, [*arguments, "--url", url])
            async with listening(build_control(view), tmp_path / "state"):
                return await asyncio.to_thread(main, [*arguments, "--storage.path", str(tmp_path / "state")])

        code = asyncio.run(steps())
        said = capsys.readouterr()
        return code, said.out, said.err

    return told


@pytest.mark.parametrize(("arguments", "lines", "said"), [
    (["pause"], ["rag: paused until `rag-sidecar resume`", "web: paused until `rag-sidecar resume`"],
     ("pause", None, None)),
    (["pause", "--target", "web"], ["web: paused until `rag-sidecar resume`"], ("pause", "web", None)),
    (["resume"], ["rag: acted on", "web: acted on"], ("resume", None)),
    (["unpark"], ["rag: tried again", "web: was not parked; what did not help is tried again"], ("unpark", None))])
def test_orders_are_carried_out_and_told(
        run: Run, arguments: Sequence[str], lines: list[str], said: tuple[str, ...]) -> None:
    """Each command says of each target what holds now, and ends with 0."""
    desk = Desk(targets=("rag", "web"))

    assert run(desk, *arguments) == (0, "\n".join(lines) + "\n", "")
    assert desk.said == [said]


def test_pause_for_a_while_says_until_when(run: Run) -> None:
    """The end of a pause is told as a moment; for programs as Unix time."""
    desk = Desk()
    code, out, _ = run(desk, "pause", "--for", "30m", "-o", "json")

    assert (code, json.loads(out)) == (0, {"targets": [{"target": "rag", "paused": True, "until": NOW + 1800}]})
    assert run(desk, "pause", "--for", "1h")[1].startswith("rag: paused until 2026-11-20 ")


def test_guard_that_does_not_confirm_is_a_failure(run: Run) -> None:
    """When the guard keeps silent the exit code is 1, and the kill-switch is named."""
    code, out, error = run(Desk(acknowledged_at=NOW + 1e9), "pause")

    assert (code, out) == (1, "")
    assert "the guard has not said" in error
    assert "kill-switch" in error


@pytest.mark.parametrize("arguments", [["pause", "--target", "x"], ["pause", "--for", "30"], ["pause", "--for", "0s"]])
def test_what_makes_no_sense_is_a_failure(run: Run, arguments: Sequence[str]) -> None:
    """An unknown target or a duration that is none: exit code 1, a reason, and nothing is done."""
    desk = Desk()
    code, out, error = run(desk, *arguments)

    assert (code, out) == (1, "")
    assert "there is rag" in error or "a duration such as" in error or "how long" in error
    assert desk.said == []


def test_with_the_token_it_works_from_elsewhere(run: Run, token_file: Path) -> None:
    """--url http://… and --token-file reach the web server of a sidecar."""
    desk = Desk()

    assert run(desk, "pause", "--token-file", str(token_file), tcp=True)[0] == 0
    assert desk.said == [("pause", None, None)]


def test_wrong_token_is_a_refusal(run: Run, token_file: Path) -> None:
    """Another token: exit code 4, and neither token is shown."""
    token_file.write_text("x" * 40)
    code, out, error = run(Desk(), "resume", "--token-file", str(token_file), tcp=True)

    assert (code, out) == (4, "")
    assert "not the token" in error
    assert "xxxx" not in error


def test_cleanup_over_tcp_waits_and_is_followed(run: Run, token_file: Path) -> None:
    """A cleanup with the token is a wish: it waits until it is allowed, and what became of it is told."""
    desk = Desk(granted_at=NOW + 5)
    code, out, _ = run(desk, "cleanup", "--level", "aggressive", "--token-file", str(token_file), tcp=True)

    assert code == 0
    assert "effective: memory has fallen" in out
    assert desk.wishes[0].asked.cleanup == "aggressive"
    assert desk.orders == []


@pytest.mark.parametrize(("row", "lines"), [
    ({"kind": "retention", "before_bytes": 3 << 20, "after_bytes": 1 << 20}, [
        "effective: memory has fallen", "  it was    retention (docs/verdicts.md)"]),
    ({"kind": "unknown", "before_bytes": 1 << 20, "after_bytes": 3 << 20}, [
        "effective: memory has grown less than it would have"]),
    ({"before_bytes": 234 << 20, "after_bytes": 193 << 20, "freed_bytes": 114 << 20}, [
        "  freed     114.0 MiB: 73.0 MiB of it against its growth, which would have gone on\n"]),
    ({"before_bytes": 234 << 20, "after_bytes": 134 << 20, "freed_bytes": 40 << 20}, [
        "  freed     40.0 MiB: 60.0 MiB fell that may have fallen without it\n"]),
    ({"before_bytes": 234 << 20, "after_bytes": 134 << 20, "freed_bytes": 100 << 20}, ["  freed     100.0 MiB\n"]),
    ({"before_bytes": 234 << 20, "freed_bytes": None}, ["  freed     -\n"]),
    ({"channel": "exec", "outcome": "dry_run"}, ["dry run: target", "by the program"]),
    ({"outcome": "interrupted", "reason": "restart"}, ["interrupted (restart): the sidecar was restarted"])])
def test_cleanup_says_what_has_become_of_it(run: Run, row: dict[str, Any], lines: Sequence[str]) -> None:
    """What was asked, whether it helped, and what the memory was, where that is known, in words that are true."""
    desk = Desk()
    desk.row |= row
    _, out, _ = run(desk, "cleanup")

    assert [line for line in lines if line not in out] == []
    assert ("it was" in out) == (row.get("kind") == "retention")


def test_cleanup_over_tcp_that_is_not_allowed_is_a_refusal(run: Run, token_file: Path) -> None:
    """When the wish has had its time the exit code is 4, with what held it back."""
    desk = Desk(granted_at=NOW + 1e9)
    code, _, error = run(desk, "cleanup", "--token-file", str(token_file), tcp=True)

    assert code == 4
    assert "no alert asks for a cleanup" in error


@pytest.mark.parametrize(("arguments", "said"), [
    (["pause", "--url", "http://127.0.0.1:11611"], "without a token"),
    (["pause", "--token-file", "TOKEN"], "--url http"),
    (["pause", "--url", "ftp://x"], "no address of a sidecar"),
    (["pause", "--url", "http://127.0.0.1:PORT", "--token-file", "TOKEN"], "cannot reach http://127.0.0.1:"),
    (["pause", "--url", "http://127.0.0.1:x", "--token-file", "TOKEN"], "no address of a server"),
    (["pause", "--url", "http://127.0.0.1:11611", "--token-file", "OPEN"], "chmod 600"),
    (["cleanup", "--dry-run", "--url", "http://127.0.0.1:11611", "--token-file", "TOKEN"], "control socket"),
    (["pause", "--storage.path", "NOWHERE"], "no sidecar listens at")])
def test_what_cannot_be_reached_is_said(
        tmp_path: Path, token_file: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], said: str,
) -> None:
    """Whatever is wrong on the way to the sidecar: exit code 1, what was tried, and what to do about it."""
    (tmp_path / "open").write_text(TOKEN)
    (tmp_path / "open").chmod(0o644)
    places = {"TOKEN": str(token_file), "OPEN": str(tmp_path / "open"), "NOWHERE": str(tmp_path / "nowhere")}
    port = str(free_port())

    assert main([places.get(argument, argument).replace("PORT", port) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) >= 1
