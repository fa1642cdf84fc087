"""Where the three memory lines of a target lie, what they are compared with, and who said so.

Later wins: a share of the cgroup limit < the file < the environment < the command line < the API, which is for a while.
Pure: limit and time are arguments.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

from sidecar.errors import SidecarError
from sidecar.model import Labels, Metric, Sample, series

Level = Literal["preventive", "main", "critical"]
Basis = Literal["cgroup", "anon", "rss", "pss", "endpoint"]
AskedBasis = Literal["auto", "cgroup", "anon", "rss", "pss", "endpoint"]
Source = Literal["default", "cgroup limit", "file", "environment", "command line", "api"]

UNITS: dict[str, int] = {
    "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40,
    "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40,
}
"""Unit → bytes. MB is 1024² bytes, the same as MiB: what the seeds, ps and top mean by it."""
MIB = UNITS["MiB"]
LEVELS: tuple[Level, ...] = get_args(Level)
PREVENTIVE_OF_MAIN = 0.8
CRITICAL_OF_MAIN = 1.2
MAIN_OF_LIMIT = 0.8
CRITICAL_OF_LIMIT = 0.9
DEFAULT_MAIN_BYTES = 1000 * MIB
LONGEST_OVERRIDE_SECONDS = 7 * 86400.0

THRESHOLD = Metric("rag_memory_threshold_bytes", "gauge",
                   "Memory in use above which the alert of this level becomes active.")
LIMIT = Metric("rag_memory_limit_bytes", "gauge",
               "Memory limit of the target: the tightest limit of its cgroup and the cgroups above it.")
METRICS = (THRESHOLD, LIMIT)

_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([A-Za-z]*)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Size:
    """A wish for a line at a number of bytes."""

    size_bytes: int
    source: Source


@dataclass(frozen=True, slots=True)
class Share:
    """A wish for a line at a share of the cgroup limit; `ratio` lies between 0 and 1."""

    ratio: float
    source: Source


@dataclass(frozen=True, slots=True)
class Wanted:
    """What somebody asked for; None is "not said"."""

    preventive: Size | Share | None = None
    main: Size | Share | None = None
    critical: Size | Share | None = None
    basis: AskedBasis = "auto"


@dataclass(frozen=True, slots=True)
class Override:
    """Lines that were put in force while the sidecar ran, until `until` (Unix seconds). None is "as configured"."""

    main_bytes: int | None
    critical_bytes: int | None
    until: float

    def over(self, wanted: Wanted, basis: Basis) -> Wanted:
        """What is asked for while these lines hold. A main of its own sets preventive, and the basis stays `basis`:
        whoever moves a line does not mean to compare something else with it.
        """
        if self.main_bytes is not None:
            wanted = replace(wanted, main=Size(self.main_bytes, "api"), preventive=None)
        if self.critical_bytes is not None:
            wanted = replace(wanted, critical=Size(self.critical_bytes, "api"))
        return replace(wanted, basis=basis)


@dataclass(frozen=True, slots=True)
class Line:
    """One threshold. `source` is who said so, `how` the way from there ("1.2 × main"; empty: as given).

    `of_limit` says that the number hangs on the cgroup limit.
    """

    size_bytes: int
    source: Source
    how: str = ""
    of_limit: bool = False

    def __str__(self) -> str:
        return f"{mib(self.size_bytes)} ({', '.join(filter(None, (self.source, self.how)))})"

    def times(self, factor: float, how: str) -> "Line":
        """The line that follows from this one."""
        return Line(round(self.size_bytes * factor), self.source, how, self.of_limit)


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The lines of one target. `armed` is False where nobody set one and no limit is known: show, alert, do nothing."""

    preventive: Line
    main: Line
    critical: Line
    basis: Basis
    armed: bool
    warnings: tuple[str, ...] = ()

    @property
    def lines(self) -> Mapping[Level, Line]:
        """Level → line, from the lowest to the highest."""
        return {"preventive": self.preventive, "main": self.main, "critical": self.critical}


def resolve(limit_bytes: int | None, wanted: Wanted) -> Thresholds:
    """The lines of a target whose tightest cgroup limit is `limit_bytes` (None: there is none, or none is readable).

    Raises SidecarError unless preventive < main < critical.
    """
    preventive, main, critical = _complete(limit_bytes, wanted)
    found = Thresholds(preventive, main, critical,
                       basis=_basis(critical) if wanted.basis == "auto" else wanted.basis,
                       armed=critical.source != "default")
    for (lower, below), (upper, above) in pairwise(found.lines.items()):
        if below.size_bytes >= above.size_bytes:
            raise SidecarError(f"{lower} {below} is not below {upper} {above}",
                               help="set memory sizes so that preventive < main < critical, or leave some of them out")
    return replace(found, warnings=tuple(_warnings(limit_bytes, wanted, found)))


