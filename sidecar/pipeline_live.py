"""Which series there are, from tick to tick: what is new of them is stored, and those that are gone have ended."""

from collections.abc import Iterable

from sidecar.model import Labels, Sample
from sidecar.store import Store


class Live:
    """The series of a tick beside those of the last one. Lives as long as the desk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._labels: list[Labels] = []
        self._before: list[Labels] = []

    def take(self, samples: Iterable[Sample], now: float) -> None:
        """Samples of this tick. Those of an earlier time are shown again, as they were, and have been stored."""
        self._store.append([sample for sample in samples if sample.at == now])
        self._labels += [sample.labels for sample in samples]

    def end(self, now: float) -> None:
        """The tick has brought no more: series that the last one brought, and this one did not, have ended."""
        if self._labels != self._before:  # as a rule they are the very same, one by one
            self._store.mark_stale(set(self._before).difference(self._labels), now)
        self._labels, self._before = [], self._labels
