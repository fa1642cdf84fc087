"""Standing orders from tick to tick: worked out anew only where something that they follow from has changed."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import inf
from typing import NamedTuple

from sidecar.actions.facts import Armed, Gate, Subject
from sidecar.actions.incidents import Incidents
from sidecar.actions.ladder import BUDGET_SECONDS
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Options
from sidecar.actions.policy import Policy


class _Known(NamedTuple):
    """Standing orders with what they follow from: facts, and the times (Unix seconds) between which these hold."""

    facts: tuple[object, ...]
    since: float
    until: float
    armed: list[Armed]


class Standing:
    """What the guard is to do by itself, as last worked out, by target. Written by the tick; lives as long as the desk.
    """

    def __init__(self, ledger: Ledger, incidents: Incidents) -> None:
        self._ledger = ledger
        self._incidents = incidents
        self._known: dict[str, _Known] = {}
        self._policy = Policy(Options(), kill_switch=True)
        self._now = 0.0
        self._left: Mapping[bool, int] = {}

    def begin(self, policy: Policy, names: Collection[str], now: float) -> None:
        """A tick begins to act, at Unix time `now`. Targets with other names are forgotten."""
        self._policy, self._now = policy, now
        self._left = {dry: policy.left(self._ledger, now, dry=dry) for dry in (False, True)}
        for name in self._known.keys() - names:
            del self._known[name]

    def of(self, subject: Subject, gates: Sequence[Gate]) -> list[Armed]:
        """The standing orders of a target, see `Policy.stand`: the very same ones while they follow from the same."""
        name = subject.name
        facts = (self._policy, self._left[subject.dry], subject.up, subject.fresh, subject.armed, subject.mode,
                 subject.channels, subject.paused, subject.foreign, subject.instance_id, subject.crashes,
                 [gate for gate in gates if gate.standing], self._ledger.kept.newest_first("all", name),
                 frozenset(self._ledger.disarmed.get(name, ())), self._incidents.current(name),
                 self._incidents.lives.get(name))
        known = self._known.get(name)
        if known and known.since <= self._now < known.until and known.facts == facts:
            return known.armed
        made = self._policy.stand(subject, gates, self._ledger, self._incidents, self._now)
        self._known[name] = _Known(facts, self._now, min(self._ends(name), default=inf), made)
        return made

    def _ends(self, target: str) -> Iterator[float]:
        """When a lesson of this target is over, or an attempt counts against its budgets no more: later than now."""
        life = self._incidents.lives.get(target)
        lessons = (lesson.until for lesson in life.lessons.values()) if life else ()
        spent = (attempt.started_at + BUDGET_SECONDS for attempt in self._ledger.kept.newest_first("in_vain", target))
        yield from (end for ends in (lessons, spent) for end in ends if end > self._now)
