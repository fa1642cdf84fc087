"""Whether it helped, in bytes: verdicts over readings that a person can follow with a pencil."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.actions.options import Verification
from sidecar.actions.verify import Judged, Reading, Verdict, growth, judge, rebounded

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
    """A machine that slept an hour has not freed 36 GB by that."""
    assert verdict(asked(growth=10.0 * MIB), 4600.0, (4600, 1205)) == ("ineffective", 1205, 5)


def test_no_settled_reading_is_unknown_and_never_a_zero() -> None:
    """What was not seen was not freed and not kept: it is not known."""
    assert judge(asked(), [], 1020.9, RULES) is None
    assert judge(asked(), [], 1021.0, RULES) == Verdict("unknown", None, None)
    assert judge(asked(), readings((1002, 990)), 1021.0, RULES) == Verdict("unknown", None, None)


@settings(deadline=None)
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
    ([], 0), ([(1, 100)], 0), ([(1, 100), (1, 200)], 0), ([(1, 100), (2, 110)], 10),
    ([(s, 100 + 5 * s) for s in range(60)], 5),
    ([(s, 100 + 5 * s + (1000 if s == 30 else 0)) for s in range(60)], 5),  # one outlier
    ([(s, 1000 - 5 * s) for s in range(60)], 0),  # falling is no growth
])
def test_growth_is_the_usual_pace(pairs: list[tuple[float, float]], pace: float) -> None:
    """The median slope: one jump is not growth, and falling is none."""
    assert growth(readings(*pairs)) == pytest.approx(pace * MIB)


def test_growth_looks_at_a_bounded_number_of_readings() -> None:
    """Of very many the newest count: a thousand steep ones long ago do not."""
    old = [(float(s), 100.0 * s) for s in range(1000)]
    new = [(1000.0 + s, 99_900.0) for s in range(100)]

    assert growth(readings(*old, *new)) == 0.0


@pytest.mark.parametrize(("pace", "used", "back"), [
    (0, 700, False), (0, 849, False), (0, 851, True), (0, 1000, True), (0, 500, False),
    (5, 1000, False),  # 300 MiB in 60 s are the old leak
    (5, 1151, True)])
def test_rebound_is_what_comes_back_beyond_the_growth_before(pace: float, used: float, back: bool) -> None:
    """Half of the 300 MiB that were freed, and more than the leak at its old pace accounts for."""
    attempt = asked(growth=pace * MIB)

    assert rebounded(attempt, 1004.0, 700.0 * MIB, 300.0 * MIB, (1064.0, used * MIB)) is back
