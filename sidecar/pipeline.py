"""The desk on one screen: what happens at every tick, in which order, and what flows from stage to stage."""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from sidecar import thresholds
from sidecar.actions.acting import Acting
from sidecar.actions.attempts import Shown
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.facts import Subject, life_of
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Mode, Options
from sidecar.actions.policy import Policy
from sidecar.clock import monotonic, since_boot
from sidecar.discovery.roster import Roster
from sidecar.errors import SidecarError
from sidecar.guard.wire import Basis, Channel, Event
from sidecar.journal.journal import Journal
from sidecar.mode import Modes
from sidecar.model import Alert, Cleanup, Labels, Sample, Target, series
from sidecar.notify.alertmanager import Notifier
from sidecar.notify.remediation import remedied
from sidecar.pipeline_agents import Permits, follow, hand_over
from sidecar.pipeline_brake import Braking, Loan
from sidecar.pipeline_calm import calm
from sidecar.pipeline_crashes import Crashes
from sidecar.pipeline_families import USED, Order, Vitals
from sidecar.pipeline_gates import Gates
from sidecar.pipeline_hand import ByHand, policy_now
from sidecar.pipeline_journal import Keeping, page, restore_actions
from sidecar.pipeline_live import Live
from sidecar.pipeline_pace import Pace
from sidecar.pipeline_past import Past
from sidecar.pipeline_shown import Left, ModeStatuses, Statuses
from sidecar.pipeline_thresholds import Lines
from sidecar.probes.sampler import Readings, Sampler
from sidecar.procfs import CLOCK_TICKS, Identity
from sidecar.promql.evaluate import Query
from sidecar.promql.steps import Steps, finish
from sidecar.rules.group import Group
from sidecar.rules.source import Source
from sidecar.said import Said
from sidecar.store import Store
from sidecar.thresholds import Wanted
from sidecar.web.view import Families, Snapshot, View

log = logging.getLogger("sidecar")

