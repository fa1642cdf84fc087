"""From settings and rules to what each stage takes of them: the same at the start and at every reload."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidecar.config import Settings
from sidecar.config_settings import Target
from sidecar.discovery.match import ByDocker, ByPid, ByUrl
from sidecar.discovery.roster import Wanted
from sidecar.errors import SidecarError
from sidecar.guard.wire import MOST_TARGETS
from sidecar.model import Cleanup, Labels
from sidecar.pipeline import Plan
from sidecar.pipeline_calm import may_rest
from sidecar.probes.agent import Reach
from sidecar.probes.endpoint_figures import Endpoint
from sidecar.probes.sampler import Scope
from sidecar.procfs import identify
from sidecar.promql.features import Features
from sidecar.promql.tree import lookback, metric_names
from sidecar.rules.group import Group
from sidecar.rules.load import load, shipped
from sidecar.rules.spec import GroupSpec

CLEANUPS: tuple[Cleanup, ...] = ("light", "standard", "aggressive")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the stages take, by the target's name where it is of targets.

    `needs`: metric → how many seconds back the rules look at it. `courier`: something is configured that one carries.
    """

    settings: Settings
    specs: Sequence[GroupSpec]
    base: Labels
    wanted: Sequence[Wanted]
    plans: Mapping[str, Plan]
    scopes: Mapping[str, Scope]
    reaches: Mapping[str, Reach]
    endpoints: Mapping[str, Endpoint]
    needs: Mapping[str, float]
    courier: bool

    @property
    def containers(self) -> Mapping[str, ByDocker]:
        """The targets that are found through Docker."""
        return {each.name: each.match for each in self.wanted if isinstance(each.match, ByDocker)}

    @property
    def names(self) -> Sequence[str]:
        """Those of the targets, in their order."""
        return [each.name for each in self.wanted]

    @property
    def brake_file(self) -> str:
        """Where it stands what the brake holds; "" where nothing is to be braked, nor was when all of us were killed.
        """
        file = self.settings.storage / "brake.held"
        return str(file) if any(plan.loan for plan in self.plans.values()) or file.exists() else ""

    @property
    def calm_seconds(self) -> float:
        """How far ticks lie apart while all is calm: not at all farther than else where a rule would miss samples."""
        settings = self.settings
        longer = may_rest(self.specs, settings.calm_interval_seconds)
        return settings.calm_interval_seconds if longer else settings.evaluation_interval_seconds

    def groups(self, url: str) -> list[Group]:
        """The rules, new and without state; their alerts lead to `url`."""
        settings = self.settings
        return [Group(spec, default_interval_seconds=settings.evaluation_interval_seconds,
                      external_labels=settings.external_labels, external_url=url) for spec in self.specs]


def parts_of(settings: Settings, before: Sequence[GroupSpec] = ()) -> Parts:
    """Read the rules, and take apart what is configured. Raises RuleError with every mistake in every file.

    SidecarError for more targets than the guard holds.

    Groups that are as they were `before` are those very objects.
    """
    if len(settings.targets) > MOST_TARGETS:
        raise SidecarError(f"{len(settings.targets)} targets are more than {MOST_TARGETS}",
                           help="run several sidecars, each with a part of them and a storage path of its own")
    features, known = Features.of(settings.features), {(spec.file, spec.name): spec for spec in before}
    loaded = load(settings.rules if settings.rules is not None else shipped(),
                  experimental=features.experimental_functions)
    specs = [same if (same := known.get((spec.file, spec.name))) == spec else spec for spec in loaded]
    base = Labels({"job": settings.job, "instance": settings.instance})
    targets = {str(target.name): target for target in settings.targets}
    plans = {name: _plan(settings, target) for name, target in targets.items()}
    return Parts(
        settings, specs, base,
        wanted=[Wanted(name, base.merged({"target": name}), target.match) for name, target in targets.items()],
        plans=plans,
        scopes={name: Scope(not isinstance(each.match, ByUrl), each.children) for name, each in targets.items()},
        reaches={name: Reach(each.agent.directory, each.agent.every_seconds) for name, each in targets.items()},
        endpoints={name: asked for name, target in targets.items() if (asked := target.asked())},
        needs=needs(specs),
        courier=any(channel.kind in ("http", "exec") for plan in plans.values()
                    for channels in plan.channels.values() for channel in channels))


def check_pids(targets: Sequence[Target]) -> None:
    """Raise SidecarError if a target is given by a pid that does not exist: nothing would ever come there."""
    for target in targets:
        if isinstance(target.match, ByPid):
            try:
                identify(target.match.pid)
            except (OSError, ValueError):
                raise SidecarError(
                    f"target {target.name}: there is no process with pid {target.match.pid}",
                    help="`ps -e` shows those there are. A program that may restart is better named by its command "
                         "line (--match REGEX) or a pidfile: those are waited for.") from None


def _plan(settings: Settings, target: Target) -> Plan:
    loan = (int(target.brake.loan), target.brake.hold_seconds) if target.brake else None
    return Plan(target.memory, settings.mode(target), {cleanup: target.channels(cleanup) for cleanup in CLEANUPS},
                target.children, settings.waits_for_agent(target), loan)


def needs(specs: Sequence[GroupSpec]) -> dict[str, float]:
    """Metric → how many seconds back rules look at it."""
    found: dict[str, float] = {}
    for spec in specs:
        for rule in spec.rules:
            for name in metric_names(rule.expr):
                found[name] = max(found.get(name, 0.0), lookback(rule.expr) + spec.query_offset_seconds)
    return found
