"""Finding texts that mean the same: hashed TF-IDF embeddings and exact cosine search over them."""

import heapq
import math
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

DIMENSIONS = 2048

_WITHOUT_MEANING = """
    a about all also am an and any are as at be because been before but by can could did do does for from get give
    had has have how i if in into is it its just may me might mine must my no not of on or our please s shall should
    so some t tell than that the their them then there these they this those to us was we were what when where which
    while who whom whose why will with would you your
"""
_STOP_WORDS = frozenset(_WITHOUT_MEANING.split())


def words(text: str) -> list[str]:
    """The words of `text` that carry meaning, in lower case and without the commonest English endings."""
    return [_stem(word) for word in re.findall(r"[a-z0-9_]+", text.lower()) if word not in _STOP_WORDS]


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) >= len(ending) + 3:
            word = word.removesuffix(ending)
            break
    return word.rstrip("e") or word


def _dimension(word: str) -> int:
    # crc32 and not hash(): the latter differs from process to process, and embeddings must not.
    return zlib.crc32(word.encode()) % DIMENSIONS


class Embedder:
    """Turns texts into unit vectors. Learns from a corpus how rare each word is; lives as long as the service."""

    def __init__(self, texts: Collection[str]) -> None:
        seen = Counter(dimension for text in texts for dimension in {_dimension(word) for word in words(text)})
        self._rarity = [math.log(1 + len(texts) / (1 + seen[dimension])) for dimension in range(DIMENSIONS)]

    def embed(self, text: str) -> "array[float]":
        """A vector of DIMENSIONS floats and length 1, or of zeros if no word of `text` carries meaning."""
        vector = array("f", bytes(4 * DIMENSIONS))
        counts = Counter(map(_dimension, words(text)))
        weights = {dimension: (1 + math.log(n)) * self._rarity[dimension] for dimension, n in counts.items()}
        norm = math.hypot(*weights.values())
        for dimension, weight in weights.items():
            vector[dimension] = weight / norm
        return vector


class _Postings(NamedTuple):
    """The vectors that are not zero in one dimension. Arrays, as pairs would be a small object for each number."""

    keys: "array[int]"
    weights: "array[float]"


class CosineIndex:
    """Unit vectors by key. Exact, and quick because texts are short: only dimensions that the query has are visited."""

    def __init__(self) -> None:
        self._postings: dict[int, _Postings] = {}

    def add(self, key: int, vector: "array[float]") -> None:
        """Make `vector` findable as `key`."""
        for dimension, weight in _nonzero(vector):
            self._append(self._postings, dimension, key, weight)

    def search(self, vector: "array[float]", limit: int) -> list[tuple[float, int]]:
        """The `limit` nearest as (cosine, key), nearest first; those with nothing in common are left out."""
        scores: dict[int, float] = {}
        for dimension, wanted in _nonzero(vector):
            if found := self._postings.get(dimension):
                for key, weight in zip(found.keys, found.weights, strict=True):
                    scores[key] = scores.get(key, 0.0) + wanted * weight
        return heapq.nlargest(limit, ((score, key) for key, score in scores.items()))

    def keep(self, keys: Collection[int]) -> None:
        """Forget every vector whose key is not in `keys`."""
        left: dict[int, _Postings] = {}
        for dimension, found in self._postings.items():
            for key, weight in zip(found.keys, found.weights, strict=True):
                if key in keys:
                    self._append(left, dimension, key, weight)
        self._postings = left

    @staticmethod
    def _append(postings: dict[int, _Postings], dimension: int, key: int, weight: float) -> None:
        if dimension not in postings:
            postings[dimension] = _Postings(array("q"), array("f"))
        postings[dimension].keys.append(key)
        postings[dimension].weights.append(weight)


def _nonzero(vector: "array[float]") -> list[tuple[int, float]]:
    return [(dimension, weight) for dimension, weight in enumerate(vector) if weight]
