"""One conversation with the agent in a process: what it is, and again and again what it has to tell."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from sidecar.errors import ProbeFailed
from sidecar.guard.reply import Reply, question
from sidecar.guard.wire import loads
from sidecar.probes import agent_figures
from sidecar.probes.agent_figures import MOST_ROWS, Hello, Rows

ANSWER_SECONDS = 25.0
"""An agent may be in the middle of a cleanup, which takes twenty seconds at most."""
READ_BYTES = 65536
NAMED = ("cache", "model", "device")


class Talk:
    """The conversation. Lives from connecting until either side ends it; `over` says why, "" before.

    `hello` is None until it has introduced itself, `rows` are what it told last, at `told_at` of the timer.
    """

    def __init__(self, connected: socket.socket, every_seconds: float, timer: Callable[[], float]) -> None:
        self.hello: Hello | None = None
        self.rows: Rows = {}
        self.told_at = timer()
        self.over = ""
        self.why = ""
        self._socket = connected
        self.every_seconds = every_seconds
        self._timer = timer
        self._known: dict[str, set[str]] = {label: set() for label in NAMED}

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Ask until the end. Raises nothing that an agent could cause."""
        try:
            self.hello = agent_figures.hello(await self._ask("/"))
            while True:
                rows = agent_figures.figures(await self._ask("/memory"))
                self.rows = {key: value for key, value in rows.items() if self.is_known(key)}
                self.told_at = self._timer()
                await sleep(self.every_seconds)
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

    async def _ask(self, path: str) -> object:
        """One question and its answer. Raises ProbeFailed, TimeoutError, OSError and ValueError."""
        loop, reply = asyncio.get_running_loop(), Reply()
        async with asyncio.timeout(ANSWER_SECONDS):
            await loop.sock_sendall(self._socket, question("GET", path))
            while not reply.whole:
                data = await loop.sock_recv(self._socket, READ_BYTES)
                if not data:
                    raise ProbeFailed("closed", "it has hung up")
                reply.feed(data)
        if reply.status != 200:
            raise ProbeFailed("status", f"answered {reply.status}")
        return loads(reply.body)
