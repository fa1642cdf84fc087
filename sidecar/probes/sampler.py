"""Runs every probe on every target: timed, and a failure of one is counted and hurts no other."""

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sidecar.model import METRIC_NAME, Labels, Metric, Sample, Target
from sidecar.probes import cgroup, process
from sidecar.probes.cgroup import CgroupProbe
from sidecar.probes.process import ProcessProbe

UP = Metric("rag_target_up", "gauge", "1 while the target's process is there and can be read, else 0.")
INFO = Metric("rag_target_info", "info", "The process behind a target: the only series with its pid.")
DURATION = Metric("rag_sidecar_collector_duration_seconds", "gauge", "How long a collector took at the last tick.")
ERRORS = Metric("rag_sidecar_collector_errors_total", "counter", "Readings that failed, by reason.")
CAPABILITY = Metric("rag_sidecar_attach_capability", "gauge", "1 where this can be read of the target, 0 where not.")
METRICS = (UP, INFO, DURATION, ERRORS, CAPABILITY, *process.METRICS, *cgroup.METRICS)

AGAIN_SECONDS = 30.0


@dataclass(slots=True)
class Attached:
    """The probes of one target's process. Lives as long as that identity; `failed` says what could not be opened."""

    target: Target
    process: ProcessProbe
    cgroup: CgroupProbe | None
    failed: dict[str, str] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of the process."""
        self.process.close()
        if self.cgroup:
            self.cgroup.close()


@dataclass(frozen=True, slots=True)
class Readings:
    """What one round has brought: samples, and of each target that could be read its used bytes by basis."""

    samples: list[Sample]
    used: dict[str, dict[str, float]]
    limits: dict[str, int | None]


class Sampler:
    """Holds the probes. Lives as long as the desk. The roots of /proc and /sys are parameters."""

    def __init__(self, self_base: Labels, timer: Callable[[], float], proc: str = "/proc", sys: str = "/sys") -> None:
        self._self_base = self_base
        self._timer = timer
        self._proc = proc
        self._sys = sys
        self._attached: dict[str, Attached] = {}
        self._errors: Counter[tuple[str, str]] = Counter()

    def read(self, targets: Sequence[Target], at: float) -> Readings:
        """Read every target once. A target that is gone or hidden has `rag_target_up` 0 and nothing else."""
        found = Readings([], {}, {})
        spent: dict[str, float] = {}
        for target in targets:
            attached = self._attach(target)
            up = attached is not None and self._read(attached, at, found, spent)
            if not up:
                self.detach(target.name)
            found.samples.append(Sample(target.base.merged({METRIC_NAME: UP.name}), float(up), at))
        for collector, seconds in spent.items():
            found.samples.append(self._own(DURATION, seconds, at, collector=collector))
        for (collector, reason), count in self._errors.items():
            found.samples.append(self._own(ERRORS, count, at, collector=collector, reason=reason))
        return found

    def attached(self, name: str) -> Attached | None:
        """The probes of a target, None while it is not there."""
        return self._attached.get(name)

    def detach(self, name: str) -> None:
        """Close the probes of a target that is gone."""
        attached = self._attached.pop(name, None)
        if attached:
            attached.close()

    def _attach(self, target: Target) -> Attached | None:
        known = self._attached.get(target.name)
        if known and known.target.identity == target.identity:
            return known
        self.detach(target.name)
        if target.identity is None:
            return None
        try:
            made = Attached(target, ProcessProbe(target, self._proc), None)
        except OSError as error:
            self._count("process", error)
            return None
        try:
            made.cgroup = CgroupProbe(target, self._proc, self._sys)
        except OSError as error:
            made.failed["cgroup"] = str(error.strerror)
            self._count("cgroup", error)
        made.failed.update(made.process.missing)
        self._attached[target.name] = made
        return made

    def _read(self, attached: Attached, at: float, found: Readings, spent: dict[str, float]) -> bool:
        """Read the probes of one target; False if its process is gone."""
        used: dict[str, float] = {}
        for probe in (attached.process, attached.cgroup):
            if probe is None:
                continue
            begun = self._timer()
            try:
                found.samples.extend(probe.read(at))
                used |= probe.used
            except (OSError, ValueError, KeyError, IndexError) as error:
                self._count(probe.name, error)
                if probe is attached.process:
                    return False
                attached.failed[probe.name] = str(error)
            spent[probe.name] = spent.get(probe.name, 0.0) + self._timer() - begun
        name = attached.target.name
        found.used[name] = used
        found.limits[name] = attached.cgroup.limit_bytes if attached.cgroup else None
        found.samples.extend(self._facts(attached, at))
        return True

    def _facts(self, attached: Attached, at: float) -> list[Sample]:
        base, identity = attached.target.base, attached.target.identity
        assert identity
        facts = [Sample(base.merged({METRIC_NAME: INFO.name, "pid": str(identity.pid)}), 1.0, at)]
        for what in ("io", "fd", "cgroup"):
            labels = base.merged({METRIC_NAME: CAPABILITY.name, "capability": what})
            facts.append(Sample(labels, float(what not in attached.failed), at))
        return facts

    def _count(self, collector: str, error: Exception) -> None:
        reason = errno.errorcode.get(error.errno or 0, "error") if isinstance(error, OSError) else "parse"
        self._errors[collector, reason.lower()] += 1

    def _own(self, metric: Metric, value: float, at: float, **labels: str) -> Sample:
        return Sample(self._self_base.merged({METRIC_NAME: metric.name, **labels}), value, at)
