"""Grows, catches SIGUSR1 and SIGUSR2, and frees nothing."""

import argparse
import signal

from blocks import MIB, Blocks, obey

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.0, metavar="MB_PER_S")
    parser.add_argument("--limit", type=int, default=512, metavar="MIB")
    options = parser.parse_args()
    for signum in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, lambda *_: None)
    obey(Blocks(options.limit * MIB), options.rate)
