"""Between two ticks: what people and other programs ask for, carried out and judged like what the rules ask for."""

import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sidecar.actions.acting import Acting
from sidecar.actions.dispatch import Dispatch
from sidecar.actions.ledger import Ledger
from sidecar.actions.options import Options
from sidecar.actions.policy import Decision, Policy, Subject
from sidecar.model import Cleanup
from sidecar.pipeline_agents import hand_over
from sidecar.pipeline_journal import Keeping
from sidecar.pipeline_thresholds import Lines
from sidecar.probes.sampler import Sampler
from sidecar.thresholds import Override
from sidecar.web.hands import Asked, Hands, Trigger, Wish

MOST_WISHES = 64
"""How many cleanups that were asked for over the network may wait."""
KEPT_SECONDS, KEPT_LOOK_SECONDS = 1.0, 0.01
"""So long, at most, an answer waits until what was ordered is on disk; it may be a disk that does not answer."""


class ByHand:
    """Orders of people and of other programs. Lives as long as the desk.

    `subjects` are the targets as the last tick saw them, in the very list that it acts on: what changes there while
    the tick evaluates rules holds when it acts. `options` are those in force.
    """

    def __init__(self, acting: Acting, ledger: Ledger, dispatch: Dispatch, sampler: Sampler, options: Options,
                 keeping: Keeping, lines: Lines) -> None:
        self.subjects: list[Subject] = []
        self._acting = acting
        self._ledger = ledger
        self._dispatch = dispatch
        self._sampler = sampler
        self.options = options
        self._keeping = keeping
        self._lines = lines
        self._wishes: dict[tuple[str, Cleanup, Trigger], Wish] = {}

    def order(self, target: str, cleanup: Cleanup, now: float, *, dry_run: bool) -> Decision | None:
        """Have a target cleaned at Unix time `now`; None before the first tick, or of no target of ours."""
        subject = self._subject(target)
        if subject is None:
            return None
        hand_over(self._sampler.agents, self._dispatch, target, "enforce", subject.channels)  # whatever the mode is
        return self._acting.by_hand(policy_now(self.options), subject, cleanup, now, dry_run=dry_run)

    def attempt(self, order_id: str) -> Mapping[str, Any] | None:
        """What has come of an order so far, as `GET /api/v1/actions` shows it; None while the guard has not begun."""
        return next((attempt.as_json() for attempt in self._ledger.attempts()
                     if attempt.id == order_id or attempt.id.startswith(f"{order_id}.")), None)

    def ask(self, asked: Asked, now: float) -> Wish | None:
        """Have a target cleaned as soon as the policy allows it; None while `MOST_WISHES` wait.

        Whoever asks for what is waited for already makes it good for longer, and gets the same wish.
        """
        key = asked.target, asked.cleanup, asked.trigger
        until = now + asked.ttl_seconds
        wish = self._wishes.get(key)
        if wish is None or now >= wish.until:
            wish = Wish(asked, until)
        wish.until = max(wish.until, until)
        if self._try(wish, now):
            self._wishes.pop(key, None)
        elif key not in self._wishes and len(self._wishes) >= MOST_WISHES:
            return None
        else:
            self._wishes[key] = wish
        return wish

    def work(self, now: float) -> None:
        """Try what waits, in the order in which it was asked for; for every tick."""
        for key, wish in list(self._wishes.items()):
            if self._try(wish, now):
                del self._wishes[key]

    def _try(self, wish: Wish, now: float) -> bool:
        """Whether a wish is over: there is an order, or its time has passed."""
        asked, subject = wish.asked, self._subject(wish.asked.target)
        if subject is not None and now <= wish.until:
            wish.decision = self._acting.asked(
                policy_now(self.options), subject, asked.cleanup, now, asked.trigger, asked.labels)
        wish.over = now >= wish.until or bool(wish.decision and wish.decision.order)
        return wish.over

    def pause(self, targets: Iterable[str], seconds: float | None, now: float) -> None:
        """Do nothing unasked to these targets, for so long or until further notice. What is under way goes on."""
        for target in targets:
            self._acting.pause(target, None if seconds is None else now + seconds, now)
        self._renew()
        self._keeping.keep()

    def resume(self, targets: Iterable[str], now: float) -> None:
        """Act on these targets again."""
        for target in targets:
            self._acting.resume(target, now)
        self._renew()
        self._keeping.keep()

    def unpark(self, targets: Iterable[str]) -> list[str]:
        """Try again what did not help these targets; those that were parked."""
        parked = [name for target in targets for name in self._acting.unpark(target)]
        self._keeping.keep()
        return parked

    def lines(self, target: str) -> Mapping[str, Any]:
        """The lines of a target as `GET /api/v1/thresholds` shows them; in force is what the guard goes by, too."""
        row, subject = self._lines.row(target), self._subject(target)
        up = subject is not None and subject.up
        return {**row, "up": up, "in_force": up and row["in_force"] and self._dispatch.in_force(target)}

    def override(self, target: str, override: Override | None, now: float) -> None:
        """Other lines for a target, or the configured ones again; ValueError where they contradict each other."""
        if override is None:
            self._lines.withdraw(target, now)
        else:
            self._lines.put(target, override, now)
        self._keeping.keep()

    def _renew(self) -> None:
        self.subjects[:] = [replace(each, paused=each.name in self._acting.paused) for each in self.subjects]

    def lend(self, targets: Sequence[str], url: str, clock: Callable[[], float],
             sleep: Callable[[float], Awaitable[None]], forgive: Callable[[], None] = lambda: None,
             stir: Callable[[], None] = lambda: None) -> Hands:
        """What the servers may have done: to these targets; `url` is that of our own alerts, `clock` is Unix time.

        `forgive` is called when a person says `resume`, `stir` whenever something is asked for that ticks go on with.
        """

        def named(target: str | None) -> Sequence[str]:
            return targets if target is None else [target]

        def resume(target: str | None) -> None:
            self.resume(named(target), asked_at())
            forgive()

        def unpark(target: str | None) -> list[str]:
            stir()
            return self.unpark(named(target))

        def asked_at() -> float:
            stir()
            return clock()

        async def kept() -> None:
            waited = 0.0
            while not self._keeping.settled() and waited < KEPT_SECONDS:
                await sleep(KEPT_LOOK_SECONDS)
                waited += KEPT_LOOK_SECONDS

        return Hands(
            targets=targets, external_url=url,
            levels={level: policy.entry for level, policy in self.options.policies.items()},
            order=lambda target, cleanup, dry_run: self.order(target, cleanup, asked_at(), dry_run=dry_run),
            attempt=self.attempt, ask=lambda asked: self.ask(asked, asked_at()),
            pause=lambda target, seconds: self.pause(named(target), seconds, asked_at()), resume=resume,
            unpark=unpark, paused=lambda: self._acting.paused,
            in_force=self._dispatch.in_force, lines=self.lines,
            override=lambda target, override: self.override(target, override, asked_at()),
            now=clock, sleep=sleep, kept=kept)

    def _subject(self, target: str) -> Subject | None:
        return next((each for each in self.subjects if each.name == target), None)


def policy_now(options: Options) -> Policy:
    """The policy of this moment: somebody may have thrown the kill-switch."""
    return Policy(options, kill_switch=os.path.exists(options.kill_switch))
