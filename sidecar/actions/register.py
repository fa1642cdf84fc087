"""The incidents that are remembered: the open ones, the newest that have ended, and what the journal has to know."""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.actions.incident import Incident
from sidecar.actions.lives import Row

log = logging.getLogger("sidecar.actions")

KEPT_ENDED = 100
MOST_CHANGED = 1000


class Register:
    """`open` has at most one incident for each target. Written by the tick only; lives as long as the desk."""

    def __init__(self) -> None:
        self.open: dict[str, Incident] = {}
        self._ended: deque[Incident] = deque(maxlen=KEPT_ENDED)
        self._changed: dict[str, Incident] = {}

    def put(self, incident: Incident) -> None:
        """Remember an incident as it is now."""
        if self.open.get(incident.target) == incident:
            return
        self._changed[incident.id] = incident
        if len(self._changed) > MOST_CHANGED:
            del self._changed[next(iter(self._changed))]
        if incident.ended_at is None:
            self.open[incident.target] = incident
            return
        self.open.pop(incident.target, None)
        self._ended.append(incident)
        log.info("incident ends", extra={"target": incident.target, "id": incident.id, "why": incident.why,
                                         "attempts": incident.attempts})

    def as_json(self) -> list[dict[str, Any]]:
        """Those that go on, then those that have ended, newest first."""
        newest = sorted(self.open.values(), key=lambda each: each.opened_at, reverse=True)
        return [each.as_json() for each in (*newest, *reversed(self._ended))]

    def drain(self) -> list[Row]:
        """What has changed since the last call."""
        changed, self._changed = self._changed, {}
        return [(each.id, "state", each.opened_at if each.ended_at is None else each.ended_at, each.as_record())
                for each in changed.values()]

    def restore(self, rows: Sequence[Row]) -> None:
        """Take over rows, oldest first; what cannot be read is passed over."""
        newest: dict[str, Mapping[str, Any]] = {key: body for key, _, _, body in rows}
        for key, body in newest.items():
            try:
                incident = Incident.of_record(body)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("incident not restored", extra={"id": key, "error": f"{type(error).__name__}: {error}"})
                continue
            if incident.ended_at is not None:
                self._ended.append(incident)
            else:
                self.open[incident.target] = incident
