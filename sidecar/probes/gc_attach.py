"""Finds the state of a CPython's garbage collector in a process, from its pid alone.

The way: the exported `_PyRuntime` of the program or of a library of Python, from there the main interpreter, in it
`struct _gc_runtime_state`; see gc_layouts. A wrong offset would lead to plausible figures, so nothing is taken on
trust: the version is the program's own, pointers must lead back to where they came from, and only a final release of
a known minor version is accepted.
"""

import errno
import struct
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from sidecar.errors import SidecarError
from sidecar.probes.elf import Image
from sidecar.probes.gc_layouts import COOKIE, INTERPRETER_ID, INTERPRETERS_HEAD, PATHS, PUBLISHED, STATES, Path, State
from sidecar.probes.memory import Memory

MOST_MAPPINGS, MOST_IMAGES, FARTHEST_BYTES, LOOKS = 1 << 18, 16, 1 << 20, 3

EXPORTED_SINCE = ((b"PyGC_IsEnabled", 10), (b"PyObject_GC_IsTracked", 9))
"""Up to 3.10 the version is not exported. These functions of the C API are new in their minor version."""

NAMES = (b"python", b"libpython", b"pypy", b"libpypy")
"""How their files are called. Hundreds of extension modules may have `cpython` somewhere in theirs."""

Found = TypeVar("Found")

OTHERS = ((b"pypy", "PyPy"), (b"graalpy", "GraalPy"), (b"libpythonvm", "GraalPy"))

_WORD = struct.Struct("<Q")
_AT_PHDR = 3  # auxv: where the program headers of the program lie
_LEVELS = {0xA: "a", 0xB: "b", 0xC: "rc", 0xF: ""}


class Unsupported(SidecarError):
    """A process whose collector cannot be read. The message is the reason, for people.

    Final once a program has started. One that is just starting may look like this too: its libraries are not there yet.
    """


class PythonInfo(NamedTuple):
    """Which Python it is: `version` is "3.11.2", of 3.9 and 3.10 only "3.10"; `collector` as in gc_layouts."""

    version: str
    implementation: str
    collector: str


class Attached(NamedTuple):
    """What is found, with addresses: of the pointer to the main interpreter, of this, and of its collector's state."""

    info: PythonInfo
    state: State
    main_at: int
    main: int
    gc: int


def attach(memory: Memory, pid: int, proc: str = "/proc") -> Attached:
    """The collector of the first image that holds a running CPython.

    Raises Unsupported, BlockingIOError (EAGAIN) while its interpreter has not started, OSError as the kernel does.
    """
    return in_python(memory, pid, proc, lambda image, runtime: _attach_to(memory, image, runtime),
                     ("not CPython 3.9 or later", "{}: it has another collector"))


def in_python(memory: Memory, pid: int, proc: str, use: Callable[[Image, int], Found], words: tuple[str, str]) -> Found:
    """What `use` makes of the first image that holds a running CPython, and of the address of its `_PyRuntime`.

    Raises Unsupported in the `words` for what is no Python and for another one, or in those of `use`; BlockingIOError
    (EAGAIN) while the interpreter has not started, OSError as the kernel does.
    """
    (reason, other), waits = words, False
    for start, name in images(pid, proc):
        reason = next((other.format(found) for mark, found in OTHERS if mark in name), reason)
        try:
            image = Image(memory.read, start)
            runtime = image.symbol(b"_PyRuntime")
            if runtime is not None:
                return use(image, runtime)
        except BlockingIOError:  # of a program and a library of Python only one is in use
            waits = True
        except Unsupported as error:
            reason = str(error)
        except ValueError as error:  # damaged; of an ELF file that is none of ours only one thing is worth telling
            reason = "32-bit" if str(error) == "32-bit" else reason
    if waits:
        raise _not_started(pid, proc)
    raise Unsupported(reason)


def _not_started(pid: int, proc: str) -> BlockingIOError:
    return BlockingIOError(errno.EAGAIN, "its interpreter has not started yet", f"{proc}/{pid}")


def images(pid: int, proc: str) -> Iterator[tuple[int, bytes]]:
    """(address, file name) of what may be a Python: the program itself first, whatever its name, then by name."""
    program, named = _program_headers(pid, proc), []
    with open(f"{proc}/{pid}/maps", "rb") as file:
        for line in islice(file, MOST_MAPPINGS):
            words = line.split(None, 5)  # address, mode, offset, device, inode, path
            if len(words) < 6 or words[2].strip(b"0") or not words[5].startswith(b"/"):
                continue
            start, end = (int(word, 16) for word in words[0].split(b"-"))
            name = words[5].rsplit(b"/", 1)[1]
            if start <= program < end:
                yield start, name
            elif name.startswith(NAMES):
                named.append((start, name))
    yield from named[:MOST_IMAGES]


