"""What is known of the process behind each target: since when, and which cleanups never help it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sidecar.actions.facts import Gate, LifeId, Subject, life_of
from sidecar.actions.options import STRENGTH, Options
from sidecar.procfs import Identity

MOST_DOUBLINGS = 16
NOTE = "life:"
"""Begins the key of a note about a life."""

Row = tuple[str, str, float, Mapping[str, Any]]
"""What the journal keeps: (key, stage, Unix seconds, plain JSON)."""


class Lesson(NamedTuple):
    """What is known of one cleanup: attempts without use in a row, how often and until when it is passed over."""

    strikes: int = 0
    skips: int = 0
    until: float = 0.0

    def struck(self, options: Options, now: float) -> "Lesson":
        """Once more without use: from `strikes` in a row on it is passed over, twice as long each time."""
        if self.strikes + 1 < options.strikes:
            return self._replace(strikes=self.strikes + 1)
        pause = options.skip_seconds * options.skip_backoff ** min(self.skips, MOST_DOUBLINGS)
        return Lesson(self.strikes + 1, self.skips + 1, now + min(pause, options.skip_max_seconds))


@dataclass(frozen=True, slots=True)
class Life:
    """One process for as long as it is the same program; `since` is when it was first seen, in Unix seconds.

    `looked`: whether it has been seen with its memory read; `baseline`: it was over its critical line then.
    `lessons` are by cleanup, those of rehearsals apart.
    """

    identity: LifeId | None
    since: float
    looked: bool = False
    baseline: bool = False
    lessons: Mapping[str, Lesson] = field(default_factory=dict)

    def lesson(self, cleanup: str, *, dry: bool) -> Lesson:
        """What is known of a cleanup."""
        return self.lessons.get(_name(cleanup, dry), Lesson())

    def as_record(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"identity": list(self.identity) if self.identity else None, "since": self.since,
                "looked": self.looked, "baseline": self.baseline,
                "lessons": {name: list(lesson) for name, lesson in self.lessons.items()}}

    @classmethod
    def of_record(cls, body: Mapping[str, Any]) -> "Life":
        """From plain JSON. Raises KeyError, TypeError or ValueError for what is none."""
        raw = body["identity"]
        identity = None if raw is None else (str(raw[0]), int(raw[1]), int(raw[2]))
        lessons = {str(name): Lesson(int(strikes), int(skips), float(until))
                   for name, (strikes, skips, until) in dict(body["lessons"]).items()
                   if str(name).removeprefix("dry:") in STRENGTH}
        return cls(identity, float(body["since"]), bool(body["looked"]), bool(body["baseline"]), lessons)


class Lives:
    """The life behind each target. Written by the tick only; lives as long as the desk.

    One that is known from before (to the guard, or to the journal) has been looked at already.
    """

    def __init__(self) -> None:
        self._lives: dict[str, Life] = {}
        self._changed: set[str] = set()

    def get(self, target: str) -> Life | None:
        """The life behind a target, None where none has been seen."""
        return self._lives.get(target)

    def resume(self, held: Mapping[str, Identity], now: float) -> None:
        """The guard holds these processes for an earlier desk: they are not seen for the first time."""
        for target, identity in held.items():
            known = self._lives.get(target)
            if known is None or known.identity != life_of(identity):
                self._put(target, Life(life_of(identity), now, looked=True))

    def meet(self, subject: Subject, now: float) -> bool:
        """See who is there; True if it is another one than the last time."""
        known, identity = self._lives.get(subject.name), _identity(subject)
        if known is None:
            if identity or subject.up:
                self._put(subject.name, Life(identity, now))
            return False
        if identity is None or known.identity == identity:
            return False
        if known.identity is None:  # it has been seen before it could say who it is
            self._put(subject.name, replace(known, identity=identity))
            return False
        self._put(subject.name, Life(identity, now))
        return True

    def look(self, subject: Subject, gates: Sequence[Gate]) -> None:
        """Settle, at the first reading of its memory, whether it is over its critical line to begin with."""
        life = self._lives.get(subject.name)
        if life and not life.looked and subject.up and subject.fresh:
            over = any(gate.open and (gate.standing or gate.level == "critical") for gate in gates)
            self._put(subject.name, replace(life, looked=True, baseline=over))

    def forget(self, target: str, at: float) -> bool:
        """The process has ended, or has become another program. False if that was before this one came."""
        known = self._lives.get(target)
        if known is None or at < known.since:
            return False
        del self._lives[target]
        return True

    def learn(self, target: str, cleanup: str, options: Options, now: float, *, dry: bool, helped: bool) -> None:
        """An attempt did not help, or it did and what it freed stayed away."""
        life = self._lives.get(target)
        if life is None:
            return
        before = life.lesson(cleanup, dry=dry)
        lesson = Lesson() if helped else before.struck(options, now)
        if lesson != before:
            self._put(target, replace(life, lessons={**life.lessons, _name(cleanup, dry): lesson}))

    def baseline(self, target: str) -> bool:
        """Whether it has been over its critical line since it was first seen; answered once, for its first incident."""
        life = self._lives.get(target)
        if life is None or not life.baseline:
            return False
        self._put(target, replace(life, baseline=False))
        return True

    def forgive(self, target: str) -> None:
        """A person wants everything to be tried again."""
        life = self._lives.get(target)
        if life:
            self._put(target, replace(life, baseline=False, lessons={}))

    def _put(self, target: str, life: Life) -> None:
        if self._lives.get(target) != life:
            self._lives[target] = life
            self._changed.add(target)

    def drain(self) -> list[tuple[str, float, Mapping[str, Any]]]:
        """(key, Unix seconds, body) of the notes that have changed since the last call."""
        changed = [(target, life) for target in sorted(self._changed) if (life := self._lives.get(target))]
        self._changed.clear()
        return [(NOTE + target, life.since, life.as_record()) for target, life in changed]

    def restore(self, rows: Iterable[tuple[str, float, Mapping[str, Any]]]) -> None:
        """Take over notes; those that are none of ours are passed over."""
        for key, _, body in rows:
            if key.startswith(NOTE):
                try:
                    self._lives[key.removeprefix(NOTE)] = Life.of_record(body)
                except (KeyError, TypeError, ValueError):
                    continue


def _identity(subject: Subject) -> LifeId | None:
    return subject.life or ((subject.instance_id, 0, 0) if subject.instance_id else None)


def _name(cleanup: str, dry: bool) -> str:
    return f"dry:{cleanup}" if dry else cleanup
