"""Debug endpoints: what is read of them, and what no bad day of theirs may do. A real server, virtual pauses."""

import asyncio
import json
import logging
import random
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import pytest
import servers
from conftest import Target, read_line
from hypothesis import given
from hypothesis import strategies as st
from sidecars import config, running_sidecar

from sidecar.config import Overrides, load
from sidecar.errors import ProbeFailed
from sidecar.model import Labels
from sidecar.model import Target as Watched
from sidecar.probes.endpoint import METRICS, MOST_BODY_BYTES, Endpoints
from sidecar.probes.endpoint_figures import Endpoint, Figures, Selector
from sidecar.probes.endpoint_json import figures as of_json
from sidecar.probes.endpoint_page import OPENMETRICS
from sidecar.probes.endpoint_page import figures as of_page
from sidecar.probes.sampler import Sampler, Scope
from sidecar.probes.series import SeriesOf

MIB = 1 << 20
SERIES = SeriesOf(Labels({"target": "rag", "job": "sidecar", "instance": "here"}))
BASE = 'target="rag", job="sidecar", instance="here"'
PLAIN = "text/plain; version=0.0.4; charset=utf-8"


class Program:
    """The running tests/targets/endpoint.py. Lives as long as the module's tests."""

    def __init__(self, port: str) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def say(self, body: bytes | str, content_type: str = "application/json") -> None:
        """What `GET /memory` answers from now on."""
        data = body.encode() if isinstance(body, str) else body
        request = urllib.request.Request(f"{self.url}/memory", data, {"Content-Type": content_type}, method="POST")
        with urllib.request.urlopen(request, timeout=10):
            pass

    def seen(self) -> list[dict[str, Any]]:
        """Every question so far."""
        with urllib.request.urlopen(f"{self.url}/seen", timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)
        return found

    def endpoint(self, path: str = "/memory", **more: Any) -> Endpoint:
        """How its endpoint is asked, with seconds enough for a busy machine."""
        return Endpoint(self.url + path, **{"timeout_seconds": 20.0, **more})


