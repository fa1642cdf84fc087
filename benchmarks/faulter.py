"""A program that maps, touches and unmaps memory all the time, and holds more beside: `faulter.py HELD_MIB`.

For each number of seconds on its input it does so for as long, and prints one line of JSON: page faults, seconds by
the clock and of its own processor time, and how long the longest round took.
"""

import json
import mmap
import resource
import sys
import time

PAGE = mmap.PAGESIZE
BLOCK_BYTES = 1 << 20


def touched(size_bytes: int) -> mmap.mmap:
    """Private memory of small pages, every one of them written to."""
    block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.madvise(mmap.MADV_NOHUGEPAGE)
    block[::PAGE] = b"\1" * (size_bytes // PAGE)
    return block


def work(seconds: float) -> dict[str, float]:
    """Map, touch, unmap."""
    begun, begun_cpu, longest = time.monotonic(), time.process_time(), 0.0
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before = begun
    while before - begun < seconds:
        touched(BLOCK_BYTES).close()
        now = time.monotonic()
        before, longest = now, max(longest, now - before)
    return {"faults": resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, "seconds": before - begun,
            "cpu_seconds": time.process_time() - begun_cpu, "longest_seconds": longest}


if __name__ == "__main__":
    held = touched(int(sys.argv[1]) << 20)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(work(float(line))), flush=True)
