"""Orders on their way to the guard: each is said once, and not again while its news is awaited."""

import logging
from collections.abc import Sequence

from sidecar.actions.dispatch import Dispatch
from sidecar.actions.facts import Armed, Decision, Reason
from sidecar.guard.wire import Event, Order

log = logging.getLogger("sidecar.actions")

LATE_SECONDS = 5.0
"""A guard that has said nothing of an order for so long has not got it."""


class Sent:
    """The last order to each target that the guard has not told of. Lives as long as the desk."""

    def __init__(self, dispatch: Dispatch) -> None:
        self._dispatch = dispatch
        self._orders: dict[str, tuple[Order, float]] = {}

    def unless_waiting(self, decision: Decision, now: float) -> Decision:
        """The decision; while the guard is late with the news of the last order, nothing is ordered."""
        _, sent_at = self._orders.get(decision.target, (None, -LATE_SECONDS))
        if decision.order and now < sent_at + LATE_SECONDS:
            return decision._replace(reason=Reason.IN_FLIGHT, order=None)
        return decision

    def deliver(self, order: Order, now: float) -> bool:
        """Have the guard carry an order out. False if it has no room: then nothing was begun."""
        if not self._dispatch.deliver(order):
            return False
        self._orders[order.target] = order, now
        return True

    def sparing(self, target: str, armed: Sequence[Armed]) -> list[Armed]:
        """Standing orders with one time less for the cleanup that is on its way: it may use up a budget, too."""
        order, _ = self._orders.get(target, (None, 0.0))
        spared = (each._replace(order=each.order._replace(times=each.order.times - 1))
                  if order and order.cleanup == each.order.cleanup else each for each in armed)
        return [each for each in spared if each.order.times > 0]

    def not_begun(self, event: Event) -> Order | None:
        """The order of which the guard says that it did not begin it: an attempt would have an id of its own."""
        order, _ = self._orders.get(event.target, (None, 0.0))
        if order is None or not (event.order.startswith(order.id) or event.kind in ("gone", "changed")):
            return None
        del self._orders[event.target]
        return order if event.order == order.id else None

    def ordered(self, decision: Decision, now: float, message: str, **more: object) -> Decision:
        """Have the guard do at once what somebody asks for; what has become of the decision by then, and is logged."""
        decision = self.unless_waiting(decision, now)
        if decision.order and not self.deliver(decision.order, now):
            decision = decision._replace(reason=Reason.IN_FLIGHT, order=None)
        log.info(message, extra={"target": decision.target, "cleanup": decision.cleanup, **more,
                                 "reason": decision.reason.value})
        return decision
