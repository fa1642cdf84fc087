"""What has been tried against what an alert says, told with the alert: the annotation `remediation`. Pure."""

from __future__ import annotations  # the two protocols would take memory for nothing

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from sidecar.model import Alert

NAME = "remediation"
MOST_ATTEMPTS = 5
MOST_CHARACTERS = 500
MARGIN_SECONDS = 5.0
"""The guard sees a line crossed a little before the rule does: what it did then belongs to that alert all the same."""


if TYPE_CHECKING:
    from typing import Protocol

    class _Attempt(Protocol):
        """One cleanup that was asked for. Unix seconds, bytes; `outcome` is empty until the end is known."""

        @property
        def cleanup(self) -> str: ...
        @property
        def incident(self) -> str: ...
        @property
        def started_at(self) -> float: ...
        @property
        def outcome(self) -> str: ...
        @property
        def reason(self) -> str: ...
        @property
        def freed_bytes(self) -> float | None: ...
        @property
        def rebounded(self) -> bool | None: ...


    class _Incident(Protocol):
        @property
        def id(self) -> str: ...


def remedied(alerts: Iterable[Alert], attempts: Callable[[str], Sequence[_Attempt]],
             open_incidents: Mapping[str, _Incident]) -> Iterator[Alert]:
    """The alerts, those that fire or fired with what was tried as their annotation `remediation`; a rule's own stays.

    Each is made when it is asked for. `attempts` gives those of a target, newest first; `open_incidents` is by target.
    What an alert is told with belongs to one incident: the one that goes on, else one in which something was tried
    while the alert was there.
    """
    return (_remedied(alert, attempts, open_incidents) for alert in alerts)


def _remedied(alert: Alert, attempts: Callable[[str], Sequence[_Attempt]],
              open_incidents: Mapping[str, _Incident]) -> Alert:
    target = alert.labels.get("target", "")
    if not target or alert.fired_at is None or NAME in alert.annotations:
        return alert
    until = math.inf if alert.resolved_at is None else alert.resolved_at
    tried = (each for each in attempts(target)
             if each.incident and each.outcome != "skipped" and each.started_at <= until)
    newest, current = next(tried, None), open_incidents.get(target)
    if newest is None or (newest.started_at < alert.active_at - MARGIN_SECONDS
                          and (current is None or current.id != newest.incident)):
        return alert
    of_incident = takewhile(lambda each: each.incident == newest.incident, tried)  # there is one at a time
    text = told([newest, *islice(of_incident, MOST_ATTEMPTS - 1)])
    return replace(alert, annotations={**alert.annotations, NAME: text})


def told(newest_first: Sequence[_Attempt]) -> str:
    """What was tried and what it freed, oldest first: `light: freed 12 MiB (ineffective); aggressive: under way`.

    At most the newest five attempts and 500 characters: the oldest go.
    """
    said = [_said(attempt) for attempt in newest_first[:MOST_ATTEMPTS]]
    while len(said) > 1 and len("; ".join(said)) > MOST_CHARACTERS:
        said.pop()
    return "; ".join(reversed(said))[:MOST_CHARACTERS]


def _said(attempt: _Attempt) -> str:
    if not attempt.outcome:
        return f"{attempt.cleanup}: under way"
    how = ", ".join(filter(None, (attempt.outcome.replace("_", " "), attempt.reason,
                                  "came back" if attempt.rebounded else "")))
    if attempt.freed_bytes is None:
        return f"{attempt.cleanup}: {how}"
    return f"{attempt.cleanup}: freed {_size(attempt.freed_bytes) if attempt.freed_bytes > 0 else 'nothing'} ({how})"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / 2 ** 30:.1f} GiB" if size_bytes >= 2 ** 30 else f"{size_bytes / 2 ** 20:.0f} MiB"
