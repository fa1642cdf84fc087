"""How long pages share the event loop: they are made in pieces, and others run in between."""

from collections.abc import Awaitable, Callable

from sidecar.promql.steps import Result, Steps
from sidecar.web.view import View

Breathe = Callable[[], Awaitable[None]]
"""Awaited, it lets others run."""


def breath_of(view: View) -> Breathe:
    """The breath of the desk; before there is one, nobody else has to run."""
    return view.sources.breathe if view.sources else _none


async def through(steps: Steps[Result], breathe: Breathe) -> Result:
    """The result of something long, with a breath at every pause."""
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            result: Result = ended.value
            return result
        await breathe()


async def _none() -> None:
    pass
