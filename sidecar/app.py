"""The desk's composition root: makes every stage, wires them, runs the ticks, ends in order."""

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from sidecar import logs
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.flight import open_record
from sidecar.actions.ledger import Ledger
from sidecar.clock import busy, monotonic, wall
from sidecar.config import Settings, rows
from sidecar.config_settings import Target
from sidecar.discovery.local import ourselves
from sidecar.discovery.match import ByPid, ByUrl
from sidecar.discovery.roster import Roster, Wanted
from sidecar.errors import SidecarError
from sidecar.journal.journal import Journal
from sidecar.model import Cleanup, Labels
from sidecar.notify.alertmanager import Notifier
from sidecar.pipeline import Pipeline, Plan, Stages
from sidecar.pipeline_collector import LongPasses
from sidecar.pipeline_crashes import Crashes
from sidecar.pipeline_journal import resume
from sidecar.probes.agent import Agents, Reach
from sidecar.probes.endpoint import Endpoints
from sidecar.probes.sampler import Ask, Sampler, Scope
from sidecar.procfs import Identity, identify
from sidecar.promql.context import Options
from sidecar.promql.features import Features
from sidecar.promql.tree import lookback, metric_names
from sidecar.rules.group import Group
from sidecar.rules.load import load, shipped
from sidecar.rules.source import MAX_SAMPLES, MAX_SECONDS, Bounded
from sidecar.rules.spec import GroupSpec
from sidecar.store import Store
from sidecar.web.control import build_control, listening
from sidecar.web.journal import route
from sidecar.web.server import build, serving
from sidecar.web.view import About, Sources, View

log = logging.getLogger("sidecar")

DRAIN_SECONDS = 5.0
CLEANUPS: tuple[Cleanup, ...] = ("light", "standard", "aggressive")


def run(settings: Settings, guard_fd: int, starts: int, short_lives: int = 0) -> int:
    """Be the desk until the guard hangs up; `starts` counts the desks this guard has had, this one included.

    `short_lives` is how many of those before it ended too soon, in a row.
    Returns the exit code; raises SidecarError for what makes a start impossible.
    """
    logs.set_up(settings.log.level, settings.log.format)
    for warning in settings.warnings:
        log.warning("configuration", extra={"warning": warning})
    features = Features.of(settings.features)
    specs = load(settings.rules if settings.rules is not None else shipped(),
                 experimental=features.experimental_functions)
    if starts == 1:
        check_pids(settings.targets)
    desk = _Desk(settings, specs, Dispatch(socket.socket(fileno=guard_fd)), starts, short_lives)
    return asyncio.run(desk.run())


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