def _program_headers(pid: int, proc: str) -> int:
    """Where the program headers of a program lie in memory, hence the program; 0 if that is not told.

    Raises BlockingIOError in the middle of an exec, when the vector is not there yet.
    """
    with open(f"{proc}/{pid}/auxv", "rb") as file:
        content = file.read(4096)
    if not any(content):
        raise _not_started(pid, proc)
    vector: dict[int, int] = dict(struct.iter_unpack("<QQ", content[:len(content) // 16 * 16]))
    return vector.get(_AT_PHDR, 0)


def _attach_to(memory: Memory, image: Image, runtime: int) -> Attached:
    """The collector that belongs to a `_PyRuntime`. Raises Unsupported, BlockingIOError."""
    minor, version = version_of(memory, image)
    if (minor, False) not in STATES:
        raise Unsupported(f"CPython {version} is not known")
    try:
        path, states = _published(memory, runtime, minor, version) if minor in PUBLISHED else (
            PATHS[minor], STATES[minor, False])
        main_at = runtime + path.main
        main = _word(memory, main_at)
        if not main or not _word(memory, main + path.threads_head):
            raise BlockingIOError
        state = _check(memory, main, path, states)
    except ValueError as error:
        raise Unsupported(f"CPython {version}, but not built as known: {error}") from None
    return Attached(PythonInfo(version, "cpython", state.collector), state, main_at, main, main + path.gc)


def version_of(memory: Memory, image: Image) -> tuple[int, str]:
    """(minor, version). Raises Unsupported for a pre-release and what is not Python 3."""
    place = image.symbol(b"Py_Version")
    if place is None:
        found = next((minor for name, minor in EXPORTED_SINCE if image.symbol(name)), None)
        if found is None:
            raise Unsupported("CPython before 3.9")
        return found, f"3.{found}"
    word = _word(memory, place)  # PY_VERSION_HEX: a byte each for major, minor, micro; half a one for level, serial
    major, minor, micro, level, serial = word >> 24, word >> 16 & 255, word >> 8 & 255, word >> 4 & 15, word & 15
    if major != 3 or level not in _LEVELS:
        raise Unsupported(f"{word:#x} is no version of CPython 3")
    if _LEVELS[level]:
        raise Unsupported(f"CPython 3.{minor}.{micro}{_LEVELS[level]}{serial} is a pre-release")
    return minor, f"3.{minor}.{micro}"


def _published(memory: Memory, runtime: int, minor: int, version: str) -> tuple[Path, list[State]]:
    """What a program from 3.13 on tells of itself at the start of `_PyRuntime`. Raises ValueError if not as known."""
    where = PUBLISHED[minor]
    block = memory.read(runtime, where.size)

    def number(place: int) -> int:
        return int(_WORD.unpack_from(block, place)[0])

    told = number(8)
    if block[:8] != COOKIE or f"{told >> 24}.{told >> 16 & 255}.{told >> 8 & 255}" != version:
        raise ValueError("its table of offsets is not its version's")
    shape = number(where.state), number(where.state + 8)
    states = [state for state in STATES.get((minor, number(16)), ()) if (state.size, state.collecting) == shape]
    if not states:
        raise ValueError(f"its collector's state is another one, of {shape[0]} bytes")
    path = Path(number(INTERPRETERS_HEAD) + 8, number(INTERPRETER_ID), number(where.threads_head), number(where.gc),
                number(where.interp))
    if max(path) > FARTHEST_BYTES:
        raise ValueError("its table of offsets leads too far")
    return path, states


def _check(memory: Memory, main: int, path: Path, states: Sequence[State]) -> State:
    """The one of `states` in which everything leads back to where it came from. Raises ValueError if none does.

    The program runs on, and a thread may end between two reads: hence several looks.
    """
    if _word(memory, main + path.id):
        raise ValueError("its main interpreter has another number than 0")
    if not any(_word(memory, _word(memory, main + path.threads_head) + path.interp) == main for _ in range(LOOKS)):
        raise ValueError("its thread does not belong to its interpreter")
    gc = main + path.gc
    for state in states:
        if state.own is None or _word(memory, gc + state.own) == gc + state.generations:
            break
    else:
        raise ValueError("its collector does not lead back to itself")
    if state.collector != "free_threaded":  # there the lists are not used
        head = gc + state.stats - 24  # the permanent generation, which only gc.freeze() and its reverse touch
        following = _word(memory, head) & ~3  # the low bits are flags
        if _word(memory, following + 8) & ~3 != head:
            raise ValueError("its permanent generation is no list")
    return state


def _word(memory: Memory, address: int) -> int:
    return int(_WORD.unpack(memory.read(address, 8))[0])
