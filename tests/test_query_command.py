"""`rag-sidecar query`: asked of a real sidecar, of a real Prometheus, and of whatever else may listen."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import AlertRecorder, RunningServer, free_port, running_prometheus, wait_until
from sidecars import MIB, Sidecar, running_sidecar

from sidecar.cli_results import as_text
from sidecar.cli_terminal import Terminal
from sidecar.errors import SidecarError

WIDE, PLAIN = Terminal(80, False, False), Terminal(80, False, True)


def run(*arguments: str, env: dict[str, str] | None = None, command: str = "query") -> tuple[int, str, str]:
    """`rag-sidecar query ARGUMENTS`: exit code, output, errors."""
    done = subprocess.run([sys.executable, "-P", "-m", "sidecar", command, *arguments], capture_output=True, text=True,
                          timeout=60, env={**os.environ, **(env or {})}, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar that watches this very process."""
    with running_sidecar(tmp_path_factory.mktemp("sidecar"), "--pid", str(os.getpid())) as running:
        wait_until(lambda: running.value("rag_memory_used_bytes"), 20, "used memory")
        yield running


@pytest.fixture(scope="module")
def prometheus(sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A Prometheus that scrapes it."""
    scrape = [{"job_name": "rag-sidecar", "static_configs": [{"targets": [sidecar.url.removeprefix("http://")]}]}]
    file = f"global: {{scrape_interval: 500ms}}\nscrape_configs: {json.dumps(scrape)}\n"
    with running_prometheus(file, tmp_path_factory.mktemp("prometheus")) as running:
        wait_until(lambda: running.query("rag_memory_used_bytes")["result"], 20, "a scrape")
        yield running


@pytest.fixture(scope="module")
def control(sidecar: Sidecar) -> str:
    """The address of its control socket."""
    return f"unix:{sidecar.log.parent / 'state' / 'control.sock'}"


@pytest.fixture(params=["sidecar", "control", "prometheus"])
def url(request: pytest.FixtureRequest) -> str:
    """Either of the two servers, the sidecar also over its control socket."""
    if request.param == "control":
        return str(request.getfixturevalue("control"))
    found: str = request.getfixturevalue(request.param).url
    return found


def test_results_are_readable(url: str) -> None:
    """What elements have in common is said once, their own labels and values follow, sizes in units of people."""
    code, out, errors = run("--url", url, "sort(rag_memory_threshold_bytes)")
    head, *lines = out.splitlines()

    assert (code, errors) == (0, "")
    assert head.startswith("rag_memory_threshold_bytes{instance=")
    assert 'target="rag"}' in head
    assert [line.split() for line in lines] == [
        ['{level="preventive"}', "838860800", "(800", "MiB)"], ['{level="main"}', "1048576000", "(1000", "MiB)"],
        ['{level="critical"}', "1258291200", "(1.172", "GiB)"]]
    assert run("--url", url, "1 + 1") == (0, "2\n", "")
    assert run("--url", url, '"a"') == (0, '"a"\n', "")


def test_json_is_the_answer_itself(url: str) -> None:
    """-o json prints the data of the API's answer."""
    code, out, _ = run("--url", url, "-o", "json", 'rag_memory_threshold_bytes{level="main"}')
    data = json.loads(out)

    assert (code, data["resultType"]) == (0, "vector")
    assert float(data["result"][0]["value"][1]) == 1000 * MIB


def test_ranges_are_small_curves(url: str) -> None:
    """A range shows a curve, the least, the greatest and the last value, how many there are, and from when to when."""
    code, out, errors = run("--url", url, "--start", "3s", "--step", "1s", 'rag_memory_threshold_bytes{level="main"}')

    assert (code, errors) == (0, "")
    assert "min 1000 MiB  max 1000 MiB  last 1000 MiB" in out
    assert out.count("UTC") == 2
    assert "Nothing" in run("--url", url, "--start", "2001-01-01T00:00:00Z", "--end", "2001-01-01T00:01:00Z", "up")[1]


def test_empty_results_say_why(url: str) -> None:
    """A name or a label value that nobody has is told with what there is instead; else it is the condition."""
    def reason(expr: str) -> str:
        code, out, _ = run("--url", url, expr)
        assert code == 0
        return " ".join(out.split())

    assert "there is no series rag_memory_usedbytes at that time; near it: rag_memory_used_bytes" in reason(
        "rag_memory_usedbytes > 5")
    assert 'rag_memory_threshold_bytes has no level="mian"; it has critical, main, preventive' in reason(
        'rag_memory_threshold_bytes{level="mian"}')
    assert "every series in the expression is there" in reason("rag_memory_used_bytes > 1e15")
    assert "gives no element" in reason("vector(1) > 2")


def test_moments_may_be_told_as_ages(url: str) -> None:
    """`--time 0s` is now, `--time 30m` half an hour ago, when there was nothing yet."""
    assert run("--url", url, "--time", "0s", "rag_memory_used_bytes")[1].startswith("rag_memory_used_bytes{")
    assert "at that time" in run("--url", url, "--time", "30m", "rag_memory_used_bytes")[1]
    code, out, errors = run("--url", url, "--time", "soon", "up")
    assert (code, out) == (1, "")
    assert 'cannot parse "soon" to a valid timestamp' in errors
    assert "is no moment" in run("--url", url, "--end", "soon", "up")[2]
    assert "give one of both" in run("--url", url, "--end", "1", "--time", "1", "up")[2]


@pytest.mark.parametrize(("expr", "column"), [("up{a=}", 6), ("up and\n  up up", 6)])
def test_mistakes_are_shown_with_their_place(url: str, expr: str, column: int) -> None:
    """An expression that does not parse is printed with a caret below the mistake."""
    code, out, errors = run("--url", url, expr)
    lines = errors.splitlines()

    assert (code, out) == (1, "")
    assert lines[0].startswith("rag-sidecar: the expression does not parse: unexpected")
    assert lines[2:4] == [f"    {expr.splitlines()[-1]}", " " * (column + 3) + "^"]


def test_remarks_go_to_standard_error(sidecar: Sidecar) -> None:
    """Infos of the evaluation do not get into the output."""
    code, out, errors = run("--url", sidecar.url, "rate(rag_memory_used_bytes[1m])")

    assert (code, "PromQL" in out) == (0, False)
    assert "PromQL info: metric might not be a counter" in errors


def test_nobody_listening_says_what_to_do() -> None:
    """Where nothing listens the address is named, and how to start a sidecar or name another one."""
    url = f"http://127.0.0.1:{free_port()}"
    code, out, errors = run("--url", url, "up", env={"http_proxy": "http://127.0.0.1:9"})

    assert (code, out) == (1, "")
    assert f"cannot ask {url}: nothing listens there" in errors
    assert "rag-sidecar run --pid N" in errors
    for odd in ("127.0.0.1:1", "ftp://x", "http://", "http://[::1", "http://host:port", "unix:"):
        assert "is no address of a server" in run("--url", odd, "up")[2]


def test_control_socket_answers_what_the_port_answers(sidecar: Sidecar, control: str, tmp_path: Path) -> None:
    """`--url unix:PATH` does for `query` and `explain`, whatever proxy is set; where nobody listens that is said."""
    proxy = {"http_proxy": "http://127.0.0.1:9"}
    said = [run("--url", control, "-o", "json", "rag_memory_threshold_bytes", env=proxy),
            *(run(url, "RagMemoryMain", command="explain", env=proxy)
              for url in (f"--url={sidecar.url}", f"--url={control}"))]

    assert [(code, errors) for code, _, errors in said] == [(0, "")] * 3
    assert len(json.loads(said[0][1])["result"]) == 3
    assert said[1][1].splitlines()[:3] == said[2][1].splitlines()[:3]
    assert said[1][1].startswith("RagMemoryMain  ")
    assert "there is no alert NoSuch at unix:/" in run("--url", control, "NoSuch", command="explain")[2]
    code, out, errors = run("--url", f"unix:{tmp_path}/control.sock", "up")
    assert (code, out) == (1, "")
    assert f"no sidecar listens at {tmp_path}/control.sock" in errors


def test_other_servers_are_told_apart() -> None:
    """Something else that listens there is told from a sidecar, and nothing of it is a command to the terminal."""
    with AlertRecorder() as recorder:
        assert "not as a rag-sidecar or a Prometheus does: 200" in run("--url", recorder.url, "up")[2]
        recorder.status, recorder.body = 500, b"\x1b[2Jno"
        errors = run("--url", recorder.url, "up")[2]
        assert "500 '\\\\x1b[2Jno'" in errors
        recorder.status, recorder.body = 400, json.dumps(
            {"status": "error", "errorType": "bad_data", "error": "9:9: parse error: \x1b[2J"}).encode()
        assert "\x1b" not in run("--url", recorder.url, "up")[2]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.listen()
        process = subprocess.Popen([sys.executable, "-P", "-m", "sidecar", "query", "--url",
                                    f"http://127.0.0.1:{listener.getsockname()[1]}", "up"], stderr=subprocess.PIPE)
        connection, _ = listener.accept()
        connection.close()
        assert b"cannot ask http://127.0.0.1" in process.communicate(timeout=30)[1]
        assert process.returncode == 1


def vector(*elements: tuple[dict[str, str], str]) -> dict[str, Any]:
    """The data of an instant vector."""
    return {"resultType": "vector", "result": [{"metric": metric, "value": [1.5, text]} for metric, text in elements]}


def test_columns_line_up_and_values_are_whole() -> None:
    """Every digit of a value is printed, aligned; labels that all share stand above."""
    data = vector(({"__name__": "x", "job": "j", "a": "1"}, "5"), ({"__name__": "x", "job": "j", "b": "22"}, "NaN"))
    assert as_text(data, "", WIDE) == 'x{job="j"}\n  {a="1"}     5\n  {b="22"}  NaN'
    assert as_text(vector(({}, "1.23456789012345678e+30")), "", WIDE) == "{}  1.23456789012345678e+30"
    assert as_text(vector(({}, "2048")), "bytes", WIDE) == "{}  2048 (2 KiB)"
    assert as_text(vector(), "", WIDE) == ""
    assert "\x1b" not in as_text(vector(({"a": "\x1b[2J"}, "1")), "", WIDE)


def test_curves_have_a_gap_where_there_is_nothing() -> None:
    """A curve is as wide as the terminal at most, gaps are gaps, and a plain terminal gets plain signs."""
    values = [[float(at), str(at)] for at in (0, 1, 2, 3, 6, 7)]
    data = {"resultType": "matrix", "result": [{"metric": {"__name__": "x"}, "values": values},
                                               {"metric": {"__name__": "y"}, "values": [[5.0, "+Inf"], [4.0, "NaN"]]}]}
    lines = as_text(data, "", WIDE).splitlines()
    assert lines[1] == "    ▁▂▃▄  ▇█"
    assert lines[2] == "    min 0  max 7  last 7  (6 samples)"
    assert as_text(data, "", PLAIN).isascii()
    many = [[float(at), str(at % 7)] for at in range(9999)]
    long = {"resultType": "matrix", "result": [{"metric": {}, "values": many}]}
    assert max(map(len, as_text(long, "", Terminal(60, False, False)).splitlines())) <= 60


@pytest.mark.parametrize("data", [{}, {"resultType": "vector"}, {"resultType": "vector", "result": [{"metric": 1,
                         "value": 5}]}, {"resultType": "scalar", "result": []}, {"resultType": "matrix", "result": 7}])
def test_odd_data_is_told(data: dict[str, Any]) -> None:
    """What is no result is an error that says so."""
    with pytest.raises(SidecarError, match="not what Prometheus's API answers"):
        as_text(data, "", WIDE)


def test_help_shows_examples(tmp_path: Path) -> None:
    """`query --help` has examples to copy, and needs no server."""
    code, out, _ = run("--help")

    assert code == 0
    assert "rag-sidecar query rag_memory_used_bytes" in out


@pytest.mark.parametrize("what", ["healthy", "ready"])
def test_health_is_checked(url: str, what: str) -> None:
    """`check healthy` and `check ready` end with 0 and the server's own words: fit for a container's HEALTHCHECK."""
    code, out, err = run(what, "--url", url, command="check")

    assert (code, err) == (0, "")
    assert out.rstrip().endswith((f"is {what.capitalize()}.", f"is {what}."))


def test_health_of_nobody_is_a_failure() -> None:
    """Where nobody listens, and where a server says that it is not well, the exit code is 1 and the message says so."""
    code, out, err = run("healthy", "--url", f"http://127.0.0.1:{free_port()}", command="check")
    assert (code, out) == (1, "")
    assert "nothing listens there" in err

    with AlertRecorder() as ill:
        code, out, err = run("ready", "--url", ill.url, command="check")
    assert (code, out) == (1, "")
    assert f"{ill.url} is not ready: 501" in err
