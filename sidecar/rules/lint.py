"""What loads and is yet unlikely to be meant: a metric that nobody measures, a cleanup that never comes, and the like.

Each lint is one small function from a rule to what it finds. They look at the rules of all files together, as the
daemon loads them.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, get_args

from sidecar.errors import Problem, QueryError
from sidecar.model import METRIC_NAME, Cleanup
from sidecar.promql.notation import format_duration
from sidecar.promql.parse import parse
from sidecar.promql.tree import Call, Expr, MatrixSelector, Paren, Subquery, VectorSelector, metric_names, reads, walk
from sidecar.rules.alerting import AlertingRule
from sidecar.rules.load import RuleFile
from sidecar.rules.nodes import Fields, Items, Node, Scalar
from sidecar.rules.rule import Terms
from sidecar.rules.spec import AlertingSpec, GroupSpec, RecordingSpec, RuleSpec
from sidecar.rules.standing import unforeseeable

OURS = ("rag_", "rag:")
SEVERITIES = ("info", "warning", "critical")
CLEANUPS: tuple[str, ...] = get_args(Cleanup)

_COUNTING = ("rate", "irate", "increase", "resets")
_GAUGING = ("delta", "idelta", "deriv", "predict_linear", "double_exponential_smoothing")
_PLAIN_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What rules can count on where they are loaded.

    `types` are the types of the sidecar's metrics by the names of their series; `recorded` names, for series that the
    shipped rules record, the file that does. A series keeps `kept_samples`, one each `slot_seconds`, as long as there
    are a hundred like it.
    """

    types: Mapping[str, str]
    levels: Sequence[str]
    kept_samples: int
    slot_seconds: float
    recorded: Mapping[str, str]


