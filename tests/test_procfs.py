"""What /proc and cgroup files say, whatever stands in them."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Target as Program
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import procfs
from sidecar.procfs import LONGEST_FILE_BYTES, KeptFile, identify, parse_keyed, parse_stat, status_field, status_mask

TREES = Path(__file__).parent / "proc"
STATUS = b"""Name:\tpython
State:\tS (sleeping)
VmRSS:\t  102400 kB
RssAnon:\t   61440 kB
RssFile:\t   36864 kB
RssShmem:\t    4096 kB
VmSwap:\t     512 kB
Threads:\t12
SigCgt:\t0000000000000a02
"""
PARSERS: list[Callable[[bytes], Any]] = [
    parse_stat, procfs.parent_pid, procfs.start_time_ticks, procfs.resident_bytes, parse_keyed, procfs.anon_bytes,
    lambda text: status_field(text, b"VmRSS"), lambda text: status_mask(text, b"SigCgt"),
    lambda text: procfs.unreclaimable_bytes(text, text), lambda text: procfs.unreclaimable_bytes(b"1", text)]
ALMOST = st.lists(st.sampled_from([
    b"\n", b" ", b"\t", b":", b")", b"(", b"RssAnon", b"VmRSS", b"SigCgt", b"kB", b"1", b"-", b"9" * 30, b"9" * 5000,
    b"total_active_file", b"\0", b"\xff", b"0x", b"_"]), max_size=40).map(b"".join)


@settings(deadline=None)
@given(st.one_of(st.binary(max_size=200), ALMOST))
def test_no_bytes_lead_to_anything_but_a_plain_error(text: bytes) -> None:
    """Garbage is refused in the three ways that every caller expects, or understood; nothing else ever comes."""
    for parse in PARSERS:
        try:
            parse(text)
        except (ValueError, KeyError, IndexError):
            continue


@pytest.mark.parametrize("name", [b"python", b") R 1 (", b"a b", b"))))", b"(", b"", b"\n", b") Z 0 0\n1 (x) S 1"])
def test_fields_of_stat_start_behind_the_name(name: bytes) -> None:
    """A process may call itself what it likes."""
    text = b"42 (" + name + b") S 1 42 42 0 -1 4194304 916 11 3 22 150 25 33 44 20 0 7 0 627893 13180928 2301\n"

    assert parse_stat(text)[0] == b"S"
    assert parse_stat(text)[17] == b"7"
    assert procfs.parent_pid(text) == 1
    assert procfs.start_time_ticks(text) == 627893


@pytest.mark.parametrize("text", [b"", b"42 (python", b"42 (python) S 1 2 3", b"42 (python) " + b"x " * 40])
def test_stat_without_a_start_is_an_error(text: bytes) -> None:
    """Cut short or garbled: no start time is made up."""
    with pytest.raises((ValueError, IndexError)):
        procfs.start_time_ticks(text)


def test_resident_size_is_the_second_number_in_pages() -> None:
    """As proc(5) has it."""
    assert procfs.resident_bytes(b"3218 2301 1511 1 0 1227 0\n") == 2301 * procfs.PAGE_BYTES


def test_numbers_of_status_are_bytes() -> None:
    """kB are 1024 bytes; what has no unit is a count; what is absent is said to be."""
    assert status_field(STATUS, b"VmRSS") == 102400 * 1024
    assert status_field(STATUS, b"Threads") == 12
    assert status_field(STATUS, b"VmLck", -1) == -1
    with pytest.raises(KeyError, match="VmLck"):
        status_field(STATUS, b"VmLck")


def test_name_of_a_process_is_no_field_of_status() -> None:
    """The kernel writes a newline in a name as `\\n`: a field begins a line, and a name never does."""
    assert status_field(b"Name:\tRssAnon:\t9 kB\\nRssAnon:\t9 kB\n" + STATUS, b"RssAnon") == 61440 * 1024


def test_huge_numbers_are_numbers() -> None:
    """A figure beyond 64 bits is still a figure; one of thousands of digits is garbage."""
    assert status_field(b"\nVmRSS:\t" + b"9" * 30 + b" kB\n", b"VmRSS") == int("9" * 30) * 1024
    with pytest.raises(ValueError, match="digits"):
        status_field(b"\nVmRSS:\t" + b"9" * 5000 + b" kB\n", b"VmRSS")


def test_masks_of_signals() -> None:
    """Bit n-1 stands for signal n: 10 is SIGUSR1, 12 SIGUSR2, 2 SIGINT."""
    mask = status_mask(STATUS, b"SigCgt")

    assert [number for number in range(1, 65) if mask >> (number - 1) & 1] == [2, 10, 12]
    with pytest.raises(KeyError, match="SigIgn"):
        status_mask(STATUS, b"SigIgn")


def test_anonymous_memory_is_what_only_the_process_can_give_back() -> None:
    """Anon, shared and swapped; where the kernel does not tell, it is not zero."""
    assert procfs.anon_bytes(STATUS) == (61440 + 4096 + 512) * 1024
    assert procfs.anon_bytes(b"\nRssAnon:\t1 kB\n") == 1024
    with pytest.raises(KeyError, match="RssAnon"):
        procfs.anon_bytes((TREES / "odd/proc/43/status").read_bytes())


def test_keyed_lines() -> None:
    """Lines that are not a word and a number are passed over."""
    assert parse_keyed(b"anon 1\nfile  2\n\nslab\nrate 0.5\nneg -1\nbig 99999999999999999999\n") == {
        b"anon": 1, b"big": 99999999999999999999}


@pytest.mark.parametrize(("stat", "left"), [
    (b"active_file 10\ninactive_file 20\n", 70), (b"", 100), (b"active_file 90\ninactive_file 20\n", 0),
    (b"active_file 1\ninactive_file 2\ntotal_active_file 10\ntotal_inactive_file 20\n", 70)])
def test_unreclaimable_bytes(stat: bytes, left: int) -> None:
    """Usage less file pages, with those of the children in v1; never negative, for the two files are read in turn."""
    assert procfs.unreclaimable_bytes(b"100\n", stat) == left


@given(st.dictionaries(st.sampled_from(
    [prefix + name for prefix in ("", "total_", "x") for name in ("active_file", "inactive_file", "cache", "anon")]),
    st.integers(0, 1 << 63)), st.booleans())
def test_guard_and_desk_find_the_same_file_pages(figures: dict[str, int], ended: bool) -> None:
    """A line means the same to both, in whatever order the kernel tells its figures."""
    stat = "\n".join(f"{name} {value}" for name, value in figures.items()).encode() + b"\n" * ended
    assert procfs.unreclaimable_bytes(b"%d\n" % (1 << 65), stat) == (1 << 65) - sum(
        procfs.file_bytes(parse_keyed(stat)))


def test_identity_of_a_running_process(spawn: Callable[..., Program]) -> None:
    """Boot, number, start and program: equal as long as it lives, and no two processes have the same."""
    first, second = (identify(spawn("no_handler").pid) for _ in range(2))

    assert identify(first.pid) == first
    assert first != second
    assert first.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    found = os.stat(sys.executable)
    assert first.exe == (found.st_dev, found.st_ino)


def test_identity_of_nobody() -> None:
    """A number that no process has, or that cannot be one, is an error of the system's kind."""
    with pytest.raises(FileNotFoundError):
        identify(2**30)
    assert identify(42, str(TREES / "odd" / "proc"))[:3] == ("00000000-1111-2222-3333-444444444444", 42, 627893)


