"""/api/v1/query, /api/v1/query_range and /api/v1/rules over real sockets, and beside a real Prometheus."""

import asyncio
import contextlib
import math
from pathlib import Path
from typing import Any

import aiohttp
import newer_prometheus
import pytest
import servers
from asking import NOW, Answer, Ask, Bench, serve
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import CHECKOUT, running_prometheus, wait_until

from sidecar.model import STALE
from sidecar.promql.evaluate import instant
from sidecar.promql.parse import parse
from sidecar.rules.group import Group
from sidecar.rules.load import load
from sidecar.rules.spec import AlertingSpec, GroupSpec, RecordingSpec
from sidecar.web import api
from sidecar.web.query import LONGEST_SECONDS, WAITING

QUERY, RANGE, RULES = "/api/v1/query", "/api/v1/query_range", "/api/v1/rules"
Metric = dict[str, str]


def vector(*elements: tuple[Metric, str], at: float = NOW) -> dict[str, Any]:
    """The data of an instant vector."""
    return {"resultType": "vector", "result": [{"metric": metric, "value": [at, text]} for metric, text in elements]}


def matrix(*series: tuple[Metric, list[tuple[float, str]]]) -> dict[str, Any]:
    """The data of a matrix."""
    return {"resultType": "matrix",
            "result": [{"metric": metric, "values": [list(pair) for pair in pairs]} for metric, pairs in series]}


@pytest.fixture
def bench() -> Bench:
    """Two instances: a uses 50 and b 195 bytes; a counter; odd values."""
    bench = Bench()
    bench.add("used", 40, 45, 50, instance="a")
    bench.add("used", 195, instance="b")
    bench.add("requests_total", 0, 10, 20, 30, every=10)
    for name, value in (("nan", math.nan), ("inf", math.inf), ("minus", -math.inf), ("tiny", 5e-7), ("huge", 1e21),
                        ("big", 123456789012.0), ("half", 0.5), ("nought", -0.0)):
        bench.add("odd", value, which=name)
    return bench


def test_results_have_the_shapes_of_prometheus(bench: Bench) -> None:
    """Vectors, scalars, strings and matrices are those of Prometheus; what matches nothing is [], never null."""
    a, b = {"__name__": "used", "instance": "a"}, {"__name__": "used", "instance": "b"}

    async def steps(ask: Ask, url: str) -> None:
        assert (await ask(QUERY, query="used")).data == vector((a, "50"), (b, "195"))
        assert (await ask(QUERY, query="1+1", time="4")).data == {"resultType": "scalar", "result": [4, "2"]}
        assert (await ask(QUERY, query='"hé"')).data == {"resultType": "string", "result": [NOW, "hé"]}
        assert (await ask(QUERY, query='used{instance="a"}[2s]')).data == matrix(
            (a, [(NOW - 1, "45"), (NOW, "50")]))
        assert (await ask(QUERY, query="nothing")).data == vector()
        assert (await ask(QUERY, query="nothing[5m]")).data == matrix()
        assert (await ask(RANGE, query="nothing", start="0", end="9", step="1")).data == matrix()
        text = (await ask(QUERY, query="used")).text
        assert text.index("resultType") < text.index('"result"')  # Grafana reads the answer as it comes

    serve(bench, steps)


def test_numbers_are_written_as_prometheus_writes_them(bench: Bench) -> None:
    """Samples are strings without needless digits; an exponent only where digits would not do; NaN and +Inf as such."""

    async def steps(ask: Ask, url: str) -> None:
        found = {each["metric"]["which"]: each["value"][1] for each in (await ask(QUERY, query="odd")).data["result"]}
        assert found == {"nan": "NaN", "inf": "+Inf", "minus": "-Inf", "tiny": "5e-07", "huge": "1e+21",
                         "big": "123456789012", "half": "0.5", "nought": "-0"}

    serve(bench, steps)


def test_times_are_numbers_with_milliseconds(bench: Bench) -> None:
    """`time` may be Unix seconds or RFC 3339, is kept to the millisecond, and is now where it is absent."""
    bench.clock.now = NOW + 0.1239

    async def steps(ask: Ask, url: str) -> None:
        assert "[1795165900.124," in (await ask(QUERY, query="used")).text
        for text, shown in (("1795165900.5", "1795165900.500"), ("2026-11-20T09:11:40.007Z", "1795165900.007"),
                            ("2026-11-20T10:11:40+01:00", "1795165900"), ("-1.5", "-1.500"), ("1e3", "1000")):
            answer = await ask(QUERY, query="vector(1)", time=text)
            assert f"[{shown}," in answer.text
        assert (await ask(QUERY, query="used", time=str(NOW + 301))).data == vector(at=NOW + 301)
        assert (await ask(QUERY, query="used", time=str(NOW + 301), lookback_delta="10m")).data["result"]

    serve(bench, steps)


