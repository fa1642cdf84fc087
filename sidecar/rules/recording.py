"""Recording rules: the result of an expression becomes a series of its own."""

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Sample
from sidecar.promql.evaluate import Query
from sidecar.rules.rule import Rule, Terms, as_vector
from sidecar.rules.spec import RecordingSpec


class RecordingRule(Rule):
    """One `record` rule. Lives as long as its group."""

    def __init__(self, spec: RecordingSpec, terms: Terms) -> None:
        super().__init__(spec, terms)
        self._labels = {METRIC_NAME: spec.name, **spec.labels}

    def judge(self, at: float, query: Query) -> list[Sample]:
        """The recorded samples. QueryError if two are alike after the rule's labels, or if they exceed the limit."""
        stamp = at - self.terms.query_offset_seconds
        samples = [Sample(point.labels.merged(self._labels), point.value, stamp)
                   for point in as_vector(query(self.spec.expr, stamp))]
        if len({sample.labels for sample in samples}) < len(samples):
            raise QueryError("vector contains metrics with the same labelset after applying rule labels",
                             help="aggregate the expression, or give it labels that tell its elements apart")
        if self.terms.limit and len(samples) > self.terms.limit:
            raise QueryError(f"exceeded limit of {self.terms.limit} with {len(samples)} series")
        return samples
