"""Between rules and journal: what of the alerts is written down at a tick, and how they go on after a restart."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence

from sidecar.journal.entry import Entry, Life, Page
from sidecar.model import Alert, Target
from sidecar.rules.group import Group, RuleKey
from sidecar.rules.recording import RecordingRule
from sidecar.rules.restart import continued, recorded_history

log = logging.getLogger("sidecar")


def page(groups: Sequence[Group], targets: Sequence[Target], now: float) -> Page:
    """All alerts of all rules, each with its rule and the process behind its target."""
    lives = _lives(targets)
    return Page(now, frozenset(key for group in groups for key, _ in group.keyed),
                [Entry(key, alert, lives.get(alert.labels.get("target", "")), now)
                 for group in groups for key, rule in group.keyed for alert in rule.alerts()])


def restore(entries: Sequence[Entry], groups: Sequence[Group], targets: Sequence[Target], now: float) -> None:
    """Have the rules go on with what was journalled, before their first evaluation."""
    lives = _lives(targets)
    recorded = recorded_history((rule.name, rule.spec.expr, group.interval_seconds)
                                for group in groups for rule in group.rules if isinstance(rule, RecordingRule))
    intervals = {key: group.interval_seconds for group in groups for key, _ in group.keyed}
    kept: list[tuple[RuleKey, Alert]] = []
    for entry in entries:
        if entry.rule in intervals:
            alert = continued(
                entry.alert, seen_at=entry.seen_at, now=now, interval_seconds=intervals[entry.rule],
                same_process=entry.life == lives.get(entry.alert.labels.get("target", "")))
            kept += [(entry.rule, alert)] if alert is not None else []
    for group in groups:
        group.restore(kept, now, recorded)
    if entries:
        states = Counter(alert.state for group in groups for alert in group.alerts())
        log.info("alerts go on from the journal", extra={
            "firing": states["firing"], "pending": states["pending"], "resolved": states["inactive"],
            "dropped": len(entries) - states.total(), "away_seconds": now - max(entry.seen_at for entry in entries)})


def _lives(targets: Sequence[Target]) -> Mapping[str, Life]:
    return {target.name: (target.identity.boot_id, target.identity.pid, target.identity.start_time_ticks)
            for target in targets if target.identity}