JUST_AFTER_SECONDS = 0.001
LONGEST_STEP_BACK_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is configured for one target, as the tick needs it. `asks_agents`: one that is there is consent to act."""

    wanted: Wanted
    mode: Mode
    channels: Mapping[Cleanup, tuple[Channel, ...]]
    children: bool
    asks_agents: bool = False
    loan: Loan | None = None


@dataclass(frozen=True, slots=True)
class Stages:
    """The stages, made by app.py. They live as long as the desk. `since_boot` is the clock of process start times."""

    roster: Roster
    sampler: Sampler
    store: Store
    groups: Sequence[Group]
    query: Query | Source
    ledger: Ledger
    dispatch: Dispatch
    notifier: Notifier
    journal: Journal
    view: View
    breathe: Callable[[], Awaitable[None]]
    since_boot: Callable[[], float] = since_boot


class Pipeline:
    """One tick after the other. Lives as long as the desk; what it changes are its stages."""

    def __init__(self, stages: Stages, plans: Mapping[str, Plan], options: Options, base: Labels, starts: int) -> None:
        self._stages = stages
        self._plans = plans
        self._options = options
        past = Past(stages.store)
        self.acting = Acting(stages.ledger, stages.dispatch, past.used, past.look)
        self._base = base
        self._bases = {name: base.merged({"target": name}) for name in plans}
        self.vitals = Vitals(base, starts)
        self.lines = Lines({name: plan.wanted for name, plan in plans.items()})
        self._lines_said, self._permits = Said(), Permits()
        self._live, self._order = Live(stages.store), Order()
        self._last = 0.0
        self._said: dict[str, tuple[str, str]] = {}
        self._subjects_now: list[Subject] = []
        self._keeping = Keeping(stages.journal, stages.ledger, self.acting, self.lines)
        self.by_hand = ByHand(self.acting, stages.ledger, stages.dispatch, stages.sampler, options, self._keeping,
                              self.lines)
        self._modes = Modes()
        self._braking = Braking()
        self._used_now: dict[str, float] = {}
        self._near: set[str] = set()
        self.beat = partial(_beat, stages)
        self._pace = Pace(stages.breathe, self.beat, monotonic)
        self._gates = Gates(stages.groups, plans)
        self.crashes, self.calm = Crashes(0, 0.0), False

    async def tick(self, now: float, late_seconds: float) -> None:
        """Events, targets, readings, verdicts, rules, alerts, orders. `now` is Unix time in seconds.

        Between rules and inside them others may run when this takes long: pages are served, alerts posted. Raises
        SidecarError if the clock has been set back: every series lies in the future then, and would for hours hide
        what comes.
        """
        begun, stages = monotonic(), self._stages
        now = round(now, 3)  # as the store keeps times: else what is read now may lie after now, and is not seen
        self._pace.begin()
        if now < self._last - LONGEST_STEP_BACK_SECONDS:
            raise SidecarError(f"the clock was set back by {self._last - now:.0f} s: the desk starts anew")
        policy = policy_now(self._options)
        self._take_in_events(policy, now)
        targets = await self._pace.through(stages.roster.steps(now))
        bases = {name: known.lines.basis for name, known in self.lines.known.items()}
        readings = await self._pace.through(stages.sampler.steps(targets, now, self._near, bases))
        seen = await self._pace.through(self._seen(targets, readings, now))
        await self._pace.through(self._live.take(seen, now))
        self.acting.judge(policy, now, targets)
        counted = await self._pace.through(self._counted(readings, now))
        await self._pace.through(self._live.take(counted, now))
        await self._pace.through(self._live.end(now))
        for group in stages.groups:
            slot = group.due(now, rested=self.calm)
            if slot is not None:
                await self._pace.through(group.steps(slot, stages.query, stages.store.append))
        alerts = [alert for group in stages.groups for alert in group.alerts()]
        await self._pace.through(self._telling(alerts, now))
        stages.journal.note(await self._pace.through(
            page(stages.groups, targets, now, stages.notifier.hearing(), self._used_now)))
        self._subjects_now = self.by_hand.subjects = await self._pace.through(self._subjects(targets, readings, now))
        gates = await self._pace.through(self._gates.steps(stages.query, stages.store, alerts, now))
        await self._pace.through(self.acting.steps(policy, self._subjects_now, gates, now))
        self.lines.acted()
        self.by_hand.work(now)
        self._keeping.keep()
        self.beat()
        await self._pace.rest()
        stages.store.truncate(now)
        self._last = now
        await self._pace.rest()
        self.vitals.note(monotonic() - begun, late_seconds)
        shown = Families(lambda: self._order.families(chain(seen, counted, self.vitals.of_groups(stages.groups, now))))
        self._publish(shown, alerts, readings)

    def go_on(self, known: Mapping[str, Identity], now: float) -> None:
        """Before the first tick: go on from the journal, and from what a guard that was killed had left to tell.

        `known` are the processes that the guard has held for a desk that came before.
        """
        stages, acting = self._stages, self.acting
        restore_actions(stages.journal.records, stages.ledger, acting.incidents, acting, now, self.lines)
        acting.incidents.lives.resume(known, now)
        acting.recover(stages.dispatch.left, policy_now(self._options), now)

    def change(self, groups: Sequence[Group], plans: Mapping[str, Plan], options: Options, now: float) -> None:
        """Go on with another configuration, between two ticks; the guard has no standing orders by then.

        What is known of targets and alerts that stay, stays. Alerts whose rules are gone are resolved.
        """
        from sidecar.rules.reload import go_on  # most sidecars never reload

        stages = self._stages
        ended, stale = go_on(stages.groups, groups, round(now, 3))
        finish(self._telling(ended, now))
        stages.store.append(stale)
        self._stages = replace(stages, groups=groups)
        for name in self._plans.keys() - plans.keys():
            stages.dispatch.watch(name, None, None)
            self._modes.forget(name)
            self._said.pop(name, None)
        self._plans, self._options, self.by_hand.options = plans, options, options
        self._bases = {name: self._base.merged({"target": name}) for name in plans}
        self.lines.change({name: plan.wanted for name, plan in plans.items()}, now)
        self._gates, self._permits = Gates(groups, plans), Permits()
        self._subjects_now = self.by_hand.subjects = [each for each in self._subjects_now if each.name in plans]

    def heard(self, events: Sequence[Event]) -> None:
        """What of the guard's news does not wait for the next tick: a target has ended."""
        for event in events:
            if event.kind == "gone":
                self._stages.sampler.note_end(event.target)

    def last_words(self, now: float) -> None:
        """The end: what the guard still had to tell is taken in and told."""
        self._take_in_events(policy_now(self._options), now)
        finish(self._telling([alert for group in self._stages.groups for alert in group.alerts()], now))
        self.keep(now)

    def keep(self, now: float) -> None:
        """Have the journal say how things are, also who has been told of what since the last tick."""
        stages = self._stages
        stages.journal.note(finish(page(
            stages.groups, stages.roster.update(now), now, stages.notifier.hearing())))
        self._keeping.keep()

    def _telling(self, alerts: Sequence[Alert], now: float) -> Steps[None]:
        """Have people told, with what was tried."""
        stages = self._stages
        return stages.notifier.steps(
            remedied(alerts, stages.ledger.attempts, self.acting.incidents.kept.open), now)

    def _take_in_events(self, policy: Policy, now: float) -> None:
        """What the guard has told since the last time. Nothing was told in the future: then the clock was set back."""
        for event in self._stages.dispatch.events():
            self._take_in(event._replace(at=min(event.at, now)), policy)

    def _take_in(self, event: Event, policy: Policy) -> None:
        """An event of the guard. A crossing is judged as if the desk had seen it itself, at the event's own time."""
        said = event.kind, str(event.detail.get("reason", ""))
        if event.kind in ("misunderstood", "desk_silent", "unreadable", "changed", "foreign", "owned"):
            if self._said.get(event.target) != said:
                log.warning("guard", extra={"kind": event.kind, "target": event.target, **event.detail})
            self._said[event.target] = said
        if event.kind == "brake":
            self._braking.take_in(event)
        if event.kind in ("gone", "changed", "unreadable"):
            self._stages.roster.doubt(event.target)
        base = self._bases.get(event.target)
        known = not self._stages.ledger.is_news(event)
        if event.kind == "crossed" and base is not None and event.detail["line_bytes"] is not None and not known:
            stages, at, labels = self._stages, max(event.at, self._last + JUST_AFTER_SECONDS), event.detail["labels"]
            threshold = series(base, thresholds.THRESHOLD.name, "level", labels.get("level", ""))
            stages.store.append([Sample(series(base, USED.name), event.detail["used_bytes"], at),
                                 Sample(threshold, event.detail["line_bytes"], at)])
            for group, rule, _ in self._gates.lined:
                if rule.name == labels.get("alertname"):
                    group.evaluate_rule(rule, at, stages.query, stages.store.append)
        self.acting.take_in(event, policy)

    def _seen(self, targets: Sequence[Target], readings: Readings, now: float) -> Steps[list[Sample]]:
        """What was read, with the lines and with used bytes on their basis; the guard is told what to hold."""
        stages, samples = self._stages, list(readings.samples)
        self._used_now, self._near = {}, set()
        self.lines.expire(now)
        for target in targets:
            yield
            used = readings.used.get(target.name)
            if used is None:
                stages.dispatch.watch(target.name, None, None)
                stages.roster.doubt(target.name)
                continue
            limit = readings.limits[target.name]
            lines = self.lines.of(target.name, limit, now)
            samples += self._lines_said.of(target.base, (lines, limit), now, readings.glanced,
                                           partial(thresholds.samples, target.base, lines, limit, now))
            if lines.basis in used:
                self._used_now[target.name] = used[lines.basis]
                if used[lines.basis] > lines.preventive.size_bytes:
                    self._near.add(target.name)
                samples.append(Sample(series(target.base, USED.name), used[lines.basis], now))
            self._have_watched(target, lines.basis)
        self._braking.follow({name: plan.loan for name, plan in self._plans.items() if plan.loan}, stages.sampler,
                             stages.dispatch)
        self._lines_said.keep(self._plans)
        lines_now = {name: known.lines for name, known in self.lines.known.items()}
        return samples + (yield from follow(
            self._modes, stages.sampler.agents, readings, self._used_now, lines_now, self._bases, now))

    def _have_watched(self, target: Target, kind: thresholds.Basis) -> None:
        """The guard holds the process, and reads used bytes as we do; what it cannot see itself it is told."""
        dispatch, attached = self._stages.dispatch, self._stages.sampler.attached(target.name)
        if kind == "endpoint":
            dispatch.watch(target.name, target.identity, Basis("told"))
            dispatch.tell(target.name, self._used_now.get(target.name))
        elif kind == "cgroup":
            held = attached.cgroup if attached else None
            dispatch.watch(target.name, target.identity, held.basis if held else None)
        elif attached:
            dispatch.watch(target.name, target.identity, Basis(kind, tree=self._plans[target.name].children))
            dispatch.tell(target.name, None, attached.tree.sharing.shares, attached.tree.error_bytes)

    def _counted(self, readings: Readings, now: float) -> Steps[list[Sample]]:
        """What the stages count. Of targets that were only glanced at, cleanups are counted at their next turn."""
        stages, spared = self._stages, readings.glanced
        yield
        samples = stages.roster.samples(now, spared)
        yield
        samples += stages.ledger.samples(self._bases.values(), now, spared)
        yield
        samples += self.acting.samples(self._subjects_now, self._bases, now, spared)
        samples += stages.notifier.samples(now, self._base)
        samples += stages.journal.samples(self._base, now) + self._braking.samples(self._bases, now)
        return samples + self.vitals.samples(stages.store, stages.groups, stages.dispatch.lost_events, now)

    def _subjects(self, targets: Sequence[Target], readings: Readings, now: float) -> Steps[list[Subject]]:
        """The targets as the policy sees them. Whom people have paused is settled last: they may do so meanwhile."""
        found, agents, dispatch = [], self._stages.sampler.agents, self._stages.dispatch
        crashes, since_boot = self.crashes.too_often(now), self._stages.since_boot()
        for target in targets:
            yield
            plan, used = self._plans[target.name], readings.used.get(target.name)
            known = self.lines.known.get(target.name)
            ticks = target.identity.start_time_ticks if target.identity else 0
            mode, ways, linked = self._permits.of(agents, target.name, plan.mode, plan.channels, asks=plan.asks_agents)
            if linked or dispatch.unlinked:
                hand_over(agents, dispatch, target.name, mode, ways)
            found.append(Subject(
                target.name, up=used is not None, armed=bool(known and known.lines.armed),
                fresh=bool(used and known and known.lines.basis in used),
                age_seconds=since_boot - ticks / CLOCK_TICKS, mode=mode, channels=ways,
                foreign=target.name in dispatch.foreign,
                life=life_of(target.identity) if target.identity else None,
                instance_id=readings.instances.get(target.name, ""), used_bytes=self._used_now.get(target.name),
                crashes=crashes))
        paused = self.acting.paused
        return [replace(each, paused=True) if each.name in paused else each for each in found]

    def _publish(self, shown: Families, alerts: Sequence[Alert], readings: Readings) -> None:
        """Show what people and Prometheus see until the next tick, and see how soon that has to come."""
        under_way = self.acting.incidents.kept.open or self._stages.ledger.open()
        self.calm = not under_way and calm(self._subjects_now, self.lines.known, alerts)
        why = self.acting.explain()
        left = Left(self._subjects_now, dict(self.lines.known), self._used_now, self._modes.found())
        self._stages.view.snapshot = Snapshot(
            self.vitals.ticks, "", shown, Statuses(left), alerts, Shown(self._stages.ledger.attempts()),
            why["decisions"], why["incidents"], ModeStatuses(left), readings.sights)


def _beat(stages: Stages) -> None:
    """A sign of life to the guard, with what need not be told again."""
    stages.dispatch.beat(stages.journal.marked)
