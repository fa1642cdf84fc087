"""What the agents in the targets are to us: consent, channels for the policy, sockets for the guard; and modes."""

from collections.abc import Mapping
from typing import NamedTuple

from sidecar.actions import channels
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.options import Mode
from sidecar.guard.wire import Channel
from sidecar.mode import Modes
from sidecar.model import Cleanup, Labels, Sample
from sidecar.probes.agent import Agent, Agents
from sidecar.probes.sampler import Readings
from sidecar.probes.tree import MAIN
from sidecar.promql.steps import Steps
from sidecar.thresholds import Thresholds

Ways = Mapping[Cleanup, tuple[Channel, ...]]


class Permit(NamedTuple):
    """What may be done, through which channels; `linked`: the guard may have to ask the agents."""

    mode: Mode
    ways: Ways
    linked: bool


def _are_asked(mode: Mode, ways: Ways) -> bool:
    return mode != "observe" and any(way.kind == "agent" for found in ways.values() for way in found)


class Permits:
    """What may be done to each target, as found last. Lives as long as what is configured does."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[Agent], Permit]] = {}

    def of(self, agents: Agents | None, target: str, mode: Mode, configured: Ways, *, asks: bool) -> Permit:
        """What may be done to the target now. `asks`: an agent that is there is consent.

        The same object as long as its agents are the same.
        """
        present = agents.present(target) if agents else []
        known = self._known.get(target)
        if known is None or known[0] != present:
            signals = next((agent.signals for agent in present if agent.process == MAIN), {})
            ways = channels.offered(configured, len(present), signals)
            allowed = channels.mode(mode, asks, len(present))
            known = self._known[target] = present, Permit(allowed, ways, _are_asked(allowed, ways))
        return known[1]


def hand_over(agents: Agents | None, dispatch: Dispatch, target: str, mode: Mode, ways: Ways) -> None:
    """Give the guard sockets to those agents of the target that it has none to, if it may have to ask them."""
    if agents is None:
        return
    while dispatch.unlinked:
        agents.note_unlinked(*dispatch.unlinked.popleft())
    if not _are_asked(mode, ways):
        return
    for process, pid, start_time_ticks, connected in agents.handovers(target):
        with connected:
            if not dispatch.link(target, process, pid, start_time_ticks, connected.fileno()):
                agents.note_unlinked(target, pid)


def follow(modes: Modes, agents: Agents | None, readings: Readings, used: Mapping[str, float],
           lines: Mapping[str, Thresholds], bases: Mapping[str, Labels], now: float) -> Steps[list[Sample]]:
    """Find the mode of every target anew and have its agents know it; the modes as series at Unix time `now`.

    `used` are bytes on the basis of the target's `lines`. Where they are not known just now the mode stays as it is
    and is not shown; of a target that is not there it is forgotten.
    """
    for target in bases.keys() - readings.limits.keys():
        modes.forget(target)
    known = used.keys() & lines.keys() & readings.limits.keys()
    for target in known:
        yield
        line = lines[target]
        found = modes.update(target, used[target], readings.limits[target], line.main.size_bytes,
                             line.critical.size_bytes)
        if agents:
            agents.push_mode(target, found)
    yield
    return modes.samples({target: bases[target] for target in known}, now, readings.glanced)
