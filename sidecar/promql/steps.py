"""Work in pieces: a generator that pauses where it holds nothing half done, and returns its result at the end."""

from collections.abc import Generator
from typing import TypeVar

Result = TypeVar("Result")

ELEMENTS_A_PIECE = 256
"""So many elements of a vector are selected, joined or grouped between two pauses."""

Steps = Generator[None, None, Result]
"""Goes on at each `next` until the next pause. Whoever drives it decides what runs in between, and for how long."""


def finish(steps: Steps[Result]) -> Result:
    """The result, without any pause."""
    try:
        while True:
            next(steps)
    except StopIteration as ended:
        result: Result = ended.value
        return result
