"""What the memory was, and what a cleanup cost: from facts that a person can weigh, and from real processes."""

import json
import mmap
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from sidecar.actions.cost import WINDOW_SECONDS, extra
from sidecar.actions.kind import CAME_BACK, MEANINGS, WARM_UP_SECONDS, Facts, Kind, Memory, kind_of, sentences
from sidecar.actions.verify import Reading
from tests.conftest import Target

MIB = 1 << 20
FREED = 200.0 * MIB
ANON = Memory(1000.0 * MIB, 1000.0 * MIB, 50.0 * MIB, 1050.0 * MIB)
MAPPED = Memory(1000.0 * MIB, 300.0 * MIB, 700.0 * MIB, 1000.0 * MIB)
"""On the basis `rss`: 700 MiB of it are pages of files."""


def step(name: str, mib: float = 0.0, **more: Any) -> dict[str, Any]:
    """A step as the agent tells it."""
    return {"step": name, "freed_bytes": mib * MIB, **more}


GC, RELEASE, DOCUMENTS = step("gc", objects=40), step("release", 200), step("cache:documents")


def freed(*steps: dict[str, Any], **more: Any) -> Facts:
    """An effective cleanup of 200 MiB with these steps."""
    return Facts("effective", FREED, cleanup="standard", steps=steps, before=ANON, age_seconds=3600.0, **more)


def kept(**more: Any) -> Facts:
    """A second cleanup that freed nothing of a process that grows by 1 MiB/s."""
    return Facts("ineffective", 0.0, 1.0 * MIB, "standard", before=ANON, age_seconds=3600.0, failed=1)._replace(**more)


@pytest.mark.parametrize(("facts", "kind"), [
    (freed(GC, RELEASE), "retention"),
    (freed(step("gc", 150), step("release", 30)), "retention"),  # garbage in cycles
    (freed(GC, step("torch:cuda:0", 120), step("release", 80)), "retention"),
    (freed(GC, RELEASE, rebounded=True), "retention"),
    (freed(step("cache:a", 90), step("cleaner:b", 40), GC, step("release", 70)), "cache"),
    (freed(step("model:reranker", 190), GC, step("release", 10)), "cache"),
    (freed(DOCUMENTS, GC, RELEASE, releasable_bytes=10.0 * MIB), "cache"),  # let go of first, released at the end
    (freed(DOCUMENTS, GC, RELEASE, releasable_bytes=190.0 * MIB), "retention"),  # it had been free before
    (freed(DOCUMENTS, GC, RELEASE), "unknown"),  # of the two nobody knows which
    (freed(DOCUMENTS, step("gc", objects=50_000), RELEASE, releasable_bytes=0.0), "unknown"),  # or garbage
    (freed({**DOCUMENTS, "error": "its lock was not to be had"}, GC, RELEASE), "retention"),
    (freed(), "unknown"),  # no agent
    (freed(step("release", 2000)), "unknown"),  # it tells of more than was seen from outside
    (freed(step("release", 20)), "unknown"),  # and of less
    (freed(step("release", -200)), "unknown"),
    (freed({"step": "release", "freed_bytes": "200"}, {}, {"step": 7}), "unknown"),  # what is no figure is none
    (freed(GC, RELEASE)._replace(outcome="partial"), "retention"),
    (freed(GC, RELEASE)._replace(freed_bytes=None), "unknown"),
    (kept(), "leak"),
    (kept(failed=0), "unknown"),  # one may have come at a bad time
    (kept(helped=1), "unknown"),  # others got something back
    (kept(cleanup="light"), "unknown"),  # caches were not its business
    (kept(growth=0.0), "unknown"),  # in use, and no more than before
    (kept(growth=0.1 * MIB), "unknown"),  # 6 MiB in the minute are breath
    (kept(age_seconds=None), "unknown"),
    (kept(age_seconds=60.0), "warm_up"),
    (kept(age_seconds=60.0, growth=0.0), "unknown"),
    (kept(age_seconds=WARM_UP_SECONDS), "leak"),
    (kept(before=MAPPED), "file_mapped"),
    (kept(before=MAPPED, age_seconds=60.0), "file_mapped"),
    (kept(before=MAPPED._replace(anon_bytes=None)), "leak"),  # not known to be files
    (kept(before=Memory(1000.0 * MIB, 1000.0 * MIB, 5000.0 * MIB, 6000.0 * MIB)), "leak"),  # there, but not compared
    (Facts("effective", FREED, before=MAPPED, after=Memory(800.0 * MIB, 290.0 * MIB, 510.0 * MIB, 800.0 * MIB)),
     "file_mapped"),
    (Facts("effective", FREED, before=MAPPED, after=Memory(800.0 * MIB, 100.0 * MIB, 700.0 * MIB, 800.0 * MIB)),
     "unknown"),
    (Facts("effective", FREED, before=MAPPED, after=Memory(1100.0 * MIB, 400.0 * MIB, 700.0 * MIB, 1100.0 * MIB)),
     "unknown"),  # nothing fell: what was freed would have come
    (Facts("effective", FREED, before=MAPPED), "unknown"),
    (kept(before=MAPPED._replace(file_bytes=100.0 * MIB)), "leak"),  # neither anonymous nor of files: what a page tells
    *((Facts(outcome, FREED, steps=(GC, RELEASE)), "unknown")
      for outcome in ("unknown", "undelivered", "refused", "skipped", "dry_run", "interrupted", "")),
])
def test_kind_is_what_the_facts_carry(facts: Facts, kind: Kind) -> None:
    """Retention, cache, leak, mapped files or warm-up where it shows; unknown everywhere else."""
    assert kind_of(facts) == kind


