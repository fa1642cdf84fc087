"""The labels of a target's series, made once: building and hashing them anew would cost more than the readings."""

from sidecar.model import METRIC_NAME, Labels, Sample


class SeriesOf:
    """Makes samples for one target. Lives as long as the probe that uses it; grows by one entry a series."""

    def __init__(self, base: Labels) -> None:
        self._base = base
        self._made: dict[tuple[str, str, str], Labels] = {}

    def sample(self, metric: str, value: float, at: float, label: str = "", label_value: str = "") -> Sample:
        """A sample of `metric` for this target, with at most one further label."""
        key = (metric, label, label_value)
        labels = self._made.get(key)
        if labels is None:
            own = {label: label_value} if label else {}
            labels = self._made[key] = self._base.merged({METRIC_NAME: metric, **own})
        return Sample(labels, value, at)
