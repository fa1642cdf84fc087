"""The hash by which limit_ratio chooses: public vectors, lengths on both sides of every branch, label sets."""

import pytest

from sidecar.model import Labels
from sidecar.promql.xxhash64 import labels_hash, xxhash64

PATTERN = bytes(index * 37 % 256 for index in range(101))


@pytest.mark.parametrize(("data", "expected"), [
    (b"", 0xEF46DB3751D8E999),
    (b"a", 0xD24EC4F1A98C6E5B),
    (b"as", 0x1C330FB2D66BE179),
    (b"asd", 0x631C37CE72A97393),
    (b"asdf", 0x415872F599CEA71E),
    (b"Call me Ishmael. Some years ago--never mind how long precisely-", 0x02A2E85470D6FD96),
])
def test_public_vectors(data: bytes, expected: int) -> None:
    """The hash is xxHash64: the vectors that its ports publish come out."""
    assert xxhash64(data) == expected


@pytest.mark.parametrize(("length", "expected"), [
    (7, 0x72B108A52E458E66),
    (8, 0x74C725313330D0CC),
    (12, 0x3A8DD8800255438A),
    (15, 0xA9E67596D9B0BA38),
    (31, 0x4513EC5EBC46D0D3),
    (32, 0x2C1F2FFA2ACE16D3),
    (33, 0x62F3B71CD8263C47),
    (40, 0xB3E25688FE539300),
    (44, 0xDFE8AA76F8915E3B),
    (47, 0x46BE87DA448ADF5F),
    (63, 0x2C9D78B9323007F3),
    (64, 0xCB86CFDC04A5148A),
    (101, 0x53EEC01F3C6D8EDB),
])
def test_every_length_of_tail(length: int, expected: int) -> None:
    """Stripes of 32 bytes, words of 8, one of 4 and single bytes are all taken in."""
    assert xxhash64(PATTERN[:length]) == expected


def test_labels() -> None:
    """A label set is hashed with its lengths, so that moving a letter from name to value changes the hash."""
    assert labels_hash(Labels()) == xxhash64(b"")
    assert labels_hash(Labels({"b": "é", "a": "x"})) == xxhash64(b"\x01a\x01x\x01b\x02\xc3\xa9")
    assert labels_hash(Labels({"ab": "c"})) != labels_hash(Labels({"a": "bc"}))
    long = "y" * 300
    assert labels_hash(Labels({"a": long})) == xxhash64(b"\x01a\xff\x2c\x01\x00" + long.encode())
