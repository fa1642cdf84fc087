"""The attempts that are remembered, what of them has to be journalled, and what a journal brings back."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Literal, overload

from sidecar.actions.attempt import Attempt, Told, of_record
from sidecar.actions.lives import Row

log = logging.getLogger("sidecar.actions")

KEPT_ATTEMPTS = 500
MOST_CHANGED = 2 * KEPT_ATTEMPTS
KEPT_DETAILED = 20
"""Of so many it is kept what the agents told of each step and process; of the others the journal has it."""
IN_VAIN = ("ineffective", "partial", "unknown", "interrupted", "dry_run")

Stage = Literal["planned", "final", "rebound", ""]
"""What of an attempt the journal has to know: that it has begun, how it ended, whether its bytes came back; or not."""

View = Literal["all", "open", "in_vain", "unsettled"]
"""Which attempts: all; those without an end; those that did not help; those that freed bytes which may come back."""
VIEWS: Mapping[View, Callable[[Attempt], bool]] = MappingProxyType({
    "all": lambda attempt: True,
    "open": lambda attempt: not attempt.outcome,
    "in_vain": lambda attempt: attempt.outcome in IN_VAIN or attempt.rebounded is True,
    "unsettled": lambda attempt: attempt.rebounded is None and attempt.outcome in ("effective", "partial"),
})


class Attempts:
    """The newest `KEPT_ATTEMPTS`. Written by the tick only; lives as long as the ledger.

    A tick asks for them many times and changes them seldom: what was found is kept until then.
    """

    def __init__(self) -> None:
        self._attempts: dict[str, Attempt] = {}
        self._order: deque[str] = deque()
        self._detailed: deque[str] = deque()
        self._found: dict[tuple[View, str | None, bool | None], Sequence[Attempt]] = {}
        self._of_target: dict[str, list[Attempt]] = {}
        self._changed: dict[tuple[str, Stage], float] = {}

    def get(self, attempt_id: str) -> Attempt | None:
        """The attempt with this id."""
        return self._attempts.get(attempt_id)

    def newest_first(self, view: View = "all", target: str | None = None,
                     dry_run: bool | None = None) -> Sequence[Attempt]:
        """Those of one target or of all, rehearsals (`dry_run`) or real ones or both; never changed afterwards."""
        if target is not None and not self.tried(target):
            return ()
        key = view, target, dry_run
        if key not in self._found:
            among = ([self._attempts[name] for name in reversed(self._order)] if target is None
                     else self._of_target[target])
            self._found[key] = [attempt for attempt in among
                                if dry_run in (None, attempt.dry_run) and VIEWS[view](attempt)]
        return self._found[key]

    def tried(self, target: str) -> bool:
        """Whether there is any attempt of this target."""
        if not self._of_target and self._order:
            for name in reversed(self._order):
                attempt = self._attempts[name]
                self._of_target.setdefault(attempt.target, []).append(attempt)
        return target in self._of_target

    def unanswered(self) -> int:
        """How many of all targets have neither an answer nor an end yet."""
        return sum(attempt.answered_at is None for attempt in self.newest_first("open"))

    def _forget_found(self) -> None:
        """Something has changed."""
        self._found.clear()
        self._of_target.clear()

    def put(self, attempt: Attempt) -> Attempt:
        """Remember an attempt as it is now; a new one takes the place of the oldest."""
        if attempt.id not in self._attempts:
            self._keep(attempt)
            self._change(attempt.id, "planned", attempt.started_at)
        self._attempts[attempt.id] = attempt
        self._forget_found()
        if _is_detailed(attempt) and attempt.id not in self._detailed:
            self._detailed.append(attempt.id)
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
        rows: list[Row] = [(attempt_id, stage, at, _body(attempt, stage)) for (attempt_id, stage), at in changed.items()
                if (attempt := self._attempts.get(attempt_id))]
        self._forget_details(self._attempts)
        return rows

    def _forget_details(self, attempts: dict[str, Attempt]) -> None:
        """Of attempts that have ended: the last row of the others is still to be written."""
        ended = (name for name in list(self._detailed) if name not in attempts or attempts[name].outcome)
        for name in islice(ended, max(0, len(self._detailed) - KEPT_DETAILED)):
            self._detailed.remove(name)
            if name in attempts:
                attempts[name] = replace(attempts[name], told=Told(attempts[name].told.figures))
                self._forget_found()

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
                    if _is_detailed(made) and key not in self._detailed:
                        self._detailed.append(key)
                        self._forget_details(found)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                log.warning("attempt not restored", extra={"id": key, "error": f"{type(error).__name__}: {error}"})
        for attempt in sorted(found.values(), key=lambda each: each.started_at):
            self._keep(attempt)
        self._forget_found()


class Shown(Sequence[Mapping[str, Any]]):
    """Attempts as the rows of `GET /api/v1/actions`, each made when somebody looks at it."""

    def __init__(self, attempts: Sequence[Attempt]) -> None:
        self._attempts = attempts

    def __len__(self) -> int:
        return len(self._attempts)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> "Shown": ...
    def __getitem__(self, index: int | slice) -> "Mapping[str, Any] | Shown":
        return Shown(self._attempts[index]) if isinstance(index, slice) else self._attempts[index].as_json()


def _is_detailed(attempt: Attempt) -> bool:
    return bool(attempt.told.steps or attempt.told.processes)


def _body(attempt: Attempt, stage: Stage) -> Mapping[str, Any]:
    if stage == "rebound":
        return {"rebounded": attempt.rebounded, "kind": attempt.kind, "faults": attempt.faults}
    body = attempt.as_record()
    return {**body, "outcome": "", "ended_at": None} if stage == "planned" else body


def _of_rebound(body: Mapping[str, Any]) -> dict[str, Any]:
    faults = body.get("faults")
    return {"rebounded": bool(body["rebounded"]), "kind": str(body["kind"]),
            "faults": None if faults is None else float(faults)}
