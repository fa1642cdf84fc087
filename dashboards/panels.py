"""Panels as Grafana's classic dashboard JSON has them (schema version 39). No clock, no network: the same every time.

An expression writes `$T` for the selection of targets and `$S` for the selection of sidecars, where a metric has no
label `target`. A panel made here has its width and height; `frame` gives it its place and its number.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]

SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
SIDECARS = 'job=~"$job",instance=~"$instance"'
TARGETS = f'{SIDECARS},target=~"$target"'
BY_TARGET = "job, instance, target"

GOOD, PREVENTIVE, MAIN, CRITICAL, QUIET = "green", "yellow", "orange", "red", "#808080"
LEVELS = {"preventive": PREVENTIVE, "main": MAIN, "critical": CRITICAL}
OUTCOMES = {
    "effective": GOOD, "partial": PREVENTIVE, "ineffective": MAIN, "undelivered": CRITICAL, "unknown": "purple",
    "interrupted": "purple", "refused": CRITICAL, "skipped": QUIET, "dry_run": QUIET,
}  # fmt: skip
KINDS = {"anon": "blue", "file": "#73BF69", "shmem": "purple", "swap": "dark-red"}


class Query(NamedTuple):
    """An expression and the name of its series: `legend` may hold `{{label}}`."""

    expr: str
    legend: str = ""


class Column(NamedTuple):
    """A column of a table: its heading, what gives one value for each row, its unit, and what its values mean."""

    name: str
    expr: str
    unit: str = "short"
    words: Sequence[tuple[float, str, str]] = ()


class Style(NamedTuple):
    """How the series look whose names match a pattern; dashed for lines that something is measured against."""

    pattern: str
    colour: str
    dashed: bool = False


LINES = (*(Style(f"/{level} line$/", colour, dashed=True) for level, colour in LEVELS.items()),
         Style("/limit$/", "dark-red", dashed=True))  # fmt: skip


def selected(expr: str) -> str:
    """An expression with its selections written out."""
    return expr.replace("$T", TARGETS).replace("$S", SIDECARS)


def by_target(expr: str) -> str:
    """One value for each target, without a name: the rows of a table are joined by their labels."""
    return f"max by ({BY_TARGET}) ({expr})"


def panel(kind: str, title: str, about: str, shape: tuple[int, int], body: Json) -> Json:
    """Any panel. `shape` is its width (of 24) and its height in Grafana's units of 30 pixels."""
    return {"type": kind, "title": title, "description": about, "datasource": SOURCE,
            "gridPos": {"w": shape[0], "h": shape[1]}, **body}


def timeseries(title: str, about: str, unit: str, *queries: Query, shape: tuple[int, int] = (12, 8),
               stacked: bool = False, styles: Iterable[Style] = ()) -> Json:
    """Lines over time; `stacked` ones add up."""
    custom: Json = {"drawStyle": "line", "lineInterpolation": "linear", "lineWidth": 1, "showPoints": "never",
                    "fillOpacity": 40 if stacked else 8, "spanNulls": False, "axisSoftMin": 0,
                    "stacking": {"mode": "normal" if stacked else "none", "group": "A"}}
    options: Json = {"legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
                     "tooltip": {"mode": "multi", "sort": "desc"}}
    defaults = {"unit": unit, "custom": custom, "color": {"mode": "palette-classic"}, **_base()}
    return panel("timeseries", title, about, shape, {
        "fieldConfig": {"defaults": defaults, "overrides": [_styled(style) for style in styles]}, "options": options,
        "targets": _targets(queries, instant=False)})


def stat(title: str, about: str, unit: str, *queries: Query, shape: tuple[int, int] = (4, 4),
         steps: Sequence[tuple[float | None, str]] = ((None, GOOD),),
         words: Sequence[tuple[float, str, str]] = ()) -> Json:
    """What is now, in big figures, one for each series. `steps` colours values, `words` replaces some of them."""
    named = any(query.legend for query in queries)
    options: Json = {
        "colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto",
        "textMode": "value_and_name" if named else "value", "wideLayout": True, "showPercentChange": False,
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }  # fmt: skip
    defaults = {"unit": unit, "noValue": "–", "color": {"mode": "thresholds"}, **_base(steps), **_words(words)}
    return panel("stat", title, about, shape, {
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
        "targets": _targets(queries, instant=True)})


def outcomes(made: Json) -> Json:
    """A panel whose series are outcomes of cleanups, each in its colour."""
    made["fieldConfig"]["overrides"] += [_styled(Style(f"/^{name}$/", colour)) for name, colour in OUTCOMES.items()]
    return made


