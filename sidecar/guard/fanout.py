"""One order on its way to the agents of all processes of a target, and what they answer together."""

from __future__ import annotations

from sidecar.guard.reply import Reply
from sidecar.guard.wire import loads
from sidecar.tuples import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

MOST_BUFFERED_BYTES = 1 << 20
"""What the unfinished answers to one order may hold together."""
MOST_STEPS, MOST_STEPS_READ, MOST_CHARACTERS, BEYOND_BELIEF = 24, 256, 60, 1 << 53

FIGURES = ("freed_bytes", "predicted_bytes", "objects_collected", "pause_seconds", "duration_seconds")
OF_STEP = ("freed_bytes", "objects", "pause_seconds", "duration_seconds")
SIDE_BY_SIDE = ("pause_seconds", "duration_seconds")
"""Processes clean up at the same time: of these figures the longest counts, of all others the sum."""


class Fanout:
    """The answers to one order, by process. Lives until the last has come or nobody waits any more.

    `rows` say of each process how it ended: an outcome and figures, or `failed` with the reason.
    """

    def __init__(self, attempt: str) -> None:
        self.attempt = attempt
        self.accepted: set[str] = set()
        self.rows: list[dict[str, Any]] = []
        self._waiting: dict[str, Reply] = {}
        self._sums: dict[str, float] = {}
        self._steps: dict[str, dict[str, Any]] = {}

    def expect(self, process: str) -> Reply:
        """The order is about to be written to this process: what its answer is to be fed to."""
        self._waiting[process] = reply = Reply()
        return reply

    def heard(self, process: str) -> None:
        """Something has come from this process. Raises ValueError for what is no answer of an agent."""
        reply = self._waiting[process]
        if reply.accepted == self.attempt:
            self.accepted.add(process)
        if not reply.whole:
            if sum(each.held_bytes for each in self._waiting.values()) > MOST_BUFFERED_BYTES:
                raise ValueError("the answers are too long together")
            return
        if reply.status == 200:
            self._take(process, loads(reply.body))
            self.accepted.add(process)
            del self._waiting[process]
        else:
            self.fail(process, "busy" if reply.status == 409 else f"http_{reply.status}")

    def _take(self, process: str, told: object) -> None:
        if not isinstance(told, dict):
            raise ValueError("an answer that is no object")
        row = {"process": process, "outcome": _text(told.get("outcome")), **_figures(told, FIGURES)}
        self.rows.append(row)
        _add(self._sums, row, FIGURES)
        steps = told.get("steps")
        for step in steps[:MOST_STEPS_READ] if isinstance(steps, list) else ():
            if isinstance(step, dict):
                self._take_step(_text(step.get("step")), step)

    def _take_step(self, name: str, step: dict[str, Any]) -> None:
        known = self._steps.get(name)
        if known is None:
            if len(self._steps) == MOST_STEPS:
                return
            known = self._steps[name] = {"step": name}
        _add(known, _figures(step, OF_STEP), OF_STEP)
        if step.get("error"):
            known.setdefault("error", _text(step["error"]))

    def fail(self, process: str, reason: str) -> None:
        """Nothing more is awaited of this process."""
        if self._waiting.pop(process, None):
            self.rows.append({"process": process, "failed": reason})

    @property
    def waiting(self) -> list[str]:
        """The processes that have not answered yet."""
        return list(self._waiting)

    def summary(self) -> dict[str, Any] | None:
        """What those that answered told, as plain values that fit into a message; None if nobody did."""
        if not any("outcome" in row for row in self.rows):
            return None
        return {"told": self._sums, "steps": list(self._steps.values()), "processes": self.rows}

    def reason(self) -> str:
        """Why the first that failed did: one word."""
        return next((str(row["failed"]) for row in self.rows if "failed" in row), "closed")


def figures(told: object) -> dict[str, float]:
    """What an answer tells of a cleanup, as far as it is numbers that can be true; of what is no object, nothing."""
    return _figures(told, FIGURES) if isinstance(told, dict) else {}


def _text(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return text[:MOST_CHARACTERS] if text.isprintable() else ascii(text)[:MOST_CHARACTERS]


def _figures(told: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    found = {name: told.get(name) for name in names}
    return {name: value for name, value in found.items()
            if isinstance(value, int | float) and value is not True and value is not False
            and -BEYOND_BELIEF < value < BEYOND_BELIEF}


def _add(total: dict[str, Any], figures: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in figures:
            both = total.get(name, 0), figures[name]
            total[name] = max(both) if name in SIDE_BY_SIDE else sum(both)
