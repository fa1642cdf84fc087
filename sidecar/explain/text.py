"""An explanation as a screen: the rule, its expression as a tree of values, its timers, one sentence at the end."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from sidecar.actions.facts import SENTENCES as REASONS
from sidecar.actions.facts import Reason
from sidecar.explain.because import distance
from sidecar.explain.explanation import Explanation
from sidecar.explain.pairs import COMPARISONS, Alone, Pair
from sidecar.explain.seen import printable
from sidecar.explain.tree import Node, everything
from sidecar.explain.units import readable, unit_of
from sidecar.explain.verdict import SENTENCES, clock, summary
from sidecar.model import METRIC_NAME, Labels
from sidecar.promql.notation import format_duration, label_name, quote
from sidecar.promql.tree import Aggregate, Binary, Call, Expr, NumberLiteral, StringLiteral

NARROWEST, WIDEST = 40, 160
SHOWN = 5
"""So many elements of a part are shown; the others are counted."""
_COLOURS = {"firing": "31", "pending": "33", "inactive": "32", "unknown": "2", "dim": "2", "bold": "1"}


class Screen(NamedTuple):
    """What the terminal can do. `plain`: it has no such characters as └."""

    width: int = 80
    colour: bool = False
    plain: bool = False

    def paint(self, text: str, what: str) -> str:
        """Text in the colour of a state."""
        return f"\x1b[{_COLOURS[what]}m{text}\x1b[0m" if self.colour and what in _COLOURS else text

    @property
    def room(self) -> int:
        """Columns to fill."""
        return min(max(self.width, NARROWEST), WIDEST)

    def wrapped(self, text: str, first: str, further: str) -> Iterator[str]:
        """Lines of text, the first one and the others behind their own indent; long words are cut."""
        yield from textwrap.wrap(text, self.room, initial_indent=first, subsequent_indent=further,
                                 break_on_hyphens=False) or [first.rstrip()]


def as_text(explained: Explanation, screen: Screen) -> str:
    """The whole screen."""
    rule = explained.rule
    title = f"{screen.paint(rule.name, 'bold')}  {screen.paint(rule.state, rule.state)}"
    lines = [title, *_about(explained, screen), ""]
    if explained.tree is None or _heading(explained.tree, screen.room - 2) != explained.rule.query:
        lines += [*screen.wrapped(printable(rule.query), "  ", "    "), ""]
    if explained.tree is None:
        lines += [*screen.wrapped(f"It cannot be read here: {explained.unreadable}", "  ", "  ")]
    else:
        hidden = _common(explained.tree)
        lines += _Tree(hidden, screen).lines(explained.tree)
        if hidden:
            lines += ["", *_row("labels", f"everywhere {_labels(hidden, Labels())}", screen)]
    lines += ["", *_timers(explained, screen)]
    lines += [""] if lines[-1] else []
    for sentence in summary(explained.verdicts):
        lines += screen.wrapped(sentence, "", "")
    text = "\n".join(lines)
    return text.replace("…", "...").encode("ascii", "backslashreplace").decode() if screen.plain else text


def _row(name: str, text: str, screen: Screen) -> Iterator[str]:
    yield from screen.wrapped(text, f"  {name:<9} ", " " * 12)


def _about(explained: Explanation, screen: Screen) -> Iterator[str]:
    rule = explained.rule
    every = f"every {format_duration(rule.interval_seconds)}"
    yield from _row("rule", f"group {rule.group} in {rule.file}, {every}", screen)
    yield from _row("health", rule.health + (f": {rule.error}" if rule.error else ""), screen)
    if rule.labels:
        yield from _row("labels", " ".join(f"{name}={quote(value)}" for name, value in rule.labels.items()), screen)
    holds = [f"for {format_duration(rule.for_seconds)}"] if rule.for_seconds else []
    holds += [f"keep_firing_for {format_duration(rule.keep_seconds)}"] if rule.keep_seconds else []
    if holds:
        yield from _row("holds", ", ".join(holds), screen)
    never = ", its last evaluation" if rule.evaluated_at is not None else ": it has not been evaluated yet"
    yield from _row("moment", clock(explained.at) + never, screen)


def _timers(explained: Explanation, screen: Screen) -> Iterator[str]:
    """What comes when, and what is done about it."""
    for verdict in explained.verdicts[:SENTENCES]:
        if verdict.timer:
            whom = f"{verdict.target}: " if verdict.target else ""
            yield from _row("timer", whom + verdict.timer, screen)
    wanted = explained.cleanup
    if wanted is None:
        return
    if wanted.at_once:
        said = (f"{wanted.level}; nothing but used bytes decides it, so it is decided in advance: the guard acts at "
                "the crossing, where mode and channels let it")
    elif wanted.line is not None:
        said = f"{wanted.level}, while its condition is true and once the alert fires; not in advance: {wanted.reason}"
    elif wanted.never:
        said = f"{wanted.level} is asked for, but never comes: {wanted.reason}"
    else:
        said = f"{wanted.level}, once each time the alert fires, while its condition is true: {wanted.reason}"
    yield from _row("cleanup", said, screen)
    if explained.lines:
        shown = [f"{name}: {readable(line, 'bytes')}" for name, line in sorted(explained.lines.items())]
        more = f" … and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        yield from _row("line", ", ".join(shown[:SHOWN]) + more, screen)
    if not explained.acts:
        yield from _row("", "A Prometheus was asked, which only tells. A sidecar with this rule cleans up.", screen)
    for name in sorted(explained.held.keys() | explained.parked.keys()):  # of rules whose condition is true now
        parked = [each for each in (explained.parked[name], "parked") if each] if name in explained.parked else []
        reasons = dict.fromkeys([*explained.held.get(name, ()), *parked])
        rest = f" The rest lasts until {clock(explained.rests[name])}." if name in explained.rests else ""
        yield from _row("held back", f"{name}: {' '.join(map(_reason, reasons))}{rest}", screen)


def _reason(name: str) -> str:
    """Why nothing is done, in words; a reason that is not known here comes from a newer sidecar."""
    if name not in {reason.value for reason in Reason}:
        return f"{name}."
    sentence = REASONS[Reason(name)]
    return f"{name}: {sentence[0].lower()}{sentence[1:]}"


def _common(tree: Node) -> Labels:
    """The labels that every element has with the same value: said once, they need not be said again."""
    all_labels = [point.labels.without(METRIC_NAME) for node in everything(tree) for point in node.points
                  if node.kind != "number"]
    shared = dict(all_labels[0]) if all_labels else {}
    for labels in all_labels:
        shared = {name: value for name, value in shared.items() if labels.get(name) == value}
    return Labels(shared).without("target")


def _labels(labels: Labels, hidden: Labels) -> str:
    return " ".join(f"{label_name(name)}={quote(value)}" for name, value in labels.items()
                    if name != METRIC_NAME and name not in hidden)


class _Tree:
    """Writes a tree. Lives as long as one screen."""

    def __init__(self, hidden: Labels, screen: Screen) -> None:
        self._hidden = hidden
        self._screen = screen
        self._branch, self._end, self._down = ("|- ", "`- ", "|  ") if screen.plain else ("├─ ", "└─ ", "│  ")

    def lines(self, node: Node, first: str = "  ", further: str = "  ") -> Iterator[str]:
        """A part with its values, and then those inside it."""
        below = further + (self._down if node.parts else "   ")
        yield from self._screen.wrapped(_heading(node, self._screen.room - len(first)), first, below)
        for said in self._said(node):
            yield from self._screen.wrapped(said, below, f"{below}  ")
        for index, part in enumerate(node.parts):
            last = index == len(node.parts) - 1
            yield from self.lines(part, further + (self._end if last else self._branch),
                                  further + ("   " if last else self._down))

    def _said(self, node: Node) -> Iterator[str]:
        if node.error:
            yield f"cannot be evaluated: {node.error}"
            return
        expr, unit = node.expr, node.unit
        if isinstance(expr, Binary) and expr.op in COMPARISONS and (node.pairs or node.alone):
            rows = [(pair.labels, self._pair(node, expr, pair)) for pair in node.pairs]
        elif node.kind == "range":
            rows = [(point.labels, f"{point.value:.0f} sample{'' if point.value == 1 else 's'}")
                    for point in node.points]
        else:
            rows = [(point.labels, readable(point.value, unit)) for point in node.points]
        yield from self._rows(rows) if rows or node.alone else ("nothing",)
        if isinstance(expr, Binary) and expr.op == "unless" and node.pairs:
            taken = [(pair.labels, f"taken away by {_short(expr.right)}") for pair in node.pairs]
            yield from self._rows(taken)
        yield from self._rows([(one.labels, self._lonely(node, one)) for one in node.alone])

    def _pair(self, node: Node, expr: Binary, pair: Pair) -> str:
        left, right = readable(pair.left, node.unit), readable(pair.right, node.unit)
        answer = self._screen.paint("yes", "firing") if pair.holds else "no"
        return f"{left} {expr.op} {right}: {answer}{distance(expr, pair, node)}"

    def _lonely(self, node: Node, one: Alone) -> str:
        assert isinstance(node.expr, Binary)
        value = readable(one.value, unit_of(node.expr.left if one.side == "left" else node.expr.right))
        return f"{value}, of the {one.side} side, has no partner: {one.why}"

    def _rows(self, rows: Sequence[tuple[Labels, str]]) -> Iterable[str]:
        """Elements, aligned; the rest is counted."""
        ordered = sorted(rows, key=lambda row: [*row[0].items()])
        shown = [(_labels(labels, self._hidden), text) for labels, text in ordered[:SHOWN]]
        widest = min(max((len(labels) for labels, _ in shown), default=0), self._screen.room // 2)
        for labels, text in shown:
            yield f"{labels:<{widest}}  {text}" if widest else text
        if len(rows) > SHOWN:
            yield f"… and {len(rows) - SHOWN} more"


def _heading(node: Node, room: int) -> str:
    """A part as it is written; where that is long, what is inside it, and shown below, is left out."""
    expr, text = node.expr, node.text
    if len(text) <= room or not node.parts:
        return text
    match expr:
        case Binary():
            return f"… {expr.op}{' bool' if expr.returns_bool else ''}{expr.matching} {_literal(expr.right)}"
        case Aggregate():
            by = f" {'without' if expr.without else 'by'} ({', '.join(expr.grouping)})"
            return f"{expr.op}{by if expr.without or expr.grouping else ''} (…)"
        case Call():
            return f"{expr.function}({', '.join(map(_literal, expr.arguments))})"
    return text


def _literal(expr: Expr) -> str:
    return str(expr) if isinstance(expr, NumberLiteral | StringLiteral) else "…"


def _short(expr: Expr) -> str:
    text = str(expr)
    return text if len(text) <= 40 else text[:39] + "…"
