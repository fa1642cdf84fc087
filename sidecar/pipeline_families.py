"""From the samples of a tick to the families of /metrics, and the desk's figures about itself."""

from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import islice
from operator import itemgetter
from types import MappingProxyType

from sidecar import __version__, mode, pipeline_brake, thresholds
from sidecar.actions import acting, tally
from sidecar.discovery import roster
from sidecar.journal import journal
from sidecar.model import Labels, Metric, Sample, series
from sidecar.notify import alertmanager
from sidecar.pipeline_guard import PROTECTION
from sidecar.probes import sampler
from sidecar.promql.steps import Steps
from sidecar.rules.group import Group
from sidecar.store import Store
from sidecar.web.view import Family

USED = Metric("rag_memory_used_bytes", "gauge", "Memory in use by the target, on the basis its thresholds refer to.")
BUILD = Metric("rag_sidecar_build_info", "info", "The version that runs.")
TICK = Metric("rag_sidecar_tick_duration_seconds", "gauge", "How long the last tick took.")
LATE = Metric("rag_sidecar_tick_late_seconds", "gauge", "How much later than planned the last tick began.")
TICKS = Metric("rag_sidecar_ticks_total", "counter", "Ticks since the desk started.")
STARTS = Metric("rag_sidecar_desk_starts_total", "counter", "Times the guard has started the desk.")
LOST = Metric("rag_sidecar_events_lost_total", "counter", "Events of the guard that were given up: nobody took them.")
SERIES = Metric("rag_sidecar_store_series", "gauge", "Series in the store.")
BYTES = Metric("rag_sidecar_store_bytes", "gauge", "Memory that the store's samples take.")
DROPPED = Metric("rag_sidecar_store_dropped_samples_total", "counter", "Samples out of order or twice, not stored.")
SHRUNK = Metric("rag_sidecar_store_shrunk_total", "counter", "Samples given up early to keep the store in its budget.")
REFUSED = Metric("rag_sidecar_store_refused_samples_total", "counter",
                 "Samples of new series that the store had no room for: what they would say is not watched.")
RELOADED = Metric("rag_sidecar_config_last_reload_successful", "gauge",
                  "1 if the configuration that was read last is in force, 0 if it was refused.")
RELOADED_AT = Metric("rag_sidecar_config_last_reload_success_timestamp_seconds", "gauge",
                     "When the configuration in force was taken, in Unix time.")
UP = Metric("up", "gauge", "What a Prometheus writes about a page that it has scraped; for our own queries alone.")
EVALUATIONS = Metric("rag_sidecar_rule_evaluations_total", "counter", "Evaluations of rules.")
FAILURES = Metric("rag_sidecar_rule_evaluation_failures_total", "counter", "Evaluations of rules that failed.")
MISSED = Metric("rag_sidecar_rule_group_iterations_missed_total", "counter", "Evaluations of groups skipped as late.")
ITERATIONS = Metric("rag_sidecar_rule_group_iterations_total", "counter", "Evaluations of groups.")
INTERVAL = Metric("rag_sidecar_rule_group_interval_seconds", "gauge", "How far the evaluations of a group lie apart.")
LASTED = Metric("rag_sidecar_rule_group_last_duration_seconds", "gauge",
                "How long the last evaluation of a group took, what ran in its pauses included.")
EVALUATED = Metric("rag_sidecar_rule_group_last_evaluation_timestamp_seconds", "gauge",
                   "The moment a group was last evaluated at, in Unix time; absent before the first.")
WRITTEN = Metric("rag_sidecar_rule_group_last_evaluation_samples", "gauge",
                 "Samples that the last evaluation of a group wrote.")
RULES = Metric("rag_sidecar_rule_group_rules", "gauge", "Rules of a group.")

OWN = (USED, BUILD, TICK, LATE, TICKS, STARTS, LOST, RELOADED, RELOADED_AT, SERIES, BYTES, DROPPED, SHRUNK, REFUSED,
       PROTECTION, EVALUATIONS, FAILURES, MISSED, ITERATIONS, INTERVAL, LASTED, EVALUATED, WRITTEN, RULES)
METRICS = {metric.name: metric for metric in (
    *OWN, *roster.METRICS, *sampler.METRICS, *thresholds.METRICS, *mode.METRICS, *tally.METRICS, *acting.METRICS,
    *alertmanager.METRICS, *journal.METRICS, *pipeline_brake.METRICS)}
"""Every metric of /metrics, by its name."""

