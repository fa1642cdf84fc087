"""The commands that ask: `query` and `explain`. They ask a running sidecar, or any Prometheus: it is the same API."""

import argparse
import difflib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sidecar.cli_http import add_flag, read_pass
from sidecar.errors import QueryError, SidecarError

if TYPE_CHECKING:
    from sidecar.cli_api import Api
    from sidecar.explain.tree import Answer
    from sidecar.promql.tree import Expr, VectorSelector

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

OK = 0
DEFAULT_URL = "http://127.0.0.1:11611"
SPAN_SECONDS = 300.0
POINTS = 60
MOST_INCIDENTS = "300"
NOTHING_DONE: "Mapping[str, list[object]]" = {"decisions": [], "incidents": []}
SELECTORS = 5
"""Of so many selectors of an empty result at most it is looked up why they are empty."""

_QUERY = """\
examples:
  rag-sidecar query rag_memory_used_bytes
  rag-sidecar query 'rag_memory_used_bytes / rag_memory_limit_bytes'
  rag-sidecar query --time 5m ALERTS                    as it was 5 minutes ago
  rag-sidecar query --start 1h --step 30s rag_memory_used_bytes
  rag-sidecar query --url http://127.0.0.1:9090 up      a Prometheus
  rag-sidecar query --url unix:/var/lib/rag-sidecar/control.sock rag_target_up

T is Unix time, RFC 3339, or how long ago: 90s, 5m, 1h.
Exit codes: 0 there was an answer, be it empty, 1 failure. docs/api.md
"""
_EXPLAIN = """\
examples:
  rag-sidecar explain RagMemoryMain
  rag-sidecar explain RagMemoryMain --target rag        this one alone
  rag-sidecar explain RagMemoryMain -o json             for programs

Exit codes: 0 whether it fires or not, 1 there is no such alert or target.
docs/rules.md, "Why does it fire?"
"""


def add(commands: "Commands") -> None:
    """Add the commands `query` and `explain`."""
    form: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    query = commands.add_parser("query", help="ask a running sidecar in PromQL", epilog=_QUERY, **form)
    query.add_argument("expr", metavar="EXPR", help="a PromQL expression")
    query.add_argument("--time", metavar="T", help="the moment to ask about; default now")
    query.add_argument("--start", metavar="T", help="ask for a range: its beginning; default 5 minutes before its end")
    query.add_argument("--end", metavar="T", help="its end; default now")
    query.add_argument("--step", metavar="DURATION", help="how far its moments are apart; default: some 60 of them")
    query.set_defaults(call=_query)
    explain = commands.add_parser("explain", help="why an alert fires, waits or does not", epilog=_EXPLAIN, **form)
    explain.add_argument("alert", metavar="ALERT", help="its name")
    explain.add_argument("--target", metavar="NAME", help="speak of this target alone")
    explain.set_defaults(call=_explain)
    for command in (query, explain):
        command.add_argument("--url", default=DEFAULT_URL, metavar="URL", help="whom to ask: a server, or unix:PATH, "
                             f"a sidecar's control socket; default {DEFAULT_URL}")
        add_flag(command)
        command.add_argument("-o", dest="output", choices=("text", "json"), default="text", help="form of the output")


def _query(arguments: argparse.Namespace) -> int:
    from sidecar import cli_results
    from sidecar.cli_api import Api
    from sidecar.cli_terminal import terminal
    from sidecar.explain.units import unit_of

    api, path, parameters = Api(arguments.url, read_pass(arguments.http_config)), *_asked(arguments)
    said = api.query(path, arguments.expr, **parameters)
    expr = _parsed(arguments.expr)
    if arguments.output == "json":
        print(json.dumps(said.data, indent=2))
    elif text := cli_results.as_text(said.data, unit_of(expr) if expr else "", terminal()):
        print(text)
    else:
        at = parameters.get("time") or parameters.get("end")
        print(cli_results.wrapped(f"Nothing: {_why_nothing(api, expr, {'time': at} if at else {})}.", terminal()))
    for remark in said.remarks:
        print(remark, file=sys.stderr)
    return OK


def _asked(arguments: argparse.Namespace) -> tuple[str, dict[str, str]]:
    """The endpoint and its parameters, from what the command line says of time."""
    from sidecar.clock import wall

    now = wall()
    if arguments.start is None and arguments.end is None and arguments.step is None:
        return "/api/v1/query", {} if arguments.time is None else {"time": _moment(arguments.time, now)}
    if arguments.time is not None:
        raise SidecarError("--time asks about one moment, --start, --end and --step about a range: give one of both")
    end = _moment(arguments.end or str(round(now, 3)), now)
    start = _moment(arguments.start, now) if arguments.start else f"{_seconds(end) - SPAN_SECONDS:.3f}"
    step = arguments.step or f"{max(1.0, round((_seconds(end) - _seconds(start)) / POINTS)):g}"
    return "/api/v1/query_range", {"start": start, "end": end, "step": step}


