"""Incidents in virtual time: the whole machine beside a guard that a test plays, through minutes and restarts."""

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import pytest
from deciding import CLIMBING, MIB, NOW, RAG, World
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.actions.attempt import Attempt
from sidecar.actions.facts import SENTENCES, Gate, Reason
from sidecar.actions.options import Options
from sidecar.actions.policy import Policy
from sidecar.guard.wire import Event
from sidecar.model import Cleanup


def test_it_climbs_where_the_cap_allows_and_begins_higher_once_it_has_learnt() -> None:
    """Standard frees nothing, aggressive does: each incident climbs, and the fourth begins at aggressive."""
    world = World(CLIMBING, {"aggressive": 400.0})
    for _ in range(4):
        world.tick(500.0)
        world.run(280, 1100.0)
        assert world.guard.used < 1000 * MIB
        world.run(240, 500.0)

    assert world.cleanups() == [*["standard", "aggressive"] * 3, "aggressive"]
    assert [each["why"] for each in world.incidents()] == ["well"] * 4


def test_next_level_waits_for_the_cooldown_of_the_one_that_did_not_help() -> None:
    """A cleanup that freed nothing is not followed by a stronger one at once."""
    world = World(CLIMBING, {"aggressive": 400.0})
    world.tick(500.0)
    world.run(300, 1100.0)
    (first, _), (second, _) = world.guard.delivered

    assert 180.0 <= second - first <= 182.0


