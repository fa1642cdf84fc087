"""One conversation with the agent in a process: what it is, and again and again what it has to tell."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

from sidecar.errors import ProbeFailed
from sidecar.guard.reply import Reply, question
from sidecar.guard.wire import loads
from sidecar.probes import agent_figures
from sidecar.probes.agent_figures import MOST_ROWS, Hello, Rows

ANSWER_SECONDS = 25.0
"""An agent may be in the middle of a cleanup, which takes twenty seconds at most."""
SHORTEST_MODE_SECONDS, LONGEST_MODE_SECONDS = 60.0, 7200.0
"""How long an agent is to keep a mode when it hears nothing more."""
READ_BYTES = 65536
NAMED = ("cache", "model", "device")


class Talk:
    """The conversation. Lives from connecting until either side ends it; `over` says why, "" before.

    `hello` is None until it has introduced itself, `rows` are what it told last, at `told_at` of the timer, and `mode`
    is the one that it told then.
    """

    def __init__(self, connected: socket.socket, every_seconds: float, timer: Callable[[], float],
                 mode: str = "") -> None:
        self.hello: Hello | None = None
        self.rows: Rows = {}
        self.mode = ""
        self.told_at = timer()
        self.over = ""
        self.why = ""
        self._socket = connected
        self.every_seconds = every_seconds
        self._timer = timer
        self._known: dict[str, set[str]] = {label: set() for label in NAMED}
        self._wanted_mode = mode
        self._refused_mode = self._told_mode = ""
        self._news = asyncio.Event()

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Ask until the end. Raises nothing that an agent could cause."""
        try:
            told = await self._ask("GET", "/")
            self.hello, self.mode = agent_figures.hello(told), agent_figures.mode(told)
            while True:
                await self._tell_mode()
                told = await self._ask("GET", "/memory")
                rows, self.mode = agent_figures.figures(told), agent_figures.mode(told)
                self.rows = {key: value for key, value in rows.items() if self.is_known(key)}
                self.told_at = self._timer()
                await self._rest(sleep)
        except TimeoutError:
            self._end("timeout", f"no whole answer within {ANSWER_SECONDS:g} s")
        except ProbeFailed as error:
            self._end(error.reason, str(error))
        except ConnectionError:
            self._end("closed", "it has hung up")
        except OSError as error:
            self._end("connection", error.strerror or type(error).__name__)
        except ValueError as error:
            self._end("parse", str(error))
        finally:
            self._end("ended", "")
            self.close()

    def greeted(self) -> Hello | None:
        """How the agent introduced itself, None before it has and when the conversation is over."""
        return None if self.over else self.hello

    def want(self, mode: str) -> None:
        """Have the agent know this mode. It is told at once, and again as long as it tells another one itself."""
        if mode != self._wanted_mode:
            self._wanted_mode = mode
            self._news.set()

    async def _tell_mode(self) -> None:
        """Tell the mode, if the agent has another one, or has this one from somebody else: it forgets what it was told
        when whoever has told it is not heard of any more. An old one that does not know the mode is not asked again.
        """
        mode = self._wanted_mode
        known = mode == self.mode and mode in (self._told_mode, "normal")
        if known or mode in ("", self._refused_mode):
            return
        seconds = min(LONGEST_MODE_SECONDS, SHORTEST_MODE_SECONDS + 2 * self.every_seconds)
        try:
            await self._ask("POST", "/mode", json.dumps({"mode": mode, "seconds": seconds}).encode())
            self._told_mode = mode
        except ProbeFailed as error:
            if error.reason != "status":
                raise
            self._refused_mode = mode

    async def _rest(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Until it is time to ask again, or there is a mode to tell."""
        waits = [asyncio.ensure_future(sleep(self.every_seconds)), asyncio.ensure_future(self._news.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._news.clear()
            for wait in waits:
                wait.cancel()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _end(self, reason: str, why: str) -> None:
        if not self.over:
            self.over, self.why = reason, why
        self.rows = {}

    def is_known(self, key: tuple[str, ...]) -> bool:
        """Whether a row's key is about one of the first things that were named: names that change make no others."""
        if len(key) < 2 or key[1] not in self._known:
            return True
        known = self._known[key[1]]
        if len(known) < MOST_ROWS:
            known.add(key[2])
        return key[2] in known

    async def _ask(self, method: str, path: str, body: bytes = b"") -> object:
        """One question and its answer. Raises ProbeFailed, TimeoutError, OSError and ValueError."""
        loop, reply = asyncio.get_running_loop(), Reply()
        async with asyncio.timeout(ANSWER_SECONDS):
            await loop.sock_sendall(self._socket, question(method, path, body))
            while not reply.whole:
                data = await loop.sock_recv(self._socket, READ_BYTES)
                if not data:
                    raise ProbeFailed("closed", "it has hung up")
                reply.feed(data)
        if reply.status != 200:
            raise ProbeFailed("status", f"answered {reply.status}")
        return loads(reply.body)