def test_people_are_told_what_it_is_and_what_helps() -> None:
    """Each kind has words of its own, and memory that came back is mentioned."""
    assert set(MEANINGS) == set(get_args(Kind))
    assert len({meaning.helps for meaning in MEANINGS.values()}) == len(MEANINGS)
    assert sentences(kept()) == " ".join(MEANINGS["leak"])
    assert CAME_BACK in sentences(freed(GC, RELEASE, rebounded=True))
    assert CAME_BACK not in sentences(freed(GC, RELEASE, rebounded=False))


PROGRAM = """
import json, sys
from sidecar import agent

held = []
def anon():
    with open("/proc/self/status") as file:
        return int(next(line.split()[1] for line in file if line.startswith("RssAnon"))) * 1024

{setting}
before = anon()
result = agent.cleanup("{level}")
print(json.dumps({{"before": before, "after": anon(), "result": result}}))
"""

HOLES = """
blocks = [bytes(12_000 if number % 2 else 900) for number in range(40_000)]
held.extend(blocks[::2])
del blocks
"""
"""240 MB are free in malloc, between small blocks that live."""

CACHE = """
cache = {number: bytearray(1 << 20) for number in range(120)}
agent.register_cache("documents", cache)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="light cleanups trim glibc's malloc")
@pytest.mark.parametrize(("setting", "level", "kind"), [
    (HOLES, "light", "retention"), (CACHE, "aggressive", "cache"), (HOLES + CACHE, "light", "retention")])
def test_real_cleanup_is_told_apart_by_its_steps(checkout: Path, setting: str, level: str, kind: Kind) -> None:
    """A program whose allocator keeps what is free, and one with a cache: the agent's steps, the kernel's bytes."""
    command = [sys.executable, "-c", PROGRAM.format(setting=setting, level=level)]
    done = subprocess.run(command, cwd=checkout, check=True, capture_output=True, timeout=60)
    told = json.loads(done.stdout)

    fell = float(told["before"] - told["after"])
    assert fell > 80 * MIB
    assert kind_of(Facts("effective", fell, cleanup=level, steps=told["result"]["steps"])) == kind


def test_real_mapped_file_is_no_leak(checkout: Path, tmp_path: Path) -> None:
    """A program that reads through a large file looks big by its resident size; a cleanup has nothing to do there."""
    file = tmp_path / "index"
    file.write_bytes(bytes(100 * MIB))
    code = (f"import mmap, sys; f = open({str(file)!r}, 'rb'); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); "
            f"sum(m[at] for at in range(0, len(m), {mmap.PAGESIZE})); print('ready', flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        before = memory_of(process.pid)
        process.communicate(timeout=30)

    assert kind_of(kept(before=before)) == "file_mapped"
    assert kind_of(kept(before=before._replace(used_bytes=before.anon_bytes))) == "leak"  # on the basis anon


def memory_of(pid: int) -> Memory:
    """What the kernel says, on the basis `rss`."""
    rows = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    anon, files, rss = (int(rows[name].split()[0]) * 1024.0 for name in ("RssAnon", "RssFile", "VmRSS"))
    return Memory(rss, anon, files, rss)


def counter(*counts: float, at: float = 940.0) -> list[Reading]:
    """A count every 10 s."""
    return [(at + 10 * number, count) for number, count in enumerate(counts)]


USUAL = counter(*range(0, 1300, 100))


def test_cost_is_what_is_beyond_the_usual() -> None:
    """10 faults a second before and after are none of it; 5,000 more are."""
    more = [(at, count + 5000 * (at > 1000)) for at, count in USUAL]

    assert extra([USUAL], 1000.0) == 0.0
    assert extra([more], 1000.0) == 5000.0


def test_cost_of_several_processes_is_their_sum_and_a_new_one_counts_from_zero() -> None:
    """A worker that was replaced has its own count."""
    restarted = [(at, count if at <= 1000 else count - 600) for at, count in USUAL]
    loading = [(at, count + 10_000 if at <= 1000 else count + 4300) for at, count in USUAL]

    assert extra([USUAL, [(at, 2 * count) for at, count in USUAL]], 1000.0) == 0.0
    assert extra([restarted], 1000.0) == 0.0
    assert extra([loading], 1000.0) == 4900.0  # 5000 when it was first seen
    assert extra([USUAL, counter(0, 3000, at=1020)], 1000.0) == 3000.0


@pytest.mark.parametrize("readings", [
    [], [[]], [USUAL[:7]], [USUAL[:-1]], [USUAL[6:]], [[(995.0, 0.0), (1060.0, 100.0)]]])
def test_cost_that_was_not_seen_is_not_known(readings: list[list[Reading]]) -> None:
    """Without the minute before or the one after there is nothing to compare: never a zero."""
    assert extra(readings, 1000.0) is None


def test_fewer_faults_than_usual_are_no_gain() -> None:
    """A quiet minute is nobody's doing."""
    quiet = [(at, min(count, 600.0)) for at, count in USUAL]

    assert extra([quiet], 1000.0) == 0.0


def test_real_memory_that_is_needed_again_costs_faults(spawn: Callable[..., Target]) -> None:
    """80 MiB are dropped and taken anew, as after a cleanup that came at a bad time: at least a fault for each page."""
    leaky = spawn("leaky")
    leaky.tell("grow 80")
    before = minor_faults(leaky.pid)
    leaky.tell("drop")
    leaky.tell("grow 80")
    seen = [(940.0, before), (1000.0, before), (1000.0 + WINDOW_SECONDS, minor_faults(leaky.pid))]

    told = extra([seen], 1000.0)
    assert told is not None
    assert told >= 80 * MIB / mmap.PAGESIZE * 0.9 or thp()


def minor_faults(pid: int) -> float:
    """So far, as the kernel counts."""
    return float(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


def thp() -> bool:
    """Whether one fault may bring two megabytes."""
    switch = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return switch.exists() and "[always]" in switch.read_text()
