"""Which lines are in force for each target: those that are configured, and what was put over them for a while."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sidecar.errors import SidecarError
from sidecar.pipeline_journal import Notes
from sidecar.thresholds import LONGEST_OVERRIDE_SECONDS, Override, Thresholds, Wanted, contradiction, resolve

log = logging.getLogger("sidecar")

NOTE = "thresholds:"
"""Begins the key of a note about an override."""
ROUNDING_SECONDS = 1.0
"""A tick has its moment in milliseconds, and a clock is corrected now and then."""


class Known(NamedTuple):
    """The lines of a target at its limit (None: there is none), with the override that they come from."""

    limit_bytes: int | None
    override: Override | None
    lines: Thresholds


class Lines:
    """The lines of every target. Lives as long as the desk; written by the tick, `put` and `withdraw` between ticks.

    `known` are those of the targets that have been seen, as of the last tick; `wanted` is what is configured.
    """

    def __init__(self, wanted: Mapping[str, Wanted]) -> None:
        self.known: dict[str, Known] = {}
        self._wanted = wanted
        self._overrides: dict[str, Override] = {}
        self._news: set[str] = set()
        self._changed: dict[str, float] = {}

    def of(self, target: str, limit_bytes: int | None, now: float) -> Thresholds:
        """The lines for this limit; worked out again when it changes. What is wrong with them is told."""
        known, override = self.known.get(target), self._overrides.get(target)
        if known and known.limit_bytes == limit_bytes and known.override == override:
            return known.lines
        try:
            found = self._resolved(target, limit_bytes, override)
        except SidecarError as error:  # the limit was another one when they were put
            self._end(target, now, str(error))
            found, override = self._planned(target, limit_bytes), None
        for warning in found.warnings:
            log.warning("thresholds", extra={"target": target, "warning": warning})
        log.info("thresholds", extra={"target": target, "basis": found.basis,
                                      **{level: str(line) for level, line in found.lines.items()}})
        self.known[target] = Known(limit_bytes, override, found)
        self._news.add(target)
        return found

    def _planned(self, target: str, limit_bytes: int | None) -> Thresholds:
        """The configured ones. Where the limit has made them contradict each other, those of the limit alone."""
        wanted = self._wanted[target]
        try:
            return resolve(limit_bytes, wanted)
        except SidecarError as error:
            log.error("thresholds", extra={"target": target, "error": str(error)})
            return resolve(limit_bytes, Wanted(main=wanted.main, critical=wanted.critical)
                           if wanted.preventive else Wanted())

    def _resolved(self, target: str, limit_bytes: int | None, override: Override | None) -> Thresholds:
        """Raises SidecarError where the override does not fit to what is configured, or to the limit."""
        planned = self._planned(target, limit_bytes)
        return planned if override is None else resolve(limit_bytes, override.over(self._wanted[target], planned.basis))

    def expire(self, now: float) -> None:
        """End what is over, for every tick; and what would hold for too long, because the clock was wrong then."""
        for target, override in list(self._overrides.items()):
            if not 0.0 < override.until - now <= LONGEST_OVERRIDE_SECONDS + ROUNDING_SECONDS:
                self._end(target, now, "its time is over")

    def put(self, target: str, override: Override, now: float) -> None:
        """Have these lines in force from the next tick on, instead of others that were put before.

        Raises ValueError where they contradict each other, or what is configured beside them.
        """
        known = self.known.get(target)
        if known:
            try:
                self._resolved(target, known.limit_bytes, override)
            except SidecarError as error:
                raise ValueError(str(error)) from None
        elif problem := contradiction(override.over(self._wanted[target], "anon")):
            raise ValueError(problem)
        self._overrides[target], self._changed[target] = override, now
        log.info("thresholds put", extra={
            "target": target, "main_bytes": override.main_bytes, "critical_bytes": override.critical_bytes,
            "until": datetime.fromtimestamp(override.until, UTC).isoformat(timespec="seconds")})

    def withdraw(self, target: str, now: float) -> None:
        """Have the configured lines in force again, from the next tick on."""
        if target in self._overrides:
            self._end(target, now, "withdrawn")

    def change(self, wanted: Mapping[str, Wanted], now: float) -> None:
        """Other lines are configured from now on. Those that were put over them stay, where the target does."""
        for target in [target for target, before in self._wanted.items() if wanted.get(target) != before]:
            self.known.pop(target, None)
            if target not in wanted and target in self._overrides:
                self._end(target, now, "the target is not configured any more")
        self._wanted = wanted

    def _end(self, target: str, now: float, reason: str) -> None:
        del self._overrides[target]
        self._changed[target] = now
        log.info("thresholds as configured", extra={"target": target, "reason": reason})

    def acted(self) -> None:
        """The guard has been given the orders that follow from `known`."""
        self._news.clear()

    def row(self, target: str) -> dict[str, Any]:
        """What is in force, as `GET /api/v1/thresholds` shows it; None is what is not known before it is seen.

        `in_force`: the lines are those of `override`, and the guard was given the orders that follow.
        """
        known, override = self.known.get(target), self._overrides.get(target)
        row: dict[str, Any] = {"target": target, "in_force": False, "override": None, "basis": None, "armed": None,
                               "limit_bytes": None, "lines": None, "warnings": []}
        if override:
            row["override"] = _body(override)
        if known:
            row |= {"in_force": known.override == override and target not in self._news, "basis": known.lines.basis,
                    "armed": known.lines.armed, "limit_bytes": known.limit_bytes,
                    "warnings": list(known.lines.warnings),
                    "lines": {level: {"bytes": line.size_bytes, "source": line.source, "how": line.how}
                              for level, line in known.lines.lines.items()}}
        return row

    def drain_notes(self) -> list[tuple[str, float, Mapping[str, Any]]]:
        """What has changed since the last call."""
        changed, self._changed = self._changed, {}
        return [(NOTE + target, at, _body(self._overrides.get(target))) for target, at in changed.items()]

    def restore_notes(self, rows: Notes) -> None:
        """Take over notes, oldest first; those that are none of ours, or of no target of ours, are passed over."""
        for key, _, body in rows:
            target = key.removeprefix(NOTE)
            if not key.startswith(NOTE) or target not in self._wanted:
                continue
            self._overrides.pop(target, None)
            if override := _override(body):
                self._overrides[target] = override


def _body(override: Override | None) -> Mapping[str, Any]:
    if override is None:
        return {"until": None}
    return {"main_bytes": override.main_bytes, "critical_bytes": override.critical_bytes, "until": override.until}


def _override(body: Mapping[str, Any]) -> Override | None:
    """What a note says; None for none, and for what no sidecar has written."""
    main, critical, until = body.get("main_bytes"), body.get("critical_bytes"), body.get("until")
    sizes = [size for size in (main, critical) if size is not None]
    if isinstance(until, int | float) and sizes and all(type(size) is int and 0 < size < 2 ** 63 for size in sizes):
        return Override(main, critical, float(until))
    return None
