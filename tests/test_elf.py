"""Symbols in mapped ELF files: real libraries, files made by hand, and damaged ones."""

import ctypes
import os

import pytest
from elf_files import shared_object
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.probes.elf import Image, gnu_hash
from sidecar.probes.memory import Memory


def reader(content, start=0x400000):
    """A made memory that holds `content` at `start`."""
    def read(address, size):
        found = content[address - start:address - start + size] if address >= start else b""
        if len(found) < size:
            raise ValueError(f"nothing is mapped at {address:#x}")
        return found
    return read


def mapped(mark):
    """Where the file whose name holds `mark` is mapped in this very process."""
    with open("/proc/self/maps") as file:
        return next(int(line.split("-")[0], 16) for line in file if mark in line.rsplit("/", 1)[-1])


def test_symbols_of_the_c_library_are_where_the_loader_found_them():
    """For functions of libc the look-up gives the addresses that this process calls."""
    own, libc = Memory(os.getpid()), ctypes.CDLL(None)
    image = Image(own.read, mapped("libc.so"))

    for name in ("malloc_trim", "qsort", "environ", "stdout"):
        assert image.symbol(name.encode()) == ctypes.addressof(ctypes.c_char.in_dll(libc, name)), name
    assert image.symbol(b"PyGC_Collect") is None
    own.close()


@pytest.mark.parametrize("buckets", [1, 3, 50])
def test_symbols_of_a_made_file_are_found(buckets):
    """Whatever the shape of the hash table, each symbol is found and no other."""
    names = {f"name{number}": 0x100 + number for number in range(40)}
    image = Image(reader(shared_object(names, buckets=buckets)), 0x400000)

    assert {name: image.symbol(name.encode()) for name in names} == {
        name: 0x400000 + value for name, value in names.items()}
    assert image.symbol(b"name40") is None


def test_the_hash_is_the_loaders():
    """The example of the format's description: an empty name, and a known one."""
    assert (gnu_hash(b""), gnu_hash(b"printf")) == (0x1505, 0x156B2BB8)


@pytest.mark.parametrize(("content", "what"), [
    (b"#!/bin/sh\n".ljust(64), "not an ELF file"),
    (b"\x7fELF", "nothing is mapped"),
    (shared_object({"a": 1}, bits=1), "32-bit"),
    (shared_object({"a": 1}, order=2), "big endian"),
    (shared_object({"a": 1})[:100], "nothing is mapped"),
])
def test_what_is_no_such_file_is_refused(content, what):
    """Scripts, cut files and those of other machines are refused with the reason."""
    with pytest.raises(ValueError, match=what):
        Image(reader(content), 0x400000).symbol(b"a")


def test_a_chain_without_an_end_ends():
    """A hash table whose chain never ends is refused; it is not followed through the memory of the process."""
    content = shared_object({f"name{number}": 1 for number in range(2000)})
    with pytest.raises(ValueError, match="hash table"):
        Image(reader(content), 0x400000).symbol(b"absent")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8))
def test_damage_is_an_error_and_nothing_else(changes):
    """Whatever bytes of a file are changed, the look-up ends with an address, with nothing, or with ValueError."""
    content = bytearray(shared_object({"_PyRuntime": 0x200, "Py_Version": 0x300}, buckets=3))
    for place, byte in changes:
        content[place % len(content)] = byte
    try:
        found = Image(reader(bytes(content)), 0x400000).symbol(b"_PyRuntime")
    except ValueError:
        return
    assert found is None or isinstance(found, int)
