"""The status page: targets, alerts, incidents and cleanups as they are now, as HTML that needs no script.

The scripts in static/ add charts and buttons to it. They fetch this page every few seconds and put what stands in its
elements with `data-live` in the place of what was there.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sidecar import __version__
from sidecar.model import Alert
from sidecar.promql.steps import Steps, piecewise
from sidecar.web.markup import TONES, chip, moment, prose, seconds, size, text
from sidecar.web.page_target import by_target, target_card
from sidecar.web.view import Snapshot, View

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LINKS = {"metrics": "metrics", "alerts": "api/v1/alerts", "rules": "api/v1/rules", "actions": "api/v1/actions"}
REFRESH_SECONDS = 5
"""For browsers that run no scripts; the scripts look every 2 s."""
SHOWN_ACTIONS = 12
SHOWN_INCIDENTS = 6
HEAD = f"""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="static/icon.svg">
<link rel="stylesheet" href="static/uPlot.min.css"><link rel="stylesheet" href="static/status.css">
<script defer src="static/uPlot.iife.min.js"></script><script type="module" src="static/status.js"></script>
<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>
"""


def landing(view: View, *, token: bool) -> Steps[bytes]:
    """The page as UTF-8, in pieces: a fleet's is long.

    `token`: whether there is one, with which orders are taken. All that is shown is escaped.
    """
    shown = view.snapshot
    paused = view.hands.paused() if view.hands else {}
    now = view.sources.now() if view.sources else 0.0
    links = "".join(f'<a href="{path}">{name}</a>' for name, path in LINKS.items())
    alerts = [alert for alert in shown.alerts if alert.state != "inactive"]
    firing = sum(alert.state == "firing" for alert in alerts)
    series = yield from by_target(shown.families)
    cards: list[str] = []
    for number, target in enumerate(shown.targets):
        cards.append(target_card(target, shown, series.get(target.name, {}), paused, number))
        yield
    rows = yield from piecewise(lambda piece: list(map(_alert, piece)), alerts)
    page = (
        f'{HEAD}<title>{f"({firing}) " if firing else ""}rag-sidecar</title></head>'
        f'<body data-token="{"yes" if token else "no"}"><header><h1><img src="static/icon.svg" alt="">'
        f'rag-sidecar <small>{__version__}</small></h1><div class="chips" id="state" data-live>'
        f'<data id="now" value="{now:.3f}"></data>{_state(shown, firing)}</div><div id="ranges"></div>'
        f'<nav aria-label="data">{links}</nav></header>'
        '<p id="offline" role="alert" hidden></p><main>'
        f'<section id="targets"><h2>Targets</h2>{"".join(cards) or _NONE}</section>'
        + _section("alerts", "Alerts", rows)
        + _section("incidents", "Incidents", map(_incident, _newest(shown.incidents, "opened_at", SHOWN_INCIDENTS)))
        + _section("cleanups", "Cleanups", map(_action, _newest(shown.actions, "started_at", SHOWN_ACTIONS)))
        + "</main></body></html>\n"
    )
    return page.encode("utf-8", "backslashreplace")


_NONE = '<p class="dim">None.</p>'


def _section(name: str, title: str, rows: Iterable[str]) -> str:
    return f'<section><h2>{title}</h2><div id="{name}" data-live>{"".join(rows) or _NONE}</div></section>'


def _state(shown: Snapshot, firing: int) -> str:
    """Whether it is ready, and how many alerts fire."""
    state = chip(f"not ready: {shown.unready}", "bad") if shown.unready else chip("ready", "good")
    return state + (chip(f"{firing} firing", "bad") if firing else "")


def _row(name: str, state: str, right: str, *lines: str) -> str:
    """A name, a state, a figure, and what belongs to them. `right` and `lines` are HTML."""
    top = f'<div class="top"><b>{text(name)}</b>{state}<span class="right">{right}</span></div>'
    return f"<article>{top}{''.join(f'<p>{line}</p>' for line in lines if line)}</article>"


def _alert(alert: Alert) -> str:
    place = " · ".join(filter(None, (alert.labels.get("target"), alert.labels.get("instance"))))
    since = f'<span class="dim">since {moment(alert.active_at)}</span>'
    return _row(alert.name, chip(alert.state, TONES[alert.state]), text(place),
                text(alert.annotations.get("summary", "")), since)


def _incident(incident: Mapping[str, Any]) -> str:
    """From when to when, what was tried, and how it goes on."""
    opened, ended, count = incident.get("opened_at", 0.0), incident.get("ended_at"), int(incident.get("attempts", 0))
    state = chip("open", "warn") if ended is None else chip("over", "dim")
    if incident.get("parked"):
        state += chip("parked", "bad")
    until = "" if ended is None else f" to {moment(ended)}"
    tried = "no cleanup" if not count else "1 cleanup" if count == 1 else f"{count} cleanups"
    return _row(f"{incident.get('target', '')}: {incident.get('level', '')}", state, tried,
                prose(incident.get("message", "")), f'<span class="dim">{moment(opened)}{until}</span>')


def _action(action: Mapping[str, Any]) -> str:
    """What was asked for, what came of it, in bytes, and why."""
    outcome, freed = str(action.get("outcome", "")), action.get("freed_bytes")
    before, after, took = action.get("before_bytes"), action.get("after_bytes"), action.get("duration_seconds")
    sizes = f"{size(before)} → {size(after)}" if before is not None and after is not None else ""
    said = [moment(action["started_at"]),
            text(f"by {action['channel']}") if action.get("channel") else "", text(action.get("reason", "")),
            text(f"asked by {action['trigger']}") if action.get("trigger", "rule") != "rule" else "",
            sizes, f"in {seconds(took)}" if took is not None else ""]
    right = "" if freed is None else f"<b>{'freed' if freed >= 0 else 'grew by'} {size(abs(freed))}</b>"
    return _row(f"{action.get('target', '')}: {action.get('cleanup', '')}", chip(outcome, TONES.get(outcome, "dim")),
                right, f'<span class="dim">{" · ".join(filter(None, said))}</span>')


def _newest(rows: Sequence[Mapping[str, Any]], by: str, most: int) -> list[Mapping[str, Any]]:
    return sorted(rows, key=lambda row: float(row.get(by) or 0.0), reverse=True)[:most]
