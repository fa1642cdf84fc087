"""Holds blocks like `leaky`, with the real agent inside: a cleanup by the agent drops them. Obeys on stdin.

`--place DIRECTORY` is where the agent has its socket. `--workers N` forks N workers, with agents and blocks of their
own: `grow MIB` grows all of them, and what is answered is what this process holds.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from blocks import LIFE_SECONDS, MIB, Blocks, obey

from sidecar import agent


class Held(Blocks):
    """Blocks that grow in the workers, too."""

    lines: tuple[int, ...] = ()

    def grow(self, mib: int) -> None:
        """Here and in every worker."""
        super().grow(mib)
        if mib:
            for line in self.lines:
                os.write(line, b"%d\n" % mib)


def work(line: int, held: Held) -> None:
    """A worker: grows as it is told until its line is closed."""
    signal.alarm(LIFE_SECONDS)
    held.lines = ()
    with open(line) as commands:
        for command in commands:
            held.grow(int(command))
    os._exit(0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", required=True)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--limit", type=int, default=512, metavar="MIB")
    chosen = parser.parse_args()
    blocks = Held(chosen.limit * MIB)
    agent.on_cleanup(lambda level: blocks.drop(), name="blocks", level="light")
    agent.register_cache("answers", {"one": 1, "two": 2})
    agent.start(directory=chosen.place)
    lines = []
    for _ in range(chosen.workers):
        reading, writing = os.pipe()
        if not os.fork():
            os.close(writing)
            for other in lines:
                os.close(other)
            work(reading, blocks)
        os.close(reading)
        lines.append(writing)
    blocks.lines = tuple(lines)
    obey(blocks, 0.0, "ready")