class _Desk:
    """Everything that runs. Lives as long as the process."""

    def __init__(self, settings: Settings, specs: Sequence[GroupSpec], dispatch: Dispatch, starts: int,
                 short_lives: int) -> None:
        self._settings = settings
        self._specs = specs
        self._dispatch = dispatch
        self._starts = starts
        self._short_lives = short_lives
        self._known: dict[str, Identity] = {}
        self._unserved = False
        self._over = asyncio.Event()

    async def run(self) -> int:
        settings = self._settings
        async with AsyncExitStack() as stack:
            view = View()
            url = await self._serve(view, stack)
            notifier = await stack.enter_async_context(
                Notifier(settings.alertmanagers, external_url=url, external_labels=settings.external_labels))
            endpoints = await stack.enter_async_context(Endpoints(
                {str(target.name): asked for target in settings.targets if (asked := target.asked())}, asyncio.sleep))
            journal = Journal(settings.storage)
            stack.callback(journal.close)
            agents = await stack.enter_async_context(Agents(
                {str(target.name): Reach(target.agent.directory, target.agent.every_seconds)
                 for target in settings.targets}, asyncio.sleep))
            view.about = self._about(url)
            pipeline = self._pipeline(view, notifier, journal, url, endpoints.read, agents)
            pipeline.go_on(self._known, wall())
            pipeline.crashes = Crashes(self._short_lives, wall())
            await self._serve_control(view, pipeline, journal, url, stack)
            gc.collect()
            gc.freeze()  # what was made up to now stays: passes over it would double the longest ticks
            gc.callbacks.append(LongPasses(monotonic))
            log.info("watching", extra={
                "targets": ", ".join(str(target.name) for target in settings.targets), "url": url,
                "rules": sum(len(spec.rules) for spec in self._specs),
                "alertmanagers": len(settings.alertmanagers), "desk_start": self._starts})
            await self._tick_until_the_end(pipeline, partial(self._serve, view, stack))
            left = await notifier.drain(wall() + DRAIN_SECONDS)
            pipeline.keep(wall())
            if left:
                log.warning("alerts not delivered at the end", extra={"count": left})
        return 0

    async def _serve(self, view: View, stack: AsyncExitStack) -> str:
        """Serve the pages until the end; their URL.

        Raises SidecarError if the address cannot be had at the first start. Later, what was guarded is guarded on:
        without pages, and trying again at every tick.
        """
        settings, listen = self._settings.web, str(self._settings.web.listen)
        try:
            protection = None
            if settings.config_file:
                from sidecar.config_web import protected_by  # here: it takes memory, and few need it

                protection = protected_by(settings.config_file)
            app = build(view, hosts=settings.hosts, token=settings.token, protection=protection)
            urls = await stack.enter_async_context(serving(app, [listen], protection))
        except SidecarError as error:
            if self._starts == 1:
                raise
            if not self._unserved:
                log.error("no pages are served, the rest goes on", extra={"error": str(error), "help": error.help})
            self._unserved = True
            return f"http://{listen}"
        if self._unserved:
            log.info("pages are served again", extra={"url": urls[0]})
        self._unserved = False
        return urls[0]

    async def _serve_control(self, view: View, pipeline: Pipeline, journal: Journal, url: str,
                             stack: AsyncExitStack) -> None:
        """Serve the people of this machine until the end; where that cannot be, the rest goes on."""
        names = [str(target.name) for target in self._settings.targets]
        view.hands = pipeline.by_hand.lend(names, url, wall, asyncio.sleep, lambda: pipeline.crashes.forgive())
        app = build_control(view)
        app.add_routes([route(journal.read, wall)])
        try:
            await stack.enter_async_context(listening(app, self._settings.storage))
        except SidecarError as error:
            log.warning("nothing can be ordered by hand, the rest goes on",
                        extra={"error": str(error), "help": error.help})

    def _about(self, url: str) -> About:
        """What is told of this desk."""
        settings = self._settings
        return About(wall(), url, {"job": settings.job, "instance": settings.instance}, settings.external_labels,
                     settings.evaluation_interval_seconds, lambda: ((row.key, row.value) for row in rows(settings)))

    def _pipeline(self, view: View, notifier: Notifier, journal: Journal, url: str, ask: Ask,
                  agents: Agents) -> Pipeline:
        """Make the stages, report to the guard, and go on from where the journal ends."""
        settings = self._settings
        base = Labels({"job": settings.job, "instance": settings.instance})
        wanted = [Wanted(str(target.name), base.merged({"target": str(target.name)}), target.match)
                  for target in settings.targets]
        roster = Roster(wanted, ourselves())
        plans = {str(target.name): Plan(target.memory, settings.mode(target),
                                        {cleanup: target.channels(cleanup) for cleanup in CLEANUPS}, target.children,
                                        settings.waits_for_agent(target))
                 for target in settings.targets}
        carried = any(channel.kind in ("http", "exec") for plan in plans.values()
                      for channels in plan.channels.values() for channel in channels)
        program_pid, self._known = self._hello(carried)
        roster.child_pid = program_pid
        roster.resume(self._known)
        for name in self._known.keys() - plans.keys():
            self._dispatch.watch(name, None, None)  # a target of the desk before that is not configured any more
        store = Store()
        groups = [Group(spec, default_interval_seconds=settings.evaluation_interval_seconds,
                        external_labels=settings.external_labels, external_url=url) for spec in self._specs]
        store.keep(_needs(self._specs))
        features = Features.of(settings.features)
        options = Options(delayed_name_removal=features.delayed_name_removal)
        bounded = replace(options, max_samples=MAX_SAMPLES, max_seconds=MAX_SECONDS, clock=busy)
        rules = Bounded(store.select, store.newest, bounded, monotonic)
        scopes = {str(target.name): Scope(not isinstance(target.match, ByUrl), target.children)
                  for target in settings.targets}
        sampler = Sampler(base, monotonic, scopes, ask, skip=(os.getppid(),))
        sampler.agents = agents
        breathe = partial(asyncio.sleep, 0)
        view.sources = Sources(store.select, groups, wall, monotonic, breathe, options,
                               features.experimental_functions, store.newest)
        stages = Stages(roster, sampler, store, groups, rules, Ledger(), self._dispatch, notifier, journal, view,
                        breathe)
        now = wall()
        resume(journal.open(now), groups, roster.update(now), notifier, now)
        return Pipeline(stages, plans, settings.actions, base, self._starts)

    def _hello(self, courier: bool) -> tuple[int, dict[str, Identity]]:
        """Report to the guard, with the file for its flight record; see `Dispatch.hello`."""
        record, self._dispatch.left = open_record(self._settings.storage)
        try:
            return self._dispatch.hello(
                self._settings.actions.kill_switch, courier, self._settings.agent_inside(), record)
        finally:
            if record >= 0:
                os.close(record)

    async def _tick_until_the_end(self, pipeline: Pipeline, serve: Callable[[], Awaitable[str]]) -> None:
        """One tick each interval, on absolute deadlines; ticks that were missed are counted, never caught up."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._dispatch.sock, self._hear, pipeline)
        self._hear(pipeline)
        interval, due = self._settings.evaluation_interval_seconds, monotonic()
        while not self._over.is_set():
            late = monotonic() - due
            await pipeline.tick(wall(), late)
            if self._unserved:
                await serve()
            due += interval * (1 + int(late / interval))
            try:
                async with asyncio.timeout(max(0.0, due - monotonic())):
                    await self._over.wait()
            except TimeoutError:
                continue
        loop.remove_reader(self._dispatch.sock)
        pipeline.last_words(wall())

    def _hear(self, pipeline: Pipeline) -> None:
        """The guard has said something; when it has hung up, the desk ends."""
        pipeline.heard(self._dispatch.receive())
        if self._dispatch.ended:
            self._over.set()


def _needs(specs: Sequence[GroupSpec]) -> dict[str, float]:
    """Metric → how many seconds back the loaded rules look at it."""
    found: dict[str, float] = {}
    for spec in specs:
        for rule in spec.rules:
            for name in metric_names(rule.expr):
                found[name] = max(found.get(name, 0.0), lookback(rule.expr) + spec.query_offset_seconds)
    return found
