"""A replay from its beginning to its end: a recording, rules and settings → what would have been told and done."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from sidecar.config_settings import Settings, Target
from sidecar.errors import SidecarError
from sidecar.guard.wire import Channel
from sidecar.model import Cleanup, Labels, Sample
from sidecar.pipeline import Plan
from sidecar.pipeline_families import METRICS, USED
from sidecar.probes import sampler
from sidecar.procfs import Identity
from sidecar.replay.data import FORMAT, Points, Recording, hold_seconds, with_gaps
from sidecar.replay.desk import Desk, Scene, read_by, started
from sidecar.replay.guard import VirtualGuard
from sidecar.replay.program import Assumption, Program, Recorded
from sidecar.replay.timeline import Line, Timeline
from sidecar.rules.spec import GroupSpec
from sidecar.thresholds import LIMIT, THRESHOLD, Size, Wanted

ASSUMED_CHANNEL = Channel("http", url="http://assumed.invalid/")
"""What stands for the channels of a target that has none configured: what comes of a cleanup is assumed anyway."""
AGE_SECONDS = 3600.0
"""How old a process is at the beginning of a recording that does not say it."""
BOOTED_BEFORE_SECONDS = 1e7
CLEANUPS: tuple[Cleanup, ...] = ("light", "standard", "aggressive")
MOST_TARGETS = 300

PROBED = frozenset(metric.name for metric in sampler.METRICS) - {sampler.UP.name}
OURS = frozenset({*METRICS, "ALERTS", "ALERTS_FOR_STATE"}) - PROBED
"""What the desk makes itself, and so does not take from the recording."""


@dataclass(frozen=True, slots=True)
class Play:
    """Everything a replay needs. `start` and `end` are Unix times."""

    programs: Mapping[str, Program]
    plans: Mapping[str, Plan]
    specs: Sequence[GroupSpec]
    settings: Settings
    scene: Scene
    start: float
    end: float

    def run(self, timeline: Timeline) -> Iterator[Line]:
        """Tick by tick, what happens."""
        guard = VirtualGuard(self.programs, self.start)
        options = replace(self.settings.actions, kill_switch="")  # a real file, of now
        desk = Desk(self.programs, self.plans, self.specs, options, guard, self.scene)
        interval = self.scene.interval_seconds
        for index in range(int((self.end - self.start) / interval) + 1):
            now = round(self.start + index * interval, 3)
            desk.tick(now)
            yield from timeline.read(desk.view.snapshot, now, interval)
        desk.close()

    @property
    def unarmed(self) -> list[str]:
        """The targets of which no line is known: they are judged by the defaults, and nothing is done."""
        return [name for name, plan in self.plans.items() if plan.wanted == Wanted(basis="endpoint")
                and isinstance(program := self.programs[name], Recorded) and not program.limits]


class _Held:
    """Series of a recording besides used bytes, each value held until the next. Lives as long as a replay."""

    def __init__(self, series: Mapping[Labels, Points]) -> None:
        self._series = [(labels, [at for at, _ in points], points, hold_seconds(points))
                        for labels, points in series.items()]

    def __call__(self, now: float) -> list[Sample]:
        """The samples of this moment."""
        found = []
        for labels, times, points, hold in self._series:
            index = bisect_right(times, now) - 1
            if index >= 0 and now <= times[index] + hold:
                found.append(Sample(labels, points[index][1], now))
        return found


def stage(recording: Recording, specs: Sequence[GroupSpec], settings: Settings, assumed: Mapping[str, Assumption],
          *, configured: bool) -> Play:
    """Put a recording on the stage. Raises SidecarError where it says nothing about a target of ours.

    `configured`: the targets are those of the settings; else whatever targets the recording is about.
    """
    recorded = recording.targets(USED.name)
    known = {str(target.name): target for target in settings.targets} if configured else {}
    names = [name for name in recorded if name in known or not configured]
    if not recorded:
        raise SidecarError(f"there is no series {USED.name} with a label target", help=FORMAT)
    if not names:
        raise SidecarError(f"the data are about {', '.join(recorded[:5])}, the configuration about {', '.join(known)}",
                           help="give the targets the same names, or leave --config.file out")
    if len(names) > MOST_TARGETS:
        raise SidecarError(f"{len(names)} targets are more than {MOST_TARGETS}", help="replay a part of them")
    points = {name: recording.named(USED.name, name) for name in names}
    start = min(rows[0][0] for rows in points.values())
    end = max(rows[-1][0] for rows in points.values())
    booted = start - BOOTED_BEFORE_SECONDS
    alone = None if configured else next(iter(settings.targets), None)
    plans = {name: _plan(recording, name, known.get(name, alone), settings) for name in names}
    programs = {name: Recorded(with_gaps(points[name]), _lives(recording, name, start, booted), assumed,
                               [(at, int(value)) for at, value in recording.named(LIMIT.name, name)]) for name in names}
    wanted = read_by(specs) - OURS - {rule.name for spec in specs for rule in spec.rules}
    extra = _Held({labels: rows for labels, rows in recording.series.items() if labels.metric in wanted})
    scene = Scene(booted, settings.evaluation_interval_seconds, extra)
    return Play(programs, plans, specs, settings, scene, start, end)


def _plan(recording: Recording, name: str, target: Target | None, settings: Settings) -> Plan:
    """What is configured for a target, with channels whatever it has: what comes of a cleanup is assumed anyway."""
    channels = {cleanup: tuple(map(_stand_in, target.channels(cleanup) if target else ())) or (ASSUMED_CHANNEL,)
                for cleanup in CLEANUPS}
    wanted = _lines(recording, name, target.memory if target else Wanted())
    return Plan(wanted, settings.actions.mode or "enforce", channels, children=False)


def _stand_in(channel: Channel) -> Channel:
    """An agent cannot be found in a recording, so another channel stands for it."""
    return channel if channel.kind != "agent" else ASSUMED_CHANNEL._replace(timeout_seconds=channel.timeout_seconds)


def _lines(recording: Recording, target: str, wanted: Wanted) -> Wanted:
    """What is asked for; where nothing is, the lines that were in force when the recording began."""
    if wanted.preventive is wanted.main is wanted.critical is None:
        found = {}
        for labels, points in recording.series.items():
            level = labels.get("level", "")
            if labels.metric == THRESHOLD.name and labels.get("target") == target and points[0][1] >= 1:
                found[level] = Size(int(points[0][1]), "file")
        wanted = Wanted(found.get("preventive"), found.get("main"), found.get("critical"))
    return replace(wanted, basis="endpoint")


def _lives(recording: Recording, target: str, start: float, booted: float) -> list[tuple[float, Identity | None]]:
    """The processes of a target: by the pid in rag_target_info, else by rag_target_restarts_total."""
    born = recording.named("rag_process_start_time_seconds", target)
    first = min(born[0][1] if born else start - AGE_SECONDS, start)
    marks = sorted((points[0][0], labels["pid"]) for labels, points in recording.series.items()
                   if labels.metric == sampler.INFO.name and labels.get("target") == target and "pid" in labels)
    if not marks:
        counts = recording.named("rag_target_restarts_total", target)
        marks = [(start, ""), *((at, "") for (_, before), (at, after) in pairwise(counts) if after > before)]
    return [(max(at, start) if index else start, started(first if not index else at, index + 1, booted))
            for index, (at, _) in enumerate(marks)]
