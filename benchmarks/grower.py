"""A target for measurements: grows through a line again and again, and notes when it crossed and when it was asked.

`grower.py MIB_PER_SECOND LINE_MIB STEP_MIB` begins at each line of its input, and prints one JSON line at the SIGUSR1:
the monotonic times at which its own statm first showed more than the line, and at which the handler ran. The handler
only takes the time.
"""

import json
import mmap
import os
import signal
import sys
import time

rate_mib, line_mib, step_mib = (float(word) for word in sys.argv[1:4])
PAGE = os.sysconf("SC_PAGE_SIZE")
STEP = int(step_mib * (1 << 20))
asked: list[float] = []
blocks: list[mmap.mmap] = []
signal.signal(signal.SIGUSR1, lambda *_: asked.append(time.monotonic()))
statm = os.open("/proc/self/statm", os.O_RDONLY)


def anon_bytes() -> int:
    """Anonymous memory: resident less file-backed pages, as statm has them."""
    words = os.pread(statm, 128, 0).split()
    return (int(words[1]) - int(words[2])) * PAGE


print("ready", flush=True)
sys.stdin.readline()
begun, crossed = time.monotonic(), 0.0
while True:
    if asked:
        print(json.dumps({"crossed": crossed, "handled": asked[0]}), flush=True)
        for block in blocks:
            block.close()
        blocks.clear()
        asked.clear()
        if not sys.stdin.readline():
            break
        begun, crossed = time.monotonic(), 0.0
    ahead = len(blocks) * step_mib / rate_mib - (time.monotonic() - begun)
    if ahead > 0:
        time.sleep(min(ahead, 0.01))
    elif len(blocks) * step_mib < 3 * line_mib:  # a bounded load: past three times the line it only waits
        block = mmap.mmap(-1, STEP, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, STEP, PAGE):
            block[at] = 1
        blocks.append(block)
        if not crossed and anon_bytes() > line_mib * (1 << 20):
            crossed = time.monotonic()
    else:
        time.sleep(0.01)
