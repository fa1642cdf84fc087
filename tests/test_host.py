"""The machine's memory and pressure, and how far the kernel's own counters can be off."""

import os
import shutil
import threading
from pathlib import Path

import pytest
from probing import BASE, OWN, values

from sidecar.probes import host
from sidecar.probes.host import HostProbe
from sidecar.probes.series import SeriesOf
from sidecar.procfs import PAGE_BYTES, resident_bytes, rss_error_bytes, status_field

MEMINFO = """MemTotal:       16303428 kB
MemFree:         1203428 kB
MemAvailable:    8303428 kB
Buffers:          203428 kB
Cached:          6303428 kB
SwapCached:            0 kB
AnonPages:       7000000 kB
Shmem:            103428 kB
Slab:             503428 kB
SReclaimable:     403428 kB
SUnreclaim:       100000 kB
SwapTotal:       2097148 kB
SwapFree:        2000000 kB
HugePages_Total:       0
"""
PRESSURE = """some avg10=0.31 avg60=0.12 avg300=0.02 total=4120792
full avg10=0.00 avg60=0.00 avg300=0.00 total=1000000
"""
KIB = 1024


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with memory, swap and pressure."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "pressure").mkdir()
    for resource in ("memory", "cpu", "io"):
        (tmp_path / "pressure" / resource).write_text(PRESSURE)
    return tmp_path


def read(proc: Path) -> tuple[HostProbe, dict[str, float]]:
    """A probe after its first reading, and that."""
    probe = HostProbe(SeriesOf(OWN), str(proc))
    return probe, values(probe.read(1.0))


def test_memory_swap_and_pressure_of_the_machine(proc: Path) -> None:
    """Bytes and seconds; all tasks waiting for the CPU is no figure of a machine."""
    probe, found = read(proc)

    assert found["rag_host_memory_bytes total"] == 16303428 * KIB
    assert found["rag_host_memory_bytes available"] == 8303428 * KIB
    assert found["rag_host_memory_bytes slab_unreclaimable"] == 100000 * KIB
    assert (found["rag_host_swap_bytes total"], found["rag_host_swap_bytes free"]) == (2097148 * KIB, 2000000 * KIB)
    assert found["rag_host_pressure_seconds_total some memory"] == 4.120792
    assert found["rag_host_pressure_seconds_total full io"] == 1.0
    assert "rag_host_pressure_seconds_total some cpu" in found
    assert "rag_host_pressure_seconds_total full cpu" not in found
    assert probe.missing == {}


def test_samples_are_declared_and_belong_to_no_target(proc: Path) -> None:
    """The machine is nobody's: no label `target`; what it leaves to a target is that target's."""
    probe = HostProbe(SeriesOf(OWN), str(proc))
    samples = probe.read(3.0)
    headroom = probe.headroom(SeriesOf(BASE), 3.0)

    assert {sample.labels.metric for sample in samples} == {metric.name for metric in host.METRICS}
    assert not any("target" in sample.labels for sample in samples)
    assert values(headroom) == {"rag_memory_headroom_bytes host": 8303428 * KIB}
    assert headroom[0].labels["target"] == "rag"


def test_kernel_without_pressure(proc: Path) -> None:
    """Built without it, or started without `psi=1`: left out and named; memory goes on."""
    shutil.rmtree(proc / "pressure")
    probe, found = read(proc)

    assert not [name for name in found if "pressure" in name]
    assert "pressure" in probe.missing
    assert found["rag_host_memory_bytes total"] > 0


def test_pressure_that_is_switched_off_while_we_look(proc: Path) -> None:
    """What cannot be read, or is not what it should be, is left out and named; the other resources stay."""
    (proc / "pressure/io").write_text("some avg10=0.00\n")
    (proc / "pressure/cpu").unlink()
    (proc / "pressure/cpu").mkdir()
    probe, found = read(proc)

    assert {name.split()[2] for name in found if "pressure" in name} == {"memory"}
    assert "pressure" in probe.missing


def test_old_kernel_that_knows_nothing_of_available_memory(proc: Path) -> None:
    """Before 3.14, or a sandbox: no headroom is better than a guessed one."""
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 500 kB\n")
    probe, found = read(proc)

    assert found == {name: value for name, value in found.items() if "available" not in name}
    assert probe.headroom(SeriesOf(BASE), 1.0) == []


def test_this_machine() -> None:
    """What is available is between nothing and everything."""
    probe = HostProbe(SeriesOf(OWN))
    found = values(probe.read(1.0))
    probe.close()

    assert 0 < found["rag_host_memory_bytes available"] <= found["rag_host_memory_bytes total"]
    assert found["rag_host_memory_bytes total"] == pytest.approx(os.sysconf("SC_PHYS_PAGES") * PAGE_BYTES, rel=0.01)


@pytest.mark.parametrize(("release", "cpus", "threads", "pages"), [
    ("5.15.0-91-generic", 64, 10, 640),
    ("4.19.0", 2, 1, 64),
    ("6.2.0", 2, 400, 3 * 32 * 2),
    ("6.8.0-31-generic", 64, 1, 3 * 128 * 64),
    ("6.12.38+deb13-amd64", 4, 1, 3 * 32 * 4),
    ("6.12.39", 4, 1, 0),
    ("6.13.1", 4, 1, 3 * 32 * 4),
    ("6.16.0-rc7", 256, 1, 0),
    ("6.18.44-fc", 256, 90, 0),
    ("7.0", 256, 90, 0),
    ("sandbox", 2, 100, 6400),
    ("", 64, 1, 3 * 128 * 64),
    ("6.²", 64, 1, 3 * 128 * 64),
])
def test_error_of_resident_sizes(release: str, cpus: int, threads: int, pages: int) -> None:
    """By thread before 6.2, by CPU since, none where the kernel adds up; the worse of both for a strange release."""
    assert rss_error_bytes(release, cpus, threads) == pages * PAGE_BYTES


def test_error_of_resident_sizes_holds_here() -> None:
    """What statm says and what the page tables hold differ by no more than that, with threads that touch memory."""
    held = []
    worst = 0
    for _ in range(20):
        held.append(bytearray(1 << 20))
        thread = threading.Thread(target=lambda: held.append(bytearray(b"x" * (3 << 20))))
        thread.start()
        thread.join()
        statm = resident_bytes(Path("/proc/self/statm").read_bytes())
        exact = status_field(Path("/proc/self/smaps_rollup").read_bytes(), b"Rss")
        worst = max(worst, abs(statm - exact))

    slack = 128 * KIB  # the reading itself takes memory
    assert worst <= rss_error_bytes(os.uname().release, os.cpu_count() or 1, 2) + slack
