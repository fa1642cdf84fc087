"""The desk's composition root: makes every stage, wires them, runs the ticks, ends in order."""

import asyncio
import gc
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from sidecar import logs
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.flight import open_record
from sidecar.actions.ledger import Ledger
from sidecar.app_parts import Parts, check_pids, parts_of
from sidecar.app_pause import Pause
from sidecar.app_reload import Reloads
from sidecar.clock import busy, monotonic, wall
from sidecar.config import Settings, rows
from sidecar.discovery.local import ourselves
from sidecar.discovery.roster import Roster
from sidecar.errors import SidecarError
from sidecar.journal.journal import Journal
from sidecar.notify.alertmanager import Notifier
from sidecar.pipeline import Pipeline, Stages
from sidecar.pipeline_collector import LongPasses
from sidecar.pipeline_crashes import Crashes
from sidecar.pipeline_guard import protection
from sidecar.pipeline_journal import resume
from sidecar.probes.agent import Agents
from sidecar.probes.endpoint import Endpoints
from sidecar.probes.sampler import Sampler
from sidecar.procfs import Identity
from sidecar.promql.context import Options
from sidecar.promql.features import Features
from sidecar.rules.source import MAX_SAMPLES, MAX_SECONDS, Bounded
from sidecar.store import Store, budget_bytes
from sidecar.web import lifecycle
from sidecar.web.control import build_control, listening
from sidecar.web.journal import route
from sidecar.web.server import build, serving
from sidecar.web.view import About, Sources, View

log = logging.getLogger("sidecar")

DRAIN_SECONDS = 5.0
WITHDRAWN_SECONDS, LOOK_SECONDS = 5.0, 0.005
"""Within the first the guard says that no order stands any more; the second lies between two looks whether it has."""


def run(read: Callable[[], Settings], guard_fd: int, starts: int, short_lives: int = 0) -> int:
    """Be the desk until the guard hangs up; `starts` counts the desks this guard has had, this one included.

    `read` reads the configuration, now and at every reload. `short_lives` is how many desks before this one ended too
    soon, in a row. Returns the exit code; raises SidecarError for what makes a start impossible.
    """
    settings = read()
    logs.set_up(settings.log.level, settings.log.format)
    for warning in settings.warnings:
        log.warning("configuration", extra={"warning": warning})
    parts = parts_of(settings)
    if starts == 1:
        check_pids(settings.targets)
    desk = _Desk(parts, Dispatch(socket.socket(fileno=guard_fd)), starts, short_lives)
    return asyncio.run(desk.run(read))


