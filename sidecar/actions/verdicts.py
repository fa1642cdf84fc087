"""From answers to verdicts: what came of each attempt, told once, and whether its bytes stayed away."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from typing import Literal, Protocol

from sidecar.actions.attempt import Attempt
from sidecar.actions.cost import WINDOW_SECONDS, extra
from sidecar.actions.facts import LifeId
from sidecar.actions.incidents import Incidents
from sidecar.actions.kind import Facts, Memory, kind_of
from sidecar.actions.ladder import NEVER_DELIVERED
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import STRENGTH, Options
from sidecar.actions.sent import LATE_SECONDS
from sidecar.actions.verify import (
    SHORTEST_HISTORY_SECONDS,
    Judged,
    Reading,
    Verdict,
    growth,
    judge,
    kept_up,
    rebounded,
)
from sidecar.guard.wire import Event, Order

log = logging.getLogger("sidecar.actions")

RESIDENT, MEMORY = "rag_process_resident_memory_bytes", "rag_process_memory_bytes"
FAULTS, RELEASABLE = "rag_process_page_faults_total", "rag_malloc_releasable_bytes"
GROWTH_WINDOW_SECONDS = 60.0
UNANSWERED_SECONDS = 90.0
INSTANT_SECONDS = 0.001

Used = Callable[[str, float, float], list[Reading]]
"""`used(target, start, end)`: readings of used bytes in (start, end], in ascending time."""


class Look(Protocol):
    """A look at what else was read of a target in (start, end]: the readings of each series of a metric."""

    def __call__(self, target: str, metric: str, start: float, end: float, **labels: str) -> Sequence[list[Reading]]:
        """In ascending time; nothing where there is no such series."""


def seen_nothing(target: str, metric: str, start: float, end: float, **labels: str) -> Sequence[list[Reading]]:
    """For one who has nothing to look at."""
    return ()


def nothing(target: str) -> bool:
    """For one who has no news that are still to be told."""
    return False


class Verdicts:
    """Judges attempts by used bytes. Written by the tick only; lives as long as the desk.

    `ages` are the seconds that each target's process has lived.
    """

    def __init__(self, ledger: Ledger, incidents: Incidents, used: Used, look: Look = seen_nothing) -> None:
        self.ages: Mapping[str, float] = {}
        self._ledger = ledger
        self._incidents = incidents
        self._used = used
        self._look = look

    def growth(self, target: str, at: float) -> float:
        """How fast used bytes grew in the minute before `at`, where no cleanup moved them; in bytes per second.

        Where the last cleanup was so short ago that nobody can tell, it is the growth from before that one.
        """
        before, readings = _before(self._ledger, target, at), self._used(target, self._since(target, at), at)
        if before and (not readings or readings[-1][0] - readings[0][0] < SHORTEST_HISTORY_SECONDS):
            return before.growth
        return growth(readings)

    def judge(self, options: Options, now: float, untold: Callable[[str], bool] = nothing) -> None:
        """Give the verdicts that can be given now, oldest first, and look for memory that came back.

        Those of a target that is `untold` wait: the guard has news of it, maybe of a cleanup that was felt already.
        """
        for attempt in reversed(self._ledger.open()):
            if attempt.answered_at is None or attempt.id in self._ledger.doubtful:
                self._give_up(attempt, options, now)
            elif not untold(attempt.target):
                self._judge(attempt, options, now)
        for attempt in reversed(self._ledger.kept.newest_first("unsettled")):
            if attempt.ended_at is not None and not untold(attempt.target):
                self._settle(attempt, attempt.ended_at + options.verification.rebound_seconds, options, now)

    def _judge(self, attempt: Attempt, options: Options, now: float) -> None:
        """By what was seen until the next cleanup of the target began: what fell from then on is that one's."""
        after, rules, target = _after(self._ledger, attempt), options.verification, attempt.target
        until, overtaken = (after.started_at, _is_delivered(after)) if after else (now, False)
        readings = self._used(target, self._since(target, attempt.started_at), until)
        if after:  # the last of them may have been read later than its tick began: the guard's own takes its place
            readings = [*[each for each in readings if each[0] < until][:-1], (until, after.before_bytes)]
        verdict = judge(_judged(attempt), readings, until, rules, overtaken=overtaken)
        if verdict is None:
            return
        reason = "no_readings" if verdict.outcome == "unknown" else ""
        if overtaken and verdict.outcome != "effective" and until < _judged(attempt).answered_at + rules.window_seconds:
            reason = "overtaken"
        self.ended(self._ledger.close(attempt.id, verdict.outcome, until, reason=reason, verdict=verdict,
                                      kind=self._kind(attempt, verdict, until)), options, now)

    def _settle(self, attempt: Attempt, due: float, options: Options, now: float) -> None:
        """Look whether what was freed has come back: when that is due, or when the next cleanup begins before.

        Where that is a stronger one nothing is learnt: memory went on to another line, as in a burst.
        """
        after = _after(self._ledger, attempt)
        if after and _is_delivered(after) and after.started_at <= due:
            at = after.started_at
            if STRENGTH[after.cleanup] > STRENGTH[attempt.cleanup]:
                self._ledger.note_rebound(attempt.id, False, at)
            else:
                self._look_for_rebound(attempt, options, at, [(at, after.before_bytes)])
        elif now >= due:
            self._look_for_rebound(attempt, options, now, self._used(  # what is read long after tells nothing
                attempt.target, due - LATE_SECONDS, min(due + LATE_SECONDS, after.started_at if after else now)))

    def meet(self, target: str, life: LifeId, options: Options, now: float) -> None:
        """See which process is behind a target: if it is another one than before, that one is past judging."""
        known = self._incidents.lives.get(target)
        if known and known.identity not in (None, life):
            same_process = known.identity and known.identity[1:] == life[1:]
            self.end_life(target, now, "target_changed" if same_process else "target_gone", options)

    def end_life(self, target: str, at: float, why: str, options: Options) -> None:
        """The process has ended, or has become another program: so have its attempts and its incident."""
        for attempt in self._ledger.end_life(target, at, why):
            self.ended(attempt, options, at)
        self._incidents.end_life(target, at, why)

    def _kind(self, attempt: Attempt, verdict: Verdict, now: float) -> str:
        """What the memory was, as far as bytes, the agent's steps and earlier cleanups of this process tell."""
        life = self._incidents.lives.get(attempt.target)
        past = Counter(each.outcome for each in self._ledger.attempts(attempt.target)
                       if life and each.started_at >= life.since)
        return kind_of(Facts(
            verdict.outcome, verdict.freed_bytes, attempt.growth, attempt.cleanup, attempt.told.steps,
            self._memory(attempt.target, attempt.started_at, attempt.before_bytes),
            self._memory(attempt.target, now, verdict.after_bytes), self.ages.get(attempt.target),
            helped=past["effective"] + past["partial"], failed=past["ineffective"],
            releasable_bytes=self._newest(attempt.target, RELEASABLE, attempt.started_at)))

    def _memory(self, target: str, at: float, used_bytes: float | None) -> Memory:
        return Memory(used_bytes, self._newest(target, MEMORY, at, kind="anon"),
                      self._newest(target, MEMORY, at, kind="file"), self._newest(target, RESIDENT, at))

    def _newest(self, target: str, metric: str, at: float, **labels: str) -> float | None:
        """The newest values of all processes together; None where nothing was read lately."""
        found = [readings[-1][1] for readings in self._look(target, metric, at - LATE_SECONDS, at, **labels)]
        return sum(found) if found else None

    def _give_up(self, attempt: Attempt, options: Options, now: float) -> None:
        """End what nobody answers, and what was under way when everything was restarted."""
        taken_over = self._ledger.doubtful.get(attempt.id)
        if taken_over is not None and now > taken_over + LATE_SECONDS:
            self.ended(self._ledger.close(attempt.id, "interrupted", now, reason="restart"), options, now)
        elif now > attempt.started_at + UNANSWERED_SECONDS:
            outcome: Literal["unknown", "undelivered"] = "unknown" if attempt.delivered_at else "undelivered"
            self.ended(self._ledger.close(attempt.id, outcome, now, reason="no_answer"), options, now)

    def _since(self, target: str, at: float) -> float:
        """From when on used bytes tell of a cleanup asked for at `at`: a minute before, or the last one."""
        before = _before(self._ledger, target, at)
        start = at - GROWTH_WINDOW_SECONDS
        if before is None:
            return start
        if before.ended_at is not None and before.ended_at < at:
            return max(start, before.ended_at)
        return max(start, before.answered_at or before.started_at)  # this one has overtaken it

    def skipped(self, order: Order, event: Event, options: Options) -> None:
        """Memory had fallen by itself, or the guard was acting already, or it does not hold the process."""
        used = event.detail.get("used_bytes")
        if used is None:
            used = max(self._used(order.target, event.at - LATE_SECONDS, event.at), default=(0.0, 0.0))[1]
        reason = str(event.detail.get("reason", event.kind))
        self.ended(self._ledger.skip(order, float(used), event.at, reason), options, event.at)

    def ended(self, attempt: Attempt, options: Options, now: float) -> None:
        """An attempt has its outcome: its incident goes on accordingly, and one line tells everything of it."""
        self._incidents.judged(attempt, options, now)
        level = logging.INFO if attempt.outcome in ("effective", "dry_run", "skipped") else logging.WARNING
        log.log(level, "cleanup ended", extra={
            "target": attempt.target, "cleanup": attempt.cleanup, "channel": attempt.channel,
            "outcome": attempt.outcome, "reason": attempt.reason, "alert": attempt.labels.get("alertname", ""),
            "before_bytes": int(attempt.before_bytes), "after_bytes": _whole(attempt.after_bytes),
            "freed_bytes": _whole(attempt.freed_bytes), "id": attempt.id})

    def _look_for_rebound(self, attempt: Attempt, options: Options, now: float,
                          readings: Sequence[Reading]) -> None:
        """The last of `readings` tells."""
        freed = attempt.freed_bytes
        begun, known = attempt.started_at, _judged(attempt)
        since = max(self._since(attempt.target, begun), begun - SHORTEST_HISTORY_SECONDS)
        pace = kept_up(self._used(attempt.target, since - INSTANT_SECONDS, begun),
                       self._used(attempt.target, (attempt.ended_at or begun) - INSTANT_SECONDS, now))
        known = known._replace(growth=max(known.growth, pace))
        back = bool(readings) and freed is not None and rebounded(known, freed, readings[-1])
        faults = extra(self._look(attempt.target, FAULTS, begun - WINDOW_SECONDS, begun + WINDOW_SECONDS), begun)
        self._incidents.rebounded(self._ledger.note_rebound(attempt.id, back, now, faults=faults), options, now)
        if back:
            log.warning("freed memory came back", extra={"target": attempt.target, "cleanup": attempt.cleanup,
                                                         "id": attempt.id, "used_bytes": int(readings[-1][1])})


def _before(ledger: Ledger, target: str, at: float) -> Attempt | None:
    """The last cleanup before `at` that may have moved used bytes."""
    return next((each for each in ledger.attempts(target) if each.started_at < at
                 and each.outcome not in NEVER_DELIVERED and not each.dry_run), None)


def _after(ledger: Ledger, attempt: Attempt) -> Attempt | None:
    """The first cleanup of its target after it that has moved used bytes, or may be about to."""
    later = takewhile(lambda each: each.id != attempt.id, ledger.attempts(attempt.target))
    found = [each for each in later if each.outcome not in NEVER_DELIVERED and not each.dry_run]
    return found[-1] if found else None


def _is_delivered(attempt: Attempt) -> bool:
    """Whether it has been delivered, as far as anybody knows; one that is still on its way may yet be refused."""
    return bool(attempt.delivered_at or attempt.answered_at or attempt.outcome)


def _judged(attempt: Attempt) -> Judged:
    return Judged(attempt.before_bytes, attempt.growth, attempt.line_bytes, attempt.started_at,
                  attempt.answered_at or attempt.started_at)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)
