"""What all dashboards have in common: variables, annotations, links, and the places of their panels."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from panels import CRITICAL, GOOD, SOURCE, Json, link, selected

SCHEMA_VERSION = 39  # Grafana 10.3 and later read it
COLUMNS = 24
TAG = "rag-memory"
DOCS = "/public/rag-sidecar"
"""Where links look for docs/: below Grafana's own folder of public files. `build.py --docs.url` names another place."""


class Row(NamedTuple):
    """A heading and the panels below it; a folded one is not asked for until it is opened."""

    title: str
    panels: Sequence[Json]
    folded: bool = False


def dashboard(uid: str, title: str, about: str, rows: Iterable[Row], docs: str = DOCS) -> Json:
    """A whole dashboard."""
    return {
        "id": None, "uid": uid, "title": f"RAG memory / {title}", "description": about, "tags": [TAG],
        "schemaVersion": SCHEMA_VERSION, "version": 1, "editable": False, "graphTooltip": 1, "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"}, "timezone": "browser", "fiscalYearStartMonth": 0, "weekStart": "",
        "timepicker": {"refresh_intervals": ["1s", "5s", "10s", "30s", "1m", "5m"]},
        "templating": {"list": _variables(docs)}, "annotations": {"list": _annotations()}, "links": _links(),
        "panels": _placed(rows),
    }  # fmt: skip


def _variables(docs: str) -> list[Json]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "regex": "",
              "hide": 0, "refresh": 1, "multi": False, "includeAll": False,
              "description": "A Prometheus that scrapes the sidecars, or one sidecar itself."}
    jobs = _variable("job", "Job", "label_values(rag_sidecar_build_info, job)",
                     "The scrape job of the sidecars; of a sidecar itself what it calls itself.")
    instances = _variable("instance", "Instance", 'label_values(rag_sidecar_build_info{job=~"$job"}, instance)',
                          "The sidecars.")
    targets = _variable("target", "Target", 'label_values(rag_target_up{job=~"$job",instance=~"$instance"}, target)',
                        "The programs that they guard.")
    place = {"name": "docs", "label": "Documentation", "type": "constant", "query": docs, "hide": 2,
             "skipUrlSync": True, "description": "Where the pages of docs/ are found."}
    return [source, jobs, instances, targets, place]


def _variable(name: str, label: str, query: str, about: str) -> Json:
    return {"name": name, "label": label, "description": about, "type": "query", "datasource": SOURCE,
            "query": {"qryType": 1, "query": query, "refId": f"variable-{name}"}, "regex": "",
            "hide": 0, "refresh": 2, "sort": 1, "multi": True, "includeAll": True, "allValue": ".+",
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]}, "options": []}


def _annotations() -> list[Json]:
    return [
        _annotation("Alerts", CRITICAL, 'ALERTS{alertstate="firing",$T}', titleFormat="{{alertname}}",
                    textFormat="{{target}}: {{level}} {{severity}}", tagKeys="severity,level", useValueForTime=False),
        _annotation("Cleanups", GOOD, "rag_cleanup_last_timestamp_seconds{$T} * 1000", titleFormat="Cleanup",
                    textFormat="{{target}} was asked to clean up", tagKeys="target", useValueForTime=True),
        _annotation("Restarts", "blue", 'rag_process_start_time_seconds{process="main",$T} * 1000',
                    titleFormat="Start", textFormat="The process of {{target}} started", tagKeys="target",
                    useValueForTime=True),
    ]


def _annotation(name: str, colour: str, expr: str, **texts: str | bool) -> Json:
    # A step of 10 s: with the usual minute a short alert would fall between two steps.
    return {"name": name, "enable": True, "hide": False, "iconColor": colour, "datasource": SOURCE,
            "target": {"refId": "Anno", "expr": selected(expr), "interval": "10s"}, **texts}


def _links() -> list[Json]:
    others = {"title": "RAG memory", "type": "dashboards", "tags": [TAG], "url": "", "icon": "dashboard", "tooltip": "",
              "asDropdown": False, "includeVars": True, "keepTime": True, "targetBlank": False}
    return [others, link("Runbooks", "${docs}/runbooks/memory.md"), link("Metrics", "${docs}/metrics.md")]


def _placed(rows: Iterable[Row]) -> list[Json]:
    """The panels in reading order, each with its number and its place; those of a folded row inside it."""
    placed: list[Json] = []
    top = number = 0
    for row in rows:
        number += 1
        heading = {"type": "row", "id": number, "title": row.title, "collapsed": row.folded, "panels": [],
                   "gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}}
        placed.append(heading)
        inside: list[Json] = []
        left, line, high = 0, top + 1, 0
        for made in row.panels:
            width, height = made["gridPos"]["w"], made["gridPos"]["h"]
            if left + width > COLUMNS:
                left, line, high = 0, line + high, 0
            number += 1
            inside.append({"id": number, **made, "gridPos": {"x": left, "y": line, "w": width, "h": height}})
            left, high = left + width, max(high, height)
        if row.folded:
            heading["panels"] = inside
            top += 1
        else:
            placed += inside
            top = line + high
    return placed
