"""What the agents in the targets' processes are for acting: consent, channels for the policy, sockets for the guard."""

from collections.abc import Mapping

from sidecar.actions import channels
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.options import Mode
from sidecar.guard.wire import Channel
from sidecar.model import Cleanup
from sidecar.probes.agent import Agents
from sidecar.probes.tree import MAIN

Ways = Mapping[Cleanup, tuple[Channel, ...]]


def permitted(agents: Agents | None, target: str, mode: Mode, configured: Ways, *, asks: bool) -> tuple[Mode, Ways]:
    """What may be done to the target now, and through which channels. `asks`: an agent that is there is consent."""
    present = agents.present(target) if agents else []
    signals = next((agent.signals for agent in present if agent.process == MAIN), {})
    return channels.mode(mode, asks, len(present)), channels.offered(configured, len(present), signals)


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
