"""What a log line looks like, to people and to machines."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar import logs

log = logging.getLogger("sidecar.test")


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    """The root logger as it was before, when the test has ended."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:], logger.level = handlers, level


def said(style: str, message: str = "cleanup ended", level: str = "info", **extra: Any) -> str:
    """What one line is in this style, without its end."""
    out = io.StringIO()
    logs.set_up("debug", style, out)
    log.log(logging.getLevelName(level.upper()), message, extra=extra)
    return out.getvalue().removesuffix("\n")


def test_line_for_people() -> None:
    """Time, level, a sentence, and what belongs to it; what is empty takes no room, a zero is not empty."""
    line = said("logfmt", target="rag", freed_bytes=1024, ratio=0.123456789, alert="Rag Memory", none=None, left="",
                drops=0)
    time, _, rest = line.partition(" ")

    assert len(time.split(":")) == 3
    assert rest == 'info    cleanup ended target=rag freed_bytes=1024 ratio=0.123457 alert="Rag Memory" drops=0'


def test_line_for_machines() -> None:
    """One object, with the fields as they are."""
    entry = json.loads(said("json", level="warning", target="rag", freed_bytes=1024, path=Path("/run"), none=None))

    assert isinstance(entry.pop("ts"), float)
    assert entry == {"level": "warning", "msg": "cleanup ended", "logger": "sidecar.test", "target": "rag",
                     "freed_bytes": 1024, "path": "/run", "none": None}


def test_field_cannot_pass_for_what_every_line_has() -> None:
    """A machine that filters by level is not misled by a field of that name."""
    out = io.StringIO()
    logs.set_up("info", "json", out)
    log.error("failed", extra={"ts": "x", "level": "info", "logger": "x"})
    entry = json.loads(out.getvalue())

    assert (entry["level"], entry["logger"], entry["msg"]) == ("error", "sidecar.test", "failed")
    assert entry["ts"] != "x"


@settings(deadline=None)
@given(st.text(min_size=1, max_size=50))
def test_value_cannot_break_out_of_its_line(value: str) -> None:
    """What a target or a server has sent ends neither the line nor its own field, and moves no cursor."""
    line, entry = said("logfmt", body=value, after=1), json.loads(said("json", body=value))

    assert entry["body"] == value
    assert line.endswith(" after=1")
    shown = line[line.index(" body=") + len(" body="):-len(" after=1")]
    assert line.isprintable()
    assert (json.loads(shown) if shown.startswith('"') else shown) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), [float("nan")]])
def test_numbers_that_json_has_no_word_for(value: Any) -> None:
    """A line that a strict reader refuses would be lost just when it matters."""
    def strange(word: str) -> None:
        raise AssertionError(word)

    assert json.loads(said("json", value=value), parse_constant=strange)["value"] == str(value)


@pytest.mark.parametrize("style", ["logfmt", "json"])
def test_traceback_comes_with_its_line(style: str) -> None:
    """Below the line for people, within it for machines."""
    out = io.StringIO()
    logs.set_up("info", style, out)
    try:
        raise RuntimeError("no")
    except RuntimeError:
        log.exception("failed", extra={"target": "rag"})
    lines = out.getvalue().splitlines()

    assert len(lines) == 1 if style == "json" else lines[-1] == "RuntimeError: no"
    assert "Traceback" in (json.loads(lines[0])["error"] if style == "json" else lines[1])
    assert "rag" in lines[0]


def test_lines_below_the_level_are_not_written() -> None:
    """Nor are those of libraries that say too much."""
    out = io.StringIO()
    logs.set_up("warning", "json", out)
    log.info("no")
    log.warning("yes")
    logging.getLogger("aiohttp.access").info("no")

    assert [json.loads(line)["msg"] for line in out.getvalue().splitlines()] == ["yes"]


def test_setting_up_again_replaces() -> None:
    """A second one does not double every line."""
    first = io.StringIO()
    logs.set_up("info", "json", first)

    assert json.loads(said("json"))["msg"] == "cleanup ended"
    assert first.getvalue() == ""


def test_style_follows_the_terminal() -> None:
    """People sit at terminals; what is piped is read by machines."""
    script = "import logging; from sidecar import logs; logs.set_up(); logging.getLogger('x').info('hello')"
    command = [sys.executable, "-c", script]
    piped = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
    ours, theirs = pty.openpty()
    subprocess.run(command, stderr=theirs, check=True, cwd=Path(__file__).parent.parent)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    os.close(theirs)

    assert json.loads(piped.stderr)["msg"] == "hello"
    assert piped.stdout == ""
    assert shown.rstrip().endswith("info    hello")
