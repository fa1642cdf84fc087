"""An answer over HTTP/1.1 as it comes in, piece by piece: the little of the protocol that agents speak."""

from __future__ import annotations

MOST_HEADER_BYTES = 8192
MOST_BODY_BYTES = 65536
MOST_INTERIM = 4
"""So many answers with a status of 1xx may come before the one that counts."""
ACCEPTED = b"x-rag-sidecar-accepted"


class Reply:
    """One answer. Lives from the question to the last byte of its answer.

    `accepted` is the id that an interim answer has accepted, "" before. `status` is 0 until the header is there, and
    `body` is of use once it is `whole`. `closes` says whether the other side will ask for no more questions.
    """

    __slots__ = ("_buffer", "_interim", "_length", "accepted", "body", "closes", "status", "whole")

    def __init__(self) -> None:
        self.accepted = ""
        self.status = 0
        self.body = b""
        self.whole = False
        self.closes = False
        self._buffer = b""
        self._length = 0
        self._interim = 0

    def feed(self, data: bytes) -> None:
        """Take in what has come. Raises ValueError for what is no answer, or more than one may be."""
        self._buffer += data
        while not self.status and b"\r\n\r\n" in self._buffer[:MOST_HEADER_BYTES]:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._take(head)
        if not self.status:
            if len(self._buffer) >= MOST_HEADER_BYTES:
                raise ValueError(f"a header of more than {MOST_HEADER_BYTES} bytes")
            return
        if len(self._buffer) > self._length:
            raise ValueError("more than was asked for")
        if len(self._buffer) == self._length:
            self.body, self._buffer, self.whole = self._buffer, b"", True

    @property
    def held_bytes(self) -> int:
        """What has come and could not be used yet."""
        return len(self._buffer)

    def _take(self, head: bytes) -> None:
        """The status line and the fields of one answer."""
        first, *lines = head.split(b"\r\n")
        words = first.split(b" ", 2)
        if len(words) < 2 or words[0] not in (b"HTTP/1.1", b"HTTP/1.0") or len(words[1]) != 3 or not words[1].isdigit():
            raise ValueError("no answer over HTTP")
        fields: dict[bytes, bytes] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or fields.setdefault(name.lower(), value.strip()) != value.strip():
                raise ValueError("a field of the header that makes no sense")
        status = int(words[1])
        if 100 <= status < 200:
            self._interim += 1
            self.accepted = fields.get(ACCEPTED, b"").decode("ascii", "replace") or self.accepted
            if self._interim > MOST_INTERIM or status == 101:
                raise ValueError("one interim answer after the other")
            return
        length = fields.get(b"content-length", b"")
        if b"transfer-encoding" in fields or not (length.isdigit() and len(length) < 9):
            raise ValueError("an answer of unknown length")
        self.status, self._length = status, int(length)
        self.closes = words[0] == b"HTTP/1.0" or fields.get(b"connection", b"").lower() == b"close"
        if self._length > MOST_BODY_BYTES:
            raise ValueError(f"an answer of {self._length} bytes is more than {MOST_BODY_BYTES}")


def question(method: str, path: str, body: bytes = b"") -> bytes:
    """A question as it is sent: GET without a body, POST with one in JSON."""
    content = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{content}\r\n".encode() + body