class Lint(NamedTuple):
    """One finding. `do` says what would settle it."""

    name: str
    problem: Problem
    do: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A rule with the places of its parts."""

    file: str
    group: GroupSpec
    rule: RuleSpec
    where: str
    node: Fields

    @property
    def place(self) -> tuple[int, int]:
        """Where its name stands."""
        return next(self.node.entries[kind].place for kind in ("alert", "record") if kind in self.node.entries)

    def place_of(self, expr: Expr) -> tuple[int, int]:
        """Where a part of its expression stands."""
        text = self.node.entries["expr"]
        return text.place_of(expr.position) if isinstance(text, Scalar) else text.place

    def place_in(self, field: str, name: str) -> tuple[int, int]:
        """Where a label or an annotation stands; the rule's own place for one of its group's."""
        holder = self.node.entries.get(field)
        return holder.keys.get(name, self.place) if isinstance(holder, Fields) else self.place


Identity = tuple[str, frozenset[tuple[str, str]]]
"""By what rules are told apart: name and labels."""


@dataclass(frozen=True, slots=True)
class Company:
    """The rules that are loaded together."""

    catalogue: Catalogue
    first: Mapping[Identity, Subject]
    """The first rule of each name and labels."""
    intervals: Mapping[str, float]
    """Series that the rules record, with how far apart their samples are at least."""


Found = Iterator[tuple[tuple[int, int], str, str]]
"""Place, what was found there, and what to do."""


def lint(files: Iterable[RuleFile], catalogue: Catalogue, names: Iterable[str]) -> list[Lint]:
    """What the lints of these names find in files without problems, in the order of the files."""
    subjects = [subject for file in files for subject in _subjects(file)]
    intervals = {subject.rule.name: max(catalogue.slot_seconds, subject.group.interval_seconds or 0.0)
                 for subject in subjects if isinstance(subject.rule, RecordingSpec)}
    first = {_identity(subject): subject for subject in reversed(subjects)}
    company, found = Company(catalogue, first, intervals), []
    for subject in subjects:
        lints = [Lint(name, Problem(subject.file, *place, subject.where, what), do)
                 for name in names for place, what, do in LINTS[name](subject, company)]
        found += sorted(lints, key=lambda one: (one.problem.line, one.problem.column))
    return found


def _subjects(file: RuleFile) -> Iterator[Subject]:
    if isinstance(file.document, Fields):
        for group, group_node in zip(file.groups, _items(file.document, "groups"), strict=True):
            nodes = _items(group_node, "rules")
            for index, (rule, node) in enumerate(zip(group.rules, nodes, strict=True), 1):
                assert isinstance(node, Fields)
                where = f'group "{group.name}", rule {index} ("{rule.name}")'
                yield Subject(str(file.path), group, rule, where, node)


def _items(node: Node, name: str) -> tuple[Node, ...]:
    child = node.entries.get(name) if isinstance(node, Fields) else None
    return child.items if isinstance(child, Items) else ()


def _duplicate_rules(subject: Subject, company: Company) -> Found:
    """The same name and labels as a rule before: one of them hides the other (promtool's lint)."""
    other = company.first[_identity(subject)]
    if other is not subject:
        yield (subject.place, f"same name and labels as the rule at {other.file}:{other.place[0]}:{other.place[1]}",
               "drop one of the two, or tell them apart by a label")


def _identity(subject: Subject) -> Identity:
    return subject.rule.name, frozenset(subject.rule.labels.items())


def _unknown_metric(subject: Subject, company: Company) -> Found:
    """A `rag_` metric that the sidecar does not have, or a `rag:` one that no rule records."""
    known = {*company.catalogue.types, *company.intervals}
    read = {name: node for node in reversed([*walk(subject.rule.expr)]) for name in _names(node)}
    for name, node in read.items():
        if name.startswith(OURS) and name not in known:
            near = difflib.get_close_matches(name, known, 1)
            shipped = company.catalogue.recorded.get(name)
            do = (f"the shipped {shipped} records it: check and load both files" if shipped
                  else f"did you mean {near[0]}?" if near else "docs/metrics.md names all that there are")
            yield subject.place_of(node), f"there is no metric {name}, so nothing is selected", do


def _names(node: Expr) -> Iterator[str]:
    if isinstance(node, VectorSelector):
        yield from (matcher.value for matcher in node.matchers if matcher.name == METRIC_NAME and matcher.op == "=")


def _wrong_function(subject: Subject, company: Company) -> Found:
    """A function for counters on a gauge, or one for gauges on a counter."""
    for node in walk(subject.rule.expr):
        if not isinstance(node, Call) or node.function not in (*_COUNTING, *_GAUGING):
            continue
        for name in _names(_inner(node.arguments[0])):
            kind = company.catalogue.types.get(name)
            if kind == "gauge" and node.function in _COUNTING:
                yield (subject.place_of(node), f"{node.function}() on the gauge {name}: every fall counts as a reset",
                       "deriv() and delta() are for gauges")
            elif kind == "counter" and node.function in _GAUGING:
                yield (subject.place_of(node), f"{node.function}() on the counter {name}: a restart looks like a fall",
                       "rate() and increase() are for counters")


def _inner(expr: Expr) -> Expr:
    """The selector that a range is made of, or what else is there."""
    while isinstance(expr, Paren | Subquery | MatrixSelector):
        expr = expr.selector if isinstance(expr, MatrixSelector) else expr.expr
    return expr


def _look_back(subject: Subject, company: Company) -> Found:
    """A look further back than samples are sure to be kept."""
    catalogue = company.catalogue
    for name, seconds in reads(subject.rule.expr).items():
        back = seconds + subject.group.query_offset_seconds
        longest = catalogue.kept_samples * company.intervals.get(name, catalogue.slot_seconds)
        if back > longest:
            how_far = format_duration(back) if back < float("inf") else "to a fixed time"
            yield (subject.place_of(subject.rule.expr),
                   f"looks back {how_far} at {name or 'every metric'}: of a hundred such series the store keeps "
                   f"{format_duration(longest // 60 * 60)}, and none through a restart",
                   "record a coarser series in a group with a longer interval and look back at that one")


def _labels(subject: Subject, company: Company) -> Found:
    """Labels that an alert about the sidecar's metrics lacks, and values that the sidecar does not know."""
    rule = subject.rule
    if not isinstance(rule, AlertingSpec):
        return
    levels = company.catalogue.levels
    if "cleanup" in rule.labels and "level" not in rule.labels:
        yield subject.place, "asks for a cleanup and has no label level", f"add level: {_either(levels)}"
    if _ours(rule) and "severity" not in rule.labels:
        yield subject.place, "has no label severity, how loud it is", f"add severity: {_either(SEVERITIES)}"
    for name, values in (("level", levels), ("severity", SEVERITIES), ("cleanup", CLEANUPS)):
        text = rule.labels.get(name, "{{")
        if "{{" not in text and text not in values and (name != "severity" or _ours(rule)):
            near = difflib.get_close_matches(text, values, 1)
            effect = ": nothing is cleaned up" if name == "cleanup" else ""
            yield (subject.place_in("labels", name), f"{name}: {text} is not known{effect}",
                   f"did you mean {near[0]}?" if near else f"write {_either(values)}")


def _ours(rule: AlertingSpec) -> bool:
    """Whether an alert is about what the sidecar measures or does; others have a vocabulary of their own."""
    return bool({"level", "cleanup"} & rule.labels.keys()) or any(
        name.startswith(OURS) for name in metric_names(rule.expr))


def _either(values: Sequence[str]) -> str:
    return f"{', '.join(values[:-1])} or {values[-1]}"


def _summary(subject: Subject, company: Company) -> Found:
    """An alert about the sidecar's metrics that does not say in words what happens."""
    if isinstance(subject.rule, AlertingSpec) and _ours(subject.rule) and not subject.rule.annotations.get("summary"):
        yield subject.place, "has no annotation summary", "say in one line what happened to which target"


def _runbook(subject: Subject, company: Company) -> Found:
    """A critical alert that does not say what to do."""
    rule = subject.rule
    if (isinstance(rule, AlertingSpec) and rule.labels.get("severity") == "critical"
            and not rule.annotations.get("runbook_url")):
        yield subject.place, "is critical and has no annotation runbook_url", "say where stands what to do about it"


def _gate(subject: Subject, company: Company) -> Found:
    """An alert with `cleanup` whose condition cannot be read anew, so that the cleanup never comes."""
    rule = subject.rule
    if not isinstance(rule, AlertingSpec) or "cleanup" not in rule.labels:
        return
    reason = unforeseeable(AlertingRule(rule, Terms(1.0, query_offset_seconds=subject.group.query_offset_seconds)))
    if reason:
        yield (subject.place_of(rule.expr), f"the cleanup never comes: {reason}",
               "write labels that stay the same while the alert fires, or drop the label cleanup")


def _experimental(subject: Subject, company: Company) -> Found:
    """A function that Prometheus may still change; it only loads with --enable-feature."""
    node = subject.node.entries["expr"]
    if isinstance(node, Scalar):
        try:
            parse(node.text or "")
        except QueryError as error:
            yield (node.place_of(error.position), str(error).replace(" cannot be evaluated: it", ""),
                   "load it with the feature promql-experimental-functions, here and in Prometheus")


def _alertmanager(subject: Subject, company: Company) -> Found:
    """Names that an Alertmanager before 0.27 refuses, and labels that no alert can carry."""
    rule = subject.rule
    if not isinstance(rule, AlertingSpec):
        return
    if "alertname" in rule.labels:
        yield subject.place_in("labels", "alertname"), "label alertname: the alert's own name replaces it", "drop it"
    for field, names in (("labels", rule.labels), ("annotations", rule.annotations)):
        for name in names:
            if not _PLAIN_NAME.fullmatch(name):
                yield (subject.place_in(field, name),
                       f"{field[:-1]} {name}: an Alertmanager before 0.27 refuses the alert",
                       "use letters, digits and _ alone, and no digit first")


LINTS: dict[str, Callable[[Subject, Company], Found]] = {
    "duplicate-rules": _duplicate_rules,
    "unknown-metric": _unknown_metric,
    "wrong-function": _wrong_function,
    "look-back": _look_back,
    "labels": _labels,
    "summary": _summary,
    "runbook": _runbook,
    "gate": _gate,
    "experimental": _experimental,
    "alertmanager": _alertmanager,
}
"""Every lint by its name."""
