"""What is written down of an attempt: from the guard's events to one outcome, counted once, and to the samples."""

from collections import Counter
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.actions.attempt import Attempt
from sidecar.actions.attempts import KEPT_ATTEMPTS, KEPT_DETAILED, Shown
from sidecar.actions.ledger import Ledger
from sidecar.actions.tally import METRICS
from sidecar.actions.verify import Verdict
from sidecar.guard.wire import Channel, Event, Order
from sidecar.model import Labels, Sample

BASE = Labels({"target": "rag", "job": "sidecar"})
MIB = 1 << 20
ORDER = Order("rag.light.5", "rag", "light", (Channel("signal", signal=10),), {"alertname": "A"}, 500.0)
VERDICT = Verdict("effective", 100.0, 900.0)


class Book:
    """A ledger and the events that it is told, numbered and a second apart."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.events: list[Event] = []
        self._numbers = count(1)

    def tell(self, kind: str, order: str = "a", target: str = "rag", **detail: Any) -> Attempt | None:
        """One event of the guard."""
        number = next(self._numbers)
        self.events.append(Event(number, 1000.0 + number, kind, target, order, detail))
        return self.ledger.take_in(self.events[-1], lambda *_: 7.0)

    def cross(self, order: str = "a", target: str = "rag", **changes: Any) -> Attempt | None:
        """The line is crossed: an attempt begins."""
        usual = {"cleanup": "standard", "labels": {"alertname": "A"}, "used_bytes": 1000.0, "line_bytes": 900.0}
        return self.tell("crossed", order, target, **{**usual, **changes})

    def run(self, *kinds: str, order: str = "a", target: str = "rag", **crossed: Any) -> Attempt:
        """An attempt from its crossing on; `kind:channel:reason` says more than `kind`. Returns it as it is then."""
        self.cross(order, target, **crossed)
        for each in kinds:
            kind, _, rest = each.partition(":")
            channel, _, reason = rest.partition(":")
            more: dict[str, Any] = {"delivered": {"delivery_seconds": 0.003}, "answered": {"duration_seconds": 0.5}}
            self.tell(kind, order, target, channel=channel or "signal", reason=reason, **more.get(kind, {}))
        return next(each for each in self.ledger.attempts() if each.id == order)

    def samples(self) -> list[Sample]:
        """What is counted for the target `rag`."""
        return self.ledger.samples([BASE], 2000.0)

    def counted(self) -> dict[str, float]:
        """`rag_cleanups_total` by outcome."""
        found: Counter[str] = Counter()
        for sample in self.samples():
            if sample.labels.metric == "rag_cleanups_total":
                found[sample.labels["outcome"]] += int(sample.value)
        return dict(found)

    def value(self, metric: str, **labels: str) -> float | None:
        """The one sample of a metric with these labels, None if there is none."""
        found = [sample.value for sample in self.samples() if sample.labels.metric == metric
                 and labels.items() <= dict(sample.labels).items()]
        assert len(found) < 2
        return found[0] if found else None


@pytest.fixture
def book() -> Book:
    """A ledger in which nothing is written."""
    return Book()


TOLD = {"freed_bytes": 500, "predicted_bytes": 400, "pause_seconds": 0.25}
REFUSED, FAILED = "refused:signal:signal_default", "failed:http:http_503"


@pytest.mark.parametrize(("kinds", "outcome", "reason", "channel"), [
    ([], "", "", ""),
    (["delivered"], "", "", "signal"),
    (["delivered", "answered"], "", "", "signal"),
    ([REFUSED, "spent"], "refused", "signal_default", "signal"),
    (["refused::kill_switch", "spent"], "refused", "kill_switch", "signal"),
    (["spent"], "undelivered", "", ""),
    ([FAILED, "spent"], "undelivered", "http_503", "http"),
    (["delivered:http", FAILED, "spent"], "undelivered", "http_503", "http"),
    ([REFUSED, FAILED, "spent"], "undelivered", "http_503", "http"),
    ([FAILED, REFUSED, "spent"], "undelivered", "http_503", "signal"),
    (["failed:http:timeout", "spent"], "undelivered", "timeout", "http"),
    ([FAILED, "delivered:signal", "answered:signal"], "", "", "signal"),
    (["delivered:http", "failed:http:timeout", "spent"], "", "timeout", "http"),
    (["delivered:agent", "failed:agent:closed", "spent"], "", "closed", "agent"),
    (["delivered:agent", "failed:agent:busy", "spent"], "undelivered", "busy", "agent"),
    (["failed:agent:closed", "spent"], "undelivered", "closed", "agent"),
    (["delivered:http", "failed:http:RemoteDisconnected", "spent"], "", "RemoteDisconnected", "http"),
    (["failed:http:RemoteDisconnected", "spent"], "undelivered", "RemoteDisconnected", "http"),
    (["failed:http:no_courier", "spent"], "", "no_courier", "http"),
    (["delivered:http", "failed:http:no_courier", "spent"], "", "no_courier", "http"),
    (["gone"], "unknown", "target_gone", ""),
    (["delivered", "changed"], "unknown", "target_changed", "signal"),
    (["delivered", "answered", "gone"], "unknown", "target_gone", "signal"),
    ([REFUSED, "spent", "gone"], "refused", "signal_default", "signal"),
])
def test_events_lead_to_an_outcome(book: Book, kinds: list[str], outcome: str, reason: str, channel: str) -> None:
    """What the guard tells decides the outcome, as far as bytes do not: those have an empty one still."""
    attempt = book.run(*kinds)

    assert (attempt.outcome, attempt.reason, attempt.channel) == (outcome, reason, channel)
    assert book.counted() == ({outcome: 1} if outcome else {})
    assert (attempt in book.ledger.open()) == (not outcome)


@pytest.mark.parametrize("outcome", ["effective", "partial", "ineffective", "unknown"])
def test_verdict_closes_what_was_answered(book: Book, outcome: Any) -> None:
    """Bytes give the other outcomes, and what was freed is written down and counted with them."""
    book.run("delivered", "answered")
    known = outcome != "unknown"
    verdict = Verdict(outcome, 100.0, 900.0) if known else Verdict(outcome, None, None)
    closed = book.ledger.close("a", outcome, 1010.0, verdict=verdict)

    assert (closed.outcome, closed.ended_at) == (outcome, 1010.0)
    assert (closed.after_bytes, closed.freed_bytes) == ((100.0, 900.0) if known else (None, None))
    assert book.counted() == {outcome: 1}
    assert book.value("rag_cleanup_freed_bytes_total") == (900.0 if known else 0.0)
    assert book.value("rag_cleanup_last_freed_bytes") == (900.0 if known else None)


def test_memory_that_grew_instead_is_shown_and_not_counted(book: Book) -> None:
    """A counter only goes up; the gauge of the last cleanup says that it made things worse."""
    for order, freed in (("a", 900.0), ("b", -50.0)):
        book.run("delivered", "answered", order=order)
        book.ledger.close(order, "ineffective", 1010.0, verdict=Verdict("ineffective", 100.0, freed))

    assert book.value("rag_cleanup_freed_bytes_total") == 900.0
    assert book.value("rag_cleanup_last_freed_bytes") == -50.0


def test_attempt_remembers_how_it_began(book: Book) -> None:
    """Bytes, line, alert and growth of the moment of the crossing: the verdict is measured against them."""
    attempt = book.run("delivered", "answered")

    assert (attempt.before_bytes, attempt.line_bytes, attempt.growth) == (1000.0, 900.0, 7.0)
    assert (attempt.cleanup, attempt.labels, attempt.trigger) == ("standard", {"alertname": "A"}, "rule")
    assert (attempt.started_at, attempt.delivered_at, attempt.answered_at) == (1001.0, 1002.0, 1003.0)
    assert (attempt.delivery_seconds, attempt.duration_seconds) == (0.003, 0.5)


def test_post_without_an_answer_in_time_is_left_to_the_bytes(book: Book) -> None:
    """It was delivered, so it may have worked: no second one is sent at once as for an endpoint that refuses."""
    attempt = book.run("delivered:http", "failed:http:timeout", "spent:http")

    assert attempt.answered_at == 1004.0
    assert attempt.duration_seconds == 2.0
    assert book.ledger.close("a", "ineffective", 1030.0).reason == "timeout"


def test_dry_run_ends_at_its_answer_and_counts_nothing_else(book: Book) -> None:
    """It delivered nothing: no delivery, no duration and no time of one is shown."""
    attempt = book.run("delivered", "answered", dry_run=True)

    assert attempt.outcome == "dry_run"
    assert book.counted() == {"dry_run": 1}
    assert book.value("rag_cleanup_delivery_seconds_count") == 0
    assert book.value("rag_cleanup_duration_seconds") is None
    assert book.value("rag_cleanup_last_timestamp_seconds") is None


def test_order_that_was_not_begun_is_skipped(book: Book) -> None:
    """That memory fell by itself is an end of an order, too, and has its row and its count."""
    attempt = book.ledger.skip(ORDER, 400.0, 1000.0, "recovered")

    assert (attempt.outcome, attempt.reason, attempt.before_bytes) == ("skipped", "recovered", 400.0)
    assert book.counted() == {"skipped": 1}
    assert book.ledger.attempts() == [attempt]


@settings(deadline=None)
@given(st.lists(st.sampled_from([
    ("delivered", "answered"), (REFUSED, "spent"), (FAILED, "spent"), ("delivered",), ("gone",), (FAILED, "delivered"),
    ("delivered", FAILED, "spent"), ()]), max_size=8), st.data())
def test_events_told_twice_change_nothing(courses: list[tuple[str, ...]], data: st.DataObject) -> None:
    """A guard that did not hear the acknowledgement tells again from any point on: nothing is counted twice."""
    once = Book()
    for number, kinds in enumerate(courses):
        once.run(*kinds, order=str(number))
    twice = Ledger()
    for number in range(len(once.events)):
        for event in once.events[data.draw(st.integers(0, number)):number + 1]:
            twice.take_in(event, lambda *_: 7.0)

    assert twice.attempts() == once.ledger.attempts()
    assert twice.samples([BASE], 2000.0) == once.samples()
    assert sum(once.counted().values()) == sum(bool(attempt.outcome) for attempt in once.ledger.attempts())


def test_what_comes_after_the_end_changes_nothing(book: Book) -> None:
    """A verdict is final: a late answer does not reopen it."""
    book.run("delivered", "answered")
    closed = book.ledger.close("a", "ineffective", 1010.0)
    for kind in ("delivered", "answered", "failed", "spent"):
        assert book.tell(kind, channel="signal", delivery_seconds=1.0, duration_seconds=1.0, reason="x") is None

    assert book.ledger.attempts() == [closed]
    assert book.counted() == {"ineffective": 1}


def test_events_about_nothing_known_are_no_matter(book: Book) -> None:
    """An attempt of a desk that came before, a kind that a newer guard tells: passed over."""
    assert book.tell("answered", "unheard-of", channel="signal", duration_seconds=1.0) is None
    book.cross()
    assert book.tell("a_new_kind") is None
    assert [attempt.outcome for attempt in book.ledger.attempts()] == [""]


def test_end_of_a_target_closes_its_attempts_and_no_others(book: Book) -> None:
    """What was asked of a process that is gone will never be known; the neighbour is still awaited."""
    book.run("delivered", order="b", target="other")
    book.run("delivered", "answered", order="a")
    book.tell("gone", "")

    assert [(each.id, each.outcome) for each in book.ledger.attempts()] == [("a", "unknown"), ("b", "")]


def test_refused_channel_is_disarmed_once_until_the_incident_is_over(book: Book) -> None:
    """What cannot be used is not tried again and again; a new incident, or a new process, tries it anew."""
    book.run(REFUSED, "spent")
    assert book.ledger.disarmed == {"rag": {("standard", "signal")}}
    book.ledger.rearm("rag")
    assert book.ledger.disarmed == {}
    book.run(REFUSED, "spent", order="b")
    book.tell("gone", "")
    assert book.ledger.disarmed == {}
    assert book.value("rag_cleanup_refused_total", reason="signal_default", channel="signal") == 2


@pytest.mark.parametrize("course", [
    ["refused::kill_switch", "spent"], ["refused:http:no_courier", "spent"], ["refused:signal:gone", "spent"],
    ["refused:signal:changed", "spent"], [FAILED, "spent"]])
def test_what_says_nothing_about_the_channel_disarms_nothing(book: Book, course: list[str]) -> None:
    """The kill-switch, a courier that is being restarted, an endpoint that is busy: all of them pass."""
    book.cross()
    for each in course:
        kind, channel, reason = (*each.split(":"), "", "")[:3]
        book.tell(kind, channel=channel, reason=reason)

    assert book.ledger.disarmed == {}


def test_ledger_keeps_the_newest_attempts_and_counts_all(book: Book) -> None:
    """It is bounded; what it has given up stays counted."""
    for number in range(KEPT_ATTEMPTS + 25):
        book.run(REFUSED, "spent", order=str(number))
    attempts = book.ledger.attempts()

    assert len(attempts) == KEPT_ATTEMPTS
    assert [attempts[0].id, attempts[-1].id] == [str(KEPT_ATTEMPTS + 24), "25"]
    assert book.counted() == {"refused": KEPT_ATTEMPTS + 25}


def test_steps_are_kept_of_the_newest_attempts(book: Book) -> None:
    """What agents told of single steps stays at hand of the newest; what was still to be journalled is whole first."""
    steps, orders = [{"step": "gc", "objects": 3}], [str(number) for number in range(KEPT_DETAILED + 5)]
    for order in orders:
        book.run("delivered:agent", order=order)
        book.tell("answered", order, channel="agent", duration_seconds=0.5, told=TOLD, steps=steps)
    book.ledger.drain()

    assert all(row["steps"] == steps for row in Shown(book.ledger.attempts())), "without an end: it is to be judged"

    for order in orders:
        book.ledger.close(order, "effective", 2000.0, verdict=VERDICT)
    rows = book.ledger.drain()
    shown = Shown(book.ledger.attempts())

    assert [body["told"]["steps"] for _, stage, _, body in rows if stage == "final"] == [steps] * len(orders)
    assert [bool(row["steps"]) for row in shown] == [True] * KEPT_DETAILED + [False] * 5
    assert all(row["told"] == TOLD for row in shown)
    assert [row["id"] for row in shown[:2]] == orders[:-3:-1]

    again = Ledger()
    again.restore(rows, 2001.0)

    assert list(Shown(again.attempts())) == list(shown)


def test_rebound_is_counted_once_it_is_noted(book: Book) -> None:
    """Memory that came back counts, memory that stayed away does not."""
    for order in ("a", "b"):
        book.run("delivered", "answered", order=order)
        book.ledger.close(order, "effective", 1010.0, verdict=VERDICT)
    book.ledger.note_rebound("a", True)
    book.ledger.note_rebound("b", False)

    assert book.value("rag_cleanup_rebounds_total") == 1
    assert [attempt.rebounded for attempt in book.ledger.attempts()] == [False, True]


def test_nothing_is_looked_for_in_a_successor(book: Book) -> None:
    """Memory of a process that has ended does not come back, whatever its successor uses."""
    book.run("delivered", "answered")
    book.ledger.close("a", "effective", 1010.0, verdict=VERDICT)
    book.tell("gone", "")

    assert [attempt.rebounded for attempt in book.ledger.attempts()] == [False]


def test_delivery_histogram_sums_up(book: Book) -> None:
    """Buckets are cumulative, the last one is the count, and the sum is that of all deliveries."""
    times = [0.0004, 0.001, 0.003, 0.3, 7.0]
    for number, seconds in enumerate(times):
        book.cross(str(number))
        book.tell("delivered", str(number), channel="signal", delivery_seconds=seconds)
    buckets = {sample.labels["le"]: sample.value for sample in book.samples()
               if sample.labels.metric == "rag_cleanup_delivery_seconds_bucket"}

    assert buckets == {le: sum(seconds <= float(le) for seconds in times) for le in buckets}
    assert list(buckets)[-1] == "+Inf"
    assert buckets["+Inf"] == book.value("rag_cleanup_delivery_seconds_count") == 5
    assert book.value("rag_cleanup_delivery_seconds_sum") == pytest.approx(sum(times))


def test_samples_are_those_that_are_declared(book: Book) -> None:
    """Every sample belongs to a declared metric, every declared metric has one, all carry the target's labels."""
    book.run(REFUSED, "delivered")
    book.tell("answered", channel="agent", duration_seconds=0.5, told=TOLD)
    book.ledger.close("a", "effective", 1010.0, verdict=VERDICT)
    samples, histogram = book.samples(), "rag_cleanup_delivery_seconds"
    names = {sample.labels.metric for sample in samples}
    suffixed = {f"{histogram}_{part}" for part in ("bucket", "sum", "count")}

    assert names - suffixed == {metric.name for metric in METRICS} - {histogram}
    assert suffixed <= names
    assert all(sample.at == 2000.0 and BASE.items() <= sample.labels.items() for sample in samples)
    assert len({sample.labels for sample in samples}) == len(samples)


