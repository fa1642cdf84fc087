"""Keeps Python's garbage collector from holding the event loop: a full pass over the series of a thousand targets takes
a tenth of a second, and finds nothing, because they stay. One over what a tick has read of them takes 40 ms."""

import gc
from collections.abc import Callable, Mapping

LONG_SECONDS = 0.005
MOST_FREEZES = 64
"""What is left out is never looked at again: a program that needs this more often has another trouble."""
SELDOM = 640
"""After so many passes over what is younger a full one may come, at the most: at a thousand targets in three minutes.
What a tick leaves behind are no cycles: passes over what is young find all that there is."""


class LongPasses:
    """A callback of `gc`: what has survived a long full pass is left out of all later ones, which come half as often.

    Left out is only what was alive, and it still goes when the last reference to it does. Lives as long as the desk.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._begun = 0.0
        self._freezes = 0

    def __call__(self, phase: str, about: Mapping[str, int]) -> None:
        if phase == "start":
            self._begun = self._clock()
        elif about["generation"] == 2 and self._clock() - self._begun > LONG_SECONDS:
            young, middle, old = gc.get_threshold()
            if old < SELDOM:  # else it is seldom enough, or postponed
                gc.set_threshold(young, middle, 2 * old)
            if self._freezes < MOST_FREEZES:
                self._freezes += 1
                gc.freeze()
