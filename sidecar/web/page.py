"""The landing page: targets, alerts and cleanups as they are now. One self-contained HTML page without script."""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from sidecar import __version__
from sidecar.model import Alert
from sidecar.web.view import Snapshot, TargetStatus

STYLE = """
:root { color-scheme: light dark; --line: #8885; --dim: #8a8f98; --good: #2e9d5b; --warn: #d08700; --bad: #d33f49; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 56rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; }
header { display: flex; flex-wrap: wrap; gap: .25rem 1rem; align-items: baseline; }
h1 { font-size: 1.3rem; margin: 0; } h1 small { color: var(--dim); font-weight: normal; font-size: .9rem; }
h2 { font-size: .85rem; letter-spacing: .06em; text-transform: uppercase; color: var(--dim); margin: 2rem 0 .5rem; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; } nav a { padding: .25rem 0; }
article { border: 1px solid var(--line); border-radius: .6rem; padding: .7rem 1rem; margin: 0 0 .6rem; }
article > p { margin: .15rem 0; overflow-wrap: anywhere; }
.top { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; }
.top b { overflow-wrap: anywhere; } .top span:last-child { margin-left: auto; font-variant-numeric: tabular-nums; }
.dim { color: var(--dim); font-size: .875rem; font-variant-numeric: tabular-nums; }
.chip { border: 1px solid currentColor; border-radius: 1rem; padding: 0 .6rem; font-size: .8rem; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
meter { width: 100%; height: 1.1rem; margin: .3rem 0 0; }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LINKS = {"metrics": "/metrics", "alerts": "/api/v1/alerts", "actions": "/api/v1/actions", "ready": "/-/ready"}
REFRESH_SECONDS = 5
SHOWN_ACTIONS = 12
QUIET = ("below_threshold", "target_down")
"""Reasons for doing nothing that the rest of the card has said."""
TONES = {
    "firing": "bad", "pending": "warn", "effective": "good", "dry_run": "dim", "running": "dim", "skipped": "dim",
    "partial": "warn", "unknown": "warn", "interrupted": "warn", "ineffective": "bad", "refused": "bad",
    "undelivered": "bad", "normal": "good", "cautious": "warn", "degraded": "bad",
}  # fmt: skip


def landing(snapshot: Snapshot) -> bytes:
    """The page as UTF-8. Everything that comes from a target or a rule is escaped."""
    state = _chip(f"not ready: {snapshot.unready}", "bad") if snapshot.unready else _chip("ready", "good")
    links = "".join(f'<a href="{path}">{name}</a>' for name, path in LINKS.items())
    alerts = [alert for alert in snapshot.alerts if alert.state != "inactive"]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
        f"<title>rag-sidecar</title><style>{STYLE}</style></head><body>"
        f"<header><h1>rag-sidecar <small>{__version__}</small></h1>{state}<nav>{links}</nav></header>"
        + _section("Targets", (_target(target, snapshot) for target in snapshot.targets))
        + _section("Alerts", map(_alert, alerts))
        + _section("Cleanups", map(_action, _newest(snapshot.actions)))
        + "</body></html>\n"
    )
    return page.encode("utf-8", "backslashreplace")


def _section(title: str, articles: Iterable[str]) -> str:
    body = "".join(articles) or '<p class="dim">None.</p>'
    return f"<section><h2>{title}</h2>{body}</section>"


def _chip(text: str, tone: str) -> str:
    return f'<span class="chip {tone}">{escape(text)}</span>'


def _article(name: str, chip: str, right: str, *lines: str) -> str:
    """A card: a name, a state, a figure, and what belongs to them. `lines` are HTML."""
    top = f'<div class="top"><b>{escape(name)}</b>{chip}<span>{escape(right)}</span></div>'
    return f"<article>{top}{''.join(lines)}</article>"


def _target(target: TargetStatus, snapshot: Snapshot) -> str:
    """Used bytes as a bar up to a little above the critical line, the mode, and why nothing is done, if that is so."""
    used, main, critical = target.used_bytes, target.main_bytes, target.critical_bytes
    bar = ""
    if used is not None and main and critical:
        low, high, most = 0.8 * main, main, 1.1 * critical
        bar = (f'<meter min="0" max="{most:.0f}" low="{low:.0f}" high="{high:.0f}" optimum="0" value="{used:.0f}" '
               f'aria-label="used memory"></meter>'
               f'<p class="dim">main {_mebibytes(main)} · critical {_mebibytes(critical)}</p>')
    mode = snapshot.modes[target.name].mode if target.name in snapshot.modes else ""
    chips = _chip("up", "good") if target.up else _chip("gone", "bad")
    chips += _chip(mode, TONES.get(mode, "dim")) if mode else ""
    said = [escape(str(row.get("message", ""))) for row in snapshot.decisions
            if row.get("target") == target.name and row.get("reason") not in QUIET]
    return _article(target.name, chips, _mebibytes(used), bar, *(f"<p>{text}</p>" for text in said))


def _alert(alert: Alert) -> str:
    right = " ".join(filter(None, (alert.labels.get("target"), alert.labels.get("instance"))))
    summary = f"<p>{escape(alert.annotations.get('summary', ''))}</p>"
    return _article(alert.name, _chip(alert.state, TONES[alert.state]), right, summary)


def _action(action: Mapping[str, Any]) -> str:
    outcome, freed = str(action.get("outcome", "")), action.get("freed_bytes")
    said = [datetime.fromtimestamp(float(action["started_at"]), UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            f"by {action['channel']}" if action.get("channel") else "", str(action.get("reason", ""))]
    details = " · ".join(filter(None, said))
    right = "" if freed is None else f"freed {_mebibytes(float(freed))}"
    return _article(f"{action.get('target', '')}: {action.get('cleanup', '')}",
                    _chip(outcome, TONES.get(outcome, "dim")), right, f'<p class="dim">{escape(details)}</p>')


def _newest(actions: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(actions, key=lambda action: float(action["started_at"]), reverse=True)[:SHOWN_ACTIONS]


def _mebibytes(size_bytes: float | None) -> str:
    return "–" if size_bytes is None else f"{size_bytes / 2**20:,.1f} MiB"
