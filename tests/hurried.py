"""Sidecars that are in a hurry: cooldowns of a second, verdicts after two, so that a test sees whole incidents."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import Target
from servers import wait_until
from sidecars import Sidecar, config

Spawn = Callable[..., Target]
HURRY: dict[str, Any] = {
    "global": {"warmup": "0s", "min_interval": "500ms"},
    "levels": {name: {"cooldown": "1s"} for name in ("light", "standard", "aggressive")},
    "verify": {"settle": "500ms", "window": "2s", "rebound": "1s"},
    "exit_for": "2s",
}
CLIMBING = {"main": {"entry": "standard", "max": "aggressive"}}
BOTH = {"signal": {"standard": "SIGUSR1", "aggressive": "SIGUSR2"}}


def over(level: str, cleanup: str, hold: str = "1s", **more: Any) -> dict[str, Any]:
    """A rule: used bytes are over the line of this level. With a `for` (hold) the desk acts, without one the guard."""
    return {"alert": f"Over{level.title()}", "labels": {"level": level, "cleanup": cleanup}, "for": hold,
            "expr": f'rag_memory_used_bytes > ignoring(level) rag_memory_threshold_bytes{{level="{level}"}}', **more}


def settings(tmp_path: Path, port: int, pid: int, rules: list[dict[str, Any]], **more: Any) -> str:
    """One target with lines at 150 and 250 MiB, looked at twice a second, with these rules and no others."""
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}))
    target = {"name": "rag", "match": more.pop("match", {"pid": pid}), "cleanup": [more.pop("channel", BOTH)],
              "memory": {"main": "150MiB", "critical": "250MiB", "basis": "anon"}}
    return config(port, tmp_path / "state", [target], evaluation_interval="500ms",
                  rules=[str(tmp_path / "rules.yml")], **{**more, "actions": {**HURRY, **more.pop("actions", {})}})


def ticks(sidecar: Sidecar, count: int = 6) -> None:
    """Wait for some ticks."""
    begun = sidecar.value("rag_sidecar_ticks_total") or 0
    wait_until(lambda: (sidecar.value("rag_sidecar_ticks_total") or 0) >= begun + count, 30, f"{count} ticks")


def tried(sidecar: Sidecar) -> list[tuple[str, str]]:
    """(cleanup, outcome) of the attempts, oldest first."""
    return [(action["cleanup"], action["outcome"]) for action in reversed(sidecar.actions())]


def is_parked(sidecar: Sidecar) -> str:
    """Why the newest incident is parked; empty if it is not."""
    found = sidecar.incidents()
    parked: str = found[0]["parked"] if found else ""
    return parked
