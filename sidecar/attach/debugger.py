"""How CPython 3.14 and later is asked to run a script: PEP 768, done from outside, whatever Python this one is.

The program publishes where its fields are: `struct _Py_DebugOffsets` in Include/internal/pycore_debug_offsets.h. It is
a stranger's word: each offset is checked before it is followed, and each pointer must lead back to where it came from.
Protocol: Doc/howto/remote_debugging.rst.
"""

import errno
import os
import struct
from typing import NamedTuple

from sidecar.errors import SidecarError
from sidecar.probes.elf import Image
from sidecar.probes.gc_attach import FARTHEST_BYTES, LOOKS, Unsupported, in_python, version_of
from sidecar.probes.gc_layouts import COOKIE, INTERPRETER_ID, INTERPRETERS_HEAD, PUBLISHED
from sidecar.probes.memory import Memory

FIRST_MINOR = 14
FREE_THREADED, INTERPRETER_BYTES, THREADS_MAIN = 16, 48, 80
"""Byte places in the block: a flag, the size of an interpreter's state, where that points to the main thread's."""

THREAD_STATE, THREAD_NUMBER = 176, {14: 224, 15: 248}
"""Where the section on threads begins, with the size of a thread's state, and where it tells the kernel's number."""

SECTION = struct.Struct("<6Q")
"""The last section of the block: eval_breaker and the support's place in a thread; enabled, in an interpreter; pending,
path and its size, in the support."""

PLEASE_STOP = 1 << 5
"""`_PY_EVAL_PLEASE_STOP_BIT`: have the thread look at what is asked of it (pycore_ceval.h)."""

SHORTEST_PATH_BYTES, LONGEST_PATH_BYTES = 64, 4096

_WORD, _INT = struct.Struct("<Q"), struct.Struct("<i")


class Refused(SidecarError):
    """A process that no agent is put into. The message says why, `help` what to do instead."""


class Places(NamedTuple):
    """Addresses in the process's main thread, and how long a path may be, its end included."""

    version: str
    breaker: int
    pending: int
    path: int
    path_bytes: int


