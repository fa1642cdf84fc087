"""Grows and has no handler for SIGUSR1: that signal would kill it."""

import argparse

from blocks import MIB, Blocks, obey

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=0.0, metavar="MB_PER_S")
    parser.add_argument("--limit", type=int, default=512, metavar="MIB")
    options = parser.parse_args()
    obey(Blocks(options.limit * MIB), options.rate)
