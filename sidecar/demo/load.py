"""Questions as visitors ask them: some over and over, most with their own details, in conversations that just stop."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from itertools import accumulate

from sidecar.demo.assistant import Assistant, Reply
from sidecar.demo.cleanup import MIB, read_memory
from sidecar.demo.corpus import Topic

log = logging.getLogger("rag")

_FORMS = (
    "What is {name}?",
    "How do I measure {name}?",
    "What goes wrong with {name}?",
    "How do I fix problems with {name}?",
    "Why should I care about {name}?",
    "Which incident was caused by {name}?",
    "Is there a trap with {name}?",
    "What does {name} have to do with {other}?",
)
_DETAILS = (
    " We run {number} workers.",
    " The process with pid {number} is affected.",
    " It began after {number} requests.",
    " We saw it in build {number}.",
    " Our limit is {number} MB.",
)
_REPEATED = 0.3
_VISITORS = 8
_MEAN_TURNS = 10


def questions(topics: tuple[Topic, ...], rng: random.Random) -> Iterator[tuple[str, str]]:
    """(session, question) without end. A few subjects are asked about far more often than the rest (Zipf's law).

    Three of ten questions come without details and are soon found in the cache; the others are new to it.
    """
    subjects = rng.sample(topics, len(topics))
    popularity = list(accumulate(1 / rank for rank in range(1, len(subjects) + 1)))
    visitors = list(range(1, _VISITORS + 1))
    while True:
        seat = rng.randrange(_VISITORS)
        if rng.random() < 1 / _MEAN_TURNS:
            visitors[seat] = max(visitors) + 1  # one leaves without a word, the next sits down
        topic, other = rng.choices(subjects, cum_weights=popularity, k=2)
        detail = "" if rng.random() < _REPEATED else rng.choice(_DETAILS)
        question = rng.choice(_FORMS) + detail
        yield f"visitor-{visitors[seat]}", question.format(
            name=topic.name, other=other.name, number=rng.randrange(100, 100_000)
        )


class Load(threading.Thread):
    """Asks the stream of questions until told to stop. `pause` says how many seconds of time a reply is worth.

    Rests while the process is larger than `max_rss_bytes`, so that no machine is harmed by a demo left alone.
    """

    def __init__(
        self,
        assistant: Assistant,
        stream: Iterator[tuple[str, str]],
        pause: Callable[[Reply], float],
        max_rss_bytes: int,
    ) -> None:
        super().__init__(name="load", daemon=True)
        self._assistant = assistant
        self._stream = stream
        self._pause = pause
        self._max_rss_bytes = max_rss_bytes
        self._ended = threading.Event()

    def run(self) -> None:
        """Ask, wait, ask again."""
        due = time.monotonic()
        for session, question in self._stream:
            self._rest_while_too_large()
            reply = self._assistant.ask(question, session)
            # Late by more than a second is not made up for: it would be a burst.
            due = max(due + self._pause(reply), time.monotonic() - 1)
            if self._ended.wait(max(0.0, due - time.monotonic())):
                return

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._ended.set()
        self.join()

    def _rest_while_too_large(self) -> None:
        rss_bytes = read_memory().rss_bytes
        if rss_bytes < self._max_rss_bytes:
            return
        log.info("load rests: RSS %.0f MiB has reached --max-rss %.0f MiB", rss_bytes / MIB, self._max_rss_bytes / MIB)
        while read_memory().rss_bytes > 0.95 * self._max_rss_bytes:  # a little lower, so that it does not flap
            if self._ended.wait(0.1):
                return
        log.info("load goes on: RSS %.0f MiB", read_memory().rss_bytes / MIB)
