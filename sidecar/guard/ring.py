"""The flight record's file: a ring of frames, written in place, so that the page cache keeps what a killed guard knew.

A frame is a header and a message. The header: a mark, a checksum of all that follows it, the frame's serial number, the
number that it is about, the length of the message. Frames stand at multiples of `STEP_BYTES`; the oldest are
overwritten. A frame without a message says that the desk has done with everything up to its number. One that was torn
by a kill, or half overwritten, has another checksum and does not count.
"""

from __future__ import annotations

import errno
import os
from binascii import crc32
from collections.abc import Iterator

from sidecar.tuples import NamedTuple

RING_BYTES = 1 << 20
STEP_BYTES = 64
HEADER_BYTES = 32
MARK = b"\x8eRSF"
"""Begins with what is no ASCII, and messages are ASCII: nothing that a target tells can look like a frame."""
MOST = 1 << 53
MOST_BYTES = 1 << 16
BLOCK_BYTES = 1 << 13


class Frame(NamedTuple):
    """One whole frame: where it ends in the file, its place in the sequence, its number, its message or nothing."""

    end: int
    serial: int
    number: int
    data: bytes


def frames(fd: int) -> Iterator[Frame]:
    """The whole frames in a file, as they stand there, whatever else may be in it. Raises OSError.

    Read block by block: the guard has no room for all of it at once.
    """
    at = base = 0
    block = b""
    while at < RING_BYTES:
        if not base <= at < base + len(block):
            base, block = at, os.pread(fd, BLOCK_BYTES, at)
            if not block:
                return
        frame = _frame(fd, at) if block.startswith(MARK, at - base) else None
        if frame:
            yield frame
        at = frame.end if frame else at + STEP_BYTES


def _frame(fd: int, at: int) -> Frame | None:
    header = os.pread(fd, HEADER_BYTES, at)
    checksum, serial, number, length = (
        int.from_bytes(header[a:b], "little") for a, b in ((4, 8), (8, 16), (16, 24), (24, 32)))
    if len(header) < HEADER_BYTES or length > MOST_BYTES or max(serial, number) >= MOST:
        return None
    data = os.pread(fd, length, at + HEADER_BYTES)
    if len(data) < length or crc32(header[8:] + data) != checksum:
        return None
    return Frame(_rounded(at + HEADER_BYTES + length), serial, number, data)


def _rounded(size: int) -> int:
    return -(-size // STEP_BYTES) * STEP_BYTES


class Ring:
    """A file to write frames to, after those that are in it already. Lives until it is closed.

    Takes the descriptor over. Raises OSError if it cannot be read.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = self._serial = self.last = 0
        for frame in frames(fd):
            if frame.serial > self._serial:
                self._at, self._serial = frame[:2]
            self.last = max(self.last, frame.number)
        if max(self._serial, self.last) > MOST // 2:  # no guard lives so long: a stranger has written it
            os.ftruncate(fd, 0)
            self._at = self._serial = self.last = 0

    def write(self, number: int, data: bytes = b"") -> None:
        """Write a frame. Raises OSError (ENOSPC and others); then it may be tried again."""
        tail = ((self._serial + 1).to_bytes(8, "little") + number.to_bytes(8, "little")
                + len(data).to_bytes(8, "little") + data)
        frame = MARK + crc32(tail).to_bytes(4, "little") + tail
        if self._at + len(frame) > RING_BYTES:
            self._at = 0
        if os.pwrite(self._fd, frame, self._at) < len(frame):
            raise OSError(errno.ENOSPC, "no room for all of it")
        self._at += _rounded(len(frame))
        self._serial += 1

    def same_as(self, fd: int) -> bool:
        """Whether this descriptor is one of the same file."""
        return os.path.sameopenfile(self._fd, fd)

    def close(self) -> None:
        """Give the descriptor back, and with it the lock."""
        os.close(self._fd)
