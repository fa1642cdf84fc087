"""What a dashboard must be like: each rule is a function from one dashboard to what is wrong with it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from test_docs import is_broken

from sidecar.pipeline_families import METRICS
from sidecar.promql.parse import parse
from sidecar.promql.tree import Aggregate, Call, Expr, MatrixSelector, VectorSelector, walk
from sidecar.web.query import WAITING

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "dashboards"
Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
VARIABLES = ["datasource", "job", "instance", "target", "docs"]
UIDS = {"rag-memory-overview", "rag-memory-target", "rag-memory-actions", "rag-memory-sidecar"}
UNITS = {"bytes", "percentunit", "s", "dtdurations", "short", "cps", "Bps"}
PALETTE = {"green", "yellow", "orange", "red", "blue", "purple", "dark-red", "#808080", "#73BF69"}
LEVELS = {"preventive": "yellow", "main": "orange", "critical": "red"}
ANNOTATIONS = ["Alerts", "Cleanups", "Restarts"]
OTHERS = {"ALERTS", "rag:memory_used_bytes:floor5m",
          "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"}
"""Metrics beside our own: of the rules, and what every Prometheus client tells of itself."""
OVER_TIME = {"rate", "irate", "increase"}
BASE = {"__name__", "job", "instance"}


class Asked(NamedTuple):
    """A query of a panel."""

    panel: Json
    target: Json
    index: int

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.panel['title']} {self.target['refId']}"

    @property
    def expr(self) -> Expr:
        """Its syntax tree. Raises QueryError."""
        return parse(expanded(self.target["expr"]))


def panels(board: Json) -> Iterator[Json]:
    """Every panel but the rows, those in folded rows too."""
    for panel in board["panels"]:
        yield from panel["panels"] if panel["type"] == "row" else [panel]


def queries(board: Json) -> Iterator[Asked]:
    """Every query of every panel."""
    for panel in panels(board):
        for index, target in enumerate(panel["targets"]):
            yield Asked(panel, target, index)


def expanded(expr: str, *, rate: str = "15s", span: str = "5m", job: str = ".+", instance: str = ".+",
             target: str = ".+") -> str:
    """An expression as Grafana sends it: with `All` chosen, its variables are what `allValue` says."""
    for name, value in (("$__rate_interval", rate), ("$__range", span), ("$job", job), ("$instance", instance),
                        ("$target", target)):
        expr = expr.replace(name, value)
    return expr


def labels_of() -> dict[str, set[str]]:
    """Metric → its own labels, as the tables of docs/metrics.md have them; of ALERTS those of the shipped rules."""
    rows = re.findall(r"^\| `(rag_[a-z_0-9]+)` \| \w+ \| ([^|]*) \|", (ROOT / "docs" / "metrics.md").read_text(), re.M)
    found = {name: set(re.findall(r"[a-z_]+", labels)) for name, labels in rows}
    return found | {"ALERTS": {"alertname", "alertstate", "severity", "level", "cleanup", "target"}}


def family(name: str) -> str:
    """The name of the metric that a series belongs to: of a histogram's parts the histogram."""
    return re.sub(r"_(bucket|sum|count)$", "", name) if name not in METRICS else name


def is_one_of_ours(board: Json) -> Iterator[str]:
    """A known uid, no number of a database, nothing to fill in when it is imported, not to be edited."""
    if board["uid"] not in UIDS or len(board["uid"]) > 40:
        yield f"uid {board['uid']}"
    if board["id"] is not None or "__inputs" in board or "${DS_" in str(board):
        yield "made for import by hand"
    if (board["schemaVersion"], board["editable"], board["graphTooltip"]) != (39, False, 1):
        yield "schemaVersion, editable or graphTooltip"
    if board["tags"] != ["rag-memory"]:
        yield f"tags {board['tags']}"


def has_the_variables(board: Json) -> Iterator[str]:
    """Data source, job, instance and target, in this order; queries follow the time range and offer all of them."""
    listed = {variable["name"]: variable for variable in board["templating"]["list"]}
    if list(listed) != VARIABLES:
        yield f"variables {list(listed)}"
        return
    source = listed["datasource"]
    if (source["type"], source["query"], source["label"]) != ("datasource", "prometheus", "Data source"):
        yield "datasource"
    for name in ("job", "instance", "target"):
        one = listed[name]
        asked = re.fullmatch(rf"label_values\((.+), {name}\)", one["query"]["query"])
        if not asked or not isinstance(parse(expanded(asked[1])), VectorSelector):
            yield f"{name}: {one['query']['query']}"
        if (one["multi"], one["includeAll"], one["allValue"], one["refresh"], one["label"], one["datasource"]) != (
                True, True, ".+", 2, name.title(), SOURCE):
            yield f"{name}: offers too little"


