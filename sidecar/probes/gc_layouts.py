"""Where CPython keeps the figures of its garbage collector: offsets in bytes in 64-bit builds, by version.

Sources: `struct _gc_runtime_state` in Include/internal/pycore_gc.h (3.9 to 3.13) and pycore_interp_structs.h (3.14 on),
`struct _is` and `struct pyruntimestate` beside them, and `struct _Py_DebugOffsets` in pycore_runtime.h (3.13) and
pycore_debug_offsets.h (3.14 on). x86-64 and aarch64 lay them out alike: both align as LP64. The private structures of
a minor version are meant to stay once it is released. Two did not: the collector of 3.14 was replaced, which shows in
the size of its state, and the generations of 3.13 moved by four bytes, which shows in the pointer to them.
"""

from typing import Literal, NamedTuple

Collector = Literal["generational", "incremental", "free_threaded"]


class Path(NamedTuple):
    """The way to the collector's state: `main` is in the runtime, `interp` in a thread, the rest in an interpreter."""

    main: int
    id: int
    threads_head: int
    gc: int
    interp: int


class State(NamedTuple):
    """Offsets within the collector's state, and its size.

    `own` holds the address of `generations` itself, `heap` the number of live objects, `survivors` that of the objects
    which outlived the last full collection, `visited` which of two old generations comes first; None where there is no
    such field. `stats` is the place of three records or, with `ring`, of a pointer to three rings of records.
    """

    collector: Collector
    size: int
    enabled: int
    generations: int
    stats: int
    collecting: int
    own: int | None = None
    heap: int | None = None
    survivors: int | None = None
    visited: int | None = None
    ring: tuple[int, ...] | None = None


PATHS: dict[int, Path] = {
    9: Path(main=0x28, id=0x18, threads_head=0x08, gc=0x268, interp=0x10),
    10: Path(main=0x28, id=0x18, threads_head=0x08, gc=0x268, interp=0x10),
    11: Path(main=0x30, id=0x30, threads_head=0x10, gc=0x288, interp=0x10),
    12: Path(main=0x30, id=0x08, threads_head=0x48, gc=0x70, interp=0x10),
}
"""The minor versions that do not publish theirs."""

CLASSIC = State("generational", size=240, enabled=0x0C, generations=0x18, stats=0x80, collecting=0xC8, own=0x60,
                survivors=0xE0)
INCREMENTAL = State("incremental", size=240, enabled=0x0C, generations=0x18, stats=0x78, collecting=0xC0, heap=0xD8,
                    visited=0xE8)
RESTORED = State("generational", size=264, enabled=0x0C, generations=0x18, stats=0x78, collecting=0xC0, own=0x100,
                 heap=0xD8)
RINGS = State("generational", size=176, enabled=0x00, generations=0x08, stats=0x68, collecting=0x70, own=0xA8,
              heap=0x90, ring=(11, 3, 3))

STATES: dict[tuple[int, int], tuple[State, ...]] = {  # (minor version, free-threaded) -> one of these
    (9, False): (CLASSIC,),
    (10, False): (CLASSIC,),
    (11, False): (CLASSIC,),
    (12, False): (CLASSIC,),
    (13, False): (CLASSIC, CLASSIC._replace(generations=0x14)),  # since a patch release that aligned the heads by 4
    (13, True): (State("free_threaded", 248, 0x0C, 0x18, 0x80, 0xC8),),
    (14, False): (INCREMENTAL, RESTORED),
    (14, True): (State("free_threaded", 264, 0x0C, 0x18, 0x78, 0xC0),
                 State("free_threaded", 288, 0x0C, 0x18, 0x78, 0xC0)),
    (15, False): (RINGS,),
    (15, True): (State("free_threaded", 176, 0x00, 0x08, 0x68, 0x70, ring=(1, 1, 1)),),
}


class Published(NamedTuple):
    """Where a minor version's `_Py_DebugOffsets` holds the offsets that are needed here: byte places in the block."""

    size: int
    threads_head: int
    gc: int
    interp: int
    state: int


COOKIE = b"xdebugpy"
INTERPRETERS_HEAD, INTERPRETER_ID = 40, 56
"""The same in every version; `version` is at 8, `free_threaded` at 16. `interpreters.main` follows after the head."""

PUBLISHED: dict[int, Published] = {
    13: Published(size=584, threads_head=72, gc=80, interp=176, state=568),
    14: Published(size=760, threads_head=72, gc=88, interp=200, state=648),
    15: Published(size=888, threads_head=72, gc=88, interp=200, state=752),
}

RECORD_BYTES = 64
"""A record of a ring in 3.15: two times, collections, collected, uncollectable, candidates, seconds, live objects."""
