"""The attempts that are remembered, what of them has to be journalled, and what a journal brings back."""

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from sidecar.actions.attempt import Attempt, of_record
from sidecar.actions.lives import Row

log = logging.getLogger("sidecar.actions")

KEPT_ATTEMPTS = 500
MOST_CHANGED = 2 * KEPT_ATTEMPTS

Stage = Literal["planned", "final", "rebound", ""]
"""What of an attempt the journal has to know: that it has begun, how it ended, whether its bytes came back; or not."""


class Attempts:
    """The newest `KEPT_ATTEMPTS`. Written by the tick only; lives as long as the ledger."""

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._order: deque[str] = deque()
        self._changed: dict[tuple[str, Stage], float] = {}

    def get(self, attempt_id: str) -> Attempt | None:
        """The attempt with this id."""
        return self._attempts.get(attempt_id)

    def newest_first(self, target: str | None = None) -> list[Attempt]:
        """Those of one target or of all."""
        return [a for i in reversed(self._order) if (a := self._attempts[i]) and target in (None, a.target)]

    def put(self, attempt: Attempt) -> Attempt:
        """Remember an attempt as it is now; a new one takes the place of the oldest."""
        if attempt.id not in self._attempts:
            self._keep(attempt)
            self._change(attempt.id, "planned", attempt.started_at)
        self._attempts[attempt.id] = attempt
        return attempt

    def note(self, attempt_id: str, stage: Stage, at: float, **changes: Any) -> Attempt:
        """Write more down of an attempt. Raises KeyError if it is not known."""
        if stage:
            self._change(attempt_id, stage, at)
        return self.put(replace(self._attempts[attempt_id], **changes))

    def _keep(self, attempt: Attempt) -> None:
        self._order.append(attempt.id)
        self._attempts[attempt.id] = attempt
        if len(self._order) > KEPT_ATTEMPTS:
            del self._attempts[self._order.popleft()]

    def _change(self, attempt_id: str, stage: Stage, at: float) -> None:
        self._changed.setdefault((attempt_id, stage), at)
        if len(self._changed) > MOST_CHANGED:
            del self._changed[next(iter(self._changed))]

    def drain(self) -> list[Row]:
        """What has changed since the last call."""
        changed, self._changed = self._changed, {}
        return [(attempt_id, stage, at, _body(attempt, stage)) for (attempt_id, stage), at in changed.items()
                if (attempt := self._attempts.get(attempt_id))]

    def restore(self, rows: Sequence[Row]) -> None:
        """Take over rows, oldest first; what cannot be read is passed over."""
        found: dict[str, Attempt] = {}
        for key, stage, _, body in rows:
            try:
                if stage == "rebound":
                    found[key] = replace(found[key], **_of_rebound(body))
                else:
                    made = of_record(body)
                    found[key] = replace(made, rebounded=None) if stage == "planned" else made
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("attempt not restored", extra={"id": key, "error": f"{type(error).__name__}: {error}"})
        for attempt in sorted(found.values(), key=lambda each: each.started_at):
            self._keep(attempt)


def _body(attempt: Attempt, stage: Stage) -> Mapping[str, Any]:
    if stage == "rebound":
        return {"rebounded": attempt.rebounded, "kind": attempt.kind, "faults": attempt.faults}
    body = attempt.as_record()
    return {**body, "outcome": "", "ended_at": None} if stage == "planned" else body


def _of_rebound(body: Mapping[str, Any]) -> dict[str, Any]:
    faults = body.get("faults")
    return {"rebounded": bool(body["rebounded"]), "kind": str(body["kind"]),
            "faults": None if faults is None else float(faults)}
