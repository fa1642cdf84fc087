"""Rules in pieces and within limits, in virtual time: what a pause shows, what cuts a rule off, what others notice."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import partial

import pytest

from sidecar.errors import QueryError
from sidecar.model import Labels, Sample
from sidecar.pipeline_pace import HELD_SECONDS, Pace
from sidecar.promql.context import Budget, Options
from sidecar.promql.evaluate import WINDOWS_A_PIECE, instant
from sidecar.promql.parse import parse
from sidecar.promql.steps import Steps
from sidecar.promql.values import Matcher, Point, Series
from sidecar.rules.group import Group
from sidecar.rules.source import Bounded
from sidecar.rules.spec import AlertingSpec, GroupSpec, RecordingSpec
from sidecar.rules.template import Surroundings, Template
from sidecar.store import Store

COUNT = 40


class Ticking:
    """A clock that goes on by a millisecond whenever somebody looks at it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def filled(value: float, at: float, store: Store | None = None) -> Store:
    """A store in which `x` has that value for COUNT targets."""
    store = store or Store()
    store.append(Sample(Labels({"__name__": "x", "target": f"t{index}"}), value, at) for index in range(COUNT))
    return store


def source(store: Store, **limits: float) -> Bounded:
    """Where rules ask, with these limits."""
    return Bounded(store.select, store.newest, Options(clock=Ticking(), **limits))  # type: ignore[arg-type]


def group(*rules: AlertingSpec | RecordingSpec) -> Group:
    """A group of rules."""
    return Group(GroupSpec("g", "f.yml", rules), default_interval_seconds=1.0, external_labels={}, external_url="")


def alert(expr: str = "x > 0", name: str = "A", hold: float = 0.0, **annotations: str) -> AlertingSpec:
    """An alerting rule."""
    return AlertingSpec(name, parse(expr), hold, annotations=annotations)


def seen(judged: Group) -> dict[str, set[tuple[str, float]]]:
    """State and time of every alert, by its rule."""
    return {rule.name: {(one.state, one.last_evaluation) for one in rule.alerts()} for rule in judged.alerting_rules}


def test_a_pause_never_shows_alerts_half_judged() -> None:
    """Whoever looks while a group is evaluated sees each rule as it was before, or as it is after."""
    judged = group(alert(hold=5.0), RecordingSpec("y", parse("x + 1")), alert("y > 1", "B"))
    store = filled(1.0, 10.0)
    judged.evaluate(10.0, source(store), store.append)
    filled(2.0, 20.0, store)

    looks = [seen(judged) for _ in judged.steps(20.0, source(store), store.append)]

    before, after = {"A": {("pending", 10.0)}, "B": {("firing", 10.0)}}, seen(judged)
    assert after == {"A": {("firing", 20.0)}, "B": {("firing", 20.0)}}
    assert len(looks) > 4 * COUNT
    assert [look for look, _ in itertools.groupby(looks)] == [before, {**before, "A": after["A"]}]
    assert {one.value for one in judged.alerting_rules[1].alerts()} == {3.0}, "the rule behind saw what was recorded"


def test_work_between_two_pauses_is_bounded() -> None:
    """However many series a rule looks through, others get their turn after a few of them."""
    store, taken = Store(), 0
    for index in range(500):
        store.append(Sample(Labels({"__name__": "x", "i": str(index)}), float(at), float(at)) for at in range(30))

    def select(matchers: Sequence[Matcher], start: float, end: float) -> Iterator[Series]:
        nonlocal taken
        for series in store.select(matchers, start, end):
            taken += 1
            yield series

    judged = group(alert("rate(x[30s]) * on (i) x > 1000"), RecordingSpec("r", parse("max_over_time(x[30s])")))
    shares, begun = [], 0
    for _ in judged.steps(29.0, Bounded(select, store.newest, Options()), store.append):
        shares.append(taken - begun)
        begun = taken

    assert taken == 1000
    assert max(shares) <= WINDOWS_A_PIECE
    assert [rule.health for rule in judged.rules] == ["ok", "ok"]


