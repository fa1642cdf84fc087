"""A program that takes memory faster than anybody can look, and frees what it has cached when SIGUSR1 asks for it.

Runs on Python 3.8 and later, standard library only. `bursting.py CACHED_MIB [--keep]`: with `--keep` its handler frees
nothing. Commands on stdin, one a line, each answered on stdout when it is done: `call MIB` (all in one C call),
`steps MIB` (a MiB at a time, as fast as it goes), `huge MIB` (the same, in a mapping that asks for huge pages), `drop`.
"""

import ctypes
import mmap
import signal
import sys

MIB = 1 << 20
LIFE_SECONDS = 600


def main():
    """Say `ready`, then do as told."""
    cached = [bytearray(int(sys.argv[1]) * MIB)]
    signal.signal(signal.SIGUSR1, lambda *_: None if "--keep" in sys.argv else cached.clear())
    signal.alarm(LIFE_SECONDS)
    print("ready", flush=True)
    taken = []
    for line in sys.stdin:
        word, _, size = line.strip().partition(" ")
        if word == "call":
            taken.append(bytearray(int(size) * MIB))
        elif word == "steps":
            taken.extend(bytearray(MIB) for _ in range(int(size)))
        elif word == "huge":
            block = mmap.mmap(-1, int(size) * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            block.madvise(mmap.MADV_HUGEPAGE)
            ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(block)), 1, len(block))
            taken.append(block)
        else:
            taken.clear()
        print("done", flush=True)


main()
