"""Whether it helped, in bytes: verdicts over readings that a person can follow with a pencil."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.actions.options import Verification
from sidecar.actions.verify import Judged, Reading, Verdict, growth, judge, kept_up, rebounded
from tests.properties import examples

MIB = 1 << 20
RULES = Verification()


def asked(**changes: Any) -> Judged:
    """Asked at 1000 s with 1000 MiB in use and no growth, answered at 1001 s; the line is at 900 MiB."""
    return Judged(1000.0 * MIB, 0.0, 900.0 * MIB, 1000.0, 1001.0)._replace(**changes)


def readings(*pairs: tuple[float, float]) -> list[Reading]:
    """(seconds, MiB) as readings."""
    return [(at, mib * MIB) for at, mib in pairs]


def verdict(attempt: Judged, now: float, *pairs: tuple[float, float]) -> tuple[str, float, float] | None:
    """The verdict at `now`, bytes in MiB."""
    found = judge(attempt, readings(*pairs), now, RULES)
    return (found.outcome, (found.after_bytes or 0.0) / MIB, (found.freed_bytes or 0.0) / MIB) if found else None


def test_below_the_exit_line_is_effective_at_once() -> None:
    """No window is sat out when memory is where it should be: 810 MiB is 90 % of the line."""
    assert verdict(asked(), 1001.1, (1001.1, 810)) == ("effective", 810, 190)
    assert verdict(asked(), 1001.1, (1001.1, 811)) is None


def test_without_a_line_nothing_is_effective_at_once() -> None:
    """A cleanup that a person asked for has no line to be under: what was freed decides, once settled."""
    assert verdict(asked(line_bytes=None), 1001.1, (1001.1, 10)) is None
    assert verdict(asked(line_bytes=None), 1005.0, (1001.1, 10), (1005, 10)) == ("effective", 10, 990)


def test_readings_before_the_answer_do_not_count() -> None:
    """What was low before the cleanup was not its doing."""
    assert verdict(asked(), 1004.0, (1000.5, 100), (1001.0, 100), (1002, 1000)) is None


@pytest.mark.parametrize(("freed", "outcome"), [(50, "effective"), (49, "partial"), (9, "partial"), (7, "ineffective"),
                                                (0, "ineffective"), (-100, "ineffective")])
def test_enough_freed_is_effective_little_is_partial_noise_is_nothing(freed: float, outcome: str) -> None:
    """Enough is 32 MiB and 5 % of what was used; less than 8 MiB is breath."""
    assert verdict(asked(), 1021.0, (1005, 1000 - freed)) == (outcome, 1000 - freed, freed)


def test_small_process_needs_32_mib() -> None:
    """5 % of 100 MiB would be noise."""
    small = asked(before_bytes=100.0 * MIB, line_bytes=50.0 * MIB)

    assert verdict(small, 1021.0, (1005, 69)) == ("partial", 69, 31)
    assert verdict(small, 1021.0, (1005, 68)) == ("effective", 68, 32)


def test_big_process_breathes_more() -> None:
    """0.5 % of 10 GiB is 51 MiB: freeing that much there is no cleanup's doing."""
    big = asked(before_bytes=10240.0 * MIB, line_bytes=10000.0 * MIB)

    assert verdict(big, 1021.0, (1005, 10240 - 51)) == ("ineffective", 10189, 51)
    assert verdict(big, 1021.0, (1005, 10240 - 52)) == ("partial", 10188, 52)


def test_nothing_but_the_exit_line_decides_before_it_has_settled() -> None:
    """For 3 s after the answer memory may still be on its way; then enough freed decides at once."""
    assert verdict(asked(), 1003.9, (1002, 900), (1003.9, 900)) is None
    assert verdict(asked(), 1004.0, (1002, 900), (1004.0, 900)) == ("effective", 900, 100)


