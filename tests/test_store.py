"""The store against a plain list of samples: what is kept, what is thinned, what goes, and what it costs."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.model import STALE, Labels, Sample, is_stale
from sidecar.promql.evaluate import instant, instant_steps
from sidecar.promql.parse import parse
from sidecar.promql.regex import predicate
from sidecar.promql.steps import finish
from sidecar.promql.values import Matcher, Point, Vector
from sidecar.store import BUDGET_BYTES, SAMPLE_BYTES, SERIES_BYTES, TARGET_BYTES, Store, budget_bytes

NOW = 1_700_000_000.0


def labels(metric: str, **others: str) -> Labels:
    """The labels of one series."""
    return Labels({"__name__": metric, **others})


USED = labels("rag_memory_used_bytes", target="rag")
TOTAL = labels("rag_cleanups_total", target="rag")


def filled(metric: Labels, values: Iterable[float], *, start: float = NOW, step: float = 1.0) -> Store:
    """A store with one series, appended sample by sample."""
    store = Store()
    for index, value in enumerate(values):
        store.append([Sample(metric, value, start + index * step)])
    return store


def points(store: Store, metric: str, start: float = 0, end: float = 1e12) -> list[tuple[float, float]]:
    """Every sample of the one series of a metric in (start, end]."""
    found = list(store.select([Matcher("__name__", "=", metric)], start, end))
    assert len(found) <= 1
    return list(zip(found[0].times, found[0].values, strict=True)) if found else []


def test_select_is_open_on_its_left() -> None:
    """A sample at the start of a range is outside, one at its end is inside; a series without samples is left out."""
    store = filled(USED, [1.0, 2.0, 3.0])
    assert points(store, "rag_memory_used_bytes", NOW, NOW + 2) == [(NOW + 1, 2.0), (NOW + 2, 3.0)]
    assert list(store.select([Matcher("__name__", "=", USED.metric)], NOW + 2, NOW + 9)) == []


@pytest.mark.parametrize(("matchers", "targets"), [
    ([("__name__", "=", "a")], "12"),
    ([("__name__", "=", "a"), ("target", "=", "1")], "1"),
    ([("__name__", "=", "a"), ("target", "!=", "1")], "2"),
    ([("__name__", "=~", "a|c"), ("target", "=~", "1|3")], "1"),
    ([("target", "=", "1")], "11"),
    ([("target", "!~", "1"), ("__name__", "!=", "a")], "3"),
    ([("__name__", "=", "a"), ("missing", "=", "")], "12"),
    ([("__name__", "=", "a"), ("missing", "=~", ".+")], ""),
    ([("__name__", "=", "a"), ("__name__", "=", "b")], ""),
])
def test_matchers(matchers: list[tuple[str, str, str]], targets: str) -> None:
    """All four kinds of matchers work on any label, the metric's name included; an absent label is empty."""
    store = Store()
    store.append([Sample(labels(name, target=target), 1.0, NOW) for name, target in ("a1", "a2", "b1", "b3")])
    found = store.select([Matcher(*matcher) for matcher in matchers], 0, NOW)  # type: ignore[arg-type]
    assert sorted(series.labels["target"] for series in found) == list(targets)


def test_late_and_repeated_samples_are_counted_and_dropped() -> None:
    """Only a sample newer than the last one of its series is taken; times count to the millisecond."""
    store = filled(USED, [1.0, 2.0])
    store.append([Sample(USED, 9.0, NOW), Sample(USED, 9.0, NOW + 1), Sample(USED, 9.0, NOW + 1.0004)])
    store.append([Sample(TOTAL, 5.0, NOW - 100), Sample(USED, 3.0, NOW + 1.001)])
    assert points(store, USED.metric) == [(NOW, 1.0), (NOW + 1, 2.0), (NOW + 1.001, 3.0)]
    assert (store.dropped, store.series_count) == (3, 2)


