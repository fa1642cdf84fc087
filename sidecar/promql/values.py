"""What an expression evaluates to, and how it reaches its data."""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from sidecar.model import Labels


class Matcher(NamedTuple):
    """One condition on a label. Regular expressions match the whole value; an absent label is the empty string."""

    name: str
    op: Literal["=", "!=", "=~", "!~"]
    value: str


class Series(NamedTuple):
    """Raw samples of one series in ascending time, stale markers included. Times are Unix seconds.

    Whoever made it may know that every value is a number (`whole`) and none below the one before it (`rising`): then
    nobody has to look at each of them. False where that is not known.
    """

    labels: Labels
    times: Sequence[float]
    values: Sequence[float]
    whole: bool = False
    rising: bool = False


Select = Callable[[Sequence[Matcher], float, float], Iterable[Series]]
"""`select(matchers, start, end)`: every matching series with its samples in the left-open range (start, end]."""


class Point(NamedTuple):
    """One element of an instant vector."""

    labels: Labels
    value: float


Newest = Callable[[Sequence[Matcher], float, float], Iterable[Point]]
"""`newest(matchers, start, end)`: of every matching series the newest value in (start, end], no stale markers."""

Vector = list[Point]
Matrix = list[Series]
Value = float | str | Vector | Matrix
