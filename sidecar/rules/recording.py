"""Recording rules: the result of an expression becomes a series of its own."""

from sidecar.errors import QueryError
from sidecar.model import METRIC_NAME, Labels, Sample
from sidecar.promql.steps import Steps
from sidecar.rules.rule import Rule, Terms, as_vector
from sidecar.rules.source import Questions
from sidecar.rules.spec import RecordingSpec


class RecordingRule(Rule):
    """One `record` rule. Lives as long as its group."""

    def __init__(self, spec: RecordingSpec, terms: Terms) -> None:
        super().__init__(spec, terms)
        self._labels = {METRIC_NAME: spec.name, **spec.labels}
        self._recorded: dict[Labels, Labels] = {}

    def judge(self, at: float, questions: Questions) -> Steps[list[Sample]]:
        """The recorded samples. QueryError if two are alike after the rule's labels, or if they exceed the limit."""
        stamp = at - self.terms.query_offset_seconds
        known, self._recorded = self._recorded, {}
        samples = []
        for labels, value in as_vector((yield from questions.steps(self.spec.expr, stamp))):
            recorded = self._recorded[labels] = known.get(labels) or labels.merged(self._labels)
            samples.append(Sample(recorded, value, stamp))
            questions.charge()
            yield
        if len({sample.labels for sample in samples}) < len(samples):
            raise QueryError("vector contains metrics with the same labelset after applying rule labels",
                             help="aggregate the expression, or give it labels that tell its elements apart")
        if self.terms.limit and len(samples) > self.terms.limit:
            raise QueryError(f"exceeded limit of {self.terms.limit} with {len(samples)} series")
        return samples
