"""What was found in rule files, for people and for programs."""

import json
from collections.abc import Iterator, Sequence

from sidecar.errors import Problem
from sidecar.rules.lint import Lint
from sidecar.rules.load import RuleFile


def as_text(file: RuleFile, found: Sequence[Lint]) -> Iterator[str]:
    """One line that sums a file up, then each problem or lint, with `file:line:column` first."""
    if file.problems:
        yield f"{file.path}: {_counted(len(file.problems), 'problem')}"
    else:
        rules = sum(len(group.rules) for group in file.groups)
        lint = f"{len(found)} lint" if found else "no problems found"
        yield f"{file.path}: {_counted(len(file.groups), 'group')}, {_counted(rules, 'rule')}, {lint}"
    yield from map(str, file.problems)
    for one in found:
        yield f"{one.problem} ({one.name})"
        yield f"  {one.do}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def as_json(files: Sequence[RuleFile], found: Sequence[Lint]) -> str:
    """`{"files": [{"file", "groups", "rules", "problems", "lint"}]}`, `groups` and `rules` being numbers.

    A problem has `line`, `column` (from 1; 0 for the whole file), `where` and `what`; a lint `name` and `do` too.
    """
    return json.dumps({"files": [{
        "file": str(file.path), "groups": len(file.groups), "rules": sum(len(group.rules) for group in file.groups),
        "problems": [_data(problem) for problem in file.problems],
        "lint": [{"name": one.name, **_data(one.problem), "do": one.do} for one in found
                 if one.problem.file == str(file.path)],
    } for file in files]}, indent=2)


def _data(problem: Problem) -> dict[str, str | int]:
    return {"line": problem.line, "column": problem.column, "where": problem.where, "what": problem.what}
