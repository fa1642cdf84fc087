"""The desk's acting against a guard that a test plays: real messages over a real socket pair, virtual time."""

import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sidecar.actions.acting import METRICS, Acting
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Options
from sidecar.actions.policy import Gate, Policy, Reason, Subject
from sidecar.actions.sent import LATE_SECONDS
from sidecar.actions.verdicts import UNANSWERED_SECONDS
from sidecar.actions.verify import Reading
from sidecar.errors import SidecarError
from sidecar.guard import wire
from sidecar.guard.wire import Basis, Channel
from sidecar.model import Labels
from sidecar.procfs import Identity
from sidecar.promql.steps import finish

MIB = 1 << 20
NOW = 1_000_000.0
USR1 = Channel("signal", signal=10)
IDENTITY = Identity("boot", 42, 1000, (1, 2))
ANON = Basis("anon")
RAG = Subject("rag", up=True, fresh=True, armed=True, age_seconds=3600.0, mode="enforce",
              channels={"light": (USR1,), "standard": (USR1,), "aggressive": (USR1,)})
MAIN = Gate("rag", "main", "standard", {"alertname": "Main"}, open=True, ripe=True, standing=False,
            line_bytes=1000.0 * MIB, inclusive=False)
CRITICAL = Gate("rag", "critical", "aggressive", {"alertname": "Critical"}, open=False, ripe=True, standing=True,
                line_bytes=1200.0 * MIB, inclusive=False)