def test_hidden_facts_are_left_out(tmp_path: Path) -> None:
    """Containers hide the boot's identity and time: empty and zero, and nothing fails."""
    assert (procfs.boot_id(str(tmp_path)), procfs.boot_time(str(tmp_path))) == ("", 0.0)
    assert procfs.boot_time(str(TREES / "odd" / "proc")) == 1700000000.0


def test_kept_file_is_read_anew_each_time(tmp_path: Path) -> None:
    """From its start, whole, however long it has become."""
    path = tmp_path / "file"
    path.write_bytes(b"short")
    kept = KeptFile(str(path), size=8)
    assert kept.read() == b"short"
    for size in (7, 8, 9, 100_000):
        path.write_bytes(b"x" * size)
        assert kept.read() == b"x" * size
    path.write_bytes(b"x" * (LONGEST_FILE_BYTES + 1))

    assert LONGEST_FILE_BYTES <= len(kept.read()) <= LONGEST_FILE_BYTES + 1


def test_kept_file_belongs_to_one_life(spawn: Callable[..., Program]) -> None:
    """After the end of its process it fails, also when the number is given to another one."""
    program = spawn("no_handler")
    kept = KeptFile(f"/proc/{program.pid}/statm")
    assert procfs.resident_bytes(kept.read()) > 0
    program.process.kill()
    program.process.wait()

    with pytest.raises(ProcessLookupError):
        kept.read()


def test_kept_file_gives_its_descriptor_back(tmp_path: Path) -> None:
    """At close, which may come twice, or with its last reference; one that was never opened has none."""
    (tmp_path / "file").touch()
    gc.collect()
    before = os.listdir("/proc/self/fd")
    kept = KeptFile(str(tmp_path / "file"))
    kept.close()
    kept.close()
    forgotten = KeptFile(str(tmp_path / "file"))
    del forgotten
    with pytest.raises(FileNotFoundError):
        KeptFile(str(tmp_path / "missing"))

    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(OSError, match="Bad file descriptor"):
        kept.read()


def test_kept_file_below_a_kept_folder(tmp_path: Path) -> None:
    """A folder that is held finds the same file, whatever becomes of its path."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    folder = os.open(tmp_path / "a", os.O_RDONLY)
    (tmp_path / "a").rename(tmp_path / "b")
    kept = KeptFile("file", dir_fd=folder)
    os.close(folder)

    assert kept.read() == b"x"


def test_importing_it_costs_next_to_nothing() -> None:
    """The guard reads these files beside a burning process: neither typing nor re is loaded for that."""
    script = "import sys; before = set(sys.modules); import sidecar.procfs; print(*set(sys.modules) - before)"
    found = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True,
                           cwd=TREES.parent.parent).stdout.split()

    assert not {"typing", "re", "dataclasses", "json", "asyncio"} & set(found)
