"""Which ways there are to ask a target for a cleanup now: those that were configured, and what its agents announce."""

from collections.abc import Mapping, Sequence

from sidecar.actions.options import Mode
from sidecar.guard.wire import Channel
from sidecar.model import Cleanup

AGENT = Channel("agent", timeout_seconds=30.0)


def offered(
    configured: Mapping[Cleanup, Sequence[Channel]], agents: int, signals: Mapping[Cleanup, int]
) -> dict[Cleanup, tuple[Channel, ...]]:
    """The channels of each cleanup, in the order in which they are tried.

    `agents` is how many processes of the target have one; without any the channel `agent` is left out, and where no
    channel is configured at all they are it. `signals` are those for which the agent of the target's own process says
    that it has handlers: they stand after the agents, unless a signal is configured.
    """
    named = any(configured.values())
    found: dict[Cleanup, tuple[Channel, ...]] = {}
    for cleanup in CLEANUPS:
        ways = configured.get(cleanup, ()) if named else (AGENT,)
        by_signal = any(way.kind == "signal" for way in ways)
        found[cleanup] = tuple(
            way for each in ways
            for way in (each, *_announced(each, signals.get(cleanup, 0) if not by_signal else 0))
            if agents or way.kind != "agent")
    return found


CLEANUPS: tuple[Cleanup, ...] = ("light", "standard", "aggressive")


def _announced(way: Channel, number: int) -> tuple[Channel, ...]:
    return (Channel("signal", signal=number),) if way.kind == "agent" and number else ()


def mode(configured: Mode, waits_for_agent: bool, agents: int) -> Mode:
    """What may be done. Where nothing was said about it, an agent in the target's processes is consent."""
    return "enforce" if waits_for_agent and agents else configured