def test_ranges_end_where_they_were_asked_to(bench: Bench) -> None:
    """A range has a value at every step, both ends included, and none before the first sample or after the end."""
    bench.add("gone", 1, 2, STALE)

    async def steps(ask: Ask, url: str) -> None:
        data = (await ask(RANGE, query="gone", start=str(NOW - 4), end=str(NOW), step="1")).data
        assert data == matrix(({"__name__": "gone"}, [(NOW - 2, "1"), (NOW - 1, "2")]))
        data = (await ask(RANGE, query="time()", start="0", end="60", step="1m0s")).data  # Go's way to write a minute
        assert data == matrix(({}, [(0, "0"), (60, "60")]))

    serve(bench, steps)


def test_forms_are_as_good_as_query_strings(bench: Bench) -> None:
    """A POSTed form gives what the same query string gives, goes before it, and joins it."""

    async def steps(ask: Ask, url: str) -> None:
        for path, form in ((QUERY, {"query": "used", "time": str(NOW)}),
                           (RANGE, {"query": "used", "start": str(NOW - 9), "end": str(NOW), "step": "3"})):
            assert (await ask(path, "POST", data=form)).data == (await ask(path, parameters=form.items())).data
        assert (await ask(QUERY, "POST", data={"query": "1"}, query="2", time="7")).data["result"] == [7, "1"]
        assert (await ask(QUERY, "POST", data={"query": "1"}, unknown="x")).status == 200
        refused = await ask(QUERY, "POST", data={"query": "1"}, headers={"Origin": "http://evil.example"})
        assert refused.status == 403
        assert (await ask(QUERY, "POST", data={"query": "1" * 70_000})).status == 413
        many = await ask(QUERY, "POST", data="&".join(["a=b"] * 2000), headers={
            "Content-Type": "application/x-www-form-urlencoded"})
        assert many.error[:2] == (400, "bad_data")

    serve(bench, steps)


BAD = [
    (QUERY, {}, 'invalid parameter "query": unknown position: parse error: no expression found in input'),
    (QUERY, {"query": "a b"}, 'invalid parameter "query": 1:3: parse error: unexpected "b"'),
    (QUERY, {"query": "sum(\n a"}, 'invalid parameter "query": 1:4: parse error: unclosed left parenthesis'),
    (QUERY, {"query": "1", "time": "now"},
     'invalid parameter "time": invalid time value for \'time\': cannot parse "now" to a valid timestamp'),
    (QUERY, {"query": "1", "time": "2026-02-30T00:00:00Z"},
     'invalid parameter "time": invalid time value for \'time\': cannot parse "2026-02-30T00:00:00Z" to a valid '
     "timestamp"),
    (QUERY, {"query": "1", "timeout": "x"}, 'invalid parameter "timeout": cannot parse "x" to a valid duration'),
    (QUERY, {"query": "1", "limit": "-1"}, 'invalid parameter "limit": limit must be non-negative'),
    (QUERY, {"query": "1", "lookback_delta": "x"},
     'error parsing lookback delta duration: cannot parse "x" to a valid duration'),
    (RANGE, {"query": "1", "end": "2", "step": "1"},
     'invalid parameter "start": cannot parse "" to a valid timestamp'),
    (RANGE, {"query": "1", "start": "3", "end": "2", "step": "1"},
     'invalid parameter "end": end timestamp must not be before start time'),
    (RANGE, {"query": "1", "start": "1", "end": "2", "step": "x"},
     'invalid parameter "step": cannot parse "x" to a valid duration'),
    (RANGE, {"query": "1", "start": "1", "end": "2", "step": "0"},
     'invalid parameter "step": zero or negative query resolution step widths are not accepted. Try a positive '
     "integer"),
    (RANGE, {"query": "1", "start": "0", "end": "11001", "step": "1"},
     "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)"),
    (RANGE, {"query": "a[5m]", "start": "0", "end": "1", "step": "1"},
     'invalid parameter "query": invalid expression type "range vector" for range query, must be Scalar or instant '
     "Vector"),
    (RANGE, {"query": "'a'", "start": "0", "end": "1", "step": "1"},
     'invalid parameter "query": invalid expression type "string" for range query, must be Scalar or instant Vector'),
    (RULES, {"type": "x"}, 'invalid parameter "type": not supported value "x"'),
    (RULES, {"match[]": "{a="}, None),
    (RULES, {"match[]": '{a=~".*"}'},
     "unknown position: parse error: vector selector must contain at least one non-empty matcher"),
]


