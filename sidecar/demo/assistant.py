"""The RAG itself: a question is embedded, looked up in the cache, searched for, answered and remembered."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from sidecar.demo.cache import Entry, SemanticCache, Source
from sidecar.demo.conversations import Conversations
from sidecar.demo.corpus import Document, passages, sentences
from sidecar.demo.search import CosineIndex, Embedder

RETRIEVED = 40
"""Passages per prompt: generous, as prompts are since context windows are large."""

_RELEVANT = 0.2
"""Cosine of the best passage below which there is no answer."""

_NO_ANSWER = "None of the documents answers that. Ask about memory, Python, retrieval or operations."
_INSTRUCTIONS = (
    "You answer questions of engineers from the passages below and from nothing else. "
    "Quote them where you can. If they do not contain the answer, say so."
)


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a question. `similarity` is to the cached question it was taken from, None if it is new.

    `kept_bytes` is roughly what this question has left behind in the cache and the conversation.
    """

    answer: str
    sources: tuple[Source, ...]
    similarity: float | None
    turn: int
    kept_bytes: int


class Assistant:
    """Answers questions from documents and keeps what it has answered. Threads may share it."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.cache = SemanticCache()
        self.conversations = Conversations()
        self._passages = [passage for document in documents for passage in passages(document)]
        # The title counts twice: a passage should be found by its subject even if its sentences do not repeat it.
        texts = [f"{each.document.title}. {each.document.title}. {each.text}" for each in self._passages]
        self._embedder = Embedder(texts)
        self._index = CosineIndex()
        for number, text in enumerate(texts):
            self._index.add(number, self._embedder.embed(text))

    def __len__(self) -> int:
        """How many passages can be found."""
        return len(self._passages)

    def ask(self, question: str, session: str) -> Reply:
        """Answer `question` as the next turn of `session`."""
        embedding = self._embedder.embed(question)
        found = self.cache.find(embedding)
        similarity, entry = found or (None, self._answer(question, embedding))
        added_bytes = 0 if found else self.cache.add(entry)
        turn, turn_bytes = self.conversations.add(session, question, entry.prompt, entry.answer)
        return Reply(entry.answer, entry.sources, similarity, turn, added_bytes + turn_bytes)

    def _answer(self, question: str, embedding: "array[float]") -> Entry:
        found = self._index.search(embedding, RETRIEVED)
        if not found or found[0][0] < _RELEVANT:
            found = []
        sources = tuple(self._source(number, score, key) for number, (score, key) in enumerate(found, 1))
        prompt = "\n\n".join((_INSTRUCTIONS, *(source.text for source in sources), f"User: {question}"))
        answer = self._extract(embedding, self._passages[found[0][1]].text) if found else _NO_ANSWER
        return Entry(question, embedding, sources, prompt, answer)

    def _source(self, number: int, score: float, key: int) -> Source:
        document, text = self._passages[key]
        return Source(document.id, document.title, score, f"[{number}] {document.title}\n{text}")

    def _extract(self, embedding: "array[float]", text: str) -> str:
        """The sentence of `text` nearest to the question and the two after it; questions answer nothing."""
        candidates = [sentence for sentence in sentences(text) if not sentence.endswith("?")]
        index = CosineIndex()
        for number, sentence in enumerate(candidates):
            index.add(number, self._embedder.embed(sentence))
        nearest = index.search(embedding, 1)
        best = nearest[0][1] if nearest else 0
        return " ".join(candidates[best:best + 3])
