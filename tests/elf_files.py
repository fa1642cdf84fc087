"""ELF files made by hand, and processes that hold them: a folder that looks like /proc."""

import struct
from collections.abc import Mapping
from pathlib import Path

from sidecar.probes.elf import gnu_hash

START = 0x10000
"""Where a made process has its program."""


def shared_object(symbols: Mapping[str, int], *, buckets: int = 1, bits: int = 2, order: int = 1) -> bytes:
    """A file as the loader maps it: header, program headers, dynamic section, GNU hash table, symbols, strings.

    `symbols` are named with their value: the address less that of the file.
    """
    names = sorted(symbols, key=lambda name: gnu_hash(name.encode()) % buckets)
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    table = struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    for name in names:
        table += struct.pack("<IBBHQQ", strings.index(b"\0" + name.encode() + b"\0") + 1, 0x11, 0, 7, symbols[name], 8)
    hashes = [gnu_hash(name.encode()) for name in names]
    firsts, chain = [0] * buckets, []
    for place, value in enumerate(hashes):
        firsts[value % buckets] = firsts[value % buckets] or place + 1
        last = place + 1 == len(hashes) or hashes[place + 1] % buckets != value % buckets
        chain.append(value & ~1 | last)
    index = struct.pack("<4IQ", buckets, 1, 1, 6, 0) + struct.pack(f"<{buckets}I", *firsts)
    index += struct.pack(f"<{len(chain)}I", *chain)
    at_dynamic = 64 + 2 * 56
    at_index = at_dynamic + 4 * 16
    at_table = at_index + len(index)
    at_strings = at_table + len(table)
    dynamic = struct.pack("<8Q", 0x6FFFFEF5, at_index, 6, at_table, 5, at_strings, 0, 0)
    size = at_strings + len(strings)
    header = struct.pack("<4sBBB9xHHIQQQIHHHHHH", b"\x7fELF", bits, order, 1, 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    segments = struct.pack("<IIQQQQQQ", 1, 4, 0, 0, 0, size, size, 4096)
    segments += struct.pack("<IIQQQQQQ", 2, 4, at_dynamic, at_dynamic, 0, len(dynamic), len(dynamic), 8)
    return header + segments + dynamic + index + table + strings


def process(folder: Path, memory: Mapping[int, bytes], name: str = "python3", pid: int = 42) -> Path:
    """A made /proc with one process. `memory` is by address; its program is mapped at START."""
    own = folder / str(pid)
    own.mkdir(parents=True)
    (own / "maps").write_text(f"{START:x}-{START + 0x10000:x} r--p 00000000 fe:00 77      /usr/bin/{name}\n"
                              f"{START + 0x10000:x}-{START + 0x90000:x} rw-p 00000000 00:00 0 \n")
    (own / "auxv").write_bytes(struct.pack("<4Q", 3, START + 64, 0, 0))
    with (own / "mem").open("wb") as file:
        for address, content in memory.items():
            file.seek(address)
            file.write(content)
        file.truncate(START + 0x90000)
    return folder
