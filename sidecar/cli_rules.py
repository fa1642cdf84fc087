"""The commands about rule files: `check rules` and `test rules`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OK, FAILURE = 0, 1


def add_check(checks: "Commands") -> None:
    """Add `rules` to the things that can be checked."""
    rules = checks.add_parser("rules", help="load rule files and report every problem")
    rules.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: the shipped ones")
    rules.set_defaults(call=_check_rules)


def add_test(commands: "Commands") -> None:
    """Add the command `test` with what can be tested."""
    test = commands.add_parser("test", help="run unit tests of rule files, as promtool does")
    tests = test.add_subparsers(dest="what", required=True, metavar="WHAT")
    rules = tests.add_parser("rules", help="run rule tests in promtool's format")
    rules.add_argument("files", nargs="+", type=Path, metavar="FILE")
    rules.set_defaults(call=_test_rules)


def _check_rules(arguments: argparse.Namespace) -> int:
    from sidecar.rules.load import load as load_rules
    from sidecar.rules.load import shipped

    files = arguments.files or shipped()
    groups = load_rules(files)
    rules = sum(len(group.rules) for group in groups)
    print(f"{len(groups)} groups with {rules} rules in {', '.join(map(str, files))}: no problems found")
    return OK


def _test_rules(arguments: argparse.Namespace) -> int:
    from sidecar.rules.testing import run as run_tests
    from sidecar.store import Store

    report = run_tests(arguments.files, Store)
    print(report)
    return OK if report.passed else FAILURE
