"""Pike's machine: runs a pattern over a value once, all alternatives side by side, in time linear in the value."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from sidecar.errors import QueryError
from sidecar.promql.pattern import (
    Border,
    Chars,
    Choice,
    Group,
    Node,
    PatternError,
    Ranges,
    Repeat,
    Sequence,
    char_class,
)

MAX_INSTRUCTIONS = 10_000
MAX_VISITS = 20_000
"""Instructions visited for one value, about 10 ms of them: nothing else goes on meanwhile."""

Saved = tuple[int, ...]


class _Step(NamedTuple):
    """One instruction. Exactly one of `test`, `border` and `save` is set, or none for a split or a jump to `next`."""

    next: tuple[int, ...]
    test: Callable[[str], object] | None = None
    border: re.Pattern[str] | None = None
    save: int = -1


class Program(NamedTuple):
    """The instructions, the first to run, and how many positions are saved: two for each group and for the whole."""

    steps: list[_Step]
    start: int
    saves: int


def assemble(node: Node, groups: int) -> Program:
    """The program of a pattern with that many groups. PatternError if it would be too long."""
    if _length(node) > MAX_INSTRUCTIONS:
        raise PatternError("its repetitions multiply to too large a pattern")
    steps = [_Step(())]  # instruction 0: the end of the pattern
    return Program(steps, _assemble(node, 0, steps), 2 * groups + 2)


def _assemble(node: Node, then: int, steps: list[_Step]) -> int:
    """Append the instructions of `node`, which go on to `then`. Returns the first of them."""
    match node:
        case Chars(ranges, folds):
            return _add(steps, _Step((then,), test=_test(ranges, folds)))
        case Border(pattern):
            return _add(steps, _Step((then,), border=re.compile(pattern)))
        case Sequence(parts):
            for part in reversed(parts):
                then = _assemble(part, then, steps)
            return then
        case Choice(parts):
            return _add(steps, _Step(tuple(_assemble(part, then, steps) for part in parts)))
        case Group(part, index):
            end = _add(steps, _Step((then,), save=2 * index + 1))
            return _add(steps, _Step((_assemble(part, end, steps),), save=2 * index))
        case Repeat():
            return _assemble_repeat(node, then, steps)


def _assemble_repeat(node: Repeat, then: int, steps: list[_Step]) -> int:
    if node.most is None:
        loop = _add(steps, _Step(()))
        body = _assemble(node.part, loop, steps)
        steps[loop] = _Step((body, then) if node.greedy else (then, body))
        then = loop
    else:
        out = then
        for _ in range(node.most - node.least):
            body = _assemble(node.part, then, steps)
            then = _add(steps, _Step((body, out) if node.greedy else (out, body)))
    for _ in range(node.least):
        then = _assemble(node.part, then, steps)
    return then


@lru_cache(maxsize=128)  # what is repeated shares its test
def _test(ranges: Ranges, folds: bool) -> Callable[[str], object]:
    return re.compile(char_class(ranges), re.DOTALL | (re.IGNORECASE if folds else 0)).fullmatch


def _length(node: Node) -> int:
    """How many instructions that will be."""
    match node:
        case Sequence(parts):
            return sum(map(_length, parts))
        case Choice(parts):
            return 1 + sum(map(_length, parts))
        case Group(part, _):
            return 2 + _length(part)
        case Repeat(part, least, None, _):
            return 1 + (least + 1) * _length(part)
        case Repeat(part, least, most, _):
            assert most is not None
            return most * _length(part) + most - least
        case _:
            return 1


def _add(steps: list[_Step], step: _Step) -> int:
    steps.append(step)
    return len(steps) - 1


def run(program: Program, text: str) -> list[str | None] | None:
    """The whole match and its groups if all of `text` matches, else None. QueryError after MAX_VISITS."""
    left = MAX_VISITS
    threads, left = _follow(program, [(program.start, (-1,) * program.saves)], text, 0, left)
    for at, char in enumerate(text):
        moved: list[tuple[int, Saved]] = []
        for index, saved in threads:
            step = program.steps[index]
            if step.test is not None and step.test(char):
                moved.append((step.next[0], saved))
        if not moved:
            return None
        threads, left = _follow(program, moved, text, at + 1, left)
    for index, saved in threads:
        if index == 0:
            pairs = [(0, len(text)), *zip(saved[2::2], saved[3::2], strict=True)]
            return [text[low:high] if low >= 0 <= high else None for low, high in pairs]
    return None


def _follow(program: Program, threads: list[tuple[int, Saved]], text: str, at: int,
            left: int) -> tuple[list[tuple[int, Saved]], int]:
    """Run every thread up to its next character, preferred ones first; a place reached before is not visited again.

    Returns the threads, and how many of the visits that were `left` are left now.
    """
    found: list[tuple[int, Saved]] = []
    seen: set[int] = set()
    stack = threads[::-1]
    while stack:
        index, saved = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        if len(seen) > left:
            raise QueryError(f"a pattern of {len(program.steps)} instructions needs more than {MAX_VISITS} steps for a "
                             f"value of {len(text)} characters ({at} read and not done)",
                             help="write it without a repeat inside a repeat, or match shorter values")
        step = program.steps[index]
        if step.test is not None or index == 0:
            found.append((index, saved))
        elif step.save >= 0:
            stack.append((step.next[0], (*saved[:step.save], at, *saved[step.save + 1:])))
        elif step.border is None or step.border.match(text, at):
            stack.extend((after, saved) for after in reversed(step.next))
    return found, left - len(seen)