def test_a_crossing_finds_no_group_half_evaluated() -> None:
    """A rule judged between slots comes after the slot that was under way, whose driver finds it done."""
    judged = group(alert(), alert(name="B"))
    store = filled(1.0, 10.0)
    under_way = judged.steps(10.0, source(store), store.append)
    for _ in range(30):
        next(under_way)
    filled(2.0, 10.4, store)

    judged.evaluate_rule(judged.rules[0], 10.4, source(store), store.append)

    assert list(under_way) == []
    assert seen(judged) == {"A": {("firing", 10.4)}, "B": {("firing", 10.0)}}
    assert (judged.iterations, judged.last_evaluation, judged.evaluations) == (1, 10.0, 3)


def test_a_slot_that_was_left_is_ended_before_the_next() -> None:
    """Evaluations of one group never overlap, and the times of its series only ascend."""
    judged = group(alert(), RecordingSpec("y", parse("x")))
    store = filled(1.0, 10.0)
    next(judged.steps(10.0, source(store), store.append))
    filled(1.0, 11.0, store)

    judged.evaluate(11.0, source(store), store.append)

    assert [list(one.times) for one in store.select(parse("y").matchers, 0.0, 99.0)] == [[10.0, 11.0]] * COUNT
    assert store.dropped == 0


def test_slots_that_pass_during_pauses_are_missed_not_made_up_for() -> None:
    """A tick that others have held up evaluates each group at its slot, once; the slots of the meantime are counted."""
    store = Store()
    slow, other = (Group(GroupSpec(name, "f.yml", (RecordingSpec(f"of_{name}", parse("x")),)),
                         default_interval_seconds=1.0, external_labels={}, external_url="") for name in "so")
    slots: dict[str, list[float]] = {"s": [], "o": []}
    now = 1000.0
    for held in (0.0, 0.0, 3.4, 0.0, 0.0):  # seconds that others take in the pauses of the slow group
        begun = now
        filled(now, now, store)
        for judged in (slow, other):
            slot = judged.due(begun)
            if slot is not None:
                assert begun - 1.0 < slot <= begun
                slots[judged.name].append(slot)
                pauses = [None for _ in judged.steps(slot, source(store), store.append)]
                now += held * (judged is slow) * bool(pauses)
        now = max(now, begun + 1.0)

    for judged in (slow, other):
        given = slots[judged.name]
        gaps = [round(later - earlier, 3) for earlier, later in itertools.pairwise(given)]
        assert gaps in ([1.0, 3.0, 1.0], [1.0, 4.0, 1.0])
        assert (judged.iterations, judged.missed, judged.last_evaluation) == (len(given), gaps[1] - 1.0, given[-1])
        found = list(store.select(parse(f"of_{judged.name}").matchers, 0.0, 9999.0))
        assert {tuple(one.times) for one in found} == {tuple(given)}


def test_a_tick_that_takes_long_lets_others_run_and_shows_the_guard_that_it_lives() -> None:
    """Nobody waits for more than a few milliseconds, and the guard hears of a desk that only works for long."""
    now, last, waits, beats = 0.0, 0.0, list[float](), list[float]()

    async def breathe() -> None:
        nonlocal last
        waits.append(now - last)
        last = now

    def work() -> Steps[str]:
        nonlocal now
        for _ in range(6000):
            now += 0.0005
            yield
        return "done"

    pace = Pace(breathe, lambda: beats.append(round(now)), lambda: now)
    pace.begin()

    assert asyncio.run(pace.through(work())) == "done"
    assert max(waits) <= HELD_SECONDS + 0.001
    assert beats == [1, 2]


EXPLOSIONS = [
    ('count_over_time(vector(1)[1y:1ms])', {"max_samples": 10_000}, "10000 samples"),
    ('quantile_over_time(0.9, {__name__=~".+"}[1y])', {"max_samples": 30}, "30 samples"),
    ('sum_over_time(sum(x)[1h:1s])', {"max_seconds": 0.5}, "0.5 s"),
    ('x * on (target) group_left x', {"max_seconds": 0.02}, "0.02 s"),
    ('{__name__=~"(x|y|z)+.*"}', {"max_seconds": 0.02}, "0.02 s"),
]


