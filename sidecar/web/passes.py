"""Full passes of the garbage collector, kept out of answers: one would go through all that was just made, and find
nothing in it, because it is still in use."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

NEVER = 1 << 30


class FullPasses:
    """Whether there are any now. Lives as long as the process, whose collector there is but one of."""

    def __init__(self) -> None:
        self._holders = 0
        self._usual = 0

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """None inside; passes over what is young go on. What has been due since the last time is done first."""
        young, middle, old = gc.get_threshold()
        if not self._holders:
            self._usual = old
            if gc.get_count()[2] > old:
                gc.collect()
        self._holders += 1
        gc.set_threshold(young, middle, NEVER)
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                gc.set_threshold(young, middle, self._usual)


FULL_PASSES = FullPasses()