def newest(store: Store, at: float, metric: str = USED.metric) -> list[Point]:
    """What an instant selector is given."""
    return list(store.newest([Matcher("__name__", "=", metric)], at - 300, at))


def test_the_newest_is_what_an_instant_selector_sees() -> None:
    """The newest value of each series, unless it is five minutes old or the series has ended."""
    store = filled(USED, [1.0, 2.0])
    other = labels(USED.metric, target="other")
    store.append([Sample(other, 7.0, NOW)])
    store.mark_stale([other, labels("unknown"), other], NOW + 1)
    assert newest(store, NOW + 0.5) == [Point(USED, 1.0), Point(other, 7.0)]
    assert newest(store, NOW + 5) == [Point(USED, 2.0)]
    assert newest(store, NOW + 301) == []
    expr = parse(USED.metric)
    for at in (NOW + 0.5, NOW + 5, NOW + 301):
        assert finish(instant_steps(expr, store.select, at, newest=store.newest)) == instant(expr, store.select, at)
    assert store.dropped == 0


def test_every_sample_for_five_minutes_then_one_for_each_slot() -> None:
    """Newer than five minutes all samples are there; older, the last one of each five seconds; past an hour none."""
    store = filled(USED, map(float, range(4000)))
    now = NOW + 3999
    store.truncate(now)
    times = [at for at, _ in points(store, USED.metric)]
    assert [at for at in times if at > now - 300] == [now - back for back in range(299, -1, -1)]
    older = [at for at in times if at <= now - 305]
    assert all(at % 5 == 4 for at in older)
    assert older[0] > now - 3600
    assert len(older) == (3600 - 305) // 5
    before = store.size_bytes
    store.truncate(now)
    assert store.size_bytes == before == SERIES_BYTES + 16 * len(times)


def increase(values: Sequence[float]) -> float:
    """What a counter with these samples has counted, resets included."""
    real = [value for value in values if not is_stale(value)]
    return sum(after - before if after >= before else after for before, after in pairwise(real))


@given(st.lists(st.integers(0, 9), min_size=2, max_size=200), st.integers(1, 40))
def test_thinning_keeps_the_increase_of_a_counter(steps: list[int], resets: int) -> None:
    """From its first kept sample on, a counter has increased by the same before and after thinning, resets included."""
    values, value = [], 0.0
    for index, step in enumerate(steps):
        value = float(step) if index % resets == resets - 1 else value + step
        values.append(STALE if step == 9 and index % 3 == 0 else value)
    store = filled(TOTAL, values)
    before = points(store, TOTAL.metric)
    store.truncate(NOW + 1000)
    after = points(store, TOTAL.metric)
    first, _ = next((at, value) for at, value in after if not is_stale(value)) if after else (0.0, 0.0)
    assert increase([value for _, value in after]) == increase([value for at, value in before if at >= first])
    assert len(after) <= len(before)


def test_rules_that_look_back_further_keep_more() -> None:
    """A metric that a rule reads over two hours stays for two hours, any other for one."""
    store = Store()
    store.keep({USED.metric: 7200.0})
    for index in range(0, 9000, 5):
        store.append([Sample(USED, 1.0, NOW + index), Sample(TOTAL, 1.0, NOW + index)])
    store.truncate(NOW + 9000)
    assert points(store, USED.metric)[0][0] == NOW + 9000 - 7200 + 5
    assert points(store, TOTAL.metric)[0][0] == NOW + 9000 - 3600 + 5
    store.keep({"": 4000.0})
    store.truncate(NOW + 9000)
    assert points(store, USED.metric)[0][0] == NOW + 9000 - 4000 + 5


def test_a_thousand_restarts_leave_the_number_of_series_constant() -> None:
    """A target that restarts again and again, with a new pid each time, does not fill the store."""
    store = Store()
    counts = []
    for restart in range(1000):
        at = NOW + restart * 60
        info = labels("rag_target_info", target="rag", pid=str(restart))
        store.append([Sample(info, 1.0, at), Sample(USED, 1.0, at)])
        store.mark_stale([info], at + 30)
        store.truncate(at + 31)
        counts.append(store.series_count)
    assert max(counts) <= 62
    assert counts[-1] == counts[500]


