"""A changed configuration, taken while the desk runs: as a whole, or not at all."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sidecar.app_parts import Parts, check_pids, parts_of
from sidecar.config import Settings
from sidecar.config_watch import Files
from sidecar.errors import ConfigError, SidecarError

log = logging.getLogger("sidecar")

LOOK_SECONDS = 3.0
"""Between two looks at the files."""
MOST_SAID = 50
"""Mistakes that are logged of one configuration."""

FIXED: dict[str, Callable[[Settings], object]] = {
    "web.listen": lambda settings: settings.web.listen,
    "web.hosts": lambda settings: settings.web.hosts,
    "web.token_file": lambda settings: settings.web.token_file,
    "web.config_file": lambda settings: settings.web.config_file,
    "storage.path": lambda settings: settings.storage,
    "features": lambda settings: settings.features,
    "job": lambda settings: settings.job,
    "instance": lambda settings: settings.instance,
    "agent.inside of the command": Settings.agent_inside,
}
"""What only a restart changes → what it is."""


class Reloads:
    """Reads the configuration again when somebody asks for it, or when its files have changed.

    Lives as long as the desk. `read` is what has read it at the start, and raises SidecarError. `swap` puts it in force
    between two ticks; where it raises SidecarError nothing has changed. `tell(ok)` is told how each reload went.
    """

    def __init__(self, parts: Parts, read: Callable[[], Settings], swap: Callable[[Parts], Awaitable[None]],
                 tell: Callable[[bool], None]) -> None:
        self._parts = parts
        self._read = read
        self._swap = swap
        self._tell = tell
        self._files = Files(parts.settings.watched)
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[str]] = []

    def wish(self) -> None:
        """Have the configuration read again, soon; wishes that wait already are one."""
        self._asked.set()

    async def ask(self) -> str:
        """Have the configuration read again: what is wrong with it, every mistake on its line; "" if it is in force."""
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self.wish()
        return str(await answer)

    async def run(self) -> None:
        """Do so until cancelled."""
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            except TimeoutError:
                if not self._files.changed():
                    continue
            self._asked.clear()
            waiting, self._waiting = self._waiting, []
            mistakes = await self._reload()
            for answer in waiting:
                if not answer.done():  # whoever asked may have gone
                    answer.set_result(mistakes)

    async def _reload(self) -> str:
        self._files.take(self._parts.settings.watched)
        try:
            settings = await asyncio.to_thread(self._read)
            self._files.take(settings.watched)  # also where its rules have mistakes: they are mended there
            parts = await asyncio.to_thread(parts_of, settings, self._parts.specs)
            check_fixed(self._parts.settings, settings)
            known = {(target.name, target.match) for target in self._parts.settings.targets}
            check_pids([each for each in settings.targets if (each.name, each.match) not in known])
            await self._swap(parts)
        except SidecarError as error:
            self._tell(False)
            return _refused(error)
        self._parts = parts
        self._tell(True)
        for warning in settings.warnings:
            log.warning("configuration", extra={"warning": warning})
        log.info("configuration reloaded", extra={
            "targets": ", ".join(parts.names), "rules": sum(len(spec.rules) for spec in parts.specs),
            "alertmanagers": len(settings.alertmanagers)})
        return ""


def check_fixed(before: Settings, after: Settings) -> None:
    """Raise SidecarError if something has changed that only a restart changes."""
    changed = [key for key, of in FIXED.items() if of(before) != of(after)]
    if changed:
        raise SidecarError(f"{', '.join(changed)} cannot change while the sidecar runs",
                           help="restart it, or take that change back: nothing of the configuration was taken")


def _refused(error: SidecarError) -> str:
    """Log what is wrong; the same as a text."""
    mistakes = [str(each) for each in error.problems] if isinstance(error, ConfigError) else [str(error)]
    for mistake in mistakes[:MOST_SAID]:
        log.error("configuration refused, the one before stays in force", extra={"mistake": mistake})
    if len(mistakes) > MOST_SAID:
        log.error("configuration refused", extra={"more_mistakes": len(mistakes) - MOST_SAID})
    return "\n".join([*mistakes, *([error.help] if error.help else [])])
