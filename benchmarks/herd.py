"""So many processes of one program: `herd.py COUNT MIB`. Prints their pids; they live as long as the first one.

Each is forked, catches SIGUSR1, writes to MIB of its own, and then waits. The first ends when its input does.
"""

import json
import os
import signal
import sys

MIB = 1 << 20


def main() -> None:
    """Fork, say who is there, wait."""
    count, mib = int(sys.argv[1]), float(sys.argv[2])
    signal.signal(signal.SIGUSR1, lambda *_: None)
    reading, writing = os.pipe()
    pids = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            os.close(writing)
            own = bytearray(int(mib * MIB))
            own[::4096] = b"\1" * len(own[::4096])
            os.read(reading, 1)  # ends when the first process does
            os._exit(0)
        pids.append(pid)
    print(json.dumps(pids), flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
