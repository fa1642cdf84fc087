"""What the body of an order says. Every function raises Refusal for what cannot be meant."""

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from aiohttp import web

from sidecar.promql.notation import format_duration
from sidecar.rules.durations import parse_duration
from sidecar.web.hands import Hands
from sidecar.web.refusal import Refusal

BODY_SECONDS = 10.0
"""For how long a body may come in."""
MOST_QUOTED = 60


async def json_of(request: web.Request) -> Any:
    """What the body says; nothing is an empty object."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return json.loads(await request.read() or b"{}")
    except TimeoutError:
        raise Refusal(408, "timeout", f"the body did not come within {BODY_SECONDS:g} s") from None
    except (ValueError, RecursionError):
        raise Refusal(400, "bad_data", "the body is no JSON") from None


async def object_of(request: web.Request, *keys: str) -> dict[str, Any]:
    """The body, an object with some of these keys."""
    asked = await json_of(request)
    if not isinstance(asked, dict) or asked.keys() - set(keys):
        unknown = sorted(asked.keys() - set(keys)) if isinstance(asked, dict) else []
        found = f"{quoted(unknown[0])} is none of them" if unknown else f"{quoted(asked)} is none"
        raise Refusal(400, "bad_data", f"the body is to be an object with some of {', '.join(keys)}: {found}")
    return asked


def any_target(asked: Mapping[str, Any], hands: Hands) -> str | None:
    """The target that is named, None for all."""
    target = asked.get("target")
    if target is not None and target not in hands.targets:
        raise Refusal(404, "not_found", f"there is no target {quoted(target)}; there is {listed(hands.targets)}")
    return cast("str | None", target)


def one_target(asked: Mapping[str, Any], hands: Hands) -> str:
    """The target that is named, or the only one."""
    target = any_target(asked, hands)
    if target is None and len(hands.targets) > 1:
        raise Refusal(400, "bad_data", f"there are {len(hands.targets)} targets, say which one: "
                      f"{listed(hands.targets)}")
    return target or hands.targets[0]


def seconds_of(asked: Mapping[str, Any], key: str, most: float) -> float | None:
    """Seconds, given as a number or as a duration such as `30m`; None where there are none."""
    given = asked.get(key)
    try:
        seconds = parse_duration(given) if isinstance(given, str) else given
    except ValueError:
        seconds = math.nan
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= most:
        raise Refusal(400, "bad_data", f"{key} is to be a duration such as 30s or 5m, or seconds, at most "
                      f"{format_duration(most)}: {quoted(given)} is none")
    return float(seconds)


def quoted(given: object) -> str:
    """What somebody has sent, not more of it than belongs into a sentence."""
    text = json.dumps(given)
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}…"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence, not too many of them."""
    return ", ".join(names[:20])
