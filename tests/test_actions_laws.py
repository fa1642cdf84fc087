"""Laws of acting as a state machine in virtual time: whatever happens to a target and to us, they hold."""

from dataclasses import replace
from itertools import pairwise

import pytest
from deciding import CLIMBING, LINES, MIB, RAG, World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from properties import examples

from sidecar.actions.attempts import IN_VAIN
from sidecar.actions.options import STRENGTH, Mode, Options

pytestmark = pytest.mark.usefixtures("silence")

HOUR = 3600.0
SETTINGS = {
    "as shipped": Options(),
    "climbing": CLIMBING,
    "impatient": replace(CLIMBING, strikes=2, cooldown_seconds={"light": 5.0, "standard": 5.0, "aggressive": 5.0},
                         budget_per_hour={"light": 3, "standard": 2, "aggressive": 2}, exit_for_seconds=10.0),
}
MEMORY = st.sampled_from([300.0, 700.0, 790.0, 810.0, 950.0, 990.0, 1010.0, 1150.0, 1190.0, 1210.0, 1500.0])
FREES = st.sampled_from([0.0, 0.0, 4.0, 60.0, 400.0, 900.0])


class Laws(RuleBasedStateMachine):
    """A target, its memory, what cleanups free, how they are answered, people, and crashes of the desk."""

    @initialize(options=st.sampled_from(sorted(SETTINGS)), mode=st.sampled_from(["enforce", "enforce", "dry_run"]))
    def begin(self, options: str, mode: Mode) -> None:
        self.world = World(SETTINGS[options], subject=replace(RAG, mode=mode))
        self.checked = 0
        self.world.tick(300.0)

    @rule(used=MEMORY, ticks=st.integers(1, 5), seconds=st.sampled_from([0.5, 1.0, 5.0, 30.0, 600.0]))
    def use(self, used: float, ticks: int, seconds: float) -> None:
        for number in range(ticks):
            self._tick(used if number == 0 else None, seconds)

    @rule(pace=st.sampled_from([-20.0, 5.0, 40.0, 200.0]), ticks=st.integers(1, 6))
    def grow(self, pace: float, ticks: int) -> None:
        for _ in range(ticks):
            self._tick(max(100.0, self.world.guard.used / MIB + pace), 1.0)

    @rule(cleanup=st.sampled_from(sorted(STRENGTH)), frees=FREES)
    def change(self, cleanup: str, frees: float) -> None:
        self.world.guard.frees = {**self.world.guard.frees, cleanup: frees}

    @rule(answers=st.sampled_from(["answered", "answered", "failed"]))
    def answer(self, answers: str) -> None:
        self.world.guard.answers = answers

    @rule()
    def crash(self) -> None:
        self.world.restart()

    @rule(seconds=st.sampled_from([None, 10.0, 120.0]))
    def pause(self, seconds: float | None) -> None:
        now = self.world.guard.now
        self.world.acting.pause(None, None if seconds is None else now + seconds, now)
        self.world.note()

    @rule()
    def resume(self) -> None:
        self.world.acting.resume(None, self.world.guard.now)
        self.world.note()

    @rule()
    def unpark(self) -> None:
        self.world.acting.unpark(None)
        self.world.note()

    def _tick(self, used: float | None, seconds: float) -> None:
        world, guard = self.world, self.world.guard
        before, paused = len(guard.delivered), dict(world.acting.paused)
        memory = guard.used if used is None else used * MIB
        parked = world.acting.incidents.current("rag")
        world.tick(used, seconds)
        asked = [cleanup for _, cleanup in guard.delivered[before:]]
        assert not asked or world.subject.mode == "enforce", f"I7: {asked} in a dry run"
        until = paused.get("rag", 0.0)
        assert not asked or (until is not None and guard.now >= until), f"{asked} while paused"
        crossed = [level for level, line in LINES.items() if memory > line * MIB]
        caps = [STRENGTH[world.options.policies[level].max] if level in world.options.policies else 2
                for level in crossed]
        assert all(STRENGTH[each] <= max(caps, default=-1) for each in asked), f"I6: {asked} over {crossed}"
        still = world.acting.incidents.current("rag")
        if parked and still and parked.id == still.id and parked.parked == still.parked != "":
            assert all(STRENGTH[each] > parked.parked_at for each in asked), f"I11: {asked} while {parked.parked}"

    @invariant()
    def one_at_a_time(self) -> None:
        open_now = [each for each in self.world.ledger.open() if each.answered_at is None]
        assert len(open_now) <= 1, f"I1: {open_now}"

    @invariant()
    def budgets_are_kept(self) -> None:
        rows = self.world.kept.get("attempt", {})
        finals = [body for (_, stage), (_, body) in rows.items() if stage == "final"]
        for cleanup, budget in self.world.options.budget_per_hour.items():
            times = [body["started_at"] for body in finals
                     if body["outcome"] in IN_VAIN and body["cleanup"] == cleanup]
            now = self.world.guard.now
            assert sum(at > now - HOUR for at in times) <= budget, f"I2, I9: {cleanup} {times}"

    @invariant()
    def every_attempt_is_on_record_once(self) -> None:
        rows = self.world.kept.get("attempt", {})
        planned, final = ({key for key, stage in rows if stage == wanted} for wanted in ("planned", "final"))
        open_now = {each.id for each in self.world.ledger.open()}
        assert final <= planned, f"I8: {final - planned}"
        assert planned - final <= open_now, f"I8: {planned - final - open_now}"

    @invariant()
    def incidents_do_not_overlap(self) -> None:
        ended = sorted((body["opened_at"], body["ended_at"])
                       for _, body in self.world.kept.get("incident", {}).values())
        for (_, end), (begin, _) in pairwise(ended):
            assert end is not None, "I10"
            assert end <= begin, "I10"


TestLaws = Laws.TestCase
TestLaws.settings = settings(examples(250), stateful_step_count=25)
