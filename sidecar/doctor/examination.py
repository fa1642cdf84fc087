"""One target, looked at from every side. The doctor only reads: no signal, nothing written, nothing attached to."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sidecar.doctor import identity, memory, python, reading, signals, surroundings
from sidecar.doctor.advice import Advice, advise, unhide
from sidecar.doctor.facts import Fact, Roots, attempt
from sidecar.doctor.patient import Hidden, Patient, meet, still_there
from sidecar.doctor.surroundings import RunsIn
from sidecar.errors import TargetGone
from sidecar.thresholds import Wanted

GROUPS = ("machine", "identity", "reading", "memory", "signals", "limits")
"""The groups of facts, in the order in which they are told."""


class Question(NamedTuple):
    """What is asked about a target: its name, its lines, the signals for cleanups; None: runs where it seems to."""

    name: str
    wanted: Wanted
    signals: frozenset[int] = frozenset()
    runs_in: RunsIn | None = None


class Examination(NamedTuple):
    """What was found. `pid` is None where there is no such process."""

    name: str
    pid: int | None
    runs_in: RunsIn | None
    facts: tuple[Fact, ...]
    advice: tuple[Advice, ...]


def examine(pid: int, question: Question, now: float, roots: Roots | None = None) -> Examination:
    """Look at a process. `now` is Unix time. One that is not there, or ends meanwhile, has no pid in the answer."""
    try:
        patient = meet(pid, roots or Roots())
        found = _facts(patient, question, now)
        still_there(patient)
    except Hidden as hidden:
        return Examination(question.name, pid, None, (hidden.fact,), (unhide(question.runs_in or "shell"),))
    except TargetGone as gone:
        return absent(question, str(gone), gone.help)
    kind = question.runs_in or surroundings.runs_in(patient)
    advice = tuple(advise(patient, found, kind, question.runs_in is not None))
    return Examination(question.name, pid, kind, found, advice)


def absent(question: Question, what: str, do: str) -> Examination:
    """There is no such process."""
    return Examination(question.name, None, None, (Fact("reading", "process", "missing", what, do=do),), ())


def without_process(question: Question) -> Examination:
    """The target is an endpoint: no process of it is known, and none is missing."""
    fact = Fact("reading", "process", "info", "known by its URL alone: there is no process to look at")
    return Examination(question.name, None, None, (fact,), ())


def _facts(patient: Patient, question: Question, now: float) -> tuple[Fact, ...]:
    parts: Sequence[tuple[str, Iterator[Fact]]] = (
        ("identity", identity.facts(patient, now)),
        ("reading", reading.facts(patient)),
        ("reading", python.facts(patient)),
        ("memory", memory.facts(patient, question.wanted)),
        ("signals", signals.facts(patient, question.signals)),
        ("limits", surroundings.facts(patient)),
    )
    found = [fact for group, facts in parts for fact in attempt(group, facts)]
    return tuple(sorted(found, key=lambda fact: GROUPS.index(fact.group)))
