"""Whether the sidecar has crashed so often that it had better only look on."""

import logging

from sidecar.guard.lives import MOST_SHORT_LIVES, TRUSTED_SECONDS

log = logging.getLogger("sidecar")


class Crashes:
    """What the desks before this one have left to it: three that ended too soon, and nothing is done unasked.

    Lives as long as the desk, which started at Unix time `started_at`; `short_lives` is the guard's count.
    """

    def __init__(self, short_lives: int, started_at: float) -> None:
        self._trusted_from = started_at + TRUSTED_SECONDS if short_lives >= MOST_SHORT_LIVES else started_at
        if short_lives >= MOST_SHORT_LIVES:
            log.error("nothing is done unasked: the sidecar has crashed too often", extra={
                "ended_too_soon": short_lives, "observes_for_seconds": TRUSTED_SECONDS,
                "help": "`rag-sidecar resume` ends that at once"})

    def too_often(self, now: float) -> bool:
        """Whether nothing may be done unasked at Unix time `now`."""
        return now < self._trusted_from

    def forgive(self) -> None:
        """A person has said `resume`."""
        self._trusted_from = 0.0
