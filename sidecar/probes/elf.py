"""Symbols of an ELF file as it lies mapped in a process: the loader's own look-up, and no file is opened.

The mapped bytes are the right ones by nature: a path in /proc/PID/maps may lead to another file by now (an upgrade, a
container, a chroot), to a pipe, or nowhere. Everything read is untrusted: bounded, and checked before it is followed.
Format: System V ABI, chapters 4 and 5; the GNU hash table as glibc's elf/dl-lookup.c reads it.
"""

import struct
from collections.abc import Callable
from itertools import count

from sidecar.procfs import PAGE_BYTES

Read = Callable[[int, int], bytes]
"""(address, size) -> that many bytes. Raises ValueError where they are not mapped."""

HEADER_BYTES = 64
LOAD, DYNAMIC = 1, 2
STRTAB, SYMTAB, GNU_HASH = 5, 6, 0x6FFFFEF5
MOST_SEGMENTS, MOST_TAGS, MOST_BUCKETS, LONGEST_CHAIN = 64, 256, 1 << 20, 1024

_HEADER = struct.Struct("<4sBB26xQ14xHH6x")  # magic, class, data; e_phoff, e_phentsize, e_phnum
_SEGMENT = struct.Struct("<IIQQQQQQ")  # p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
_TAG = struct.Struct("<QQ")
_SYMBOL = struct.Struct("<I2xHQ8x")  # st_name, st_shndx, st_value


class Image:
    """A mapped ELF file whose first byte lies at `start`. Raises ValueError if it is none of 64 bits, little endian."""

    def __init__(self, read: Read, start: int) -> None:
        self._read = read
        magic, bits, order, offset, size, number = _HEADER.unpack(read(start, HEADER_BYTES))
        if magic != b"\x7fELF":
            raise ValueError("not an ELF file")
        if (bits, order) != (2, 1):
            raise ValueError("32-bit" if bits == 1 else "big endian")
        if size != _SEGMENT.size or not 0 < number <= MOST_SEGMENTS or offset > PAGE_BYTES:
            raise ValueError("its program headers are damaged")
        segments = list(_SEGMENT.iter_unpack(read(start + offset, size * number)))
        first = next((vaddr - offset for kind, _, offset, vaddr, *_ in segments
                      if kind == LOAD and offset < PAGE_BYTES), None)
        dynamic = next(((vaddr, size) for kind, _, _, vaddr, _, _, size, _ in segments if kind == DYNAMIC), None)
        if first is None or dynamic is None:
            raise ValueError("it is not linked dynamically")
        self._start = start
        self._bias: int = start - first
        self._tags = self._dynamic(*dynamic)

    def _dynamic(self, vaddr: int, size: int) -> dict[int, int]:
        """The dynamic section: tag -> value."""
        section = self._read(self._bias + vaddr, min(size, MOST_TAGS * _TAG.size) // _TAG.size * _TAG.size)
        found: dict[int, int] = {}
        for tag, value in _TAG.iter_unpack(section):
            if not tag:
                break
            found.setdefault(tag, value)
        return found

    def _table(self, tag: int) -> int:
        """Where a table of the dynamic section lies: glibc relocates the entry at start-up, musl does not."""
        if tag not in self._tags:
            raise ValueError("it has no table of exported symbols")
        value = self._tags[tag]
        return value if value >= self._start else value + self._bias

    def symbol(self, name: bytes) -> int | None:
        """The address of an exported symbol in this process; None if the file does not define it."""
        table, strings, wanted = self._table(SYMTAB), self._table(STRTAB), gnu_hash(name)
        for place in self._candidates(wanted):
            at, section, value = _SYMBOL.unpack(self._read(table + place * _SYMBOL.size, _SYMBOL.size))
            if section and value and self._read(strings + at, len(name) + 1) == name + b"\0":
                return self._bias + int(value)
        return None

    def _candidates(self, wanted: int) -> list[int]:
        """Places in the symbol table whose name has this hash."""
        table = self._table(GNU_HASH)
        buckets, least, blooms, _ = struct.unpack("<4I", self._read(table, 16))
        if not 0 < buckets <= MOST_BUCKETS or blooms > MOST_BUCKETS:
            raise ValueError("its hash table is damaged")
        first = table + 16 + 8 * blooms
        place, = struct.unpack("<I", self._read(first + 4 * (wanted % buckets), 4))
        if place < least:  # an empty bucket
            return []
        found, chain = [], first + 4 * buckets - 4 * least
        for step in count(place):
            if step - place > LONGEST_CHAIN:
                raise ValueError("its hash table is damaged")
            value, = struct.unpack("<I", self._read(chain + 4 * step, 4))
            if value | 1 == wanted | 1:
                found.append(step)
            if value & 1:  # the last one of its chain
                break
        return found


def gnu_hash(name: bytes) -> int:
    """The hash of a symbol's name: Bernstein's, h * 33 + c, in 32 bits."""
    value = 5381
    for byte in name:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value
