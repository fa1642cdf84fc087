"""Which series there are, from tick to tick: what is new of them is stored, and those that are gone have ended."""

from collections.abc import Sequence

from sidecar.model import Labels, Sample
from sidecar.promql.steps import Steps
from sidecar.store import Store

SAMPLES_A_PIECE = 1024
"""So many are stored between two pauses."""


class Live:
    """The series of a tick beside those of the last one. Lives as long as the desk."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._labels: list[Labels] = []
        self._before: list[Labels] = []

    def take(self, samples: Sequence[Sample], now: float) -> Steps[None]:
        """Samples of this tick. Those of an earlier time are shown again, as they were, and have been stored."""
        for start in range(0, len(samples), SAMPLES_A_PIECE):
            piece = samples[start:start + SAMPLES_A_PIECE]
            self._store.append([sample for sample in piece if sample.at == now])
            self._labels += [sample.labels for sample in piece]
            yield

    def end(self, now: float) -> Steps[None]:
        """The tick has brought no more: series that the last one brought, and this one did not, have ended."""
        if self._labels != self._before:  # as a rule they are the very same, one by one
            gone = set[Labels]()
            for start in range(0, len(self._before), SAMPLES_A_PIECE):
                gone.update(self._before[start:start + SAMPLES_A_PIECE])
                yield
            for start in range(0, len(self._labels), SAMPLES_A_PIECE):
                gone.difference_update(self._labels[start:start + SAMPLES_A_PIECE])
                yield
            self._store.mark_stale(gone, now)
        self._labels, self._before = [], self._labels
