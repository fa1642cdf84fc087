"""The mode of a target: how it follows its memory, and how its app comes to know it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from agent_apps import App, launching
from hypothesis import given
from hypothesis import strategies as st
from probing import OWN, target

from sidecar.mode import MODES, Modes
from sidecar.model import Labels
from sidecar.pipeline_agents import follow
from sidecar.probes.agent import Agents, Reach
from sidecar.probes.sampler import Readings, Sampler
from sidecar.promql.steps import finish
from sidecar.thresholds import Size, Wanted, resolve

MIB = 1 << 20
LIMIT = 512 * MIB


def modes_of(*used_mib: float, limit: float | None = LIMIT) -> list[str]:
    """The modes of one target as its used bytes go up and down; its lines are 1000 and 1200 MiB."""
    modes = Modes()
    return [modes.update("rag", used * MIB, limit, 1000 * MIB, 1200 * MIB) for used in used_mib]


def test_mode_follows_the_limit() -> None:
    """Cautious from 78 % of the limit, degraded from 88 %."""
    assert modes_of(399, 401, 451) == ["normal", "cautious", "degraded"]
    assert modes_of(451, 401, 300) == ["degraded", "cautious", "normal"]
    assert modes_of(600) == ["degraded"]


def test_mode_follows_the_lines_where_there_is_no_limit() -> None:
    """Cautious at main, degraded at critical."""
    assert modes_of(999, 1000, 1199, 1200, limit=None) == ["normal", "cautious", "cautious", "degraded"]
    assert modes_of(1200, 1165, 1163, 971, 969, limit=None) == [
        "degraded", "degraded", "cautious", "cautious", "normal"]


@pytest.mark.parametrize("line", [0.78 * 512, 0.88 * 512])
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=50))
def test_mode_does_not_tremble(line: float, noise: list[float]) -> None:
    """One MB up and down at a line changes the mode at most once."""
    found = modes_of(*(line + each for each in noise))
    assert sum(before != after for before, after in pairwise(found)) <= 1


@given(st.lists(st.floats(0, 600), max_size=30), st.floats(0, 600))
def test_mode_is_never_lower_than_the_memory_says(past: list[float], used: float) -> None:
    """Whatever was before: the steadying holds a mode longer, and never keeps one from being entered."""
    after = MODES.index(modes_of(*past, used)[-1])
    assert after >= MODES.index(modes_of(used)[-1])
    assert after <= MODES.index(modes_of(used / 0.97 + 0.001)[-1])


def test_mode_is_a_series_of_each_target() -> None:
    """Three series, of which one is 1; a target that is not there has none, and begins anew."""
    modes, bases = Modes(), {name: Labels({"target": name}) for name in ("a", "b")}
    modes.update("a", 451 * MIB, LIMIT, 0, 0)
    modes.update("b", 0, LIMIT, 0, 0)
    modes.update("c", 0, LIMIT, 0, 0)
    shown = {(sample.labels["target"], sample.labels["mode"]): sample.value for sample in modes.samples(bases, 5.0)}
    assert shown == {("a", "normal"): 0, ("a", "cautious"): 0, ("a", "degraded"): 1,
                     ("b", "normal"): 1, ("b", "cautious"): 0, ("b", "degraded"): 0}
    assert all(sample.labels["__name__"] == "rag_mode" and sample.at == 5.0 for sample in modes.samples(bases, 5.0))
    assert modes.found()["a"] == "degraded"
    modes.forget("a")
    assert {sample.labels["target"] for sample in modes.samples(bases, 5.0)} == {"b"}
    assert "a" not in modes.found()
    assert modes.update("a", 445 * MIB, LIMIT, 0, 0) == "cautious"


def test_modes_follow_the_readings() -> None:
    """A target without a limit is judged by its lines; one that cannot be read just now keeps its mode unseen."""
    modes, bases = Modes(), {name: Labels({"target": name}) for name in ("a", "b")}
    lines = {name: resolve(None, Wanted(main=Size(1000 * MIB, "file"))) for name in bases}

    def shown(limits: dict[str, int | None], used: dict[str, float]) -> dict[str, str]:
        samples = finish(follow(modes, None, Readings(limits=limits), used, lines, bases, 1.0))
        return {sample.labels["target"]: sample.labels["mode"] for sample in samples if sample.value}

    assert shown({"a": LIMIT, "b": None}, {"a": 451.0 * MIB, "b": 1199.0 * MIB}) == {"a": "degraded", "b": "cautious"}
    assert shown({"a": LIMIT, "b": None}, {"b": 1.0}) == {"b": "normal"}
    assert shown({"a": LIMIT}, {"a": 440.0 * MIB}) == {"a": "degraded"}
    assert shown({}, {}) == {}
    assert shown({"a": LIMIT}, {"a": 440.0 * MIB}) == {"a": "cautious"}


# The way to the app


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """A way to start apps with an agent."""
    with launching(tmp_path) as start:
        yield start


class Watching:
    """The agents of one app, looked for at every step. Lives inside `watching`."""

    def __init__(self, agents: Agents, pid: int) -> None:
        self.agents = agents
        self.target = target(pid)
        self.sampler = Sampler(OWN, time.monotonic)
        self.sampler.agents = agents

    async def until(self, holds: Callable[[], bool]) -> None:
        """Ticks until this holds."""
        deadline = time.monotonic() + 30.0
        while not holds():
            assert time.monotonic() < deadline, self.agents.missing("rag")
            self.sampler.read([self.target], time.time())
            await asyncio.sleep(0.02)

    async def ticks(self, count: int) -> None:
        """So many ticks."""
        for _ in range(count):
            self.sampler.read([self.target], time.time())
            await asyncio.sleep(0.02)


def watching(app: App, scenario: Callable[[Watching], Awaitable[None]], every_seconds: float = 1.0) -> None:
    """Run a scenario with the agent of an app, which is asked for its figures so often."""
    async def run() -> None:
        async with Agents({"rag": Reach(str(app.folder), every_seconds)}, asyncio.sleep) as agents:
            await scenario(Watching(agents, app.pid))

    asyncio.run(run())


def test_the_app_knows_its_mode(launch: Callable[..., App]) -> None:
    """What was said before the agent was found and what changes later reaches `mode()` and `on_mode`, at once."""
    app = launch()
    app.do("heard = []; agent.on_mode(heard.append)")

    async def scenario(watch: Watching) -> None:
        watch.agents.push_mode("rag", "cautious")
        await watch.until(lambda: app.do("agent.mode()") == "cautious")
        for _ in range(3):
            watch.agents.push_mode("rag", "degraded")
            await watch.until(lambda: app.do("agent.mode()") == "degraded")
        watch.agents.push_mode("rag", "normal")
        await watch.until(lambda: app.do("agent.mode()") == "normal")

    watching(app, scenario, every_seconds=3600.0)
    assert app.do("heard") == ["cautious", "degraded", "normal"]


def test_a_mode_that_is_lost_is_told_again(launch: Callable[..., App]) -> None:
    """An agent that tells another mode, or that was started anew, is told the right one."""
    app = launch()

    async def scenario(watch: Watching) -> None:
        watch.agents.push_mode("rag", "degraded")
        await watch.until(lambda: app.do("agent.mode()") == "degraded")
        assert app.post("/mode", mode="normal").status == 200
        await watch.until(lambda: app.do("agent.mode()") == "degraded")
        app.do("agent.stop()")
        await watch.until(lambda: not watch.agents.present("rag"))
        app.do("agent._registry.set_mode('normal'); agent.start()")
        await watch.until(lambda: app.do("agent.mode()") == "degraded")

    watching(app, scenario, every_seconds=0.05)


def test_an_agent_that_refuses_the_mode_goes_on_telling(launch: Callable[..., App]) -> None:
    """One that does not know a mode, an older one, is not asked again and again, and is lost for nothing else."""
    app = launch()

    async def scenario(watch: Watching) -> None:
        watch.agents.push_mode("rag", "unheard-of")
        await watch.until(lambda: bool(watch.agents.present("rag")))
        await watch.ticks(20)
        assert watch.agents.missing("rag") == ""
        watch.agents.push_mode("rag", "cautious")
        await watch.until(lambda: app.do("agent.mode()") == "cautious")

    watching(app, scenario, every_seconds=0.05)


def test_an_app_that_takes_its_time_keeps_nobody_waiting(launch: Callable[..., App]) -> None:
    """While a listener thinks, ticks go on; the mode counts from the start of it, and the next one is told after it."""
    app = launch()
    app.do("import threading; gate = threading.Event(); agent.on_mode(lambda mode: gate.wait(20))")

    async def scenario(watch: Watching) -> None:
        watch.agents.push_mode("rag", "degraded")
        await watch.until(lambda: app.do("agent.mode()") == "degraded")
        watch.agents.push_mode("rag", "normal")
        await watch.ticks(5)
        assert app.do("agent.mode()") == "degraded"
        app.do("gate.set()")
        await watch.until(lambda: app.do("agent.mode()") == "normal")

    watching(app, scenario)
