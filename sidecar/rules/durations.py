"""Durations in Prometheus's notation: `30s`, `1h30m`, `0`."""

import re

_UNITS_MS = {"y": 31_536_000_000, "w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile("".join(f"(?:([0-9]+){unit})?" for unit in _UNITS_MS))
_LARGEST_MS = (2**63 - 1) // 1_000_000


def parse_duration(text: str) -> float:
    """Seconds of a duration: whole numbers with the units y w d h m s ms in this order, or a bare `0`.

    Source: model.ParseDuration of github.com/prometheus/common. Raises ValueError with the reason.
    """
    if text == "0":
        return 0.0
    if not text:
        raise ValueError("empty duration string")
    found = _DURATION.fullmatch(text) if text.isascii() and len(text) < 100 else None
    if found is None:
        raise ValueError(f"not a valid duration string: {text[:100]!r} (write it like 30s, 5m or 1h30m)")
    total = sum(int(count or 0) * unit for count, unit in zip(found.groups(), _UNITS_MS.values(), strict=True))
    if total > _LARGEST_MS:
        raise ValueError(f"duration out of range: {text}")
    return total / 1000
