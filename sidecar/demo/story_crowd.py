"""A crowd of visitors: the reason why one line does not wait."""

import http.client
import itertools
import json
import threading
from urllib.parse import urlencode

from sidecar.demo.story_state import REQUEST_SECONDS, Attempt

COMES_AFTER_SECONDS = 6.0
STAYS_AT_MOST_SECONDS = 20.0


class Crowd:
    """Comes a while after each calm cleanup, and goes home once the strongest one was needed. `end` it.

    `address` is the RAG's host:port; the crowd asks until `growth` bytes more are kept each second.
    """

    def __init__(self, address: str, growth: float) -> None:
        self._address = address
        self._growth = growth
        self._here: _Visitors | None = None
        self._due: float | None = None

    def attend(self, newest: Attempt, now: float) -> bool:
        """Come or go, as the newest cleanup gives reason to; `now` is monotonic. True if the crowd comes just now."""
        if self._here:
            if newest.cleanup == "aggressive" or now >= (self._due or 0.0):
                self.end()
            return False
        if newest.outcome != "effective" or newest.cleanup == "aggressive":
            return False
        if self._due is None:
            self._due = now + COMES_AFTER_SECONDS
        if now < self._due:
            return False
        self._here = _Visitors(self._address, self._growth)
        self._here.start()
        self._due = now + STAYS_AT_MOST_SECONDS
        return True

    def end(self) -> None:
        """Send the visitors home and wait until they are gone."""
        if self._here:
            self._here.stop()
        self._here = self._due = None


class _Visitors(threading.Thread):
    """Asks over HTTP, each question with a number of its own so that the cache has no answer to it yet."""

    def __init__(self, address: str, growth: float) -> None:
        super().__init__(name="crowd", daemon=True)
        self._address = address
        self._growth = growth
        self._over = threading.Event()

    def run(self) -> None:
        """Ask until told to stop, or until the RAG is gone, which is told elsewhere."""
        connection = http.client.HTTPConnection(self._address, timeout=REQUEST_SECONDS)
        try:
            for number in itertools.count(1):
                question = f"How do I measure swap? We run {number * 7919} workers."
                connection.request("GET", "/query?" + urlencode({"q": question, "session": f"crowd-{number % 8}"}))
                kept_bytes = json.loads(connection.getresponse().read())["kept_bytes"]
                if self._over.wait(kept_bytes / self._growth):
                    return
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return
        finally:
            connection.close()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._over.set()
        self.join(2 * REQUEST_SECONDS)