def test_nothing_helps_so_it_parks_and_stays_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Within bounded steps nothing more is tried, for hours; one line says so, and the gauge shows it."""
    caplog.set_level(logging.INFO, "sidecar.actions")
    world = World(CLIMBING)
    world.tick(500.0)
    world.run(3600, 1100.0)
    tried = world.cleanups()
    assert world.gauges() == {"rag_incident_open": 1.0, "rag_actions_parked": 1.0}
    world.run(3 * 3600)

    assert sorted(tried) == ["aggressive"] * 3 + ["standard"] * 3
    assert world.cleanups() == tried
    assert world.reasons[-1] is Reason.PARKED
    assert [record.message for record in caplog.records].count("parked") == 1
    told = {vars(record)["reason"] for record in caplog.records if record.message == "decision"}
    assert told.isdisjoint({Reason.LEARNED, Reason.BUDGET, Reason.PARKED})
    assert world.acting.explain()["decisions"][0]["message"] == (
        f"{SENTENCES[Reason.LEARNED]} {SENTENCES[Reason.PARKED]}")
    assert world.incidents()[0]["message"] == SENTENCES[Reason.LEARNED]


def test_parking_ends_with_the_incident_by_a_person_and_when_the_cap_rises() -> None:
    """The three ways on: it got well, somebody unparks it, or a stronger alert fires."""
    world = World(Options(), {"aggressive": 500.0})
    world.tick(500.0)
    world.run(900, 1100.0)
    assert world.reasons[-1] is Reason.PARKED
    assert world.acting.unpark("rag") == ["rag"]
    assert world.tick() is Reason.ACT
    world.run(900)
    assert world.reasons[-1] is Reason.PARKED

    before = len(world.cleanups())
    world.run(30, 1300.0)
    assert world.cleanups()[before:] == ["aggressive"]

    world.run(70, 500.0)
    assert world.gauges() == {"rag_incident_open": 0.0, "rag_actions_parked": 0.0}
    assert world.acting.unpark(None) == []


def test_value_that_flaps_at_the_line_makes_one_incident() -> None:
    """It goes above and below for an hour: one incident, which ends a minute after it is well under the line."""
    world = World(frees={"standard": 50.0})
    for second in range(3600):
        world.tick(1001.0 if second % 20 < 15 else 999.0)
    assert len(world.incidents()) == 1
    world.run(59, 700.0)
    assert world.gauges()["rag_incident_open"] == 1.0
    world.run(2)

    assert world.gauges()["rag_incident_open"] == 0.0
    assert [each["why"] for each in world.incidents()] == ["well"]


def test_what_is_between_the_exit_line_and_the_line_is_not_well_yet() -> None:
    """No alert is left, and yet the incident goes on until there is room again."""
    world = World(frees={"light": 50.0})
    world.tick(500.0)
    world.run(40, 810.0)
    world.run(600, 730.0)
    assert world.gauges()["rag_incident_open"] == 1.0
    world.run(62, 719.0)

    assert world.gauges()["rag_incident_open"] == 0.0


def test_effective_cleanups_of_a_fast_leak_all_happen() -> None:
    """What helps costs neither cooldown nor budget nor strikes."""
    world = World(frees={"standard": 500.0})
    world.tick(500.0)
    for _ in range(1200):
        world.tick(world.guard.used / MIB + 10.0)

    assert len(world.cleanups()) >= 20
    assert set(world.cleanups()) == {"standard"}


def test_helping_again_and_again_without_being_enough_leads_to_the_next_level() -> None:
    """The same level again, as often as `escalate_after` says, then the next one."""
    world = World(CLIMBING, {"standard": 60.0, "aggressive": 900.0})
    world.tick(500.0)
    world.run(120, 1190.0)

    assert world.cleanups() == ["standard", "standard", "aggressive"]


def test_target_over_its_critical_line_at_first_sight_gets_one_cleanup() -> None:
    """It may need that much: one attempt, then it is left alone until it has been well."""
    world = World()
    world.run(3600, 1300.0)
    assert world.cleanups() == ["aggressive"]
    assert world.incidents()[0]["parked"] == Reason.BASELINE
    world.run(70, 500.0)
    world.run(2000, 1300.0)

    assert world.cleanups() == ["aggressive"] * 3  # by then it has not helped this process three times in a row


def test_restart_of_the_sidecar_is_no_first_sight() -> None:
    """A process that is known from the journal is not taken for one that has always been over its line."""
    world = World()
    world.run(5, 500.0)
    world.restart()
    world.run(2000, 1300.0)

    assert world.cleanups() == ["aggressive"] * 3


def test_new_process_begins_anew_and_an_old_end_does_not_end_it() -> None:
    """What was learnt and what was parked is about a process; news of the old one do not touch the new one."""
    world = World()
    world.tick(500.0)
    world.run(900, 1100.0)
    assert world.reasons[-1] is Reason.PARKED
    world.subject = replace(RAG, life=("boot/1:2", 43, 2000))
    world.tick(500.0)
    assert [each["why"] for each in world.incidents()] == ["target_replaced"]
    world.run(15, 1100.0)
    assert world.cleanups()[-1:] == ["standard"]
    assert len(world.cleanups()) == 4

    world.guard.events.append(Event(len(world.guard.events) + 1, NOW + 1, "gone", "rag", "", {}))
    world.tick()
    assert world.gauges()["rag_incident_open"] == 1.0
    world.guard.tell("gone")
    world.tick(500.0)
    assert world.gauges()["rag_incident_open"] == 0.0


def test_memory_that_comes_back_is_a_strike() -> None:
    """What a cleanup freed came back within a minute, three times: it is left out as one that frees nothing."""
    world = World(Options(), {"standard": 400.0})
    world.tick(500.0)
    for _ in range(5):
        world.run(65, 1100.0)

    assert [(each.outcome, each.rebounded) for each in world.ledger.attempts()] == [("effective", True)] * 3
    assert world.reasons[-1] is Reason.PARKED


def test_dry_run_walks_through_everything_and_delivers_nothing() -> None:
    """Its cleanups count as such that did not help: cooldowns, climbing, parking, and no delivery."""
    world = World(CLIMBING, subject=replace(RAG, mode="dry_run"))
    world.tick(500.0)
    world.run(3600, 1100.0)
    assert world.reasons[-1] is Reason.PARKED
    assert world.guard.delivered == []
    assert {attempt.outcome for attempt in world.ledger.attempts()} == {"dry_run"}

    world.subject = RAG
    world.run(2)
    assert world.cleanups() == ["standard"]  # rehearsals have taught nothing


def test_undelivered_cleanups_wait_as_long_as_the_target_wants() -> None:
    """A 503 with Retry-After is honoured, and costs neither cooldown nor budget."""
    world = World(answers="failed")
    world.tick(500.0)
    world.run(1300, 1100.0)
    tried = [event.at for event in world.guard.events if event.kind == "crossed"]

    assert 2 <= len(tried) <= 3
    assert all(600.0 <= later - earlier <= 602.0 for earlier, later in pairwise(tried))
    assert world.reasons[-1] is Reason.BACKOFF


def test_alert_without_a_line_gets_one_cleanup_each_time_it_fires() -> None:
    """Nobody can say in bytes when it would be enough, so it is done once."""
    world = World()
    world.tick(500.0)
    for _ in range(2):
        world.others = [Gate("rag", "", "light", {"alertname": "Retained"}, open=True, ripe=True, standing=False,
                             line_bytes=None, inclusive=False, fired_at=world.guard.now)]
        world.run(300)
        assert world.reasons[-1] is Reason.ACTED
        world.others = []
        world.run(300)

    assert world.cleanups() == ["light", "light"]
    assert [each["why"] for each in world.incidents()] == ["well", "well"]


def test_periodic_cleanups_need_no_alert_and_leave_budget_for_those_that_do() -> None:
    """Every three minutes, never during an incident, and never more than half of what an hour allows."""
    world = World(Options(every_seconds={"light": 180.0}))
    world.run(3600, 500.0)
    assert {attempt.trigger for attempt in world.ledger.attempts()} == {"periodic"}
    assert world.cleanups() == ["light"] * 6
    assert [later - earlier for (earlier, _), (later, _) in pairwise(world.guard.delivered)] == [180.0] * 5
    assert world.incidents() == []
    world.run(40, 900.0)

    assert world.cleanups() == ["light"] * 7
    assert world.ledger.attempts()[0].trigger == "rule"


def test_pause_withdraws_at_once_and_ends_by_itself() -> None:
    """Nothing stands and nothing is ordered while it is paused, over a restart too; then it goes on."""
    world = World(frees={"aggressive": 900.0})
    world.run(5, 500.0)
    assert world.guard.standing["rag"][0]
    world.acting.pause(None, world.guard.now + 100, world.guard.now)
    assert world.guard.standing["rag"][0] == []
    world.run(50, 1300.0)
    world.restart()
    world.run(40)
    assert world.cleanups() == []
    assert world.reasons[-1] is Reason.PAUSED
    world.run(20)
    assert world.cleanups() == ["aggressive"]

    world.acting.pause("rag", None, world.guard.now)
    world.run(5)
    world.acting.resume("rag", world.guard.now)
    assert world.tick(500.0) is Reason.BELOW


def test_what_other_programs_ask_for_may_only_raise_a_level() -> None:
    """Without an alert of ours nothing is done; with one, never less than it asks for; the limits hold."""
    world = World()
    policy = Policy(world.options, kill_switch=False)

    def asked(cleanup: Cleanup) -> tuple[Reason, str]:
        found = world.acting.asked(policy, world.subject, cleanup, world.guard.now, "webhook", {"alertname": "Far"})
        return found.reason, found.cleanup

    world.tick(500.0)
    assert asked("standard") == (Reason.BELOW, "standard")
    world.tick(900.0)
    assert asked("standard") == (Reason.PENDING, "standard")
    world.subject = replace(RAG, age_seconds=1.0)
    world.run(35)
    assert asked("standard") == (Reason.WARMUP, "standard")
    world.subject = RAG
    assert asked("aggressive") == (Reason.ACT, "aggressive")
    assert asked("aggressive") == (Reason.IN_FLIGHT, "aggressive")
    world.run(30)
    assert asked("aggressive") == (Reason.COOLDOWN, "aggressive")
    newest: Attempt = next(each for each in world.ledger.attempts() if each.cleanup == "aggressive")
    assert (newest.trigger, newest.labels, newest.outcome) == ("webhook", {"alertname": "Far"}, "ineffective")


def test_explanations_are_plain_json_with_a_sentence_each() -> None:
    """What the API shows of decisions and incidents can be sent as it is."""
    world = World()
    world.tick(500.0)
    world.run(20, 1100.0)
    shown = world.acting.explain()

    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert [each["message"] for each in shown["decisions"]] == [SENTENCES[world.reasons[-1]]]
    assert set(SENTENCES) == set(Reason)


def test_attempt_that_nobody_tells_the_end_of_is_interrupted() -> None:
    """Everything was killed while a cleanup was under way: it ends once, counted and written down."""
    world = World()
    world.tick(500.0)
    world.guard.answers = "silent"
    world.run(12, 1100.0)
    world.guard.events = [event for event in world.guard.events if event.kind == "crossed"]
    world.tick()
    assert [attempt.outcome for attempt in world.ledger.attempts()] in ([""], ["undelivered"])
    world.kept["attempt"] = {key: row for key, row in world.kept["attempt"].items() if key[1] == "planned"}
    world.restart()
    world.guard.events, world.guard.told = [], 0
    world.run(10, 500.0)

    assert [attempt.outcome for attempt in world.ledger.attempts()] == ["interrupted"]
    assert [stage for _, stage in world.kept["attempt"]] == ["planned", "final"]


TRACES = st.lists(st.tuples(st.sampled_from([500.0, 730.0, 900.0, 1100.0, 1300.0, None]), st.integers(1, 120)),
                  min_size=2, max_size=12)


@settings(max_examples=60, deadline=None)
@given(TRACES, st.sampled_from([{}, {"standard": 60.0}, {"aggressive": 500.0}, {"light": 20.0, "standard": 300.0}]),
       st.booleans(), st.data())
def test_restart_at_any_moment_changes_no_decision(
    trace: list[tuple[float | None, int]], frees: Mapping[str, float], climbing: bool, data: st.DataObject
) -> None:
    """A desk that goes on from what was written down decides as the one that was killed would have decided."""
    moments = sum(seconds for _, seconds in trace)
    killed = data.draw(st.integers(0, moments - 1))
    worlds = [World(CLIMBING if climbing else None, frees) for _ in range(2)]
    second = 0
    for used, seconds in trace:
        for tick in range(seconds):
            if second == killed:
                worlds[1].tick()
                worlds[1].restart()
                worlds[0].tick()
            for world in worlds:
                world.tick(used if tick == 0 else None)
            second += 1

    assert worlds[0].guard.delivered == worlds[1].guard.delivered
    assert worlds[0].reasons == worlds[1].reasons
    assert worlds[0].incidents() == worlds[1].incidents()
