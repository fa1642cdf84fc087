"""What is left of an explanation that is to be of one target alone."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

from sidecar.errors import SidecarError
from sidecar.explain.seen import SeenRule
from sidecar.explain.tree import Node
from sidecar.model import Labels

MOST_NAMED = 20
_LOUDEST_FIRST = ("firing", "pending")


class _Labelled(Protocol):
    @property
    def labels(self) -> Labels: ...


_Each = TypeVar("_Each", bound=_Labelled)
_Value = TypeVar("_Value")


def rule_of(rule: SeenRule, target: str) -> SeenRule:
    """The rule with the target's own alerts, and with the state that these give it."""
    alerts = _of(rule.alerts, target)
    states = {alert.state for alert in alerts}
    quiet = "inactive" if rule.state in _LOUDEST_FIRST else rule.state
    return replace(rule, alerts=alerts, state=next((state for state in _LOUDEST_FIRST if state in states), quiet))


def tree_of(node: Node, target: str) -> Node:
    """The tree with the elements that speak of the target, or of none in particular."""
    return replace(node, points=_of(node.points, target), pairs=_of(node.pairs, target),
                   alone=_of(node.alone, target), parts=tuple(tree_of(part, target) for part in node.parts))


def only(found: Mapping[str, _Value], target: str | None) -> dict[str, _Value]:
    """What is kept by target, of this one; of all where it is None."""
    return {name: value for name, value in found.items() if target in (None, name)}


def check(target: str, known: Iterable[str], rule: SeenRule) -> None:
    """Raise SidecarError unless it is one of the targets that are known."""
    names = sorted(known)
    if target not in names:
        more = f" … and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
        listed = f"targets there: {', '.join(names[:MOST_NAMED])}{more}" if names else "no target is known there"
        raise SidecarError(f"there is no target {target} that {rule.name} could speak of", help=listed)


def _of(found: Iterable[_Each], target: str) -> tuple[_Each, ...]:
    return tuple(each for each in found if each.labels.get("target", target) == target)