@pytest.fixture(scope="module")
def program() -> Iterator[Program]:
    """The program, started once: it forgets nothing but what it says."""
    path = servers.CHECKOUT / "tests" / "targets" / "endpoint.py"
    process = subprocess.Popen([sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        yield Program(read_line(process, "ready").partition("http=")[2])
    finally:
        servers.end(process)


class Desk:
    """Polls on command: between two polls of an endpoint no time passes but that of `now`."""

    def __init__(self, count: int) -> None:
        self.now = 1000.0
        self.endpoints: Endpoints
        self.pauses: list[float] = []
        self._count = count
        self._sleeping: list[asyncio.Future[None]] = []
        self._slept = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        """What the pollers do between two polls."""
        self.pauses.append(seconds)
        self._sleeping.append(asyncio.get_running_loop().create_future())
        self._slept.set()
        await self._sleeping[-1]

    async def polled(self, count: int = 0) -> None:
        """Wait until every endpoint, or as many as said, has been asked."""
        while len(self._sleeping) < (count or self._count):
            self._slept.clear()
            await self._slept.wait()

    async def again(self) -> None:
        """Let every endpoint be asked again."""
        sleeping, self._sleeping = self._sleeping, []
        for future in sleeping:
            future.set_result(None)
        await self.polled()

    def told(self, target: str = "rag") -> dict[str, float]:
        """The samples that a tick would get now."""
        reading = self.endpoints.read(target, SERIES, 5.0)
        assert reading
        assert all(sample.at == 5.0 for sample in reading.samples)
        names = [repr(sample.labels.without("target", "job", "instance")) for sample in reading.samples]
        assert len(set(names)) == len(names)
        assert {sample.labels["target"] for sample in reading.samples} <= {"rag"}
        return dict(zip(names, (sample.value for sample in reading.samples), strict=True))

    @property
    def up(self) -> bool:
        """Whether the last poll brought figures."""
        reading = self.endpoints.read("rag", SERIES, 5.0)
        assert reading
        assert self.told().get("rag_debug_endpoint_up{}", 0.0) == float(reading.up)
        return reading.up

    @property
    def used_bytes(self) -> float | None:
        """What counts."""
        reading = self.endpoints.read("rag", SERIES, 5.0)
        assert reading
        return reading.used_bytes


@asynccontextmanager
async def desk(**asked: Endpoint) -> AsyncIterator[Desk]:
    """Endpoints that have been asked once."""
    made = Desk(len(asked))
    made.endpoints = Endpoints(asked, made.sleep, lambda: made.now)
    async with made.endpoints:
        async with asyncio.timeout(60):
            await made.polled()
        yield made


def values(told: dict[str, float]) -> dict[str, float]:
    """The figures of the endpoint itself: label part → value."""
    return {name.partition("{")[2].removesuffix("}"): value for name, value in told.items()
            if name.startswith(("rag_endpoint_value{", "rag_endpoint_sample{"))}


def dropped(told: dict[str, float]) -> dict[str, float]:
    """Reason → how many figures were left out."""
    return {name.split('"')[1]: value for name, value in told.items()
            if name.startswith("rag_endpoint_dropped_values_total{")}


def errors(told: dict[str, float]) -> dict[str, float]:
    """Reason → how many polls failed."""
    return {name.split('"')[1]: value for name, value in told.items()
            if name.startswith("rag_debug_endpoint_errors_total{")}


async def once(program: Program, body: bytes | str, content_type: str = "application/json",
               **more: Any) -> tuple[dict[str, float], float | None]:
    """What is told, and what counts, after one poll of this answer."""
    program.say(body, content_type)
    async with desk(rag=program.endpoint(**more)) as made:
        return made.told(), made.used_bytes


# What is read


async def _seeds(program: Program) -> None:
    program.say('{"memory_mb": 512.5, "status": "elevated", "limits": {"max": 800, "ok": true}, "pids": [7, 8]}')
    async with desk(rag=program.endpoint(used="memory_mb", unit_bytes=MIB, status="status")) as made:
        assert made.told() == {
            'rag_endpoint_value{path="memory_mb"}': 512.5, 'rag_endpoint_value{path="limits.max"}': 800.0,
            'rag_endpoint_value{path="limits.ok"}': 1.0, 'rag_endpoint_value{path="pids.0"}': 7.0,
            'rag_endpoint_value{path="pids.1"}': 8.0, 'rag_endpoint_status{status="normal"}': 0.0,
            'rag_endpoint_status{status="elevated"}': 1.0, 'rag_endpoint_status{status="high"}': 0.0,
            'rag_endpoint_status{status="other"}': 0.0, "rag_debug_endpoint_up{}": 1.0,
            "rag_debug_endpoint_request_seconds{}": 0.0}
        assert made.used_bytes == 512.5 * MIB
        assert made.endpoints.read("another", SERIES, 5.0) is None
        program.say('{"memory_mb": 9, "status": "on fire"}')
        await made.again()
        assert made.used_bytes == 9 * MIB
        assert made.told()['rag_endpoint_status{status="other"}'] == 1.0
        assert values(made.told()) == {'path="memory_mb"': 9.0}


def test_memory_page_of_an_app_is_read(program: Program) -> None:
    """Every number and truth value by its path, the one that counts in bytes, the status as a set of states."""
    asyncio.run(_seeds(program))


@pytest.mark.parametrize(("body", "found", "left_out"), [
    ("{}", {}, {}), ("[]", {}, {}), ("null", {}, {}), ('"text"', {}, {}), ("5", {".": 5}, {}), ("true", {".": 1}, {}),
    ('{"a": null, "b": "7", "c": [], "d": {}}', {}, {}),
    ('{"a": {"b": {"c": [{"d": 1.5}]}}}', {"a.b.c.0.d": 1.5}, {}),
    ('{"": {"x": 1}, " y ": 2, "ä": 3}', {".x": 1, " y ": 2, "ä": 3}, {}),
    ('{"a": NaN, "b": Infinity, "c": -Infinity, "d": 1e999, "e": 1e30}', {"e": 1e30}, {"not_finite": 4}),
    ('{"a": ' + "9" * 900_000 + ', "b": 1}', {"b": 1}, {"not_finite": 1}),
    ('{"a": 1, "a": 2, "b": 3}', {"b": 3}, {"duplicate": 1}),
    ('{"a.b": 1, "a": {"b": 2, "c": 3}}', {"a.c": 3}, {"duplicate": 1}),
    (json.dumps({"a": list(range(1000))}), {f"a.{n}": n for n in range(16)}, {"list": 984}),
    ('{"a":' * 16 + "1" + "}" * 16, {".".join("a" * 16): 1}, {}),
    ('{"a":' * 17 + "1" + "}" * 17, {}, {"depth": 1}),
    (json.dumps({"k" * 500: 1, "k": {"j" * 199: 1}, "b\x00": 1, "c\ud800": 1, "ok": 1}), {"ok": 1}, {"path": 4}),
    ('\ufeff{"a": 1}', {"a": 1}, {}), (b" \n\t{\"a\": -0.5}", {"a": -0.5}, {}),
], ids=lambda value: repr(value)[:30])
def test_json_of_any_shape(program: Program, body: str, found: dict[str, float], left_out: dict[str, float]) -> None:
    """What is a number is told, what is none is passed over, and what cannot be told is counted."""
    told, _ = asyncio.run(once(program, body))

    assert values(told) == {f'path="{path}"': value for path, value in found.items()}
    assert dropped(told) == left_out
    assert told["rag_debug_endpoint_up{}"] == 1.0


@pytest.mark.parametrize(("body", "path", "expected"), [
    ('{"a": {"b": [1, {"c": 7}]}}', "a.b.1.c", 7), ('{"a.b": {"c": 7}}', "a.b.c", 7), ("7", ".", 7),
    ('{"a": 0}', "a", 0), ('{"a": 1e10}', "a", 1e10), ('{"deep":' * 40 + "7" + "}" * 40, ".".join(["deep"] * 40), 7),
    ('{"a": -1}', "a", None), ('{"a": 1e30}', "a", None), ('{"a": NaN}', "a", None), ('{"a": true}', "a", None),
    ('{"a": "7"}', "a", None), ('{"a": [7]}', "a", None), ('{"a": 1, "a": 1}', "a", None), ("{}", "a", None),
    ('{"a.b": 1, "a": {"b": 1}}', "a.b", None), ('{"a": [7]}', "a.1", None), ('{"a": [7]}', "a.-1", None),
    ('{"a": [7]}', "a.²", None), ("[" * 200 + "]" * 200, ".".join("0" * 90), None),
])
def test_number_that_counts_is_never_guessed(program: Program, body: str, path: str, expected: float | None) -> None:
    """It is one number, finite, at least 0 and below 2^60 bytes, or it is unknown, which is counted."""
    told, used = asyncio.run(once(program, body, used=path))

    assert used == expected
    assert dropped(told).get("used", 0) == (expected is None)


async def _crowd(program: Program) -> None:
    program.say(json.dumps({f"k{n}": n for n in range(150)}))
    async with desk(rag=program.endpoint(used="used")) as made:
        for turn in range(4):
            program.say(json.dumps({f"turn{turn}.{n}": n for n in range(90)} | {"k0": 5, "used": 9}))
            await made.again()
        told = values(made.told())
        assert made.used_bytes == 9
        assert told == {'path="k0"': 5.0}
        assert dropped(made.told())["too_many"] == 91 - 50 + 3 * 91
        program.say(json.dumps({f"k{n}": n for n in range(5000)}))
        await made.again()
        assert len(values(made.told())) == 150


def test_names_that_change_make_no_series_for_ever(program: Program) -> None:
    """The first 200 paths are kept for good; of all others only the one that counts is read."""
    asyncio.run(_crowd(program))


def _examples() -> list[tuple[str, str, str]]:
    """(kind, answer, file) of the examples in docs/endpoints.md."""
    guide = (servers.CHECKOUT / "docs" / "endpoints.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    return [(*answer, file) for answer, (_, file) in zip(blocks[::2], blocks[1::2], strict=True)]


@pytest.mark.parametrize(("example", "expected"), list(zip(
    _examples(), (1104.2 * MIB, 290455552, 1104.2 * MIB, 7.1e7, 1234567890), strict=True)),
    ids=["seeds", "nested", "instance", "page", "url"])
def test_examples_of_the_guide_are_true(
        program: Program, tmp_path: Path, example: tuple[str, str, str], expected: float) -> None:
    """Each answer is understood with the file that stands below it."""
    (tmp_path / "sidecar.yml").write_text(example[2], encoding="utf-8")
    [target] = load(tmp_path / "sidecar.yml", {"HOME": "/srv/u"}, Overrides()).targets
    asked = target.asked()
    assert asked
    _, used = asyncio.run(once(program, example[1], PLAIN if example[0] == "text" else "application/json",
                               used=asked.used, unit_bytes=asked.unit_bytes))

    assert target.memory.basis == "endpoint"
    assert used == expected


# A page in Prometheus's format

PAGE = """\
# HELP http_requests_total Requests.
# TYPE http_requests_total counter
http_requests_total{path="/ask",target="x",job="y",instance="z",exported_job="w",metric="m"} 3 1700000000000
# TYPE seconds histogram
seconds_bucket{le="0.5"} 1
seconds_bucket{le="+Inf"} 2
seconds_count 2
seconds_sum 0.75
process_resident_memory_bytes{kind="main"} 1.5e+08
process_resident_memory_bytes{kind="worker"} 5
latency{quantile="0.5"} NaN
go:rule 1
"""


async def _page(program: Program) -> None:
    told, used = await once(program, PAGE, PLAIN, used='process_resident_memory_bytes{kind="main"}')

    assert values(told) == {
        'exported_exported_job="y", exported_instance="z", exported_job="w", exported_metric="m", '
        'exported_target="x", metric="http_requests_total", path="/ask"': 3.0,
        'le="0.5", metric="seconds_bucket"': 1.0, 'le="+Inf", metric="seconds_bucket"': 2.0,
        'metric="seconds_count"': 2.0, 'metric="seconds_sum"': 0.75,
        'kind="main", metric="process_resident_memory_bytes"': 1.5e8,
        'kind="worker", metric="process_resident_memory_bytes"': 5.0, 'metric="go:rule"': 1.0}
    assert used == 1.5e8
    assert dropped(told) == {"not_finite": 1}


def test_page_of_samples_is_read(program: Program) -> None:
    """Their names and labels cannot meet ours, and the one that counts is chosen by its labels."""
    asyncio.run(_page(program))


@pytest.mark.parametrize(("body", "used", "expected"), [
    ("m 5\n", "m", 5), ('m{a="b",c="d"} 5\n', 'm{c="d"}', 5), ('m{a="x\\"y"} 5\n', 'm{a="x\\"y"}', 5),
    ('m{a="b"} 5\nm{a="c"} 6\n', "m", None), ("m 5\n", "n", None), ("m 5\nm 5\n", "m", None), ("m -5\n", "m", None),
    ("m NaN\n", "m", None), ("m +Inf\n", "m", None)])
def test_sample_that_counts_is_one(program: Program, body: str, used: str, expected: float | None) -> None:
    """A selector that fits two samples fits none."""
    told, found = asyncio.run(once(program, body, PLAIN, used=used))

    assert found == expected
    assert dropped(told).get("used", 0) == (expected is None)


def test_openmetrics_is_read(program: Program) -> None:
    """Where the answer says so: with exemplars, and up to its end mark."""
    told, used = asyncio.run(once(program, '# TYPE a counter\na_total 5 # {t="x"} 1.0\n# TYPE m gauge\nm 7\n# EOF\n',
                                  f"{OPENMETRICS}; version=1.0.0", used="m"))

    assert values(told) == {'metric="a_total"': 5.0, 'metric="m"': 7.0}
    assert used == 7


@pytest.mark.parametrize(("body", "content_type"), [
    ("m 5\nm{ 6\n", PLAIN), ("m\n", PLAIN), ("m five\n", PLAIN), ("m 5\n", OPENMETRICS), ("<html>", PLAIN),
    ('m{a="b"', PLAIN), ("m 5\n", "application/json"), ("m 5\n", ""), ("{", PLAIN), ("[" * 100_000, "text/html"),
    (b'{"a": "\xff"}', "application/json"), (b"m 5\xff\n", PLAIN), ("{'a': 1}", "application/json"),
    ('{"a": 1} {"b": 2}', "application/json"), ("", "application/json"), ("\0", "application/json"),
], ids=lambda value: repr(value)[:30])
def test_answer_that_cannot_be_read_is_not_read_in_part(program: Program, body: str, content_type: str) -> None:
    """Broken lines, broken JSON, bytes that are no text: one error, no figures."""
    told, used = asyncio.run(once(program, body, content_type, used="m"))

    assert errors(told) == {"parse": 1}
    assert (values(told), used, told["rag_debug_endpoint_up{}"]) == ({}, None, 0.0)


def test_json_is_known_by_its_looks(program: Program) -> None:
    """Programs that say `text/plain` or `text/html` of their JSON are common."""
    for content_type in (PLAIN, "text/html; charset=utf-8", "", "application/json", "application/health+json"):
        told, _ = asyncio.run(once(program, ' {"a": 1}', content_type))
        assert values(told) == {'path="a"': 1.0}
    told, _ = asyncio.run(once(program, "", PLAIN))
    assert (values(told), errors(told)) == ({}, {})


def test_page_of_many_samples_is_bounded(program: Program) -> None:
    """500 series of an endpoint are kept; labels that are too long or too many leave their sample out."""
    many = "".join(f'm{{n="{n}"}} {n}\n' for n in range(20_000))
    told, used = asyncio.run(once(program, many + "used 5\n", PLAIN, used="used"))
    assert (len(values(told)), used) == (500, 5)
    assert dropped(told) == {"too_many": 20_001 - 500}
    labels = ",".join(f'l{n}="x"' for n in range(31))
    told, _ = asyncio.run(once(program, f'a{{x="{"y" * 201}"}} 1\nb{{{labels}}} 1\n{"c" * 201} 1\nd 1\nd 2\n', PLAIN))
    assert (values(told), dropped(told)) == ({}, {"labels": 3, "duplicate": 1})
    told, _ = asyncio.run(once(program, 'a{b=""} 1\na 2\nc{d="",e="f"} 3\n', PLAIN))
    assert (values(told), dropped(told)) == ({'e="f", metric="c"': 3.0}, {"duplicate": 1})


# Bad days


REASONS = {
    "/redirect": "redirect", "/error": "status", "/garbage": "protocol", "/cut": "protocol", "/gone": "connection",
    "/chunks": "protocol", "/html": "parse", "/bomb": "encoding", "/huge": "too_large", "/endless": "too_large",
}


async def _bad(program: Program, path: str, reason: str) -> None:
    async with desk(rag=program.endpoint(path, used="a")) as made:
        assert errors(made.told()) == {reason: 1}
        assert (made.up, made.used_bytes, values(made.told())) == (False, None, {})
        await made.again()
        assert errors(made.told()) == {reason: 2}


@pytest.mark.parametrize("path", REASONS)
def test_bad_answer_is_counted_by_its_reason(program: Program, path: str) -> None:
    """No exception, no figures, and no other question that the answer might lead to."""
    before = len(program.seen())
    asyncio.run(_bad(program, path, REASONS[path]))

    asked = [each["path"] for each in program.seen()[before:]]
    assert asked == [path] * (4 if path == "/gone" else 2)  # where nothing at all came, aiohttp asks once more


@pytest.mark.parametrize("path", ["/hang", "/loris", "/slow"])
def test_whoever_dawdles_is_left_at_the_deadline(program: Program, path: str) -> None:
    """One deadline for everything, however busily bytes drip in."""
    async def asked() -> None:
        async with desk(rag=program.endpoint(path, timeout_seconds=0.3)) as made:
            assert errors(made.told()) == {"timeout": 1}
    asyncio.run(asked())


def test_headers_without_end_do_not_fill_the_memory(program: Program) -> None:
    """The answer is given up long before its deadline or the end of our memory."""
    async def asked() -> None:
        async with desk(rag=program.endpoint("/headers")) as made:
            assert errors(made.told()) == {"protocol": 1}
    asyncio.run(asked())


def test_nobody_there(free_port: int) -> None:
    """A closed port, a name that does not exist, a URL that no request can be made of."""
    async def asked() -> None:
        for url in (f"http://127.0.0.1:{free_port}/m", "http://[::1]:1/m", "http://nobody.invalid/m", "http://a..b/"):
            async with desk(rag=Endpoint(url, timeout_seconds=20.0)) as made:
                assert list(errors(made.told())) in (["connection"], ["protocol"])
    asyncio.run(asked())


def test_body_up_to_the_bound_is_read(program: Program) -> None:
    """1 MiB is much for figures, and not refused."""
    fits = '{"a": 1}'.ljust(MOST_BODY_BYTES)
    assert values(asyncio.run(once(program, fits))[0]) == {'path="a"': 1.0}
    assert errors(asyncio.run(once(program, fits + " "))[0]) == {"too_large": 1}


async def _stale(program: Program) -> None:
    program.say('{"a": 5, "status": "high"}')
    async with desk(rag=program.endpoint(used="a", status="status", every_seconds=5.0, timeout_seconds=20.0)) as made:
        assert made.pauses == [5.0]
        program.say("no")
        made.now += 24.0
        await made.again()
        assert (made.up, made.used_bytes) == (False, 5.0)
        made.now += 2.0
        assert (made.up, made.used_bytes) == (False, None)
        assert made.told() == {"rag_debug_endpoint_up{}": 0.0, "rag_debug_endpoint_request_seconds{}": 0.0,
                               'rag_debug_endpoint_errors_total{reason="parse"}': 1.0}
        program.say('{"a": 6}')
        await made.again()
        assert (made.up, made.used_bytes) == (True, 6.0)


def test_stale_figures_are_no_figures(program: Program) -> None:
    """A failed poll or two leave the last figures; after three intervals, or a whole deadline more, they are gone."""
    asyncio.run(_stale(program))


async def _replaced(program: Program) -> None:
    program.say('{"a": 5}')
    async with desk(rag=program.endpoint(used="a")) as made:
        made.now += 3.0
        before, after, gone = (made.endpoints.read("rag", SERIES, 500.0, since) for since in (496.0, 498.0, inf))
        assert before
        assert after
        assert gone
        assert before.used_bytes == 5.0
        for reading in (after, gone):
            assert (reading.used_bytes, reading.up) == (None, True)
            assert {sample.labels.metric for sample in reading.samples} == {
                "rag_debug_endpoint_up", "rag_debug_endpoint_request_seconds"}


def test_what_another_process_told_is_not_told_of_this_one(program: Program) -> None:
    """After a restart the figures begin with the first poll since; while there is no process there are none."""
    asyncio.run(_replaced(program))


async def _instances(program: Program) -> None:
    program.say('{"instance_id": "8f14e45f-ceea", "a": 5, "deeper": {"instance_id": "no"}}')
    async with desk(rag=program.endpoint(used="a")) as made:
        sampler = Sampler(Labels({}), lambda: made.now, {"rag": Scope(process=False)}, made.endpoints.read)
        target = Watched("rag", Labels({"target": "rag"}), None)
        assert sampler.read([target], 5.0).instances == {"rag": "8f14e45f-ceea"}
        program.say('{"instance_id": "c9f0f895", "a": 5}')
        await made.again()
        assert sampler.read([target], 5.0).instances == {"rag": "c9f0f895"}
        for odd in (7, "", "two words", "é", "x" * 101, ["a"], {"a": "b"}):
            program.say(json.dumps({"instance_id": odd, "a": 5}))
            await made.again()
            assert sampler.read([target], 5.0).instances == {}
        assert dropped(made.told())["instance_id"] == 7.0
        program.say('{"a": 5}')
        await made.again()
        assert sampler.read([target], 5.0).instances == {}
        assert dropped(made.told())["instance_id"] == 7.0


def test_a_program_may_name_each_of_its_starts(program: Program) -> None:
    """`instance_id` is a short text that changes with every start; what is none is left out and counted."""
    asyncio.run(_instances(program))


def test_slow_endpoint_delays_no_other(program: Program) -> None:
    """Each is asked at its own pace; and leaving waits for nobody."""
    async def asked() -> None:
        program.say('{"a": 1}')
        made = Desk(2)
        endpoints = {"rag": program.endpoint(), "slow": program.endpoint("/hang", timeout_seconds=60.0)}
        async with Endpoints(endpoints, made.sleep, lambda: made.now) as made.endpoints:
            async with asyncio.timeout(30):
                await made.polled(1)
            assert values(made.told()) == {'path="a"': 1.0}
            assert made.told("slow") == {}
    asyncio.run(asyncio.wait_for(asked(), 30))


def test_secrets_reach_the_endpoint_and_nobody_else(program: Program, caplog: Any) -> None:
    """Headers and query are sent; no log line holds them, whatever goes wrong."""
    caplog.set_level(logging.DEBUG)
    headers = (("Authorization", "Bearer s3cret"), ("accept", "application/vnd.rag"))

    async def asked() -> None:
        for path in ("/memory", *REASONS, "/headers"):
            async with desk(rag=program.endpoint(f"{path}?key=s3cret", headers=headers)):
                pass
        for url in ("http://127.0.0.1:1/?key=s3cret", "http://a..b/?key=s3cret"):
            async with desk(rag=Endpoint(url, headers=headers)):
                pass
    program.say("no")
    asyncio.run(asked())
    last = [each for each in program.seen() if each["path"] == "/memory?key=s3cret"][-1]
    assert last["headers"]["Authorization"] == "Bearer s3cret"
    assert {name.lower(): value for name, value in last["headers"].items()}["accept"] == "application/vnd.rag"
    assert last["headers"]["Accept-Encoding"] == "identity"
    told = [vars(record) for record in caplog.records if record.name.startswith("sidecar")]
    assert {each["reason"] for each in told} >= {"parse", "protocol", "connection", "status", "redirect", "too_large"}
    assert "s3cret" not in repr(told)
    assert "s3cret" not in caplog.text


def test_trouble_is_said_once(program: Program, caplog: Any) -> None:
    """When it begins, when it changes, when it is over; not at every poll."""
    caplog.set_level(logging.INFO)

    async def asked() -> None:
        async with desk(rag=program.endpoint(used="a")) as made:
            for body in ("no", "no", "{}", "{}", '{"a": 1}', '{"a": 2}'):
                program.say(body)
                await made.again()
    program.say('{"a": 1}')
    asyncio.run(asked())

    assert [getattr(record, "reason", "over") for record in caplog.records if record.name.startswith("sidecar")] == [
        "parse", "used", "over"]


def _noise(seed: int) -> bytes:
    """A good answer with a few bytes of it changed, cut, or put in."""
    chance = random.Random(seed)
    text = bytearray(b'HTTP/1.1 200 OK\r\nContent-Type: application/json; charset="utf-8"\r\nSet-Cookie: a=b; Path=/'
                     b'\r\nTransfer-Encoding: chunked\r\nLink: <x>; rel="y"\r\n\r\n8\r\n{"a": 1}\r\n0\r\n\r\n')
    for _ in range(chance.randint(1, 8)):
        at, what = chance.randrange(len(text)), chance.randrange(3)
        if what == 0:
            text[at] = chance.randrange(256)
        elif what == 1:
            del text[at:at + chance.randint(1, 20)]
        else:
            text[at:at] = chance.choice([b"\r\n", b"\0", b":", b"\xff" * 9, b"1" * 40, b"HTTP/1.1 100\r\n\r\n"])
        text = text or bytearray(b"\n")
    return bytes(text)


def test_no_noise_on_the_wire_ends_the_polling() -> None:
    """Whatever comes instead of an answer: the next question is asked all the same."""
    rounds = 300
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        for seed in range(rounds):
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(_noise(seed))

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()

    async def asked() -> dict[str, float]:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        async with desk(rag=Endpoint(url, timeout_seconds=20.0)) as made:
            for _ in range(rounds - 1):
                await made.again()
            return made.told()
    with server:
        told = asyncio.run(asked())
        thread.join(10)

    assert 0 < sum(errors(told).values()) <= rounds
    assert errors(told).keys() <= {"protocol", "connection", "parse", "status", "redirect", "encoding", "too_large"}


WORDS = st.text(max_size=5)
SHAPES = st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | WORDS,
                      lambda inner: st.lists(inner, max_size=5) | st.dictionaries(WORDS, inner, max_size=5))


def _sound(found: Figures) -> None:
    assert all(value == value and abs(value) < inf for value in found.values.values())
    assert all(len(text) <= 200 for labels in found.values for text in labels)
    assert all(count > 0 for count in found.dropped.values())
    assert found.used_bytes is None or 0 <= found.used_bytes < 2 ** 60


@given(SHAPES, st.text(max_size=5))
def test_every_json_is_read(shape: Any, used: str) -> None:
    """Finite values with bounded labels, or nothing."""
    _sound(of_json(json.dumps(shape), Endpoint("", used, status=used), "m"))


@given(st.text(alphabet='ab{}",=# \n\t0.eN+-:TYPEOF\\\x00ä', max_size=60), st.sampled_from([OPENMETRICS, "text/plain"]))
def test_every_page_is_read_or_refused(text: str, kind: str) -> None:
    """The same of pages, however broken."""
    with suppress(ProbeFailed):
        _sound(of_page(text, kind, Endpoint("", "a"), "m"))


@pytest.mark.parametrize(("text", "name", "labels"), [
    ("memory_mb", "memory_mb", {}), ("a:b{}", "a:b", {}), ('m{a="b"}', "m", {"a": "b"}),
    ('m{ a = "b" , c = "}, d=" , }', "m", {"a": "b", "c": "}, d="}), (r'm{a="\"\\"}', "m", {"a": '"\\'})])
def test_selectors(text: str, name: str, labels: dict[str, str]) -> None:
    """As PromQL writes them, with `=` only."""
    assert Selector.of(text) == (name, tuple(labels.items()))


@pytest.mark.parametrize("text", [
    "m{", "m{a}", 'm{a="b"', 'm{a!="b"}', 'm{a="b" c="d"}', '{a="b"}', 'm{1="b"}', "m{a=b}"])
def test_no_selectors(text: str) -> None:
    """What has a bracket must be one."""
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        Selector.of(text)


def test_metrics_are_declared() -> None:
    """Every family that can appear."""
    assert {metric.name for metric in METRICS} == {
        "rag_endpoint_value", "rag_endpoint_sample", "rag_endpoint_status", "rag_endpoint_dropped_values_total",
        "rag_debug_endpoint_up", "rag_debug_endpoint_request_seconds", "rag_debug_endpoint_errors_total"}


# In a sidecar


def test_endpoint_of_a_running_sidecar_is_judged(spawn: Callable[..., Target], tmp_path: Path) -> None:
    """A target known by its URL and one found by its port: shown, compared, alerted on, and down when it ends."""
    target = spawn("endpoint")
    program, port = Program(target.said["http"]), int(target.said["http"])
    program.say('{"rag": {"memory_mb": 550}, "status": "high"}')
    lines = {"basis": "endpoint", "main": "400MiB", "critical": "500MiB"}
    url = f"{program.url}/memory?key=s3cret"
    asked = {"used": "rag.memory_mb", "unit": "MB", "status": "status", "every": "1s"}
    file = config(web := servers.free_port(), tmp_path / "state", [
        {"name": "far", "match": {"url": url}, "memory": lines, "endpoint": asked},
        {"name": "near", "match": {"port": port}, "memory": lines, "endpoint": asked | {"url": url}}])
    with running_sidecar(tmp_path, file=file, port=web) as sidecar:
        for name in ("far", "near"):
            label = f'target="{name}"'
            servers.wait_until(partial(sidecar.value, "rag_memory_used_bytes", label), 20, "what counts")
            assert sidecar.value("rag_memory_used_bytes", label) == 550 * MIB
            assert sidecar.value("rag_endpoint_value", label, 'path="rag.memory_mb"') == 550
            assert sidecar.value("rag_endpoint_status", label, 'status="high"') == 1
            assert sidecar.value("rag_target_up", label) == 1
        assert sidecar.value("rag_target_info", 'target="near"', f'pid="{target.pid}"') == 1
        servers.wait_until(lambda: ("RagMemoryCritical", "firing") in sidecar.alerts(), 20, "the alert")
        target.process.kill()
        servers.wait_until(lambda: sidecar.value("rag_target_up", 'target="far"') == 0, 20, "the end of the far one")
        servers.wait_until(lambda: sidecar.value("rag_target_up", 'target="near"') == 0, 20, "the end of the near one")
    assert "s3cret" not in sidecar.log.read_text()
