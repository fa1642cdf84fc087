"""Histories that a target may have, by name, with the defaults that come with rag-sidecar: what is done about each.

The desk is the real one, rules and all, in virtual time (`acting_world`).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from acting_world import CLIMBING, LINES, MIB, START, World, rules

from sidecar.actions.attempt import Attempt
from sidecar.actions.options import Options
from sidecar.model import Labels
from sidecar.replay.program import Response

DEFAULTS = Options(mode="enforce")
HOUR = 3600.0

Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes a world with the shipped holds, and ends it."""
    made: list[World] = []

    def new(options: Options = DEFAULTS, **more: Any) -> World:
        made.append(World(tmp_path, options, specs=rules(preventive=30.0, main=10.0), **more))
        return made[-1]

    yield new
    for world in made:
        world.close()


def outcomes(world: World) -> list[tuple[str, str]]:
    """(cleanup, outcome) of every attempt, in order."""
    return [(attempt.cleanup, attempt.outcome) for attempt in world.attempts()]


def nothing_helps(world: World) -> None:
    """No cleanup frees anything."""
    world.program.shares = dict.fromkeys(world.program.shares, 0.0)


def test_climbs_to_what_helps_and_learns_what_does_not(make: Make) -> None:
    """Where standard frees nothing and aggressive does, main climbs; after three times it begins with what helps."""
    world = make(replace(DEFAULTS, policies=CLIMBING))
    world.program.shares = {"light": 0.0, "standard": 0.0, "aggressive": 0.5}
    first: list[str] = []
    for _ in range(4):
        known = len(world.attempts())
        world.program.used = LINES["main"] * 1.05
        world.wait(600.0)
        first.append(next(attempt.cleanup for attempt in world.attempts()[known:] if attempt.cleanup != "light"))
        assert outcomes(world)[-1] == ("aggressive", "effective")
        assert world.incident is None

    assert first == ["standard", "standard", "standard", "aggressive"]


def test_parks_and_stays_quiet_where_nothing_helps(make: Make) -> None:
    """A target that no cleanup helps is left alone after a bounded number of them, and the reason is there to see."""
    world = make(replace(DEFAULTS, policies=CLIMBING))
    nothing_helps(world)
    world.program.used = LINES["main"] * 1.05

    world.wait(600.0)
    world.wait(HOUR, step=3.0)
    known = len(world.asked)
    assert 0 < known <= sum(DEFAULTS.budget_per_hour.values())
    assert world.incident is not None
    assert world.incident.parked

    world.wait(2 * HOUR, step=10.0)
    assert len(world.asked) == known


def test_parked_target_goes_on_when_a_person_says_so(make: Make) -> None:
    """`unpark` has everything tried again at once."""
    world = make()
    nothing_helps(world)
    world.program.used = LINES["main"] * 1.05
    world.wait(HOUR, step=3.0)
    known = len(world.asked)
    world.wait(HOUR, step=5.0)
    assert len(world.asked) == known

    world.unpark()
    world.wait(600.0)

    assert len(world.asked) > known


def test_steady_over_preventive_is_not_harmed(make: Make) -> None:
    """A target that simply needs that much gets its budget of light cleanups and never anything stronger."""
    world = make()
    world.program.shares["light"] = 0.0
    world.program.used = LINES["preventive"] * 1.05

    world.wait(HOUR, step=3.0)

    assert {asked.cleanup for asked in world.asked} == {"light"}
    assert len(world.asked) <= DEFAULTS.budget_per_hour["light"]


def test_over_critical_from_the_beginning_is_one_attempt(make: Make) -> None:
    """A program that was over its critical line when it was first seen gets one cleanup, and then peace."""
    world = make(used=LINES["critical"] * 1.05)
    nothing_helps(world)

    world.wait(120.0)
    world.wait(HOUR, step=5.0)

    assert [asked.cleanup for asked in world.asked] == ["aggressive"]
    assert world.incident is not None
    assert world.incident.parked == "baseline_above_threshold"


