"""A target for measurements: takes memory at a given pace until it is asked to let go of it, or killed.

`leaker.py RATE_MIB STEP_MIB START_MIB LINE_MIB [huge] [agent] [http]` says `ready PORT`. At the first line of its input
it takes START_MIB, at the next it goes on in steps of one C call each, which holds the interpreter's lock. It says
`crossed RATE_MIB` when it has passed the line, and `cleaned` when it has let go: asked by SIGUSR1, and with `agent` or
`http` also so.
"""

import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MIB = 1 << 20
MOST_BYTES = 1 << 30
rate_mib, step_mib, start_mib, line_mib = (float(word) for word in sys.argv[1:5])
cleaned = False
cache = mmap.mmap(-1, MOST_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
cache.madvise(mmap.MADV_HUGEPAGE if "huge" in sys.argv else mmap.MADV_NOHUGEPAGE)
address = ctypes.addressof(ctypes.c_char.from_buffer(cache))
fill = ctypes.PyDLL(None).memset
fill.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)


def clean(*_: object) -> None:
    """Give the memory back."""
    global cleaned
    cleaned = True
    cache.madvise(mmap.MADV_DONTNEED)


class Endpoint(BaseHTTPRequestHandler):
    """`POST /cleanup`."""

    def do_POST(self) -> None:
        """Clean up, then answer."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        clean()
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def own_mib() -> float:
    """Anonymous memory, as statm has it."""
    words = os.pread(statm, 128, 0).split()
    return (int(words[1]) - int(words[2])) * os.sysconf("SC_PAGE_SIZE") / MIB


def wait_for_word() -> None:
    """Until the next line; without one nobody is there to see what comes of it."""
    if not sys.stdin.readline():
        sys.exit()


signal.signal(signal.SIGUSR1, clean)
statm = os.open("/proc/self/statm", os.O_RDONLY)
port = 0
if "http" in sys.argv:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
if "agent" in sys.argv:
    from sidecar import agent

    agent.on_cleanup(clean, name="cache")
    agent.start()
print("ready", port, flush=True)
wait_for_word()
before = at = int(max(0.0, start_mib - own_mib()) * MIB)
fill(address, 1, at)
print("filled", flush=True)
wait_for_word()
begun, crossed, step = time.monotonic(), False, int(step_mib * MIB)
while not cleaned:
    ahead = (at - before) / MIB / rate_mib - (time.monotonic() - begun)
    if ahead > 0:
        time.sleep(min(ahead, 0.01))
        continue
    if at + step > MOST_BYTES:
        break
    fill(address + at, 1, step)
    at += step
    if not crossed and (cleaned or own_mib() > line_mib):
        crossed = True
        print("crossed", round((at - before) / MIB / (time.monotonic() - begun), 1), flush=True)
print("cleaned", flush=True)
sys.stdin.readline()