def marks_what_happened(board: Json) -> Iterator[str]:
    """Alerts, cleanups and restarts are marked on every dashboard, in steps that no short alert slips through."""
    listed = board["annotations"]["list"]
    if [one["name"] for one in listed] != ANNOTATIONS:
        yield "annotations"
    for one in listed:
        parse(expanded(one["target"]["expr"]))
        if one["datasource"] != SOURCE or one["target"]["interval"] != "10s" or not one["enable"]:
            yield one["name"]
        if one["useValueForTime"] != one["target"]["expr"].endswith("* 1000"):
            yield f"{one['name']}: when it was"


def is_laid_out(board: Json) -> Iterator[str]:
    """Panels lie inside the 24 columns, none upon another, and have numbers of their own."""
    everything = [*board["panels"], *(inner for row in board["panels"] for inner in row.get("panels", []))]
    if len({panel["id"] for panel in everything}) != len(everything):
        yield "two panels have one number"
    for group in [board["panels"], *(row["panels"] for row in board["panels"] if row.get("panels"))]:
        taken: set[tuple[int, int]] = set()
        for panel in group:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            if at["x"] < 0 or at["x"] + at["w"] > 24 or not cells or taken & cells:
                yield f"{panel['title']} lies at {at}"
            taken |= cells


def says_what_it_shows(board: Json) -> Iterator[str]:
    """Each panel has a title and a description, each query a letter, and a legend where series share a panel."""
    for panel in panels(board):
        if not panel["title"] or len(panel["description"]) < 15:
            yield f"{panel['title']}: what is it?"
        refs = [target["refId"] for target in panel["targets"]]
        if not refs or len(set(refs)) != len(refs):
            yield f"{panel['title']}: {refs}"
        legends = [target["legendFormat"] for target in panel["targets"] if target["format"] == "time_series"]
        if len(legends) > 1 and ("__auto" in legends or len(set(legends)) != len(legends)):
            yield f"{panel['title']}: legends {legends}"


def has_units(board: Json) -> Iterator[str]:
    """Numbers have one of Grafana's units; counts and words are `short`."""
    for panel in panels(board):
        units = [panel["fieldConfig"]["defaults"]["unit"]]
        units += [said["value"] for override in panel["fieldConfig"]["overrides"]
                  for said in override["properties"] if said["id"] == "unit"]
        if set(units) - UNITS:
            yield f"{panel['title']}: {units}"
        for target in panel["targets"]:  # seconds and bytes that stay seconds and bytes are shown as such
            for suffix, good in (("_bytes", "bytes"), ("_seconds", "s")):
                plain = re.fullmatch(rf"rag_\w+{suffix}{{[^}}]*}}", target["expr"])
                if plain and panel["type"] != "table" and good not in units:
                    yield f"{panel['title']}: {units} for {suffix}"


def asks_the_chosen_source(board: Json) -> Iterator[str]:
    """No data source is named: the one of the list is asked, by the panel and by each query."""
    for asked in queries(board):
        if asked.panel["datasource"] != SOURCE or asked.target["datasource"] != SOURCE:
            yield asked.place


def asks_for_the_chosen(board: Json) -> Iterator[str]:
    """Each selector keeps to the chosen jobs and instances, and to the chosen targets where the metric has targets."""
    own = labels_of()
    for asked in queries(board):
        for node in walk(asked.expr):
            if not isinstance(node, VectorSelector):
                continue
            matched = {matcher.name: (matcher.op, matcher.value) for matcher in node.matchers}
            fleet = node.name.startswith(("rag_sidecar_", "rag_host_", "process_"))
            wanted = ["job", "instance", *([] if fleet and "capability" not in own.get(node.name, ()) else ["target"])]
            if node.name == "ALERTS" and "target" not in matched:
                wanted.remove("target")  # alerts about the machine or about a sidecar have none
            if [name for name in matched if matched[name] == ("=~", ".+")] != wanted:
                yield f"{asked.place}: {node}"


def asks_for_what_there_is(board: Json) -> Iterator[str]:
    """Each metric exists, and each label that is matched, grouped by or shown is one that it has."""
    own = labels_of()
    for asked in queries(board):
        known = set(BASE) | {"target", "le"}
        for node in walk(asked.expr):
            if isinstance(node, VectorSelector):
                name = family(node.name)
                if name not in METRICS and name not in OTHERS:
                    yield f"{asked.place}: there is no {node.name}"
                mine = own.get(name, set()) | BASE | {"target", "le"}
                known |= mine
                if extra := {matcher.name for matcher in node.matchers} - mine:
                    yield f"{asked.place}: {node.name} has no {extra}"
        used = {label for node in walk(asked.expr) if isinstance(node, Aggregate) for label in node.grouping}
        used |= set(re.findall(r"{{(\w+)}}", asked.target["legendFormat"]))
        if used - known:
            yield f"{asked.place}: no {used - known}"


