"""GET /api/v2/status and /api/v2/alerts: as much of Alertmanager's API as `amtool alert` reads. Nothing is taken here.

What is listed are the firing alerts, as they are posted to every Alertmanager.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, cast

from aiohttp import web

from sidecar.errors import QueryError
from sidecar.model import Alert
from sidecar.notify.payload import payload, rfc3339
from sidecar.notify.queue import Message
from sidecar.promql.regex import predicate
from sidecar.promql.values import Matcher
from sidecar.web.api import JSON, Response
from sidecar.web.parameters import parameters
from sidecar.web.query import Queries
from sidecar.web.status import about_of, as_yaml, version
from sidecar.web.view import About

MatchOp = Literal["=", "!=", "=~", "!~"]
RECEIVER = "alertmanagers"
"""The one receiver: every alert goes to every configured Alertmanager."""
RESEND_SECONDS = 60.0
VALID_INTERVALS = 4
"""So many times the longer of resending and evaluating an alert stays valid without news, as Prometheus has it."""

_MATCHER = re.compile(r'\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(=~|!~|!=|=)\s*(?:"((?:[^"\\]|\\.)*)"|([^"]*?))\s*', re.DOTALL)
_ESCAPES = {r"\n": "\n", r"\"": '"', r"\\": "\\"}
_OFFSET, _PRIME, _WORD = 0xCBF29CE484222325, 0x100000001B3, (1 << 64) - 1


async def status(request: web.Request, queries: Queries) -> Response:
    """GET /api/v2/status: what amtool asks for before anything else."""
    about = about_of(queries.view)
    told = {"version": version(), "revision": "", "branch": "", "buildUser": "", "buildDate": "", "goVersion": ""}
    return _json({"cluster": {"status": "disabled", "peers": []}, "config": {"original": as_yaml(about.settings())},
                  "uptime": rfc3339(about.started_at), "versionInfo": told})


async def alerts(request: web.Request, queries: Queries) -> Response:
    """GET /api/v2/alerts: the firing alerts whose labels pass every `filter`, in the order of their fingerprints."""
    given, about = await parameters(request), about_of(queries.view)
    try:
        tests = [(one.name, predicate(one)) for one in map(_matcher, given.every("filter"))]
        wanted = predicate(Matcher("receiver", "=~", given.first("receiver") or ".*"))(RECEIVER)
    except QueryError as error:
        return _json(str(error), 400)
    if not wanted or given.first("active") in ("false", "0", "f", "F", "FALSE", "False"):
        return _json([])
    shown = [_shape(alert, about) for alert in queries.view.snapshot.alerts if alert.state == "firing"]
    return _json(sorted((row for row in shown if all(test(row["labels"].get(name, "")) for name, test in tests)),
                        key=lambda row: cast(str, row["fingerprint"])))


def fingerprint(labels: Mapping[str, str]) -> str:
    """What names an alert by its labels: FNV-1a of names and values, each followed by a byte 0xff."""
    found = _OFFSET
    for name in sorted(labels):
        for byte in b"".join(text.encode("utf-8", "surrogatepass") + b"\xff" for text in (name, labels[name])):
            found = (found ^ byte) * _PRIME & _WORD
    return f"{found:016x}"


def _shape(alert: Alert, about: About) -> dict[str, Any]:
    valid_seconds = VALID_INTERVALS * max(alert.interval_seconds, RESEND_SECONDS)
    told = payload(Message(alert, alert.last_evaluation + valid_seconds), about.external_labels, about.url)
    return {**told, "updatedAt": rfc3339(alert.last_evaluation), "fingerprint": fingerprint(told["labels"]),
            "receivers": [{"name": RECEIVER}], "status": {"state": "active", "silencedBy": [], "inhibitedBy": []}}


def _matcher(text: str) -> Matcher:
    """A matcher as Alertmanager reads it: `severity="critical"`, the quotes may be left out. Raises QueryError."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise QueryError(f"bad matcher format: {text}")
    name, operator, quoted, plain = cast(tuple[str, MatchOp, str | None, str], found.groups())
    value = plain if quoted is None else re.sub(r'\\[n"\\]', lambda escape: _ESCAPES[escape[0]], quoted)
    return Matcher(name, operator, value)


def _json(data: Any, status_code: int = 200) -> Response:
    return web.Response(status=status_code, text=json.dumps(data, allow_nan=False), content_type=JSON)
