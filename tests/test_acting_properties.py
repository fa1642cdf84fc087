"""What must hold of acting whatever happens: growth, bursts, gaps, restarts, broken channels, people, crashes.

The desk is the real one, rules and all, in virtual time (`acting_world`). The same traces are tried in every run;
`PROPERTY_EXAMPLES=5000` tries so many new ones.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pytest
from acting_world import CHANNELS, CLIMBING, LINES, MIB, QUICK, STRENGTH, World
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from sidecar.actions.ladder import NEVER_DELIVERED
from sidecar.actions.options import Options
from sidecar.actions.options import Policy as Caps
from sidecar.actions.tally import FREED
from sidecar.model import Labels
from sidecar.replay.program import Response

pytestmark = pytest.mark.usefixtures("silence")

IN_VAIN = ("ineffective", "partial", "unknown", "interrupted", "dry_run")
HOUR = 3600.0
FLIGHT_SECONDS = 200.0
"""Longer than an attempt lasts, whatever happens."""

Step = Callable[[World], None]


@dataclass(frozen=True)
class Done:
    """One thing that happens in a trace, with the words that describe it."""

    words: str
    do: Step

    def __repr__(self) -> str:
        return self.words


def done(words: str, do: Step) -> Done:
    """A step."""
    return Done(words, do)


def _grow(mib: float) -> Done:
    return done(f"grow {mib} MiB/s", lambda world: setattr(world.program, "growth", mib * MIB))


def _burst(mib: float) -> Done:
    def do(world: World) -> None:
        world.program.used = min(4000 * MIB, max(50 * MIB, world.program.used + mib * MIB))

    return done(f"burst {mib} MiB", do)


def _reach(level: str, ratio: float) -> Done:
    def do(world: World) -> None:
        world.program.used, world.program.growth = LINES[level] * ratio, 0.0

    return done(f"be at {ratio} of {level}", do)


def _share(cleanup: str, share: float) -> Done:
    return done(f"{cleanup} frees {share}", lambda world: world.program.shares.__setitem__(cleanup, share))


def _respond(kind: str, name: str, response: Response) -> Done:
    return done(f"{kind} {name}", lambda world: world.program.responses.__setitem__(kind, response))


def _hide(hidden: bool) -> Done:
    return done("unreadable" if hidden else "readable", lambda world: setattr(world.program, "hidden", hidden))


def _switch(thrown: bool) -> Done:
    return done(f"kill-switch {thrown}", lambda world: world.switch.touch() if thrown
                else world.switch.unlink(missing_ok=True))


RESPONSES = {
    "answers": Response(), "refuses": Response(refused="signal_default"), "breaks": Response(failed="closed"),
    "has no room": Response(failed="http_503", delivered_after=None, works_after=None,
                            detail={"retry_after_seconds": 7.0}),
    "is silent": Response(ends_after=float("inf"), works_after=None),
    "answers late": Response(ends_after=15.0, works_after=12.0), "takes 4 s": Response(ends_after=4.0, works_after=4.0),
    "never takes it": Response(delivered_after=None, ends_after=float("inf"), works_after=None),
}

STEPS = [
    *(_grow(mib) for mib in (-20.0, 0.0, 2.0, 10.0, 10.0, 50.0)),
    *(_burst(mib) for mib in (-600.0, -200.0, 100.0, 300.0, 600.0)),
    *(_reach(level, ratio) for level in sorted(LINES) for ratio in (0.5, 0.99, 1.01, 1.1)),
    *(_share(cleanup, share) for cleanup in sorted(STRENGTH) for share in (0.0, 0.0, 0.02, 0.3)),
    *(_respond("http", name, response) for name, response in RESPONSES.items()),
    *(_respond("signal", name, response) for name, response in RESPONSES.items()),
    _hide(True), *3 * [_hide(False)], _switch(True), *2 * [_switch(False)],
    done("restart", lambda world: world.program.start_anew()),
    done("exec", lambda world: world.program.become_another()),
    done("pause", World.pause), *2 * [done("resume", World.resume)], done("unpark", World.unpark),
    done("light by hand", lambda world: world.by_hand("light")),
    done("aggressive by hand", lambda world: world.by_hand("aggressive")),
    *3 * [done("desk crashes", World.crash_desk), done("desk crashes for 8 s", lambda world: world.crash_desk(8.0)),
          done("guard crashes", World.crash_all), done("guard crashes for 8 s", lambda world: world.crash_all(8.0))],
]
TRACES = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from([0, 1, 3, 8, 20])), min_size=8, max_size=25)
SETTINGS = {
    "plain": QUICK, "climbing": replace(QUICK, policies=CLIMBING),
    "dry": replace(QUICK, mode="dry_run", policies=CLIMBING),
    "strict": replace(QUICK, policies={**CLIMBING, "preventive": Caps("light", "standard")}, strikes=2, max_per_hour=4)}


@dataclass
class Watcher:
    """Looks at the world after every tick, and says what has been broken."""

    world: World
    before: tuple[bool, bool, Any] = (False, False, None)
    checked: int = 0

    def look(self) -> None:
        """All invariants of a moment. Raises AssertionError."""
        world = self.world
        i1_at_most_one_is_under_way(world)
        paused, killed, incident = self.before
        for asked in world.asked[self.checked:]:
            by_rule = not asked.attempt.startswith("manual:")
            i4_only_channels_that_were_named(asked)
            i5_only_a_process_that_was_looked_at(world, asked)
            assert not killed or not world.switch.exists(), f"asked with the kill-switch thrown: {asked}"
            i3_asked_only_on_readings(asked)
            if by_rule:
                i6_never_above_the_cap(world, asked)
                assert world.options.mode != "dry_run", f"I7, asked in dry_run: {asked}"
                begun = any(asked.attempt == other.attempt for other in world.asked[:self.checked])
                assert begun or not paused, f"asked while paused, and not under way before: {asked}"
                i11_parked_is_quiet(world, asked, incident)
        self.checked = len(world.asked)
        self.note()

    def note(self) -> None:
        """What holds for whatever comes before the next look."""
        world = self.world
        self.before = "rag" in world.acting.paused, world.switch.exists(), world.incident


def i1_at_most_one_is_under_way(world: World) -> None:
    """I1: never are two cleanups of one target under way; what a guard left that was killed, nobody awaits any more."""
    ledger = world.desk.ledger
    under_way = [attempt.id for attempt in ledger.open()
                 if attempt.answered_at is None and attempt.id not in ledger.doubtful]

    assert len(under_way) <= 1, f"I1: {under_way}"


def i2_budgets_are_kept(world: World) -> None:
    """I2: within any hour no more attempts of a level turn out not to help than its budget says; nor of all levels."""
    finals = [body for (kind, _, stage), (_, body) in world.rows.items() if (kind, stage) == ("attempt", "final")]
    vain = sorted((body["started_at"], body["cleanup"]) for body in finals
                  if body["outcome"] in IN_VAIN and body["trigger"] == "rule")
    for cleanup, budget in (*world.options.budget_per_hour.items(), ("", world.options.max_per_hour)):
        times = [at for at, level in vain if cleanup in ("", level)]
        for index, at in enumerate(times):
            within = [other for other in times[:index + 1] if other > at - HOUR]
            assert len(within) <= budget, f"I2: {len(within)} of {cleanup or 'all'} did not help within an hour"


def i3_asked_only_on_readings(asked: Any) -> None:
    """I3: nothing is asked of a program whose memory cannot be read."""
    assert asked.used_bytes is not None, f"I3: {asked}"


def i4_only_channels_that_were_named(asked: Any) -> None:
    """I4: only channels that the configuration names for this cleanup are used."""
    assert asked.channel in [channel.kind for channel in CHANNELS[asked.cleanup]], f"I4: {asked}"


def i5_only_a_process_that_was_looked_at(world: World, asked: Any) -> None:
    """I5: what was meant for one process never reaches another: each was looked at before it is asked."""
    assert asked.identity in world.seen_first, f"I5: {asked}"
    assert asked.at >= world.seen_first[asked.identity], f"I5: {asked}"


def i6_never_above_the_cap(world: World, asked: Any) -> None:
    """I6: never stronger than the strongest policy among the lines that are crossed at that moment allows."""
    crossed = [level for level, line in LINES.items() if asked.used_bytes > line]
    caps = [STRENGTH[world.options.policies[level].max] for level in crossed]

    assert STRENGTH[asked.cleanup] <= max(caps, default=-1), f"I6: {asked} with {crossed} crossed"


def i8_every_attempt_ends_once(world: World) -> None:
    """I8: the journal has, for every attempt that began, exactly one end, whatever crashed in between."""
    planned = {key for kind, key, stage in world.rows if (kind, stage) == ("attempt", "planned")}
    final = {key for kind, key, stage in world.rows if (kind, stage) == ("attempt", "final")}
    open_now = {attempt.id for attempt in world.desk.ledger.open()}

    assert all(world.now - attempt.started_at < FLIGHT_SECONDS for attempt in world.desk.ledger.open()), "I8"
    assert planned - final == open_now & planned, f"I8: without an end {sorted(planned - final - open_now)}"
    assert final <= planned, f"I8: without a beginning {sorted(final - planned)}"
    assert not world.again, f"I8: told twice {world.again}"


def i8_asked_is_written_down(world: World) -> None:
    """I8: nothing is asked of a program that the journal does not know of."""
    known = {key for kind, key, _ in world.rows if kind == "attempt"}

    assert {asked.attempt for asked in world.asked if asked.at < world.now} <= known, "I8"


def i9_undelivered_costs_nothing(world: World) -> None:
    """I9: a budget is spent by attempts that were delivered and did not help, and by nothing else."""
    incident = world.incident
    if incident and incident.parked == "budget_spent":
        ended = [body for (kind, _, stage), (_, body) in world.rows.items() if (kind, stage) == ("attempt", "final")]
        back = {key for (kind, key, stage), (_, body) in world.rows.items()
                if (kind, stage) == ("attempt", "rebound") and body["rebounded"]}
        vain = [body["cleanup"] for body in ended if body["outcome"] in IN_VAIN or body["id"] in back]
        spent = [level for level, budget in world.options.budget_per_hour.items() if vain.count(level) >= budget]
        assert spent, f"I9: parked as {incident.parked} after {[body['outcome'] for body in ended]}"


def i10_incidents_end_when_it_is_well(world: World) -> None:
    """I10: incidents of one target do not overlap, and follow each other no sooner than it has been well."""
    states = [body for (kind, _, _), (_, body) in world.rows.items() if kind == "incident"]
    states.sort(key=lambda body: body["opened_at"])
    for before, after in pairwise(states):
        assert before["ended_at"] is not None, "I10: two incidents at once"
        assert before["ended_at"] <= after["opened_at"], "I10: two incidents at once"
        if before["why"] == "well":
            assert before["ended_at"] - before["opened_at"] >= world.options.exit_for_seconds, f"I10: {before}"


def i11_parked_is_quiet(world: World, asked: Any, incident: Any) -> None:
    """I11: once parked, nothing is asked by rule until something stronger is allowed, or a person says so."""
    held = incident is not None and world.incident is not None and incident.id == world.incident.id
    if held and incident.parked and incident.parked != "no_usable_channel" and world.incident.parked == incident.parked:
        assert STRENGTH[asked.cleanup] > incident.parked_at, f"I11: {asked} while parked: {incident.parked}"


def i12_what_fell_is_credited_once(world: World) -> None:
    """I12: no cleanup is credited with more than what fell before the next one, beside the growth from before."""
    finals = [body for (kind, _, stage), (_, body) in world.rows.items() if (kind, stage) == ("attempt", "final")]
    moved = [body for body in finals if body["outcome"] not in NEVER_DELIVERED and not body["dry_run"]]
    moved.sort(key=lambda body: body["started_at"])
    most = 0.0
    for body, after in zip_longest(moved, moved[1:]):
        begun, ended = body["started_at"], after["started_at"] if after else world.now
        fell = sum(fallen for at, fallen in world.program.falls if begun <= at <= ended)
        grew = body["growth"] * ((body["answered_at"] or begun) - begun + world.options.verification.window_seconds)
        freed = max(0.0, body["freed_bytes"] or 0.0)
        assert freed <= fell + grew + 1.0, f"I12: {freed / MIB} MiB of {fell / MIB} by {body}"
        most += freed
    counted = sum(sample.value for sample in world.desk.ledger.samples([Labels({"target": "rag"})], world.now)
                  if sample.labels.metric == FREED.name)
    assert counted <= most + 1.0, f"I12: {counted} counted of {most}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A place for the kill-switch."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def play(trace: list[tuple[Done, int]], world: World) -> None:
    """Everything of a trace, with a look after each tick; then quiet, until nothing is under way."""
    watcher = Watcher(world)
    world.tick()
    watcher.look()
    for step, seconds in trace:
        step.do(world)
        watcher.note()
        world.wait(seconds, each=watcher.look)
    world.program.growth = 0.0
    world.wait(FLIGHT_SECONDS, step=5.0, each=watcher.look)
    for law in (i2_budgets_are_kept, i8_every_attempt_ends_once, i8_asked_is_written_down,
                i9_undelivered_costs_nothing, i10_incidents_end_when_it_is_well, i12_what_fell_is_credited_once):
        law(world)


@examples(60)
@given(trace=TRACES, options=st.sampled_from(sorted(SETTINGS)), used=st.sampled_from([400.0, 400.0, 850.0, 1000.0]))
def test_laws_of_acting_hold_whatever_happens(
        folder: Path, trace: list[tuple[Done, int]], options: str, used: float) -> None:
    """No history of a program, its channels, people and crashes makes the sidecar break what it promises."""
    world = World(folder, SETTINGS[options], used=used * MIB)
    try:
        play(trace, world)
    finally:
        world.close()


CROWDED = st.lists(st.tuples(st.sampled_from([
    *(_reach(level, ratio) for level in sorted(LINES) for ratio in (0.97, 1.02, 1.1)),
    *(_grow(mib) for mib in (-5.0, 0.0, 5.0, 30.0)), *(_burst(mib) for mib in (-100.0, -20.0, 60.0, 150.0)),
    *(_share(cleanup, share) for cleanup in sorted(STRENGTH) for share in (0.0, 0.1, 0.3)),
    *(_respond(kind, name, response) for kind in ("http", "signal") for name, response in RESPONSES.items()),
    done("light by hand", lambda world: world.by_hand("light")),
    done("dry run by hand", lambda world: world.by_hand("aggressive", dry_run=True)),
    done("restart", lambda world: world.program.start_anew()), done("desk crashes", World.crash_desk),
]), st.sampled_from([0, 1, 2, 4])), min_size=6, max_size=20)
OFTEN = replace(QUICK, verification=Options().verification, every_seconds={"light": 30.0})


@examples(120)
@given(trace=CROWDED)
def test_bytes_are_credited_to_one_cleanup_at_most(folder: Path, trace: list[tuple[Done, int]]) -> None:
    """However close cleanups follow each other, each has at most what fell before the next; no byte counts twice."""
    world = World(folder, OFTEN, used=0.9 * LINES["main"])
    try:
        world.program.shares = {"light": 0.0, "standard": 0.0, "aggressive": 0.5}
        world.wait(8.0)
        for step, seconds in trace:
            step.do(world)
            world.wait(seconds)
        world.program.growth = 0.0
        world.wait(FLIGHT_SECONDS, step=5.0)
        i12_what_fell_is_credited_once(world)
    finally:
        world.close()