def test_little_is_waited_for_until_the_window_ends() -> None:
    """20 s after the answer the most that was freed is what is judged."""
    pairs = [(1005.0, 990.0), (1010.0, 970.0), (1015.0, 985.0)]

    assert verdict(asked(), 1020.9, *pairs) is None
    assert verdict(asked(), 1021.0, *pairs) == ("partial", 970, 30)


def test_cleanup_that_only_stopped_the_growth_is_credited() -> None:
    """10 MiB/s for 20 s would have been 200 MiB more; the same bytes without growth before are nothing."""
    assert verdict(asked(growth=10.0 * MIB), 1021.0, (1020, 1000)) == ("effective", 1000, 200)
    assert verdict(asked(), 1021.0, (1020, 1000)) == ("ineffective", 1000, 0)


def test_growth_that_goes_on_is_no_success() -> None:
    """A leak at its old pace looks like more memory than before, and frees nothing."""
    pairs = [(1000.0 + second, 1000.0 + 10 * second) for second in range(2, 22)]
    found = verdict(asked(growth=10.0 * MIB), 1021.0, *pairs)

    assert found is not None
    assert (found[0], found[2]) == ("ineffective", 0)


def test_growth_is_credited_to_the_end_of_the_window_only() -> None:
    """A reading that comes late is held against what was expected at the window's end."""
    assert verdict(asked(growth=10.0 * MIB), 1035.0, (1035, 1105)) == ("effective", 1105, 105)


@pytest.mark.parametrize("used", [10, 1000, 3000])
def test_what_is_read_long_after_the_window_proves_nothing(used: float) -> None:
    """The machine slept for an hour: whatever memory is then, the cleanup may have had no part in it."""
    assert verdict(asked(growth=10.0 * MIB), 4600.0, (4600, used)) == ("unknown", 0, 0)
    assert verdict(asked(), 4600.0, (1005, 970), (4600, used)) == ("partial", 970, 30)


def test_what_anybody_can_see_is_told_beside() -> None:
    """Freed is against the growth before; fallen is before less after, and negative if there is more now."""
    found = judge(asked(growth=10.0 * MIB), readings((1005, 1010)), 1021.0, RULES)

    assert found is not None
    assert (found.freed_bytes, found.fallen_bytes) == (40.0 * MIB, -10.0 * MIB)


def test_what_falls_no_deeper_than_before_is_told_as_fallen_only() -> None:
    """It fell by 100 MiB half a minute ago, by itself; 70 now are no success, and nobody is told that nothing fell."""
    seen = readings((970, 1000), (971, 900), (990, 1000), (1005, 960), (1009, 930), (1015, 950))

    assert judge(asked(), seen, 1021.0, RULES) == Verdict("ineffective", 930.0 * MIB, 0.0, 70.0 * MIB)


def test_no_settled_reading_is_unknown_and_never_a_zero() -> None:
    """What was not seen was not freed and not kept: it is not known."""
    assert judge(asked(), [], 1020.9, RULES) is None
    assert judge(asked(), [], 1021.0, RULES) == Verdict("unknown", None, None)
    assert judge(asked(), readings((1002, 990)), 1021.0, RULES) == Verdict("unknown", None, None)


@examples(100)
@given(st.lists(st.tuples(st.floats(1000, 1030), st.floats(0, 4000)), max_size=30), st.floats(0, 50))
def test_verdict_comes_once_and_only_when_it_may(pairs: list[tuple[float, float]], pace: float) -> None:
    """Whatever is read, there is a verdict when the window has ended; effective is below the line or freed."""
    attempt = asked(growth=pace * MIB)
    found = judge(attempt, readings(*sorted(pairs)), 1021.0, RULES)

    assert found is not None
    if found.outcome == "effective":
        assert found.after_bytes is not None
        assert found.freed_bytes is not None
        assert found.after_bytes <= 810 * MIB or found.freed_bytes >= 50 * MIB


