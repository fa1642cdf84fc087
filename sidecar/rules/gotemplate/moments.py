"""Go's time.Time and time.Duration as templates meet them: how they print and which methods may be called.

Source: the documentation of Go's package time. Times are UTC.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sidecar.rules.gotemplate.call import Callee

NANOSECONDS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Duration:
    """A span of time in whole nanoseconds; prints as `1h2m3.5s`."""

    nanoseconds: int

    go_type = "time.Duration"

    def __index__(self) -> int:
        return self.nanoseconds

    def __str__(self) -> str:
        size = abs(self.nanoseconds)
        sign = "-" if self.nanoseconds < 0 else ""
        for unit, factor in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
            if size < min(factor * 1000, NANOSECONDS):
                return f"{sign}{_decimal(size, factor)}{unit}" if size else "0s"
        minutes, rest = divmod(size, 60 * NANOSECONDS)
        text = _decimal(rest, NANOSECONDS) + "s"
        if minutes:
            text = f"{minutes % 60}m{text}"
        return sign + (f"{minutes // 60}h{text}" if minutes >= 60 else text)

    @property
    def go_methods(self) -> Mapping[str, Callee]:
        """The methods a template may call."""
        return {
            "Hours": Callee(lambda: self.nanoseconds / (3600 * NANOSECONDS)),
            "Minutes": Callee(lambda: self.nanoseconds / (60 * NANOSECONDS)),
            "Seconds": Callee(lambda: self.nanoseconds / NANOSECONDS),
            "Milliseconds": Callee(lambda: int(self.nanoseconds / 1_000_000)),
            "Microseconds": Callee(lambda: int(self.nanoseconds / 1_000)),
            "Nanoseconds": Callee(lambda: self.nanoseconds),
            "String": Callee(self.__str__),
        }


def _decimal(size: int, factor: int) -> str:
    whole, rest = divmod(size, factor)
    fraction = f"{rest:0{len(str(factor)) - 1}d}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


@dataclass(frozen=True, slots=True)
class Time:
    """A moment in whole nanoseconds since 1970, in UTC; prints as `2026-01-02 03:04:05.6 +0000 UTC`.

    Raises:
        ValueError: years outside 1 to 9999.
    """

    nanoseconds: int

    go_type = "time.Time"

    def __post_init__(self) -> None:
        try:
            self._datetime()
        except OverflowError:
            raise ValueError(f"{self.nanoseconds} ns is outside the years 1 to 9999") from None

    def __str__(self) -> str:
        return self.format("2006-01-02 15:04:05.999999999 -0700 MST")

    def _datetime(self) -> datetime:
        return _EPOCH + timedelta(seconds=self.nanoseconds // NANOSECONDS)

    def format(self, layout: str) -> str:
        """Written in a Go layout: an example of how the moment 2006-01-02 15:04:05 would look."""
        moment, fraction = self._datetime(), f"{self.nanoseconds % NANOSECONDS:09d}"

        def one(found: re.Match[str]) -> str:
            part = found[0]
            if part[0] in ".,":
                digits = fraction[: len(part) - 1]
                digits = digits.rstrip("0") if part[1] == "9" else digits
                return part[0] + digits if digits else ""
            return _PARTS[part](moment)

        return _LAYOUT.sub(one, layout)

    @property
    def go_methods(self) -> Mapping[str, Callee]:
        """The methods a template may call."""
        moment = self._datetime()
        return {
            "Year": Callee(lambda: moment.year),
            "Month": Callee(lambda: moment.strftime("%B")),
            "Day": Callee(lambda: moment.day),
            "Hour": Callee(lambda: moment.hour),
            "Minute": Callee(lambda: moment.minute),
            "Second": Callee(lambda: moment.second),
            "Nanosecond": Callee(lambda: self.nanoseconds % NANOSECONDS),
            "YearDay": Callee(lambda: moment.timetuple().tm_yday),
            "Weekday": Callee(lambda: moment.strftime("%A")),
            "Unix": Callee(lambda: self.nanoseconds // NANOSECONDS),
            "UnixMilli": Callee(lambda: self.nanoseconds // 1_000_000),
            "UnixNano": Callee(lambda: self.nanoseconds),
            "UTC": Callee(lambda: self),
            "Format": Callee(self.format, (str,)),
            "String": Callee(self.__str__),
        }


_PARTS: dict[str, Callable[[datetime], str]] = {
    "January": lambda t: t.strftime("%B"),
    "Jan": lambda t: t.strftime("%b"),
    "Monday": lambda t: t.strftime("%A"),
    "Mon": lambda t: t.strftime("%a"),
    "MST": lambda t: "UTC",
    "2006": lambda t: f"{t.year:04d}",
    "002": lambda t: f"{t.timetuple().tm_yday:03d}",
    "01": lambda t: f"{t.month:02d}",
    "02": lambda t: f"{t.day:02d}",
    "03": lambda t: f"{(t.hour + 11) % 12 + 1:02d}",
    "04": lambda t: f"{t.minute:02d}",
    "05": lambda t: f"{t.second:02d}",
    "06": lambda t: f"{t.year % 100:02d}",
    "15": lambda t: f"{t.hour:02d}",
    "_2": lambda t: f"{t.day:2d}",
    "PM": lambda t: "PM" if t.hour >= 12 else "AM",
    "pm": lambda t: "pm" if t.hour >= 12 else "am",
    "Z07:00": lambda t: "Z",
    "Z0700": lambda t: "Z",
    "-07:00": lambda t: "+00:00",
    "-0700": lambda t: "+0000",
    "-07": lambda t: "+00",
    "1": lambda t: str(t.month),
    "2": lambda t: str(t.day),
    "3": lambda t: str((t.hour + 11) % 12 + 1),
    "4": lambda t: str(t.minute),
    "5": lambda t: str(t.second),
}
_LAYOUT = re.compile(r"[.,](?:0+|9+)(?!\d)|" + "|".join(re.escape(part) for part in _PARTS))
"""Longer parts stand first in the table, so that `2006` is not read as the day `2`."""
