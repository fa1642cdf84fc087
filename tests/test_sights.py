"""What cannot be seen of a target, each with the reason that the kernel, the agent or the endpoint gave."""

import html
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Target as Program
from probing import NOBODY, OWN, Obedient, seen_as, target
from servers import free_port, wait_until
from sidecars import Sidecar, config, running_sidecar

from sidecar.model import Target
from sidecar.probes.sampler import Sampler

Spawn = Callable[..., Program]


def told(sidecar: Sidecar, name: str = "rag") -> dict[str, str]:
    """What a sidecar says of a target: capability → why it cannot be seen, "" where it can."""
    found = json.loads(sidecar.get(f"/api/v1/capabilities?target={name}"))["data"]["targets"]
    assert [each["target"] for each in found] in ([name], [])
    rows = [row for each in found for row in each["capabilities"]]
    assert all(row["seen"] == (row["reason"] == "") for row in rows)
    return {row["capability"]: row["reason"] for row in rows}


def becomes(sidecar: Sidecar, capability: str, words: str, name: str = "rag") -> str:
    """Wait until the reason has these words; the page then has them, too."""
    wait_until(lambda: words in told(sidecar, name).get(capability, "?"), 20, f"{words!r} as to {capability} of {name}")
    said = told(sidecar, name)[capability]
    assert words.lower() in html.unescape(sidecar.get("/")).lower()
    return said


@pytest.fixture
def obedient() -> Iterator[Obedient]:
    """A Python that does as it is told."""
    made = Obedient()
    yield made
    made.end()


@pytest.fixture
def another() -> Iterator[Obedient]:
    """A program of another user."""
    if os.geteuid():
        pytest.skip("only root becomes somebody else")
    made = Obedient(preexec_fn=lambda: os.setuid(54321), cwd="/")
    yield made
    made.end()


def become_nobody() -> None:
    """The user `nobody`, without any right."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def test_another_users_files_are_named_with_the_refusal(another: Obedient) -> None:
    """Of a program of another user each file that may not be read is named, with what the kernel said."""
    pid = another.process.pid
    found = seen_as(become_nobody, lambda: Sampler(OWN, time.monotonic).read([target(pid)], 1.0).sights["rag"].missing)

    for name, file in (("fd", "fd"), ("io", "io"), ("pss", "smaps_rollup"), ("gc", "mem")):
        assert found[name] == f"Permission denied: /proc/{pid}/{file}", name
    assert {"process", "anon", "tree"}.isdisjoint(found)


def test_without_a_limit_that_is_said(obedient: Obedient) -> None:
    """Where no limit can be seen the reason says whether none is set, or the cgroup itself is not visible."""
    reading = Sampler(OWN, time.monotonic).read([target(obedient.process.pid)], 1.0)
    sight = reading.sights["rag"]

    if reading.limits["rag"] is not None:
        assert "limit" not in sight.missing
    elif "cgroup" in sight.missing:
        assert sight.missing["limit"] == sight.missing["cgroup"] != ""
    else:
        assert "no memory limit is set" in sight.missing["limit"]


def test_a_cgroup_that_is_not_mounted_is_named(obedient: Obedient, tmp_path: Path) -> None:
    """Where /sys/fs/cgroup shows nothing of the target, the reason names the cgroup that was looked for."""
    sampler = Sampler(OWN, time.monotonic, sys=str(tmp_path / "sys"))
    missing = sampler.read([target(obedient.process.pid)], 1.0).sights["rag"].missing

    assert "no memory cgroup" in missing["cgroup"]
    assert missing["limit"] == missing["cgroup"]


def test_a_process_that_is_not_there_is_missing_with_how_it_was_looked_for() -> None:
    """Of a target without a process only that is said, with how it was looked for; of a URL alone nothing is."""
    sampler = Sampler(OWN, time.monotonic)
    found = sampler.read([Target("rag", OWN, None, "no process is found now by port 1"), Target("url", OWN, None)], 1.0)

    assert found.sights["rag"].missing == {"process": "no process is found now by port 1"}
    assert found.sights["url"] == ((), {})


def test_the_same_reasons_are_the_same_object(obedient: Obedient) -> None:
    """Reasons that stay as they are take no new memory at every tick."""
    sampler, it = Sampler(OWN, time.monotonic), target(obedient.process.pid)
    sampler.read([it], 1.0)
    first, second = (sampler.read([it], at).sights["rag"].missing for at in (2.0, 3.0))

    assert first is second


def test_an_agent_that_is_not_understood_is_told(spawn: Spawn, tmp_path: Path) -> None:
    """Something that listens where an agent would, and speaks otherwise, is named with what was odd about it."""
    odd = {"list": "what answers there is not an object", "error": "answered 500",
           "garbage": "an agent was there and is not used"}
    targets = []
    for answer in odd:
        (place := tmp_path / answer).mkdir()
        program = spawn("odd_agent", "--place", str(place), "--answer", answer)
        targets.append({"name": answer, "match": {"pid": program.pid}, "agent": {"directory": str(place)}})
    port = free_port()
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", targets), port=port) as sidecar:
        for answer, words in odd.items():
            becomes(sidecar, "agent", words, answer)


def test_without_an_agent_the_places_are_named(spawn: Spawn, tmp_path: Path) -> None:
    """Where no agent is, the reason says which socket was looked for, and where; when the target ends, that it did."""
    program, port = spawn("leaky"), free_port()
    targets = [{"name": "rag", "match": {"pid": program.pid}}]
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", targets), port=port) as sidecar:
        said = becomes(sidecar, "agent", f"no socket rag-sidecar-{os.geteuid()}/{program.pid}.sock below")
        assert said.endswith("/run/rag-sidecar, /tmp, /dev/shm, /var/tmp")
        program.process.kill()
        program.process.wait()
        becomes(sidecar, "process", f"no process is found now by pid {program.pid}")
        assert set(told(sidecar)) == {"process"}
        assert told(sidecar, "other") == {}


def test_an_endpoint_that_answers_nonsense_is_told(spawn: Spawn, tmp_path: Path) -> None:
    """An endpoint that answers something else than figures is missing, with what was odd about its answer."""
    nonsense = {"garbage": "no answer in HTTP", "html": "line 1", "error": "answered 500", "redirect": "answered 302"}
    programs, port = {path: spawn("endpoint") for path in nonsense}, free_port()
    targets = [{"name": path, "match": {"pid": program.pid},
                "endpoint": {"url": f"http://127.0.0.1:{program.said['http']}/{path}", "every": "1s"}}
               for path, program in programs.items()]
    with running_sidecar(tmp_path, file=config(port, tmp_path / "state", targets), port=port) as sidecar:
        for path, words in nonsense.items():
            becomes(sidecar, "endpoint", words, path)
