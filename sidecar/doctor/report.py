"""What was found: a calm screen for people, JSON for programs."""

import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sidecar.doctor.advice import Advice
from sidecar.doctor.examination import GROUPS, Examination
from sidecar.doctor.facts import Fact, State

WELL, GONE, MISSING = 0, 1, 3
MARKS: dict[State, str] = {"ok": "✓", "info": "·", "warning": "!", "missing": "✗"}
PLAIN_MARKS: dict[State, str] = {"ok": "+", "info": "-", "warning": "!", "missing": "x"}
COLOURS: dict[State, str] = {"ok": "32", "info": "2", "warning": "33", "missing": "31"}
NARROWEST, WIDEST = 40, 120


class Style(NamedTuple):
    """What the terminal can do. `plain`: it has no such characters as ✓."""

    width: int = 80
    colour: bool = False
    plain: bool = False

    def mark(self, state: State) -> str:
        """The sign for a state."""
        sign = (PLAIN_MARKS if self.plain else MARKS)[state]
        return f"\x1b[{COLOURS[state]}m{sign}\x1b[0m" if self.colour else sign

    def bold(self, text: str) -> str:
        """A heading."""
        return f"\x1b[1m{text}\x1b[0m" if self.colour else text


def code(machine: Sequence[Fact], examinations: Sequence[Examination]) -> int:
    """The exit code: 0 all well (warnings too), 3 something is missing, 1 a process is not there."""
    states = [fact.state for fact in machine] + [fact.state for each in examinations for fact in each.facts]
    if "missing" not in states:
        return WELL
    return GONE if any(each.pid is None and each.facts[0].state == "missing" for each in examinations) else MISSING


def as_json(machine: Sequence[Fact], examinations: Sequence[Examination]) -> str:
    """Everything, under stable keys."""
    targets: list[dict[str, Any]] = [
        {**each._asdict(), "facts": [fact._asdict() for fact in each.facts],
         "advice": [advice._asdict() for advice in each.advice]} for each in examinations]
    return json.dumps({"code": code(machine, examinations), "machine": [fact._asdict() for fact in machine],
                       "targets": targets}, indent=2)


def as_text(machine: Sequence[Fact], examinations: Sequence[Examination], style: Style) -> str:
    """The screen."""
    blocks = [] if not machine else [_section("this machine, this sidecar", machine, style)]
    for each in examinations:
        pid = "" if each.pid is None else f", pid {each.pid}"
        blocks.append(_section(f"target {each.name}{pid}", each.facts, style))
        blocks += [_advice(advice, style) for advice in each.advice]
    facts = [*machine, *(fact for each in examinations for fact in each.facts)]
    screen = "\n\n".join([*blocks, _sum(facts, style)])
    return screen.encode("ascii", "backslashreplace").decode() if style.plain else screen


def _section(title: str, facts: Sequence[Fact], style: Style) -> str:
    lines = [style.bold(title)]
    widest = max(len(fact.name) for fact in facts)
    for group in GROUPS:
        members = [fact for fact in facts if fact.group == group]
        if members:
            lines += ["", *([] if group == "machine" else [style.bold(group)]), *_group(members, widest, style)]
    return "\n".join(lines)


def _group(facts: Sequence[Fact], widest: int, style: Style) -> Iterator[str]:
    """A line for each fact; what several have in common, the reason and what to do, is said once below them."""
    for fact in facts:
        yield from _row(style.mark(fact.state), fact.name, fact.what, widest, style)
    common: dict[tuple[str, str], list[str]] = {}
    for fact in facts:
        if fact.why or fact.do:
            common.setdefault((fact.why, fact.do), []).append(fact.name)
    for (why, do), names in common.items():
        yield ""
        if why:
            yield from _row(" ", "why", f"{', '.join(names)}: {why}", widest, style)
        if do:
            yield from _row(" ", "do", do if why else f"{', '.join(names)}: {do}", widest, style)


def _row(mark: str, name: str, text: str, widest: int, style: Style) -> Iterator[str]:
    indent = " " * (widest + 6)
    room = max(20, min(max(style.width, NARROWEST), WIDEST) - len(indent))
    lines = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False)
    first, *more = [line[at:at + room] for line in lines for at in range(0, len(line), room)] or [""]
    yield f"  {mark} {name:<{widest}}  {first}".rstrip()
    yield from (indent + line for line in more)


def _advice(advice: Advice, style: Style) -> str:
    title = textwrap.wrap(f"{advice.title}:", min(max(style.width, NARROWEST), WIDEST))
    return "\n".join([*title, f"  # {advice.place}", *(f"  {line}" for line in advice.lines)])


def _sum(facts: Sequence[Fact], style: Style) -> str:
    missing, warnings = (sum(fact.state == state for fact in facts) for state in ("missing", "warning"))
    if not missing:
        said = "all well" if not warnings else f"nothing is missing, {_count(warnings, 'warning')}"
        return f"{style.mark('ok')} {said}"
    return f"{style.mark('missing')} {_count(missing, 'thing')} missing" + (
        f", {_count(warnings, 'warning')}" if warnings else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")