def test_cleanup_that_helps_a_program_over_critical_from_the_beginning_is_repeated(make: Make) -> None:
    """What one cleanup brings under its critical line is no load that stands above it: it is helped again."""
    world = make(used=LINES["critical"] * 1.05)
    world.wait(20.0)
    assert world.program.used < LINES["critical"]
    world.program.used = LINES["critical"] * 1.05

    world.wait(20.0)

    assert [asked.cleanup for asked in world.asked].count("aggressive") == 2
    assert world.incident is not None
    assert not world.incident.parked


def test_restart_of_ours_is_no_first_sight(make: Make) -> None:
    """A program that has grown over its critical line is not taken for one that began there, whoever restarts."""
    world = make(replace(DEFAULTS, cooldown_seconds={"light": 60.0, "standard": 180.0, "aggressive": 30.0}))
    nothing_helps(world)
    world.wait(10.0)
    world.crash_all()
    world.program.used = LINES["critical"] * 1.05

    world.wait(120.0)

    assert [asked.cleanup for asked in world.asked].count("aggressive") > 1
    assert world.incident is not None
    assert world.incident.parked != "baseline_above_threshold"


def test_flapping_at_a_line_is_one_incident(make: Make) -> None:
    """A value that crosses its line again and again makes one incident, not many."""
    world = make()
    nothing_helps(world)
    world.program.used = LINES["critical"] * 0.99
    world.wait(10.0)
    for index in range(60):
        world.program.used = LINES["critical"] * (1.01 if index % 2 else 0.99)
        world.wait(5.0)

    assert len({key for kind, key, _ in world.rows if kind == "incident"}) == 1


@pytest.mark.parametrize("moment", [0.0, 0.0004, 0.0006])
def test_every_tick_acts_on_what_it_has_just_read(make: Make, moment: float) -> None:
    """Not on what was read at the tick before, whatever the clock shows beyond its milliseconds."""
    world = make()
    world.wait(5.0)
    for used, reason in (("critical", "standing_order"), ("preventive", "below_threshold")) * 3:
        world.program.used = LINES[used] * (1.1 if used == "critical" else 0.9)
        world.now += 1.0
        world.desk.tick(world.now + moment)
        assert world.reason == reason


def test_what_rests_says_until_when(make: Make) -> None:
    """Over critical after a cleanup that did not help, it is known when the guard may act again; it does then."""
    world = make()
    nothing_helps(world)
    world.wait(90.0)
    world.program.used = LINES["critical"] * 1.05
    world.wait(60.0)
    [decision] = world.acting.explain()["decisions"]
    [first] = world.attempts()

    assert decision["reason"] == "standing_order"
    assert decision["until"] == (first.answered_at or 0.0) + DEFAULTS.cooldown_seconds["aggressive"]
    world.wait(decision["until"] - world.now - 2.0)
    assert len(world.attempts()) == 1
    world.wait(5.0)
    assert len(world.attempts()) == 2


def test_effective_cleanups_are_not_rationed(make: Make) -> None:
    """Ten effective cleanups in a row at a fast leak all happen: only those that do not help have a budget."""
    world = make()
    world.program.shares["standard"], world.program.growth = 0.5, 10 * MIB
    world.wait(1200.0)

    done = [attempt for attempt in world.attempts() if attempt.cleanup == "standard"]
    assert len(done) >= 10
    assert {attempt.outcome for attempt in done if attempt.outcome} == {"effective"}
    assert not any(attempt.rebounded for attempt in done)
    assert max(asked.used_bytes or 0.0 for asked in world.asked) < LINES["critical"]


def test_what_was_not_looked_at_in_time_has_not_come_back(make: Make) -> None:
    """A sidecar that was away for an hour does not blame a cleanup of then for the memory of now."""
    world = make(replace(DEFAULTS, strikes=1))
    world.program.shares["light"] = 0.0
    world.program.used = LINES["main"] * 1.05
    while ("standard", "effective") not in outcomes(world):
        world.tick()
    world.crash_all(3600.0)
    world.program.used = LINES["main"] * 0.99
    world.wait(5.0)

    done = next(attempt for attempt in world.attempts() if attempt.cleanup == "standard")
    assert done.rebounded is False