class Table:
    """Both ends: the desk's acting, and the guard's end of the line with its script. Lives as long as a test."""

    def __init__(self) -> None:
        self.guard, theirs = wire.pair()
        self.dispatch = Dispatch(theirs)
        self.ledger = Ledger()
        self.readings: list[Reading] = []
        self.acting = Acting(self.ledger, self.dispatch, lambda _, start, end: [
            reading for reading in self.readings if start < reading[0] <= end])
        self._number = 0
        theirs.setblocking(False)

    def close(self) -> None:
        """Hang up on both sides."""
        self.guard.close()
        self.dispatch.sock.close()

    def heard(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The bodies of what the desk has sent since the last call, of one kind or of all."""
        found = []
        while data := wire.receive(self.guard):
            said, body = wire.decode(data)
            found += [body] if kind in (None, said) else []
        return found

    def tell(self, kind: str, order: str = "", at: float = NOW, target: str = "rag", **detail: Any) -> None:
        """One event of the guard."""
        self._number += 1
        event = wire.Event(self._number, at, kind, target, order, detail)
        assert wire.send(self.guard, wire.encode("event", event=event, lost=0))

    def carry_out(self, order: list[Any], at: float, took: float = 0.2) -> str:
        """Say that an order was carried out and answered. Returns the attempt's id."""
        made = wire.order(order)
        attempt = f"{made.id}.{self._number}"
        self.tell("crossed", attempt, at, cleanup=made.cleanup, labels=made.labels, used_bytes=1100.0 * MIB,
                  line_bytes=made.line_bytes, dry_run=made.dry_run)
        self.tell("delivered", attempt, at + 0.001, channel="signal", delivery_seconds=0.001)
        self.tell("answered", attempt, at + took, channel="signal", duration_seconds=took)
        return attempt

    def tick(self, now: float, gates: list[Gate], subject: Subject = RAG, *, kill_switch: bool = False,
             options: Options | None = None) -> Reason:
        """The part of a tick that acts. Returns the reason of the decision."""
        policy = Policy(options or Options(), kill_switch)
        for event in self.dispatch.events():
            self.acting.take_in(event, policy)
        self.dispatch.watch("rag", IDENTITY, ANON)
        self.acting.judge(policy, now)
        finish(self.acting.steps(policy, [subject], gates, now))
        return self.acting.decisions[0].reason

    def samples(self, subject: Subject = RAG) -> dict[str, dict[str, float]]:
        """Metric → value by reason, as /metrics would show it now."""
        found: dict[str, dict[str, float]] = {}
        for sample in self.acting.samples([subject], {"rag": Labels({"target": "rag"})}, NOW):
            found.setdefault(sample.labels.metric, {})[sample.labels.get("reason", "")] = sample.value
        return found


@pytest.fixture
def table() -> Iterator[Table]:
    """A desk's acting and the other end of its line."""
    made = Table()
    yield made
    made.close()


def test_desk_says_hello_and_learns_what_the_guard_holds(table: Table) -> None:
    """It says what the guard must know, and takes over the pid of the program and the targets under watch."""
    wire.send(table.guard, wire.encode("welcome", program_pid=7, watched=[["rag", list(IDENTITY)]]))

    assert table.dispatch.hello("/run/kill", courier=True) == (7, {"rag": IDENTITY})
    assert table.heard() == [{"kill_switch": "/run/kill", "courier": True, "agent": False}]


@pytest.mark.parametrize("answer", [None, b"", b"[]", wire.encode("event"), b'{"v":0,"type":"welcome"}'])
def test_guard_that_gives_no_welcome_is_an_error(table: Table, answer: bytes | None) -> None:
    """The desk is useless without its guard: it says so instead of going on."""
    if answer is None:
        table.guard.close()
    else:
        table.guard.send(answer) if answer else table.guard.shutdown(socket.SHUT_RDWR)

    with pytest.raises(SidecarError, match="guard"):
        table.dispatch.hello("", courier=False)


def test_order_is_sent_once_and_carried_through_to_its_verdict(table: Table) -> None:
    """Decision, order, events, judgement: one order, one row, one verdict in bytes."""
    assert table.tick(NOW, [MAIN]) is Reason.ACT
    [sent] = table.heard("deliver")
    attempt = table.carry_out(sent["order"], NOW + 0.01)
    assert table.tick(NOW + 1, [MAIN]) is Reason.SETTLING
    table.readings = [(NOW + 2, 850.0 * MIB)]
    table.tick(NOW + 2, [])

    [row] = table.ledger.attempts()
    assert (row.id, row.outcome, row.after_bytes) == (attempt, "effective", 850.0 * MIB)
    assert row.freed_bytes == 250.0 * MIB
    assert table.heard("deliver") == []


def test_verdict_waits_for_news_that_are_older_than_what_was_read(table: Table) -> None:
    """What is read while the guard is telling of the next cleanup may be that one's effect, and is not credited."""
    table.tick(NOW, [MAIN])
    table.carry_out(table.heard("deliver")[0]["order"], NOW + 0.01)
    table.tick(NOW + 1, [MAIN])
    table.readings = [(NOW + 4, 1100.0 * MIB), (NOW + 5, 100.0 * MIB)]
    table.tell("crossed", "b", NOW + 5.001, cleanup="aggressive", labels={}, used_bytes=1210.0 * MIB, line_bytes=None)
    table.tell("delivered", "b", NOW + 5.002, channel="signal", delivery_seconds=0.001)
    table.acting.judge(Policy(Options(), kill_switch=False), NOW + 5)
    assert [row.outcome for row in table.ledger.attempts()] == [""]
    table.tick(NOW + 6, [MAIN])

    overtaken = table.ledger.attempts()[1]
    assert (overtaken.outcome, overtaken.reason, overtaken.freed_bytes) == ("ineffective", "overtaken", 0.0)


def test_verdict_says_what_the_memory_was(table: Table) -> None:
    """What the agent's steps and the measured bytes agree on stands in the row: here it was free inside malloc."""
    table.tick(NOW, [MAIN])
    order = wire.order(table.heard("deliver")[0]["order"])
    table.tell("crossed", f"{order.id}.1", NOW, cleanup="standard", labels={}, used_bytes=1100.0 * MIB, line_bytes=None)
    table.tell("delivered", f"{order.id}.1", NOW, channel="agent", delivery_seconds=0.001)
    table.tell("answered", f"{order.id}.1", NOW + 0.2, channel="agent", duration_seconds=0.2,
               steps=[{"step": "release:glibc", "freed_bytes": 300 * MIB}])
    table.readings = [(NOW + second, 800.0 * MIB) for second in (2, 4, 6)]
    table.tick(NOW + 25, [])

    [row] = [attempt.as_json() for attempt in table.ledger.attempts()]
    assert (row["outcome"], row["kind"], row["mode"]) == ("effective", "retention", "enforce")
    assert row["incident"]


def test_order_is_not_repeated_while_its_event_is_awaited(table: Table) -> None:
    """A guard that is late has not refused: only after seconds of silence is the order given again."""
    table.tick(NOW, [MAIN])
    assert len(table.heard("deliver")) == 1

    assert {table.tick(NOW + seconds, [MAIN]) for seconds in (0.5, 1, 4.9)} == {Reason.IN_FLIGHT}
    assert table.heard("deliver") == []
    assert table.tick(NOW + LATE_SECONDS, [MAIN]) is Reason.ACT
    assert len(table.heard("deliver")) == 1


def test_event_about_something_else_does_not_end_the_waiting(table: Table) -> None:
    """The standing order was carried out meanwhile: ours may still be on its way."""
    table.tick(NOW, [MAIN, CRITICAL])
    table.tell("unreadable", at=NOW + 0.1, reason="x")
    table.tell("answered", "rag.aggressive.7", NOW + 0.1, channel="signal", duration_seconds=1.0)

    assert table.tick(NOW + 1, [MAIN, CRITICAL]) is Reason.IN_FLIGHT


def test_order_without_room_on_the_line_was_not_begun(table: Table) -> None:
    """A guard that takes nothing is not waited for: the next tick says it again."""
    while wire.send(table.dispatch.sock, b"x" * 60000):
        pass
    assert table.tick(NOW, [MAIN]) is Reason.ACT
    while wire.receive(table.guard):
        pass

    assert table.tick(NOW + 1, [MAIN]) is Reason.ACT
    assert len(table.heard("deliver")) == 1


@pytest.mark.parametrize(("kind", "detail", "reason", "before"), [
    ("recovered", {"used_bytes": 900.0, "line_bytes": 1000.0}, "recovered", 900.0),
    ("busy", {}, "busy", 1100.0),
    ("refused", {"reason": "gone", "channel": "", "message": "not under watch"}, "gone", 1100.0)])
def test_order_that_the_guard_did_not_begin_is_skipped_with_its_reason(
    table: Table, kind: str, detail: dict[str, Any], reason: str, before: float
) -> None:
    """It costs a short pause, and people see why nothing was done."""
    table.readings = [(NOW, 1100.0)]
    table.tick(NOW, [MAIN])
    order = wire.order(table.heard("deliver")[0]["order"])
    table.tell(kind, order.id, NOW + 0.01, **detail)
    if kind == "refused":
        table.tell("spent", order.id, NOW + 0.01)

    assert table.tick(NOW + 1, [MAIN]) is Reason.BACKOFF
    [row] = table.ledger.attempts()
    assert (row.outcome, row.reason, row.before_bytes) == ("skipped", reason, before)
    assert table.tick(NOW + 2.01, [MAIN]) is Reason.ACT


@pytest.mark.parametrize("kind", ["refused", "failed"])
def test_channel_that_was_not_the_end_of_it_is_a_line_in_the_log(
    table: Table, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the next channel has helped people see which one does not work, why, and what it said."""
    table.tick(NOW, [MAIN])
    attempt = table.carry_out(table.heard("deliver")[0]["order"], NOW)
    table.tell(kind, attempt, NOW, channel="exec", reason="exit_3", message="no such cache")
    table.tick(NOW + 1, [MAIN])

    [told] = [vars(record) for record in caplog.records if record.message == f"channel {kind}"]
    assert (told["target"], told["channel"], told["reason"], told["said"]) == ("rag", "exec", "exit_3", "no such cache")


def test_standing_order_is_sent_once_and_renewed_before_it_runs_out(table: Table) -> None:
    """It is valid for 10 minutes: said anew after 5, not every second."""
    sent = []
    for second in range(1200):
        table.tick(NOW + second, [CRITICAL])
        sent += [(second, body) for body in table.heard("orders")]

    assert [second for second, _ in sent] == [0, 301, 602, 903]
    [order] = sent[0][1]["orders"]
    assert wire.order(order).line_bytes == 1200 * MIB
    assert wire.order(order).not_before_seconds == 0.0


def test_standing_order_is_renewed_when_the_clock_was_set_back(table: Table) -> None:
    """Otherwise it would run out at the guard, whose clock does not jump, long before we thought so."""
    table.tick(NOW, [CRITICAL])
    table.heard()
    table.tick(NOW - 3600, [CRITICAL])

    assert len(table.heard("orders")) == 1


def test_standing_order_is_sent_anew_after_a_crossing_and_when_it_may_act_again(table: Table) -> None:
    """The guard rests for the whole cooldown by itself; what helped shortens that at once."""
    table.tick(NOW, [CRITICAL])
    [sent] = table.heard("orders")
    table.carry_out(sent["orders"][0], NOW + 0.5, took=0.2)
    table.tick(NOW + 1, [CRITICAL])
    [resting] = table.heard("orders")
    table.readings = [(NOW + 2, 1000.0 * MIB)]
    table.tick(NOW + 2, [CRITICAL])
    [helped] = table.heard("orders")
    table.tick(NOW + 3, [CRITICAL])

    rest = [wire.order(body["orders"][0]).not_before_seconds for body in (resting, helped)]
    assert rest == pytest.approx([0.7 + 300 - 1, 0.7 + 2 - 2])
    assert resting["seen"] == 3
    assert table.heard("orders") == []


def test_standing_order_is_sent_anew_to_a_new_process(table: Table) -> None:
    """What stood for a process ended with it."""
    table.tick(NOW, [CRITICAL])
    table.dispatch.watch("rag", IDENTITY._replace(start_time_ticks=2000), ANON)
    armed = Policy(Options(), False).stand(RAG, [CRITICAL], table.ledger, table.acting.incidents, NOW)
    table.heard()
    table.dispatch.stand("rag", armed, NOW)

    assert len(table.heard("orders")) == 1


@pytest.mark.parametrize("changes", [{"mode": "observe"}, {"fresh": False}, {"armed": False}, {"channels": {}}])
def test_standing_order_is_withdrawn_when_an_interlock_holds(table: Table, changes: dict[str, Any]) -> None:
    """The guard gets an empty list, once."""
    table.tick(NOW, [CRITICAL])
    table.heard()
    table.tick(NOW + 1, [CRITICAL], replace(RAG, **changes))
    table.tick(NOW + 2, [CRITICAL], replace(RAG, **changes))

    assert [body["orders"] for body in table.heard("orders")] == [[]]


def test_kill_switch_withdraws_and_gives_back(table: Table) -> None:
    """While the file exists nothing stands and nothing is ordered; afterwards both are as before."""
    assert table.tick(NOW, [MAIN, CRITICAL], kill_switch=True) is Reason.KILL_SWITCH
    assert [body.get("orders") for body in table.heard() if "identity" not in body] == [[]]
    assert table.tick(NOW + 1, [MAIN, CRITICAL]) is Reason.ACT
    said = table.heard()
    assert [len(body["orders"]) for body in said if "orders" in body] == [1]
    assert [body["order"][2] for body in said if "order" in body] == ["standard"]


def test_new_desk_replaces_the_orders_of_the_one_before(table: Table) -> None:
    """What an earlier desk ordered is in force at the guard: one that orders nothing says so."""
    table.tick(NOW, [CRITICAL], replace(RAG, mode="observe"))

    assert [body["orders"] for body in table.heard("orders")] == [[]]


def test_target_is_watched_once_until_it_changes(table: Table) -> None:
    """A watch is said when the identity or the basis differs, and when the guard has let go."""
    dispatch, other = table.dispatch, IDENTITY._replace(start_time_ticks=2000)
    for identity, basis in ((IDENTITY, ANON), (IDENTITY, ANON), (other, ANON), (other, Basis("rss")), (None, None),
                            (None, None), (other, ANON)):
        dispatch.watch("rag", identity, basis)
    said = [(body["identity"][2], body["basis"][0]) if "identity" in body else None for body in table.heard()]
    assert said == [(1000, "anon"), (2000, "anon"), (2000, "rss"), None, (2000, "anon")]

    for kind in ("gone", "changed", "unreadable"):
        table.tell(kind)
        assert [event.kind for event in dispatch.events()] == [kind]
        dispatch.watch("rag", other, ANON)
        assert len(table.heard("watch")) == 1


def test_target_that_only_the_guard_knows_can_be_let_go(table: Table) -> None:
    """After a restart of the desk the guard may hold a process that is no longer wanted."""
    wire.send(table.guard, wire.encode("welcome", program_pid=0, watched=[["rag", list(IDENTITY)]]))
    table.dispatch.hello("", courier=False)
    table.dispatch.watch("rag", None, None)

    assert table.heard("unwatch") == [{"target": "rag"}]


def test_loss_of_events_is_known(table: Table) -> None:
    """The guard says how many it had to give up."""
    assert table.dispatch.events() == []
    table.tell("unreadable")
    wire.send(table.guard, wire.encode("applied", serial=1))
    wire.send(table.guard, wire.encode("event", event=wire.Event(9, NOW, "gone", "rag", "", {}), lost=7))

    assert [event.number for event in table.dispatch.events()] == [1, 9]
    assert table.dispatch.lost_events == 7


def test_desk_knows_when_the_guard_has_hung_up(table: Table) -> None:
    """Then it ends; until then nothing that it does fails."""
    table.guard.close()
    table.dispatch.receive()

    assert table.dispatch.ended
    assert not table.dispatch.deliver(wire.Order("o", "rag", "light", (), {}, None))
    table.dispatch.beat(0)
    assert table.tick(NOW, [MAIN, CRITICAL]) is Reason.ACT


def test_decision_is_logged_once_for_each_change_of_reason(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    """A held cleanup says why when that changes, not every second; being below is not worth a line until it is."""
    caplog.set_level(logging.INFO, "sidecar.actions")
    cold = replace(RAG, age_seconds=1.0)
    for second, (gates, subject) in enumerate([([], RAG), ([], RAG), ([MAIN], cold), ([MAIN], cold), ([MAIN], cold),
                                               ([], RAG), ([MAIN], cold), ([MAIN], replace(RAG, mode="observe"))]):
        table.tick(NOW + second, gates, subject)

    assert [vars(record)["reason"] for record in caplog.records if record.message == "decision"] == [
        "warming_up", "below_threshold", "warming_up", "mode_observe"]


def test_end_of_a_cleanup_is_one_line_with_everything(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    """The canonical line: what, through which channel, because of which alert, how it ended, in bytes."""
    caplog.set_level(logging.INFO, "sidecar.actions")
    table.tick(NOW, [MAIN])
    table.carry_out(table.heard("deliver")[0]["order"], NOW)
    table.tick(NOW + 1, [])
    table.readings = [(NOW + 1.5, 850.0 * MIB)]
    table.tick(NOW + 2, [])
    table.tick(NOW + 3, [])
    [line] = [vars(record) for record in caplog.records if record.message == "cleanup ended"]

    assert line["levelname"] == "INFO"
    assert {key: line[key] for key in ("target", "cleanup", "channel", "outcome", "alert", "freed_bytes")} == {
        "target": "rag", "cleanup": "standard", "channel": "signal", "outcome": "effective", "alert": "Main",
        "freed_bytes": 250 * MIB}


@pytest.mark.parametrize(("delivered", "outcome"), [(True, "unknown"), (False, "undelivered")])
def test_attempt_without_any_answer_ends(table: Table, delivered: bool, outcome: str) -> None:
    """A guard that never tells the end does not keep the target waiting forever."""
    table.tell("crossed", "a", NOW, cleanup="light", labels={}, used_bytes=1.0, line_bytes=None)
    if delivered:
        table.tell("delivered", "a", NOW, channel="signal", delivery_seconds=0.0)
    table.tick(NOW + UNANSWERED_SECONDS, [])
    assert [row.outcome for row in table.ledger.attempts()] == [""]
    table.tick(NOW + UNANSWERED_SECONDS + 1, [])

    assert [(row.outcome, row.reason) for row in table.ledger.attempts()] == [(outcome, "no_answer")]


def test_growth_before_the_crossing_is_measured_at_the_crossing(table: Table) -> None:
    """The last minute before it, from what the store holds."""
    table.readings = [(NOW - 300 + second, 5.0 * second) for second in range(0, 240, 10)]
    table.readings += [(NOW - 59 + second, 2000.0 + 2.0 * second) for second in range(0, 60, 10)]
    table.tell("crossed", "a", NOW, cleanup="light", labels={}, used_bytes=1.0, line_bytes=None)
    table.tick(NOW, [])

    assert [row.growth for row in table.ledger.attempts()] == [pytest.approx(2.0)]


@pytest.mark.parametrize(("outcome", "later", "expected"), [
    ("effective", 1100.0, (True, 1)), ("effective", 860.0, (False, 0)), ("ineffective", 5000.0, (None, 0))])
def test_memory_that_came_back_is_looked_for_once(
    table: Table, caplog: pytest.LogCaptureFixture, outcome: str, later: float, expected: tuple[bool | None, int]
) -> None:
    """A minute after the verdict, where there was something freed that could come back."""
    table.tick(NOW, [MAIN])
    table.carry_out(table.heard("deliver")[0]["order"], NOW)
    table.readings = [(NOW + 5, (850.0 if outcome == "effective" else 1099.0) * MIB)]
    table.tick(NOW + 25, [])
    assert table.ledger.attempts()[0].outcome == outcome
    for second in (84, 85, 86, 87):
        table.readings.append((NOW + second, later * MIB))
        table.tick(NOW + second, [])

    count = [sample.value for sample in table.ledger.samples([Labels({"target": "rag"})], NOW)
             if sample.labels.metric == "rag_cleanup_rebounds_total"]
    assert (table.ledger.attempts()[0].rebounded, count[0]) == expected
    assert [record.message for record in caplog.records].count("freed memory came back") == expected[1]


def test_what_holds_an_action_back_is_a_series(table: Table) -> None:
    """One series with the reason while a gate is open and nothing is done, none when all is well."""
    assert METRICS[0].name == "rag_action_held"
    table.tick(NOW, [])
    assert table.samples() == {"rag_incident_open": {"": 0.0}, "rag_actions_parked": {"": 0.0}}
    table.tick(NOW, [MAIN], replace(RAG, age_seconds=1.0))
    assert table.samples() == {"rag_action_held": {"warming_up": 1.0}, "rag_incident_open": {"": 1.0},
                               "rag_actions_parked": {"": 0.0}}
    table.tick(NOW, [MAIN._replace(ripe=False)])
    assert table.samples()["rag_action_held"] == {"alert_pending": 1.0}
    table.tick(NOW, [MAIN])
    assert "rag_action_held" not in table.samples()


def test_parked_when_every_configured_channel_was_refused(table: Table) -> None:
    """A target without any channel is not parked, it is not configured; the incident's end unparks."""
    bare = replace(RAG, channels={})
    assert table.tick(NOW, [MAIN], bare) is Reason.NO_CHANNEL
    assert table.samples(bare)["rag_actions_parked"] == {"": 0.0}

    table.tick(NOW, [MAIN])
    order = wire.order(table.heard("deliver")[0]["order"])
    table.tell("crossed", f"{order.id}.1", NOW, cleanup="standard", labels={}, used_bytes=1.0, line_bytes=None)
    table.tell("refused", f"{order.id}.1", NOW, channel="signal", reason="signal_default")
    table.tell("spent", f"{order.id}.1", NOW)
    assert table.tick(NOW + 60, [MAIN]) is Reason.NO_CHANNEL
    assert table.samples()["rag_actions_parked"] == {"": 1.0}
    post = replace(RAG, channels={**RAG.channels, "standard": (USR1, Channel("http", url="http://x/"))})
    assert table.tick(NOW + 60, [MAIN], post) is Reason.ACT
    assert table.samples(post)["rag_actions_parked"] == {"": 0.0}
    assert table.tick(NOW + 61, [MAIN]) is Reason.NO_CHANNEL
    for second in (62, 122):
        assert table.tick(NOW + second, [], replace(RAG, used_bytes=100.0 * MIB)) is Reason.BELOW
    assert table.samples()["rag_actions_parked"] == {"": 0.0}
    assert table.tick(NOW + 130, [MAIN]) is Reason.ACT


def test_dry_run_orders_are_dry(table: Table) -> None:
    """What is sent to the guard says so, at once and standing."""
    table.tick(NOW, [MAIN, CRITICAL], replace(RAG, mode="dry_run"))
    table.tick(NOW + 1, [MAIN], replace(RAG, mode="dry_run"))
    said = table.heard()
    orders = [wire.order(raw) for body in said for raw in body.get("orders", [])]
    orders += [wire.order(body["order"]) for body in said if "order" in body]

    assert sorted(order.cleanup for order in orders) == ["aggressive", "standard"]
    assert all(order.dry_run for order in orders)


def test_rows_are_plain_json(table: Table) -> None:
    """What the API shows of an attempt in flight, of a skipped and of a judged one can be sent as it is."""
    table.tick(NOW, [MAIN])
    table.carry_out(table.heard("deliver")[0]["order"], NOW)
    table.tick(NOW + 60, [MAIN])
    rows = [attempt.as_json() for attempt in table.ledger.attempts()]

    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    assert rows[0]["outcome"] == "unknown"
