"""What was made of the texts that were used last, as far as it fits."""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Made = TypeVar("Made")


class Recent(Generic[Key, Made]):
    """A function that remembers: what it returned for the keys that were used last, of at most `most` in weight.

    A limit on the number alone would not do: whoever asks chooses how long a text is. An error is not remembered. May
    be called by several threads. Lives as long as the process.
    """

    def __init__(self, make: Callable[[Key], Made], weigh: Callable[[Key, Made], int], most: int) -> None:
        self._make = make
        self._weigh = weigh
        self._most = most
        self._made: dict[Key, Made] = {}
        self._lock = Lock()
        self.held = 0

    def __call__(self, key: Key) -> Made:
        """What `make` returns for `key`, or has returned. Raises what it raises."""
        with self._lock:
            if key in self._made:
                self._made[key] = found = self._made.pop(key)  # the youngest stand last
                return found
        made = self._make(key)
        with self._lock:
            if key not in self._made:  # another thread may have been faster
                self._made[key] = made
                self.held += self._weigh(key, made)
            while self.held > self._most:
                oldest = next(iter(self._made))
                self.held -= self._weigh(oldest, self._made.pop(oldest))
        return made
