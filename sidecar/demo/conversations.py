"""The conversation tracker: what every session has said and was shown. Sessions never end, and that is the other leak.

A turn keeps the whole context that it was answered from, the earlier turns included, as chat services do that store
each prompt for review. Within a session memory so grows with the square of the number of turns, up to the window.
"""

import sys
import threading
from dataclasses import dataclass

CONTEXT_WINDOW_CHARS = 64 * 1024


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and its answer. `context` is the text that the model saw: earlier turns, passages, the question."""

    question: str
    answer: str
    context: str

    def measure_bytes(self) -> int:
        """What the turn occupies, approximately."""
        return sum(map(sys.getsizeof, (self, self.question, self.answer, self.context)))


class Conversations:
    """The turns of each session, oldest first. Lives as long as the service."""

    def __init__(self) -> None:
        self.bytes = 0
        self.turns = 0
        self._sessions: dict[str, list[Turn]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._sessions)

    def add(self, session: str, question: str, prompt: str, answer: str) -> tuple[int, int]:
        """Record a turn of `session`; returns its number, from 1, and its approximate bytes."""
        with self._lock:
            turns = self._sessions.setdefault(session, [])
            earlier = f"{turns[-1].context}\n\nAssistant: {turns[-1].answer}\n\n" if turns else ""
            turn = Turn(question, answer, (earlier + prompt)[-CONTEXT_WINDOW_CHARS:])
            turns.append(turn)
            kept_bytes = turn.measure_bytes()
            self.bytes += kept_bytes
            self.turns += 1
            return len(turns), kept_bytes

    def forget_older_half(self) -> int:
        """Drop the older half of the turns of each session; returns how many."""
        with self._lock:
            return sum(self._cut(turns, len(turns) // 2) for turns in self._sessions.values())

    def keep_last_turns(self) -> int:
        """Drop all turns but the last of each session, which the next question builds on; returns how many."""
        with self._lock:
            return sum(self._cut(turns, len(turns) - 1) for turns in self._sessions.values())

    def clear(self) -> int:
        """Drop every session; returns how many turns that were."""
        with self._lock:
            dropped = self.turns
            self._sessions.clear()
            self.bytes = self.turns = 0
            return dropped

    def _cut(self, turns: list[Turn], count: int) -> int:
        self.bytes -= sum(turn.measure_bytes() for turn in turns[:count])
        self.turns -= count
        del turns[:count]
        return count