class Debugger:
    """The request fields of one program. Lives as long as the attempt; `disarm` takes a request back.

    Raises OSError as the kernel does (EACCES, EPERM: not permitted; ENOENT, ESRCH: gone), and Refused.
    """

    def __init__(self, pid: int, thread: int, proc: str = "/proc") -> None:
        self._fd = os.open(f"{proc}/{pid}/mem", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self._memory = Memory(pid, proc)
            self.places = find(self._memory, pid, thread, proc)
        except (OSError, SidecarError):
            self.close()
            raise

    def arm(self, script: str) -> None:
        """Have the main thread run this file, a path as the program sees it, when it next looks."""
        path = os.fsencode(script) + b"\0"
        if len(path) > self.places.path_bytes:
            raise Refused(f"the path {script} is longer than the {self.places.path_bytes} bytes that Python has for it")
        self._write(self.places.path, path)
        self._write(self.places.pending, _INT.pack(1))

    def hurry(self) -> None:
        """Have it look soon. Only the byte with the flag is written: another flag set just then could be lost, and
        with it a moment until it is set again; so only where the thread has not looked by itself."""
        flags, = self._memory.read(self.places.breaker, 1)
        self._write(self.places.breaker, bytes([flags | PLEASE_STOP]))

    def taken(self) -> bool:
        """Whether the thread has begun with the script. ProcessLookupError once the program has ended."""
        return bool(_INT.unpack(self._memory.read(self.places.pending, _INT.size))[0] == 0)

    def disarm(self) -> bool:
        """Take the request back. False if it was taken already."""
        if self.taken():
            return False
        self._write(self.places.pending, _INT.pack(0))
        return True

    def _write(self, address: int, content: bytes) -> None:
        if os.pwrite(self._fd, content, address) != len(content):
            raise ProcessLookupError(errno.ESRCH, "the program has ended")

    def close(self) -> None:
        """Give the descriptors back; harmless when called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def find(memory: Memory, pid: int, thread: int, proc: str = "/proc") -> Places:
    """Where a request is written. `thread` is the main thread's number as the process itself sees it.

    Raises Refused where none can be written, BlockingIOError while the interpreter has not started.
    """
    try:
        return in_python(memory, pid, proc, lambda image, runtime: _places(memory, image, runtime, thread),
                         ("it is no CPython", "it is {}"))
    except Unsupported as error:
        raise Refused(str(error)) from None


def _places(memory: Memory, image: Image, runtime: int, thread: int) -> Places:
    minor, version = version_of(memory, image)
    if minor < FIRST_MINOR:
        raise Refused(f"it is CPython {version}: only 3.14 and later take in code while they run")
    if minor not in THREAD_NUMBER:
        raise Refused(f"it is CPython {version}, which is not known yet")
    try:
        return _checked(memory, runtime, memory.read(runtime, PUBLISHED[minor].size), thread, version)
    except ValueError as error:
        raise Refused(f"it is CPython {version}, but not built as known: {error}") from None


def _checked(memory: Memory, runtime: int, block: bytes, thread: int, version: str) -> Places:
    """Follow the published offsets. Raises ValueError where they cannot be true, Refused, BlockingIOError."""
    def number(place: int) -> int:
        return int(_WORD.unpack_from(block, place)[0])

    def pointer(address: int) -> int:
        return int(_WORD.unpack(memory.read(address, 8))[0])

    told = number(8)
    if block[:8] != COOKIE or f"{told >> 24}.{told >> 16 & 255}.{told >> 8 & 255}" != version:
        raise ValueError("its table of offsets is not its version's")
    if number(FREE_THREADED):
        raise Refused(f"it is a free-threaded CPython {version}, for which the agent is not made")
    breaker, support, enabled, pending, path, path_bytes = SECTION.unpack_from(block, len(block) - SECTION.size)
    of_thread, of_interpreter = number(THREAD_STATE), number(INTERPRETER_BYTES)
    head, id_, main_thread = number(INTERPRETERS_HEAD), number(INTERPRETER_ID), number(THREADS_MAIN)
    minor = told >> 16 & 255
    number_at, interp_at = number(THREAD_NUMBER[minor]), number(PUBLISHED[minor].interp)
    if not SHORTEST_PATH_BYTES <= path_bytes <= LONGEST_PATH_BYTES:
        raise ValueError(f"it has {path_bytes} bytes for a path")
    if max(head, of_interpreter) > FARTHEST_BYTES or max(id_, main_thread, enabled) + 8 > of_interpreter:
        raise ValueError("its table of offsets leads out of the interpreter's state")
    farthest = max(breaker + 8, number_at + 8, interp_at + 8, support + pending + 4, support + path + path_bytes)
    if farthest > of_thread or of_thread > FARTHEST_BYTES or max(pending, path) > FARTHEST_BYTES:
        raise ValueError("its table of offsets leads out of the thread's state")
    main = pointer(runtime + head + 8)  # `interpreters.main` follows `head`
    if not main:
        raise BlockingIOError
    if pointer(main + id_):
        raise ValueError("its main interpreter has another number than 0")
    state = pointer(main + main_thread)
    if not state:
        raise Refused("its main thread has ended")
    if not any(pointer(state + interp_at) == main for _ in range(LOOKS)):
        raise ValueError("its thread does not belong to its interpreter")
    if pointer(state + number_at) != thread:
        raise ValueError("its main thread is not the one that the kernel knows")
    if _INT.unpack(memory.read(main + enabled, _INT.size))[0] != 1:
        raise Refused("it takes in no code: PYTHON_DISABLE_REMOTE_DEBUG or -X disable-remote-debug is set, or it was "
                      "built without remote debugging")
    return Places(version, state + breaker, state + support + pending, state + support + path, path_bytes)
