"""A reload: new groups go on where the old ones stopped, and what has no rule any more ends."""

from collections.abc import Sequence
from dataclasses import replace

from sidecar.model import Alert, Sample
from sidecar.rules.group import Group


def kept(old: Sequence[Group], new: Sequence[Group]) -> list[Group]:
    """The new groups; in the place of those that are what an old one is, that one with all that it knows."""
    known = {(group.file, group.name): group for group in old}
    return [same if (same := known.get((group.file, group.name))) and same.spec is group.spec
            and [rule.terms for rule in same.rules] == [rule.terms for rule in group.rules] else group for group in new]


def go_on(old: Sequence[Group], new: Sequence[Group], now: float) -> tuple[list[Alert], list[Sample]]:
    """Have each new group go on with the state of the old one of its file and name, else of its name in another file.

    Returns the alerts that fired and that no rule knows any more, resolved at Unix time `now`, and stale markers for
    the series of the groups that are gone. (Prometheus rules/group.go, CopyState; it leaves those alerts to end by
    their `endsAt`.)
    """
    left = {(group.file, group.name): group for group in old}
    orphans = []
    for group in new:
        if before := left.pop((group.file, group.name), None):
            if before is not group:
                group.copy_state(before)
        else:
            orphans.append(group)
    for group in orphans:
        if moved := next((key for key in left if key[1] == group.name), None):
            group.copy_state(left.pop(moved))
    known = {alert.labels for group in new for alert in group.alerts()}
    ended = [replace(alert, state="inactive", condition=False, resolved_at=now)
             for group in old for alert in group.alerts() if alert.state == "firing" and alert.labels not in known]
    written = {labels for group in new for rule in group.rules for labels in rule.written}
    return ended, [sample for group in left.values() for sample in group.end(now) if sample.labels not in written]
