"""GET /api/v1/rules: every rule, its state and its alerts, in Prometheus's shape (web/api/v1/api.go)."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from sidecar.errors import QueryError
from sidecar.notify.payload import rfc3339
from sidecar.promql.mistake import described
from sidecar.promql.notation import quote
from sidecar.promql.parse import parse_matchers
from sidecar.promql.regex import predicate
from sidecar.promql.values import Matcher
from sidecar.rules.alerting import AlertingRule
from sidecar.rules.group import Group
from sidecar.rules.rule import Rule
from sidecar.web.api import ApiError, Response, alert_shape, send
from sidecar.web.parameters import Parameters, invalid, parameters, truth
from sidecar.web.query import sources_of
from sidecar.web.view import View

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time: a rule or group that has not been evaluated yet."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which rules are wanted; what is empty excludes nothing. `page_size` 0 is all groups at once."""

    kind: str = ""
    names: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    matchers: Sequence[Sequence[Matcher]] = ()
    with_alerts: bool = True
    page_size: int = 0
    page_token: str = ""

    def passes(self, rule: Rule) -> bool:
        """Whether a rule is wanted. Its labels are matched as they are written, before templates are expanded."""
        kind = "alert" if isinstance(rule, AlertingRule) else "record"
        return self.kind in ("", kind) and (not self.names or rule.name in self.names) and (
            not self.matchers or any(_match(matchers, rule.spec.labels) for matchers in self.matchers))


def _match(matchers: Sequence[Matcher], labels: Mapping[str, str]) -> bool:
    return all(predicate(matcher)(labels.get(matcher.name, "")) for matcher in matchers)


async def handle(request: web.Request, view: View) -> Response:
    """The endpoint. Raises ApiError."""
    wanted, sources = _filter(await parameters(request)), sources_of(view)
    chosen, following = page(sources.groups, wanted)
    return await send(request, _pieces(chosen, wanted, following), sources.breathe)


def page(groups: Sequence[Group], wanted: Filter) -> tuple[list[tuple[Group, list[Rule]]], str]:
    """The groups of a page with their wanted rules, none of them empty, and the token of the next page.

    Raises ApiError for a token that names no group.
    """
    chosen: list[tuple[Group, list[Rule]]] = []
    found = not wanted.page_token
    for group in groups:
        found = found or wanted.page_token == token(group)
        if not found or (wanted.groups and group.name not in wanted.groups) or (
                wanted.files and group.file not in wanted.files):
            continue
        rules = [rule for rule in group.rules if wanted.passes(rule)]
        if not rules:
            continue
        if wanted.page_size and len(chosen) == wanted.page_size:
            return chosen, token(group)
        chosen.append((group, rules))
    if not found:
        raise invalid("group_next_token",
                      f"invalid group_next_token '{wanted.page_token}'. were rule groups changed?")
    return chosen, ""


def token(group: Group) -> str:
    """What names a group between two pages."""
    return hashlib.sha1(f"{group.file};{group.name}".encode(errors="replace"), usedforsecurity=False).hexdigest()


def _pieces(chosen: Sequence[tuple[Group, list[Rule]]], wanted: Filter, following: str) -> Iterator[str]:
    yield '{"status":"success","data":{"groups":['
    for index, (group, rules) in enumerate(chosen):
        yield f'{"," if index else ""}{{"name":{json.dumps(group.name)},"file":{json.dumps(group.file)},"rules":['
        for position, rule in enumerate(rules):
            yield ("," if position else "") + json.dumps(shape(rule, with_alerts=wanted.with_alerts))
        yield "]," + json.dumps(_figures(group))[1:]
    yield "]" + (f',"groupNextToken":"{following}"' if following else "") + "}}"


def _figures(group: Group) -> dict[str, Any]:
    return {"interval": _number(group.interval_seconds), "limit": group.spec.limit,
            "evaluationTime": group.last_duration_seconds, "lastEvaluation": _moment(group.last_evaluation)}


def shape(rule: Rule, *, with_alerts: bool = True) -> dict[str, Any]:
    """One rule. Labels and annotations of a rule are the templates as written; those of its alerts are expanded."""
    health = {"health": rule.health, **({"lastError": rule.last_error} if rule.last_error else {}),
              "evaluationTime": rule.last_duration_seconds, "lastEvaluation": _moment(rule.last_evaluation)}
    if not isinstance(rule, AlertingRule):
        return {"name": rule.name, "query": str(rule.spec.expr), "labels": dict(rule.spec.labels), **health,
                "type": "recording"}
    active = [alert for alert in rule.alerts() if alert.state != "inactive"] if with_alerts else []
    return {
        "state": rule.state, "name": rule.name, "query": str(rule.spec.expr),
        "duration": _number(rule.spec.for_seconds), "keepFiringFor": _number(rule.spec.keep_firing_for_seconds),
        "labels": dict(rule.spec.labels), "annotations": dict(rule.spec.annotations),
        "alerts": [alert_shape(alert) for alert in active], **health, "type": "alerting"}


def _number(seconds: float) -> float:
    return int(seconds) if seconds.is_integer() else seconds


def _moment(at: float | None) -> str:
    return NEVER if at is None else rfc3339(at)


def _filter(given: Parameters) -> Filter:
    kind = given.first("type").lower()
    if kind not in ("", "alert", "record"):
        raise invalid("type", f"not supported value {quote(kind)}")
    page_token = given.first("group_next_token")
    if page_token and not given.first("group_limit"):
        raise invalid("group_next_token", "group_limit needs to be present in order to paginate over the groups")
    return Filter(
        kind, frozenset(given.every("rule_name[]")), frozenset(given.every("rule_group[]")),
        frozenset(given.every("file[]")), [_matchers(text) for text in given.every("match[]")],
        not given.read("exclude_alerts", truth, False), given.read("group_limit", _page_size, 0), page_token)


def _page_size(text: str) -> int:
    if not (text.isascii() and text.lstrip("+-").isdigit() and len(text) < 10):
        raise ValueError(f"group_limit needs to be a valid number: {quote(text)} is none")
    if int(text) <= 0:
        raise ValueError("group_limit needs to be greater than 0")
    return int(text)


def _matchers(text: str) -> Sequence[Matcher]:
    try:
        return parse_matchers(text)
    except QueryError as error:
        raise ApiError("bad_data", described(text, error)) from None
