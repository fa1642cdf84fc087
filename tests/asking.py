"""The web server over a store of our own, asked over real sockets."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest

from sidecar.model import Labels, Sample
from sidecar.rules.group import Group
from sidecar.store import Store
from sidecar.web.server import build, serving
from sidecar.web.view import About, Snapshot, Sources, View

NOW = 1_795_165_900.0


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body, decoded strictly: NaN and Infinity are no JSON."""
        return json.loads(self.text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))

    @property
    def data(self) -> Any:
        """The `data` of a success."""
        assert self.status == 200, self.text
        assert self.json["status"] == "success"
        return self.json["data"]

    @property
    def error(self) -> tuple[int, str, str]:
        """(status, errorType, error) of a failure."""
        assert self.json["status"] == "error"
        return self.status, self.json["errorType"], self.json["error"]


@dataclass
class Clock:
    """A clock that goes on only when somebody moves it, and gives way at once."""

    now: float = NOW
    elapsed: float = 0.0
    pauses: int = 0
    on_pause: Callable[[], Awaitable[None]] | None = None

    async def breathe(self) -> None:
        """A pause of a query."""
        self.pauses += 1
        await asyncio.sleep(0)
        if self.on_pause is not None:
            await self.on_pause()


@dataclass
class Bench:
    """A store, its clock and rule groups, shown by a server."""

    store: Store = field(default_factory=Store)
    clock: Clock = field(default_factory=Clock)
    groups: Sequence[Group] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    about: About | None = None

    def add(self, name: str, *values: float, every: float = 1.0, end: float = NOW, **labels: str) -> None:
        """A series whose last value lies at `end` and the others `every` seconds apart before it."""
        own = Labels({"__name__": name, **labels})
        first = end - every * (len(values) - 1)
        self.store.append([Sample(own, value, first + every * index) for index, value in enumerate(values)])

    def sources(self) -> Sources:
        """What the server asks."""
        return replace(Sources(self.store.select, self.groups, lambda: self.clock.now, lambda: self.clock.elapsed,
                               self.clock.breathe), **self.more)


Ask = Callable[..., Awaitable[Answer]]


def serve(bench: Bench | None, steps: Callable[[Ask, str], Awaitable[None]]) -> None:
    """Run `steps` with a real server: `await ask(path, method, data=…, Header="…", parameter=…)`, and its URL."""

    async def run() -> None:
        view = View(bench.snapshot, bench.sources()) if bench else View()
        view.about = bench.about if bench else None
        async with serving(build(view), ["127.0.0.1:0"]) as (url,), aiohttp.ClientSession() as session:

            async def ask(path: str, method: str = "GET", data: Any = None, headers: Mapping[str, str] | None = None,
                          parameters: Iterable[tuple[str, str]] = (), **named: str) -> Answer:
                query = [*parameters, *named.items()]
                async with session.request(method, url + path, params=query, data=data, headers=headers) as answer:
                    return Answer(answer.status, dict(answer.headers), await answer.text())

            await steps(ask, url)

    asyncio.run(run())
