"""Whom a reload adds or takes away: Alertmanagers, channels and targets, and what is under way with them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Target
from servers import AlertRecorder, wait_until
from sidecars import running_sidecar
from test_reload import ALERT, LIFECYCLE, Settings, now_text, reload, target

Spawn = Callable[..., Target]


def told_of(recorder: AlertRecorder, name: str) -> list[dict[str, Any]]:
    """What an Alertmanager was told of an alert, in order."""
    return [alert for alert in recorder.alerts() if alert["labels"]["alertname"] == name]


def test_alertmanagers_come_and_go(spawn: Spawn, tmp_path: Path) -> None:
    """A new one gets what fires and no ends of before; one that is removed hears no more; a new token is used."""
    program = spawn("leaky")
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("s3cret-s3cret-s3cret\n")
    settings = Settings(tmp_path, [target("rag", program.pid)])
    settings.say_rules(ALERT, {**ALERT, "alert": "Old"})
    with AlertRecorder() as first, AlertRecorder() as second:
        settings.say(alertmanagers=[first.url])
        with running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
            program.tell("grow 120")
            first.wait_for(lambda: len(first.alerts()) >= 2, 30, "both alerts")
            settings.say_rules(ALERT)
            assert reload(sidecar)[0] == 200
            first.wait_for(lambda: len(told_of(first, "Old")) == 2, 20, "the end of one")

            settings.say(alertmanagers=[{"url": first.url, "authorization": {"credentials_file": str(token)}},
                                        second.url])
            assert reload(sidecar)[0] == 200
            second.wait_for(lambda: told_of(second, "Growing") != [], 20, "what fires")
            settings.say_rules(ALERT, {**ALERT, "alert": "New"})
            assert reload(sidecar)[0] == 200
            first.wait_for(lambda: told_of(first, "New") != [], 20, "news")
            assert len(told_of(first, "Old")) == 2, "an end that it has accepted it is not told again"
            assert first.posts[-1].headers["Authorization"] == "Bearer s3cret-s3cret-s3cret"
            assert told_of(second, "Old") == []
            assert [each for each in second.alerts() if each["endsAt"] < now_text()] == []

            settings.say(alertmanagers=[second.url])
            assert reload(sidecar)[0] == 200
            heard = len(first.posts)
            settings.say_rules(ALERT)
            assert reload(sidecar)[0] == 200
            second.wait_for(lambda: len(told_of(second, "New")) >= 2, 20, "the end")
            assert sidecar.stop() == 0
        assert len(first.posts) == heard


def test_channels_and_targets_change_while_something_is_under_way(spawn: Spawn, tmp_path: Path) -> None:
    """An http channel that was not there delivers; a removed target's attempt is closed as unknown."""
    program = spawn("leaky", "--http", "0")
    other = spawn("leaky")
    settings = Settings(tmp_path, [target("stays", other.pid), target("rag", program.pid)])
    settings.say(rules=None)
    with AlertRecorder() as slow, \
            running_sidecar(tmp_path, LIFECYCLE, file=settings.text(), port=settings.port) as sidecar:
        wait_until(lambda: len(sidecar.series("rag_target_up")) == 2, 20, "the targets")
        assert sidecar.child("courier") == 0
        acted = target("rag", program.pid, cleanup=[{"http": {"url": f"{program.url}/cleanup"}}])
        asked = target("stays", other.pid, cleanup=[{"http": {"url": f"{slow.url}/cleanup"}}])
        settings.say(targets=[asked, acted])
        assert reload(sidecar)[0] == 200
        program.tell("grow 500")
        done = sidecar.outcome()
        assert (done["target"], done["channel"], done["outcome"]) == ("rag", "http", "effective")

        slow.hang = True
        other.tell("grow 500")
        slow.wait_for(lambda: slow.posts != [], 20, "the order to arrive")
        wait_until(lambda: any(each["target"] == "stays" for each in sidecar.actions()), 20, "the attempt")
        settings.say(targets=[acted])
        assert reload(sidecar)[0] == 200

        def closed() -> dict[str, Any] | None:
            return next((each for each in sidecar.actions()
                         if each["target"] == "stays" and each["outcome"] != "running"), None)

        end = wait_until(closed, 20, f"the attempt to be closed: {sidecar.actions()}")
        assert (end["outcome"], end["reason"]) == ("unknown", "target_unknown")
        slow.hang = False
