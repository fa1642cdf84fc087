"""What an alert says of the cleanups that were tried."""

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sidecar.actions.attempt import Attempt
from sidecar.actions.incident import Incident
from sidecar.model import Alert, Labels
from sidecar.notify.queue import Outbox
from sidecar.notify.remediation import remedied, told

T = 1_795_165_899.0
MIB = 1 << 20
FIRES = Alert(
    labels=Labels({"alertname": "MemoryCritical", "target": "rag"}), annotations={"summary": "too much"},
    state="firing", condition=True, value=1.0, active_at=T, fired_at=T, resolved_at=None, keep_firing_since=None,
    last_evaluation=T, interval_seconds=1.0, expr="rag_memory_used_bytes > 1",
)  # fmt: skip


def attempt(cleanup: str = "light", at: float = T, outcome: Any = "ineffective", **more: Any) -> Attempt:
    """One that began at `at`."""
    given = {"incident": "rag.1", "freed_bytes": 12.0 * MIB, "reason": ""} | more
    return Attempt(f"{cleanup}.{at}", "rag", cleanup, {}, None, 1.0, 0.0, at, outcome=outcome, **given)


def incident(number: int = 1) -> dict[str, Incident]:
    """The one that goes on."""
    return {"rag": Incident(f"rag.{number}", "rag", T)}


def said(alert: Alert, attempts: Sequence[Attempt], open_incidents: dict[str, Incident]) -> str | None:
    """The annotation, None where there is none."""
    (found,) = remedied([alert], {"rag": attempts}.__getitem__, open_incidents)
    return found.annotations.get("remediation")


def test_an_alert_says_what_was_tried_and_what_it_freed() -> None:
    """Oldest first, each with what it freed and whether that helped; the rest of the alert is as it was."""
    attempts = [attempt("aggressive", T + 60, "effective", freed_bytes=1.4 * 1024 * MIB), attempt()]
    text = "light: freed 12 MiB (ineffective); aggressive: freed 1.4 GiB (effective)"
    (found,) = remedied([FIRES], {"rag": attempts}.__getitem__, incident())
    assert found == replace(FIRES, annotations={"summary": "too much", "remediation": text})


@pytest.mark.parametrize(("made", "text"), [
    (attempt(outcome="", freed_bytes=None), "light: under way"),
    (attempt(outcome="refused", freed_bytes=None, reason="signal_default"), "light: refused, signal_default"),
    (attempt(outcome="dry_run", freed_bytes=None), "light: dry run"),
    (attempt(freed_bytes=-5.0), "light: freed nothing (ineffective)"),
    (attempt(outcome="effective", rebounded=True), "light: freed 12 MiB (effective, came back)"),
])
def test_every_end_has_its_words(made: Attempt, text: str) -> None:
    """Also what is not over, was not delivered, was not meant, freed nothing, or did not last."""
    assert told([made]) == text


def test_it_is_short() -> None:
    """The newest five at most, and 500 characters."""
    many = [attempt(at=T - number, freed_bytes=number * MIB) for number in range(9, 0, -1)]
    assert told(many) == "; ".join(f"light: freed {number} MiB (ineffective)" for number in range(5, 10))
    long = [attempt(at=T - number, reason=f"{number}" * 200) for number in range(4)]
    assert (len(told(long)) <= 500, "1111" in told(long), "2222" in told(long)) == (True, True, False)
    assert len(told([attempt(reason="x" * 900)])) == 500


def test_it_speaks_of_the_incident_of_the_alert() -> None:
    """Attempts of an incident before, or of one after the alert's end, are not told with it."""
    before = attempt(at=T - 900, incident="rag.0")
    assert said(FIRES, [before], {}) is None
    assert said(FIRES, [before], incident()) is None
    assert said(FIRES, [attempt(at=T - 900)], incident()) == "light: freed 12 MiB (ineffective)"
    ended = replace(FIRES, state="inactive", resolved_at=T + 30)
    own, after = attempt(at=T - 0.2), attempt("aggressive", T + 600, incident="rag.2")
    assert said(ended, [after, own, before], incident(2)) == "light: freed 12 MiB (ineffective)"


@pytest.mark.parametrize("alert", [
    replace(FIRES, state="pending", fired_at=None), replace(FIRES, labels=Labels({"alertname": "Else"})),
    replace(FIRES, annotations={"remediation": "call Ann"})])
def test_other_alerts_are_left_alone(alert: Alert) -> None:
    """Those that wait, those of no target, those whose rule says something itself. Skipped orders are not told."""
    assert [*remedied([alert], {"rag": [attempt()]}.__getitem__, incident())] == [alert]
    assert said(FIRES, [attempt(outcome="skipped"), attempt(incident="")], incident()) is None


def test_it_is_told_with_the_next_resend() -> None:
    """What is tried meanwhile causes no post of its own, and is told when the alert is due anyway."""
    box, posts = Outbox(resend_delay_seconds=60.0, uniform=random.uniform), []
    for second in range(62):
        attempts = [attempt(at=T + at) for at in range(second, 0, -1)]
        box.offer(remedied([replace(FIRES, last_evaluation=T + second)], {"rag": attempts}.__getitem__, incident()),
                  T + second)
        for message in box.take(T + second):
            posts.append((second, "remediation" in message.alert.annotations))
            box.acknowledge((message,), T + second)
    assert posts == [(0, False), (61, True)]
