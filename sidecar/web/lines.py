"""The thresholds of each target: what is in force and who said so, and other lines for a while."""

from aiohttp import web

from sidecar.thresholds import LONGEST_OVERRIDE_SECONDS, Override, size
from sidecar.web.api import success
from sidecar.web.body import object_of, one_target, quoted, seconds_of
from sidecar.web.hands import Hands
from sidecar.web.refusal import Refusal

SHORTEST_SECONDS = 1.0
IN_FORCE_SECONDS = 5.0
"""For so long, at most, an answer waits until the guard goes by the new lines."""
LOOK_SECONDS = 0.1
MOST_CHARACTERS = 40
"""Of a size."""


async def show(request: web.Request, hands: Hands) -> web.Response:
    """GET: a row for each target, or for the one that `target` names."""
    names = [_named(request, hands)] if "target" in request.query else hands.targets
    return success({"targets": [hands.lines(name) for name in names]})


async def put(request: web.Request, hands: Hands) -> web.Response:
    """PUT `{"target", "main", "critical", "ttl"}`: these lines hold for so long. A `ttl` of 0 withdraws them."""
    asked = await object_of(request, "target", "main", "critical", "ttl")
    target, ttl_seconds = one_target(asked, hands), seconds_of(asked, "ttl", LONGEST_OVERRIDE_SECONDS)
    if ttl_seconds is None:
        raise Refusal(400, "bad_data", "ttl is missing: for how long the lines hold, from 1s to 1w; "
                                       "for longer put them into the configuration")
    if ttl_seconds == 0:
        return await _ordered(target, None, hands)
    if ttl_seconds < SHORTEST_SECONDS:
        raise Refusal(400, "bad_data", f"ttl is to be 1s or more: {quoted(asked['ttl'])} is less")
    main, critical = _size(asked.get("main"), "main"), _size(asked.get("critical"), "critical")
    if main is None and critical is None:
        raise Refusal(400, "bad_data", "neither main nor critical is given: which line is to be moved?")
    return await _ordered(target, Override(main, critical, round(hands.now() + ttl_seconds, 3)), hands)


async def withdraw(request: web.Request, hands: Hands) -> web.Response:
    """DELETE: the configured lines of a target again, also where there are no others."""
    return await _ordered(_named(request, hands), None, hands)


async def _ordered(target: str, override: Override | None, hands: Hands) -> web.Response:
    """Answer when the next desk would know of it, too, and the guard goes by it: with what is in force then."""
    try:
        hands.override(target, override)
    except ValueError as error:
        alone = override is not None and None in (override.main_bytes, override.critical_bytes)
        raise Refusal(400, "bad_data", f"target {target}: {error}{'; give both lines' if alone else ''}") from None
    await hands.kept()
    waited, row = 0.0, hands.lines(target)
    while row["up"] and not row["in_force"] and waited < IN_FORCE_SECONDS:
        await hands.sleep(LOOK_SECONDS)
        waited, row = waited + LOOK_SECONDS, hands.lines(target)
    return success({"targets": [row]})


def _named(request: web.Request, hands: Hands) -> str:
    """The target in the query, or the only one. Raises Refusal."""
    if unknown := sorted(request.query.keys() - {"target"}):
        raise Refusal(400, "bad_data", f"the one parameter is target: {quoted(unknown[0])} is none")
    return one_target(request.query, hands)


def _size(given: object, level: str) -> int | None:
    """Bytes of a text with a unit. Raises Refusal."""
    if given is None:
        return None
    if not isinstance(given, str) or len(given) > MOST_CHARACTERS:
        raise Refusal(400, "bad_data", f"{level} is to be a text with a unit such as 1500MiB: {quoted(given)} is none")
    try:
        return size(given)
    except ValueError as error:
        raise Refusal(400, "bad_data", f"{level}: {error}") from None