def test_what_the_agents_tell_stands_beside_what_was_measured(book: Book) -> None:
    """The row has both: what the agents say of it, and the bytes seen from outside."""
    book.run("delivered:agent")
    steps, processes = [{"step": "gc", "objects": 3}], [{"process": "main", "outcome": "done"}]
    book.tell("answered", channel="agent", duration_seconds=0.5, told=TOLD, steps=steps, processes=processes)
    row = book.ledger.close("a", "effective", 1010.0, verdict=VERDICT).as_json()

    assert (row["told"], row["steps"], row["processes"]) == (TOLD, steps, processes)
    assert row["freed_bytes"] == VERDICT.freed_bytes
    assert book.value("rag_cleanup_predicted_bytes") == TOLD["predicted_bytes"]
    assert book.value("rag_cleanup_pause_seconds") == TOLD["pause_seconds"]

    assert book.run("delivered", "answered", order="b").as_json()["told"] == {}
    assert book.value("rag_cleanup_predicted_bytes") is None


def test_target_without_a_past_has_zeros(book: Book) -> None:
    """Counters begin at zero, so that an increase is seen; what has never been is left out."""
    assert {sample.labels.metric: sample.value for sample in book.samples() if "le" not in sample.labels} == {
        "rag_cleanup_rebounds_total": 0, "rag_cleanup_freed_bytes_total": 0,
        "rag_cleanup_delivery_seconds_sum": 0, "rag_cleanup_delivery_seconds_count": 0}


def test_row_of_the_api(book: Book) -> None:
    """`GET /api/v1/actions` shows an attempt with its refusals, and `running` until its end is known."""
    row = book.run(REFUSED, "delivered", "answered").as_json()

    assert row["outcome"] == "running"
    assert row["refusals"] == [{"channel": "signal", "reason": "signal_default"}]
    assert row.keys() >= {"id", "target", "cleanup", "channel", "trigger", "outcome", "reason", "before_bytes",
                          "after_bytes", "freed_bytes", "started_at"}