@pytest.mark.parametrize("pace", [31, 43, 61])
def test_leak_that_has_only_just_begun_is_cleaned_up_for_as_long_as_that_helps(make: Make, pace: int) -> None:
    """Nobody knew of it before the first cleanup, and it fills what was freed within seconds: no reason to give up."""
    world = make()
    world.program.shares |= {"standard": 0.3, "aggressive": 0.3}
    world.wait(100.0)
    world.program.growth = pace * MIB
    world.wait(600.0)

    strongest = [attempt for attempt in world.attempts() if attempt.cleanup != "light"]
    assert len(strongest) > 20
    assert not any(attempt.rebounded for attempt in strongest)
    assert max(asked.used_bytes or 0.0 for asked in world.asked) < LINES["critical"] * 1.1


def comes_back(world: World, ratio: float) -> Attempt:
    """The standard cleanup of a target whose memory is back 20 s later, at this share of the main line."""
    world.program.shares["light"] = 0.0
    world.program.used = LINES["main"] * 1.05
    while ("standard", "effective") not in outcomes(world):
        world.tick()
    world.wait(20.0)
    world.program.used = LINES["main"] * ratio
    world.wait(60.0)
    return next(attempt for attempt in world.attempts() if attempt.cleanup == "standard")


def test_memory_that_comes_back_is_a_strike(make: Make) -> None:
    """A cleanup whose bytes are back within a minute has not helped, and counts so."""
    world = make(replace(DEFAULTS, strikes=1))

    assert comes_back(world, 0.99).rebounded is True

    world.program.used = LINES["main"] * 1.05
    world.wait(60.0)
    assert [cleanup for cleanup, _ in outcomes(world)].count("standard") == 1
    assert world.incident is not None
    assert world.incident.parked == "never_helps"


def test_memory_that_comes_back_is_a_strike_also_when_it_is_cleaned_up_again(make: Make) -> None:
    """Memory that is back within seconds and cleaned up again within the minute has come back, too."""
    assert comes_back(make(), 1.05).rebounded is True


def test_burst_that_takes_a_stronger_cleanup_is_no_strike(make: Make) -> None:
    """A crowd that comes after a cleanup which helped teaches nothing of it: main is acted on again each time."""
    world = make()
    for _ in range(5):
        world.program.used = LINES["main"] * 1.05
        world.wait(20.0)
        world.program.used = LINES["critical"] * 1.05
        world.wait(100.0)

    assert [cleanup for cleanup, _ in outcomes(world)] == 5 * ["standard", "aggressive"]
    assert {attempt.rebounded for attempt in world.attempts()} == {False}


@pytest.mark.parametrize(("gap", "outcome"), [(0.0, "unknown"), (1.0, "unknown"), (10.0, "ineffective")])
def test_cleanup_is_not_credited_with_what_the_next_one_freed(make: Make, gap: float, outcome: str) -> None:
    """One that frees nothing is never a success because a stronger one came; seen for too short, it is no failure."""
    world = make()
    world.program.shares = {"light": 0.0, "standard": 0.0, "aggressive": 0.9}
    world.wait(90.0)
    world.program.used = LINES["main"] * 1.05
    world.wait(11.0)
    while "standard" not in [cleanup for cleanup, _ in outcomes(world)]:
        world.tick()
    world.wait(gap)
    world.program.used = LINES["critical"] * 1.05
    world.wait(100.0)

    before = {attempt.cleanup: attempt for attempt in world.attempts()}
    assert (before["standard"].outcome, before["standard"].reason) == (outcome, "overtaken")
    assert before["standard"].ended_at == before["aggressive"].started_at
    assert before["aggressive"].outcome == "effective"
    assert _freed_total(world) == before["aggressive"].freed_bytes