@pytest.mark.parametrize(("pairs", "pace"), [
    ([], 0), ([(1, 100)], 0), ([(1, 100), (1, 200)], 0),
    ([(1, 100), (2, 110), (10, 190)], 0),  # seen for too short a time
    ([(s, 100 + 5 * s) for s in range(60)], 5),
    ([(s, 100 + 5 * s) for s in range(0, 60, 5)], 5),  # seldom read
    ([(s, 100 + 5 * s) for s in range(60) if not 15 < s < 45], 5),  # a gap
    ([(s, 100 + 5 * s + (1000 if s == 30 else 0)) for s in range(60)], 5),  # one outlier
    ([(s, 100 + 5 * s - (90 if s == 5 else 0)) for s in range(60)], 5),  # one too low
    ([(s, 1000 - 5 * s) for s in range(60)], 0),  # falling is no growth
    ([(s, 100 + 300 * (s >= 30)) for s in range(60)], 0),  # a burst half a minute ago
    ([(s, 100 + 300 * (s >= 58)) for s in range(60)], 0),  # a burst right now
    ([(s, 100 + 10 * max(0, s - 30)) for s in range(60)], 0),  # only for 30 s
    ([(s, 100 + 10 * min(s, 45)) for s in range(60)], 0),  # over for 15 s
    ([(s, 100 + min(10 * s, 450 + s)) for s in range(60)], 1),  # slowed down: the pace it has now
    ([(s, 100 + 5 * (s % 10)) for s in range(60)], 0),  # fills and empties itself
    ([(s, 100 + 5 * (s % 10) + s) for s in range(61)], 1),  # and leaks
])
def test_growth_is_what_lasts(pairs: list[tuple[float, float]], pace: float) -> None:
    """From floor to floor, if the last seconds confirm it: no burst, no cache that empties itself, nothing over."""
    assert growth(readings(*pairs)) == pytest.approx(pace * MIB, abs=0.15 * MIB)


def test_growth_looks_at_a_bounded_number_of_readings() -> None:
    """Of very many the newest count: a thousand steep ones long ago do not."""
    old = [(float(s), 100.0 * s) for s in range(1000)]
    new = [(1000.0 + s, 99_900.0) for s in range(100)]

    assert growth(readings(*old, *new)) == 0.0


Memory = Callable[[float], float]
"""MiB in use, so many seconds after a cleanup was asked for."""


def tried(memory: Memory, took: float = 0.2, line: float | None = None, *, unseen: range = range(0)) -> Verdict:
    """What is said of a cleanup asked for at 1000 s, the readings a second apart, from a minute before it on.

    There are no readings in `unseen`.
    """
    seen = readings(*((1000 + at, memory(at)) for at in (s - 0.4 for s in range(-59, 40) if s not in unseen)))
    pace = growth([reading for reading in seen if reading[0] <= 1000])
    attempt = Judged(memory(0) * MIB, pace, None if line is None else line * MIB, 1000.0, 1000.0 + took)
    for now in range(1001, 1040):
        found = judge(attempt, [reading for reading in seen if reading[0] <= now], now, RULES)
        if found:
            return found
    raise AssertionError("no verdict")


def told(memory: Memory, **more: Any) -> tuple[str, int, int]:
    """The verdict with freed and fallen in whole MiB."""
    found = tried(memory, **more)
    return found.outcome, round((found.freed_bytes or 0.0) / MIB), round((found.fallen_bytes or 0.0) / MIB)


def burst(begun: float, mib: float = 300.0, seconds: float = 1.0) -> Memory:
    """So much at once, then no more."""
    return lambda at: 700 + mib * min(1.0, max(0.0, (at - begun) / seconds))


def teeth(mib: float, seconds: float, phase: float = 0.0) -> Memory:
    """A cache that fills and empties itself; full right when the cleanup is asked for if `phase` is 0."""
    return lambda at: 1000 - mib + mib * (1 - (-(at + phase) / seconds) % 1)