SUFFIXES = ("_bucket", "_sum", "_count")
SAMPLES_A_PIECE, PLACES_A_PIECE = 4096, 512
"""So many samples are sorted between two pauses: where it is known where they go, and where it is not."""

_LABELS = itemgetter(0)


class Vitals:
    """What the desk knows of itself. Lives as long as the desk.

    `reloaded`: whether the configuration that was read last was taken, and when the last one was (Unix time).
    `protection`: what the guard has that keeps it at work in need.
    """

    reloaded: tuple[bool, float] | None = None
    protection: Mapping[str, bool] = MappingProxyType({})

    def __init__(self, base: Labels, starts: int) -> None:
        self.ticks = 0
        self._base = base
        self._starts = starts
        self._duration = self._late = 0.0

    def note(self, duration_seconds: float, late_seconds: float) -> None:
        """A tick has ended."""
        self.ticks += 1
        self._duration, self._late = duration_seconds, late_seconds

    def samples(self, store: Store, groups: Sequence[Group], lost_events: int, at: float) -> list[Sample]:
        """The figures as they are now."""
        figures: list[tuple[Metric, float, tuple[str, ...]]] = [
            (UP, 1.0, ()), (BUILD, 1.0, ("version", __version__)), (TICK, self._duration, ()),
            (LATE, max(0.0, self._late), ()), (TICKS, self.ticks, ()), (STARTS, self._starts, ()),
            (LOST, lost_events, ()),
            (SERIES, store.series_count, ()), (BYTES, store.size_bytes, ()),
            (DROPPED, store.dropped, ()), (SHRUNK, store.shrunk, ()), (REFUSED, store.refused, ())]
        if self.reloaded:
            figures += [(RELOADED, self.reloaded[0], ()), (RELOADED_AT, self.reloaded[1], ())]
        for group in groups:
            name = ("file", group.file, "group", group.name)
            figures += [(EVALUATIONS, group.evaluations, name), (FAILURES, group.failures, name),
                        (MISSED, group.missed, name)]
        return [Sample(series(self._base, metric.name, *labels), value, at) for metric, value, labels in figures]

    def of_groups(self, groups: Sequence[Group], at: float) -> list[Sample]:
        """More about each group of rules, and the guard: for /metrics alone. An hour of it would be half a megabyte."""
        figures: list[tuple[Group, Metric, float | None]] = []
        for group in groups:
            figures += [(group, ITERATIONS, group.iterations), (group, INTERVAL, group.interval_seconds),
                        (group, LASTED, group.last_duration_seconds), (group, EVALUATED, group.last_evaluation),
                        (group, WRITTEN, group.last_samples), (group, RULES, len(group.rules))]
        of_guard = [Sample(series(self._base, PROTECTION.name, "kind", kind), has, at)
                    for kind, has in self.protection.items()]
        return of_guard + [Sample(series(self._base, metric.name, "file", group.file, "group", group.name), value, at)
                           for group, metric, value in figures if value is not None]


@cache
def _family(name: str) -> str:
    """The metric to which the samples of this name belong: those of a histogram have other names."""
    if name in METRICS:
        return name
    return next((name.removesuffix(end) for end in SUFFIXES if name.removesuffix(end) in METRICS), name)


class Order:
    """Sorts the samples of a tick by family. Lives as long as the desk.

    From tick to tick the same series come in the same order: so it is remembered which of them go where.
    """

    def __init__(self) -> None:
        self._labels: list[Labels] = []
        self._places: dict[str, array[int]] = {}

    def families(self, samples: Iterable[Sample]) -> Steps[list[Family]]:
        """The samples, family by family, in the order in which the metrics are declared; in pieces."""
        rest, every, labels = iter(samples), list[Sample](), list[Labels]()
        while piece := list(islice(rest, SAMPLES_A_PIECE)):
            every += piece
            labels += map(_LABELS, piece)
            yield
        if labels != self._labels:
            self._places = yield from _places(labels)
            self._labels = labels
        found = []
        for name, places in self._places.items():
            found.append(Family(METRICS[name], list(map(every.__getitem__, places))))
            if len(places) > PLACES_A_PIECE:
                yield
        return found


def _places(labels: Sequence[Labels]) -> Steps[dict[str, "array[int]"]]:
    """Where the series of each metric are, in the order in which the metrics are declared."""
    found: defaultdict[str, array[int]] = defaultdict(lambda: array("I"))
    for place, each in enumerate(labels):
        found[_family(each.metric)].append(place)
        if place % PLACES_A_PIECE == PLACES_A_PIECE - 1:
            yield
    return {name: found[name] for name in METRICS if name in found}
