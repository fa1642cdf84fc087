"""Limits of cgroups as the brake changes them, on files in a folder: what is written when, and what never is."""

import json
import os
from pathlib import Path

import pytest

from sidecar.guard.held import left, write_down
from sidecar.guard.limits import MIB, V2, Refused, check, limit_of, strangers
from sidecar.procfs import boot_id

LIMIT = 512 * MIB


def said(folder: Path, **files: object) -> None:
    """Have files of a cgroup say something; `memory_max` is memory.max."""
    for name, value in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{value}\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cgroup of version 2 with a limit, in which this process lives."""
    made = tmp_path / "target"
    made.mkdir()
    said(made, memory_max=LIMIT, memory_high="max", memory_current=300 * MIB, cgroup_procs=os.getpid(),
         memory_stat="active_file 0\ninactive_file 0", memory_events="low 0\nhigh 7\nmax 0\noom 0\noom_kill 0")
    return made


def now(folder: Path, name: str) -> str:
    """What a file says."""
    return (folder / name).read_text().strip()


def test_brake_of_version_2_slows_down_below_the_limit_and_tells(folder: Path) -> None:
    """memory.high is a twentieth below the limit, at least 32 MiB, while engaged, and what it was afterwards."""
    limit = limit_of(str(folder))
    assert isinstance(limit, V2)
    check(limit, os.getpid(), 100 * MIB)
    limit.engage()

    assert now(folder, "memory.high") == str(LIMIT - 32 * MIB)
    assert limit.engaged()
    assert not limit.waiting()
    said(folder, memory_current=490 * MIB, memory_events="low 0\nhigh 8\nmax 0\noom 0\noom_kill 0")
    assert limit.waiting()
    limit.let_go()
    assert now(folder, "memory.high") == "max"
    assert now(folder, "memory.max") == str(LIMIT)


def test_loan_of_version_2_is_never_called_in_below_usage(folder: Path) -> None:
    """The kernel would kill where memory.max is put below usage: it follows usage down instead."""
    limit = limit_of(str(folder))
    limit.engage()
    limit.lend(100 * MIB)
    assert now(folder, "memory.max") == str(LIMIT + 100 * MIB)
    assert now(folder, "memory.high") == "max"

    said(folder, memory_current=580 * MIB)
    assert not limit.call_in(now=False)
    assert now(folder, "memory.max") == str(LIMIT + 100 * MIB)
    assert not limit.call_in(now=True)
    assert now(folder, "memory.max") == str(588 * MIB)
    said(folder, memory_current=600 * MIB)
    assert not limit.call_in(now=True)
    assert now(folder, "memory.max") == str(588 * MIB)
    said(folder, memory_current=300 * MIB)
    assert limit.call_in(now=False)
    assert now(folder, "memory.max") == str(LIMIT)


def test_high_that_somebody_has_set_stays(folder: Path) -> None:
    """Where memory.high is lower anyway there is nothing for us to do."""
    said(folder, memory_high=100 * MIB)
    limit = limit_of(str(folder))
    with pytest.raises(Refused, match=r"memory\.high is set"):
        limit.engage()
    assert now(folder, "memory.high") == str(100 * MIB)


def test_what_may_not_be_held_is_refused_with_its_reason(folder: Path) -> None:
    """No limit, somebody else's processes, cgroups within, no room above: nothing is written."""
    def why(loan_bytes: int = MIB) -> str:
        with pytest.raises(Refused) as refused:
            check(limit_of(str(folder)), os.getpid(), loan_bytes)
        return str(refused.value)

    said(folder, cgroup_procs=f"{os.getpid()}\n{os.getppid()}")
    assert str(os.getppid()) in why()
    said(folder, cgroup_procs=f"{os.getpid()}\n0")
    assert "not the target's: 0" in why()
    said(folder, cgroup_procs=os.getppid())
    assert "is not in" in why()
    said(folder, cgroup_procs=os.getpid(), memory_max="max")
    assert "no limit" in why()
    said(folder, memory_max=LIMIT)
    (folder / "within").mkdir()
    assert "within" in why()
    (folder / "within").rmdir()
    said(folder.parent, memory_max=LIMIT, memory_current=300 * MIB)
    assert "above it" in why()
    assert now(folder, "memory.high") == "max"


def test_descendants_are_no_strangers(folder: Path) -> None:
    """Whoever descends from the target's process belongs to it, however far below."""
    said(folder, cgroup_procs=os.getpid())
    assert strangers(limit_of(str(folder)), os.getppid()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"boot_id": 1}', '{"held": [1]}', "\0" * 100, '"held"'])
def test_file_of_what_is_held_that_makes_no_sense_is_passed_over(tmp_path: Path, text: str) -> None:
    """Torn, foreign or of another boot: nothing is put back by it, and nothing stops because of it."""
    file = tmp_path / "brake.held"
    assert left(str(file)) == []
    file.write_text(text)
    assert left(str(file)) == []
    file.write_text(json.dumps({"boot_id": boot_id(), "held": [1]}))
    assert left(str(file)) == []
    assert write_down(str(file), [{"folder": "/a"}])
    assert left(str(file)) == [{"folder": "/a"}]
    file.write_text(file.read_text().replace(boot_id(), "another"))
    assert left(str(file)) == []
    assert write_down(str(file), [])
    assert not file.exists()
    assert not write_down(str(tmp_path / "nowhere" / "brake.held"), [{"folder": "/a"}])