@pytest.mark.parametrize(("path", "given", "said"), BAD)
def test_mistakes_are_told_in_the_words_of_prometheus(
    bench: Bench, path: str, given: dict[str, str], said: str | None
) -> None:
    """What cannot be asked is 400 bad_data with the parameter and the reason, by GET and by POST alike."""

    async def steps(ask: Ask, url: str) -> None:
        status, kind, error = (await ask(path, parameters=given.items())).error
        assert (status, kind) == (400, "bad_data")
        assert said is None or error == said
        if path != RULES:
            assert (await ask(path, "POST", data=given)).error == (status, kind, error)

    serve(bench, steps)


def test_the_longest_range_is_that_of_prometheus(bench: Bench) -> None:
    """11,000 steps, which are 11,001 points, are served."""

    async def steps(ask: Ask, url: str) -> None:
        data = (await ask(RANGE, query="1", start="0", end="11000", step="1")).data
        assert len(data["result"][0]["values"]) == 11_001

    serve(bench, steps)


def test_what_only_the_data_shows_is_an_execution_error(bench: Bench) -> None:
    """Ambiguous matching is 422 execution, with what to do; remarks come as warnings and infos."""

    async def steps(ask: Ask, url: str) -> None:
        status, kind, error = (await ask(QUERY, query="used + on() group_left() used")).error
        assert (status, kind) == (422, "execution")
        assert "many-to-many matching not allowed" in error
        told = (await ask(QUERY, query="rate(used[1m])")).json
        assert told["infos"] == ["PromQL info: metric might not be a counter, name does not end in "
                                 '_total/_sum/_count/_bucket: "used" (1:6)']
        assert "warnings" not in told
        assert (await ask(QUERY, query="rate(requests_total[1m])")).json.keys() == {"status", "data"}

    serve(bench, steps)


def test_limit_cuts_and_says_so(bench: Bench) -> None:
    """`limit` leaves so many series, with a warning where some were left out."""

    async def steps(ask: Ask, url: str) -> None:
        for path, more in ((QUERY, {}), (RANGE, {"start": str(NOW), "end": str(NOW), "step": "1"})):
            cut = (await ask(path, query="used", limit="1", **more)).json
            assert (len(cut["data"]["result"]), cut["warnings"]) == (1, ["results truncated due to limit"])
            whole = (await ask(path, query="used", limit="2", **more)).json
            assert (len(whole["data"]["result"]), "warnings" in whole) == (2, False)

    serve(bench, steps)


