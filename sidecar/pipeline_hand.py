"""Between two ticks: a cleanup that a person asks for, carried out and judged like those of the rules."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.actions.acting import Acting
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Options
from sidecar.actions.policy import Decision, Policy, Subject
from sidecar.model import Cleanup
from sidecar.pipeline_agents import hand_over
from sidecar.probes.sampler import Sampler


class ByHand:
    """Orders of people. Lives as long as the desk; `subjects` are the targets as the last tick saw them."""

    def __init__(self, acting: Acting, ledger: Ledger, dispatch: Dispatch, sampler: Sampler, options: Options) -> None:
        self.subjects: Sequence[Subject] = ()
        self._acting = acting
        self._ledger = ledger
        self._dispatch = dispatch
        self._sampler = sampler
        self._options = options

    def order(self, target: str, cleanup: Cleanup, now: float, *, dry_run: bool) -> Decision | None:
        """Have a target cleaned at Unix time `now`; None before the first tick, or of no target of ours."""
        subject = next((each for each in self.subjects if each.name == target), None)
        if subject is None:
            return None
        hand_over(self._sampler.agents, self._dispatch, target, "enforce", subject.channels)  # whatever the mode is
        return self._acting.by_hand(policy_now(self._options), subject, cleanup, now, dry_run=dry_run)

    def attempt(self, order_id: str) -> Mapping[str, Any] | None:
        """What has come of an order so far, as `GET /api/v1/actions` shows it; None while the guard has not begun."""
        return next((attempt.as_json() for attempt in self._ledger.attempts()
                     if attempt.id == order_id or attempt.id.startswith(f"{order_id}.")), None)


def policy_now(options: Options) -> Policy:
    """The policy of this moment: somebody may have thrown the kill-switch."""
    return Policy(options, kill_switch=os.path.exists(options.kill_switch))
