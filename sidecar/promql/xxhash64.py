"""xxHash64 with seed 0 (https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md), and labels hashed by it.

`limit_ratio` keeps a series by this hash, so it has to be the one that Prometheus computes.
"""

import struct
from collections.abc import Mapping

_MASK = (1 << 64) - 1
_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_ACCUMULATORS = ((_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK)


def _rotated(value: int, bits: int) -> int:
    return (value << bits | value >> 64 - bits) & _MASK


def _round(accumulator: int, lane: int) -> int:
    return _rotated((accumulator + lane * _P2) & _MASK, 31) * _P1 & _MASK


def _converged(accumulators: list[int]) -> int:
    first, second, third, fourth = accumulators
    result = _rotated(first, 1) + _rotated(second, 7) + _rotated(third, 12) + _rotated(fourth, 18) & _MASK
    for accumulator in accumulators:
        result = ((result ^ _round(0, accumulator)) * _P1 + _P4) & _MASK
    return result


def xxhash64(data: bytes) -> int:
    """The hash of `data`, 64 bits wide."""
    stripes = len(data) // 32
    if stripes:
        accumulators = list(_ACCUMULATORS)
        for lanes in struct.iter_unpack("<4Q", data[: stripes * 32]):
            accumulators = [_round(*pair) for pair in zip(accumulators, lanes, strict=True)]
        result = _converged(accumulators)
    else:
        result = _P5
    result = (result + len(data)) & _MASK
    rest = data[stripes * 32:]
    words = len(rest) // 8
    for (lane,) in struct.iter_unpack("<Q", rest[: words * 8]):
        result = (_rotated(result ^ _round(0, lane), 27) * _P1 + _P4) & _MASK
    rest = rest[words * 8:]
    if len(rest) >= 4:
        result = (_rotated(result ^ struct.unpack_from("<L", rest)[0] * _P1 & _MASK, 23) * _P2 + _P3) & _MASK
        rest = rest[4:]
    for byte in rest:
        result = _rotated(result ^ byte * _P5 & _MASK, 11) * _P1 & _MASK
    result = (result ^ result >> 33) * _P2 & _MASK
    result = (result ^ result >> 29) * _P3 & _MASK
    return result ^ result >> 32


def labels_hash(labels: Mapping[str, str]) -> int:
    """The hash that a Prometheus with its default build gives to a label set, its names in ascending order.

    It hashes names and values in turn, each after its length (model/labels/labels_stringlabels.go).
    """
    return xxhash64(b"".join(_sized(text) for pair in labels.items() for text in pair))


def _sized(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    size = len(data)
    return (bytes((size,)) if size < 255 else b"\xff" + size.to_bytes(3, "little")) + data
