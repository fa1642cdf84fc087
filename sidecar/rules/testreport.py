"""How unit tests of rules went, for people and for programs."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from sidecar.promql.notation import quote
from sidecar.rules.testing import Element, Failure, FileReport

MAX_PAIRED = 50
"""Up to how many expected elements the most similar one that came is looked for; it takes the square of that."""

_RED, _GREEN, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[0m"
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Pair = tuple[Element | None, Element | None]
"""What was expected beside what came instead; None where there is nothing."""


def verdict(file: FileReport) -> str:
    """One line: whether a file passed, of how many tests."""
    count, failed = len(file.outcomes), sum(bool(outcome.failures) for outcome in file.outcomes)
    if file.passed:
        return f"SUCCESS: {count} {'test' if count == 1 else 'tests'}"
    return f"FAILED: {failed} of {count} tests" if not file.problems else "FAILED: no test was run"


def details(file: FileReport, *, whole: bool = False, coloured: bool = False) -> Iterator[str]:
    """The lines that say why a file did not pass: only what differs, or with `whole` every line of everything."""
    for problem in file.problems:
        yield from problem.split("\n")
    for outcome in file.outcomes:
        if outcome.failures:
            yield f"{outcome.name}:"
        for failure in outcome.failures:
            yield from (f"  {line}" for line in _failure(failure, whole, coloured))


def _failure(failure: Failure, whole: bool, coloured: bool) -> Iterator[str]:
    if failure.error or not (failure.expected or failure.got):
        yield f"{failure.what}{f': {failure.error}' if failure.error else ''}"
        return
    yield f"{failure.what}:{' (- expected, + got)' if whole else ''}"
    for pair in _pairs(failure.expected, failure.got):
        yield from (f"  {line}" for line in (_compared(pair, coloured) if whole else _shortly(*pair)))
    if whole:
        for element in failure.matched:
            yield from (f"  {line}" for line in _compared((element, element), coloured))
    elif failure.matched:
        yield f"  as expected: {len(failure.matched)} more"


def _pairs(expected: Sequence[Element], got: Sequence[Element]) -> list[Pair]:
    """Those most alike beside each other, as far as they have a label in common; the others alone."""
    partners: dict[int, int] = {}
    if max(len(expected), len(got)) <= MAX_PAIRED:
        alike = sorted(((_likeness(one, other), -index, -place) for index, one in enumerate(expected)
                        for place, other in enumerate(got)), reverse=True)
        for (common, _, _), index, place in alike:
            if common and -index not in partners and -place not in partners.values():
                partners[-index] = -place
    left = set(range(len(got))) - set(partners.values())
    return [*((one, got[partners[index]] if index in partners else None) for index, one in enumerate(expected)),
            *((None, got[place]) for place in sorted(left))]


def _likeness(one: Element, other: Element) -> tuple[int, int, int]:
    """How many labels are the same, how many are not (less than 0), and how many annotations are the same.

    That neither has labels counts as one label in common.
    """
    same = len(one.labels.items() & other.labels.items()) + (not one.labels and not other.labels)
    return (same, -len(one.labels.items() ^ other.labels.items()),
            len(one.annotations.items() & other.annotations.items()))


def _shortly(expected: Element | None, got: Element | None) -> Iterator[str]:
    """Both, one below the other, with those annotations that differ; then the names of what differs."""
    if expected is None or got is None:
        yield from _alone("missing" if got is None else "unexpected", got or expected or Element({}))
        return
    names = list(_differing(expected.annotations, got.annotations))
    for title, element in (("exp", expected), ("got", got)):
        yield f"{title}: {element}"
        yield from (f"     {name}: {quote(element.annotations[name])}" for name in names if name in element.annotations)
    differing = [*(f"label {name}" for name in _differing(expected.labels, got.labels)),
                 *(f"annotation {name}" for name in names),
                 *(["value"] if expected.shown_value != got.shown_value else [])]
    yield f"differs in: {', '.join(differing)}"


def _alone(title: str, element: Element) -> Iterator[str]:
    yield f"{title}: {element}"
    yield from (f"  {name}: {quote(text)}" for name, text in element.annotations.items())


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> Iterator[str]:
    return (name for name in sorted(one.keys() | other.keys()) if one.get(name) != other.get(name))


def _compared(pair: Pair, coloured: bool) -> Iterator[str]:
    """Every line of both elements, those of only one marked."""
    expected, got = (_lines(element) for element in pair)
    for key in sorted(expected.keys() | got.keys()):
        if expected.get(key) == got.get(key):
            yield f"  {expected[key]}"
            continue
        for mark, lines, colour in (("-", expected, _RED), ("+", got, _GREEN)):
            if key in lines:
                line = f"{mark} {lines[key]}"
                yield f"{colour}{line}{_PLAIN}" if coloured else line


def _lines(element: Element | None) -> dict[tuple[int, str], str]:
    """The lines of an element by what they tell; the keys sort as the lines are shown."""
    if element is None:
        return {}
    name = element.labels.get("alertname") or element.labels.get("__name__") or ""
    rest = {label: value for label, value in element.labels.items() if label not in ("alertname", "__name__")}
    lines = {(0, name): name or "{}", **{(1, label): f"  {label}={quote(value)}" for label, value in rest.items()}}
    if element.value is not None:
        lines[2, ""] = f"  value: {element.shown_value}"
    return {**lines, **{(3, label): f"  {label}: {quote(text)}" for label, text in element.annotations.items()}}


def as_json(files: Sequence[FileReport]) -> str:
    """`{"passed", "files": [{"file", "passed", "problems", "warnings", "tests": [{"name", "passed", "failures"}]}]}`.

    A failure has `what`, `error`, and as lists `expected`, `got` and `matched`: labels, annotations, value (text).
    """
    return json.dumps({"passed": all(file.passed for file in files), "files": [{
        "file": str(file.path), "passed": file.passed, "problems": file.problems, "warnings": file.warnings,
        "tests": [{"name": outcome.name, "passed": not outcome.failures,
                   "failures": [_failure_data(failure) for failure in outcome.failures]} for outcome in file.outcomes],
    } for file in files]}, indent=2)


def _failure_data(failure: Failure) -> dict[str, Any]:
    return {"what": failure.what, "error": failure.error, **{
        name: [{"labels": dict(element.labels), **({"annotations": dict(element.annotations)} if element.value is None
                                                   else {"value": element.shown_value})} for element in elements]
        for name, elements in (("expected", failure.expected), ("got", failure.got), ("matched", failure.matched))}}


def as_junit(files: Sequence[FileReport], timestamp: str) -> str:
    """JUnit XML as promtool's: a suite for each file, a case for each test; a file that was not run is a case `abort`.

    `timestamp` is the moment of the run, as ISO 8601.
    """
    suites = ElementTree.Element("testsuites")
    for file in files:
        failed = sum(bool(outcome.failures) for outcome in file.outcomes)
        suite = ElementTree.SubElement(suites, "testsuite", {
            "name": _xml(str(file.path)), "tests": str(len(file.outcomes) + bool(file.problems)),
            "failures": str(failed), "errors": str(int(bool(file.problems))), "skipped": "0", "timestamp": timestamp})
        if file.problems:
            case = ElementTree.SubElement(suite, "testcase", {"name": "abort"})
            ElementTree.SubElement(case, "error").text = _xml("\n".join(file.problems))
        for outcome in file.outcomes:
            case = ElementTree.SubElement(suite, "testcase", {"name": _xml(outcome.name)})
            for failure in outcome.failures:
                ElementTree.SubElement(case, "failure").text = _xml("\n".join(_failure(failure, False, False)))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _xml(text: str) -> str:
    """What XML can carry of a text."""
    return _NOT_IN_XML.sub("\ufffd", text)
