"""Between the stages and the journal: what is written down at a tick, and how that goes on after a restart."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, overload

from sidecar.actions.acting import Acting
from sidecar.actions.ledger import Ledger
from sidecar.journal.entry import Entry, Life, Page, Told
from sidecar.journal.journal import Journal
from sidecar.journal.record import Record
from sidecar.model import Alert, Target
from sidecar.notify.alertmanager import Notifier
from sidecar.promql.steps import ELEMENTS_A_PIECE, Steps
from sidecar.rules.group import Group, RuleKey
from sidecar.rules.recording import RecordingRule
from sidecar.rules.restart import continued, recorded_history

log = logging.getLogger("sidecar")


Drained = Sequence[tuple[str, str, float, Mapping[str, Any]]]
"""(key, stage, Unix time, body) of what has changed, as ledger and incidents give and take it."""

Notes = Sequence[tuple[str, float, Mapping[str, Any]]]
"""(key, Unix time, body)."""


class Remembered(Protocol):
    """The ledger, or the incidents: what they say of themselves is what they are restored from."""

    def drain(self) -> Drained:
        """What has changed since the last call."""

    def restore(self, rows: Drained, now: float) -> None:
        """Go on from this, at Unix time `now`."""


class Noting(Protocol):
    """What people have ordered, such as a pause or other lines."""

    def drain_notes(self) -> Notes:
        """What has changed since the last call."""

    def restore_notes(self, rows: Notes) -> None:
        """Go on from this."""


def records_of(ledger: Remembered, incidents: Remembered, *noting: Noting) -> list[Record]:
    """What has changed since the last call, as records of the journal; those of no known stage are counted there."""
    return [*(Record("attempt", *row) for row in ledger.drain()),  # type: ignore[arg-type]
            *(Record("incident", *row) for row in incidents.drain()),  # type: ignore[arg-type]
            *(Record("note", key, "state", at, body) for each in noting for key, at, body in each.drain_notes())]


class Keeping:
    """What is done about the targets, on its way to the journal. Lives as long as the desk."""

    def __init__(self, journal: Journal, ledger: Ledger, acting: Acting, *noting: Noting) -> None:
        self._journal = journal
        self._ledger = ledger
        self._acting = acting
        self._noting = noting

    def keep(self) -> None:
        """Hand over what has changed since the last call: at every tick, and when people have ordered something."""
        acting = self._acting
        self._journal.record(records_of(self._ledger, acting.incidents, acting, *self._noting), acting.done())

    def settled(self) -> bool:
        """Whether all of it is on disk, or cannot be written now."""
        return self._journal.settled


def restore_actions(records: Sequence[Record], ledger: Remembered, incidents: Remembered, acting: Noting,
                    now: float, *noting: Noting) -> None:
    """Have ledger, incidents and orders go on with what was journalled, before the first tick."""
    places: dict[str, list[int]] = {"attempt": [], "incident": [], "note": []}
    for place, record in enumerate(records):
        places[record.kind].append(place)
    ledger.restore(_Rows(records, places["attempt"]), now)
    incidents.restore(_Rows(records, places["incident"]), now)
    notes = [(record.key, record.at, record.body) for record in map(records.__getitem__, places["note"])]
    for each in (acting, *noting):
        each.restore_notes(notes)
    if records:
        log.info("actions go on from the journal",
                 extra={f"{kind}_records": len(found) for kind, found in places.items()})


class _Rows(Sequence[tuple[str, str, float, Mapping[str, Any]]]):
    """Some of the records as `Remembered` takes them, one at a time: the journal keeps their bodies as text."""

    def __init__(self, records: Sequence[Record], places: Sequence[int]) -> None:
        self._records, self._places = records, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str, float, Mapping[str, Any]]: ...
    @overload
    def __getitem__(self, index: slice) -> "_Rows": ...
    def __getitem__(self, index: int | slice) -> "tuple[str, str, float, Mapping[str, Any]] | _Rows":
        if isinstance(index, slice):
            return _Rows(self._records, self._places[index])
        record = self._records[self._places[index]]
        return record.key, record.stage, record.at, record.body


def page(groups: Sequence[Group], targets: Sequence[Target], now: float, told: Callable[[Alert], Told],
         used: Mapping[str, float] | None = None, rss: Mapping[str, float] | None = None) -> Steps[Page]:
    """All alerts of all rules, each with its rule, the process behind its target, and who was told of it.

    `used` and `rss` are bytes by target, for the past.
    """
    lives, entries = _lives(targets), list[Entry]()
    for key, rule in (keyed for group in groups for keyed in group.keyed):
        for alert in rule.alerts():
            entries.append(Entry(key, alert, lives.get(alert.labels.get("target", "")), now, told(alert)))
            if not len(entries) % ELEMENTS_A_PIECE:
                yield
    return Page(now, frozenset(key for group in groups for key, _ in group.keyed), entries, used or {}, rss or {})


def restore(entries: Sequence[Entry], groups: Sequence[Group], targets: Sequence[Target],
            now: float) -> list[tuple[Alert, Told | None]]:
    """Have the rules go on with what was journalled, before their first evaluation; who had been told of what."""
    lives = _lives(targets)
    recorded = recorded_history((rule.name, rule.spec.expr, group.interval_seconds)
                                for group in groups for rule in group.rules if isinstance(rule, RecordingRule))
    intervals = {key: group.interval_seconds for group in groups for key, _ in group.keyed}
    kept: list[tuple[RuleKey, Alert]] = []
    told: list[tuple[Alert, Told | None]] = []
    for entry in entries:
        if entry.rule in intervals:
            alert = continued(
                entry.alert, seen_at=entry.seen_at, now=now, interval_seconds=intervals[entry.rule],
                same_process=entry.life == lives.get(entry.alert.labels.get("target", "")))
            if alert is not None:
                kept.append((entry.rule, alert))
                told.append((alert, entry.told))
    for group in groups:
        group.restore(kept, now, recorded)
    if entries:
        states = Counter(alert.state for group in groups for alert in group.alerts())
        log.info("alerts go on from the journal", extra={
            "firing": states["firing"], "pending": states["pending"], "resolved": states["inactive"],
            "dropped": len(entries) - states.total(), "away_seconds": now - max(entry.seen_at for entry in entries)})
    return told


def left_behind(entries: Sequence[Entry], groups: Sequence[Group], now: float) -> list[tuple[Alert, Told | None]]:
    """Alerts that fired before a restart and whose rules are no more: they have ended, and people are to be told so.

    Where a rule of the same name is loaded it may be the same one in another file: its alerts go on, or end at the
    `endsAt` that was told last.
    """
    names = {rule.name for group in groups for rule in group.rules}
    return [(replace(alert, state="inactive", condition=False, resolved_at=now), entry.told) for entry in entries
            if entry.alert.state == "firing" and entry.alert.name not in names
            and (alert := continued(entry.alert, seen_at=entry.seen_at, now=now, same_process=True,
                                    interval_seconds=entry.alert.interval_seconds)) is not None]


def resume(entries: Sequence[Entry], groups: Sequence[Group], targets: Sequence[Target], notifier: Notifier,
           now: float) -> None:
    """Have rules and notifier go on with what was journalled, before the first evaluation."""
    gone = left_behind(entries, groups, now)
    notifier.restore([*restore(entries, groups, targets, now), *gone], now)
    notifier.offer([alert for alert, _ in gone], now)


def _lives(targets: Sequence[Target]) -> Mapping[str, Life]:
    return {target.name: (target.identity.boot_id, target.identity.pid, target.identity.start_time_ticks)
            for target in targets if target.identity}
