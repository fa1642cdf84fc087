"""How long the guard looks away: never for longer than a program needs to reach its line."""

import pytest

from sidecar.guard.watch import LONGEST_SECONDS, SHORTEST_SECONDS, away_seconds

MIB = 1 << 20


@pytest.mark.parametrize("pace_mib", [100, 800, 1500, 3000])
@pytest.mark.parametrize("distance_mib", [1, 20, 62, 250, 400, 2000])
def test_who_grows_as_fast_as_a_core_can_is_seen_at_the_line(pace_mib: int, distance_mib: int) -> None:
    """A program that begins to grow right after a look is past its line by what it takes in a millisecond, no more."""
    now = used = 0.0
    while used < distance_mib:
        now += away_seconds(used * MIB, distance_mib * MIB, 0.0)
        used = now * pace_mib
    assert used <= distance_mib + 2 * SHORTEST_SECONDS * pace_mib


def test_among_many_each_is_looked_at_less_often() -> None:
    """Each of a thousand targets is looked at a third as often as one alone, and none is left for a second."""
    alone, crowded = (away_seconds(0, 200 * MIB, 0.0, crowd) for crowd in (1, 1000))
    assert crowded == pytest.approx(3 * alone)
    assert crowded < LONGEST_SECONDS
