"""The samples of a target: all of them carry its labels."""

from sidecar.model import Labels, Sample, series


class SeriesOf:
    """Makes samples for one target. Lives as long as the probe that uses it."""

    def __init__(self, base: Labels) -> None:
        self._base = base

    def sample(self, metric: str, value: float, at: float, *more: str) -> Sample:
        """A sample of `metric` for this target; `more` are further labels: name, value, name, value …"""
        return Sample(series(self._base, metric, *more), value, at)
