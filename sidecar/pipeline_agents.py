"""What the agents in the targets are to us: consent, channels for the policy, sockets for the guard; and modes."""

from collections.abc import Mapping

from sidecar.actions import channels
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.options import Mode
from sidecar.guard.wire import Channel
from sidecar.mode import Modes
from sidecar.model import Cleanup, Labels, Sample
from sidecar.probes.agent import Agent, Agents
from sidecar.probes.sampler import Readings
from sidecar.probes.tree import MAIN
from sidecar.thresholds import Thresholds

Ways = Mapping[Cleanup, tuple[Channel, ...]]


class Permits:
    """What may be done to each target, as found last. Lives as long as what is configured does."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[list[Agent], Mode, Ways]] = {}

    def of(self, agents: Agents | None, target: str, mode: Mode, configured: Ways, *, asks: bool) -> tuple[Mode, Ways]:
        """What may be done to the target now, and through which channels. `asks`: an agent that is there is consent.

        The same objects as long as its agents are the same.
        """
        present = agents.present(target) if agents else []
        known = self._known.get(target)
        if known is None or known[0] != present:
            signals = next((agent.signals for agent in present if agent.process == MAIN), {})
            known = self._known[target] = (present, channels.mode(mode, asks, len(present)),
                                           channels.offered(configured, len(present), signals))
        return known[1], known[2]


def hand_over(agents: Agents | None, dispatch: Dispatch, target: str, mode: Mode, ways: Ways) -> None:
    """Give the guard sockets to those agents of the target that it has none to, if it may have to ask them."""
    if agents is None:
        return
    while dispatch.unlinked:
        agents.note_unlinked(*dispatch.unlinked.popleft())
    if mode == "observe" or not any(way.kind == "agent" for found in ways.values() for way in found):
        return
    for process, pid, start_time_ticks, connected in agents.handovers(target):
        with connected:
            if not dispatch.link(target, process, pid, start_time_ticks, connected.fileno()):
                agents.note_unlinked(target, pid)


def follow(modes: Modes, agents: Agents | None, readings: Readings, used: Mapping[str, float],
           lines: Mapping[str, Thresholds], bases: Mapping[str, Labels], now: float) -> list[Sample]:
    """Find the mode of every target anew and have its agents know it; the modes as series at Unix time `now`.

    `used` are bytes on the basis of the target's `lines`. Where they are not known just now the mode stays as it is
    and is not shown; of a target that is not there it is forgotten.
    """
    for target in bases.keys() - readings.limits.keys():
        modes.forget(target)
    known = used.keys() & lines.keys() & readings.limits.keys()
    for target in known:
        line = lines[target]
        found = modes.update(target, used[target], readings.limits[target], line.main.size_bytes,
                             line.critical.size_bytes)
        if agents:
            agents.push_mode(target, found)
    return modes.samples({target: bases[target] for target in known}, now, readings.glanced)
