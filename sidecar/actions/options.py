"""What an operator may set about acting. The defaults are those of the configuration page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from sidecar.model import Cleanup

Mode = Literal["observe", "dry_run", "enforce"]

STRENGTH: Mapping[str, int] = MappingProxyType({"light": 0, "standard": 1, "aggressive": 2})
"""The three cleanups in order."""


@dataclass(frozen=True, slots=True)
class Policy:
    """For alerts of one level: which cleanup to ask for, and the strongest one ever allowed for them."""

    entry: Cleanup
    max: Cleanup


@dataclass(frozen=True, slots=True)
class Verification:
    """When a cleanup counts as effective.

    It is judged from `settle_seconds` to `window_seconds` after the answer: effective if used bytes fall to
    `exit_ratio` of the line (then at once), or by `min_bytes` and by `min_ratio` of what was used, against the
    growth seen before. `rebound_seconds` later it is looked at once more.
    """

    settle_seconds: float = 3.0
    window_seconds: float = 20.0
    min_bytes: int = 32 << 20
    min_ratio: float = 0.05
    exit_ratio: float = 0.9
    rebound_seconds: float = 60.0


def _cooldowns() -> Mapping[str, float]:
    return MappingProxyType({"light": 60.0, "standard": 180.0, "aggressive": 300.0})


def _budgets() -> Mapping[Cleanup, int]:
    return MappingProxyType({"light": 12, "standard": 6, "aggressive": 3})


def _patience() -> Mapping[Cleanup, int]:
    return MappingProxyType({"light": 2, "standard": 2, "aggressive": 1})


def _policies() -> Mapping[str, Policy]:
    return MappingProxyType({
        "preventive": Policy("light", "light"),
        "main": Policy("standard", "standard"),
        "critical": Policy("aggressive", "aggressive"),
    })


@dataclass(frozen=True, slots=True)
class Options:
    """How the policy acts. `mode` None means: enforce where a channel is configured, else observe.

    `kill_switch` is the path of a file: while it exists nothing is delivered.

    Per level of cleanup: `cooldown_seconds` to wait, `budget_per_hour` attempts that did not help, `escalate_after` of
    which in a row the next level is tried. `max_per_hour` bounds the attempts on all targets together.
    A target is well after `exit_for_seconds` under its exit line. After `strikes` attempts without use a cleanup is
    left out for `skip_seconds`, then `skip_backoff` times as long each time, up to `skip_max_seconds`.
    `every_seconds` names the cleanups that are asked for periodically, whatever the memory.
    """

    mode: Mode | None = None
    kill_switch: str = ""
    max_concurrent: int = 1
    min_interval_seconds: float = 10.0
    warmup_seconds: float = 60.0
    cooldown_seconds: Mapping[str, float] = field(default_factory=_cooldowns)
    policies: Mapping[str, Policy] = field(default_factory=_policies)
    verification: Verification = field(default_factory=Verification)
    budget_per_hour: Mapping[Cleanup, int] = field(default_factory=_budgets)
    max_per_hour: int = 30
    escalate_after: Mapping[Cleanup, int] = field(default_factory=_patience)
    exit_for_seconds: float = 60.0
    strikes: int = 3
    skip_seconds: float = 1800.0
    skip_backoff: float = 2.0
    skip_max_seconds: float = 21600.0
    every_seconds: Mapping[Cleanup, float] = field(default_factory=lambda: MappingProxyType({}))
