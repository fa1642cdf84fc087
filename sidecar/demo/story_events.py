"""What has happened between two looks, as lines for people. Pure."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sidecar.demo.story_state import Alert, Attempt, State

MIB = 1024 * 1024

Kind = Literal["over", "fires", "asked", "good", "bad", "back", "crowd"]

HOLD_SECONDS: Mapping[str, float] = {"preventive": 30.0, "main": 10.0, "critical": 0.0}
"""How long a line must be exceeded before its alert fires: `for` in the shipped rules/memory.yml."""

CLEANUP_OF: Mapping[str, str] = {"preventive": "light", "main": "standard", "critical": "aggressive"}
"""What each line asks for: the label `cleanup` in the same file."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line that stays. `head` is short and aligned in a column, `text` may be wrapped."""

    kind: Kind
    head: str
    text: str


def events(before: State | None, after: State) -> Iterator[Event]:
    """Everything that is new in `after`, in the order in which it makes sense: alert, cleanup, alert gone, verdict."""
    known = before or State(None, {}, {}, {})
    for alert in after.alerts.values():
        earlier = known.alerts.get(alert.name)
        if alert.firing and not (earlier and earlier.firing):
            yield _fires(alert)
        elif earlier is None:
            yield from _pending(alert)
    for attempt in after.attempts.values():
        past = known.attempts.get(attempt.id)
        if attempt.delivery_seconds is not None and (past is None or past.delivery_seconds is None):
            yield _asked(attempt)
    gone = [alert for name, alert in known.alerts.items() if name not in after.alerts and (alert.level or alert.firing)]
    if gone:
        yield _back(gone)
    for attempt in after.attempts.values():
        past = known.attempts.get(attempt.id)
        if attempt.outcome != "running" and (past is None or past.outcome == "running"):
            yield _verdict(attempt)
        if attempt.rebounded and not (past and past.rebounded):
            yield Event("bad", "came back", f"What the {attempt.cleanup} cleanup freed was in use again within a "
                        "minute, beyond what it grew before.")


def status(state: State, now: float) -> str:
    """What is going on, in at most 29 characters: the most urgent thing. `now` is Unix time in seconds."""
    if any(attempt.outcome == "running" for attempt in state.attempts.values()):
        return "cleanup sent, verifying bytes"
    over = [alert for alert in state.alerts.values() if alert.level and not alert.kept]
    firing = [alert for alert in over if alert.firing]
    if firing:
        return f"{max(firing, key=_rank).level} alert fires"
    if over:
        left = {alert.level: alert.active_at + HOLD_SECONDS[alert.level] - now for alert in over}
        soonest = min(left, key=left.__getitem__)
        return f"{soonest} fires in {max(0.0, left[soonest]):.0f} s"
    return "under every line"


class Climb:
    """How fast memory grew before the first cleanup, measured from readings. Lives as long as the story."""

    def __init__(self) -> None:
        self.bytes_per_second: float | None = None
        self._readings: deque[tuple[float, float]] = deque(maxlen=20)

    def note(self, state: State, now: float) -> None:
        """Take in a look. Once the first cleanup is seen, nothing changes any more."""
        if self.bytes_per_second is not None or state.used_bytes is None:
            return
        if not state.attempts:
            self._readings.append((now, state.used_bytes))
        elif len(self._readings) > 1:
            top = max(self._readings, key=lambda reading: reading[1])  # what follows it is the cleanup's doing already
            seconds = top[0] - self._readings[0][0]
            self.bytes_per_second = (top[1] - self._readings[0][1]) / seconds if seconds else 0.0


def summary(state: State, climb: Climb, elapsed_seconds: float) -> Iterator[str]:
    """What came of it, and what would have come without it as far as that was measured."""
    if not state.attempts:
        yield f"No cleanup was asked for in {elapsed_seconds:.0f} s."
        return
    judged = [attempt for attempt in state.attempts.values() if attempt.outcome != "running"]
    effective = [attempt for attempt in judged if attempt.outcome == "effective"]
    freed_bytes = sum(max(0.0, attempt.freed_bytes or 0.0) for attempt in judged)
    count = f"{len(judged)} cleanup{'s' * (len(judged) != 1)}"
    yield f"{count} in {elapsed_seconds:.0f} s, {len(effective)} verified as effective: {mib(freed_bytes)} freed."
    first = next(iter(state.attempts.values()), None)
    if first and first.outcome == "effective" and climb.bytes_per_second and "critical" in state.lines:
        line_bytes = state.lines["critical"]
        left = (line_bytes - first.before_bytes) / climb.bytes_per_second
        if left > 0:
            yield (f"Growing by {climb.bytes_per_second / MIB:.1f} MiB/s, it was {left:.0f} s away from "
                   f"{mib(line_bytes)} when the first one came.")


def mib(size_bytes: float) -> str:
    """A size for people: whole MiB."""
    return f"{size_bytes / MIB:.0f} MiB"


def short(seconds: float) -> str:
    """A duration for people: 0.8 ms, 146 ms, 2.1 s."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def _rank(alert: Alert) -> int:
    return list(HOLD_SECONDS).index(alert.level)


def _pending(alert: Alert) -> Iterator[Event]:
    if alert.level:
        hold = f"{HOLD_SECONDS[alert.level]:.0f} s"
        yield Event("over", f"over {alert.level}", f"{mib(alert.value)}. Alert pending: fires if it lasts {hold}.")


def _fires(alert: Alert) -> Event:
    if not alert.level:
        return Event("fires", "alert fires", f"{alert.name}: {alert.summary}.")
    hold = HOLD_SECONDS[alert.level]
    over = f"{hold:.0f} s over the line" if hold else "over the line"
    return Event("fires", f"{alert.level} fires", f"{alert.name}: {over}, {mib(alert.value)}.")


def _asked(attempt: Attempt) -> Event:
    assert attempt.delivery_seconds is not None
    took = short(attempt.delivery_seconds)
    when = f"delivered in {took}" if HOLD_SECONDS.get(attempt.level) else f"{took} after the guard saw it"
    channel = "HTTP" if attempt.channel == "http" else attempt.channel
    return Event("asked", "cleanup asked", f"{attempt.cleanup} by {channel}, {when}.")


def _back(gone: Sequence[Alert]) -> Event:
    """Alerts that are no longer there. Where one fired, those that only waited are not worth a word."""
    fired = [alert.level or alert.name for alert in gone if alert.firing]
    if fired:
        return Event("back", "resolved", f"{_and(fired)}: the alert is over.")
    return Event("back", "back under", f"{_and([alert.level for alert in gone])}: nothing pending there now.")


def _verdict(attempt: Attempt) -> Event:
    if attempt.freed_bytes is None or attempt.after_bytes is None:
        why = f" ({attempt.reason.replace('_', ' ')})" if attempt.reason else ""
        return Event("bad", "no effect seen", f"The {attempt.cleanup} cleanup ended as {attempt.outcome}{why}.")
    instead = f"{(attempt.after_bytes + attempt.freed_bytes) / MIB:.0f}"
    took = "" if attempt.duration_seconds is None else f" in {short(attempt.duration_seconds)}"
    return Event("good" if attempt.outcome == "effective" else "bad", f"freed {mib(max(0.0, attempt.freed_bytes))}",
                 f"Verdict {attempt.outcome}: {mib(attempt.after_bytes)} instead of {instead}{took}.")


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
