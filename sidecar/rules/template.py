"""The templates in labels and annotations of alerting rules: Go's text/template with Prometheus's data and functions.

Source: https://prometheus.io/docs/prometheus/latest/configuration/template_reference/ and what Prometheus prints.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sidecar.errors import QueryError
from sidecar.model import Labels
from sidecar.promql.parse import parse as parse_expression
from sidecar.promql.tree import Expr
from sidecar.promql.values import Point, Value
from sidecar.rules.gotemplate.call import Callee, CallFailed
from sidecar.rules.gotemplate.evaluate import TemplateError
from sidecar.rules.gotemplate.lex import TemplateSyntaxError
from sidecar.rules.gotemplate.parse import Tree
from sidecar.rules.gotemplate.parse import parse as parse_template
from sidecar.rules.gotemplate.reads import calls, reads_field
from sidecar.rules.gotemplate.run import run
from sidecar.rules.template_functions import FUNCTIONS, QueryResult, TemplateSample

PREAMBLE = ("{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}"
            "{{$externalURL := .ExternalURL}}{{$value := .Value}}")
"""What Prometheus puts before every text; the columns in its errors count it."""

_PREAMBLE_NODES = 4
_MOST_REMEMBERED = 8
_BOUND_LATER = frozenset({"query", "now", "externalURL", "pathPrefix"})

Query = Callable[[Expr, float], Value]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every template of a process may ask about: its external labels and the address people reach it at."""

    labels: Mapping[str, str] = field(default_factory=dict)
    url: str = ""


@dataclass(frozen=True, slots=True)
class _AlertData:
    """What a template's dot is."""

    labels: Mapping[str, str]
    value: float
    surroundings: Surroundings

    go_type = ("struct { Labels map[string]string; ExternalLabels map[string]string; ExternalURL string; "
               "Value interface {} }")

    @property
    def go_fields(self) -> Mapping[str, object]:
        return {"Labels": self.labels, "ExternalLabels": self.surroundings.labels,
                "ExternalURL": self.surroundings.url, "Value": self.value}


class Expansion(NamedTuple):
    """A text and what it was made of: an element, and what queries gave. `asked` is None where that is not all."""

    text: str
    point: Point
    asked: tuple[tuple[Expr, Value], ...] | None


class Template:
    """One compiled text of one alerting rule. Lives as long as the rule.

    `steady`: it depends on an element's labels alone. Raises (when made): TemplateSyntaxError; its `position` counts
    from the start of `text`.
    """

    def __init__(self, text: str, alert_name: str) -> None:
        self.text = text
        self.steady = True
        self._name = f"__alert_{alert_name}"
        self._tree: Tree | None = None
        self._reads_value = self._asks_the_time = False
        if "{{" in text:
            try:
                tree = parse_template(PREAMBLE + text, FUNCTIONS.keys() | _BOUND_LATER)
            except TemplateSyntaxError as error:
                raise TemplateSyntaxError(error.reason, max(0, error.position - len(PREAMBLE))) from None
            # The preamble is there for its columns; its variables are given, which takes half the time.
            self._tree = replace(tree, body=replace(tree.body, nodes=tree.body.nodes[_PREAMBLE_NODES:]))
            self._reads_value = reads_field(self._tree, "Value", "$value")
            called = calls(self._tree)
            self._asks_the_time = "now" in called
            self.steady = not self._reads_value and not called & {"now", "query"}

    def expand(self, point: Point, at: float, query: Query, surroundings: Surroundings) -> str:
        """The text for one element of the rule's result, whose labels still include the metric name.

        A template that fails gives `<error expanding template: …>`, so that the alert is told all the same.
        """
        return self.expansion(point, at, query, surroundings).text

    def expansion(self, point: Point, at: float, query: Query, surroundings: Surroundings,
                  before: Expansion | None = None) -> Expansion:
        """The text as `expand` gives it. That of `before` is taken where all it was made of is the same now."""
        if self._tree is None:
            return before or Expansion(self.text, point, ())
        if before is not None and self._still_right(before, point, at, query):
            return before
        asked: list[tuple[Expr, Value]] | None = None if self._asks_the_time else []
        data = _AlertData(point.labels, point.value, surroundings)
        variables = (("$labels", data.labels), ("$externalLabels", surroundings.labels),
                     ("$externalURL", surroundings.url), ("$value", point.value))
        functions = {**FUNCTIONS, **_bound(at, query, surroundings, asked)}
        try:
            text = run(self._tree, self._name, data, functions, variables)
        except TemplateError as error:
            text, asked = f"<error expanding template: error executing template {self._name}: {error}>", None
        return Expansion(text, point, None if asked is None else tuple(asked))

    def _still_right(self, before: Expansion, point: Point, at: float, query: Query) -> bool:
        if before.asked is None or before.point.labels != point.labels or (
                self._reads_value and before.point.value != point.value):
            return False
        try:
            return all(query(expr, at) == value for expr, value in before.asked)
        except QueryError:
            return False


def _bound(at: float, query: Query, surroundings: Surroundings,
           asked: list[tuple[Expr, Value]] | None) -> Mapping[str, Callee]:
    """The functions that depend on the moment, the data and the process. What was asked is noted in `asked`."""

    def run_query(text: str) -> QueryResult:
        try:
            expr = parse_expression(text)
            value = query(expr, at)
        except QueryError as error:
            raise CallFailed(str(error)) from None
        if asked is not None:
            # What is compared at the next evaluation has to be kept until then: a few elements, not a whole metric.
            asked.append((expr, value if not isinstance(value, list) or len(value) <= _MOST_REMEMBERED else math.nan))
        if isinstance(value, float):
            return QueryResult([TemplateSample(Labels(), value)])
        if isinstance(value, list) and all(isinstance(point, Point) for point in value):
            return QueryResult(TemplateSample(point.labels, point.value) for point in value if isinstance(point, Point))
        raise CallFailed("query result is not a vector or scalar")

    path = surroundings.url.partition("://")[2].partition("/")
    return {
        "query": Callee(run_query, (str,)),
        "now": Callee(lambda: at),
        "externalURL": Callee(lambda: surroundings.url),
        "pathPrefix": Callee(lambda: path[1] + path[2]),
    }
