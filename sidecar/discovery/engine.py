"""The desk's side of the program that asks a Docker engine: keeps one, and what it has told.

Loaded only where a target is found through Docker. What takes memory, waits or breaks is in that program.
"""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from sidecar.discovery.container import UP, Container, Exit, first_process
from sidecar.discovery.match import ByDocker
from sidecar.errors import printable
from sidecar.model import Labels, Sample, series

log = logging.getLogger(__name__)

MOST_LINE_BYTES = 1 << 16
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Between two starts of the program, if it ends by itself."""
NOT_YET = "the Docker engine has not answered yet"


class Engine:
    """Which containers there are, as the engine said last. Lives as long as the desk.

    `sleep` waits so many seconds; `news` is set when the engine has said something. While it is not reached, what it
    said before is used on: a process is taken for a container's by its cgroup, whoever named it.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[object]]) -> None:
        self.trouble = NOT_YET
        self.version = ""
        self.news = asyncio.Event()
        self._sleep = sleep
        self._host = ""
        self._wanted: Mapping[str, ByDocker] = {}
        self._found: dict[str, Container | str] = {}
        self._task: asyncio.Task[None] | None = None
        self._said: dict[str, str] = {}

    async def __aenter__(self) -> "Engine":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task:
            self._task.cancel()

    def change(self, host: str, wanted: Mapping[str, ByDocker]) -> None:
        """Ask the engine at `host` for these containers from now on: name of the target → how it is named."""
        if (host, wanted) == (self._host, self._wanted):
            return
        if self._task:
            self._task.cancel()
        same = host == self._host
        self._found = {name: found for name, found in self._found.items()
                       if same and wanted.get(name) == self._wanted.get(name)}
        self._host, self._wanted, self._said = host, dict(wanted), {}
        self.trouble, self._task = NOT_YET, asyncio.create_task(self._keep()) if wanted else None

    def find(self, name: str) -> Container | str:
        """The container of a target, or why there is none."""
        return self._found.get(name) or self.trouble or NOT_YET

    def process_of(self, name: str, may_search: Callable[[], bool], proc: str) -> tuple[int | None, str]:
        """The first process of a target's container, see `first_process`; and why there is none, should there be none.
        """
        found = self.find(name)
        if isinstance(found, str):
            return None, found
        if not found.pid:
            return None, f"container {found.name} does not run"
        return first_process(found, may_search, proc), (
            f"no process of container {found.name} is seen here: is it in a pid namespace that is not ours?")

    def settled(self) -> bool:
        """Whether it is known of every container, or that the engine cannot be asked."""
        return self.trouble not in ("", NOT_YET) or self._wanted.keys() <= self._found.keys()

    def samples(self, bases: Mapping[str, Labels], at: float) -> Iterator[Sample]:
        """What the engine says of the containers of these targets; nothing of them while it says nothing."""
        for name, base in bases.items():
            if name not in self._wanted:
                continue
            if name == next(iter(self._wanted)):
                yield Sample(series(base.without("target"), UP.name), float(not self.trouble), at)
            found = self._found.get(name)
            if isinstance(found, Container) and not self.trouble:
                yield from found.samples(base, at)

    async def _keep(self) -> None:
        """Keep the program running, until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            if await self._follow():
                pause = FIRST_PAUSE_SECONDS
            await self._sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _follow(self) -> bool:
        """Start the program and take in what it tells, until it ends; whether it has told anything."""
        lines = 0
        try:
            program = start(self._host, self._wanted)
        except OSError as error:
            self._say(f"the program that asks the Docker engine cannot be started: {error.strerror}")
            return False
        try:
            assert program.stdout
            reader = asyncio.StreamReader(MOST_LINE_BYTES)
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), program.stdout)
            try:
                while line := await reader.readline():
                    self._take(json.loads(line))
                    lines += 1
            finally:
                transport.close()
        except (ValueError, TypeError, KeyError) as error:
            self._say(f"the program that asks the Docker engine says what is not understood: {printable(str(error))}")
            return False
        finally:
            end(program)
        self._say(f"the program that asks the Docker engine has ended with {program.returncode}")
        return lines > 0

    def _take(self, told: Mapping[str, Any]) -> None:
        """A line of the program."""
        if trouble := told.get("trouble"):
            self._say(f"the Docker engine at {self._host} cannot be asked: {trouble}")
        elif version := told.get("engine"):
            log.info("the Docker engine answers", extra={"host": self._host, "version": version})
            self.trouble, self.version = "", version
        elif (name := str(told.get("target"))) in self._wanted:
            self._found[name] = found = told.get("why") or container(told["container"])
            self._remark(name, found)
        self.news.set()

    def _say(self, trouble: str) -> None:
        """Log what is wrong, once for each trouble."""
        if trouble != self.trouble:
            log.warning("docker", extra={"trouble": trouble})
        self.trouble = trouble
        self.news.set()

    def _remark(self, name: str, found: Container | str) -> None:
        """Log why there is no container for a target, or that there are several, once each."""
        why = found if isinstance(found, str) else found.others and (
            f"{found.others + 1} running containers are {self._wanted[name]}: the oldest is watched, {found.name}")
        if why and why != self._said.get(name):
            log.warning("target", extra={"target": name, "reason": why})
        self._said[name] = str(why)


def ask(host: str, wanted: Mapping[str, ByDocker], within_seconds: float = 20.0) -> Engine:
    """What the engine at `host` says now of these containers, for a program without an event loop."""
    log.setLevel(logging.CRITICAL)  # the answer says it
    async def run() -> Engine:
        async with Engine(lambda _: asyncio.Event().wait()) as engine:
            engine.change(host, wanted)
            with suppress(TimeoutError):
                async with asyncio.timeout(within_seconds):
                    while not engine.settled():
                        engine.news.clear()
                        await engine.news.wait()
        return engine

    return asyncio.run(run())


def start(host: str, wanted: Mapping[str, ByDocker]) -> "subprocess.Popen[bytes]":
    """Start the program for these targets. Raises OSError where processes or descriptors are short."""
    asked = {"host": host, "wanted": {name: match.words() for name, match in wanted.items()}}
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MALLOC_ARENA_MAX": "1",
                   "DOCKER_CONFIG": os.devnull}  # neither proxies nor the credentials of whoever we run as
    program = subprocess.Popen([sys.executable, "-P", "-Xno_debug_ranges", "-m", "sidecar.discovery.docker"],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert program.stdin
    with suppress(BrokenPipeError):  # it has ended already, which is seen by its silence
        program.stdin.write(json.dumps(asked).encode() + b"\n")
        program.stdin.flush()
    return program


def end(program: "subprocess.Popen[bytes]") -> None:
    """End the program, which has nothing to lose."""
    program.kill()
    program.wait()
    for pipe in (program.stdin, program.stdout):
        if pipe:
            with suppress(BrokenPipeError):
                pipe.close()


def container(told: list[Any]) -> Container:
    """A container from its line."""
    found = Container(*told)
    return found._replace(last_exit=Exit(*found.last_exit) if found.last_exit else None)
