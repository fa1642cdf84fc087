"""What the policy decides about, and what its decisions look like. All values are frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from sidecar.actions.options import Mode
from sidecar.guard.wire import MOST_TARGETS, Channel, Order
from sidecar.model import Cleanup
from sidecar.procfs import Identity

LifeId = tuple[str, int, int]
"""Which process: boot id (and which program: an exec makes it another one), pid, start time in clock ticks."""


@lru_cache(maxsize=MOST_TARGETS)
def life_of(identity: Identity) -> LifeId:
    """The life that a process has as this program."""
    program = ":".join(map(str, identity.exe)) if identity.exe else ""
    return f"{identity.boot_id}/{program}", identity.pid, identity.start_time_ticks


class Reason(StrEnum):
    """Why a decision is what it is."""

    ACT = "act"
    STANDING = "standing_order"  # the guard acts by itself when the line is crossed
    BELOW = "below_threshold"
    PENDING = "alert_pending"  # over the line, and the alert's `for` has not passed
    OBSERVE = "mode_observe"
    CRASHES = "crashed_too_often"
    UNARMED = "no_threshold_of_its_own"
    KILL_SWITCH = "kill_switch"
    PAUSED = "paused"
    FOREIGN = "another_sidecar"
    DOWN = "target_down"
    STALE = "stale_data"
    HOURLY = "machine_budget_spent"
    ACTED = "acted_for_this_alert"
    PARKED = "parked"
    BASELINE = "baseline_above_threshold"
    NO_CHANNEL = "no_usable_channel"
    LEARNED = "never_helps"
    BUDGET = "budget_spent"
    WARMUP = "warming_up"
    IN_FLIGHT = "in_flight"
    SETTLING = "settling"
    COOLDOWN = "cooldown"
    BACKOFF = "undelivered_backoff"
    MIN_INTERVAL = "min_interval"
    MAX_CONCURRENT = "max_concurrent"


SENTENCES: Mapping[Reason, str] = MappingProxyType({
    Reason.ACT: "A cleanup was asked for.",
    Reason.STANDING: "The line is crossed: the guard asks for a cleanup by itself, at once or when the rest after "
                     "the last one is over.",
    Reason.BELOW: "No alert asks for a cleanup.",
    Reason.PENDING: "Used bytes are over a line, but not yet for as long as the alert wants.",
    Reason.OBSERVE: "The mode is observe: nothing is done.",
    Reason.CRASHES: "The sidecar crashed three times in a row, so it only observes.",
    Reason.UNARMED: "Nobody has chosen thresholds and no limit can be read, so nothing is done.",
    Reason.KILL_SWITCH: "The kill-switch is thrown: its file exists.",
    Reason.PAUSED: "A person has paused it; `rag-sidecar resume` ends that.",
    Reason.FOREIGN: "Another sidecar acts on this target.",
    Reason.DOWN: "The process is not there, or its memory cannot be read.",
    Reason.STALE: "Used bytes cannot be read now, so nobody could say what a cleanup did.",
    Reason.HOURLY: "Too many cleanups of all targets together did not help within the last hour.",
    Reason.ACTED: "A cleanup was asked for since this alert fires; one is all it gets.",
    Reason.PARKED: "Nothing more is tried until the incident ends, a stronger alert fires, or a person unparks it.",
    Reason.BASELINE: "It was over its critical line when it was first seen, so one cleanup was all it gets.",
    Reason.NO_CHANNEL: "There is no way to ask it for this cleanup, or none that works.",
    Reason.LEARNED: "The cleanups that are allowed did not help this process several times in a row.",
    Reason.BUDGET: "The cleanups that are allowed did not help, as often as their budgets for an hour allow.",
    Reason.WARMUP: "The process has only just started.",
    Reason.IN_FLIGHT: "A cleanup of it is under way.",
    Reason.SETTLING: "A cleanup of it is just being judged.",
    Reason.COOLDOWN: "The last cleanup was too short a time ago.",
    Reason.BACKOFF: "The last cleanup could not be delivered; it is tried again soon.",
    Reason.MIN_INTERVAL: "A cleanup of some target was asked for a moment ago.",
    Reason.MAX_CONCURRENT: "Other targets are being cleaned up.",
})
"""Each reason as people read it."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One target as the policy sees it. `fresh` is whether its used bytes have been read just now.

    `channels` are those that serve each cleanup, in the order in which they are tried. `armed` is False where
    nobody chose the thresholds, `foreign` True where another sidecar acts, `crashes` where ours ended too often.
    A target without a process of this machine has no `life`, perhaps an `instance_id` that it gives itself.
    """

    name: str
    up: bool
    fresh: bool
    armed: bool
    age_seconds: float
    mode: Mode
    channels: Mapping[Cleanup, tuple[Channel, ...]]
    paused: bool = False
    foreign: bool = False
    life: LifeId | None = None
    instance_id: str = ""
    used_bytes: float | None = None
    crashes: bool = False

    @property
    def dry(self) -> bool:
        """Whether orders are only rehearsed."""
        return self.mode == "dry_run"


class Gate(NamedTuple):
    """An alert that asks for a cleanup: is its own comparison true now, and may it act (its `for` has passed)?

    `standing` gates are the guard's: their line stands there as an order. Those without a line of used bytes act once
    each time that their alert fires, which it does since `fired_at` (Unix seconds).
    """

    target: str
    level: str
    wanted: Cleanup
    labels: Mapping[str, str]
    open: bool
    ripe: bool
    standing: bool
    line_bytes: float | None
    inclusive: bool
    fired_at: float | None = None


class Decision(NamedTuple):
    """What to do about one target now, and why. `order` only where `reason` is ACT.

    `until` is the Unix time until when the rest lasts that holds it back, None where it is over or is no such reason.
    """

    target: str
    reason: Reason
    cleanup: str = ""
    order: Order | None = None
    until: float | None = None


class Armed(NamedTuple):
    """A standing order and the moment (Unix seconds) before which it may not be carried out."""

    order: Order
    not_before: float
