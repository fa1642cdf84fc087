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
    """

    mode: Mode | None = None
    kill_switch: str = ""
    max_concurrent: int = 1
    min_interval_seconds: float = 10.0
    warmup_seconds: float = 60.0
    cooldown_seconds: Mapping[str, float] = field(default_factory=_cooldowns)
    policies: Mapping[str, Policy] = field(default_factory=_policies)
    verification: Verification = field(default_factory=Verification)
