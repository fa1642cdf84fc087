"""How strong a cleanup may be now, and which one is next: the levels, what has been learnt of them, their budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from sidecar.actions.attempt import Attempt
from sidecar.actions.facts import Gate, Reason, Subject
from sidecar.actions.ledger import Ledger
from sidecar.actions.lives import Life
from sidecar.actions.options import STRENGTH, Options
from sidecar.guard.wire import Channel
from sidecar.model import Cleanup

CLEANUPS = cast(tuple[Cleanup, ...], tuple(sorted(STRENGTH, key=STRENGTH.__getitem__)))

BACKOFF_SECONDS = (2.0, 4.0, 8.0, 16.0, 30.0)
SHORTEST_PAUSE_SECONDS = 1.0
PAUSE_PER_DURATION = 10.0
BUDGET_SECONDS = 3600.0
NEVER_DELIVERED = ("undelivered", "refused", "skipped")


class Choice(NamedTuple):
    """The cleanup that is next and its channels; `obstacle` is why there is none after all."""

    cleanup: Cleanup
    channels: tuple[Channel, ...]
    obstacle: Reason | None = None


@dataclass(frozen=True, slots=True)
class Ladder:
    """The levels for one target at one moment. `past` are its attempts, newest first, rehearsals or real ones."""

    subject: Subject
    options: Options
    ledger: Ledger
    past: Sequence[Attempt]
    life: Life | None
    now: float

    def choose(self, floor: int, strongest: int, step: int) -> Choice:
        """The next level: from `step` up to the `strongest`, then those below it down to the `floor`.

        Passed over is what has no usable channel, what has not helped this process lately, and what has used up its
        budget. Nothing left is an obstacle.
        """
        start = max(floor, min(step, strongest))
        levels = [CLEANUPS[each] for each in (*range(start, strongest + 1), *range(start - 1, floor - 1, -1))]
        served = [level for level in levels if usable(self.subject, level, self.ledger)]
        if not served:
            return Choice(levels[0], (), Reason.NO_CHANNEL)
        helpful = [level for level in served if not self.learnt(level)]
        left = [level for level in helpful if self.budget(level) > 0]
        level = (left or helpful or served)[0]
        obstacle = None if left else Reason.BUDGET if helpful else Reason.LEARNED
        return Choice(level, usable(self.subject, level, self.ledger), obstacle)

    def learnt(self, cleanup: Cleanup) -> bool:
        """Whether it is passed over, because it did not help this process several times in a row."""
        return self.life is not None and self.now < self.life.lesson(cleanup, dry=self.subject.dry).until

    def budget(self, cleanup: Cleanup) -> int:
        """How many more attempts within the hour may turn out not to help."""
        found = self.ledger.kept.newest_first("in_vain", self.subject.name, self.subject.dry)
        used = sum(attempt.cleanup == cleanup and is_recent(attempt, self.now) for attempt in found)
        return self.options.budget_per_hour[cleanup] - used

    def free_from(self, cleanup: Cleanup) -> tuple[float, Reason]:
        """When this cleanup may be tried again, in Unix seconds, and what it waits for until then.

        What helped only rests for ten times its own duration. What did not, or is not judged yet, cools down from
        its answer on. What was never delivered costs no cooldown: it is tried again soon, later each time; or when
        the target has said that it wants to be asked again, whatever for.
        """
        own = (attempt for attempt in self.past if attempt.cleanup == cleanup)
        pending, last = [], None
        for attempt in own:
            if attempt.outcome not in NEVER_DELIVERED:
                last = attempt
                break
            pending.append(attempt)
        waits = [(0.0, Reason.COOLDOWN)]
        waits += [(attempt.retry_at, Reason.BACKOFF) for attempt in self.past if attempt.retry_at is not None]
        if pending:
            pause = BACKOFF_SECONDS[min(len(pending), len(BACKOFF_SECONDS)) - 1]
            waits.append(((pending[0].ended_at or 0.0) + pause, Reason.BACKOFF))
        if last:
            waits.append((self._rested(last), Reason.COOLDOWN))
        return max(waits)

    def rest(self, cleanup: Cleanup, incident_id: str, floor: int) -> tuple[float, Reason]:
        """The same where the desk decides: what did not help in this incident, if any, holds the next one back, too."""
        free_from = self.free_from(cleanup)
        return max(free_from, (self.after_failure(incident_id, floor), Reason.COOLDOWN)) if incident_id else free_from

    def after_failure(self, incident_id: str, floor: int) -> float:
        """Until when the last attempt that did not help holds the next level back; not one below the `floor`.

        That is below what the alerts ask for by now: it is no reason to wait.
        """
        last = next((each for each in self.past if each.incident == incident_id and each.outcome not in NEVER_DELIVERED
                     and each.outcome), None)
        if last is None or last.outcome == "effective" or STRENGTH[last.cleanup] < floor:
            return 0.0
        return self._rested(last)

    def _rested(self, attempt: Attempt) -> float:
        rest = self.options.cooldown_seconds[attempt.cleanup]
        if attempt.outcome == "effective":
            rest = max(SHORTEST_PAUSE_SECONDS, PAUSE_PER_DURATION * (attempt.duration_seconds or 0.0))
        return (attempt.answered_at or attempt.delivered_at or attempt.started_at) + rest


def usable(subject: Subject, cleanup: Cleanup, ledger: Ledger) -> tuple[Channel, ...]:
    """The channels for this cleanup that have not been found unusable in this incident, for it or for another one."""
    refused = {channel for level, kind in ledger.disarmed.get(subject.name, ())
               for channel in subject.channels.get(cast(Cleanup, level), ()) if channel.kind == kind}
    return tuple(channel for channel in subject.channels.get(cleanup, ()) if channel not in refused)


def entry(gate: Gate, options: Options) -> int:
    """What a gate asks for, in STRENGTH."""
    policy = options.policies.get(gate.level)
    return STRENGTH[policy.entry if policy else gate.wanted]


def cap(ripe: Sequence[Gate], options: Options) -> int:
    """The strongest cleanup that the policies of these gates allow, in STRENGTH; -1 without any gate."""
    caps = [policy.max if (policy := options.policies.get(gate.level)) else gate.wanted for gate in ripe]
    return max((STRENGTH[each] for each in caps), default=-1)


def is_recent(attempt: Attempt, now: float) -> bool:
    """Whether it counts against a budget, should it not have helped: within the last hour."""
    return attempt.started_at > now - BUDGET_SECONDS
