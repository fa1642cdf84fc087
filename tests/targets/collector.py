"""A target that tells of its own garbage collector: `tell` on stdin, or a Python statement, which is carried out.

The answer to `tell` is JSON, followed by the collector's counts: these are taken last, because making the rest moves
them. Runs on Python 3.8 and later, standard library only, also from `python -c`.
"""

import gc
import json
import os

room = {}  # for statements


def told():
    """What the collector's own functions say, the counts aside."""
    stats = None
    while stats != gc.get_stats():  # making the answer may set it off
        stats = gc.get_stats()
        answer = json.dumps([stats, gc.get_threshold(), gc.isenabled(), len(gc.get_objects())])
    return answer.encode()


def main():
    """Answer until the end of the input."""
    os.write(1, b"ready\n")
    while True:
        line = b""
        while not line.endswith(b"\n"):
            byte = os.read(0, 1)
            if not byte:
                return
            line += byte
        if line == b"tell\n":
            os.write(1, told())
            young, old, oldest = gc.get_count()
            os.write(1, b" [%d, %d, %d]\n" % (young, old, oldest))
        else:
            exec(line, room)  # noqa: S102
            os.write(1, b"done\n")


main()
