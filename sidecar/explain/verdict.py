"""Whether a rule's alert fires for a target, waits or does not, since when, until when, and why: from values alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sidecar.explain.because import why
from sidecar.explain.seen import SeenAlert, SeenRule, targets
from sidecar.explain.tree import Node, everything, of_target
from sidecar.promql.notation import format_duration

SENTENCES = 8
"""Of so many targets at most each gets a sentence of its own."""
_ORDER = ("inactive", "pending", "firing")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is so of one target (the empty string: of none in particular). `timer` says what comes when."""

    target: str
    state: str
    sentence: str
    timer: str = ""


def verdicts(rule: SeenRule, tree: Node, at: float, target: str | None) -> list[Verdict]:
    """One for each target that the rule speaks of, the loudest first; only for `target` where one is given."""
    known = targets([point for node in everything(tree) for point in node.points])
    known |= {alert.labels["target"] for alert in rule.alerts if "target" in alert.labels}
    names = [target] if target is not None else sorted(known) or [""]
    found = [_of(rule, tree, at, name) for name in names]
    return sorted(found, key=lambda verdict: -_ORDER.index(verdict.state) if verdict.state in _ORDER else 0)


def _of(rule: SeenRule, tree: Node, at: float, target: str) -> Verdict:
    whom = f" for target {target}" if target else ""
    if rule.evaluated_at is None:
        return Verdict(target, "unknown", f"{rule.name} has not been evaluated yet; now {why(tree, target)}.")
    if rule.health == "err":
        return Verdict(target, rule.state, f"{rule.name} could not be evaluated, so its alerts stay as they were: "
                       f"{rule.error}.")
    alerts = [alert for alert in rule.alerts if alert.labels.get("target", target) == target]
    if not alerts:
        return _silent(rule, tree, target, whom)
    alert = max(alerts, key=lambda alert: (_ORDER.index(alert.state) if alert.state in _ORDER else 0, -alert.active_at))
    if alert.state == "pending":
        return _pending(rule, alert, at, f"{rule.name} is pending{whom}", why(tree, target))
    if alert.keep_since is not None:
        return _kept(rule, alert, at, f"{rule.name} still fires{whom}", why(tree, target))
    began = f"since {clock(fired_at(rule, alert))}" if rule.for_seconds else f"since {clock(alert.active_at)}"
    ends = f"resolves {format_duration(rule.keep_seconds)} after that is over" if rule.keep_seconds else \
        "resolves at the first look that finds it over"
    return Verdict(target, "firing", f"{rule.name} fires{whom} {began}: {why(tree, target)}.", ends)


def _silent(rule: SeenRule, tree: Node, target: str, whom: str) -> Verdict:
    if of_target(tree.points, target) and tree.kind in ("vector", "number"):
        return Verdict(target, "inactive", f"{rule.name} does not fire{whom}, although its expression gives something "
                       "for the moment of its last look: data came late, or its group has a query_offset.")
    return Verdict(target, "inactive", f"{rule.name} does not fire{whom}: {why(tree, target)}.")


def _pending(rule: SeenRule, alert: SeenAlert, at: float, said: str, reason: str) -> Verdict:
    waited, fires = max(0.0, at - alert.active_at), clock(fired_at(rule, alert))
    timer = f"pending {waited:.0f} s of {format_duration(rule.for_seconds)}; fires at {fires} if it stays"
    sentence = f"{said} since {clock(alert.active_at)}: {reason}."
    return Verdict(alert.labels.get("target", ""), "pending", sentence, timer)


def _kept(rule: SeenRule, alert: SeenAlert, at: float, said: str, reason: str) -> Verdict:
    since = alert.keep_since or at
    timer = (f"kept firing {max(0.0, at - since):.0f} s of {format_duration(rule.keep_seconds)}; resolves at "
             f"{clock(since + rule.keep_seconds)} if it stays so")
    sentence = f"{said}, but only because it is kept: since {clock(since)} {reason}."
    return Verdict(alert.labels.get("target", ""), "firing", sentence, timer)


def fired_at(rule: SeenRule, alert: SeenAlert) -> float:
    """When a pending alert fires, or a firing one did: the first evaluation at which `for` has passed."""
    rounds = math.ceil(round(rule.for_seconds / rule.interval_seconds, 6)) if rule.interval_seconds > 0 else 0
    return alert.active_at + rounds * rule.interval_seconds


def clock(at: float) -> str:
    """A moment as people read it: `14:03:22 UTC`."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def summary(found: Sequence[Verdict]) -> list[str]:
    """The closing sentences; what many targets have in common is counted."""
    shown = [verdict.sentence for verdict in found[:SENTENCES]]
    if rest := found[SENTENCES:]:
        counts = {state: sum(verdict.state == state for verdict in rest) for state in reversed(_ORDER)}
        shown.append("… and " + ", ".join(f"{count} {state}" for state, count in counts.items() if count)
                     + "; --target NAME shows one.")
    return shown
