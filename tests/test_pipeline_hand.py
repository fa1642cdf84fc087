"""What people and other programs ask for, through the real desk in virtual time: wishes that wait, pauses that hold."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from acting_world import MIB, World

from sidecar.model import Cleanup
from sidecar.pipeline_hand import MOST_WISHES, ByHand
from sidecar.web.hands import Asked, Wish


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A program of 400 MiB, far below its lines, and a desk that has looked at it twice."""
    made = World(tmp_path)
    made.wait(2.0)
    yield made
    made.close()


def by_hand(world: World) -> ByHand:
    """The orders of the desk that runs now."""
    return world.desk.pipeline.by_hand


def ask(world: World, cleanup: Cleanup = "aggressive", ttl_seconds: float = 30.0) -> Wish:
    """A wish as an Alertmanager's alert makes it."""
    wish = by_hand(world).ask(Asked("rag", cleanup, "webhook", ttl_seconds, {"alertname": "QueueLong"}), world.now)
    assert wish is not None
    return wish


def work(world: World) -> None:
    """What the desk does about wishes at each tick."""
    by_hand(world).work(world.now)


def test_wish_waits_for_an_alert_of_the_sidecar_itself(world: World) -> None:
    """A wish is not granted while no alert asks for a cleanup; once one does, it is, as strong as it was asked for."""
    wish = ask(world)
    world.wait(5.0, each=lambda: work(world))
    assert (wish.over, world.asked) == (False, [])

    world.program.used = 700.0 * MIB  # over the preventive line, whose alert asks for a light cleanup after 6 s
    world.program.shares["light"] = 0.0
    world.wait(25.0, each=lambda: work(world))
    assert wish.over
    assert [(attempt.trigger, attempt.cleanup) for attempt in world.attempts()][-1] == ("webhook", "aggressive")


def test_wish_that_had_its_time_is_forgotten(world: World) -> None:
    """When the time of a wish is over nothing is done any more, whatever memory does then."""
    wish = ask(world, ttl_seconds=3.0)
    world.wait(4.0, each=lambda: work(world))
    assert wish.over
    assert wish.decision is not None
    assert (wish.decision.reason, wish.decision.order) == ("below_threshold", None)

    world.program.used = 700.0 * MIB
    world.wait(10.0, each=lambda: work(world))
    assert [attempt.trigger for attempt in world.attempts()] == ["rule"]


def test_same_wish_twice_is_one_that_lasts_longer(world: World) -> None:
    """Whoever asks for what is waited for already gets the same wish, for the longer of both times."""
    first = ask(world, ttl_seconds=5.0)
    world.wait(3.0, each=lambda: work(world))
    assert ask(world, ttl_seconds=30.0) is first
    assert ask(world, ttl_seconds=1.0) is first
    assert ask(world, "standard") is not first

    world.wait(10.0, each=lambda: work(world))
    assert not first.over


def test_wishes_that_wait_are_bounded(world: World) -> None:
    """However many programs ask for what cannot be done now, so many wait; the time of one makes room."""
    def asked(name: str) -> Wish | None:
        return by_hand(world).ask(Asked(name, "light", "api", 5.0, {}), world.now)

    assert all(asked(f"t{number}") for number in range(MOST_WISHES))
    assert asked("one more") is None
    assert asked("t0") is not None  # waits already

    world.wait(6.0, each=lambda: work(world))
    assert asked("one more") is not None


def test_pause_withdraws_what_the_guard_would_do_by_itself(world: World) -> None:
    """While paused, a leap over the critical line has no cleanup, of the guard or of the desk; after resume it has."""
    by_hand(world).pause(["rag"], None, world.now)
    world.desk.guard.hear()
    world.program.used = 1500.0 * MIB
    world.wait(60.0)
    assert (world.asked, world.reason) == ([], "paused")

    by_hand(world).resume(["rag"], world.now)
    world.wait(5.0)
    assert [asked.cleanup for asked in world.asked][:1] == ["aggressive"]


def test_crossed_line_whose_cleanup_did_not_help_is_told_as_crossed(world: World) -> None:
    """While the guard rests after a cleanup in vain, people read that the line is crossed and what is waited for."""
    world.program.shares["aggressive"] = 0.0
    world.program.used = 1500.0 * MIB
    world.wait(10.0)
    (decision,) = world.desk.view.snapshot.decisions
    tried = len(world.asked)
    world.wait(2.0)

    assert (decision["reason"], tried, len(world.asked)) == ("standing_order", 1, 1)
    assert decision["message"].startswith("The line is crossed: ")
    assert "when the rest after the last one is over" in decision["message"]


def test_pause_for_a_while_ends_by_itself(world: World) -> None:
    """A pause with an end holds until then and no longer."""
    by_hand(world).pause(["rag"], 20.0, world.now)
    world.desk.guard.hear()
    world.program.used = 1500.0 * MIB
    world.wait(19.0)
    assert world.asked == []

    world.wait(5.0)
    assert world.asked


def test_pause_while_a_tick_evaluates_rules_holds_in_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause may come in the middle of a tick: that tick does nothing more, and gives the guard no orders anew."""
    gates: Any = world.desk.pipeline._gates
    steps = gates.steps

    def interrupted(*arguments: Any) -> Any:
        by_hand(world).pause(["rag"], None, world.now)
        return steps(*arguments)

    world.program.used = 850.0 * MIB  # over the main line
    with monkeypatch.context() as patched:
        patched.setattr(gates, "steps", interrupted)
        for _ in range(10):
            by_hand(world).resume(["rag"], world.now)
            world.tick()
        world.program.used = 1500.0 * MIB
        world.desk.guard.advance(world.now + 0.9)
        assert (world.asked, world.desk.guard.deliveries.asked) == ([], [])
    by_hand(world).resume(["rag"], world.now)
    world.wait(2.0)
    assert world.asked


def test_pause_before_the_first_tick_holds_for_all(tmp_path: Path) -> None:
    """Who pauses a sidecar that has only just started has paused it."""
    world = World(tmp_path, used=1500.0 * MIB)
    try:
        hands = by_hand(world).lend(["rag"], "http://127.0.0.1:11611", lambda: world.now, asyncio.sleep)
        hands.pause(None, None)
        world.wait(10.0)
        assert (dict(hands.paused()), world.asked) == ({"rag": None}, [])
    finally:
        world.close()


def test_resume_forgives_crashes(world: World) -> None:
    """`resume` also ends the caution after desks that crashed."""
    forgiven: list[str] = []
    hands = by_hand(world).lend(["rag"], "http://127.0.0.1:11611", lambda: world.now, asyncio.sleep,
                                lambda: forgiven.append("crashes"))
    hands.resume(None)

    assert forgiven == ["crashes"]
