"""`-o json` of commands that mostly talk to people: one object, for errors too, and the same exit code."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Target
from servers import free_port
from sidecars import running_sidecar


def both(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Run a command in both forms: the exit code that both have, the object, and what people read."""
    text, other = (subprocess.run([sys.executable, "-P", "-m", "sidecar", *arguments, *form], capture_output=True,
                                  text=True, timeout=60, check=False) for form in ((), ("-o", "json")))
    assert (other.returncode, other.stderr) == (text.returncode, "")
    return text.returncode, json.loads(other.stdout), text.stdout + text.stderr


def test_whether_a_sidecar_answers_is_told_as_an_object(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """`check healthy` and `check ready` say whom they asked and what was answered, or why nobody answers."""
    with running_sidecar(tmp_path, "--pid", str(spawn("leaky").pid)) as sidecar:
        for what in ("healthy", "ready"):
            code, found, text = both("check", what, "--url", sidecar.url)
            assert (code, found) == (0, {"status": "success", "url": sidecar.url, "answer": text.strip()})
    nobody = f"http://127.0.0.1:{free_port()}"
    code, found, text = both("check", "healthy", "--url", nobody)
    assert (code, found["status"], found["url"]) == (1, "error", nobody)
    assert f"rag-sidecar: {found['error']}\n  {found['help']}\n" == text


def test_files_of_tls_and_passwords_are_told_as_an_object(tmp_path: Path) -> None:
    """`check web-config` has an entry for each file, with each mistake where it is."""
    good, bad = tmp_path / "good.yml", tmp_path / "bad.yml"
    good.write_text("http_server_config: {headers: {X-Frame-Options: deny}}\n")
    bad.write_text("\nnonsense: 1\n")

    assert both("check", "web-config", str(good))[:2] == (0, {"status": "success", "files": [
        {"file": str(good), "problems": [], "tls": False, "users": 0, "headers": 1}]})
    code, found, text = both("check", "web-config", str(good), str(bad))
    assert (code, found["status"], found["files"][0]["problems"]) == (1, "error", [])
    (problem,) = found["files"][1]["problems"]
    assert (problem["file"], problem["line"]) == (str(bad), 2)
    assert found["error"] in text


def test_exported_files_are_told_as_an_object(tmp_path: Path) -> None:
    """`export agent` names each file; where one is in the way the object has the error."""
    folder = tmp_path / "agent"
    code, found, _ = both("export", "agent", str(folder))
    assert (code, [Path(file["path"]).name for file in found["files"]]) == (0, ["agent.py", "README.md"])

    (folder / "agent.py").write_text("mine")
    code, found, text = both("export", "agent", str(folder))
    assert (code, found["status"]) == (1, "error")
    assert found["error"] in text


def test_refused_agent_is_told_as_an_object(spawn: Callable[..., Target]) -> None:
    """`attach` to a program that cannot take in code has the exit code 4 and the reason in both forms."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    for pid in (gone.pid, spawn("leaky").pid):
        code, found, text = both("attach", str(pid), "--yes")
        assert (code, found["status"], found["pid"]) == (4, "error", pid)
        assert found["error"] in text