@pytest.mark.parametrize(("expr", "limits", "told"), EXPLOSIONS, ids=[expr for expr, _, _ in EXPLOSIONS])
def test_a_rule_that_explodes_is_cut_off(expr: str, limits: dict[str, float], told: str) -> None:
    """It becomes unhealthy and says which limit it met, how far it came and what helps; the rules beside it go on."""
    store = filled(1.0, 10.0)
    for kind in (alert(expr), RecordingSpec("A", parse(expr))):
        judged = group(kind, alert("vector(1)", "Beside"))
        judged.evaluate(10.0, source(store, **limits), store.append)

        bad, beside = judged.rules
        assert (bad.health, beside.health) == ("err", "ok")
        assert f"more than {told}" in bad.last_error
        assert "and not done" in bad.last_error
        assert "narrow its matchers" in bad.last_error
        assert (judged.evaluations, judged.failures, [one.name for one in judged.alerts()]) == (2, 1, ["Beside"])


def test_the_texts_of_many_alerts_count_too() -> None:
    """A query in an annotation, asked for every alert, takes from the same time; alerts stay as they were then."""
    store = filled(1.0, 10.0)
    judged = group(alert(d='{{ query "sum(sum_over_time(x[1m]))" | first | value }}'))
    judged.evaluate(10.0, source(store), store.append)
    known = judged.alerts()

    judged.evaluate(11.0, source(filled(2.0, 11.0, store), max_seconds=1.0), store.append)

    assert len(known) == COUNT
    assert judged.alerts() == known
    assert "more than 1 s" in judged.rules[0].last_error


def test_a_rule_within_its_limits_is_not_disturbed_by_one_before_it() -> None:
    """Each evaluation of each rule has the whole of its limits: what one has used up, no other lacks."""
    store = filled(1.0, 10.0)
    rules = [alert("x > 0", f"A{index}") for index in range(20)]

    judged = group(*rules)
    judged.evaluate(10.0, source(store, max_samples=COUNT, max_seconds=0.2), store.append)

    assert {rule.health for rule in judged.rules} == {"ok"}


def test_what_an_evaluation_took_is_told() -> None:
    """Durations by the clock of the source; before the first evaluation nothing is known, not even a state."""
    judged = group(alert(), alert("x > on () x", "Bad"))
    rule, bad = judged.alerting_rules
    assert (judged.last_evaluation, rule.last_evaluation) == (None, None)
    assert (rule.state, rule.health) == ("unknown", "unknown")
    store = filled(0.0, 10.0)

    judged.evaluate(10.0, source(store), store.append)

    assert 0.0 < rule.last_duration_seconds < judged.last_duration_seconds
    assert bad.last_duration_seconds > 0.0
    assert (judged.last_evaluation, rule.last_evaluation, rule.state, bad.state) == (10.0, 10.0, "inactive", "inactive")


TEXTS = [
    "plain", "{{ $labels.a }}", "{{ $value }}", "{{ .Value }}", "{{ . }}", "{{ $ }}", "{{ $.Value }}", "{{ $.Labels }}",
    "{{ with .Value }}{{ . }}{{ end }}", "{{ with $labels }}{{ . }}{{ end }}", "{{ range $k, $v := . }}{{ end }}",
    "{{ with $x := $ }}{{ $x.Value }}{{ end }}", '{{ define "d" }}{{ .Value }}{{ end }}{{ template "d" . }}',
    '{{ define "d" }}{{ $.Value }}{{ end }}{{ template "d" $ }}',
    '{{ define "d" }}{{ . }}{{ end }}{{ template "d" $value }}', "{{ with false }}{{ else }}{{ .Value }}{{ end }}",
    "{{ if true }}{{ .Value }}{{ end }}", "{{ (args .).arg0.Value }}",
    '{{ query "q" | first | value }}', '{{ with query "q" }}{{ . | first | value }}{{ end }}',
    '{{ query (printf "q > %f" .Value) | len }}', '{{ query "q" | len }} {{ $labels.a }}', "{{ now }}",
    '{{ query "nonsense(" }}', '{{ with query "q > 100" }}yes{{ else }}no{{ end }}', "{{ .Nope }}",
    '{{ range query "q" }}{{ .Labels.i }}={{ .Value }} {{ end }}', "{{ $value | humanize1024 }}",
]


