"""What the store knows of a target's past, as verdicts ask for it."""

from collections.abc import Sequence

from sidecar.actions.verify import Reading
from sidecar.pipeline_families import USED
from sidecar.promql.values import Matcher
from sidecar.store import Store


class Past:
    """Looks back at a target. Lives as long as the desk."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def used(self, target: str, start: float, end: float) -> list[Reading]:
        """Readings of used bytes in (start, end], in ascending time."""
        return [reading for readings in self.look(target, USED.name, start, end) for reading in readings]

    def look(self, target: str, metric: str, start: float, end: float, **labels: str) -> Sequence[list[Reading]]:
        """Readings of each series of a metric in (start, end], in ascending time."""
        wanted = {"__name__": metric, "target": target, **labels}
        matchers = [Matcher(name, "=", value) for name, value in wanted.items()]
        found = ([(at, value) for at, value in zip(series.times, series.values, strict=True) if value == value]
                 for series in self._store.select(matchers, start, end))
        return [readings for readings in found if readings]
