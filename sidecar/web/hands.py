"""What may be ordered: the hands that the desk lends to its servers, and what is asked of them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from sidecar.actions.policy import Decision
from sidecar.model import Cleanup
from sidecar.thresholds import Override

Trigger = Literal["api", "webhook"]


class Asked(NamedTuple):
    """A cleanup that is asked for over the network, and for how many seconds the wish is good.

    `labels` are those of the alert that asks, if one does.
    """

    target: str
    cleanup: Cleanup
    trigger: Trigger
    ttl_seconds: float
    labels: Mapping[str, str]


@dataclass(slots=True)
class Wish:
    """What becomes of a cleanup that is asked for. Written by the desk alone; lives as long as somebody looks at it.

    It waits until the policy allows it, at most until `until` (Unix seconds). `decision` is the latest one, None
    before the first tick; `over` once there is an order or the time has passed.
    """

    asked: Asked
    until: float
    decision: Decision | None = None
    over: bool = False


async def _at_once() -> None:
    """There is nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Hands:
    """What the servers may have done. Lives as long as the desk.

    `levels` are the cleanups that alerts of each level ask for; `external_url` is that of our own alerts; `now` is
    Unix time, `sleep` is asyncio.sleep.

    `order` is a person's: None where the target is not known (yet). `attempt` tells what has come of an order, as a
    row of `GET /api/v1/actions`. `ask` is for all others: None while too many wait. `pause(target, seconds)` of one
    target or (None) of all, for so long or until further notice; `resume` and `unpark` alike, which gives those that
    were parked. `paused` gives those that are paused, with the Unix time until which or None. `in_force`: the guard
    has acknowledged the latest standing orders for a target; of one that is paused, that there are none. `lines` are
    those of a target, as a row of `GET /api/v1/thresholds`; `override` puts others in force from the next tick on, or
    (None) the configured ones again, and raises ValueError where they contradict each other. `kept` waits until what
    was ordered would be known to the next desk, too.
    """

    targets: Sequence[str]
    levels: Mapping[str, Cleanup]
    external_url: str
    order: Callable[[str, Cleanup, bool], Decision | None]
    attempt: Callable[[str], Mapping[str, Any] | None]
    ask: Callable[[Asked], Wish | None]
    pause: Callable[[str | None, float | None], None]
    resume: Callable[[str | None], None]
    unpark: Callable[[str | None], Sequence[str]]
    paused: Callable[[], Mapping[str, float | None]]
    in_force: Callable[[str], bool]
    lines: Callable[[str], Mapping[str, Any]]
    override: Callable[[str, Override | None], None]
    now: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    kept: Callable[[], Awaitable[None]] = _at_once
