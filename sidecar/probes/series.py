"""The labels of a target's series, made once: building and hashing them anew would cost more than the readings."""

from sidecar.model import METRIC_NAME, Labels, Sample


class SeriesOf:
    """Makes samples for one target. Lives as long as the probe that uses it; grows by one entry a series."""

    def __init__(self, base: Labels) -> None:
        self._base = base
        self._made: dict[tuple[str, ...], Labels] = {}

    def sample(self, metric: str, value: float, at: float, *more: str) -> Sample:
        """A sample of `metric` for this target; `more` are further labels: name, value, name, value …"""
        key = (metric, *more)
        labels = self._made.get(key)
        if labels is None:
            own = dict(zip(more[::2], more[1::2], strict=True))
            labels = self._made[key] = self._base.merged({METRIC_NAME: metric, **own})
        return Sample(labels, value, at)