def contradiction(wanted: Wanted) -> str:
    """What is wrong with these wishes whatever the limit turns out to be; the empty string if nothing is."""
    wishes = {level: wish for level in LEVELS if (wish := _wish(wanted, level)) is not None}
    shares = {level: wish.ratio for level, wish in wishes.items() if isinstance(wish, Share)}
    for (lower, below), (upper, above) in pairwise(shares.items()):
        if below >= above:
            return f"{lower} {_percent(below)} is not below {upper} {_percent(above)}"
    sizes = {level: wish for level, wish in wishes.items() if isinstance(wish, Size)}
    for (lower, less), (upper, more) in pairwise(sizes.items()):
        if less.size_bytes >= more.size_bytes:
            return (f"{lower} {mib(less.size_bytes)} ({less.source}) is not below "
                    f"{upper} {mib(more.size_bytes)} ({more.source})")
    if not shares:  # then a main or critical that follows from the others is the same under every limit
        try:
            resolve(None, wanted)
        except SidecarError as error:
            return str(error)
    return ""


def samples(base: Labels, thresholds: Thresholds, limit_bytes: int | None, at: float) -> list[Sample]:
    """The lines, and the limit where there is one, as series. `base` holds target, job and instance."""
    found = [Sample(series(base, THRESHOLD.name, "level", level), float(line.size_bytes), at)
             for level, line in thresholds.lines.items()]
    if limit_bytes is not None:
        found.append(Sample(series(base, LIMIT.name), float(limit_bytes), at))
    return found


def size(text: str) -> int:
    """Bytes of `512MiB`. Raises ValueError with a whole sentence."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size such as 512MiB")
    number, unit = match.groups()
    if not unit:
        raise ValueError(f"{text} has no unit: write {text}MiB, {text}KiB, {text}GiB or {text}B")
    if unit not in UNITS:
        meant = next((name for name in UNITS if name.lower().startswith(unit.lower())), None)
        raise ValueError(f"{text!r} has an unknown unit, "
                         + (f"did you mean {meant}?" if meant else f"known here: {', '.join(UNITS)}"))
    found = round(float(number) * UNITS[unit])
    if not 0 < found < 2 ** 63:
        raise ValueError(f"{text} is not a usable size: it must be more than 0 and less than 8 EiB")
    return found


def mib(size_bytes: float) -> str:
    """A size for people: MiB with at most one decimal."""
    return f"{size_bytes / MIB:.1f}".removesuffix(".0") + "MiB"


def _wish(wanted: Wanted, level: Level) -> Size | Share | None:
    return {"preventive": wanted.preventive, "main": wanted.main, "critical": wanted.critical}[level]


def _line(limit_bytes: int | None, wish: Size | Share | None) -> Line | None:
    if isinstance(wish, Size):
        return Line(wish.size_bytes, wish.source)
    if isinstance(wish, Share) and limit_bytes is not None:
        return Line(round(limit_bytes * wish.ratio), wish.source, f"{_percent(wish.ratio)} of the cgroup limit", True)
    return None


def _complete(limit_bytes: int | None, wanted: Wanted) -> tuple[Line, Line, Line]:
    """Preventive, main and critical: what was asked for, and what follows from it, the limit or the defaults."""
    preventive, main, critical = (_line(limit_bytes, _wish(wanted, level)) for level in LEVELS)
    if main is None and critical is None:
        if limit_bytes is not None:
            main = _line(limit_bytes, Share(MAIN_OF_LIMIT, "cgroup limit"))
            critical = _line(limit_bytes, Share(CRITICAL_OF_LIMIT, "cgroup limit"))
        elif preventive is not None:
            main = preventive.times(1 / PREVENTIVE_OF_MAIN, f"preventive / {PREVENTIVE_OF_MAIN}")
    if main is None:
        main = (Line(DEFAULT_MAIN_BYTES, "default") if critical is None
                else critical.times(1 / CRITICAL_OF_MAIN, f"critical / {CRITICAL_OF_MAIN}"))
    return (
        preventive or main.times(PREVENTIVE_OF_MAIN, f"{_percent(PREVENTIVE_OF_MAIN)} of main"),
        main,
        critical or main.times(CRITICAL_OF_MAIN, f"{CRITICAL_OF_MAIN} × main"),
    )


def _basis(critical: Line) -> Basis:
    """What a line is compared with follows from where it came from: like with like."""
    if critical.of_limit:
        return "cgroup"  # the limit counts the whole cgroup
    if critical.source == "environment":
        return "rss"  # MEMORY_CRITICAL_THRESHOLD_MB was always compared with the resident set
    return "anon"


def _warnings(limit_bytes: int | None, wanted: Wanted, found: Thresholds) -> Iterator[str]:
    for level in LEVELS:
        if limit_bytes is None and isinstance(_wish(wanted, level), Share):
            yield f"{level} is a share of the cgroup limit, but the target has none that can be read: ignored"
    if limit_bytes is not None:
        for level, line in found.lines.items():
            if not line.of_limit and line.size_bytes >= limit_bytes:
                yield (f"{level} {line} is not below the cgroup limit of {mib(limit_bytes)}: "
                       "the kernel kills the target before it is reached")
    if not found.armed:
        yield (f"neither a threshold nor a readable cgroup limit: {mib(found.main.size_bytes)} and "
               f"{mib(found.critical.size_bytes)} are shown and alerted on, but nothing is done")


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.4g}%"