def shaking(mib: float, seed: int = 0) -> Memory:
    """Noise, the same for the same seed; at its height when the cleanup is asked for, which is why it was."""
    return lambda at: mib if at == 0 else random.Random(f"{seed} {at}").uniform(-mib, mib)


def after(memory: Memory, freed: float, at: float = 0.1) -> Memory:
    """That memory with a cleanup which frees so much."""
    return lambda second: memory(second) - freed * (second >= at)


def both(one: Memory, other: Memory) -> Memory:
    """Their sum."""
    return lambda at: one(at) + other(at)


def leak(pace: float) -> Memory:
    """So many MiB a second."""
    return lambda at: 1000 + pace * at


@pytest.mark.parametrize("begun", [-59, -45, -30, -15, -10, -5, -2, -1, -0.9, -0.5, -0.1])
@pytest.mark.parametrize("seconds", [1, 3, 8])
def test_burst_that_ends_by_itself_is_no_success(begun: float, seconds: float) -> None:
    """300 MiB at once and then flat, before the cleanup or during it: one that does nothing has freed nothing."""
    outcome, freed, _ = told(burst(begun, seconds=seconds))

    assert outcome == "ineffective"
    assert freed <= 1


def test_what_is_freed_after_a_burst_is_credited() -> None:
    """300 MiB at once, and the cleanup returns 200 of them."""
    assert told(after(burst(-5), 200)) == ("effective", 200, 200)
    assert told(after(burst(-30), 200)) == ("effective", 200, 200)


def test_leak_that_goes_on_is_no_success_whatever_its_pace() -> None:
    """It looks as if nothing had been done, and nothing has."""
    for pace in (0.05, 1, 10, 16):
        assert told(leak(pace))[:2] == ("ineffective", 0)


def test_what_is_freed_beside_a_leak_is_credited_in_full() -> None:
    """Whether it is gone at once or, as with a handler that takes its time, only seconds after the answer."""
    assert told(after(leak(10), 200)) == ("effective", 200, 164)
    outcome, freed, _ = told(after(leak(10), 200, at=8))
    assert outcome == "effective"
    assert 185 < freed <= 200


def test_little_is_credited_beside_a_leak_too() -> None:
    """12 MiB, less than the leak brings in two seconds."""
    assert told(after(leak(10), 12))[:2] == ("partial", 12)


@pytest.mark.parametrize("took", [0.2, 5, 15])
def test_leak_that_has_slowed_down_before_is_no_success(took: float) -> None:
    """10 MiB a second, and 8 for the last 10 s and ever after: the cleanup had no part in that."""
    assert told(lambda at: 1000 + min(8 * at, 20 + 10 * at), took=took)[:2] == ("ineffective", 0)


def test_slow_cleanup_beside_a_leak_is_credited_in_full() -> None:
    """While it worked for 15 s the leak went on."""
    assert told(after(leak(10), 200, at=14.9), took=15.0)[:2] == ("effective", 200)


def test_leak_that_a_cleanup_stops_is_credited_with_what_did_not_come() -> None:
    """It grew for a minute at a steady pace and stopped right then: what is missing is missing because of that."""
    outcome, freed, fallen = told(lambda at: 1000 + 10 * min(at, 0.2))

    assert (outcome, fallen) == ("effective", -2)
    assert 50 <= freed <= 60


@pytest.mark.parametrize("ends", [3, 4, 8, 15, 19])
def test_growth_that_ends_later_has_ended_by_itself(ends: float) -> None:
    """Memory goes on as before for seconds after the answer: what ends then was not ended by the cleanup."""
    outcome, freed, _ = told(lambda at: 1000 + 10 * min(at, ends))

    assert outcome == "ineffective"
    assert freed <= 6


