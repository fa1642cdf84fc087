"""Frees a chosen part of its memory at each signal: a patient whom weak cleanups do not help, or none at all.

`--frees SIGNAL=PERCENT` (may be repeated): at that signal so much of what it holds is given back, and with
`--returns SECONDS` taken again so much later. `--ends SIGNAL`: that signal is its end. `--becomes SIGNAL`: then it
goes on as another program, `cat`, under the same pid. `--handled FILE` notes each signal there, a line of JSON.
"""

from __future__ import annotations  # the syntax of types, also on Python 3.8

import argparse
import os
import queue
import signal
import threading
from typing import Any

from blocks import MIB, Blocks, obey
from leaky import note


class Graded(Blocks):
    """Blocks of which a part can be given back."""

    def free(self, percent: int) -> int:
        """Give back so much of what is held. Returns the number of blocks."""
        with self._lock:
            kept = len(self._blocks) * (100 - percent) // 100
            self._blocks, blocks = self._blocks[:kept], self._blocks[kept:]
        for block in blocks:
            block.close()
        return len(blocks)


def answer(held: Graded, arrived: queue.SimpleQueue[int], chosen: argparse.Namespace) -> None:
    """Do what each signal asks for, one after the other."""
    frees = {name: int(percent) for name, _, percent in (each.partition("=") for each in chosen.frees)}
    while True:
        name = signal.Signals(arrived.get()).name
        if name in chosen.ends:
            os._exit(3)
        if name in chosen.becomes:
            os.execv("/bin/cat", ["cat"])  # noqa: S606
        freed = held.free(frees[name])
        note(chosen.handled, {"signal": name, "freed_bytes": freed * MIB})
        if chosen.returns is not None and freed:
            timer = threading.Timer(chosen.returns, held.grow, [freed])
            timer.daemon = True
            timer.start()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frees", action="append", default=[], metavar="SIGNAL=PERCENT")
    parser.add_argument("--returns", type=float, metavar="SECONDS")
    parser.add_argument("--ends", action="append", default=[], metavar="SIGNAL")
    parser.add_argument("--becomes", action="append", default=[], metavar="SIGNAL")
    parser.add_argument("--handled", metavar="FILE")
    parser.add_argument("--limit", type=int, default=512, metavar="MIB")
    options = parser.parse_args()
    blocks = Graded(options.limit * MIB)
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()  # its put may interrupt itself, so a handler may call it

    def take(signum: int, _: Any) -> None:
        """The handler: the work is done elsewhere."""
        signals.put(signum)

    for wanted in [*(each.partition("=")[0] for each in options.frees), *options.ends, *options.becomes]:
        signal.signal(signal.Signals[wanted], take)
    threading.Thread(target=answer, args=(blocks, signals, options), daemon=True).start()
    obey(blocks)
