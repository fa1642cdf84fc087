"""Files of Prometheus's query test language: our own, and Prometheus's where they lie beside the checkout."""

import subprocess
import sys
from pathlib import Path

import pytest
from promql.run import blocks, read_case, run_file

from sidecar.errors import QueryError
from sidecar.promql.aggregate import AGGREGATIONS
from sidecar.promql.functions import FUNCTIONS
from sidecar.promql.parse import parse
from sidecar.promql.tree import Aggregate, Binary, Call, Expr, Unary, walk

HERE = Path(__file__).parent
OURS = sorted((HERE / "promql").glob("*.test"))
THEIRS = sorted((HERE.parent.parent / "shared" / "data" / "promql").glob("*.test"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_files_pass_whole(path: Path) -> None:
    """Every case of our own suite passes, and none needs anything that is left out."""
    result = run_file(path)
    assert (result.failed, result.unsupported, result.messages) == (0, 0, [])
    assert result.passed > 10


def test_our_files_leave_nothing_out() -> None:
    """Every function, every aggregation and every operator that an expression may use has a case in our own suite."""
    used = {name for path in OURS for _, block in blocks(path.read_text()) if block[0].startswith("eval")
            for name in names(read_case(0, block).expr)}
    operators = {"+", "-", "*", "/", "%", "^", "atan2", "==", "!=", ">", "<", ">=", "<=", "and", "or", "unless", "-x"}
    assert {*FUNCTIONS, *AGGREGATIONS, *operators} <= used


def names(text: str) -> set[str]:
    """The functions, aggregations and operators in an expression; none in one that is refused."""
    try:
        return {name(node) for node in walk(parse(text, experimental=True))}
    except QueryError:
        return set()


def name(node: Expr) -> str:
    """What a node does, "" for one that only stands for data."""
    match node:
        case Call():
            return node.function
        case Aggregate() | Binary():
            return node.op
        case Unary():
            return f"{node.op}x"
    return ""


@pytest.mark.skipif(not THEIRS, reason="Prometheus's own test files are not beside this checkout")
@pytest.mark.parametrize("path", THEIRS, ids=lambda path: path.name)
def test_no_case_of_prometheus_fails(path: Path) -> None:
    """What Prometheus's own query tests expect is what we compute, apart from native histograms."""
    result = run_file(path)
    assert (result.failed, result.messages) == (0, [])
    assert result.passed > 10


def test_the_runner_notices_wrong_results(tmp_path: Path) -> None:
    """A wrong value, label, order, warning or failure fails its case; the exit status and the counts say so."""
    wrong = tmp_path / "wrong.test"
    wrong.write_text("""load 10s
  x{a="1"} 1
  x{a="2"} 2
  histogram {{count:1}} 5

eval instant at 0 x
  x{a="1"} 1
  x{a="2"} 3

eval instant at 0 x
  x{a="1"} 1

eval instant at 0 sort_desc(x)
  expect ordered
  x{a="1"} 1
  x{a="2"} 2

eval instant at 0 quantile(2, x)
  expect no_warn
  {} +Inf

eval instant at 0 x
  expect fail

eval instant at 0 x + on() x
  {} 2

eval instant at 0 x +

eval instant at 0 x{a="1"}[1m] smoothed

eval instant at 0 histogram

eval instant at 10s sum_over_time(histogram[10s])
  {} 5

eval range from 0 to 10s step 10s x{a="1"}
  x{a="1"} 1 2
""")
    runner = HERE / "promql" / "run.py"
    done = subprocess.run([sys.executable, runner, wrong], capture_output=True, text=True,
                          env={"PYTHONPATH": str(HERE.parent)}, check=False)
    assert done.returncode == 1
    assert f"{wrong} passed 1 failed 8 unsupported 2" in done.stdout
    assert done.stdout.splitlines()[-1] == "total passed 1 failed 8 unsupported 2"
