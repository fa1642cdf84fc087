"""An app that works through processes: `pool.py FOLDER fork|spawn|forkserver`. Prints each pid that has an agent."""

import multiprocessing
import os
import sys

sys.path.insert(0, sys.argv[1])

import agent

agent.start()  # at the top, as an app does; a spawned child runs it again


def work(_):
    """The path of this process's socket, if it is there."""
    path = f"{sys.argv[1]}/rag-sidecar-{os.geteuid()}/{os.getpid()}.sock"
    return os.getpid() if os.path.exists(path) else 0


if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[2]).Pool(2) as pool:
        print(work(0), *sorted(set(pool.map(work, range(2), chunksize=1))))
