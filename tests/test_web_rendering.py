"""The lines of /metrics beside those that prometheus-client would write."""

import math

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Exposed
from prometheus_client.utils import floatToGoString

from sidecar.model import METRIC_NAME, STALE, Labels, Metric, Sample
from sidecar.promql.steps import ELEMENTS_A_PIECE, finish
from sidecar.web.rendering import MOST_REMEMBERED, Lines, number

GAUGE = Metric("rag_x", "gauge", "help")
ODD = st.sampled_from([0.0, -0.0, 1.0, 1e300, math.inf, -math.inf, math.nan, STALE])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("C",)) | st.sampled_from('\\"\n'), max_size=8)


def shown(lines: Lines, *samples: Sample, metric: Metric = GAUGE) -> str:
    """What is written of a family."""
    return b"".join(finish(lines.of(metric, samples))[0]).decode()


def sample(value: float, **labels: str) -> Sample:
    """One of the family."""
    return Sample(Labels({METRIC_NAME: GAUGE.name, **labels}), value, 0.0)


class Theirs:
    """The same samples for prometheus-client."""

    def __init__(self, samples: list[Sample]) -> None:
        self._family = Exposed(GAUGE.name, GAUGE.help, GAUGE.type)
        for labels, value, _ in samples:
            self._family.add_sample(GAUGE.name, dict(labels.without(METRIC_NAME)), value)

    def collect(self) -> list[Exposed]:
        """The one family."""
        return [self._family]


@given(st.floats() | st.integers(-10**18, 10**18))
def test_numbers_are_those_of_the_client_library(value: float) -> None:
    """Every number is written as Prometheus's own client library writes it."""
    assert number(value) == floatToGoString(value)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b_1", "target"]), TEXTS), max_size=5),
       st.lists(st.floats(allow_nan=False), min_size=5, max_size=5))
def test_lines_are_those_of_the_client_library(series: list[dict[str, str]], values: list[float]) -> None:
    """Whatever a label says and however often a page is made: the lines are those of prometheus-client."""
    unlike = {Labels(labels): labels for labels in series}
    lines = Lines()
    for round_ in range(3):
        samples = [sample(value + round_, **labels) for labels, value in zip(unlike, values, strict=False)]
        theirs = generate_latest(Theirs(samples)).decode()  # type: ignore[no-untyped-call,arg-type]
        assert theirs.endswith(shown(lines, *samples))
        assert theirs.count("\n") == 2 + len(samples)


def test_what_comes_and_goes_is_what_is_shown() -> None:
    """Series that are new, gone, ended or in another order than on the page before are shown as they are now."""
    lines = Lines()
    one, two = sample(1.0, a="1"), sample(2.0, a="2")
    assert shown(lines, one, two) == 'rag_x{a="1"} 1.0\nrag_x{a="2"} 2.0\n'
    assert shown(lines, two, one) == 'rag_x{a="2"} 2.0\nrag_x{a="1"} 1.0\n'
    assert shown(lines, sample(STALE, a="1"), two) == 'rag_x{a="2"} 2.0\n'
    assert shown(lines, sample(3.0, a="1"), sample(math.nan, a="3")) == 'rag_x{a="1"} 3.0\nrag_x{a="3"} NaN\n'
    assert shown(lines) == ""


@given(st.lists(st.dictionaries(st.integers(0, 2 * ELEMENTS_A_PIECE), ODD), min_size=1, max_size=4),
       st.sampled_from(["gauge", "histogram"]))
def test_what_has_changed_is_shown_wherever_it_is(rounds: list[dict[int, float]], kind: str) -> None:
    """Whichever of many values change, appear, end, or change their sign alone: a page is as if it were the first."""
    metric = Metric(GAUGE.name, kind, GAUGE.help)  # type: ignore[arg-type]
    ends = [{METRIC_NAME: "rag_x_bucket", "le": "5"}, {METRIC_NAME: "rag_x_count"}] if kind == "histogram" else [{}]
    series = [Labels({METRIC_NAME: GAUGE.name, "a": f"é{index}", **each}) for index in range(200) for each in ends]
    series += series[:5]  # of doubles the last one counts
    values, lines = [0.0] * len(series), Lines()
    for changes in rounds:
        for place, value in changes.items():
            values[place % len(series)] = value
        samples = [Sample(labels, value, 0.0) for labels, value in zip(series, values, strict=True)]
        assert shown(lines, *samples, metric=metric) == shown(Lines(), *samples, metric=metric)


def test_more_series_than_are_remembered_are_shown_all_the_same() -> None:
    """A page longer than what is remembered of it is whole at every tick."""
    lines = Lines()
    for tick in range(2):
        samples = [sample(index + tick, a=str(index)) for index in range(MOST_REMEMBERED + ELEMENTS_A_PIECE)]
        expected = "".join(f'rag_x{{a="{index}"}} {float(index + tick)}\n' for index in range(len(samples)))
        assert shown(lines, *samples) == expected