@pytest.mark.parametrize("seconds", [5, 10, 20, 25])
def test_cache_that_empties_itself_is_no_success(seconds: float) -> None:
    """100 MiB go just when the cleanup is there, as they went before without one."""
    outcome, freed, fallen = told(teeth(100, seconds, phase=-0.1))

    assert outcome == "ineffective"
    assert freed <= 8
    assert fallen >= 60


def test_more_than_a_cache_drops_by_itself_is_credited() -> None:
    """Of 400 MiB less, 100 would have gone anyway."""
    outcome, freed, fallen = told(after(teeth(100, 10), 300))

    assert outcome == "effective"
    assert 250 <= freed <= 300
    assert fallen > 350


@pytest.mark.parametrize("seed", range(10))
def test_noise_is_no_success(seed: int) -> None:
    """8 MiB up and down, at its height when the line is crossed: nothing was freed, with a slow leak or without."""
    shake = shaking(8, seed)
    for memory in map(leak, (0.0, 0.3, 1.0)):
        outcome, freed, _ = told(both(memory, shake))
        assert outcome == "ineffective"
        assert freed < 8


@pytest.mark.parametrize("seed", range(10))
def test_what_is_freed_is_seen_through_noise(seed: int) -> None:
    """Of 100 MiB at most the noise is doubted."""
    shake = shaking(8, seed)
    outcome, freed, _ = told(after(both(leak(0), shake), 100))

    assert outcome == "effective"
    assert 80 <= freed <= 108


def test_small_falls_before_it_are_no_reason_to_doubt() -> None:
    """A process breathes by some MiB: of 100 that are freed none is taken off for that."""
    outcome, freed, fallen = told(after(teeth(7, 10), 100))

    assert outcome == "effective"
    assert freed == fallen


def test_slow_leak_is_neither_credit_nor_blame() -> None:
    """100 MiB an hour: what was freed is what fell."""
    assert told(after(leak(0.03), 60)) == ("effective", 60, 60)
    assert told(leak(0.03)) == ("ineffective", 0, 0)


@pytest.mark.parametrize("unseen", [range(-60, 0), range(-40, -5), range(-8, 1), range(1, 12), range(-60, 12)])
def test_gap_in_the_readings_changes_nothing_or_makes_less_of_it(unseen: range) -> None:
    """What was not read is not made up: a leak's credit may be missing, what fell is there."""
    outcome, freed, _ = told(after(leak(10), 300), unseen=unseen)

    assert outcome == "effective"
    assert 150 <= freed <= 301
    assert told(leak(10), unseen=unseen)[0] == "ineffective"


def test_nothing_read_after_it_is_unknown() -> None:
    """Neither freed nor kept."""
    assert tried(leak(10), unseen=range(1, 40)) == Verdict("unknown", None, None)


def test_goal_is_reached_however_it_was() -> None:
    """Below the exit line there is nothing left to do, but what went by itself is not counted as freed."""
    assert told(teeth(200, 20, phase=-0.1), line=950.0)[:2] == ("effective", 4)


def nothing_done() -> st.SearchStrategy[Memory]:
    """Memory that no cleanup has moved: a leak of any pace with bursts, steps and temporary peaks of any size."""
    bursts = st.lists(st.tuples(st.floats(-60, 30), st.floats(0, 400), st.floats(0.5, 8)), max_size=3)

    def made(pace: float, some: list[tuple[float, float, float]]) -> Memory:
        return lambda at: leak(pace)(at) + sum(burst(*each)(at) - 700 for each in some)

    return st.builds(made, st.floats(0, 15), bursts)


@examples(200)
@given(nothing_done(), st.floats(0.05, 5))
def test_cleanup_that_does_nothing_is_never_effective(memory: Memory, took: float) -> None:
    """However memory grows by itself, in whatever bursts; three stairs in a row may pass for a little growth."""
    outcome, freed, fallen = told(memory, took=took)

    assert outcome != "effective"
    assert freed <= 24
    assert fallen <= 0