def test_over_the_budget_unread_series_shrink_first() -> None:
    """At the budget what no rule reads loses its past; what rules read stays as far back as they look."""
    store = Store(budget_bytes=200_000)
    store.keep({USED.metric: 600.0})
    unread = [labels(f"rag_other_{index}", target="rag") for index in range(20)]
    for index in range(2000):
        store.append([Sample(each, float(index), NOW + index) for each in (*unread, USED)])
    assert store.size_bytes <= 200_000
    assert store.shrunk > 10_000
    assert len(points(store, USED.metric, NOW + 1999 - 600)) == 600
    assert all(points(store, each.metric)[-1] == (NOW + 1999, 1999.0) for each in unread)


def test_room_is_made_a_little_at_a_time() -> None:
    """Nothing waits until a tenth of the budget has gone: with each piece that comes a few series are shortened."""
    budget = 6 << 20
    store = Store(budget_bytes=budget)
    pieces = [[labels("rag_other", target=f"{piece}/{each}") for each in range(100)] for piece in range(50)]
    most = 0
    for index in range(80):
        for piece in pieces:
            before = store.shrunk
            store.append([Sample(each, float(index), NOW + 60 * index) for each in piece])
            most = max(most, store.shrunk - before)
            assert store.size_bytes <= budget
    assert store.shrunk > 100_000
    assert most * SAMPLE_BYTES < budget / 20


def test_budget_grows_with_the_targets() -> None:
    """Few targets share what there always is; of many each has its own part, and the newest is not refused."""
    assert [budget_bytes(count) for count in (0, 1, 100)] == [BUDGET_BYTES] * 3
    assert budget_bytes(1000) == 1000 * TARGET_BYTES > BUDGET_BYTES


def test_read_series_shrink_when_nothing_else_is_left() -> None:
    """The budget holds even when rules read everything, and the newest sample of a series is the last to go."""
    store = Store(budget_bytes=100_000)
    store.keep({"": 3600.0})
    all_series = [labels("rag_x", target=str(index)) for index in range(50)]
    for index in range(1000):
        store.append([Sample(each, float(index), NOW + index) for each in all_series])
        assert store.size_bytes <= 100_000
    assert {point.value for point in newest(store, NOW + 999, "rag_x")} == {999.0}
    assert store.series_count == 50


def test_a_flood_of_series_is_refused_and_counted() -> None:
    """New series beyond the budget are refused; the ones that are there go on."""
    store = Store(budget_bytes=100_000)
    for index in range(1000):
        store.append([Sample(labels("rag_x", target=str(index)), 1.0, NOW + index), Sample(USED, 1.0, NOW + index)])
    assert store.size_bytes <= 100_000
    assert store.refused > 800
    assert points(store, USED.metric)[-1] == (NOW + 999, 1.0)


METRICS = [labels(name, target=target) for name in ("a_total", "b") for target in ("1", "2")]
STEPS = st.lists(st.tuples(
    st.sampled_from(METRICS), st.sampled_from([0.0, 1.0, 2.0, 7.0, STALE]),
    st.sampled_from([-3.0, 0.0, 0.4, 1.0, 2.5, 60.0]), st.booleans(),
), max_size=120)


