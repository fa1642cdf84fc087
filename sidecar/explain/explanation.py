"""One alerting rule explained: everything that is known of it, gathered by asking an API about one moment."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sidecar.errors import QueryError
from sidecar.explain import gate, narrow
from sidecar.explain.seen import SeenRule, targets
from sidecar.explain.tree import Answer, Node, everything, grow, questions
from sidecar.explain.verdict import Verdict, verdicts
from sidecar.promql.parse import parse
from sidecar.promql.values import Point

Ask = Callable[[str, float], Answer]
"""`ask(expression, at)`: its value at a moment, or the reason why there is none."""

WATCHED = "rag_target_up"


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was found. `at` is the moment of the rule's last evaluation, or now if there was none.

    `tree` is None where the expression cannot be read here, for `unreadable`. `lines` are target → line in bytes;
    `held` is target → why nothing is done although the condition is true, and `parked` the targets with no way left,
    each with the reason, empty where it is not known. `rests` is until when (Unix time) one held back rests.
    `acts` is whether a sidecar was asked: a Prometheus does nothing about a cleanup.
    """

    rule: SeenRule
    at: float
    tree: Node | None
    verdicts: tuple[Verdict, ...]
    unreadable: str = ""
    cleanup: gate.Wanted | None = None
    lines: Mapping[str, float] = field(default_factory=dict)
    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parked: Mapping[str, str] = field(default_factory=dict)
    acts: bool = False
    rests: Mapping[str, float] = field(default_factory=dict)


def explain(rule: SeenRule, ask: Ask, now: float, target: str | None = None, *, acts: bool = False,
            parked: Mapping[str, str] | None = None, rests: Mapping[str, float] | None = None) -> Explanation:
    """Ask about a rule and all parts of its expression, at the moment of its last evaluation.

    What is done about it is asked for `now`: that is decided after the evaluation. `parked` is target → why it is.
    With `target` all of it is about this one alone, also the rule's state; SidecarError where nobody knows it.
    """
    at = now if rule.evaluated_at is None else rule.evaluated_at
    try:
        expr = parse(rule.query, experimental=True)
        wanted = gate.wanted(rule)
    except QueryError as error:
        rule = _narrowed(rule, None, ask, now, target)
        known = tuple(Verdict(alert.labels.get("target", ""), alert.state, f"{rule.name} is {alert.state}.")
                      for alert in rule.alerts)
        quiet = Verdict(target or "", rule.state, f"{rule.name} is {rule.state}.")
        return Explanation(rule, at, None, known or (quiet,), str(error), acts=acts)
    tree = grow(expr, {text: ask(text, at) for text in questions(expr)})
    rule = _narrowed(rule, tree, ask, now, target)
    tree = tree if target is None else narrow.tree_of(tree, target)
    found = tuple(verdicts(rule, tree, at, target))
    if wanted is None:
        return Explanation(rule, at, tree, found, acts=acts)
    lines = gate.lines(_points(ask(str(wanted.line), at))) if wanted.line is not None else {}
    true = targets(tree.points)
    held = {name: why for name, why in _reasons(ask(gate.HELD, now)).items() if name in true} if acts else {}
    names = targets(_points(ask(gate.PARKED, now))) if acts else ()
    why = {name: (parked or {}).get(name, "") for name in names}
    return Explanation(rule, at, tree, found, "", wanted, narrow.only(lines, target), held,
                       narrow.only(why, target), acts, {name: at for name, at in (rests or {}).items() if name in held})


def _narrowed(rule: SeenRule, tree: Node | None, ask: Ask, now: float, target: str | None) -> SeenRule:
    """The rule as it is for this target. Raises SidecarError where neither the rule nor the server knows it."""
    if target is None:
        return rule
    known = targets([point for node in everything(tree) for point in node.points]) if tree else set()
    known |= {alert.labels["target"] for alert in rule.alerts if "target" in alert.labels}
    if target not in known:
        narrow.check(target, known | targets(_points(ask(WATCHED, now))), rule)
    return narrow.rule_of(rule, target)


def _points(answer: Answer) -> list[Point]:
    return answer if isinstance(answer, list) else []


def _reasons(answer: Answer) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for labels, value in _points(answer):
        if value and labels.get("target"):
            found[labels["target"]] = (*found.get(labels["target"], ()), labels.get("reason", ""))
    return found
