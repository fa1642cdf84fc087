"""The semantic cache: answers found again by the meaning of the question. It has no bound: that is one of the leaks.

Many services start like this one: an entry is small, hits are quick, and nobody asks how many entries there will be.
"""

import sys
import threading
from array import array
from dataclasses import dataclass
from itertools import islice

from sidecar.demo.search import CosineIndex


@dataclass(frozen=True, slots=True)
class Source:
    """A passage as it was shown to the model: `text` is a copy with its number and title, not a reference."""

    document: str
    title: str
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Entry:
    """Everything that answering one question has produced."""

    question: str
    embedding: "array[float]"
    sources: tuple[Source, ...]
    prompt: str
    answer: str

    def measure_bytes(self) -> int:
        """What the entry occupies. Approximate: the allocator's rounding and the index are not counted."""
        texts = (self.question, self.prompt, self.answer, *(source.text for source in self.sources))
        return sum(map(sys.getsizeof, (self.embedding, self.sources, *self.sources, *texts)))


class SemanticCache:
    """Entries by the embedding of their question, least recently used first. Lives as long as the service."""

    def __init__(self, similarity: float = 0.95) -> None:
        self.similarity = similarity
        self.bytes = 0
        self.hits = 0
        self.misses = 0
        self._entries: dict[int, Entry] = {}
        self._index = CosineIndex()
        self._next_key = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, embedding: "array[float]") -> tuple[float, Entry] | None:
        """The entry whose question is most similar, with the similarity; None if none is similar enough."""
        with self._lock:
            for score, key in self._index.search(embedding, 1):
                if score >= self.similarity:
                    self.hits += 1
                    entry = self._entries[key] = self._entries.pop(key)  # to the end: it is the one used last
                    return score, entry
            self.misses += 1
            return None

    def add(self, entry: Entry) -> int:
        """Keep `entry`; returns its approximate bytes."""
        kept_bytes = entry.measure_bytes()
        with self._lock:
            self._entries[self._next_key] = entry
            self._index.add(self._next_key, entry.embedding)
            self._next_key += 1
            self.bytes += kept_bytes
        return kept_bytes

    def evict(self, share: float) -> int:
        """Drop this share (0 to 1) of the entries, least recently used first; returns how many."""
        with self._lock:
            evicted = list(islice(self._entries, round(len(self._entries) * share)))
            for key in evicted:
                self.bytes -= self._entries.pop(key).measure_bytes()
            self._index.keep(self._entries.keys())
        return len(evicted)