@settings(deadline=None)
@given(STEPS)
def test_against_a_list(steps: list[tuple[Labels, float, float, bool]]) -> None:
    """In whatever order samples come: the recent past is exact, and of each older slot the last one is there."""
    store, model = Store(), defaultdict[Labels, list[tuple[float, float]]](list)
    now, dropped = NOW, 0
    for series, value, gap, truncates in steps:
        at = round(now + gap, 3)
        now = max(now, at)
        store.append([Sample(series, value, at)])
        if model[series] and at <= model[series][-1][0]:
            dropped += 1
        else:
            model[series].append((at, value))
        if truncates:
            store.truncate(now)
    assert store.dropped == dropped
    for series, samples in model.items():
        matchers = [Matcher(name, "=", value) for name, value in series.items()]
        recent = [(at, repr(value)) for at, value in samples if at > now - 300]
        found = list(store.select(matchers, now - 300, now))
        assert [(at, repr(v)) for each in found for at, v in zip(each.times, each.values, strict=True)] == recent
        everything = list(store.select(matchers, 0, now))
        times = [at for each in everything for at in each.times]
        kept = {at: repr(value) for at, value in samples if at > now - 3600}
        assert set(times) <= {at for at, _ in samples}
        assert {max(at for at in kept if at // 5 == slot) for slot in {at // 5 for at in kept}} <= set(times)


def test_expressions_over_thinned_samples() -> None:
    """Over half an hour rates, slopes and extremes are those of the raw samples, to within one slot at its start."""
    values = [float(index) for index in range(3600)]
    store, raw = filled(TOTAL, values), filled(TOTAL, values)
    store.truncate(NOW + 3599)
    for function in ("rate", "increase", "deriv", "max_over_time", "last_over_time", "min_over_time"):
        expr = parse(f"{function}({TOTAL.metric}[30m])")
        thinned: Vector = instant(expr, store.select, NOW + 3599)  # type: ignore[assignment]
        exact: Vector = instant(expr, raw.select, NOW + 3599)  # type: ignore[assignment]
        assert thinned[0].value == pytest.approx(exact[0].value, rel=5 / 1800)


def test_many_series_are_found_by_their_labels_as_few_are() -> None:
    """An index over label values finds what a look at each series finds, while series come and go."""
    store = Store()
    every = [labels("rag_x", target=f"t{index % 40}", kind="abc"[index % 3], odd="1" if index % 2 else "")
             for index in range(120)]
    asked = [
        [("target", "=", "t7")], [("kind", "=", "b"), ("target", "=", "t8")], [("odd", "=", "1")], [("odd", "=", "")],
        [("target", "!=", "t7"), ("kind", "=", "a")], [("kind", "=", "z")], [("nope", "=", "")],
        [("target", "=~", "t[12]"), ("kind", "=", "c")], [*((f"none{index}", "=", "") for index in range(20))],
    ]

    def check(live: Sequence[Labels], at: float) -> None:
        for conditions in asked:
            matchers = [Matcher("__name__", "=", "rag_x"), *(Matcher(*one) for one in conditions)]
            found = {series.labels for series in store.select(matchers, at - 10, at)}
            assert found == {one for one in live if all(predicate(m)(one.get(m.name, "")) for m in matchers)}
            assert found == {point.labels for point in store.newest(matchers, at - 10, at)}

    for count in (10, 80, 120):
        store.append(Sample(one, 1.0, NOW + count) for one in every[:count])
        check(every[:count], NOW + count)
    store.append(Sample(one, 1.0, NOW + 5000) for one in every[60:])
    store.truncate(NOW + 5000)
    assert store.series_count == 60
    check(every[60:], NOW + 5000)


def test_what_a_series_is_said_to_be_is_true() -> None:
    """A window told to be whole has no stale marker, one told to rise has no fall, however it was thinned."""
    store = Store()
    values = [1.0, 2.0, 5.0, 0.0, 1.0, STALE, 3.0, 4.0, 2.0, 6.0, math.nan, 7.0, *map(float, range(10, 700))]
    told = set()
    for at, value in enumerate(values):
        store.append([Sample(TOTAL, value, NOW + at)])
        store.truncate(NOW + at)
        for back in (2, 5, 30, 400):
            for series in store.select([Matcher("__name__", "=", TOTAL.metric)], NOW + at - back, NOW + at):
                told.add((series.whole, series.rising))
                assert not series.whole or not any(map(math.isnan, series.values))
                assert not series.rising or all(before <= after for before, after in pairwise(series.values))
    assert told == {(False, False), (True, False), (True, True)}
