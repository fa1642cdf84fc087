"""A real Prometheus 3 beside our evaluator: random expressions over the same samples must have the same results."""

import math
import subprocess
import urllib.error
from collections.abc import Iterator, Sequence
from typing import Any

import newer_prometheus
import pytest
from promql.expressions import START, Expressions, data, exposition
from servers import RunningPrometheus, running_prometheus

from sidecar.errors import QueryError
from sidecar.promql.context import Options
from sidecar.promql.evaluate import instant, over_range
from sidecar.promql.parse import parse
from sidecar.promql.regex import predicate
from sidecar.promql.values import Matcher, Series, Value

SERIES = data(seed=7)
COUNT = 400
BY_OUR_RULE = "multiple matches for labels"
"""3.5 tells of two matches only where a comparison keeps both; later versions, and we, always do."""

Found = dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]


def select(matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Series]:
    """The plainest possible `select` over the data."""
    for one in SERIES:
        if all(predicate(matcher)(one.labels.get(matcher.name, "")) for matcher in matchers):
            inside = [(at, value) for at, value in zip(one.times, one.values, strict=True) if start < at <= end]
            if inside:
                yield Series(one.labels, [at for at, _ in inside], [value for _, value in inside])


@pytest.fixture(scope="module", params=["names dropped at once", "names dropped late"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, bool]]:
    """A Prometheus 3 with the data in it, and whether it removes names late."""
    late = request.param == "names dropped late"
    folder = tmp_path_factory.mktemp("differential")
    promtool, prometheus = newer_prometheus.needed("promtool"), newer_prometheus.needed()
    page = folder / "page.txt"
    page.write_text("\n".join(exposition(SERIES)) + "\n")
    making = [promtool, "tsdb", "create-blocks-from", "openmetrics", page, folder / "blocks"]
    subprocess.run(making, check=True, capture_output=True, timeout=60)
    names = "promql-experimental-functions" + (",promql-delayed-name-removal" if late else "")
    flags = [f"--enable-feature={names}", "--storage.tsdb.retention.time=100y"]
    blocks = folder / "blocks"
    with running_prometheus("global: {}", folder, flags=flags, program=prometheus, storage=blocks) as running:
        yield running, late


def asked(server: RunningPrometheus, path: str, **parameters: str | float) -> Found | None:
    """What the server answers, None where it refuses."""
    try:
        result = server.get(path, **parameters)["data"]["result"]
    except urllib.error.HTTPError as error:
        if error.code not in (400, 422):
            raise
        return None
    return {tuple(sorted(one["metric"].items())):
            [(at, float(value)) for at, value in one.get("values") or [one["value"]]] for one in result}


def ours(value: Value, at: float) -> Found:
    """A vector or a matrix of ours in the same shape."""
    assert isinstance(value, list)
    return {tuple(sorted(one.labels.items())): list(zip(one.times, one.values, strict=True))
            if isinstance(one, Series) else [(at, one.value)] for one in value}


def same(one: Found, other: Found) -> bool:
    """The same series with the same values, but for their last digits."""
    return one.keys() == other.keys() and all(
        len(points) == len(other[labels]) and all(
            at == moment and (math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (a != a and b != b))
            for (at, a), (moment, b) in zip(points, other[labels], strict=True))
        for labels, points in one.items())


def test_random_expressions_have_the_results_of_prometheus(server: tuple[RunningPrometheus, bool]) -> None:
    """Whatever is asked, at a moment or over a range, comes out as in Prometheus: labels, values, failures."""
    running, late = server
    options = Options(delayed_name_removal=late)
    expressions = Expressions(seed=20 + late)
    for index in range(COUNT):
        text, at = expressions.vector(1 + index % 3), START + 300 + 41 * (index % 40)
        span = (at, at + 300, 75.0)
        ranged = index % 4 == 0
        try:
            expr = parse(text, experimental=True)
            mine: Found | None = (ours(over_range(expr, select, *span, options=options), at) if ranged
                                  else ours(instant(expr, select, at, options=options), at))
        except QueryError as error:
            mine = None
            if BY_OUR_RULE in str(error):
                continue
        theirs = (asked(running, "/api/v1/query_range", query=text, start=span[0], end=span[1], step=span[2]) if ranged
                  else asked(running, "/api/v1/query", query=text, time=at))
        assert (mine is None) == (theirs is None), text
        assert mine is None or theirs is None or same(mine, theirs), (text, at, mine, theirs)