def changes() -> Iterable[tuple[Point, list[Point], float]]:
    """What may be different at the next evaluation: the value, the labels, the data, the time; and nothing."""
    points = [Point(Labels({"a": a}), value) for a, value in (("u", 1.0), ("u", 2.0), ("u", float("nan")), ("v", 1.0))]
    data = [[Point(Labels({"i": "1"}), 5.0)], [Point(Labels({"i": "1"}), 200.0)], [],
            [Point(Labels({"i": str(index)}), 1.0) for index in range(20)]]
    return itertools.product(points, data, (10.0, 11.0))


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_never_older_than_what_it_tells(text: str) -> None:
    """What is not made anew is what would be made anew, whatever has changed since the last evaluation."""
    template = Template(text, "A")
    surroundings = Surroundings({"site": "here"}, "http://s:1")

    def answer(data: list[Point], expr: object, at: float) -> list[Point]:
        return [point for point in data if "> 100" not in str(expr) or point.value > 100]

    for (was, had, then), (point, data, at) in itertools.product(changes(), repeat=2):
        before = template.expansion(was, then, partial(answer, had), surroundings)
        query = partial(answer, data)
        assert template.expansion(point, at, query, surroundings, before).text == template.expand(
            point, at, query, surroundings)


def test_texts_that_nothing_touches_are_kept() -> None:
    """An alert that only goes on has the very same annotations, so that a thousand of them cost next to nothing."""
    seven = '{{ query "vector(7)" | first | value }}'
    judged = group(alert(where="{{ $labels.target }}", line=seven))
    store = filled(1.0, 10.0)
    judged.evaluate(10.0, source(store), store.append)
    before = {one.labels: one.annotations for one in judged.alerts()}

    judged.evaluate(11.0, source(filled(2.0, 11.0, store)), store.append)

    assert {one.labels: one.value for one in judged.alerts()} == dict.fromkeys(before, 2.0) != {}
    assert all(one.annotations is before[one.labels] for one in judged.alerts())


def test_newest_samples_are_those_that_select_gives() -> None:
    """The quicker way of instant selectors changes no result, whatever is offset, gone or too old."""
    store = Store()
    for at in range(600):
        store.append(Sample(Labels({"__name__": "x", "i": str(index)}), at * 1.0, float(at)) for index in range(3)
                     if at < 200 * (index + 1))
    store.mark_stale([Labels({"__name__": "x", "i": "1"})], 450.0)

    for expr in map(parse, ("x", "x offset 5m", "x @ 100", 'x{i!="2"}', "timestamp(x)", "max_over_time(x[5m:30s])")):
        for at in (0.0, 199.0, 333.3, 450.0, 499.0, 500.0, 899.0, 1200.0):
            assert source(store)(expr, at) == instant(expr, store.select, at)


@pytest.mark.parametrize(("passes", "told"), [(1.0, True), (0.9, True), (0.5, False)])
def test_a_quick_clock_saves_looks_at_the_other_and_lets_nothing_through(passes: float, told: bool) -> None:
    """While an hour passes by the quick clock, an evaluation may take 0.75 of that by the one that counts."""
    hours, looks = iter(range(10_000)), itertools.count()
    quick = {"now": 0.0}

    def busy() -> float:
        next(looks)
        return quick["now"] * passes

    def wall() -> float:
        quick["now"] = next(hours) / 1000
        return quick["now"]

    budget = Budget.of(Options(max_seconds=0.75, clock=busy, quick=wall))
    taken = []
    for _ in range(1000):
        taken.append(quick["now"] * passes)
        try:
            budget.charge(0)
        except QueryError:
            break
    assert (len(taken) < 1000) is told
    assert taken[-1] <= 0.76
    assert next(looks) < 20