def _moment(text: str, now: float) -> str:
    """A moment as the API takes it: what was `5m` is that long before `now`, anything else is left as it is."""
    from sidecar.rules.durations import parse_duration

    if text == "0":
        return text
    try:
        return f"{now - parse_duration(text):.3f}"
    except ValueError:
        return text


def _seconds(text: str) -> float:
    for read in (float, lambda given: datetime.fromisoformat(given).timestamp()):
        with suppress(ValueError, OverflowError):
            return read(text)
    raise SidecarError(f"{text!r} is no moment", help="write Unix time, RFC 3339 (2026-11-20T09:12:07Z), or how long "
                       "ago: 90s, 5m, 1h")


def _parsed(text: str) -> "Expr | None":
    from sidecar.promql.parse import parse

    try:
        return parse(text, experimental=True)
    except QueryError:
        return None  # a Prometheus may know more than we do


def _why_nothing(api: "Api", expr: "Expr | None", at: Mapping[str, str]) -> str:
    """Why a result has no element: a name that nobody has, a label value that nobody has, or a condition."""
    from sidecar.promql.tree import VectorSelector, walk

    selectors = [node for node in walk(expr) if isinstance(node, VectorSelector) and node.name] if expr else []
    reasons = [reason for selector in selectors[:SELECTORS] if (reason := _why_empty(api, selector, at))]
    if reasons:
        return "; ".join(dict.fromkeys(reasons))
    if selectors:
        return "every series in the expression is there, but no element meets its conditions or finds a partner"
    return "the expression gives no element"


def _why_empty(api: "Api", selector: "VectorSelector", at: Mapping[str, str]) -> str:
    if _elements(api, selector.series(), at):
        return ""
    if not _elements(api, f"count({selector.name})", at):
        near = difflib.get_close_matches(selector.name, _names(api, at), 3, 0.7)
        return f"there is no series {selector.name} at that time" + (f"; near it: {', '.join(near)}" if near else "")
    for matcher in selector.matchers:
        if matcher.name == "__name__":
            continue
        found = [each["metric"].get(matcher.name, "") for each in _elements(
            api, f"count by ({matcher.name}) ({selector.name})", at)]
        if matcher.op == "=" and matcher.value not in found:
            shown = ", ".join(sorted(filter(None, found))[:10])
            return f'{selector.name} has no {matcher.name}="{matcher.value}"; it has ' + (shown or "no such label")
    return f"no series of {selector.name} has all of these labels"


def _names(api: "Api", at: Mapping[str, str]) -> list[str]:
    """The names of all metrics: from where they are cheap, else counted."""
    try:
        return [str(name) for name in api.get("/api/v1/label/__name__/values").data]
    except SidecarError:
        return [each["metric"]["__name__"] for each in _elements(api, 'count by (__name__) ({__name__!=""})', at)]


def _elements(api: "Api", expr: str, at: Mapping[str, str]) -> list[Any]:
    try:
        found = api.query("/api/v1/query", expr, **at).data["result"]
    except SidecarError:
        return []
    return found if isinstance(found, list) else []


def _explain(arguments: argparse.Namespace) -> int:
    from sidecar.cli_api import Api
    from sidecar.cli_terminal import terminal
    from sidecar.explain import seen
    from sidecar.explain.explanation import explain
    from sidecar.explain.record import as_record
    from sidecar.explain.text import Screen, as_text

    api = Api(arguments.url, read_pass(arguments.http_config))
    rules = seen.rules(api.get("/api/v1/rules", type="alert").data)
    chosen = [rule for rule in rules if rule.name == arguments.alert]
    if not chosen:
        raise _unknown(arguments.alert, sorted({rule.name for rule in rules}), api.url)
    now = seen.result(api.query("/api/v1/query", "time()").data)
    assert isinstance(now, float)
    done = api.get("/api/v1/actions", limit=MOST_INCIDENTS).data if api.is_sidecar else NOTHING_DONE
    found = [explain(rule, _asking(api), now, arguments.target, acts=api.is_sidecar, parked=seen.parked(done),
                     rests=seen.rests(done)) for rule in chosen]
    if arguments.output == "json":
        print(json.dumps([as_record(explained) for explained in found], indent=2))
    else:
        screen = Screen(*terminal())
        print("\n\n".join(as_text(explained, screen) for explained in found))
    return OK


def _asking(api: "Api") -> "Callable[[str, float], Answer]":
    """How an explanation reaches its values; what the server refuses is part of the explanation."""
    from sidecar.cli_api import Refused
    from sidecar.explain import seen

    def ask(expr: str, at: float) -> "Answer":
        try:
            return seen.result(api.query("/api/v1/query", expr, time=f"{at:.3f}").data)
        except Refused as error:
            return error

    return ask


def _unknown(name: str, known: list[str], url: str) -> SidecarError:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    more = [f"… and {len(known) - 40} more"] if len(known) > 40 else []
    listed = f"alerts there: {', '.join([*known[:40], *more])}" if known else "no alerting rules are loaded there"
    return SidecarError(f"there is no alert {name} at {url}{hint}", help=listed)
