"""The landing page: name, version, links, targets and alerts. One self-contained HTML page without script."""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from sidecar import __version__
from sidecar.web.api import exponent_form
from sidecar.web.view import Snapshot, TargetStatus

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
nav a { display: inline-block; margin-right: 1rem; padding: .25rem 0; }
div { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8886; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""
STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LINKS = {
    "Metrics": "/metrics", "Alerts": "/api/v1/alerts", "Actions": "/api/v1/actions",
    "Healthy": "/-/healthy", "Ready": "/-/ready",
}  # fmt: skip


def landing(snapshot: Snapshot) -> bytes:
    """The page as UTF-8. Everything that comes from a target or a rule is escaped."""
    state = f"Not ready: {snapshot.unready}." if snapshot.unready else "Ready."
    links = "".join(f'<a href="{path}">{name}</a>' for name, path in LINKS.items())
    targets = _table("Targets", ("Target", "State", "#Used", "#Main", "#Critical"), map(_target, snapshot.targets))
    alerts = _table("Alerts", ("Alert", "State", "#Value", "Labels", "Summary"), (
        (alert.name, alert.state, exponent_form(alert.value), str(alert.labels.without("alertname")),
         alert.annotations.get("summary", ""))
        for alert in snapshot.alerts if alert.state != "inactive"
    ))  # fmt: skip
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>rag-sidecar</title><style>{STYLE}</style></head><body>"
        f"<h1>rag-sidecar {__version__}</h1><p>{escape(state)}</p><nav>{links}</nav>{targets}{alerts}</body></html>\n"
    )
    return page.encode("utf-8", "backslashreplace")


def _target(target: TargetStatus) -> tuple[str, ...]:
    sizes = map(_mebibytes, (target.used_bytes, target.main_bytes, target.critical_bytes))
    return target.name, "up" if target.up else "gone", *sizes


def _mebibytes(size_bytes: float | None) -> str:
    return "–" if size_bytes is None else f"{size_bytes / 2**20:,.1f} MiB"


def _table(title: str, columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table under its heading; a column whose name begins with # holds numbers."""
    kinds = [' class="number"' if column.startswith("#") else "" for column in columns]
    head = "".join(
        f'<th scope="col"{kind}>{column.lstrip("#")}</th>' for column, kind in zip(columns, kinds, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in rows
    )
    if not body:
        return f"<h2>{title}</h2><p>None.</p>"
    return f"<h2>{title}</h2><div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
