"""Files of Prometheus's query test language: our own, and Prometheus's where they lie beside the checkout."""

import subprocess
import sys
from pathlib import Path

import pytest
from promql.run import run_file

HERE = Path(__file__).parent
OURS = sorted((HERE / "promql").glob("*.test"))
THEIRS = sorted((HERE.parent.parent / "shared" / "data" / "promql").glob("*.test"))


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_files_pass_whole(path: Path) -> None:
    """Every case of our own suite passes, and none needs anything that is left out."""
    result = run_file(path)
    assert (result.failed, result.unsupported, result.messages) == (0, 0, [])
    assert result.passed > 20


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

eval instant at 0 {{}}

eval range from 0 to 10s step 10s x{a="1"}
  x{a="1"} 1 2
""")
    runner = HERE / "promql" / "run.py"
    done = subprocess.run([sys.executable, runner, wrong], capture_output=True, text=True,
                          env={"PYTHONPATH": str(HERE.parent)}, check=False)
    assert done.returncode == 1
    assert f"{wrong} passed 0 failed 7 unsupported 1" in done.stdout
    assert done.stdout.splitlines()[-1] == "total passed 0 failed 7 unsupported 1"