class _Desk:
    """Everything that runs. Lives as long as the process; `_parts` is the configuration in force."""

    def __init__(self, parts: Parts, dispatch: Dispatch, starts: int, short_lives: int) -> None:
        self._parts = parts
        self._dispatch = dispatch
        self._starts = starts
        self._short_lives = short_lives
        self._view = View()
        self._roster = Roster(parts.wanted, ourselves())
        self._store = Store(budget_bytes(len(parts.names)))
        self._known: dict[str, Identity] = {}
        self._unserved = False
        self._over = False
        self._calm_seconds = parts.calm_seconds
        self._pause = Pause(lambda: self._pipeline.beat())
        self._turn = asyncio.Lock()
        """Whoever holds it ticks, or changes what the ticks work with."""

    async def run(self, read: Callable[[], Settings]) -> int:
        parts, settings, view = self._parts, self._parts.settings, self._view
        async with AsyncExitStack() as stack:
            url = await self._serve(stack)
            self._notifier = await stack.enter_async_context(
                Notifier(settings.alertmanagers, external_url=url, external_labels=settings.external_labels))
            self._endpoints = await stack.enter_async_context(Endpoints(parts.endpoints, asyncio.sleep))
            journal = Journal(settings.storage)
            stack.callback(journal.close)
            self._agents = await stack.enter_async_context(Agents(parts.reaches, asyncio.sleep))
            now = wall()
            view.about = About(now, url, dict(parts.base), settings.external_labels,
                               settings.evaluation_interval_seconds, _shown(settings), now)
            reloads = Reloads(parts, read, self._swap, self._note_reload)
            self._dispatch.on_reload = reloads.wish
            self._stack = stack
            await self._follow_containers()
            self._pipeline = pipeline = self._made(journal, url)
            pipeline.go_on(self._known, wall())
            pipeline.crashes = Crashes(self._short_lives, wall())
            pipeline.vitals.reloaded = True, now
            pipeline.vitals.protection = protection(os.getppid())
            await self._serve_control(journal, url, stack)
            await self._reload_meanwhile(reloads, stack)
            gc.collect()
            gc.freeze()  # what was made up to now stays: passes over it would double the longest ticks
            gc.callbacks.append(LongPasses(monotonic))
            self._hear()
            if not self._over:  # else the program to watch could not be started, or has ended at once
                _say_watching(parts, url, self._starts)
            await self._tick_until_the_end(partial(self._serve, stack))
            left = await self._notifier.drain(wall() + DRAIN_SECONDS)
            pipeline.keep(wall())
            if left:
                log.warning("alerts not delivered at the end", extra={"count": left})
        return 0

    async def _serve(self, stack: AsyncExitStack) -> str:
        """Serve the pages until the end; their URL.

        Raises SidecarError if the address cannot be had at the first start. Later, what was guarded is guarded on:
        without pages, and trying again at every tick.
        """
        web, listen = self._parts.settings.web, str(self._parts.settings.web.listen)
        try:
            protection = None
            if web.config_file:
                from sidecar.config_web import protected_by  # here: it takes memory, and few need it

                protection = protected_by(web.config_file)
            app = build(self._view, hosts=web.hosts, token=web.token, protection=protection)
            app.add_routes(lifecycle.routes(self._view, allowed=web.lifecycle))
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

    async def _serve_control(self, journal: Journal, url: str, stack: AsyncExitStack) -> None:
        """Serve the people of this machine until the end; where that cannot be, the rest goes on."""
        self._lend(url)
        app = build_control(self._view)
        app.add_routes([route(journal.read, wall), *lifecycle.routes(self._view, allowed=True)])
        try:
            await stack.enter_async_context(listening(app, self._parts.settings.storage))
        except SidecarError as error:
            log.warning("nothing can be ordered by hand, the rest goes on",
                        extra={"error": str(error), "help": error.help})

    def _lend(self, url: str) -> None:
        """Have the servers know which targets there are, and what may be ordered."""
        self._view.hands = self._pipeline.by_hand.lend(
            self._parts.names, url, wall, asyncio.sleep, lambda: self._pipeline.crashes.forgive(), self._pause.stir)

    async def _follow_containers(self) -> None:
        """Have the Docker engine asked for those that are targets, until the end or another configuration."""
        containers, roster = self._parts.containers, self._roster
        if containers and not roster.engine:
            from sidecar.discovery.engine import Engine  # few need it

            roster.engine = await self._stack.enter_async_context(Engine(asyncio.sleep))
        if roster.engine:
            roster.engine.change(self._parts.settings.docker_host, containers)

    async def _reload_meanwhile(self, reloads: Reloads, stack: AsyncExitStack) -> None:
        """Reload until the end whenever somebody asks for it, or the files change."""
        self._view.reload = reloads.ask
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(tasks.create_task(reloads.run()).cancel)

    def _made(self, journal: Journal, url: str) -> Pipeline:
        """Make the stages, report to the guard, and go on from where the journal ends."""
        parts, settings, roster, store, view = (
            self._parts, self._parts.settings, self._roster, self._store, self._view)
        program_pid, self._known = self._hello()
        roster.child_pid = program_pid
        self._keep_brake()
        roster.resume(self._known)
        for name in self._known.keys() - parts.plans.keys():
            self._dispatch.watch(name, None, None)  # a target of the desk before that is not configured any more
        groups = parts.groups(url)
        store.keep(parts.needs)
        features = Features.of(settings.features)
        options = Options(delayed_name_removal=features.delayed_name_removal)
        bounded = replace(options, max_samples=MAX_SAMPLES, max_seconds=MAX_SECONDS, clock=busy, quick=monotonic)
        rules = Bounded(store.select, store.newest, bounded, monotonic)
        self._sampler = Sampler(parts.base, monotonic, parts.scopes, self._endpoints.read, skip=(os.getppid(),))
        self._sampler.agents = self._agents
        breathe = partial(asyncio.sleep, 0)
        view.sources = Sources(store.select, groups, wall, monotonic, breathe, options,
                               features.experimental_functions, store.newest)
        stages = Stages(roster, self._sampler, store, groups, rules, Ledger(), self._dispatch, self._notifier, journal,
                        view, breathe)
        now = wall()
        resume(journal.open(now), groups, roster.update(now), self._notifier, now)
        return Pipeline(stages, parts.plans, settings.actions, parts.base, self._starts)

    def _hello(self) -> tuple[int, dict[str, Identity]]:
        """Report to the guard, with the file for its flight record; see `Dispatch.hello`."""
        settings = self._parts.settings
        record, self._dispatch.left = open_record(settings.storage)
        try:
            return self._dispatch.hello(
                settings.actions.kill_switch, self._parts.courier, settings.agent_inside(), record)
        finally:
            if record >= 0:
                os.close(record)

    def _keep_brake(self) -> None:
        if self._parts.brake_file:
            self._dispatch.brake("keep", file=self._parts.brake_file)

    async def _swap(self, parts: Parts) -> None:
        """Put another configuration in force between two ticks.

        Raises SidecarError if that cannot be; then nothing has changed but that standing orders were withdrawn, which
        the next tick gives again.
        """
        from sidecar.rules.reload import kept  # most sidecars never reload

        about, sources, settings = self._view.about, self._view.sources, parts.settings
        assert about
        assert sources
        groups = kept(sources.groups, parts.groups(about.url))
        async with self._turn:
            await self._withdraw()
            self._notifier.change(settings.alertmanagers, settings.external_labels)
            self._parts, self._calm_seconds = parts, parts.calm_seconds
            self._dispatch.change(settings.actions.kill_switch, parts.courier)
            self._keep_brake()
            self._roster.change(parts.wanted)
            await self._follow_containers()
            self._sampler.change(parts.scopes)
            self._agents.change(parts.reaches)
            self._endpoints.change(parts.endpoints)
            self._store.keep(parts.needs)
            self._store.budget_bytes = budget_bytes(len(parts.names))
            self._pipeline.change(groups, parts.plans, settings.actions, wall())
            self._view.sources = replace(sources, groups=groups)
            self._view.about = replace(about, external_labels=settings.external_labels, settings=_shown(settings),
                                       interval_seconds=settings.evaluation_interval_seconds, configured_at=wall())
            self._lend(about.url)
            gc.unfreeze()
            gc.collect()  # what has been replaced goes now; else it would stay for good
            gc.freeze()

    async def _withdraw(self) -> None:
        """Have the guard do nothing by itself any more. Raises SidecarError if it does not say so in time."""
        names, waited = self._parts.names, 0.0
        for name in names:
            self._dispatch.stand(name, [], wall())
        while late := [name for name in names if not self._dispatch.in_force(name)]:
            if self._dispatch.ended or waited > WITHDRAWN_SECONDS:
                raise SidecarError(f"the guard has not said that its orders for {', '.join(late)} are withdrawn",
                                   help="ask again in a moment: the configuration before is in force")
            await asyncio.sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS

    def _note_reload(self, ok: bool) -> None:
        """A configuration was taken, or refused: the next tick shows it, and gives the orders again."""
        self._pause.end()
        if self._view.about:
            self._view.about = replace(self._view.about, reloaded=ok)
            self._pipeline.vitals.reloaded = ok, self._view.about.configured_at

    async def _tick_until_the_end(self, serve: Callable[[], Awaitable[str]]) -> None:
        """One tick each interval, on absolute deadlines; ticks that were missed are counted, never caught up.

        After a reload there is one more, so that its orders stand at once.
        """
        loop, pipeline = asyncio.get_running_loop(), self._pipeline
        loop.add_reader(self._dispatch.sock, self._hear)
        self._hear()
        due = monotonic()
        while not self._over:
            self._pause.begin()
            interval = self._parts.settings.evaluation_interval_seconds
            async with self._turn:
                late = monotonic() - due
                await pipeline.tick(wall(), max(0.0, late))
            if self._unserved:
                await serve()
            due = due + interval * (1 + int(late / interval)) if late >= 0.0 else min(due, monotonic() + interval)
            due = await self._pause.over(due, due + self._calm_seconds - interval if pipeline.calm else due)
        loop.remove_reader(self._dispatch.sock)
        async with self._turn:
            pipeline.last_words(wall())

    def _hear(self) -> None:
        """The guard has said something; when it has hung up, the desk ends."""
        events = self._dispatch.receive()
        self._pipeline.heard(events)
        if events:
            self._pause.stir()
        if self._dispatch.ended:
            self._over = True
            self._pause.end()


def _say_watching(parts: Parts, url: str, starts: int) -> None:
    log.info("watching", extra={
        "targets": ", ".join(parts.names), "url": url, "rules": sum(len(spec.rules) for spec in parts.specs),
        "alertmanagers": len(parts.settings.alertmanagers), "desk_start": starts})


def _shown(settings: Settings) -> Callable[[], list[tuple[str, str]]]:
    """Every setting with its value, for people."""
    return lambda: [(row.key, row.value) for row in rows(settings)]
