"""The sidecar of this machine that watches a process: `doctor` tells its lines, `cleanup --pid` has it clean up."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Target
from servers import free_port
from sidecars import config, running_sidecar

from sidecar.doctor.examination import Examination
from sidecar.doctor.facts import Fact
from sidecar.doctor.watched import in_force

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`rag-sidecar ARGUMENTS` of somebody who keeps no state yet: exit code, output, errors."""
    def ran(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([sys.executable, "-P", "-m", "sidecar", *arguments], capture_output=True, text=True,
                              timeout=60, check=False, env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "home")})
        return done.returncode, done.stdout, done.stderr

    return ran


def test_sidecar_is_found_by_the_process_it_watches(spawn: Callable[..., Target], tmp_path: Path, run: Run) -> None:
    """Wherever it keeps its state, the doctor tells its lines and a person's cleanup reaches it; others are told so."""
    watched, other, port = spawn("leaky", "--handle", "SIGUSR1"), spawn("leaky"), free_port()
    target = {"name": "mine", "match": {"pid": watched.pid}, "memory": {"main": "300MiB", "critical": "400MiB"},
              "cleanup": [{"signal": "SIGUSR1"}]}
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", [target]), port=port):
        socket = tmp_path / "state" / "control.sock"

        def lines(pid: int) -> str:
            code, out, _ = run("doctor", "--pid", str(pid), "-o", "json")
            assert code in (0, 3)
            (what,) = [fact["what"] for fact in json.loads(out)["targets"][0]["facts"] if fact["name"] == "lines"]
            return str(what)

        assert lines(watched.pid) == (
            f"main 300MiB, critical 400MiB (file), basis anon: in force at the sidecar at {socket}")
        assert lines(other.pid).endswith(": of a sidecar without configuration")

        code, out, errors = run("cleanup", "--pid", str(watched.pid), "--dry-run")
        assert (code, errors) == (0, "")
        assert "dry run: target mine would be asked for standard by signal" in out
        for where, said in (((), "no sidecar that we may ask here watches"),
                            (("--url", f"unix:{socket}"), f"the sidecar at {socket} does not watch"),
                            (("--url", "http://127.0.0.1:1"), "may be another one")):
            code, out, errors = run("cleanup", "--pid", str(other.pid), *where)
            assert (code, out) == (1, "")
            assert said in errors
            assert "--target NAME" in errors


@pytest.mark.parametrize(("row", "state", "said"), [
    ({"lines": None, "basis": None, "warnings": []}, "info", "not known yet to the sidecar at unix:x"),
    ({"lines": {"main": {}}, "basis": "anon", "warnings": []}, "info", "the sidecar at unix:x watches it"),
    ({"lines": {"main": {"bytes": 1 << 20, "source": "api"}, "critical": {"bytes": 1 << 21, "source": "file"}},
      "basis": "rss", "warnings": ["above the limit"]}, "warning", "main 1MiB, critical 2MiB (api, file), basis rss")])
def test_whatever_that_sidecar_says_of_its_lines_is_shown(row: dict[str, object], state: str, said: str) -> None:
    """Lines that are not known yet, that hold for a while, that are warned of, and what is no answer."""
    found = Examination("rag", 1, None, (Fact("memory", "lines", "ok", "1B"), Fact("memory", "swap", "ok", "")), ())
    lines, swap = in_force(found, row, "unix:x").facts

    assert (lines.state, swap) == (state, found.facts[1])
    assert lines.what.startswith(said)
