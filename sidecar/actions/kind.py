"""What the memory was that a cleanup met: free but kept, held on purpose, leaking, mapped, still loading. Pure.

Told from bytes, from the steps that an agent tells, and from what cleanups of the same process brought before. Where
the facts do not carry a kind it is `unknown`. The rules are our own; docs/verdicts.md lists the kinds.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from sidecar.actions.verify import noise

Kind = Literal["retention", "cache", "leak", "file_mapped", "warm_up", "unknown"]

MOST = 0.5
"""The part from which on something accounts for a figure."""
WARM_UP_SECONDS = 600.0
"""By then models, indexes and pools are mostly loaded; what a younger process takes is not called a leak."""
GROWTH_SECONDS = 60.0
"""Growth is measured over so long: what it brings in that time must be more than noise."""
FAILURES = 2
"""Cleanups in a row of one process without any that helped, the last included: one may have come at a bad time."""
MANY_OBJECTS = 1000
"""Garbage in cycles that one cleanup found. Fewer is usual; so many may be all that was freed."""

FREE_STEPS = ("gc", "torch", "release")
HELD_STEPS = ("cache", "cleaner", "model")
"""The agent's steps by the part of their name before the colon: what nobody used, and what the program held."""


class Memory(NamedTuple):
    """Bytes of a target at one moment; None is not known. `used_bytes` is on the basis of its lines."""

    used_bytes: float | None = None
    anon_bytes: float | None = None
    file_bytes: float | None = None
    rss_bytes: float | None = None


class Facts(NamedTuple):
    """What is known of a judged attempt.

    `growth` was measured before it, in bytes per second. `steps` are as the agent tells them: `step`, `freed_bytes`,
    `objects`. `age_seconds` is that of the process when it was asked; `helped` and `failed` count earlier attempts on
    the same process: effective or partial, and ineffective. `releasable_bytes` is what the allocator could have
    returned right before.
    """

    outcome: str
    freed_bytes: float | None = None
    growth: float = 0.0
    cleanup: str = ""
    steps: Sequence[Mapping[str, Any]] = ()
    before: Memory = Memory()
    after: Memory = Memory()
    age_seconds: float | None = None
    rebounded: bool | None = None
    helped: int = 0
    failed: int = 0
    releasable_bytes: float | None = None


class Meaning(NamedTuple):
    """A kind in words: what it is, and what helps."""

    what: str
    helps: str


MEANINGS: Mapping[Kind, Meaning] = MappingProxyType({
    "retention": Meaning(
        "Nobody used it any more, and the process kept it all the same: free inside the allocator, or garbage.",
        "Trimming returns it, as a light cleanup does; fewer malloc arenas (MALLOC_ARENA_MAX=2) keep less of it."),
    "cache": Meaning(
        "The program held it on purpose: caches, histories, models.",
        "Give the cache a bound: a cleanup empties it only until it has filled again."),
    "leak": Meaning(
        "It grows, and no cleanup gets it back.",
        "Recycle the process before it is killed; `rag-sidecar profile` says which lines allocate what it keeps."),
    "file_mapped": Meaning(
        "These are pages of files, such as weights or an index: the kernel takes them back when it needs room.",
        "Nothing has to be done. `memory: {basis: anon}` leaves them out of what is compared."),
    "warm_up": Meaning(
        "The process is young and still loads: models, indexes, pools.",
        "Wait. If it stays over its line once it is warm, the line is too low for it."),
    "unknown": Meaning(
        "What it was cannot be told from what is known.",
        "An agent in the program tells what each step of a cleanup returned."),
})

CAME_BACK = "It came back within a minute: the program needs it in turns, and a cleanup only moves it."


def kind_of(facts: Facts) -> Kind:
    """What the memory was; `unknown` where the facts do not carry it."""
    if facts.outcome not in ("effective", "partial", "ineffective"):
        return "unknown"
    if _is_of_files(facts):
        return "file_mapped"
    return _of_what_stayed(facts) if facts.outcome == "ineffective" else _of_what_went(facts)


def sentences(facts: Facts) -> str:
    """The kind for people: what it is, whether it came back, what helps."""
    meaning = MEANINGS[kind_of(facts)]
    return " ".join((meaning.what, *([CAME_BACK] if facts.rebounded else []), meaning.helps))


def _is_of_files(facts: Facts) -> bool:
    """Pages of files are most of what is compared, which is so on the basis `rss` or `endpoint` alone.

    Where something fell it must be they that fell, too.
    """
    used, anon, file, rss = facts.before
    if not used or anon is None or file is None or used - anon < MOST * used or file < MOST * used:
        return False
    if facts.outcome == "ineffective":
        return True
    if facts.after.file_bytes is None or facts.after.rss_bytes is None or rss is None:
        return False
    fallen = rss - facts.after.rss_bytes
    return fallen > 0 and file - facts.after.file_bytes >= MOST * fallen


def _of_what_stayed(facts: Facts) -> Kind:
    """Nothing was freed. Light cleanups do not count: caches are not their business."""
    if facts.growth * GROWTH_SECONDS <= noise(facts.before.used_bytes or 0.0):
        return "unknown"
    if facts.age_seconds is None:
        return "unknown"
    if facts.age_seconds < WARM_UP_SECONDS:
        return "warm_up"
    lost = facts.cleanup != "light" and not facts.helped and facts.failed + 1 >= FAILURES
    return "leak" if lost else "unknown"


def _of_what_went(facts: Facts) -> Kind:
    """By the agent's steps, if they account for what was measured from outside.

    What a step lets go of often leaves the process only with the release, which comes last. So where the program's own
    caches were among the steps, the release counts as theirs, unless the allocator could have returned it before.
    """
    of_kind = {kind: [step for step in facts.steps if str(step.get("step", "")).partition(":")[0] in kind]
               for kind in (FREE_STEPS, HELD_STEPS)}
    free, held = (sum(_figure(step, "freed_bytes") for step in of_kind[kind]) for kind in (FREE_STEPS, HELD_STEPS))
    told, measured = free + held, facts.freed_bytes or 0.0
    if told <= 0 or measured <= 0 or not MOST <= measured / told <= 1 / MOST:
        return "unknown"
    if held >= MOST * told:
        return "cache"
    if not any("error" not in step for step in of_kind[HELD_STEPS]):
        return "retention"
    if facts.releasable_bytes is None:
        return "unknown"
    if facts.releasable_bytes >= MOST * told:
        return "retention"
    garbage = sum(_figure(step, "objects") for step in of_kind[FREE_STEPS])
    return "unknown" if garbage >= MANY_OBJECTS else "cache"


def _figure(step: Mapping[str, Any], name: str) -> float:
    value = step.get(name)
    return max(0.0, value) if isinstance(value, int | float) else 0.0