def test_queries_are_bounded_in_samples(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query that would need more samples than it may is refused with the limit, and the next is served."""
    monkeypatch.setattr("sidecar.web.query.MAX_SAMPLES", 1000)

    async def steps(ask: Ask, url: str) -> None:
        status, kind, error = (await ask(QUERY, query="sum_over_time(vector(1)[1d:1s])")).error
        assert (status, kind) == (422, "execution")
        assert "more than 1000 samples" in error
        long = (await ask(RANGE, query="used", start="0", end="10000", step="1")).status
        assert long == 200  # what is held counts, not what was read in all its steps
        assert (await ask(QUERY, query="used")).status == 200

    serve(bench, steps)


def test_queries_are_bounded_in_time(bench: Bench) -> None:
    """A query ends when its `timeout` is over, which no client can lengthen: 503 timeout."""
    clock = bench.clock

    async def an_hour() -> None:
        clock.elapsed += 0.5

    async def steps(ask: Ask, url: str) -> None:
        wanted = {"query": "sum(used)", "start": "0", "end": "5000", "step": "1"}
        ticking = bench.clock
        ticking.on_pause = an_hour
        for timeout, longest in (("1s", 1.0), ("1d", LONGEST_SECONDS), ("-1", 0.0)):
            begun = clock.elapsed = 0.0
            status, kind, error = (await ask(RANGE, parameters=wanted.items(), timeout=timeout)).error
            assert (status, kind) == (503, "timeout")
            assert "query timed out in" in error
            assert clock.elapsed - begun <= longest + 1

    # every look at the clock takes a little, so that pieces become due
    bench.more = {"elapsed": lambda: _later(clock)}
    serve(bench, steps)


def _later(clock: Any, by: float = 0.001) -> float:
    clock.elapsed += by
    return float(clock.elapsed)


def test_others_run_while_a_query_does(bench: Bench) -> None:
    """A long query gives way to the tick again and again, and does not see what the tick stores meanwhile."""
    clock = bench.clock
    clock.now = NOW + 100

    async def tick() -> None:
        bench.add("used", 99, end=NOW + clock.pauses, instance="a")

    async def steps(ask: Ask, url: str) -> None:
        clock.on_pause = tick
        data = (await ask(RANGE, query='used{instance="a"}', start=str(NOW), end=str(NOW + 290), step="1")).data
        assert clock.pauses > 10
        assert {value for _, value in data["result"][0]["values"]} == {"50"}
        clock.on_pause = None
        assert (await ask(QUERY, query='used{instance="a"}')).data["result"][0]["value"][1] == "99"

    bench.more = {"elapsed": lambda: _later(clock)}
    serve(bench, steps)


def test_one_query_at_a_time_and_a_bounded_queue(bench: Bench) -> None:
    """Queries take turns; a crowd beyond the queue is told to come back, and everybody in it is served."""
    clock, go_on = bench.clock, asyncio.Event()
    running: set[int] = set()

    async def wait() -> None:
        running.add(clock.pauses)
        await go_on.wait()

    async def steps(ask: Ask, url: str) -> None:
        clock.on_pause = wait
        long = {"query": "sum(used)", "start": "0", "end": "60", "step": "1"}
        asked = [asyncio.create_task(ask(RANGE, parameters=long.items())) for _ in range(WAITING + 3)]
        refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        answer = refused.pop().result()
        assert answer.error[:2] == (503, "unavailable")
        assert answer.headers["Retry-After"] == "1"
        assert (await ask("/api/v1/alerts")).status == 200  # what is no query does not wait
        assert running == {1}
        clock.on_pause = None
        go_on.set()
        assert sorted(answer.status for answer in await asyncio.gather(*asked)) == [200] * WAITING + [503] * 3

    bench.more = {"elapsed": lambda: _later(clock, 0.0002)}
    serve(bench, steps)


def test_a_client_that_goes_away_ends_its_query(bench: Bench) -> None:
    """Nobody waits behind a query whose answer nobody reads any more."""
    clock = bench.clock

    async def steps(ask: Ask, url: str) -> None:
        gone = asyncio.Event()

        async def go() -> None:
            gone.set()
            await asyncio.sleep(0.001)

        clock.on_pause = go
        long = {"query": "sum(used)", "start": "0", "end": "11000", "step": "1"}
        task = asyncio.create_task(ask(RANGE, parameters=long.items()))
        await gone.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await ask(QUERY, query="used")).status == 200
        assert clock.pauses < 1000

    bench.more = {"elapsed": lambda: _later(clock)}
    serve(bench, steps)


def test_big_answers_come_in_pieces_and_whole() -> None:
    """An answer of megabytes is sent while it is written, complete; HEAD tells only that there is one."""
    bench = Bench()
    for index in range(50):
        bench.add("used", float(index), instance=str(index))

    async def steps(ask: Ask, url: str) -> None:
        wanted = {"query": "used", "start": str(NOW), "end": str(NOW + 299), "step": "0.1"}
        answer = await ask(RANGE, parameters=wanted.items())
        assert answer.headers["Transfer-Encoding"] == "chunked"
        assert [len(series["values"]) for series in answer.data["result"]] == [2991] * 50
        head = await ask(RANGE, "HEAD", parameters=wanted.items())
        assert (head.status, head.text) == (200, "")
        assert (await ask(QUERY, query="used")).status == 200

    serve(bench, steps)


@pytest.mark.parametrize("most", [{"SLOWEST_SECONDS": 0.2}, {"SLOWEST_SECONDS": 3600.0, "HURRIED_SECONDS": 0.1}])
def test_who_does_not_read_is_cut_off(most: dict[str, float], monkeypatch: pytest.MonkeyPatch,
                                      caplog: pytest.LogCaptureFixture) -> None:
    """A reader that leaves a big answer unread does not keep the others waiting; the log has no traceback of it.

    As soon as others wait, its time is short.
    """
    for name, seconds in most.items():
        monkeypatch.setattr(api, name, seconds)
    bench = Bench()
    for index in range(100):
        bench.add("used", float(index), instance=str(index))

    async def steps(ask: Ask, url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1)
        path = f"{RANGE}?query=used&start={NOW}&end={NOW + 299}&step=0.03"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert await reader.readexactly(8) == b"HTTP/1.1"
        assert (await ask(QUERY, query="used")).status == 200
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(100_000_000)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    serve(bench, steps)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_nothing_to_ask_yet() -> None:
    """Until the first target is looked at, queries and rules are 503 unavailable with Retry-After."""

    async def steps(ask: Ask, url: str) -> None:
        for path in (QUERY, RANGE, RULES):
            answer = await ask(path, query="1", start="0", end="1", step="1")
            assert (answer.error[:2], answer.headers["Retry-After"]) == ((503, "unavailable"), "1")

    serve(None, steps)


WORDS = ["used", "sum(used)", "1", "", "a b", "used[5m]", "now", "0", "-1", "1e400", "1e18", "nan", "5m", "-5m", "1.5",
         "2026-11-20T09:11:40Z", "9999-12-31T23:59:59Z", "day_of_year(vector(time()))", "used @ 1e10", "{", "{a=~'('}"]
TEXT = st.one_of(st.sampled_from(WORDS), st.text(max_size=20))
NAMES = st.sampled_from(["query", "time", "start", "end", "step", "limit", "timeout", "lookback_delta", "match[]",
                         "type", "group_limit", "group_next_token", "exclude_alerts"])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([QUERY, RANGE, RULES]), st.dictionaries(NAMES, TEXT, max_size=6)),
                min_size=20, max_size=20))
def test_no_request_is_too_odd(requests: list[tuple[str, dict[str, str]]]) -> None:
    """Whatever is asked, the answer is an envelope, with 200 or an error that is told."""
    bench = Bench()
    bench.add("used", 1, 2, 3)

    async def steps(ask: Ask, url: str) -> None:
        for path, given_ in requests:
            method = "GET" if path == RULES else "POST"
            pairs = {name: value.encode(errors="replace").decode() for name, value in given_.items()}
            answer = await (ask(path, parameters=pairs.items()) if method == "GET" else ask(path, method, data=pairs))
            assert answer.json["status"] == ("success" if answer.status == 200 else "error")
            assert answer.status in (200, 400, 422, 503)

    serve(bench, steps)


def groups(bench: Bench) -> list[Group]:
    """Two groups at work: a is firing and pending, b records and fails."""
    hot = AlertingSpec("Hot", parse("used > 100"), 0.0, 60.0, {"severity": "critical", "who": "{{ $labels.instance }}"},
                       {"summary": "{{ $value }} of {{ $labels.instance }}"})
    warm = AlertingSpec("Warm", parse("used > 10"), 30.0, labels={"severity": "info"})
    recorded = RecordingSpec("used:sum", parse("sum(used)"), {"by": "us"})
    broken = AlertingSpec("Broken", parse("used + on () group_left () used > 0"))
    made = [Group(GroupSpec(name, f"{name}.yml", rules, interval_seconds=interval), default_interval_seconds=1.0,
                  external_labels={}, external_url="")
            for name, rules, interval in (("a", (hot, warm), None), ("b", (recorded, broken), 2.5))]
    for group in made:
        group.evaluate(NOW, lambda expr, at: instant(expr, bench.store.select, at), bench.store.append)
    return [*made, Group(GroupSpec("c", "b.yml", (recorded,)), default_interval_seconds=1.0, external_labels={},
                         external_url="")]


def test_rules_have_the_shape_of_prometheus(bench: Bench) -> None:
    """Groups, rules, their health, figures and alerts; templates as written in rules, expanded in alerts."""
    bench.groups = groups(bench)

    async def steps(ask: Ask, url: str) -> None:
        a, b, c = (await ask(RULES)).data["groups"]
        assert {name: a[name] for name in ("name", "file", "interval", "limit", "lastEvaluation")} == {
            "name": "a", "file": "a.yml", "interval": 1, "limit": 0, "lastEvaluation": "2026-11-20T09:11:40.000Z"}
        hot, warm = a["rules"]
        assert isinstance(hot.pop("evaluationTime"), float)
        assert hot == {
            "state": "firing", "name": "Hot", "query": "used > 100", "duration": 0, "keepFiringFor": 60,
            "labels": {"severity": "critical", "who": "{{ $labels.instance }}"},
            "annotations": {"summary": "{{ $value }} of {{ $labels.instance }}"},
            "alerts": [{"labels": {"alertname": "Hot", "instance": "b", "severity": "critical", "who": "b"},
                        "annotations": {"summary": "195 of b"}, "state": "firing",
                        "activeAt": "2026-11-20T09:11:40.000Z", "value": "1.95e+02"}],
            "health": "ok", "lastEvaluation": "2026-11-20T09:11:40.000Z", "type": "alerting"}
        assert (warm["state"], warm["duration"], len(warm["alerts"])) == ("pending", 30, 2)
        recorded, broken = b["rules"]
        assert b["interval"] == 2.5
        assert (recorded["type"], recorded["name"], recorded["query"], recorded["labels"]) == (
            "recording", "used:sum", "sum(used)", {"by": "us"})
        assert not {"state", "alerts", "lastError"} & recorded.keys()
        assert (broken["health"], broken["state"]) == ("err", "inactive")
        assert "many-to-many" in broken["lastError"]
        assert (c["lastEvaluation"], c["rules"][0]["health"]) == ("0001-01-01T00:00:00Z", "unknown")

    serve(bench, steps)


@pytest.mark.parametrize(("given", "names"), [
    ([("type", "alert")], ["Hot", "Warm", "Broken"]),
    ([("type", "record")], ["used:sum", "used:sum"]),
    ([("rule_name[]", "Hot"), ("rule_name[]", "Broken")], ["Hot", "Broken"]),
    ([("rule_group[]", "a")], ["Hot", "Warm"]),
    ([("file[]", "b.yml")], ["used:sum", "Broken", "used:sum"]),
    ([("file[]", "b.yml"), ("rule_group[]", "c")], ["used:sum"]),
    ([("match[]", '{severity="critical"}')], ["Hot"]),
    ([("match[]", '{severity="critical"}'), ("match[]", '{by="us"}')], ["Hot", "used:sum", "used:sum"]),
    ([("match[]", '{severity=~".+",severity!="critical"}')], ["Warm"]),
    ([("rule_name[]", "Nobody")], []),
])
def test_rules_can_be_chosen(bench: Bench, given: list[tuple[str, str]], names: list[str]) -> None:
    """Filters by type, name, group, file and labels narrow each other; groups that are left empty are left out."""
    bench.groups = groups(bench)

    async def steps(ask: Ask, url: str) -> None:
        found = (await ask(RULES, parameters=given)).data["groups"]
        assert [rule["name"] for group in found for rule in group["rules"]] == names
        assert all(group["rules"] for group in found)

    serve(bench, steps)


def test_rules_come_without_alerts_where_nobody_wants_them(bench: Bench) -> None:
    """`exclude_alerts` leaves the lists empty and the states as they are."""
    bench.groups = groups(bench)

    async def steps(ask: Ask, url: str) -> None:
        (group,) = (await ask(RULES, parameters=[("exclude_alerts", "true"), ("rule_group[]", "a")])).data["groups"]
        assert [(rule["state"], rule["alerts"]) for rule in group["rules"]] == [("firing", []), ("pending", [])]

    serve(bench, steps)


def test_rules_come_page_by_page(bench: Bench) -> None:
    """`group_limit` groups a page, each with the token of the next; tokens that mean nothing are refused."""
    bench.groups = groups(bench)

    async def steps(ask: Ask, url: str) -> None:
        seen, token, more = [], "", {}
        while True:
            data = (await ask(RULES, group_limit="1", **more)).data
            seen += [group["name"] for group in data["groups"]]
            token = data.get("groupNextToken", "")
            if not token:
                break
            more = {"group_next_token": token}
        assert seen == ["a", "b", "c"]
        assert "groupNextToken" not in (await ask(RULES, group_limit="3")).data
        for wrong, said in (({"group_limit": "1", "group_next_token": "x"}, "were rule groups changed?"),
                            ({"group_next_token": "x"}, "group_limit needs to be present"),
                            ({"group_limit": "0"}, "greater than 0"), ({"group_limit": "x"}, "valid number")):
            status, kind, error = (await ask(RULES, parameters=wrong.items())).error
            assert (status, kind) == (400, "bad_data")
            assert said in error

    serve(bench, steps)


ALIKE: list[tuple[str, dict[str, str]]] = [
    *((path, given) for path, given, _ in BAD if path != RULES),
    (QUERY, {"query": "1+1", "time": "4"}), (QUERY, {"query": '"a"', "time": "4.5"}),
    (QUERY, {"query": "vector(1e21)", "time": "1.007"}), (QUERY, {"query": "vector(-Inf)", "time": "0"}),
    (QUERY, {"query": "vector(1)[5500ms:1s]", "time": "100"}), (QUERY, {"query": "nothing", "time": "4"}),
    (QUERY, {"query": "nothing[5m]", "time": "4"}), (QUERY, {"query": "vector(1)", "time": "2026-11-20T09:11:40.5Z"}),
    (QUERY, {"query": "1", "time": "-1000000000"}), (QUERY, {"query": "time()", "time": "1e3"}),
    (RANGE, {"query": "time()", "start": "0", "end": "3", "step": "0.5"}),
    (RANGE, {"query": "vector(1)", "start": "10.25", "end": "70.25", "step": "1m0s"}),
    (RANGE, {"query": "1", "start": "0", "end": "11000", "step": "1"}),
    (RANGE, {"query": "nothing", "start": "0", "end": "1", "step": "1"}),
    (QUERY, {"query": "1", "time": "1h"}),
    (RANGE, {"query": "1", "start": "0", "end": "1", "step": "-5m"}),
    (RANGE, {"query": "1", "start": "0", "end": "1", "step": "1e300"}),
]


@pytest.fixture(params=["2", "3"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Debian's Prometheus, or that of its next release."""
    if request.param == "3":
        binary = newer_prometheus.needed()
        monkeypatch.setattr(servers, "prometheus", lambda: binary)
    return str(request.param)


def test_a_real_prometheus_answers_alike(bench: Bench, version: str, tmp_path: Path) -> None:
    """The same requests get the same status and JSON from both, but for the words about syntax."""
    with running_prometheus("", tmp_path) as real:
        async def asked(session: aiohttp.ClientSession, path: str, given: dict[str, str]) -> Answer:
            async with session.get(real.url + path, params=given) as answer:
                return Answer(answer.status, {}, await answer.text())

        async def steps(ask: Ask, url: str) -> None:
            async with aiohttp.ClientSession() as session:
                for path, request in ALIKE:
                    if version == "2" and {"limit", "lookback_delta"} & request.keys():
                        continue  # it does not know these yet
                    ours, theirs = await ask(path, parameters=request.items()), await asked(session, path, request)
                    if ours.status == 200 or (version == "3" and "parse error: " not in theirs.text):
                        assert (ours.status, ours.json) == (theirs.status, theirs.json), request
                    else:
                        assert ours.error[:2] == (theirs.status, theirs.json["errorType"]), request
                        assert ("parse error: " in ours.error[2]) == ("parse error: " in theirs.text)

        serve(bench, steps)


def test_a_real_prometheus_lists_the_shipped_rules_alike(version: str, tmp_path: Path) -> None:
    """The shipped rules have the same names, texts, holds and labels here and there, under the same keys."""
    path = CHECKOUT / "rules" / "memory.yml"
    bench = Bench(groups=[Group(spec, default_interval_seconds=60.0, external_labels={}, external_url="")
                          for spec in load([path])])
    with running_prometheus("", tmp_path, rule_files=[path]) as real:
        theirs = wait_until(lambda: real.get(RULES)["data"]["groups"], 20, "rules")

        async def steps(ask: Ask, url: str) -> None:
            ours = {group["name"]: group for group in (await ask(RULES)).data["groups"]}
            assert ours.keys() == {group["name"] for group in theirs}
            for group in theirs:
                own = ours[group["name"]]
                assert own.keys() == group.keys()
                for name in ("file", "interval", "limit"):
                    assert own[name] == group[name]
                for mine, rule in zip(own["rules"], group["rules"], strict=True):
                    assert mine.keys() - {"labels"} == rule.keys() - {"labels", "lastError"}
                    for name in ("name", "type", "duration", "keepFiringFor", "annotations"):
                        assert mine.get(name) == rule.get(name)
                    assert mine["labels"] == rule.get("labels", {})
                    assert version == "2" or mine["query"] == rule["query"]
                    assert parse(mine["query"]) == parse(rule["query"])

        serve(bench, steps)
