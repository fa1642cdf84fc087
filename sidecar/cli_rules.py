"""The commands about rule files: `check rules` and `test rules`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sidecar.errors import SidecarError
from sidecar.promql.features import Feature, Features

if TYPE_CHECKING:
    from sidecar.rules.lint import Catalogue
    from sidecar.rules.testing import FileReport, RunOptions

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OK, FAILURE, LINT = 0, 1, 3
KNOWN: tuple[Feature, ...] = get_args(Feature)

CHECK_EXAMPLES = """\
examples:
  rag-sidecar check rules                            the shipped rules
  rag-sidecar check rules my-rules.yml more/*.yml    mistakes, and oddities
  rag-sidecar check rules --lint none my-rules.yml   mistakes alone
  rag-sidecar check rules -o json my-rules.yml

Give all files that are loaded together: rules may read what others record.
Exit codes: 0 nothing was found, 1 mistakes, 3 only lint. docs/rules.md names
every lint.
"""
TEST_EXAMPLES = """\
examples:
  rag-sidecar test rules my_test.yml                 as `promtool test rules`
  rag-sidecar test rules --run 'over the line' tests/*.yml
  rag-sidecar test rules --diff my_test.yml          labels line by line
  rag-sidecar test rules --junit report.xml *_test.yml

`exp:` is what the test expects, `got:` what came instead.
Exit codes: 0 everything holds, 1 something does not. docs/rules.md
"""


def add_check(checks: "Commands") -> None:
    """Add `rules` to the things that can be checked."""
    rules = checks.add_parser("rules", help="load rule files and report every problem", epilog=CHECK_EXAMPLES,
                              formatter_class=argparse.RawDescriptionHelpFormatter)
    rules.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: the shipped ones")
    rules.add_argument("--lint", default="all", metavar="NAMES",
                       help="what to look for beside mistakes: all (default), none, or names with commas between")
    rules.add_argument("--lint-fatal", action=argparse.BooleanOptionalAction, default=True,
                       help="whether lint alone makes the exit code 3; default: it does")
    _add_leniency(rules)
    rules.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    rules.set_defaults(call=_check_rules)


def add_test(commands: "Commands") -> None:
    """Add the command `test` with what can be tested."""
    test = commands.add_parser("test", help="run unit tests of rule files, as promtool does", epilog=TEST_EXAMPLES,
                               formatter_class=argparse.RawDescriptionHelpFormatter)
    test.add_argument("--junit", type=Path, metavar="FILE", help="write the results as JUnit XML too")
    tests = test.add_subparsers(dest="what", required=True, metavar="WHAT")
    rules = tests.add_parser("rules", help="run rule tests in promtool's format", epilog=TEST_EXAMPLES,
                             formatter_class=argparse.RawDescriptionHelpFormatter)
    rules.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files of unit tests")
    rules.add_argument("--run", action="append", default=[], metavar="REGEX",
                       help="only tests in whose names this is found; may be given several times")
    rules.add_argument("--diff", action="store_true", help="print differences line by line, in colour on a terminal")
    rules.add_argument("--debug", action="store_true", help="tell what is done, and every sample at the end of a test")
    rules.add_argument("--junit", type=Path, default=argparse.SUPPRESS, metavar="FILE",
                       help="write the results as JUnit XML too")
    _add_leniency(rules)
    rules.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")
    rules.set_defaults(call=_test_rules)


def _add_leniency(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ignore-unknown-fields", action="store_true",
                        help="pass over fields of rule files that Prometheus does not know")
    parser.add_argument("--enable-feature", dest="features", action="append", default=[], metavar="NAME",
                        help=f"{' or '.join(KNOWN)}, as in Prometheus; several with commas or by repeating it")


def _features(given: Sequence[str]) -> Features:
    """Those asked for. As in promtool, a name that is not known is a warning."""
    names = {name for one in given for name in one.split(",") if name}
    for name in sorted(names.difference(KNOWN)):
        print(f"  WARNING: --enable-feature={name} has no effect here: known are {', '.join(KNOWN)}", file=sys.stderr)
    return Features.of([name for name in KNOWN if name in names])


def _check_rules(arguments: argparse.Namespace) -> int:
    from sidecar.rules.checkreport import as_json, as_text
    from sidecar.rules.lint import lint
    from sidecar.rules.load import read_rules, shipped

    names = _lint_names(arguments.lint)
    experimental = _features(arguments.features).experimental_functions
    files = [read_rules(path, experimental=experimental, lenient=arguments.ignore_unknown_fields)
             for path in arguments.files or shipped()]
    found = lint([file for file in files if not file.problems], _catalogue(), names)
    if arguments.output == "json":
        print(as_json(files, found))
    else:
        for file in files:
            summary, *lines = as_text(file, [one for one in found if one.problem.file == str(file.path)])
            print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr, flush=True)
            print(summary, flush=True)
    if any(file.problems for file in files):
        return FAILURE
    return LINT if found and arguments.lint_fatal else OK


def _lint_names(text: str) -> list[str]:
    """The lints asked for. As in promtool, a name that is not known is a warning."""
    from sidecar.rules.lint import LINTS

    asked = {name for name in text.split(",") if name}
    for name in sorted(asked - {"all", "none", *LINTS}):
        print(f"WARNING: unknown lint option: {name!r}; known are all, none, {', '.join(LINTS)}", file=sys.stderr)
    return [name for name in LINTS if name in asked or "all" in asked]


def _catalogue() -> "Catalogue":
    """What rules find in a sidecar of this version."""
    from sidecar.pipeline_families import METRICS
    from sidecar.rules.lint import Catalogue
    from sidecar.rules.load import read_rules, shipped
    from sidecar.rules.spec import RecordingSpec
    from sidecar.store import BUDGET_BYTES, SAMPLE_BYTES, SLOT_SECONDS
    from sidecar.thresholds import LEVELS

    types = {metric.name: str(metric.type) for metric in METRICS.values()}
    types |= {metric.name + part: "counter" for metric in METRICS.values() if metric.type == "histogram"
              for part in ("_bucket", "_sum", "_count")}
    recorded = {rule.name: path.name for path in shipped() for group in read_rules(path).groups
                for rule in group.rules if isinstance(rule, RecordingSpec)}
    return Catalogue(types, LEVELS, BUDGET_BYTES // SAMPLE_BYTES // 100, SLOT_SECONDS, recorded)


def _test_rules(arguments: argparse.Namespace) -> int:
    from sidecar.rules.testing import run as run_tests
    from sidecar.rules.testreport import as_json
    from sidecar.store import Store

    options, reports = _run_options(arguments), []
    for path in arguments.files:
        reports.append(run_tests(path, Store, options))
        if arguments.output == "text":
            _print_report(reports[-1], arguments.diff)
    if arguments.output == "json":
        print(as_json(reports))
    if arguments.junit is not None:
        _write_junit(arguments.junit, reports)
    return OK if all(report.passed for report in reports) else FAILURE


def _run_options(arguments: argparse.Namespace) -> "RunOptions":
    from sidecar.clock import monotonic
    from sidecar.rules.testing import RunOptions

    begun = monotonic()

    def trace(text: str) -> None:
        print(f"DEBUG: {monotonic() - begun:.3f} s: {text}", file=sys.stderr)

    return RunOptions(arguments.run, _features(arguments.features), arguments.ignore_unknown_fields,
                      trace if arguments.debug else None)


def _print_report(report: "FileReport", whole: bool) -> None:
    """As promtool: what went well to standard output, what did not to standard error."""
    from sidecar.config import environment
    from sidecar.rules.testreport import details, verdict

    print(f"Unit Testing: {report.path}", flush=True)
    for warning in report.warnings:
        print(f"  WARNING: {warning}", file=sys.stderr)
    print(f"  {verdict(report)}", file=sys.stdout if report.passed else sys.stderr, flush=True)
    coloured = sys.stderr.isatty() and not environment().get("NO_COLOR")
    for line in details(report, whole=whole, coloured=coloured):
        print(f"    {line}", file=sys.stderr)
    print(flush=True)


def _write_junit(path: Path, reports: "Sequence[FileReport]") -> None:
    from datetime import UTC, datetime

    from sidecar.clock import wall
    from sidecar.rules.testreport import as_junit

    moment = datetime.fromtimestamp(int(wall()), UTC).strftime("%Y-%m-%dT%H:%M:%S")
    try:
        path.write_text(as_junit(reports, moment), encoding="utf-8")
    except OSError as error:
        raise SidecarError(f"the results could not be written to {path}: {error.strerror or error}",
                           help="--junit takes the name of a file in a folder that can be written to") from error
