"""Which targets people have paused, and until when. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

NOTE = "paused:"
"""Begins the key of a note about a pause."""

Note = tuple[str, float, Mapping[str, Any]]
"""What the journal keeps of an order of people: (key, Unix seconds, plain JSON)."""


class Pauses:
    """`until` is when each paused target may be acted on again, in Unix seconds; None is not by itself.

    Lives as long as the desk.
    """

    def __init__(self) -> None:
        self.until: dict[str, float | None] = {}
        self._changed: dict[str, float] = {}

    def begin(self, target: str, until: float | None, now: float) -> None:
        """Pause a target; a pause that is on is replaced."""
        self.until[target] = until
        self._changed[target] = now

    def end(self, target: str, now: float) -> bool:
        """Whether there was one to end."""
        if target not in self.until:
            return False
        del self.until[target]
        self._changed[target] = now
        return True

    def over(self, now: float) -> list[str]:
        """End those whose time has passed, and name them."""
        due = [target for target, until in self.until.items() if until is not None and now >= until]
        for target in due:
            self.end(target, now)
        return due

    def drain(self) -> list[Note]:
        """What has changed since the last call."""
        changed, self._changed = self._changed, {}
        return [(NOTE + target, at, {"paused": target in self.until, "until": self.until.get(target)})
                for target, at in changed.items()]

    def restore(self, rows: Iterable[Note]) -> None:
        """Take over notes, oldest first; those that are none of ours are passed over."""
        for key, _, body in rows:
            until, target = body.get("until"), key.removeprefix(NOTE)
            if not key.startswith(NOTE) or not (until is None or isinstance(until, int | float)):
                continue
            self.until.pop(target, None)
            if body.get("paused") is True:
                self.until[target] = None if until is None else float(until)
