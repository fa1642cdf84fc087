"""The routes that change something: over the control socket for people, over TCP for whoever has the token."""

import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from aiohttp import hdrs, web

from sidecar.actions.facts import SENTENCES, Decision, Reason
from sidecar.actions.options import STRENGTH
from sidecar.model import Cleanup
from sidecar.web import webhook
from sidecar.web.api import JSON, LINES, success
from sidecar.web.bearer import Bearer
from sidecar.web.body import any_target, json_of, listed, object_of, one_target, quoted, seconds_of
from sidecar.web.hands import Asked, Hands
from sidecar.web.refusal import Refusal, again_in
from sidecar.web.view import View

log = logging.getLogger("sidecar.web")

LOOK_SECONDS = 0.1
BEGIN_SECONDS = 15.0
"""Within this the guard says what it does with an order; a desk that hangs may take so long to hear it."""
END_SECONDS = 180.0
"""An attempt that nobody answers is closed after 90 s, one that is judged 20 s after its answer."""
WITHDRAWN_SECONDS = 5.0
"""Within this the guard is to say that it does nothing by itself any more."""
TTL_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 366 * 86400.0
MOST_PATIENT = 16
"""How many may wait for what becomes of their wish, or their lines: the others are to be served meanwhile."""
LINES_PATH = "/api/v1/thresholds"

HINTS: Mapping[Reason, str] = {
    Reason.NO_CHANNEL: "there is no way to ask it: no cleanup is configured for it, and no agent is in its processes",
    Reason.IN_FLIGHT: "a cleanup of it is under way; ask again when that has ended",
    Reason.SETTLING: "a cleanup of it is just being judged; ask again in 20 s",
    Reason.BELOW: "no alert asks for a cleanup of it, so there is nothing to raise; a person may order one over the "
                  "control socket",
}
"""More than a reason says by itself, for whoever has asked."""

Act = Callable[[web.Request, Hands], Awaitable[web.StreamResponse]]