@examples(200)
@given(nothing_done(), st.floats(0, 500))
def test_never_more_is_credited_than_was_freed(memory: Memory, freed: float) -> None:
    """Memory that grows by itself makes a cleanup look smaller than it is, hardly ever a little larger."""
    found = tried(after(memory, freed))

    assert found.freed_bytes is not None
    assert found.freed_bytes <= (freed + 24) * MIB


@examples(100)
@given(st.floats(0, 15), st.floats(40, 500), st.floats(0.05, 5))
def test_what_a_cleanup_freed_is_what_is_said(pace: float, freed: float, took: float) -> None:
    """Beside a leak of any pace, to the byte or nearly."""
    found = tried(after(leak(pace), freed, at=took), took=took)

    assert found.freed_bytes == pytest.approx(freed * MIB, abs=MIB)


@pytest.mark.parametrize(("pace", "used", "back"), [
    (0, 700, False), (0, 849, False), (0, 851, True), (0, 1000, True), (0, 500, False),
    (5, 1020, False),  # 320 MiB in 64 s are the old leak
    (5, 1169, False), (5, 1171, True)])
def test_rebound_is_what_comes_back_beyond_the_growth_before(pace: float, used: float, back: bool) -> None:
    """Half of the 300 MiB that were freed, and more than the leak at its old pace accounts for."""
    attempt = asked(growth=pace * MIB)

    assert rebounded(attempt, 300.0 * MIB, (1064.0, used * MIB)) is back


@pytest.mark.parametrize(("before", "after", "pace"), [
    ([10, 30, 50], [20, 40, 60], 20),
    ([10] * 9 + [50], [20, 40, 60], 0),  # a burst: the usual pace before it is none
    ([10, 30, 50], [20, 90, 90, 90, 90], 0),  # it jumps back and stays there
    ([10, 30, 50], [20, 25, 30], 5),
    ([10, 30, 50], [60, 40, 20], 0),
    ([50], [20, 40], 0), ([10, 30], [20], 0), ([], [], 0),
])
def test_pace_that_is_kept_up_was_there_before_and_ever_since(
    before: list[float], after: list[float], pace: float
) -> None:
    """A leak of some seconds goes on as if nothing had happened; what comes back at once does not."""
    assert kept_up(list(enumerate(before)), list(enumerate(after))) == pace


def test_noise_is_no_rebound() -> None:
    """Where little was freed, half of it is what processes breathe."""
    assert not rebounded(asked(), 12.0 * MIB, (1081.0, 995.0 * MIB))
    assert not rebounded(asked(), -5.0 * MIB, (1081.0, 1012.0 * MIB))


@examples(200)
@given(st.floats(0, 15), st.floats(40, 500), st.floats(0.05, 15), st.floats(-7, 7), st.integers(63, 130))
def test_leak_at_its_old_pace_is_never_a_rebound(
    pace: float, freed: float, took: float, shake: float, later: int
) -> None:
    """Whenever it is looked at, what the leak brings is not memory that came back."""
    memory = after(leak(pace), freed, at=took)
    found = tried(memory, took=took)
    attempt = asked(growth=pace * MIB, line_bytes=None, answered_at=1000 + took)
    assert found.freed_bytes is not None

    assert not rebounded(attempt, found.freed_bytes, (1000.0 + later, (memory(later) + shake) * MIB))


@examples(200)
@given(st.floats(0, 15), st.floats(60, 500), st.floats(0.6, 1))
def test_what_comes_back_is_a_rebound(pace: float, freed: float, back: float) -> None:
    """More than half of it within the minute, on top of the leak."""
    found = tried(after(leak(pace), freed))
    assert found.freed_bytes is not None
    attempt = asked(growth=pace * MIB, line_bytes=None, answered_at=1000.1)
    seen = 1064.0, (leak(pace)(64.0) - freed + back * freed) * MIB

    assert rebounded(attempt, found.freed_bytes, seen)
