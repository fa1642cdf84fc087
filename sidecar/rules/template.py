"""The templates in labels and annotations of alerting rules: Go's text/template with Prometheus's data and functions.

Source: https://prometheus.io/docs/prometheus/latest/configuration/template_reference/ and what Prometheus prints.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

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
from sidecar.rules.gotemplate.run import run
from sidecar.rules.template_functions import FUNCTIONS, QueryResult, TemplateSample

PREAMBLE = ("{{$labels := .Labels}}{{$externalLabels := .ExternalLabels}}"
            "{{$externalURL := .ExternalURL}}{{$value := .Value}}")
"""What Prometheus puts before every text; the columns in its errors count it."""

_BOUND_LATER = frozenset({"query", "now", "externalURL", "pathPrefix"})


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

    go_type = "struct { Labels map[string]string; ExternalLabels map[string]string; ExternalURL string; Value float64 }"

    @property
    def go_fields(self) -> Mapping[str, object]:
        return {"Labels": self.labels, "ExternalLabels": self.surroundings.labels,
                "ExternalURL": self.surroundings.url, "Value": self.value}


class Template:
    """One compiled text of one alerting rule. Lives as long as the rule.

    Raises (when made): TemplateSyntaxError; its `position` counts from the start of `text`.
    """

    def __init__(self, text: str, alert_name: str) -> None:
        self.text = text
        self._name = f"__alert_{alert_name}"
        self._tree: Tree | None = None
        if "{{" in text:
            try:
                self._tree = parse_template(PREAMBLE + text, FUNCTIONS.keys() | _BOUND_LATER)
            except TemplateSyntaxError as error:
                raise TemplateSyntaxError(error.reason, max(0, error.position - len(PREAMBLE))) from None

    def expand(self, point: Point, at: float, query: Callable[[Expr, float], Value], surroundings: Surroundings) -> str:
        """The text for one element of the rule's result, whose labels still include the metric name.

        A template that fails gives `<error expanding template: …>`, so that the alert is told all the same.
        """
        if self._tree is None:
            return self.text
        functions = {**FUNCTIONS, **_bound(at, query, surroundings)}
        try:
            return run(self._tree, self._name, _AlertData(point.labels, point.value, surroundings), functions)
        except TemplateError as error:
            return f"<error expanding template: error executing template {self._name}: {error}>"


def _bound(at: float, query: Callable[[Expr, float], Value], surroundings: Surroundings) -> Mapping[str, Callee]:
    """The functions that depend on the moment, the data and the process."""

    def run_query(text: str) -> QueryResult:
        try:
            value = query(parse_expression(text), at)
        except QueryError as error:
            raise CallFailed(str(error)) from None
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