class Orders:
    """Carries out what is asked for, through the hands of `view`. Lives as long as its server.

    Without a `bearer` whoever gets here is known, and is a person: cleanups then need no alert and do not wait.
    """

    def __init__(self, view: View, bearer: Bearer | None) -> None:
        self._view = view
        self._bearer = bearer
        self._patient = 0

    def routes(self) -> list[web.RouteDef]:
        """What is served."""
        acts: dict[str, Act] = {"/api/v1/cleanup": self._cleanup_now if self._bearer is None else self._cleanup_asked,
                                "/api/v1/pause": self._pause, "/api/v1/resume": self._resume,
                                "/api/v1/unpark": self._unpark}
        if self._bearer is not None:
            acts["/alertmanager"] = self._alertmanager
        return [*(web.post(path, self._answering(act)) for path, act in acts.items()),
                web.get(LINES_PATH, self._answering(_lines, free=True)),
                web.put(LINES_PATH, self._answering(self._put_lines)),
                web.delete(LINES_PATH, self._answering(self._withdraw_lines))]

    def _answering(self, act: Act, *, free: bool = False) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """The handler of a route; `free` is what only shows, which needs no token."""

        async def answer(request: web.Request) -> web.StreamResponse:
            try:
                if self._bearer is not None and not free:
                    self._bearer.check(request)
                    if request.content_type != JSON and request.method != hdrs.METH_DELETE:
                        raise Refusal(415, "bad_data", f"the body is to be of the type {JSON}")
                if self._view.hands is None:
                    raise _not_ready()
                return await act(request, self._view.hands)
            except Refusal as refusal:
                return refusal.answer()

        return answer

    async def _cleanup_now(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        asked = await object_of(request, "target", "level", "dry_run")
        target, cleanup, dry_run = one_target(asked, hands), _cleanup(asked), asked.get("dry_run", False)
        if not isinstance(dry_run, bool):
            raise Refusal(400, "bad_data", "dry_run is true or false")
        decision = hands.order(target, cleanup, dry_run)
        return await _follow(request, _order_of(target, decision), hands)

    async def _cleanup_asked(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        asked = await object_of(request, "target", "level", "ttl")
        target, cleanup = one_target(asked, hands), _cleanup(asked)
        ttl_seconds = seconds_of(asked, "ttl", webhook.MOST_TTL_SECONDS)
        ttl_seconds = TTL_SECONDS if ttl_seconds is None else ttl_seconds
        with self._place():
            order_id = await _granted(Asked(target, cleanup, "api", ttl_seconds, {}), hands)
            if request.query.get("wait") == "1":
                return await _follow(request, order_id, hands)
        body = {"status": "success", "data": {"id": order_id, "target": target, "cleanup": cleanup}}
        return web.Response(status=202, text=json.dumps(body), content_type=JSON)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of the places for those who wait. Raises Refusal where there is none."""
        if self._patient >= MOST_PATIENT:
            raise Refusal(503, "unavailable", "too many wait for their orders already", again_in(LOOK_SECONDS))
        self._patient += 1
        try:
            yield
        finally:
            self._patient -= 1

    async def _put_lines(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        from sidecar.web import lines  # here: many a sidecar is never asked

        with self._place():
            return await lines.put(request, hands)

    async def _withdraw_lines(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        from sidecar.web import lines  # here: as above

        with self._place():
            return await lines.withdraw(request, hands)

    async def _alertmanager(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        try:
            wishes, dropped = webhook.read(await json_of(request), hands)
        except ValueError as error:
            raise Refusal(400, "bad_data", f"this is no message of Alertmanager's webhook: {error}") from None
        taken = []
        for fingerprint, asked in wishes:
            row = {"fingerprint": fingerprint, "target": asked.target, "cleanup": asked.cleanup}
            if hands.ask(asked) is None:
                dropped.append({**row, "reason": "too_many_wait"})
            else:
                taken.append({**row, "ttl_seconds": asked.ttl_seconds})
        log.info("alerts from an Alertmanager", extra={
            "taken": len(taken), "dropped": ", ".join(sorted({row["reason"] for row in dropped}))})
        return success({"taken": taken, "dropped": dropped})

    async def _pause(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        asked = await object_of(request, "target", "for")
        target, seconds = any_target(asked, hands), seconds_of(asked, "for", LONGEST_PAUSE_SECONDS)
        if seconds == 0:
            raise Refusal(400, "bad_data", "for is how long, such as 30m; without it, until `resume`")
        hands.pause(target, seconds)
        names = [target] if target else hands.targets
        waited = 0.0
        while late := [name for name in names if not hands.in_force(name)]:
            if waited > WITHDRAWN_SECONDS:
                raise Refusal(504, "unacknowledged", f"{listed(names)}: paused, but the guard has not said within "
                              f"{WITHDRAWN_SECONDS:g} s that it does nothing by itself any more to {listed(late)}; "
                              "the kill-switch holds it back at once")
            await hands.sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
        await hands.kept()
        return _states(names, hands)

    async def _resume(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        target = any_target(await object_of(request, "target"), hands)
        hands.resume(target)
        await hands.kept()
        return _states([target] if target else hands.targets, hands)

    async def _unpark(self, request: web.Request, hands: Hands) -> web.StreamResponse:
        target = any_target(await object_of(request, "target"), hands)
        parked = hands.unpark(target)
        await hands.kept()
        return success({"targets": [{"target": name, "was_parked": name in parked}
                                    for name in ([target] if target else hands.targets)]})


async def _lines(request: web.Request, hands: Hands) -> web.StreamResponse:
    from sidecar.web import lines  # here: as above

    return await lines.show(request, hands)


def _not_ready() -> Refusal:
    return Refusal(503, "not_ready", "the sidecar has only just started; ask again in a second", again_in(1.0))


def _cleanup(asked: Mapping[str, Any]) -> Cleanup:
    level = asked.get("level", "standard")
    if not isinstance(level, str) or level not in STRENGTH:
        raise Refusal(400, "bad_data", f"level is to be one of {', '.join(STRENGTH)}: {quoted(level)} is none")
    return cast(Cleanup, level)


def _order_of(target: str, decision: Decision | None) -> str:
    """The id of the order that was given. Raises Refusal if none was."""
    if decision is None:
        raise _not_ready()
    if decision.order is None:
        sentence = SENTENCES[decision.reason]
        why = HINTS.get(decision.reason) or sentence[:1].lower() + sentence[1:].rstrip(".")
        raise Refusal(409, decision.reason.value, f"target {target} is not cleaned: {why}")
    return decision.order.id


async def _granted(asked: Asked, hands: Hands) -> str:
    """Wait until a wish is granted, and not longer than it is good for; the order's id. Raises Refusal."""
    wish = hands.ask(asked)
    if wish is None:
        raise Refusal(503, "unavailable", "too many cleanups are asked for already", again_in(asked.ttl_seconds))
    waited = 0.0
    while not wish.over and waited < asked.ttl_seconds:
        await hands.sleep(LOOK_SECONDS)
        waited += LOOK_SECONDS
    return _order_of(asked.target, wish.decision)


async def _follow(request: web.Request, order_id: str, hands: Hands) -> web.StreamResponse:
    """Tell what becomes of an order: a line of JSON, `{"stage", "action"}`, for every stage that is reached."""
    response = web.StreamResponse(headers={"Content-Type": LINES})
    await response.prepare(request)
    said, row, waited = "", None, 0.0
    while said != "ended":
        row = hands.attempt(order_id) or row
        stage = _stage(row)
        if (row is None and waited > BEGIN_SECONDS) or waited > END_SECONDS:
            stage, row = "ended", {**(row or {"id": order_id}), "outcome": "unknown", "reason": "no_answer"}
        if stage != said:
            said = stage
            line = json.dumps({"stage": stage, "action": row or {"id": order_id}})
            await response.write(f"{line}\n".encode())
        elif said != "ended":
            await hands.sleep(LOOK_SECONDS)
            waited += LOOK_SECONDS
    await response.write_eof()
    return response


def _stage(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "asked"
    if row["outcome"] != "running":
        return "ended"
    if row["duration_seconds"] is not None:
        return "answered"
    return "begun" if row["delivered_at"] is None else "delivered"


def _states(names: Sequence[str], hands: Hands) -> web.Response:
    """Which of these targets are paused, and until when: null is until further notice."""
    paused = hands.paused()
    return success({"targets": [{"target": name, "paused": name in paused, "until": paused.get(name)}
                                for name in names]})
