"""How long a backtracking engine could take over a pattern, told before it runs."""

from math import prod

from sidecar.promql.pattern import Choice, Group, Node, Repeat, Sequence

OPEN_REPEATS_BACKTRACKED = 2
WAYS_BACKTRACKED = 10_000
MAX_ATTEMPTS = 1_000_000
"""Of backtracking over one value, of 5 to 10 ns each."""


def longest(node: Node) -> float:
    """Up to how many characters backtracking over a value stays within MAX_ATTEMPTS; 0 for a pattern that runs away."""
    if runs_away(node):
        return 0.0
    repeats = _repeats(node)
    return float((MAX_ATTEMPTS / _ways(node)) ** (1 / repeats)) if repeats else float("inf")


def runs_away(node: Node) -> bool:
    """Whether backtracking could take more than about the square of a value's length."""
    return _repeats(node) > OPEN_REPEATS_BACKTRACKED or _ways(node) > WAYS_BACKTRACKED


def _ways(node: Node) -> int:
    """How many ways there are through the choices; repeats aside, which `_repeats` counts."""
    match node:
        case Sequence(parts):
            return prod(map(_ways, parts))
        case Choice(parts):
            return sum(map(_ways, parts))
        case Group(part, _):
            return _ways(part)
        case Repeat(part, _, most, _):
            return _ways(part) + (most == 1)
        case _:
            return 1


def _repeats(node: Node) -> int:
    """How many open repeats can compete for the same characters; a repeat of anything that varies counts as endless."""
    match node:
        case Sequence(parts):
            return sum(map(_repeats, parts))
        case Choice(parts):
            return max(map(_repeats, parts))
        case Group(part, _):
            return _repeats(part)
        case Repeat(part, _, most, _):
            if most is not None and most <= 1:
                return _repeats(part)
            return 99 if _varies(part) else 1
        case _:
            return 0


def _varies(node: Node) -> bool:
    match node:
        case Sequence(parts):
            return any(map(_varies, parts))
        case Choice() | Repeat():
            return True
        case Group(part, _):
            return _varies(part)
        case _:
            return False