def bars(title: str, about: str, unit: str, *queries: Query, shape: tuple[int, int] = (12, 8),
         styles: Iterable[Style] = ()) -> Json:
    """What is now, as horizontal bars, one for each series."""
    options: Json = {
        "displayMode": "basic", "orientation": "horizontal", "valueMode": "color", "namePlacement": "auto",
        "showUnfilled": False, "sizing": "auto", "minVizWidth": 8, "minVizHeight": 10, "maxVizHeight": 300,
        "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }  # fmt: skip
    defaults = {"unit": unit, "min": 0, "noValue": "–", "color": {"mode": "palette-classic"}, **_base()}
    return panel("bargauge", title, about, shape, {
        "fieldConfig": {"defaults": defaults, "overrides": [_styled(style) for style in styles]}, "options": options,
        "targets": _targets(queries, instant=True)})


def timeline(title: str, about: str, query: Query, words: Sequence[tuple[float, str, str]],
             shape: tuple[int, int] = (12, 6)) -> Json:
    """States over time, one bar for each series; `words` says which value means what, and its colour."""
    options: Json = {"mergeValues": True, "showValue": "auto", "alignValue": "left", "rowHeight": 0.9,
                     "legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
                     "tooltip": {"mode": "single", "sort": "none"}}
    defaults = {"unit": "short", "color": {"mode": "thresholds"}, "custom": {"fillOpacity": 70, "lineWidth": 0},
                **_base(), **_words(words)}
    return panel("state-timeline", title, about, shape, {
        "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
        "targets": _targets((query,), instant=False)})


def table(title: str, about: str, columns: Sequence[Column], hidden: Sequence[str] = (),
          shape: tuple[int, int] = (24, 7)) -> Json:
    """One row for each set of labels, the columns joined by them; labels in `hidden` are not shown."""
    single = len(columns) == 1
    names = {"Value" if single else f"Value #{ref}": column.name for ref, column in zip(_refs(), columns, strict=False)}
    organize = {"excludeByName": dict.fromkeys(("Time", "__name__", *hidden), True), "indexByName": {},
                "renameByName": names}
    defaults: Json = {"unit": "short", "noValue": "–", "custom": {"align": "auto", "cellOptions": {"type": "auto"},
                                                                  "inspect": False, "filterable": False}, **_base()}
    return panel("table", title, about, shape, {
        "fieldConfig": {"defaults": defaults, "overrides": [_column(column) for column in columns] + _LINKED},
        "options": {"showHeader": True, "frameIndex": 0, "cellHeight": "sm"},
        "transformations": [{"id": "merge", "options": {}}, {"id": "organize", "options": organize}],
        "targets": _targets([Query(column.expr) for column in columns], instant=True, table=True)})


def listing(title: str, about: str, expr: str, hidden: Sequence[str] = (), shape: tuple[int, int] = (12, 7)) -> Json:
    """The labels of some series, as rows: for metrics whose value says nothing."""
    made = table(title, about, [Column("Value", expr)], (*hidden, "Value"), shape)
    made["transformations"][1]["options"]["renameByName"] = {}
    return made


def with_runbook(made: Json, place: str) -> Json:
    """A panel with a link to what to do: a file of docs/runbooks, and a heading of it."""
    made["links"] = [link("Runbook", f"${{docs}}/runbooks/{place}")]
    return made


def link(title: str, url: str, **more: Any) -> Json:
    """A link of a dashboard or of a panel, which keeps the time range where it leads to another dashboard."""
    return {"title": title, "type": "link", "url": url, "icon": "external link", "tooltip": "", "tags": [],
            "asDropdown": False, "includeVars": False, "keepTime": False, "targetBlank": True, **more}


_LINKED: list[Json] = [
    {"matcher": {"id": "byName", "options": "target"}, "properties": [{"id": "links", "value": [{
        "title": "This target", "targetBlank": False,
        "url": "/d/rag-memory-target?${__url_time_range}&${datasource:queryparam}&${job:queryparam}"
               "&var-instance=${__data.fields.instance}&var-target=${__data.fields.target}"}]}]},
    {"matcher": {"id": "byName", "options": "instance"}, "properties": [{"id": "links", "value": [{
        "title": "Status page, where this address can be reached", "targetBlank": True,
        "url": "http://${__value.text}/"}]}]},
]


def _refs() -> Iterable[str]:
    return (chr(ord("A") + index) for index in range(26))


def _targets(queries: Sequence[Query], *, instant: bool, table: bool = False) -> list[Json]:
    return [{"refId": ref, "datasource": SOURCE, "editorMode": "code", "expr": selected(query.expr),
             "legendFormat": query.legend or "__auto", "instant": instant, "range": not instant, "exemplar": False,
             "format": "table" if table else "time_series"}
            for ref, query in zip(_refs(), queries, strict=False)]


def _base(steps: Sequence[tuple[float | None, str]] = ((None, GOOD),)) -> Json:
    return {"mappings": [], "thresholds": {"mode": "absolute",
                                           "steps": [{"color": colour, "value": value} for value, colour in steps]}}


def _words(words: Sequence[tuple[float, str, str]]) -> Json:
    if not words:
        return {}
    said = {f"{value:g}": {"text": text, "color": colour, "index": index}
            for index, (value, text, colour) in enumerate(words)}
    return {"mappings": [{"type": "value", "options": said}]}


def _styled(style: Style) -> Json:
    properties: list[Json] = [{"id": "color", "value": {"mode": "fixed", "fixedColor": style.colour}}]
    if style.dashed:
        properties += [{"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [10, 6]}},
                       {"id": "custom.fillOpacity", "value": 0},
                       {"id": "custom.stacking", "value": {"mode": "none", "group": "A"}}]
    return {"matcher": {"id": "byRegexp", "options": style.pattern}, "properties": properties}


def _column(column: Column) -> Json:
    properties: list[Json] = [{"id": "unit", "value": column.unit}]
    if column.words:
        properties += [{"id": "mappings", "value": _words(column.words)["mappings"]},
                       {"id": "custom.cellOptions", "value": {"type": "color-text"}}]
    return {"matcher": {"id": "byName", "options": column.name}, "properties": properties}
