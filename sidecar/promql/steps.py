"""Work in pieces: a generator that pauses where it holds nothing half done, and returns its result at the end."""

from collections.abc import Callable, Generator, Iterable
from itertools import islice
from typing import TypeVar

Result = TypeVar("Result")
Element = TypeVar("Element")

ELEMENTS_A_PIECE = 256
"""So many elements of a vector are selected, joined or grouped between two pauses."""

Steps = Generator[None, None, Result]
"""Goes on at each `next` until the next pause. Whoever drives it decides what runs in between, and for how long."""


def piecewise(make: Callable[[list[Element]], Iterable[Result]], elements: Iterable[Element]) -> Steps[list[Result]]:
    """What `make` makes of all elements, some at a time."""
    rest, found = iter(elements), list[Result]()
    while piece := list(islice(rest, ELEMENTS_A_PIECE)):
        found += make(piece)
        if len(piece) == ELEMENTS_A_PIECE:
            yield
    return found


def finish(steps: Steps[Result]) -> Result:
    """The result, without any pause."""
    try:
        while True:
            next(steps)
    except StopIteration as ended:
        result: Result = ended.value
        return result