@pytest.mark.parametrize("stops", [True, False])
def test_cleanup_that_was_never_delivered_overtakes_none(make: Make, stops: bool) -> None:
    """What was refused or only rehearsed has moved no memory: the one before it is judged as if it were not there."""
    world = make()
    world.program.shares = {"light": 0.0, "standard": 0.3, "aggressive": 0.9}
    world.program.responses = {"http": Response(works_after=4.0)}
    world.wait(90.0)
    world.program.used = LINES["main"] * 1.05
    while "standard" not in [attempt.cleanup for attempt in world.attempts() if attempt.delivered_at]:
        world.tick(0.25)
    world.program.responses = {kind: Response(refused="signal_default") for kind in ("http", "signal")}
    if stops:
        world.program.used = LINES["critical"] * 1.05
    world.wait(60.0)

    assert ("aggressive" in [cleanup for cleanup, _ in outcomes(world)]) is stops
    assert [each for each in outcomes(world) if each[0] == "standard"] == [("standard", "effective")]


def _freed_total(world: World) -> float:
    [found] = [sample.value for sample in world.desk.ledger.samples([Labels({"target": "rag"})], world.now)
               if sample.labels.metric == "rag_cleanup_freed_bytes_total"]
    return found


def test_target_that_is_busy_is_asked_again_when_it_said(make: Make) -> None:
    """An answer "not now, in 40 s" is honoured, and costs neither budget nor cooldown."""
    world = make()
    world.program.responses["http"] = Response(failed="http_503", delivered_after=None, works_after=None,
                                               detail={"retry_after_seconds": 40.0})
    world.program.used = LINES["main"] * 1.05
    world.wait(120.0)

    times = [asked.at - START for asked in world.asked]
    assert len(times) >= 2
    assert all(after - before >= 40.0 for before, after in pairwise(times))
    assert {outcome for _, outcome in outcomes(world)} == {"undelivered"}


def test_dry_run_walks_through_everything_and_asks_for_nothing(make: Make) -> None:
    """In dry_run cooldowns and budgets count as if nothing had helped, until it is parked; nothing is delivered."""
    world = make(replace(DEFAULTS, mode="dry_run", policies=CLIMBING))
    world.program.used = LINES["main"] * 1.05

    world.wait(HOUR, step=2.0)

    assert world.asked == []
    assert {outcome for _, outcome in outcomes(world)} == {"dry_run"}
    assert {"standard", "aggressive"} <= {cleanup for cleanup, _ in outcomes(world)}
    assert world.incident is not None
    assert world.incident.parked


def test_pause_holds_what_the_guard_does_by_itself(make: Make) -> None:
    """While a target is paused even the critical line does nothing, and after `resume` it acts at once."""
    world = make()
    world.wait(5.0)
    world.pause()
    world.program.used = LINES["critical"] * 1.05
    world.wait(120.0)
    assert world.asked == []

    world.resume()
    world.wait(3.0)

    assert [asked.cleanup for asked in world.asked] == ["aggressive"]


@pytest.mark.parametrize("crash", [World.crash_desk, World.crash_all])
def test_crash_in_the_middle_of_a_cleanup_leaves_one_end(make: Make, crash: Callable[[World, float], None]) -> None:
    """What was under way when the sidecar was killed has one beginning and one end in the journal."""
    world = make()
    world.program.responses["http"] = Response(ends_after=8.0, works_after=8.0)
    world.program.used = LINES["critical"] * 0.9
    world.wait(5.0)
    world.program.used = LINES["critical"] * 1.05
    world.wait(2.0)
    assert [attempt.outcome for attempt in world.attempts()] == [""]

    crash(world, 3.0)
    world.wait(120.0)

    stages = [key[1:] for key in world.rows if key[0] == "attempt" and "aggressive" in key[1]]
    first = stages[0][0]
    assert [stage for key, stage in stages if key == first][:2] == ["planned", "final"]
    assert world.again == []