def rates_follow_the_zoom(board: Json) -> Iterator[str]:
    """rate() and irate() look back as far as the width of a pixel asks for, increase() over the whole time range."""
    for asked in queries(board):
        for function, window in re.findall(r"\b(rate|irate|increase)\([^\[]*\[([^\]]*)\]", asked.target["expr"]):
            if window != ("$__range" if function == "increase" else "$__rate_interval"):
                yield f"{asked.place}: {function} over {window}"


def counters_are_not_shown_bare(board: Json) -> Iterator[str]:
    """A counter only ever goes up, so its rate or its increase is shown, but for the exceptions of dashboards/.lint."""
    listed = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]["target-counter-agg-rule"]["entries"]
    allowed = {(one["panel"], int(one["targetIdx"])) for one in listed if one["dashboard"] == board["title"]}
    bare = set()
    for asked in queries(board):
        inside = {id(selector) for node in walk(asked.expr) if isinstance(node, Call) and node.function in OVER_TIME
                  for argument in node.arguments if isinstance(argument, MatrixSelector)
                  for selector in walk(argument)}
        if any(isinstance(node, VectorSelector) and re.search(r"_(total|bucket|count|sum)$", node.name)
               and id(node) not in inside for node in walk(asked.expr)):
            bare.add((asked.panel["title"], asked.index))
    yield from (f"bare: {one}" for one in bare - allowed)
    yield from (f"needs no exception: {one}" for one in allowed - bare)


def colours_mean_something(board: Json) -> Iterator[str]:
    """Preventive is yellow, main orange, critical red, wherever they are drawn; other colours are few."""
    text = str([panel["fieldConfig"] for panel in panels(board)])
    used = set(re.findall(r"'(?:color|fixedColor)': '([^']+)'", text))
    if used - PALETTE:
        yield f"colours {used - PALETTE}"
    for panel in panels(board):
        config = panel["fieldConfig"]
        if config["defaults"]["thresholds"]["steps"][0]["value"] is not None:
            yield f"{panel['title']}: the lowest step has a value"
        if any("rag_memory_threshold_bytes{job" in target["expr"] and target["legendFormat"].endswith("{{level}} line")
               for target in panel["targets"]):
            drawn = {override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
                     for override in config["overrides"]}
            if {level: drawn.get(f"/{level} line$/") for level in LEVELS} != LEVELS:
                yield f"{panel['title']}: {drawn}"
    for level, colour in LEVELS.items():
        if f"'text': 'over {level}'" in text and f"'text': 'over {level}', 'color': '{colour}'" not in text:
            yield f"over {level} is not {colour}"


def draws_no_lines_of_its_own(board: Json) -> Iterator[str]:
    """No line of memory is written into a dashboard: those of rag_memory_threshold_bytes alone are drawn."""
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        if defaults["unit"] == "bytes" and len(defaults["thresholds"]["steps"]) > 1:
            yield panel["title"]


def asks_no_more_than_a_sidecar_takes(board: Json) -> Iterator[str]:
    """What is asked when a dashboard is opened fits into a sidecar's queue: folded rows wait until they are opened."""
    counts = {"opened": len(board["annotations"]["list"])}
    for panel in board["panels"]:
        if panel["type"] == "row":
            counts[panel["title"]] = sum(len(inner["targets"]) for inner in panel["panels"])
        else:
            counts["opened"] += len(panel["targets"])
    yield from (f"{what}: {count} queries" for what, count in counts.items() if count > WAITING)


def leads_somewhere(board: Json) -> Iterator[str]:
    """Links lead to dashboards and to headings of docs/ that exist, and keep time and choice."""
    together, *others = board["links"]
    if (together["type"], together["tags"], together["keepTime"], together["includeVars"]) != (
            "dashboards", ["rag-memory"], True, True):
        yield "links between dashboards"
    for link in [*others, *(link for panel in panels(board) for link in panel.get("links", []))]:
        place = link["url"].removeprefix("${docs}/")
        if place == link["url"] or is_broken(place, ROOT / "docs"):
            yield link["url"]
    for uid, rest in re.findall(r"'/d/([\w-]+)\?([^']*)'", str(board["panels"])):
        if uid not in UIDS or "${__url_time_range}" not in rest or "var-target=" not in rest:
            yield f"/d/{uid}"


RULES = (is_one_of_ours, has_the_variables, marks_what_happened, is_laid_out, says_what_it_shows, has_units,
         asks_the_chosen_source, asks_for_the_chosen, asks_for_what_there_is, rates_follow_the_zoom,
         counters_are_not_shown_bare, colours_mean_something, draws_no_lines_of_its_own,
         asks_no_more_than_a_sidecar_takes, leads_somewhere)
