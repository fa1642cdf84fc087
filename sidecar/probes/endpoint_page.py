"""A page of Prometheus's text format or of OpenMetrics → its samples. Pure.

Their names and labels are the target's, so they may not meet ours: the name becomes the label `metric`, and a label
that we give ourselves becomes `exported_…`, as a scrape with `honor_labels: false` makes it.
"""

import re
from collections import Counter
from math import nan

from prometheus_client.samples import Sample

from sidecar.errors import ProbeFailed
from sidecar.probes.endpoint_figures import (
    MOST_CHARACTERS,
    Endpoint,
    Figures,
    Selector,
    gathered,
    state,
    used_bytes,
)

MOST_LABELS = 30
OPENMETRICS = "application/openmetrics-text"
OURS = frozenset({"target", "job", "instance", "metric"})

_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


def figures(text: str, content_type: str, endpoint: Endpoint, metric: str) -> Figures:
    """What the page tells. Raises ProbeFailed if a line of it cannot be read: then none of it can be trusted."""
    dropped: Counter[str] = Counter()
    meant, found, pairs = Selector.of(endpoint.used), [], []
    for sample in _samples(text, content_type):
        value = _number(sample)
        if sample.name == meant.name and dict(meant.labels).items() <= (sample.labels or {}).items():
            found.append(value)
        labels = _labels(sample)
        if labels is None:
            dropped["labels"] += 1
        else:
            pairs.append((labels, value))
    return Figures(metric, gathered(pairs, dropped),
                   used_bytes(found, endpoint, dropped), state((), endpoint, dropped), +dropped)


def _samples(text: str, content_type: str) -> list[Sample]:
    if content_type == OPENMETRICS:  # each loaded when there is such a page
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
    else:
        from prometheus_client.parser import text_string_to_metric_families as parse
    try:
        return [sample for family in parse(text) for sample in family.samples]  # type: ignore[no-untyped-call]
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ProbeFailed("parse", f"not a page of samples: {str(error)[:MOST_CHARACTERS]}") from None


def _number(sample: Sample) -> float:
    """Its value; not a number for a native histogram, which has none, and for an integer beyond every double."""
    try:
        return float(sample.value)
    except (TypeError, OverflowError):
        return nan


def _labels(sample: Sample) -> tuple[str, ...] | None:
    """The labels of our series for this sample: name, value, name, value …; None where they cannot be kept."""
    given: dict[str, str] = sample.labels or {}  # a native histogram may have None
    if len(given) > MOST_LABELS or len(sample.name) > MOST_CHARACTERS or not sample.name.isprintable():
        return None
    found = ["metric", sample.name]
    for name, value in sorted(given.items()):
        if not _LABEL.fullmatch(name) or len(name) > MOST_CHARACTERS or len(value) > MOST_CHARACTERS:
            return None
        if value:  # an empty label is none
            found += [_exported(name, given) if name in OURS else name, value]
    return tuple(found)


def _exported(name: str, taken: dict[str, str]) -> str:
    """`exported_name`, with as many `exported_` as it takes to be a label of its own (Prometheus, scrape/target.go)."""
    while name in taken:
        name = f"exported_{name}"
    return name
